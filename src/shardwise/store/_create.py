"""A new table on disk, filled by an initializer, of any size in little memory."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shardwise._errors import OptionError, TableError, require
from shardwise._layout import Layout, packed_layout
from shardwise._partition import Partition
from shardwise._safetensors import is_array_shape, make_header, storable_dtype
from shardwise.initializers import RowMaker, as_initializer
from shardwise.store._directory import commit, sync_file, writing
from shardwise.store._manifest import DataFile, Manifest
from shardwise.store._write import as_metadata, check_shards, file_name, write_blocks

_BLOCK_BYTES = 16 << 20


def create_table(
    path: str | os.PathLike[str],
    shape: tuple[int, ...],
    *,
    dtype: Any,
    row_format: str | None = None,
    partition: Partition,
    initializer: Any,
    overwrite: bool = False,
    metadata: Mapping[str, Any] | None = None,
    progress: Callable[[int, int], object] | None = None,
) -> None:
    """Make a table; see `Table.create`.

    Example:
        >>> import tempfile
        >>> from shardwise import Partition, Table, store
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     cut = Partition.div(5, 2)
        ...     store.create_table(
        ...         folder, (5, 2), dtype="float32", partition=cut, initializer="zeros"
        ...     )
        ...     Table.open(folder).shape
        (5, 2)
    """
    require(shape, tuple, "shape", TableError)
    stored = storable_dtype(dtype)
    if not is_array_shape(shape, stored):
        raise TableError(f"expected a shape that an array can have, got {shape}")
    layout = Layout(shape[1:], stored)
    if row_format is not None:
        if layout.dtype != np.float32:
            raise OptionError(
                f"expected dtype float32 for rows packed as {row_format}, got {layout.dtype}; "
                "leave dtype away"
            )
        layout = packed_layout(row_format, shape[1:])
    make = as_initializer(initializer, shape, stored)
    if make is None:
        _create_sparse(os.fspath(path), layout, partition, overwrite, metadata)
        if progress is not None:
            progress(shape[0], shape[0])
        return
    write_blocks(
        path,
        _blocks(make, shape, stored),
        shape=shape,
        dtype=stored,
        row_format=row_format,
        partition=partition,
        overwrite=overwrite,
        metadata=metadata,
        progress=progress,
    )


def _blocks(make: RowMaker, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Iterator[NDArray[Any]]:
    step = max(1, _BLOCK_BYTES // max(1, math.prod(shape[1:]) * max(4, dtype.itemsize)))
    for begin in range(0, shape[0], step):
        ids = np.arange(begin, min(begin + step, shape[0]), dtype=np.int64)
        rows = np.asarray(make(ids))
        if rows.shape != (len(ids), *shape[1:]):
            raise TableError(
                f"expected rows of shape {(len(ids), *shape[1:])} of the initializer, "
                f"got {rows.shape}"
            )
        yield rows


def _create_sparse(
    path: str,
    layout: Layout,
    partition: Partition,
    overwrite: bool,
    metadata: Mapping[str, Any] | None,
) -> None:
    """Make files whose rows are holes: they take no room until they are written to."""
    user = as_metadata(metadata)
    check_shards(partition)
    with writing(path, overwrite) as (place, generation):
        shards = []
        for k, rows in enumerate(partition.shard_sizes):
            name = file_name(f"weight-{k:05d}-of-{partition.num_shards:05d}", generation)
            header = make_header({"weight": (layout.stored_dtype, (rows, *layout.stored_shape))})
            size = len(header) + rows * layout.row_bytes
            with open(os.path.join(place, name), "wb") as file:
                file.write(header)
                file.truncate(size)
                sync_file(file)
            shards.append(DataFile(name, size, None))
        manifest = Manifest(
            layout=layout,
            partition=partition,
            shards=tuple(shards),
            generation=generation,
            metadata=user,
        )
        commit(place, manifest)
