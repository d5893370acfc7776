"""Checkpoints: a table as it is now, of which only the rows that changed are written."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shardwise import _native
from shardwise._changes import Changes
from shardwise._errors import StoreError, TableError, TableExistsError, require
from shardwise._safetensors import make_header
from shardwise._table import Table
from shardwise.store import _manifest
from shardwise.store._chain import (
    NAME,
    Chain,
    Delta,
    base_manifest,
    clean,
    digest_of,
    parse_chain,
    read_text,
)
from shardwise.store._deal import as_bytes
from shardwise.store._directory import commit_text, hold, make_directory, remove_empty
from shardwise.store._files import FileWriter, is_large
from shardwise.store._state import STEP
from shardwise.store._write import as_stored, stored_layout, write_table

_BLOCK_BYTES = 16 << 20
_MOST_DELTAS = 256  # all are mapped at once to restore them, and a process may open about 1,000


def write_checkpoint(
    table: Table,
    path: str | os.PathLike[str],
    *,
    overwrite: bool = False,
    whole: bool = False,
    progress: Callable[[int, int], object] | None = None,
) -> None:
    """Write what changed of a table since its last checkpoint; see `Table.checkpoint`.

    Example:
        >>> import tempfile
        >>> import numpy as np
        >>> from shardwise import Table, store
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     store.write_checkpoint(Table.from_array(np.zeros((3, 2)), copy=True), folder)
        ...     store.describe_checkpoint(folder)["deltas"]
        []
    """
    require(table, Table, "table", TableError)
    made = make_directory(os.fspath(path))
    place = os.path.realpath(path)  # the working directory, and links, may change
    try:
        with hold(place, NAME):
            _write(table, place, overwrite, whole, progress)
    except BaseException:
        if made and read_text(place) is None:
            remove_empty(place)
        raise


def _write(
    table: Table,
    place: str,
    overwrite: bool,
    whole: bool,
    progress: Callable[[int, int], object] | None,
) -> None:
    if os.path.exists(os.path.join(place, _manifest.NAME)):
        raise StoreError(
            f"expected a directory for checkpoints alone at {place}, got one that holds a table; "
            "choose another name"
        )
    text, changes = read_text(place), table._changes
    old = None if text is None else parse_chain(place, text)
    ours = changes is not None and (changes.path, changes.text) == (place, text)
    if old is not None and not ours and not overwrite:
        raise TableExistsError(
            f"expected no checkpoint at {place} but this table's own, got one that it was not "
            "restored from and did not write last; go on from it with Table.restore, choose "
            "another name, or pass overwrite=True"
        )
    clean(place, old)  # what a killed writer left
    kept, new = kept_of(table), None
    # What other threads change from here on is for the next checkpoint.
    later = table._changes = Changes.since(place, "", kept, len(table))
    try:
        if old is not None and changes is not None and ours:
            whole = whole or changes.whole or changes.kept != kept
            new = None if whole else _add_delta(table, place, old, changes)
        if new is None:
            number = 1 if old is None else old.number + 1
            base = os.path.join(place, f"base-{number}")
            write_table(base, table, progress=progress)
            new = Chain(number, digest_of(base))
        text = new.to_json()
        try:
            commit_text(place, NAME, text)
        finally:  # an error may come after the rename: what counts is what is there
            if read_text(place) == text:
                later.text = text
    finally:
        if not later.text and table._changes is later:
            table._changes = changes
            if changes is not None:
                changes.take(later)
        left = read_text(place)
        clean(place, None if left is None else parse_chain(place, left))


def kept_of(table: Table) -> tuple[str, ...] | None:
    """Return the family of the optimizer and the names of its state."""
    training = table._training
    return None if training is None else (training.family, *training.state)


def _add_delta(table: Table, place: str, old: Chain, changes: Changes) -> Chain | None:
    """Write the rows that changed; None where a base is due: the deltas are many, or large."""
    if len(old.deltas) >= _MOST_DELTAS:
        return None
    changes = changes.frozen()
    layout = stored_layout(
        table.row_format if table._layout.packed else table.dtype, table.shape[1:], table.dtype
    )
    training, count = table._training, changes.count()
    tensors = {
        "ids": (np.dtype(np.int64), (count,)),
        "weight": (layout.stored_dtype, (count, *layout.stored_shape)),
    }
    state = {} if training is None else training.state
    for name, arrays in state.items():
        tensors[name] = arrays[0].dtype, (count, *arrays[0].shape[1:])
    if training is not None:
        tensors[STEP] = np.dtype(np.int64), (1,)
    header = make_header(tensors, {"follows": old.last})
    size = len(header) + sum(math.prod(shape) * one.itemsize for one, shape in tensors.values())
    base = sum(file.bytes for file in base_manifest(place, old).data_files())
    if sum(one.file.bytes for one in old.deltas) + size > base:
        return None
    name = f"delta-{old.number}-{len(old.deltas) + 1:05d}.safetensors"
    writer = FileWriter(place, name, is_large(size))
    writer.write(np.frombuffer(header, np.uint8))

    def write(look_up: Callable[[NDArray[np.int64]], NDArray[Any]], row_bytes: int) -> None:
        for ids in changes.ids(max(1, _BLOCK_BYTES // max(1, row_bytes))):
            writer.write(as_bytes(look_up(ids)))

    stored = table._stored() if table._layout.packed else table
    write(lambda ids: ids, 8)
    write(lambda ids: as_stored(stored.lookup(ids), layout, 0), layout.row_bytes)
    for arrays in state.values():
        rows = _rows(table, arrays)
        write(rows, arrays[0].itemsize * math.prod(arrays[0].shape[1:]))
    step = 0
    if training is not None:
        step = training.step
        writer.write(as_bytes(np.array([step], np.int64)))
    return replace(old, deltas=(*old.deltas, Delta(writer.finish(), count, step)))


def _rows(table: Table, arrays: list[NDArray[Any]]) -> Callable[[NDArray[np.int64]], NDArray[Any]]:
    """What gives the rows of arrays that are cut like the table; files are read ahead."""
    tail, dtype = arrays[0].shape[1:], arrays[0].dtype
    row_bytes, mapped = math.prod(tail) * dtype.itemsize, table._mode is not None
    rows = _native.Rows(table.partition._core, arrays, dtype, tail, row_bytes, dtype.name, mapped)

    def look_up(ids: NDArray[np.int64]) -> NDArray[Any]:
        found = rows.lookup(ids)
        assert found is not None
        return found

    return look_up
