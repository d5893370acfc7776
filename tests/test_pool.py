"""`Table.pool`: bags of rows, against plain arithmetic and torch."""

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from reliability.fused import fused

import shardwise
from shardwise import (
    IdOutOfRangeError,
    IdTypeError,
    OptionError,
    OutputError,
    Partition,
    Table,
    TableError,
)

COMBINERS = ["sum", "mean", "sqrtn", "max"]
DTYPES = [np.float16, ml_dtypes.bfloat16, np.float32, np.float64]


def pooled(rows, bags, combiner, weights=None, max_norm=None, default_id=None):
    """The same by plain arithmetic: in the order of the ids, in float32 (float64 for float64)."""
    wide = np.float64 if rows.dtype == np.float64 else np.float32
    table = Table.from_array(rows)
    result = np.zeros((len(bags), *rows.shape[1:]), rows.dtype)
    for k, bag in enumerate(bags):
        if not len(bag):
            if default_id is not None:
                result[k] = table.lookup(default_id, max_norm=max_norm)
            continue
        members = table.lookup(np.array(bag), max_norm=max_norm).astype(wide)
        own = np.ones(len(bag), wide) if weights is None else np.array(weights[k]).astype(wide)
        scaled = members * own.reshape(-1, *[1] * (rows.ndim - 1)) if weights else members
        total = squares = wide(0)
        for w in own:
            total, squares = total + w, squares + w * w
        if combiner == "max":
            result[k] = scaled.max(axis=0)
            continue
        acc = scaled[0]
        for row, w in zip(members[1:], own[1:], strict=True):
            acc = acc + row if weights is None else fused(row, w, acc)
        divisor = {"sum": wide(1), "mean": total, "sqrtn": np.sqrt(squares)}[combiner]
        with np.errstate(all="ignore"):
            result[k] = acc / divisor if divisor != 0 else np.zeros_like(acc)
    return result


def same(found, expected):
    assert found.dtype == expected.dtype
    assert found.shape == expected.shape
    assert found.tobytes() == expected.tobytes()


bags_of = st.lists(st.lists(st.integers(0, 29), max_size=70), max_size=8)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("combiner", COMBINERS)
@settings(max_examples=25, deadline=None)
@given(
    bags=bags_of,
    dim=st.integers(1, 70),
    shards=st.integers(1, 17),
    weighted=st.booleans(),
    seed=st.integers(0, 99),
)
def test_equals_plain_arithmetic(dtype, combiner, bags, dim, shards, weighted, seed):
    rng = np.random.default_rng(seed)
    rows = rng.normal(size=(30, dim)).astype(dtype)
    weights = [rng.normal(size=len(bag)).tolist() for bag in bags] if weighted else None
    expected = pooled(rows, bags, combiner, weights)
    for partition in ("mod", "div"):
        table = Table.from_array(rows, shards, partition)
        same(table.pool(bags, weights=weights, combiner=combiner), expected)
    values = np.array([i for bag in bags for i in bag], np.int64)
    ends = np.cumsum([0, *map(len, bags)])
    flat = None if weights is None else [w for bag in weights for w in bag]
    same(
        table.pool(values, ends, weights=flat, combiner=combiner, include_last_offset=True),
        expected,
    )
    same(table.pool(values, ends[:-1], weights=flat, combiner=combiner), expected)


@pytest.mark.parametrize("dtype", DTYPES)
def test_threads_and_giant_bags(dtype):
    rng = np.random.default_rng(1)
    rows = rng.normal(size=(500, 130)).astype(dtype)
    lengths = rng.integers(0, 40, 300)
    lengths[[0, 150, 151, 299]] = 6000
    ids = rng.integers(0, 500, lengths.sum()).astype(np.uint16)
    ends = np.concatenate([[0], np.cumsum(lengths)])
    weights = rng.normal(size=len(ids))
    table = Table.from_shards(np.split(rows, [3, 3, 200]), Partition.ranges([0, 3, 3, 200, 500]))
    before = shardwise.num_threads()
    try:
        for combiner in COMBINERS:
            results = []
            for threads in (1, 2, 3, 4):
                shardwise.set_num_threads(threads)
                results.append(
                    table.pool(
                        ids, ends, weights=weights, combiner=combiner, include_last_offset=True
                    )
                )
            for result in results[1:]:
                same(result, results[0])
        bag = ids[ends[150] : ends[151]].tolist()
        same(table.pool([bag]), pooled(rows, [bag], "sum"))
    finally:
        shardwise.set_num_threads(before)


def test_a_bag_of_ten_million_ids():
    rng = np.random.default_rng(12)
    rows = rng.normal(size=(1000, 2)).astype(np.float32)
    ids = rng.integers(0, 1000, 10_000_000)
    table, wide = Table.from_array(rows, 3), Table.from_array(rows.astype(np.float64))
    counts = np.bincount(ids, minlength=1000)
    largest = np.iinfo(np.int64).max
    ends = [0, 3, len(ids) - 2]
    with pytest.raises(shardwise.BagError):
        table.pool(ids, [0, largest])
    before = shardwise.num_threads()
    try:
        for threads in (1, 2):
            shardwise.set_num_threads(threads)
            found = table.pool(ids, ends)
            # One by one, in the order of the ids, each sum rounded to float32.
            wanted = np.cumsum(rows[ids[3:-2]], axis=0, dtype=np.float32)[-1]
            same(found[1], wanted)
            same(found[0], rows[ids[0]] + rows[ids[1]] + rows[ids[2]])
            mean = wide.pool(ids[None], combiner="mean")[0]
            np.testing.assert_allclose(mean, counts @ wide.shards[0] / len(ids), atol=1e-12)
    finally:
        shardwise.set_num_threads(before)


@pytest.mark.parametrize("combiner", COMBINERS)
@pytest.mark.parametrize(
    "row_format", ["float64", "float32", "float16", "bfloat16", "int8", "int4"]
)
def test_bags_of_one_length(row_format, combiner):
    """Many bags side by side of as many ids go another way than bags one by one."""
    rng = np.random.default_rng(7)
    for dim in (2, 36, 64, 214):
        rows = rng.normal(size=(300, dim))
        rows[:60:3], rows[1:60:3] = -0.0, 0.0
        if row_format not in ("int8", "int4"):
            rows[60], rows[61, 0], rows[62] = np.nan, np.inf, -np.inf
        table = Table.from_array(rows.astype(np.float32), 3)
        if row_format != "float32":
            table = (
                table.quantize(row_format)
                if "int" in row_format
                else Table.from_array(
                    rows.astype(row_format if row_format != "bfloat16" else ml_dtypes.bfloat16), 3
                )
            )
        for length, count in ((1, 700), (2, 150), (3, 6), (5, 41), (32, 30), (33, 10)):
            batch = rng.integers(0, 300, (count, length))
            alone = [table.pool(bag[None], combiner=combiner) for bag in batch]
            same(table.pool(batch, combiner=combiner), np.concatenate(alone))
            mixed = [*batch[:5].tolist(), [], *batch[5:].tolist(), [1, 2]]
            found = table.pool(mixed, combiner=combiner)
            same(found[:5], np.concatenate(alone[:5]))
            same(found[6:-1], np.concatenate([found[:0], *alone[5:]]))
            wide = table.pool(batch, combiner=combiner, dtype=np.float64)
            same(
                wide,
                np.concatenate(
                    [table.pool(b[None], combiner=combiner, dtype=np.float64) for b in batch]
                ),
            )


def test_a_refused_id_among_bags_of_one_length():
    table = Table.from_array(np.ones((100, 8), np.float32))
    for length in (1, 3):
        ids = np.zeros((500, length), np.int64)
        for place in (0, 1, 70, 127, 128, 390, 499):
            ids[place, -1] = 100
            with pytest.raises(
                IdOutOfRangeError, match=rf"ids\[{place * length + length - 1}\] = 100"
            ):
                table.pool(ids)
            assert (
                table.pool(ids, out_of_range="zeros")[:, 0] == length - (ids == 100).sum(1)
            ).all()
            ids[place, -1] = 0


@pytest.mark.parametrize("dtype", DTYPES)
def test_one_row_is_a_lookup(dtype):
    bits = np.random.default_rng(2).integers(0, 256, (50, 24 * np.dtype(dtype).itemsize), np.uint8)
    rows = bits.view(dtype)
    ids = np.arange(50)
    found = Table.from_array(rows, 3).pool(ids, ids)
    with np.errstate(invalid="ignore"):
        quiet = np.isnan(rows.astype(np.float64))  # a signalling NaN becomes a quiet one
        assert np.array_equal(np.isnan(found.astype(np.float64)), quiet)
    assert found[~quiet].tobytes() == rows[~quiet].tobytes()


def test_every_nan_is_the_same():
    odd = np.array([0x7E01, 0xFE00, 0x7C00, 0xFC00, 0x3C00], np.uint16).view(np.float16)
    for dim in (1, 3, 16, 40):
        table = Table.from_array(np.repeat(odd[:, None], dim, axis=1))
        for combiner in COMBINERS:
            for weights in (None, [[1.0, np.nan, -1.0, 2.0]]):
                found = table.pool([[0, 1, 4, 4]], weights=weights, combiner=combiner)
                assert set(found.view(np.uint16).ravel().tolist()) == {0x7E00}
                wide = table.pool([[2, 3]], combiner="sum", dtype="float32")
                assert set(wide.view(np.uint32).ravel().tolist()) == {0x7FC00000}


def test_max_and_nan():
    rows = np.array([[1.0, np.nan], [2.0, -np.inf], [-3.0, np.inf]], np.float32)
    found = Table.from_array(rows).pool([[0, 1, 2], [2, 1, 2]], combiner="max")
    assert np.array_equal(found, [[2, np.nan], [2, np.inf]], equal_nan=True)


def test_many_empty_bags():
    table = Table.from_array(np.ones((3, 8), np.float32))
    offsets = np.zeros(300_001, np.int64)
    offsets[200_001:] = 1
    for ids in ([2, 1], [1] * 200):
        found = table.pool(ids, offsets)
        assert found.sum() == 8 * len(ids)
        assert found[200_000].tolist() == [1] * 8
        assert found[-1].tolist() == [len(ids) - 1] * 8


def test_zero_denominators_and_odd_weights():
    table = Table.from_array(np.ones((3, 2), np.float32))
    weights = [[1.0, -1.0], [0.0, 0.0], [np.nan, 1.0], [np.inf, 1.0]]
    ids = [[0, 1]] * 4
    mean = table.pool(ids, weights=weights, combiner="mean")
    assert mean[:2].tolist() == [[0, 0], [0, 0]]
    assert np.isnan(mean[2:]).all()
    assert table.pool(ids, weights=weights, combiner="sqrtn")[1].tolist() == [0, 0]
    assert np.isinf(table.pool(ids, weights=weights)[3]).all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("dim", [1, 3, 4, 16, 37, 130])
def test_the_sign_of_zero_stays(dtype, dim):
    rows = np.full((2, dim), -0.0).astype(dtype)
    table = Table.from_array(rows)
    for combiner in COMBINERS:
        same(table.pool([[0], [0, 1]], combiner=combiner), rows)
        same(table.pool([[0], [0, 1]], weights=[[1], [1, 2]], combiner=combiner), rows)
        same(table.pool([[], []], combiner=combiner, default_id=1), rows)


def test_padding_and_empty_bags():
    rows = np.arange(12, dtype=np.float32).reshape(6, 2)
    table = Table.from_array(rows, 2)
    found = table.pool([[1, 0], [0, 0], []], padding_id=0)
    assert found.tolist() == [[2, 3], [0, 0], [0, 0]]
    found = table.pool([[1, 0, 2], [0, 0, 0]], padding_id=0, default_id=5, combiner="mean")
    assert found.tolist() == [[3, 4], [10, 11]]
    assert table.pool([[1, -1]], padding_id=-1).tolist() == [[2, 3]]
    assert table.pool(np.array([[1, 2]], np.uint64), padding_id=-1).tolist() == [[6, 8]]
    with pytest.raises(IdOutOfRangeError):
        table.pool(np.array([[1, 2**64 - 1]], np.uint64), padding_id=-1)


def test_max_norm_is_of_each_row():
    rows = np.array([[3.0, 4.0], [0.3, 0.4]], np.float32)
    bags = [[0, 1], [1, 0, 0], []]
    for dtype in DTYPES:
        same(
            Table.from_array(rows.astype(dtype), 2).pool(bags, max_norm=1.0, default_id=0),
            pooled(rows.astype(dtype), bags, "sum", max_norm=1.0, default_id=0),
        )


def test_rows_of_any_rank():
    rows = np.random.default_rng(3).normal(size=(9, 2, 3)).astype(np.float32)
    bags = [[1, 2, 8], []]
    same(Table.from_array(rows, 2).pool(bags), pooled(rows, bags, "sum"))
    one = rows[:, 0, 0].copy()
    same(Table.from_array(one).pool(bags), pooled(one, bags, "sum"))
    assert Table.from_array(np.ones((3, 0), np.float32)).pool([[1]]).shape == (1, 0)
    assert Table.from_array(rows).pool(np.ones((4, 5, 2), np.int8)).shape == (4, 5, 2, 3)


def test_tables_on_disk(tmp_path):
    rows = np.random.default_rng(4).normal(size=(3000, 16)).astype(np.float32)
    Table.from_array(rows, 3).save(tmp_path / "t")
    ids = np.random.default_rng(5).integers(0, 3000, (400, 7))
    expected = Table.from_array(rows).pool(ids)
    same(Table.open(tmp_path / "t").pool(ids), expected)
    same(Table.open(tmp_path / "t", "c").pool(ids), expected)


def test_out():
    table = Table.from_array(np.eye(4, dtype=np.float32), 2)
    ids = [[0, 1], [2, 2]]
    expected = table.pool(ids)
    out = np.zeros((4, 4), np.float32)[::2]
    assert table.pool(ids, out=out) is out
    same(out.copy(), expected)
    for wrong in (np.zeros((2, 3), np.float32), np.zeros((2, 4)), "out", table.shards[0]):
        with pytest.raises(OutputError):
            table.pool(ids, out=wrong)
    kept = np.full((2, 4), 7, np.float32)
    with pytest.raises(IdOutOfRangeError):
        table.pool([[0, 1], [2, 4]], out=kept)
    assert (kept == 7).all()


@pytest.mark.parametrize(("policy", "total"), [("zeros", 1), ("clamp", 5), ("wrap", 1), (2, 3)])
def test_ids_outside(policy, total):
    table = Table.from_array(np.array([[1.0], [9.0], [2.0], [4.0]], np.float32), 2)
    with pytest.raises(IdOutOfRangeError, match=r"ids\[1\] = 4"):
        table.pool([0, 4], [0])
    found = table.pool([0, 4], [0], out_of_range=policy)
    assert found.tolist() == [[total if policy != "wrap" else 2]]
    assert table.pool([0, -1, 9], [0, 1], out_of_range="zeros", combiner="mean").tolist() == [
        [1],
        [0],
    ]


def test_what_is_refused():
    table = Table.from_array(np.eye(3, dtype=np.float32))
    for options in (
        {"combiner": "avg"},
        {"combiner": None},
        {"padding_id": 1.5},
        {"padding_id": True},
        {"padding_id": 1 << 63},
        {"default_id": "0"},
        {"out_of_range": "nearest"},
        {"max_norm": "1"},
    ):
        with pytest.raises(OptionError, match="expected"):
            table.pool([[0]], **options)
    with pytest.raises(IdOutOfRangeError, match="default_id"):
        table.pool([[0]], default_id=3)
    with pytest.raises(IdTypeError):
        table.pool([[0.5]])
    for dtype in (np.int8, bool, np.complex64, "U3", ">f4", ml_dtypes.float8_e5m2):
        with pytest.raises(TableError, match="combine"):
            Table.from_array(np.zeros((2, 2), dtype)).pool([[0]])


def test_nothing_is_changed():
    rows, ids = np.ones((3, 2), np.float32), np.array([[0, 1], [2, 2]])
    weights = np.ones((2, 2))
    for array in (rows, ids, weights):
        array.flags.writeable = False
    Table.from_array(rows).pool(ids, weights=weights, max_norm=0.5)
    assert rows.sum() == 6


def test_torch_embedding_bag():
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(6)
    rows = rng.normal(size=(100, 48)).astype(np.float32)
    lengths = rng.integers(0, 9, 60)
    ids, ends = rng.integers(0, 100, lengths.sum()), np.concatenate([[0], np.cumsum(lengths)])
    weights = rng.normal(size=len(ids)).astype(np.float32)
    bag = torch.nn.functional.embedding_bag
    weight, tensor_ids = torch.from_numpy(rows), torch.from_numpy(ids)
    table = Table.from_array(rows, 5)
    for mode in ("sum", "mean", "max"):
        for last in (False, True):
            offsets = torch.from_numpy(ends if last else ends[:-1])
            for padding in (None, 3):
                expected = bag(
                    tensor_ids,
                    weight,
                    offsets,
                    mode=mode,
                    include_last_offset=last,
                    padding_idx=padding,
                )
                found = table.pool(
                    ids,
                    offsets.numpy(),
                    combiner=mode,
                    include_last_offset=last,
                    padding_id=padding,
                )
                np.testing.assert_allclose(found, expected.numpy(), rtol=1e-5, atol=1e-6)
    expected = bag(
        tensor_ids,
        weight,
        torch.from_numpy(ends[:-1]),
        mode="sum",
        per_sample_weights=torch.from_numpy(weights),
    )
    found = table.pool(ids, ends[:-1], weights=weights)
    np.testing.assert_allclose(found, expected.numpy(), rtol=1e-4, atol=1e-5)
