import errno
import itertools
import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import xxhash
from typer.testing import CliRunner

from shardwise import Partition, StoreError, Table, TableNotFoundError, Vectors, Vocabulary
from shardwise.cli import app
from shardwise.store import _files as files
from shardwise.store import _verify as verify
from shardwise.store import open_table, update_checksums, verify_table, write_blocks
from shardwise.store._verify import check, forget_checksums

NAMES = [*(f"weight-0000{k}-of-00003.safetensors" for k in range(3)), "vocabulary.safetensors"]
ROWS = np.random.default_rng(0).standard_normal((50, 8)).astype(np.float32)


@pytest.fixture
def path(tmp_path):
    words = Vocabulary(map(str, range(50)))
    Vectors(Table.from_array(ROWS, 3), words).save(tmp_path / "t")
    return tmp_path / "t"


def states(path, **options):
    return [one.state for one in verify_table(path, **options)]


def manifest_of(path):
    return json.loads(Path(path, "shardwise.json").read_text())


def digests(path):
    manifest = manifest_of(path)
    return [entry["xxh128"] for entry in (*manifest["shards"], manifest["vocabulary"])]


def flip(path, position=-1):
    content = bytearray(path.read_bytes())
    content[position] ^= 1
    path.write_bytes(content)


# --- verify


def test_a_sound_table(path):
    found = verify_table(path)
    assert [one.file for one in found] == NAMES
    assert {one.state for one in found} == {"ok"}
    for one in found:
        content = (path / one.file).read_bytes()
        assert one.bytes == len(content)
        assert one.expected == one.got == xxhash.xxh3_128(content).hexdigest()
    check(str(path), open_table(path).manifest)


@pytest.mark.parametrize("position", [0, 100, 4095, 4096, -1])
@pytest.mark.parametrize("name", [NAMES[1], NAMES[3]])
def test_every_changed_bit_is_damage(path, name, position):
    manifest = open_table(path).manifest
    flip(path / name, position)
    found = verify_table(path)
    assert [one.state for one in found] == ["damaged" if n == name else "ok" for n in NAMES]
    (damaged,) = [one for one in found if one.state == "damaged"]
    assert (
        damaged.got == xxhash.xxh3_128((path / name).read_bytes()).hexdigest() != damaged.expected
    )
    with pytest.raises(StoreError, match=rf"is broken: .* got other bytes in {name}; restore"):
        check(str(path), manifest)


def test_all_damaged_files_are_named(path):
    manifest = open_table(path).manifest
    for name in NAMES[1:3]:
        flip(path / name)
    with pytest.raises(StoreError, match=f"in {NAMES[1]}, {NAMES[2]};"):
        check(str(path), manifest)
    with pytest.raises(StoreError, match=f"in {NAMES[1]}, {NAMES[2]};"):
        Table.open(path, verify=True)
    Table.open(path)


def test_files_of_another_size_and_missing_files(path):
    manifest = open_table(path).manifest
    (path / NAMES[0]).write_bytes((path / NAMES[0]).read_bytes()[:-1])
    with open(path / NAMES[1], "ab") as file:
        file.write(b"x")
    (path / NAMES[2]).unlink()
    (path / NAMES[3]).unlink()
    (path / NAMES[3]).mkdir()
    found = verify_table(path)
    assert [one.state for one in found] == ["damaged", "damaged", "missing", "damaged"]
    assert [one.got for one in found] == [None] * 4
    with pytest.raises(FileNotFoundError) as caught:
        check(str(path), manifest)
    assert caught.value.filename == str(path / NAMES[2])


def test_a_disk_that_cannot_read(path, monkeypatch):
    def failing(code):
        def read(self, offset, into):
            raise OSError(code, os.strerror(code))

        return read

    monkeypatch.setattr(files.FileReader, "read", failing(errno.EIO))
    assert states(path) == ["damaged"] * 4
    monkeypatch.setattr(files.FileReader, "read", failing(errno.ENOMEM))
    with pytest.raises(OSError, match="memory"):
        verify_table(path)


def test_where_no_table_is(tmp_path):
    for call in (verify_table, update_checksums):
        with pytest.raises(TableNotFoundError):
            call(tmp_path / "none")
        with pytest.raises(TableNotFoundError):
            call(tmp_path)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("shape", [(0, 3), (5, 0), (0,)])
def test_tables_of_nothing(tmp_path, shape):
    Table.from_array(np.empty(shape), 2).save(tmp_path / "t")
    calls = []
    assert states(tmp_path / "t", progress=lambda *call: calls.append(call)) == ["ok", "ok"]
    assert calls[-1] == (8192, 8192)


def test_files_of_many_blocks(tmp_path, monkeypatch):
    monkeypatch.setattr(verify, "_BLOCK_BYTES", 1000)
    Table.from_array(ROWS, 7).save(tmp_path / "t")
    assert set(states(tmp_path / "t")) == {"ok"}


def test_progress(path):
    calls = []
    verify_table(path, progress=lambda done, total: calls.append((done, total)))
    total = sum((path / name).stat().st_size for name in NAMES)
    assert [done for done, _ in calls] == sorted(done for done, _ in calls)
    assert calls[-1] == (total, total)
    (path / NAMES[0]).unlink()
    verify_table(path, progress=lambda done, total: calls.append((done, total)))
    assert calls[-1] == (total, total)


def test_it_can_be_interrupted(path, monkeypatch):
    monkeypatch.setattr(verify, "_BLOCK_BYTES", 64)

    def stop(done, total):
        raise KeyboardInterrupt

    before = threading.active_count()
    with pytest.raises(KeyboardInterrupt):
        verify_table(path, progress=stop)
    assert threading.active_count() == before
    with pytest.raises(KeyboardInterrupt):
        update_checksums_of_all(path, stop)
    assert sorted(os.listdir(path)) == sorted([*NAMES, "shardwise.json"])


def update_checksums_of_all(path, progress):
    forget_checksums(str(path), open_table(path).manifest, range(3))
    update_checksums(path, progress=progress)


def test_a_table_that_is_replaced_meanwhile(path, monkeypatch):
    """A writer replaces it after the manifest was read: the new one is verified."""
    read, times = verify.read_manifest, []

    def then_replace(place):
        manifest = read(place)
        if not times:
            times.append(1)
            Table.from_array(ROWS, 2).save(path, overwrite=True)
        return manifest

    monkeypatch.setattr(verify, "read_manifest", then_replace)
    found = verify_table(path)
    assert [one.state for one in found] == ["ok", "ok"]
    assert {one.file for one in found} == manifest_files(path)


def manifest_files(path):
    return {entry["file"] for entry in manifest_of(path)["shards"]}


# --- checksums that are not known


def test_forgetting_and_updating(path):
    before = digests(path)
    manifest = open_table(path).manifest
    changed = forget_checksums(str(path), manifest, [1])
    assert changed == open_table(path).manifest
    assert changed.generation == manifest.generation
    assert digests(path) == [before[0], None, before[2], before[3]]
    assert states(path) == ["ok", "unknown", "ok", "ok"]
    check(str(path), changed)
    flip(path / NAMES[1])
    assert states(path) == ["ok", "unknown", "ok", "ok"]
    check(str(path), manifest)  # read before the checksum was forgotten: changed, not damaged
    (one,) = update_checksums(path)
    assert (one.file, one.state, one.expected) == (NAMES[1], "updated", None)
    assert digests(path) == [before[0], one.got, before[2], before[3]]
    assert one.got == xxhash.xxh3_128((path / NAMES[1]).read_bytes()).hexdigest()
    assert states(path) == ["ok"] * 4
    assert update_checksums(path) == []
    flip(path / NAMES[1])
    assert states(path) == ["ok", "damaged", "ok", "ok"]
    assert sorted(os.listdir(path)) == sorted([*NAMES, "shardwise.json"])


def test_forgetting_again_writes_nothing(path):
    manifest = forget_checksums(str(path), open_table(path).manifest, range(3))
    inode = (path / "shardwise.json").stat().st_ino
    assert forget_checksums(str(path), manifest, range(3)) == manifest
    assert (path / "shardwise.json").stat().st_ino == inode


def test_forgetting_of_a_table_that_was_replaced(path):
    manifest = open_table(path).manifest
    Table.from_array(ROWS, 3).save(path, overwrite=True)
    with pytest.raises(StoreError, match=r"expected generation 1 .*, got 2: it was replaced"):
        forget_checksums(str(path), manifest, [0])


def test_verify_that_updates(path):
    forget_checksums(str(path), open_table(path).manifest, [0, 2])
    flip(path / NAMES[1])
    assert states(path, update=True) == ["updated", "damaged", "updated", "ok"]
    assert states(path) == ["ok", "damaged", "ok", "ok"]


def test_update_while_another_writes(path):
    def blocks():
        with pytest.raises(StoreError, match="expected no other writer"):
            update_checksums(path)
        yield ROWS

    write_blocks(
        path,
        blocks(),
        shape=ROWS.shape,
        dtype="float32",
        partition=Partition.mod(50, 3),
        overwrite=True,
    )


def test_a_vocabulary_without_a_checksum(path):
    manifest = manifest_of(path)
    manifest["vocabulary"]["xxh128"] = None
    (path / "shardwise.json").write_text(json.dumps(manifest))
    assert states(path) == ["ok", "ok", "ok", "unknown"]
    update_checksums(path)
    assert states(path) == ["ok"] * 4


@pytest.mark.parametrize("bad", ["", "0" * 31, "0" * 33, "A" * 32, "g" * 32, 5, True, ["0" * 32]])
def test_what_is_no_checksum(path, bad):
    for place in (("shards", 1), ("vocabulary",)):
        manifest = manifest_of(path)
        entry = manifest
        for key in place:
            entry = entry[key]
        entry["xxh128"] = bad
        (path / "shardwise.json").write_text(json.dumps(manifest))
        with pytest.raises(StoreError, match=r"xxh128 of .* 32 lower-case hexadecimal digits, or"):
            Table.open(path)


# --- holes


def as_pages(text, offset=0):
    """Bytes of pages: `x` has some, `0` none."""
    data = np.zeros(4096 * len(text), np.uint8)
    for i, letter in enumerate(text):
        if letter == "x":
            data[4096 * i + 7 + i] = 1
        if letter == "e":
            data[4096 * i + 4095] = 1
    return data[offset:]


@pytest.mark.parametrize("text", ["0", "x", "0x", "x0", "xx", "00", "0x0", "x0e0x", "e00x00"])
@pytest.mark.parametrize("shift", [0, 1, 4095])
def test_pages_of_zeros_become_holes(text, shift):
    data = as_pages(text)
    spans = list(files._filled(data, 3 * 4096 - shift))
    assert all(begin < end for begin, end in spans)
    assert all(a[1] < b[0] for a, b in itertools.pairwise(spans))
    left = np.ones(len(data), bool)
    for begin, end in spans:
        left[begin:end] = False
    assert not data[left].any()
    if not shift:
        assert left.sum() == 4096 * text.count("0")


def test_many_pages_some_of_zeros():
    rng = np.random.default_rng(0)
    data = as_pages(rng.choice([*"0xe"], 1500, p=[0.7, 0.2, 0.1]))
    left = np.ones(len(data), bool)
    for begin, end in files._filled(data, 0):
        left[begin:end] = False
    assert (left.reshape(-1, 4096).all(1) == ~data.reshape(-1, 4096).any(1)).all()
    assert left.reshape(-1, 4096).any(1).sum() == left.sum() // 4096


@pytest.mark.skipif(not hasattr(os, "SEEK_DATA"), reason="the system tells nothing of holes")
def test_an_empty_table_takes_no_room(tmp_path):
    rows = np.zeros((1 << 16, 128), np.float32)
    rows[7] = rows[-1, -1] = 1
    Table.from_array(rows, 3, "div").save(tmp_path / "t")
    assert states(tmp_path / "t") == ["ok"] * 3
    assert np.array_equal(Table.open(tmp_path / "t").lookup(np.arange(len(rows))), rows)
    for name in NAMES[:3]:
        assert (tmp_path / "t" / name).read_bytes()[4096:].count(0) > 10_000_000
    rows[-1] = 0  # a file that ends with a hole
    Table.from_array(rows, 3).save(tmp_path / "t", overwrite=True)
    assert np.array_equal(Table.open(tmp_path / "t", verify=True).lookup([7]), rows[7:8])
    used = sum(file.stat().st_blocks for file in (tmp_path / "t").iterdir()) * 512
    assert used < 1 << 20


# --- the command


def run(*arguments):
    result = CliRunner().invoke(app, [*map(str, arguments)])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.stdout, result.stderr


def test_the_command(path):
    code, out, err = run("verify", path)
    assert (code, err) == (0, "")
    assert [line.split() for line in out.splitlines()] == [[name, "ok"] for name in NAMES]
    forget_checksums(str(path), open_table(path).manifest, [2])
    assert run("verify", path)[:2] == (0, out.replace(f"{NAMES[2]}  ok", f"{NAMES[2]}  unknown"))
    flip(path / NAMES[0])
    (path / NAMES[1]).write_bytes(b"short")
    (path / NAMES[3]).unlink()
    code, out, err = run("verify", path, "--update")
    assert (code, err) == (1, "")
    lines = out.splitlines()
    assert lines[0].startswith(f"{NAMES[0]}  damaged: expected {digests(path)[0]}, got ")
    assert lines[1].endswith("damaged: expected 4640 bytes that can be read")
    assert lines[2].split() == [NAMES[2], "updated"]
    assert lines[3].split() == [NAMES[3], "missing"]


def test_the_command_in_json(path):
    code, out, _ = run("verify", path, "--json")
    assert code == 0
    assert json.loads(out) == {
        "path": str(path),
        "files": [vars(one) for one in verify_table(path)],
    }
    flip(path / NAMES[0])
    code, out, _ = run("verify", path, "--json")
    assert code == 1
    assert [one["state"] for one in json.loads(out)["files"]] == ["damaged", "ok", "ok", "ok"]


def test_the_command_where_no_table_is(tmp_path):
    code, out, err = run("verify", tmp_path / "none")
    assert (code, out) == (1, "")
    assert err.startswith("error: expected a table at")


MEMORY = """
import os, sys
from shardwise.store import verify_table
def resident():
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("VmHWM")) * 1024
verify_table(sys.argv[2])
before = resident()
assert {one.state for one in verify_table(sys.argv[1])} == {"ok"}
print(resident() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="asks Linux about the process")
def test_memory_is_bounded(path, tmp_path):
    blocks = (np.zeros((1 << 14, 256), np.float32) for _ in range(16))  # 256 MB of holes
    write_blocks(
        tmp_path / "large",
        blocks,
        shape=(1 << 18, 256),
        dtype="float32",
        partition=Partition.div(1 << 18, 2),
    )
    command = [sys.executable, "-c", MEMORY, str(tmp_path / "large"), str(path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 16 << 20
