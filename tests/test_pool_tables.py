"""`pool_tables`: bags of several tables in one call, each as its table gives them alone."""

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import shardwise
from shardwise import (
    BagError,
    IdOutOfRangeError,
    IdTypeError,
    OptionError,
    OutputError,
    Partition,
    RaggedIds,
    Table,
    TableError,
    pool_tables,
)

RNG = np.random.default_rng(12)
DTYPES = [np.float16, ml_dtypes.bfloat16, np.float32, np.float64]


@pytest.fixture(params=[1, 2, 4])
def threads(request):
    before = shardwise.num_threads()
    shardwise.set_num_threads(request.param)
    yield request.param
    shardwise.set_num_threads(before)


def table_of(rows, dim, kind, shards=1):
    values = RNG.standard_normal((rows, dim))
    if kind in ("int8", "int4"):
        return Table.from_array(values.astype("f4"), shards).quantize(kind)
    return Table.from_array(values.astype(kind), shards)


def same_bits(a, b):
    return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()


def test_tables_of_any_mix(threads):
    kinds = [*DTYPES, "int8", "int4"]
    tables, entries = [], []
    for k in range(26):
        table = table_of(
            int(RNG.integers(1, 300)), int(RNG.integers(1, 140)), kinds[k % 6], k % 4 + 1
        )
        lengths = RNG.integers(0, 3 * k + 2, 500)
        offsets = np.concatenate([[0], np.cumsum(lengths)[:-1]])
        ids = RNG.integers(0, len(table), lengths.sum())
        weights = RNG.standard_normal(len(ids)) if k % 3 == 0 else None
        tables.append(table)
        entries.append((table, ids.astype(np.int32 if k % 2 else np.int64), offsets, weights))
    combiners = [("sum", "mean", "sqrtn", "max")[k % 4] for k in range(26)]
    alone = [
        table.pool(ids, offsets, weights=weights, combiner=combiners[k], dtype="float32")
        for k, (table, ids, offsets, weights) in enumerate(entries)
    ]
    whole = pool_tables(entries, combiner=combiners, dtype="float32")
    assert whole.shape == (500, sum(table.shape[1] for table in tables))
    assert same_bits(whole, np.concatenate(alone, axis=1))
    parts = pool_tables(entries, combiner=combiners, dtype=np.float32, concat=False)
    assert all(map(same_bits, parts, alone))
    assert {id(part.base if part.base.base is None else part.base.base) for part in parts}
    out = np.empty(whole.shape, np.float32)
    assert pool_tables(entries, combiner=combiners, dtype="float32", out=out) is out
    assert same_bits(out, whole)
    assert pool_tables(entries, combiner=combiners).dtype == np.float64  # one of them has it


@pytest.mark.parametrize("combiner", ["sum", "mean", "sqrtn", "max"])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("kind", [np.float32, "int8", np.float64])
def test_tables_that_are_alike_take_turns(threads, combiner, weighted, kind):
    """Some bags of each in turn: of any number, some of them empty, one of them most of all ids."""
    entries, alone = [], []
    for k, bags in enumerate([1000, 1, 0, 129, 700, 4096]):
        table = table_of(50 + k, 70, kind, k % 3 + 1)
        lengths = RNG.integers(0, 12, bags)
        lengths[RNG.integers(0, bags, 1 if k % 2 else 0)] = 40_000
        ids = RNG.integers(0, len(table), lengths.sum())
        weights = RNG.standard_normal(len(ids)) if weighted else None
        entries.append((table, RaggedIds(ids, np.cumsum([0, *lengths])), None, weights))
        alone.append(table.pool(entries[-1][1], weights=weights, combiner=combiner))
    together = pool_tables(entries, combiner=combiner, concat=False)
    assert all(map(same_bits, together, alone))
    together = pool_tables(entries, combiner=combiner, concat=False, padding_id=7)
    for (table, ids, _, weights), found in zip(entries, together, strict=True):
        alone = table.pool(ids, weights=weights, combiner=combiner, padding_id=7)
        assert same_bits(found, alone)


def test_the_dtype_that_they_have_in_common():
    half, other = table_of(5, 2, np.float16), table_of(5, 3, np.float16)
    small, wide = table_of(5, 2, "int4"), table_of(5, 2, np.float64)
    ids = [[0, 1], [2, 3]]
    assert pool_tables([(half, ids), (other, ids)]).dtype == np.float16
    assert pool_tables([(half, ids), (small, ids)]).dtype == np.float32
    assert pool_tables([(small, ids)]).dtype == np.float32
    assert pool_tables([(small, ids), (wide, ids)]).dtype == np.float64
    got = pool_tables([(half, ids), (wide, ids)], dtype="bfloat16")
    assert got.dtype == ml_dtypes.bfloat16
    assert same_bits(got[:, 2:].copy(), wide.pool(ids, dtype="bfloat16"))


def test_every_form_of_ids_and_rows_of_more_axes():
    cube = Table.from_array(RNG.standard_normal((6, 2, 3)), partition=Partition.div(6, 2))
    flat = table_of(9, 4, np.float64)
    ragged = RaggedIds([1, 2, 3], [0, 1, 3])
    whole = pool_tables([(cube, [[0, 1], [2, 5]]), (flat, ragged), (flat, [[8], []])])
    assert whole.shape == (2, 6 + 4 + 4)
    assert same_bits(whole[:, :6].reshape(2, 2, 3).copy(), cube.pool([[0, 1], [2, 5]]))
    assert same_bits(whole[:, 6:10].copy(), flat.pool(ragged))
    parts = pool_tables(
        [(cube, [[[0, 1]], [[2, 5]]]), (flat, [1, 2, 8], [0, 1, 3])],
        concat=False,
        include_last_offset=False,
    )
    assert [part.shape for part in parts] == [(2, 1, 2, 3), (3, 4)]
    closed = pool_tables([(flat, [1, 2, 8], [0, 1, 3])], include_last_offset=True)
    assert same_bits(closed, flat.pool([1, 2, 8], [0, 1]))


def test_options_are_those_of_pool():
    tables = [table_of(20, dim, np.float32) for dim in (3, 70)]
    ids = RNG.integers(0, 25, (30, 6))
    for options in (
        {"out_of_range": "zeros", "max_norm": 0.7},
        {"out_of_range": "clamp", "padding_id": 3},
        {"out_of_range": 4},
    ):
        whole = pool_tables([(table, ids) for table in tables], combiner="mean", **options)
        alone = [table.pool(ids, combiner="mean", **options) for table in tables]
        assert same_bits(whole, np.concatenate(alone, axis=1))


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_any_bags(data):
    entries, alone = [], []
    bags = data.draw(st.integers(0, 6))
    for _ in range(data.draw(st.integers(1, 5))):
        table = table_of(data.draw(st.integers(1, 9)), data.draw(st.integers(1, 70)), np.float32)
        one = st.lists(st.integers(0, len(table) - 1), max_size=90)
        ids = [data.draw(one) for _ in range(bags)]
        flat = np.array([i for bag in ids for i in bag], np.int64)
        splits = np.cumsum([0, *map(len, ids)])
        entries.append((table, RaggedIds(flat, splits)))
        alone.append(table.pool(RaggedIds(flat, splits)))
    assert same_bits(pool_tables(entries), np.concatenate(alone, axis=1))


def test_tables_on_disk(tmp_path):
    table_of(500, 40, "int8", 3).save(tmp_path / "t")
    opened, other = Table.open(tmp_path / "t"), table_of(50, 2, np.float32)
    ids = RNG.integers(0, 50, (200, 9))
    whole = pool_tables([(opened, ids), (other, ids), (opened, ids)])
    assert same_bits(whole, np.concatenate([t.pool(ids) for t in (opened, other, opened)], axis=1))


def test_what_is_refused(threads):
    table, other = table_of(10, 2, np.float32), table_of(20, 3, np.float32)
    ids = np.arange(10).reshape(5, 2)
    many = RNG.integers(0, 10, (5000, 8))
    bad = many.copy()
    bad[4000, 3] = 10
    with pytest.raises(IdOutOfRangeError, match=r"tables\[1\]: expected ids from 0 to 9.*= 10"):
        pool_tables([(other, many), (table, bad), (table, bad)])
    first = many.copy()
    first[4900, 7], bad[3, 1] = -1, -2  # the first table's, though its bags come later
    with pytest.raises(IdOutOfRangeError, match=r"tables\[1\]: expected ids .*ids\[39207\] = -1"):
        pool_tables([(table, many), (table, first), (table, bad), (table, many)])
    with pytest.raises(BagError, match=r"as many bags for each table, got 5, 10"):
        pool_tables([(table, ids), (table, [0] * 10, range(10))])
    with pytest.raises(BagError, match="at least one table, got none"):
        pool_tables([])
    with pytest.raises(TableError, match=r"a Table in tables\[0\], got ndarray"):
        pool_tables([(np.zeros((3, 2)), ids)])
    with pytest.raises(BagError, match=r"got list in tables\[1\]"):
        pool_tables([(table, ids), [table, ids]])
    with pytest.raises(BagError, match=r"got tuple in tables\[0\]"):
        pool_tables([(table,)])
    with pytest.raises(IdTypeError, match=r"tables\[0\]: .*float64"):
        pool_tables([(table, [[0.5]])])
    with pytest.raises(OptionError, match="one combiner, or one for each of 1 tables, got 2"):
        pool_tables([(table, ids)], combiner=["sum", "mean"])
    with pytest.raises(OptionError, match="one combiner, or one for each of 1 tables, got None"):
        pool_tables([(table, ids)], combiner=None)
    with pytest.raises(OptionError, match=r"tables\[0\]: expected combiner"):
        pool_tables([(table, ids)], combiner="product")
    with pytest.raises(OptionError, match="expected dtype to be one of"):
        pool_tables([(table, ids)], dtype="int8")
    whole = Table.from_array(np.arange(6).reshape(3, 2))
    with pytest.raises(TableError, match=r"tables\[1\]: expected rows of float16"):
        pool_tables([(table, ids), (whole, [[0]] * 5)])
    with pytest.raises(OptionError, match="expected no out for an array for each table"):
        pool_tables([(table, ids)], concat=False, out=np.zeros((5, 2), np.float32))
    for out in (np.zeros((5, 3), "f4"), np.zeros((5, 2)), table.shards[0][:5], [1]):
        with pytest.raises(OutputError):
            pool_tables([(table, ids)], out=out)
    frozen = np.zeros((5, 2), np.float32)
    frozen.flags.writeable = False
    with pytest.raises(OutputError, match="read-only"):
        pool_tables([(table, ids)], out=frozen)
    apart = np.zeros((2, 5), np.float32).T
    assert np.array_equal(pool_tables([(table, ids)], out=apart), table.pool(ids))
