"""What is near what: the questions that people ask of vectors, put to the search."""

from __future__ import annotations

from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from shardwise._errors import OptionError, TableError
from shardwise.words import _frames, _search
from shardwise.words._questions import (
    as_stop,
    as_topn,
    as_vector,
    known_ids,
    sides_of,
    vectors_of,
)
from shardwise.words._search import (
    Candidates,
    Ids,
    Queries,
    check_rows,
    cosines,
    directions,
    row_width,
    search,
)

if TYPE_CHECKING:
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
    scores = np.concatenate([scores for _, scores in answers]).tolist()
    # Straight to the tuple: half the time of calling the class.
    neighbours = list(map(partial(tuple.__new__, Neighbour), zip(names, scores, strict=True)))
    ends = np.cumsum([len(ids) for ids, _ in answers]).tolist()
    results = [neighbours[begin:end] for begin, end in pairwise([0, *ends])]
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
    batch, sides = sides_of(positive, negative)
    items = [item for p, n in sides for item in p + n]
    ids, rows = vectors_of(vectors, items)
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
    batch, sides = sides_of(positive, negative)
    for p, n in sides:
        if not p:
            raise OptionError("expected at least one positive word for each query, got none")
        if any(weight != 1 for _, weight in p) or any(weight != -1 for _, weight in n):
            raise OptionError("expected words without weights, which 3CosMul does not have")
    items = [item for p, n in sides for item in p + n]
    ids, rows = vectors_of(vectors, items)
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
