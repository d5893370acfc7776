"""What every reader gives: the shape, the tokens, and the rows block by block."""

from __future__ import annotations

import math
import operator
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from shardwise._errors import OptionError
from shardwise._layout import Layout
from shardwise._partition import Partition
from shardwise._tokens import build_slots
from shardwise._vocabulary import Vocabulary

Progress: TypeAlias = Callable[[int, int], object]
"""Called with (bytes done, bytes in all) while a file is indexed."""

RowReader: TypeAlias = Callable[[int, int], NDArray[Any]]
"""Reads the rows [begin, end), which are in range; the array may be a view of the file."""

BLOCK_BYTES = 16 << 20  # of values: far beyond a call's overhead, little beside a table


@dataclass(frozen=True)
class Options:
    """What a caller may ask of a reader; `open` says what each means."""

    limit: int | None = None
    dim: int | None = None
    unknown: str | None = None
    tensor: str | None = None
    tokens: str | None = None
    progress: Progress | None = None
    partition: Literal["mod", "div"] | None = None


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class Source:
    r"""An opened file of vectors: its tokens are read, its values are read on demand.

    Attributes:
        path: the file.
        format: one of the names in `shardwise.formats.FORMATS`.
        shape: the shape of the whole, rows first, without the rows of repeated tokens.
        dtype: the dtype of the rows.
        vocabulary: the tokens, token `i` the one of row `i`; rows after the last token have none.
            None where the file has no tokens.
        duplicates: how many rows were left out because their token had come before.
        partition: how the file itself cuts the rows, or None.
        metadata: what else the file says, as a JSON object; a table made of it keeps it.

    Example:
        >>> import pathlib, tempfile
        >>> from shardwise import formats
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = pathlib.Path(folder, "tiny.txt")
        ...     _ = path.write_text("king 1 2\nqueen 3 4\n")
        ...     source = formats.open(path)
        ...     rows = source.read()
        >>> source.format, source.shape, list(source.vocabulary)
        ('glove', (2, 2), ['king', 'queen'])
        >>> rows
        array([[1., 2.],
               [3., 4.]], dtype=float32)
    """

    path: str
    format: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    vocabulary: Vocabulary | None = None
    duplicates: int = 0
    partition: Partition | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)
    _rows: RowReader = field(repr=False)
    _packed: tuple[Layout, RowReader] | None = None  # of a table: how rows lie there, and such rows

    def read(self, begin: int = 0, end: int | None = None) -> NDArray[Any]:
        """Return the rows [begin, end), of shape (rows, ...); all rows by default.

        Raises:
            FormatError: the file is broken there.

        Example:
            >>> import numpy as np
            >>> from shardwise import Table, formats
            >>> source = formats.table_source(Table.from_array(np.arange(6.0).reshape(3, 2)))
            >>> source.read(1, 2), source.read().shape
            (array([[2., 3.]]), (3, 2))
        """
        first, last, _ = slice(begin, end).indices(self.shape[0])
        return self._rows(first, max(first, last))

    def blocks(self, rows: int | None = None) -> Iterator[NDArray[Any]]:
        """Yield consecutive blocks of `rows` rows, the last one shorter; about 16 MB by default.

        Raises:
            OptionError: `rows` is not positive.
            FormatError: the file is broken.

        Example:
            >>> import numpy as np
            >>> from shardwise import Table, formats
            >>> source = formats.table_source(Table.from_array(np.zeros((5, 2), np.float32)))
            >>> [block.shape for block in source.blocks(2)]
            [(2, 2), (2, 2), (1, 2)]
        """
        row_bytes = math.prod(self.shape[1:]) * self.dtype.itemsize
        step = positive("rows", rows) or max(1, BLOCK_BYTES // max(1, row_bytes))
        return (self.read(begin, begin + step) for begin in range(0, self.shape[0], step))

    def __repr__(self) -> str:
        return (
            f"Source({self.path!r}, format={self.format!r}, shape={self.shape}, dtype={self.dtype})"
        )


def positive(name: str, value: int | None) -> int | None:
    """Return an optional whole number, checked to be at least 1."""
    if value is None:
        return None
    try:
        number = 0 if value is True else operator.index(value)
    except TypeError:
        number = 0
    if number < 1:
        raise OptionError(f"expected {name} to be a whole number from 1, or None, got {value!r}")
    return min(number, sys.maxsize)  # what the native core can count to


class Unique(NamedTuple):
    """Tokens, each once: which of all they are (None: all), and how many were left out."""

    vocabulary: Vocabulary
    kept: NDArray[np.int64] | None
    duplicates: int


def unique_tokens(
    data: NDArray[np.uint8], offsets: NDArray[np.int64], unknown: str | None
) -> Unique:
    """Make a vocabulary of tokens; of equal ones the first counts.

    Args:
        data: the tokens' bytes end to end.
        offsets: where each begins, from 0 on in ascending order, and where the last ends.
        unknown: the token that stands for others.

    Raises:
        OptionError: there is no such token as `unknown`.
    """
    slots, first_of, duplicates = build_slots(data, offsets)
    kept = None
    if duplicates:
        first = first_of == np.arange(len(first_of))
        lengths = np.diff(offsets)
        data = data[np.repeat(first, lengths)]
        offsets = np.concatenate([[0], np.cumsum(lengths[first])]).astype(np.int64)
        slots, _, _ = build_slots(data, offsets)
        kept = np.flatnonzero(first)
    vocabulary = Vocabulary.from_arrays(data, offsets, slots, unknown=unknown)
    return Unique(vocabulary, kept, duplicates)
