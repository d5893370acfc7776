"""Bags of rows, each combined to one row while it is read."""

from __future__ import annotations

import operator
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np

from shardwise import _native
from shardwise._errors import IdOutOfRangeError, OptionError, TableError
from shardwise._ids import OutOfRange, as_policy, out_of_range_error
from shardwise._norms import as_limit, is_small_float

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from shardwise._bags import Bags

Combiner: TypeAlias = Literal["sum", "mean", "sqrtn", "max"]

_COMBINERS = ("sum", "mean", "sqrtn", "max")
_POOLED = ("float16", "bfloat16", "float32", "float64")


def pool(
    rows: _native.Rows,
    shape: tuple[int, ...],
    dtype: np.dtype[Any],
    bags: Bags,
    *,
    combiner: str = "sum",
    max_norm: float | None = None,
    out_of_range: OutOfRange = "error",
    padding_id: int | None = None,
    default_id: int | None = None,
    skip_negative: bool = False,
    skip_weightless: bool = False,
) -> NDArray[Any]:
    """Return a row for each bag: an array of shape `bags.lead + shape[1:]`.

    Args:
        rows: the table's rows, `shape` its shape, `dtype` theirs.
        shape: see above.
        dtype: see above.
        bags: from `as_bags`.
        combiner: see `Table.pool`, for this and what follows.
        max_norm: the largest norm of a row.
        out_of_range: what an id outside the table does.
        padding_id: an id that is no part of its bag.
        default_id: whose row empty bags get.
        skip_negative: negative ids are no part of their bag.
        skip_weightless: ids with a weight that is not above 0 are no part of their bag.
    """
    if combiner not in _COMBINERS:
        raise OptionError(
            f"expected combiner to be one of {', '.join(map(repr, _COMBINERS))}, got {combiner!r}"
        )
    is_float = dtype.kind == "f" or is_small_float(dtype)
    if not is_float or not dtype.isnative or dtype.name not in _POOLED:
        raise TableError(
            f"expected rows of {', '.join(_POOLED)} to combine, got {dtype}; make a table of "
            "rows.astype(numpy.float32)"
        )
    policy, stand_in = as_policy(out_of_range, shape[0])
    padding = None if padding_id is None else as_id("padding_id", padding_id)
    if padding is not None and padding < 0 and bags.values.dtype.kind == "u":
        padding = None  # there is no such id
    empty_row = None
    if default_id is not None:
        empty_row = as_id("default_id", default_id)
        if not 0 <= empty_row < shape[0]:
            raise IdOutOfRangeError(
                f"expected default_id to be the id of one of {shape[0]} rows, got {default_id}"
            )
    weights = bags.weights
    if weights is not None:
        wanted = np.float64 if dtype == np.float64 else np.float32
        with np.errstate(over="ignore"):
            weights = np.ascontiguousarray(weights, wanted)
    try:
        found = rows.pool(
            bags.values,
            bags.offsets,
            weights,
            combiner,
            policy,
            stand_in,
            as_limit(max_norm),
            padding,
            empty_row,
            skip_negative,
            skip_weightless,
        )
    except _native.OutOfRangeId as error:
        position, value = map(int, str(error).split())
        raise out_of_range_error(bags.values.shape, position, value, shape[0]) from None
    return found.reshape(bags.lead + shape[1:])


def as_id(name: str, value: object) -> int:
    try:
        number = operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        number = 1 << 63
    if isinstance(value, (bool, np.bool_)) or not -(1 << 63) <= number < 1 << 63:
        raise OptionError(f"expected {name} as an id of 64 bits, got {value!r:.60}")
    return number
