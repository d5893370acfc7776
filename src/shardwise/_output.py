"""`out=`: an array of the caller's that takes a result."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shardwise._errors import OutputError


def check_out(
    out: object, shape: tuple[int, ...], dtype: np.dtype[Any], apart: Iterable[NDArray[Any]]
) -> None:
    """See to it that `out` can take a result, and is no part of the arrays that it is made of.

    Raises:
        OutputError: it cannot.
    """
    if not isinstance(out, np.ndarray):
        raise OutputError(f"expected out as a NumPy array, got {type(out).__name__}")
    if out.shape != shape or out.dtype != dtype:
        raise OutputError(
            f"expected out of shape {shape} and dtype {dtype}, "
            f"got shape {out.shape} and dtype {out.dtype}"
        )
    if not out.flags.writeable:
        raise OutputError("expected out as an array that can be written, got a read-only one")
    for array in apart:
        if np.may_share_memory(out, array):
            raise OutputError(
                "expected out as memory of its own, got an array that overlaps the table or "
                "the ids; pass a copy, or leave out away"
            )


def given(out: NDArray[Any] | None, result: NDArray[Any]) -> NDArray[Any]:
    """Return a result, in `out` if there is one."""
    if out is None:
        return result
    with np.errstate(over="ignore"):  # an infinity stands for what is too large
        np.copyto(out, result, casting="same_kind")
    return out
