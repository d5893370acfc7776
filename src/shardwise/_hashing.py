"""Buckets for tokens, by TensorFlow's two hashes."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shardwise import _native
from shardwise._errors import OptionError, require
from shardwise._tokens import Bytes, Ids, as_arrow, flatten, map_arrow, pack_tokens

_LIMIT = 1 << 63  # ids are int64


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
        tokens: one token, or tokens in a sequence, a rectangular nest of sequences, a NumPy array,
            or an Arrow array as for `Vocabulary.encode`. A `str` stands for its UTF-8 bytes, an
            integer for its decimal digits.
        num_buckets: how many there are, at least 1.
        key: two integers of 64 bits, signed or not.

    Returns:
        `int64` of the shape of `tokens`; of shape () for one token.

    Raises:
        OptionError: `num_buckets` or `key` cannot have this value.
        TokenTypeError: a token is neither `str` nor `bytes` nor an integer.
        VocabularyError: a nest is not rectangular, a token cannot be written as UTF-8, or an Arrow
            array is damaged.

    Example:
        >>> from shardwise import hash_buckets
        >>> hash_buckets(["king", "crimson"], 5)
        array([3, 4])
        >>> hash_buckets(["king", "crimson"], 1000, key=(1, 2))
        array([231, 172])
    """
    count, hash_key = _as_count("num_buckets", num_buckets), _as_key(key)

    def fill(data: Bytes, offsets: NDArray[Any], buckets: Ids) -> None:
        try:
            packed = offsets.astype(np.int64, copy=False)
            _native.hash_buckets(data, packed, count, hash_key, buckets)
        except ValueError as error:
            raise IndexError(str(error)) from None

    array = as_arrow(tokens, numbers=True)
    if array is not None:
        return map_arrow(array, fill)
    flat, shape = flatten(tokens, numbers=True)
    return _bucket(*pack_tokens(list(flat)), count, hash_key).reshape(shape)


@dataclass(frozen=True)
class Buckets:
    """Ids for tokens that a vocabulary does not have: `first` + the token's bucket.

    A policy of `Vocabulary`. With the default `first` the ids are those of
    `tf.lookup.StaticVocabularyTable`: the buckets come behind the tokens. Keras's `StringLookup`
    has them in front, after the mask: its ids are those of a vocabulary with a place for each
    (`["", "[UNK] 0", "[UNK] 1", "the", ...]`), with `first=1`, or 0 without a mask.

    Attributes:
        count: how many buckets there are, at least 1.
        key: as for `hash_buckets`.
        first: the id of bucket 0; None stands for the number of the vocabulary's tokens.

    Raises:
        OptionError: an attribute cannot have this value.

    Example:
        >>> import numpy as np
        >>> from shardwise import Buckets, Vocabulary
        >>> known = Vocabulary(["emerson", "lake", "palmer"], unknown=Buckets(5))
        >>> known.encode(["lake", "king", "crimson"])
        array([1, 6, 7])
        >>> known.num_ids
        8
        >>> data, offsets = np.frombuffer(b"kingcrimson", np.uint8), np.array([0, 4, 11])
        >>> Buckets(5).ids(data, offsets, num_tokens=3)
        array([6, 7])
    """

    count: int
    key: tuple[int, int] | None = None
    first: int | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "count", _as_count("count", self.count))
        object.__setattr__(self, "key", _as_key(self.key))
        if self.first is not None:
            object.__setattr__(self, "first", _as_int("first", self.first))
            self.start(0)

    def start(self, num_tokens: int) -> int:
        """Return the id of bucket 0 beside so many tokens.

        Raises:
            OptionError: ids would be negative, or not fit in int64.

        Example:
            >>> from shardwise import Buckets
            >>> Buckets(5).start(3), Buckets(2, first=1).start(3)
            (3, 1)
        """
        first = _as_int("num_tokens", num_tokens) if self.first is None else self.first
        if not 0 <= first <= _LIMIT - self.count:
            raise OptionError(
                f"expected first so that the ids of {self.count} buckets are in [0, 2**63), got "
                f"{first}"
            )
        return first

    def ids(self, data: Bytes, offsets: Ids, num_tokens: int) -> Ids:
        """Return the ids of packed tokens, none of which the vocabulary has.

        Raises:
            OptionError: `data` and `offsets` are no arrays, or there is no offset.
        """
        require(data, np.ndarray, "data", OptionError)
        require(offsets, np.ndarray, "offsets", OptionError)
        if offsets.ndim != 1 or not offsets.size:
            raise OptionError(f"expected offsets of shape (tokens + 1,), got {offsets.shape}")
        return _bucket(data, offsets, self.count, self.key) + self.start(num_tokens)


def _bucket(data: Bytes, offsets: Ids, count: int, key: tuple[int, int] | None) -> Ids:
    buckets = np.empty(offsets.size - 1, np.int64)
    _native.hash_buckets(data, offsets, count, key, buckets)
    return buckets


def _as_int(name: str, value: Any) -> int:
    try:
        return operator.index(value)
    except TypeError:
        raise OptionError(f"expected {name} as an integer, got {value!r:.60}") from None


def _as_count(name: str, value: Any) -> int:
    count = _as_int(name, value)
    if not 1 <= count < _LIMIT:
        raise OptionError(f"expected {name} in [1, 2**63), got {count}")
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
