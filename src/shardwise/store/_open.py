"""Opening a table: its files are mapped, and nothing of them is read but their headers."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, get_args

from numpy.typing import NDArray

from shardwise._errors import OptionError, StoreError, is_one_of
from shardwise._safetensors import map_tensors
from shardwise._table import Mode, Table
from shardwise._vocabulary import Vocabulary
from shardwise.store._in_place import InPlace
from shardwise.store._manifest import Manifest, read_manifest
from shardwise.store._state import map_state
from shardwise.store._verify import check
from shardwise.store._vocabulary import missing_file, read_file, sized

MODES: tuple[Mode, ...] = get_args(Mode)


@dataclass(frozen=True)
class Stored:
    """What a table directory holds: the table, its vocabulary if it has one, and the manifest.

    Example:
        >>> import tempfile
        >>> import numpy as np
        >>> from shardwise import Table, store
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     Table.from_array(np.zeros((3, 2))).save(folder, metadata={"made from": "zeros"})
        ...     stored = store.open_table(folder)
        >>> stored.table.shape, stored.vocabulary, stored.manifest.metadata
        ((3, 2), None, {'made from': 'zeros'})
    """

    table: Table
    vocabulary: Vocabulary | None
    manifest: Manifest


def open_table(path: str | os.PathLike[str], mode: Mode = "r", *, verify: bool = False) -> Stored:
    """Open the table directory at `path` by memory map; see `Table.open`.

    Example:
        >>> import tempfile, numpy as np
        >>> from shardwise import Table, store
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     store.write_table(f"{folder}/t", Table.from_array(np.eye(3), shards=2))
        ...     store.open_table(f"{folder}/t").table.lookup(2)
        array([0., 0., 1.])

    Raises:
        TableNotFoundError: there is no table.
        StoreError: it is broken, or of a newer version; or another process writes to it.
        OptionError: there is no such mode.
    """
    if not is_one_of(mode, MODES):
        raise OptionError(
            f"expected mode as one of {', '.join(map(repr, MODES))}, got {mode!r:.40}"
        )
    place = os.fspath(path)
    for _ in range(16):
        manifest = read_manifest(place)
        try:
            return _map_as(place, manifest, mode, verify)
        except FileNotFoundError as error:
            # Another process may have replaced the table between the two reads.
            if read_manifest(place).generation == manifest.generation:
                raise missing_file(place, error) from None
    raise StoreError(f"the table at {place} is replaced again and again; stop its writers first")


def _map_as(path: str, manifest: Manifest, mode: Mode, verify: bool) -> Stored:
    if mode != "r+":
        if verify:
            check(path, manifest)
        return _map(path, manifest, mode, None)
    files = InPlace(path)  # nobody replaces the table from here on
    try:
        if verify:
            check(path, files.manifest)
        return _map(path, files.manifest, mode, files)
    except BaseException:
        files.close()
        raise


def _map(path: str, manifest: Manifest, mode: Mode, files: InPlace | None) -> Stored:
    shards = map_shards(path, manifest, mode, range(manifest.partition.num_shards))
    table = Table._make(shards, manifest.partition, layout=manifest.layout, mode=mode, files=files)
    table._training = map_state(path, manifest, mode)
    return Stored(table, map_vocabulary(path, manifest), manifest)


def map_shards(
    path: str, manifest: Manifest, mode: Mode, shards: Sequence[int]
) -> list[NDArray[Any]]:
    """Return the rows of some shards of a table on disk, mapped.

    Raises:
        StoreError: a file is not what the format says.
        FileNotFoundError: one is not there.
    """
    layout, found = manifest.layout, []
    dtype, sizes = layout.stored_dtype, manifest.partition.shard_sizes
    for k in shards:
        entry, rows = manifest.shards[k], sizes[k]
        tensors = map_tensors(sized(path, entry), mode)
        shape = (rows, *layout.stored_shape)
        weight = tensors.get("weight")
        if weight is None or weight.shape != shape or weight.dtype != dtype:
            got = "none" if weight is None else f"{weight.dtype} of shape {weight.shape}"
            raise StoreError(
                f"{os.path.join(path, entry.file)} is broken: expected a tensor 'weight' of "
                f"{dtype} of shape {shape}, got {got}; write the table again"
            )
        found.append(weight)
    return found


def map_vocabulary(path: str, manifest: Manifest) -> Vocabulary | None:
    """Return the vocabulary of a table on disk, mapped; None if it has none."""
    if manifest.vocabulary is None:
        return None
    return read_file(sized(path, manifest.vocabulary), manifest)
