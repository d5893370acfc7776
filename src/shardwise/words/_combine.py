"""New vectors made of others: more tokens, fewer of them, or those of two."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from shardwise._arrays import as_values
from shardwise._encoding import find_ids
from shardwise._errors import OptionError, TableError, VocabularyError, is_one_of
from shardwise.words._neighbours import Neighbour
from shardwise.words._questions import as_count
from shardwise.words._remake import (
    aliases_without,
    built,
    check_fit,
    check_known,
    folded,
    is_float,
    known_rows,
    remade,
    rest,
    row_step,
    shown,
    stand_ins,
    with_stand_ins,
)
from shardwise.words._search import Ids, Queries, check_rows, directions, is_real, search

if TYPE_CHECKING:
    from shardwise._vectors import Vectors


class Pruned(NamedTuple):
    """Vectors with fewer rows, and where the other tokens went.

    Attributes:
        vectors: the rows that were kept; the other tokens share them.
        remap: for each of the other tokens the kept one whose row it has now, and the cosine of
            that row and its own.

    Example:
        >>> import numpy as np
        >>> from shardwise import Table, Vectors, Vocabulary
        >>> rows = np.array([[1.0, 0.0], [3.0, 4.0], [0.0, 2.0]])
        >>> vectors = Vectors(Table.from_array(rows), Vocabulary(["east", "far", "north"]))
        >>> pruned = vectors.prune(2)
        >>> pruned.remap, list(pruned.vectors.vocabulary.aliases)
        ({'north': Neighbour(token='far', score=0.8)}, ['north'])
    """

    vectors: Vectors
    remap: dict[str, Neighbour]


def add(vectors: Vectors, tokens: Any, rows: Any, replace: bool) -> Vectors:
    """See `Vectors.add`."""
    old, table = vectors.vocabulary, vectors.table
    names = folded(old, tokens)
    values = as_values(rows, (len(names), *table.shape[1:]), table.dtype)
    if len(set(names)) < len(names):
        twice = [name for name, times in Counter(names).items() if times > 1]
        raise VocabularyError(
            f"expected distinct tokens, got {len(twice)} more than once: {shown(twice)}; remove "
            "the repetitions"
        )
    ids = find_ids(old, names)
    known = np.flatnonzero(ids >= 0)
    if known.size and not replace:
        raise VocabularyError(
            f"expected tokens that the vectors do not have, got {known.size} that they have: "
            f"{shown(names[i] for i in known)}; pass replace=True for new rows in their place"
        )
    # Another token that shared a row gets one of its own.
    mains = old.decode(ids[known])
    own = [main == names[i] for i, main in zip(known, mains, strict=True)]
    fresh = np.ones(len(names), bool)
    fresh[known[own]] = False
    source = np.concatenate([np.arange(len(old)), ~np.flatnonzero(fresh), rest(vectors)])
    source[ids[~fresh]] = ~np.flatnonzero(~fresh)

    def rows_of(some: Ids) -> NDArray[Any]:
        found = table.lookup(source[some], out_of_range="zeros")
        new = source[some] < 0
        found[new] = values[~source[some][new]]
        return found

    more = [names[i] for i in np.flatnonzero(fresh)]
    counts = old.counts
    if counts is not None:
        counts = np.concatenate([counts, np.zeros(len(more), np.int64)])
    aliases = aliases_without(old, more)
    vocabulary = remade(old, [*old, *more], stand_ins(old), counts, aliases)
    return vectors._with(built(table, len(source), table.dtype, rows_of), vocabulary)


def subset(vectors: Vectors, tokens: Any, missing: str) -> Vectors:
    """See `Vectors.subset`."""
    if not is_one_of(missing, ("error", "drop", "subwords")):
        raise OptionError(f"expected missing as 'error', 'drop' or 'subwords', got {missing!r:.40}")
    old, table = vectors.vocabulary, vectors.table
    names = list(dict.fromkeys(folded(old, tokens)))
    ids = find_ids(old, names)
    if missing == "error":
        check_known(names, ids, "these vectors")
    if missing == "drop":
        names = [name for name, i in zip(names, ids, strict=True) if i >= 0]
        ids = ids[ids >= 0]
    subwords = vectors._subwords
    if missing == "subwords" and subwords is None:
        raise TableError(
            "expected vectors of a fastText model for missing='subwords', got others; open the "
            "model's .bin with Vectors.from_file, or convert it to a table"
        )
    names, ids, places = with_stand_ins(old, names, ids)
    source = np.concatenate([ids, rest(vectors)])

    def rows_of(some: Ids) -> NDArray[Any]:
        found = table.lookup(source[some], out_of_range="zeros")
        made = source[some] < 0
        if made.any():
            assert subwords is not None
            found[made] = subwords.rows([names[i] for i in some[made]], None)
        return found

    counts = old.counts
    if counts is not None:
        counts = np.where(ids < 0, 0, np.append(counts, 0)[ids])
    vocabulary = remade(old, names, places, counts, {})
    return vectors._with(built(table, len(source), table.dtype, rows_of), vocabulary)


def merge(vectors: Vectors, other: Vectors, conflict: str) -> Vectors:
    """See `Vectors.merge`."""
    if not is_one_of(conflict, ("first", "second", "mean", "error")):
        raise OptionError(
            f"expected conflict as 'first', 'second', 'mean' or 'error', got {conflict!r:.40}"
        )
    check_fit(vectors, other, "other")
    old, new = vectors.vocabulary, other.vocabulary
    if (old.casefold, old.normal_form) != (new.casefold, new.normal_form):
        raise VocabularyError(
            "expected vocabularies with one casefold and one normal form, got "
            f"{old.casefold}, {old.normal_form!r} and {new.casefold}, {new.normal_form!r}; make "
            "one of them again"
        )
    dtype = _common(vectors.table.dtype, other.table.dtype)
    if conflict == "mean" and not is_float(dtype):
        raise TableError(f"expected rows of floating-point numbers for means, got {dtype}")
    names = [*new, *new.aliases]
    there = np.concatenate([np.arange(len(new)), find_ids(new, list(new.aliases))])
    ids = find_ids(old, names)
    known = np.flatnonzero(ids >= 0)
    if known.size and conflict == "error":
        raise VocabularyError(
            f"expected vectors without tokens in common, got {known.size}: "
            f"{shown(names[i] for i in known)}; choose with conflict= whose rows stay"
        )
    # What stands in each new row: a row of the one, of the other, or (mean) of both.
    main = np.array([o == names[i] for i, o in zip(known, old.decode(ids[known]), strict=True)])
    apart = known[~main.astype(bool)] if conflict != "first" else known[:0]
    more = np.concatenate([np.flatnonzero(ids[: len(new)] < 0), apart])
    mine = np.concatenate([np.arange(len(old)), ids[more], rest(vectors)])
    theirs = np.full(len(mine), -1, np.int64)
    theirs[len(old) : len(old) + len(more)] = there[more]
    if conflict != "first":
        both = known[main.astype(bool)]
        theirs[ids[both]] = there[both]
    if conflict == "second":
        mine[theirs >= 0] = -1

    def rows_of(some: Ids) -> NDArray[Any]:
        left, right = mine[some], theirs[some]
        found = vectors.table.lookup(left, out_of_range="zeros").astype(dtype, copy=False)
        second = other.table.lookup(right, out_of_range="zeros").astype(dtype, copy=False)
        found[left < 0] = second[left < 0]
        if conflict == "mean":
            both = (left >= 0) & (right >= 0)
            halves = found[both].astype(np.float64) / 2 + second[both].astype(np.float64) / 2
            found[both] = halves.astype(dtype)
        return found

    tokens = [*old, *(names[i] for i in more)]
    place = ids.copy()
    place[more] = np.arange(len(old), len(tokens))
    aliases = aliases_without(old, [names[i] for i in apart])
    for i in range(len(new), len(names)):
        if ids[i] < 0:
            aliases[names[i]] = int(place[there[i]])
    counts = None
    if old.counts is not None or new.counts is not None:
        counts = np.zeros(len(tokens), np.int64)
        counts[: len(old)] = 0 if old.counts is None else old.counts
        np.add.at(counts, place[: len(new)], 0 if new.counts is None else new.counts)
    vocabulary = remade(old, tokens, stand_ins(old), counts, aliases)
    return vectors._with(built(vectors.table, len(mine), dtype, rows_of), vocabulary)


def _common(first: np.dtype[Any], second: np.dtype[Any]) -> np.dtype[Any]:
    """The dtype that holds the values of both."""
    if first == second:
        return first
    if is_real(first) and is_real(second):
        # ml_dtypes' floats take integers of any size, and float16 takes none of them.
        known = [np.dtype(np.float32) if dtype.kind == "V" else dtype for dtype in (first, second)]
        return np.promote_types(*known)
    if first.kind == second.kind and first.kind != "V":
        return np.promote_types(first, second)
    raise TableError(f"expected rows that one dtype can hold, got {first} and {second}")


def prune(
    vectors: Vectors,
    count: int | None,
    keep: Any,
    progress: Callable[[int, int], object] | None,
) -> Pruned:
    """See `Vectors.prune`."""
    old, table = vectors.vocabulary, vectors.table
    check_rows(table)
    if (count is None) == (keep is None):
        raise OptionError("expected either count, how many rows to keep, or keep, their tokens")
    if keep is None:
        kept = np.arange(min(as_count(count, "count"), len(old)))
    else:
        kept = known_rows(old, folded(old, keep), "these vectors")
        kept = kept[np.sort(np.unique(kept, return_index=True)[1])]
    if not len(kept) and len(old):
        raise OptionError("expected at least one row to keep, got none")
    targets = len(kept)
    names, kept, places = with_stand_ins(old, old.decode(kept), kept)
    source = np.concatenate([kept, rest(vectors)])
    small = built(table, len(source), table.dtype, lambda some: table.lookup(source[some]))
    gone = np.delete(np.arange(len(old)), kept)
    remap: dict[str, Neighbour] = {}
    step = row_step(table)
    new_ids = np.empty(len(old), np.int64)
    new_ids[kept] = np.arange(len(kept))
    for begin in range(0, len(gone), step):
        ids = gone[begin : begin + step]
        queries = Queries(directions(table.lookup(ids)), [[] for _ in ids])
        found = search(small, queries, 1, targets)
        for i, token, (to, scores) in zip(ids, old.decode(ids), found, strict=True):
            new_ids[i] = to[0]
            remap[token] = Neighbour(names[int(to[0])], float(scores[0]))
        if progress is not None:
            progress(begin + len(ids), len(gone))
    aliases = dict(zip(remap, new_ids[gone].tolist(), strict=True))
    aliases |= {alias: int(new_ids[i]) for alias, i in old.aliases.items()}
    counts = None if old.counts is None else old.counts[kept]
    vocabulary = remade(old, names, places, counts, aliases)
    return Pruned(vectors._with(small, vocabulary), remap)
