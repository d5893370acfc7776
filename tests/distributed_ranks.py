"""What the ranks of the tests of distributed tables do; and how the tests start them.

Ranks are forked by a server that has imported torch once.
"""

import multiprocessing
import os
import pickle
import signal
import sys
import tempfile
import time
import traceback
from datetime import timedelta
from pathlib import Path

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["torch.distributed", "shardwise.distributed"])
LONGEST = 60  # seconds


class RankFailed(Exception):
    """A rank ended otherwise than by returning."""


def start(function, size, *arguments, timeout=20.0):
    """Start `size` ranks that call function(rank, size, *arguments); return what `join` takes."""
    folder = tempfile.TemporaryDirectory()
    ranks = []
    for rank in range(size):
        job = (function.__name__, rank, size, folder.name, timeout, arguments)
        ranks.append(CONTEXT.Process(target=enter, args=job))
    for process in ranks:
        process.start()
    return folder, ranks


def join(started, *, survivors=None):
    """Return what the ranks returned; None for those that died, where `survivors` says who lives."""
    folder, ranks = started
    end = time.monotonic() + LONGEST
    found, problems = [], []
    try:
        for rank, process in enumerate(ranks):
            process.join(max(0.1, end - time.monotonic()))
            if process.is_alive():
                problems.append(f"rank {rank} hangs")
            result = Path(folder.name) / f"result-{rank}"
            if result.exists():
                ok, value = pickle.loads(result.read_bytes())
                if not ok:
                    problems.append(f"rank {rank}: {value}")
                found.append(value)
            else:
                found.append(None)
                if survivors is None or rank in survivors:
                    problems.append(f"rank {rank} ended with {process.exitcode}")
    finally:
        for process in ranks:
            if process.is_alive():
                os.kill(process.pid, signal.SIGKILL)
                process.join()
        folder.cleanup()
    if problems:
        raise RankFailed("\n".join(problems))
    return found


def run(function, size, *arguments, timeout=20.0):
    """Return what function(rank, size, *arguments) returns on each of `size` ranks."""
    return join(start(function, size, *arguments, timeout=timeout))


def enter(name, rank, size, folder, timeout, arguments):
    """Be a rank."""
    import torch
    import torch.distributed as dist

    import shardwise

    torch.set_num_threads(1)
    shardwise.set_num_threads(1)
    sys.stderr = open(os.path.join(folder, f"stderr-{rank}"), "w")  # noqa: SIM115
    store = dist.FileStore(os.path.join(folder, "store"), size)
    dist.init_process_group(
        "gloo", store=store, rank=rank, world_size=size, timeout=timedelta(seconds=timeout)
    )
    try:
        result = True, globals()[name](rank, size, *arguments)
    except BaseException:
        result = False, traceback.format_exc()
    whole = os.path.join(folder, f"result-{rank}")
    with open(whole + ".part", "wb") as file:
        pickle.dump(result, file)
    os.replace(whole + ".part", whole)
    sys.stderr.flush()
    os._exit(0)


# What ranks do. Each has ids and gradients of its own, made of its rank.

ROWS, DIM = 211, 5


def batch(rank, step=0, count=97):
    """Ids with many duplicates, bags of any lengths, weights, and gradients of both."""
    import numpy as np

    rng = np.random.default_rng([rank, step])
    count = 0 if (rank + step) % 4 == 3 else count + rank
    ids = np.minimum(rng.zipf(1.3, count) - 1, ROWS - 1)
    bags = 0 if count == 0 else 23
    offsets = np.sort(rng.integers(0, count + 1, bags))
    offsets[:1] = 0
    weights = rng.uniform(0.5, 2, count).astype(np.float32)
    rows = rng.standard_normal((count, DIM)).astype(np.float32)
    sums = rng.standard_normal((bags, DIM)).astype(np.float32)
    return ids, offsets, weights, rows, sums


def everything(rank, size, path, exact, optimizer, steps):
    """Look up, pool and train; return all that was read, in bytes."""
    from shardwise.distributed import DistributedTable

    table = DistributedTable.open(path, mode="memory", exact=exact)
    read = []
    for step in range(steps):
        ids, offsets, weights, rows, sums = batch(rank, step)
        read.append(table.lookup(ids))
        for combiner in ("sum", "mean", "sqrtn", "max"):
            read.append(table.pool(ids, offsets, weights=weights, combiner=combiner))
        read.append(table.pool(ids, offsets, combiner="mean", padding_id=0, default_id=7))
        table.update(ids, rows, optimizer)
        table.update_pool(ids, offsets, sums, optimizer, combiner="mean", padding_id=2)
        table.update_pool(ids, offsets, sums, optimizer, weights=weights)
        table.update_pool(ids, offsets, sums, optimizer, combiner="max")
    read.append(table.lookup(range(ROWS) if rank == 0 else []))
    return read, table.optimizer_step, table.sent_bytes


def single(size, path, optimizer, steps):
    """The same by one process, with the batches of all ranks one after the other."""
    import numpy as np

    from shardwise import Table

    table = Table.open(path, "c")
    read = [[] for _ in range(size)]
    for step in range(steps):
        batches = [batch(rank, step) for rank in range(size)]
        for rank, (ids, offsets, weights, _, _) in enumerate(batches):
            read[rank].append(table.lookup(ids))
            for combiner in ("sum", "mean", "sqrtn", "max"):
                read[rank].append(table.pool(ids, offsets, weights=weights, combiner=combiner))
            read[rank].append(table.pool(ids, offsets, combiner="mean", padding_id=0, default_id=7))
        starts = np.cumsum([0, *(len(one[0]) for one in batches)])
        offsets = np.concatenate([one[1] + start for one, start in zip(batches, starts)])
        ids, _, weights, rows, sums = (np.concatenate(parts) for parts in zip(*batches))
        table.update(ids, rows, optimizer)
        table.update_pool(ids, offsets, sums, optimizer, combiner="mean", padding_id=2)
        table.update_pool(ids, offsets, sums, optimizer, weights=weights)
        table.update_pool(ids, offsets, sums, optimizer, combiner="max")
    for rank in range(size):
        read[rank].append(table.lookup(range(ROWS) if rank == 0 else np.empty(0, np.int64)))
    return read, table.optimizer_step
