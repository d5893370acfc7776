"""Being written."""

from __future__ import annotations

from shardwise.formats._file import File
from shardwise.formats._source import Options, Source


def is_index(file: File) -> bool:
    return False


def open_checkpoint(file: File, options: Options) -> Source:
    raise NotImplementedError


def file_of(path: str) -> str | None:
    return None
