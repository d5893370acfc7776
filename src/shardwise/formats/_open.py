"""Opens a file of vectors by what is in it, never by its name."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Literal, TypeAlias

from shardwise._errors import OptionError, is_one_of
from shardwise.formats import (
    arrow,
    fasttext,
    finalfusion,
    glove,
    numpy,
    safetensors,
    tensorflow,
    torch,
    word2vec,
)
from shardwise.formats._compressed import unpacked
from shardwise.formats._file import File, StrPath, map_file
from shardwise.formats._source import Options, Progress, Source, positive

Opener: TypeAlias = Callable[[File, Options], Source]
Detector: TypeAlias = Callable[[File], bool]

# In the order in which they are asked: those that know themselves by their first or last bytes,
# then word2vec, which has a header in words, then GloVe, which has nothing.
_FORMATS: dict[str, tuple[Detector, Opener]] = {
    "npy": (numpy.is_npy, numpy.open_npy),
    "npz": (numpy.is_npz, numpy.open_npz),
    "torch": (torch.is_state_dict, torch.open_state_dict),
    "safetensors": (safetensors.is_file, safetensors.open_file),
    "safetensors-index": (safetensors.is_index, safetensors.open_index),
    "parquet": (arrow.is_parquet, arrow.open_parquet),
    "arrow": (arrow.is_arrow, arrow.open_arrow),
    "tensorflow": (tensorflow.is_index, tensorflow.open_checkpoint),
    "fasttext": (fasttext.is_model, fasttext.open_model),
    "finalfusion": (finalfusion.is_file, finalfusion.open_file),
    "word2vec-binary": (word2vec.is_binary, word2vec.open_binary),
    "word2vec-text": (word2vec.is_text, word2vec.open_text),
    "glove": (glove.is_text, glove.open_text),
}
FORMATS = tuple(_FORMATS)

# Where an option that names a part of the file has a meaning.
_WITH_TOKENS = {"npz", "safetensors", "safetensors-index", "parquet", "arrow"}
_NAMED = {
    "tensor": {*_WITH_TOKENS, "torch", "tensorflow"},
    "tokens": _WITH_TOKENS,
}


def open(
    path: StrPath,
    *,
    format: str | None = None,
    limit: int | None = None,
    dim: int | None = None,
    unknown: str | None = None,
    tensor: str | None = None,
    tokens: str | None = None,
    partition: Literal["mod", "div"] | None = None,
    progress: Progress | None = None,
) -> Source:
    """Open a file of vectors, in any of `FORMATS`, plain or compressed (gzip, bzip2, xz, zstd).

    What can be mapped is mapped: this call reads where the rows are and what their tokens are, the
    values are read when the source is asked for them. A compressed file is unpacked to a temporary
    file first (in ``TMPDIR``), which has no name and goes when the source does.

    Lines of text are cut at spaces (or tabs) alone and the values are the last fields, so a token
    may have spaces inside, be empty, or be invalid UTF-8. A byte order mark is skipped. Where a
    token comes again, its first row counts.

    Args:
        path: the file; for a TensorFlow checkpoint its prefix or its `.index`, for safetensors
            also a directory with a `model.safetensors` or its index.
        format: one of `FORMATS`, or "word2vec", which leaves open whether it is text or binary;
            None looks into the file.
        limit: read the first `limit` rows only, and say nothing about what follows. Rows that are
            left out because their token had come before are among them.
        dim: the number of values a row; found out by default. FormatError where the file has
            another.
        unknown: the token that stands for tokens that the file does not have; where a file has no
            tokens at all, OptionError.
        tensor: the name of the tensor, array, variable or column that holds the rows, where the
            file has several; found by its shape and the usual names by default. OptionError for a
            format that gives no names.
        tokens: the name of the array or column that holds the tokens, likewise.
        partition: how the pieces of a TensorFlow variable hold the rows: None takes them as they
            follow each other; "div" or "mod" as `tf.nn.embedding_lookup` dealt them. Rows come in
            the order of their ids. A file in one piece does not mind.
        progress: called with (bytes done, bytes in all) while the file is indexed.

    Raises:
        FormatError: the file is not what it promises; the message says where.
        OptionError: an option cannot have this value, or `unknown` is not a token of the file.
        PartitionError: the pieces are not as long as `partition` cuts rows.
        MissingLibraryError: the format needs a library that is not installed; it says which.
        OSError: the file cannot be opened.

    Example:
        >>> import tempfile
        >>> import numpy as np
        >>> from shardwise import formats
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     np.save(f"{folder}/rows.npy", np.arange(6.0).reshape(3, 2))
        ...     source = formats.open(f"{folder}/rows.npy")
        >>> source.format, source.shape, source.read(2)
        ('npy', (3, 2), array([[4., 5.]]))
    """
    known_formats = ("word2vec", *_FORMATS)
    if format is not None and (not is_one_of(format, known_formats)):
        known = ", ".join(map(repr, known_formats))
        raise OptionError(f"expected format to be one of {known}, or None, got {format!r:.60}")
    if partition is not None and (not is_one_of(partition, ("mod", "div"))):
        raise OptionError(f'expected partition to be "mod", "div" or None, got {partition!r:.60}')
    options = Options(
        positive("limit", limit), positive("dim", dim), unknown, tensor, tokens, progress, partition
    )
    file = unpacked(map_file(_the_file(path)), options)
    if format == "word2vec":
        format = "word2vec-binary" if word2vec.is_binary(file) else "word2vec-text"
    found = detect(file) if format is None else format
    for option, formats in _NAMED.items():
        name = getattr(options, option)
        if name is not None and found not in formats:
            raise OptionError(
                f"{file.path}: expected no {option}= for {found}, which has none to choose from, "
                f"got {name!r}; leave it out"
            )
    return _FORMATS[found][1](file, options)


def detect(file: File) -> str:
    """Return the format of a file.

    Raises:
        FormatError: it is none that is known.
    """
    file.refuse_foreign()
    for form, (is_it, _) in _FORMATS.items():
        if is_it(file):
            return form
    raise file.error(
        "expected word2vec's header or a line with a token and its values, got "
        f"{file.bytes[:40]!r}; pass format= if this is a file of vectors"
    )


def _the_file(path: StrPath) -> str:
    """The file that opens what several files hold: a checkpoint, a directory of safetensors."""
    name = os.fspath(path)
    if os.path.isdir(name):
        return safetensors.file_of(name) or tensorflow.file_of(name) or name
    return name if os.path.exists(name) else tensorflow.file_of(name) or name
