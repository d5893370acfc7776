"""Ids and bags of ids, grouped by the rank that holds their rows."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from shardwise import _native
from shardwise._errors import BagError
from shardwise._ids import out_of_range_error

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from shardwise._bags import Bags
    from shardwise._partition import Partition


@dataclass(frozen=True)
class Which:
    """Which ids take part, as `check_update` and `pool_task` know it."""

    policy: str = "error"
    stand_in: int = 0
    padding: int | None = None
    skip_negative: bool = False
    skip_weightless: bool = False
    frozen: NDArray[np.uint8] | None = None
    frozen_range: tuple[int, int] = (0, 0)

    def names(self) -> dict[str, Any]:
        """Return it as the native core calls it."""
        return {
            "policy": self.policy,
            "stand_in": self.stand_in,
            "padding": self.padding,
            "skip_negative": self.skip_negative,
            "frozen": self.frozen,
            "frozen_range": self.frozen_range,
        }


@dataclass(frozen=True)
class RoutedRows:
    """Each row once.

    Attributes:
        rows: uint32 or uint64: numbers of rows of rank 0, rising; then those of rank 1, ...
        counts: int64[ranks]: how many of them each rank holds.
        places: int64[ids]: which of them an id is; their number for one that is none, that and 1
            and k for one of copy k, and -1 for one that takes no part.
    """

    rows: NDArray[Any]
    counts: NDArray[np.int64]
    places: NDArray[np.int64]


@dataclass(frozen=True)
class RoutedBags:
    """Bags cut in pieces: the ids of one bag that go to one rank.

    Attributes:
        rows: uint32 or uint64: numbers of rows of rank 0, in the order of the ids; ...
        weights: of these, or None.
        counts: int64[ranks]: how many of them each rank holds.
        lengths: uint32[pieces]: of the pieces of rank 0, in the order of the bags; ...
        bags: int64[pieces]: which bag.
        piece_counts: int64[ranks].
        order: int64[pieces]: the pieces of bag 0, by rank; those of bag 1; ...
        ends: int64[bags + 1]: where each bag begins in `order`.
        divisors: float64[bags], or None.
    """

    rows: NDArray[Any]
    weights: NDArray[Any] | None
    counts: NDArray[np.int64]
    lengths: NDArray[np.uint32]
    bags: NDArray[np.int64]
    piece_counts: NDArray[np.int64]
    order: NDArray[np.int64]
    ends: NDArray[np.int64]
    divisors: NDArray[np.float64] | None


class Routes:
    """Where the rows of a table are.

    Args:
        partition: how ids fall on shards.
        cuts: the places at which the rows of ranks begin, and the number of rows.
        copies: this rank, and the places, rising, of rows that it has copies of. Their ids go to
            this rank, where they are rows behind its own.
    """

    def __init__(
        self,
        partition: Partition,
        cuts: Sequence[int],
        copies: tuple[int, NDArray[np.int64]] | None = None,
    ) -> None:
        self._native = _native.Routes(partition._core, list(cuts))
        self._num_rows, self._ranks = partition.num_rows, len(cuts) - 1
        largest = max(b - a for a, b in itertools.pairwise(cuts))
        if copies is not None:
            self._native.keep_copies(copies[0], copies[1].tolist())
            largest += len(copies[1])
        self.row_dtype = np.dtype(np.uint32 if largest <= 1 << 32 else np.uint64)

    def rows(self, ids: NDArray[Any], which: Which) -> RoutedRows:
        """Return the rows of ids, each once.

        Raises:
            IdOutOfRangeError: an id is outside the table, and may not be.
        """
        rows = _native.empty((ids.size,), self.row_dtype)
        counts = np.zeros(self._ranks, np.uint64)
        places = _native.empty((ids.size,), np.dtype(np.int64))
        try:
            self._native.rows(ids, **which.names(), out=rows, counts=counts, places=places)
        except _native.RefusedId as error:
            position, value = map(int, str(error).split())
            raise out_of_range_error(ids.shape, position, value, self._num_rows) from None
        return RoutedRows(rows[: int(counts.sum())], counts.view(np.int64), places)

    def bags(self, bags: Bags, which: Which, divided: str | None) -> RoutedBags:
        """Return bags cut in pieces; `divided` is the combiner whose divisors are wanted.

        Raises:
            IdOutOfRangeError: an id is outside the table, and may not be.
            BagError: there are 2**32 ids and more.
        """
        ids, count, wide = bags.values, len(bags.offsets) - 1, np.dtype(np.int64)
        if ids.size >= 1 << 32:
            raise BagError(f"expected less than 2**32 ids at once, got {ids.size}; make two calls")
        rows, weights = _native.empty((ids.size,), self.row_dtype), None
        if bags.weights is not None:
            weights = _native.empty((ids.size,), bags.weights.dtype)
        counts, piece_counts = np.zeros((2, self._ranks), np.uint64)
        lengths = _native.empty((ids.size,), np.dtype(np.uint32))
        of, order = _native.empty((ids.size,), wide), _native.empty((ids.size,), wide)
        ends, divisors = np.empty(count + 1, np.int64), None
        if divided in ("mean", "sqrtn"):
            divisors = np.empty(count, np.float64)
        try:
            self._native.bags(
                ids,
                **which.names(),
                offsets=bags.offsets,
                weights=bags.weights,
                skip_weightless=which.skip_weightless,
                square_root=divided == "sqrtn",
                out=rows,
                weights_out=weights,
                counts=counts,
                lengths=lengths,
                bags=of,
                piece_counts=piece_counts,
                order=order,
                ends=ends,
                divisors=divisors,
            )
        except _native.RefusedId as error:
            position, value = map(int, str(error).split())
            raise out_of_range_error(ids.shape, position, value, self._num_rows) from None
        total, pieces = int(counts.sum()), int(piece_counts.sum())
        return RoutedBags(
            rows[:total],
            None if weights is None else weights[:total],
            counts.view(np.int64),
            lengths[:pieces],
            of[:pieces],
            piece_counts.view(np.int64),
            order[:pieces],
            ends,
            divisors,
        )
