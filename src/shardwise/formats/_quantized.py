"""Product quantisation: a row is cut into parts, and each part is one of up to 256 centroids."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from shardwise.formats._file import File


class Quantized:
    """A matrix of codes, decoded as its rows are asked for.

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
