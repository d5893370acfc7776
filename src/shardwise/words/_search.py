"""Search for the nearest rows: exact, by products over blocks of rows and a running top-k.

No array of queries x rows is ever made, and nothing is kept from call to call: what is written to
the table is seen by the next search. Who knows that nobody writes can keep the rows' `factors`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from shardwise import _native
from shardwise._errors import TableError
from shardwise._norms import is_small_float

Floats: TypeAlias = NDArray[Any]  # float32, or float64 for tables of it
Ids: TypeAlias = NDArray[np.int64]

_BLOCK_BYTES = 2 << 20  # of rows, as floats: about what a core's cache holds
_FEW = 8  # terms: with so few a block is read once, and larger ones spare calls and waiting threads
_MANY = 64  # terms, for which it pays to look at a sample of the rows first
_LEAST_SAMPLED, _MOST_SAMPLED = 2000, 4096  # rows
_SPARED = 16  # blocks multiplied as floats alone, where products of bytes were of little use
SCORES = 1 << 20  # scores that are looked at together
_SPARE = 5  # candidates kept beyond topn: float32 may put near ones in another order
NEAR = 1e-5  # how far a score of float32 may be from the true one, with room to spare
_COSMUL_EPSILON = 1e-6  # Levy and Goldberg (2014), section 6


class Rows(Protocol):
    """What is searched: a `Table`, or what can be read as one."""

    @property
    def shape(self) -> tuple[int, ...]: ...
    @property
    def dtype(self) -> np.dtype[Any]: ...
    @property
    def mode(self) -> str: ...
    @property
    def _whole(self) -> NDArray[Any] | None: ...
    def lookup(self, ids: Any, /) -> NDArray[Any]: ...


@dataclass(frozen=True, slots=True)
class Queries:
    """What to search for: terms are unit vectors, and each query has one or more of them.

    Attributes:
        terms: floats of shape (terms, dim).
        ends: for each query, where its terms end. None: each query has one, and its score is the
            cosine.
        positive: for each query, how many of its terms come first as positive ones; of 3CosMul.
        known: for each query the ids that are left out of its answer.
    """

    terms: Floats
    known: list[list[int]]
    ends: list[int] | None = None
    positive: list[int] | None = None

    def __len__(self) -> int:
        return len(self.known)

    def terms_of(self, begin: int, end: int) -> Floats:
        """Return the terms of the queries from `begin` to `end`."""
        if self.ends is None:
            return self.terms[begin:end]
        return self.terms[self.ends[begin - 1] if begin else 0 : self.ends[end - 1]]

    def scores(self, cosines: Floats, begin: int, end: int) -> Floats:
        """Return the scores, (queries, rows), of these queries' terms, (terms, rows)."""
        if self.ends is None or self.positive is None:
            return cosines
        shifted = (1 + cosines) / 2
        result = np.empty((end - begin, cosines.shape[1]), cosines.dtype)
        first = 0
        for q in range(begin, end):
            last = first + self.ends[q] - (self.ends[q - 1] if q else 0)
            middle = first + self.positive[q]
            result[q - begin] = shifted[first:middle].prod(axis=0) / (
                shifted[middle:last].prod(axis=0) + _COSMUL_EPSILON
            )
            first = last
        return result


# (queries, how many rows of each) -> ids and scores of that shape or wider; -inf: no row.
Candidates: TypeAlias = Callable[[Queries, int], tuple[Ids, Floats]]


def directions(rows: NDArray[Any]) -> NDArray[np.float64]:
    """Return rows as unit vectors; those of zeros, or with a NaN or infinity, as zeros."""
    width = int(np.prod(rows.shape[1:], dtype=np.int64))
    wide = rows.reshape(len(rows), width).astype(np.float64)
    with np.errstate(all="ignore"):
        if rows.dtype.itemsize > 4:  # values whose squares float64 may not hold
            peaks = np.abs(wide).max(axis=1, initial=0.0)
            wide /= np.where(peaks > 0, peaks, 1.0)[:, None]
        norms = np.sqrt(np.einsum("ij,ij->i", wide, wide))
        wide /= np.where(norms > 0, norms, 1.0)[:, None]
    wide[~np.isfinite(norms)] = 0.0
    return wide


def is_real(dtype: np.dtype[Any]) -> bool:
    return dtype.kind in "fiu" or (dtype.kind == "V" and is_small_float(dtype))


def check_rows(table: Rows) -> None:
    """See to it that the table has rows of real numbers.

    Raises:
        TableError: it has not.
    """
    if not is_real(table.dtype):
        raise TableError(f"expected rows of real numbers to compare, got {table.dtype}")


def _float_type(table: Rows) -> type[np.floating[Any]]:
    """What scores are counted in: float64 where float32 does not hold the rows' values."""
    wide = table.dtype.itemsize > (4 if table.dtype.kind == "f" else 2)
    return np.float64 if wide else np.float32


def row_width(table: Rows) -> int:
    return int(np.prod(table.shape[1:], dtype=np.int64))


def _read(
    table: Rows, start: int, stop: int, terms: int
) -> Iterator[tuple[int, NDArray[Any], Floats, bool]]:
    """Give blocks of rows: (first id, the table's rows, the same as floats, may be written to)."""
    dtype, width = _float_type(table), row_width(table)
    size = _BLOCK_BYTES if terms > _FEW else 8 * _BLOCK_BYTES
    step = max(256, size // max(1, width * np.dtype(dtype).itemsize))
    whole = table._whole if table.mode == "memory" else None
    for begin in range(start, stop, step):
        end = min(begin + step, stop)
        # Rows that lie in memory in their order are read where they are.
        found = table.lookup(np.arange(begin, end)) if whole is None else whole[begin:end]
        rows: Floats = found.reshape(end - begin, width)
        ours = whole is None or rows.base is None
        if rows.dtype != dtype:
            with np.errstate(all="ignore"):
                rows, ours = rows.astype(dtype), True
        yield begin, found, rows, ours


def _factors(rows: Floats) -> Floats:
    """What makes unit vectors of rows; 0 for zeros, NaN, or squares that the type does not hold."""
    limits = np.finfo(rows.dtype)
    with np.errstate(all="ignore"):
        squares = np.einsum("ij,ij->i", rows, rows)
        plain = (squares > limits.tiny / limits.eps) & (squares < limits.max * limits.eps)
        return np.where(plain, 1 / np.sqrt(squares), 0).astype(rows.dtype, copy=False)


def factors_of(table: Rows, stop: int) -> Floats:
    """Return what the rows below `stop` are to be multiplied by, for searches to come."""
    check_rows(table)
    result = np.empty(stop, _float_type(table))
    for begin, _, rows, _ in _read(table, 0, stop, 0):
        result[begin : begin + len(rows)] = _factors(rows)
    return result


def _blocks(
    table: Rows, start: int, stop: int, terms: int, known: Floats | None, unit: bool = False
) -> Iterator[tuple[int, Floats, Floats | None]]:
    """Give the rows from `start`: (first id, rows, what their products are to be multiplied by).

    With `unit` the rows come as unit vectors, and the last is None.
    """
    for begin, found, rows, ours in _read(table, start, stop, terms):
        factors = _factors(rows) if known is None else known[begin : begin + len(rows)]
        plain = factors > 0
        if not plain.all():
            rows, ours = rows if ours else rows.copy(), True
            # Of the table's own values: a float64 may be larger than any float32.
            rows[~plain] = directions(found[~plain])
            factors = np.where(plain, factors, factors.dtype.type(1))
        if unit:
            rows = np.multiply(rows, factors[:, None], out=rows if ours else None)
        yield begin, rows, None if unit else factors


def search(
    table: Rows,
    queries: Queries,
    topn: int,
    stop: int,
    *,
    exact: bool = True,
    start: int = 0,
    factors: Floats | None = None,
    candidates: Candidates | None = None,
) -> list[tuple[Ids, NDArray[np.float64]]]:
    """Return for each query the ids and the scores of the best rows below `stop`, best first.

    Args:
        table: the rows.
        queries: what to search for.
        topn: how many rows for each query.
        stop: the rows from it on are not searched.
        exact: count the scores of the best again in float64, so that they do not depend on which
            queries and rows are searched together; of equal ones the lower id comes first.
        start: the rows before it are not searched.
        factors: what `factors_of` gave for these rows; counted anew by default.
        candidates: who names the best rows, and perhaps not quite all of them, in place of a look
            at all rows; their scores are counted here.
    """
    check_rows(table)
    left_out = max((len(ids) for ids in queries.known), default=0)
    keep = min(topn + left_out + (_SPARE if exact else 0), stop - start)
    if topn < 1 or keep < 1 or not len(queries):
        nothing = np.empty(0, np.int64), np.empty(0, np.float64)
        return [nothing for _ in range(len(queries))]
    if candidates is None:
        ids, scores = _best(table, queries, keep, start, stop, factors)
    else:
        ids, scores = candidates(queries, keep)
        keep = ids.shape[1]
    known = np.full((len(queries), left_out), -1, np.int64)
    for q, own in enumerate(queries.known):
        known[q, : len(own)] = own
    answers = []
    chunk = max(1, SCORES // (keep * max(1, row_width(table))))
    for begin in range(0, len(queries), chunk):
        end = min(begin + chunk, len(queries))
        found, fine = ids[begin:end], scores[begin:end].astype(np.float64)
        if exact:
            fine = _rescored(table, queries, ids, begin, end)
            fine[scores[begin:end] == -np.inf] = -np.inf
        for column in range(left_out):
            fine[found == known[begin:end, column : column + 1]] = -np.inf
        order = np.lexsort((found, -fine))[:, :topn]
        found = np.take_along_axis(found, order, axis=1)
        fine = np.take_along_axis(fine, order, axis=1)
        ends = np.count_nonzero(fine != -np.inf, axis=1).tolist()
        answers += [(found[q, :n], fine[q, :n]) for q, n in enumerate(ends)]
    return answers


def _best(
    table: Rows, queries: Queries, keep: int, start: int, stop: int, known: Floats | None
) -> tuple[Ids, Floats]:
    """The running top-k: (ids, scores) of shape (queries, keep), in any order.

    Many queries of one term each are a native pass, after a look at a sample of the rows. Others
    are matrix products: of few queries they take the time in which the memory gives the rows.
    """
    dtype = _float_type(table)
    ids = np.zeros((len(queries), keep), np.int64)
    scores = np.full((len(queries), keep), -np.inf, dtype)
    terms = np.ascontiguousarray(queries.terms, dtype)
    if queries.ends is None and dtype is np.float32 and len(terms) > _FEW:
        floors, useful = _floors(table, terms, keep, start, stop)
        scores[:] = floors
        spared = 0  # blocks
        for first, rows, factors in _blocks(table, start, stop, len(terms), known):
            spared = max(0, spared - 1) if useful else _SPARED
            rows = rows if rows.strides[1] == rows.itemsize else np.ascontiguousarray(rows)
            factors = np.ascontiguousarray(factors)
            useful = _native.find_nearest(terms, rows, factors, first, ids, scores, spared > 0)
        scores[scores <= floors] = -np.inf  # of rows that were changed meanwhile
        return ids, scores
    queries = Queries(terms, queries.known, queries.ends, queries.positive)
    buffer = np.empty(0, dtype)
    unit = len(terms) > row_width(table)
    for first, rows, factors in _blocks(table, start, stop, len(terms), known, unit):
        chunk = max(1, SCORES * len(queries) // (len(rows) * len(terms)))
        for begin in range(0, len(queries), chunk):
            end = min(begin + chunk, len(queries))
            some = queries.terms_of(begin, end)
            if buffer.size < len(some) * len(rows):
                buffer = np.empty(len(some) * len(rows), dtype)
            products = buffer[: len(some) * len(rows)].reshape(len(some), len(rows))
            np.matmul(some, rows.T, out=products)
            if factors is not None:
                products *= factors
            found = queries.scores(products, begin, end)
            _merge(ids[begin:end], scores[begin:end], found, first)
    return ids, scores


def _floors(table: Rows, terms: Floats, keep: int, start: int, stop: int) -> tuple[Floats, bool]:
    """Scores that the best of each query exceed, (queries, 1), by the best of some rows; or -inf.

    Also whether products of bytes were of use for that.

    With them most rows are known to be no better when they come: that pays where it takes less
    time than their products. In most tables the words are in the order of their counts, and rare
    ones are near rare ones: some rows are some of all.
    """
    every = max(16, (stop - start) // _MOST_SAMPLED)
    whole = table._whole if table.mode == "memory" else None
    enough = len(terms) >= _MANY and (stop - start) // every >= max(_LEAST_SAMPLED, 8 * keep)
    if whole is None or not enough or not _native.multiplies_bytes():
        return np.full((len(terms), 1), -np.inf, np.float32), True
    rows = whole[start:stop:every].reshape(-1, row_width(table)).astype(np.float32, copy=False)
    rows = rows if rows.strides[1] == rows.itemsize else np.ascontiguousarray(rows)
    factors = _factors(rows)
    factors[factors == 0] = np.nan  # of rows that are looked at more closely: these exceed nothing
    scores = np.full((len(terms), keep), -np.inf, np.float32)
    ids = np.zeros(scores.shape, np.int64)
    useful = _native.find_nearest(terms, rows, factors, 0, ids, scores)
    return scores[:, :1] - np.float32(NEAR), useful


def _merge(ids: Ids, scores: Floats, found: Floats, first: int) -> None:
    """Put the best of a block's scores, of the rows from `first` on, among the best so far."""
    count, keep = scores.shape
    worst = scores[:, -1:]
    better = found > worst  # an equal one has the higher id
    if np.count_nonzero(better) > 4 * keep * count:  # as it is with the first block
        better &= found >= _floor(found, keep)
    flat = np.flatnonzero(better)
    if not flat.size:
        return
    owner, row = np.divmod(flat, found.shape[1])
    touched, begins, counts = np.unique(owner, return_index=True, return_counts=True)
    # Side by side: the best so far, then the new ones in the order of their ids. A stable sort
    # thus keeps the lower id first.
    column = keep + np.arange(flat.size) - np.repeat(begins, counts)
    line = np.repeat(np.arange(touched.size), counts)
    all_scores = np.full((touched.size, keep + int(counts.max())), -np.inf, scores.dtype)
    all_ids = np.zeros(all_scores.shape, np.int64)
    all_scores[:, :keep], all_ids[:, :keep] = scores[touched], ids[touched]
    all_scores[line, column], all_ids[line, column] = found.reshape(-1)[flat], first + row
    order = np.argsort(-all_scores, axis=1, kind="stable")[:, :keep]
    scores[touched] = np.take_along_axis(all_scores, order, axis=1)
    ids[touched] = np.take_along_axis(all_ids, order, axis=1)


def _floor(found: Floats, keep: int) -> Floats:
    """For each query a score that at least `keep` of the rows reach, and not many more."""
    width = found.shape[1]
    if keep >= width:
        return np.full((len(found), 1), -np.inf, found.dtype)
    # The best of each of some groups of rows: those of the `keep` best groups reach the worst of
    # them. That spares most of the partition.
    groups = max(4 * keep, 256)
    if width >= 4 * groups:
        size = width // groups
        found = found[:, : size * groups].reshape(len(found), size, groups).max(axis=1)
        width = groups
    return np.partition(found, width - keep, axis=1)[:, width - keep, None]


def _rescored(table: Rows, queries: Queries, ids: Ids, begin: int, end: int) -> NDArray[np.float64]:
    keep = ids.shape[1]
    rows = directions(table.lookup(ids[begin:end].reshape(-1)))
    rows = rows.reshape(end - begin, keep, row_width(table))
    terms = queries.terms_of(begin, end).astype(np.float64, copy=False)
    if queries.ends is None:
        result: NDArray[np.float64] = np.einsum("qd,qkd->qk", terms, rows)
        return np.clip(result, -1.0, 1.0)
    found = np.empty((end - begin, keep))
    for q in range(begin, end):
        mine = queries.terms_of(q, q + 1).astype(np.float64, copy=False)
        cosines = np.einsum("td,kd->tk", mine, rows[q - begin])
        found[q - begin] = queries.scores(cosines, q, q + 1)[0]
    return found


def cosines(
    table: Rows, direction: NDArray[np.float64], stop: int, factors: Floats | None = None
) -> Floats:
    """Return the cosine of each row below `stop` to a unit vector; see `search` for factors."""
    check_rows(table)
    dtype = _float_type(table)
    result = np.empty(stop, dtype)
    for first, rows, scales in _blocks(table, 0, stop, 0, factors):
        assert scales is not None
        result[first : first + len(rows)] = (rows @ direction.astype(dtype)) * scales
    return np.clip(result, -1.0, 1.0, out=result)
