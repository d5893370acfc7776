"""Training and the store: state in files, in place, and what is left after a kill."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from typer.testing import CliRunner

from shardwise import IdOutOfRangeError, Partition, StoreError, Table, TableError, store
from shardwise.cli import app
from shardwise.optimizers import SGD, Adagrad, Adam, AdamW, Ftrl, RMSprop, RowwiseAdagrad
from shardwise.store import _state

OPTIMIZERS = [
    SGD(0.1),
    SGD(0.1, momentum=0.9),
    Adagrad(0.1, initial_accumulator_value=0.5),
    RowwiseAdagrad(0.1),
    RMSprop(0.01),
    Adam(0.01, corrected=True),
    AdamW(0.01),
    Ftrl(0.1),
]
IDS = np.arange(60)


def batches(count, seed=0):
    rng = np.random.default_rng(seed)
    return [(rng.integers(0, 60, 40), rng.standard_normal((40, 5))) for _ in range(count)]


def fresh(dtype=np.float32, partition=None):
    rows = np.random.default_rng(1).standard_normal((60, 5)).astype(dtype)
    return Table.from_array(rows, partition=partition or Partition.mod(60, 3), copy=True)


def state_of(table):
    """All rows, and by name all that is kept of them, in the order of ids."""
    found = {"": table.lookup(IDS)}
    for name, arrays in table.optimizer_state.items():
        found[name] = Table.from_shards(list(arrays), table.partition).lookup(IDS)
    return found


def assert_same(one, other):
    assert one.optimizer_step == other.optimizer_step
    ours, theirs = state_of(one), state_of(other)
    assert list(ours) == list(theirs)
    for name, values in ours.items():
        assert values.dtype == theirs[name].dtype
        assert values.tobytes() == theirs[name].tobytes()


def train(table, optimizer, steps):
    for ids, gradients in steps:
        table.update(ids, gradients, optimizer)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=lambda one: type(one).__name__)
def test_a_saved_table_goes_on_with_the_same_bits(tmp_path, optimizer, dtype):
    steps = batches(10)
    straight, first = fresh(dtype), fresh(dtype)
    train(straight, optimizer, steps)
    train(first, optimizer, steps[:5])
    first.save(tmp_path / "t")
    for mode in ("c", "r+"):
        with Table.open(tmp_path / "t", mode) as table:
            assert_same(table, first)
            train(table, optimizer, steps[5:])
            assert_same(table, straight)
    with Table.open(tmp_path / "t", verify=True) as table:
        assert_same(table, straight)
        with pytest.raises(TableError, match="read-only"):
            table.update([0], [[1.0] * 5], optimizer)
        table.save(tmp_path / "copy")
    with Table.open(tmp_path / "copy") as table:
        assert_same(table, straight)
    assert {checked.state for checked in store.verify_table(tmp_path / "copy")} == {"ok"}


@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=lambda one: type(one).__name__)
def test_in_place_from_the_first_step(tmp_path, optimizer):
    expected = fresh()
    expected.save(tmp_path / "t")
    train(expected, optimizer, batches(4))
    with Table.open(tmp_path / "t", "r+") as table, Table.open(tmp_path / "t") as reader:
        train(table, optimizer, batches(4))
        assert_same(table, expected)
        assert reader.lookup(IDS).tobytes() == table.lookup(IDS).tobytes()
        assert all(
            not a.flags.writeable for arrays in table.optimizer_state.values() for a in arrays
        )
    assert {checked.state for checked in store.verify_table(tmp_path / "t")} == {"unknown"}
    store.update_checksums(tmp_path / "t")
    assert {checked.state for checked in store.verify_table(tmp_path / "t")} == {"ok"}
    with Table.open(tmp_path / "t", "r+") as table:
        train(table, optimizer, batches(1))
    assert {checked.state for checked in store.verify_table(tmp_path / "t")} == {"unknown"}


def test_state_that_is_needed_later_is_added(tmp_path):
    fresh().save(tmp_path / "t")
    expected = fresh()
    with Table.open(tmp_path / "t", "r+") as table:
        for optimizer in (SGD(0.1), SGD(0.1, momentum=0.5)):
            for one in (table, expected):
                train(one, optimizer, batches(2))
        assert_same(table, expected)
    assert len([f for f in os.listdir(tmp_path / "t") if f.startswith("optimizer")]) == 3
    with Table.open(tmp_path / "t", "r+") as table:
        for one in (table, expected):
            one.reset_optimizer()
            train(one, Adam(), batches(3))
            train(one, AdamW(corrected=True), batches(3))
        assert_same(table, expected)
        table.reset_optimizer()
        assert not [f for f in os.listdir(tmp_path / "t") if f.startswith("optimizer")]
    assert Table.open(tmp_path / "t").optimizer_state == {}


@pytest.mark.parametrize(
    "cut", [Partition.div(60, 2), Partition.mod(60, 5), Partition.ranges([0, 0, 11, 60])]
)
def test_a_table_cut_anew_keeps_its_state(tmp_path, cut):
    table = fresh()
    train(table, Adam(0.01, corrected=True), batches(5))
    table.save(tmp_path / "t")
    store.reshard(tmp_path / "t", tmp_path / "u", partition=cut)
    again = Table.open(tmp_path / "u", "c")
    assert_same(again, table)
    for one in (again, table):
        train(one, Adam(0.01, corrected=True), batches(2, seed=1))
    assert_same(again, table)
    store.reshard(tmp_path / "t", tmp_path / "t", partition=cut, dtype="float64", overwrite=True)
    wide = Table.open(tmp_path / "t", "c")
    assert {a.dtype.name for a in sum(wide.optimizer_state.values(), ())} == {"float64", "int64"}
    train(wide, Adam(0.01, corrected=True), batches(1))
    assert len([f for f in os.listdir(tmp_path / "t") if f.startswith("optimizer")]) == len(
        cut.shard_sizes
    )


def test_an_overwritten_table_leaves_no_state_behind(tmp_path):
    table = fresh()
    train(table, Adagrad(), batches(1))
    table.save(tmp_path / "t")
    fresh().save(tmp_path / "t", overwrite=True)
    assert not [f for f in os.listdir(tmp_path / "t") if f.startswith("optimizer")]
    assert Table.open(tmp_path / "t").optimizer_step == 0


def test_a_table_that_is_closed_is_not_trained(tmp_path):
    fresh().save(tmp_path / "t")
    table = Table.open(tmp_path / "t", "r+")
    train(table, SGD(), batches(1))
    before = state_of(table)
    table.close()
    with pytest.raises(StoreError, match="was closed"):
        train(table, SGD(), batches(1))
    assert state_of(table)[""].tobytes() == before[""].tobytes()


@pytest.mark.parametrize("optimizer", [RowwiseAdagrad(0.1), Adam(0.01, corrected=True)])
def test_pages_that_are_not_in_memory_are_read_ahead(tmp_path, optimizer):
    rng = np.random.default_rng(2)
    rows = rng.standard_normal((50_000, 64)).astype(np.float32)
    expected = Table.from_array(rows, shards=2, copy=True)
    steps = [(rng.integers(0, 50_000, 20_000), rng.standard_normal((20_000, 64))) for _ in range(3)]
    expected.save(tmp_path / "t")
    train(expected, optimizer, steps)
    for k, step in enumerate(steps):
        for file in (tmp_path / "t").iterdir():  # the system forgets them, where it does
            with open(file, "rb") as opened:
                os.fsync(opened.fileno())
                os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        with Table.open(tmp_path / "t", "r+") as table:
            if k == 2:
                table.prefetch(step[0])
            train(table, optimizer, [step])
    ids = np.arange(50_000)
    with Table.open(tmp_path / "t") as table:
        assert table.lookup(ids).tobytes() == expected.lookup(ids).tobytes()
        for name, arrays in expected.optimizer_state.items():
            for one, other in zip(arrays, table.optimizer_state[name], strict=True):
                assert one.tobytes() == other.tobytes()


def test_a_full_disk_is_an_error_before_anything_is_changed(tmp_path, monkeypatch):
    def full(descriptor, size):
        raise OSError(28, "No space left on device")

    fresh().save(tmp_path / "t")
    files = {path.name: path.read_bytes() for path in (tmp_path / "t").glob("*.safetensors")}
    with Table.open(tmp_path / "t", "r+") as table:
        monkeypatch.setattr(_state, "take_room", full)
        with pytest.raises(OSError, match="No space"):
            train(table, Adagrad(), batches(1))
        assert {
            path.name: path.read_bytes() for path in (tmp_path / "t").glob("*.safetensors")
        } == files
        assert table.optimizer_step == 0
        monkeypatch.undo()
        train(table, Adagrad(), batches(1))


def test_zeros_of_a_created_table_become_rows(tmp_path):
    with Table.create(tmp_path / "t", 3000, 100, shards=2) as table:
        table.update_pool([[0, 2999], [7, 7]], None, np.ones((2, 100)), Adagrad(1.0))
        assert table.lookup([0, 7, 8]).tolist() == [[-1.0] * 100, [-1.0] * 100, [0.0] * 100]


TRAIN = """
import sys, numpy as np
from shardwise import Table
from shardwise.optimizers import Adam
table = Table.open(sys.argv[1], "r+")
rng = np.random.default_rng(0)
while True:
    ids = rng.integers(0, 60, 40)
    table.update(ids, rng.standard_normal((40, 5)), Adam(0.001, corrected=True))
    if table.optimizer_step == 20:
        print("begun", flush=True)
"""


def test_a_killed_process_leaves_a_table_that_opens(tmp_path):
    fresh().save(tmp_path / "t")
    for _ in range(3):
        shutil.rmtree(tmp_path / "u", ignore_errors=True)
        shutil.copytree(tmp_path / "t", tmp_path / "u")
        command = [sys.executable, "-c", TRAIN, tmp_path / "u"]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as child:
            assert child.stdout.readline() == b"begun\n"
            time.sleep(0.01)
            child.send_signal(signal.SIGKILL)
        with Table.open(tmp_path / "u", "r+") as table:
            assert table.optimizer_step >= 20
            assert np.abs(table.lookup(IDS)).max() < 10
            last = state_of(table)["adam.step"]
            assert last.max() - table.optimizer_step in (0, 1)
            train(table, Adam(corrected=True), batches(1))


def test_what_a_killed_process_left_is_in_nobody_s_way(tmp_path):
    fresh().save(tmp_path / "t")
    (tmp_path / "t" / "optimizer-00001-of-00003.2.safetensors").write_bytes(b"half")
    with Table.open(tmp_path / "t", "r+") as table:
        train(table, Adagrad(), batches(1))
    assert Table.open(tmp_path / "t").optimizer_step == 1


def test_info_tells_the_optimizer(tmp_path):
    table = fresh()
    train(table, Adam(corrected=True), batches(3))
    table.save(tmp_path / "t")
    told = CliRunner().invoke(app, ["info", str(tmp_path / "t")]).stdout
    assert "optimizer   adam, 3 updates: adam.exp_avg, adam.exp_avg_sq, adam.step\n" in told
    told = json.loads(CliRunner().invoke(app, ["info", "--json", str(tmp_path / "t")]).stdout)
    assert told["optimizer"]["step"] == 3


# ---- files that are not what they should be ----


def victim(tmp_path):
    table = fresh()
    train(table, Adam(corrected=True), batches(3))
    table.save(tmp_path / "t")
    names = [f"optimizer-0000{k}-of-00003.safetensors" for k in range(3)]
    return tmp_path / "t", names


def changed_header(path, change):
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    change(header)
    text = json.dumps(header).encode()
    path.write_bytes(data[:8] + text + b" " * (length - len(text)) + data[8 + length :])


def rename(header):
    header["adam.other"] = header.pop("adam.exp_avg")


def flatten(header):
    header["adam.exp_avg"]["shape"] = [100]


def retype(header):
    header["adam.exp_avg"]["dtype"] = "I32"


@pytest.mark.parametrize(
    ("which", "change", "match"),
    [
        (1, rename, "a tensor 'adam.exp_avg'"),
        (0, flatten, "a tensor 'adam.exp_avg' of numbers of 20 rows, got float32"),
        (2, retype, "a tensor 'adam.exp_avg' of numbers of 20 rows, got int32"),
        (0, lambda header: header["step"].update(dtype="F64"), "a tensor 'step' of int64"),
        (0, lambda header: header["step"].update(dtype="U64"), "a tensor 'step' of int64"),
    ],
)
def test_state_files_that_say_something_else(tmp_path, which, change, match):
    path, names = victim(tmp_path)
    changed_header(path / names[which], change)
    for mode in ("r", "r+", "c"):
        with pytest.raises(StoreError, match=match):
            Table.open(path, mode)


def test_state_files_that_are_damaged(tmp_path):
    path, names = victim(tmp_path)
    data = bytearray((path / names[1]).read_bytes())
    data[-1] ^= 1
    (path / names[1]).write_bytes(data)
    Table.open(path)
    with pytest.raises(StoreError, match=names[1]):
        Table.open(path, verify=True)
    with pytest.raises(StoreError, match=names[1]):
        store.reshard(path, tmp_path / "u", shards=2)
    assert not (tmp_path / "u").exists()
    (path / names[1]).write_bytes(data[:-1])
    with pytest.raises(StoreError, match="bytes, got"):
        Table.open(path)
    (path / names[1]).unlink()
    with pytest.raises(StoreError, match=names[1]):
        Table.open(path)


def test_a_step_that_never_was(tmp_path):
    path, names = victim(tmp_path)
    data = (path / names[0]).read_bytes()
    for step in (-1, 1 << 62):
        (path / names[0]).write_bytes(data[:-8] + step.to_bytes(8, "little", signed=True))
        with pytest.raises(StoreError, match=f"got {step}"):
            Table.open(path)


def test_state_of_another_shape_is_no_state_of_the_optimizer(tmp_path):
    path, names = victim(tmp_path)
    manifest = json.loads((path / "shardwise.json").read_text())
    manifest["optimizer"]["family"] = "adagrad"
    (path / "shardwise.json").write_text(json.dumps(manifest))
    table = Table.open(path, "c")
    table.update([0], np.ones((1, 5)), Adagrad())  # the state that it needs is made
    assert "adagrad.sum" in table.optimizer_state
    for name in names:
        changed_header(path / name, lambda h: h.update({"adagrad.sum": h.pop("adam.step")}))
    with pytest.raises(TableError, match=r"'adagrad\.sum' of float32"):
        Table.open(path, "c").update([0], np.ones((1, 5)), Adagrad())


def test_a_refused_update_changes_no_file(tmp_path):
    path = tmp_path / "t"
    fresh().save(path)
    with Table.open(path, "r+") as table:
        for _ in range(3):
            table.update([0, 1], np.ones((2, 5)), SGD())
        before = sorted(os.listdir(path)), (path / "shardwise.json").read_text()
        with pytest.raises(IdOutOfRangeError):
            table.update([0, 60], np.ones((2, 5)), Adam())
        assert (sorted(os.listdir(path)), (path / "shardwise.json").read_text()) == before
    assert Table.open(path).describe()["optimizer"] == {"family": "sgd", "step": 3, "state": []}


def test_an_optimizer_without_state_takes_the_place_of_state_without_a_step(tmp_path):
    path = tmp_path / "t"
    table = fresh()
    table.update([0], np.zeros((1, 5)), Adam())
    table._training.counter[0] = 0  # a process that was killed in its first step
    table.save(path)
    with Table.open(path, "r+") as table:
        for _ in range(5):
            table.update([0, 1], np.ones((2, 5)), SGD())
    found = Table.open(path, verify=True)
    assert found.describe()["optimizer"] == {"family": "sgd", "step": 5, "state": []}
