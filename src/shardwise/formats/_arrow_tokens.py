"""Tokens from a column of Arrow's, whatever kind of strings it has."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from shardwise.formats._file import File

_TOKEN_BYTES = 64 << 20  # of tokens at the most, and so many times the file's bytes
_TOKEN_RATIO = 1000


class Tokens:
    """The tokens of a column, added array by array: bytes end to end, and where each begins."""

    def __init__(self, file: File, limit: int | None) -> None:
        self._file = file
        self._limit = limit
        self._data = [np.empty(0, np.uint8)]
        self._offsets = [np.zeros(1, np.int64)]
        self._room = _TOKEN_BYTES + _TOKEN_RATIO * file.size
        self.count = 0  # of tokens
        self.rows = 0  # those without one as well

    @property
    def is_full(self) -> bool:
        return self.rows == self._limit

    def add(self, column: Any) -> None:
        """Add the tokens of the next rows, as far as the limit goes.

        Raises:
            FormatError: a row without a token is before one with a token, or they are too many.
        """
        column = column if self._limit is None else column.slice(0, self._limit - self.rows)
        array = _binary(column)
        valid = np.asarray(array.is_valid())
        count = int(valid.sum())
        if not valid[:count].all() or (count and self.count < self.rows):
            row = self.count if self.count < self.rows else self.rows + int(valid.argmin())
            raise self._file.error(
                f"row {row}: expected a token, as a row after it has, got null; fill it in, or "
                "leave the row out"
            )
        if count:
            _, ends, data = array.buffers()
            offsets = np.frombuffer(ends, np.int64)[array.offset : array.offset + count + 1]
            begin, end = int(offsets[0]), int(offsets[-1])
            self._room -= end - begin + offsets.nbytes
            if self._room < 0:
                raise self._file.error(
                    f"expected tokens of at most {_TOKEN_RATIO} times the bytes of the file, got "
                    f"more in the rows to {self.rows + count}; is this a file of vectors?"
                )
            if end > begin:
                self._data.append(np.frombuffer(data, np.uint8)[begin:end])
            self._offsets.append(offsets[1:] - begin + self._offsets[-1][-1])
        self.count += count
        self.rows += len(array)

    def packed(self) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        return np.concatenate(self._data), np.concatenate(self._offsets)


def _binary(array: Any) -> Any:
    """Return a column of tokens as a LargeBinaryArray, checked, but not for being UTF-8."""
    import pyarrow as pa

    array.validate()
    if pa.types.is_dictionary(array.type):
        dictionary = _binary(array.dictionary)
        return pa.DictionaryArray.from_arrays(array.indices, dictionary).dictionary_decode()
    if array.type == pa.string_view():
        array = array.view(pa.binary_view())
    elif array.type in (pa.string(), pa.large_string()):
        array = array.view(pa.binary() if array.type == pa.string() else pa.large_binary())
    array.validate(full=True)
    return array.cast(pa.large_binary())
