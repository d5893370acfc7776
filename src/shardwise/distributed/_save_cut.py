"""Shards that lie on several ranks, saved: each rank writes its rows to their files."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from shardwise._safetensors import make_header
from shardwise.distributed._asking import prepared
from shardwise.distributed._table import DistributedTable
from shardwise.store._deal import as_bytes
from shardwise.store._directory import sync_file
from shardwise.store._manifest import DataFile
from shardwise.store._state import state_header, state_name
from shardwise.store._write import file_name

BLOCK_BYTES = 16 << 20


class SavedFile(NamedTuple):
    """A file that a rank wrote: of which shard, and whether it holds the optimizer's state."""

    shard: int
    is_state: bool
    entry: DataFile


def names_of(table: DistributedTable, shard: int, generation: int) -> tuple[str, str]:
    """Return the names of a shard's files: of its rows, and of its state."""
    count = table.partition.num_shards
    rows = file_name(f"weight-{shard:05d}-of-{count:05d}", generation)
    return rows, file_name(state_name(shard, count), generation)


def write_cut_shards(
    table: DistributedTable, call: str, place: str, generation: int
) -> list[SavedFile]:
    """Write the files of shards that lie on several ranks: each rank writes its rows to them.

    The rank that holds the first row makes the file, and reads it again for its checksum.
    """
    exchange, sizes = table._exchange, table.partition.shard_sizes
    cut = [
        (k, piece)
        for k, piece in enumerate(table._pieces)
        if piece.begin < piece.end and piece.end - piece.begin != sizes[piece.shard]
    ]
    first = [(k, piece) for k, piece in cut if piece.begin == 0]
    layout, training = table._local._layout, table._local._training

    def files(k: int, shard: int) -> Iterator[tuple[str, bool, bytes, dict[str, NDArray[Any]]]]:
        rows, state = names_of(table, shard, generation)
        weight = {"weight": (layout.stored_dtype, (sizes[shard], *layout.stored_shape))}
        yield rows, False, make_header(weight), {"weight": table._local._shards[k]}
        if training is not None:
            tensors = {name: (a[k].dtype, a[k].shape[1:]) for name, a in training.state.items()}
            header, _ = state_header(tensors, shard, sizes[shard])
            yield state, True, header, {name: a[k] for name, a in training.state.items()}

    def make() -> None:
        for k, piece in first:
            for name, is_state, header, arrays in files(k, piece.shard):
                with open(os.path.join(place, name), "xb") as file:
                    file.write(header)
                    size = sum(_row_bytes(a) for a in arrays.values()) * sizes[piece.shard]
                    file.truncate(len(header) + size)
                    if is_state and piece.shard == 0 and training is not None:
                        file.seek(0, os.SEEK_END)
                        file.write(np.array([training.step], np.int64).tobytes())

    def fill() -> None:
        for k, piece in cut:
            for name, _, header, arrays in files(k, piece.shard):
                with open(os.path.join(place, name), "r+b") as file:
                    at = len(header)
                    for array in arrays.values():
                        file.seek(at + piece.begin * _row_bytes(array))
                        step = max(1, BLOCK_BYTES // max(1, _row_bytes(array)))
                        for begin in range(0, len(array), step):
                            file.write(as_bytes(array[begin : begin + step]).data)
                        at += _row_bytes(array) * sizes[piece.shard]
                    sync_file(file)

    found: list[SavedFile] = []

    def finish() -> None:
        for k, piece in first:
            for name, is_state, _, _ in files(k, piece.shard):
                found.append(SavedFile(piece.shard, is_state, _described(place, name)))

    for work in (make, fill, finish):
        prepared(exchange, call, work)
        exchange.agree(call)
    return found


def _row_bytes(array: NDArray[Any]) -> int:
    return math.prod(array.shape[1:]) * array.dtype.itemsize


def _described(place: str, name: str) -> DataFile:
    """Return what the manifest says of a file, which is read."""
    import xxhash

    digest, size = xxhash.xxh3_128(), 0
    with open(os.path.join(place, name), "rb") as file:
        while block := file.read(BLOCK_BYTES):
            digest.update(block)
            size += len(block)
    return DataFile(name, size, digest.hexdigest())
