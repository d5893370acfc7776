"""Rows of a token and float32 values: what word2vec's two forms and GloVe share."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO, TypeAlias

import numpy as np
from numpy.typing import NDArray

from shardwise import _native
from shardwise._errors import OptionError, VocabularyError
from shardwise.formats._file import File, fields_of
from shardwise.formats._source import Progress, Source, unique_tokens

Reader: TypeAlias = Callable[[NDArray[np.int64], NDArray[np.float32]], None]
"""Fills rows of its second argument from the positions in the first."""

Found: TypeAlias = tuple[NDArray[np.int64], NDArray[np.int64], int]
"""Starts of tokens, starts of values, and the position after them."""

Step: TypeAlias = Callable[[int, int, int, int], Found]
"""Indexes from a position: its arguments are begin, bytes, rows wanted, rows before."""

Tokens: TypeAlias = tuple[NDArray[np.uint8], NDArray[np.int64]]
"""The tokens' bytes end to end, and their offsets, one more than there are tokens."""

Layout: TypeAlias = Callable[
    [NDArray[np.float32], NDArray[np.uint8], NDArray[np.int64]], NDArray[np.uint8]
]
"""Lays out rows with the bytes of their tokens and the offsets of these."""

_INDEX_BYTES = 64 << 20  # of a file between two looks at Ctrl-C
_FIRST_INDEX_BYTES = 1 << 20  # a small limit should not read much
_VALUES = 1 << 20  # that are laid out at once
_SPARSE = re.compile(rb"\d+:[-+]?[\d.]+([eE][-+]?\d+)?")
# The end of a token that is read as a value, as `native/core/text.h` says.
_FRACTION = re.compile(rb"[ \t]([^ \t\n]*[.eE][^ \t\n]*)\Z")
LONG_LINE = 1 << 20  # bytes of a line that is looked at to tell the format


@dataclass(frozen=True)
class Rows:
    """Where the rows of a file lie, and where the last of them ends."""

    token_starts: NDArray[np.int64]
    value_starts: NDArray[np.int64]
    end: int

    def __len__(self) -> int:
        return len(self.token_starts)


def index_rows(
    file: File, begin: int, end: int, most: int, step: Step, advice: str, progress: Progress | None
) -> Rows:
    """Call `step` block by block until `end`, or until `most` rows are found."""
    empty = np.empty(0, np.int64)
    tokens, values = [empty], [empty]
    at, count, size = begin, 0, _FIRST_INDEX_BYTES
    while at < end and count < most:
        try:
            token_starts, value_starts, at = step(at, size, most - count, count)
        except ValueError as error:
            raise file.error(f"{error}; {advice}") from None
        tokens.append(token_starts)
        values.append(value_starts)
        count += len(token_starts)
        size = min(2 * size, _INDEX_BYTES)
        if progress is not None:
            progress(at, file.size)
        if not len(token_starts):
            break
    return Rows(np.concatenate(tokens), np.concatenate(values), at)


def make_source(
    file: File, form: str, rows: Rows, dim: int, reader: Reader, unknown: str | None
) -> Source:
    """Gather the tokens of indexed rows; of rows with one token, the first wins."""
    packed = _native.gather_tokens(file.data, rows.token_starts, rows.value_starts)
    vocabulary, kept, duplicates = unique_tokens(*packed, unknown)
    value_starts = rows.value_starts if kept is None else rows.value_starts[kept]

    def read(begin: int, end: int) -> NDArray[np.float32]:
        starts = value_starts[begin:end]
        block = np.empty((len(starts), dim), np.float32)
        try:
            reader(starts, block)
        except ValueError as error:
            raise file.error(f"{error}; repair the file, or fetch it again") from None
        return block

    return Source(
        path=file.path,
        format=form,
        shape=(len(value_starts), dim),
        dtype=np.dtype(np.float32),
        vocabulary=vocabulary,
        duplicates=duplicates,
        _rows=read,
    )


def index_text(
    file: File, begin: int, dim: int, most: int, advice: str, progress: Progress | None
) -> tuple[Rows, bool]:
    """Index at most `most` rows from `begin`; also return whether the text ends with them."""
    end = max(begin, _native.text_end(file.data))
    refuse_sparse(file, begin)
    text = file.data[:end]

    def step(at: int, size: int, wanted: int, _: int) -> Found:
        return _native.index_text(text, at, min(end, at + size), dim, wanted)

    rows = index_rows(file, begin, end, most, step, advice, progress)
    return rows, rows.end >= end


def text_source(file: File, form: str, rows: Rows, dim: int, unknown: str | None) -> Source:
    """Make a source whose values are parsed on demand."""

    def reader(starts: NDArray[np.int64], out: NDArray[np.float32]) -> None:
        _native.parse_rows(file.data, starts, out)

    return make_source(file, form, rows, dim, reader, unknown)


def first_fields(file: File, begin: int) -> list[bytes]:
    """Fields of the line at `begin`, or of its beginning where the line is very long."""
    return fields_of(file.bytes[begin : file.line_end(begin, LONG_LINE)])


def is_number(field: bytes) -> bool:
    try:
        _native.parse_float(field)
    except ValueError:
        return False
    return True


def refuse_sparse(file: File, begin: int) -> None:
    """Raise FormatError where the line at `begin` has "index:value" instead of values."""
    fields = first_fields(file, begin)
    if len(fields) > 1 and all(map(_SPARSE.fullmatch, fields[1:])):
        raise file.error(
            f"expected rows of values, got sparse rows (index:value, as in {fields[1][:40]!r}); "
            "write them out as dense rows first"
        )


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


def write_lines(
    file: BinaryIO, source: Source, blocks: Iterable[NDArray[Any]], tokens: Tokens, form: str
) -> None:
    """Write each row as a line, a space between its token and each of its values.

    Raises:
        OptionError: a token cannot be told from what is around it, or float32 cannot hold a value.
    """
    row = row_with(ord("\n"), tokens)
    if row is not None:
        raise refuse(row, tokens, form, "which has the end of a line in it", "write .safetensors")
    for row in _rows_with_separators(tokens):
        data, offsets = tokens
        ends_in = _FRACTION.search(data[offsets[row] : offsets[row + 1]].tobytes())
        if ends_in is not None and is_number(ends_in[1]):
            what = "which ends in what would be read as a value"
            raise refuse(row, tokens, form, what, "write .safetensors")
    write_rows(file, source, blocks, tokens, _native.format_rows)


def _rows_with_separators(tokens: Tokens) -> list[int]:
    data, offsets = tokens
    places = np.flatnonzero((data == ord(" ")) | (data == ord("\t")))
    rows = np.unique(np.searchsorted(offsets, places, side="right")) - 1
    return [row for row in rows.tolist() if 0 <= row < len(offsets) - 1]
