"""Tables of many ranks on disk: each rank reads and writes the files of its shards."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from shardwise._arrays import as_row_shape, private_copy
from shardwise._cuts import Piece, cuts_of, ids_of, local_partition, pieces_of, shard_starts
from shardwise._errors import DistributedError, OptionError, StoreError
from shardwise._layout import Layout
from shardwise._partition import Partition, as_partition
from shardwise._safetensors import make_header, storable_dtype
from shardwise._table import Table
from shardwise._update import Training
from shardwise.distributed._asking import prepared
from shardwise.distributed._exchange import Exchange
from shardwise.distributed._table import DistributedTable, Mode, Pools
from shardwise.initializers import as_initializer
from shardwise.store._deal import as_bytes
from shardwise.store._directory import commit, sync_directory, sync_file, writing
from shardwise.store._files import FileWriter, is_large
from shardwise.store._manifest import DataFile, Manifest, OptimizerFiles, read_manifest
from shardwise.store._open import map_shards, map_vocabulary
from shardwise.store._state import Saved, map_state, state_header, state_name, write_shard_state
from shardwise.store._verify import check_files
from shardwise.store._vocabulary import token_id, write_file
from shardwise.store._write import as_metadata, check_shards, file_name

_MODES = ("r", "c", "memory")
_BLOCK_BYTES = 16 << 20


def open_distributed(
    exchange: Exchange,
    path: str | os.PathLike[str],
    mode: Mode,
    *,
    wire: str | None,
    exact: bool,
    pools: Pools,
    average: bool,
    verify: bool,
) -> DistributedTable:
    """Open a table; see `DistributedTable.open`."""
    place = os.fspath(path)

    def read() -> tuple[Manifest, DistributedTable]:
        if mode not in _MODES:
            raise OptionError(
                f"expected mode as one of {', '.join(map(repr, _MODES))}, got {mode!r:.40}"
            )
        manifest = read_manifest(place)
        cuts = cuts_of(manifest.partition, exchange.size)
        begin, end = cuts[exchange.rank : exchange.rank + 2]
        pieces = pieces_of(manifest.partition, begin, end)
        local = _map(place, manifest, mode, pieces, verify)
        options: dict[str, Any] = {
            "mode": mode,
            "wire": wire,
            "exact": exact,
            "pools": pools,
            "average": average,
        }
        made = DistributedTable._make(exchange, local, manifest.partition, cuts, pieces, **options)
        if exchange.rank == 0:  # who writes it again where the table is saved
            made._vocabulary = map_vocabulary(place, manifest)
        return manifest, made

    manifest, table = prepared(exchange, "open", read)
    exchange.agree("open")
    _check_same(
        exchange,
        {
            "partition": manifest.partition.to_json(),
            "row format": manifest.row_format,
            "shape": list(manifest.shape),
            "generation": manifest.generation,
            "files": [[one.file, one.bytes, one.xxh128] for one in manifest.data_files()],
            "mode": mode,
            "wire": wire,
            "exact": exact,
            "pools": pools,
            "average": average,
        },
    )
    return table


def _check_same(exchange: Exchange, mine: dict[str, Any]) -> None:
    """Refuse ranks that opened something else.

    Raises:
        DistributedError: it names what differs, and the ranks.
    """
    texts = exchange.gather(json.dumps(mine))
    first = json.loads(texts[0])
    for rank, text in enumerate(texts):
        other = json.loads(text)
        for key in first:
            if first[key] != other.get(key):
                raise DistributedError(
                    f"expected all ranks to open the same table in the same way, got {key} "
                    f"{_shown(first[key])} of rank 0 and {_shown(other.get(key))} of rank {rank}; "
                    "is it the same path, and was the table replaced meanwhile?"
                )


def _shown(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 120 else text[:120] + "..."


def _map(place: str, manifest: Manifest, mode: Mode, pieces: list[Piece], verify: bool) -> Table:
    shards = [piece.shard for piece in pieces]
    if verify:
        _verify(place, manifest, shards)
    how: Any = "r" if mode == "memory" else mode
    try:
        mapped = map_shards(place, manifest, how, shards)
        training = map_state(place, manifest, how, shards)
    except FileNotFoundError as error:
        raise StoreError(
            f"the table at {place} is broken: expected its files, got {error}"
        ) from None
    arrays = [_cut(array, piece, mode) for array, piece in zip(mapped, pieces, strict=True)]
    local = Table._make(
        arrays,
        local_partition(pieces),
        layout=manifest.layout,
        mode=None if mode == "memory" else mode,
    )
    if training is not None:
        state = {
            name: [_cut(array, piece, mode) for array, piece in zip(found, pieces, strict=True)]
            for name, found in training.state.items()
        }
        local._training = Training(training.family, np.array(training.counter), state)
    return local


def _cut(array: NDArray[Any], piece: Piece, mode: Mode) -> NDArray[Any]:
    rows = array[piece.begin : piece.end]
    return private_copy(rows) if mode == "memory" else rows


def _verify(place: str, manifest: Manifest, shards: list[int]) -> None:
    files = [manifest.shards[k] for k in shards]
    if manifest.optimizer is not None:
        files += [manifest.optimizer.files[k] for k in shards]
    for one in check_files(place, files, None):
        if one.state in ("damaged", "missing"):
            raise StoreError(
                f"the table at {place} is broken: expected {one.file} with the bytes that it was "
                f"written with, got a file that is {one.state}; restore it from a copy"
            )


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
    wire: str | None,
    exact: bool,
    pools: Pools,
    average: bool,
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
        return DistributedTable._make(
            exchange,
            local,
            cut,
            cuts,
            pieces,
            mode="memory",
            wire=wire,
            exact=exact,
            pools=pools,
            average=average,
        )

    table = prepared(exchange, call, make)
    exchange.agree(call)
    if path is not None:
        save_distributed(table, path, overwrite=overwrite, metadata=metadata)
    return table


def _filled(fill: Any, partition: Partition, piece: Piece, layout: Layout) -> NDArray[Any]:
    from shardwise import _native

    count = piece.end - piece.begin
    rows = _native.zeros((count, *layout.row_shape), layout.dtype)
    if fill is None:
        return rows
    step = max(1, _BLOCK_BYTES // max(1, layout.row_bytes))
    for begin in range(0, count, step):
        end = min(count, begin + step)
        ids = ids_of(partition, [Piece(piece.shard, piece.begin + begin, piece.begin + end)])
        rows[begin:end] = fill(ids)
    return rows


class _File(NamedTuple):
    """A file that a rank wrote: of which shard, and whether it holds the optimizer's state."""

    shard: int
    is_state: bool
    entry: DataFile


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
        files: list[_File] = []
        large = is_large(len(table) * table._local._layout.row_bytes)
        prepared(exchange, call, lambda: files.extend(_write(table, place, generation, large)))
        exchange.agree(call)
        if not set(table._cuts) <= set(shard_starts(table.partition)):
            files += _write_cut_shards(table, call, place, generation)
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


def _write(table: DistributedTable, place: str, generation: int, large: bool) -> list[_File]:
    """Write the files of the shards that lie on this rank as a whole."""
    found, saved = [], _saved(table)
    layout, sizes = table._local._layout, table.partition.shard_sizes
    for shard, rows in _whole_shards(table).items():
        name, state = _names(table, shard, generation)
        writer = FileWriter(place, name, large)
        header = make_header(
            {"weight": (layout.stored_dtype, (sizes[shard], *layout.stored_shape))}
        )
        writer.write(np.frombuffer(header, np.uint8))
        step = max(1, _BLOCK_BYTES // max(1, layout.row_bytes))
        for begin in range(0, sizes[shard], step):
            writer.write(as_bytes(rows[begin : begin + step]))
        found.append(_File(shard, False, writer.finish()))
        if saved is not None:
            entry = write_shard_state(place, state, saved, shard, sizes[shard], large)
            found.append(_File(shard, True, entry))
    return found


def _names(table: DistributedTable, shard: int, generation: int) -> tuple[str, str]:
    """Return the names of a shard's files: of its rows, and of its state."""
    count = table.partition.num_shards
    rows = file_name(f"weight-{shard:05d}-of-{count:05d}", generation)
    return rows, file_name(state_name(shard, count), generation)


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


def _write_cut_shards(
    table: DistributedTable, call: str, place: str, generation: int
) -> list[_File]:
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
        rows, state = _names(table, shard, generation)
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
                        step = max(1, _BLOCK_BYTES // max(1, _row_bytes(array)))
                        for begin in range(0, len(array), step):
                            file.write(as_bytes(array[begin : begin + step]).data)
                        at += _row_bytes(array) * sizes[piece.shard]
                    sync_file(file)

    found: list[_File] = []

    def finish() -> None:
        for k, piece in first:
            for name, is_state, _, _ in files(k, piece.shard):
                found.append(_File(piece.shard, is_state, _described(place, name)))

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
        while block := file.read(_BLOCK_BYTES):
            digest.update(block)
            size += len(block)
    return DataFile(name, size, digest.hexdigest())


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
