"""What ids may be, and what one outside the table does."""

from __future__ import annotations

import operator
from typing import Any, Literal, SupportsIndex, TypeAlias

import numpy as np

from shardwise._errors import IdOutOfRangeError, IdTypeError, OptionError

OutOfRange: TypeAlias = Literal["error", "zeros", "clamp", "wrap"] | SupportsIndex
"""What an id outside the table does: a policy's name, or the row that stands in for it."""

_POLICIES = ("error", "zeros", "clamp", "wrap")


def as_ids(ids: Any) -> np.ndarray[Any, Any]:
    """Return ids as a C-contiguous, aligned array of integers in native byte order.

    `ids` is any array of integers, an object that offers DLPack or the buffer protocol on the
    CPU, an integer, or nested sequences of integers. It is copied only where it is not such an
    array already, and never changed.

    Raises:
        IdTypeError: they are not integers, or not one rectangular array.
    """
    if type(ids) is np.ndarray and ids.dtype.kind in "iu" and ids.dtype.isnative:
        if ids.flags.c_contiguous and ids.flags.aligned:  # as they nearly always come
            return ids
    elif isinstance(ids, np.ma.MaskedArray):
        raise IdTypeError("expected ids as a plain array, got a masked one; fill it first")
    if isinstance(ids, np.ndarray):
        array: np.ndarray[Any, Any] = np.asarray(ids)
    elif hasattr(ids, "__arrow_c_array__"):  # before DLPack, of which Arrow's arrays have less
        if getattr(ids, "null_count", 0):
            raise IdTypeError(
                f"expected ids, got an Arrow array of {len(ids)} with {ids.null_count} nulls; drop "
                "the nulls, or fill them with an id (`fill_null`)"
            )
        array = np.asarray(ids)
    elif hasattr(ids, "__dlpack__"):
        try:
            array = np.from_dlpack(ids)
        except (BufferError, RuntimeError, TypeError, ValueError) as error:
            raise IdTypeError(
                f"expected ids as integers in the memory of the CPU, got {type(ids).__name__}, "
                f"which NumPy cannot read ({error}); copy them to the CPU first"
            ) from error
    else:
        try:
            array = np.asarray(ids)
        except ValueError:
            raise IdTypeError(
                "expected ids as one rectangular array of integers, got sequences of unequal "
                "length; pad them to one length with an id of your choice"
            ) from None
        except TypeError as error:
            raise IdTypeError(
                f"expected ids as integers, got {type(ids).__name__}, which NumPy cannot read "
                f"({error})"
            ) from error
        if array.size == 0 and array.dtype == np.float64:
            array = array.astype(np.int64)  # NumPy calls an empty list floats
    if array.dtype.kind not in "iu":
        hint = "if these are numbers of rows, make them integers of up to 64 bits first"
        if array.dtype.kind == "b":  # as integers they would be the rows 0 and 1
            hint = "numpy.flatnonzero(mask) gives the ids that a mask of rows means"
        elif array.size and isinstance(array.flat[0], (list, tuple, np.ndarray)):
            hint = "of a column of bags pass a list: .to_list() or .to_pylist() of it"
        raise IdTypeError(
            f"expected ids of an integer dtype, got {array.dtype} (shape {array.shape}); {hint}"
        )
    return np.require(array, array.dtype.newbyteorder("="), ["C", "A"])


def as_policy(out_of_range: OutOfRange, num_rows: int) -> tuple[str, int]:
    """Return (policy, default row), the latter meant for the policy "row" alone.

    Raises:
        OptionError: it is no policy, or no row of the table, or asks for a row of an empty table.
    """
    if isinstance(out_of_range, str):
        if out_of_range not in _POLICIES:
            raise OptionError(
                f"expected out_of_range to be one of {', '.join(map(repr, _POLICIES))} "
                f"or the id of a row, got {out_of_range!r}"
            )
        if num_rows == 0 and out_of_range in ("clamp", "wrap"):
            raise OptionError(
                f"expected a table with rows for out_of_range={out_of_range!r}, got one with none; "
                'use "zeros" or "error"'
            )
        return out_of_range, 0
    try:
        row = -1 if isinstance(out_of_range, (bool, np.bool_)) else operator.index(out_of_range)
    except TypeError:
        row = -1
    if not 0 <= row < num_rows:
        raise OptionError(
            f"expected out_of_range to be one of {', '.join(map(repr, _POLICIES))} "
            f"or the id of a row from 0 to {num_rows - 1}, got {out_of_range!r}"
        )
    return "row", row


def out_of_range_error(
    shape: tuple[int, ...], position: int, value: int, num_rows: int
) -> IdOutOfRangeError:
    """Say which id of an array of this shape names no row: `position` counts in C order."""
    where = np.unravel_index(position, shape) if shape else ()
    name = f"ids[{', '.join(str(int(i)) for i in where)}]" if where else "the id"
    if num_rows == 0:
        return IdOutOfRangeError(f"expected no ids, for there are no rows; got {name} = {value}")
    hint = "negative ids do not count from the end" if value < 0 else "is this the right table?"
    return IdOutOfRangeError(
        f"expected ids from 0 to {num_rows - 1}, for there are {num_rows} rows; "
        f"got {name} = {value}; {hint}"
    )
