import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from shardwise import (
    OptionError,
    Partition,
    PartitionError,
    StoreError,
    Table,
    TableExistsError,
    TableNotFoundError,
    Vectors,
    Vocabulary,
)
from shardwise.cli import app
from shardwise.store import Manifest, open_table, reshard, verify_table, write_table
from shardwise.store import _deal as deal
from shardwise.store import _files as files
from shardwise.store import _reshard as module
from shardwise.store._verify import forget_checksums

ROWS = np.random.default_rng(0).standard_normal((50, 8)).astype(np.float32)
WORDS = Vocabulary([f"w{i}" for i in range(50)], unknown="w3")


@pytest.fixture
def path(tmp_path):
    write_table(tmp_path / "t", Table.from_array(ROWS, 3), vocabulary=WORDS, metadata={"a": [1]})
    return tmp_path / "t"


def rows_of(path):
    table = Table.open(path, verify=True)
    return table.lookup(np.arange(len(table)))


def contents(path):
    return {file.name: file.read_bytes() for file in Path(path).iterdir()}


def sound(path, shards):
    """Whether all files are as their checksums say, and no other ones are there."""
    found = verify_table(path)
    assert {one.state for one in found} <= {"ok"}
    assert {one.file for one in found} | {"shardwise.json"} == set(os.listdir(path))
    assert sum(one.file.startswith("weight") for one in found) == shards
    return True


# --- every partition to every other


def partitions(rows):
    cuts = st.lists(st.integers(0, rows), max_size=6).map(lambda cut: [0, *sorted(cut), rows])
    return st.one_of(
        st.builds(Partition.mod, st.just(rows), st.integers(1, 9)),
        st.builds(Partition.div, st.just(rows), st.integers(1, 9)),
        cuts.map(Partition.ranges),
    )


SHAPES = st.sampled_from(
    [(0, 3), (1, 2), (2, 2), (7, 0), (13, 3), (40, 5), (41, 1), (23,), (9, 2, 3)]
)


@settings(max_examples=150, deadline=None)
@given(
    SHAPES.flatmap(lambda s: st.tuples(st.just(s), partitions(s[0]), partitions(s[0]))),
    st.sampled_from(["uint8", "float16", "float32", "float64"]),
    st.sampled_from([1, 60, 10**6]),
    st.sampled_from([1, 10**6]),
    st.sampled_from([2, 10**6]),
)
def test_any_partition_to_any_other(tmp_path_factory, cuts, dtype, block, small, held):
    shape, old, new = cuts
    raw = np.random.default_rng(0).integers(0, 100, shape)
    array = raw.astype(dtype)
    place = tmp_path_factory.mktemp("reshard")
    Table.from_array(array, partition=old).save(place / "a")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_BLOCK_BYTES", block)  # of one row, of a few, of all
        patch.setattr(deal, "_SMALL", small)
        patch.setattr(deal, "_KEPT", 100)
        patch.setattr(files, "_HELD", held)
        made = reshard(place / "a", place / "b", partition=new)
    assert made.partition == new
    found = open_table(place / "b")
    assert found.manifest == made
    assert rows_of(place / "b").tobytes() == array.tobytes()
    assert found.table.partition == new
    for k, shard in enumerate(found.table.shards):
        assert shard.tobytes() == array[new.ids_of(k)].tobytes()
    assert sound(place / "b", new.num_shards)


@pytest.mark.parametrize(
    "new", [Partition.div(50, 4), Partition.mod(50, 2), Partition.ranges([0, 0, 7, 50])], ids=str
)
def test_what_stays(path, tmp_path, new):
    before = contents(path)
    reshard(path, tmp_path / "new", partition=new)
    assert contents(path) == before
    stored = open_table(tmp_path / "new")
    assert stored.vocabulary == WORDS
    assert stored.vocabulary.unknown == "w3"
    assert stored.manifest.metadata == {"a": [1]}
    assert stored.manifest.generation == 1
    assert rows_of(tmp_path / "new").tobytes() == ROWS.tobytes()
    assert Vectors.open(tmp_path / "new")["w7"].tobytes() == ROWS[7].tobytes()
    assert contents(tmp_path / "new")["vocabulary.safetensors"] == before["vocabulary.safetensors"]


def test_defaults(path, tmp_path):
    assert reshard(path, tmp_path / "a").partition == Partition.mod(50, 3)
    assert reshard(path, tmp_path / "b", shards=5).partition == Partition.mod(50, 5)
    assert reshard(path, tmp_path / "c", partition="div").partition == Partition.div(50, 3)
    cut = Partition.ranges([0, 20, 50])
    assert reshard(path, tmp_path / "d", partition=cut).partition == cut
    assert reshard(tmp_path / "d", tmp_path / "e").partition == cut
    assert reshard(tmp_path / "d", tmp_path / "f", shards=2).partition == cut
    with pytest.raises(OptionError, match=r"for 3 shards .* Partition\.ranges\(boundaries\)"):
        reshard(tmp_path / "d", tmp_path / "g", shards=3)
    assert not (tmp_path / "g").exists()
    assert reshard(path, tmp_path / "g", metadata={"b": 2}).metadata == {"b": 2}
    assert reshard(path, tmp_path / "h", metadata={}).metadata == {}


def test_fewer_tokens_than_rows(tmp_path):
    write_table(tmp_path / "t", Table.from_array(ROWS), vocabulary=Vocabulary(["a", "b"]))
    reshard(tmp_path / "t", tmp_path / "new", shards=3, partition="div")
    vectors = Vectors.open(tmp_path / "new")
    assert len(vectors) == 2
    assert np.array_equal(vectors.table.lookup(49), ROWS[49])


# --- dtypes


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64", "float32"])
def test_recoding(path, tmp_path, dtype):
    made = reshard(path, tmp_path / "new", shards=2, partition="div", dtype=dtype)
    assert made.dtype == dtype
    wanted = ROWS.astype(getattr(ml_dtypes, dtype, dtype))
    assert rows_of(tmp_path / "new").tobytes() == wanted.tobytes()
    assert sound(tmp_path / "new", 2)


@pytest.mark.parametrize(
    ("dtype", "error", "words"),
    [
        ("int16", OptionError, "expected a dtype of floats"),
        ("complex64", StoreError, "a form on disk"),
        ("float8_e4m3fn", OptionError, r"got 1000\.0 in row 31"),
    ],
)
def test_what_cannot_be_recoded(tmp_path, monkeypatch, dtype, error, words):
    monkeypatch.setattr(module, "_BLOCK_BYTES", 100)
    rows = ROWS.copy()
    rows[31, 2] = 1000
    Table.from_array(rows, 3).save(tmp_path / "t")
    before = contents(tmp_path / "t")
    with pytest.raises(error, match=words):
        reshard(tmp_path / "t", tmp_path / "new", dtype=dtype)
    with pytest.raises(error, match=words):
        reshard(tmp_path / "t", tmp_path / "t", dtype=dtype, overwrite=True)
    assert os.listdir(tmp_path) == ["t"]
    assert contents(tmp_path / "t") == before


# --- one directory, two tables


def test_in_place(path):
    reader = Vectors.open(path)
    for generation, (shards, partition) in enumerate([(4, "div"), (2, "mod"), (1, "div")], 2):
        made = reshard(path, path, shards=shards, partition=partition, overwrite=True)
        assert made.generation == generation
        assert rows_of(path).tobytes() == ROWS.tobytes()
        assert sound(path, shards)
        assert reader.table.lookup(np.arange(50)).tobytes() == ROWS.tobytes()
        assert reader["w7"].tobytes() == ROWS[7].tobytes()
    assert Vectors.open(path).lookup("nobody").tobytes() == ROWS[3].tobytes()
    with pytest.raises(TableExistsError, match="overwrite"):
        reshard(path, path, shards=3)


def test_overwriting(path, tmp_path):
    Table.from_array(ROWS[:9], 2).save(tmp_path / "new")
    with pytest.raises(TableExistsError, match="got one of 9 rows"):
        reshard(path, tmp_path / "new")
    assert rows_of(tmp_path / "new").tobytes() == ROWS[:9].tobytes()
    reshard(path, tmp_path / "new", shards=2, partition="div", overwrite=True)
    assert rows_of(tmp_path / "new").tobytes() == ROWS.tobytes()
    assert sound(tmp_path / "new", 2)


def test_other_writers_have_to_wait(path, tmp_path):
    def other(done, total):
        with pytest.raises(StoreError, match=f"process {os.getpid()}"):
            reshard(path, tmp_path / "new")
        calls.append((done, total))

    calls = []
    reshard(path, tmp_path / "new", progress=other)
    assert calls == [(50, 50)]


def test_progress_and_interruption(path, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_BLOCK_BYTES", 320)
    calls = []
    reshard(path, tmp_path / "new", shards=2, progress=lambda *call: calls.append(call))
    assert calls == [(done, 50) for done in (10, 20, 30, 40, 50)]
    before = contents(path)
    threads = threading.active_count()

    def stop(done, total):
        if done == 30:
            raise KeyboardInterrupt

    for place in (path, tmp_path / "other"):
        with pytest.raises(KeyboardInterrupt):
            reshard(path, place, shards=2, overwrite=True, progress=stop)
    assert contents(path) == before
    assert not (tmp_path / "other").exists()
    assert threading.active_count() == threads


# --- what is broken, or changes


def flip(path, position):
    content = bytearray(path.read_bytes())
    content[position] ^= 0x29  # a space becomes a tab
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("name", "position"),
    [
        ("weight-00001-of-00003.safetensors", -1),
        ("weight-00000-of-00003.safetensors", 4095),  # of the header's end
        ("vocabulary.safetensors", -1),
    ],
)
def test_a_damaged_source_is_refused(path, tmp_path, name, position):
    flip(path / name, position)
    before = contents(path)
    for place in (tmp_path / "new", path):
        with pytest.raises(StoreError, match=rf"{name} is damaged: expected bytes with the check"):
            reshard(path, place, shards=2, overwrite=True)
    assert contents(path) == before
    assert not (tmp_path / "new").exists()
    forget = [0, 1, 2] if name.startswith("weight") else []
    forget_checksums(str(path), open_table(path).manifest, forget)
    if forget:  # what is not known to be damaged passes, and has checksums from then on
        reshard(path, tmp_path / "new", shards=2)
        assert sound(tmp_path / "new", 2)


def test_a_file_that_becomes_shorter(path, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_BLOCK_BYTES", 32)

    def cut(done, total):
        os.truncate(path / "weight-00002-of-00003.safetensors", 4200)

    forget_checksums(str(path), open_table(path).manifest, range(3))
    with pytest.raises(StoreError, match=r"00002-of.* to stay, a file of 4608 bytes, .* got 4200"):
        reshard(path, tmp_path / "new", progress=cut)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("held", [0, 200])
def test_a_source_that_is_replaced_meanwhile(path, tmp_path, monkeypatch, held):
    monkeypatch.setattr(module, "_BLOCK_BYTES", 320)
    monkeypatch.setattr(files, "_HELD", held)
    calls = []

    def replace(done, total):
        calls.append(done)
        if len(calls) == 1:
            Table.from_array(ROWS * 2, 3).save(path, overwrite=True)

    if held:  # its files are open
        reshard(path, tmp_path / "new", shards=2, progress=replace)
        assert rows_of(tmp_path / "new").tobytes() == ROWS.tobytes()
        return
    with pytest.raises(StoreError, match=r"to stay.*, got none; stop what writes there"):
        reshard(path, tmp_path / "new", shards=2, progress=replace)
    assert not (tmp_path / "new").exists()


def test_other_programs_files(tmp_path):
    """A header of any length, and tensors beside the weight."""
    Table.from_array(ROWS, 2, "div").save(tmp_path / "t")
    manifest = json.loads((tmp_path / "t" / "shardwise.json").read_text())
    for k, entry in enumerate(manifest["shards"]):
        data = ROWS[25 * k : 25 * (k + 1)].tobytes()
        header = json.dumps(
            {
                "before": {"dtype": "U8", "shape": [3], "data_offsets": [0, 3]},
                "weight": {"dtype": "F32", "shape": [25, 8], "data_offsets": [3, 803]},
                "after": {"dtype": "U8", "shape": [5], "data_offsets": [803, 808]},
            }
        ).encode()
        content = len(header).to_bytes(8, "little") + header + b"abc" + data + b"after"
        (tmp_path / "t" / entry["file"]).write_bytes(content)
        entry["bytes"] = len(content)
        entry["xxh128"] = xxhash.xxh3_128(content).hexdigest()
    (tmp_path / "t" / "shardwise.json").write_text(json.dumps(manifest))
    for k, (shards, partition) in enumerate([(3, "mod"), (1, "div")]):
        reshard(tmp_path / "t", tmp_path / f"new{k}", shards=shards, partition=partition)
        assert rows_of(tmp_path / f"new{k}").tobytes() == ROWS.tobytes()


def test_what_is_no_table(path, tmp_path):
    with pytest.raises(TableNotFoundError, match="expected a table at"):
        reshard(tmp_path / "none", tmp_path / "new")
    with pytest.raises(TableNotFoundError, match="make it first"):
        reshard(path, tmp_path / "no" / "new")
    for options in ({"shards": 0}, {"partition": "x"}, {"partition": Partition.mod(9, 2)}):
        with pytest.raises(PartitionError):
            reshard(path, tmp_path / "new", **options)
    with pytest.raises(OptionError, match="99999"):
        reshard(path, tmp_path / "new", shards=100_000)
    with pytest.raises(OptionError, match="metadata"):
        reshard(path, tmp_path / "new", metadata={"a": {1}})
    assert os.listdir(tmp_path) == ["t"]


def test_the_result_is_a_manifest(path, tmp_path):
    assert isinstance(reshard(path, tmp_path / "new"), Manifest)


# --- much, and nearly nothing


@pytest.mark.skipif(not hasattr(os, "SEEK_DATA"), reason="the system tells nothing of holes")
@pytest.mark.parametrize("new", [Partition.mod(1 << 20, 5), Partition.div(1 << 20, 3)], ids=str)
def test_holes_stay(tmp_path, new):
    with Table.create(tmp_path / "t", 1 << 20, 128, shards=2) as table:  # 512 MB
        ids = np.arange(100, 1 << 20, 99_991)
        values = np.random.default_rng(0).standard_normal((len(ids), 128)).astype(np.float32)
        table.write(ids, values)
    reshard(tmp_path / "t", tmp_path / "new", partition=new)
    assert sum(file.stat().st_blocks for file in (tmp_path / "new").iterdir()) * 512 < 1 << 20
    table = Table.open(tmp_path / "new", verify=True)
    assert np.array_equal(table.lookup(ids), values)
    assert not table.lookup(ids + 1).any()


MEMORY = """
import sys
import numpy as np
from shardwise import Partition
from shardwise.store import reshard, write_blocks
def high():
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("VmHWM")) >> 10
n, block = 300_000, np.random.default_rng(0).standard_normal((10_000, 256)).astype("f4")
write_blocks(
    "t", (block for _ in range(n // 10_000)), shape=(n, 256), dtype="float32",
    partition=Partition.mod(n, 8),
)
reshard("t", "a", shards=3, partition="div", dtype="float64")
reshard("a", "a", shards=500, partition="mod", dtype="float16", overwrite=True)
reshard("a", "t", shards=8, partition="mod", overwrite=True)
print(high())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="asks Linux about the process")
def test_memory_is_bounded(tmp_path):
    command = [sys.executable, "-c", MEMORY]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 256


# --- the command


def run(*arguments):
    result = CliRunner().invoke(app, [*map(str, arguments)])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.stdout, result.stderr


def test_the_command(path, tmp_path):
    new = tmp_path / "new"
    out = f"{new}: 50 rows of 8 float16 values in 4 shards, by div\n"
    options = ("--shards", 4, "--partition", "div", "--dtype", "float16")
    assert run("reshard", path, new, *options) == (0, out, "")
    assert rows_of(new).tobytes() == ROWS.astype(np.float16).tobytes()
    code, out, err = run("reshard", path, new)
    assert (code, out) == (1, "")
    assert "--overwrite" in err
    out = f"{new}: 50 rows of 8 float32 values in 1 shard, by mod\n"
    assert run("reshard", path, new, "--shards", 1, "--overwrite") == (0, out, "")
    assert sound(new, 1)
    Table.from_array(np.zeros(3, np.int8)).save(tmp_path / "flat")
    code, out, _ = run("reshard", tmp_path / "flat", tmp_path / "flat2", "--shards", 2)
    assert out.endswith("flat2: 3 rows of one int8 value in 2 shards, by mod\n")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--shards", 0), "num_shards"),
        (("--partition", "ranges"), '"mod" or "div"'),
        (("--dtype", "int16"), "dtype of floats"),
        (("--dtype", "text"), "a form on disk"),
    ],
)
def test_what_the_command_refuses(path, tmp_path, options, words):
    code, out, err = run("reshard", path, tmp_path / "new", *options)
    assert (code, out) == (1, "")
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert words in err
    assert os.listdir(tmp_path) == ["t"]


@pytest.mark.parametrize("name", ["store", "hash", "finish"])
@pytest.mark.parametrize("partition", ["mod", "div"])
def test_a_full_disk_leaves_what_was_there(path, tmp_path, monkeypatch, name, partition):
    """An error in a thread that writes is the caller's error."""
    monkeypatch.setattr(deal, "_SMALL", 1)
    monkeypatch.setattr(module, "_BLOCK_BYTES", 320)
    calls = []
    call = getattr(files.FileWriter, name)

    def full(self, *args):
        calls.append(1)
        if len(calls) > 3:
            raise OSError(28, "No space left on device")
        return call(self, *args)

    monkeypatch.setattr(files.FileWriter, name, full)
    before = contents(path)
    threads = threading.active_count()
    for place in (path, tmp_path / "new"):
        calls.clear()
        with pytest.raises(OSError, match="No space"):
            reshard(path, place, shards=4, partition=partition, overwrite=True)
    assert contents(path) == before
    assert os.listdir(tmp_path) == ["t"]
    assert threading.active_count() == threads
