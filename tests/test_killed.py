"""Writers that are killed at any moment: a table is the old one or the new one, never another."""

import os
import random
import subprocess
import sys

import pytest

# It runs in a process of its own, which forks each writer: nothing is imported 200 times.
KILLING = """
import os, random, signal, sys, time
from pathlib import Path
import numpy as np
import shardwise
from shardwise import Partition, Table, TableNotFoundError, Vectors, Vocabulary
from shardwise.store import open_table, reshard, verify_table

SEED, COUNT = int(sys.argv[1]), int(sys.argv[2])
rng = random.Random(SEED)

# Two sets of rows, with words: as files for `convert`, as tables, and in memory.
rows = {name: np.random.default_rng(k).standard_normal((3000 + k, 40)).astype("f4")
        for k, name in enumerate(("old", "new"))}
words = {name: Vocabulary(f"{name}{i}" for i in range(len(rows[name]))) for name in rows}
made = {name: Vectors(Table.from_array(rows[name]), words[name]) for name in rows}
header = b"%d 40\\n" % len(rows["new"])
Path("new.bin").write_bytes(header + b"".join(
    f"new{i} ".encode() + row.tobytes() + b"\\n" for i, row in enumerate(rows["new"])))
made["new"].save("source")

def convert(path):
    shardwise.convert("new.bin", path, shards=3, partition="div", overwrite=True)

def save(path):
    cut = Table.from_array(rows["new"], 3, "div")
    Vectors(cut, words["new"]).save(path, overwrite=True)

def shard_again(path):
    reshard("source", path, shards=3, partition="div", overwrite=True)

def shard_in_place(path):
    reshard(path, path, shards=3, partition="div", overwrite=True)

def prepare(path, what):
    # What is there before: a table, or nothing.
    if what is shard_in_place:
        Vectors(Table.from_array(rows["new"], 5), words["new"]).save(path)
    elif path.startswith("over"):
        Vectors(Table.from_array(rows["old"], 5), words["old"]).save(path)

def state(path):
    # Which table is there; every byte of it is as it should be.
    try:
        found = Vectors.open(path)
    except TableNotFoundError:
        return "none"
    assert {one.state for one in verify_table(path)} == {"ok"}
    cut = found.table.partition
    name = "old" if len(found) == len(rows["old"]) else "new"
    assert found.table.lookup(np.arange(len(found))).tobytes() == rows[name].tobytes()
    assert found.vocabulary == words[name]
    if cut == Partition.div(len(rows["new"]), 3) and name == "new":
        return "new"
    assert cut == Partition.mod(len(rows[name]), 5), cut
    return "old"

def only_its_own(path):
    manifest = open_table(path).manifest
    return set(os.listdir(path)) == manifest.files() | {"shardwise.json"}

def fork(what, path):
    child = os.fork()
    if not child:
        code = 1
        try:
            what(path)
            code = 0
        finally:
            os._exit(code)
    return child

def finish(what, path):
    # How long does it take, here and now?
    begin = time.perf_counter()
    _, status = os.waitpid(fork(what, path), 0)
    assert status == 0
    return time.perf_counter() - begin

def remove(path):
    for file in os.listdir(path):
        os.unlink(f"{path}/{file}")
    os.rmdir(path)

kinds = [(convert, "fresh"), (convert, "over"), (save, "fresh"), (save, "over"),
         (shard_again, "fresh"), (shard_again, "over"), (shard_in_place, "over")]
spans, seen = {}, {"old": 0, "new": 0, "none": 0}
kills = middle = 0

def kill(what, path, before, span):
    # A writer at any moment; what is there afterwards?
    global middle
    child = fork(what, path)
    time.sleep(rng.random() * 1.3 * span)
    os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) or os.waitstatus_to_exitcode(status) == 0
    middle += os.path.isdir(path) and ".shardwise-writing" in os.listdir(path)
    after = state(path)
    seen[after] += 1
    assert after in (before, "new"), (before, after)
    assert os.WIFSIGNALED(status) or after == "new"
    return after

for attempt in range(1000):
    what, where = kinds[attempt % len(kinds)]
    path = f"{where}{attempt}"
    try:
        prepare(path, what)
        if attempt < len(kinds):
            spans[what, where] = finish(what, path)
            remove(path)
            prepare(path, what)
        after = state(path) if where == "over" else "none"
        for _ in range(rng.randint(1, 3)):  # also where one was killed before
            after = kill(what, path, after, spans[what, where])
            kills += 1
        # The next writer succeeds, and leaves no file of another.
        begin = time.perf_counter()
        what(path)
        spans[what, where] = (spans[what, where] + time.perf_counter() - begin) / 2
        assert state(path) == "new" and only_its_own(path), os.listdir(path)
        remove(path)
    except BaseException:
        print(f"{what.__name__} at {path}, after {kills} kills, seed {SEED}", file=sys.stderr)
        raise
    if kills >= COUNT:
        break
print(seen["old"] + seen["none"], seen["new"], middle)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
def test_two_hundred_killed_writers(tmp_path):
    seed = random.randrange(1 << 32)
    command = [sys.executable, "-c", KILLING, str(seed), "200"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=tmp_path)
    assert done.returncode == 0, f"seed {seed}\n{done.stderr}"
    before, after, middle = map(int, done.stdout.split())
    assert before + after >= 200
    # Each kill comes at a random moment of the 1.3 times that a writer takes.
    assert before >= 10, f"seed {seed}: {done.stdout}"
    assert after >= 10, f"seed {seed}: {done.stdout}"
    assert middle >= 10, f"seed {seed}: {done.stdout}"
