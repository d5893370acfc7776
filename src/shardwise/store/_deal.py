"""Dealing rows that follow each other out to the files of their shards, in parallel."""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor, Future
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shardwise._partition import Partition
from shardwise.store._files import Bytes, FileWriter

_SMALL = 256 << 10  # a piece that is put together with others of its shard before it is written
_KEPT = 64 << 20  # bytes of such pieces at once


class Dealer:
    """Appends rows in the order of their ids to the shards: they are next there too.

    Args:
        partition: how rows fall on shards.
        shards: the shards' files.
        pool: threads that help with pieces large enough.
    """

    def __init__(self, partition: Partition, shards: Sequence[FileWriter], pool: Executor) -> None:
        self._partition = partition
        self._shards = shards
        self._pool = pool
        self._ends = ends(partition)
        self._kept = 0

    def deal(self, block: NDArray[Any], first: int) -> None:
        """Append rows whose ids begin with `first`; the block may be reused after that."""
        if not block.size:
            return
        rows = as_items(block)
        found = list(pieces(self._partition, self._ends, first, len(rows)))
        if rows.nbytes // len(found) >= _SMALL:
            if len(found) == 1:
                self._write_one(self._shards[found[0][0]], as_bytes(rows))
            else:
                wait([self._pool.submit(self._write, k, rows[where]) for k, where in found])
            return
        for k, where in found:
            self._shards[k].later(as_bytes(rows[where].copy()))
        self._kept += rows.nbytes
        if self._kept >= _KEPT:
            for shard in self._shards:
                shard.flush()
            self._kept = 0

    def _write(self, k: int, piece: NDArray[Any]) -> None:
        self._shards[k].flush()
        self._shards[k].write(as_bytes(piece))

    def _write_one(self, shard: FileWriter, data: Bytes) -> None:
        """Write to one file, with its checksum made at the same time."""
        shard.flush()
        hashed = self._pool.submit(shard.hash, data)
        try:
            shard.store(data)
        finally:
            hashed.result()


def ends(partition: Partition) -> list[int]:
    """The ids before which shards end, where shards are contiguous."""
    return list(itertools.accumulate(partition.shard_sizes))


def pieces(
    partition: Partition, ends: Sequence[int], first: int, count: int
) -> Iterator[tuple[int, slice]]:
    """The shards on which `count` ids from `first` on fall, and which of these each gets."""
    if partition.strategy == "mod":
        n = partition.num_shards
        for j in range(min(n, count)):
            yield (first + j) % n, slice(j, None, n)
        return
    k, begin = bisect.bisect_right(ends, first), 0
    while begin < count:
        end = min(ends[k] - first, count)
        if end > begin:
            yield k, slice(begin, end)
        k, begin = k + 1, end


def wait(futures: Sequence[Future[None]]) -> None:
    """Wait for all, also after an error: nobody uses a buffer any more after that."""
    try:
        for future in futures:
            future.result()
    finally:
        for future in futures:
            if not future.cancel():
                future.exception()


def as_items(block: NDArray[Any]) -> NDArray[np.void]:
    """Rows as one item each, whatever they are."""
    rows = np.ascontiguousarray(block).reshape(len(block), -1).view(np.uint8)
    return rows.view(np.dtype((np.void, rows.shape[1])))[:, 0]


def as_bytes(items: NDArray[Any]) -> Bytes:
    """An array as bytes, contiguous."""
    flat: Bytes = np.ascontiguousarray(items).reshape(-1).view(np.uint8)
    return flat
