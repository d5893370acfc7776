"""A table that is changed where it lies on disk: mode "r+"."""

from __future__ import annotations

import os
import threading
import weakref
from contextlib import ExitStack
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shardwise import _native
from shardwise._errors import StoreError
from shardwise._safetensors import open_file, read_header
from shardwise.store._directory import hold
from shardwise.store._manifest import Manifest, read_manifest
from shardwise.store._verify import forget_checksums


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

    def write(self, rows: _native.Rows, ids: NDArray[np.int64], values: NDArray[Any]) -> None:
        """Write the rows of ids to the files; whoever has the table open sees them."""
        with self._lock:
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
            rows.write_files(ids, values, self._files)

    def flush(self) -> None:
        """Wait until everything written is on the disk."""
        with self._lock:
            for descriptor, _ in self._files:
                os.fsync(descriptor)

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
