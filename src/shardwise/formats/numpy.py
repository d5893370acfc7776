"""Being written."""

from __future__ import annotations

from shardwise.formats._file import File
from shardwise.formats._source import Options, Source


def is_npy(file: File) -> bool:
    return False


def is_npz(file: File) -> bool:
    return False


def open_npy(file: File, options: Options) -> Source:
    raise NotImplementedError


def open_npz(file: File, options: Options) -> Source:
    raise NotImplementedError
