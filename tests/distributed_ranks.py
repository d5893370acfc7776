"""How the tests of distributed tables start ranks, and what these have in common.

Ranks are forked by a server that has imported torch once.
"""

import contextlib
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
CONTEXT.set_forkserver_preload(
    [
        "torch.distributed.checkpoint",
        "torch.nn.parallel",
        "shardwise.distributed._checkpointable",
        "shardwise.distributed._create",
    ]
)
LONGEST = 60  # seconds


class RankFailed(Exception):
    """A rank ended otherwise than by returning."""


def start(function, size, *arguments, timeout=20.0):
    """Start `size` ranks that call function(rank, size, *arguments); return what `join` takes."""
    folder = tempfile.TemporaryDirectory()
    ranks = []
    for rank in range(size):
        job = (function, rank, size, folder.name, timeout, arguments)
        ranks.append(CONTEXT.Process(target=enter, args=job))
    for process in ranks:
        process.start()
    return folder, ranks


def join(started, *, survivors=None):
    """Return what the ranks returned; None for those that died. `survivors` do not."""
    folder, ranks = started
    end = time.monotonic() + LONGEST
    found, problems = [], []
    try:
        lives = range(len(ranks)) if survivors is None else survivors
        for rank in sorted(range(len(ranks)), key=lambda rank: rank not in lives):
            process = ranks[rank]
            process.join(max(0.1, end - time.monotonic()) if rank in lives else 0.1)
            if process.is_alive() and rank in lives:
                problems.append(f"rank {rank} hangs")
            result = Path(folder.name) / f"result-{rank}"
            if result.exists():
                ok, value = pickle.loads(result.read_bytes())
                if not ok:
                    problems.append(f"rank {rank}: {value}")
                found.append(value)
            else:
                found.append(None)
                if rank in lives:
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


def enter(function, rank, size, folder, timeout, arguments):
    """Be a rank."""
    import torch
    import torch.distributed as dist

    import shardwise

    torch.set_num_threads(1)
    shardwise.set_num_threads(1)
    sys.stderr = open(os.path.join(folder, f"stderr-{rank}"), "w")  # noqa: SIM115 - to the end
    store = dist.FileStore(os.path.join(folder, "store"), size)
    dist.init_process_group(
        "gloo", store=store, rank=rank, world_size=size, timeout=timedelta(seconds=timeout)
    )
    try:
        result = True, function(rank, size, *arguments)
    except BaseException:
        result = False, traceback.format_exc()
    whole = os.path.join(folder, f"result-{rank}")
    with open(whole + ".part", "wb") as file:
        pickle.dump(result, file)
    os.replace(whole + ".part", whole)
    sys.stderr.flush()
    os._exit(0)


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


@contextlib.contextmanager
def caught(errors, kind):
    try:
        yield
    except kind as error:
        errors.append(f"{type(error).__name__}: {error}")
