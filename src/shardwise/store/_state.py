"""The files of an optimizer's state: one for each shard, beside the shard's rows.

Each holds a tensor for each of the state's names, of shape (rows of the shard, ...) or (rows of the
shard,); the first one also the tensor "step", of shape (1,): how many updates there were.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from shardwise._errors import StoreError
from shardwise._layout import Layout
from shardwise._partition import Partition
from shardwise._safetensors import make_header, map_tensors
from shardwise._table import Table
from shardwise._update import TRAINED, Training
from shardwise.optimizers import Slot
from shardwise.store._deal import as_bytes
from shardwise.store._files import FileWriter
from shardwise.store._manifest import DataFile, Manifest, OptimizerFiles
from shardwise.store._vocabulary import sized

STEP = "step"
_BLOCK_BYTES = 16 << 20
_NUMBERS = (np.dtype(np.float32), np.dtype(np.float64), np.dtype(np.int64))


@dataclass(frozen=True)
class Saved:
    """State to be written: what `rows` gives of each name for the rows `begin` to `end` of a shard.

    Attributes:
        family: whose it is.
        step: how many updates there were.
        tensors: by name, the dtype and the shape of what is kept of one row.
        rows: of (name, shard, begin, end).
    """

    family: str
    step: int
    tensors: Mapping[str, tuple[np.dtype[Any], tuple[int, ...]]]
    rows: Callable[[str, int, int, int], NDArray[Any]]


def saved_state(table: Table, layout: Layout, partition: Partition) -> Saved | None:
    """Return a table's state as it is to be written with rows of this layout.

    None if it has none, or the rows could not be trained.
    """
    training = table._training
    stored = layout.dtype.newbyteorder("=")
    if training is None or layout.packed or stored.name not in TRAINED:
        return None
    wide = np.dtype(np.float64 if stored == np.float64 else np.float32)
    tensors = {}
    for name, arrays in training.state.items():
        dtype = arrays[0].dtype if arrays[0].dtype == np.int64 else wide
        tensors[name] = dtype, arrays[0].shape[1:]
    if partition == table.partition:

        def rows(name: str, shard: int, begin: int, end: int) -> NDArray[Any]:
            return training.state[name][shard][begin:end].astype(tensors[name][0], copy=False)
    else:
        whole = {
            name: Table._make(arrays, table.partition) for name, arrays in training.state.items()
        }

        def rows(name: str, shard: int, begin: int, end: int) -> NDArray[Any]:
            ids = partition.ids_of(shard, np.arange(begin, end))
            return whole[name].lookup(ids).astype(tensors[name][0], copy=False)

    return Saved(training.family, training.step, tensors, rows)


def state_header(
    tensors: Mapping[str, tuple[np.dtype[Any], tuple[int, ...]]], shard: int, rows: int
) -> tuple[bytes, int]:
    """Return the bytes before a file's data, and the size of the whole file."""
    all_of = {name: (dtype, (rows, *tail)) for name, (dtype, tail) in tensors.items()}
    if shard == 0:
        all_of[STEP] = np.dtype(np.int64), (1,)
    header = make_header(all_of)
    data = sum(math.prod(shape) * dtype.itemsize for dtype, shape in all_of.values())
    return header, len(header) + data


def state_name(shard: int, shards: int) -> str:
    """Return the name of a shard's file, but for its generation."""
    return f"optimizer-{shard:05d}-of-{shards:05d}"


def write_state(
    place: str, names: Sequence[str], saved: Saved, partition: Partition, release: bool
) -> OptimizerFiles:
    """Write the files of a state, whose names are given, to a directory that `writing` holds."""
    files = [
        write_shard_state(place, names[k], saved, k, rows, release)
        for k, rows in enumerate(partition.shard_sizes)
    ]
    return OptimizerFiles(saved.family, tuple(files))


def write_shard_state(
    place: str, name: str, saved: Saved, shard: int, rows: int, release: bool
) -> DataFile:
    """Write the file of one shard's state."""
    writer = FileWriter(place, name, release)
    header, _ = state_header(saved.tensors, shard, rows)
    writer.write(np.frombuffer(header, np.uint8))
    for key, (dtype, tail) in saved.tensors.items():
        step = max(1, _BLOCK_BYTES // max(1, math.prod(tail) * dtype.itemsize))
        for begin in range(0, rows, step):
            block = saved.rows(key, shard, begin, min(rows, begin + step))
            writer.write(as_bytes(block))
    if shard == 0:
        writer.write(as_bytes(np.array([saved.step], np.int64)))
    return writer.finish()


def make_state_files(
    place: str,
    names: Sequence[str],
    training: Training,
    slots: Sequence[Slot],
    dtypes: Sequence[np.dtype[Any]],
    shape: tuple[int, ...],
    partition: Partition,
) -> OptimizerFiles:
    """Make the files of a state to which slots are added, for a table that is trained in place.

    Their room on the disk is taken now: a full disk is an error here, and not the end of the
    process when a page is written to.
    """
    tensors = {
        name: (arrays[0].dtype, arrays[0].shape[1:]) for name, arrays in training.state.items()
    }
    fresh = dict(zip((slot.name for slot in slots), slots, strict=True))
    for slot, dtype in zip(slots, dtypes, strict=True):
        tensors[slot.name] = dtype, () if slot.per_row else shape[1:]
    files = []
    for k, rows in enumerate(partition.shard_sizes):
        header, size = state_header(tensors, k, rows)
        with open(os.path.join(place, names[k]), "xb") as file:
            file.write(header)
            file.truncate(size)
            file.flush()
            take_room(file.fileno(), size)
            for name, (dtype, tail) in tensors.items():
                row_bytes = math.prod(tail) * dtype.itemsize
                new = fresh.get(name)
                initial = 0.0 if new is None else training.step if new.counts else new.initial
                if new is not None and not initial:
                    file.seek(rows * row_bytes, os.SEEK_CUR)
                    continue
                step = max(1, _BLOCK_BYTES // max(1, row_bytes))
                for begin in range(0, rows, step):
                    end = min(rows, begin + step)
                    if new is None:
                        block = training.state[name][k][begin:end]
                    else:
                        block = np.full((end - begin, *tail), initial, dtype)
                    file.write(as_bytes(block).data)
            if k == 0:
                file.write(np.array([training.step], np.int64).tobytes())
            file.flush()
            os.fsync(file.fileno())
        files.append(DataFile(names[k], size, None))
    return OptimizerFiles(training.family, tuple(files))


def take_room(descriptor: int, size: int) -> None:
    """Take the room of a file's holes on the disk.

    Raises:
        OSError: there is none.
    """
    status = os.fstat(descriptor)
    if getattr(status, "st_blocks", size) * 512 < size and hasattr(os, "posix_fallocate"):
        os.posix_fallocate(descriptor, 0, size)


def map_state(
    path: str,
    manifest: Manifest,
    mode: Literal["r", "r+", "c"],
    shards: Sequence[int] | None = None,
) -> Training | None:
    """Return the state of a table on disk, mapped; None if it has none.

    Of some shards, if `shards` says which; the first file has the step and is read for it, too.

    Raises:
        StoreError: its files are not what the format says.
        FileNotFoundError: one is not there.
    """
    if manifest.optimizer is None:
        return None
    state: dict[str, list[NDArray[Any]]] = {}
    counter = None
    sizes = manifest.partition.shard_sizes
    wanted = range(len(sizes)) if shards is None else shards
    for k in sorted({0, *wanted}):
        rows, entry = sizes[k], manifest.optimizer.files[k]
        where = os.path.join(path, entry.file)
        tensors = map_tensors(sized(path, entry), mode)
        if k == 0:
            counter = tensors.pop(STEP, None)
            if counter is None or counter.dtype != np.int64 or counter.shape != (1,):
                raise _broken(where, "a tensor 'step' of int64 of shape (1,)", counter)
            if not 0 <= counter[0] < 1 << 62:
                raise _broken(where, "a step from 0 to 2**62", f"{counter[0]}")
            state = {name: [] for name in tensors}
        for name, arrays in state.items():
            array = tensors.pop(name, None)
            like = arrays[0] if arrays else array
            row_shapes = ((), manifest.shape[1:])
            if (
                array is None
                or like is None
                or array.dtype not in _NUMBERS
                or array.shape[:1] != (rows,)
                or array.shape[1:] not in row_shapes
                or (array.dtype, array.shape[1:]) != (like.dtype, like.shape[1:])
            ):
                raise _broken(where, f"a tensor {name!r} of numbers of {rows} rows", array)
            arrays.append(array)
        if tensors:
            raise _broken(where, "the tensors of the first shard's state", next(iter(tensors)))
    assert counter is not None
    if 0 not in wanted:
        for arrays in state.values():
            del arrays[0]
    if mode == "r+":
        counter.flags.writeable = True
    return Training(manifest.optimizer.family, counter, state)


def _broken(where: str, expected: str, got: object) -> StoreError:
    if isinstance(got, np.ndarray):
        got = f"{got.dtype} of shape {got.shape}"
    return StoreError(
        f"{where} is broken: expected {expected}, got {got or 'none'}; restore the table from a "
        "copy, or write it again"
    )
