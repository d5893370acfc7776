"""16 threads on one table: one writes, the others read. What is promised there:

- a lookup gives, for each id, numbers that were written to that row, never those of another row;
- no number is torn, though the numbers of one row may be of two writes that follow each other;
- a lookup that begins after a write has returned sees that write, or a later one;
- an error of one thread is nobody else's, and at the end every row is what was written last.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import shardwise
from shardwise import IdOutOfRangeError, Table, Vocabulary, optimizers

from .counts import Fault, Run

READERS = 15
ROWS, DIM = 3000, 24
PATIENCE = 900.0


def rows_of(ids: NDArray[Any], generation: NDArray[Any] | int) -> NDArray[np.float64]:
    """Each number says whose row it is, and by which write: exact in float64."""
    numbers = np.asarray(generation, np.float64) * ROWS + ids
    return np.repeat(numbers[:, None], DIM, axis=1)


class Shared:
    """A table, and how far its writer has come.

    Attributes:
        begun: the generation that the writer may be writing now.
        ended: the generation, for each row, that it surely has written.
    """

    def __init__(self, tables: list[Table], write: Callable[[NDArray[Any], int], None]) -> None:
        self.tables = tables  # the same rows, by several ways
        self.write_rows = write
        self.begun = 0
        self.ended = np.zeros(ROWS, np.int64)
        self.stop = threading.Event()
        self.failures: list[BaseException] = []
        self.rounds = [0] * (READERS + 1)

    def write(self, seed: int) -> None:
        rng = np.random.default_rng(seed)
        while not self.stop.is_set():
            ids = rng.permutation(ROWS)[: rng.choice([1, 30, 1000, ROWS])]
            self.begun += 1
            self.write_rows(ids, self.begun)
            self.ended[ids] = self.begun
            self.rounds[-1] += 1

    def read(self, k: int, seed: int) -> None:
        rng = np.random.default_rng(seed)
        vocabulary = Vocabulary(f"word{i}" for i in range(ROWS))
        while not self.stop.is_set():
            table = self.tables[int(rng.integers(len(self.tables)))]
            ids = rng.integers(0, ROWS, int(rng.choice([1, 40, 1000, 20_000])))
            low = self.ended[ids]
            if rng.random() < 0.2:
                found = table.pool(ids, np.arange(len(ids)), combiner="max")
            else:
                found = table.lookup(ids)
            high = self.begun
            generation, whose = np.divmod(found, ROWS)
            if not (whose == ids[:, None]).all():
                raise Fault(f"rows of other ids, seed {seed}: {found[(ids != whose.T).any(0)]}")
            if (generation < low[:, None]).any() or (generation > high).any():
                raise Fault(f"rows from before the last write, seed {seed}")
            try:
                table.lookup([0, ROWS])
                raise Fault("an id outside was taken")
            except IdOutOfRangeError as error:
                if f"ids[1] = {ROWS}" not in str(error):
                    raise
            if k == 0:
                shardwise.set_num_threads(int(rng.integers(1, 5)))
                shardwise.empty_cache()
            words = rng.integers(0, ROWS, 20)
            assert (vocabulary.encode([f"word{i}" for i in words]) == words).all()
            self.rounds[k] += 1

    def guarded(self, work: Callable[..., None], *arguments: int) -> None:
        try:
            work(*arguments)
        except BaseException as error:
            self.failures.append(error)
            self.stop.set()


def live(run: Run, shared: Shared, seed: int, seconds: float) -> None:
    workers = [threading.Thread(target=shared.guarded, args=[shared.write, seed])]
    for k in range(READERS):
        workers.append(threading.Thread(target=shared.guarded, args=[shared.read, k, seed + k]))
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        for worker in workers:
            worker.start()
        shared.stop.wait(seconds)
        shared.stop.set()
        for worker in workers:
            worker.join(PATIENCE)
    finally:
        sys.setswitchinterval(before)
    if shared.failures:
        raise shared.failures[0]
    if any(worker.is_alive() for worker in workers):
        raise Fault(f"a thread hangs, seed {seed}")
    everything = np.arange(ROWS)
    for table in shared.tables:
        if not (table.lookup(everything) == rows_of(everything, shared.ended)).all():
            raise Fault(f"rows are not what was written last, seed {seed}")
    run.count("rounds of readers, each checked", sum(shared.rounds[:-1]))
    run.count("writes beside them", shared.rounds[-1])


def in_memory(folder: Path) -> Shared:
    table = Table.from_array(rows_of(np.arange(ROWS), 0), 3, copy=True)
    return Shared([table], lambda ids, step: table.write(ids, rows_of(ids, step)))


def in_files(folder: Path) -> Shared:
    path = folder / "table"
    Table.from_array(rows_of(np.arange(ROWS), 0), 3, "div").save(path)
    table = Table.open(path, "r+")
    others = [Table.open(path), Table.open(path)]
    return Shared([table, *others], lambda ids, step: table.write(ids, rows_of(ids, step)))


def trained(folder: Path) -> Shared:
    """A writer that updates: whole numbers, whose sums and products are exact."""
    path = folder / "trained"
    Table.from_array(rows_of(np.arange(ROWS), 0), 2).save(path)
    table = Table.open(path, "r+")
    steps = np.zeros(ROWS, np.int64)

    def write(ids: NDArray[Any], step: int) -> None:
        gradients = -ROWS * (step - steps[ids]).astype(np.float64)
        table.update(ids, np.repeat(gradients[:, None], DIM, axis=1), optimizers.SGD(1.0))
        steps[ids] = step

    return Shared([table, Table.open(path)], write)


def run(run: Run) -> None:
    threads = shardwise.num_threads()
    seed = run.seed
    try:
        while True:
            for make in (in_memory, in_files, trained):
                folder = run.folder / f"{make.__name__}{seed}"
                folder.mkdir()
                shared = make(folder)
                live(run, shared, seed, 1.0 if run.is_short else 10.0)
                for table in shared.tables:
                    table.close()
            seed += 1
            if not run.goes_on():
                return
    finally:
        shardwise.set_num_threads(threads)
