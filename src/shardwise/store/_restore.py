"""A checkpoint, made a table again: its base with the rows that changed after it, verified."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shardwise._changes import Changes
from shardwise._errors import StoreError, TableNotFoundError
from shardwise._safetensors import map_file
from shardwise._table import Table
from shardwise.store._chain import NAME, Chain, base_manifest, parse_chain, read_text
from shardwise.store._checkpoint import kept_of
from shardwise.store._manifest import Manifest
from shardwise.store._open import Stored, open_table
from shardwise.store._state import STEP, Saved, saved_state
from shardwise.store._verify import check_files
from shardwise.store._write import write_rows

_BLOCK_BYTES = 16 << 20
_ID_BLOCK = 1 << 20


@dataclass(frozen=True)
class _Loaded:
    """A chain whose files are mapped, and are what they were when they were written."""

    text: str
    stored: Stored
    deltas: list[dict[str, NDArray[Any]]]


def restore(
    checkpoint: str | os.PathLike[str],
    path: str | os.PathLike[str],
    *,
    overwrite: bool = False,
    progress: Callable[[int, int], object] | None = None,
) -> Manifest:
    """Write the table that a checkpoint holds to the directory `path`, with its optimizer's state.

    All of the checkpoint is read first and compared with its checksums. It takes little memory,
    whatever the table's size.

    Args:
        checkpoint: the directory that `table.checkpoint` wrote.
        path: the directory that is made.
        overwrite: replace a table that is there. If it has as many rows, its vocabulary and its
            metadata stay, for a checkpoint holds rows and state alone.
        progress: called with (rows done, rows in all).

    Raises:
        TableNotFoundError: there is no checkpoint.
        TableExistsError: there is a table at `path`, and `overwrite` is false.
        StoreError: the checkpoint is broken or damaged: nothing is written.

    Example:
        >>> import tempfile
        >>> import numpy as np
        >>> from shardwise import Table, store
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     Table.from_array(np.zeros((3, 2)), copy=True).checkpoint(f"{folder}/kept")
        ...     store.restore(f"{folder}/kept", f"{folder}/again").shape
        (3, 2)
    """
    return _restore(os.fspath(checkpoint), os.fspath(path), overwrite, progress)[0]


def restore_table(
    checkpoint: str | os.PathLike[str],
    path: str | os.PathLike[str],
    *,
    overwrite: bool = False,
    progress: Callable[[int, int], object] | None = None,
) -> Table:
    """Restore, and open what was restored so that its next checkpoint goes on with the chain.

    Example:
        >>> import tempfile
        >>> import numpy as np
        >>> from shardwise import Table, store
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     Table.from_array(np.zeros((3, 2)), copy=True).checkpoint(f"{folder}/kept")
        ...     with store.restore_table(f"{folder}/kept", f"{folder}/again") as table:
        ...         table.mode
        'r+'
    """
    _, text = _restore(os.fspath(checkpoint), os.fspath(path), overwrite, progress)
    table = open_table(path, "r+").table
    place = os.path.realpath(checkpoint)
    table._changes = Changes.since(place, text, kept_of(table), len(table))
    return table


def _restore(
    checkpoint: str,
    path: str,
    overwrite: bool,
    progress: Callable[[int, int], object] | None,
) -> tuple[Manifest, str]:
    loaded = _load(checkpoint)
    base = loaded.stored.table
    vocabulary, metadata = None, None
    if overwrite:
        try:
            replaced = open_table(path)
        except TableNotFoundError:
            pass
        else:
            if len(replaced.table) == len(base):
                vocabulary, metadata = replaced.vocabulary, replaced.manifest.metadata
    manifest = write_rows(
        path,
        _blocks(base, loaded.deltas),
        shape=base.shape,
        layout=loaded.stored.manifest.layout,
        partition=base.partition,
        vocabulary=vocabulary,
        overwrite=overwrite,
        metadata=metadata,
        progress=progress,
        state=_state(base, loaded),
    )
    return manifest, loaded.text


def _blocks(base: Table, deltas: Sequence[dict[str, NDArray[Any]]]) -> Iterator[NDArray[Any]]:
    """All rows in the order of their ids, each as the last delta that has it says."""
    source = base._stored()
    step = max(1, _BLOCK_BYTES // max(1, base._layout.row_bytes))
    for begin in range(0, len(base), step):
        end = min(len(base), begin + step)
        block = source.lookup(np.arange(begin, end))
        for delta in deltas:
            where = slice(*np.searchsorted(delta["ids"], (begin, end)))
            block[delta["ids"][where] - begin] = delta["weight"][where]
        yield block


def _state(base: Table, loaded: _Loaded) -> Saved | None:
    saved = saved_state(base, loaded.stored.manifest.layout, base.partition)
    if saved is None:
        return None
    old, partition = saved, base.partition

    def rows(name: str, shard: int, begin: int, end: int) -> NDArray[Any]:
        block = np.array(old.rows(name, shard, begin, end))
        first, last = (int(partition.ids_of(shard, row)) for row in (begin, end - 1))
        for delta in loaded.deltas:
            where = slice(*np.searchsorted(delta["ids"], (first, last + 1)))
            shards, places = partition.locate(delta["ids"][where])
            here = shards == shard
            block[places[here] - begin] = delta[name][where][here]
        return block

    step = int(loaded.deltas[-1][STEP][0]) if loaded.deltas else old.step
    return Saved(old.family, step, old.tensors, rows)


def describe_checkpoint(path: str | os.PathLike[str]) -> dict[str, Any] | None:
    """Return what a checkpoint holds, as a JSON object; None if there is no checkpoint at `path`.

    Keys: `path`, `shape`, `row_format`, `partition`, `base` (`directory`, `rows`, `bytes`, `step`),
    `deltas` (of each `file`, `rows`, `bytes`, `step`, in their order), `bytes` of all, `step`: how
    many updates there were at the last one, and `optimizer`: None or its family.

    Raises:
        StoreError: the checkpoint is broken, as far as can be told without reading its rows.

    Example:
        >>> import tempfile
        >>> import numpy as np
        >>> from shardwise import Table, store
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     table = Table.from_array(np.zeros((3, 2)), copy=True)
        ...     table.checkpoint(folder)
        ...     table.write([1], [[5, 6]])
        ...     table.checkpoint(folder)
        ...     about = store.describe_checkpoint(folder)
        >>> about["base"]["rows"], [delta["rows"] for delta in about["deltas"]]
        (3, [1])
    """
    place = os.fspath(path)
    text = read_text(place)
    if text is None:
        return None
    chain = parse_chain(place, text)
    manifest = base_manifest(place, chain)
    stored = open_table(os.path.join(place, chain.base))
    step = stored.table.optimizer_step
    size = sum(file.bytes for file in manifest.data_files())
    base = {
        "directory": chain.base,
        "rows": len(stored.table),
        "bytes": size,
        "step": step,
    }
    deltas = [
        {"file": one.file.file, "rows": one.rows, "bytes": one.file.bytes, "step": one.step}
        for one in chain.deltas
    ]
    return {
        "path": place,
        "shape": list(manifest.shape),
        "row_format": manifest.row_format,
        "partition": manifest.partition.to_json(),
        "base": base,
        "deltas": deltas,
        "bytes": size + sum(one.file.bytes for one in chain.deltas),
        "step": chain.deltas[-1].step if deltas else step,
        "optimizer": manifest.optimizer and manifest.optimizer.family,
    }


def _load(path: str) -> _Loaded:
    for _ in range(16):
        text = read_text(path)
        chain = parse_chain(path, text)
        assert text is not None
        try:
            return _map(path, text, chain)
        except (FileNotFoundError, TableNotFoundError) as error:
            if read_text(path) == text:  # else another checkpoint was written meanwhile
                raise StoreError(
                    f"the checkpoint at {path} is broken: expected the files that {NAME} names, "
                    f"got {error}; restore it from a copy"
                ) from None
    raise StoreError(f"the checkpoint at {path} is replaced again and again; stop its writers")


def _map(path: str, text: str, chain: Chain) -> _Loaded:
    base_manifest(path, chain)
    stored = open_table(os.path.join(path, chain.base), verify=True)
    found = check_files(path, [one.file for one in chain.deltas], None)
    for one in found:
        if one.state == "missing":
            raise FileNotFoundError(f"no {one.file}")
        if one.state != "ok":
            raise _broken(path, one.file, "the bytes that it was written with", "others")
    table, follows, deltas = stored.table, chain.digest, []
    layout = stored.manifest.layout
    expected: dict[str, tuple[np.dtype[Any], tuple[int, ...]]] = {
        "ids": (np.dtype(np.int64), ()),
        "weight": (layout.stored_dtype, layout.stored_shape),
    }
    for name, arrays in table.optimizer_state.items():
        expected[name] = arrays[0].dtype, arrays[0].shape[1:]
    for entry in chain.deltas:
        file = entry.file.file
        tensors, metadata, _ = map_file(os.path.join(path, file))
        if metadata.get("follows") != follows:
            raise _broken(path, file, f"one that follows {follows}", metadata.get("follows"))
        shapes = {name: (dtype, (entry.rows, *tail)) for name, (dtype, tail) in expected.items()}
        if table._training is not None:
            shapes[STEP] = np.dtype(np.int64), (1,)
        got = {name: (tensor.dtype, tensor.shape) for name, tensor in tensors.items()}
        if got != shapes:
            raise _broken(path, file, f"the tensors {shapes}", got)
        _check_ids(path, file, tensors["ids"], len(table))
        if STEP in shapes and tensors[STEP][0] != entry.step:
            raise _broken(path, file, f"step {entry.step}", tensors[STEP][0])
        deltas.append(tensors)
        follows = str(entry.file.xxh128)
    return _Loaded(text, stored, deltas)


def _check_ids(path: str, file: str, ids: NDArray[np.int64], rows: int) -> None:
    before = -1
    for begin in range(0, len(ids), _ID_BLOCK):
        block = ids[begin : begin + _ID_BLOCK]
        if not (before < block[0] and block[-1] < rows and (block[1:] > block[:-1]).all()):
            raise _broken(path, file, f"ids below {rows} in ascending order", "others")
        before = int(block[-1])


def _broken(path: str, file: str, expected: str, got: object) -> StoreError:
    return StoreError(
        f"the checkpoint at {path} is broken: expected {file} to hold {expected}, got {got}; "
        "restore the checkpoint from a copy"
    )
