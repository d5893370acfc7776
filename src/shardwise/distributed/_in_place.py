"""Tables of many ranks that are changed where they lie on disk: mode "r+".

Rank 0 holds the directory and writes the manifest, for all; each rank writes to the files of its
own shards, which are none of another's.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import numpy as np

from shardwise._errors import OptionError, StoreError
from shardwise._safetensors import open_file, read_header
from shardwise._update import Training
from shardwise.distributed._asking import prepared
from shardwise.store._in_place import InPlace
from shardwise.store._manifest import Manifest, read_manifest
from shardwise.store._state import map_state, take_room

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from shardwise import _native
    from shardwise._cuts import Piece
    from shardwise._table import Table
    from shardwise.distributed._spread import Spread
    from shardwise.optimizers import Optimizer, Slot


class RankFiles:
    """The files of one rank's shards, open for writing: what `InPlace` is to one process.

    Args:
        place: the directory.
        manifest: of the table.
        pieces: whole shards, or an empty piece.
        held: by rank 0, the directory; None on others.
    """

    mode = "r+"

    def __init__(
        self, place: str, manifest: Manifest, pieces: Sequence[Piece], held: InPlace | None
    ) -> None:
        self.place, self.pieces, self.held = os.path.realpath(place), list(pieces), held
        self.has_begun = self.has_trained = self.is_closed = False
        self._opened = ExitStack()
        self._files: list[tuple[int, int]] = []
        try:
            for piece in pieces:
                self._open(os.path.join(self.place, manifest.shards[piece.shard].file))
        except BaseException:
            self.close()
            raise

    def _open(self, path: str) -> None:
        descriptor = os.open(path, os.O_RDWR | getattr(os, "O_BINARY", 0))
        self._opened.callback(os.close, descriptor)
        file, size = open_file(path)
        with file:
            tensor = read_header(path, file, size).get("weight")
        self._files.append((descriptor, 0 if tensor is None else tensor.begin))

    def check(self) -> None:
        """Refuse a table that was closed.

        Raises:
            StoreError: it was.
        """
        if self.is_closed:
            raise StoreError(
                "expected a table that is open for writing, got one that was closed; open "
                f'{self.place} again with DistributedTable.open(path, mode="r+")'
            )

    def take_room(self) -> None:
        """Take the room of the files on the disk: plain stores must not meet a full one."""
        for descriptor, _ in self._files:
            take_room(descriptor, os.fstat(descriptor).st_size)

    def write(self, rows: _native.Rows, ids: NDArray[np.int64], values: NDArray[Any]) -> None:
        """Write the rows of ids to the files; see `begin_changes`."""
        rows.write_files(ids, values, self._files)

    def train(self, training: Training, slots: Sequence[Slot], table: Table) -> Training:
        """Return the state, which `begin_changes` made."""
        return training

    def forget_state(self) -> None:
        """Remove the optimizer's state, on rank 0."""
        if self.held is not None:
            self.held.forget_state()

    def flush(self) -> None:
        """Wait until what this rank wrote is on the disk, rows and state."""
        for descriptor, _ in self._files:
            os.fsync(descriptor)
        optimizer = None if self.is_closed else read_manifest(self.place).optimizer
        for piece in () if optimizer is None else self.pieces:
            assert optimizer is not None
            with open(os.path.join(self.place, optimizer.files[piece.shard].file), "rb") as file:
                os.fsync(file.fileno())

    def close(self) -> None:
        """Let others write."""
        self.is_closed, self._files = True, []
        self._opened.close()
        if self.held is not None:
            self.held.close()


def refuse_cut_shards(pieces: Sequence[Piece], manifest: Manifest) -> None:
    """Refuse shards that lie on several ranks, which would write to the same pages of a file.

    Raises:
        OptionError: one does.
    """
    sizes = manifest.partition.shard_sizes
    for piece in pieces:
        if piece.begin < piece.end and piece.end - piece.begin != sizes[piece.shard]:
            raise OptionError(
                f"expected at least as many shards as ranks for mode 'r+', got {len(sizes)}, of "
                f"which shard {piece.shard} lies on several ranks; cut the table with "
                "`shardwise reshard`"
            )


def rank_state(
    place: str, manifest: Manifest, pieces: Sequence[Piece], is_first: bool
) -> Training | None:
    """Return the state of this rank's rows, mapped; the step is counted in the file by rank 0."""
    found = map_state(place, manifest, "r+", [piece.shard for piece in pieces])
    if found is None:
        return None
    cut = {
        name: [a[p.begin : p.end] for a, p in zip(arrays, pieces, strict=True)]
        for name, arrays in found.state.items()
    }
    counter = found.counter if is_first else np.array(found.counter)
    return Training(found.family, counter, cut)


def begin_changes(table: Spread, call: str, optimizer: Optimizer | None = None) -> None:
    """Make ready for a change in place, on all ranks: from here on no checksum is known.

    With an optimizer, what it keeps of the rows has files after it, whose room is taken.

    Raises:
        StoreError: the table was closed, or was replaced.
        OSError: the disk is full.
        DistributedError: another rank cannot do it.
    """
    local, exchange = table._local, table._exchange
    files = local._files
    if not isinstance(files, RankFiles):
        return
    training = local._training
    slots = () if optimizer is None else optimizer.slots()
    is_known = optimizer is None or (
        files.has_trained
        and training is not None
        and training.family == optimizer.family
        and training.has(slots)
    )
    if files.has_begun and is_known and not files.is_closed:
        return

    def work() -> None:
        files.check()
        files.take_room()
        if files.held is None:
            return
        files.held.begin()
        if optimizer is not None:
            whole = map_state(files.place, files.held.manifest, "r+")
            if whole is None or whole.family != optimizer.family:
                whole = Training(optimizer.family)
            files.held.train(whole, slots, local)

    def take() -> None:
        manifest = read_manifest(files.place)
        local._training = rank_state(files.place, manifest, files.pieces, table.rank == 0)

    for step in (work, take) if optimizer is not None else (work,):
        prepared(exchange, call, step)
        exchange.agree(call)
    files.has_begun, files.has_trained = True, files.has_trained or optimizer is not None
