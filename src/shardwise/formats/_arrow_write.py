"""Writes Parquet and Arrow: a column "token" of strings and a column "vector" of lists.

Neither the lists nor their values may be null, and the lists have a fixed length, so that readers
need not look for either. Strings that are not UTF-8 make "token" a column of bytes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from shardwise._errors import OptionError
from shardwise.formats._arrow_columns import pyarrow
from shardwise.formats._source import Source

if TYPE_CHECKING:
    import pyarrow as pa

_GROUP_BYTES = 64 << 20  # of values in a row group: what a reader has to hold, or may skip
_LONG = 1 << 31  # bytes of tokens that 32-bit offsets cannot count


def write_parquet(file: BinaryIO, source: Source, blocks: Iterable[NDArray[Any]]) -> None:
    """Write a Parquet file, in row groups of about 64 MB.

    Values are stored plainly: a dictionary or a compression makes them hardly smaller.

    Raises:
        OptionError: Parquet has no such dtype, or the rows are no vectors.
        MissingLibraryError: pyarrow is not installed.
    """
    pyarrow("Parquet")
    import pyarrow.parquet as pq

    columns = _Columns(source, "Parquet")
    options: dict[str, Any] = {"compression": "none", "use_dictionary": False}
    rows = max(1, _GROUP_BYTES // max(1, source.dtype.itemsize * source.shape[1]))
    with pq.ParquetWriter(file, columns.schema, write_statistics=False, **options) as writer:
        for group in _grouped(columns.batches(blocks), rows):
            writer.write_table(group, row_group_size=rows)


def write_arrow(file: BinaryIO, source: Source, blocks: Iterable[NDArray[Any]]) -> None:
    """Write a file of Arrow's (Feather version 2), a record batch for each block.

    Raises:
        OptionError: Arrow has no such dtype, or the rows are no vectors.
        MissingLibraryError: pyarrow is not installed.
    """
    pa = pyarrow("Arrow")
    columns = _Columns(source, "Arrow")
    with pa.ipc.new_file(file, columns.schema) as writer:
        for batch in columns.batches(blocks):
            writer.write_batch(batch)


class _Columns:
    """The columns of a source, block by block."""

    def __init__(self, source: Source, form: str) -> None:
        import pyarrow as pa

        if len(source.shape) != 2 or source.shape[1] < 1:
            raise OptionError(
                f"expected rows of values, of shape (rows, values), for {form}, got shape "
                f"{source.shape}; write .npy or .safetensors"
            )
        self._dtype = source.dtype.newbyteorder("=")
        if self._dtype.kind not in "iuf" or self._dtype.itemsize > 8:
            raise OptionError(
                f"expected a dtype that {form} has, got {source.dtype}; write float32 or float16 "
                "(dtype)"
            )
        item = pa.field("item", pa.from_numpy_dtype(self._dtype), nullable=False)
        self._lists = pa.list_(item, source.shape[1])
        fields = [pa.field("vector", self._lists, nullable=False)]
        self._tokens = None
        if source.vocabulary is not None:
            self._tokens = _tokens(source.vocabulary.arrays()[:2])
            missing = len(self._tokens) < source.shape[0]
            fields.insert(0, pa.field("token", _short(self._tokens), nullable=missing))
        self.schema = pa.schema(fields)

    def batches(self, blocks: Iterable[NDArray[Any]]) -> Iterator[pa.RecordBatch]:
        import pyarrow as pa

        first = 0
        for block in blocks:
            values = np.ascontiguousarray(block, self._dtype).reshape(-1)
            arrays = [pa.FixedSizeListArray.from_arrays(pa.array(values), type=self._lists)]
            if self._tokens is not None:
                kind = self.schema.field("token").type
                tokens = self._tokens[first : first + len(block)].cast(kind)
                rest = pa.nulls(len(block) - len(tokens), kind)
                arrays.insert(0, pa.concat_arrays([tokens, rest]) if len(rest) else tokens)
            yield pa.RecordBatch.from_arrays(arrays, schema=self.schema)
            first += len(block)


def _tokens(packed: tuple[NDArray[np.uint8], NDArray[np.int64]]) -> Any:
    """The tokens as one array, which is a view of the vocabulary's."""
    import pyarrow as pa

    data, offsets = packed
    buffers = [None, pa.py_buffer(offsets), pa.py_buffer(data)]
    tokens = pa.Array.from_buffers(pa.large_string(), len(offsets) - 1, buffers)
    try:
        tokens.validate(full=True)
    except pa.ArrowInvalid:
        tokens = tokens.view(pa.large_binary())
        tokens.validate(full=True)
    return tokens


def _short(tokens: Any) -> Any:
    """The type of the column: the one that more readers know, where its offsets are enough."""
    import pyarrow as pa

    if tokens.nbytes >= _LONG:
        return tokens.type
    return pa.string() if tokens.type == pa.large_string() else pa.binary()


def _grouped(batches: Iterable[pa.RecordBatch], rows: int) -> Iterator[pa.Table]:
    """Tables of at least `rows` rows, save the last."""
    import pyarrow as pa

    group: list[Any] = []
    held = 0
    for batch in batches:
        group.append(batch)
        held += batch.num_rows
        if held >= rows:
            yield pa.Table.from_batches(group)
            group, held = [], 0
    if group:
        yield pa.Table.from_batches(group)
