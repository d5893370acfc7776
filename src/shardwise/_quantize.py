"""Rows of 8 and 4 bits: what their bytes are, from and to floats, and what is lost on the way."""

from __future__ import annotations

import math
import operator
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from shardwise import _native
from shardwise._arrays import as_rows, is_usable
from shardwise._errors import OptionError, TableError

_BLOCK_BYTES = 4 << 20  # of values at a time, where they have to be converted or compared


@dataclass(frozen=True, slots=True)
class RowFormat:
    """How a row of numbers lies in bytes: steps, then the scale and the bias of the row.

    A value is step * scale + bias, rounded once to float32.

    Attributes:
        name: "int8" or "int4".
        bits: the bits of a step.
        scale_dtype: the dtype of the scale and of the bias, each behind the steps.
    """

    name: str
    bits: int
    scale_dtype: str

    def row_bytes(self, dim: int) -> int:
        """Return the bytes of a row of `dim` values."""
        return (dim * self.bits + 7) // 8 + 2 * np.dtype(self.scale_dtype).itemsize

    def dim(self, row_bytes: int) -> int | None:
        """Return how many values a row of so many bytes has; None where that is not certain.

        It is not for int4: the last byte may hold one value or two.

        Raises:
            TableError: there is no row of so few bytes.
        """
        steps = row_bytes - self.row_bytes(0)
        if steps < 1:
            raise TableError(
                f"expected {self.name} rows of {self.row_bytes(1)} bytes or more, got {row_bytes}"
            )
        return steps if self.bits == 8 else None


INT8 = RowFormat("int8", 8, "float32")
INT4 = RowFormat("int4", 4, "float16")
ROW_FORMATS = {f.name: f for f in (INT8, INT4)}


class QuantizationLoss(NamedTuple):
    """What quantized rows are away from those they were made of.

    Attributes:
        max_error: the largest difference of a value.
        rms_error: the root of the mean of the squared differences.
        mean_cosine: the mean over rows of the cosine of a row before and after. Two rows of zeros
            agree (1); a row of zeros and another row do not (0).
        neighbours_kept: which share of the ten nearest rows are among the ten nearest afterwards,
            over some rows; None where it was not asked for (see `convert`).

    Example:
        >>> import numpy as np
        >>> from shardwise import quantization_error, quantize_rows
        >>> rows = np.array([[0.0, 1.0, 255.0]], np.float32)
        >>> quantization_error(rows, quantize_rows(rows, "int8"), "int8")
        QuantizationLoss(max_error=0.0, rms_error=0.0, mean_cosine=1.0, neighbours_kept=None)
    """

    max_error: float
    rms_error: float
    mean_cosine: float
    neighbours_kept: float | None = None


def as_row_format(name: object) -> RowFormat:
    """Return the format of a name.

    Raises:
        OptionError: there is none.
    """
    if isinstance(name, RowFormat):
        return name
    found = ROW_FORMATS.get(name) if isinstance(name, str) else None
    if found is None:
        raise OptionError(f"expected the format to be 'int8' or 'int4', got {name!r:.80}")
    return found


def quantize_rows(rows: Any, format: str | RowFormat) -> NDArray[np.uint8]:
    """Return rows in 8 or 4 bits a value, with a scale and a bias of each row.

    The bytes are those of `torch.ops.quantized.embedding_bag_byte_prepack` ("int8") and
    `embedding_bag_4bit_prepack` ("int4"), which FBGEMM reads too. They do not depend on the number
    of threads or on the processor. An odd number of values, which PyTorch has no int4 for, leaves
    the upper half of the last byte 0.

    Args:
        rows: an array of floats of shape (rows, dim). float32 and float16 are taken as they are,
            other floats are rounded to float32 first.
        format: "int8" or "int4".

    Returns:
        uint8 of shape (rows, bytes): `dim` + 8 bytes, or half of `dim`, rounded up, + 4.

    Raises:
        TableError: not such an array; or a row has an infinity or a NaN in it, or values so far
            apart (for int4: so large, too) that its scale or its bias would be infinite.
        OptionError: there is no such format.

    Example:
        >>> import numpy as np
        >>> from shardwise import dequantize_rows, quantize_rows
        >>> rows = np.array([[0.0, 0.5, 1.0], [-3.0, 0.0, 12.0]], np.float32)
        >>> packed = quantize_rows(rows, "int8")
        >>> packed.shape
        (2, 11)
        >>> packed[:, :3]
        array([[  0, 128, 255],
               [  0,  51, 255]], dtype=uint8)
        >>> dequantize_rows(packed, "int8").round(3)
        array([[ 0.   ,  0.502,  1.   ],
               [-3.   ,  0.   , 12.   ]], dtype=float32)
    """
    return pack(rows, as_row_format(format))


def pack(rows: Any, to: RowFormat, first: int = 0) -> NDArray[np.uint8]:
    """Do what `quantize_rows` does; errors count the rows from `first`."""
    array = _as_floats(rows)
    packed: NDArray[np.uint8] = _native.empty(
        (len(array), to.row_bytes(array.shape[1])), np.dtype(np.uint8)
    )
    for begin, values in _native_floats(array):
        bits = values.view(np.uint16) if values.dtype == np.float16 else values
        refused = _native.quantize_rows(bits, to.name, packed[begin : begin + len(values)])
        if refused < len(values):
            raise _refusal(array, begin + refused, to, first)
    return packed


def dequantize_rows(
    packed: Any, format: str | RowFormat, dim: int | None = None
) -> NDArray[np.float32]:
    """Return the values of rows that `quantize_rows` made, or PyTorch or FBGEMM.

    They are those of `torch.ops.quantized.embedding_bag_byte_unpack` and
    `embedding_bag_4bit_unpack`, bit for bit. Any bytes are rows: a scale or a bias that is
    infinite or NaN makes values that are.

    Args:
        packed: uint8 of shape (rows, bytes).
        format: "int8" or "int4".
        dim: how many values a row has. int4 needs it: of an odd and an even number of values the
            bytes can be as many.

    Returns:
        float32 of shape (rows, dim).

    Raises:
        TableError: not such an array, or its rows do not have the bytes of `dim` values.
        OptionError: there is no such format, or `dim` is no number of values.

    Example:
        >>> import numpy as np
        >>> from shardwise import dequantize_rows, quantize_rows
        >>> packed = quantize_rows(np.array([[0.0, 1.0, 255.0]], np.float32), "int8")
        >>> packed.shape, dequantize_rows(packed, "int8")
        ((1, 11), array([[  0.,   1., 255.]], dtype=float32))
    """
    of = as_row_format(format)
    array = _as_packed(packed)
    dim = as_dim(array, of, dim)
    out: NDArray[np.float32] = _native.empty((len(array), dim), np.dtype(np.float32))
    _native.dequantize_rows(array, of.name, out)
    return out


def quantization_error(rows: Any, packed: Any, format: str | RowFormat) -> QuantizationLoss:
    """Compare rows with what was made of them, a few megabytes at a time, in float64.

    Args:
        rows: the array that was given to `quantize_rows`, of finite floats.
        packed: what it returned.
        format: "int8" or "int4".

    Returns:
        The largest and the root-mean-square difference of a value, and the mean cosine of a row.
        0, 0 and 1 where there are no rows.

    Raises:
        TableError: these arrays are not such, or do not belong together.
        OptionError: there is no such format.

    Example:
        >>> import numpy as np
        >>> from shardwise import quantization_error, quantize_rows
        >>> rows = np.linspace(-1.0, 1.0, 64, dtype=np.float32).reshape(1, 64)
        >>> loss = quantization_error(rows, quantize_rows(rows, "int8"), "int8")
        >>> print(f"{loss.max_error:.4f} {loss.rms_error:.4f} {loss.mean_cosine:.5f}")
        0.0037 0.0022 0.99999
    """
    of = as_row_format(format)
    array, bytes_ = _as_floats(rows), _as_packed(packed)
    dim = as_dim(bytes_, of, array.shape[1])
    if len(array) != len(bytes_):
        raise TableError(f"expected as many rows in both, got {len(array)} and {len(bytes_)}")
    losses = Losses()
    for begin, end in _blocks(len(array), 8 * dim):
        losses.add(array[begin:end], dequantize_rows(bytes_[begin:end], of, dim))
    return losses.result()


class Losses:
    """Adds up what quantized rows are away from those they were made of, block by block."""

    def __init__(self) -> None:
        self._largest, self._squares, self._cosines = 0.0, 0.0, 0.0
        self._rows, self._values = 0, 0

    def add(self, rows: NDArray[Any], quantized: NDArray[Any]) -> None:
        """Compare rows of shape (rows, dim) with what they became."""
        for begin, end in _blocks(len(rows), 8 * rows.shape[1]):
            before = rows[begin:end].astype(np.float64)
            after = quantized[begin:end].astype(np.float64)
            with np.errstate(invalid="ignore"):  # infinities are what they are
                lost = np.abs(after - before)
                self._largest = float(np.maximum(self._largest, lost.max(initial=0.0)))
                self._squares += float(np.square(lost).sum())
                self._cosines += float(_cosines(before, after).sum())
        self._rows += len(rows)
        self._values += rows.size

    def result(self) -> QuantizationLoss:
        """Return it for all rows; 0, 0 and 1 where there are none."""
        if not self._rows:
            return QuantizationLoss(0.0, 0.0, 1.0)
        rms = math.sqrt(self._squares / self._values)
        return QuantizationLoss(self._largest, rms, self._cosines / self._rows)


def _cosines(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    """Of rows: scaled to a largest value of 1 first, so that no square vanishes or overflows."""
    largest = [np.abs(x).max(axis=1, keepdims=True) for x in (a, b)]
    a, b = (x / np.where(most == 0, 1.0, most) for x, most in zip((a, b), largest, strict=True))
    norms = np.sqrt(np.square(a).sum(axis=1) * np.square(b).sum(axis=1))
    agree = (largest[0] == largest[1])[:, 0].astype(np.float64)  # where one of them is zeros
    cosines: NDArray[np.float64] = np.divide(
        (a * b).sum(axis=1), norms, out=agree, where=norms != 0
    )
    np.minimum(cosines, 1.0, out=cosines)
    return cosines


def _as_floats(rows: Any) -> NDArray[Any]:
    array = as_rows(rows, "rows")
    if array.ndim != 2 or array.shape[1] == 0:
        raise TableError(
            f"expected rows of shape (rows, dim) with a dim from 1, got {array.shape}; "
            "of more axes make two first: rows.reshape(len(rows), -1)"
        )
    if array.dtype.kind in "biu" or not np.can_cast(array.dtype, np.float32, "same_kind"):
        raise TableError(
            f"expected rows of floats, got {array.dtype}; convert them with .astype first"
        )
    return array


def _native_floats(array: NDArray[Any]) -> Iterator[tuple[int, NDArray[Any]]]:
    """Yield (first row, rows) as the native loop reads them: all at once, or converted."""
    held = array.dtype.type in (np.float32, np.float16) and array.dtype.isnative
    if held and array.flags.aligned and is_usable(array):
        yield 0, array
        return
    dtype = np.float16 if array.dtype.type is np.float16 else np.float32
    for begin, end in _blocks(len(array), 4 * array.shape[1]):
        with np.errstate(over="ignore"):  # told as a row that is refused
            yield begin, np.ascontiguousarray(array[begin:end].astype(dtype))


def _blocks(count: int, row_bytes: int) -> Iterator[tuple[int, int]]:
    step = max(1, _BLOCK_BYTES // row_bytes)
    for begin in range(0, count, step):
        yield begin, min(count, begin + step)


def _as_packed(packed: Any) -> NDArray[np.uint8]:
    array = as_rows(packed, "packed")
    if array.ndim != 2 or array.dtype != np.uint8:
        raise TableError(
            f"expected packed as uint8 of shape (rows, bytes), got {array.dtype} of {array.shape}"
        )
    return array if is_usable(array) else np.ascontiguousarray(array)


def as_dim(packed: NDArray[np.uint8], of: RowFormat, dim: int | None) -> int:
    """Return how many values rows of such bytes have.

    Raises:
        TableError: their bytes are not those of `dim` values.
        OptionError: `dim` is no number of values, or is missing for int4.
    """
    row_bytes = packed.shape[1]
    if dim is None:
        dim = of.dim(row_bytes)
        if dim is None:
            most = 2 * (row_bytes - of.row_bytes(0))
            raise OptionError(
                f"expected dim for {of.name} rows, got none: {row_bytes} bytes hold {most - 1} "
                f"or {most} values"
            )
        return dim
    try:
        number = -1 if isinstance(dim, bool) else operator.index(dim)
    except TypeError:
        number = -1
    if number < 1:
        raise OptionError(f"expected dim as a number of values from 1, got {dim!r:.80}")
    if of.row_bytes(number) != row_bytes:
        raise TableError(
            f"expected {of.name} rows of {of.row_bytes(number)} bytes for {number} values, "
            f"got {row_bytes}; is this the right format?"
        )
    return number


def _refusal(array: NDArray[Any], row: int, to: RowFormat, first: int) -> TableError:
    with np.errstate(invalid="ignore"):  # a signalling NaN
        values = np.asarray(array[row], dtype=np.float64)
    odd = np.flatnonzero(~np.isfinite(values))
    if len(odd):
        return TableError(
            f"expected finite rows, got {values[odd[0]]} at rows[{first + row}, {odd[0]}]; "
            f"a row with that in it cannot be {to.name}"
        )
    least, most = values.min(), values.max()
    if to.bits == 8:
        limit = "less than 3.4e38 wide"
    else:
        limit = "less than 982800 wide, with a least value of less than 65520 either way,"
    return TableError(
        f"expected rows {limit} for {to.name}, got {least:.6g} to {most:.6g} in "
        f"rows[{first + row}]; "
        "scale the rows first" + ("" if to.bits == 8 else ', or take "int8"')
    )
