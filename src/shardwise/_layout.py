"""How the rows of a table lie in its shards: as they are looked up, or packed in 8 or 4 bits."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shardwise._errors import OptionError, TableError
from shardwise._norms import is_small_float
from shardwise._quantize import (
    ROW_FORMATS,
    RowFormat,
    as_dim,
    as_row_format,
    dequantize_rows,
    pack,
)


@lru_cache
def name_of(dtype: np.dtype[Any]) -> str:
    """Return the dtype's name, which NumPy puts together anew each time."""
    return dtype.name


_FLOATS = ("float16", "bfloat16", "float32", "float64")
"""What kernels compute on, and convert to."""


@dataclass(frozen=True)
class Layout:
    """How rows lie in arrays.

    Attributes:
        row_shape: the shape of a row that is looked up.
        dtype: the dtype of its elements.
        packed: how rows are packed, or None where arrays hold them as they are looked up.
    """

    row_shape: tuple[int, ...]
    dtype: np.dtype[Any]
    packed: RowFormat | None = None

    @property
    def name(self) -> str:
        """The row format's name: "int8", "int4", or that of the dtype."""
        return name_of(self.dtype) if self.packed is None else self.packed.name

    @property
    def packed_name(self) -> str | None:
        """The row format's name where rows are packed."""
        return None if self.packed is None else self.packed.name

    @cached_property
    def width(self) -> int:
        """How many elements a row has."""
        return math.prod(self.row_shape)

    @property
    def stored_dtype(self) -> np.dtype[Any]:
        """The dtype of the arrays that hold rows."""
        return self.dtype if self.packed is None else np.dtype(np.uint8)

    @property
    def stored_shape(self) -> tuple[int, ...]:
        """The shape of a row in these arrays."""
        return self.row_shape if self.packed is None else (self.packed.row_bytes(self.width),)

    @property
    def row_bytes(self) -> int:
        """The bytes of a row in these arrays."""
        return math.prod(self.stored_shape) * self.stored_dtype.itemsize

    @cached_property
    def kernel(self) -> str:
        """What the native core calls it."""
        if self.packed is not None:
            return f"packed {self.packed.name}"
        return name_of(self.dtype) if self.dtype.isnative else "swapped"

    @cached_property
    def has_numbers(self) -> bool:
        """Whether the native core knows the elements of rows as numbers."""
        return name_of(self.dtype) in _FLOATS and self.dtype.isnative

    def is_stored(self, rows: NDArray[Any]) -> bool:
        """Whether rows lie in an array in this way already."""
        return rows.dtype == self.stored_dtype and rows.shape[1:] == self.stored_shape

    def pack(self, rows: NDArray[Any], first: int = 0) -> NDArray[Any]:
        """Return rows of floats as the arrays hold them; errors count the rows from `first`."""
        if self.packed is None:
            return rows
        return pack(rows.reshape(len(rows), self.width), self.packed, first)

    def unpack(self, stored: NDArray[Any]) -> NDArray[Any]:
        """Return rows as they are looked up."""
        if self.packed is None:
            return stored
        rows = dequantize_rows(stored, self.packed, self.width)
        return rows.reshape(len(stored), *self.row_shape)


def packed_layout(row_format: str | RowFormat, row_shape: Sequence[int]) -> Layout:
    """Return the layout of rows of this shape in 8 or 4 bits.

    Raises:
        OptionError: there is no such format.
        TableError: such rows have no elements.
    """
    packed, shape = as_row_format(row_format), tuple(row_shape)
    if math.prod(shape) == 0:
        raise TableError(
            f"expected rows of one value and more for {packed.name}, got the shape {shape}"
        )
    return Layout(shape, np.dtype(np.float32), packed)


def layout_of_bytes(array: NDArray[Any], row_format: str | None, dim: int | None) -> Layout | None:
    """Return the layout of an array of packed rows, as `Table.from_array` takes them.

    None where rows are not packed.

    Raises:
        OptionError: there is no such format, or `dim` is missing or has no meaning.
        TableError: the array does not hold such rows.
    """
    if row_format is None:
        if dim is not None:
            raise OptionError(
                f"expected row_format with dim={dim!r:.40}, got none; leave dim away where rows "
                "are not packed"
            )
        return None
    packed = as_row_format(row_format)
    if array.ndim != 2 or array.dtype != np.uint8:
        raise TableError(
            f"expected rows packed as {packed.name} in uint8 of shape (rows, bytes), got "
            f"{array.dtype} of shape {array.shape}; quantize_rows makes them, or table.quantize"
        )
    return packed_layout(packed, (as_dim(array, packed, dim),))


def asked_format(dtype: Any, source: np.dtype[Any]) -> RowFormat | None:
    """Return the packed format that `dtype` asks for where rows of `source` are stored anew.

    Of floats, "int8" means rows of 8 bits with a scale; of integers it is NumPy's int8.
    """
    if source.kind != "f" and not is_small_float(source):
        return None
    if not isinstance(dtype, str):
        try:
            dtype = np.dtype(dtype).name
        except (TypeError, ValueError):
            return None
    return ROW_FORMATS.get(dtype)


def float_dtype(dtype: Any) -> np.dtype[Any]:
    """Return the dtype of floats that a result is asked for in.

    Raises:
        OptionError: it is no dtype of floats of 16, 32 or 64 bits.
    """
    if isinstance(dtype, str) and dtype == "bfloat16":
        import ml_dtypes  # NumPy knows the name once it is imported

        dtype = ml_dtypes.bfloat16
    try:
        wanted: np.dtype[Any] = np.dtype(dtype)
    except (TypeError, ValueError, SyntaxError):
        wanted = np.dtype(object)
    if wanted.name not in _FLOATS or not wanted.isnative:
        raise OptionError(
            f"expected dtype to be one of {', '.join(_FLOATS)}, got {dtype!r:.60}; convert the "
            "result with .astype"
        )
    return wanted


def other_dtype(dtype: Any, layout: Layout) -> np.dtype[Any] | None:
    """Return the dtype that rows are to be converted to; None where it is theirs anyway.

    Raises:
        OptionError: it is no dtype of floats of 16, 32 or 64 bits.
        TableError: the rows are not of such floats.
    """
    if dtype is None:
        return None
    wanted = float_dtype(dtype)
    if wanted == layout.dtype:
        return None
    if not layout.has_numbers:
        raise TableError(
            f"expected rows of {', '.join(_FLOATS)} to be read as {wanted}, got {layout.dtype}; "
            "convert the result with .astype"
        )
    return wanted
