"""What is asked: words and vectors with their weights, one query or a batch of them."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from shardwise._encoding import find_ids
from shardwise._errors import OptionError, TableError, TokenTypeError
from shardwise.words._search import directions, is_real, row_width
from shardwise.words._spelling import unknown_words_error

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from shardwise._table import Table
    from shardwise._vectors import Vectors
    from shardwise._vocabulary import Vocabulary


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
    elif isinstance(given, tuple) and len(given) == 2 and is_weight(given[1]):
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
            if len(item) != 2 or not is_weight(item[1]):
                raise OptionError(f"expected pairs of a word and its weight, got {item!r:.80}")
            items.append((item[0], float(item[1])))
        else:
            items.append((item, weight))
    return items


def is_weight(value: object) -> bool:
    return isinstance(value, (int, float, np.integer, np.floating)) and np.isfinite(value).item()


def _is_batch(given: Any) -> bool:
    return isinstance(given, (list, tuple)) and any(isinstance(item, list) for item in given)


def sides_of(positive: Any, negative: Any) -> tuple[bool, list[tuple[list[Item], list[Item]]]]:
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


def vectors_of(vectors: Vectors, items: list[Item]) -> tuple[list[int | None], NDArray[Any]]:
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
