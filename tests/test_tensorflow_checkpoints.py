"""Checkpoints that TensorFlow 2.21 wrote (checkpoints/make.py), and broken ones made here."""

import shutil
import struct
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shardwise import FormatError, OptionError, Partition, PartitionError, formats
from shardwise.formats._file import map_file
from shardwise.formats._tensorflow_entry import slice_key
from shardwise.formats._tensorflow_index import masked_crc32c, read_table

HERE = Path(__file__).parent / "checkpoints"
FILES = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
DTYPES = (
    *("float32", "float64", "float16", "bfloat16", "float8_e4m3fn", "float8_e5m2", "complex64"),
    *("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "bool"),
)


def values(*shape, first=0):
    count = int(np.prod(shape))
    return (np.arange(4 * first, 4 * first + count) / 4).astype(np.float32).reshape(shape)


# ---- a writer of checkpoints, to break them ----


def varint(number):
    number &= (1 << 64) - 1
    out = b""
    while number > 127:
        out, number = out + bytes([number & 127 | 128]), number >> 7
    return out + bytes([number])


def message(*fields):
    """Fields as (number, value): an int, or bytes."""
    return b"".join(
        varint(number << 3) + varint(value)
        if isinstance(value, int)
        else varint(number << 3 | 2) + varint(len(value)) + value
        for number, value in fields
    )


def entry(shape, *, dtype=1, shard=0, offset=0, size=None, slices=()):
    size = 4 * int(np.prod(shape)) if size is None else size
    dims = message(*((2, message((1, length))) for length in shape))
    cuts = [
        (7, message(*((1, message((1, start), (2, length))) for start, length in extents)))
        for extents in slices
    ]
    return message((1, dtype), (2, dims), (3, shard), (4, offset), (5, size), *cuts)


def block(entries, *, every=16):
    data, last, restarts = b"", b"", []
    for number, (key, value) in enumerate(entries):
        shared = 0
        if number % every == 0:
            restarts.append(len(data))
        else:
            while shared < min(len(key), len(last)) and key[shared] == last[shared]:
                shared += 1
        data += varint(shared) + varint(len(key) - shared) + varint(len(value)) + key[shared:]
        data += value
        last = key
    return data + struct.pack(f"<{len(restarts) + 1}I", *restarts, len(restarts))


def table(*blocks, kind=0, crc=None):
    data, handles = b"", []
    for content in blocks:
        handles.append((b"%06d" % len(handles), varint(len(data)) + varint(len(content))))
        data += sealed(content, kind, crc)
    index = block(handles, every=1)
    handle = varint(len(data)) + varint(len(index))
    data += sealed(index, 0, None)
    return data + (varint(0) + varint(0) + handle).ljust(40, b"\0") + MAGIC


def sealed(content, kind=0, crc=None):
    content += bytes([kind])
    return content + struct.pack("<I", masked_crc32c(content) if crc is None else crc)


MAGIC = (0xDB4775248B80FB57).to_bytes(8, "little")
HEADER = message((1, 1), (3, message((1, 1))))


@pytest.fixture
def put(tmp_path):
    def write(entries, data=b"", header=HEADER):
        (tmp_path / "m.data-00000-of-00001").write_bytes(data or values(8, 8).tobytes())
        items = [(b"", header), *sorted(entries.items())]
        (tmp_path / "m.index").write_bytes(table(block(items)))
        return tmp_path / "m"

    return write


def check(source, rows):
    assert source.format == "tensorflow"
    assert source.shape == rows.shape
    assert source.vocabulary is None
    assert source.dtype == rows.dtype
    assert np.array_equal(source.read(), rows)
    for begin in range(0, len(rows), max(1, len(rows) // 7)):
        for end in (begin, begin + 1, begin + 5, len(rows)):
            assert np.array_equal(source.read(begin, end), rows[begin:end])


# ---- what TensorFlow wrote ----


@pytest.mark.parametrize(
    ("path", "rows"),
    [
        ("objects", 12),
        ("objects/ckpt-1", 12),
        ("objects/ckpt-1.index", 12),
        ("keras/weights", 6),
        ("saved_model", 12),
        ("saved_model/variables", 12),
    ],
)
def test_the_embedding_is_found(path, rows):
    source = formats.open(HERE / path)
    check(source, values(rows, 4))
    assert source.partition is None
    assert "embeddings" in source.metadata["tensor"]
    assert not source.read().flags.writeable


def test_a_directory_that_was_moved(tmp_path):
    for file in (HERE / "slices").iterdir():
        shutil.copy(file, tmp_path)
    (tmp_path / "checkpoint").write_text(
        'model_checkpoint_path: "/some\\\\where/model.ckpt-30"\nall_model_checkpoint_paths: "x"\n'
    )
    check(formats.open(tmp_path), values(10, 4))
    (tmp_path / "checkpoint").write_text('model_checkpoint_path: "gone"')
    with pytest.raises(FormatError, match="directory"):
        formats.open(tmp_path)


@pytest.mark.parametrize(
    "name", ["layer/kernel", "kernel", "layer/kernel/.ATTRIBUTES/VARIABLE_VALUE"]
)
def test_a_variable_by_name(name):
    source = formats.open(HERE / "objects", tensor=name)
    check(source, values(4, 3))
    assert source.metadata == {"tensor": "layer/kernel"}


def test_no_such_variable():
    with pytest.raises(OptionError, match=r"as 'x', got none among the \d+ variables"):
        formats.open(HERE / "objects", tensor="x")
    with pytest.raises(OptionError, match=r"got 40: .*, \.\.\.; name one with tensor="):
        formats.open(HERE / "parts/model", tensor="bias")
    with pytest.raises(FormatError, match=r"got 3: holed \(float32 \[4, 3\] in 2 pieces\), table"):
        formats.open(HERE / "parts/model")


def test_slices_are_the_cut():
    source = formats.open(HERE / "slices/model.ckpt-30")
    check(source, values(10, 4))
    assert source.partition == Partition.ranges([0, 4, 7, 10])
    source = formats.open(HERE / "slices/model.ckpt-30", partition="div")
    check(source, values(10, 4))
    assert source.partition == Partition.div(10, 3)
    slots = formats.open(HERE / "slices/model.ckpt-30", tensor="Adagrad")
    assert slots.partition == Partition.ranges([0, 4, 7, 10])


def test_slices_dealt_out():
    source = formats.open(HERE / "slices/model.ckpt-30", partition="mod")
    assert source.partition == Partition.mod(10, 3)
    rows = values(10, 4)
    check(source, rows[[0, 4, 7, 1, 5, 8, 2, 6, 9, 3]])


def test_slices_in_several_files():
    source = formats.open(HERE / "sharded/model")
    check(source, values(1001, 2))
    assert source.partition == Partition.ranges([0, 70, 500, 1001])
    with pytest.raises(PartitionError, match=r"model.index: variable 'embed': expected shards of"):
        formats.open(HERE / "sharded/model", partition="div")


def test_a_data_file_is_missing(tmp_path):
    for file in (HERE / "sharded").iterdir():
        shutil.copy(file, tmp_path)
    (tmp_path / "model.data-00001-of-00003").unlink()
    with pytest.raises(FormatError, match=r"data-00001-of-00003 beside the index"):
        formats.open(tmp_path / "model")
    (tmp_path / "model.index").rename(tmp_path / "other")
    with pytest.raises(FormatError, match=r'ends with "\.index"'):
        formats.open(tmp_path / "other")


def test_odd_slices():
    path = HERE / "odd_slices/model"
    check(formats.open(path, tensor="whole"), values(3, 2))
    source = formats.open(path, tensor="both")
    check(source, values(4, 6))
    assert source.partition == Partition.ranges([0, 2, 4])
    for name, what in (
        ("columns", "cut the rows alone"),
        ("hole", "begins with row 3"),
        ("overlap", "begins with row 3"),
    ):
        with pytest.raises(FormatError, match=what):
            formats.open(path, tensor=name)


def test_parts():
    path = HERE / "parts/model"
    rows = np.concatenate([values(4, 4), values(3, 4, first=4), values(3, 4, first=8)])
    source = formats.open(path, tensor="table")
    check(source, rows)
    assert source.partition == Partition.ranges([0, 4, 7, 10])
    source = formats.open(path, tensor="table", partition="mod")
    check(source, rows[[0, 4, 7, 1, 5, 8, 2, 6, 9, 3]])
    check(formats.open(path, tensor="table/part_1", partition="mod"), rows[4:7])
    with pytest.raises(FormatError, match=r"got the numbers \[0, 2\]"):
        formats.open(path, tensor="holed")
    with pytest.raises(PartitionError, match="expected shards of"):
        formats.open(path, tensor="uneven", partition="div")
    check(formats.open(path, tensor="uneven"), values(6, 2))


@pytest.mark.parametrize("name", DTYPES)
def test_dtypes(name):
    dtype = np.dtype(getattr(ml_dtypes, name, name))
    source = formats.open(HERE / "dtypes/model", tensor=name)
    check(source, values(5, 3).astype(dtype))


def test_other_shapes():
    path = HERE / "dtypes/model"
    check(formats.open(path, tensor="cube"), values(3, 2, 2))
    check(formats.open(path, tensor="empty"), np.zeros((0, 4), np.float32))
    for name in ("scalar", "strings"):
        with pytest.raises(FormatError, match=name):
            formats.open(path, tensor=name)


def test_options():
    path = HERE / "slices/model.ckpt-30"
    source = formats.open(path, limit=5, dim=4)
    check(source, values(5, 4))
    assert source.partition is None
    check(formats.open(path, limit=99), values(10, 4))
    with pytest.raises(FormatError, match=r"dim=5\), got variable 'words/embedding'"):
        formats.open(path, dim=5)
    with pytest.raises(OptionError, match="expected no tokens= for tensorflow"):
        formats.open(path, tokens="words")
    with pytest.raises(OptionError, match="expected no unknown= for a file without tokens"):
        formats.open(path, unknown="<unk>")
    with pytest.raises(OptionError, match="expected partition"):
        formats.open(path, partition="ranges")


# ---- what this file writes ----


def test_many_blocks_and_names(tmp_path):
    names = [b"n\0\xff/%04d" % number for number in range(300)]
    blocks = [block([(b"", HEADER)])]
    for begin in range(0, 300, 70):
        items = [(name, entry((1, 2), offset=8 * i)) for i, name in enumerate(names)]
        blocks.append(block(items[begin : begin + 70]))
    (tmp_path / "m.index").write_bytes(table(*blocks))
    (tmp_path / "m.data-00000-of-00001").write_bytes(values(300, 2).tobytes())
    assert len(read_table(map_file(tmp_path / "m.index"))) == 301
    check(formats.open(tmp_path / "m", tensor="0123"), values(300, 2)[123:124])


def test_checksum():
    assert masked_crc32c(b"123456789") == ((0xE3069283 >> 15 | 0xE3069283 << 17) + 0xA282EAD8) % (
        1 << 32
    )


@pytest.mark.parametrize(
    ("extents", "key"),
    [  # as TensorFlow wrote them
        (((0, 4), (0, 4)), "80848084"),
        (((0, -1), (3, 3)), "807f8383"),
        (((500, 501), (0, -1)), "c1f4c1f5807f"),
    ],
)
def test_slice_keys(extents, key):
    start = b"\0name\0\x01\x01\x02"
    assert slice_key(b"name", extents) == start + bytes.fromhex(key)
    assert slice_key(b"\0\xff\x01", ())[:9] == b"\0\0\xff\xff\0\x01\0\x01\0"


def test_big_endian(put):
    header = message((1, 1), (2, 1))
    path = put({b"a": entry((4, 4))}, values(4, 4).astype(">f4").tobytes(), header)
    source = formats.open(path)
    assert source.dtype == np.dtype(">f4")
    assert np.array_equal(source.read(), values(4, 4))
    with pytest.raises(FormatError, match="big-endian"):
        formats.open(put({b"a": entry((4, 4), dtype=14, size=32)}, header=header))


def test_values_that_are_not_aligned(put):
    path = put({b"a": entry((4, 4), offset=3)}, b"xyz" + values(4, 4).tobytes())
    source = formats.open(path)
    check(source, values(4, 4))
    assert source.read().flags.aligned


def test_booleans_are_checked(put):
    source = formats.open(put({b"a": entry((4, 4), dtype=10, size=16)}, bytes([0, 1] * 7 + [2, 1])))
    assert source.read(0, 3).sum() == 6
    with pytest.raises(FormatError, match="booleans"):
        source.read()


def test_slots_are_no_candidates(put):
    names = (b"a", b"a/Adam", b"a/Adam_1", b"b/.OPTIMIZER_SLOT/o/m", b"optimizer/embedding")
    check(formats.open(put({name: entry((4, 4)) for name in names})), values(4, 4))


CUTS = (((0, 4), (0, 4)), ((4, 4), (0, 4)))
WHOLE = entry((8, 4), size=0, slices=CUTS)
PIECES = {
    slice_key(b"a", CUTS[0]): entry((4, 4)),
    slice_key(b"a", CUTS[1]): entry((4, 4), offset=64),
}


@pytest.mark.parametrize(
    ("entries", "what"),
    [
        ({}, "got none among the 0 variables: nothing"),
        ({b"a": entry((4, 4), size=60)}, "expected 64 bytes, got an entry for 60"),
        ({b"a": entry((4, 4), offset=193)}, "got a file of 256 bytes"),
        ({b"a": entry((4, 4), offset=-1)}, "at byte -1"),
        ({b"a": entry((4, 4), shard=1)}, "data file from 0 to 0, got 1"),
        ({b"a": entry((4, 4), shard=-1)}, "data file from 0 to 0, got -1"),
        ({b"a": entry((1 << 31, 1 << 31), size=0)}, "a shape that an array can have"),
        ({b"a": entry((-1, 4), size=0)}, "a shape that an array can have"),
        ({b"a": entry((1,) * 33)}, "a shape that an array can have"),
        ({b"a": entry((1 << 50, 4), size=1 << 54)}, "got a file of 256 bytes"),
        ({b"a": message((1, b"x"))}, "expected a number"),
        ({b"a": message((2, 5))}, "expected a message"),
        ({b"a": message((2, message((2, 5))))}, "expected a message"),
        ({b"a": message((7, 5))}, "expected a message"),
        ({b"a": b"\x0b"}, "a field of a known kind"),
        ({b"a": b"\x12\x05a"}, "a field of 5 bytes, got 1"),
        ({b"a": b"\x0d\0"}, "a field of 4 bytes, got 1"),
        ({b"a": b"\x08" + b"\xff" * 9 + b"\x02"}, "at most 64 bits"),
        ({b"a": b"\x08" + b"\xff" * 10 + b"\x01"}, "at most 64 bits"),
        ({b"a": b"\x08\xff"}, "at most 64 bits"),
        ({b"a": WHOLE}, "expected an entry for its slice"),
        ({b"a": WHOLE, **PIECES, slice_key(b"a", CUTS[1]): entry((3, 4))}, "expected 4 rows"),
        ({b"a": entry((9, 4), slices=CUTS), **PIECES}, "up to row 9"),
        ({b"a": entry((7, 4), slices=CUTS), **PIECES}, "begins with row 4"),
        ({b"a": entry((8, 4), slices=(CUTS[0], CUTS[0])), **PIECES}, "begins with row 4"),
        ({b"a": entry((8, 4), slices=(CUTS[0][:1],)), **PIECES}, "cut the rows alone"),
        ({b"a/part_0": entry((4, 4)), b"a/part_1": entry((4, 3))}, "parts as the first"),
        ({b"a/part_0": entry((4, 4)), b"a/part_1": entry((4, 4), dtype=3)}, "parts as the first"),
        ({b"a/part_1": entry((4, 4))}, r"got the numbers \[1\]"),
        ({b"a/part_%d" % k: entry((8, 8)) for k in range(3)}, "overlap"),
    ],
)
def test_broken_entries(put, entries, what):
    with pytest.raises(FormatError, match=what):
        formats.open(put(entries))


def test_slices_that_are_whole(put):
    source = formats.open(put({b"a": WHOLE, **PIECES}))
    check(source, values(8, 4))
    assert source.partition == Partition.ranges([0, 4, 8])


@pytest.mark.parametrize(
    ("header", "what"),
    [
        (b"", "at least 1 data file"),
        (message((1, 0)), "got 0 files"),
        (message((1, b"saved slices")), "of version 1 has to be saved again"),
        (message((1, 1), (2, 2)), "byte order 2"),
        (message((1, 1), (3, message((2, 2)))), "version 2"),
    ],
)
def test_broken_headers(put, header, what):
    with pytest.raises(FormatError, match=what):
        formats.open(put({b"a": entry((4, 4))}, header=header))


LONG_KEYS = b"\0\x50\0" + b"a" * 80 + b"".join(b"\x50\x01\0%c" % k for k in range(1, 100))
GOOD = [(b"", HEADER), (b"a", entry((4, 4)))]


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (table(block(GOOD), kind=1), "got Snappy"),
        (table(block(GOOD), kind=9), "got kind 9"),
        (table(block(GOOD), crc=5), "to have the checksum 0x00000005"),
        (table(block(GOOD[::-1])), "ascending order"),
        (table(block(GOOD), block(GOOD)), "ascending order"),
        (table(block(GOOD[1:])), 'a header under the key ""'),
        (table(b""), "expected 0 restarts, got a block of 0 bytes"),
        (table(b"\xff\xff\xff\xff"), "expected 4294967295 restarts"),
        (table(b"\x01\0\0" + bytes(4)), "that fits in its block"),
        (table(b"\0\x05\0abc" + bytes(4)), "that fits in its block"),
        (table(b"\0\x01\x09abc" + bytes(4)), "that fits in its block"),
        (table(LONG_KEYS + bytes(4)), "that fits in its block"),
        (bytes(40) + MAGIC, "expected a block"),
        (b"\xff" * 40 + MAGIC, "at most 64 bits"),
        ((b"\0\0" + varint(9) + varint(9)).ljust(40, b"\0") + MAGIC, "expected a block"),
    ],
)
def test_broken_tables(tmp_path, content, what):
    path = tmp_path / "m.index"
    path.write_bytes(content)
    with pytest.raises(FormatError, match=what):
        formats.open(path)


def test_a_block_is_read_once(tmp_path):
    content = block(GOOD)
    handle = varint(0) + varint(len(content))
    index = block([(b"%d" % k, handle) for k in range(3)], every=1)
    data = sealed(content)
    footer = (b"\0\0" + varint(len(data)) + varint(len(index))).ljust(40, b"\0") + MAGIC
    (tmp_path / "m.index").write_bytes(data + sealed(index) + footer)
    with pytest.raises(FormatError, match="expected a block"):
        formats.open(tmp_path / "m.index")


def tried(path, **options):
    """Open and read; a broken file may say so, and nothing else may happen."""
    try:
        source = formats.open(path, format="tensorflow", **options)
        assert len(source.read()) == source.shape[0] <= 1001
    except FormatError as error:
        return error
    return None


@pytest.mark.parametrize("name", ["slices/model.ckpt-30", "odd_slices/model"])
def test_a_cut_index(tmp_path, name):
    shutil.copy(HERE / f"{name}.data-00000-of-00001", tmp_path / "m.data-00000-of-00001")
    content = (HERE / f"{name}.index").read_bytes()
    for size in range(1, len(content)):
        (tmp_path / "m.index").write_bytes(content[:size])
        assert tried(tmp_path / "m.index") is not None


def test_cut_data(tmp_path):
    name = HERE / "slices/model.ckpt-30"
    shutil.copy(f"{name}.index", tmp_path / "m.index")
    content = Path(f"{name}.data-00000-of-00001").read_bytes()
    for size in range(160):
        (tmp_path / "m.data-00000-of-00001").write_bytes(content[:size])
        assert tried(tmp_path / "m.index", tensor="words/embedding") is not None


@pytest.mark.parametrize("name", ["slices/model.ckpt-30", "odd_slices/model"])
def test_changed_bytes_are_found(tmp_path, name):
    shutil.copy(HERE / f"{name}.data-00000-of-00001", tmp_path / "m.data-00000-of-00001")
    content = (HERE / f"{name}.index").read_bytes()
    for position in range(len(content)):
        changed = bytearray(content)
        changed[position] ^= 0x55
        (tmp_path / "m.index").write_bytes(changed)
        tried(tmp_path / "m.index")


@FILES
@given(
    st.lists(st.tuples(st.integers(0, 700), st.integers(0, 255)), min_size=1, max_size=4),
    st.sampled_from(["slices/model.ckpt-30", "objects/ckpt-1"]),
)
def test_changed_blocks_with_right_checksums(tmp_path, changes, name):
    shutil.copy(HERE / f"{name}.data-00000-of-00001", tmp_path / "m.data-00000-of-00001")
    items = list(read_table(map_file(HERE / f"{name}.index")).items())
    content = bytearray(block(items))
    for position, byte in changes:
        content[position % len(content)] = byte
    (tmp_path / "m.index").write_bytes(table(bytes(content)))
    tried(tmp_path / "m.index")
