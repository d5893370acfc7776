"""Train a table that is spread over processes, with checkpoints to go on from.

    torchrun --standalone --nproc-per-node 2 examples/train_on_ranks.py kept --steps 100

Run it again, with any number of processes, and it goes on from the last checkpoint in `kept`,
which is an ordinary table: `shardwise info kept`. Each process trains on bags of its own; what a
bag should sum up to is known, so the loss falls.
"""

import argparse
import hashlib
from datetime import timedelta

import numpy as np
import torch
import torch.distributed as dist

from shardwise import Table, TableNotFoundError, optimizers
from shardwise.distributed import DistributedTable
from shardwise.torch import EmbeddingBag

parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
parser.add_argument("path", help="the directory of the checkpoint")
parser.add_argument("--rows", type=int, default=10_000)
parser.add_argument("--dim", type=int, default=16)
parser.add_argument("--bags", type=int, default=64, help="of all processes, in a step")
parser.add_argument("--steps", type=int, default=100)
parser.add_argument("--every", type=int, default=20, help="steps between checkpoints")
parser.add_argument("--timeout", type=float, default=60, help="seconds to wait for a process")
asked = parser.parse_args()

dist.init_process_group("gloo", timeout=timedelta(seconds=asked.timeout))
rank, size = dist.get_rank(), dist.get_world_size()
torch.manual_seed(0)
options = {"exact": True, "timeout": timedelta(seconds=asked.timeout)}
try:
    table = DistributedTable.open(asked.path, mode="memory", **options)
except TableNotFoundError:
    table = DistributedTable.create(asked.path, asked.rows, asked.dim, **options)
begin = table.optimizer_step
bags = EmbeddingBag(table=table, mode="mean", optimizer=optimizers.Adagrad(0.5))
if rank == 0:
    print(f"{size} processes from step {begin}: {table.rows_of_ranks} rows", flush=True)

for step in range(begin, asked.steps):
    # The bags of all, of which each process takes its share.
    rng = np.random.default_rng(step)
    ids = torch.from_numpy(rng.zipf(1.3, (asked.bags, 8)) % asked.rows)
    wanted = (ids % 7).float().mean(dim=1, keepdim=True)
    mine = slice(rank * asked.bags // size, (rank + 1) * asked.bags // size)
    loss = torch.nn.functional.mse_loss(
        bags(ids[mine]), wanted[mine].expand(-1, asked.dim), reduction="sum"
    )
    # Gradients are divided by the number of processes, as DistributedDataParallel does it.
    (loss * size / asked.bags).backward()
    if (step + 1) % asked.every == 0 or step + 1 == asked.steps:
        table.save(asked.path, overwrite=True)
        if rank == 0:
            print(f"step {step + 1}: loss {float(loss.detach()):.4f}, saved", flush=True)

dist.barrier()
if rank == 0:
    rows = Table.open(asked.path, verify=True).lookup(np.arange(asked.rows))
    print(f"rows: {hashlib.sha256(rows.tobytes()).hexdigest()[:16]}", flush=True)
dist.destroy_process_group()
