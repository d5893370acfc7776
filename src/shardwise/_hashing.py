"""Buckets for tokens by TensorFlow's two hashes, and ids for tokens that a vocabulary lacks."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shardwise import _native
from shardwise._errors import OptionError, TokenTypeError, VocabularyError
from shardwise._vocabulary import Vocabulary, pack_tokens

_MOST = (1 << 63) - 1  # ids are int64


def hash_buckets(
    tokens: str | bytes | int | Sequence[Any] | NDArray[Any],
    num_buckets: int,
    key: Sequence[int] | None = None,
) -> NDArray[np.int64]:
    """Return the bucket of each token, in `[0, num_buckets)`: a hash of its bytes.

    Equal to `tf.strings.to_hash_bucket_fast` (FarmHash's Fingerprint64), and with a key to
    `tf.strings.to_hash_bucket_strong` (SipHash-2-4), on every machine and in every version. Without
    the key nobody can choose tokens that all fall in one bucket of the latter.

    Args:
        tokens: one token, or tokens in a sequence, a rectangular nest of sequences, or a NumPy
            array. A `str` stands for its UTF-8 bytes, an integer for its decimal digits.
        num_buckets: how many there are, at least 1.
        key: two integers of 64 bits, signed or not.

    Returns:
        `int64` of the shape of `tokens`; of shape () for one token.

    Raises:
        OptionError: `num_buckets` or `key` cannot have this value.
        TokenTypeError: a token is neither `str` nor `bytes` nor an integer.
        VocabularyError: a nest is not rectangular, or a token cannot be written as UTF-8.

    Example:
        >>> from shardwise import hash_buckets
        >>> hash_buckets(["king", "crimson"], 5)
        array([3, 4])
        >>> hash_buckets(["king", "crimson"], 1000, key=(1, 2))
        array([231, 172])
    """
    flat, shape = _flatten(tokens)
    return _buckets(flat, _as_count(num_buckets), _as_key(key)).reshape(shape)


def encode_with_buckets(
    vocabulary: Vocabulary,
    tokens: str | bytes | int | Sequence[Any] | NDArray[Any],
    num_buckets: int,
    key: Sequence[int] | None = None,
    offset: int | None = None,
) -> NDArray[np.int64]:
    """Return the ids of tokens; one that the vocabulary lacks gets the id `offset` + its bucket.

    Without `key` and `offset` this is `tf.lookup.StaticVocabularyTable`: its table of vectors has
    `len(vocabulary) + num_buckets` rows. The vocabulary's own unknown token is not used.

    Keras's `StringLookup` has its buckets in front, after the mask. Its ids are those of a
    vocabulary with a place for each (`["", "[UNK] 0", "[UNK] 1", "the", ...]`), with `offset=1`,
    or 0 without a mask.

    Args:
        vocabulary: the tokens that have an id.
        tokens: as for `hash_buckets`.
        num_buckets: how many there are, at least 1.
        key: as for `hash_buckets`.
        offset: the id of bucket 0, by default `len(vocabulary)`.

    Returns:
        `int64` of the shape of `tokens`; of shape () for one token.

    Raises:
        OptionError: `num_buckets`, `key` or `offset` cannot have this value.
        TokenTypeError: a token is neither `str` nor `bytes` nor an integer.
        VocabularyError: a nest is not rectangular, or a token cannot be written as UTF-8.

    Example:
        >>> from shardwise import Vocabulary, encode_with_buckets
        >>> known = Vocabulary(["emerson", "lake", "palmer"])
        >>> encode_with_buckets(known, ["lake", "king", "crimson"], 5)
        array([1, 6, 7])
    """
    flat, shape = _flatten(tokens)
    count, hash_key = _as_count(num_buckets), _as_key(key)
    first = len(vocabulary) if offset is None else _as_int("offset", offset)
    if not 0 <= first <= _MOST - count + 1:
        raise OptionError(
            f"expected offset so that the ids of {count} buckets are in [0, 2**63), got {first}"
        )
    ids = vocabulary._find(flat)
    missing = np.flatnonzero(ids < 0)
    if len(missing):
        ids[missing] = _buckets([flat[i] for i in missing.tolist()], count, hash_key) + first
    return ids.reshape(shape)


def _buckets(tokens: list[Any], num_buckets: int, key: tuple[int, int] | None) -> NDArray[np.int64]:
    buckets = np.empty(len(tokens), np.int64)
    _native.hash_buckets(*pack_tokens(tokens), num_buckets, key, buckets)
    return buckets


def _flatten(tokens: Any) -> tuple[list[Any], tuple[int, ...]]:
    """Return all tokens, integers as strings, and the shape they had."""
    if isinstance(tokens, (str, bytes)):
        return [tokens], ()
    if not isinstance(tokens, (np.ndarray, np.generic, int)):
        try:
            items = list(tokens)
        except TypeError:
            raise TokenTypeError(
                f"expected tokens of type str, bytes or int, or a sequence of them, got "
                f"{tokens!r:.60}"
            ) from None
        if set(map(type, items)) <= {str, bytes}:
            return items, (len(items),)
        if any(isinstance(item, (str, bytes, int, np.generic)) for item in items):
            return [_as_token(item, i) for i, item in enumerate(items)], (len(items),)
        return _joined([_flatten(item) for item in items])
    array = np.asarray(tokens)
    if array.dtype.kind in "iu":
        return list(map(str, array.ravel().tolist())), array.shape
    if array.dtype.kind not in "USOT":
        raise TokenTypeError(f"expected an array of strings or integers, got {array.dtype}")
    items = array.ravel().tolist()
    if array.dtype.kind == "O":
        items = [_as_token(item, i) for i, item in enumerate(items)]
    return items, array.shape


def _joined(
    parts: list[tuple[list[Any], tuple[int, ...]]],
) -> tuple[list[Any], tuple[int, ...]]:
    shapes = [shape for _, shape in parts]
    for position, shape in enumerate(shapes):
        if shape != shapes[0]:
            raise VocabularyError(
                f"expected a rectangular nest of tokens, got shape {shapes[0]} at position 0 and "
                f"{shape} at position {position}; hash them one by one, or pad the shorter"
            )
    return [token for flat, _ in parts for token in flat], (len(parts), *shapes[0])


def _as_token(item: Any, position: int) -> str | bytes:
    if isinstance(item, (str, bytes)):
        return item
    if isinstance(item, (int, np.integer)) and not isinstance(item, bool):
        return str(int(item))
    raise TokenTypeError(
        f"expected tokens of type str, bytes or int, got {type(item).__name__} at position "
        f"{position}: {item!r:.60}"
    )


def _as_int(name: str, value: Any) -> int:
    try:
        return operator.index(value)
    except TypeError:
        raise OptionError(f"expected {name} as an integer, got {value!r:.60}") from None


def _as_count(num_buckets: Any) -> int:
    count = _as_int("num_buckets", num_buckets)
    if not 1 <= count <= _MOST:
        raise OptionError(f"expected num_buckets in [1, 2**63), got {count}")
    return count


def _as_key(key: Any) -> tuple[int, int] | None:
    if key is None:
        return None
    try:
        first, second = (_as_int("key", part) for part in key)
    except (TypeError, ValueError):
        first = second = 1 << 64
    if not all(-(1 << 63) <= part < 1 << 64 for part in (first, second)):
        raise OptionError(f"expected key as two integers of 64 bits, got {key!r:.60}")
    return first % (1 << 64), second % (1 << 64)
