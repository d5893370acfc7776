"""Writing a table: block by block, and as a whole or not at all.

Data files get names that no older table in the directory has; the table is there when the
manifest is, which one rename puts in its place. Whoever has the old table open keeps its files.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from shardwise._errors import (
    OptionError,
    StoreError,
    TableError,
    TableExistsError,
    TableNotFoundError,
)
from shardwise._partition import Partition
from shardwise._table import Table
from shardwise._vocabulary import Vocabulary
from shardwise.store._manifest import NAME, DataFile, Manifest, read_manifest
from shardwise.store._safetensors import make_header, storable_dtype

_MARK = ".shardwise-writing"  # here while a table is written, or after its writer was killed
_OURS = re.compile(
    r"(weight-\d{5,}-of-\d{5,}|vocabulary)(\.\d+)?\.safetensors|shardwise\.json\.new"
)
_BLOCK_BYTES = 16 << 20


def write_table(
    path: str | os.PathLike[str],
    table: Table,
    *,
    vocabulary: Vocabulary | None = None,
    dtype: Any = None,
    overwrite: bool = False,
    metadata: Mapping[str, Any] | None = None,
    progress: Callable[[int, int], object] | None = None,
) -> None:
    """Write a table, cut as it is, to the directory `path`; see `write_blocks`."""
    rows = max(1, _BLOCK_BYTES // max(1, int(np.prod(table.shape[1:])) * table.dtype.itemsize))
    ids = (np.arange(a, min(a + rows, len(table))) for a in range(0, len(table), rows))
    write_blocks(
        path,
        map(table.lookup, ids),
        shape=table.shape,
        dtype=table.dtype if dtype is None else dtype,
        partition=table.partition,
        vocabulary=vocabulary,
        overwrite=overwrite,
        metadata=metadata,
        progress=progress,
    )


def write_blocks(
    path: str | os.PathLike[str],
    blocks: Iterable[NDArray[Any]],
    *,
    shape: tuple[int, ...],
    dtype: Any,
    partition: Partition,
    vocabulary: Vocabulary | None = None,
    overwrite: bool = False,
    metadata: Mapping[str, Any] | None = None,
    progress: Callable[[int, int], object] | None = None,
) -> None:
    """Write a table to the directory `path` from blocks of its rows, in the order of their ids.

    No more than a few blocks are in memory at once. After any failure (an error, Ctrl-C, a kill)
    the directory holds the table that it held before, or none.

    Args:
        path: the directory, which is made; its parent must be there.
        blocks: arrays of shape (rows of that block, ...) that follow each other.
        shape: the shape of the whole table.
        dtype: what rows are stored as; blocks are converted to it.
        partition: how the rows are cut into shards, one file each.
        vocabulary: as many tokens as rows, or None.
        overwrite: replace a table that is there.
        metadata: any JSON object, kept with the table.
        progress: called with (rows done, rows in all).

    Raises:
        TableExistsError: there is a table, and `overwrite` is false.
        StoreError: `path` holds something else, another process writes there, or the dtype has no
            form on disk.
        TableError: the blocks do not make a table of this shape.
        OptionError: rows of floats are to be stored as whole numbers.
    """
    stored = storable_dtype(dtype)
    user = _as_metadata(metadata)
    if partition.num_rows != shape[0]:
        raise TableError(f"expected a partition of {shape[0]} rows, got {partition}")
    if vocabulary is not None and len(vocabulary) != shape[0]:
        raise TableError(
            f"expected as many tokens as rows, got {len(vocabulary)} tokens and {shape[0]} rows"
        )
    with _writing(os.fspath(path), overwrite) as (place, generation):
        shards = [
            _Writer(place, _file_name(f"weight-{k:05d}-of-{partition.num_shards:05d}", generation))
            for k in range(partition.num_shards)
        ]
        for writer, rows in zip(shards, partition.shard_sizes, strict=True):
            writer.write(make_header({"weight": (stored, (rows, *shape[1:]))}))
        done = 0
        for block in blocks:
            if block.shape[1:] != shape[1:] or done + len(block) > shape[0]:
                raise TableError(
                    f"expected blocks of {shape[0]} rows of shape {shape[1:]} in all, got one of "
                    f"shape {block.shape} after {done} rows"
                )
            if "float" in block.dtype.name and "float" not in stored.name:
                raise OptionError(
                    f"expected a dtype of floats for rows of {block.dtype}, got {stored}, which "
                    "would cut off their fractions; float16 or bfloat16 are small"
                )
            _deal(block.astype(stored, copy=False), done, partition, shards)
            done += len(block)
            if progress is not None:
                progress(done, shape[0])
        if done != shape[0]:
            raise TableError(f"expected blocks of {shape[0]} rows in all, got {done}")
        tokens = None
        if vocabulary is not None:
            tokens = _write_vocabulary(place, _file_name("vocabulary", generation), vocabulary)
        manifest = Manifest(
            shape=tuple(shape),
            dtype=stored.newbyteorder("=").name,
            partition=partition,
            shards=tuple(writer.finish() for writer in shards),
            vocabulary=tokens,
            unknown_id=None if vocabulary is None else vocabulary.unknown_id,
            generation=generation,
            metadata=user,
        )
        _commit(place, manifest)


class _Writer:
    """A data file that grows; it is open only while it is written to, for shards may be many."""

    def __init__(self, directory: str, name: str) -> None:
        import xxhash

        self._path = os.path.join(directory, name)
        self._name = name
        self._bytes = 0
        self._hash = xxhash.xxh3_128()

    def write(self, data: bytes | memoryview) -> None:
        with open(self._path, "ab" if self._bytes else "wb") as file:
            file.write(data)
        self._hash.update(data)
        self._bytes += len(data)

    def finish(self) -> DataFile:
        with open(self._path, "rb+") as file:
            os.fsync(file.fileno())
        return DataFile(self._name, self._bytes, self._hash.hexdigest())


def _deal(block: NDArray[Any], first: int, partition: Partition, shards: list[_Writer]) -> None:
    """Append the rows of consecutive ids from `first` to their shards: they are next there too."""
    if partition.num_shards == 1:
        return shards[0].write(_bytes_of(block))
    owners, _ = partition.locate(np.arange(first, first + len(block)))
    dealt = block[np.argsort(owners, kind="stable")]
    wanted, counts = np.unique(owners, return_counts=True)
    ends = np.cumsum(counts)
    for k, begin, end in zip(wanted, ends - counts, ends, strict=True):
        shards[k].write(_bytes_of(dealt[begin:end]))


def _bytes_of(array: NDArray[Any]) -> memoryview:
    flat: Any = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
    return memoryview(flat)


def _write_vocabulary(directory: str, name: str, vocabulary: Vocabulary) -> DataFile:
    data, offsets, slots = vocabulary.arrays()
    # The widest first: each begins on a multiple of its item size.
    arrays: dict[str, NDArray[Any]] = {"slots": slots, "offsets": offsets, "tokens": data}
    writer = _Writer(directory, name)
    writer.write(make_header({key: (a.dtype, a.shape) for key, a in arrays.items()}))
    for array in arrays.values():
        writer.write(_bytes_of(array))
    return writer.finish()


def _file_name(stem: str, generation: int) -> str:
    return f"{stem}.safetensors" if generation == 1 else f"{stem}.{generation}.safetensors"


def _as_metadata(metadata: Mapping[str, Any] | None) -> dict[str, Any]:
    try:
        user = json.loads(json.dumps({} if metadata is None else dict(metadata), allow_nan=False))
    except (TypeError, ValueError, RecursionError) as error:
        raise OptionError(f"expected metadata as an object of JSON, got {error}") from None
    assert isinstance(user, dict)
    return user


@contextmanager
def _writing(path: str, overwrite: bool) -> Iterator[tuple[str, int]]:
    """Hold the directory while a table is written to it; after a failure it is as it was."""
    made = _make_directory(path)
    try:
        with _mark(path):
            old = _check_place(path, overwrite)
            try:
                yield path, 1 if old is None else old.generation + 1
            finally:
                _clean(path, _present(path))
    except BaseException:
        if made and _present(path) is None:
            _remove_empty(path)
        raise


def _make_directory(path: str) -> bool:
    try:
        os.mkdir(path)
    except FileExistsError:
        if not os.path.isdir(path):
            raise TableExistsError(
                f"expected a directory or nothing at {path}, got a file; choose another name"
            ) from None
        return False
    except (FileNotFoundError, NotADirectoryError):
        raise TableNotFoundError(
            f"expected a directory to make {path} in, got none; make it first"
        ) from None
    return True


@contextmanager
def _mark(path: str) -> Iterator[None]:
    """The mark of a writer, locked against a second one for as long as this process lives."""
    where = os.path.join(path, _MARK)
    before = set(os.listdir(path))
    if before and NAME not in before and _MARK not in before:
        raise StoreError(
            f"expected an empty directory or a table at {path}, got one that holds "
            f"{sorted(before)[0]!r}; choose another name"
        )
    with open(where, "a+", opener=_no_link) as file:
        _lock(file, where)
        try:
            file.truncate(0)
            file.write(str(os.getpid()))
            file.flush()
            yield
        finally:
            os.unlink(where)


def _no_link(path: str, flags: int) -> int:
    """Open a file, and none that a link leads to: what is cut and written to here is our own."""
    return os.open(path, flags | getattr(os, "O_NOFOLLOW", 0), 0o666)


def _lock(file: IO[str], where: str) -> None:
    try:
        import fcntl
    except ImportError:  # a system without it: two writers are not told apart there
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        mine = os.path.exists(where) and os.path.samestat(os.stat(where), os.fstat(file.fileno()))
    except BlockingIOError:
        mine = False
    if not mine:  # or it was the mark of a writer that finished just now
        file.seek(0)
        raise StoreError(
            f"expected no other writer at {os.path.dirname(where)}, got process "
            f"{file.read() or '(finishing)'}; wait until it is done"
        )


def _check_place(path: str, overwrite: bool) -> Manifest | None:
    try:
        old = _present(path)
    except StoreError as error:  # to replace it would be to remove files that may be saved yet
        raise StoreError(
            f"expected no table, or one that can be read, at {path}: {error}; to give it up, "
            "remove the directory first"
        ) from None
    if old is not None and not overwrite:
        raise TableExistsError(
            f"expected no table at {path}, got one of {old.shape[0]} rows; choose another name, "
            "or pass overwrite=True (on the command line: --overwrite)"
        )
    _clean(path, old)  # what a killed writer left
    return old


def _present(path: str) -> Manifest | None:
    try:
        return read_manifest(path)
    except TableNotFoundError:
        return None


def _clean(path: str, keep: Manifest | None) -> None:
    """Remove the data files of tables that are not, or not any more, the one in the manifest."""
    kept = set() if keep is None else keep.files()
    for name in os.listdir(path):
        if _OURS.fullmatch(name) and name not in kept:
            os.unlink(os.path.join(path, name))


def _remove_empty(path: str) -> None:
    try:
        os.rmdir(path)
    except OSError:  # somebody put something else there meanwhile: it is theirs
        return


def _commit(path: str, manifest: Manifest) -> None:
    fresh = os.path.join(path, f"{NAME}.new")
    with open(fresh, "w", encoding="utf-8") as file:
        file.write(manifest.to_json())
        file.flush()
        os.fsync(file.fileno())
    _sync_directory(path)  # the data files' names are durable before the manifest tells them
    os.replace(fresh, os.path.join(path, NAME))
    _sync_directory(path)


def _sync_directory(path: str) -> None:
    if os.name == "nt":
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
