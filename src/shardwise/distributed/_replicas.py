"""Rows of which every rank has a copy: those that are asked for often.

The rank that holds a row is the one that changes it. What is not as it was is then sent to all, so
that copies have the bits of their row after each call.
"""

from __future__ import annotations

import itertools
import math
from typing import TYPE_CHECKING, Any

import numpy as np

from shardwise import _native
from shardwise._cuts import shard_starts
from shardwise._ids import as_ids, out_of_range_error
from shardwise._partition import Partition
from shardwise._table import Table

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from shardwise.distributed._exchange import Exchange
    from shardwise.distributed._wire import Wire


class Replicas:
    """Copies of some rows, in the order of their places: those of rank 0 first.

    Attributes:
        ids: int64[copies], of the rows.
        places: int64[copies], rising.
        rows: of shape (copies, ...), as they lie in the shards.
        sent: the same as they would come over the wire: what a lookup finds in their place.
        beside: the rows of this rank, and behind them the copies, as a table.
    """

    def __init__(
        self,
        ids: NDArray[np.int64],
        partition: Partition,
        cuts: Sequence[int],
        rank: int,
        local: Table,
    ) -> None:
        shards, rows = partition.locate(ids)
        places = np.asarray(shard_starts(partition))[shards] + rows
        order = np.argsort(places)
        self.ids, self.places = ids[order], places[order]
        ends = np.searchsorted(self.places, cuts)
        self._of_ranks = [slice(a, b) for a, b in itertools.pairwise(ends.tolist())]
        self._own = self._of_ranks[rank]
        self._own_rows = self.places[self._own] - cuts[rank]
        layout = local._layout
        self.rows = _native.zeros((len(ids), *layout.stored_shape), layout.stored_dtype)
        self.sent = self.rows
        self._is_filled = False
        self.beside = Table._make(
            [*local._shards, self.rows],
            _lengthened(local, len(ids)),
            layout=layout,
            mode=local._mode,
        )

    @classmethod
    def of(
        cls, ids: Any, partition: Partition, cuts: Sequence[int], rank: int, local: Table
    ) -> Replicas | None:
        """Return room for copies of the rows of ids; None where there is nothing to copy.

        Raises:
            IdTypeError: they are no integers.
            IdOutOfRangeError: one is outside the table.
        """
        if ids is None:
            return None
        found = as_ids(ids)
        outside = np.flatnonzero((found < 0) | (found >= partition.num_rows))
        if outside.size:
            position = int(outside[0])
            value = int(found.reshape(-1)[position])
            raise out_of_range_error(found.shape, position, value, partition.num_rows)
        unique = np.unique(found).astype(np.int64)
        if unique.size == 0 or local._layout.row_bytes == 0:
            return None
        return cls(unique, partition, cuts, rank, local)

    def refresh(self, exchange: Exchange, local: Table, wire: Wire, call: str) -> None:
        """Send this rank's rows to all where they are not as their copies; take the others'."""
        own = local._stored().lookup(self._own_rows)
        copies = self.rows[self._own]
        changed = np.arange(len(own))
        if self._is_filled:
            changed = np.flatnonzero((_words(own) != _words(copies)).any(axis=1))
        copies[changed] = own[changed]
        size, row_bytes = exchange.size, local._layout.row_bytes
        index = np.dtype(np.uint32)
        payload = np.concatenate(
            [changed.astype(index).view(np.uint8), own[changed].reshape(-1).view(np.uint8)]
        )
        is_other = np.arange(size) != exchange.rank
        mine = np.full(size, len(changed), np.int64)
        counts = exchange.swap(mine.view(np.uint8), [8] * size, [8] * size, what=call)
        theirs = counts.view(np.int64) * is_other
        received = theirs * (index.itemsize + row_bytes)
        got = exchange.swap(
            np.tile(payload, size - 1),
            (is_other * payload.size).tolist(),
            received.tolist(),
            what=call,
        )
        at, touched = 0, [self._own.start + changed]
        for part, count, end in zip(
            self._of_ranks, theirs.tolist(), np.cumsum(received), strict=True
        ):
            middle = at + count * index.itemsize
            which = got[at:middle].copy().view(index)
            rows = got[middle:end].copy().view(self.rows.dtype)
            self.rows[part][which] = rows.reshape(count, *self.rows.shape[1:])
            touched.append(part.start + which.astype(np.int64))
            at = int(end)
        self._send(wire, np.concatenate(touched))
        self._is_filled = True

    def _send(self, wire: Wire, touched: NDArray[np.int64]) -> None:
        """Keep rows as they would be sent, where that is another form."""
        layout = wire.rows
        if layout is self.beside._layout:
            return
        if not self._is_filled:
            shape = (len(self.rows), *layout.stored_shape)
            self.sent = _native.zeros(shape, layout.stored_dtype)
        data = wire.looked_up(self.beside, len(self.beside) - len(self.rows) + touched)
        self.sent[touched] = data.view(layout.stored_dtype).reshape(-1, *layout.stored_shape)


def _lengthened(local: Table, rows: int) -> Partition:
    sizes = [*local.partition.shard_sizes, rows]
    return Partition.ranges([0, *itertools.accumulate(sizes)])


def _words(rows: NDArray[Any]) -> NDArray[Any]:
    """Return the bytes of rows as few whole numbers, to be compared."""
    values = math.prod(rows.shape[1:])
    flat, size = np.ascontiguousarray(rows).reshape(len(rows), values), values * rows.itemsize
    word = next(width for width in (8, 4, 2, 1) if size % width == 0)
    return flat.view(np.dtype(f"u{word}"))
