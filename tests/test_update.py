"""`Table.update` and `Table.update_pool`: against plain arithmetic, and torch's optimizers."""

import copy
import json
import pickle
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from plain_updates import DTYPES, Plain, assert_same, every_optimizer, whole

import shardwise
from shardwise import IdOutOfRangeError, Partition, RaggedIds, SparseIds, Table, TableError
from shardwise.optimizers import SGD, Adagrad, Adam, AdamW, Ftrl


@every_optimizer
@pytest.mark.parametrize("dtype", DTYPES)
def test_every_optimizer_computes_what_plain_arithmetic_does(optimizer, dtype):
    rng = np.random.default_rng(1)
    rows = rng.standard_normal((30, 20)).astype(dtype)
    table = Table.from_array(rows.copy(), shards=3, partition="mod")
    plain = Plain(rows, optimizer)
    for step in range(12):
        ids = rng.integers(0, 30, 25)
        gradients = rng.standard_normal((25, 20)).astype(plain.wide)
        rate = None if step % 3 else 0.05
        table.update(ids, gradients, optimizer, learning_rate=rate)
        plain.update(ids, gradients, rate)
        assert_same(table.lookup(np.arange(30)), plain.rows)
    assert table.optimizer_step == 12
    assert list(table.optimizer_state) == [slot.name for slot in optimizer.slots()]
    for name, arrays in table.optimizer_state.items():
        assert_same(whole(arrays, table.partition), plain.state[name])


# ---- the same numbers everywhere ----


@every_optimizer
def test_results_depend_on_no_threads_shards_or_partition(optimizer):
    rng = np.random.default_rng(6)
    rows = rng.standard_normal((3000, 9)).astype(np.float32)
    batches = [(rng.zipf(1.3, 9000) % 3000) for _ in range(3)]
    gradients = rng.standard_normal((9000, 9)).astype(np.float32)
    before, expected = shardwise.num_threads(), None
    cuts = [Partition.mod(3000, 1), Partition.mod(3000, 17), Partition.div(3000, 5)]
    cuts.append(Partition.ranges([0, 0, 10, 2999, 3000]))
    try:
        for threads in (1, 2, 3, 4):
            shardwise.set_num_threads(threads)
            for cut in cuts:
                table = Table.from_array(rows, partition=cut, copy=True)
                for ids in batches:
                    table.update(ids, gradients, optimizer)
                state = table.optimizer_state.values()
                found = [table.lookup(np.arange(3000)), *(whole(a, cut) for a in state)]
                expected = expected or found
                for one, other in zip(found, expected, strict=True):
                    assert_same(one, other)
    finally:
        shardwise.set_num_threads(before)


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int16", "uint16", "int32", "uint32", "uint64"])
def test_ids_of_any_dtype_and_shape(dtype):
    ids = np.array([[3, 1], [1, 0]])
    gradients = np.arange(12, dtype=np.float64).reshape(2, 2, 3)
    tables = [Table.from_array(np.zeros((5, 3)), 2) for _ in range(2)]
    tables[0].update(ids, gradients, SGD(1.0))
    tables[1].update(ids.astype(dtype)[:, ::-1][:, ::-1], gradients.tolist(), SGD(1.0))
    expected = np.zeros((5, 3))
    np.subtract.at(expected, ids, gradients)
    for table in tables:
        assert_same(table.lookup(np.arange(5)), expected)


@pytest.mark.parametrize("shape", [(4,), (4, 0), (4, 2, 3), (0, 5)])
def test_rows_of_any_shape(shape):
    table = Table.from_array(np.zeros(shape), shards=3)
    ids = np.arange(len(table))
    table.update(ids, np.ones((len(ids), *shape[1:])), Adagrad(1.0))
    assert_same(table.lookup(ids), np.zeros(shape) - 1 / (1 + 1e-10))
    table.update(np.zeros(0, int), np.zeros((0, *shape[1:])), Adagrad(1.0))
    assert table.optimizer_step == 2


def test_shards_that_are_views_are_trained_where_they_lie():
    array = np.zeros((9, 4), np.float32)
    Table.from_array(array[::-1], shards=4).update([0, 5], np.ones((2, 4)), SGD(1.0))
    assert array[:, 0].tolist() == [0, 0, 0, -1, 0, 0, 0, 0, -1]


def test_a_table_of_more_ids_than_fit_beside_a_position():
    row = np.zeros(1, np.float16)
    many = np.lib.stride_tricks.as_strided(row, (1 << 60, 1), (0, 2))  # all rows are one
    table = Table.from_array(many)
    ids = np.array([5, 1 << 59, 5, (1 << 60) - 1] * 300)
    table.update(ids, np.full((1200, 1), 0.5), SGD(1.0))
    assert row.tolist() == [-600]
    with pytest.raises(IdOutOfRangeError):
        table.update(ids + 1, np.ones((1200, 1)), SGD(1.0))
    table.update_pool(ids, np.arange(0, 1200, 2), np.ones((600, 1)), SGD(1.0), combiner="mean")
    assert row.tolist() == [-1200]


@given(st.data())
@settings(deadline=None)
def test_duplicates_are_summed_in_order(data):
    rows = data.draw(st.integers(1, 6))
    ids = np.array(data.draw(st.lists(st.integers(0, rows - 1), max_size=600)), np.int64)
    scale = np.float32(10) ** data.draw(st.integers(-3, 3))
    rng = np.random.default_rng(len(ids))
    gradients = (rng.standard_normal((len(ids), 3)) * scale).astype(np.float32)
    table = Table.from_array(np.zeros((rows, 3), np.float32), shards=2)
    table.update(ids, gradients, SGD(1.0))
    plain = Plain(np.zeros((rows, 3), np.float32), SGD(1.0))
    plain.update(ids, gradients)
    assert_same(table.lookup(np.arange(rows)), plain.rows)


# ---- bags ----


def written_out(rows, ids, ends, gradients, weights, combiner, member):
    """The gradient of each id of bags, by plain arithmetic."""
    found = np.zeros((len(ids), *rows.shape[1:]), gradients.dtype)
    for k in range(len(ends) - 1):
        places = [i for i in range(ends[k], ends[k + 1]) if member[i]]
        own = np.ones(len(places), gradients.dtype) if weights is None else weights[places]
        total = squares = gradients.dtype.type(0)
        for w in own:
            total, squares = total + w, squares + w * w
        divisor = {"mean": total, "sqrtn": np.sqrt(squares)}.get(combiner, 1)
        gradient = gradients[k]
        if combiner in ("mean", "sqrtn"):
            gradient = gradient / divisor if divisor else np.zeros_like(gradient)
        part = np.stack([gradient] * len(places)) if places else np.zeros((0, *gradient.shape))
        if combiner == "max" and places:
            values = rows[ids[places]].astype(gradients.dtype)
            values = values * own[:, None] if weights is not None else values
            part = part * (values.argmax(axis=0)[None] == np.arange(len(places))[:, None])
        if weights is not None:
            part = part * own[:, None]
        found[places] = part
    return found


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("combiner", ["sum", "mean", "sqrtn", "max"])
def test_bags_are_an_update_with_the_gradient_written_out(combiner, weighted, dtype):
    rng = np.random.default_rng(8)
    rows = rng.standard_normal((50, 19)).astype(dtype)
    wide = np.float64 if dtype == np.float64 else np.float32
    ids = rng.zipf(1.3, 900) % 50
    ends = np.sort(np.concatenate([[0, 900], rng.integers(0, 901, 99)]))
    weights = rng.standard_normal(900).astype(wide) if weighted else None
    padding = 7
    tables = [Table.from_array(rows.copy(), shards=3) for _ in range(2)]
    for _ in range(3):
        now = tables[1].lookup(np.arange(50))
        gradients = rng.standard_normal((100, 19)).astype(wide)
        options = {"weights": weights, "combiner": combiner, "padding_id": padding}
        tables[0].update_pool(ids, ends[:-1], gradients, Adagrad(0.1), **options)
        full = written_out(now, ids, ends, gradients, weights, combiner, ids != padding)
        tables[1].update(ids, full, Adagrad(0.1), padding_id=padding)
    assert_same(*(table.lookup(np.arange(50)) for table in tables))


@pytest.mark.parametrize("mode", ["sum", "mean", "max"])
def test_the_gradient_of_bags_is_torch_s(mode):
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(9)
    rows = rng.standard_normal((40, 6))
    rows[5] = rows[6]  # for max, the first of equal ones
    ids, offsets = rng.integers(0, 40, 300), np.sort(rng.integers(0, 301, 49))
    offsets[0] = 0
    gradients = rng.standard_normal((49, 6))
    weight = torch.nn.Parameter(torch.from_numpy(rows.copy()))
    out = torch.nn.functional.embedding_bag(
        torch.from_numpy(ids), weight, torch.from_numpy(offsets), mode=mode
    )
    out.backward(torch.from_numpy(gradients))
    table = Table.from_array(rows.copy(), shards=2)
    np.testing.assert_allclose(
        table.pool(ids, offsets, combiner=mode), out.detach().numpy(), rtol=0, atol=1e-12
    )
    table.update_pool(ids, offsets, gradients, SGD(1.0), combiner=mode)
    expected = rows - weight.grad.numpy()
    np.testing.assert_allclose(table.lookup(np.arange(40)), expected, rtol=0, atol=1e-12)


def test_bags_in_every_form():
    bags = [[1, 2], [], [2, 0, 2]]
    gradients = np.array([[1.0], [10.0], [100.0]])
    values, splits = np.array([1, 2, 2, 0, 2]), np.array([0, 2, 2, 5])
    places = np.array([[0, 0], [0, 1], [2, 0], [2, 1], [2, 2]])
    forms = [
        (bags, None, {}),
        (values, splits[:-1], {}),
        (values, splits, {"include_last_offset": True}),
        (RaggedIds(values, splits), None, {}),
        (SparseIds(places, values, (3, 3)), None, {}),
    ]
    for ids, offsets, options in forms:
        table = Table.from_array(np.zeros((3, 1)))
        table.update_pool(ids, offsets, gradients, SGD(1.0), **options)
        assert table.lookup([0, 1, 2]).ravel().tolist() == [-100, -1, -201]
    table = Table.from_array(np.zeros((3, 1)))
    table.update_pool([[[0, 1]], [[1, 2]]], None, np.ones((2, 1, 1)), SGD(1.0))
    assert table.lookup([0, 1, 2]).ravel().tolist() == [-1, -2, -1]


def test_nan_is_larger_than_all_in_a_bag():
    table = Table.from_array(np.array([[1.0, np.nan], [np.nan, 2.0], [3.0, np.nan]]))
    before = table.lookup([0, 1, 2])
    table.update_pool([[0, 1, 2]], None, [[1.0, 1.0]], SGD(1.0), combiner="max")
    after = table.lookup([0, 1, 2])
    assert_same(after, before)  # NaN less 1 is NaN, and all others stay
    low = Table.from_array(np.full((2, 1), -np.inf))
    low.update_pool([[0, 1]], None, [[1.0]], Adagrad(1.0), combiner="max")
    assert [a.tolist() for a in low.optimizer_state["adagrad.sum"]] == [[[1.0], [0.0]]]


# ---- options ----


@pytest.mark.parametrize(
    ("policy", "changed"), [("zeros", {0}), ("clamp", {0, 4}), ("wrap", {0, 2, 4}), (3, {0, 3})]
)
def test_ids_outside_the_table(policy, changed):
    for pooled in (False, True):
        table = Table.from_array(np.zeros((5, 2)))
        if pooled:
            ids, gradients = [[0, -1, 7]], np.ones((1, 2))
            table.update_pool(ids, None, gradients, SGD(1.0), out_of_range=policy)
        else:
            table.update([0, -1, 7], np.ones((3, 2)), SGD(1.0), out_of_range=policy)
        rows = table.lookup(np.arange(5))[:, 0]
        assert set(np.flatnonzero(rows).tolist()) == changed


def test_zeros_outside_the_table_count_in_the_mean_and_the_maximum():
    table = Table.from_array(np.array([[-1.0], [2.0]]))
    table.update_pool([[0, 9]], None, [[4.0]], SGD(1.0), combiner="mean", out_of_range="zeros")
    assert table.lookup([0, 1]).ravel().tolist() == [-3, 2]
    table.update_pool([[0, 9]], None, [[4.0]], SGD(1.0), combiner="max", out_of_range="zeros")
    assert table.lookup([0, 1]).ravel().tolist() == [-3, 2]


def test_rows_may_be_frozen():
    mask = np.array([True, False, False, True, False])
    for frozen, kept in ((slice(1, 3), {1, 2}), (mask, {0, 3}), (slice(-2, None), {3, 4})):
        table = Table.from_array(np.zeros((5, 1)), shards=2)
        table.update(np.arange(5), np.ones((5, 1)), Adagrad(1.0), frozen=frozen)
        rows = table.lookup(np.arange(5)).ravel()
        assert set(np.flatnonzero(rows == 0).tolist()) == kept
        sums = whole(table.optimizer_state["adagrad.sum"], table.partition).ravel()
        assert set(np.flatnonzero(sums == 0).tolist()) == kept
    table = Table.from_array(np.array([[1.0], [5.0]]))
    table.update_pool([[0, 1]], None, [[2.0]], SGD(1.0), combiner="mean", frozen=slice(1, 2))
    table.update_pool([[0, 1]], None, [[2.0]], SGD(1.0), combiner="max", frozen=slice(1, 2))
    assert table.lookup([0, 1]).ravel().tolist() == [0, 5]


def test_the_gradient_of_a_row_is_clipped():
    table = Table.from_array(np.zeros((3, 2)))
    gradients = [[3.0, 0.0], [0.3, 0.4], [0.0, 4.0]]
    table.update([0, 1, 0], gradients, SGD(1.0, clip_norm=1.0))
    np.testing.assert_allclose(table.lookup([0, 1]), [[-0.6, -0.8], [-0.3, -0.4]])
    huge = Table.from_array(np.zeros((1, 2)))
    huge.update([0], [[3e300, 4e300]], SGD(1.0, clip_norm=1.0))
    np.testing.assert_allclose(huge.lookup([0]), [[-0.6, -0.8]])
    tiny = Table.from_array(np.zeros((1, 2)))
    tiny.update([0], [[3e-200, 4e-200]], SGD(1e200, clip_norm=1e-200))
    np.testing.assert_allclose(tiny.lookup([0]), [[-0.6, -0.8]])


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_rounding_by_chance_keeps_the_mean(dtype):
    table = Table.from_array(np.ones((4000, 16), dtype))
    step = float(np.nextafter(dtype(1), dtype(2)) - dtype(1)) if dtype is np.float16 else 2**-7
    ids, gradient = np.arange(4000), np.full((4000, 16), -0.25 * step)
    table.update(ids, gradient, SGD(1.0))
    assert (table.lookup(ids) == 1).all()  # to the nearest, nothing ever moves
    table.update(ids, gradient, SGD(1.0), rounding_seed=7)
    moved = (table.lookup(ids).astype(np.float64) - 1) / step
    assert set(np.unique(moved)) == {0, 1}
    assert abs(moved.mean() - 0.25) < 0.01
    assert abs(moved.mean(axis=0) - 0.25).max() < 0.05
    for cut, threads in ((Partition.mod(4000, 7), 3), (Partition.div(4000, 2), 1)):
        before = shardwise.num_threads()
        shardwise.set_num_threads(threads)
        other = Table.from_array(np.ones((4000, 16), dtype), partition=cut, copy=True)
        other.update(ids, gradient, SGD(1.0))
        other.update(ids, gradient, SGD(1.0), rounding_seed=7)
        shardwise.set_num_threads(before)
        assert_same(other.lookup(ids), table.lookup(ids))
    other.update(ids, gradient, SGD(1.0), rounding_seed=8)
    table.update(ids, gradient, SGD(1.0), rounding_seed=7)
    assert (other.lookup(ids) != table.lookup(ids)).any()


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
@pytest.mark.parametrize("seed", [None, 3])
def test_small_floats_are_rounded_right_everywhere(dtype, seed):
    rng = np.random.default_rng(10)
    bits = rng.integers(0, 1 << 32, 40_000, dtype=np.uint64).astype(np.uint32)
    edges = np.array([0, 1e-8, 3e-8, 6e-8, 6.1e-5, 65504, 65519, 65520, 7e4, np.inf, np.nan])
    near = (rng.standard_normal(20_000) * 10.0 ** rng.integers(-9, 6, 20_000)).astype(np.float32)
    values = np.concatenate([bits.view(np.float32), edges.astype(np.float32), near, -near])
    table = Table.from_array(np.zeros((1, len(values)), dtype))
    table.update([0], -values[None], SGD(1.0), nonfinite="propagate", rounding_seed=seed)
    found = table.lookup([0])[0]
    with np.errstate(all="ignore"):
        expected = values.astype(dtype)
    if seed is None:
        assert (np.isnan(found) == np.isnan(expected)).all()
        there = ~np.isnan(expected)
        assert_same(found[there] + dtype(0), expected[there] + dtype(0))
        return
    # One of the two neighbours, and the number itself where it has a form.
    with np.errstate(all="ignore"):
        exact = expected.astype(np.float32) == values
        assert (found[exact] == expected[exact]).all()
        gap = np.abs(found.astype(np.float64) - values)
        largest = float(ml_dtypes.finfo(dtype).max)
        inside = np.abs(values) < largest
        least = float(ml_dtypes.finfo(dtype).smallest_subnormal)
        step = np.maximum(
            np.abs(values.astype(np.float64)) * float(ml_dtypes.finfo(dtype).eps), least
        )
        assert (gap[inside] <= step[inside]).all()


# ---- state ----


def test_corrected_is_not_left_for_lazy():
    table = Table.from_array(np.ones((3, 2)))
    table.update([0], [[1.0, 1.0]], Adam())
    table.update([0], [[1.0, 1.0]], Adam(corrected=True))
    before, state = table.lookup([0, 1, 2]), table.optimizer_state
    for optimizer in (Adam(), AdamW()):
        with pytest.raises(TableError, match=r"with corrected=True, .* without; call reset"):
            table.update([0], [[1.0, 1.0]], optimizer)
    assert_same(table.lookup([0, 1, 2]), before)
    assert table.optimizer_step == 2
    assert table.optimizer_state.keys() == state.keys()
    table.update([0], [[1.0, 1.0]], AdamW(corrected=True))


def test_another_optimizer_is_refused_until_the_state_is_forgotten():
    table = Table.from_array(np.zeros((3, 2)))
    table.update([0], [[1.0, 1.0]], Adam())
    table.update([0], [[1.0, 1.0]], AdamW())  # of one family
    with pytest.raises(TableError, match="'adam' after 2 updates, got SGD"):
        table.update([0], [[1.0, 1.0]], SGD())
    table.reset_optimizer()
    assert (table.optimizer_step, table.optimizer_state) == (0, {})
    table.update([0], [[1.0, 1.0]], SGD())
    assert (table.optimizer_step, table.optimizer_state) == (1, {})
    table.update([0], [[1.0, 1.0]], Adagrad())  # for SGD kept nothing
    assert table.optimizer_step == 1


def test_an_update_that_was_refused_leaves_the_choice_of_the_optimizer():
    table = Table.from_array(np.zeros((3, 2)))
    with pytest.raises(IdOutOfRangeError):
        table.update([9], [[1.0, 1.0]], Adam())
    table.update([0], [[1.0, 1.0]], SGD())


@pytest.mark.parametrize("how", [copy.deepcopy, lambda table: pickle.loads(pickle.dumps(table))])
def test_copies_keep_the_state(how):
    rng = np.random.default_rng(11)
    first = Table.from_array(rng.standard_normal((20, 3)).astype(np.float32), shards=3)
    for _ in range(3):
        first.update(rng.integers(0, 20, 9), rng.standard_normal((9, 3)), Adam(corrected=True))
    second = how(first)
    assert second.optimizer_step == 3
    ids, gradients = rng.integers(0, 20, 9), rng.standard_normal((9, 3))
    first.update(ids, gradients, Adam(corrected=True))
    second.update(ids, gradients, Adam(corrected=True))
    assert_same(second.lookup(np.arange(20)), first.lookup(np.arange(20)))
    second.update(ids, gradients, Adam(corrected=True))
    assert first.optimizer_step == 4
    for name, arrays in first.optimizer_state.items():
        assert (
            whole(arrays, first.partition) != whole(second.optimizer_state[name], second.partition)
        ).any()


# ---- TensorFlow's FTRL; tests/golden/make_training.py asked it ----

FTRL = json.loads((Path(__file__).parent / "golden" / "training.json").read_text())


@pytest.mark.parametrize("case", FTRL, ids=lambda case: "-".join(case["options"]))
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_ftrl_is_tensorflow_s(case, dtype):
    expected = np.array(case["rows"])
    rows = np.stack([np.cos(np.arange(3) + row) for row in range(11)]).astype(dtype)
    table = Table.from_array(rows, shards=2)
    optimizer = Ftrl(**case["options"])
    for step in range(200):
        ids = (step * 7 + np.arange(5)) % 11
        gradients = np.sin(np.arange(15).reshape(5, 3) * 1.7 + step * 0.9)
        rate = optimizer.learning_rate * (1 + step % 3)
        table.update(ids, gradients, optimizer, learning_rate=rate)
    bound = 1e-10 if dtype == np.float64 else 1e-4
    np.testing.assert_allclose(table.lookup(np.arange(11)), expected, rtol=0, atol=bound)
