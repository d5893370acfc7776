"""What readers of binary models share: a position that never leaves the file, words, matrices."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from shardwise import _native
from shardwise._errors import FormatError
from shardwise._vocabulary import Vocabulary
from shardwise.formats._file import File
from shardwise.formats._source import unique_tokens


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
    packed = _native.gather_tokens(file.data, begins, ends + 1)
    vocabulary, kept, duplicates = unique_tokens(*packed, unknown)
    rows = np.arange(len(begins)) if kept is None else kept
    data, offsets, _ = vocabulary.arrays()
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


class Quantized:
    """A matrix of codes, decoded as its rows are asked for.

    This is product quantisation: a row is cut into parts, each one of up to 256 centroids.

    Args:
        file: where it is from, for messages.
        codes: `uint8[rows, parts]`.
        books: for each part its centroids, `float32[centroids, width of the part]`.
        projection: `float32[dim, dim]`, by which the joined parts are multiplied:
            ``projection @ parts``; or None.
        norms: `float32[rows]`, or `float32[centroids]` where `norm_codes` has the norm of each
            row; or None.
        norm_codes: `uint8[rows]`, or None.
    """

    def __init__(
        self,
        file: File,
        codes: NDArray[np.uint8],
        books: Sequence[NDArray[np.float32]],
        *,
        projection: NDArray[np.float32] | None = None,
        norms: NDArray[np.float32] | None = None,
        norm_codes: NDArray[np.uint8] | None = None,
    ) -> None:
        self.shape: tuple[int, int] = (len(codes), sum(book.shape[1] for book in books))
        self._file = file
        self._codes = codes
        self._books = books
        self._projection = projection
        self._norms = norms
        self._norm_codes = norm_codes

    def take(self, ids: NDArray[np.int64]) -> NDArray[np.float32]:
        """Decode these rows.

        Raises:
            FormatError: a code names no centroid.
        """
        return self._decode(ids, self._codes.take(ids, axis=0))

    def block(self, begin: int, end: int) -> NDArray[np.float32]:
        """Decode the rows [begin, end).

        Raises:
            FormatError: a code names no centroid.
        """
        return self._decode(slice(begin, end), self._codes[begin:end])

    def _decode(
        self, rows: NDArray[np.int64] | slice, codes: NDArray[np.uint8]
    ) -> NDArray[np.float32]:
        self._check(codes)
        out = np.empty((len(codes), self.shape[1]), np.float32)
        at = 0
        for part, book in enumerate(self._books):
            out[:, at : at + book.shape[1]] = book[codes[:, part]]
            at += book.shape[1]
        with np.errstate(all="ignore"):
            if self._projection is not None:
                # Not a matrix product: its sums depend on how many rows are decoded at once.
                out = np.einsum("rj,ij->ri", out, self._projection)
            if self._norms is not None:
                by_row = rows if self._norm_codes is None else self._norm_codes[rows]
                out *= self._norms[by_row][:, None]
        return out

    def _check(self, codes: NDArray[np.uint8]) -> None:
        if not codes.size or all(len(book) > 255 for book in self._books):
            return
        most = min(map(len, self._books)) - 1
        if int(codes.max()) > most:
            raise self._file.error(
                f"expected codes up to {most}, the number of the last centroid, got "
                f"{int(codes.max())}; fetch the file again"
            )
