"""Opens a file of vectors by what is in it, never by its name."""

from __future__ import annotations

from typing import Literal, TypeAlias

import numpy as np

from shardwise import _native
from shardwise._errors import OptionError
from shardwise.formats import glove, word2vec
from shardwise.formats._file import File, StrPath, map_file, text_begin
from shardwise.formats._source import Progress, Source, positive
from shardwise.formats._text import LONG_LINE, first_fields, is_number, refuse_sparse

Format: TypeAlias = Literal["word2vec", "word2vec-text", "word2vec-binary", "glove"]

_READERS = {
    "word2vec-text": word2vec.open_text,
    "word2vec-binary": word2vec.open_binary,
    "glove": glove.open_text,
}


def open(
    path: StrPath,
    *,
    format: Format | None = None,
    limit: int | None = None,
    dim: int | None = None,
    unknown: str | None = None,
    progress: Progress | None = None,
) -> Source:
    """Open a file of vectors: word2vec (text or binary), fastText's .vec, or GloVe's text.

    The file is mapped; this call reads where the rows are and what their tokens are, the values
    are read when the source is asked for them. Lines of text are cut at spaces (or tabs) alone and
    the values are the last fields, so a token may have spaces inside, be empty, or be invalid
    UTF-8. A byte order mark is skipped. Where a token comes again, its first row counts.

    Args:
        path: the file.
        format: None looks into the file; "word2vec" leaves open whether it is text or binary.
        limit: read the first `limit` rows only, and say nothing about what follows.
        dim: the number of values a row; found out by default.
        unknown: the token that stands for tokens that the file does not have.
        progress: called with (bytes done, bytes in all) while the file is indexed.

    Raises:
        FormatError: the file is not what it promises; the message says where.
        OptionError: an option cannot have this value, or `unknown` is not a token of the file.
        OSError: the file cannot be opened.
    """
    limit, dim = positive("limit", limit), positive("dim", dim)
    if format not in (None, "word2vec", *_READERS):
        known = ", ".join(map(repr, ("word2vec", *_READERS)))
        raise OptionError(f"expected format to be one of {known}, or None, got {format!r}")
    file = map_file(path)
    form = detect(file) if format is None else format
    if form == "word2vec":
        header = word2vec.read_header(file)
        form = "word2vec-text" if header is None or _is_text(file, header[2]) else "word2vec-binary"
    return _READERS[form](file, limit=limit, dim=dim, unknown=unknown, progress=progress)


def detect(file: File) -> str:
    """Return the format of a file.

    Raises:
        FormatError: it is none that is known.
    """
    header = word2vec.read_header(file)
    if header is None or _is_glove_row(file, *header):
        fields = first_fields(file, text_begin(file))
        refuse_sparse(file, text_begin(file))
        if len(fields) < 2 or not is_number(fields[-1]):
            raise file.error(
                "expected word2vec's header or a line with a token and its values, got "
                f"{file.bytes[:40]!r}; pass format= if this is a file of vectors"
            )
        return "glove"
    refuse_sparse(file, header[2])
    return "word2vec-text" if _is_text(file, header[2]) else "word2vec-binary"


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
