"""Which rows of a table changed since its last checkpoint."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from shardwise import _native

_SPAN = 1 << 20  # bytes of bits that are looked at in one go


@dataclass(eq=False)
class Changes:
    """A bit for each row, set where it changed since a checkpoint.

    Attributes:
        path: the directory of the checkpoint.
        text: what its file says; where it says something else, it is another's by now.
        kept: the optimizer's family and the names of its state at that time.
        rows: how many rows there are.
        bits: uint8; row r has bit r % 8 of byte r // 8. Pages of it take memory when a row of
            theirs changes.
        whole: more changed than rows: the next checkpoint holds all of them.
    """

    path: str
    text: str
    kept: tuple[str, ...] | None
    rows: int
    bits: NDArray[np.uint8]
    whole: bool = False

    @classmethod
    def since(cls, path: str, text: str, kept: tuple[str, ...] | None, rows: int) -> Changes:
        """Begin to note changes: none so far."""
        return cls(path, text, kept, rows, _native.zeros((-(-rows // 8),), np.dtype(np.uint8)))

    def mark(self, ids: NDArray[np.int64]) -> None:
        """Note that rows are going to change; ids outside the table are passed over."""
        _native.mark_rows(self.bits, ids, self.rows)

    def frozen(self) -> Changes:
        """Return a copy that threads, which may be about to mark a row, do not mark it in."""
        return replace(self, bits=self.bits.copy())

    def take(self, later: Changes) -> None:
        """Note what others have noted, too."""
        self.whole = self.whole or later.whole
        for ids in later.ids(_SPAN):
            self.mark(ids)

    def count(self) -> int:
        """Return how many rows changed."""
        spans = range(0, self.bits.size, _SPAN)
        return sum(int(np.bitwise_count(self.bits[k : k + _SPAN]).sum()) for k in spans)

    def ids(self, most: int) -> Iterator[NDArray[np.int64]]:
        """Yield the rows that changed, in ascending order, at most `most` at once."""
        for begin in range(0, self.bits.size, _SPAN):
            span = self.bits[begin : begin + _SPAN]
            filled = np.flatnonzero(span)
            bits = np.flatnonzero(np.unpackbits(span[filled], bitorder="little"))
            found = (begin + filled[bits // 8]) * 8 + bits % 8
            for first in range(0, len(found), most):
                yield found[first : first + most]
