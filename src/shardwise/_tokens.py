"""What tokens may be, and how they lie in memory: flat lists, packed bytes, arrays of Arrow."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from shardwise import _native
from shardwise._errors import TokenTypeError, VocabularyError

Token: TypeAlias = str | bytes
Bytes: TypeAlias = NDArray[np.uint8]
Ids: TypeAlias = NDArray[np.int64]
Slots: TypeAlias = NDArray[np.uint64]


def flatten(tokens: Any, *, numbers: bool = False) -> tuple[Sequence[Any], tuple[int, ...]]:
    """Return all tokens, and the shape they had; what is in a plain list is not looked at.

    Args:
        tokens: one token, or tokens in a rectangular nest of sequences or a NumPy array.
        numbers: take integers as well, as their decimal digits.

    Raises:
        TokenTypeError: they are something else.
        VocabularyError: the nest is not rectangular.
    """
    if isinstance(tokens, (str, bytes)):
        return [tokens], ()
    if numbers and isinstance(tokens, (int, np.generic)):
        tokens = np.asarray(tokens)
    if isinstance(tokens, np.ndarray):
        return _flatten_array(tokens, numbers), tokens.shape
    try:
        items = tokens if type(tokens) in (list, tuple) else list(tokens)
    except TypeError:
        kinds = "str, bytes or int" if numbers else "str or bytes"
        raise TokenTypeError(
            f"expected tokens of type {kinds}, or a sequence of them, got {tokens!r:.60}"
        ) from None
    if (
        numbers
        and not set(map(type, items)) <= {str, bytes}
        and any(isinstance(item, (str, bytes, int, np.generic)) for item in items)
    ):
        items = [_digits(item, i) for i, item in enumerate(items)]
    if not items or isinstance(items[0], (str, bytes)):
        return items, (len(items),)
    parts = [flatten(item, numbers=numbers) for item in items]
    shapes = [shape for _, shape in parts]
    for position, shape in enumerate(shapes):
        if shape != shapes[0]:
            raise VocabularyError(
                f"expected a rectangular nest of tokens, got shape {shapes[0]} at position 0 and "
                f"{shape} at position {position}; take them one by one, or pad the shorter"
            )
    return [token for flat, _ in parts for token in flat], (len(parts), *shapes[0])


def _flatten_array(tokens: NDArray[Any], numbers: bool) -> list[Any]:
    kind = tokens.dtype.kind
    if numbers and kind in "iu":
        return list(map(str, tokens.ravel().tolist()))
    if kind not in "USOT":
        wanted = "strings or integers" if numbers else "strings"
        raise TokenTypeError(f"expected an array of {wanted}, got {tokens.dtype}")
    items = tokens.ravel().tolist()
    if numbers and kind == "O":
        return [_digits(item, i) for i, item in enumerate(items)]
    return items


def _digits(item: Any, position: int) -> Token:
    if isinstance(item, (str, bytes)):
        return item
    if isinstance(item, (int, np.integer)) and not isinstance(item, bool):
        return str(int(item))
    raise TokenTypeError(
        f"expected tokens of type str, bytes or int, got {type(item).__name__} at position "
        f"{position}: {item!r:.60}"
    )


def pack_tokens(tokens: Sequence[Token]) -> tuple[Bytes, Ids]:
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
        encoded = [token_bytes(token, i) for i, token in enumerate(tokens)]
        data = np.frombuffer(b"".join(encoded), np.uint8)
        np.cumsum([len(token) for token in encoded], out=offsets[1:])
    return data, offsets


def token_bytes(token: Any, position: int) -> bytes:
    """Return the bytes of a token, the one at this position.

    Raises:
        VocabularyError: it cannot be written as UTF-8.
        TokenTypeError: it is neither `str` nor `bytes`.
    """
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


def build_slots(data: Bytes, offsets: Ids) -> tuple[Slots, Ids, int]:
    """Return (slots, first id of each token's bytes, number of repetitions).

    Raises:
        ValueError: the offsets are not in ascending order.
    """
    count = max(0, offsets.size - 1)
    slots = np.empty(_native.token_map_slots(count), np.uint64)
    first_of = np.empty(count, np.int64)
    return slots, first_of, _native.build_token_map(data, offsets, slots, first_of)


# ---- Arrow ----


def as_arrow(tokens: Any, *, numbers: bool = False) -> Any:
    """A pyarrow.ChunkedArray of Arrow's `tokens`; None for other objects. Never imports pyarrow.

    A column of lists that is no array of pyarrow's own, such as a Series, is another object, too.

    Raises:
        TokenTypeError: it is an Arrow array of something else than strings, or with `numbers` of
            integers, which become their decimal digits.
    """
    pa = sys.modules.get("pyarrow")
    if pa is None or isinstance(tokens, (str, bytes, list, tuple, np.ndarray)):
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
    if pa.types.is_null(array.type):  # what a column without a value, perhaps empty, becomes
        return array.cast(pa.large_string())
    if "list" in str(array.type).partition("<")[0] and not isinstance(
        tokens, (pa.Array, pa.ChunkedArray)
    ):
        return None  # a column of lists, which is a nest of sequences
    kind = array.type.value_type if pa.types.is_dictionary(array.type) else array.type
    if numbers and pa.types.is_integer(kind):
        return array.cast(kind).cast(pa.large_string())
    if not any(word in str(kind).partition("[")[0].split("<")[0] for word in ("string", "binary")):
        wanted = "strings or integers" if numbers else "strings"
        raise TokenTypeError(f"expected an Arrow array of {wanted}, got {array.type}")
    return _without_views(array) if "view" in str(kind) else array


def _without_views(array: Any) -> Any:
    """The same tokens end to end: there is little that Arrow can do with views."""
    pa = sys.modules["pyarrow"]

    def plain(chunk: Any) -> Any:
        if pa.types.is_dictionary(chunk.type):
            entries = plain(chunk.dictionary)
            return pa.DictionaryArray.from_arrays(chunk.indices, entries, safe=False)
        return chunk.cast(pa.large_string() if "string" in str(chunk.type) else pa.large_binary())

    return pa.chunked_array([plain(chunk) for chunk in array.chunks]) if array.chunks else array


def map_arrow(array: Any, fill: Callable[[Bytes, NDArray[Any], Ids], None]) -> Ids:
    """Return a number for each token of a ChunkedArray, read where it lies.

    Args:
        array: what `as_arrow` gives.
        fill: called with packed tokens (data, offsets of 32 or 64 bits that may be anything) and
            the numbers to set, perhaps -1 at first. IndexError says that the offsets are damaged.

    Raises:
        TokenTypeError: a token is null.
        VocabularyError: the array is damaged.
    """
    numbers: Ids = _native.empty((len(array),), np.dtype(np.int64))
    begin = 0
    for chunk in array.chunks:
        if len(chunk):
            _map_chunk(chunk, fill, numbers[begin : begin + len(chunk)], begin)
        begin += len(chunk)
    return numbers


def _map_chunk(
    chunk: Any, fill: Callable[[Bytes, NDArray[Any], Ids], None], numbers: Ids, begin: int
) -> None:
    """Fill `numbers` from an array that is not empty; its first token is number `begin`."""
    pa = sys.modules["pyarrow"]
    if chunk.null_count:
        raise _null_error(chunk.is_null(), begin)
    if pa.types.is_dictionary(chunk.type):
        _map_dictionary(chunk, fill, numbers, begin)
        return
    if "fixed" in str(chunk.type):
        chunk = chunk.cast(pa.large_binary())  # the same tokens with one array of offsets
    wide = pa.types.is_large_string(chunk.type) or pa.types.is_large_binary(chunk.type)
    dtype = np.dtype(np.int64 if wide else np.int32)
    _, ends, data = chunk.buffers()
    try:
        offsets = np.frombuffer(ends, dtype, len(numbers) + 1, chunk.offset * dtype.itemsize)
        offsets = np.require(offsets, requirements=["C", "A"])
        packed = np.empty(0, np.uint8) if not data else np.frombuffer(data, np.uint8)
    except (TypeError, ValueError) as error:
        raise _damaged_arrow(error) from None
    try:
        fill(packed, offsets, numbers)
    except IndexError as error:
        raise _damaged_arrow(error) from None


def _map_dictionary(
    chunk: Any, fill: Callable[[Bytes, NDArray[Any], Ids], None], numbers: Ids, begin: int
) -> None:
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
        _map_chunk(entries, fill, known, 0)
    np.take(known, used, out=numbers)


def arrow_tokens(array: Any, positions: Ids) -> list[Token]:
    """The tokens of a ChunkedArray at these positions.

    Raises:
        TokenTypeError: one of them is null.
    """
    pa = sys.modules["pyarrow"]
    taken = array.take(pa.array(positions))
    if taken.null_count:
        raise _null_error(taken.is_null(), 0)
    if pa.types.is_dictionary(taken.type):
        taken = taken.cast(taken.type.value_type)
    tokens: list[bytes] = taken.cast(pa.large_binary()).to_pylist()
    if "string" not in str(taken.type):
        return list(tokens)
    return [token.decode("utf-8", "surrogateescape") for token in tokens]


def packed_tokens(data: Bytes, offsets: NDArray[Any]) -> list[str]:
    """Return packed tokens, in which bytes that are not UTF-8 become lone surrogates.

    Raises:
        IndexError: the offsets are not in ascending order within the data.
    """
    begins, ends = offsets[:-1], offsets[1:]
    if ((begins < 0) | (begins > ends) | (ends > data.size)).any():
        raise IndexError(
            f"expected offsets in ascending order, none beyond the {data.size} bytes of the tokens"
        )
    spans = zip(begins.tolist(), ends.tolist(), strict=True)
    view = data.data
    return [str(view[begin:end], "utf-8", "surrogateescape") for begin, end in spans]


def _null_error(nulls: Any, begin: int) -> TokenTypeError:
    return TokenTypeError(
        f"expected tokens, got null at position {begin + int(np.argmax(nulls))}; drop the nulls, "
        "or fill them with a token (`fill_null`)"
    )


def _damaged_arrow(error: object) -> VocabularyError:
    return VocabularyError(f"the Arrow array is damaged: {error}; make it again")
