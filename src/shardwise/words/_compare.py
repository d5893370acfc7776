"""Two sets of vectors of the same words: turned to fit, and how far each word has moved."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from shardwise._encoding import find_ids
from shardwise._errors import TableError
from shardwise.words import _frames
from shardwise.words._questions import as_count
from shardwise.words._remake import as_tokens, built, check_fit, is_float, known_rows, row_step
from shardwise.words._search import (
    Ids,
    Queries,
    Rows,
    check_rows,
    directions,
    row_width,
    search,
)

if TYPE_CHECKING:
    from shardwise._table import Table
    from shardwise._vectors import Vectors

_TOKENS = 1 << 16  # that are compared by name together

Wide = NDArray[np.float64]


class Aligned(NamedTuple):
    """Vectors that were turned to fit others, and how.

    Attributes:
        vectors: each row is `row @ rotation + offset`, counted in float64: float32, or float64 for
            rows of it.
        rotation: orthogonal, float64 of shape (dim, dim). It may also mirror.
        offset: float64 of shape (dim,): zeros, unless it was asked to center.
        shared: how many tokens it was found from.
        before: how far apart the two rows of such a token were: the root of the mean of the
            squared distances.
        after: how far apart they are now.

    Example:
        >>> import numpy as np
        >>> from shardwise import Table, Vectors, Vocabulary
        >>> words = Vocabulary(["east", "north"])
        >>> old = Vectors(Table.from_array(np.array([[1.0, 0.0], [0.0, 1.0]])), words)
        >>> new = Vectors(Table.from_array(np.array([[0.0, 1.0], [-1.0, 0.0]])), words)
        >>> aligned = new.align(old)
        >>> aligned.rotation.shape, round(aligned.before, 3), round(aligned.after, 3)
        ((2, 2), 1.414, 0.0)
    """

    vectors: Vectors
    rotation: Wide
    offset: Wide
    shared: int
    before: float
    after: float


class Drift(NamedTuple):
    """How far the row of a token has moved.

    Attributes:
        token: the token.
        cosine: of its two rows; 1 for equal rows, and else 0 where one has no direction.
        distance: the length of their difference (L2). NaN or infinity where a row has such values.
        norm: the length of its first row.
        other_norm: the length of its row in the other vectors.
        overlap: how many of its nearest tokens are the same, of all that are near in either
            (Jaccard); None if it was not asked for.

    Example:
        >>> import numpy as np
        >>> from shardwise import Table, Vectors, Vocabulary
        >>> words = Vocabulary(["still", "moved"])
        >>> a = Vectors(Table.from_array(np.array([[1.0, 0.0], [3.0, 4.0]])), words)
        >>> b = Vectors(Table.from_array(np.array([[1.0, 0.0], [6.0, 0.0]])), words)
        >>> moved = a.drift(b, topn=1)[0]
        >>> moved.token, round(moved.cosine, 6), moved.distance, moved.norm, moved.other_norm
        ('moved', 0.6, 5.0, 5.0, 6.0)
    """

    token: str
    cosine: float
    distance: float
    norm: float
    other_norm: float
    overlap: float | None = None


def _shared(vectors: Vectors, other: Vectors, tokens: Any) -> tuple[list[str] | None, Ids, Ids]:
    """The rows of the tokens in both, and their names if these were given."""
    if tokens is not None:
        names = list(dict.fromkeys(as_tokens(tokens)))
        ids = known_rows(vectors.vocabulary, names, "these vectors")
        return names, ids, known_rows(other.vocabulary, names, "the other vectors")
    mine, theirs = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
    for begin in range(0, len(vectors), _TOKENS):
        ids = np.arange(begin, min(begin + _TOKENS, len(vectors)))
        found = find_ids(other.vocabulary, vectors.vocabulary.decode(ids))
        mine.append(ids[found >= 0])
        theirs.append(found[found >= 0])
    return None, np.concatenate(mine), np.concatenate(theirs)


def _wide(table: Table, ids: Ids) -> Wide:
    with np.errstate(all="ignore"):
        rows = table.lookup(ids).astype(np.float64)
    return rows.reshape(len(ids), row_width(table))


def _pairs(a: Table, ids: Ids, b: Table, others: Ids) -> Iterator[tuple[int, Wide, Wide]]:
    """Give the rows of ids of both tables, block by block: (number of the first, rows, rows)."""
    step = row_step(a)
    for begin in range(0, len(ids), step):
        some = slice(begin, begin + step)
        yield begin, _wide(a, ids[some]), _wide(b, others[some])


def _check_floats(table: Table) -> None:
    if not is_float(table.dtype):
        raise TableError(
            f"expected rows of floating-point numbers to align, got {table.dtype}; convert them "
            "first: Table.from_array(rows.astype('float32'))"
        )


def align(vectors: Vectors, reference: Vectors, tokens: Any, center: bool) -> Aligned:
    """See `Vectors.align`."""
    check_fit(vectors, reference, "reference")
    table, target = vectors.table, reference.table
    _check_floats(table)
    _check_floats(target)
    _, ids, others = _shared(vectors, reference, tokens)
    if not len(ids):
        raise TableError(
            "expected tokens that both vectors have, to align them by, got none; see "
            "vectors.vocabulary"
        )

    def pairs() -> Iterator[tuple[int, Wide, Wide]]:
        return _pairs(table, ids, target, others)

    width = row_width(table)
    middle, middle_there = np.zeros(width), np.zeros(width)
    squares = 0.0
    with np.errstate(all="ignore"):  # what is not finite is told below
        for begin, rows, wanted in pairs():
            sound = np.isfinite(rows).all(axis=1) & np.isfinite(wanted).all(axis=1)
            if not sound.all():
                token = vectors.vocabulary.decode(ids[begin + int(np.argmin(sound))])
                raise TableError(
                    f"expected rows of finite numbers to align, got a NaN or an infinity in one of "
                    f"the rows of {token!r}; leave such tokens out with tokens="
                )
            if center:
                middle += rows.sum(axis=0) / len(ids)
                middle_there += wanted.sum(axis=0) / len(ids)
            squares += float(np.square(rows - wanted).sum())
        product = np.zeros((width, width))
        for _, rows, wanted in pairs():
            product += (rows - middle).T @ (wanted - middle_there)
    if not np.isfinite(product).all() or not np.isfinite(squares):
        raise TableError(
            "expected rows whose products float64 can hold, got larger values; scale the rows down"
        )
    # Schoenemann (1966): of all orthogonal matrices this one leaves the least squares.
    left, _, right = np.linalg.svd(product)
    rotation = left @ right
    offset = middle_there - middle @ rotation
    rest = sum(
        float(np.square(rows @ rotation + offset - wanted).sum()) for _, rows, wanted in pairs()
    )

    def turned(some: Ids) -> NDArray[Any]:
        found: Wide = _wide(table, some) @ rotation + offset
        return found.reshape(len(some), *table.shape[1:])

    wide = table.dtype.itemsize > 4
    made = built(table, len(table), np.dtype(np.float64 if wide else np.float32), turned)
    return Aligned(
        vectors._with(made, vectors.vocabulary),
        rotation,
        offset,
        len(ids),
        float(np.sqrt(squares / len(ids))),
        float(np.sqrt(rest / len(ids))),
    )


def drift(
    vectors: Vectors,
    other: Vectors,
    tokens: Any,
    topn: int | None,
    neighbours: int,
    as_frame: bool,
    progress: Callable[[int, int], object] | None,
) -> Any:
    """See `Vectors.drift`."""
    if as_frame:
        _frames.import_pandas()  # or say so before the work
    count = None if topn is None else as_count(topn, "topn")
    near = as_count(neighbours, "neighbours")
    check_fit(vectors, other, "other")
    table, there = vectors.table, other.table
    check_rows(table)
    check_rows(there)
    names, ids, others = _shared(vectors, other, tokens)
    cosines, distances, norms, other_norms = np.empty((4, len(ids)))
    with np.errstate(all="ignore"):
        for begin, rows, moved in _pairs(table, ids, there, others):
            some = slice(begin, begin + len(rows))
            products = np.einsum("ij,ij->i", directions(rows), directions(moved))
            same = (rows == moved).all(axis=1)
            cosines[some] = np.where(same, 1.0, np.clip(products, -1.0, 1.0))
            distances[some] = _lengths(rows - moved)
            norms[some], other_norms[some] = _lengths(rows), _lengths(moved)
            if progress is not None:
                progress(begin + len(rows), len(ids))
    # Rows that are no numbers any more have moved most.
    broken = ~np.isfinite(distances)
    order = np.lexsort((ids, -distances, cosines, ~broken))[:count]
    found = vectors.vocabulary.decode(ids[order]) if names is None else [names[i] for i in order]
    overlaps = None
    if near:
        overlaps = _overlaps(vectors, other, ids[order], others[order], near)
    columns: dict[str, Any] = {
        "token": found,
        "cosine": cosines[order],
        "distance": distances[order],
        "norm": norms[order],
        "other_norm": other_norms[order],
    } | ({} if overlaps is None else {"overlap": overlaps})
    if as_frame:
        return _frames.as_frame(columns)
    lists = (c if isinstance(c, list) else c.tolist() for c in columns.values())
    return [Drift(*values) for values in zip(*lists, strict=True)]


def _lengths(rows: Wide) -> Wide:
    """The L2 norms, also where a square is more than float64 holds."""
    peaks = np.abs(rows).max(axis=1, initial=0.0)
    scaled = rows / np.where(peaks > 0, peaks, 1.0)[:, None]
    found: Wide = np.sqrt(np.einsum("ij,ij->i", scaled, scaled)) * peaks
    return np.where(np.isinf(peaks), peaks, found)


def _overlaps(vectors: Vectors, other: Vectors, ids: Ids, others: Ids, near: int) -> Wide:
    result = np.empty(len(ids))
    step = row_step(vectors.table)
    for begin in range(0, len(ids), step):
        sides = [
            _nearest(each, rows[begin : begin + step], near)
            for each, rows in ((vectors, ids), (other, others))
        ]
        for k, (mine, theirs) in enumerate(zip(*sides, strict=True)):
            both = len(mine | theirs)
            result[begin + k] = len(mine & theirs) / both if both else 1.0
    return result


def _nearest(vectors: Vectors, ids: Ids, near: int) -> list[set[str]]:
    """The tokens nearest to each of some rows, without its own."""
    found = _nearest_rows(vectors.table, ids, near, len(vectors))
    return [set(vectors.vocabulary.decode(rows)) for rows in found]


def _nearest_rows(table: Rows, ids: Ids, near: int, stop: int) -> list[Ids]:
    queries = Queries(directions(table.lookup(ids)), [[i] for i in ids.tolist()])
    return [rows for rows, _ in search(table, queries, near, stop)]


def neighbours_kept(before: Rows, after: Rows, sample: int, near: int = 10) -> float:
    """Return which share of the nearest rows stay the nearest, over some rows taken at random.

    The rows are the same for every call with as many of them.
    """
    count = before.shape[0]
    ids = np.sort(np.random.default_rng(0).choice(count, min(sample, count), replace=False))
    pairs = zip(*(_nearest_rows(rows, ids, near, count) for rows in (before, after)), strict=True)
    shares = [len(np.intersect1d(a, b)) / len(a) for a, b in pairs if len(a)]
    return float(np.mean(shares)) if shares else 1.0
