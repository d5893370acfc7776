"""Counting the tokens of texts and of iterables."""

from __future__ import annotations

import io
import mmap
import os
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import islice
from typing import Any, TypeAlias

import numpy as np

from shardwise import _native
from shardwise._errors import FormatError, OptionError, TokenTypeError, VocabularyError
from shardwise._tokens import (
    Bytes,
    Ids,
    arrow_tokens,
    as_arrow,
    pack_tokens,
    token_bytes,
)

StrPath: TypeAlias = str | os.PathLike[str]
Progress: TypeAlias = Callable[[int, int], object]

_STEP = 1 << 20  # bytes that are read between two looks at Ctrl-C
_BLOCK = 8 << 20  # bytes of text that are counted at once
_CHUNK = 1 << 16  # tokens of an iterable that are taken at once


# ---- text ----


def count_text(
    paths: StrPath | Iterable[StrPath], progress: Progress | None = None
) -> _native.TokenCounts:
    """Count the tokens of text files: the runs of bytes without ASCII white space.

    Files that are compressed with gzip, bzip2, xz or zstd are unpacked as they are read. A token
    does not go on in the next file. The memory grows with the distinct tokens only.

    Args:
        paths: one file or several; a pipe is read, too.
        progress: called with (bytes done, bytes in all), of compressed files as they are on disk.

    Raises:
        OSError: a file cannot be read.
        FormatError: compressed data is cut off or damaged, or the text is UTF-16.
        OptionError: no file is named.
        MissingLibraryError: it is zstd data, and its library is not installed.
    """
    counts = _native.TokenCounts()
    read_text(paths, counts.count_text, progress)
    return counts


def read_text(
    paths: StrPath | Iterable[StrPath],
    take: Callable[[Bytes, bool], int],
    progress: Progress | None = None,
) -> None:
    """Give the text of files to `take`, in blocks; see `count_text`, which it raises the same as.

    Args:
        paths: one file or several.
        take: called with (text, whether it is the last of its file); it returns how many bytes it
            used, all of the last ones; the rest comes again.
        progress: as for `count_text`.
    """
    if isinstance(paths, bytes):
        raise OptionError(f"expected paths as str or os.PathLike, got {paths!r:.60}")
    several = [paths] if isinstance(paths, (str, os.PathLike)) else paths
    names = [os.fspath(path) for path in several]
    if not names:
        raise OptionError("expected at least one file, got none; name the files")
    total = sum(os.stat(name).st_size for name in names)
    done = 0
    for name in names:
        at = 0
        for at in _read_file(name, take):
            if progress is not None:
                progress(done + at, total)
        done += at


def _read_file(name: str, take: Callable[[Bytes, bool], int]) -> Iterator[int]:
    """Give the text of a file to `take`; yield how far each block brought us in it."""
    # Read, not mapped: a text that somebody cuts meanwhile must not end the process.
    with _opened(name) as text:
        buffer = np.empty(_BLOCK, np.uint8)
        held = at = 0
        while True:
            while held < buffer.size and (got := text.fill(buffer.data[held:])):
                held += got
            last = held < buffer.size
            begin = _after_mark(name, buffer[:held]) if at == 0 else 0
            used = take(buffer[begin:held], last) + begin
            at += used
            yield text.at
            if last:
                return
            rest = buffer[used:held]
            if not used:  # a token longer than the buffer
                buffer = np.empty(2 * buffer.size, np.uint8)
            buffer[: rest.size] = rest
            held = rest.size


def _after_mark(name: str, text: Bytes) -> int:
    """Where the text begins: a byte order mark is no part of its first token."""
    head = text[:3].tobytes()
    if head[:2] in (b"\xff\xfe", b"\xfe\xff"):
        raise FormatError(
            f"{name}: expected UTF-8, or another code that has ASCII in it, got UTF-16; convert "
            "it first: iconv -f UTF-16 -t UTF-8 FILE"
        )
    return 3 if head == b"\xef\xbb\xbf" else 0


class _Plain:
    """A file as it is: `at` says how far it was read."""

    def __init__(self, raw: io.FileIO) -> None:
        self._raw = raw
        self.at = 0

    def fill(self, room: memoryview) -> int:
        """Read at least one byte; return how many, 0 at the end."""
        got = self._raw.readinto(room[:_STEP]) or 0
        self.at += got
        return got


class _Packed(_Plain):
    """A file that is unpacked: `at` says how far that brought us in what is on disk."""

    def __init__(self, raw: io.FileIO, pieces: Iterator[tuple[bytes, int]]) -> None:
        super().__init__(raw)
        self._pieces = pieces
        self._piece = memoryview(b"")

    def fill(self, room: memoryview) -> int:
        while not self._piece:
            found = next(self._pieces, None)
            if found is None:
                return 0
            self._piece, self.at = memoryview(found[0]), found[1]
        got = min(len(room), len(self._piece))
        room[:got] = self._piece[:got]
        self._piece = self._piece[got:]
        return got


@contextmanager
def _opened(name: str) -> Iterator[_Plain]:
    # Upwards, when it is called: the formats know how compressed files are read.
    from shardwise.formats._compressed import kind_of, pieces
    from shardwise.formats._file import File

    with open(name, "rb", buffering=0) as raw:
        status = os.fstat(raw.fileno())
        if stat.S_ISREG(status.st_mode) and status.st_size:
            mapped = mmap.mmap(raw.fileno(), 0, access=mmap.ACCESS_READ)
            file = File(name, mapped, np.frombuffer(mapped, np.uint8))
            kind = kind_of(file)
            if kind is not None:
                yield _Packed(raw, pieces(file, kind))
                return
        yield _Plain(raw)


# ---- iterables ----


def count_tokens(tokens: Any, progress: Progress | None = None) -> _native.TokenCounts:
    """Count tokens that are there already.

    Args:
        tokens: an iterable of tokens, of sentences (iterables of tokens) or of both; an Arrow
            array of strings; or a mapping of tokens to how often each was seen. A `str` is one
            token, and is not cut. What is iterated is not kept.
        progress: called with (tokens done, 0): how many there will be is not known.

    Raises:
        TokenTypeError: something is neither `str` nor `bytes` nor an iterable of them, or `tokens`
            is one token.
        VocabularyError: a token cannot be written as UTF-8.
        OptionError: a count of the mapping is no integer, is negative, or takes all of them
            beyond 64 bits.
    """
    if isinstance(tokens, (str, bytes)):
        raise TokenTypeError(
            f"expected an iterable of tokens, got one token, {tokens!r:.60}; cut it first "
            "(`text.split()`), or see build_from_text for files"
        )
    counts = _native.TokenCounts()
    done = seen = 0
    weighted = isinstance(tokens, Mapping)
    for chunk in _chunks(tokens):
        data, offsets = _packed(chunk, done)
        if weighted:
            weights = [_weight(tokens[token], token) for token in chunk]
            seen += sum(weights)
            if seen >= 1 << 63:
                raise OptionError(f"expected counts of less than 2**63 in all, got {seen}")
            counts.add(data, offsets, np.array(weights, np.int64))
        else:
            counts.count_tokens(data, offsets)
        done += len(chunk)
        if progress is not None:
            progress(done, 0)
    return counts


def _chunks(tokens: Any) -> Iterator[list[Any]]:
    """Yield the tokens in lists of bounded length."""
    array = as_arrow(tokens)
    if array is not None:
        if array.null_count:
            raise TokenTypeError(
                f"expected tokens, got {array.null_count} nulls; drop them, or fill them with a "
                "token (`fill_null`)"
            )
        for begin in range(0, len(array), _CHUNK):
            part = array.slice(begin, _CHUNK)
            yield arrow_tokens(part, np.arange(len(part)))
        return
    try:
        items = iter(tokens)
    except TypeError:
        raise TokenTypeError(f"expected an iterable of tokens, got {tokens!r:.60}") from None
    if isinstance(tokens, Mapping):  # each key is a token: a tuple is no sentence here
        while part := list(islice(items, _CHUNK)):
            yield part
        return
    chunk: list[Any] = []
    place = 0
    while part := list(islice(items, _CHUNK)):
        if not chunk and set(map(type, part)) <= {str, bytes}:  # the fast way for what is flat
            yield part
            place += len(part)
            continue
        for item in part:
            if isinstance(item, (str, bytes)):
                chunk.append(item)
            else:
                words = _sentence(item, place)
                while more := list(islice(words, _CHUNK)):
                    chunk += more
                    if len(chunk) >= _CHUNK:
                        yield chunk
                        chunk = []
            place += 1
            if len(chunk) >= _CHUNK:
                yield chunk
                chunk = []
    if chunk:
        yield chunk


def _sentence(item: Any, place: int) -> Iterator[Any]:
    try:
        return iter(item)
    except TypeError:
        raise TokenTypeError(
            f"expected tokens of type str or bytes, or iterables of them, got "
            f"{type(item).__name__} at position {place}: {item!r:.60}"
        ) from None


def _packed(chunk: list[Any], begin: int) -> tuple[Bytes, Ids]:
    try:
        return pack_tokens(chunk)
    except (TokenTypeError, VocabularyError):
        for place, token in enumerate(chunk, begin):  # the error is to name the place among all
            token_bytes(token, place)
        raise


def _weight(count: Any, token: Any) -> int:
    if not isinstance(count, (int, np.integer)) or isinstance(count, bool) or count < 0:
        raise OptionError(
            f"expected counts as integers that are not negative, got {count!r:.60} of the token "
            f"{token!r:.60}"
        )
    return int(count)
