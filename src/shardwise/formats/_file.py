"""A file of vectors, mapped, and refused where it cannot be one."""

from __future__ import annotations

import mmap
import os
import re
import stat
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from shardwise._errors import FormatError

StrPath: TypeAlias = str | os.PathLike[str]

BOM = b"\xef\xbb\xbf"

# Files that people take for vectors, by their first bytes, and what to do then.
_FOREIGN = tuple(
    (re.compile(magic, re.DOTALL), kind, advice)
    for magic, kind, advice in (
        (rb"\x1f\x8b", "gzip data", "decompress it first: gzip -dk FILE"),
        (rb"BZh[1-9]1AY&SY", "bzip2 data", "decompress it first: bzip2 -dk FILE"),
        (rb"\xfd7zXZ\x00", "xz data", "decompress it first: xz -dk FILE"),
        (rb"\x28\xb5\x2f\xfd", "zstandard data", "decompress it first: zstd -dk FILE"),
        (rb"PK\x03\x04", "a zip archive", "unpack it first: unzip FILE"),
        (rb"\xba\x16\x4f\x2f", "a fastText model", "read its .vec file instead"),
        (rb"FiFu\x00", "a finalfusion file", "convert it to word2vec or text first"),
        (rb"SQLite format 3\x00", "an SQLite database", "export its vectors as text first"),
        (rb"\x93NUMPY", "a NumPy array", "load it with numpy.load"),
        (rb"\xff\xfe|\xfe\xff", "UTF-16 text", "convert it first: iconv -f UTF-16 -t UTF-8 FILE"),
        (rb"version https://git-lfs", "a pointer of Git LFS", "fetch the file: git lfs pull"),
    )
)


@dataclass(frozen=True, eq=False)
class File:
    """A mapped file: `bytes` to search and slice, `data` the same as `uint8[size]`."""

    path: str
    bytes: mmap.mmap
    data: NDArray[np.uint8]

    @property
    def size(self) -> int:
        return len(self.bytes)

    def error(self, message: object) -> FormatError:
        return FormatError(f"{self.path}: {message}")

    def line_end(self, begin: int, most: int) -> int:
        """Where the line at `begin` ends, or `most` bytes of it."""
        stop = min(self.size, begin + most)
        end = self.bytes.find(b"\n", begin, stop)
        return stop if end < 0 else end


def map_file(path: StrPath) -> File:
    """Map a file for reading.

    Raises:
        FormatError: it is no regular file, is empty, or is of a kind that is not read here.
        OSError: it cannot be opened.
    """
    name = os.fspath(path)
    descriptor = os.open(name, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))  # a pipe would block
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            kind = "a directory" if stat.S_ISDIR(status.st_mode) else "no regular file"
            raise FormatError(f"{name}: expected a file of vectors, got {kind}; name the file")
        if status.st_size == 0:
            raise FormatError(f"{name}: expected vectors, got an empty file; fetch it again")
        mapped = mmap.mmap(descriptor, 0, access=mmap.ACCESS_READ)
    finally:
        os.close(descriptor)
    file = File(name, mapped, np.frombuffer(mapped, np.uint8))
    for magic, kind, advice in _FOREIGN:
        if magic.match(mapped):
            raise file.error(f"expected vectors in text or word2vec form, got {kind}; {advice}")
    return file


def text_begin(file: File) -> int:
    """Where text begins: after a byte order mark, unless the mark is itself a token."""
    return 3 if file.bytes[:3] == BOM and file.bytes[3:4] not in (b" ", b"\t") else 0


def fields_of(line: bytes) -> list[bytes]:
    """Fields of a line between spaces or tabs; a leading separator makes an empty first field."""
    line = line.removesuffix(b"\r").replace(b"\t", b" ").rstrip(b" ")
    first = [b""] if line[:1] == b" " else []
    return first + [field for field in line.split(b" ") if field]
