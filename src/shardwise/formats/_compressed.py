"""Compressed files of vectors: unpacked to a temporary file to be read, packed while written."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, BinaryIO, Protocol

import numpy as np

from shardwise._errors import FormatError, MissingLibraryError
from shardwise.formats._file import File, map_unpacked
from shardwise.formats._source import Options

_STEP = 1 << 20  # of unpacked bytes: between two looks at Ctrl-C, at the free space, at the lines
_MEMORY = 512 << 20  # that xz may ask for; its largest preset needs 65 MB
_SAMPLE_LINES = 1000  # that tell how many values a row has
_CONTROL = bytes(set(range(32)) - set(b"\t\n\r"))  # no text has them, and no other data lacks them
# A header of rows of one value is told from such a row by the number of lines: all are needed.
_NARROW = re.compile(rb"(\xef\xbb\xbf)?[ \t]*\d+[ \t]+0*1[ \t\r]*\n")
_NOT_PADDING = re.compile(rb"[^\0]")


class _Decoder(Protocol):
    @property
    def eof(self) -> bool: ...
    @property
    def needs_input(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes, max_length: int) -> bytes: ...


@dataclass(frozen=True)
class Kind:
    """A form of compression: its name, how it begins, what it goes on with, how it is read."""

    name: str
    magic: re.Pattern[bytes]
    more: re.Pattern[bytes]
    decoder: Callable[[], _Decoder]
    feed: int = 1 << 16  # compressed bytes a call


# The libraries are imported where they are needed: most files are not compressed.


class _Gzip:
    def __init__(self) -> None:
        import zlib

        self._stream = zlib.decompressobj(wbits=31)

    @property
    def eof(self) -> bool:
        return self._stream.eof

    @property
    def needs_input(self) -> bool:
        return not self._stream.unconsumed_tail

    @property
    def unused_data(self) -> bytes:
        return self._stream.unused_data

    def decompress(self, data: bytes, max_length: int) -> bytes:
        return self._stream.decompress(self._stream.unconsumed_tail + data, max_length)


class _Zstandard:
    """The decoder of the library `zstandard`, which gives all that its input makes, at once."""

    needs_input = True

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    @property
    def eof(self) -> bool:
        return bool(self._stream.eof)

    @property
    def unused_data(self) -> bytes:
        return bytes(self._stream.unused_data)

    def decompress(self, data: bytes, max_length: int) -> bytes:
        return bytes(self._stream.decompress(data)) if data else b""


def _bzip2() -> _Decoder:
    import bz2

    return bz2.BZ2Decompressor()


def _xz() -> _Decoder:
    import lzma

    return lzma.LZMADecompressor(lzma.FORMAT_XZ, _MEMORY)


def _lzma() -> _Decoder:
    import lzma

    return lzma.LZMADecompressor(lzma.FORMAT_ALONE, _MEMORY)


def _zstandard() -> _Decoder:
    if sys.version_info >= (3, 14):
        from compression import zstd

        return zstd.ZstdDecompressor()
    return _Zstandard(_import_zstandard().ZstdDecompressor().decompressobj())


def _import_zstandard() -> Any:
    try:
        import zstandard
    except ImportError:
        raise MissingLibraryError(
            "expected the library zstandard to read and write zstd data, got none; install it: "
            'pip install "shardwise[zstd]"; or use the program zstd'
        ) from None
    return zstandard


def _pattern(magic: bytes) -> re.Pattern[bytes]:
    return re.compile(magic, re.DOTALL)


_GZIP = _pattern(rb"\x1f\x8b\x08")
_BZIP2 = _pattern(rb"BZh[1-9](1AY&SY|\x17rE8P\x90)")
_XZ = _pattern(rb"\xfd7zXZ\x00")
# Its first bytes alone could be those of a number: a power of two and a size make it sure.
_LZMA = _pattern(
    rb"\x5d(\0\0[\x01\x02\x04\x08\x10\x20\x40\x80]\0|\0\0\0[\x01\x02\x04\x08\x10\x20\x40\x80])"
    rb"(\xff{8}|.{5}\0{3})"
)
_ZSTD = _pattern(rb"\x28\xb5\x2f\xfd")
_ZSTD_MORE = _pattern(rb"\x28\xb5\x2f\xfd|[\x50-\x5f]\x2a\x4d\x18")  # also frames to be skipped

_KINDS = (
    Kind("gzip", _GZIP, _GZIP, _Gzip),
    Kind("bzip2", _BZIP2, _BZIP2, _bzip2),
    Kind("xz", _XZ, _XZ, _xz),
    Kind("lzma", _LZMA, _LZMA, _lzma),
    # Four bytes may make 128 KB, and the library gives all at once: that makes 64 MB at most.
    Kind("zstd", _ZSTD, _ZSTD_MORE, _zstandard, 1 << 11),
)


def unpacked(file: File, options: Options) -> File:
    """Return the file that a compressed file holds; any other file is returned as it is.

    With `options.limit`, text is unpacked as far as it is needed.

    Raises:
        FormatError: the data is cut off or damaged, is compressed twice, or needs more room than
            the temporary directory has.
        MissingLibraryError: it is zstd data, and its library is not installed.
    """
    kind = kind_of(file)
    if kind is None:
        return file
    mapped = map_unpacked(file, f"{kind.name} data", _unpack(file, kind, options))
    inner = replace(file, bytes=mapped, data=np.frombuffer(mapped, np.uint8))
    if (again := kind_of(inner)) is not None:
        raise file.error(
            f"expected vectors in the {kind.name} data, got {again.name} data; it is compressed "
            "twice, unpack it once first"
        )
    return inner


def kind_of(file: File) -> Kind | None:
    """Return the form of compression of the file, by how it begins; None if it has none."""
    return next((kind for kind in _KINDS if kind.magic.match(file.bytes)), None)


def _unpack(file: File, kind: Kind, options: Options) -> Iterator[bytes]:
    """Yield what the file holds, as much of it as is needed."""
    lines = None if options.limit is None else _Lines(max(options.limit, _SAMPLE_LINES) + 1)
    at = done = told = 0
    for piece, at in pieces(file, kind):
        enough = None if lines is None else lines.enough(piece)
        yield piece[:enough]
        done += len(piece)
        if enough is not None:
            break
        if options.progress is not None and done - told >= 4 * _STEP:
            told = done
            options.progress(at, file.size)
    if not done:
        raise file.error(f"expected vectors, got {kind.name} data of nothing; fetch it again")
    if options.progress is not None:
        options.progress(at, file.size)


def pieces(file: File, kind: Kind) -> Iterator[tuple[bytes, int]]:
    """Yield unpacked bytes, and how far they bring us in the compressed ones.

    Raises:
        FormatError: the data is cut off or damaged.
        MissingLibraryError: the library that unpacks it is not installed.
    """
    at = 0
    while at < file.size:
        start = at
        decoder = kind.decoder()
        while not decoder.eof:
            data = file.bytes[at : at + kind.feed] if decoder.needs_input else b""
            try:
                piece = decoder.decompress(data, _STEP)
            except MemoryError:
                raise
            except Exception as error:  # each library has its own
                raise _broken(file, kind, f"damaged data ({error})", at) from None
            at += len(data)
            if not (data or piece or decoder.eof):
                raise _broken(file, kind, "the end of the file", file.size)
            yield piece, at
        at -= len(decoder.unused_data)
        assert at > start
        padding_ends = _NOT_PADDING.search(file.bytes, at)
        if padding_ends is None:
            return
        at = padding_ends.start()
        if not kind.more.match(file.bytes, at):
            raise _broken(file, kind, f"{file.bytes[at : at + 16]!r}", at)


def _broken(file: File, kind: Kind, got: str, at: int) -> FormatError:
    return file.error(
        f"expected {kind.name} data to the end, got {got} at byte {at}; fetch it again"
    )


class _Lines:
    """Counts the lines of a text, to stop where there are enough of them."""

    def __init__(self, wanted: int) -> None:
        self._wanted = wanted
        self._head = b""

    def enough(self, piece: bytes) -> int | None:
        """Return how many bytes of the next piece end the last line that is wanted."""
        if len(self._head) < 128:
            self._head += piece[:128]
        if self._wanted == 0 or len(piece.translate(None, _CONTROL)) != len(piece):
            self._wanted = 0  # no text: all of it is wanted
            return None
        count = piece.count(b"\n")
        if count < self._wanted:
            self._wanted -= count
            return None
        if _NARROW.match(self._head):
            self._wanted = 0
            return None
        ends = np.flatnonzero(np.frombuffer(piece, np.uint8) == ord("\n"))
        return int(ends[self._wanted - 1]) + 1


@contextmanager
def packed(file: BinaryIO, ending: str) -> Iterator[BinaryIO]:
    """Give a file to write to, whose bytes come to `file` compressed; complete at the end.

    Raises:
        MissingLibraryError: the library that compresses is not installed.
    """
    with _COMPRESSORS[ending](file) as stream:
        yield stream


def _gzip_writer(file: BinaryIO) -> Any:
    import gzip

    return gzip.GzipFile("", "wb", 6, file, mtime=0)  # the same bytes for the same rows


def _bzip2_writer(file: BinaryIO) -> Any:
    import bz2

    return bz2.BZ2File(file, "wb")


def _xz_writer(file: BinaryIO) -> Any:
    import lzma

    return lzma.LZMAFile(file, "wb")


def _zstandard_writer(file: BinaryIO) -> Any:
    if sys.version_info >= (3, 14):
        from compression import zstd

        return zstd.ZstdFile(file, "wb")
    return _import_zstandard().ZstdCompressor().stream_writer(file, closefd=False)


_COMPRESSORS: dict[str, Callable[[BinaryIO], Any]] = {
    ".gz": _gzip_writer,
    ".bz2": _bzip2_writer,
    ".xz": _xz_writer,
    ".zst": _zstandard_writer,
}
PACKED_ENDINGS = tuple(_COMPRESSORS)
