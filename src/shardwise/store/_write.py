"""Writing a table: block by block, as a whole or not at all."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shardwise._arrays import lost_to_infinity
from shardwise._errors import (
    OptionError,
    PartitionError,
    TableError,
    VocabularyError,
    require,
)
from shardwise._layout import Layout, asked_format, packed_layout
from shardwise._norms import is_small_float
from shardwise._partition import Partition
from shardwise._runtime import num_threads
from shardwise._safetensors import make_header, storable_dtype
from shardwise._table import Table
from shardwise._vocabulary import Vocabulary
from shardwise.store._deal import Dealer
from shardwise.store._directory import commit, writing
from shardwise.store._files import FileWriter, is_large
from shardwise.store._manifest import DataFile, Manifest
from shardwise.store._state import Saved, saved_state, state_name, write_state
from shardwise.store._vocabulary import token_id, write_file

_MAX_SHARDS = 99_999
_BLOCK_BYTES = 16 << 20
_SYNCS = 8  # files that are waited for at once at the end: the disk takes them together


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
    """Write a table, cut as it is, and its optimizer's state to `path`; see `write_blocks`.

    `dtype` may be "int8" or "int4", to pack rows of floats; the rows stay as they are by default.

    Example:
        >>> import tempfile
        >>> import numpy as np
        >>> from shardwise import Table, store
        >>> table = Table.from_array(np.eye(2, dtype=np.float32))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     store.write_table(folder, table, dtype="float16")
        ...     Table.open(folder).dtype
        dtype('<f2')
    """
    require(table, Table, "table", TableError)
    layout, source = table._layout, table
    if dtype is None and layout.packed:
        source = table._stored()  # the bytes go as they are
    else:
        layout = stored_layout(
            table.dtype if dtype is None else dtype, table.shape[1:], table.dtype
        )
    rows = max(1, _BLOCK_BYTES // max(1, table._layout.row_bytes))
    ids = (np.arange(a, min(a + rows, len(table))) for a in range(0, len(table), rows))
    write_rows(
        path,
        map(source.lookup, ids),
        shape=table.shape,
        layout=layout,
        partition=table.partition,
        vocabulary=vocabulary,
        overwrite=overwrite,
        metadata=metadata,
        progress=progress,
        state=saved_state(table, layout, table.partition),
    )


def write_blocks(
    path: str | os.PathLike[str],
    blocks: Iterable[NDArray[Any]],
    *,
    shape: tuple[int, ...],
    dtype: Any,
    row_format: str | None = None,
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
        row_format: "int8" or "int4" to pack rows of float32; blocks may hold packed rows already.
        partition: how the rows are cut into shards, one file each.
        vocabulary: the tokens of the first rows, which may be all rows, or None.
        overwrite: replace a table that is there.
        metadata: any JSON object, kept with the table.
        progress: called with (rows done, rows in all).

    Raises:
        TableExistsError: there is a table, and `overwrite` is false.
        StoreError: `path` holds something else, another process writes there, or the dtype has no
            form on disk.
        TableError: the blocks do not make a table of this shape.
        OptionError: `dtype` cannot hold the values, or there are more than 99,999 shards.

    Example:
        >>> import tempfile
        >>> import numpy as np
        >>> from shardwise import Partition, Table, store
        >>> blocks = (np.full((2, 3), k, np.float32) for k in range(2))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     store.write_blocks(
        ...         folder, blocks, shape=(4, 3), dtype="float32", partition=Partition.mod(4, 2)
        ...     )
        ...     Table.open(folder).lookup([0, 3])[:, 0]
        array([0., 1.], dtype=float32)
    """
    require(shape, tuple, "shape", TableError)
    layout = Layout(shape[1:], storable_dtype(dtype))
    if row_format is not None:
        layout = packed_layout(row_format, shape[1:])
    write_rows(
        path,
        blocks,
        shape=shape,
        layout=layout,
        partition=partition,
        vocabulary=vocabulary,
        overwrite=overwrite,
        metadata=metadata,
        progress=progress,
        state=None,
    )


def write_rows(
    path: str | os.PathLike[str],
    blocks: Iterable[NDArray[Any]],
    *,
    shape: tuple[int, ...],
    layout: Layout,
    partition: Partition,
    vocabulary: Vocabulary | None,
    overwrite: bool,
    metadata: Mapping[str, Any] | None,
    progress: Callable[[int, int], object] | None,
    state: Saved | None,
) -> Manifest:
    """Write blocks of rows, and the state; see `write_blocks`."""
    check_shards(partition)
    user = as_metadata(metadata)
    if partition.num_rows != shape[0]:
        raise TableError(f"expected a partition of {shape[0]} rows, got {partition}")
    if vocabulary is not None:
        require(vocabulary, Vocabulary, "vocabulary", VocabularyError)
    if vocabulary is not None and len(vocabulary) > shape[0]:
        raise TableError(
            f"expected a row for each token, got {len(vocabulary)} tokens and {shape[0]} rows"
        )

    def write_tokens(place: str, name: str) -> DataFile:
        assert vocabulary is not None
        return write_file(place, name, vocabulary)

    with writing(os.fspath(path), overwrite) as (place, generation):
        return fill(
            place,
            generation,
            blocks,
            layout=layout,
            partition=partition,
            tokens=None if vocabulary is None else write_tokens,
            unknown_id=token_id(vocabulary),
            metadata=user,
            progress=progress,
            state=state,
        )


def fill(
    place: str,
    generation: int,
    blocks: Iterable[NDArray[Any]],
    *,
    layout: Layout,
    partition: Partition,
    tokens: Callable[[str, str], DataFile] | None,
    unknown_id: int | None,
    metadata: dict[str, Any],
    progress: Callable[[int, int], object] | None,
    state: Saved | None,
) -> Manifest:
    """Write and commit a table in a directory that `writing` holds; return its manifest.

    A block is done with when the next one is asked for. `tokens` writes the vocabulary's file,
    of a name in a directory.
    """
    count = partition.num_rows
    release = is_large(count * layout.row_bytes)
    with ExitStack() as stack:
        pool = stack.enter_context(ThreadPoolExecutor(num_threads()))
        shards = [
            FileWriter(
                place,
                file_name(f"weight-{k:05d}-of-{partition.num_shards:05d}", generation),
                release,
            )
            for k in range(partition.num_shards)
        ]
        for writer, rows in zip(shards, partition.shard_sizes, strict=True):
            header = make_header({"weight": (layout.stored_dtype, (rows, *layout.stored_shape))})
            writer.write(np.frombuffer(header, np.uint8))
        dealer = Dealer(partition, shards, pool)
        done = 0
        for block in blocks:
            fits = block.shape[1:] == layout.row_shape or layout.is_stored(block)
            if not fits or done + len(block) > count:
                raise TableError(
                    f"expected blocks of {count} rows of shape {layout.row_shape} in all, got one "
                    f"of shape {block.shape} after {done} rows"
                )
            dealer.deal(as_stored(block, layout, done), done)
            done += len(block)
            if progress is not None:
                progress(done, count)
        if done != count:
            raise TableError(f"expected blocks of {count} rows in all, got {done}")
        vocabulary = tokens and tokens(place, file_name("vocabulary", generation))
        optimizer = None
        if state is not None:
            num = partition.num_shards
            names = [file_name(state_name(k, num), generation) for k in range(num)]
            optimizer = write_state(place, names, state, partition, release)
        syncing = stack.enter_context(ThreadPoolExecutor(_SYNCS))
        manifest = Manifest(
            layout=layout,
            partition=partition,
            shards=tuple(syncing.map(FileWriter.finish, shards)),
            vocabulary=vocabulary,
            unknown_id=unknown_id,
            generation=generation,
            metadata=metadata,
            optimizer=optimizer,
        )
    commit(place, manifest)
    return manifest


def check_shards(partition: Partition) -> None:
    """Refuse what is no partition, and more shards than files should be."""
    require(partition, Partition, "partition", PartitionError)
    if partition.num_shards > _MAX_SHARDS:
        raise OptionError(
            f"expected at most {_MAX_SHARDS} shards on disk, a file each, "
            f"got {partition.num_shards}"
        )


def stored_layout(dtype: Any, row_shape: tuple[int, ...], source: np.dtype[Any]) -> Layout:
    """Return how rows of the dtype `source` are stored where `dtype` is asked for.

    Raises:
        StoreError: it is no dtype, or files have no form for it.
        TableError: such rows cannot be packed.
    """
    packed = asked_format(dtype, source)
    if packed is not None:
        return packed_layout(packed, row_shape)
    return Layout(tuple(row_shape), storable_dtype(dtype))


def as_stored(block: NDArray[Any], layout: Layout, first: int) -> NDArray[Any]:
    """Convert rows to what they are stored as, where no value is lost but by rounding."""
    if layout.is_stored(block):
        return block
    if layout.packed:
        return layout.pack(block, first)
    stored = layout.dtype
    if block.dtype.kind not in "biuf" and not is_small_float(block.dtype):
        raise OptionError(
            f"expected rows of real numbers to store as {stored}, got {block.dtype}; convert them "
            "with .astype first"
        )
    floats = "float" in block.dtype.name
    if floats and "float" not in stored.name:
        raise OptionError(
            f"expected a dtype of floats for rows of {block.dtype}, got {stored}, which would cut "
            "off their fractions; float16 or bfloat16 are small"
        )
    with np.errstate(over="ignore", invalid="ignore"):  # told below, with its row
        cast = block.astype(stored)
        if floats or "float" in stored.name:
            lost = lost_to_infinity(block, cast)
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


def file_name(stem: str, generation: int) -> str:
    return f"{stem}.safetensors" if generation == 1 else f"{stem}.{generation}.safetensors"


def as_metadata(metadata: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return metadata as it comes back from JSON.

    Raises:
        OptionError: it is no JSON object.
    """
    try:
        user = json.loads(json.dumps({} if metadata is None else dict(metadata), allow_nan=False))
    except (TypeError, ValueError, RecursionError) as error:
        raise OptionError(f"expected metadata as an object of JSON, got {error}") from None
    assert isinstance(user, dict)
    return user
