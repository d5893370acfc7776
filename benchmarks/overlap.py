"""What `DistributedTable.prefetch` hides, of steps that look rows up and then compute.

    torchrun --standalone --nproc-per-node 2 -m benchmarks.overlap

`bash benchmarks/overlap.sh PYTHON FOLDER MILLISECONDS` runs it on two network namespaces with a
slow link between them. Steps with and without take turns; medians, of rank 0.
"""

import argparse
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

import shardwise
from shardwise import optimizers
from shardwise.distributed import DistributedTable

ROWS, DIM, BAG = 1_000_000, 64, 20


def batch(rank: int, step: int, bags: int) -> np.ndarray[Any, Any]:
    """Zipf ids, of shape (bags, BAG)."""
    rng = np.random.default_rng([rank, step])
    return ((float(ROWS) ** rng.random((bags, BAG))).astype(np.int64) - 1).astype(np.int64)


def computing(milliseconds: float, busy: bool) -> Callable[[], None]:
    """Return what computes for so long: by matrix products of torch's, or as a device that is none
    of this machine's CPUs does, for which they wait."""
    if not busy:
        return lambda: time.sleep(milliseconds / 1e3)
    side = torch.rand(256, 256)

    def compute(times: int) -> None:
        for _ in range(times):
            torch.mm(side, side)

    compute(200)
    begin = time.perf_counter()
    compute(1000)
    times = max(1, round(milliseconds / (time.perf_counter() - begin)))
    return lambda: compute(times)


def main() -> None:
    parser = argparse.ArgumentParser(description="What prefetch saves.")
    parser.add_argument("--bags", type=int, default=512, help="of a rank, in a step")
    parser.add_argument("--compute", type=float, default=20, help="milliseconds of a step")
    parser.add_argument("--busy", action="store_true", help="compute on this CPU, not elsewhere")
    parser.add_argument("--rounds", type=int, default=30)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    shardwise.set_num_threads(1)
    dist.init_process_group("gloo", timeout=timedelta(seconds=60))
    rank = dist.get_rank()
    compute = computing(asked.compute, asked.busy)
    sgd = optimizers.SGD(0.01)
    gradient = np.full((asked.bags, DIM), 1e-3, np.float32)

    def look_up(table: DistributedTable, ids: Any, following: Any) -> None:
        table.lookup(ids)
        if following is not None:
            table.prefetch(following)
        compute()

    def train(table: DistributedTable, ids: Any, following: Any) -> None:
        offsets = np.arange(0, ids.size, BAG)
        flat = ids.reshape(-1)
        table.pool(flat, offsets)
        if following is not None:
            table.prefetch(following.reshape(-1), offsets, combiner="sum")
        compute()
        table.update_pool(flat, offsets, gradient, sgd)

    begin = time.perf_counter()
    for _ in range(10):
        compute()
    alone = (time.perf_counter() - begin) / 10
    folder = [tempfile.mkdtemp()]  # rank 0's, where all see it
    dist.broadcast_object_list(folder)
    trained = DistributedTable.create(f"{folder[0]}/t", ROWS, DIM, initializer="uniform")
    read = DistributedTable.open(f"{folder[0]}/t")
    for name, job, table in (("lookup", look_up, read), ("train", train, trained)):
        times: dict[bool, list[float]] = {False: [], True: []}
        for step in range(2 * asked.rounds + 4):
            ahead = step // 2 % 2 == 1  # two steps each: the second of them is what was begun ahead
            ids, following = (batch(rank, k, asked.bags) for k in (step, step + 1))
            if not ahead:
                table._known = None
            dist.barrier()
            begin = time.perf_counter()
            job(table, ids, following if ahead else None)
            if step > 3 and step % 2 == 1:
                times[ahead].append(time.perf_counter() - begin)
        plain, better = (statistics.median(times[key]) * 1e3 for key in (False, True))
        if rank == 0:
            hidden = (plain - better) / (plain - alone * 1e3)
            print(
                f"{name}: {plain:.1f} ms a step, {better:.1f} ms with prefetch; of these "
                f"{alone * 1e3:.1f} ms are computing: {hidden:.0%} of the rest is hidden",
                flush=True,
            )
    dist.barrier()
    shutil.rmtree(folder[0], ignore_errors=True)
    dist.destroy_process_group()


main()
