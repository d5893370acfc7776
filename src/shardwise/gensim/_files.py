"""Files of word2vec as gensim reads and writes them, through `shardwise.formats`."""

from __future__ import annotations

import codecs
import os
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from shardwise import formats
from shardwise._errors import FormatError, OptionError
from shardwise._table import Table
from shardwise._tokens import Token, pack_tokens
from shardwise._vocabulary import Vocabulary
from shardwise.formats._file import map_file
from shardwise.formats._source import unique_tokens
from shardwise.words._search import is_real


class Found(NamedTuple):
    """A file's rows, and its keys; `kept` are the rows of these, or None: all."""

    source: formats.Source
    vocabulary: Vocabulary
    kept: NDArray[np.int64] | None

    def blocks(self) -> Iterator[NDArray[Any]]:
        """Give the keys' rows, block by block."""
        begin = 0
        for block in self.source.blocks():
            if self.kept is None:
                yield block
            else:
                first, last = np.searchsorted(self.kept, [begin, begin + len(block)])
                yield block[self.kept[first:last] - begin]
            begin += len(block)


def read(
    path: str | os.PathLike[str],
    binary: bool,
    encoding: str,
    errors: str,
    limit: int | None,
    no_header: bool,
) -> Found:
    """Open a file of word2vec, or of GloVe where it has no header.

    Raises:
        FormatError: the file is broken, or a key is not in this encoding and `errors` is "strict".
        OptionError: there is no such form or encoding.
    """
    if binary and no_header:
        raise OptionError("expected binary=False with no_header, got True; only text has no header")
    form = "word2vec-binary" if binary else "glove" if no_header else "word2vec-text"
    try:
        source = formats.open(path, format=form, limit=limit)
    except FormatError as error:
        other = "binary=False" if binary else "binary=True" if not no_header else "no_header=False"
        raise FormatError(
            f"{error}. It was read as {form}: if that is not what it is, pass {other}"
            + ("" if binary or no_header else ", or no_header=True for GloVe's files")
            + "; for fastText's models there is load_facebook_vectors"
        ) from None
    vocabulary = source.vocabulary
    assert vocabulary is not None
    try:
        plain = codecs.lookup(encoding).name == "utf-8"
        codecs.lookup_error(errors)
    except LookupError as error:
        raise OptionError(
            f"expected an encoding and what is done about errors, got {error}"
        ) from None
    if plain and (errors == "surrogateescape" or _is_utf8(vocabulary)):
        return Found(source, vocabulary, None)
    tokens = []
    for token in vocabulary:
        raw = token.encode("utf-8", "surrogateescape")
        try:
            tokens.append(raw.decode(encoding, errors))
        except UnicodeDecodeError as error:
            raise FormatError(
                f"{os.fspath(path)}: expected keys in {encoding}, got {raw[:60]!r} in row "
                f'{len(tokens)} ({error.reason}); pass unicode_errors="surrogateescape" to keep '
                'such keys, or "replace" or "ignore"'
            ) from None
    # Keys that were different bytes may be one now: of these, the first counts.
    unique = unique_tokens(*pack_tokens(list[Token](tokens)), None)
    return Found(source, unique.vocabulary, unique.kept)


def _is_utf8(vocabulary: Vocabulary) -> bool:
    data, offsets, _ = vocabulary.arrays()
    starts = offsets[:-1][offsets[:-1] < offsets[1:]]
    if ((data[starts] & 0xC0) == 0x80).any():  # a key that begins amid a character
        return False
    try:
        data.tobytes().decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def rows(found: Found, dtype: Any) -> NDArray[Any]:
    """Read all rows into a new array.

    Raises:
        OptionError: the dtype is not of real numbers.
    """
    kind = np.dtype(dtype)
    if not is_real(kind):
        raise OptionError(f"expected datatype as a dtype of real numbers, got {kind}")
    result = np.empty((len(found.vocabulary), *found.source.shape[1:]), kind)
    begin = 0
    with np.errstate(over="ignore", invalid="ignore"):
        for block in found.blocks():
            result[begin : begin + len(block)] = block
            begin += len(block)
    return result


def counts(
    path: str | os.PathLike[str], encoding: str, errors: str, index: Mapping[str, int]
) -> NDArray[np.int64]:
    """Read a file of keys and counts; keys that it lacks have the count 0.

    Raises:
        FormatError: a line has no count.
    """
    result = np.zeros(len(index), np.int64)
    with open(path, encoding=encoding, errors=errors, newline="\n") as file:
        for number, line in enumerate(file, 1):
            key, _, count = line.strip().rpartition(" ")
            if key in index:
                try:
                    result[index[key]] = int(count)
                except (ValueError, OverflowError):
                    raise FormatError(
                        f"{os.fspath(path)}: line {number}: expected a key and its count, got "
                        f"{line[:60]!r}; leave fvocab out, or repair the file"
                    ) from None
    return result


def write(
    path: str | os.PathLike[str],
    table: Table,
    vocabulary: Vocabulary,
    order: NDArray[np.int64] | None,
    binary: bool,
    header: bool,
) -> None:
    """Write keys and rows, in an order of rows, as float32."""

    def block(begin: int, end: int) -> NDArray[np.float32]:
        ids = np.arange(begin, end) if order is None else order[begin:end]
        with np.errstate(over="ignore"):
            return table.lookup(ids).astype(np.float32)

    source = formats.Source(
        path="",
        format="shardwise",
        shape=(len(vocabulary), table.shape[1]),
        dtype=np.dtype(np.float32),
        vocabulary=vocabulary,
        _rows=block,
    )
    form = "word2vec-binary" if binary else "word2vec-text" if header else "glove"
    formats.write(path, source, format=form, overwrite=True)


def write_counts(
    path: str | os.PathLike[str], vocabulary: Vocabulary, values: NDArray[Any]
) -> None:
    """Write a line for each key: the key and its value."""
    with open(path, "w", encoding="utf-8", errors="surrogateescape", newline="\n") as file:
        file.writelines(
            f"{key} {value}\n" for key, value in zip(vocabulary, values.tolist(), strict=True)
        )


def with_counts(vocabulary: Vocabulary, values: NDArray[Any]) -> Vocabulary:
    """The same vocabulary with other counts; nothing is copied."""
    return Vocabulary._of(
        vocabulary._data,
        vocabulary._offsets,
        vocabulary._slots,
        alias_ids=vocabulary._alias_ids,
        counts=values.astype(np.int64),
        folding=vocabulary._folding,
        unknown=vocabulary.unknown,
    )


def refuse_file(path: str | os.PathLike[str]) -> None:
    """Refuse a file where a directory is expected, and say what to do with it.

    Raises:
        FormatError: it is a file.
    """
    if os.path.isfile(path):
        file = map_file(path)
        file.refuse_foreign()
        raise file.error(
            "expected the directory of a table, got a file; read word2vec's files with "
            "KeyedVectors.load_word2vec_format, and others with `shardwise convert FILE DIRECTORY`"
        )


def only_utf8(encoding: str) -> None:
    """Refuse other encodings than UTF-8.

    Raises:
        OptionError: it is another.
    """
    try:
        name = codecs.lookup(encoding).name
    except LookupError:
        name = ""
    if name != "utf-8":
        raise OptionError(f"expected encoding as UTF-8, got {encoding!r}")
