"""What readers of binary models share: a position that never leaves the file, words, and rows."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from shardwise import _native
from shardwise._errors import FormatError
from shardwise._vocabulary import Vocabulary, build_slots
from shardwise.formats._file import File


class Cursor:
    """A position in a file; whatever is read from there is first known to lie before `end`."""

    def __init__(self, file: File, at: int = 0, end: int | None = None) -> None:
        self.file = file
        self.at = at
        self.end = file.size if end is None else end

    @property
    def left(self) -> int:
        return self.end - self.at

    def skip(self, count: int, what: str) -> int:
        """Move over `count` bytes; return where they begin.

        Raises:
            FormatError: there are fewer.
        """
        begin = self.at
        if not 0 <= count <= self.left:
            raise self.error(f"{count} bytes of {what}", f"{self.left} before byte {self.end}")
        self.at += count
        return begin

    def unpack(self, layout: str, what: str) -> tuple[Any, ...]:
        """Read little-endian numbers, by a layout of `struct`."""
        return struct.unpack_from("<" + layout, self.file.bytes, self._take("<" + layout, what))

    def array(self, dtype: str, count: int, what: str) -> NDArray[Any]:
        """Map `count` values, which may lie unaligned."""
        item = np.dtype(dtype)
        begin = self.skip(count * item.itemsize, what)
        return self.file.data[begin : self.at].view(item)

    def error(self, expected: str, got: str, advice: str = "fetch the file again") -> FormatError:
        """Say what was expected at this position."""
        return self.file.error(f"byte {self.at}: expected {expected}, got {got}; {advice}")

    def _take(self, layout: str, what: str) -> int:
        return self.skip(struct.calcsize(layout), what)


@dataclass(frozen=True, eq=False)
class Words:
    """The words of a model, each once; `rows` are their numbers in the file."""

    data: NDArray[np.uint8]
    offsets: NDArray[np.int64]
    rows: NDArray[np.int64]
    vocabulary: Vocabulary
    duplicates: int

    def __len__(self) -> int:
        return len(self.rows)


def unique_words(
    file: File, begins: NDArray[np.int64], ends: NDArray[np.int64], unknown: str | None
) -> Words:
    """Gather the words that lie between `begins` and `ends`; of equal words the first counts.

    There must be a byte in the file after each.
    """
    data, offsets = _native.gather_tokens(file.data, begins, ends + 1)
    slots, first_of, duplicates = build_slots(data, offsets)
    rows = np.arange(len(begins))
    if duplicates:
        rows = np.flatnonzero(first_of == rows)
        data, offsets = _native.gather_tokens(file.data, begins[rows], ends[rows] + 1)
        slots, _, _ = build_slots(data, offsets)
    vocabulary = Vocabulary.from_arrays(data, offsets, slots, unknown=unknown)
    return Words(data, offsets, rows, vocabulary, duplicates)


class Matrix(Protocol):
    """Rows of float32 in a file."""

    @property
    def shape(self) -> tuple[int, int]: ...

    def take(self, ids: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return these rows in new memory; the ids are in range."""

    def block(self, begin: int, end: int) -> NDArray[np.float32]:
        """Return the rows [begin, end); they may be a view."""


class Dense:
    """A matrix that lies in the file as it is.

    Rows are taken as bytes, which are never unaligned: NumPy would copy a whole matrix of
    unaligned floats to take one row.
    """

    def __init__(self, values: NDArray[np.float32]) -> None:
        """`values` has the shape (rows, at least 1), and may be unaligned."""
        self.shape: tuple[int, int] = (values.shape[0], values.shape[1])
        self._values = values
        self._bytes = values.view(np.uint8)

    def take(self, ids: NDArray[np.int64]) -> NDArray[np.float32]:
        return self._bytes.take(ids, axis=0).view(np.float32)

    def block(self, begin: int, end: int) -> NDArray[np.float32]:
        return np.require(self._values[begin:end], requirements=["A"])
