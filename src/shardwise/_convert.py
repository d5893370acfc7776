"""Rows and tokens from a file or a table directory into another, block by block."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from shardwise import formats, store
from shardwise._errors import OptionError
from shardwise._layout import Layout
from shardwise._partition import Partition, as_partition
from shardwise._quantize import ROW_FORMATS, Losses, QuantizationLoss
from shardwise._sources import open_source
from shardwise._vocabulary import Vocabulary
from shardwise.formats._source import RowReader, Source
from shardwise.formats._write import form_of, has_tokens, is_file_name, refuse_file
from shardwise.store._write import as_stored, stored_layout
from shardwise.words._compare import neighbours_kept
from shardwise.words._questions import as_count

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True)
class Converted:
    """What `convert` made, and of what.

    Attributes:
        path: what was made.
        format: what it was made from: one of `shardwise.formats.FORMATS`, or "shardwise" for a
            table directory.
        to: what it is: "table", or one of `shardwise.formats.WRITABLE`.
        shape: the shape of the whole, rows first.
        dtype: the dtype of its rows, as they are looked up.
        row_format: "int8" or "int4" where a table's rows are packed, else the dtype's name.
        partition: how a table is cut into shards; None for a file.
        vocabulary: the tokens of the first rows, or None.
        duplicates: how many rows were left out because their token had come before.
        nonfinite: how many rows have a NaN or an infinity; they were kept.
        lost_tokens: how many tokens were left out because the file has no place for them.
        loss: what was lost where rows of floats were packed as "int8" or "int4"; else None.

    Example:
        >>> import tempfile
        >>> import numpy as np
        >>> import shardwise
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     np.save(f"{folder}/rows.npy", np.zeros((3, 2), np.float32))
        ...     made = shardwise.convert(f"{folder}/rows.npy", f"{folder}/table", shards=2)
        >>> made.format, made.to, made.shape, made.nonfinite
        ('npy', 'table', (3, 2), 0)
    """

    path: str
    format: str
    to: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    row_format: str
    partition: Partition | None
    vocabulary: Vocabulary | None
    duplicates: int
    nonfinite: int
    lost_tokens: int
    loss: QuantizationLoss | None = None


def convert(
    source: str | os.PathLike[str],
    path: str | os.PathLike[str],
    *,
    shards: int | None = None,
    partition: str | Partition | None = None,
    dtype: Any = None,
    format: str | None = None,
    tensor: str | None = None,
    tokens: str | None = None,
    pieces: Literal["mod", "div"] | None = None,
    dim: int | None = None,
    limit: int | None = None,
    unknown: str | None = None,
    to: str | None = None,
    neighbours: int = 0,
    metadata: Mapping[str, Any] | None = None,
    overwrite: bool = False,
    progress: Callable[[str, int, int], object] | None = None,
) -> Converted:
    r"""Make a table directory or a file of another one, in little memory.

    After any failure (an error, Ctrl-C) what was at `path` is as it was before.

    Args:
        source: a file that `shardwise.formats.open` reads, or a table directory.
        path: the table directory that is made; or a file, where its name ends as one
            (see `shardwise.formats.write`) and is not that of a directory.
        shards: on how many shards a table's rows are dealt.
        partition: "mod", "div", or a `Partition` of as many rows. Without it and `shards` the rows
            stay cut as the source has them; "mod" and 1 shard where it does not cut them.
        dtype: what the rows are stored as, by default as they are: float32 for text. "int8" and
            "int4" pack a table's rows of floats in so many bits a value; see `quantize_rows`.
        format: the source's; None finds out by what is in it.
        tensor: the source's tensor, array, variable or column with the rows.
        tokens: the source's array or column with the tokens.
        pieces: how the pieces of a TensorFlow variable hold the rows; see `partition` of
            `shardwise.formats.open`.
        dim: the number of values a row, found out by default.
        limit: read that many rows from the beginning only.
        unknown: the token of the source that stands for tokens that it does not have.
        to: "table", or one of `shardwise.formats.WRITABLE`; None looks at the name.
        neighbours: of how many rows, taken at random, the ten nearest rows are searched before and
            after rows were packed, for `loss.neighbours_kept`; it reads all rows once more.
        metadata: a JSON object, kept with the table; it goes before what the source says. A file
            has no place for it.
        overwrite: replace what is there.
        progress: called with ("read", bytes done, bytes in all), then with ("write", rows done,
            rows in all).

    Raises:
        FormatError: the file is not what its format promises.
        TableExistsError: there is something already, and `overwrite` is false.
        StoreError: the table is broken, or the dtype has no form on disk.
        PartitionError: there is no such partition.
        OptionError: the dtype cannot hold the values, the format not the rows or tokens, or an
            option has no meaning here.
        MissingLibraryError: a format needs a library that is not installed.

    Example:
        >>> import pathlib, tempfile, shardwise
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     text = pathlib.Path(folder, "tiny.txt")
        ...     _ = text.write_text("like 1 2\nthe 3 4\ncountry 5 6\n")
        ...     _ = shardwise.convert(text, f"{folder}/tiny", shards=3)
        ...     _ = shardwise.convert(f"{folder}/tiny", f"{folder}/tiny.vec")
        ...     print(pathlib.Path(folder, "tiny.vec").read_text(), end="")
        3 2
        like 1 2
        the 3 4
        country 5 6
    """
    # What is sure to fail should not fail after a long file was read.
    kind = _checked(path, to, overwrite, shards, partition, dtype, neighbours, metadata, progress)
    notify = progress or (lambda stage, done, total: None)
    found = open_source(
        source,
        format=format,
        tensor=tensor,
        tokens=tokens,
        partition=pieces,
        dim=dim,
        limit=limit,
        unknown=unknown,
        progress=lambda done, total: notify("read", done, total),
    )
    layout = _layout(found, dtype, kind)
    rows = _Rows(found, layout)
    keeps = kind == "table" or has_tokens(kind)
    made = replace(
        found,
        dtype=layout.dtype,
        vocabulary=found.vocabulary if keeps else None,
        metadata={**found.metadata, **(metadata or {})},
        _rows=rows.read,
    )
    cut = None
    if kind == "table":
        cut = _cut(found, shards, partition)
        store.write_blocks(
            path,
            made.blocks(),
            shape=made.shape,
            dtype=layout.dtype,
            row_format=layout.packed_name,
            partition=cut,
            vocabulary=made.vocabulary,
            overwrite=overwrite,
            metadata=made.metadata,
            progress=lambda done, total: notify("write", done, total),
        )
    else:
        formats.write(
            path,
            made,
            format=kind,
            overwrite=overwrite,
            progress=lambda done, total: notify("write", done, total),
        )
    return Converted(
        path=os.fspath(path),
        format=found.format,
        to=kind,
        shape=made.shape,
        dtype=layout.dtype.newbyteorder("="),
        row_format=layout.name,
        partition=cut,
        vocabulary=found.vocabulary,
        duplicates=found.duplicates,
        nonfinite=rows.nonfinite,
        lost_tokens=0 if keeps or found.vocabulary is None else len(found.vocabulary),
        loss=_loss(rows.loss, found, path, neighbours),
    )


def _checked(
    path: str | os.PathLike[str],
    to: str | None,
    overwrite: bool,
    shards: int | None,
    partition: str | Partition | None,
    dtype: Any,
    neighbours: int,
    metadata: Mapping[str, Any] | None,
    progress: object,
) -> str:
    """Refuse what cannot be made, whatever the source is; return what is to be made."""
    if progress is not None and not callable(progress):
        raise OptionError(f"expected progress as a function, or None, got {progress!r:.60}")
    kind = _kind_of(path, to)
    as_count(neighbours, "neighbours")
    if kind == "table":
        if not overwrite:
            store.refuse_existing(path)
        if not isinstance(partition, Partition):
            as_partition("mod" if partition is None else partition, 0, _number(shards))
    else:
        refuse_file(path, overwrite)
        if shards is not None or partition is not None:
            raise OptionError(
                f"expected no shards and no partition for a file, got {os.fspath(path)} to write; "
                'leave them out, or make a table of it with to="table"'
            )
        if metadata is not None:
            raise OptionError(
                f"expected no metadata for a file, which has no place for it, got "
                f'{os.fspath(path)} to write; leave it out, or make a table of it with to="table"'
            )
    packs = kind == "table" and isinstance(dtype, str) and dtype in ROW_FORMATS
    if dtype is not None and not packs:
        store.storable_dtype(dtype)
    return kind


def _layout(found: Source, dtype: Any, kind: str) -> Layout:
    """How the rows are to lie: as the source has them, if nothing else is asked for."""
    own = Layout(tuple(found.shape[1:]), store.storable_dtype(found.dtype))
    if dtype is not None and kind == "table":
        return stored_layout(dtype, found.shape[1:], found.dtype)
    if dtype is not None:
        return replace(own, dtype=store.storable_dtype(dtype))
    return found._packed[0] if kind == "table" and found._packed is not None else own


def _loss(
    losses: Losses | None, source: Source, path: str | os.PathLike[str], neighbours: int
) -> QuantizationLoss | None:
    if losses is None:
        return None
    if not neighbours:
        return losses.result()
    kept = neighbours_kept(_Searched(source), store.open_table(path).table, neighbours)
    return losses.result()._replace(neighbours_kept=kept)


class _Searched:
    """A source whose rows can be searched: those of ids that follow each other are read at once."""

    mode = "r"
    _whole = None

    def __init__(self, source: Source) -> None:
        self._source = source
        self.shape, self.dtype = source.shape, source.dtype

    def lookup(self, ids: Any) -> NDArray[Any]:
        first, last = int(ids[0]), int(ids[-1])
        if last - first == len(ids) - 1 and (np.diff(ids) == 1).all():
            return self._source.read(first, last + 1).copy()  # a search may write to it
        return np.concatenate([self._source.read(i, i + 1) for i in ids.tolist()])


def _kind_of(path: str | os.PathLike[str], to: str | None) -> str:
    """What is to be made: "table", or the name of a format."""
    path = os.fspath(path)
    if to is not None and not isinstance(to, str):
        raise OptionError(f'expected to as "table" or the name of a format, got {to!r:.60}')
    if to == "table" or (to is None and (os.path.isdir(path) or not is_file_name(path))):
        if to is None and not os.path.isdir(path):
            _refuse_file_name(path)
        return "table"
    return form_of(path, to)[0]


# Endings of files that are not written here: who asks for one does not mean a table directory.
_NOT_WRITTEN = re.compile(
    r"-|.*\.(csv|tsv|jsonl?|h5|hdf5|pkl|pickle|kv|model|ckpt|fifu|ftz|onnx|zip|gz|bz2|xz|zst)",
    re.IGNORECASE | re.DOTALL,
)


def _refuse_file_name(path: str) -> None:
    if _NOT_WRITTEN.fullmatch(path):
        raise OptionError(
            f"expected the name of a table directory, or of a file in a format that is written "
            f"({', '.join(formats.WRITABLE)}), got {os.path.basename(path)!r}; "
            'for a table of that name pass to="table" (on the command line: --to table)'
        )


def _cut(found: Source, shards: int | None, partition: str | Partition | None) -> Partition:
    rows = found.shape[0]
    if isinstance(partition, Partition):
        return as_partition(partition, rows, _number(shards, partition.num_shards))
    own = found.partition
    if partition is None and shards is None and own is not None and own.num_rows == rows:
        return own
    return as_partition("mod" if partition is None else partition, rows, _number(shards))


def _number(shards: int | None, default: int = 1) -> int:
    return default if shards is None else shards


class _Rows:
    """Reads rows as they are to be stored; counts those with a NaN or an infinity, and losses."""

    def __init__(self, source: Source, layout: Layout) -> None:
        self._source = source
        self._layout = layout
        self.nonfinite = 0
        self.loss = Losses() if layout.packed else None
        self._read: RowReader = source.read
        if source._packed is not None and source._packed[0] == layout:  # as they are
            self._read, self.loss = source._packed[1], None

    def read(self, begin: int, end: int) -> NDArray[Any]:
        block = self._read(begin, end)
        self.nonfinite += _nonfinite_rows(block)
        stored = as_stored(block, self._layout, begin)
        if self.loss:
            rows = block.reshape(len(block), self._layout.width)
            self.loss.add(rows, self._layout.unpack(stored).reshape(rows.shape))
        return stored


def _nonfinite_rows(block: NDArray[Any]) -> int:
    if "float" not in block.dtype.name or not block.size:
        return 0
    with np.errstate(invalid="ignore"):
        if np.isfinite(block.min()) and np.isfinite(block.max()):  # the fast way: no temporary
            return 0
    return int(np.count_nonzero(~np.isfinite(block).reshape(len(block), -1).all(axis=1)))
