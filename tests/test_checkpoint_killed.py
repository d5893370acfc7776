"""Checkpoints that are killed at any moment."""

import os
import random
import subprocess
import sys

import pytest

KILLING = """
import os, random, signal, sys, time
import numpy as np
from shardwise import Table, TableNotFoundError, store
from shardwise.optimizers import Adagrad

SEED, COUNT = int(sys.argv[1]), int(sys.argv[2])
rng = random.Random(SEED)
optimizer = Adagrad(0.1)

def fresh():
    return Table.from_array(np.zeros((2000, 16), np.float32), shards=2, copy=True)

def step(table, k):
    draw = np.random.default_rng(k)
    table.update(draw.integers(0, 2000, 150), draw.standard_normal((150, 16)), optimizer)

# What the table is after each number of updates.
straight, expected = fresh(), {}
for k in range(400):
    step(straight, k)
    expected[k + 1] = straight.lookup(np.arange(2000)).tobytes(), [
        a.tobytes() for a in straight.optimizer_state["adagrad.sum"]]

def run(last):
    # Goes on from the checkpoint, and writes one after each update, now and then a whole one.
    try:
        table = Table.restore("kept", "t", overwrite=True)
    except TableNotFoundError:
        table = fresh()
    while table.optimizer_step < last:
        step(table, table.optimizer_step)
        table.checkpoint("kept")
        os.write(told, table.optimizer_step.to_bytes(2, "little"))

seen = middle = kills = done = 0
span = 0.02  # seconds from one checkpoint to the next, as long as they take here and now
while kills < COUNT:
    reading, told = os.pipe()
    child = os.fork()
    if not child:
        code = 1
        try:
            run(400)
            code = 0
        finally:
            os._exit(code)
    os.close(told)
    # At any moment after none to three checkpoints: within a restore, an update, a checkpoint.
    data, begin = b"", time.perf_counter()
    for _ in range(rng.randrange(4)):
        data += os.read(reading, 2)
        now = time.perf_counter()
        span, begin = 0.8 * span + 0.2 * min(now - begin, 1), now
    time.sleep(1.3 * rng.random() * span)
    os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) or os.waitstatus_to_exitcode(status) == 0
    while part := os.read(reading, 65536):
        data += part
    os.close(reading)
    last = int.from_bytes(data[-2:], "little") if data else done
    kills += 1
    if os.path.isdir("kept"):
        middle += ".shardwise-writing" in os.listdir("kept")
        try:
            table = Table.restore("kept", "u", overwrite=True)
        except TableNotFoundError:
            assert last == 0
            continue
        found = table.optimizer_step
        assert last <= found <= last + 1, (last, found)
        rows, state = expected[found]
        assert table.lookup(np.arange(2000)).tobytes() == rows
        assert [a.tobytes() for a in table.optimizer_state["adagrad.sum"]] == state
        table.close()
        seen += found > done
        done = found
        if done == 400:  # and from the beginning
            import shutil
            shutil.rmtree("kept")
            done = 0
print(seen, middle)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
def test_sixty_killed_checkpoints(tmp_path):
    seed = random.randrange(1 << 32)
    command = [sys.executable, "-c", KILLING, str(seed), "60"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=tmp_path)
    assert done.returncode == 0, f"seed {seed}\n{done.stderr}"
    seen, middle = map(int, done.stdout.split())
    assert seen >= 5, f"seed {seed}: {done.stdout}"
    assert middle >= 5, f"seed {seed}: {done.stdout}"
