"""Cutting a table on disk anew: into other shards, by another partition, of another dtype."""

from __future__ import annotations

import operator
import os
from collections.abc import Callable, Generator, Iterator, Mapping
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shardwise._errors import OptionError, StoreError
from shardwise._layout import Layout
from shardwise._partition import Partition, as_partition
from shardwise._runtime import num_threads
from shardwise.store._deal import as_bytes, ends, pieces, wait
from shardwise.store._directory import writing
from shardwise.store._files import Bytes, FileReader, FileWriter, is_large
from shardwise.store._manifest import DataFile, Manifest, read_manifest
from shardwise.store._open import open_table
from shardwise.store._state import Saved, saved_state
from shardwise.store._verify import check
from shardwise.store._write import as_metadata, as_stored, check_shards, fill, stored_layout

_BLOCK_BYTES = 16 << 20  # of which there are a few at once: read, put in order, dealt out
_PART_BYTES = 1 << 20


def reshard(
    source: str | os.PathLike[str],
    path: str | os.PathLike[str],
    *,
    shards: int | None = None,
    partition: str | Partition | None = None,
    dtype: Any = None,
    overwrite: bool = False,
    metadata: Mapping[str, Any] | None = None,
    progress: Callable[[int, int], object] | None = None,
) -> Manifest:
    """Write the table at `source` again at `path`, cut into other shards.

    Rows keep their ids, and the vocabulary stays. It takes less than 256 MB of memory, whatever
    the table's size (if a row is not larger than 16 MB). The checksums of `source` are verified
    on the way. Whatever happens, `path` holds what it held before, or the whole new table; after
    a failure, begin again.

    Args:
        source: the directory of a table, in which nobody writes meanwhile.
        path: the directory that is made; with `overwrite` it may be `source` itself.
        shards: how many shards, by default as many as there are.
        partition: "mod", "div" or a `Partition` of as many rows, by default the strategy of
            `source`.
        dtype: what the rows are stored as, by default as they are; "int8" and "int4" pack rows of
            floats.
        overwrite: replace a table that is there. Who has it open keeps the old one.
        metadata: any JSON object, by default that of `source`.
        progress: called with (rows done, rows in all).

    Returns:
        The manifest of the new table.

    Raises:
        TableNotFoundError: there is no table at `source`.
        TableExistsError: there is a table at `path`, and `overwrite` is false.
        StoreError: `source` is broken or damaged, `path` holds something else or another process
            writes there, or the dtype has no form on disk.
        PartitionError: there is no such partition of the rows.
        OptionError: `dtype` cannot hold the values, or there are more than 99,999 shards.

    Example:
        >>> import tempfile, numpy as np
        >>> from shardwise import Table, store
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     Table.from_array(np.eye(5), shards=4, partition="mod").save(f"{folder}/a")
        ...     _ = store.reshard(f"{folder}/a", f"{folder}/b", shards=2, partition="div")
        ...     Table.open(f"{folder}/b")
        Table(shape=(5, 5), dtype=float64, partition=Partition.div(num_rows=5, num_shards=2))
    """
    place = os.fspath(source)
    user = None if metadata is None else as_metadata(metadata)
    before = read_manifest(place)
    _cut(before, shards, partition)  # fails now, not when a directory was made
    _layout(before, dtype)
    with (
        writing(os.fspath(path), overwrite) as (target, generation),
        # After the directory is held: if both are one table, nobody replaces it from here on.
        closing(_Source(place)) as opened,
        closing(opened.blocks(_layout(opened.manifest, dtype))) as blocks,
    ):
        manifest = opened.manifest
        return fill(
            target,
            generation,
            blocks,
            layout=_layout(manifest, dtype),
            partition=_cut(manifest, shards, partition),
            tokens=opened.copy_tokens if manifest.vocabulary else None,
            unknown_id=manifest.unknown_id,
            metadata=manifest.metadata if user is None else user,
            progress=progress,
            state=opened.state(_layout(manifest, dtype), _cut(manifest, shards, partition)),
        )


def _layout(manifest: Manifest, dtype: Any) -> Layout:
    """How rows are stored anew."""
    layout = manifest.layout
    return layout if dtype is None else stored_layout(dtype, layout.row_shape, layout.dtype)


def _cut(manifest: Manifest, shards: int | None, partition: str | Partition | None) -> Partition:
    old = manifest.partition
    if shards is not None:
        try:
            shards = operator.index(shards)
        except TypeError:
            raise OptionError(f"expected shards as a number, got {shards!r:.40}") from None
    if partition is None:
        if shards is None:
            return old
        if old.strategy == "ranges" and shards != old.num_shards:
            raise OptionError(
                f"expected a partition for {shards} shards of what {old} cuts, got none; "
                'pass "div", "mod" or Partition.ranges(boundaries)'
            )
        partition = old if shards == old.num_shards else old.strategy
    if shards is None:
        shards = partition.num_shards if isinstance(partition, Partition) else old.num_shards
    cut = as_partition(partition, old.num_rows, shards)
    check_shards(cut)
    return cut


class _Source:
    """A table whose rows are read in the order of their ids, each byte once.

    Rows of a shard come in the order in which they lie there, whatever the partition: so each
    file is read from its beginning to its end, and its checksum is made on the way.
    """

    def __init__(self, path: str) -> None:
        import xxhash

        self._path = path
        self._readers: list[FileReader] = []
        self.manifest = self._open()
        self._entries = self._read_entries(self.manifest)
        self._ends = ends(self.manifest.partition)
        self._row_bytes = self.manifest.layout.row_bytes
        self._hashes = [xxhash.xxh3_128() for _ in self._readers]
        self._done = [0] * len(self._readers)  # bytes of each file

    def _open(self) -> Manifest:
        for _ in range(16):
            stored = open_table(self._path)  # which checks what the files say
            manifest, self._table = stored.manifest, stored.table
            entries = self._read_entries(manifest)
            release = is_large(sum(entry.bytes for entry in entries))
            try:
                for entry in entries:
                    self._readers.append(FileReader(self._path, entry, len(entries), release))
                return manifest
            except FileNotFoundError:  # it was replaced meanwhile
                self.close()
        raise StoreError(f"the table at {self._path} is replaced again and again")

    @staticmethod
    def _read_entries(manifest: Manifest) -> tuple[DataFile, ...]:
        return replace(manifest, optimizer=None).data_files()

    def state(self, layout: Layout, cut: Partition) -> Saved | None:
        """Return the optimizer's state for the new shards, once its checksums are right."""
        if self.manifest.optimizer is not None:
            check(self._path, replace(self.manifest, shards=(), vocabulary=None))
        return saved_state(self._table, layout, cut)

    def close(self) -> None:
        for reader in self._readers:
            reader.close()
        self._readers = []

    def blocks(self, wanted: Layout) -> Generator[NDArray[Any], None, None]:
        """Give the rows, converted; a block is overwritten after the next one was asked for."""
        rows, layout = self.manifest.partition.num_rows, self.manifest.layout
        if not self._row_bytes:
            yield np.empty((rows, *layout.stored_shape), layout.stored_dtype)
            return
        # A conversion takes memory for the block, the new one, and the search for lost values.
        wide = 2 * max(4, layout.dtype.itemsize, wanted.dtype.itemsize) * layout.width
        step = max(1, _BLOCK_BYTES // (self._row_bytes if wanted == layout else wide))
        buffers = np.empty((3, min(step, rows) * self._row_bytes), np.uint8)
        with ThreadPoolExecutor(num_threads()) as pool, ThreadPoolExecutor(1) as ahead:

            def read(first: int) -> NDArray[Any]:
                into = buffers[first // step % 2, : min(step, rows - first) * self._row_bytes]
                self._read_rows(first, into, buffers[2], pool)
                block = into.view(layout.stored_dtype).reshape(-1, *layout.stored_shape)
                return block if wanted == layout else as_stored(layout.unpack(block), wanted, first)

            for k, reader in enumerate(self._readers[: len(self.manifest.shards)]):
                self._skip(k, reader.header()["weight"].begin)
            coming = [ahead.submit(read, 0)] if rows else []
            for first in range(0, rows, step):
                block = coming.pop().result()
                if first + step < rows:
                    coming.append(ahead.submit(read, first + step))
                yield block
        for k, entry in enumerate(self.manifest.shards):
            self._skip(k, entry.bytes)
            self._verify(k)

    def _read_rows(self, first: int, into: Bytes, spare: Bytes, pool: Executor) -> None:
        """Read rows from id `first` on, as many as `into` holds, from their shards."""
        items = into.view(np.dtype((np.void, self._row_bytes)))
        work: list[tuple[int, Bytes, NDArray[np.void] | None]] = []
        used = 0
        for k, where in pieces(self.manifest.partition, self._ends, first, len(items)):
            rows = items[where]
            if rows.flags.c_contiguous:
                work.append((k, as_bytes(rows), None))
            else:
                work.append((k, spare[used : used + rows.nbytes], rows))
                used += rows.nbytes
        threads = num_threads()
        wait([pool.submit(self._read_pieces, work[i::threads]) for i in range(threads)])

    def _read_pieces(self, work: list[tuple[int, Bytes, NDArray[np.void] | None]]) -> None:
        for k, data, rows in work:
            self._read(k, data)
            if rows is not None:
                rows[:] = data.view(rows.dtype)

    def _read(self, k: int, into: Bytes) -> None:
        """Read the next bytes of a file."""
        self._readers[k].read(self._done[k], into)
        self._done[k] += into.size
        if self._entries[k].xxh128 is not None:
            self._hashes[k].update(into.data)

    def _skip(self, k: int, end: int) -> None:
        """Read a file up to a place, for its checksum alone."""
        for _ in self._parts(k, end):
            pass

    def _parts(self, k: int, end: int) -> Iterator[Bytes]:
        part = np.empty(min(_PART_BYTES, end - self._done[k]), np.uint8)
        while self._done[k] < end:
            some = part[: end - self._done[k]]
            self._read(k, some)
            yield some

    def copy_tokens(self, place: str, name: str) -> DataFile:
        """Copy the file of the vocabulary, which does not depend on the shards."""
        k = len(self.manifest.shards)
        writer = FileWriter(place, name)
        for part in self._parts(k, self._readers[k].size):
            writer.write(part)
        self._verify(k)
        return writer.finish()

    def _verify(self, k: int) -> None:
        expected, got = self._entries[k].xxh128, self._hashes[k].hexdigest()
        if expected not in (None, got):
            raise StoreError(
                f"{self._readers[k].path} is damaged: expected bytes with the checksum {expected}, "
                f"got {got}; restore the table from a copy, or if another process writes there, "
                "wait until it is done"
            )
