"""Members of zip archives, mapped where they are stored and unpacked where they are deflated.

The format is PKWARE's APPNOTE.TXT; `zipfile` reads its directory, this file the members.
"""

from __future__ import annotations

import io
import struct
import zipfile
import zlib
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from shardwise.formats._file import File, map_unpacked
from shardwise.formats._source import Progress

_LOCAL = b"PK\x03\x04"
_EMPTY = b"PK\x05\x06"
_LOCAL_BYTES = 30
_MAX_DIRECTORY = 16 << 20  # bytes: about 300,000 members
_STEP = 1 << 20
_MOST = 1032  # bytes that deflate can make of one


def is_zip(file: File) -> bool:
    return file.bytes[:4] in (_LOCAL, _EMPTY)


def members(file: File) -> dict[str, zipfile.ZipInfo]:
    """Return the members of an archive by name; of two with one name, the last.

    Raises:
        FormatError: it is no whole archive.
    """
    try:
        with zipfile.ZipFile(_Window(file)) as archive:
            return {info.filename: info for info in archive.infolist()}
    except (
        zipfile.BadZipFile,
        NotImplementedError,
        ValueError,
        EOFError,
        OverflowError,
        struct.error,
        OSError,
    ) as error:
        raise file.error(
            f"expected a zip archive with its directory at the end, got none ({error}); "
            "fetch the file again"
        ) from None


class _Window(io.RawIOBase):
    """An archive as a file object with a position of its own, for short reads."""

    def __init__(self, file: File) -> None:
        self._bytes = file.bytes
        self._at = 0

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = 0) -> int:
        at = offset + (0, self._at, len(self._bytes))[whence]
        if at < 0:
            raise OSError("a position before the file")
        self._at = at
        return at

    def tell(self) -> int:
        return self._at

    def read(self, size: int | None = -1) -> bytes:
        there = max(0, len(self._bytes) - self._at)
        size = there if size is None or size < 0 else min(size, there)
        if size > _MAX_DIRECTORY:
            raise OSError(f"a directory of {size} bytes")
        piece = self._bytes[self._at : self._at + size]
        self._at += len(piece)
        return piece


def span_of(file: File, info: zipfile.ZipInfo) -> tuple[int, int]:
    """Return where the bytes of a member begin and end in the archive.

    Raises:
        FormatError: not where the directory says, or it is encrypted, or packed in other ways
            than by deflate.
    """
    at = info.header_offset
    local = file.bytes[at : at + _LOCAL_BYTES] if 0 <= at < file.size else b""
    if len(local) < _LOCAL_BYTES or local[:4] != _LOCAL:
        raise file.error(
            f"member {info.filename!r}: expected its header at byte {at}, got {local[:4]!r}; "
            "fetch the file again"
        )
    begin = at + _LOCAL_BYTES + sum(struct.unpack("<HH", local[26:30]))
    end = begin + info.compress_size
    if end > file.size:
        raise file.error(
            f"member {info.filename!r}: expected {info.compress_size} bytes from byte {begin}, "
            f"got {max(0, file.size - begin)} before the end of the file; fetch the file again"
        )
    deflated = info.compress_type == zipfile.ZIP_DEFLATED
    if info.flag_bits & 1 or not (deflated or info.compress_type == zipfile.ZIP_STORED):
        how = "encrypted" if info.flag_bits & 1 else f"packed by method {info.compress_type}"
        raise file.error(
            f"member {info.filename!r}: expected it stored or deflated, got it {how}; "
            "write the archive again"
        )
    most = info.compress_size * _MOST if deflated else info.compress_size
    if info.file_size > most or (not deflated and info.file_size != most):
        raise file.error(
            f"member {info.filename!r}: expected at most {most} bytes of the "
            f"{info.compress_size} that it has in the archive, got a promise of {info.file_size}; "
            "fetch the file again"
        )
    return begin, end


def head_of(file: File, info: zipfile.ZipInfo, size: int) -> bytes:
    """Return the first `size` bytes of a member, or all of a shorter one.

    Raises:
        FormatError: the member is broken.
    """
    begin, end = span_of(file, info)
    size = min(size, info.file_size)
    if info.compress_type == zipfile.ZIP_STORED:
        return file.bytes[begin : begin + size]
    head = b""
    for piece in _inflated(file, info, begin, end):
        head += piece
        if len(head) >= size:
            break
    return head[:size]


def data_of(
    file: File, info: zipfile.ZipInfo, size: int, progress: Progress | None
) -> NDArray[np.uint8]:
    """Return the first `size` bytes of a member, at most all, mapped.

    A deflated one is unpacked to a temporary file, which has no name and goes with the array.

    Raises:
        FormatError: the member is broken, or the disk has no room for it.
    """
    begin, _ = span_of(file, info)
    size = min(size, info.file_size)
    if info.compress_type == zipfile.ZIP_STORED or size == 0:
        return file.data[begin : begin + size]
    pieces = _checked(file, info, size, progress)
    mapped = map_unpacked(file, f"member {info.filename!r}", pieces, size)
    return np.frombuffer(mapped, np.uint8)


def _checked(
    file: File, info: zipfile.ZipInfo, size: int, progress: Progress | None
) -> Iterator[bytes]:
    """The first `size` bytes of a member that is deflated; the checksum is that of the whole."""
    done = check = 0
    for piece in _inflated(file, info, *span_of(file, info)):
        check = zlib.crc32(piece, check)
        yield piece[: size - done]
        done += len(piece)
        if progress is not None:
            progress(min(done, size), size)
        if done > info.file_size or size <= done < info.file_size:
            break
    if done < size or (size == info.file_size and (done > size or check != info.CRC)):
        raise file.error(
            f"member {info.filename!r}: expected {info.file_size} bytes with the checksum "
            f"{info.CRC:#x}, got {done} with {check:#x}; fetch the file again"
        )


def _inflated(file: File, info: zipfile.ZipInfo, begin: int, end: int) -> Iterator[bytes]:
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    at = begin
    while not inflater.eof:
        packed = inflater.unconsumed_tail
        if not packed:
            packed = file.bytes[at : min(end, at + _STEP)]
            at += len(packed)
        try:
            piece = inflater.decompress(packed, _STEP)
        except zlib.error as error:
            raise file.error(
                f"member {info.filename!r}: expected deflated bytes, got others ({error}); "
                "fetch the file again"
            ) from None
        if not packed and not piece:
            raise file.error(
                f"member {info.filename!r}: expected the end of its deflated bytes before byte "
                f"{end}, got none; fetch the file again"
            )
        yield piece
