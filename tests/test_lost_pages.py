"""Files that are cut short, or whose disk gives nothing, while they are mapped."""

import os
import signal
import subprocess
import sys

import numpy as np
import pytest

import shardwise
from shardwise import StoreError, Table, optimizers, pool_tables

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Windows cuts no mapped file")

ROWS = np.arange(40_000 * 16, dtype=np.float32).reshape(-1, 16)
LOST = "expected all pages of the table's files, got none for some of the rows of shard 1"


@pytest.fixture
def path(tmp_path):
    Table.from_array(ROWS, 3, "div").save(tmp_path / "table")
    return tmp_path / "table"


def cut(path, bytes=3 * 4096):
    os.truncate(path / "weight-00001-of-00003.safetensors", bytes)


EVERYTHING = np.arange(len(ROWS))


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("mode", ["r", "r+", "c"])
@pytest.mark.parametrize(
    "call",
    [
        lambda table: table.lookup(EVERYTHING),
        lambda table: table.lookup(20_000),
        lambda table: table.lookup(EVERYTHING, max_norm=1.0, out_of_range="clamp"),
        lambda table: table.lookup(EVERYTHING, dtype="float64"),
        lambda table: table.pool(EVERYTHING.reshape(-1, 4)),
        lambda table: pool_tables([(Table.from_array(ROWS), [[1]]), (table, [[20_000]])]),
    ],
    ids=["lookup", "one", "clipped", "converted", "pool", "pool_tables"],
)
def test_reading(path, call, mode, threads):
    before = shardwise.num_threads()
    shardwise.set_num_threads(threads)
    try:
        table = Table.open(path, mode)
        cut(path)
        for _ in range(2):  # what was lost stays so
            with pytest.raises(StoreError, match=LOST):
                call(table)
    finally:
        shardwise.set_num_threads(before)


def test_training(path):
    with Table.open(path, "r+") as table:
        table.update([1, 20_000], np.ones((2, 16), np.float32), optimizers.Adagrad())
        cut(path)
        with pytest.raises(StoreError, match=LOST):
            table.update(EVERYTHING, np.ones_like(ROWS), optimizers.Adagrad())


def test_the_step_of_an_optimizer(path):
    """It is a number in the first file of the state."""
    with Table.open(path, "r+") as table:
        table.update([1], np.ones((1, 16), np.float32), optimizers.Adagrad())
        assert table.optimizer_step == 1
        os.truncate(path / "optimizer-00000-of-00003.2.safetensors", 100)
        with pytest.raises(StoreError, match="cut short"):
            _ = table.optimizer_step
        with pytest.raises(StoreError, match="cut short"):
            table.update([1], np.ones((1, 16), np.float32), optimizers.Adagrad())


def test_writing(path):
    with Table.open(path, "r+") as table:
        cut(path)
        with pytest.raises(StoreError, match="was cut short"):
            table.write([20_000], 1.0)
    # A file that grew again would hold rows of zeros where its own were.
    assert os.path.getsize(path / "weight-00001-of-00003.safetensors") == 3 * 4096


def test_writing_to_a_private_copy(path):
    table = Table.open(path, "c")
    cut(path)
    with pytest.raises(StoreError, match=LOST):
        table.write([20_000], 1.0)


def test_what_is_there_can_be_read(path):
    table = Table.open(path)
    cut(path)
    assert np.array_equal(table.lookup([0, 13_333, 13_340]), ROWS[[0, 13_333, 13_340]])
    with pytest.raises(StoreError, match=LOST):
        table.lookup(20_000)
    # A table of which something was lost is not to be believed any more; another one is.
    Table.from_array(ROWS).save(path, overwrite=True)
    assert np.array_equal(Table.open(path).lookup(EVERYTHING), ROWS)


def test_the_report_of_crashes_that_python_has(path):
    """With `faulthandler`, which takes the signal too, whoever came first."""
    code = """
import faulthandler, os, sys
import numpy as np
from shardwise import StoreError, Table
if sys.argv[2] == "before":
    faulthandler.enable()
table = Table.open(sys.argv[1])
table.lookup([0])
if sys.argv[2] == "after":
    faulthandler.enable()
os.truncate(sys.argv[1] + "/weight-00001-of-00003.safetensors", 3 * 4096)
try:
    table.lookup([20_000])
except StoreError:
    print("told")
"""
    for when in ("never", "before", "after"):
        Table.from_array(ROWS, 3, "div").save(path.parent / when)
        command = [sys.executable, "-c", code, str(path.parent / when), when]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
        assert (done.returncode, done.stdout) == (0, "told\n"), (when, done.stderr)


def test_another_signal_ends_the_process(path):
    code = """
import os, signal, sys
from shardwise import Table
Table.open(sys.argv[1]).lookup([0])
os.kill(os.getpid(), signal.SIGBUS)
"""
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, timeout=60)
    assert done.returncode == -signal.SIGBUS
