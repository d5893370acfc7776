"""Being written."""

from __future__ import annotations

from shardwise.formats._file import File
from shardwise.formats._source import Options, Source


def is_parquet(file: File) -> bool:
    return False


def is_arrow(file: File) -> bool:
    return False


def open_parquet(file: File, options: Options) -> Source:
    raise NotImplementedError


def open_arrow(file: File, options: Options) -> Source:
    raise NotImplementedError
