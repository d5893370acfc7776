"""The file of an index: the graph, and the table that it was made of, to tell when it is stale."""

from __future__ import annotations

import json
from contextlib import closing
from typing import TYPE_CHECKING, Any

import numpy as np

from shardwise._errors import StoreError, TableError
from shardwise._safetensors import make_header, map_tensors
from shardwise.formats._write import replacing
from shardwise.store._files import FileReader, is_large
from shardwise.store._manifest import DataFile, Manifest, read_manifest

if TYPE_CHECKING:
    from shardwise._vectors import Vectors

_VERSION = 1
_BLOCK_BYTES = 8 << 20  # of a file, read at once


def origin_of(vectors: Vectors) -> tuple[str, Manifest]:
    """Return the directory of a table on disk, and what it held when it was opened.

    Raises:
        TableError: the vectors are in memory.
    """
    if vectors._origin is None:
        raise TableError(
            "expected vectors that were opened from a table on disk, to keep an index of them in "
            "a file, got ones in memory; save them, and open them with Vectors.open"
        )
    return vectors._origin


def state_of(vectors: Vectors) -> dict[str, Any]:
    """Return what tells a table on disk from what it was before, and from others.

    Raises:
        TableError: the table was replaced since it was opened.
    """
    path, opened = origin_of(vectors)
    manifest = read_manifest(path)
    if not _is_same(manifest, opened):
        raise TableError(
            f"expected the table at {path} as it was when it was opened, got one written since; "
            "open it again with Vectors.open"
        )
    # A file that was changed in place has no checksum, and its time does not tell: what is written
    # through a map does not always set it.
    files = [entry.xxh128 or _digest(path, entry) for entry in manifest.data_files()]
    return {
        "shape": list(manifest.shape),
        "dtype": manifest.dtype,
        # The same files are other rows where they are dealt out in another way.
        "partition": manifest.partition.to_json(),
        "files": files,
    }


def _digest(path: str, entry: DataFile) -> str:
    """Return the checksum of a data file as it is now."""
    import xxhash

    digest = xxhash.xxh3_128()
    with closing(FileReader(path, entry, release=is_large(entry.bytes))) as reader:
        block = np.empty(min(_BLOCK_BYTES, reader.size), np.uint8)
        for offset in range(0, reader.size, _BLOCK_BYTES):
            part = block[: reader.size - offset]
            reader.read(offset, part)
            digest.update(part.data)
    return digest.hexdigest()


def _is_same(manifest: Manifest, opened: Manifest) -> bool:
    """Whether a directory holds the table that was opened, or that one changed in place.

    The generation does not tell it alone: a directory that was removed and made again counts anew.
    """
    now, then = (
        (m.generation, m.shape, m.dtype, m.partition, [e.file for e in m.data_files()])
        for m in (manifest, opened)
    )
    digests = zip(manifest.data_files(), opened.data_files(), strict=False)
    return now == then and all(a.xxh128 in (None, b.xxh128) or b.xxh128 is None for a, b in digests)


def save_graph(graph: Any, path: str, state: dict[str, Any]) -> None:
    """Write a graph to a file, and what the table is that it was made of; whole or not at all."""
    import xxhash

    data = np.frombuffer(graph.save(), np.uint8)
    about = {
        "version": _VERSION,
        "library": "usearch",
        "dtype": str(graph.dtype.name).lower(),
        "rows": len(graph),
        "xxh128": xxhash.xxh3_128_hexdigest(data.data),
        "table": state,
    }
    text = np.frombuffer(json.dumps(about).encode(), np.uint8)
    tensors = {"graph": data, "about": text}
    header = make_header({name: (a.dtype, a.shape) for name, a in tensors.items()})
    with replacing(path, overwrite=True) as (_, file):
        for part in (header, data.data, text.data):
            file.write(part)


def open_graph(
    library: Any, path: str, state: dict[str, Any], width: int, expansion: int
) -> tuple[Any, Any]:
    """Return the graph of a file, and the mapped bytes in which it is searched.

    Args:
        library: usearch's.
        path: the file.
        state: what `state_of` says of the table now.
        width: how many values a row has.
        expansion: how many rows are looked at to answer a query.

    Raises:
        StoreError: the file is broken, or the index is one of another or earlier table.
    """
    import xxhash

    tensors = map_tensors(path)
    try:
        about = json.loads(bytes(tensors["about"]))
        data = tensors["graph"]
        version, stored = about["version"], about["table"]
        if version != _VERSION:
            raise StoreError(
                f"expected an index of version {_VERSION} at {path}, got {version!r:.40}; build it "
                "again with index(rebuild=True)"
            )
        if stored != state:
            raise StoreError(
                f"the index at {path} is stale: expected one of the table as it is now, got one of "
                "another or earlier one; build it again with index(rebuild=True)"
            )
        # A graph is followed without looking, so one that was damaged must not be.
        if about["xxh128"] != xxhash.xxh3_128_hexdigest(data.data):
            raise ValueError("expected the graph to have the checksum that the file says")
        graph = library.Index(ndim=width, metric="ip", dtype=about["dtype"])
        graph.view(data.data)
        graph.expansion_search = expansion
        if len(graph) != about["rows"] or graph.ndim != width:
            raise ValueError(f"expected {about['rows']} rows in the graph, got {len(graph)}")
    except StoreError:
        raise
    except (KeyError, TypeError, ValueError, RuntimeError, RecursionError) as error:
        what = f"expected {error}, got none" if isinstance(error, KeyError) else str(error)
        raise StoreError(
            f"{path} is broken: {what}; build it again with index(rebuild=True)"
        ) from None
    return graph, data
