"""What new vectors are made with: tokens that are known, tables row by row, policies kept.

Rows that have no token, such as those of a fastText model's n-grams or of buckets for unknown
tokens, come along behind the tokens' rows, and what points to them is moved with them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from shardwise import _native
from shardwise._encoding import find_ids
from shardwise._errors import OptionError, TableError, UnknownTokenError, VocabularyError
from shardwise._hashing import Buckets
from shardwise._norms import is_small_float
from shardwise._partition import Partition
from shardwise._table import Table
from shardwise._tokens import Bytes, as_arrow, flatten, map_arrow, packed_tokens, token_bytes
from shardwise._vocabulary import Vocabulary
from shardwise.words._search import Ids, row_width

if TYPE_CHECKING:
    from shardwise._vectors import Vectors

_BLOCK_BYTES = 4 << 20  # of rows that are worked on together, as float64
_SHOWN = 10  # tokens that an error names


def shown(tokens: Iterable[str]) -> str:
    """Return the first tokens for a message."""
    names = list(tokens)
    first = [f"{name!r:.60}" for name in names[:_SHOWN]]
    return ", ".join(first) + (", ..." if len(names) > _SHOWN else "")


def as_tokens(tokens: Any) -> list[str]:
    """Return one token, or tokens in a sequence or an array, as a list of `str`.

    Raises:
        TokenTypeError: one is neither `str` nor `bytes`.
        VocabularyError: they are nested, or one cannot be written as UTF-8.
    """
    array = as_arrow(tokens)
    if array is not None:
        return _arrow_strings(array)
    flat, shape = flatten(tokens)
    if len(shape) > 1:
        raise VocabularyError(f"expected a list of tokens, got a nest of shape {shape}")
    if set(map(type, flat)) <= {str}:
        return list(flat)
    return [token_bytes(t, i).decode("utf-8", "surrogateescape") for i, t in enumerate(flat)]


def _arrow_strings(array: Any) -> list[str]:
    strings: list[str] = []

    def fill(data: Bytes, offsets: NDArray[Any], numbers: Ids) -> None:
        numbers[:] = np.arange(len(strings), len(strings) + len(numbers))
        strings.extend(packed_tokens(data, offsets))

    return [strings[i] for i in map_arrow(array, fill).tolist()]


def check_known(names: list[str], ids: Ids, whose: str) -> None:
    """See to it that all tokens were found.

    Raises:
        UnknownTokenError: one was not; the unknown token does not stand for any.
    """
    if (ids < 0).any():
        missing = dict.fromkeys(n for n, i in zip(names, ids, strict=True) if i < 0)
        error = UnknownTokenError(
            f"expected tokens of {whose}, got {len(missing)} that are not: {shown(missing)}; "
            "leave them out (`token in vectors`)"
        )
        error.tokens = tuple(missing)
        raise error


def known_rows(vocabulary: Vocabulary, names: list[str], whose: str) -> Ids:
    """Return the rows of tokens, all of which must be known."""
    ids = find_ids(vocabulary, names)
    check_known(names, ids, whose)
    return ids


def check_fit(vectors: Vectors, other: Any, name: str) -> None:
    """See to it that both have rows of one shape.

    Raises:
        TableError: they have not, or `other` is something else.
    """
    if not isinstance(other, type(vectors)):
        raise TableError(f"expected {name} as Vectors, got {type(other).__name__}")
    if vectors.table.shape[1:] != other.table.shape[1:]:
        raise TableError(
            f"expected rows of one shape, got {vectors.table.shape[1:]} and, of {name}, "
            f"{other.table.shape[1:]}"
        )


def is_float(dtype: np.dtype[Any]) -> bool:
    return dtype.kind == "f" or is_small_float(dtype)


def row_step(table: Table) -> int:
    """How many rows are worked on together."""
    return max(1, _BLOCK_BYTES // max(1, 8 * row_width(table)))


def built(
    like: Table, count: int, dtype: np.dtype[Any], rows_of: Callable[[Ids], NDArray[Any]]
) -> Table:
    """Make a table in memory, cut as `like` is, block by block.

    There are as many shards, by the same strategy; where `like` is cut at boundaries of its own,
    and the number of rows is another, by "div".
    """
    cut = like.partition
    if count != len(like):
        deal = Partition.mod if cut.strategy == "mod" else Partition.div
        cut = deal(count, cut.num_shards)
    step = row_step(like)
    shards = []
    for k, size in enumerate(cut.shard_sizes):
        shard = _native.empty((size, *like.shape[1:]), dtype)
        for begin in range(0, size, step):
            end = min(begin + step, size)
            with np.errstate(all="ignore"):  # an infinity stays one
                shard[begin:end] = rows_of(cut.ids_of(k, np.arange(begin, end)))
        shards.append(shard)
    return Table.from_shards(shards, cut)


def stand_ins(vocabulary: Vocabulary) -> Ids:
    """Return the ids of those tokens that stand for unknown ones, if there are such."""
    size, unknown = len(vocabulary), vocabulary.unknown
    if isinstance(unknown, Buckets):
        first = unknown.start(size)
        return np.arange(first, min(first + unknown.count, size))
    one = vocabulary.unknown_id
    return np.array([] if one is None or not 0 <= one < size else [one], np.int64)


def remade(
    old: Vocabulary,
    tokens: list[str],
    places: Ids,
    counts: NDArray[np.int64] | None,
    aliases: Mapping[str, int],
) -> Vocabulary:
    """Make a vocabulary with the policies of another.

    Args:
        old: the other one.
        tokens: the tokens.
        places: the new ids of `stand_ins(old)`.
        counts: of the tokens.
        aliases: further tokens, and the id that each has.

    Raises:
        OptionError: the ids of buckets for unknown tokens do not stay side by side.
    """
    unknown = old.unknown
    moved = len(tokens) - len(old)
    if isinstance(unknown, int):
        if len(places):
            unknown = int(places[0])
        elif unknown >= len(old):  # a row without a token
            unknown += moved
    elif isinstance(unknown, Buckets) and unknown.first is not None:
        first = unknown.first + moved
        if unknown.first < len(old):
            first = int(places[0])
            if len(places) < unknown.count or (places != first + np.arange(len(places))).any():
                raise OptionError(
                    f"expected the ids of the {unknown.count} buckets for unknown tokens to stay "
                    f"side by side, got {places.tolist()[:_SHOWN]} for {len(places)} of them; ask "
                    "for their tokens in their order, or make the vocabulary with Buckets(count)"
                )
        unknown = replace(unknown, first=first)
    return Vocabulary(
        tokens,
        unknown=unknown,
        counts=counts,
        aliases=aliases or None,
        casefold=old.casefold,
        normal_form=old.normal_form,
    )


def with_stand_ins(old: Vocabulary, names: list[str], ids: Ids) -> tuple[list[str], Ids, Ids]:
    """Put the tokens that stand for unknown ones behind others, if they are not among them.

    Returns:
        The names, their ids, and the places of the stand-ins in them.
    """
    needed = stand_ins(old)
    tokens: list[str] = old.decode(needed)
    place = {name: i for i, name in enumerate(names)}
    absent = [i for i, token in enumerate(tokens) if token not in place]
    for i in absent:
        place[tokens[i]] = len(place)
    names = [*names, *(tokens[i] for i in absent)]
    places = np.array([place[token] for token in tokens], np.int64)
    return names, np.concatenate([ids, needed[np.array(absent, np.int64)]]), places


def rest(vectors: Vectors) -> Ids:
    """Return the ids of the rows without a token."""
    return np.arange(len(vectors), len(vectors.table))


def folded(vocabulary: Vocabulary, tokens: Any) -> list[str]:
    """Return tokens as the vocabulary compares them."""
    return vocabulary._folding.fold_tokens(as_tokens(tokens))


def aliases_without(vocabulary: Vocabulary, names: list[str]) -> dict[str, int]:
    """Return the aliases that are not among these tokens."""
    gone = set(names)
    return {alias: token for alias, token in vocabulary.aliases.items() if alias not in gone}
