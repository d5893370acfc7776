"""Data files, read in blocks and written as they grow: checksums, holes, and little memory."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from shardwise._errors import StoreError
from shardwise._safetensors import Tensor, open_file, read_header
from shardwise.store._manifest import DataFile

Bytes = NDArray[np.uint8]

_HELD = 200  # files of one table that are held open; a process may have about a thousand
_PAGE = 4096  # the least hole of most file systems
_EARLY = 32 << 20  # bytes after which the system is told to begin to write them to the disk


def is_large(size: int) -> bool:
    """Whether so many bytes would push out of the page cache what others need there."""
    if not hasattr(os, "posix_fadvise"):
        return False
    return size > os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2


class FileReader:
    """A data file that is read at any place, by any thread.

    Args:
        directory: where the table is.
        entry: the file.
        files: how many there are: few are held open, of many each is opened when it is read.
        release: give what was read back to the system.

    Raises:
        FileNotFoundError: there is no such file.
        StoreError: it is no regular file.
    """

    def __init__(
        self, directory: str, entry: DataFile, files: int = 1, release: bool = False
    ) -> None:
        self.path = os.path.join(directory, entry.file)
        self._release = release
        self._held, self.size = open_file(self.path)
        self._status = os.fstat(self._held.fileno())
        blocks = getattr(self._status, "st_blocks", None)
        self._sparse = blocks is not None and blocks * 512 < self.size and hasattr(os, "SEEK_DATA")
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(self._held.fileno(), 0, 0, os.POSIX_FADV_SEQUENTIAL)
        if files > _HELD:
            self._held.close()

    def header(self) -> dict[str, Tensor]:
        """Return where the tensors lie, by name.

        Raises:
            StoreError: the header is not what the format says.
        """
        with self._opened() as file:
            file.seek(0)
            return read_header(self.path, file, self.size)

    def read(self, offset: int, into: Bytes) -> None:
        """Fill `into` with the bytes from `offset` on.

        Raises:
            StoreError: the file is shorter, or is another one by now.
        """
        end = offset + into.size
        with self._opened() as file:
            at = offset
            while at < end:
                begin, stop = _data(file.fileno(), at, end) if self._sparse else (at, end)
                into[at - offset : begin - offset] = 0
                at = begin
                while at < stop:
                    count = os.preadv(file.fileno(), [into[at - offset : stop - offset].data], at)
                    if not count:
                        raise self._gone(f"{at} bytes")
                    at += count
            if self._release:
                os.posix_fadvise(file.fileno(), offset, into.size, os.POSIX_FADV_DONTNEED)

    def sync(self) -> None:
        """Wait until all that was written to the file, by anybody, is on the disk."""
        with self._opened() as file:
            os.fsync(file.fileno())

    def close(self) -> None:
        self._held.close()

    @contextmanager
    def _opened(self) -> Iterator[BinaryIO]:
        if not self._held.closed:
            yield self._held
            return
        try:
            file, _ = open_file(self.path)
        except FileNotFoundError:
            raise self._gone("none") from None
        with file:
            if not os.path.samestat(os.fstat(file.fileno()), self._status):
                raise self._gone("another one")
            yield file

    def _gone(self, got: str) -> StoreError:
        return StoreError(
            f"expected {self.path} to stay, a file of {self.size} bytes, while it is read, got "
            f"{got}; stop what writes there, and try again"
        )


def _data(descriptor: int, offset: int, end: int) -> tuple[int, int]:
    """Where the next bytes between `offset` and `end` lie that are no hole: those need no reading.

    Of a file that is cut meanwhile, this says that there are bytes, which then cannot be read.
    """
    try:
        begin = min(os.lseek(descriptor, offset, os.SEEK_DATA), end)
        return begin, min(os.lseek(descriptor, begin, os.SEEK_HOLE), end) if begin < end else end
    except OSError as error:
        if error.errno == errno.ENXIO and end <= os.fstat(descriptor).st_size:
            return end, end  # a hole to the end of the file
        return offset, end


class FileWriter:
    """A data file that grows; it is open only while it is written to, for shards may be many.

    Pages of zeros are not written: they become holes, and a table that is mostly empty stays so.

    Args:
        directory: where the table is.
        name: the file; nothing may have that name yet.
        release: give what is on the disk back to the system.
    """

    def __init__(self, directory: str, name: str, release: bool = False) -> None:
        import xxhash

        self._path = os.path.join(directory, name)
        self._name = name
        self._release = release
        self._bytes = 0
        self._sent = 0
        self._hash = xxhash.xxh3_128()
        self._later: list[Bytes] = []

    def write(self, data: Bytes) -> None:
        """Append bytes."""
        self.store(data)
        self.hash(data)

    def store(self, data: Bytes) -> None:
        """Append bytes without their checksum: call `hash` with the same, in the same order."""
        with open(self._path, "r+b" if self._bytes else "xb", buffering=0) as file:
            for begin, end in _filled(data, self._bytes):
                file.seek(self._bytes + begin)
                while begin < end:
                    begin += file.write(data[begin:end].data)
            self._bytes += data.size
            self._send(file)

    def hash(self, data: Bytes) -> None:
        self._hash.update(data.data)

    def later(self, data: Bytes) -> None:
        """Keep bytes that are to be appended: of many small pieces, several are written at once."""
        self._later.append(data)

    def flush(self) -> None:
        """Write what was kept."""
        if self._later:
            data = self._later[0] if len(self._later) == 1 else np.concatenate(self._later)
            self._later = []
            self.write(data)

    def finish(self) -> DataFile:
        """Wait until all of it is on the disk."""
        self.flush()
        with open(self._path, "r+b", buffering=0) as file:
            file.truncate(self._bytes)  # it may end with a hole
            os.fsync(file.fileno())
        return DataFile(self._name, self._bytes, self._hash.hexdigest())

    def _send(self, file: Any) -> None:
        """Have the system begin to write now, not when a good part of the memory is full of it."""
        if self._bytes - self._sent < _EARLY or not hasattr(os, "posix_fadvise"):
            return
        # The advice that bytes are not needed starts their way to the disk, and drops those
        # that are there already.
        begin = max(0, self._sent - _EARLY) if self._release else self._sent
        os.posix_fadvise(file.fileno(), begin, self._bytes - begin, os.POSIX_FADV_DONTNEED)
        self._sent = self._bytes


def _filled(data: Bytes, offset: int) -> Iterator[tuple[int, int]]:
    """The spans of data that are not pages of zeros, where they begin at `offset` of a file."""
    first = -offset % _PAGE  # of the pages that lie in it as a whole
    count = (data.size - first) // _PAGE
    if count <= 0:
        yield 0, data.size
        return
    pages = data[first : first + count * _PAGE].reshape(count, _PAGE)
    # A page whose first bytes are not zero is none of zeros: few pages are looked at in full.
    empty = np.flatnonzero(~pages[:, :8].any(axis=1))
    if empty.size:
        words = [
            pages[some].max(axis=1) == 0 for some in np.array_split(empty, -(-empty.size // 256))
        ]
        empty = empty[np.concatenate(words)]
    begin = 0
    for run in np.split(empty, np.flatnonzero(np.diff(empty) != 1) + 1) if empty.size else []:
        low, high = first + int(run[0]) * _PAGE, first + (int(run[-1]) + 1) * _PAGE
        if low > begin:
            yield begin, low
        begin = high
    if begin < data.size:
        yield begin, data.size
