"""The first half of a call: each rank tells the others which of their rows it means."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import numpy as np

from shardwise._bags import Bags
from shardwise.distributed._exchange import Exchange
from shardwise.distributed._routes import RoutedBags, RoutedRows, Routes, Which

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from shardwise._table import Table

T = TypeVar("T")
_ALL = Which()
_KEPT = 1 << 25  # ids of a call that are kept for the next one: not of a sweep over a whole table


@dataclass(frozen=True)
class Question:
    """What a rank asks for.

    Attributes:
        ids: integers.
        bags: the same ids in bags; None for rows.
        which: of them take part.
        divided: the combiner, where divisors are wanted of it.
        of_others: not for rows that this rank has a copy of.
    """

    ids: NDArray[Any]
    bags: Bags | None = None
    which: Which = _ALL
    divided: str | None = None
    of_others: bool = False

    def kept(self) -> Question:
        """The same, in arrays that nobody else writes to."""
        bags = self.bags
        ids = np.array(self.ids)
        if bags is not None:
            weights = None if bags.weights is None else np.array(bags.weights)
            bags = Bags(ids, bags.offsets, weights, bags.lead)
        return replace(self, ids=ids, bags=bags)

    def equals(self, other: Question) -> bool:
        """Whether it has the same answer; False where that takes long to tell."""
        here, there = self.bags, other.bags
        if (here is None) != (there is None) or self.divided != other.divided:
            return False
        if self.of_others != other.of_others:
            return False
        if self.which.frozen is not None or other.which.frozen is not None:
            return False
        if self.which != other.which or self.ids.dtype != other.ids.dtype:
            return False
        if here is not None and there is not None:
            if (here.weights is None) != (there.weights is None):
                return False
            if here.weights is not None and not same(here.weights, there.weights):
                return False
            if not same(here.offsets, there.offsets):
                return False
        return same(self.ids, other.ids)


def same(a: NDArray[Any], b: NDArray[Any] | None) -> bool:
    """Whether two arrays have the same numbers."""
    if b is None or a.size != b.size or a.dtype != b.dtype:
        return False
    return bool(np.array_equal(a.reshape(-1), b.reshape(-1)))


@dataclass(frozen=True)
class Asked(Generic[T]):
    """A question, cut by rank, and what the others asked of this rank.

    Attributes:
        question: of this rank.
        routed: the same, cut by rank.
        rows: local rows that are asked for, those of rank 0 first.
        bags: of them, where they are asked for in bags.
        counts: int64[ranks]: how many rows, or bags, each rank asks for.
        number: of the agreement, for what another rank knows of another one does not fit to it.
        fetched: the rows that this rank asked for, where they came already; see `fetch`.
    """

    question: Question
    routed: T
    rows: NDArray[Any]
    bags: Bags | None
    counts: NDArray[np.int64]
    number: int
    fetched: Table | None = None


class Pending:
    """What is exchanged on another thread.

    Args:
        question: that; None where there is none.
        work: what exchanges it.
    """

    def __init__(self, question: Question | None, work: Callable[[], Asked[Any]]) -> None:
        self.question, self._work = question, work
        self._found: Asked[Any] | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        with suppress(Exception):  # the call that it is for does it again, and tells
            self._found = self._work()

    def wait(self) -> Asked[Any] | None:
        """Return what was exchanged; None after an error."""
        self._thread.join()
        return self._found


def ask_rows(
    exchange: Exchange,
    routes: Routes,
    call: str,
    question: Question,
    known: Asked[Any] | None,
) -> Asked[RoutedRows]:
    """Ask the ranks for rows; what is known of a question is used if all ranks know it."""
    fits = known.number if known is not None and known.question.equals(question) else 0
    routed = (
        known.routed
        if known is not None and fits
        else prepared(exchange, call, lambda: routes.rows(question.ids, question.which))
    )
    theirs, all_know = exchange.agree(call, np.stack([routed.counts] * 2, axis=1), known=fits)
    if known is not None and all_know:
        return known
    number = exchange.number
    size, counts = routes.row_dtype.itemsize, theirs[:, 0].copy()
    got = exchange.swap(
        routed.rows.view(np.uint8), (routed.counts * size).tolist(), (counts * size).tolist()
    )
    return Asked(question, routed, got.view(routes.row_dtype), None, counts, number)


def ask_bags(
    exchange: Exchange,
    routes: Routes,
    call: str,
    question: Question,
    known: Asked[Any] | None,
) -> Asked[RoutedBags]:
    """Ask the ranks for sums of rows: the same for bags."""
    bags = question.bags
    assert bags is not None
    fits = known.number if known is not None and known.question.equals(question) else 0
    routed: RoutedBags = (
        known.routed
        if known is not None and fits
        else prepared(exchange, call, lambda: routes.bags(bags, question.which, question.divided))
    )
    sent = np.stack([routed.counts, routed.piece_counts], axis=1)
    theirs, all_know = exchange.agree(call, sent, known=fits)
    if known is not None and all_know:
        return replace(known, question=question)  # whose result may have another shape
    number = exchange.number
    # For each rank, one after the other: the lengths of the pieces, the rows, their weights.
    parts: list[NDArray[Any]] = [routed.lengths, routed.rows]
    counts = [(routed.piece_counts, theirs[:, 1]), (routed.counts, theirs[:, 0])]
    if routed.weights is not None:
        parts.append(routed.weights)
        counts.append(counts[1])
    bounds = [np.cumsum([0, *mine]) for mine, _ in counts]
    segments = [
        part[ends[rank] : ends[rank + 1]].view(np.uint8)
        for rank in range(exchange.size)
        for part, ends in zip(parts, bounds, strict=True)
    ]
    sizes = [part.dtype.itemsize for part in parts]
    out = np.sum([mine * size for (mine, _), size in zip(counts, sizes, strict=True)], axis=0)
    back = np.sum([yours * size for (_, yours), size in zip(counts, sizes, strict=True)], axis=0)
    got = exchange.swap(np.concatenate(segments), out.tolist(), back.tolist())
    found: list[list[NDArray[Any]]] = [[] for _ in parts]
    at = 0
    for rank in range(exchange.size):
        for k, (part, size) in enumerate(zip(parts, sizes, strict=True)):
            end = at + int(counts[k][1][rank]) * size
            found[k].append(aligned(got[at:end], part.dtype))
            at = end
    joined = [np.concatenate(pieces) for pieces in found]
    offsets = np.zeros(len(joined[0]) + 1, np.int64)
    np.cumsum(joined[0], out=offsets[1:])
    weights = joined[2] if len(joined) > 2 else None
    asked = Bags(joined[1], offsets, weights, (len(offsets) - 1,))
    return Asked(question, routed, joined[1], asked, theirs[:, 1].copy(), number)


def aligned(data: NDArray[np.uint8], dtype: np.dtype[Any]) -> NDArray[Any]:
    """Return bytes as numbers."""
    address = data.ctypes.data
    return (data if address % dtype.itemsize == 0 else data.copy()).view(dtype)


def keep(asked: Asked[T]) -> Asked[T] | None:
    """Return what is known for the next call."""
    if asked.question.ids.size > _KEPT:
        return None
    return replace(asked, question=asked.question.kept(), fetched=None)


def prepared(exchange: Exchange, call: str, work: Callable[[], T]) -> T:
    """Return what `work` returns; its error is told to all ranks, and raised on all."""
    try:
        return work()
    except Exception as error:
        exchange.agree(call, error=error)
        raise  # not reached: agree raises it
