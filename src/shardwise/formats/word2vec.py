"""word2vec's two forms, and fastText's .vec: a header "rows values", then the rows.

Text rows are a token, a space, and the values with spaces between; binary rows are a token, a
space, and the values as little-endian float32, with or without a newline after them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from shardwise import _native
from shardwise._errors import FormatError
from shardwise._safetensors import is_array_shape
from shardwise.formats._file import File, fields_of, text_begin
from shardwise.formats._source import Options, Source
from shardwise.formats._token_rows import (
    LONG_LINE,
    Found,
    first_fields,
    index_rows,
    index_text,
    is_number,
    make_source,
    refuse,
    refuse_sparse,
    row_with,
    text_source,
    tokens_of_rows,
    write_lines,
    write_rows,
)

_HEADER_BYTES = 128  # two numbers need fewer


def read_header(file: File) -> tuple[int, int, int] | None:
    """Return (rows, values a row, position after the header), or None for any other first line."""
    begin = text_begin(file)
    end = file.line_end(begin, _HEADER_BYTES)
    fields = fields_of(file.bytes[begin:end].lstrip(b" \t"))
    if len(fields) != 2 or not all(field.isdigit() for field in fields):
        return None
    return int(fields[0]), int(fields[1]), min(file.size, end + 1)


def is_binary(file: File) -> bool:
    """Whether rows of binary values follow a header."""
    header = read_header(file)
    if header is None or _is_glove_row(file, *header):
        return False
    refuse_sparse(file, header[2])
    return not _is_text(file, header[2])


def is_text(file: File) -> bool:
    """Whether rows of text follow a header."""
    header = read_header(file)
    return header is not None and not _is_glove_row(file, *header) and _is_text(file, header[2])


def _is_glove_row(file: File, rows: int, dim: int, begin: int) -> bool:
    """Whether what looks like a header is the first row of one-value vectors: so is the next."""
    fields = first_fields(file, begin)
    if len(fields) != 2 or not is_number(fields[1]):
        return False
    text = file.data[begin : _native.text_end(file.data)]
    return dim != 1 or int(np.count_nonzero(text == ord("\n"))) + 1 != rows


def _is_text(file: File, begin: int) -> bool:
    """Whether the first row is text: what follows its token is mostly numbers."""
    values = first_fields(file, begin)[1:]
    if values:
        return 2 * sum(map(is_number, values)) >= len(values)
    # The line ends after its token. Binary values may begin with a newline, but after a space.
    return file.bytes[begin : file.line_end(begin, LONG_LINE)][-1:] != b" "


def open_text(file: File, options: Options) -> Source:
    """Open word2vec's text form, or fastText's .vec.

    Raises:
        FormatError: the file is not what its header says.
    """
    # The least that a row needs: a separator and a digit for each value, and the end of the line.
    rows, values, begin = _checked_header(file, options, lambda values: 2 * values + 1)
    advice = "correct the header, or fetch the file again"
    index, complete = index_text(file, begin, values, rows, advice, options.progress)
    if len(index) < rows:
        raise _too_few(file, rows, len(index))
    if not complete and options.limit is None:
        raise file.error(
            f"line {rows + 2}: expected the end of the file after the {rows} rows that the header "
            f"promises, got more; correct the header, or pass limit={max(rows, 1)} to read these"
        )
    return text_source(file, "word2vec-text", index, values, options.unknown)


def open_binary(file: File, options: Options) -> Source:
    """Open word2vec's binary form.

    Raises:
        FormatError: the file is not what its header says.
    """
    rows, values, begin = _checked_header(file, options, lambda values: 4 * values + 1)

    def step(at: int, size: int, wanted: int, before: int) -> Found:
        return _native.index_binary(file.data, at, values, wanted, size, before + 1)

    advice = f"the header promises {rows} rows of {values} values; fetch the file again"
    index = index_rows(file, begin, file.size, rows, step, advice, options.progress)
    if len(index) < rows:
        raise _too_few(file, rows, len(index))
    left = _native.text_end(file.data[index.end :])
    if left and options.limit is None:
        raise file.error(
            f"byte {index.end}: expected the end of the file after the {rows} rows that the header "
            f"promises, got {left} bytes more; correct the header, or pass limit={max(rows, 1)}"
        )

    def reader(starts: NDArray[np.int64], out: NDArray[np.float32]) -> None:
        _native.copy_rows(file.data, starts, out)

    return make_source(file, "word2vec-binary", index, values, reader, options.unknown)


def write_text(file: BinaryIO, source: Source, blocks: Iterable[NDArray[Any]]) -> None:
    """Write word2vec's text form, as the shortest decimals that read back the same.

    Lines end without a space, which all readers take.

    Raises:
        OptionError: a row has no token, a token cannot be told from what is around it, or float32
            cannot hold a value.
    """
    tokens = tokens_of_rows(source, "word2vec's text")
    file.write(b"%d %d\n" % source.shape)
    write_lines(file, source, blocks, tokens, "word2vec's text")


def write_binary(file: BinaryIO, source: Source, blocks: Iterable[NDArray[Any]]) -> None:
    """Write word2vec's binary form, with a newline after each row, as word2vec itself writes it.

    Raises:
        OptionError: a row has no token, a token has a space in it or begins with a newline, or
            float32 cannot hold a value.
    """
    form = "word2vec's binary form"
    tokens = tokens_of_rows(source, form)
    row, what = row_with(ord(" "), tokens), "which has a space in it"
    if row is None:
        data, offsets = tokens
        begins = offsets[:-1][offsets[:-1] < offsets[1:]]
        begins = begins[data[begins] == ord("\n")]
        if begins.size:
            row = int(np.searchsorted(offsets, begins[0], side="right")) - 1
            what = "which begins with a newline"
    if row is not None:
        raise refuse(row, tokens, form, what, "write word2vec's text (.vec) or .safetensors")
    file.write(b"%d %d\n" % source.shape)
    write_rows(file, source, blocks, tokens, _native.pack_rows)


def _checked_header(
    file: File, options: Options, least: Callable[[int], int]
) -> tuple[int, int, int]:
    """Return (rows to read, values a row, where rows begin), for which the file is large enough."""
    limit, dim = options.limit, options.dim
    header = read_header(file)
    if header is None:
        raise file.error(
            'line 1: expected word2vec\'s header, "rows values", got '
            f'{file.bytes[:40]!r}; a file without a header is read with format="glove"'
        )
    rows, values, begin = header
    if values == 0 or (dim is not None and values != dim):
        wanted = "at least 1 value" if dim is None else f"{dim} values (dim={dim})"
        raise file.error(
            f"line 1: expected rows of {wanted}, got a header for {values} values; correct the "
            "header, or dim="
        )
    rows = rows if limit is None else min(rows, limit)
    needed, there = rows * least(values) - 1, file.size - begin
    if needed > there:
        raise file.error(
            f"line 1: expected at least {needed} bytes for {rows} rows of {values} values, got "
            f"{there} after the header; the header is wrong or the file was cut off"
        )
    if not is_array_shape((rows, values), np.dtype(np.float32)):
        raise file.error(
            f"line 1: expected a shape that an array can have, got {rows} rows of {values} values; "
            "correct the header"
        )
    return rows, values, begin


def _too_few(file: File, rows: int, found: int) -> FormatError:
    return file.error(
        f"expected {rows} rows, as the header promises, got {found} before the end of the file at "
        f"byte {file.size}; fetch the file again, or correct the header"
    )
