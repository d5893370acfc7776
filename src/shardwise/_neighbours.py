"""Nearest rows by cosine: exact, by matrix products over blocks of rows and a running top-k.

No array of queries x rows is ever made, and nothing is kept from call to call: what is written to
the table is seen by the next search.
"""

from __future__ import annotations

import operator
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from shardwise._errors import OptionError, TableError, UnknownTokenError
from shardwise._norms import _is_small_float
from shardwise._vocabulary import Vocabulary

if TYPE_CHECKING:
    from shardwise._table import Table
    from shardwise._vectors import Vectors

_Floats: TypeAlias = NDArray[Any]  # float32, or float64 for tables of it
_Ids: TypeAlias = NDArray[np.int64]

_BLOCK_BYTES = 2 << 20  # of rows, as floats: about what a core's cache holds
_SCORES = 1 << 20  # scores that are looked at together
_SPARE = 5  # candidates kept beyond topn: float32 may put near ones in another order
_NEAR = 1e-5  # how far a score of float32 may be from the true one, with room to spare
_COSMUL_EPSILON = 1e-6  # Levy and Goldberg (2014), section 6


class Neighbour(NamedTuple):
    """A token, and how near its row is.

    Attributes:
        token: the token.
        score: the cosine, from -1 to 1, or what the search ranks by.
    """

    token: str
    score: float


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

    terms: _Floats
    known: list[list[int]]
    ends: list[int] | None = None
    positive: list[int] | None = None

    def __len__(self) -> int:
        return len(self.known)

    def terms_of(self, begin: int, end: int) -> _Floats:
        """Return the terms of the queries from `begin` to `end`."""
        if self.ends is None:
            return self.terms[begin:end]
        return self.terms[self.ends[begin - 1] if begin else 0 : self.ends[end - 1]]

    def scores(self, cosines: _Floats, begin: int, end: int) -> _Floats:
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


def _is_real(dtype: np.dtype[Any]) -> bool:
    return dtype.kind in "fiu" or (dtype.kind == "V" and _is_small_float(dtype))


def check_rows(table: Table) -> None:
    """See to it that the table has rows of real numbers.

    Raises:
        TableError: it has not.
    """
    if not _is_real(table.dtype):
        raise TableError(f"expected rows of real numbers to compare, got {table.dtype}")


def _float_type(table: Table) -> type[np.floating[Any]]:
    """What scores are counted in: float64 where float32 does not hold the rows' values."""
    wide = table.dtype.itemsize > (4 if table.dtype.kind == "f" else 2)
    return np.float64 if wide else np.float32


def _width(table: Table) -> int:
    return int(np.prod(table.shape[1:], dtype=np.int64))


def _blocks(table: Table, stop: int, unit: bool) -> Iterator[tuple[int, _Floats, _Floats | None]]:
    """Give the rows below `stop`: (first id, rows, what their products are to be multiplied by).

    With `unit` the rows come as unit vectors, and the last is None.
    """
    dtype, width = _float_type(table), _width(table)
    step = max(256, _BLOCK_BYTES // max(1, width * np.dtype(dtype).itemsize))
    whole = table.shards[0] if len(table.shards) == 1 and table.mode == "memory" else None
    limits = np.finfo(dtype)
    low, high = limits.tiny / limits.eps, limits.max * limits.eps
    for begin in range(0, stop, step):
        end = min(begin + step, stop)
        # Rows that lie in memory in their order are read where they are.
        found = table.lookup(np.arange(begin, end)) if whole is None else whole[begin:end]
        rows: _Floats = found.reshape(end - begin, width)
        ours = whole is None or rows.base is None
        with np.errstate(all="ignore"):
            if rows.dtype != dtype:
                rows, ours = rows.astype(dtype), True
            squares = np.einsum("ij,ij->i", rows, rows)
            plain = (squares > low) & (squares < high)
            factors = (1 / np.sqrt(squares)).astype(dtype, copy=False)
            if not plain.all():  # zeros, NaN, or squares that this type does not hold
                rows, ours = rows if ours else rows.copy(), True
                # Of the table's own values: a float64 may be larger than any float32.
                rows[~plain] = directions(found[~plain])
                factors[~plain] = 1
        if unit:
            rows = np.multiply(rows, factors[:, None], out=rows if ours else None)
        yield begin, rows, None if unit else factors


def search(
    table: Table, queries: Queries, topn: int, stop: int, *, exact: bool = True
) -> list[tuple[_Ids, NDArray[np.float64]]]:
    """Return for each query the ids and the scores of the best rows below `stop`, best first.

    Args:
        table: the rows.
        queries: what to search for.
        topn: how many rows for each query.
        stop: the rows from it on are not searched.
        exact: count the scores of the best again in float64, so that they do not depend on which
            queries and rows are searched together; of equal ones the lower id comes first.
    """
    check_rows(table)
    left_out = max((len(ids) for ids in queries.known), default=0)
    keep = min(topn + left_out + (_SPARE if exact else 0), stop)
    if topn < 1 or keep < 1 or not len(queries):
        nothing = np.empty(0, np.int64), np.empty(0, np.float64)
        return [nothing for _ in range(len(queries))]
    ids, scores = _best(table, queries, keep, stop)
    known = np.full((len(queries), left_out), -1, np.int64)
    for q, own in enumerate(queries.known):
        known[q, : len(own)] = own
    answers = []
    chunk = max(1, _SCORES // (keep * max(1, _width(table))))
    for begin in range(0, len(queries), chunk):
        end = min(begin + chunk, len(queries))
        found, fine = ids[begin:end], scores[begin:end].astype(np.float64)
        if exact:
            fine = _rescored(table, queries, ids, begin, end)
        for column in range(left_out):
            fine[found == known[begin:end, column : column + 1]] = -np.inf
        order = np.lexsort((found, -fine))[:, :topn]
        found = np.take_along_axis(found, order, axis=1)
        fine = np.take_along_axis(fine, order, axis=1)
        ends = np.count_nonzero(fine != -np.inf, axis=1).tolist()
        answers += [(found[q, :n], fine[q, :n]) for q, n in enumerate(ends)]
    return answers


def _best(table: Table, queries: Queries, keep: int, stop: int) -> tuple[_Ids, _Floats]:
    """The running top-k: (ids, scores) of shape (queries, keep), best first."""
    dtype = _float_type(table)
    ids = np.zeros((len(queries), keep), np.int64)
    scores = np.full((len(queries), keep), -np.inf, dtype)
    terms = queries.terms.astype(dtype, copy=False)
    queries = Queries(terms, queries.known, queries.ends, queries.positive)
    buffer = np.empty(0, dtype)
    for first, rows, factors in _blocks(table, stop, len(terms) > _width(table)):
        chunk = max(1, _SCORES * len(queries) // (len(rows) * len(terms)))
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


def _merge(ids: _Ids, scores: _Floats, found: _Floats, first: int) -> None:
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


def _floor(found: _Floats, keep: int) -> _Floats:
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


def _rescored(
    table: Table, queries: Queries, ids: _Ids, begin: int, end: int
) -> NDArray[np.float64]:
    keep = ids.shape[1]
    rows = directions(table.lookup(ids[begin:end].reshape(-1)))
    rows = rows.reshape(end - begin, keep, _width(table))
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


def cosines(table: Table, direction: NDArray[np.float64], stop: int) -> _Floats:
    """Return the cosine of each row below `stop` to a unit vector."""
    check_rows(table)
    dtype = _float_type(table)
    result = np.empty(stop, dtype)
    for first, rows, factors in _blocks(table, stop, False):
        assert factors is not None
        result[first : first + len(rows)] = (rows @ direction.astype(dtype)) * factors
    return np.clip(result, -1.0, 1.0, out=result)


def known_ids(vocabulary: Vocabulary, tokens: Sequence[Any]) -> list[int]:
    """Return the ids of tokens, none of which the unknown token may stand for.

    Raises:
        UnknownTokenError: tokens are not in the vocabulary.
    """
    ids = vocabulary._find(list(tokens))
    if (ids < 0).any():
        missing = list(dict.fromkeys(t for t, i in zip(tokens, ids, strict=True) if i < 0))
        shown = ", ".join(map(repr, missing[:10])) + (", ..." if len(missing) > 10 else "")
        raise UnknownTokenError(
            f"expected tokens of the vocabulary, got {shown}; leave them out "
            "(`token in vectors`): the unknown token has no neighbours that would be theirs"
        )
    return [int(i) for i in ids]


def as_topn(topn: object) -> int:
    """Return `topn` as a number from 0.

    Raises:
        OptionError: it is none.
    """
    try:
        count = -1 if isinstance(topn, bool) else operator.index(topn)  # type: ignore[arg-type]
    except TypeError:
        count = -1
    if count < 0:
        raise OptionError(f"expected topn as a number of neighbours from 0, got {topn!r}")
    return count


def as_stop(vectors: Vectors, restrict: int | None) -> int:
    """Return where a search ends: rows without tokens are not searched.

    Raises:
        OptionError: `restrict` is no number from 1.
    """
    if restrict is None:
        return len(vectors)
    try:
        count = 0 if isinstance(restrict, bool) else operator.index(restrict)
    except TypeError:
        count = 0
    if count < 1:
        raise OptionError(f"expected restrict as a number of tokens from 1, got {restrict!r}")
    return min(count, len(vectors))


def as_vector(table: Table, vector: Any) -> NDArray[np.float64]:
    """Return a raw vector as float64 of shape (dim,).

    Raises:
        TableError: it has another shape than a row, or is not of numbers.
    """
    array = np.asarray(vector)
    if array.shape != table.shape[1:] or not _is_real(array.dtype):
        raise TableError(
            f"expected vectors as real numbers of the shape of a row, {table.shape[1:]}, got "
            f"{array.dtype} of shape {array.shape}"
        )
    return array.reshape(-1).astype(np.float64)


Item: TypeAlias = tuple[Any, float]  # a token or a vector, and its weight


def _items(given: Any, weight: float) -> list[Item]:
    """One query's positive or negative side, each item with its weight."""
    if isinstance(given, (str, bytes)) or (isinstance(given, np.ndarray) and given.ndim == 1):
        given = [given]
    elif isinstance(given, tuple) and len(given) == 2 and _is_weight(given[1]):
        given = [given]  # a pair by itself
    items = []
    for item in given:
        if isinstance(item, tuple):
            if len(item) != 2 or not _is_weight(item[1]):
                raise OptionError(f"expected pairs of a word and its weight, got {item!r:.80}")
            items.append((item[0], float(item[1])))
        else:
            items.append((item, weight))
    return items


def _is_weight(value: object) -> bool:
    return isinstance(value, (int, float, np.integer, np.floating)) and np.isfinite(value).item()


def _is_batch(given: Any) -> bool:
    return isinstance(given, (list, tuple)) and any(isinstance(item, list) for item in given)


def _sides(positive: Any, negative: Any) -> tuple[bool, list[tuple[list[Item], list[Item]]]]:
    """Sort out whether it is one query or a list of them: (is a list, their items)."""
    batch = _is_batch(positive) or _is_batch(negative)
    if not batch:
        positive, negative = [positive], [negative]
    elif not len(negative):
        negative = [()] * len(positive)
    elif not len(positive):
        positive = [()] * len(negative)
    one = isinstance(positive, (str, bytes)) or isinstance(negative, (str, bytes))
    if one or len(positive) != len(negative):
        raise OptionError(
            "expected a list of negative words for each list of positive ones, got "
            f"{positive!r:.80} and {negative!r:.80}; pass [] for a query without"
        )
    sides = [(_items(p, 1.0), _items(n, -1.0)) for p, n in zip(positive, negative, strict=True)]
    for p, n in sides:
        if not p and not n:
            raise OptionError("expected at least one word or vector for each query, got none")
    return batch, sides


def _vectors_of(vectors: Vectors, items: list[Item]) -> tuple[list[int | None], NDArray[Any]]:
    """The items' ids, None for raw vectors, and their vectors: of words unit ones."""
    words = [item for item, _ in items if not isinstance(item, np.ndarray)]
    ids = iter(known_ids(vectors.vocabulary, words))
    found = [None if isinstance(item, np.ndarray) else next(ids) for item, _ in items]
    known = [i for i in found if i is not None]
    rows = np.empty((len(items), _width(vectors.table)))
    # A word that comes often is looked up once.
    distinct, place = np.unique(np.array(known, np.int64), return_inverse=True)
    units = directions(vectors.table.lookup(distinct))
    rows[[i is not None for i in found]] = units[place]
    for k, (item, _) in enumerate(items):
        if found[k] is None:
            rows[k] = as_vector(vectors.table, item)
    return found, rows


def _answered(
    vectors: Vectors, batch: bool, queries: Queries, topn: int, restrict: int | None
) -> list[Any]:
    stop = as_stop(vectors, restrict)
    answers = search(vectors.table, queries, topn, stop)
    tokens = iter(vectors.vocabulary.decode(np.concatenate([ids for ids, _ in answers])))
    results = [[Neighbour(next(tokens), s) for s in scores.tolist()] for _, scores in answers]
    return results if batch else results[0]


def most_similar(
    vectors: Vectors, positive: Any, negative: Any, topn: int, restrict: int | None
) -> list[Any]:
    """See `Vectors.most_similar`."""
    topn = as_topn(topn)
    check_rows(vectors.table)
    batch, sides = _sides(positive, negative)
    items = [item for p, n in sides for item in p + n]
    ids, rows = _vectors_of(vectors, items)
    weights = np.array([weight for _, weight in items])
    counts = [len(p) + len(n) for p, n in sides]
    begins = np.cumsum([0, *counts[:-1]])
    means = np.add.reduceat(rows * weights[:, None], begins, axis=0)
    known = [
        [i for i in ids[begin : begin + count] if i is not None]
        for begin, count in zip(begins.tolist(), counts, strict=True)
    ]
    return _answered(vectors, batch, Queries(directions(means), known), topn, restrict)


def most_similar_cosmul(
    vectors: Vectors, positive: Any, negative: Any, topn: int, restrict: int | None
) -> list[Any]:
    """See `Vectors.most_similar_cosmul`."""
    topn = as_topn(topn)
    check_rows(vectors.table)
    batch, sides = _sides(positive, negative)
    for p, n in sides:
        if not p:
            raise OptionError("expected at least one positive word for each query, got none")
        if any(weight != 1 for _, weight in p) or any(weight != -1 for _, weight in n):
            raise OptionError("expected words without weights, which 3CosMul does not have")
    items = [item for p, n in sides for item in p + n]
    ids, rows = _vectors_of(vectors, items)
    ends = np.cumsum([len(p) + len(n) for p, n in sides]).tolist()
    known = [
        [i for i in ids[begin:end] if i is not None]
        for begin, end in zip([0, *ends[:-1]], ends, strict=True)
    ]
    queries = Queries(directions(rows), known, ends, [len(p) for p, _ in sides])
    return _answered(vectors, batch, queries, topn, restrict)


def similar_by_vector(vectors: Vectors, vector: Any, topn: int, restrict: int | None) -> list[Any]:
    """See `Vectors.similar_by_vector`."""
    topn = as_topn(topn)
    array = np.asarray(vector)
    batch = array.ndim == len(vectors.table.shape)
    rows = [as_vector(vectors.table, one) for one in (array if batch else [array])]
    if not rows:
        return []
    queries = Queries(directions(np.stack(rows)), [[] for _ in rows])
    return _answered(vectors, batch, queries, topn, restrict)


def analogy(vectors: Vectors, a: Any, b: Any, c: Any, topn: int, restrict: int | None) -> list[Any]:
    """See `Vectors.analogy`."""
    lists = [isinstance(words, (list, tuple, np.ndarray)) for words in (a, b, c)]
    if not any(lists):
        return most_similar(vectors, [b, c], [a], topn, restrict)
    if not all(lists) or not len(a) == len(b) == len(c):
        raise OptionError("expected a, b and c as three words, or as three lists of one length")
    positive = [[b_i, c_i] for b_i, c_i in zip(b, c, strict=True)]
    return most_similar(vectors, positive, [[a_i] for a_i in a], topn, restrict)


def _units_of(vectors: Vectors, tokens: Any) -> tuple[NDArray[np.float64], bool]:
    """The unit vectors of one token or of a list of them, and whether it was one."""
    check_rows(vectors.table)
    one = isinstance(tokens, (str, bytes))
    ids = known_ids(vectors.vocabulary, [tokens] if one else list(tokens))
    return directions(vectors.table.lookup(np.array(ids, np.int64))), one


def similarity(vectors: Vectors, a: Any, b: Any) -> Any:
    """See `Vectors.similarity`."""
    (left, one_left), (right, one_right) = _units_of(vectors, a), _units_of(vectors, b)
    found = np.clip(left @ right.T, -1.0, 1.0)
    if one_left and one_right:
        return float(found[0, 0])
    return found[0] if one_left else found[:, 0] if one_right else found


def distances(vectors: Vectors, word: Any, others: Any) -> NDArray[Any]:
    """See `Vectors.distances`."""
    check_rows(vectors.table)
    if isinstance(word, np.ndarray):
        direction = directions(as_vector(vectors.table, word)[None])[0]
    else:
        direction = _units_of(vectors, [word])[0][0]
    if others is None:
        return 1 - cosines(vectors.table, direction, len(vectors))
    rows, _ = _units_of(vectors, [others] if isinstance(others, (str, bytes)) else others)
    near: NDArray[np.float64] = np.clip(rows @ direction, -1.0, 1.0)
    return 1 - near


def closer_ids(vectors: Vectors, a: Any, b: Any) -> _Ids:
    """Return the ids of the tokens that are nearer to `a` than `b` is, in ascending order."""
    table = vectors.table
    check_rows(table)
    i, j = known_ids(vectors.vocabulary, [a, b])
    direction, other = directions(table.lookup([i, j]))
    rough = cosines(table, direction, len(vectors))
    limit = float(np.clip(np.einsum("kd,d->k", other[None], direction), -1.0, 1.0)[0])
    closer = rough > limit
    close = np.flatnonzero(np.abs(rough - limit) < _NEAR)
    step = max(1, _SCORES // max(1, _width(table)))
    for begin in range(0, close.size, step):  # where float32 cannot tell
        some = close[begin : begin + step]
        fine = np.einsum("kd,d->k", directions(table.lookup(some)), direction)
        closer[some] = np.clip(fine, -1.0, 1.0) > limit
    closer[[i, j]] = False
    return np.flatnonzero(closer)


def doesnt_match(vectors: Vectors, words: Any) -> str:
    """See `Vectors.doesnt_match`."""
    if isinstance(words, (str, bytes)):
        raise OptionError(f"expected a list of words, got one, {words!r}; split it")
    tokens = list(words)
    if not tokens:
        raise OptionError("expected at least one word, got none")
    rows, _ = _units_of(vectors, tokens)
    middle = directions(rows.mean(axis=0)[None])[0]
    found: str = tokens[int(np.argmin(rows @ middle))]
    return found
