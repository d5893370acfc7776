"""A table that is changed where it lies on disk: mode "r+"."""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from shardwise import _native
from shardwise._errors import StoreError
from shardwise._safetensors import open_file, read_header
from shardwise._update import Training, state_dtype
from shardwise.store._directory import commit, hold
from shardwise.store._manifest import Manifest, read_manifest
from shardwise.store._state import make_state_files, map_state, state_name, take_room
from shardwise.store._verify import forget_checksums

if TYPE_CHECKING:
    from shardwise._table import Table
    from shardwise.optimizers import Slot


class InPlace:
    """The files of a table that is open for writing: one writer's, until it is closed.

    Rows are written by calls of the system, not by plain stores to the map: a full disk is then an
    error and not the end of the process, and of a row within a page, a kill leaves old or new.
    """

    mode = "r+"

    def __init__(self, path: str) -> None:
        self._path = os.path.realpath(path)  # the working directory, and links, may change
        path = self._path
        self._process = os.getpid()
        # A number of a descriptor that another thread closes may be another file's at once.
        self._lock = threading.RLock()
        self._held = ExitStack()
        self._files: list[tuple[int, int]] = []
        self._has_room = False
        _OPEN.add(self)
        self._held.enter_context(hold(path))
        try:
            self.manifest: Manifest = read_manifest(path)
            for shard in self.manifest.shards:
                self._open(os.path.join(path, shard.file))
        except BaseException:
            self.close()
            raise

    def _open(self, path: str) -> None:
        descriptor = os.open(path, os.O_RDWR | getattr(os, "O_BINARY", 0))
        self._held.callback(os.close, descriptor)
        file, size = open_file(path)
        with file:
            tensor = read_header(path, file, size).get("weight")
        self._files.append((descriptor, 0 if tensor is None else tensor.begin))

    def begin(self) -> None:
        """Make ready for changes: from here on, no checksum of what changes is known.

        Raises:
            StoreError: the table was closed, or was replaced.
        """
        if not self._files:
            raise StoreError(
                f"expected a table that is open for writing, got one that was closed; open "
                f'{self._path} again with Table.open(path, "r+")'
            )
        known = [k for k, shard in enumerate(self.manifest.shards) if shard.xxh128 is not None]
        if os.getpid() != self._process:  # a child's parent may let others write by now
            known = list(range(len(self.manifest.shards)))
        if known:  # before the first change: a checksum is never wrong, whenever we are killed
            self.manifest = forget_checksums(self._path, self.manifest, known)

    def write(self, rows: _native.Rows, ids: NDArray[np.int64], values: NDArray[Any]) -> None:
        """Write the rows of ids to the files; whoever has the table open sees them."""
        with self._lock:
            self.begin()
            rows.write_files(ids, values, self._files)

    def train(self, training: Training, slots: Sequence[Slot], table: Table) -> Training:
        """Make ready for an update that needs these slots; return the state, which may be new.

        Rows and state are written to by plain stores to the map, which must not meet a full disk:
        all room that the files need is taken first.

        Raises:
            OSError: the disk is full.
            StoreError: the table was closed, or was replaced.
        """
        with self._lock:
            self.begin()
            if not self._has_room:
                for descriptor, _ in self._files:
                    take_room(descriptor, os.fstat(descriptor).st_size)
                self._has_room = True
            optimizer = self.manifest.optimizer
            known = optimizer is not None and optimizer.family == training.family
            if optimizer is None or not known or not training.has(slots):
                training = self._make_state(training, slots, table)
            elif any(file.xxh128 is not None for file in optimizer.files):
                self.manifest = forget_checksums(self._path, self.manifest, (), state=True)
            return training

    def _make_state(self, training: Training, slots: Sequence[Slot], table: Table) -> Training:
        """Put files of the state with these slots in the place of those that there are."""
        old = self.manifest
        generation = old.generation + 1
        shards = old.partition.num_shards
        names = [f"{state_name(k, shards)}.{generation}.safetensors" for k in range(shards)]
        for name in names:  # a killed writer's
            with suppress(FileNotFoundError):
                os.unlink(os.path.join(self._path, name))
        fresh = [slot for slot in slots if slot.name not in training.state]
        dtypes = [state_dtype(slot, table.dtype) for slot in fresh]
        try:
            files = make_state_files(
                self._path, names, training, fresh, dtypes, old.shape, old.partition
            )
            self._commit(replace(old, generation=generation, optimizer=files))
        except BaseException:
            for name in names:
                with suppress(OSError):
                    os.unlink(os.path.join(self._path, name))
            raise
        made = map_state(self._path, self.manifest, "r+")
        assert made is not None
        return made

    def forget_state(self) -> None:
        """Remove the optimizer's state."""
        with self._lock:
            self.begin()
            if self.manifest.optimizer is not None:
                generation = self.manifest.generation + 1
                self._commit(replace(self.manifest, generation=generation, optimizer=None))

    def _commit(self, manifest: Manifest) -> None:
        """Change the manifest, and remove the files of the old state; who has them keeps them."""
        old = self.manifest.optimizer
        commit(self._path, manifest)
        self.manifest = manifest
        for file in () if old is None else old.files:
            os.unlink(os.path.join(self._path, file.file))

    def flush(self) -> None:
        """Wait until everything written is on the disk."""
        with self._lock:
            for descriptor, _ in self._files:
                os.fsync(descriptor)
            optimizer = self.manifest.optimizer if self._files else None
            for file in () if optimizer is None else optimizer.files:
                with open(os.path.join(self._path, file.file), "rb") as opened:
                    os.fsync(opened.fileno())

    def close(self) -> None:
        """Let others write."""
        with self._lock:
            self._files = []
            self._held.close()

    def unlock(self) -> None:
        """In a child after fork: the thread that held the lock, if one did, is not there."""
        self._lock = threading.RLock()


_OPEN: weakref.WeakSet[InPlace] = weakref.WeakSet()


def _unlock_all() -> None:
    for files in _OPEN:
        files.unlock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_unlock_all)
