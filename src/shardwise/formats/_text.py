"""Rows of text, which word2vec's text form and GloVe share: a token, a space, the values."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from shardwise import _native
from shardwise.formats._file import File, fields_of
from shardwise.formats._source import Found, Progress, Rows, Source, index_rows, make_source
from shardwise.formats._token_rows import Tokens, refuse, row_with, write_rows

_SPARSE = re.compile(rb"\d+:[-+]?[\d.]+([eE][-+]?\d+)?")
# The end of a token that is read as a value, as `native/core/text.h` says.
_FRACTION = re.compile(rb"[ \t]([^ \t\n]*[.eE][^ \t\n]*)\Z")
LONG_LINE = 1 << 20  # bytes of a line that is looked at to tell the format


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
