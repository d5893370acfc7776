"""Writes rows to a file of a foreign format: the whole of it is in place at the end, or nothing."""

from __future__ import annotations

import contextlib
import math
import mmap
import os
import stat
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, BinaryIO, NamedTuple, TypeAlias, cast

import numpy as np
from numpy.typing import NDArray

from shardwise._errors import (
    FormatError,
    OptionError,
    ShardwiseWarning,
    TableError,
    TableExistsError,
    TableNotFoundError,
    VocabularyError,
    is_one_of,
    require,
)
from shardwise._table import Table
from shardwise._vocabulary import Vocabulary
from shardwise.formats import arrow, glove, numpy, safetensors, torch, word2vec
from shardwise.formats._compressed import PACKED_ENDINGS, packed
from shardwise.formats._file import File, StrPath, map_file
from shardwise.formats._open import detect
from shardwise.formats._source import Progress, Source

Writer: TypeAlias = Callable[[BinaryIO, Source, Iterable[NDArray[Any]]], None]

_BLOCK_BYTES = 4 << 20
_HEAD_BYTES = 4 << 20  # of what is compressed: enough to tell its format


class _Format(NamedTuple):
    write: Writer
    endings: tuple[str, ...]
    has_tokens: bool = True
    is_sniffed: bool = False  # told by its rows, and by no mark of its own


_FORMATS = {
    "glove": _Format(glove.write_text, (".txt",), is_sniffed=True),
    "word2vec-text": _Format(word2vec.write_text, (".vec",), is_sniffed=True),
    "word2vec-binary": _Format(word2vec.write_binary, (".bin",), is_sniffed=True),
    "npy": _Format(numpy.write_npy, (".npy",), has_tokens=False),
    "npz": _Format(numpy.write_npz, (".npz",)),
    "safetensors": _Format(safetensors.write_file, (".safetensors",)),
    "torch": _Format(torch.write_state_dict, (".pt", ".pth"), has_tokens=False),
    "parquet": _Format(arrow.write_parquet, (".parquet",)),
    "arrow": _Format(arrow.write_arrow, (".arrow", ".feather")),
}
_ENDINGS = {ending: name for name, form in _FORMATS.items() for ending in form.endings}
WRITABLE = tuple(_FORMATS)


def write(
    path: StrPath,
    source: Source,
    *,
    format: str | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> None:
    """Write the rows and tokens of a source to a file, in little memory.

    After any failure (an error, Ctrl-C) the file is as it was before.

    Args:
        path: the file. Its name's ending says the format where `format` does not: `.txt` (glove),
            `.vec` (word2vec-text), `.bin` (word2vec-binary), `.npy`, `.npz`, `.safetensors`, `.pt`
            and `.pth` (torch), `.parquet`, `.arrow` and `.feather` (arrow). The first three are
            compressed where `.gz`, `.bz2`, `.xz` or `.zst` follows.
        source: from `open`, or from `table_source`. Its metadata is not written: only a table
            directory has a place for it.
        format: one of the names above.
        overwrite: replace a file that is there.
        progress: called with (rows done, rows in all).

    Raises:
        OptionError: there is no such format, or it cannot hold such rows or tokens.
        ShardwiseWarning: the format has no place for the tokens.
        TableExistsError: there is a file, and `overwrite` is false; or something else.
        TableNotFoundError: there is no directory to write it in.
        MissingLibraryError: the format needs a library that is not installed.
        OSError: the file cannot be written.

    Example:
        >>> import pathlib, tempfile
        >>> import numpy as np
        >>> from shardwise import Table, Vocabulary, formats
        >>> table = Table.from_array(np.array([[0.1, 2.0], [3.0, 1e-9]], np.float32))
        >>> source = formats.table_source(table, Vocabulary(["king", "queen"]))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     formats.write(f"{folder}/tiny.vec", source)
        ...     print(pathlib.Path(folder, "tiny.vec").read_text(), end="")
        2 2
        king 0.1 2
        queen 3 1e-09
    """
    name = os.fspath(path)
    require(source, Source, "source", FormatError)
    form, packing = form_of(name, format)
    refuse_file(name, overwrite)
    if source.vocabulary is not None and not has_tokens(form):
        warnings.warn(
            f"{form} has no place for tokens: {len(source.vocabulary)} are left out of {name}; "
            "write another format, for example .safetensors, to keep them",
            ShardwiseWarning,
            stacklevel=2,
        )
    with replacing(name, overwrite) as (temporary, file):
        sample = _fill(file, temporary, source, form, packing, progress)
        if source.shape[0] and _FORMATS[form].is_sniffed:
            _check_format(name, sample, form)


def table_source(
    table: Table,
    vocabulary: Vocabulary | None = None,
    *,
    path: StrPath = "",
    metadata: Mapping[str, Any] | None = None,
) -> Source:
    """Return a source of the rows of a table, in the order of their ids; see `write`.

    Args:
        table: the rows; they are read when the source is asked for them.
        vocabulary: the tokens of its first rows, which may be all rows.
        path: where the table is from, for messages.
        metadata: a JSON object, which a table directory keeps.

    Raises:
        OptionError: there are more tokens than rows.

    Example:
        >>> import pathlib, tempfile
        >>> import numpy as np
        >>> from shardwise import Table, Vocabulary, formats
        >>> table = Table.from_array(np.eye(2, dtype=np.float32), shards=2)
        >>> source = formats.table_source(table, Vocabulary(["east", "north"]))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     formats.write(f"{folder}/two.vec", source)
        ...     print(pathlib.Path(folder, "two.vec").read_text(), end="")
        2 2
        east 1 0
        north 0 1
    """
    require(table, Table, "table", TableError)
    if vocabulary is not None:
        require(vocabulary, Vocabulary, "vocabulary", VocabularyError)
    if vocabulary is not None and len(vocabulary) > len(table):
        raise OptionError(
            f"expected a row for each token, got {len(vocabulary)} tokens and {len(table)} rows"
        )

    if metadata is not None:
        require(metadata, Mapping, "metadata", OptionError)

    def read(begin: int, end: int) -> NDArray[Any]:
        whole = table._whole
        if whole is not None:
            return whole[begin:end]
        return table.lookup(np.arange(begin, end))

    def read_packed(begin: int, end: int) -> NDArray[Any]:
        return stored.lookup(np.arange(begin, end))

    stored = table._stored()
    return Source(
        path=os.fspath(path),
        format="shardwise",
        shape=table.shape,
        dtype=table.dtype,
        vocabulary=vocabulary,
        partition=table.partition,
        metadata=dict(metadata or {}),
        _rows=read,
        _packed=(table._layout, read_packed) if table._layout.packed else None,
    )


def form_of(name: str, format: str | None = None) -> tuple[str, str]:
    """Return the format that a file is written in, and the ending that compresses it, or "".

    Raises:
        OptionError: there is no such format, or it is not compressed.
    """
    stem, packing = name.lower(), ""
    if stem.endswith(PACKED_ENDINGS):
        stem, packing = os.path.splitext(stem)
    form = _ENDINGS.get(os.path.splitext(stem)[1]) if format is None else format
    if form is None or not is_one_of(form, _FORMATS):
        if format is not None:
            known = ", ".join(map(repr, WRITABLE))
            raise OptionError(f"expected a format to write, one of {known}, got {format!r}")
        known = ", ".join(_ENDINGS)
        raise OptionError(
            f"expected a file name that ends in one of {known} (or .txt.gz and the like), got "
            f"{os.path.basename(name)!r}; or say which format it should have"
        )
    if packing and not _FORMATS[form].is_sniffed:
        raise OptionError(
            f"expected a file name without {packing} for {form}, which would have to be unpacked "
            f"before it is read, got {os.path.basename(name)!r}"
        )
    return form, packing


def is_file_name(path: StrPath) -> bool:
    """Whether a name ends as that of a file in a format that can be written."""
    stem = os.fspath(path).lower()
    if stem.endswith(PACKED_ENDINGS):
        stem = os.path.splitext(stem)[0]
    return os.path.splitext(stem)[1] in _ENDINGS


def has_tokens(format: str) -> bool:
    """Whether a format that can be written has a place for tokens."""
    return _FORMATS[format].has_tokens


def refuse_file(path: StrPath, overwrite: bool) -> None:
    """Refuse a place where no file can be put: before long work, which would end in the same.

    Raises:
        TableExistsError: there is a file, and `overwrite` is false; or something else.
        TableNotFoundError: there is no directory to write it in.
    """
    try:
        mode = os.stat(path).st_mode
    except (FileNotFoundError, NotADirectoryError):
        if not os.path.isdir(os.path.dirname(os.path.realpath(path))):
            raise TableNotFoundError(
                f"expected a directory to write {os.fspath(path)} in, got none; make it first"
            ) from None
        return
    if not stat.S_ISREG(mode):
        kind = "a directory" if stat.S_ISDIR(mode) else "no regular file"
        raise TableExistsError(
            f"expected a file or nothing at {os.fspath(path)}, got {kind}; choose another name"
        )
    if not overwrite:
        raise TableExistsError(
            f"expected nothing at {os.fspath(path)}, got a file; choose another name, or pass "
            "overwrite=True (on the command line: --overwrite)"
        )


@contextlib.contextmanager
def replacing(path: StrPath, overwrite: bool) -> Iterator[tuple[str, BinaryIO]]:
    """A new file, and its name, that takes the place of `path` at the end if all went well.

    Raises:
        TableExistsError: there is a file, and `overwrite` is false; or something else.
        TableNotFoundError: there is no directory to write it in.
    """
    target = os.path.realpath(path)  # a link stays, and its file is replaced
    refuse_file(path, overwrite)
    with _beside(target) as (temporary, file):
        yield temporary, file
        file.flush()
        os.fsync(file.fileno())
        refuse_file(path, overwrite)  # somebody else may have been faster
        os.replace(temporary, target)
    _sync_directory(os.path.dirname(target))


@contextlib.contextmanager
def _beside(target: str) -> Iterator[tuple[str, BinaryIO]]:
    """A new file in the directory of another, under a name that nobody can know; gone at the end.

    Unless it was renamed before.
    """
    import secrets

    name = os.path.join(os.path.dirname(target), f".shardwise-{secrets.token_hex(8)}.tmp")
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
    try:
        with os.fdopen(os.open(name, flags, 0o666), "w+b") as file:
            yield name, file
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name)


def _fill(
    file: BinaryIO, name: str, source: Source, form: str, packing: str, progress: Progress | None
) -> File:
    """Write a file; return it, or where it is compressed the beginning of what it holds."""
    blocks = _blocks(source, progress)
    writer = _FORMATS[form].write
    if not packing:
        writer(file, source, blocks)
        file.flush()
        return map_file(name)
    with packed(file, packing) as stream:
        head = _Head(stream)
        writer(cast("BinaryIO", head), source, blocks)
    sample = mmap.mmap(-1, max(1, len(head.bytes)))
    sample[: len(head.bytes)] = bytes(head.bytes)
    return File(name, sample, np.frombuffer(sample, np.uint8))


def _blocks(source: Source, progress: Progress | None) -> Iterator[NDArray[Any]]:
    row_bytes = math.prod(source.shape[1:]) * source.dtype.itemsize
    done = 0
    for block in source.blocks(max(1, _BLOCK_BYTES // max(1, row_bytes))):
        yield block
        done += len(block)
        if progress is not None:
            progress(done, source.shape[0])


class _Head:
    """Passes on what is written, and keeps the beginning."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self.bytes = bytearray()

    def write(self, data: Any) -> int:
        if len(self.bytes) < _HEAD_BYTES:
            self.bytes += bytes(memoryview(data)[: _HEAD_BYTES - len(self.bytes)])
        return self._stream.write(data)


def _check_format(name: str, sample: File, form: str) -> None:
    """Refuse what would be taken for another format: a header of numbers, a token of magic."""
    try:
        found = detect(sample)
    except FormatError:
        found = "none that is known"
    if found != form:
        raise OptionError(
            f"expected rows that can be told to be {form} again, got some at the beginning that "
            f"look like another format ({found}), so {name} was not written; write another format, "
            "for example .safetensors"
        )


def _sync_directory(path: str) -> None:
    if os.name == "nt":
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
