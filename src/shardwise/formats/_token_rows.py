"""Writing rows of a token and float32 values: what word2vec's two forms and GloVe share."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, BinaryIO, TypeAlias

import numpy as np
from numpy.typing import NDArray

from shardwise._errors import OptionError, VocabularyError
from shardwise.formats._source import Source

Tokens: TypeAlias = tuple[NDArray[np.uint8], NDArray[np.int64]]
"""The tokens' bytes end to end, and their offsets, one more than there are tokens."""

Layout: TypeAlias = Callable[
    [NDArray[np.float32], NDArray[np.uint8], NDArray[np.int64]], NDArray[np.uint8]
]
"""Lays out rows with the bytes of their tokens and the offsets of these."""

_VALUES = 1 << 20  # that are laid out at once


def tokens_of_rows(source: Source, form: str) -> Tokens:
    """Return the tokens of a source, one for each row.

    Raises:
        OptionError: its rows are no rows of values, or some have no token.
        VocabularyError: the vocabulary is damaged.
    """
    if len(source.shape) != 2 or source.shape[1] == 0:
        raise OptionError(
            f"expected rows of values, of shape (rows, values), for {form}, got shape "
            f"{source.shape}; write .npy or .safetensors"
        )
    count = 0 if source.vocabulary is None else len(source.vocabulary)
    if source.vocabulary is None or count != source.shape[0]:
        raise OptionError(
            f"expected a token for each of the {source.shape[0]} rows, for {form} has no rows "
            f"without, got {count} tokens; write .npy or .safetensors, or give the table a "
            "vocabulary first"
        )
    data, offsets, _ = source.vocabulary.arrays()
    if offsets[0] < 0 or offsets[-1] > data.size or (offsets[1:] < offsets[:-1]).any():
        raise VocabularyError(
            "the vocabulary is damaged: expected offsets in ascending order, none beyond the "
            f"{data.size} bytes of the tokens; write it again"
        )
    return data, offsets


def write_rows(
    file: BinaryIO, source: Source, blocks: Iterable[NDArray[Any]], tokens: Tokens, layout: Layout
) -> None:
    """Write rows with their tokens, a few MB at once.

    Raises:
        OptionError: float32 cannot hold a value.
    """
    data, offsets = tokens
    for first, rows in _float_blocks(blocks, max(1, _VALUES // source.shape[1])):
        file.write(layout(rows, data, offsets[first : first + len(rows) + 1]).data)


def _float_blocks(
    blocks: Iterable[NDArray[Any]], step: int
) -> Iterator[tuple[int, NDArray[np.float32]]]:
    """Yield (number of the first row, at most `step` rows as they are written)."""
    first = 0
    for block in blocks:
        for begin in range(0, len(block), step):
            piece = block[begin : begin + step]
            yield first, np.ascontiguousarray(_exact_floats(piece, first))
            first += len(piece)


def _exact_floats(block: NDArray[Any], first: int) -> NDArray[np.float32]:
    """Return rows as float32, where that changes no value."""
    name = block.dtype.name
    if "float" not in name and block.dtype.kind not in "iub":
        raise OptionError(
            f"expected rows of numbers that float32 can hold, got rows of {name}; write .npy"
        )
    with np.errstate(over="ignore", invalid="ignore"):
        floats = block.astype(np.float32)
    if name == "float32" or ("float" in name and block.dtype.itemsize < 4):
        return floats
    if "float" in name:
        lost = (floats != block) & ~np.isnan(block)
    elif block.dtype.kind == "b":
        return floats
    else:
        bounds = np.iinfo(block.dtype)
        inside = (floats >= float(bounds.min)) & (floats < float(bounds.max) + 1)
        lost = np.where(inside, floats, 0).astype(block.dtype) != block
    if lost.any():
        where = np.argwhere(lost)[0]
        raise OptionError(
            f"expected values that float32 can hold, got {block[tuple(where)]} in row "
            f"{first + where[0]}; round them with dtype float32 first, or write .npy or "
            ".safetensors, which hold every dtype"
        )
    return floats


def refuse(row: int, tokens: Tokens, form: str, what: str, advice: str) -> OptionError:
    """Return the error for a token that a format cannot give back."""
    data, offsets = tokens
    token = bytes(data[offsets[row] : offsets[row + 1]].data)
    shown = token[:60].decode("utf-8", "surrogateescape")
    return OptionError(
        f"expected tokens that {form} can hold, got {shown!r} in row {row}, {what}; {advice}"
    )


def row_with(byte: int, tokens: Tokens) -> int | None:
    """Return the first row whose token has the byte, or None."""
    data, offsets = tokens
    begin, step = int(offsets[0]), 1 << 24
    for at in range(begin, int(offsets[-1]), step):
        found = np.flatnonzero(data[at : min(at + step, int(offsets[-1]))] == byte)
        if found.size:
            return int(np.searchsorted(offsets, at + found[0], side="right")) - 1
    return None
