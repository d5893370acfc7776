"""Being written."""

from __future__ import annotations

from shardwise.formats._file import File
from shardwise.formats._source import Options


def unpacked(file: File, options: Options) -> File:
    return file
