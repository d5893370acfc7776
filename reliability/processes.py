"""Pools of processes, forked in the middle of work and spawned, on the tables of their parent."""

from __future__ import annotations

import multiprocessing
import sys
import threading
import warnings
from concurrent.futures import ProcessPoolExecutor
from multiprocessing.context import BaseContext
from pathlib import Path
from typing import Any

import numpy as np
from numpy.random import default_rng  # here, for NumPy imports it late: a fork may come between
from numpy.typing import NDArray

import shardwise
from shardwise import Table, optimizers

from .counts import Fault, Run

ROWS, DIM = 4000, 32
PATIENCE = 900.0
FULL = np.arange(ROWS * DIM, dtype=np.float32).reshape(ROWS, DIM)
inherited: dict[str, Table] = {}  # what a forked child finds; a spawned one finds nothing


def checked(table: Table, seed: int) -> int:
    """Lookups and pools in a process; how many were right."""
    rng = default_rng(seed)
    for size in (1, 500, 20_000):
        ids = rng.integers(0, ROWS, size)
        if not (table.lookup(ids) == FULL[ids]).all():
            raise Fault(f"wrong rows, seed {seed}")
        pooled = table.pool(ids[:500].reshape(-1, 1), combiner="mean")
        if not (pooled == FULL[ids[:500]]).all():
            raise Fault(f"wrong pooled rows, seed {seed}")
    return 4


def in_child(path: str, seed: int) -> int:
    """What every child does: with the tables it was given, with one it opens, and with its own."""
    shardwise.set_num_threads(1 + seed % 3)
    count = sum(checked(table, seed + k) for k, table in enumerate(inherited.values()))
    count += checked(Table.open(path), seed)
    own = Table.from_array(FULL, 1 + seed % 5, copy=True)
    own.update([1, 2], np.zeros((2, DIM), np.float32), optimizers.SGD(0.1))
    count += checked(own, seed)
    shardwise.empty_cache()
    return count


def writes(path: str, marks: NDArray[Any]) -> None:
    """A child that writes to files that its parent reads."""
    with Table.open(path, "r+") as table:
        table.write(np.arange(len(marks)), marks)


def contexts() -> list[BaseContext]:
    # On macOS a forked child may not use the system's frameworks, and Windows has no fork.
    forks = ["fork", "forkserver"] if sys.platform == "linux" else []
    return [multiprocessing.get_context(name) for name in (*forks, "spawn")]


def one_pool(run: Run, context: BaseContext, path: Path, seed: int) -> None:
    kind = context.get_start_method()
    with ProcessPoolExecutor(3, mp_context=context) as pool:
        futures = [pool.submit(in_child, str(path / "read"), seed + k) for k in range(9)]
        run.count(f"children's answers ({kind})", sum(one.result(PATIENCE) for one in futures))
        reader = Table.open(path / "written")
        marks = np.full((50, DIM), float(seed % 1000), np.float32)
        pool.submit(writes, str(path / "written"), marks).result(PATIENCE)
        if not (reader.lookup(np.arange(50)) == marks).all():
            raise Fault("a child's rows are not seen")
        run.count(f"tables written by children ({kind})")


def run(run: Run) -> None:
    Table.from_array(FULL, 3, "div").save(run.folder / "read")
    Table.from_array(FULL).save(run.folder / "written")
    inherited["memory"] = Table.from_array(FULL, 7, copy=True)
    inherited["files"] = Table.open(run.folder / "read")
    stop = threading.Event()
    failures: list[BaseException] = []

    def keep_busy(seed: int) -> None:
        try:
            while not stop.is_set():
                checked(inherited["memory"], seed)
        except BaseException as error:
            failures.append(error)

    seed = run.seed
    workers = [threading.Thread(target=keep_busy, args=[k]) for k in range(2)]
    for worker in workers:
        worker.start()
    try:
        with warnings.catch_warnings():
            # That there are threads when it forks is what is tried here.
            warnings.filterwarnings("ignore", "This process .* multi-threaded", DeprecationWarning)
            while True:
                for context in contexts():
                    one_pool(run, context, run.folder, seed)
                seed += 100
                if not run.goes_on():
                    break
    finally:
        stop.set()
        for worker in workers:
            worker.join(PATIENCE)
        inherited.clear()
    if failures:
        raise failures[0]
