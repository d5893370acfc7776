"""Tokens and their ids, both ways, with a policy for tokens that are not known."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, TypeAlias, overload

import numpy as np
from numpy.typing import NDArray

from shardwise import _native
from shardwise._errors import (
    OptionError,
    TokenTypeError,
    UnknownTokenError,
    VocabularyError,
)
from shardwise._ids import as_ids, out_of_range_error

Token: TypeAlias = str | bytes
_Bytes: TypeAlias = NDArray[np.uint8]
_Ids: TypeAlias = NDArray[np.int64]
_Slots: TypeAlias = NDArray[np.uint64]

_SHOWN = 10  # tokens that an error names
_BLOCK = 4096  # tokens that an iteration decodes at once


class Vocabulary:
    """Tokens and their ids: token `i` has the id `i`.

    Args:
        tokens: distinct tokens in the order of their ids. A `str` stands for its UTF-8 bytes.
        unknown: the token, one of `tokens`, whose id every token outside the vocabulary gets.
            Without it such a token is an error.

    Tokens are bytes inside. Bytes that are not UTF-8 come out as a `str` with lone surrogates
    (Python's "surrogateescape"), which goes back to the same bytes.

    Raises:
        VocabularyError: a token occurs twice, or cannot be written as UTF-8.
        TokenTypeError: a token is neither `str` nor `bytes`.
        OptionError: `unknown` is not one of `tokens`.

    Example:
        >>> vocabulary = Vocabulary(["<unk>", "king", "queen"], unknown="<unk>")
        >>> vocabulary.encode(["queen", "king", "jack"])
        array([2, 1, 0])
        >>> vocabulary.decode([[1, 2], [2, 0]])
        [['king', 'queen'], ['queen', '<unk>']]
        >>> vocabulary.encode("king"), "jack" in vocabulary, len(vocabulary)
        (1, False, 3)
    """

    __slots__ = ("_data", "_offsets", "_slots", "_unknown_id")

    def __init__(self, tokens: Iterable[Token], *, unknown: str | None = None) -> None:
        if isinstance(tokens, (str, bytes)):
            raise TokenTypeError(
                f"expected an iterable of tokens, got one token, {tokens!r}; write [{tokens!r}]"
            )
        data, offsets = pack_tokens(list(tokens))
        self._set(data, offsets, None, unknown)

    @classmethod
    def from_arrays(
        cls, data: _Bytes, offsets: _Ids, slots: _Slots | None, *, unknown: str | None = None
    ) -> Vocabulary:
        """Make a vocabulary of the arrays that `arrays()` gives, which may be mapped from a file.

        Nothing is copied, and with `slots` nothing is read but the ends of `offsets`; what lies
        between is checked where it is used.

        Args:
            data: `uint8[bytes]`, the tokens' bytes end to end.
            offsets: `int64[tokens + 1]`, where each token starts in `data`.
            slots: `uint64[power of two]`, the hash map; None builds it.
            unknown: as for `Vocabulary`.

        Raises:
            VocabularyError: the arrays do not fit each other, or a token occurs twice.
            OptionError: `unknown` is not in the vocabulary.
        """
        vocabulary = cls.__new__(cls)
        vocabulary._set(data, offsets, slots, unknown)
        return vocabulary

    def _set(self, data: _Bytes, offsets: _Ids, slots: _Slots | None, unknown: str | None) -> None:
        self._data = _frozen("data", data, np.uint8)
        self._offsets = _frozen("offsets", offsets, np.int64)
        try:
            if slots is None:
                slots, first_of, repetitions = build_slots(self._data, self._offsets)
                if repetitions:
                    raise self._duplicate(first_of, repetitions)
            self._slots = _frozen("slots", slots, np.uint64)
            _native.validate_token_map(self._data, self._offsets, self._slots)
        except ValueError as error:
            if isinstance(error, VocabularyError):
                raise
            raise VocabularyError(f"these arrays are no vocabulary: {error}") from None
        self._unknown_id: int | None = None
        if unknown is not None:
            if unknown not in self:
                raise OptionError(
                    f"expected unknown= to be one of the {len(self)} tokens, got {unknown!r}; "
                    "add it to the tokens, or leave unknown= out"
                )
            self._unknown_id = self.encode(unknown)

    def _duplicate(self, first_of: _Ids, repetitions: int) -> VocabularyError:
        again = int(np.argmax(first_of != np.arange(len(first_of))))
        first = int(first_of[again])
        return VocabularyError(
            f"expected distinct tokens, got {self._strings(np.array([first]))[0]!r} at positions "
            f"{first} and {again} ({repetitions} repetitions in all); remove the repetitions"
        )

    @property
    def unknown(self) -> str | None:
        """The token that stands for tokens outside the vocabulary, or None."""
        return None if self._unknown_id is None else self.decode(self._unknown_id)

    @property
    def unknown_id(self) -> int | None:
        """The id of `unknown`, or None."""
        return self._unknown_id

    @overload
    def encode(self, tokens: Token) -> int: ...
    @overload
    def encode(self, tokens: Sequence[Any] | NDArray[Any]) -> _Ids: ...
    def encode(self, tokens: Token | Sequence[Any] | NDArray[Any]) -> int | _Ids:
        """Return the ids of tokens.

        Args:
            tokens: one token, or tokens in a sequence, a rectangular nest of sequences, a NumPy
                array of strings or objects, or an Arrow array of strings, bytes or a dictionary
                of them: pyarrow's own, or where pyarrow is imported, any object that hands one
                over (`__arrow_c_stream__`, `__arrow_c_array__`). Arrow's arrays and lists of
                `str` are read where they lie.

        Returns:
            An `int` for one token, otherwise `int64` of the shape of `tokens`.

        Raises:
            UnknownTokenError: tokens are not in the vocabulary, and it has no `unknown`.
            VocabularyError: a nest is not rectangular, a token cannot be written as UTF-8, or an
                Arrow array is damaged.
            TokenTypeError: a token is neither `str` nor `bytes`; a null of Arrow is none.

        Example:
            >>> Vocabulary(["a", "b"]).encode([["a", "b"], ["b", "b"]])
            array([[0, 1],
                   [1, 1]])
        """
        if isinstance(tokens, (str, bytes)):
            return int(self._known([tokens])[0])
        if not isinstance(tokens, (list, tuple, np.ndarray)):
            array = _as_arrow(tokens)
            if array is not None:
                return self._known_arrow(array)
        flat, shape = _flatten(tokens)
        return self._known(flat).reshape(shape)

    def _known(self, tokens: Sequence[Token]) -> _Ids:
        ids = self._find(tokens)
        missing = self._replace_unknown(ids)
        if missing is not None:
            raise _unknown_error([tokens[i] for i in missing], len(tokens))
        return ids

    def _known_arrow(self, array: Any) -> _Ids:
        ids = np.empty(len(array), np.int64)
        begin = 0
        for chunk in array.chunks:
            if len(chunk):
                self._find_arrow(chunk, ids[begin : begin + len(chunk)], begin)
            begin += len(chunk)
        missing = self._replace_unknown(ids)
        if missing is not None:
            raise _unknown_error(_arrow_tokens(array, missing), len(ids))
        return ids

    def _replace_unknown(self, ids: _Ids) -> _Ids | None:
        """Give unknown tokens the id of `unknown`; without it return their positions, if any."""
        if not ids.size or ids.min() >= 0:
            return None
        if self._unknown_id is None:
            return np.flatnonzero(ids < 0)
        ids[ids < 0] = self._unknown_id
        return None

    def _find(self, tokens: Sequence[Token]) -> _Ids:
        ids = np.empty(len(tokens), np.int64)
        try:
            if not _native.find_objects(self._data, self._offsets, self._slots, tokens, ids):
                self._find_packed(*pack_tokens(list(tokens)), ids)
        except ValueError as error:
            if isinstance(error, VocabularyError):
                raise
            raise _damaged(error) from None
        return ids

    def _find_packed(self, wanted: _Bytes, offsets: NDArray[Any], ids: _Ids) -> None:
        if len(ids) != len(offsets) - 1:
            raise VocabularyError(
                f"expected a list of tokens that stays as it is, got {len(offsets) - 1} tokens "
                f"after {len(ids)}; encode a copy of it"
            )
        _native.find_tokens(self._data, self._offsets, self._slots, wanted, offsets, ids)

    def _find_arrow(self, chunk: Any, ids: _Ids, begin: int) -> None:
        """Fill `ids` from an Arrow array that is not empty; its first token is number `begin`."""
        pa = sys.modules["pyarrow"]
        if chunk.null_count:
            raise _null_error(chunk.is_null(), begin)
        if pa.types.is_dictionary(chunk.type):
            self._find_dictionary(chunk, ids, begin)
            return
        chunk = _plain_strings(chunk)
        wide = pa.types.is_large_string(chunk.type) or pa.types.is_large_binary(chunk.type)
        dtype = np.dtype(np.int64 if wide else np.int32)
        _, ends, data = chunk.buffers()
        try:
            offsets = np.frombuffer(ends, dtype, len(ids) + 1, chunk.offset * dtype.itemsize)
            offsets = np.require(offsets, requirements=["C", "A"])
            wanted = np.empty(0, np.uint8) if not data else np.frombuffer(data, np.uint8)
        except (TypeError, ValueError) as error:
            raise _damaged_arrow(error) from None
        try:
            self._find_packed(wanted, offsets, ids)
        except IndexError as error:
            raise _damaged_arrow(error) from None
        except ValueError as error:
            raise _damaged(error) from None

    def _find_dictionary(self, chunk: Any, ids: _Ids, begin: int) -> None:
        # An entry that no token uses may be null or unknown.
        entries = chunk.dictionary
        nulls = entries.is_null().to_numpy(zero_copy_only=False)
        known = np.full(len(entries), -1, np.int64)
        used = chunk.indices.to_numpy(zero_copy_only=False)
        if ((used < 0) | (used >= len(entries))).any():
            raise _damaged_arrow(f"expected indices below {len(entries)}")
        if nulls.any():
            if nulls[used].any():
                raise _null_error(nulls[used], begin)
            entries = entries.fill_null("" if "string" in str(entries.type) else b"")
        if len(entries):
            self._find_arrow(entries, known, 0)
        np.take(known, used, out=ids)

    @overload
    def decode(self, ids: int | np.integer[Any]) -> str: ...
    @overload
    def decode(self, ids: Sequence[Any] | NDArray[Any]) -> list[Any]: ...
    def decode(self, ids: int | np.integer[Any] | Sequence[Any] | NDArray[Any]) -> str | list[Any]:
        """Return the tokens of ids.

        Args:
            ids: integers of any dtype and shape.

        Returns:
            A `str` for one id, otherwise a list, nested as `ids` are.

        Raises:
            IdOutOfRangeError: an id is negative, or not less than the number of tokens.
            IdTypeError: ids are not integers.

        Example:
            >>> Vocabulary(["a", "b"]).decode([1, 0])
            ['b', 'a']
        """
        array = as_ids(ids)
        outside = (array < 0) | (array >= len(self))
        if outside.any():
            position = int(np.argmax(outside))
            raise out_of_range_error(array.shape, position, int(array.flat[position]), len(self))
        strings = self._strings(array.ravel().astype(np.int64))
        return _nested(strings, array.shape) if array.ndim else strings[0]

    def _strings(self, ids: _Ids) -> list[str]:
        begins, ends = self._offsets[ids], self._offsets[ids + 1]
        if ((begins < 0) | (begins > ends) | (ends > self._data.size)).any():
            raise VocabularyError(
                "the vocabulary is damaged: expected offsets in ascending order, none beyond the "
                f"{self._data.size} bytes of the tokens; write it again"
            )
        data = self._data.data
        spans = zip(begins.tolist(), ends.tolist(), strict=True)
        return [str(data[begin:end], "utf-8", "surrogateescape") for begin, end in spans]

    def arrays(self) -> tuple[_Bytes, _Ids, _Slots]:
        """Return (data, offsets, slots), read-only: what `from_arrays` takes."""
        return self._data, self._offsets, self._slots

    def __contains__(self, token: object) -> bool:
        if not isinstance(token, (str, bytes)):
            return False
        try:
            encoded = _as_bytes(token, 0)
        except VocabularyError:  # what cannot be written as UTF-8 cannot have been put in
            return False
        return bool(self._find([encoded])[0] >= 0)

    def __len__(self) -> int:
        return int(self._offsets.size) - 1

    def __iter__(self) -> Iterator[str]:
        for begin in range(0, len(self), _BLOCK):
            yield from self._strings(np.arange(begin, min(begin + _BLOCK, len(self))))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Vocabulary):
            return NotImplemented
        return (
            self._unknown_id == other._unknown_id
            and np.array_equal(self._offsets, other._offsets)
            and np.array_equal(self._data, other._data)
        )

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        shown = self._strings(np.arange(min(3, len(self))))
        parts = [*map(repr, shown), *(["..."] if len(self) > len(shown) else [])]
        unknown = "" if self._unknown_id is None else f", unknown={self.unknown!r}"
        return f"Vocabulary({len(self)} tokens: [{', '.join(parts)}]{unknown})"


def build_slots(data: _Bytes, offsets: _Ids) -> tuple[_Slots, _Ids, int]:
    """Return (slots, first id of each token's bytes, number of repetitions).

    Raises:
        ValueError: the offsets are not in ascending order.
    """
    count = max(0, offsets.size - 1)
    slots = np.empty(_native.token_map_slots(count), np.uint64)
    first_of = np.empty(count, np.int64)
    return slots, first_of, _native.build_token_map(data, offsets, slots, first_of)


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


def pack_tokens(tokens: list[Token]) -> tuple[_Bytes, _Ids]:
    """Lay the tokens' bytes end to end: (data, offsets).

    Raises:
        VocabularyError: a token cannot be written as UTF-8.
        TokenTypeError: a token is neither `str` nor `bytes`.
    """
    offsets = np.zeros(len(tokens) + 1, np.int64)
    if not tokens:
        return np.empty(0, np.uint8), offsets
    try:
        joined = "\0".join(tokens).encode("utf-8", "surrogateescape")  # type: ignore[arg-type]
        data = np.empty(len(joined) - len(tokens) + 1, np.uint8)
        _native.unjoin_tokens(joined, data, offsets)
    except (TypeError, ValueError):  # bytes among them, or a NUL in one, or a mistake to name
        encoded = [_as_bytes(token, i) for i, token in enumerate(tokens)]
        data = np.frombuffer(b"".join(encoded), np.uint8)
        np.cumsum([len(token) for token in encoded], out=offsets[1:])
    return data, offsets


def _as_bytes(token: Any, position: int) -> bytes:
    if isinstance(token, bytes):
        return bytes(token)
    if not isinstance(token, str):
        raise TokenTypeError(
            f"expected tokens of type str or bytes, got {type(token).__name__} at position "
            f"{position}: {token!r:.60}"
        )
    try:
        return token.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        raise VocabularyError(
            f"expected tokens that can be written as UTF-8, got {token!a} at position {position}, "
            'which has half of a surrogate pair; see str.encode(..., "replace")'
        ) from None


def _flatten(tokens: Any) -> tuple[Sequence[Any], tuple[int, ...]]:
    if isinstance(tokens, np.ndarray):
        if tokens.dtype.kind not in "USOT":
            raise TokenTypeError(f"expected an array of strings, got {tokens.dtype}")
        return tokens.ravel().tolist(), tokens.shape
    try:
        items = tokens if type(tokens) in (list, tuple) else list(tokens)
    except TypeError:
        raise TokenTypeError(
            f"expected tokens of type str or bytes, or a sequence of them, got {tokens!r:.60}"
        ) from None
    if not items or isinstance(items[0], (str, bytes)):
        return items, (len(items),)
    parts = [_flatten(item) for item in items]
    shapes = [shape for _, shape in parts]
    for position, shape in enumerate(shapes):
        if shape != shapes[0]:
            raise VocabularyError(
                f"expected a rectangular nest of tokens, got shape {shapes[0]} at position 0 and "
                f"{shape} at position {position}; encode them one by one, or pad the shorter"
            )
    return [token for flat, _ in parts for token in flat], (len(parts), *shapes[0])


def _as_arrow(tokens: Any) -> Any:
    """A pyarrow.ChunkedArray of Arrow's `tokens`; None for other objects. Never imports pyarrow."""
    pa = sys.modules.get("pyarrow")
    if pa is None:
        return None
    if isinstance(tokens, pa.ChunkedArray):
        array = tokens
    elif isinstance(tokens, pa.Array):
        array = pa.chunked_array([tokens])
    else:
        try:
            if hasattr(tokens, "__arrow_c_stream__"):
                array = pa.chunked_array(tokens)
            elif hasattr(tokens, "__arrow_c_array__"):
                array = pa.chunked_array([pa.array(tokens)])
            else:
                return None
        except (TypeError, ValueError, pa.ArrowException):
            return None  # a column of mixed objects, say, which is still a sequence
    kind = array.type.value_type if pa.types.is_dictionary(array.type) else array.type
    if not any(word in str(kind).partition("[")[0].split("<")[0] for word in ("string", "binary")):
        raise TokenTypeError(f"expected an Arrow array of strings, got {array.type}")
    return array


def _plain_strings(chunk: Any) -> Any:
    """The same tokens with one array of offsets."""
    pa = sys.modules["pyarrow"]
    if "view" in str(chunk.type) or "fixed" in str(chunk.type):
        return chunk.cast(pa.large_binary())
    return chunk


def _arrow_tokens(array: Any, positions: _Ids) -> list[Token]:
    pa = sys.modules["pyarrow"]
    taken = array.take(pa.array(positions))
    if pa.types.is_dictionary(taken.type):
        taken = taken.cast(taken.type.value_type)
    tokens: list[bytes] = taken.cast(pa.large_binary()).to_pylist()
    if "string" not in str(taken.type):
        return list(tokens)
    return [token.decode("utf-8", "surrogateescape") for token in tokens]


def _null_error(nulls: Any, begin: int) -> TokenTypeError:
    return TokenTypeError(
        f"expected tokens, got null at position {begin + int(np.argmax(nulls))}; drop the nulls, "
        "or fill them with a token (`fill_null`)"
    )


def _damaged(error: object) -> VocabularyError:
    return VocabularyError(f"{error}; write the vocabulary again")


def _damaged_arrow(error: object) -> VocabularyError:
    return VocabularyError(f"the Arrow array is damaged: {error}; make it again")


def _nested(strings: list[str], shape: tuple[int, ...]) -> list[Any]:
    if len(shape) == 1:
        return strings
    size = math.prod(shape[1:])
    rows = (strings[row * size : (row + 1) * size] for row in range(shape[0]))
    return [_nested(row, shape[1:]) for row in rows]


def _unknown_error(missing: list[Token], count: int) -> UnknownTokenError:
    distinct = list(dict.fromkeys(missing))
    shown = ", ".join(map(repr, distinct[:_SHOWN])) + (", ..." if len(distinct) > _SHOWN else "")
    return UnknownTokenError(
        f"expected tokens of the vocabulary, got {len(distinct)} that are not ({len(missing)} of "
        f"{count} tokens): {shown}; leave them out (`token in vocabulary`), or make the "
        "vocabulary with unknown=, the token that stands for them"
    )
