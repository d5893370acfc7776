"""What is near what: the questions that people ask of vectors, put to the search."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from shardwise._encoding import find_ids
from shardwise._errors import OptionError, TableError, TokenTypeError
from shardwise._vocabulary import Vocabulary
from shardwise.words import _frames, _search
from shardwise.words._search import (
    Candidates,
    Ids,
    Queries,
    check_rows,
    cosines,
    directions,
    is_real,
    row_width,
    search,
)
from shardwise.words._spelling import unknown_words_error

if TYPE_CHECKING:
    from shardwise._table import Table
    from shardwise._vectors import Vectors


class Neighbour(NamedTuple):
    """A token, and how near its row is.

    Attributes:
        token: the token.
        score: the cosine, from -1 to 1, or what the search ranks by.

    Example:
        >>> from shardwise import Neighbour
        >>> near = Neighbour("shore", 0.79)
        >>> token, score = near
        >>> near.token == token, near.score
        (True, 0.79)
    """

    token: str
    score: float


def known_ids(vocabulary: Vocabulary, tokens: Sequence[Any]) -> list[int]:
    """Return the ids of tokens, none of which the unknown token may stand for.

    Raises:
        UnknownTokenError: tokens are not in the vocabulary.
    """
    ids = find_ids(vocabulary, list(tokens))
    if (ids < 0).any():
        missing = dict.fromkeys(t for t, i in zip(tokens, ids, strict=True) if i < 0)
        advice = "leave them out: what stands for unknown tokens has no neighbours of theirs"
        raise unknown_words_error(vocabulary, tuple(missing), advice)
    return [int(i) for i in ids]


def as_count(number: object, name: str) -> int:
    """Return a number from 0.

    Raises:
        OptionError: it is none.
    """
    try:
        count = -1 if isinstance(number, bool) else operator.index(number)  # type: ignore[arg-type]
    except TypeError:
        count = -1
    if count < 0:
        raise OptionError(f"expected {name} as a number from 0, got {number!r:.80}")
    return count


def as_topn(topn: object) -> int:
    """Return how many neighbours are wanted.

    Raises:
        OptionError: it is no number from 0.
    """
    return as_count(topn, "topn")


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
    if array.shape != table.shape[1:] or not is_real(array.dtype):
        raise TableError(
            f"expected vectors as real numbers of the shape of a row, {table.shape[1:]}, got "
            f"{array.dtype} of shape {array.shape}"
        )
    return array.reshape(-1).astype(np.float64)


Item: TypeAlias = tuple[Any, float]  # a token or a vector, and its weight


def _items(given: Any, weight: float) -> list[Item]:
    """One query's positive or negative side, each item with its weight."""
    if isinstance(given, np.ndarray) and given.dtype.kind in "USOT":
        given = given.ravel().tolist()  # words
    if isinstance(given, (str, bytes)) or (isinstance(given, np.ndarray) and given.ndim == 1):
        given = [given]
    elif isinstance(given, tuple) and len(given) == 2 and _is_weight(given[1]):
        given = [given]  # a pair by itself
    items = []
    try:
        given = iter(given)
    except TypeError:
        raise TokenTypeError(
            f"expected a word, a list of words or a vector as an array, got {given!r:.80}"
        ) from None
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
    rows = np.empty((len(items), row_width(vectors.table)))
    # A word that comes often is looked up once.
    distinct, place = np.unique(np.array(known, np.int64), return_inverse=True)
    units = directions(vectors.table.lookup(distinct))
    rows[[i is not None for i in found]] = units[place]
    for k, (item, _) in enumerate(items):
        if found[k] is None:
            rows[k] = as_vector(vectors.table, item)
    return found, rows


def _answered(
    vectors: Vectors,
    batch: bool,
    queries: Queries,
    topn: int,
    restrict: int | None,
    as_frame: bool,
    candidates: Candidates | None = None,
) -> Any:
    stop = as_stop(vectors, restrict)
    if as_frame:
        _frames.import_pandas()  # or say so before the work
    answers = search(vectors.table, queries, topn, stop, candidates=candidates)
    names = vectors.vocabulary.decode(np.concatenate([ids for ids, _ in answers]))
    if as_frame:
        return _framed(batch, names, [scores for _, scores in answers])
    tokens = iter(names)
    results = [[Neighbour(next(tokens), s) for s in scores.tolist()] for _, scores in answers]
    return results if batch else results[0]


def _framed(batch: bool, tokens: list[str], scores: list[NDArray[np.float64]]) -> Any:
    columns: dict[str, Any] = {"token": tokens, "score": np.concatenate([np.empty(0), *scores])}
    if batch:
        places = np.repeat(np.arange(len(scores)), [len(found) for found in scores])
        columns = {"query": places, **columns}
    return _frames.as_frame(columns)


def most_similar(
    vectors: Vectors,
    positive: Any,
    negative: Any,
    topn: int,
    restrict: int | None,
    as_frame: bool = False,
    candidates: Candidates | None = None,
) -> Any:
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
    queries = Queries(directions(means), known)
    return _answered(vectors, batch, queries, topn, restrict, as_frame, candidates)


def most_similar_cosmul(
    vectors: Vectors,
    positive: Any,
    negative: Any,
    topn: int,
    restrict: int | None,
    as_frame: bool = False,
) -> Any:
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
    return _answered(vectors, batch, queries, topn, restrict, as_frame)


def similar_by_vector(
    vectors: Vectors,
    vector: Any,
    topn: int,
    restrict: int | None,
    as_frame: bool = False,
    candidates: Candidates | None = None,
) -> Any:
    """See `Vectors.similar_by_vector`."""
    topn = as_topn(topn)
    try:
        array = np.asarray(vector)
    except ValueError as error:  # rows of different lengths
        raise TableError(f"expected a vector, or an array of vectors, got {error}") from None
    batch = array.ndim == len(vectors.table.shape)
    rows = [as_vector(vectors.table, one) for one in (array if batch else [array])]
    if not rows:
        return _framed(True, [], []) if as_frame else []
    queries = Queries(directions(np.stack(rows)), [[] for _ in rows])
    return _answered(vectors, batch, queries, topn, restrict, as_frame, candidates)


def analogy(
    vectors: Vectors,
    a: Any,
    b: Any,
    c: Any,
    topn: int,
    restrict: int | None,
    as_frame: bool = False,
) -> Any:
    """See `Vectors.analogy`."""
    lists = [isinstance(words, (list, tuple, np.ndarray)) for words in (a, b, c)]
    if not any(lists):
        return most_similar(vectors, [b, c], [a], topn, restrict, as_frame)
    if not all(lists) or not len(a) == len(b) == len(c):
        raise OptionError("expected a, b and c as three words, or as three lists of one length")
    positive = [[b_i, c_i] for b_i, c_i in zip(b, c, strict=True)]
    return most_similar(vectors, positive, [[a_i] for a_i in a], topn, restrict, as_frame)


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


def closer_ids(vectors: Vectors, a: Any, b: Any) -> Ids:
    """Return the ids of the tokens that are nearer to `a` than `b` is, in ascending order."""
    table = vectors.table
    check_rows(table)
    i, j = known_ids(vectors.vocabulary, [a, b])
    direction, other = directions(table.lookup([i, j]))
    rough = cosines(table, direction, len(vectors))
    limit = float(np.clip(np.einsum("kd,d->k", other[None], direction), -1.0, 1.0)[0])
    closer = rough > limit
    close = np.flatnonzero(np.abs(rough - limit) < _search.NEAR)
    step = max(1, _search.SCORES // max(1, row_width(table)))
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
