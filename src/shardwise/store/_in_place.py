"""A table that is changed where it lies on disk: mode "r+"."""

from __future__ import annotations

import os
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
        self._path = os.path.abspath(path)  # the working directory may change
        self._held = ExitStack()
        self._files: list[tuple[int, int]] = []
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
        if not self._files:
            raise StoreError(
                f"expected a table that is open for writing, got one that was closed; open "
                f'{self._path} again with Table.open(path, "r+")'
            )
        known = [k for k, shard in enumerate(self.manifest.shards) if shard.xxh128 is not None]
        if known:  # before the first change: a checksum must never be wrong, whenever we are killed
            self.manifest = forget_checksums(self._path, self.manifest, known)
        rows.write_files(ids, values, self._files)

    def flush(self) -> None:
        """Wait until everything written is on the disk."""
        for descriptor, _ in self._files:
            os.fsync(descriptor)

    def close(self) -> None:
        """Let others write."""
        self._files = []
        self._held.close()
