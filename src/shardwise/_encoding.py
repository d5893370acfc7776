"""Ids of tokens and tokens of ids: how a vocabulary's arrays are read, in memory or in a file."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from shardwise import _native
from shardwise._errors import OptionError, UnknownTokenError, VocabularyError
from shardwise._hashing import Buckets
from shardwise._ids import as_ids, out_of_range_error
from shardwise._safetensors import advise
from shardwise._tokens import arrow_tokens, as_arrow, flatten, map_arrow, pack_tokens, packed_tokens

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from shardwise._tokens import Bytes, Ids, Token
    from shardwise._vocabulary import Vocabulary

_INT64 = np.dtype(np.int64)
_SHOWN = 10  # tokens that an error names
_FEW = 2048  # tokens, in all, for which a file is read in pieces: its map is not touched
_MANY = 4096  # tokens, at once, for which a file is read as a whole


# ---- tokens to ids ----


def encode(vocabulary: Vocabulary, tokens: Any) -> int | Ids:
    """Return the ids of tokens; see `Vocabulary.encode`."""
    if isinstance(tokens, (str, bytes)):
        return int(_known(vocabulary, [tokens])[0])
    numbers = vocabulary._buckets is not None
    array = as_arrow(tokens, numbers=numbers)
    if array is not None:
        return _known_arrow(vocabulary, array)
    flat, shape = flatten(tokens, numbers=numbers)
    ids = _known(vocabulary, flat)
    if ids.size != math.prod(shape):
        raise _changed()
    return int(ids[0]) if isinstance(tokens, (int, np.integer)) else ids.reshape(shape)


def _known(vocabulary: Vocabulary, tokens: Sequence[Token]) -> Ids:
    def tokens_at(places: Ids) -> list[Token]:
        try:
            return [tokens[i] for i in places.tolist()]
        except IndexError:  # another thread took them out of the list
            raise _changed() from None

    missing = _id_for_missing(vocabulary)
    ids = find_ids(vocabulary, tokens, missing)
    if missing == -1 and ids.size and ids.min() < 0:
        _replace_unknown(vocabulary, ids, tokens_at)
    return ids


def _known_arrow(vocabulary: Vocabulary, array: Any) -> Ids:
    def fill(data: Bytes, offsets: NDArray[Any], ids: Ids) -> None:
        if vocabulary._folding:
            data, offsets = vocabulary._folding.pack(packed_tokens(data, offsets))
        _find_packed(vocabulary, data, offsets, ids, missing)

    missing = _id_for_missing(vocabulary)
    try:
        ids = map_arrow(array, fill)
    except ValueError as error:
        if isinstance(error, VocabularyError):
            raise
        raise damaged(error) from None
    if missing == -1 and ids.size and ids.min() < 0:
        _replace_unknown(vocabulary, ids, lambda places: arrow_tokens(array, places))
    return ids


def find_ids(vocabulary: Vocabulary, tokens: Sequence[Token], missing: int = -1) -> Ids:
    """Return the ids of tokens, `missing` for those that are not in the vocabulary.

    Raises:
        VocabularyError: a token cannot be written as UTF-8, the list changed while it was read,
            or the vocabulary is damaged.
        TokenTypeError: a token is neither `str` nor `bytes`.
    """
    ids: Ids = _native.empty((len(tokens),), _INT64)
    if vocabulary._is_cold:
        _expect(vocabulary, len(tokens))
    arrays = vocabulary._data, vocabulary._offsets, vocabulary._slots
    try:
        if vocabulary._folding:
            _find_packed(vocabulary, *vocabulary._folding.pack(tokens), ids, missing)
        elif _native.find_objects(*arrays, tokens, ids, missing, vocabulary._file) >= 0:
            _resolve(vocabulary, ids)
        else:
            _find_packed(vocabulary, *pack_tokens(list(tokens)), ids, missing)
    except ValueError as error:
        if isinstance(error, VocabularyError):
            raise
        raise damaged(error) from None
    return ids


def _find_packed(
    vocabulary: Vocabulary, wanted: Bytes, offsets: NDArray[Any], ids: Ids, missing: int
) -> None:
    if len(ids) != len(offsets) - 1:
        raise _changed()
    if vocabulary._is_cold:
        _expect(vocabulary, len(ids))
    arrays = vocabulary._data, vocabulary._offsets, vocabulary._slots
    _native.find_tokens(*arrays, wanted, offsets, ids, missing, vocabulary._file)
    _resolve(vocabulary, ids)


def _expect(vocabulary: Vocabulary, count: int) -> None:
    """Choose how a file is read for so many tokens more.

    A few are read in pieces, as a touch may map megabytes. Many at once would touch most of its
    pages, and have it read as a whole.
    """
    vocabulary._asked += count
    if vocabulary._asked > _FEW:
        vocabulary._file = None
    if count >= _MANY:
        advise(vocabulary._data, "all")
        vocabulary._is_cold = False


def _resolve(vocabulary: Vocabulary, ids: Ids) -> None:
    """Put the ids that aliases stand for in the place of their own."""
    if vocabulary._alias_ids is not None:
        entries = np.flatnonzero(ids >= vocabulary._size)
        if entries.size:
            ids[entries] = alias_targets(vocabulary, ids[entries] - vocabulary._size)


def alias_targets(vocabulary: Vocabulary, aliases: Ids) -> Ids:
    """Return the ids that aliases stand for, which count from 0.

    Raises:
        VocabularyError: the vocabulary is damaged.
    """
    assert vocabulary._alias_ids is not None
    ids: Ids = vocabulary._alias_ids[aliases]
    if ((ids < 0) | (ids >= vocabulary._size)).any():
        raise damaged(f"expected aliases of ids from 0 to {vocabulary._size - 1}, got another")
    return ids


# ---- tokens that are not known ----


def set_unknown(vocabulary: Vocabulary, unknown: str | int | Buckets | None) -> None:
    """Take what tokens outside the vocabulary get.

    Raises:
        OptionError: it is no token of the vocabulary, and nothing else that it can be.
    """
    vocabulary._unknown_id = None
    vocabulary._unknown_is_token = False
    vocabulary._buckets = None
    if unknown is None:
        return
    if isinstance(unknown, Buckets):
        unknown.start(vocabulary._size)
        vocabulary._buckets = unknown
    elif isinstance(unknown, (str, bytes)):
        found = int(find_ids(vocabulary, [unknown])[0])
        if found < 0:
            raise OptionError(
                f"expected unknown= to be one of the {len(vocabulary)} tokens, got {unknown!r}; "
                "add it to the tokens, or leave unknown= out"
            )
        vocabulary._unknown_id = found
        vocabulary._unknown_is_token = True
    else:
        try:
            number = operator.index(unknown)
        except TypeError:
            number = 1 << 63
        if isinstance(unknown, (bool, np.bool_)) or not -(1 << 63) <= number < 1 << 63:
            raise OptionError(
                f"expected unknown= as a token, an id of 64 bits, or Buckets, got {unknown!r:.60}"
            )
        vocabulary._unknown_id = number


def num_ids(vocabulary: Vocabulary) -> int:
    """Return one more than the largest id that tokens can get."""
    most = vocabulary._size
    if vocabulary._unknown_id is not None:
        most = max(most, vocabulary._unknown_id + 1)
    if vocabulary._buckets is not None:
        most = max(most, vocabulary._buckets.start(vocabulary._size) + vocabulary._buckets.count)
    return most


def _id_for_missing(vocabulary: Vocabulary) -> int:
    """What native code is to write for tokens that it does not find, -1 for later work."""
    if vocabulary._unknown_id is None or vocabulary._alias_ids is not None:
        return -1
    return vocabulary._unknown_id


def _replace_unknown(
    vocabulary: Vocabulary, ids: Ids, tokens_at: Callable[[Ids], list[Token]]
) -> None:
    """Give tokens that were not found, of which there are some, the ids that the policy has."""
    missing = np.flatnonzero(ids < 0)
    if vocabulary._buckets is not None:
        packed = vocabulary._folding.pack(tokens_at(missing))
        ids[missing] = vocabulary._buckets.ids(*packed, vocabulary._size)
    elif vocabulary._unknown_id is not None:
        ids[missing] = vocabulary._unknown_id
    else:
        raise _unknown_error(tokens_at(missing), len(ids))


# ---- ids to tokens ----


def decode(vocabulary: Vocabulary, ids: Any, missing: str | None) -> str | list[Any]:
    """Return the tokens of ids; see `Vocabulary.decode`."""
    if missing is not None and not isinstance(missing, str):
        raise OptionError(f"expected missing as a str, or None, got {missing!r:.40}")
    array = as_ids(ids)
    size = len(vocabulary)
    outside = (array < 0) | (array >= size)
    some = bool(outside.any())
    if some and missing is None:
        position = int(np.argmax(outside))
        raise out_of_range_error(array.shape, position, int(array.reshape(-1)[position]), size)
    if some:
        strings = [missing or ""] * array.size
        inside = np.flatnonzero(~outside)
        known = strings_of(vocabulary, array.ravel()[inside].astype(np.int64))
        for i, token in zip(inside.tolist(), known, strict=True):
            strings[i] = token
    else:
        strings = strings_of(vocabulary, array.ravel().astype(np.int64))
    return _nested(strings, array.shape) if array.ndim else strings[0]


def strings_of(vocabulary: Vocabulary, ids: Ids) -> list[str]:
    """Return the tokens of ids that there are, those of aliases behind the others.

    Raises:
        VocabularyError: the vocabulary is damaged.
    """
    if vocabulary._is_cold:
        _expect(vocabulary, len(ids))
    data = vocabulary._data
    begins, ends = vocabulary._offsets[ids], vocabulary._offsets[ids + 1]
    if ((begins < 0) | (begins > ends) | (ends > data.size)).any():
        raise VocabularyError(
            "the vocabulary is damaged: expected offsets in ascending order, none beyond the "
            f"{data.size} bytes of the tokens; write it again"
        )
    spans = zip(begins.tolist(), ends.tolist(), strict=True)
    return [str(data.data[begin:end], "utf-8", "surrogateescape") for begin, end in spans]


def _nested(strings: list[str], shape: tuple[int, ...]) -> list[Any]:
    if len(shape) == 1:
        return strings
    size = math.prod(shape[1:])
    rows = (strings[row * size : (row + 1) * size] for row in range(shape[0]))
    return [_nested(row, shape[1:]) for row in rows]


# ---- errors ----


def damaged(error: object) -> VocabularyError:
    """Return the error for arrays that cannot be a vocabulary's."""
    return VocabularyError(f"{error}; write the vocabulary again")


def _changed() -> VocabularyError:
    return VocabularyError(
        "expected a list of tokens that stays as it is, got one that changed while it was read; "
        "encode a copy of it"
    )


def _unknown_error(missing: list[Token], count: int) -> UnknownTokenError:
    distinct = list(dict.fromkeys(missing))
    shown = ", ".join(map(repr, distinct[:_SHOWN])) + (", ..." if len(distinct) > _SHOWN else "")
    error = UnknownTokenError(
        f"expected tokens of the vocabulary, got {len(distinct)} that are not ({len(missing)} of "
        f"{count} tokens): {shown}; leave them out (`token in vocabulary`), or make the "
        "vocabulary with unknown=, the token that stands for them"
    )
    error.tokens = tuple(distinct)
    return error
