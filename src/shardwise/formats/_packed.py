"""Compressing a file of vectors while it is written."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO

from shardwise._errors import MissingLibraryError


@contextmanager
def packed(file: BinaryIO, ending: str) -> Iterator[BinaryIO]:
    """Give a file to write to, whose bytes come to `file` compressed; complete at the end.

    Raises:
        MissingLibraryError: the library that compresses is not installed.
    """
    with _COMPRESSORS[ending](file) as stream:
        yield stream


def _gzip(file: BinaryIO) -> Any:
    import gzip

    return gzip.GzipFile("", "wb", 6, file, mtime=0)  # the same bytes for the same rows


def _bzip2(file: BinaryIO) -> Any:
    import bz2

    return bz2.BZ2File(file, "wb")


def _xz(file: BinaryIO) -> Any:
    import lzma

    return lzma.LZMAFile(file, "wb")


def _zstandard(file: BinaryIO) -> Any:
    if sys.version_info >= (3, 14):
        from compression import zstd

        return zstd.ZstdFile(file, "wb")
    try:
        import zstandard
    except ImportError:
        raise MissingLibraryError(
            "expected the library zstandard to write zstd data, got none; install it: "
            'pip install "shardwise[zstd]", or let the name end in .gz or .xz'
        ) from None
    return zstandard.ZstdCompressor().stream_writer(file, closefd=False)


_COMPRESSORS: dict[str, Callable[[BinaryIO], Any]] = {
    ".gz": _gzip,
    ".bz2": _bzip2,
    ".xz": _xz,
    ".zst": _zstandard,
}
PACKED_ENDINGS = tuple(_COMPRESSORS)
