"""Which rows each rank holds: runs of rows as the shards follow each other.

The place of a row is how many rows there are before it, shard after shard. Ranks hold runs of
places, so each needs one number to say where its rows begin, whatever the partition is.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from shardwise._partition import Partition

if TYPE_CHECKING:
    from numpy.typing import NDArray


class Piece(NamedTuple):
    """Rows `begin` to `end` of a shard."""

    shard: int
    begin: int
    end: int


def shard_starts(partition: Partition) -> list[int]:
    """Return the place of each shard's first row, and behind them the number of rows."""
    return [0, *itertools.accumulate(partition.shard_sizes)]


def cuts_of(partition: Partition, ranks: int) -> list[int]:
    """Return the places at which the rows of ranks begin, and the number of rows.

    Each rank holds whole shards, which follow each other, and as many as another or one more; with
    fewer shards than ranks, shards are cut, and each rank holds as many rows as another.
    """
    starts = shard_starts(partition)
    shards = partition.num_shards
    if shards >= ranks:
        return [starts[shards // ranks * r + min(r, shards % ranks)] for r in range(ranks + 1)]
    return [partition.num_rows * r // ranks for r in range(ranks + 1)]


def pieces_of(partition: Partition, begin: int, end: int) -> list[Piece]:
    """Return which rows of which shards have the places `begin` to `end`.

    Of no places, it is an empty piece of the first shard.
    """
    starts, found = shard_starts(partition), []
    for shard in range(partition.num_shards):
        low, high = max(begin, starts[shard]), min(end, starts[shard + 1])
        if low < high:
            found.append(Piece(shard, low - starts[shard], high - starts[shard]))
    return found or [Piece(0, 0, 0)]


def local_partition(pieces: Sequence[Piece]) -> Partition:
    """Return how a rank's rows fall on its pieces."""
    sizes = [piece.end - piece.begin for piece in pieces]
    return Partition.ranges([0, *itertools.accumulate(sizes)])


def ids_of(partition: Partition, pieces: Sequence[Piece]) -> NDArray[np.int64]:
    """Return the ids of a rank's rows, in their order."""
    return np.concatenate(
        [partition.ids_of(shard, np.arange(begin, end)) for shard, begin, end in pieces]
    )
