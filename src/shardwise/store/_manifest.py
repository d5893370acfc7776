"""`shardwise.json`: what a table directory holds."""

from __future__ import annotations

import json
import math
import os
import re
from dataclasses import dataclass, field
from typing import Any

from shardwise._errors import PartitionError, StoreError, TableNotFoundError
from shardwise._layout import Layout
from shardwise._partition import Partition
from shardwise._quantize import ROW_FORMATS
from shardwise._safetensors import (
    is_array_shape,
    is_storable,
    open_file,
    storable_dtype,
)

NAME = "shardwise.json"
VERSION = 1
_MAX_BYTES = 1 << 30
_LIMIT = 1 << 63
# A name, and no path: a manifest must not lead out of its directory.
_FILE_NAME = re.compile(r"\w[\w.-]{0,200}\.safetensors", re.ASCII)
_DIGEST = re.compile(r"[0-9a-f]{32}")


@dataclass(frozen=True)
class DataFile:
    """One data file: its name in the directory, its size, and XXH128 (seed 0) of all its bytes.

    `xxh128` is None where it is not known: the file was changed in place, or made without being
    filled.
    """

    file: str
    bytes: int
    xxh128: str | None


@dataclass(frozen=True)
class OptimizerFiles:
    """Where an optimizer's state lies.

    Attributes:
        family: whose it is, such as "adam".
        files: one for each shard.
    """

    family: str
    files: tuple[DataFile, ...]


@dataclass(frozen=True)
class Manifest:
    """What a table directory holds; `to_json` is the content of `shardwise.json`.

    Attributes:
        layout: how a row lies in the files.
        partition: how ids fall on the shards.
        shards: the files that hold the tensor "weight", one for each shard.
        vocabulary: the file that holds the tokens, or None.
        unknown_id: the id that stands for tokens outside the vocabulary, or None.
        generation: counts how often the table was written in this directory.
        metadata: the user's own.
        optimizer: the state of training, or None.

    Example:
        >>> import json, tempfile
        >>> import numpy as np
        >>> from shardwise import Table, store
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     Table.from_array(np.zeros((3, 2), np.float32), shards=2).save(folder)
        ...     manifest = store.open_table(folder).manifest
        >>> manifest.shape, manifest.dtype, manifest.row_format, manifest.generation
        ((3, 2), 'float32', 'float32', 1)
        >>> sorted(manifest.files()) == [one.file for one in manifest.data_files()]
        True
        >>> json.loads(manifest.to_json())["shape"]
        [3, 2]
    """

    layout: Layout
    partition: Partition
    shards: tuple[DataFile, ...]
    vocabulary: DataFile | None = None
    unknown_id: int | None = None
    generation: int = 1
    metadata: dict[str, Any] = field(default_factory=dict)
    optimizer: OptimizerFiles | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the whole table, rows first."""
        return (self.partition.num_rows, *self.layout.row_shape)

    @property
    def dtype(self) -> str:
        """The name of the elements' dtype, as they are looked up."""
        return self.layout.dtype.name

    @property
    def row_format(self) -> str:
        """How rows are stored: "int8" or "int4" where they are packed, else the dtype."""
        return self.layout.name

    def data_files(self) -> tuple[DataFile, ...]:
        """All data files: the shards', then the vocabulary's, then the optimizer's."""
        vocabulary = (self.vocabulary,) if self.vocabulary else ()
        return (*self.shards, *vocabulary, *(self.optimizer.files if self.optimizer else ()))

    def files(self) -> set[str]:
        """The names of all data files."""
        return {entry.file for entry in self.data_files()}

    def to_json(self) -> str:
        """Return the manifest as text."""
        sizes = self.partition.shard_sizes

        def described(files: tuple[DataFile, ...]) -> list[dict[str, Any]]:
            return [
                {"file": s.file, "rows": n, "bytes": s.bytes, "xxh128": s.xxh128}
                for s, n in zip(files, sizes, strict=True)
            ]

        optimizer = None
        if self.optimizer is not None:
            files = described(self.optimizer.files)
            optimizer = {"family": self.optimizer.family, "files": files}
        vocabulary = self.vocabulary and {**vars(self.vocabulary), "unknown_id": self.unknown_id}
        content = {
            "format": "shardwise",
            "version": VERSION,
            "generation": self.generation,
            "shape": list(self.shape),
            "dtype": self.dtype,
            "row_format": self.row_format,
            "partition": self.partition.to_json(),
            "shards": described(self.shards),
            "vocabulary": vocabulary,
            "optimizer": optimizer,
            "metadata": self.metadata,
        }
        return json.dumps(content, indent=1, allow_nan=False) + "\n"


def read_manifest(path: str) -> Manifest:
    """Return the manifest of the table directory at `path`, checked in all its parts.

    Raises:
        TableNotFoundError: there is none.
        StoreError: it is broken, or of a newer version.
    """
    where = os.path.join(path, NAME)
    try:
        file, size = open_file(where)
    except (FileNotFoundError, NotADirectoryError):
        raise TableNotFoundError(_not_found(path)) from None
    with file:
        if size > _MAX_BYTES:
            raise StoreError(f"{where} is broken: expected at most {_MAX_BYTES} bytes, got {size}")
        text = file.read(size)
    try:
        content = json.loads(text, parse_constant=_no_number)
    except (ValueError, RecursionError) as error:
        raise StoreError(f"{where} is broken: expected JSON, got {text[:40]!r} ({error})") from None
    if not isinstance(content, dict) or content.get("format") != "shardwise":
        raise StoreError(f'{where} is broken: expected an object with "format": "shardwise"')
    version = content.get("version")
    if type(version) is not int or version < 1:
        raise StoreError(f"{where} is broken: expected a version from 1, got {version!r:.80}")
    if version > VERSION:
        raise StoreError(
            f"expected a table of format version {VERSION} or older at {path}, got version "
            f"{version}; upgrade shardwise to read it"
        )
    try:
        return _parse(content)
    except (KeyError, TypeError, ValueError) as error:
        what = f"no {error}" if isinstance(error, KeyError) else str(error)
        raise StoreError(
            f"{where} is broken: {what}; restore the table from a copy, or write it again"
        ) from None


def _parse(content: dict[str, Any]) -> Manifest:
    shape = content["shape"]
    if not (isinstance(shape, list) and shape and all(type(n) is int and n >= 0 for n in shape)):
        raise ValueError(f"expected a shape of at least one axis, got {shape!r:.80}")
    dtype = content["dtype"]
    if not is_storable(dtype):
        raise ValueError(f"expected the name of a dtype, got {dtype!r:.80}")
    if not is_array_shape(shape, storable_dtype(dtype)):
        raise ValueError(f"expected a shape that an array can have, got {shape!r:.80}")
    row_format = content.get("row_format", dtype)
    if row_format != dtype and not (
        dtype == "float32" and isinstance(row_format, str) and row_format in ROW_FORMATS
    ):
        raise ValueError(
            f'expected row_format to be the dtype, or "int8" or "int4" for float32, got '
            f"{row_format!r:.40} for {dtype}"
        )
    if row_format != dtype and math.prod(shape[1:]) == 0:
        raise ValueError(f"expected rows of one value and more for {row_format}, got {shape!r:.80}")
    packed = None if row_format == dtype else ROW_FORMATS[row_format]
    layout = Layout(tuple(shape[1:]), storable_dtype(dtype), packed)
    row_bytes = layout.row_bytes
    partition = Partition.from_json(content["partition"])
    if partition.num_rows != shape[0]:
        raise PartitionError(f"expected a partition of {shape[0]} rows, got {partition!r:.80}")
    entries = content["shards"]
    if not isinstance(entries, list) or len(entries) != partition.num_shards:
        raise ValueError(f"expected a list of {partition.num_shards} shards")
    shards = tuple(as_data_file(entry) for entry in entries)
    for entry, shard, rows in zip(entries, shards, partition.shard_sizes, strict=True):
        if entry.get("rows") != rows or shard.bytes < rows * row_bytes:
            raise ValueError(
                f"expected {shard.file} to hold {rows} rows in at least {rows * row_bytes} bytes, "
                f"got {entry.get('rows')!r:.40} rows in {shard.bytes} bytes"
            )
    vocabulary, unknown_id = content.get("vocabulary"), None
    if vocabulary is not None:
        if not isinstance(vocabulary, dict):
            raise ValueError(f"expected vocabulary to be an object or null, got {vocabulary!r:.80}")
        unknown_id = vocabulary.get("unknown_id")
        if unknown_id is not None and not (type(unknown_id) is int and 0 <= unknown_id < shape[0]):
            raise ValueError(f"expected unknown_id to be a row or null, got {unknown_id!r:.80}")
        vocabulary = as_data_file(vocabulary)
    optimizer = _optimizer(content.get("optimizer"), partition)
    generation = content.get("generation")
    if type(generation) is not int or not 1 <= generation < _LIMIT:
        raise ValueError(f"expected a generation from 1, got {generation!r:.80}")
    metadata = content.get("metadata", {})
    if not isinstance(metadata, dict):
        raise ValueError("expected metadata to be an object")
    manifest = Manifest(
        layout,
        partition,
        shards,
        vocabulary,
        unknown_id,
        generation,
        metadata,
        optimizer,
    )
    if len(manifest.files()) != len(manifest.data_files()):
        raise ValueError("expected a file of its own for each shard, the vocabulary and the state")
    return manifest


def _optimizer(entry: Any, partition: Partition) -> OptimizerFiles | None:
    if entry is None:
        return None
    if not isinstance(entry, dict) or not isinstance(entry.get("family"), str):
        raise ValueError(f"expected optimizer to be an object with a family, got {entry!r:.80}")
    files = entry["files"]
    if not isinstance(files, list) or len(files) != partition.num_shards:
        raise ValueError(f"expected {partition.num_shards} files of the optimizer's state")
    found = tuple(as_data_file(file) for file in files)
    for file, one, rows in zip(files, found, partition.shard_sizes, strict=True):
        if file.get("rows") != rows:
            raise ValueError(
                f"expected {one.file} to hold the state of {rows} rows, "
                f"got {file.get('rows')!r:.40}"
            )
    return OptimizerFiles(entry["family"], found)


def as_data_file(entry: Any) -> DataFile:
    """Return what an entry of a manifest says of a file.

    Raises:
        ValueError: it is none; or another error of Python's, where keys are missing.
    """
    if not isinstance(entry, dict):
        raise ValueError(f"expected an object that describes a file, got {entry!r:.80}")
    name, size, digest = entry["file"], entry["bytes"], entry["xxh128"]
    if not isinstance(name, str) or not _FILE_NAME.fullmatch(name):
        raise ValueError(
            f"expected the name of a .safetensors file in this directory, got {name!r:.80}"
        )
    if type(size) is not int or not 0 <= size < _LIMIT:
        raise ValueError(f"expected the size of {name} in bytes, got {size!r:.40}")
    if digest is not None and not (isinstance(digest, str) and _DIGEST.fullmatch(digest)):
        raise ValueError(
            f"expected xxh128 of {name} as 32 lower-case hexadecimal digits, or null, "
            f"got {digest!r:.40}"
        )
    return DataFile(name, size, digest)


def _no_number(name: str) -> float:
    raise ValueError(f"{name} is no number of JSON")  # and could not be written again


def _not_found(path: str) -> str:
    if os.path.isfile(path):
        return (
            f"expected a table directory at {path}, got a file; "
            "make a table of a file of vectors with `shardwise convert`"
        )
    if os.path.isfile(os.path.join(path, "checkpoint.json")):
        return (
            f"expected a table at {path}, got a checkpoint; make it a table again with "
            "Table.restore(checkpoint, path), or with `shardwise restore`"
        )
    if os.path.isdir(path):
        return (
            f"expected a table at {path}, got a directory without {NAME}; "
            "is it the right one, or was the program that wrote it killed?"
        )
    return f"expected a table at {path}, got nothing of that name"
