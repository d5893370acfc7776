"""Tables of many ranks, opened: each rank maps the files of its shards."""

from __future__ import annotations

import json
import os
import zlib
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray

from shardwise._arrays import private_copy
from shardwise._cuts import Piece, cuts_of, local_partition, pieces_of
from shardwise._errors import DistributedError, OptionError, StoreError
from shardwise._table import Table
from shardwise._update import Training
from shardwise.distributed._asking import prepared
from shardwise.distributed._exchange import Exchange
from shardwise.distributed._in_place import RankFiles, rank_state, refuse_cut_shards
from shardwise.distributed._spread import Mode, Options
from shardwise.distributed._table import DistributedTable
from shardwise.store._in_place import InPlace
from shardwise.store._manifest import Manifest, read_manifest
from shardwise.store._open import map_shards, map_vocabulary
from shardwise.store._state import map_state
from shardwise.store._verify import check_files

_MODES = get_args(Mode)


def open_distributed(
    exchange: Exchange,
    path: str | os.PathLike[str],
    mode: Mode,
    options: Options,
    verify: bool,
) -> DistributedTable:
    """Open a table; see `DistributedTable.open`."""
    place = os.fspath(path)

    def read() -> tuple[Manifest, DistributedTable]:
        if mode not in _MODES:
            raise OptionError(
                f"expected mode as one of {', '.join(map(repr, _MODES))}, got {mode!r:.40}"
            )
        held = InPlace(place) if mode == "r+" and exchange.rank == 0 else None
        try:
            return _read(exchange, place, mode, options, verify, held)
        except BaseException:
            if held is not None:
                held.close()
            raise

    manifest, table = prepared(exchange, "open", read)
    try:
        exchange.agree("open")
        _compare(exchange, manifest, mode, options, table)
    except BaseException:
        if isinstance(table._local._files, RankFiles):
            table._local._files.close()
        raise
    table._spread_changes("open")
    return table


def _read(
    exchange: Exchange,
    place: str,
    mode: Mode,
    options: Options,
    verify: bool,
    held: InPlace | None,
) -> tuple[Manifest, DistributedTable]:
    manifest = read_manifest(place) if held is None else held.manifest
    cuts = cuts_of(manifest.partition, exchange.size)
    begin, end = cuts[exchange.rank : exchange.rank + 2]
    pieces = pieces_of(manifest.partition, begin, end)
    if mode == "r+":
        refuse_cut_shards(pieces, manifest)
    local = _map(place, manifest, mode, pieces, verify, held)
    cut = manifest.partition
    made = DistributedTable._make(exchange, local, cut, cuts, pieces, mode, options)
    if exchange.rank == 0:  # who writes it again where the table is saved
        made._vocabulary = map_vocabulary(place, manifest)
    return manifest, made


def _compare(
    exchange: Exchange,
    manifest: Manifest,
    mode: Mode,
    options: Options,
    table: DistributedTable,
) -> None:
    check_same(
        exchange,
        {
            "partition": manifest.partition.to_json(),
            "row format": manifest.row_format,
            "shape": list(manifest.shape),
            "generation": manifest.generation,
            "files": [[one.file, one.bytes, one.xxh128] for one in manifest.data_files()],
            "mode": mode,
            **described(options, table),
        },
    )


def described(options: Options, table: DistributedTable) -> dict[str, Any]:
    """Return options as ranks compare them: of the ids of copies, a checksum and their number."""
    ids = table.replicated
    return {
        "wire": options.wire,
        "exact": bool(options.exact),
        "pools": options.pools,
        "average": bool(options.average),
        "replicated": [len(ids), zlib.crc32(ids.tobytes())],
    }


def check_same(exchange: Exchange, mine: dict[str, Any]) -> None:
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


def _map(
    place: str,
    manifest: Manifest,
    mode: Mode,
    pieces: list[Piece],
    verify: bool,
    held: InPlace | None,
) -> Table:
    shards = [piece.shard for piece in pieces]
    if verify:
        _verify(place, manifest, shards)
    how: Any = "r" if mode == "memory" else mode
    try:
        mapped = map_shards(place, manifest, how, shards)
        if mode == "r+":
            training = rank_state(place, manifest, pieces, held is not None)
        else:
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
        files=RankFiles(place, manifest, pieces, held) if mode == "r+" else None,
    )
    if mode == "r+":
        local._training = training
    elif training is not None:
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
