"""Arrays as the shards of a table: how one array is cut, what several must have in common."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from shardwise import _native
from shardwise._arrays import as_rows, private_copy
from shardwise._errors import TableError
from shardwise._layout import Layout, layout_of_bytes
from shardwise._partition import Partition, as_partition, check_shard_sizes

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from shardwise._table import Table


def partition_of(partition: str | Partition, rows: int, shards: int) -> Partition:
    """Return how rows are cut: a `Partition` says of how many shards it is, a name does not.

    Raises:
        PartitionError: it is none, or one of another number of rows or shards.
    """
    if isinstance(partition, Partition) and shards == 1:
        shards = partition.num_shards
    return as_partition(partition, rows, shards)


def cut_array(
    array: Any,
    shards: int,
    partition: str | Partition,
    *,
    copy: bool,
    row_format: str | None,
    dim: int | None,
) -> tuple[list[NDArray[Any]], Partition, Layout | None]:
    """Return the shards of an array, how it is cut, and how packed rows lie in it.

    The options and what is raised are those of `Table.from_array`.
    """
    whole = as_rows(array, "array")
    cut = partition_of(partition, len(whole), shards)
    layout = layout_of_bytes(whole, row_format, dim)
    pieces = [_piece(whole, cut, k) for k in range(cut.num_shards)]
    if copy:
        pieces = [private_copy(piece) for piece in pieces]
    return pieces, cut, layout


def _piece(whole: NDArray[Any], partition: Partition, shard: int) -> NDArray[Any]:
    """One shard, as a view."""
    if partition.strategy == "mod":
        return whole[shard :: partition.num_shards]
    size = partition._core.shard_size(shard)
    first = int(partition.ids_of(shard, 0)) if size else 0
    return whole[first : first + size]


def as_shards(
    shards: Sequence[Any],
    partition: str | Partition,
    *,
    row_format: str | None,
    dim: int | None,
) -> tuple[list[NDArray[Any]], Partition, Layout | None]:
    """Return arrays as the shards that they are, how they are cut, and how packed rows lie there.

    The options and what is raised are those of `Table.from_shards`.
    """
    arrays = [as_rows(shard, f"shards[{k}]") for k, shard in enumerate(shards)]
    if not arrays:
        raise TableError("expected at least one shard, got none")
    for k, array in enumerate(arrays):
        if array.dtype != arrays[0].dtype or array.shape[1:] != arrays[0].shape[1:]:
            raise TableError(
                "expected shards that differ in their first axis alone, got "
                f"{arrays[0].dtype} rows of shape {arrays[0].shape[1:]} in shards[0] and "
                f"{array.dtype} rows of shape {array.shape[1:]} in shards[{k}]"
            )
    sizes = [len(array) for array in arrays]
    cut = as_partition(partition, sum(sizes), len(sizes))
    check_shard_sizes(cut, sizes)
    return arrays, cut, layout_of_bytes(arrays[0], row_format, dim)


def packed_shards(table: Table, layout: Layout) -> list[NDArray[Any]]:
    """Return the rows of a table, shard by shard, as they lie packed.

    Raises:
        TableError: the rows are not of finite floats.
    """
    shards = []
    for k, shard in enumerate(table.shards):
        try:
            shards.append(layout.pack(table._layout.unpack(shard)))
        except TableError as error:
            raise TableError(f"of shard {k}: {error}") from None
    return shards


def describe(table: Table) -> dict[str, Any]:
    """Return what a table is and where it lies; see `Table.describe`."""
    row_bytes = table._layout.row_bytes
    shards = []
    for array in table.shards:
        low, high = np.lib.array_utils.byte_bounds(array) if array.size else (0, 0)
        shards.append(
            {
                "rows": len(array),
                "bytes": len(array) * row_bytes,
                "mapped": table._mode is not None,
                "huge_page_bytes": _native.huge_page_bytes(low, high - low),
            }
        )
    return {
        "mode": table.mode,
        "shape": list(table.shape),
        "dtype": str(table.dtype),
        "row_format": table.row_format,
        "row_bytes": row_bytes,
        "bytes": len(table) * row_bytes,
        "partition": table.partition.to_json(),
        "shards": shards,
        "optimizer": table._training and table._training.describe(),
        "threads": _native.num_threads(),
        "isa": _native.isa(),
    }
