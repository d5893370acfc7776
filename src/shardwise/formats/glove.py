"""GloVe's text: a token, a space and the values on each line, without a header.

Lines are cut at spaces (or tabs) alone, and the values are the last fields: tokens may have spaces
inside, as some of glove.840B's have, and any white space of Unicode.
"""

from __future__ import annotations

import sys
from collections import Counter

from shardwise.formats._file import File, fields_of, text_begin
from shardwise.formats._source import Options, Source
from shardwise.formats._text import (
    first_fields,
    index_text,
    is_number,
    refuse_sparse,
    text_source,
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
    # Of two equal counts the smaller: the longer lines then have spaces in their tokens.
    fields = max(counts, key=lambda fields: (counts[fields], -fields), default=0)
    if fields < 2:
        raise file.error(
            f"expected lines of a token and its values, got {fields} fields on most of the first "
            f"{counts.total()} lines; is this a file of vectors?"
        )
    return fields - 1
