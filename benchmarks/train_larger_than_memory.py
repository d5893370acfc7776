"""Training a table larger than memory: `python -m benchmarks.train_larger_than_memory FOLDER`.

Creates it, trains it in place with a checkpoint after each tenth step, kills the process in the
middle of a step, restores the table and goes on; and compares rows with a small table in memory
that gets the same updates. Each step takes 100,000 random ids, looks their rows up and updates
them, while the rows of the next ones are prefetched. FOLDER needs room for 2.2 times the table.
"""

import argparse
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.larger_than_memory import BATCH, DIM, SHARDS, peak_memory
from shardwise import Table, store
from shardwise.initializers import as_initializer
from shardwise.optimizers import RowwiseAdagrad

STEPS, EVERY, KILLED = 40, 10, 25
OPTIMIZER = RowwiseAdagrad(0.05)


def batch(step: int, rows: int) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """The ids and the gradients of a step: the same whenever they are asked for."""
    rng = np.random.default_rng((7, step))
    return rng.integers(0, rows, BATCH), rng.random((BATCH, DIM), np.float32) - np.float32(0.5)


def say(what: str) -> None:
    print(f"{what}; {peak_memory()}", flush=True)


def create(place: Path, rows: int) -> None:
    begin = time.perf_counter()
    Table.create(place / "table", rows, DIM, shards=SHARDS, initializer="uniform").close()
    say(f"create   {rows * DIM * 4 / 1e6 / (time.perf_counter() - begin):.0f} MB/s")


def train(place: Path, rows: int) -> None:
    with Table.open(place / "table", "r+") as table:
        go_on(table, place, rows)


def restore(place: Path, rows: int) -> None:
    begin = time.perf_counter()
    with Table.restore(place / "kept", place / "table") as table:
        say(f"restore  step {table.optimizer_step} in {time.perf_counter() - begin:.1f} s")
        go_on(table, place, rows)
        compare(table, rows)


def go_on(table: Table, place: Path, rows: int) -> None:
    spent, first = 0.0, table.optimizer_step
    ids, gradients = batch(first, rows)
    for step in range(first, STEPS):
        following = batch(step + 1, rows)
        begin = time.perf_counter()
        table.prefetch(following[0])
        table.lookup(ids)
        table.update(ids, gradients, OPTIMIZER)
        spent += time.perf_counter() - begin
        ids, gradients = following
        done = step + 1
        if done in (1, STEPS) or done % EVERY == 0:
            say(f"train    step {done}: {(done - first) * BATCH / spent:,.0f} rows/s")
            begin = time.perf_counter()
            table.checkpoint(place / "kept")
            taken = time.perf_counter() - begin
            found = store.describe_checkpoint(place / "kept")
            assert found is not None
            last = (found["base"], *found["deltas"])[-1]
            size = f"{last['rows']:,} rows, {last['bytes'] / 1e6:,.0f} MB"
            say(f"         checkpoint of {size} in {taken:.1f} s")
        if done == KILLED and first == 0:
            print("KILL", flush=True)


def compare(table: Table, rows: int) -> None:
    """Replay all steps on a few of the rows, in memory, without a kill."""
    drawn = [batch(step, rows)[0][:100] for step in range(STEPS)]
    sample = np.unique(np.concatenate(drawn))
    first = as_initializer("uniform", (rows, DIM), np.dtype(np.float32))
    assert first is not None
    small = Table.from_array(first(sample), copy=True)
    for step in range(STEPS):
        ids, gradients = batch(step, rows)
        at = np.searchsorted(sample, ids)
        ours = sample[np.minimum(at, len(sample) - 1)] == ids
        small.update(at[ours], gradients[ours], OPTIMIZER)
    if table.lookup(sample).tobytes() != small.lookup(np.arange(len(sample))).tobytes():
        raise SystemExit("the rows differ from those of training without a kill")
    (sums,) = table.optimizer_state.values()
    (expected,) = small.optimizer_state.values()
    shards, places = table.partition.locate(sample)
    found = [sums[k][row] for k, row in zip(shards, places, strict=True)]
    if np.array(found).tobytes() != expected[0].tobytes():
        raise SystemExit("the state differs from that of training without a kill")
    print(f"compare  {len(sample):,} rows and their state: the same bits")


PARTS = {part.__name__: part for part in (create, train, restore)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("folder", type=Path, help="an empty folder on the disk that is measured")
    parser.add_argument("--gigabytes", type=float, default=30, help="the table's size")
    parser.add_argument("--part", choices=PARTS, help=argparse.SUPPRESS)
    given = parser.parse_args()
    rows = int(given.gigabytes * 1e9) // (DIM * 4 * SHARDS) * SHARDS
    if given.part:
        PARTS[given.part](given.folder, rows)
        return
    for part in PARTS:
        command = [sys.executable, "-m", "benchmarks.train_larger_than_memory", str(given.folder)]
        command += ["--gigabytes", str(given.gigabytes), "--part", part]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
            assert child.stdout is not None
            for line in child.stdout:
                if line != "KILL\n":
                    print(line, end="", flush=True)
                    continue
                child.send_signal(signal.SIGKILL)
                print(f"killed   after step {KILLED}", flush=True)
        expected = -signal.SIGKILL if part == "train" else 0
        if child.returncode != expected:
            raise SystemExit(f"expected {part} to end with {expected}, got {child.returncode}")
        if part == "train":
            shutil.rmtree(given.folder / "table")  # half of a step is in it


if __name__ == "__main__":
    main()
