"""What every reader gives: the shape, the tokens, and the rows block by block."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from shardwise import _native
from shardwise._errors import OptionError
from shardwise._partition import Partition
from shardwise._vocabulary import Vocabulary, build_slots
from shardwise.formats._file import File

Progress: TypeAlias = Callable[[int, int], object]
"""Called with (bytes done, bytes in all) while a file is indexed."""

RowReader: TypeAlias = Callable[[int, int], NDArray[Any]]
"""Reads the rows [begin, end), which are in range; the array may be a view of the file."""

Reader: TypeAlias = Callable[[NDArray[np.int64], NDArray[np.float32]], None]
"""Fills rows of its second argument from the positions in the first."""

BLOCK_BYTES = 16 << 20  # of values: far beyond a call's overhead, little beside a table
INDEX_BYTES = 64 << 20  # of a file between two looks at Ctrl-C
_FIRST_INDEX_BYTES = 1 << 20  # a small limit should not read much


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

    def read(self, begin: int = 0, end: int | None = None) -> NDArray[Any]:
        """Return the rows [begin, end), of shape (rows, ...); all rows by default.

        Raises:
            FormatError: the file is broken there.
        """
        first, last, _ = slice(begin, end).indices(self.shape[0])
        return self._rows(first, max(first, last))

    def blocks(self, rows: int | None = None) -> Iterator[NDArray[Any]]:
        """Yield consecutive blocks of `rows` rows, the last one shorter; about 16 MB by default.

        Raises:
            OptionError: `rows` is not positive.
            FormatError: the file is broken.
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
    return number


Found: TypeAlias = tuple[NDArray[np.int64], NDArray[np.int64], int]
"""Starts of tokens, starts of values, and the position after them."""

Step: TypeAlias = Callable[[int, int, int, int], Found]
"""Indexes from a position: its arguments are begin, bytes, rows wanted, rows before."""


@dataclass(frozen=True)
class Rows:
    """Where the rows of a file lie, and where the last of them ends."""

    token_starts: NDArray[np.int64]
    value_starts: NDArray[np.int64]
    end: int

    def __len__(self) -> int:
        return len(self.token_starts)


def index_rows(
    file: File, begin: int, end: int, most: int, step: Step, advice: str, progress: Progress | None
) -> Rows:
    """Call `step` block by block until `end`, or until `most` rows are found."""
    empty = np.empty(0, np.int64)
    tokens, values = [empty], [empty]
    at, count, size = begin, 0, _FIRST_INDEX_BYTES
    while at < end and count < most:
        try:
            token_starts, value_starts, at = step(at, size, most - count, count)
        except ValueError as error:
            raise file.error(f"{error}; {advice}") from None
        tokens.append(token_starts)
        values.append(value_starts)
        count += len(token_starts)
        size = min(2 * size, INDEX_BYTES)
        if progress is not None:
            progress(at, file.size)
        if not len(token_starts):
            break
    return Rows(np.concatenate(tokens), np.concatenate(values), at)


def make_source(
    file: File, form: str, rows: Rows, dim: int, reader: Reader, unknown: str | None
) -> Source:
    """Gather the tokens of indexed rows; of rows with one token, the first wins."""
    token_starts, value_starts = rows.token_starts, rows.value_starts
    data, offsets = _native.gather_tokens(file.data, token_starts, value_starts)
    slots, first_of, duplicates = build_slots(data, offsets)
    if duplicates:
        first = first_of == np.arange(len(first_of))
        token_starts, value_starts = token_starts[first], value_starts[first]
        data, offsets = _native.gather_tokens(file.data, token_starts, value_starts)
        slots, _, _ = build_slots(data, offsets)

    def read(begin: int, end: int) -> NDArray[np.float32]:
        starts = value_starts[begin:end]
        block = np.empty((len(starts), dim), np.float32)
        try:
            reader(starts, block)
        except ValueError as error:
            raise file.error(f"{error}; repair the file, or fetch it again") from None
        return block

    return Source(
        path=file.path,
        format=form,
        shape=(len(value_starts), dim),
        dtype=np.dtype(np.float32),
        vocabulary=Vocabulary.from_arrays(data, offsets, slots, unknown=unknown),
        duplicates=duplicates,
        _rows=read,
    )
