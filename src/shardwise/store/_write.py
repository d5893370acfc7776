"""Writing a table: block by block, as a whole or not at all."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shardwise._errors import OptionError, TableError
from shardwise._partition import Partition
from shardwise._safetensors import make_header, storable_dtype
from shardwise._table import Table
from shardwise._vocabulary import Vocabulary
from shardwise.store._directory import commit, writing
from shardwise.store._manifest import DataFile, Manifest

_MAX_SHARDS = 99_999
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
        OptionError: `dtype` cannot hold the values, or there are more than 99,999 shards.
    """
    stored = storable_dtype(dtype)
    if partition.num_shards > _MAX_SHARDS:
        raise OptionError(
            f"expected at most {_MAX_SHARDS} shards on disk, a file each, "
            f"got {partition.num_shards}"
        )
    user = _as_metadata(metadata)
    if partition.num_rows != shape[0]:
        raise TableError(f"expected a partition of {shape[0]} rows, got {partition}")
    if vocabulary is not None and len(vocabulary) != shape[0]:
        raise TableError(
            f"expected as many tokens as rows, got {len(vocabulary)} tokens and {shape[0]} rows"
        )
    with writing(os.fspath(path), overwrite) as (place, generation):
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
            _deal(_as_stored(block, stored, done), done, partition, shards)
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
        commit(place, manifest)


def _as_stored(block: NDArray[Any], stored: np.dtype[Any], first: int) -> NDArray[Any]:
    """Convert rows to what they are stored as, where no value is lost but by rounding."""
    if block.dtype == stored:
        return block
    floats = "float" in block.dtype.name
    if floats and "float" not in stored.name:
        raise OptionError(
            f"expected a dtype of floats for rows of {block.dtype}, got {stored}, which would cut "
            "off their fractions; float16 or bfloat16 are small"
        )
    with np.errstate(over="ignore", invalid="ignore"):  # told below, with its row
        cast = block.astype(stored)
        if floats or "float" in stored.name:
            lost = np.isfinite(block) & ~np.isfinite(cast)
        else:
            lost = cast.astype(block.dtype) != block
    if lost.any():
        where = np.argwhere(lost)[0]
        raise OptionError(
            f"expected values that {stored} can hold, got {block[tuple(where)]} in row "
            f"{first + where[0]}; store the rows as {block.dtype}"
            + (" or bfloat16" if floats else "")
        )
    return cast


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
