"""Being written."""

from __future__ import annotations

from shardwise.formats._file import File
from shardwise.formats._source import Options, Source


def is_file(file: File) -> bool:
    return False


def open_file(file: File, options: Options) -> Source:
    raise NotImplementedError
