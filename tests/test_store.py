import builtins
import json
import os
import struct
import subprocess
import sys
import threading
import time
import tracemalloc
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.numpy import load_file

from shardwise import (
    OptionError,
    Partition,
    ShardwiseError,
    StoreError,
    Table,
    TableError,
    TableExistsError,
    TableNotFoundError,
    Vectors,
    Vocabulary,
)
from shardwise.store import open_table, write_blocks, write_table

DTYPES = [
    *("bool", "uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64"),
    *("float16", "bfloat16", "float32", "float64", "float8_e4m3fn", "float8_e5m2"),
]
MANIFEST = "shardwise.json"


def dtype_of(name):
    return np.dtype(getattr(ml_dtypes, name, name))


def make_array(shape, dtype="float32", seed=0):
    """Rows of random bits: every one of them has to come back."""
    dtype = dtype_of(dtype)
    raw = np.random.default_rng(seed).bytes(int(np.prod(shape)) * dtype.itemsize)
    bits = np.frombuffer(raw, np.uint8)
    return (bits & 1 if dtype.kind == "b" else bits).view(dtype).reshape(shape)


def rows_of(table):
    return table.lookup(np.arange(len(table)))


def assert_same(table, array):
    found = rows_of(table)
    assert (found.shape, found.dtype) == (array.shape, array.dtype)
    assert found.tobytes() == array.tobytes()


def manifest_of(path):
    return json.loads(Path(path, MANIFEST).read_text())


def files_of(path):
    """Names and contents of a directory, None where there is none."""
    if not Path(path).exists():
        return None
    return {file.name: file.read_bytes() for file in Path(path).iterdir()}


def split_file(path):
    """Return (header, where the data begins, data) of a safetensors file, by the book."""
    content = Path(path).read_bytes()
    length = int.from_bytes(content[:8], "little")
    return json.loads(content[8 : 8 + length]), 8 + length, content[8 + length :]


def write(path, array, **options):
    """Write an array in blocks of at most two rows."""
    options = {"dtype": array.dtype, "partition": Partition.mod(len(array), 2)} | options
    blocks = options.pop("blocks", [array[i : i + 2] for i in range(0, len(array), 2)])
    write_blocks(path, blocks, shape=array.shape, **options)


# --- what is written comes back


@pytest.mark.parametrize("row", [(), (3,), (2, 3)], ids=["rank1", "rank2", "rank3"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_every_dtype_and_rank(tmp_path, dtype, row):
    array = make_array((7, *row), dtype)
    Table.from_array(array, shards=3).save(tmp_path / "t")
    table = Table.open(tmp_path / "t")
    assert_same(table, array)
    assert table.partition == Partition.mod(7, 3)
    assert manifest_of(tmp_path / "t")["dtype"] == dtype


@pytest.mark.parametrize(
    "partition",
    [
        Partition.mod(5, 1),
        Partition.mod(5, 9),
        Partition.div(5, 2),
        Partition.div(5, 7),
        Partition.ranges([0, 0, 4, 5, 5]),
    ],
    ids=str,
)
def test_partitions(tmp_path, partition):
    array = make_array((5, 4))
    table = Table.from_array(array, partition=partition)
    table.save(tmp_path / "t")
    found = Table.open(tmp_path / "t")
    assert_same(found, array)
    assert found.partition == partition
    assert [len(shard) for shard in found.shards] == list(partition.shard_sizes)
    for shard, stored in zip(table.shards, found.shards, strict=True):
        assert np.array_equal(shard.view(np.uint32), stored.view(np.uint32))


@pytest.mark.parametrize("shape", [(0,), (0, 3), (0, 2, 3), (4, 0), (4, 2, 0), (1, 1)], ids=str)
@pytest.mark.parametrize("shards", [1, 3])
def test_tables_of_nothing_and_nearly(tmp_path, shape, shards):
    array = make_array(shape)
    Table.from_array(array, shards).save(tmp_path / "t")
    assert_same(Table.open(tmp_path / "t"), array)


@settings(max_examples=30, deadline=None)
@given(
    st.sampled_from(["mod", "div"]),
    st.integers(0, 40),
    st.integers(1, 12),
    st.integers(1, 9),
    st.sampled_from(DTYPES),
)
def test_any_blocks(tmp_path_factory, strategy, rows, shards, block, dtype):
    path = tmp_path_factory.mktemp("any") / "t"
    array = make_array((rows, 2), dtype, seed=rows)
    partition = Partition(strategy, rows, shards)
    blocks = (array[i : i + block] for i in range(0, rows, block))
    write(path, array, blocks=blocks, partition=partition)
    assert_same(Table.open(path), array)


def test_blocks_are_converted_and_may_lie_in_any_order(tmp_path):
    array = np.arange(12, dtype=">f8").reshape(2, 6).T
    write(tmp_path / "t", array, dtype="bfloat16")
    table = Table.open(tmp_path / "t")
    assert table.dtype == dtype_of("bfloat16")
    assert np.array_equal(rows_of(table).astype(float), array)
    Table.from_array(array, 2).save(tmp_path / "swapped")
    assert Table.open(tmp_path / "swapped").dtype == np.float64
    assert np.array_equal(rows_of(Table.open(tmp_path / "swapped")), array)


@pytest.mark.parametrize("unknown", [None, "<unk>", ""])
@pytest.mark.parametrize("metadata", [None, {}, {"é": [1, None, {"x": 0.5}], "b": "\ud800"}])
def test_vocabulary_and_metadata(tmp_path, unknown, metadata):
    tokens = ["like", "", "a b", "<unk>", "\udcff", "\U0001f408"]
    words = Vocabulary(tokens, unknown=unknown)
    table = Table.from_array(make_array((6, 2)), 2)
    write_table(tmp_path / "t", table, vocabulary=words, metadata=metadata)
    stored = open_table(tmp_path / "t")
    assert stored.vocabulary == words
    assert stored.vocabulary.unknown == unknown
    assert list(stored.vocabulary) == tokens
    assert stored.manifest.metadata == (metadata or {})
    assert_same(stored.table, make_array((6, 2)))
    assert Table.open(tmp_path / "t").shape == (6, 2)


def test_a_vocabulary_of_nothing(tmp_path):
    table = Table.from_array(make_array((0, 2)))
    write_table(tmp_path / "t", table, vocabulary=Vocabulary([]))
    assert len(open_table(tmp_path / "t").vocabulary) == 0


# --- what the files are


@pytest.mark.parametrize("dtype", DTYPES)
def test_other_programs_read_the_files(tmp_path, dtype):
    array = make_array((7, 3), dtype)
    words = Vocabulary([f"w{i}" for i in range(7)])
    table = Table.from_array(array, 3, "div")
    write_table(tmp_path / "t", table, vocabulary=words)
    manifest = manifest_of(tmp_path / "t")
    for entry, shard in zip(manifest["shards"], table.shards, strict=True):
        header, begin, data = split_file(tmp_path / "t" / entry["file"])
        assert begin % 4096 == 0
        assert data == shard.tobytes()
        assert header["weight"]["shape"] == list(shard.shape)
        with safe_open(tmp_path / "t" / entry["file"], framework="np") as file:
            assert list(file.keys()) == ["weight"]
            if not dtype.startswith(("bfloat", "float8")):  # these it hands to torch alone
                found = file.get_tensor("weight")
                assert found.dtype == shard.dtype
                assert found.tobytes() == shard.tobytes()
    tokens = load_file(tmp_path / "t" / manifest["vocabulary"]["file"])
    assert tokens["tokens"].tobytes() == b"w0w1w2w3w4w5w6"
    assert tokens["offsets"].tolist() == list(range(0, 16, 2))
    assert split_file(tmp_path / "t" / manifest["vocabulary"]["file"])[1] % 4096 == 0


def test_checksums_and_sizes(tmp_path):
    table = Table.from_array(make_array((50, 5)), 4)
    write_table(tmp_path / "t", table, vocabulary=Vocabulary(map(str, range(50))))
    manifest = manifest_of(tmp_path / "t")
    entries = [*manifest["shards"], manifest["vocabulary"]]
    assert {entry["file"] for entry in entries} | {MANIFEST} == set(files_of(tmp_path / "t"))
    for entry in entries:
        content = (tmp_path / "t" / entry["file"]).read_bytes()
        assert entry["bytes"] == len(content)
        assert entry["xxh128"] == xxhash.xxh3_128(content).hexdigest()


GOLDEN_MANIFEST = """\
{
 "format": "shardwise",
 "version": 1,
 "generation": 1,
 "shape": [
  3,
  2
 ],
 "dtype": "float32",
 "row_format": "float32",
 "partition": {
  "strategy": "mod",
  "num_rows": 3,
  "num_shards": 2
 },
 "shards": [
  {
   "file": "weight-00000-of-00002.safetensors",
   "rows": 2,
   "bytes": 4112,
   "xxh128": "d634f901210d1952eb364914751c0b63"
  },
  {
   "file": "weight-00001-of-00002.safetensors",
   "rows": 1,
   "bytes": 4104,
   "xxh128": "f33e34307821f35d8c857fda20d8800e"
  }
 ],
 "vocabulary": {
  "file": "vocabulary.safetensors",
  "bytes": 4195,
  "xxh128": "d258d3c91cd22558fac3247a03b44c34",
  "unknown_id": 0
 },
 "optimizer": null,
 "metadata": {
  "made": "by hand"
 }
}
"""


def test_the_format_does_not_drift(tmp_path):
    table = Table.from_array(np.array([[1, 2], [3, 4], [5, 6]], np.float32), 2)
    words = Vocabulary(["<>", "a", ""], unknown="<>")
    write_table(tmp_path / "t", table, vocabulary=words, metadata={"made": "by hand"})
    files = files_of(tmp_path / "t")
    assert files.pop(MANIFEST).decode() == GOLDEN_MANIFEST
    start = '{"__metadata__":{"format":"np","writer":"shardwise"},'
    weight = start + '"weight":{"dtype":"F32","shape":[%d,2],"data_offsets":[0,%d]}}'
    policy = r'"vocabulary":"{\"unknown\":{\"token\":0}}"'
    tokens = (
        start.replace("},", f",{policy}}},")
        + '"slots":{"dtype":"U64","shape":[8],"data_offsets":[0,64]},'
        '"offsets":{"dtype":"I64","shape":[4],"data_offsets":[64,96]},'
        '"tokens":{"dtype":"U8","shape":[3],"data_offsets":[96,99]}}'
    )
    length = struct.pack("<Q", 4088)
    assert files.pop("weight-00000-of-00002.safetensors") == (
        length + (weight % (2, 16)).ljust(4088).encode() + struct.pack("<4f", 1, 2, 5, 6)
    )
    assert files.pop("weight-00001-of-00002.safetensors") == (
        length + (weight % (1, 8)).ljust(4088).encode() + struct.pack("<2f", 3, 4)
    )
    slots = bytes.fromhex(
        "0000000000000000010000000000128003000000000046ef0200000000004ed2"
        "0000000000000000000000000000000000000000000000000000000000000000"
    )
    assert files.pop("vocabulary.safetensors") == (
        length + tokens.ljust(4088).encode() + slots + struct.pack("<4q", 0, 2, 3, 3) + b"<>a"
    )
    assert not files


def test_long_headers_take_more_pages(tmp_path):
    # A made-up file, as another program may write it: no padding, and a long comment.
    for comment in ("", "x" * 5000):
        write(tmp_path / "t", make_array((4, 2)), overwrite=True)
        manifest = manifest_of(tmp_path / "t")
        for entry in manifest["shards"]:
            header, _, data = split_file(tmp_path / "t" / entry["file"])
            text = json.dumps({**header, "__metadata__": {"comment": comment}}).encode()
            content = struct.pack("<Q", len(text)) + text + data
            (tmp_path / "t" / entry["file"]).write_bytes(content)
            entry["bytes"] = len(content)
        (tmp_path / "t" / MANIFEST).write_text(json.dumps(manifest))
        assert_same(Table.open(tmp_path / "t"), make_array((4, 2)))


# --- opening maps


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_opening_reads_nothing(tmp_path):
    rows, width = 1 << 21, 256  # 2 GiB, all of it a hole but the last row
    path = tmp_path / "big"
    path.mkdir()
    name = "weight-00000-of-00001.safetensors"
    header = json.dumps(
        {"weight": {"dtype": "F32", "shape": [rows, width], "data_offsets": [0, rows * width * 4]}}
    )
    last = np.arange(width, dtype=np.float32)
    size = 4096 + rows * width * 4
    with open(path / name, "wb") as file:
        file.write(struct.pack("<Q", 4088) + header.ljust(4088).encode())
        file.seek(size - last.nbytes)
        file.write(last.tobytes())
    manifest = {
        "format": "shardwise",
        "version": 1,
        "generation": 1,
        "shape": [rows, width],
        "dtype": "float32",
        "partition": {"strategy": "mod", "num_rows": rows, "num_shards": 1},
        "shards": [{"file": name, "rows": rows, "bytes": size, "xxh128": "0" * 32}],
    }
    (path / MANIFEST).write_text(json.dumps(manifest))

    def resident():
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    before, begin = resident(), time.perf_counter()
    table = Table.open(path)
    seconds, grown = time.perf_counter() - begin, resident() - before
    assert seconds < 1
    assert grown < 16 << 20
    assert np.array_equal(table.lookup(rows - 1), last)
    assert not table.lookup([0, rows // 2]).any()
    assert table.describe()["shards"][0]["mapped"]


def test_mapped_arrays_are_read_only(tmp_path):
    write(tmp_path / "t", make_array((4, 2)))
    table = Table.open(tmp_path / "t")
    assert not any(shard.flags.writeable for shard in table.shards)
    with pytest.raises(ValueError, match="read-only"):
        table.shards[0][0] = 0
    with pytest.raises(ValueError, match="WRITEABLE"):
        table.shards[0].flags.writeable = True
    rows = table.lookup([0])
    rows[:] = 0  # the result is the caller's
    assert_same(Table.open(tmp_path / "t"), make_array((4, 2)))


# --- one table after another


def test_a_table_is_not_overwritten_unasked(tmp_path):
    write(tmp_path / "t", make_array((4, 2)))
    before = files_of(tmp_path / "t")
    with pytest.raises(TableExistsError, match=r"got one of 4 rows.*overwrite=True") as caught:
        write(tmp_path / "t", make_array((6, 2)))
    assert isinstance(caught.value, FileExistsError)
    assert files_of(tmp_path / "t") == before


def test_overwriting_keeps_readers_and_removes_old_files(tmp_path):
    path = tmp_path / "t"
    old, new = make_array((9, 2)), make_array((5, 3), "float16")
    words = Vocabulary(list("abcdefghi"))
    write(path, old, partition=Partition.mod(9, 4), vocabulary=words)
    reader = Vectors.open(path)
    write(path, new, partition=Partition.div(5, 2), overwrite=True)
    assert_same(reader.table, old)
    assert reader.vocabulary == words
    assert_same(Table.open(path), new)
    manifest = manifest_of(path)
    assert manifest["generation"] == 2
    assert manifest["vocabulary"] is None
    assert set(files_of(path)) == {MANIFEST, *(entry["file"] for entry in manifest["shards"])}
    write(path, old, overwrite=True)
    assert manifest_of(path)["generation"] == 3
    assert len(files_of(path)) == 3
    assert_same(reader.table, old)


def test_a_table_is_saved_onto_itself(tmp_path):
    array = make_array((20, 3))
    write(tmp_path / "t", array)
    table = Table.open(tmp_path / "t")
    for generation in (2, 3):
        table.save(tmp_path / "t", overwrite=True, metadata={"again": generation})
        assert_same(table, array)
        table = Table.open(tmp_path / "t")
        assert_same(table, array)
        assert manifest_of(tmp_path / "t")["generation"] == generation


def test_what_else_lies_in_a_table_is_left_alone(tmp_path):
    write(tmp_path / "t", make_array((4, 2)))
    (tmp_path / "t" / "README").write_text("mine")
    (tmp_path / "t" / "weights.safetensors").write_text("mine too")
    write(tmp_path / "t", make_array((4, 2)), overwrite=True)
    assert files_of(tmp_path / "t")["README"] == b"mine"
    assert files_of(tmp_path / "t")["weights.safetensors"] == b"mine too"
    assert_same(Table.open(tmp_path / "t"), make_array((4, 2)))


def test_readers_while_a_table_is_replaced(tmp_path):
    path = tmp_path / "t"

    def put(value):
        table = Table.from_array(np.full((10 + value, 2), value, np.int32), 1 + value % 3)
        table.save(path, overwrite=True, metadata={"value": value})

    put(0)
    writer = threading.Thread(target=lambda: [put(value) for value in range(1, 21)])
    writer.start()
    seen = 0
    while writer.is_alive():
        stored = open_table(path)
        value = stored.manifest.metadata["value"]
        assert value >= seen
        assert np.array_equal(rows_of(stored.table), np.full((10 + value, 2), value))
        seen = value
    writer.join()
    assert open_table(path).manifest.metadata == {"value": 20}


# --- failures leave what was there


def raising(error):
    def generate(array):
        yield array[:2]
        raise error

    return generate


def stop(done, total):
    raise KeyboardInterrupt


FAILURES = {
    "an error in the blocks": ({"blocks": raising(OSError("gone"))}, OSError),
    "Ctrl-C in the blocks": ({"blocks": raising(KeyboardInterrupt())}, KeyboardInterrupt),
    "Ctrl-C in progress": ({"progress": stop}, KeyboardInterrupt),
    "too few rows": ({"blocks": lambda a: [a[:3]]}, TableError),
    "no rows": ({"blocks": lambda a: []}, TableError),
    "too many rows": ({"blocks": lambda a: [a, a[:1]]}, TableError),
    "rows too wide": ({"blocks": lambda a: [a[:2], np.ones((2, 3))]}, TableError),
    "rows of another rank": ({"blocks": lambda a: [a.ravel()]}, TableError),
    "another partition": ({"partition": Partition.mod(9, 2)}, TableError),
    "too many tokens": ({"vocabulary": Vocabulary([*"abcdefg"])}, TableError),
    "no dtype": ({"dtype": "object"}, StoreError),
    "a dtype in NumPy's small language": ({"dtype": "(1e,)f4"}, StoreError),
    "a dtype in no language": ({"dtype": "\ud800"}, StoreError),
    "no form on disk": ({"dtype": "complex64"}, StoreError),
    "fractions cut off": ({"dtype": "int8"}, OptionError),
    "metadata of no JSON": ({"metadata": {"a": {1, 2}}}, OptionError),
    "metadata not a number": ({"metadata": {"a": float("nan")}}, OptionError),
    "metadata no object": ({"metadata": 3}, OptionError),
}


@pytest.mark.parametrize("name", FAILURES)
def test_a_failure_leaves_what_was_there(tmp_path, name):
    options, error = FAILURES[name]
    array = make_array((6, 2))

    def attempt(path):
        mine = {"blocks": options["blocks"](array)} if "blocks" in options else {}
        with pytest.raises(error):
            write(path, array, overwrite=True, **options | mine)

    attempt(tmp_path / "new")
    assert not (tmp_path / "new").exists()
    (tmp_path / "empty").mkdir()
    attempt(tmp_path / "empty")
    assert files_of(tmp_path / "empty") == {}
    write(tmp_path / "old", make_array((3, 3)))
    before = files_of(tmp_path / "old")
    attempt(tmp_path / "old")
    assert files_of(tmp_path / "old") == before
    assert_same(Table.open(tmp_path / "old"), make_array((3, 3)))


@pytest.mark.parametrize("call", range(1, 40))
def test_a_disk_that_fails_leaves_what_was_there(tmp_path, monkeypatch, call):
    # Every open, sync and rename of a write fails once.
    write(tmp_path / "t", make_array((3, 3)))
    before = files_of(tmp_path / "t")
    calls = 0

    def failing(function):
        def run(*args, **kwargs):
            nonlocal calls
            calls += 1
            if calls == call:
                raise OSError(28, "No space left on device")
            return function(*args, **kwargs)

        return run

    with monkeypatch.context() as patch:
        patch.setattr(builtins, "open", failing(open))
        for name in ("fsync", "replace"):
            patch.setattr(os, name, failing(getattr(os, name)))
        try:
            write(tmp_path / "t", make_array((4, 2)), overwrite=True)
            failed = False
        except OSError:
            failed = True
    assert failed == (call <= calls)
    found = Table.open(tmp_path / "t")
    if failed and manifest_of(tmp_path / "t")["generation"] == 1:
        assert files_of(tmp_path / "t") == before
        assert_same(found, make_array((3, 3)))
    else:  # it failed after the table was put in its place
        assert_same(found, make_array((4, 2)))
    assert len(files_of(tmp_path / "t")) == 3


def run_python(code, *args, **options):
    command = [sys.executable, "-c", code, *map(str, args)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, **options)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_two_writers(tmp_path):
    code = """
import sys, numpy, shardwise
try:
    shardwise.Table.from_array(numpy.ones((2, 2))).save(sys.argv[1], overwrite=True)
except shardwise.StoreError as error:
    print(error)
"""
    array = make_array((4, 2))
    told = []

    def blocks():
        yield array[:2]
        told.append(run_python(code, tmp_path / "t"))
        with pytest.raises(StoreError, match=f"process {os.getpid()}"):  # nor in this process
            write(tmp_path / "t", array, overwrite=True)
        yield array[2:]

    write(tmp_path / "t", array, blocks=blocks())
    assert f"expected no other writer at {tmp_path / 't'}, got process {os.getpid()}" in told[0]
    assert_same(Table.open(tmp_path / "t"), array)
    assert len(files_of(tmp_path / "t")) == 3


def test_what_a_killed_writer_left_is_no_table_and_no_hindrance(tmp_path):
    write(tmp_path / "t", make_array((4, 2)))
    path = tmp_path / "t"
    (path / MANIFEST).rename(path / "shardwise.json.new")
    (path / ".shardwise-writing").write_text("1")
    with pytest.raises(TableNotFoundError, match=r"without shardwise\.json"):
        Table.open(path)
    write(path, make_array((6, 3)), partition=Partition.mod(6, 1))
    assert_same(Table.open(path), make_array((6, 3)))
    assert len(files_of(path)) == 2


# --- other people's files


def test_a_foreign_directory_is_refused(tmp_path):
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter1.tex").write_text("in the beginning")
    (tmp_path / "thesis" / "weight-00000-of-00001.safetensors").write_text("mine")
    before = files_of(tmp_path / "thesis")
    for overwrite in (False, True):
        with pytest.raises(StoreError, match=r"holds 'chapter1\.tex'"):
            write(tmp_path / "thesis", make_array((4, 2)), overwrite=overwrite)
    assert files_of(tmp_path / "thesis") == before


@pytest.mark.parametrize("content", [b"", b"{", b'{"format": "shardwise", "version": 99}'])
def test_a_table_that_cannot_be_read_is_not_replaced(tmp_path, content):
    write(tmp_path / "t", make_array((4, 2)))
    (tmp_path / "t" / MANIFEST).write_bytes(content)
    before = files_of(tmp_path / "t")
    for overwrite in (False, True):
        with pytest.raises(StoreError, match="remove the directory first"):
            write(tmp_path / "t", make_array((4, 2)), overwrite=overwrite)
    assert files_of(tmp_path / "t") == before


@pytest.mark.skipif(not hasattr(os, "O_NOFOLLOW"), reason="no O_NOFOLLOW")
def test_links_are_not_written_through(tmp_path):
    (tmp_path / "precious").write_text("keep me")
    for name in (".shardwise-writing", "shardwise.json.new", "vocabulary.safetensors"):
        path = tmp_path / f"t{name}"
        write(path, make_array((4, 2)))
        (path / name).symlink_to(tmp_path / "precious")
        if name == ".shardwise-writing":
            with pytest.raises(OSError, match="symbolic link"):
                write(path, make_array((6, 2)), overwrite=True)
        else:
            write(path, make_array((6, 2)), overwrite=True)
            assert not (path / name).is_symlink()
        assert (tmp_path / "precious").read_text() == "keep me"
        Table.open(path)


# --- paths


def test_paths(tmp_path, monkeypatch):
    array = make_array((4, 2))
    monkeypatch.chdir(tmp_path)
    for path in (tmp_path / "a", str(tmp_path / "b"), str(tmp_path / "c") + "/", "d", "./d/../e"):
        if path == "./d/../e":
            assert Path("d").is_dir()
        write(path, array)
        assert_same(Table.open(path), array)
        with pytest.raises(TableExistsError):
            write(path, array)
    assert sorted(os.listdir(tmp_path)) == ["a", "b", "c", "d", "e"]
    (tmp_path / "link").symlink_to(tmp_path / "a")
    assert_same(Table.open(tmp_path / "link"), array)
    write(tmp_path / "link", make_array((3, 3)), overwrite=True)
    assert_same(Table.open(tmp_path / "a"), make_array((3, 3)))


def test_paths_where_no_table_can_be(tmp_path):
    array = make_array((4, 2))
    (tmp_path / "file").write_text("text")
    with pytest.raises(TableExistsError, match="got a file; choose another name"):
        write(tmp_path / "file", array, overwrite=True)
    for path in (tmp_path / "none" / "t", tmp_path / "file" / "t"):
        with pytest.raises(TableNotFoundError, match="expected a directory to make"):
            write(path, array)
    assert (tmp_path / "file").read_text() == "text"
    assert sorted(os.listdir(tmp_path)) == ["file"]


def test_paths_where_no_table_is(tmp_path):
    (tmp_path / "file").write_text("text")
    (tmp_path / "empty").mkdir()
    for name, words in (
        ("file", "got a file; .*shardwise convert"),
        ("empty", r"got a directory without shardwise\.json"),
        ("none", "got nothing of that name"),
        ("file/deeper", "got nothing of that name"),
    ):
        with pytest.raises(TableNotFoundError, match=words) as caught:
            Table.open(tmp_path / name)
        assert isinstance(caught.value, FileNotFoundError)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may do anything")
def test_no_permission(tmp_path):
    write(tmp_path / "t", make_array((4, 2)))
    before = files_of(tmp_path / "t")
    (tmp_path / "t").chmod(0o500)
    tmp_path.chmod(0o500)
    try:
        for path in (tmp_path / "new", tmp_path / "t"):
            with pytest.raises(PermissionError):
                write(path, make_array((4, 2)), overwrite=True)
        assert files_of(tmp_path / "t") == before
        assert_same(Table.open(tmp_path / "t"), make_array((4, 2)))
    finally:
        tmp_path.chmod(0o700)
        (tmp_path / "t").chmod(0o700)


# --- hostile files


@pytest.fixture(scope="module")
def victim(tmp_path_factory):
    """A small table with a vocabulary, and what its files hold; `open_changed` puts them back."""
    path = tmp_path_factory.mktemp("victim") / "t"
    words = Vocabulary(["<unk>", "a", "b", "c", "d"], unknown="<unk>")
    write(path, make_array((5, 3)), vocabulary=words)
    return path, files_of(path)


def open_changed(victim, changes):
    """Open and use a table some of whose files are changed; return it, or the error."""
    path, files = victim
    for name, content in changes.items():
        (path / name).write_bytes(content)
    try:
        vectors = Vectors.open(path)
        rows_of(vectors.table)
        vectors.lookup(["a", "nobody", "d"])
        list(vectors.vocabulary)
        return vectors
    except ShardwiseError as error:
        return error
    finally:
        for name in changes:
            (path / name).write_bytes(files[name])


def refused(victim, changes, match):
    error = open_changed(victim, changes)
    assert isinstance(error, StoreError)
    assert error.args[0].count("\n") == 0
    with pytest.raises(StoreError, match=match):
        raise error


NAMES = [
    MANIFEST,
    "weight-00000-of-00002.safetensors",
    "weight-00001-of-00002.safetensors",
    "vocabulary.safetensors",
]
edits = st.lists(
    st.tuples(
        # Mostly where there is meaning: in the first bytes, or in those after the header.
        st.one_of(st.integers(0, 250), st.integers(4096, 4300), st.integers(0, 1 << 20)),
        st.one_of(st.integers(0, 255), st.sampled_from(list(b'0123456789"{}[],:.-eE \\'))),
    ),
    min_size=1,
    max_size=6,
)


@settings(max_examples=400, deadline=None)
@given(st.sampled_from(NAMES), edits)
def test_changed_bytes(victim, name, edits):
    content = bytearray(victim[1][name])
    for position, byte in edits:
        content[position % len(content)] = byte
    open_changed(victim, {name: bytes(content)})


@settings(max_examples=100, deadline=None)
@given(st.sampled_from(NAMES), st.floats(0, 1), st.binary(max_size=20))
def test_cut_and_grown_files(victim, name, share, tail):
    content = victim[1][name]
    changed = content[: int(share * len(content))] + tail
    found = open_changed(victim, {name: changed})
    if name != MANIFEST and len(changed) != len(content):
        assert isinstance(found, StoreError)


VALUES = [
    *(None, True, False, 0, -1, 1, 2, 5, 2**31, 2**62, 2**63, 2**64, 10**400, -(10**400)),
    *(0.5, float("nan"), float("inf"), "", "x", ".", "..", "a\0b", "\ud800", "n" * 300),
    *([], {}, [[]], ["a"], {"a": 1}, [5, 3], [0, 2**62, 2**62], [2**40, 2**40], [1] * 100),
    *("float32", "bfloat16", ">f4", "f4,f4", "(1e,)f4", "ranges", "vocabulary.safetensors"),
]


def places(value, place=()):
    yield place
    items = (
        value.items()
        if isinstance(value, dict)
        else enumerate(value)
        if isinstance(value, list)
        else ()
    )
    for key, inner in items:
        yield from places(inner, (*place, key))


def replaced(value, place, new):
    if not place:
        return new
    copy = value.copy()
    copy[place[0]] = replaced(copy[place[0]], place[1:], new)
    return copy


def without(value, place):
    if len(place) == 1:
        copy = value.copy()
        del copy[place[0]]
        return copy
    return replaced(value, place[:1], without(value[place[0]], place[1:]))


def as_file(header, data, size):
    """A data file of a header, as long as it was."""
    text = json.dumps(header).encode("utf-8", "surrogatepass")
    room = size - 8 - len(data)
    return struct.pack("<Q", room) + text.ljust(room) + data if len(text) <= room else None


@pytest.mark.parametrize("name", [MANIFEST, NAMES[1], NAMES[3]])
def test_every_part_of_the_json_replaced_by_anything(victim, name):
    content = victim[1][name]
    header, data = (json.loads(content), b"") if name == MANIFEST else split_file_of(content)
    tracemalloc.start()
    try:
        for k, place in enumerate(places(header)):
            # A third of the values in each place: neighbours get the others.
            changes = [replaced(header, place, value) for value in VALUES[k % 3 :: 3]]
            for changed in changes + ([without(header, place)] if place else []):
                if name == MANIFEST:
                    file = json.dumps(changed).encode()
                else:
                    file = as_file(changed, data, len(content))
                if file is not None:
                    open_changed(victim, {name: file})
        assert tracemalloc.get_traced_memory()[1] < 32 << 20
    finally:
        tracemalloc.stop()


def split_file_of(content):
    length = int.from_bytes(content[:8], "little")
    return json.loads(content[8 : 8 + length]), content[8 + length :]


@pytest.mark.parametrize(
    "name",
    [
        *("../t/weight-00000-of-00002.safetensors", "/etc/passwd", "..", ".", "", "a/b", "a\\b"),
        *(
            "sub/x.safetensors",
            "/x.safetensors",
            "..safetensors",
            ".safetensors",
            "x\n.safetensors",
        ),
        *("x.safetensors\n", "x\0.safetensors", "\ud800.safetensors", "n" * 300 + ".safetensors"),
        *(MANIFEST, None, 3, ["x.safetensors"]),
    ],
)
def test_names_do_not_lead_out_of_the_directory(victim, name):
    manifest = json.loads(victim[1][MANIFEST])
    for place in (("shards", 0, "file"), ("vocabulary", "file")):
        changed = json.dumps(replaced(manifest, place, name)).encode()
        refused(victim, {MANIFEST: changed}, r"expected the name of a \.safetensors file in this")


@pytest.mark.parametrize(
    ("place", "value", "match"),
    [
        (("format",), "else", '"format": "shardwise"'),
        (("version",), 2, r"version 1 or older at .*, got version 2; upgrade shardwise"),
        (("version",), 10**9, "upgrade shardwise"),
        (("version",), "1", "expected a version from 1"),
        (("shape",), [4, 3], "expected a partition of 4 rows"),
        (
            ("shape",),
            [5, 4],
            r"'weight' of float32 of shape \(3, 4\), got float32 of shape \(3, 3\)",
        ),
        (("shape",), [5, 4000], "to hold 3 rows in at least 48000 bytes, got 3 rows in 4132 bytes"),
        (("shape",), [5, 2], r"expected a tensor 'weight' of float32 of shape \(3, 2\)"),
        (("dtype",), "int32", "expected row_format to be the dtype.* got 'float32' for int32"),
        (("row_format",), "int4", r"'weight' of uint8 of shape \(3, 6\), got float32"),
        (("row_format",), "int2", "expected row_format to be the dtype.* got 'int2'"),
        (("row_format",), ["int8"], "expected row_format to be the dtype"),
        (("dtype",), "f4", "expected the name of a dtype, got 'f4'"),
        (("partition", "num_shards"), 10**12, "expected a list of 1000000000000 shards"),
        (("shards", 0, "bytes"), 5000, "expected 5000 bytes, got 4132"),
        (("shards", 0, "rows"), 2, "to hold 3 rows .* got 2 rows"),
        (("shards", 0, "file"), NAMES[2], "a file of its own"),
        (("shards", 1, "file"), "gone.safetensors", r"expected the file .*gone\.safetensors"),
        (("vocabulary",), [], "expected vocabulary to be an object or null"),
        (("vocabulary", "unknown_id"), 5, "expected unknown_id"),
        (("generation",), 10**300, "expected a generation"),
        (("optimizer",), {"kind": "adam"}, "optimizer to be an object with a family"),
        (("optimizer",), {"family": "adam", "files": []}, "files of the optimizer's state"),
        (("metadata",), [], "metadata"),
    ],
)
def test_manifests_that_say_something_else(victim, place, value, match):
    manifest = replaced(json.loads(victim[1][MANIFEST]), place, value)
    refused(victim, {MANIFEST: json.dumps(manifest).encode()}, match)


def header_with(victim, name, change):
    header, data = split_file_of(victim[1][name])
    change(header)
    return {name: as_file(header, data, len(victim[1][name]))}


@pytest.mark.parametrize(
    ("name", "change", "match"),
    [
        (NAMES[1], lambda h: h["weight"].update(data_offsets=[0, 32]), "to fill its bytes"),
        (NAMES[1], lambda h: h["weight"].update(data_offsets=[4, 40]), "to begin at byte 0"),
        (NAMES[1], lambda h: h["weight"].update(data_offsets=[36, 0]), "to fill its bytes"),
        (NAMES[1], lambda h: h["weight"].update(data_offsets=[-36, 0]), "to fill its bytes"),
        (NAMES[1], lambda h: h["weight"].update(shape=[9]), r"got float32 of shape \(9,\)"),
        (NAMES[1], lambda h: h["weight"].update(shape=[3, 4]), "to fill its bytes"),
        (NAMES[1], lambda h: h["weight"].update(shape=[0, 2**62, 4]), "an array can have"),
        (NAMES[1], lambda h: h["weight"].update(shape=[1] * 60), "an array can have"),
        (NAMES[1], lambda h: h["weight"].update(dtype="I32"), "got int32 of shape"),
        (NAMES[1], lambda h: h["weight"].update(dtype="X9"), "of a known dtype, got 'X9'"),
        (NAMES[1], lambda h: h.update(bias=h.pop("weight")), "expected a tensor 'weight'.*none"),
        (NAMES[1], lambda h: h.update(bias=h["weight"]), "to begin at byte 36"),
        (
            NAMES[1],
            lambda h: h["weight"].update(shape=[3, 2**50], data_offsets=[0, 3 * 2**52]),
            "expected 13510798882111488 bytes of data, got 36",
        ),
        (NAMES[1], lambda h: h.clear(), "expected 0 bytes of data, got 36"),
        (NAMES[3], lambda h: h.pop("tokens"), "bytes of data"),
        (
            NAMES[3],
            lambda h: h.update(tokens=h["offsets"], offsets=h["tokens"]),
            "expected data as a one-dimensional array of uint8",
        ),
        (NAMES[3], lambda h: h.update(renamed=h.pop("slots")), "expected a tensor 'slots'"),
    ],
)
def test_headers_that_say_something_else(victim, name, change, match):
    refused(victim, header_with(victim, name, change), match)


def test_overlapping_tensors_are_refused(victim):
    # Two tensors that share bytes, of sizes that add up to those of the file.
    def change(header):
        header["slots"]["data_offsets"] = [8, 8 + 8 * header["slots"]["shape"][0]]

    refused(victim, header_with(victim, NAMES[3], change), "to begin at byte")


@pytest.mark.parametrize(
    "length", [0, 1, 2, 4087, 4089, 5000, 2**31, 2**63, 2**64 - 1], ids=lambda n: f"{n:#x}"
)
def test_header_lengths(victim, length):
    content = victim[1][NAMES[1]]
    refused(victim, {NAMES[1]: struct.pack("<Q", length) + content[8:]}, "is broken: expected")


@pytest.mark.parametrize("name", [MANIFEST, NAMES[1]])
@pytest.mark.parametrize("opening", ["[", '{"a":'])
def test_deep_json(victim, name, opening):
    content = victim[1][name]
    if name == MANIFEST:
        file = opening.encode() * 200_000
    else:
        file = content[:8] + (opening * 4088)[:4088].encode() + content[4096:]
    refused(victim, {name: file}, "is broken: expected")


def test_a_wrong_row_is_not_read_by_a_wrong_unknown_token(victim):
    manifest = replaced(json.loads(victim[1][MANIFEST]), ("vocabulary", "unknown_id"), 2)
    changes = {MANIFEST: json.dumps(manifest).encode()}
    refused(victim, changes, r"expected the unknown_id of the table, 2, got 0")


def test_too_many_tokens_for_the_rows(victim, tmp_path):
    write(tmp_path / "t", make_array((6, 3)), vocabulary=Vocabulary(list("abcdef")))
    content = (tmp_path / "t" / NAMES[3]).read_bytes()
    manifest = json.loads(victim[1][MANIFEST])
    manifest["vocabulary"]["bytes"] = len(content)
    changes = {NAMES[3]: content, MANIFEST: json.dumps(manifest).encode()}
    refused(victim, changes, "expected at most 5 tokens, one a row, got 6")


def test_fewer_tokens_than_rows(tmp_path):
    rows = make_array((5, 3))
    write(tmp_path / "t", rows, vocabulary=Vocabulary(["a", "b"], unknown="b"))
    vectors = Vectors.open(tmp_path / "t")
    assert (len(vectors), len(vectors.table)) == (2, 5)
    assert np.array_equal(vectors.lookup("nobody"), rows[1])
    assert np.array_equal(vectors.table.lookup([4]), rows[4:])
    manifest = replaced(manifest_of(tmp_path / "t"), ("vocabulary", "unknown_id"), 2)
    (tmp_path / "t" / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(StoreError, match="is broken"):  # a row, and no token
        Vectors.open(tmp_path / "t")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes with names")
@pytest.mark.parametrize("make", [os.mkdir, getattr(os, "mkfifo", None)], ids=["folder", "pipe"])
@pytest.mark.parametrize("name", [MANIFEST, NAMES[1]])
def test_what_is_no_file(tmp_path, name, make):
    write(tmp_path / "t", make_array((0, 3)))
    (tmp_path / "t" / name).unlink()
    make(tmp_path / "t" / name)
    manifest = tmp_path / "t" / MANIFEST
    if name != MANIFEST:
        size = (tmp_path / "t" / name).stat().st_size
        manifest.write_text(
            json.dumps(replaced(manifest_of(tmp_path / "t"), ("shards", 0, "bytes"), size))
        )
    with pytest.raises(StoreError, match="expected a regular file"):
        Table.open(tmp_path / "t")


def test_a_missing_file_is_named(tmp_path):
    write(tmp_path / "t", make_array((4, 2)))
    (tmp_path / "t" / NAMES[2]).unlink()
    with pytest.raises(StoreError, match=f"expected the file .*{NAMES[2]}, got none") as caught:
        Table.open(tmp_path / "t")
    assert not isinstance(caught.value, TableNotFoundError)


@pytest.mark.parametrize("rows", [[[1 + 2j]], [["1"]], [[b"x"]]], ids=["complex", "str", "bytes"])
@pytest.mark.parametrize("dtype", ["float32", "int8", "bool"])
def test_rows_that_are_no_real_numbers_are_not_stored_as_such(tmp_path, rows, dtype):
    table = Table.from_array(np.array(rows))
    with pytest.raises(OptionError, match="expected rows of real numbers to store as"):
        write_table(tmp_path / "t", table, dtype=dtype)
    assert not (tmp_path / "t").exists()


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity"])
def test_a_manifest_with_what_json_has_not(tmp_path, number):
    write(tmp_path / "t", make_array((4, 2)))
    manifest = tmp_path / "t" / MANIFEST
    text = manifest.read_text()
    manifest.write_text(text.replace('"metadata": {}', f'"metadata": {{"a": {number}}}'))
    assert manifest.read_text() != text
    with pytest.raises(StoreError, match=f"expected JSON.*{number} is no number of JSON"):
        Table.open(tmp_path / "t", "r+")
