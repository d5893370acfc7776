import json
import os
import struct
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.numpy import load_file
from stored import (
    DTYPES,
    MANIFEST,
    assert_same,
    dtype_of,
    files_of,
    make_array,
    manifest_of,
    rows_of,
    split_file,
    write,
)

from shardwise import (
    Partition,
    StoreError,
    Table,
    TableExistsError,
    TableNotFoundError,
    Vectors,
    Vocabulary,
)
from shardwise.store import open_table, write_table

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
