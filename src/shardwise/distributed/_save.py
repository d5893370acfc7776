"""Tables of many ranks, saved: each rank writes its files, and one rename makes them a table."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shardwise._cuts import shard_starts
from shardwise._safetensors import make_header
from shardwise.distributed._asking import prepared
from shardwise.distributed._exchange import Exchange
from shardwise.distributed._save_cut import BLOCK_BYTES, SavedFile, names_of, write_cut_shards
from shardwise.distributed._table import DistributedTable
from shardwise.store._deal import as_bytes
from shardwise.store._directory import commit, sync_directory, writing
from shardwise.store._files import FileWriter, is_large
from shardwise.store._manifest import DataFile, Manifest, OptimizerFiles
from shardwise.store._state import Saved, write_shard_state
from shardwise.store._vocabulary import token_id, write_file
from shardwise.store._write import as_metadata, check_shards, file_name


def save_distributed(
    table: DistributedTable,
    path: str | os.PathLike[str],
    *,
    overwrite: bool,
    metadata: Mapping[str, Any] | None,
) -> None:
    """Write a table; see `DistributedTable.save`."""
    exchange, call = table._exchange, f"save(overwrite={overwrite})"
    place = os.path.abspath(os.fspath(path))
    user: dict[str, Any] = {}

    def check() -> None:
        user.update(as_metadata(metadata))
        check_shards(table.partition)

    prepared(exchange, call, check)
    with _held(exchange, call, place, overwrite) as generation:
        files: list[SavedFile] = []
        large = is_large(len(table) * table._local._layout.row_bytes)
        prepared(exchange, call, lambda: files.extend(_write(table, place, generation, large)))
        exchange.agree(call)
        if not set(table._cuts) <= set(shard_starts(table.partition)):
            files += write_cut_shards(table, call, place, generation)
        texts = exchange.gather(json.dumps([[f.shard, f.is_state, asdict(f.entry)] for f in files]))

        def publish() -> None:
            if exchange.rank == 0:
                found = [one for text in texts for one in json.loads(text)]
                tokens, vocabulary = None, table._vocabulary
                if vocabulary is not None:
                    tokens = write_file(place, file_name("vocabulary", generation), vocabulary)
                manifest = _manifest(table, found, generation, user)
                unknown = token_id(vocabulary)
                commit(place, replace(manifest, vocabulary=tokens, unknown_id=unknown))
            else:
                sync_directory(place)

        prepared(exchange, call, publish)
        exchange.agree(call)


@contextmanager
def _held(exchange: Exchange, call: str, place: str, overwrite: bool) -> Iterator[int]:
    """Hold the directory by rank 0, for all; give the number that files have in their names."""
    if exchange.rank == 0:
        held = writing(place, overwrite)
        _, generation = prepared(exchange, call, held.__enter__)
        try:
            exchange.agree(call)
            exchange.gather(str(generation))
            yield generation
        except BaseException as error:
            if not held.__exit__(type(error), error, error.__traceback__):
                raise
        else:
            held.__exit__(None, None, None)
        return
    exchange.agree(call)
    yield int(exchange.gather("")[0])


def _write(table: DistributedTable, place: str, generation: int, large: bool) -> list[SavedFile]:
    """Write the files of the shards that lie on this rank as a whole."""
    found, saved = [], _saved(table)
    layout, sizes = table._local._layout, table.partition.shard_sizes
    for shard, rows in _whole_shards(table).items():
        name, state = names_of(table, shard, generation)
        writer = FileWriter(place, name, large)
        header = make_header(
            {"weight": (layout.stored_dtype, (sizes[shard], *layout.stored_shape))}
        )
        writer.write(np.frombuffer(header, np.uint8))
        step = max(1, BLOCK_BYTES // max(1, layout.row_bytes))
        for begin in range(0, sizes[shard], step):
            writer.write(as_bytes(rows[begin : begin + step]))
        found.append(SavedFile(shard, False, writer.finish()))
        if saved is not None:
            entry = write_shard_state(place, state, saved, shard, sizes[shard], large)
            found.append(SavedFile(shard, True, entry))
    return found


def _whole_shards(table: DistributedTable) -> dict[int, NDArray[Any]]:
    """Return the shards that lie on this rank as a whole; empty ones are rank 0's."""
    sizes = table.partition.shard_sizes
    found = {
        piece.shard: rows
        for piece, rows in zip(table._pieces, table._local._shards, strict=True)
        if 0 == piece.begin < piece.end == sizes[piece.shard]
    }
    if table.rank == 0:
        found |= {k: table._local._shards[0][:0] for k, size in enumerate(sizes) if size == 0}
    return found


def _saved(table: DistributedTable) -> Saved | None:
    training = table._local._training
    if training is None:
        return None
    index = {piece.shard: k for k, piece in enumerate(table._pieces)}
    tensors = {
        name: (arrays[0].dtype, arrays[0].shape[1:]) for name, arrays in training.state.items()
    }

    def rows(name: str, shard: int, begin: int, end: int) -> NDArray[Any]:
        return training.state[name][index[shard]][begin:end]

    return Saved(training.family, training.step, tensors, rows)


def _manifest(
    table: DistributedTable, found: list[Any], generation: int, metadata: dict[str, Any]
) -> Manifest:
    shards: dict[bool, dict[int, DataFile]] = {False: {}, True: {}}
    for shard, is_state, entry in found:
        shards[is_state][shard] = DataFile(**entry)
    count = table.partition.num_shards
    training, optimizer = table._local._training, None
    if training is not None:
        optimizer = OptimizerFiles(training.family, tuple(shards[True][k] for k in range(count)))
    return Manifest(
        layout=table._local._layout,
        partition=table.partition,
        shards=tuple(shards[False][k] for k in range(count)),
        generation=generation,
        metadata=metadata,
        optimizer=optimizer,
    )
