import array as std_array
import ctypes
import hashlib
import os
import subprocess
import sys
import threading
import time
import warnings
from itertools import accumulate

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lookups import (
    ID_TYPES,
    LAYOUTS,
    NATIVE,
    SWAPPED,
    assert_same_bits,
    in_layout,
    pieces_of,
    random_array,
)

import shardwise
from shardwise import (
    IdOutOfRangeError,
    IdTypeError,
    OptionError,
    OutputError,
    Partition,
    PartitionError,
    ShardwiseWarning,
    Table,
    TableError,
    embedding_lookup,
)


@pytest.fixture
def threads():
    """Sets the number of threads, and puts it back."""
    before = shardwise.num_threads()
    yield shardwise.set_num_threads
    shardwise.set_num_threads(before)


@st.composite
def partition_of(draw, rows):
    strategy = draw(st.sampled_from(["mod", "div", "ranges"]))
    if strategy == "ranges":
        inner = draw(st.lists(st.integers(0, rows), max_size=39))
        return Partition.ranges([0, *sorted(inner), rows])
    return getattr(Partition, strategy)(rows, draw(st.integers(1, 40)))


@st.composite
def ids_for(draw, rows):
    """Ids in the table, of any integer dtype, shape and layout; (what is passed, as an array)."""
    dtype = draw(st.sampled_from(ID_TYPES))
    most = min(rows - 1, np.iinfo(dtype).max)
    shape = tuple(draw(st.lists(st.integers(0, 6), max_size=3)))
    if rows == 0:
        shape = (*shape, 0)
    count = int(np.prod(shape))
    numbers = draw(st.lists(st.integers(0, max(most, 0)), min_size=count, max_size=count))
    ids = np.array(numbers, dtype).reshape(shape)
    form = draw(st.sampled_from(["array", "list", "scalar", *(LAYOUTS if shape else [])]))
    if form == "list":
        return ids.tolist(), ids.reshape(np.shape(ids.tolist()))  # lists of nothing lose axes
    if form == "scalar" and ids.size:
        scalar = ids.ravel()[0]
        return (scalar if draw(st.booleans()) else int(scalar)), np.array(scalar)
    return (in_layout(ids, form) if form in LAYOUTS else ids), ids


# ---- every way to call it, against NumPy ---------------------------------------------------------


@settings(max_examples=400, deadline=None)
@given(st.data())
def test_lookup_is_indexing(data):
    rows = data.draw(st.integers(0, 60), label="rows")
    tail = tuple(data.draw(st.lists(st.integers(0, 9), max_size=3), label="tail"))
    dtype = data.draw(st.sampled_from(NATIVE + SWAPPED), label="dtype")
    full = random_array((rows, *tail), dtype)
    partition = data.draw(partition_of(rows), label="partition")
    layout = st.sampled_from(LAYOUTS)
    given_ids, plain = data.draw(ids_for(rows), label="ids")
    before = plain.copy()
    expected = full[plain.astype(np.int64), ...]
    shards = [in_layout(piece, data.draw(layout)) for piece in pieces_of(full, partition)]

    table = Table.from_shards(shards, partition)
    assert table.shape == full.shape
    assert len(table) == rows
    assert_same_bits(table.lookup(given_ids), expected)
    assert_same_bits(table[given_ids], expected)
    assert_same_bits(embedding_lookup(table, given_ids), expected)
    name = partition if partition.strategy == "ranges" else partition.strategy
    assert_same_bits(embedding_lookup(shards, given_ids, name), expected)
    assert_same_bits(embedding_lookup(tuple(shards), given_ids, partition), expected)
    whole = in_layout(full, data.draw(layout))
    assert_same_bits(embedding_lookup(whole, given_ids), expected)
    for copy in (False, True):
        table = Table.from_array(whole, partition.num_shards, partition, copy=copy)
        assert_same_bits(table.lookup(given_ids), expected)
        assert [s.tobytes() for s in table.shards] == [s.tobytes() for s in shards]
    assert np.array_equal(np.asarray(given_ids, plain.dtype), before)


@pytest.mark.parametrize("dtype", NATIVE + SWAPPED, ids=str)
def test_dtypes_and_ranks(dtype):
    ids = np.array([[5, 0, 5], [6, 2, 1]])
    for rank in range(1, 5):
        full = random_array((7, 3, 2, 5)[:rank], dtype, rank)
        for partition in (Partition.mod(7, 3), Partition.div(7, 9), Partition.ranges([0, 0, 5, 7])):
            result = embedding_lookup(pieces_of(full, partition), ids, partition)
            assert_same_bits(result, full[ids])


@pytest.mark.parametrize("columns", [1, 2, 3, 5, 16, 31, 64, 100])
@pytest.mark.parametrize("count", [1, 31, 33, 1000, 70_000])
def test_sizes(columns, count, threads):
    full = random_array((501, columns), "float32")
    ids = np.random.default_rng(1).integers(0, 501, count)
    expected = full[ids]
    for partition in (Partition.mod(501, 1), Partition.mod(501, 8), Partition.div(501, 3)):
        table = Table.from_shards(pieces_of(full, partition), partition)
        for n in (1, 2, 5):
            threads(n)
            assert_same_bits(table.lookup(ids), expected)
            out = np.empty_like(expected)
            assert table.lookup(ids, out=out) is out
            assert_same_bits(out, expected)


def test_nan_payloads_survive():
    bits = np.array([[0x7F800001, 0xFFC12345], [0x7FC00000, 0x80000000]], np.uint32)
    full = bits.view(np.float32)
    for options in ({}, {"max_norm": 1.0}, {"out_of_range": "zeros"}):
        result = embedding_lookup(full, [1, 0], **options)
        assert result.view(np.uint32).tolist() == bits[::-1].tolist()


def test_rows_of_no_bytes():
    full = np.zeros((4, 0, 3), np.int16)
    assert_same_bits(embedding_lookup(full, [[3], [0]]), full[[[3], [0]]])
    with pytest.raises(IdOutOfRangeError):
        embedding_lookup(full, [4])


def test_views_are_not_copied():
    full = random_array((10, 4), "int32")
    table = Table.from_array(full, 3, "div")
    assert all(np.shares_memory(shard, full) for shard in table.shards)
    full[7] = 1
    assert table.lookup(7).tolist() == [1, 1, 1, 1]
    kept = Table.from_array(full, 3, "div", copy=True)
    full[7] = 2
    assert kept.lookup(7).tolist() == [1, 1, 1, 1]


def test_one_row_for_all_ids():
    full = np.broadcast_to(random_array(5, "float64"), (1000, 5))
    ids = [999, 0, 500]
    assert_same_bits(embedding_lookup(full, ids), full[ids])
    assert_same_bits(Table.from_array(full, 7, "mod").lookup(ids), full[ids])


def test_memory_mapped(tmp_path):
    full = random_array((100, 6), "float32")
    np.save(tmp_path / "table.npy", full)
    mapped = np.load(tmp_path / "table.npy", mmap_mode="r")
    ids = np.load(save_ids(tmp_path, [[3, 99], [0, 3]]), mmap_mode="r")
    for partition in (Partition.mod(100, 3), Partition.div(100, 1)):
        table = Table.from_array(mapped, partition.num_shards, partition)
        assert_same_bits(table.lookup(ids), full[ids])


def save_ids(folder, ids):
    np.save(folder / "ids.npy", np.array(ids))
    return folder / "ids.npy"


def test_subclasses_are_plain_arrays():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PendingDeprecationWarning)  # what NumPy says of np.matrix
        matrix, ids = np.matrix([[1, 2], [3, 4]]), np.matrix([[1, 0]])
    assert_same_bits(embedding_lookup(matrix, [1]), np.array([[3, 4]]))
    assert_same_bits(embedding_lookup(np.array([7, 8]), ids), np.array([[8, 7]]))
    record = np.rec.array([(1, 2.0), (3, 4.0)], dtype="i4,f8")
    assert embedding_lookup(record, [1])[0].tolist() == (3, 4.0)


# ---- arrays of others ----------------------------------------------------------------------------


class Exporter:
    """Offers DLPack and nothing else; `dtype` says what its elements are, in DLPack's words."""

    def __init__(self, array, dtype=None, device=(1, 0)):
        self.array, self.dtype, self.device = array, dtype, device

    def __dlpack_device__(self):
        return self.device

    def __dlpack__(self, **options):
        if self.device[0] != 1:
            raise BufferError("this lies in the memory of another device")
        if self.dtype is None:
            return self.array.__dlpack__(**options)
        capsule = self.array.__dlpack__()
        pointer_of = ctypes.pythonapi.PyCapsule_GetPointer
        pointer_of.restype = ctypes.c_void_p
        pointer_of.argtypes = [ctypes.py_object, ctypes.c_char_p]
        # struct DLTensor: a pointer, two int32 of the device, an int32 rank, and the dtype's code.
        ctypes.c_uint8.from_address(pointer_of(capsule, b"dltensor") + 20).value = self.dtype
        return capsule


def test_dlpack():
    full = random_array((9, 4), "float32")
    ids = np.array([8, 1])
    assert_same_bits(embedding_lookup(Exporter(full), Exporter(ids)), full[ids])
    shards = [Exporter(full[k::2]) for k in range(2)]
    assert_same_bits(embedding_lookup(shards, ids), full[ids])
    frozen = full.copy()
    frozen.flags.writeable = False
    assert_same_bits(embedding_lookup(Exporter(frozen), ids), full[ids])
    full[8] = 5
    table = Table.from_array(Exporter(full))
    full[8] = 6
    assert table.lookup(8).tolist() == [6] * 4  # no copy


@pytest.mark.parametrize(
    ("name", "code"), [("bfloat16", 4), ("float8_e4m3fn", 10), ("float8_e5m2", 12)]
)
def test_dlpack_of_what_numpy_has_no_dtype_for(name, code):
    dtype = np.dtype(getattr(ml_dtypes, name))
    full = random_array((9, 6), dtype)
    bits = full.view(f"u{dtype.itemsize}")
    for given_bits in (bits, bits[::-1][::2], bits[:, ::2], np.asfortranarray(bits)):
        expected = given_bits.view(dtype) if given_bits.flags.c_contiguous else None
        if expected is None:
            expected = given_bits.copy().view(dtype)
        result = embedding_lookup(Exporter(given_bits, code), [4, 0])
        assert_same_bits(result, expected[[4, 0]])


def test_memory_of_another_device():
    full = np.zeros((3, 2))
    with pytest.raises(TableError, match=r"expected array .* memory of the CPU, got Exporter"):
        embedding_lookup(Exporter(full, device=(2, 0)), [0])
    with pytest.raises(TableError, match=r"expected shards\[1\] .* memory of the CPU"):
        embedding_lookup([full, Exporter(full, device=(2, 0))], [0])
    with pytest.raises(IdTypeError, match=r"expected ids .* memory of the CPU, got Exporter"):
        embedding_lookup(full, Exporter(np.array([0]), device=(2, 0)))


def test_buffers():
    numbers = std_array.array("d", [1.5, 2.5, 3.5])
    ids = std_array.array("h", [2, 0])
    assert_same_bits(embedding_lookup(numbers, ids), np.array([3.5, 1.5]))
    data = bytes(range(12))
    grid = memoryview(data).cast("B", (4, 3))
    assert embedding_lookup(grid, memoryview(ids)).tolist() == [[6, 7, 8], [0, 1, 2]]
    assert embedding_lookup(bytearray(data), bytearray([11])).tolist() == [11]
    with pytest.raises(TableError, match=r"expected array of shape \(rows, \.\.\.\)"):
        embedding_lookup(data, [0])  # NumPy, too, reads bytes as one string
    with pytest.raises(IdTypeError):
        embedding_lookup(grid, b"\x01\x02")


# ---- out -----------------------------------------------------------------------------------------


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_out(data):
    rows = data.draw(st.integers(1, 30))
    full = random_array((rows, *data.draw(st.lists(st.integers(1, 5), max_size=2))), "float32")
    table = Table.from_array(full, data.draw(st.integers(1, 5)), "mod")
    given_ids, plain = data.draw(ids_for(rows))
    expected = full[plain.astype(np.int64), ...]
    layout = data.draw(st.sampled_from([name for name in LAYOUTS if name != "read-only"]))
    out = np.full(expected.shape, 7, np.float32)
    if out.ndim:
        out = in_layout(out, layout)
    assert table.lookup(given_ids, out=out) is out
    assert out.tobytes() == expected.tobytes()


def test_out_refused():
    full = random_array((6, 4), "float32")
    ids = np.array([5, 1, 1])
    table = Table.from_array(full)
    for bad in (
        np.empty((3, 5), "f4"),
        np.empty((2, 4), "f4"),
        np.empty(12, "f4"),
        np.empty((3, 4)),
        np.empty((3, 4), np.dtype("f4").newbyteorder()),
        np.empty((3, 4), "i4"),
    ):
        with pytest.raises(OutputError, match=r"expected out of shape \(3, 4\) and dtype float32"):
            table.lookup(ids, out=bad)
    for bad in ([[0.0] * 4] * 3, 1.0, memoryview(bytearray(48))):
        with pytest.raises(OutputError, match="expected out as a NumPy array"):
            table.lookup(ids, out=bad)
    frozen = in_layout(np.zeros((3, 4), "f4"), "read-only")
    with pytest.raises(OutputError, match="read-only"):
        table.lookup(ids, out=frozen)
    assert not frozen.any()
    before = full.copy()
    for overlapping in (full[:3], full[3:], full[::-2]):
        with pytest.raises(OutputError, match="overlaps the table or the ids"):
            table.lookup(ids, out=overlapping)
    assert full.tobytes() == before.tobytes()
    numbers = np.arange(6)
    with pytest.raises(OutputError, match="overlaps"):
        embedding_lookup(np.zeros(3, np.int64), numbers[:3], out=numbers[2:5])
    with pytest.raises(OutputError):
        embedding_lookup(full, ids, out=np.empty((3, 5), "f4"))


@pytest.mark.parametrize("count", [1, 100, 50_000])
@pytest.mark.parametrize("layout", ["packed", "fortran"])
def test_out_is_unchanged_after_an_error(count, layout, threads):
    table = Table.from_array(random_array((50, 20), "float32"), 3, "div")
    ids = np.random.default_rng(0).integers(0, 50, count)
    for n in (1, 3):
        threads(n)
        for position in {0, count // 2, count - 1}:
            bad = ids.copy()
            bad[position] = 50
            out = in_layout(np.full((count, 20), 7, "f4"), layout)
            with pytest.raises(IdOutOfRangeError, match=rf"ids\[{position}\] = 50;"):
                table.lookup(bad, out=out)
            assert (out == 7).all()


# ---- ids outside the table -----------------------------------------------------------------------


def stand_in(number, rows, policy):
    """The row for an id outside, in Python's integers; None for zeros."""
    if 0 <= number < rows:
        return number
    if policy == "clamp":
        return 0 if number < 0 else rows - 1
    if policy == "wrap":
        return number % rows
    return None if policy == "zeros" else policy


@pytest.mark.parametrize("dtype", ID_TYPES, ids=str)
@pytest.mark.parametrize("policy", ["zeros", "clamp", "wrap", 0, np.int16(36)])
def test_policies(dtype, policy):
    rows = 37
    full = random_array((rows, 5), "float64")
    info = np.iinfo(dtype)
    some = np.random.default_rng(0).integers(info.min, info.max, 200, dtype.newbyteorder("="), True)
    edges = [-1, -36, -37, -38, 36, 37, 38, 73, 74, info.min, info.max, info.max - 1, info.min + 1]
    numbers = [int(n) for n in some] + [n for n in edges if info.min <= n <= info.max]
    ids = np.array(numbers, dtype)
    row_of = [stand_in(n, rows, policy) for n in numbers]
    expected = np.array([np.zeros(5) if r is None else full[r] for r in row_of])
    for partition in (Partition.mod(rows, 1), Partition.mod(rows, 5), Partition.ranges([0, 9, 37])):
        table = Table.from_shards(pieces_of(full, partition), partition)
        assert_same_bits(table.lookup(ids, out_of_range=policy), expected)
        out = np.empty_like(expected)
        assert_same_bits(table.lookup(ids, out_of_range=policy, out=out), expected)


@pytest.mark.parametrize("policy", ["zeros", "clamp", "wrap", 3])
@pytest.mark.parametrize("columns", [1, 16, 64])
def test_policies_on_every_path(policy, columns, threads):
    """Cached and large results, one thread and more, fresh and given, with a norm and without."""
    rows, count = 1000, 3_000_000 // columns // 2
    full = random_array((rows, columns), "float32")
    full[np.isnan(full)] = 1
    ids = np.random.default_rng(0).integers(-1500, 2500, count, np.int32)
    where = np.where((ids >= 0) & (ids < rows), ids, 3)
    if policy == "clamp":
        where = np.clip(ids, 0, rows - 1)
    elif policy == "wrap":
        where = ids % rows
    expected = full[where]
    if policy == "zeros":
        expected[(ids < 0) | (ids >= rows)] = 0
    table = Table.from_array(full, 4, "mod")
    for n in (1, 2, 3):
        threads(n)
        assert_same_bits(table.lookup(ids, out_of_range=policy), expected)
        out = np.empty_like(expected)
        assert_same_bits(table.lookup(ids, out_of_range=policy, out=out), expected)
        clipped = table.lookup(ids, out_of_range=policy, max_norm=1e39)  # of no finite row
        finite = np.isfinite(expected).all(axis=1)
        assert clipped[finite].tobytes() == expected[finite].tobytes()


def test_policies_refused():
    table = Table.from_array(np.zeros((4, 2)))
    for bad in ("zero", "ERROR", "", None, 4, -1, 2**70, 1.0, True, np.True_, [0], b"zeros"):
        with pytest.raises(OptionError, match=r"expected out_of_range .*, got"):
            table.lookup([0], out_of_range=bad)
    empty = Table.from_array(np.zeros((0, 2)))
    for bad in ("clamp", "wrap"):
        with pytest.raises(OptionError, match="expected a table with rows"):
            empty.lookup([0], out_of_range=bad)
    with pytest.raises(OptionError):
        empty.lookup([0], out_of_range=0)
    assert_same_bits(empty.lookup([5, -5], out_of_range="zeros"), np.zeros((2, 2)))
    with pytest.raises(IdOutOfRangeError, match="there are no rows"):
        empty.lookup([0])


def test_the_first_bad_id_is_named(threads):
    table = Table.from_array(np.zeros((10, 8), np.float32), 2, "div")
    rng = np.random.default_rng(0)
    for n in (1, 2, 3, 8):
        threads(n)
        for count in (5, 100_000):
            for _ in range(10):
                ids = rng.integers(0, 10, count)
                bad = rng.integers(0, count, 3)
                ids[bad] = rng.choice([-3, 10, 2**62], 3)
                first = bad.min()
                message = rf"expected ids from 0 to 9, .* got ids\[{first}\] = {ids[first]};"
                with pytest.raises(IdOutOfRangeError, match=message):
                    table.lookup(ids)
                with pytest.raises(IdOutOfRangeError, match=message):
                    table.lookup(ids, max_norm=1.0)


def test_where_the_bad_id_is():
    full = np.zeros((3, 2))
    for bad, message in [
        (3, "got the id = 3; is this the right table"),
        (np.uint64(2**64 - 1), "got the id = 18446744073709551615;"),
        ([[0, 1], [2, -1]], r"got ids\[1, 1\] = -1; negative ids do not count from the end"),
        (np.array([[[0], [7]]], np.uint8), r"got ids\[0, 1, 0\] = 7;"),
        (np.array([[0, 1], [5, 2]]).T, r"got ids\[0, 1\] = 5;"),
    ]:
        with pytest.raises(IdOutOfRangeError, match=message) as caught:
            embedding_lookup(full, bad)
        assert isinstance(caught.value, IndexError)


# ---- ids that are none ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "bad",
    [
        1.0,
        [0.0, 1.0],
        np.zeros(0, np.float64),
        np.array([1], np.float16),
        True,
        [True, False],
        np.array([True]),
        "1",
        ["a", "b"],
        b"1",
        None,
        [None],
        2**70,
        [0, 2**70],
        [2**63, -1],
        [[0, 1], [2]],
        [[0], 1],
        np.array([1, 2], object),
        np.array([1], "m8[s]"),
        np.array([1], "M8[s]"),
        np.array([(1,)], "i4,"),
        np.ma.array([0, 1], mask=[False, True]),
        np.array([1]).astype(ml_dtypes.bfloat16),
        1j,
        {0: 1},
        {1, 2},
        object(),
        slice(0, 1),
        Table.from_array(np.zeros(3)),
    ],
    ids=repr,
)
def test_ids_that_are_no_integers(bad):
    full = np.arange(4)
    table = Table.from_array(full, 2, "mod")
    for call in (
        lambda: embedding_lookup(full, bad),
        lambda: table.lookup(bad),
        lambda: table[bad],
        lambda: table.lookup(bad, out_of_range="zeros"),
        lambda: table.lookup(bad, out=np.empty(1, np.int64)),
    ):
        with pytest.raises(IdTypeError, match=r"expected ids .*, got ") as caught:
            call()
        assert isinstance(caught.value, TypeError)


def test_getitem_is_lookup_alone():
    table = Table.from_array(np.arange(10).reshape(5, 2))
    for bad in (slice(1, 2), (1, 0), None, Ellipsis, (slice(None), 0)):
        with pytest.raises(IdTypeError, match=r"expected ids as integers, got .*numpy\.arange"):
            table[bad]
    with pytest.raises(TypeError, match="not iterable"):
        list(table)
    with pytest.raises(TypeError, match=r"lookup\(numpy\.arange\(len\(table\)\)\) gives all"):
        np.asarray(table)
    with pytest.raises(TypeError, match=r"use Table\.from_array"):
        Table(np.zeros((3, 2)), shards=2)
    with pytest.raises(TypeError, match=r"use Table\.from_array"):
        Table()


def test_empty_ids():
    full = random_array((3, 2), "int16")
    for empty in ([], [[], []], (), np.zeros((0, 4), "u1")):
        result = embedding_lookup(full, empty)
        assert result.shape == (*np.shape(empty), 2)
        assert result.dtype == np.int16
    assert embedding_lookup(np.zeros((0, 2)), []).shape == (0, 2)


# ---- params that are none ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("params", "message"),
    [
        (None, "expected params as an array, a list of shards or a Table, got None"),
        ([], "expected at least one shard, got none"),
        ((), "expected at least one shard, got none"),
        (5, r"expected array of shape \(rows, \.\.\.\), got the scalar"),
        (2.5, "got the scalar"),
        ("text", "got the scalar"),
        (np.float32(1), "got the scalar"),
        (np.array(7), "got the scalar"),
        ([1, 2, 3], r"expected shards\[0\] of shape \(rows, \.\.\.\), got the scalar"),
        ([np.zeros(2), 3.0], r"expected shards\[1\] of shape"),
        ([None], r"expected shards\[0\]"),
        ({"a": 1}, "got the scalar"),
        (object(), "got the scalar"),
        ([np.zeros((2, 3)), np.zeros((1, 3), "f4")], "float64 rows .* and float32 rows"),
        ([np.zeros((2, 3)), np.zeros((1, 4))], r"\(3,\) in shards\[0\].*\(4,\) in shards\[1\]"),
        ([np.zeros((2, 3)), np.zeros(1)], r"shape \(\) in shards\[1\]"),
        ([np.zeros(2, "<f4"), np.zeros(2, ">f4")], "differ in their first axis alone"),
        (np.array([1, None], object), "expected array of a fixed-size dtype, got object"),
        ([np.array([None])], r"expected shards\[0\] of a fixed-size dtype, got object"),
        (np.array(["a"], np.dtypes.StringDType()), "of a fixed-size dtype, got StringDType"),
        (np.zeros(2, "O,i4"), "of a fixed-size dtype"),
        (np.ma.array([1, 2]), "expected array as a plain array, got a masked one"),
        ([np.ma.array([1, 2])], r"expected shards\[0\] as a plain array, got a masked one"),
        ([Table.from_array(np.zeros(3))], r"expected shards\[0\] as an array, got Table"),
    ],
    ids=repr,
)
def test_params_refused(params, message):
    with pytest.raises(TableError, match=message) as caught:
        embedding_lookup(params, [0])
    assert isinstance(caught.value, ValueError)


@pytest.mark.parametrize(
    ("sizes", "partition", "fitting"),
    [
        ([2, 4], "mod", ["Partition.ranges([0, 2, 6])"]),
        ([4, 2], "div", ["Partition.ranges([0, 4, 6])"]),
        ([3, 0, 3], "div", ["Partition.ranges([0, 3, 3, 6])"]),
        ([5, 4], Partition.ranges([0, 4, 9]), ["Partition.mod", "Partition.div", "[0, 5, 9]"]),
        ([1] * 13 + [3], "mod", ["[0, 1, 2, 3, 4, ..., 16] (15 in all)"]),
    ],
)
def test_shards_of_wrong_lengths(sizes, partition, fitting):
    shards = [np.zeros((size, 2)) for size in sizes]
    with pytest.raises(PartitionError) as caught:
        embedding_lookup(shards, [0], partition)
    assert isinstance(caught.value, ValueError)
    message = str(caught.value)
    assert "expected shards of [" in message
    assert "; got [" in message
    assert all(part in message for part in fitting)
    right = Partition.ranges([0, *accumulate(sizes)])
    assert embedding_lookup(shards, [0], right).shape == (1, 2)
    if "Partition.mod" not in fitting:
        assert "Partition.mod" not in message.partition("fit")[2]


def test_partitions_refused():
    full = np.zeros((6, 2))
    for bad in ("modulo", "ranges", "", None, 3, ["mod"], [0, 2, 6], np.array([0, 2, 6])):
        for call in (
            lambda bad=bad: embedding_lookup(full, [0], bad),
            lambda bad=bad: embedding_lookup([full, full], [0], bad),
            lambda bad=bad: Table.from_array(full, 2, bad),
            lambda bad=bad: Table.from_shards([full], bad),
        ):
            with pytest.raises(PartitionError, match=r'expected .*"mod" or "div".*Partition'):
                call()
    for other in (Partition.mod(5, 1), Partition.mod(6, 2), Partition.ranges([0, 7])):
        with pytest.raises(PartitionError, match="expected a partition of 6 rows in 1 shards, got"):
            Table.from_shards([full], other)
    with pytest.raises(PartitionError, match="expected a partition of 6 rows in 3 shards"):
        Table.from_array(full, 3, Partition.mod(6, 2))
    for shards in (0, -1, 1.5, None, "2", True):
        with pytest.raises(PartitionError, match="expected num_shards"):
            Table.from_array(full, shards, "mod")


def test_a_list_of_python_lists_is_a_list_of_shards():
    params = [[1.0, 2], [3, 4], [5, 6]]
    with pytest.warns(ShardwiseWarning, match=r"as 3 shards .*numpy\.array\(params\)") as w:
        result = embedding_lookup([[1, 2], [3, 4], [5, 6]], range(6))
    assert w[0].filename == __file__
    assert_same_bits(result, np.array([1, 3, 5, 2, 4, 6], np.int32))
    with pytest.warns(ShardwiseWarning):
        result = embedding_lookup([[1, 2], [3, 4], [5, 6]], range(6), "div")
    assert_same_bits(result, np.array([1, 2, 3, 4, 5, 6], np.int32))
    with pytest.warns(ShardwiseWarning):
        result = embedding_lookup(([[0.5, 1.5]], [[2.5, 3.5]]), [1, 0])
    assert_same_bits(result, np.array([[2.5, 3.5], [0.5, 1.5]], np.float32))
    with pytest.warns(ShardwiseWarning):
        result = embedding_lookup([[np.array([1.0, 2.0]), np.array([3.0, 4.0])]], [1])
    assert_same_bits(result, np.array([[3.0, 4.0]]))
    with pytest.warns(ShardwiseWarning):
        result = embedding_lookup([[2**40]], 0)
    assert_same_bits(result, np.array(2**40))
    with pytest.warns(ShardwiseWarning), pytest.raises(TableError, match="differ in their first"):
        embedding_lookup(params, [0])  # float32 and int32, as in TensorFlow
    with pytest.warns(ShardwiseWarning), pytest.raises(TableError, match="unequal lengths"):
        embedding_lookup([[[1, 2], [3]], [[4, 5]]], [0])
    with pytest.warns(ShardwiseWarning), pytest.raises(TableError, match="fixed-size dtype"):
        embedding_lookup([[None, "a"]], [0])
    with pytest.warns(ShardwiseWarning):
        assert embedding_lookup([[]], []).dtype == np.float32


def test_no_warning_without_the_trap():
    embedding_lookup([np.zeros(2), np.zeros(2)], [0])  # warnings are errors here
    embedding_lookup(np.array([[1, 2], [3, 4]]), [[0], [1]])


# ---- hostile -------------------------------------------------------------------------------------


def test_ids_that_change_during_the_lookup(threads):
    """Each id is read once: what another thread writes there can give a row or an error only."""
    threads(2)
    rows = 64
    full = np.arange(rows * 16, dtype=np.float32).reshape(rows, 16)
    good = np.random.default_rng(0).integers(0, rows, 200_000)
    ids = good.copy()
    stop = threading.Event()

    def change():
        wild = [2**62, -(2**63), 2**63 - 1, rows, -1]
        k = 0
        while not stop.is_set():
            ids[k % 1000 :: 7] = wild[k % 5]
            ids[:] = good
            k += 1

    writer = threading.Thread(target=change)
    writer.start()
    try:
        tables = [Table.from_array(full, n, how) for n, how in ((1, "mod"), (5, "mod"), (3, "div"))]
        out = np.empty((len(ids), 16), np.float32)
        end = time.monotonic() + 1.5
        errors = 0
        while time.monotonic() < end:
            for table in tables:
                for options in ({}, {"out": out}, {"out_of_range": "wrap"}, {"max_norm": 1e9}):
                    try:
                        result = table.lookup(ids, **options)
                    except IdOutOfRangeError:
                        errors += 1
                    else:
                        # Whole rows of the table, whichever.
                        assert (result[::1000, 0] % 16 == 0).all()
                        assert (result[::1000, 15] - result[::1000, 0] == 15).all()
        assert errors
    finally:
        stop.set()
        writer.join()


def test_results_that_cannot_be():
    wide = np.broadcast_to(np.zeros((1, 2**20)), (2**20, 2**20))
    for options in ({}, {"max_norm": 1.0}, {"out_of_range": "zeros"}):
        with pytest.raises(MemoryError):  # 8 TiB
            embedding_lookup(wide, np.zeros(2**20, np.int64), **options)
    none = np.zeros((3, 0))
    assert embedding_lookup(none, np.zeros(1000, np.int8)).shape == (1000, 0)
    with pytest.raises((MemoryError, ValueError)):
        embedding_lookup(np.zeros(3), np.broadcast_to(np.int8(0), (2**46,)))
    with pytest.raises((MemoryError, ValueError)):
        embedding_lookup(np.broadcast_to(np.int8(0), (3, 2**62)), [0])
    with pytest.raises(ValueError, match="64 dimensions"):
        embedding_lookup(np.zeros((1,) * 40), np.zeros((1,) * 40, int))


def test_results_are_private():
    """Results that lie in recycled blocks never share memory with ones that are still alive."""
    full = random_array((100, 64), "int32")
    rng = np.random.default_rng(0)
    alive = []
    for k in range(60):
        ids = rng.integers(0, 100, int(rng.integers(1, 40_000)))
        result = embedding_lookup(full, ids)
        result[0] = k
        alive.append((result, ids, k))
        if len(alive) > 5:
            del alive[int(rng.integers(0, 5))]
        for kept, kept_ids, mark in alive:
            assert (kept[0] == mark).all()
            assert kept[1:].tobytes() == full[kept_ids[1:]].tobytes()
    assert not any(np.shares_memory(a[0], b[0]) for n, a in enumerate(alive) for b in alive[:n])


# ---- instruction levels --------------------------------------------------------------------------

DIGEST = """
import hashlib, warnings
import ml_dtypes, numpy as np, shardwise

rng = np.random.default_rng(0)
digest = hashlib.sha256()
for dtype in ("f2", "f4", "f8", ml_dtypes.bfloat16, ml_dtypes.float8_e4m3fn, "c8", "i2", "S3"):
    for columns in (1, 2, 3, 7, 8, 16, 31, 64, 100, 300):
        full = np.frombuffer(
            bytearray(rng.bytes(200 * columns * np.dtype(dtype).itemsize)), dtype
        ).reshape(200, columns)
        near_one = rng.normal(size=(200, columns))
        for shards, how in ((1, "mod"), (7, "mod"), (7, "div")):
            for count in (1, 50, 20_000 // columns):
                ids = rng.integers(-50, 250, count)
                for policy in ("zeros", "clamp", "wrap", 3):
                    table = shardwise.Table.from_array(full, shards, how)
                    digest.update(table.lookup(ids, out_of_range=policy).tobytes())
                if np.dtype(dtype).kind not in "iS":
                    for rows in (near_one.astype(dtype), full):
                        table = shardwise.Table.from_array(rows, shards, how)
                        result = table.lookup(ids, out_of_range="clamp", max_norm=1.25)
                        digest.update(result.tobytes())
print(shardwise._native.isa(), digest.hexdigest())
"""


def test_every_instruction_level_gives_the_same_bits():
    levels = shardwise._native.isa_levels()
    answers = {}
    for level in levels:
        run = subprocess.run(
            [sys.executable, "-c", DIGEST],
            env=os.environ | {"SHARDWISE_ISA": level},
            capture_output=True,
            text=True,
            check=True,
        )
        answers[level] = run.stdout.split()
    assert [isa for isa, _ in answers.values()] == levels
    assert len({digest for _, digest in answers.values()}) == 1
    empty = hashlib.sha256().hexdigest()
    assert all(len(digest) == 64 and digest != empty for _, digest in answers.values())


def test_a_mask_of_rows_is_refused_with_what_to_do():
    params = np.eye(3, dtype=np.float32)
    mask = np.array([True, False, True])
    with pytest.raises(IdTypeError, match=r"got bool .*; numpy\.flatnonzero\(mask\) gives the ids"):
        embedding_lookup(params, mask)
    assert np.array_equal(embedding_lookup(params, np.flatnonzero(mask)), params[mask])


def test_ids_of_arrow_without_a_warning():
    pa = pytest.importorskip("pyarrow")
    params = np.eye(3, dtype=np.float32)
    for ids in ([2, 0], [], [1]):
        assert np.array_equal(embedding_lookup(params, pa.array(ids, pa.int32())), params[ids])
    with pytest.raises(IdTypeError, match=r"an Arrow array of 2 with 1 nulls; drop the nulls"):
        embedding_lookup(params, pa.array([1, None]))
    column = pa.array([[1], [2, 0]])
    with pytest.raises(IdTypeError, match=r"got object .*; of a column of bags pass a list"):
        Table.from_array(params).pool(column)
    assert Table.from_array(params).pool(column.to_pylist()).tolist() == [[0, 1, 0], [1, 0, 1]]
