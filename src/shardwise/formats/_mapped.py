"""Sources whose rows are one mapped array of a file: which one, its rows and its tokens."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import IO, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from shardwise._errors import FormatError, OptionError, VocabularyError
from shardwise._tokens import pack_tokens
from shardwise._vocabulary import Vocabulary
from shardwise.formats._file import File
from shardwise.formats._source import Options, Source, unique_tokens

Shape: TypeAlias = tuple[int, ...]

Packed: TypeAlias = tuple[NDArray[np.uint8], NDArray[np.int64]]
"""Tokens end to end, and where each begins, with the end of the last."""

_BLOCK = 1 << 16  # tokens that are Python strings at once

# What models call the table of their tokens, the surest first. A name in a module
# ("transformer.wte.weight") ends in one of these after a dot.
_USUAL = (
    "shared.weight",
    "embed_tokens.weight",
    "wte.weight",
    "word_embeddings.weight",
    "word_embedding.weight",
    "tok_embeddings.weight",
    "token_embedding.weight",
    "token_embeddings.weight",
    "embed_in.weight",
    "embedding.weight",
    "embeddings.weight",
    "emb.weight",
    "embeddings",
    "embedding",
    "vectors",
)
_WHOLE = ("weight",)  # as the end of a name it is any layer
_SHOWN = 20


def choose(
    file: File,
    tensors: Mapping[str, tuple[str, Shape | None]],
    wanted: str | None,
    last: Sequence[str] = (),
) -> str:
    """Return the name of the tensor that holds the rows.

    Args:
        file: for the message.
        tensors: what may hold rows: the dtype in words, and the shape where it is known.
        wanted: the name that the caller gave.
        last: names of matrices that decide where nothing else does.

    Raises:
        OptionError: there is no tensor `wanted`.
        FormatError: no tensor, or several, may be meant.
    """
    if wanted is not None:
        if wanted not in tensors:
            raise OptionError(
                f"{file.path}: expected tensor= to name one of {_listed(tensors)}, got {wanted!r}"
            )
        return wanted
    for usual in (*_USUAL, *_WHOLE):
        if usual in tensors and tensors[usual][1] != ():
            return usual
        if usual in _WHOLE:
            continue
        ends = [n for n in tensors if n.endswith(f".{usual}") and _is_matrix(tensors[n][1])]
        if len(ends) == 1:
            return ends[0]
        if ends:
            raise _unsure(file, "several have a usual name", {n: tensors[n] for n in ends})
    matrices = [name for name, (_, shape) in tensors.items() if shape and len(shape) == 2]
    matrices = [name for name in last if name in matrices][:1] or matrices
    rows = matrices or [name for name in tensors if tensors[name][1] != ()]
    if len(rows) == 1:
        return rows[0]
    if not rows:
        raise file.error(
            f"expected a tensor of shape (rows, ...), got {_listed(tensors)}; is this a file of "
            "vectors?"
        )
    raise _unsure(file, "none has a usual name", tensors)


def _is_matrix(shape: Shape | None) -> bool:
    return shape is None or len(shape) == 2


def _unsure(file: File, why: str, tensors: Mapping[str, tuple[str, Shape | None]]) -> FormatError:
    return file.error(
        f"expected one tensor that may hold the rows, got {len(tensors)}, and {why}: "
        f"{_listed(tensors)}; name one with tensor="
    )


def _listed(tensors: Mapping[str, tuple[str, Shape | None]]) -> str:
    shown = [
        f"{name!r:.120}" + ("" if shape is None else f" ({kind}, {list(shape)})")
        for name, (kind, shape) in list(tensors.items())[:_SHOWN]
    ]
    if len(tensors) > _SHOWN:
        shown.append(f"and {len(tensors) - _SHOWN} more")
    return ", ".join(shown) or "none"


def array_source(
    file: File,
    form: str,
    array: NDArray[Any],
    options: Options,
    *,
    tokens: Packed | None = None,
    name: str | None = None,
) -> Source:
    """Make a source of an array of shape (rows, ...); of rows with one token, the first wins.

    Args:
        file: where it is from.
        form: the name of the format.
        array: the rows, read-only, with any strides, aligned or not.
        options: `limit`, `dim` and `unknown` of them.
        tokens: at most as many as rows.
        name: what the file calls the array, which is kept as metadata.

    Raises:
        FormatError: the array is no rows of `dim` values, or the tokens do not fit it.
        OptionError: there is no such token as `unknown`.
    """
    called = "the array" if name is None else repr(name)
    check_rows(file, called, array.shape, options.dim)
    metadata = {} if name is None else {"tensor": name}
    if tokens is None:
        if options.unknown is not None:
            raise OptionError(
                f"{file.path}: expected no unknown= for a file without tokens, got "
                f"{options.unknown!r}; leave it out"
            )
        rows = array[: options.limit]
        return _source(file, form, rows, metadata)
    data, offsets = _sound(file, *tokens)
    if len(offsets) - 1 > len(array):
        raise file.error(
            f"expected at most as many tokens as rows, got {len(offsets) - 1} tokens and "
            f"{len(array)} rows of {called}; name the ones that belong together with tensor= "
            "and tokens="
        )
    rows = array[: options.limit]
    offsets = offsets[: len(rows) + 1]
    vocabulary, kept, duplicates = unique_tokens(data[: offsets[-1]], offsets, options.unknown)
    if kept is not None:
        kept = np.concatenate([kept, np.arange(len(offsets) - 1, len(rows))])
    return _source(file, form, rows, metadata, vocabulary, duplicates, kept)


def _source(
    file: File,
    form: str,
    array: NDArray[Any],
    metadata: dict[str, Any],
    vocabulary: Vocabulary | None = None,
    duplicates: int = 0,
    kept: NDArray[np.int64] | None = None,
) -> Source:
    def read(begin: int, end: int) -> NDArray[Any]:
        block = array[begin:end] if kept is None else array[kept[begin:end]]
        return np.require(block, requirements=["C", "A"])

    return Source(
        path=file.path,
        format=form,
        shape=(len(array) if kept is None else len(kept), *array.shape[1:]),
        dtype=array.dtype,
        vocabulary=vocabulary,
        duplicates=duplicates,
        metadata=metadata,
        _rows=read,
    )


def check_rows(file: File, called: str, shape: tuple[int, ...], dim: int | None) -> None:
    """Raise FormatError where no table can have the shape, or its rows are not `dim` values."""
    if not shape:
        raise file.error(
            f"expected {called} of shape (rows, ...), got one value; name another with tensor="
        )
    values = math.prod(shape[1:])
    if values == 0 or (dim is not None and values != dim):
        wanted = "at least 1 value" if dim is None else f"{dim} values (dim={dim})"
        raise file.error(
            f"expected rows of {wanted}, got {called} of shape {shape}, rows of {values}; "
            "name another with tensor=, or correct dim="
        )


def _sound(file: File, data: NDArray[np.uint8], offsets: NDArray[np.int64]) -> Packed:
    """Return tokens whose offsets were looked at, and begin at 0."""
    if not len(offsets) or offsets[0] < 0 or offsets[-1] > len(data):
        ends = f"{offsets[0]} to {offsets[-1]}" if len(offsets) else "none"
        raise file.error(
            f"expected offsets of tokens within their {len(data)} bytes, got {ends}; "
            "write the file again"
        )
    falls = np.flatnonzero(offsets[1:] < offsets[:-1])
    if len(falls):
        raise file.error(
            "expected offsets of tokens in ascending order, got "
            f"{offsets[falls[0]]} and {offsets[falls[0] + 1]} for token {falls[0]}; "
            "write the file again"
        )
    data = np.ascontiguousarray(data[offsets[0] : offsets[-1]])
    return data, np.require(offsets - offsets[0] if offsets[0] else offsets, np.int64, ["C", "A"])


def pack_strings(file: File, name: str, strings: NDArray[Any], most: int | None) -> Packed:
    """Return the first `most` tokens of an array of str ("U") or bytes ("S").

    Raises:
        FormatError: one is no text.
    """
    data, offsets = [np.empty(0, np.uint8)], [np.zeros(1, np.int64)]
    strings = strings[:most]
    for begin in range(0, len(strings), _BLOCK):
        block = np.ascontiguousarray(strings[begin : begin + _BLOCK])
        try:
            if block.dtype.kind == "U":
                codes = block.view(np.dtype(np.uint32).newbyteorder(block.dtype.byteorder))
                if codes.max(initial=0) > sys.maxunicode:  # NumPy does not look
                    raise ValueError(f"the character {codes.max():#x}")
            bytes_, ends = pack_tokens(block.tolist())
        except (VocabularyError, ValueError) as error:
            raise file.error(
                f"{name!r}, entries from {begin}: expected tokens, got what is no text ({error}); "
                "write the file again"
            ) from None
        data.append(bytes_)
        offsets.append(ends[1:] + offsets[-1][-1])
    return np.concatenate(data), np.concatenate(offsets)


def write_blocks(file: IO[bytes], blocks: Iterable[NDArray[Any]], dtype: np.dtype[Any]) -> None:
    """Write rows as `dtype`, which may differ from theirs in byte order."""
    for block in blocks:
        file.write(memory_of(block, dtype))


def memory_of(array: NDArray[Any], dtype: np.dtype[Any]) -> memoryview:
    """Return the bytes of an array, as `dtype`."""
    flat: Any = np.ascontiguousarray(array, dtype).reshape(-1).view(np.uint8)
    return memoryview(flat)
