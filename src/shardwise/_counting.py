"""Counting the tokens of texts and of iterables, and choosing those that make a vocabulary."""

from __future__ import annotations

import io
import mmap
import operator
import os
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import Any, Literal, TypeAlias, get_args

import numpy as np

from shardwise import _native
from shardwise._errors import FormatError, OptionError, TokenTypeError, VocabularyError, is_one_of
from shardwise._folding import Folding
from shardwise._tokens import (
    Bytes,
    Ids,
    Slots,
    Token,
    arrow_tokens,
    as_arrow,
    build_slots,
    pack_tokens,
    packed_tokens,
    token_bytes,
)

StrPath: TypeAlias = str | os.PathLike[str]
Ties: TypeAlias = Literal["first", "ascending", "descending"]
Progress: TypeAlias = Callable[[int, int], object]
Counted: TypeAlias = tuple[Bytes, Ids, Ids]
"""Tokens as bytes and offsets, and how often each was seen."""

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


# ---- which of them make a vocabulary ----


def folded(counts: _native.TokenCounts, folding: Folding) -> _native.TokenCounts:
    """Return the counts of folded tokens; those that become one are added up."""
    if not folding:
        return counts
    data, offsets, numbers = counts.tokens(0)
    result = _native.TokenCounts()
    for begin in range(0, len(numbers), _CHUNK):
        end = min(len(numbers), begin + _CHUNK)
        tokens = packed_tokens(data, offsets[begin : end + 1])
        result.add(*folding.pack(tokens), numbers[begin:end])
    return result


@dataclass(frozen=True)
class Choice:
    """Which of the counted tokens make a vocabulary, and in which order: checked before counting.

    Attributes:
        min_count: leave out tokens that were seen less often, but no special ones.
        max_size: the most tokens in all, special ones included; None takes all.
        ties: which of equally frequent tokens goes first: the one that was seen "first", or the
            one whose bytes come first in "ascending" or "descending" order.
        specials: tokens with fixed places. One that was also counted has its count, and stands at
            its fixed place alone.
        specials_first: whether they stand in front of the others, or behind them.

    Raises:
        OptionError: an option cannot have this value.
    """

    min_count: int = 1
    max_size: int | None = None
    ties: Ties = "first"
    specials: Sequence[Token] = ()
    specials_first: bool = True

    def __post_init__(self) -> None:
        if isinstance(self.specials, (str, bytes)):
            raise OptionError(
                f"expected specials as a list of tokens, got one token, {self.specials!r:.60}; "
                f"write [{self.specials!r:.60}]"
            )
        try:
            object.__setattr__(self, "specials", tuple(self.specials))
        except TypeError:
            raise OptionError(
                f"expected specials as a list of tokens, got {self.specials!r:.60}"
            ) from None
        object.__setattr__(self, "min_count", _whole("min_count", self.min_count, 1))
        if self.max_size is not None:
            fixed = len(self.specials)
            remark = f", for the special tokens are counted too ({fixed})" if fixed else ""
            most = _whole("max_size", self.max_size, max(1, fixed), remark)
            object.__setattr__(self, "max_size", most)
        if not is_one_of(self.ties, get_args(Ties)):
            known = ", ".join(map(repr, get_args(Ties)))
            raise OptionError(f"expected ties as one of {known}, got {self.ties!r:.40}")

    def of(self, counts: _native.TokenCounts, folding: Folding) -> Counted:
        """Return the chosen tokens in the order of their ids, the most frequent first.

        Args:
            counts: the counted tokens, folded.
            folding: what was done to them, and is done to `specials`.

        Raises:
            VocabularyError: a special token is there twice, or cannot be written as UTF-8.
            TokenTypeError: a special token is neither `str` nor `bytes`.
        """
        data, offsets, numbers = counts.tokens(self.min_count)
        order = _native.order_tokens(data, offsets, numbers, self.ties)
        if not self.specials:
            return _native.take_tokens(data, offsets, numbers, order[: self.max_size])
        fixed, slots = self._packed_specials(folding)
        special = np.empty(len(numbers), np.int64)
        _native.find_tokens(*fixed, slots, data, offsets, special)
        order = order[special[order] < 0]
        room = None if self.max_size is None else self.max_size - len(self.specials)
        others = _native.take_tokens(data, offsets, numbers, order[:room])
        own = np.empty(len(self.specials), np.int64)
        counts.find(*fixed, own)
        placed = (*fixed, own)
        return _joined(placed, others) if self.specials_first else _joined(others, placed)

    def _packed_specials(self, folding: Folding) -> tuple[tuple[Bytes, Ids], Slots]:
        fixed = folding.pack(self.specials)
        slots, first_of, repetitions = build_slots(*fixed)
        if repetitions:
            again = int(np.argmax(first_of != np.arange(len(self.specials))))
            first = int(first_of[again])
            raise VocabularyError(
                f"expected distinct special tokens, got {self.specials[first]!r:.60} at position "
                f"{first} and {self.specials[again]!r:.60} at position {again}; name each once"
            )
        return fixed, slots


def _joined(one: Counted, other: Counted) -> Counted:
    return (
        np.concatenate([one[0], other[0]]),
        np.concatenate([one[1], other[1][1:] + one[1][-1]]),
        np.concatenate([one[2], other[2]]),
    )


def _whole(name: str, value: Any, least: int, remark: str = "") -> int:
    try:
        number = operator.index(value)
    except TypeError:
        number = least - 1
    if isinstance(value, (bool, np.bool_)) or number < least:
        raise OptionError(
            f"expected {name} as an integer of at least {least}{remark}, got {value!r:.60}"
        )
    return min(number, (1 << 63) - 1)
