import copy
import json
import pickle
from itertools import accumulate, pairwise

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from shardwise import IdOutOfRangeError, IdTypeError, Partition, PartitionError

MOST = 2**63 - 1
INTEGERS = [np.int8, np.int16, np.int32, np.int64, np.uint8, np.uint16, np.uint32, np.uint64]

sizes_of_shards = st.lists(st.integers(0, 9), min_size=1, max_size=12)
dealt = st.builds(
    lambda make, rows, shards: make(rows, shards),
    st.sampled_from([Partition.mod, Partition.div]),
    st.integers(0, 100),
    st.integers(1, 40),
)
cut = sizes_of_shards.map(lambda sizes: Partition.ranges([0, *accumulate(sizes)]))
partitions = st.one_of(dealt, cut)

counts = st.one_of(st.integers(0, 10**6), st.integers(0, MOST))
huge_partitions = st.builds(
    lambda make, rows, shards: make(rows, shards),
    st.sampled_from([Partition.mod, Partition.div]),
    counts.filter(bool),
    st.one_of(st.integers(1, 40), st.integers(1, MOST)),
) | st.lists(counts, min_size=2, max_size=12).map(
    lambda numbers: Partition.ranges([0, *sorted(numbers), MOST])
)


def by_hand(partition, i):
    """The documented meaning, in Python's integers."""
    rows, shards = partition.num_rows, partition.num_shards
    if partition.strategy == "mod":
        return i % shards, i // shards
    if partition.strategy == "ranges":
        k = sum(b <= i for b in partition.boundaries[:-1]) - 1
        return k, i - partition.boundaries[k]
    small, extra = divmod(rows, shards)
    if i < extra * (small + 1):
        return divmod(i, small + 1)
    shard, row = divmod(i - extra * (small + 1), small)
    return extra + shard, row


@given(st.integers(0, 100), st.integers(1, 40))
def test_mod_is_every_nth_row(rows, n):
    full = np.arange(rows)
    partition = Partition.mod(rows, n)
    assert [partition.ids_of(k).tolist() for k in range(n)] == [
        full[k::n].tolist() for k in range(n)
    ]


@given(st.integers(0, 100), st.integers(1, 40))
def test_div_is_array_split(rows, n):
    partition = Partition.div(rows, n)
    pieces = np.array_split(np.arange(rows), n)
    assert [partition.ids_of(k).tolist() for k in range(n)] == [p.tolist() for p in pieces]


@given(sizes_of_shards)
def test_ranges_are_slices(sizes):
    boundaries = [0, *accumulate(sizes)]
    partition = Partition.ranges(boundaries)
    assert partition.num_rows == boundaries[-1]
    assert partition.num_shards == len(sizes)
    assert partition.shard_sizes == tuple(sizes)
    full = np.arange(boundaries[-1])
    for k, (first, last) in enumerate(pairwise(boundaries)):
        assert partition.ids_of(k).tolist() == full[first:last].tolist()


@given(partitions)
def test_locate_and_ids_of_are_inverse(partition):
    shard, row = partition.locate(np.arange(partition.num_rows))
    assert shard.dtype == row.dtype == np.int64
    sizes = partition.shard_sizes
    assert len(sizes) == partition.num_shards
    assert sum(sizes) == partition.num_rows
    for k, size in enumerate(sizes):
        ids = partition.ids_of(k)
        assert ids.dtype == np.int64
        assert ids.shape == (size,)
        shards, rows = partition.locate(ids)
        assert (shards == k).all()
        assert rows.tolist() == list(range(size))
        assert partition.ids_of(k, rows).tolist() == ids.tolist()
    for i, (s, r) in enumerate(zip(shard.tolist(), row.tolist(), strict=True)):
        assert (s, r) == by_hand(partition, i)
        assert partition.ids_of(s, r) == i


@given(huge_partitions, st.data())
@example(Partition.mod(10**12, 3), None)
@example(Partition.div(10**12, 7), None)
@example(Partition.mod(MOST, 1), None)
@example(Partition.div(MOST, 1), None)
@example(Partition.mod(MOST, 2), None)
@example(Partition.div(MOST, MOST), None)
@example(Partition.mod(MOST, MOST), None)
@example(Partition.div(MOST, MOST - 1), None)
@example(Partition.div(5, MOST), None)
@example(Partition.mod(5, MOST), None)
@example(Partition.ranges([0, 0, 10**12, 10**12, MOST]), None)
def test_huge_numbers_are_no_special_case(partition, data):
    rows = partition.num_rows
    edges = {0, 1, rows // 2, rows - 2, rows - 1, 10**12, *(partition.boundaries or ())}
    ids = sorted(i for i in edges if 0 <= i < rows)
    if data is not None:
        ids += data.draw(st.lists(st.integers(0, rows - 1), max_size=20))
    shard, row = partition.locate(np.array(ids, np.int64))
    assert list(zip(shard.tolist(), row.tolist(), strict=True)) == [
        by_hand(partition, i) for i in ids
    ]
    for i, s, r in zip(ids, shard, row, strict=True):
        assert partition.ids_of(s, r) == i
    for outside in (rows, rows + 1, MOST, 2**63, 2**64 - 1):
        if outside >= rows:
            with pytest.raises(IdOutOfRangeError, match=f"got the id = {outside};"):
                partition.locate(np.uint64(outside))


def test_more_shards_than_rows():
    assert Partition.mod(2, 4).shard_sizes == Partition.div(2, 4).shard_sizes == (1, 1, 0, 0)
    assert Partition.mod(0, 3).shard_sizes == Partition.div(0, 3).shard_sizes == (0, 0, 0)
    assert Partition.ranges([0, 0, 2, 2]).shard_sizes == (0, 2, 0)
    assert Partition.div(2, 4).ids_of(3).shape == (0,)
    shard, row = Partition.mod(2, 4).locate([1, 0])
    assert (shard.tolist(), row.tolist()) == ([1, 0], [0, 0])


@pytest.mark.parametrize("dtype", INTEGERS)
def test_ids_of_any_integer_dtype_and_shape(dtype):
    partition = Partition.div(100, 7)
    ids = np.arange(100, dtype=dtype).reshape(2, 5, 10)
    for given_ids in (ids, ids.astype(ids.dtype.newbyteorder()), ids.T, ids[:, ::-2], ids[:0]):
        before = given_ids.copy()
        shard, row = partition.locate(given_ids)
        assert shard.shape == row.shape == given_ids.shape
        for i, s, r in zip(given_ids.ravel(), shard.ravel(), row.ravel(), strict=True):
            assert (s, r) == by_hand(partition, int(i))
        assert (given_ids == before).all()
    shard, row = partition.locate(dtype(99))
    assert shard.shape == row.shape == ()
    assert (int(shard), int(row)) == by_hand(partition, 99)


def test_ids_as_lists():
    shard, row = Partition.mod(9, 3).locate([[0, 3], [4, 1]])
    assert shard.tolist() == [[0, 0], [1, 1]]
    assert row.tolist() == [[0, 1], [1, 0]]
    assert Partition.mod(9, 3).locate([])[0].shape == (0,)


def test_values():
    assert Partition.mod(10, 2) == Partition.mod(np.int32(10), np.uint8(2))
    assert Partition.mod(10, 2) != Partition.div(10, 2)
    assert Partition.mod(10, 2) != Partition.mod(10, 3)
    assert Partition.mod(10, 2) != Partition.mod(11, 2)
    assert Partition.ranges([0, 5, 10]) != Partition.div(10, 2)  # the same places by another rule
    assert Partition.ranges(np.array([0, 4, 6], np.uint16)) == Partition.ranges((0, 4, 6))
    assert Partition.ranges([0, 4, 6]) != Partition.ranges([0, 5, 6])
    assert Partition.mod(1, 1) != "mod"
    made = [Partition.mod(4, 2), Partition.mod(4, 2), Partition.div(4, 2), Partition.ranges([0, 4])]
    assert len(set(made)) == 3


def test_frozen():
    partition = Partition.mod(10, 2)
    for name in ("strategy", "num_rows", "num_shards", "boundaries", "colour"):
        with pytest.raises((AttributeError, TypeError)):
            setattr(partition, name, 3)
    assert partition == Partition.mod(10, 2)


@given(st.one_of(partitions, huge_partitions))
def test_round_trips(partition):
    copies = [
        eval(repr(partition)),
        Partition.from_json(partition.to_json()),
        Partition.from_json(json.loads(json.dumps(partition.to_json()))),
        *(pickle.loads(pickle.dumps(partition, n)) for n in range(pickle.HIGHEST_PROTOCOL + 1)),
        copy.copy(partition),
        copy.deepcopy(partition),
    ]
    for twin in copies:
        assert twin == partition
        assert hash(twin) == hash(partition)
        assert repr(twin) == repr(partition)
    if partition.num_rows:
        last = partition.num_rows - 1
        assert all(c.locate(last) == partition.locate(last) for c in copies)


def test_repr_and_json():
    assert repr(Partition.mod(9, 3)) == "Partition.mod(num_rows=9, num_shards=3)"
    assert repr(Partition.ranges([0, 4, 6])) == "Partition.ranges([0, 4, 6])"
    assert Partition.div(9, 3).to_json() == {"strategy": "div", "num_rows": 9, "num_shards": 3}
    assert Partition.ranges([0, 4, 6]).to_json() == {
        "strategy": "ranges",
        "num_rows": 6,
        "num_shards": 2,
        "boundaries": [0, 4, 6],
    }


@pytest.mark.parametrize(
    "form",
    [
        None,
        [],
        "mod",
        {},
        {"strategy": "mod", "num_rows": 4},
        {"strategy": "mod", "num_rows": 4, "num_shards": 0},
        {"strategy": "mod", "num_rows": "4", "num_shards": 2},
        {"strategy": "mod", "num_rows": 4.0, "num_shards": 2},
        {"strategy": "mod", "num_rows": True, "num_shards": 2},
        {"strategy": "mod", "num_rows": 4, "num_shards": 2, "boundaries": [0, 2, 4]},
        {"strategy": "modulo", "num_rows": 4, "num_shards": 2},
        {"strategy": ["mod"], "num_rows": 4, "num_shards": 2},
        {"strategy": None, "num_rows": 4, "num_shards": 2},
        {"strategy": "ranges", "num_rows": 4, "num_shards": 2},
        {"strategy": "ranges", "num_rows": 4, "num_shards": 2, "boundaries": [0, 4]},
        {"strategy": "ranges", "num_rows": 4, "num_shards": 2, "boundaries": [0, 2, 5]},
        {"strategy": "ranges", "num_rows": 4, "num_shards": 2, "boundaries": [0, 5, 4]},
        {"strategy": "ranges", "num_rows": 4, "num_shards": 2, "boundaries": ["0", 2, 4]},
        {"strategy": "ranges", "num_rows": 4, "num_shards": 2, "boundaries": {"a": 1}},
    ],
)
def test_bad_json(form):
    with pytest.raises(PartitionError, match=r"expected .*, (got|not)"):
        Partition.from_json(form)


@pytest.mark.parametrize("make", [Partition.mod, Partition.div])
@pytest.mark.parametrize("bad", [-1, 2**63, 10**30, 1.0, "3", None, True, np.float32(2), [3]])
def test_bad_counts(make, bad):
    with pytest.raises(PartitionError, match=r"expected num_rows .* from 0 to 2\*\*63 - 1, got"):
        make(bad, 2)
    with pytest.raises(PartitionError, match=r"expected num_shards .* from 1 to 2\*\*63 - 1, got"):
        make(5, bad)
    with pytest.raises(PartitionError, match="got 0"):
        make(5, 0)


@pytest.mark.parametrize(
    "bad",
    [[], [0], [1, 2], [-1, 2], [0, 2.0], [0, 2**63], "012", None, 5, np.zeros((2, 2), int)],
)
def test_bad_boundaries(bad):
    with pytest.raises(PartitionError, match="expected boundaries as at least two whole numbers"):
        Partition.ranges(bad)


def test_decreasing_boundaries():
    with pytest.raises(PartitionError, match="do not decrease, got 3 after 4 at position 2"):
        Partition.ranges([0, 4, 3, 9])
    with pytest.raises(PartitionError, match="do not decrease"):
        Partition.ranges([0, 2**70, 5])


def test_unknown_strategy():
    with pytest.raises(PartitionError, match=r'expected .*"mod" or "div".*, got \'modulo\''):
        Partition("modulo", 4, 2)


def test_ids_outside():
    partition = Partition.mod(5, 2)
    message = r"expected ids from 0 to 4, for there are 5 rows; got ids\[1, 0\] = 5; is this"
    with pytest.raises(IdOutOfRangeError, match=message):
        partition.locate([[0, 1], [5, 9]])
    with pytest.raises(IdOutOfRangeError, match=r"ids\[0\] = -1; negative ids do not count"):
        partition.locate([-1])
    with pytest.raises(IdOutOfRangeError, match="got the id = -9223372036854775808"):
        partition.locate(-(2**63))
    with pytest.raises(IdOutOfRangeError, match=r"expected no ids, .*; got ids\[0\] = 0"):
        Partition.mod(0, 2).locate([0])
    with pytest.raises(IndexError):
        partition.locate(5)


def test_the_first_bad_id_is_named():
    ids = np.array([1, 7, 2**63 + 5, 2**64 - 1], np.uint64)
    with pytest.raises(IdOutOfRangeError, match=r"ids\[1\] = 7;"):
        Partition.mod(5, 2).locate(ids)
    with pytest.raises(IdOutOfRangeError, match=r"ids\[0\] = 9223372036854775813;"):
        Partition.mod(MOST, 2).locate(ids[2:])


@pytest.mark.parametrize(
    "bad", [1.0, [1.5], True, [False], "1", ["a"], None, [None], 2**70, [[1], [2, 3]], 1j, {1: 2}]
)
def test_ids_that_are_no_integers(bad):
    with pytest.raises(IdTypeError, match=r"expected ids .*, got "):
        Partition.mod(5, 2).locate(bad)


def test_bad_shards_and_rows():
    partition = Partition.mod(5, 2)
    for shard in (-1, 2, 2**70):
        with pytest.raises(PartitionError, match=f"expected a shard from 0 to 1, got {shard}"):
            partition.ids_of(shard)
    for rows in ([3], [-1], np.array([0, 2**63], np.uint64)):
        with pytest.raises(IdOutOfRangeError, match="there are 3 rows"):
            partition.ids_of(0, rows)
    with pytest.raises(IdTypeError):
        partition.ids_of(0, [0.5])
    assert partition.ids_of(0, [[2, 0]]).tolist() == [[4, 0]]
    assert partition.ids_of(0, []).shape == (0,)
