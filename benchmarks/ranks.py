"""Processes that do the same at the same time: the ranks of a group of torch.distributed."""

import multiprocessing
import os
import tempfile
import traceback
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from . import peers


class Ranks:
    """Ranks of which each holds one worker, an object that a function makes.

    Args:
        size: how many.
        threads: how many threads each may use.
        make: a function of a module, of (rank, size, threads), that makes the worker.
    """

    def __init__(self, size: int, threads: int, make: Any) -> None:
        context = multiprocessing.get_context("spawn")
        self._folder = tempfile.TemporaryDirectory()
        store = str(Path(self._folder.name) / "store")
        os.environ.update(peers.quiet_environment(threads))
        self._pipes: list[Connection] = []
        for rank in range(size):
            here, there = context.Pipe()
            context.Process(
                target=serve, args=(there, store, rank, size, threads, make), daemon=True
            ).start()
            self._pipes.append(here)

    def call(self, name: str, *arguments: object) -> list[Any]:
        """Call a method of all workers, and return what they return."""
        for pipe in self._pipes:
            pipe.send((name, arguments))
        found = [pipe.recv() for pipe in self._pipes]
        for rank, (ok, value) in enumerate(found):
            if not ok:
                raise RuntimeError(f"rank {rank}:\n{value}")
        return [value for _, value in found]

    def close(self) -> None:
        for pipe in self._pipes:
            pipe.send(None)


def serve(pipe: Connection, store: str, rank: int, size: int, threads: int, make: Any) -> None:
    """Be a rank, until there is nothing more to do."""
    import torch
    import torch.distributed as dist

    import shardwise

    torch.set_num_threads(threads)
    shardwise.set_num_threads(threads)
    dist.init_process_group("gloo", store=dist.FileStore(store, size), rank=rank, world_size=size)
    worker = make(rank, size, threads)
    while (asked := pipe.recv()) is not None:
        name, arguments = asked
        try:
            pipe.send((True, getattr(worker, name)(*arguments)))
        except Exception:
            pipe.send((False, traceback.format_exc()))
    os._exit(0)  # groups that are gone one after the other have much to say
