"""Tables of many ranks, made: each rank makes its own rows."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from numpy.typing import NDArray

from shardwise import _native
from shardwise._arrays import as_row_shape
from shardwise._cuts import Piece, cuts_of, ids_of, local_partition, pieces_of
from shardwise._layout import Layout
from shardwise._partition import Partition, as_partition
from shardwise._safetensors import storable_dtype
from shardwise._table import Table
from shardwise.distributed._asking import prepared
from shardwise.distributed._exchange import Exchange
from shardwise.distributed._open import check_same, described
from shardwise.distributed._save import save_distributed
from shardwise.distributed._save_cut import BLOCK_BYTES
from shardwise.distributed._spread import Options
from shardwise.distributed._table import DistributedTable
from shardwise.initializers import as_initializer


def create_distributed(
    exchange: Exchange,
    path: str | os.PathLike[str] | None,
    rows: int,
    dim: int | tuple[int, ...],
    dtype: Any,
    *,
    shards: int | None,
    partition: str | Partition,
    initializer: Any,
    overwrite: bool,
    metadata: Mapping[str, Any] | None,
    options: Options,
) -> DistributedTable:
    """Make a table; see `DistributedTable.create`."""
    call = (
        f"create(rows={rows}, dim={dim}, dtype={dtype}, partition={partition!r}, shards={shards})"
    )

    def make() -> DistributedTable:
        count = shards
        if count is None:
            is_one = isinstance(partition, Partition)
            count = partition.num_shards if isinstance(partition, Partition) else exchange.size
            assert is_one or count == exchange.size
        cut = as_partition(partition, rows, count)
        shape = (cut.num_rows, *as_row_shape(dim))
        layout = Layout(shape[1:], storable_dtype(dtype))
        cuts = cuts_of(cut, exchange.size)
        pieces = pieces_of(cut, *cuts[exchange.rank : exchange.rank + 2])
        fill = as_initializer(initializer, shape, layout.dtype)
        arrays = [_filled(fill, cut, piece, layout) for piece in pieces]
        local = Table._make(arrays, local_partition(pieces), layout=layout)
        return DistributedTable._make(exchange, local, cut, cuts, pieces, "memory", options)

    table = prepared(exchange, call, make)
    exchange.agree(call)
    check_same(exchange, described(options, table))
    table._spread_changes(call)
    if path is not None:
        save_distributed(table, path, overwrite=overwrite, metadata=metadata)
    return table


def _filled(fill: Any, partition: Partition, piece: Piece, layout: Layout) -> NDArray[Any]:
    count = piece.end - piece.begin
    rows = _native.zeros((count, *layout.row_shape), layout.dtype)
    if fill is None:
        return rows
    step = max(1, BLOCK_BYTES // max(1, layout.row_bytes))
    for begin in range(0, count, step):
        end = min(count, begin + step)
        ids = ids_of(partition, [Piece(piece.shard, piece.begin + begin, piece.begin + end)])
        rows[begin:end] = fill(ids)
    return rows
