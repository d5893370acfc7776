"""The arrays of a vocabulary: bytes of tokens, the hash map over them, counts, ids of aliases.

Whatever they come from, they are checked here as far as can be without reading them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from shardwise import _native
from shardwise._encoding import alias_targets, damaged, find_ids, strings_of
from shardwise._errors import OptionError, TokenTypeError, VocabularyError
from shardwise._tokens import (
    arrow_tokens,
    as_arrow,
    build_slots,
    pack_tokens,
    packed_tokens,
    token_bytes,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from shardwise._folding import Folding
    from shardwise._tokens import Bytes, Ids, Slots, Token
    from shardwise._vocabulary import Vocabulary


def set_from_tokens(
    vocabulary: Vocabulary,
    tokens: Iterable[Token],
    aliases: Mapping[Any, Any] | None,
    counts: Any,
    folding: Folding,
) -> None:
    """Take tokens, aliases and counts as `Vocabulary` does."""
    if isinstance(tokens, (str, bytes)):
        raise TokenTypeError(
            f"expected an iterable of tokens, got one token, {tokens!r}; write [{tokens!r}]"
        )
    if not isinstance(aliases, (Mapping, type(None))):
        raise OptionError(f"expected aliases as a mapping of tokens to tokens, got {aliases!r:.60}")
    own = _in_order(tokens)
    asked = [*own, *(aliases or ())]
    _set_packed(vocabulary, *folding.pack(asked), None, len(own), folding, lambda: asked)
    if aliases:
        vocabulary._alias_ids = _frozen("aliases", _targets(vocabulary, aliases), np.int64)
    if counts is not None:
        vocabulary._counts = _as_counts(counts, len(own))


def _in_order(tokens: Any) -> list[Token]:
    """The tokens by their ids, which a mapping of tokens has in any order."""
    if (array := as_arrow(tokens)) is not None:
        return arrow_tokens(array, np.arange(len(array)))
    own = list(tokens)
    ids = list(tokens.values()) if isinstance(tokens, Mapping) else []
    if all(n is None for n in ids):  # or dict.fromkeys(tokens), a set that keeps the order
        return own
    if not all(isinstance(n, (int, np.integer)) for n in ids) or sorted(ids) != [*range(len(ids))]:
        raise VocabularyError(
            f"expected tokens in the order of their ids, or a mapping of them to the ids 0 to "
            f"{len(ids) - 1}, got one to {ids!r:.60}; of tokens with counts Vocabulary.build makes "
            "a vocabulary"
        )
    by_id: list[Any] = [None] * len(ids)
    for token, number in zip(own, ids, strict=True):
        by_id[number] = token
    return by_id


def set_from_arrays(
    vocabulary: Vocabulary,
    data: Bytes,
    offsets: Ids,
    slots: Slots | None,
    alias_ids: Ids | None,
    counts: Ids | None,
    folding: Folding,
) -> None:
    """Take arrays as `Vocabulary.from_arrays` does; the last tokens may be aliases of ids."""
    if alias_ids is not None:
        alias_ids = _frozen("alias_ids", alias_ids, np.int64)
    data, offsets = _frozen("data", data, np.uint8), _frozen("offsets", offsets, np.int64)
    if alias_ids is not None and not alias_ids.size:
        alias_ids = None
    aliases = 0 if alias_ids is None else alias_ids.size
    size = offsets.size - 1 - aliases
    if aliases and size < 0:
        raise _no_vocabulary(
            f"expected at most {max(0, offsets.size - 1)} alias_ids, one for each of the last "
            f"tokens, got {aliases}"
        )
    if slots is None and folding:
        try:
            asked = packed_tokens(data, offsets)
        except IndexError as error:
            raise _no_vocabulary(error) from None
        _set_packed(vocabulary, *folding.pack(asked), None, size, folding, lambda: asked)
    else:
        _set_packed(
            vocabulary, data, offsets, slots, size, folding, lambda: packed_tokens(data, offsets)
        )
    vocabulary._alias_ids = alias_ids
    if counts is not None:
        counts = _frozen("counts", counts, np.int64)
        if len(counts) != size:
            raise _no_vocabulary(f"expected a count for each of {size} tokens, got {len(counts)}")
        vocabulary._counts = counts


def _set_packed(
    vocabulary: Vocabulary,
    data: Bytes,
    offsets: Ids,
    slots: Slots | None,
    size: int,
    folding: Folding,
    asked: Callable[[], Sequence[Token]],
) -> None:
    """Take folded tokens, `size` own ones and then aliases; `asked` is what they were."""
    vocabulary._data = _frozen("data", data, np.uint8)
    vocabulary._offsets = _frozen("offsets", offsets, np.int64)
    vocabulary._size = size
    vocabulary._folding = folding
    vocabulary._alias_ids = None
    vocabulary._counts = None
    vocabulary._is_cold = False
    vocabulary._file = None
    vocabulary._asked = 0
    try:
        if slots is None:
            slots, first_of, repetitions = build_slots(vocabulary._data, vocabulary._offsets)
            if repetitions:
                raise _duplicate(size, first_of, repetitions, asked())
        vocabulary._slots = _frozen("slots", slots, np.uint64)
        _native.validate_token_map(vocabulary._data, vocabulary._offsets, vocabulary._slots)
    except ValueError as error:
        if isinstance(error, VocabularyError):
            raise
        raise _no_vocabulary(error) from None


def _targets(vocabulary: Vocabulary, aliases: Mapping[Any, Any]) -> Ids:
    """Return the ids that aliases stand for, whose own tokens are in the map already."""
    size = vocabulary._size
    ids = np.empty(len(aliases), np.int64)
    tokens: list[Token] = []
    places = []
    for i, (alias, target) in enumerate(aliases.items()):
        if isinstance(target, (str, bytes)):
            tokens.append(target)
            places.append(i)
        elif isinstance(target, (int, np.integer)) and not isinstance(target, bool):
            if not 0 <= target < size:
                raise OptionError(
                    f"expected an alias of a token or of an id from 0 to {size - 1}, "
                    f"got {alias!r:.60} of {target}"
                )
            ids[i] = target
        else:
            raise OptionError(
                f"expected an alias of a token or of an id, got {alias!r:.60} of {target!r:.60}"
            )
    found = find_ids(vocabulary, tokens)
    wrong = np.flatnonzero((found < 0) | (found >= size))
    if wrong.size:
        alias = list(aliases)[places[wrong[0]]]
        raise OptionError(
            f"expected an alias of one of the {size} tokens, got {alias!r:.60} of "
            f"{tokens[wrong[0]]!r:.60}; name the token itself, and no other alias"
        )
    ids[places] = found
    return ids


def aliases_of(vocabulary: Vocabulary) -> dict[str, int]:
    """Return the further tokens, each with the id that it stands for."""
    if vocabulary._alias_ids is None:
        return {}
    entries = np.arange(vocabulary._size, vocabulary._offsets.size - 1)
    ids = alias_targets(vocabulary, entries - vocabulary._size)
    return dict(zip(strings_of(vocabulary, entries), ids.tolist(), strict=True))


def own_arrays(vocabulary: Vocabulary) -> tuple[Bytes, Ids, Slots]:
    """Return (data, offsets, slots) of the tokens without their aliases."""
    if vocabulary._alias_ids is None or not vocabulary._alias_ids.size:
        return vocabulary._data, vocabulary._offsets, vocabulary._slots
    data, offsets = _first_packed(vocabulary, vocabulary._size)
    try:
        slots = _frozen("slots", build_slots(data, offsets)[0], np.uint64)
    except ValueError as error:
        raise damaged(error) from None
    return data, offsets, slots


def first_arrays(vocabulary: Vocabulary, size: int) -> dict[str, Any]:
    """Return the arrays of the first tokens, and of the aliases that they have."""
    data, offsets = _first_packed(vocabulary, size)
    alias_ids = None
    if vocabulary._alias_ids is not None:
        own = (vocabulary._alias_ids >= 0) & (vocabulary._alias_ids < size)
        entries = np.flatnonzero(own)
        names, ends = pack_tokens(strings_of(vocabulary, entries + vocabulary._size))
        alias_ids = vocabulary._alias_ids[entries]
        offsets = np.concatenate([offsets, data.size + ends[1:]])
        data = np.concatenate([data, names])
    whole = size == vocabulary._size and alias_ids is None
    return {
        "data": data,
        "offsets": offsets,
        "slots": vocabulary._slots if whole else None,
        "alias_ids": alias_ids,
        "counts": None if vocabulary._counts is None else vocabulary._counts[:size],
    }


def _first_packed(vocabulary: Vocabulary, size: int) -> tuple[Bytes, Ids]:
    offsets = vocabulary._offsets[: size + 1]
    end = int(offsets[-1])
    if not 0 <= end <= vocabulary._data.size:
        raise damaged(f"expected offsets from 0 to {vocabulary._data.size}, got {end}")
    return vocabulary._data[:end], offsets


def are_equal(one: Vocabulary, other: Vocabulary) -> bool:
    """Whether two vocabularies give the same ids for the same tokens, and have the same counts."""
    return (
        (one._size, one._unknown_id, one._unknown_is_token, one._buckets, one._folding)
        == (
            other._size,
            other._unknown_id,
            other._unknown_is_token,
            other._buckets,
            other._folding,
        )
        and _same(one._counts, other._counts)
        and _same(one._alias_ids, other._alias_ids)
        and np.array_equal(one._offsets, other._offsets)
        and np.array_equal(one._data, other._data)
    )


def _same(one: Ids | None, other: Ids | None) -> bool:
    return one is other or (one is not None and other is not None and np.array_equal(one, other))


def _frozen(name: str, array: Any, dtype: type) -> NDArray[Any]:
    if not isinstance(array, np.ndarray) or array.dtype != dtype or array.ndim != 1:
        got = (
            f"{array.dtype} of shape {array.shape}"
            if isinstance(array, np.ndarray)
            else type(array).__name__
        )
        raise VocabularyError(
            f"expected {name} as a one-dimensional array of {np.dtype(dtype)}, got {got}"
        )
    view = np.require(array, dtype, ["C", "A"]).view(np.ndarray)
    view.flags.writeable = False
    return view


def _as_counts(counts: Any, size: int) -> Ids:
    try:
        array = np.asarray(counts)
    except ValueError:
        array = np.empty((0, 0))
    if not array.size:
        array = array.astype(np.int64)  # NumPy calls an empty list floats
    if array.dtype.kind not in "iu" or array.shape != (size,):
        raise OptionError(
            f"expected counts as {size} integers, one for each token, got {array.dtype} of shape "
            f"{array.shape}"
        )
    if size and (array.min() < 0 or int(array.max()) >= 1 << 63):
        raise OptionError(f"expected counts in [0, 2**63), got {array.min()} to {array.max()}")
    return _frozen("counts", array.astype(np.int64), np.int64)


def _no_vocabulary(error: object) -> VocabularyError:
    return VocabularyError(f"these arrays are no vocabulary: {error}")


def _duplicate(
    size: int, first_of: Ids, repetitions: int, asked: Sequence[Token]
) -> VocabularyError:
    again = int(np.argmax(first_of != np.arange(len(first_of))))
    first = int(first_of[again])
    one, other = (token_bytes(asked[i], i) for i in (first, again))
    names = f"{_shown(one)!r}"
    if one != other:
        names += f" and {_shown(other)!r}, which are one by casefold= or normal_form=,"
    where = f"at positions {first} and {again}"
    if again >= size:
        where = f"at position {first} and as an alias" if first < size else "as aliases"
    return VocabularyError(
        f"expected distinct tokens, got {names} {where} ({repetitions} repetitions in all); "
        "remove the repetitions"
    )


def _shown(token: bytes) -> str:
    return token.decode("utf-8", "surrogateescape")
