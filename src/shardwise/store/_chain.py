"""`checkpoint.json`: a table at one moment, and the rows that changed after it, step by step."""

from __future__ import annotations

import json
import os
import re
import shutil
from dataclasses import dataclass
from typing import Any

from shardwise._errors import StoreError, TableNotFoundError
from shardwise._safetensors import open_file
from shardwise.store import _manifest
from shardwise.store._directory import MARK
from shardwise.store._manifest import DataFile, Manifest, as_data_file, read_manifest

NAME = "checkpoint.json"
VERSION = 1
_MAX_BYTES = 1 << 30
_BASE = re.compile(r"base-([1-9]\d{0,17})", re.ASCII)
_OURS = re.compile(r"delta-\d+-\d+\.safetensors|checkpoint\.json\.\d+\.new", re.ASCII)
_DIGEST = re.compile(r"[0-9a-f]{32}", re.ASCII)


@dataclass(frozen=True)
class Delta:
    """A file of rows that changed: how many, and how many updates there were by then."""

    file: DataFile
    rows: int
    step: int


@dataclass(frozen=True)
class Chain:
    """What a checkpoint holds.

    Attributes:
        number: of the base: the directory `base-<number>` is a table.
        digest: XXH128 of the base's `shardwise.json`.
        deltas: what changed after it, in this order.
    """

    number: int
    digest: str
    deltas: tuple[Delta, ...] = ()

    @property
    def base(self) -> str:
        """The name of the base's directory."""
        return f"base-{self.number}"

    @property
    def last(self) -> str:
        """The checksum that the next delta names, for it follows this and nothing else."""
        return str(self.deltas[-1].file.xxh128) if self.deltas else self.digest

    def to_json(self) -> str:
        """Return the content of `checkpoint.json`."""
        content = {
            "format": "shardwise-checkpoint",
            "version": VERSION,
            "base": {"directory": self.base, "xxh128": self.digest},
            "deltas": [
                {
                    "file": one.file.file,
                    "rows": one.rows,
                    "step": one.step,
                    "bytes": one.file.bytes,
                    "xxh128": one.file.xxh128,
                }
                for one in self.deltas
            ],
        }
        return json.dumps(content, indent=1) + "\n"


def read_text(path: str) -> str | None:
    """Return what `checkpoint.json` says, unread; None if there is none.

    Raises:
        StoreError: it is no regular file, or too large.
    """
    where = os.path.join(path, NAME)
    try:
        file, size = open_file(where)
    except (FileNotFoundError, NotADirectoryError):
        return None
    with file:
        if size > _MAX_BYTES:
            raise StoreError(f"{where} is broken: expected at most {_MAX_BYTES} bytes, got {size}")
        return file.read(size).decode("utf-8", "replace")


def parse_chain(path: str, text: str | None) -> Chain:
    """Return what the `checkpoint.json` of a directory says, checked in all its parts.

    Raises:
        TableNotFoundError: there is none.
        StoreError: it is broken, or of a newer version.
    """
    if text is None:
        raise TableNotFoundError(
            f"expected a checkpoint at {path}, got a directory or nothing without {NAME}; "
            "table.checkpoint(path) writes one"
        )
    where = os.path.join(path, NAME)
    try:
        content = json.loads(text)
        if not isinstance(content, dict) or content.get("format") != "shardwise-checkpoint":
            raise ValueError('expected an object with "format": "shardwise-checkpoint"')
        version = content.get("version")
        if type(version) is not int or version < 1:
            raise ValueError(f"expected a version from 1, got {version!r:.80}")
        if version <= VERSION:
            return _parse(content)
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        what = f"no {error}" if isinstance(error, KeyError) else str(error)
        raise StoreError(
            f"{where} is broken: {what}; remove the checkpoint, and write another"
        ) from None
    raise StoreError(
        f"expected a checkpoint of version {VERSION} or older at {path}, got version {version}; "
        "upgrade shardwise to read it"
    )


def _parse(content: dict[str, Any]) -> Chain:
    base = content["base"]["directory"]
    number = _BASE.fullmatch(base) if isinstance(base, str) else None
    if number is None:
        raise ValueError(f"expected a base named base-<number>, got {base!r:.80}")
    digest = content["base"]["xxh128"]
    if not isinstance(digest, str) or not _DIGEST.fullmatch(digest):
        raise ValueError(f"expected xxh128 of the base, got {digest!r:.80}")
    if not isinstance(content["deltas"], list):
        raise ValueError("expected a list of deltas")
    deltas = []
    for entry in content["deltas"]:
        file = as_data_file(entry)
        rows, step = entry["rows"], entry["step"]
        if not all(type(n) is int and 0 <= n < 1 << 62 for n in (rows, step)):
            raise ValueError(f"expected rows and step of {file.file}, got {[rows, step]!r:.80}")
        if file.xxh128 is None:
            raise ValueError(f"expected xxh128 of {file.file}, got none")
        deltas.append(Delta(file, rows, step))
    if len({one.file.file for one in deltas}) != len(deltas):
        raise ValueError("expected a file of its own for each delta")
    return Chain(int(number[1]), digest, tuple(deltas))


def base_manifest(path: str, chain: Chain) -> Manifest:
    """Return the manifest of the base.

    Raises:
        TableNotFoundError: it is not there.
        StoreError: it is not the one that the chain was made on, or broken.
    """
    base = os.path.join(path, chain.base)
    manifest = read_manifest(base)
    got = digest_of(base)
    if got != chain.digest:
        raise StoreError(
            f"the checkpoint at {path} is broken: expected the base that it was written with, of "
            f"checksum {chain.digest}, got {got} of {base}; remove the checkpoint, and write "
            "another"
        )
    return manifest


def digest_of(table: str) -> str:
    """Return XXH128 of a table's `shardwise.json`, which has the checksums of its files."""
    import xxhash

    file, size = open_file(os.path.join(table, _manifest.NAME))
    with file:
        return xxhash.xxh3_128_hexdigest(file.read(size))


def clean(path: str, keep: Chain | None) -> None:
    """Remove bases and deltas that are not, or not any more, part of the chain."""
    kept = set() if keep is None else {keep.base, *(one.file.file for one in keep.deltas)}
    for name in os.listdir(path):
        if name in kept or name in (NAME, MARK):
            continue
        where = os.path.join(path, name)
        if _OURS.fullmatch(name):
            os.unlink(where)
        elif _BASE.fullmatch(name):
            shutil.rmtree(where)
