"""What rows may be: arrays of the CPU, in place where a lookup can read them so."""

from __future__ import annotations

import operator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shardwise import _native
from shardwise._errors import TableError


def as_rows(array: Any, name: str) -> NDArray[Any]:
    """Return what holds rows as a NumPy array of rank 1 and more, without a copy if there can be.

    Raises:
        TableError: it cannot be read on the CPU, has rank 0, or holds Python objects.
    """
    if isinstance(array, np.ma.MaskedArray):
        raise TableError(f"expected {name} as a plain array, got a masked one; fill it first")
    if isinstance(array, np.ndarray):
        rows: NDArray[Any] = np.asarray(array)
    elif hasattr(array, "__dlpack__"):
        rows = _from_dlpack(array, name)
    else:
        try:
            rows = np.asarray(array)
        except (TypeError, ValueError) as error:
            raise TableError(
                f"expected {name} as an array, got {type(array).__name__}, "
                f"which NumPy cannot read ({error})"
            ) from error
    if rows.ndim == 0:
        raise TableError(
            f"expected {name} of shape (rows, ...), got the scalar {rows!r}; "
            "of a list of numbers, numpy.array(numbers) makes a table"
        )
    if rows.dtype.hasobject:
        raise TableError(
            f"expected {name} of a fixed-size dtype, got {rows.dtype}; "
            "for text use a fixed-size dtype such as 'S16' or 'U16'"
        )
    return rows


def _from_dlpack(array: Any, name: str) -> NDArray[Any]:
    try:
        return np.from_dlpack(array)
    except (BufferError, RuntimeError, TypeError, ValueError) as error:
        refused = error
    try:
        bits, dtype = _native.small_floats(array)
    except TypeError:
        raise TableError(
            f"expected {name} as an array in the memory of the CPU, got {type(array).__name__}, "
            f"which NumPy cannot read ({refused}); detach it and copy it to the CPU first"
        ) from refused
    import ml_dtypes  # NumPy has no dtypes of its own for these

    return bits.view(getattr(ml_dtypes, dtype))


def is_usable(array: NDArray[Any]) -> bool:
    """Return whether each row lies in one piece; from row to row there may be any stride."""
    return len(array) == 0 or array[:1].flags.c_contiguous


def private_copy(array: NDArray[Any]) -> NDArray[Any]:
    """Return a copy in memory of our own, in 2 MB pages where it is large."""
    copy = _native.empty(array.shape, array.dtype)
    np.copyto(copy, array)
    return copy


def as_row_shape(dim: int | tuple[int, ...]) -> tuple[int, ...]:
    """Return the shape of a row, given as it or as the number of its values.

    Raises:
        TableError: it is no shape.
    """
    axes = dim if isinstance(dim, tuple) else (dim,)
    try:
        shape = tuple(-1 if isinstance(n, bool) else operator.index(n) for n in axes)
    except TypeError:
        shape = (-1,)
    if any(n < 0 for n in shape):
        raise TableError(
            f"expected dim as a number of values from 0, or as the shape of a row, got {dim!r:.80}"
        )
    return shape


def as_values(rows: Any, shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
    """Return rows to be written, of this shape and dtype, contiguous.

    Raises:
        TableError: they have another shape, or values that the dtype cannot hold.
    """
    try:
        array = np.asarray(rows)
    except (TypeError, ValueError) as error:
        raise TableError(f"expected rows as an array of shape {shape}, got {error}") from None
    if array.dtype != dtype:
        array = _cast(array, dtype)
    try:
        return np.ascontiguousarray(np.broadcast_to(array, shape))
    except ValueError:
        raise TableError(f"expected rows of shape {shape}, got {array.shape}") from None


def _cast(array: NDArray[Any], dtype: np.dtype[Any]) -> NDArray[Any]:
    """Cast where no value is lost but by rounding."""
    text = issubclass(dtype.type, (np.bytes_, np.str_, np.void))
    whole = array.dtype.kind in "iu" and dtype.kind in "iu"  # such as numbers of Python's
    if np.can_cast(array.dtype, dtype, "safe" if text else "same_kind") or whole:
        with np.errstate(over="ignore"):  # told below
            cast = array.astype(dtype)
        if whole:
            held = bool((cast == array).all())
        else:
            held = text or array.dtype.kind == "b" or not lost_to_infinity(array, cast).any()
        if held:
            return cast
    raise TableError(
        f"expected rows of {dtype}, or of what it can hold but for rounding, got {array.dtype}; "
        "convert them with .astype first"
    )


def lost_to_infinity(array: NDArray[Any], cast: NDArray[Any]) -> NDArray[np.bool_]:
    """Which finite values a cast made infinite or NaN."""
    lost: NDArray[np.bool_] = np.isfinite(array) & ~np.isfinite(cast)
    return lost
