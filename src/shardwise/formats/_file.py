"""A file of vectors, mapped, and refused where it cannot be one."""

from __future__ import annotations

import errno
import mmap
import os
import re
import shutil
import stat
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from shardwise._errors import FormatError

StrPath: TypeAlias = str | os.PathLike[str]

BOM = b"\xef\xbb\xbf"

_MOST_KEPT_FREE = 1 << 30

# A pickle of any protocol, but not the one that torch.save began its files with.
_PICKLE = (
    rb"(?:\x80[\x02-\x05](?!(?:\x95.{8})?\x8a\nl\xfc\x9cF)|c[\w.]+\n\w+\n[pq(]"
    rb"|\((?:d|l|t)p0\n|[}\]]q\x00)"
)

# Files that people take for vectors, by their first bytes, and what to do then.
_FOREIGN = tuple(
    (re.compile(magic, re.DOTALL), kind, advice)
    for magic, kind, advice in (
        (rb"SQLite format 3\x00", "an SQLite database", "export its vectors as text first"),
        (rb"\xff\xfe|\xfe\xff", "UTF-16 text", "convert it first: iconv -f UTF-16 -t UTF-8 FILE"),
        (
            _PICKLE + rb".{0,60}gensim\.models\.keyedvectors",
            "vectors of gensim in a pickle, which could run any program",
            'export them where they came from: KeyedVectors.load("FILE")'
            '.save_word2vec_format("FILE.bin", binary=True); a FILE.vectors.npy beside it is '
            "read without its words",
        ),
        (
            _PICKLE + rb".{0,60}gensim\.models\.(?:deprecated\.)?fasttext",
            "a FastText model of gensim in a pickle, which could run any program",
            "export it where it came from: gensim.models.fasttext.save_facebook_model("
            'FastText.load("FILE"), "FILE.bin"), or its words alone: '
            'KeyedVectors.load("FILE").save_word2vec_format("FILE.bin", binary=True)',
        ),
        (
            _PICKLE + rb".{0,400}gensim",
            "a gensim model in a pickle, which could run any program",
            "export it where it came from: "
            'Word2Vec.load("FILE").wv.save_word2vec_format("FILE.bin", binary=True)',
        ),
        (
            _PICKLE,
            "a pickle, which could run any program",
            "export it where it came from: numpy.save for an array",
        ),
        (rb"\x89HDF\r\n", "an HDF5 file", "save the weights with numpy.save"),
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

    def refuse_foreign(self) -> None:
        """Raise FormatError for a file of a kind that is not read here, with what to do."""
        for magic, kind, advice in _FOREIGN:
            if magic.match(self.bytes):
                raise self.error(f"expected a file of vectors, got {kind}; {advice}")

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
    return File(name, mapped, np.frombuffer(mapped, np.uint8))


def map_unpacked(file: File, what: str, pieces: Iterable[bytes], size: int = 0) -> mmap.mmap:
    """Write what a file holds packed to a temporary file, which has no name and goes with the map.

    Its directory keeps some room for others.

    Args:
        file: for messages.
        what: what is unpacked, for messages.
        pieces: the bytes, at least one, about 1 MB at once.
        size: how many there will be, if that is known.

    Raises:
        FormatError: they need more room than there is.
    """
    folder = tempfile.gettempdir()
    with tempfile.TemporaryFile() as spill:
        try:
            _check_room(folder, size)
            for piece in pieces:
                _check_room(folder, len(piece))
                spill.write(piece)
            spill.flush()
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
                raise
            needed = f" for {size} bytes" if size else ""
            raise file.error(
                f"{what}: expected room{needed} in {folder} to unpack it, got too little after "
                f"{spill.tell()} bytes ({error.strerror}); let TMPDIR name a directory with more "
                "room, or unpack it first"
            ) from None
        return mmap.mmap(spill.fileno(), spill.tell(), access=mmap.ACCESS_READ)


def _check_room(folder: str, size: int) -> None:
    usage = shutil.disk_usage(folder)
    if usage.free - size < min(_MOST_KEPT_FREE, usage.total // 20):
        raise OSError(errno.ENOSPC, f"{usage.free} bytes are free")


def text_begin(file: File) -> int:
    """Where text begins: after a byte order mark, unless the mark is itself a token."""
    return 3 if file.bytes[:3] == BOM and file.bytes[3:4] not in (b" ", b"\t") else 0


def fields_of(line: bytes) -> list[bytes]:
    """Fields of a line between spaces or tabs; a leading separator makes an empty first field."""
    line = line.removesuffix(b"\r").replace(b"\t", b" ").rstrip(b" ")
    first = [b""] if line[:1] == b" " else []
    return first + [field for field in line.split(b" ") if field]
