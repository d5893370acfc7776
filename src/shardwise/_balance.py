"""Where to cut rows into contiguous shards so that each has as much traffic as another."""

from __future__ import annotations

import operator
from typing import TYPE_CHECKING

import numpy as np

from shardwise._errors import PartitionError

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

LIMIT = 2**63 - 1  # of rows and shards
_MOST_LOAD = 1e280  # times any number of shards is still finite


def as_count(number: object, name: str, least: int) -> int:
    """Return a number of rows or shards.

    Raises:
        PartitionError: it is none.
    """
    try:
        value = operator.index(number)  # type: ignore[arg-type]
    except TypeError:
        value = -1
    if isinstance(number, (bool, np.bool_)) or not least <= value <= LIMIT:
        raise PartitionError(
            f"expected {name} as a whole number from {least} to 2**63 - 1, got {number!r}"
        )
    return value


def balanced(counts: ArrayLike, shards: int, max_rows: int | None) -> list[int]:
    """Return the boundaries of `Partition.balanced`."""
    try:
        loads = np.asarray(counts)
    except (TypeError, ValueError) as error:
        raise PartitionError(
            f"expected counts as numbers of shape (rows,), got {type(counts).__name__}, which "
            f"NumPy cannot read ({error})"
        ) from None
    if loads.ndim != 1 or loads.dtype.kind not in "iuf":
        raise PartitionError(
            f"expected counts as numbers of shape (rows,), got {loads.dtype} of shape {loads.shape}"
        )
    loads = loads.astype(np.float64)
    if not (np.isfinite(loads) & (loads >= 0)).all():
        raise PartitionError("expected counts from 0 up, got one that is negative or not finite")
    rows = loads.size
    even = -(-rows // shards)
    most = max(1, 2 * even) if max_rows is None else max_rows
    if most * shards < rows:
        raise PartitionError(
            f"expected max_rows of at least {even}, for {rows} rows in {shards} shards, got {most}"
        )
    if not loads.any():
        loads = np.ones(rows)
    with np.errstate(over="ignore"):
        if loads.sum() > _MOST_LOAD:  # their sums must be finite, and only their ratios count
            loads = loads / loads.max()
    return _boundaries(np.concatenate([[0.0], np.cumsum(loads)]), shards, most)


def _boundaries(sums: NDArray[np.float64], shards: int, most: int) -> list[int]:
    """Return boundaries with the least largest load; `sums` are cumulative, from 0."""
    rows = sums.size - 1

    def reach(begin: int, load: float) -> int:
        """The farthest end of a shard that begins there."""
        end = int(np.searchsorted(sums, sums[begin] + load, side="right")) - 1
        return min(end, begin + most, rows)

    def fits(load: float) -> bool:
        at = 0
        for _ in range(shards):
            at = reach(at, load)
        return at == rows

    low, high = 0.0, float(sums[-1]) * (1 + 1e-9)
    for _ in range(64):
        middle = (low + high) / 2
        low, high = (low, middle) if fits(middle) else (middle, high)
    # Within that bound, boundaries are where equal loads would have them, as far as they can be.
    least = [rows]
    for _ in range(shards):
        end = least[-1]
        begin = int(np.searchsorted(sums, sums[end] - high, side="left"))
        least.append(max(begin, end - most, 0))
    least.reverse()
    found = [0]
    for k in range(1, shards):
        ideal = int(np.searchsorted(sums, sums[-1] * k / shards))
        last = reach(found[-1], high)
        found.append(min(max(ideal, least[k], found[-1]), last))
    return [*found, rows]
