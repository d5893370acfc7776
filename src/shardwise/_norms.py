"""`max_norm`: which rows have a norm, and how rows above a limit are scaled down to it."""

from __future__ import annotations

import sys
from contextlib import suppress
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shardwise._errors import OptionError, TableError

NO_LIMIT = float("inf")
_IN_KERNEL = ("float16", "bfloat16", "float32", "float64")


def clips_in_kernel(dtype: np.dtype[Any]) -> bool:
    """Return whether the kernel scales rows of this dtype as it copies them.

    Raises:
        TableError: rows of this dtype have no norm.
    """
    if dtype.kind not in "fc" and not is_small_float(dtype):
        raise TableError(
            f"expected rows of floating-point or complex numbers for max_norm, got {dtype}"
        )
    return dtype.isnative and dtype.name in _IN_KERNEL


def is_small_float(dtype: np.dtype[Any]) -> bool:
    """Whether it is a float of ml_dtypes, which NumPy shows as raw bytes."""
    ml_dtypes = sys.modules.get("ml_dtypes")  # a dtype of it cannot be met before it is imported
    if ml_dtypes is None or dtype.isbuiltin != 2:  # its finfo knows NumPy's own floats, too
        return False
    try:
        ml_dtypes.finfo(dtype)
    except (ValueError, KeyError):
        return False
    return True


def as_limit(max_norm: object) -> float:
    """Return `max_norm` as a number, infinity for None.

    Raises:
        OptionError: it is no number.
    """
    if max_norm is None:
        return NO_LIMIT
    limit = float("nan")
    if not isinstance(max_norm, (str, bytes, bytearray, np.ma.MaskedArray)):  # float() reads them
        with suppress(TypeError, ValueError, OverflowError):
            limit = float(max_norm)  # type: ignore[arg-type]
    if limit != limit:
        raise OptionError(f"expected max_norm as a number or None, got {max_norm!r}")
    return limit if limit > 0.0 else 0.0  # as TensorFlow reads a negative one


def clip_rows(rows: NDArray[Any], limit: float) -> None:
    """Scale the rows above the norm: what the kernel does for its dtypes, for all others."""
    wide = rows.astype(np.result_type(rows.dtype, np.float64))
    with np.errstate(all="ignore"):  # the kernel does not warn of infinities either
        sizes = np.abs(wide)
        # Scaled by a power of two, which is exact, so that the squares neither overflow nor vanish.
        _, power = np.frexp(sizes.max(axis=-1, keepdims=True))
        squares = np.ldexp(sizes, -power) ** 2
        norms = np.ldexp(np.sqrt(np.sum(squares, axis=-1, keepdims=True)), power)
        above = norms[..., 0] > limit
        rows[above] = (wide[above] * (limit / norms[above])).astype(rows.dtype)
