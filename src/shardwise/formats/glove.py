"""GloVe's text: a token, a space and the values on each line, without a header.

Lines are cut at spaces (or tabs) alone, and the values are the last fields: tokens may have spaces
inside, as some of glove.840B's have, and any white space of Unicode.
"""

from __future__ import annotations

import itertools
import sys
from collections import Counter
from collections.abc import Iterable
from typing import Any, BinaryIO

from numpy.typing import NDArray

from shardwise._errors import OptionError
from shardwise.formats._file import BOM, File, fields_of, text_begin
from shardwise.formats._source import Options, Source
from shardwise.formats._token_rows import (
    Tokens,
    first_fields,
    index_text,
    is_number,
    refuse,
    refuse_sparse,
    text_source,
    tokens_of_rows,
    write_lines,
)

_SAMPLE_LINES = 1000
_SAMPLE_BYTES = 64 << 20


def is_text(file: File) -> bool:
    """Whether the first line is a token and values."""
    begin = text_begin(file)
    refuse_sparse(file, begin)
    fields = first_fields(file, begin)
    return len(fields) > 1 and is_number(fields[-1])


def open_text(file: File, options: Options) -> Source:
    """Open a text of vectors without a header.

    Without `dim` the most frequent number of fields in the first 1000 lines decides, less one for
    the token.

    Raises:
        FormatError: a line has not a token and `dim` values.
    """
    begin = text_begin(file)
    values = options.dim or guess_dim(file, begin)
    advice = "repair the line, or pass dim= if all lines have another number of values"
    most = options.limit or sys.maxsize
    rows, _ = index_text(file, begin, values, most, advice, options.progress)
    if not len(rows):
        raise file.error("expected lines of a token and its values, got none; fetch the file again")
    return text_source(file, "glove", rows, values, options.unknown)


def write_text(file: BinaryIO, source: Source, blocks: Iterable[NDArray[Any]]) -> None:
    """Write a text of vectors without a header, as the shortest decimals that read back the same.

    Raises:
        OptionError: there are no rows, a row has no token, a token cannot be told from what is
            around it, or float32 cannot hold a value.
    """
    tokens = tokens_of_rows(source, "GloVe's text")
    data, offsets = tokens
    if not source.shape[0]:
        raise OptionError(
            "expected rows for GloVe's text, which cannot say of itself that it has none, got a "
            f"table of shape {source.shape}; write word2vec's text (.vec)"
        )
    first = data[offsets[0] : offsets[1]].tobytes()
    if first.startswith(BOM) and first[3:4] not in (b"", b" ", b"\t"):
        what = "which begins as a file with a byte order mark does"
        raise refuse(0, tokens, "GloVe's text", what, "write word2vec's text (.vec)")
    _check_sample(tokens, source.shape[1])
    write_lines(file, source, blocks, tokens, "GloVe's text")


def _check_sample(tokens: Tokens, dim: int) -> None:
    """Refuse tokens whose spaces would have `guess_dim` count them among the values."""
    data, offsets = tokens
    counts: Counter[int] = Counter()
    for begin, end in itertools.pairwise(offsets[: _SAMPLE_LINES + 1]):
        counts[len(fields_of(data[begin:end].tobytes() + b" 0")) + dim - 1] += 1
    if (fields := _most_frequent(counts)) != dim + 1:
        raise OptionError(
            "expected tokens without spaces on most of the first lines, for GloVe's text has no "
            f"header to tell them from values, got {fields} fields in rows of {dim} values; write "
            "word2vec's text (.vec), which has one"
        )


def guess_dim(file: File, begin: int) -> int:
    """Return the number of values on most of the first lines.

    Raises:
        FormatError: most lines have fewer than two fields.
    """
    counts: Counter[int] = Counter()
    at, stop = begin, min(file.size, begin + _SAMPLE_BYTES)
    while at < stop and counts.total() < _SAMPLE_LINES:
        end = file.line_end(at, stop - at)
        if (fields := len(fields_of(file.bytes[at:end]))) > 0:
            counts[fields] += 1
        at = end + 1
    fields = _most_frequent(counts)
    if fields < 2:
        raise file.error(
            f"expected lines of a token and its values, got {fields} fields on most of the first "
            f"{counts.total()} lines; is this a file of vectors?"
        )
    return fields - 1


def _most_frequent(counts: Counter[int]) -> int:
    # Of two equal counts the smaller: the longer lines then have spaces in their tokens.
    return max(counts, key=lambda fields: (counts[fields], -fields), default=0)
