"""Parquet, and Arrow's own files and streams (Feather is one), read by the library pyarrow.

Rows are a column of lists of one length, or columns of numbers side by side; tokens are a column
of strings, where null means that this row and those after it have none.
"""

from __future__ import annotations

import bisect
import itertools
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from shardwise._safetensors import is_array_shape
from shardwise.formats._arrow_columns import (
    Columns,
    arrow_errors,
    choose_columns,
    first_length,
    pyarrow,
    rows_of,
)
from shardwise.formats._arrow_tokens import Tokens
from shardwise.formats._arrow_write import write_arrow as write_arrow
from shardwise.formats._arrow_write import write_parquet as write_parquet
from shardwise.formats._file import File
from shardwise.formats._mapped import check_rows
from shardwise.formats._source import BLOCK_BYTES, Options, RowReader, Source, unique_tokens

if TYPE_CHECKING:
    import pyarrow as pa

_Group: TypeAlias = Callable[[int, int, int], NDArray[Any]]
"""Reads rows [begin, end) of a group of rows: its arguments are the group, begin, end."""

_TOKEN_ROWS = 1 << 14  # of Parquet at once


def is_parquet(file: File) -> bool:
    """Whether the first and the last bytes are Parquet's."""
    return file.size >= 12 and file.bytes[:4] == file.bytes[-4:] == b"PAR1"


def is_arrow(file: File) -> bool:
    """Whether it begins as Arrow's files do, or as a stream of its messages."""
    return file.bytes[:8] == b"ARROW1\0\0" or _is_stream(file)


def _is_stream(file: File) -> bool:
    """Whether a mark that is no text, and the length and the root of a message, are first."""
    length = int.from_bytes(file.bytes[4:8], "little")
    root = int.from_bytes(file.bytes[8:12], "little")
    return (
        file.bytes[:4] == b"\xff\xff\xff\xff"
        and 0 < length <= file.size - 8
        and length % 8 == 0
        and 4 <= root < length
    )


def open_arrow(file: File, options: Options) -> Source:
    """Open a file or a stream of Arrow's; rows that are not compressed are views of it.

    Raises:
        FormatError: the file is broken, or which column holds the rows is not clear.
        OptionError: a column that an option names is missing or of another type.
        MissingLibraryError: pyarrow is not installed.
    """
    pa = pyarrow("Arrow")
    with arrow_errors(file):
        schema = _ipc_reader(pa, file, []).schema
        columns = choose_columns(file, schema, options)
        batches = _ipc_batches(pa, file, schema, columns.vectors)
        indexed, tokens = batches, None
        if columns.tokens is not None:
            indexed = _ipc_batches(pa, file, schema, (columns.tokens,))
            tokens = Tokens(file, options.limit)
        sizes: list[int] = []
        for number in range(indexed.count):
            if options.limit is not None and sum(sizes) >= options.limit:
                break
            batch = indexed.get(number)
            sizes.append(batch.num_rows)
            if tokens is not None:
                tokens.add(batch.column(0))
        columns = _with_dim(file, columns, map(batches.get, range(len(sizes))))
    last: tuple[int, NDArray[Any]] | None = None
    starts = [0, *itertools.accumulate(sizes)]

    def group(number: int, begin: int, end: int) -> NDArray[Any]:
        nonlocal last
        if len(columns.vectors) > 1:  # a copy: of no more than is asked for
            part = batches.get(number).slice(begin, end - begin)
            return rows_of(file, part, columns, starts[number] + begin)
        known = last
        if known is None or known[0] != number:
            known = number, rows_of(file, batches.get(number), columns, starts[number])
            last = known
        return known[1][begin:end]

    return _source(file, "arrow", columns, sizes, tokens, group, options)


@dataclass(frozen=True)
class _Batches:
    """The record batches of a file, some of their columns."""

    count: int
    get: Callable[[int], Any]


def _ipc_reader(pa: Any, file: File, fields: list[int]) -> Any:
    options = pa.ipc.IpcReadOptions(included_fields=fields)
    opener = pa.ipc.open_stream if _is_stream(file) else pa.ipc.open_file
    return opener(pa.py_buffer(file.bytes), options=options)


def _ipc_batches(pa: Any, file: File, schema: pa.Schema, names: tuple[str, ...]) -> _Batches:
    reader = _ipc_reader(pa, file, [schema.get_field_index(name) for name in names])
    if _is_stream(file):
        batches = list(reader)  # views, unless they are compressed
        return _Batches(len(batches), batches.__getitem__)
    return _Batches(reader.num_record_batches, reader.get_batch)


def open_parquet(file: File, options: Options) -> Source:
    """Open a Parquet file; rows are decoded as they are read, about 16 MB at once.

    Raises:
        FormatError: the file is broken, or which column holds the rows is not clear.
        OptionError: a column that an option names is missing or of another type.
        MissingLibraryError: pyarrow is not installed.
    """
    pa = pyarrow("Parquet")
    import pyarrow.parquet as pq

    with arrow_errors(file):
        parquet = pq.ParquetFile(pa.BufferReader(pa.py_buffer(file.bytes)))
        columns = choose_columns(file, parquet.schema_arrow, options)
        layout = parquet.metadata
        sizes = [layout.row_group(number).num_rows for number in range(layout.num_row_groups)]
        if min(sizes, default=0) < 0:
            raise file.error(f"expected row groups of 0 rows or more, got {min(sizes)}")
        tokens = None
        if columns.tokens is not None:
            tokens = Tokens(file, options.limit)
            for batch in parquet.iter_batches(_TOKEN_ROWS, columns=[columns.tokens]):
                tokens.add(batch.column(0))
                if options.progress is not None:
                    options.progress(file.size * tokens.rows // max(1, sum(sizes)), file.size)
                if tokens.is_full:
                    break
            if not tokens.is_full and tokens.rows != sum(sizes):
                raise file.error(
                    f"expected {sum(sizes)} rows, as the file says, got {tokens.rows} tokens; "
                    "fetch the file again"
                )
        first = parquet.iter_batches(1, columns=list(columns.vectors))
        columns = _with_dim(file, columns, first)
    group = _ParquetRows(file, parquet, columns, sizes).read
    return _source(file, "parquet", columns, sizes, tokens, group, options)


class _ParquetRows:
    """The rows of a Parquet file: forward is fast, back begins the row group again."""

    def __init__(self, file: File, parquet: Any, columns: Columns, sizes: list[int]) -> None:
        self._file, self._parquet, self._columns = file, parquet, columns
        self._starts = [0, *itertools.accumulate(sizes)]
        self._step = _step(columns)
        self._lock = threading.Lock()
        self._group = -1
        self._batches: Iterator[Any] = iter(())
        self._begin, self._rows = 0, 0  # of the batch
        self._batch: Any = None
        self._decoded: NDArray[Any] | None = None

    def read(self, group: int, begin: int, end: int) -> NDArray[Any]:
        with self._lock:
            blocks = []
            while begin < end:
                self._seek(group, begin)
                if self._decoded is None:
                    first = self._starts[group] + self._begin
                    self._decoded = rows_of(self._file, self._batch, self._columns, first)
                blocks.append(self._decoded[begin - self._begin : end - self._begin])
                begin = self._begin + self._rows
            return blocks[0] if len(blocks) == 1 else np.concatenate(blocks)

    def _seek(self, group: int, row: int) -> None:
        """Go on to the batch that has the row."""
        if group != self._group or row < self._begin:
            names = list(self._columns.vectors)
            self._batches = self._parquet.iter_batches(
                self._step, row_groups=[group], columns=names
            )
            self._group, self._begin, self._rows = group, 0, 0
        while row >= self._begin + self._rows:
            batch = next(self._batches, None)
            if batch is None:
                size = self._starts[group + 1] - self._starts[group]
                raise self._file.error(
                    f"row group {group}: expected {size} rows, as the file says, got "
                    f"{self._begin + self._rows}; fetch the file again"
                )
            self._begin += self._rows
            self._rows, self._batch, self._decoded = batch.num_rows, batch, None


def _with_dim(file: File, columns: Columns, batches: Iterable[Any]) -> Columns:
    """The columns, with the length of the first list where the type does not say it."""
    if columns.dim is not None:
        return columns
    for batch in batches:
        if batch.num_rows:
            return replace(columns, dim=first_length(file, batch, columns))
    raise file.error(
        f"expected rows in column {columns.names}, got none, and lists of no fixed length; is this "
        "the whole of the file?"
    )


def _step(columns: Columns) -> int:
    return max(1, BLOCK_BYTES // max(1, (columns.dim or 0) * columns.dtype.itemsize))


def _source(
    file: File,
    form: str,
    columns: Columns,
    sizes: list[int],
    tokens: Tokens | None,
    group: _Group,
    options: Options,
) -> Source:
    rows = sum(sizes) if options.limit is None else min(sum(sizes), options.limit)
    shape = rows, columns.dim or 0
    if not is_array_shape(shape, columns.dtype):
        raise file.error(f"expected a shape that an array can have, got {shape}")
    check_rows(file, f"column {columns.names}", shape, options.dim)
    read = _row_reader(file, columns, sizes, group)
    vocabulary, kept, duplicates = None, None, 0
    if tokens is not None and (tokens.count or options.unknown is not None):
        vocabulary, kept, duplicates = unique_tokens(*tokens.packed(), options.unknown)
        if kept is not None:
            kept = np.concatenate([kept, np.arange(tokens.count, rows)])
            shape, read = (len(kept), shape[1]), _kept_reader(read, kept, _step(columns))
    return Source(
        path=file.path,
        format=form,
        shape=shape,
        dtype=columns.dtype,
        vocabulary=vocabulary,
        duplicates=duplicates,
        metadata={"tensor": columns.vectors[0]} if len(columns.vectors) == 1 else {},
        _rows=read,
    )


def _row_reader(file: File, columns: Columns, sizes: list[int], group: _Group) -> RowReader:
    starts = [0, *itertools.accumulate(sizes)]

    def read(begin: int, end: int) -> NDArray[Any]:
        blocks = []
        number = bisect.bisect_right(starts, begin) - 1
        with arrow_errors(file):
            while begin < end:
                stop = min(end, starts[number + 1])
                if begin < stop:
                    first = starts[number]
                    blocks.append(group(number, begin - first, stop - first))
                begin, number = stop, number + 1
        if len(blocks) == 1:
            return np.require(blocks[0], requirements="A")
        return np.concatenate([np.empty((0, columns.dim or 0), columns.dtype), *blocks])

    return read


def _kept_reader(read: RowReader, kept: NDArray[np.int64], step: int) -> RowReader:
    """Read some rows of all, no more than `step` of these at once."""

    def read_kept(begin: int, end: int) -> NDArray[Any]:
        rows = kept[begin:end]
        blocks = [read(0, 0)]
        at = 0
        while at < len(rows):
            stop = int(np.searchsorted(rows, rows[at] + step))
            block = read(int(rows[at]), int(rows[stop - 1]) + 1)
            blocks.append(block[rows[at:stop] - rows[at]])
            at = stop
        return np.concatenate(blocks)

    return read_kept
