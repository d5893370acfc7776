"""Bags of rows, each combined to one row while it is read."""

from __future__ import annotations

import operator
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np

from shardwise import _native
from shardwise._errors import IdOutOfRangeError, OptionError, TableError, is_one_of
from shardwise._ids import OutOfRange, as_policy, out_of_range_error
from shardwise._layout import Layout, name_of
from shardwise._norms import as_limit

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from shardwise._bags import Bags

Combiner: TypeAlias = Literal["sum", "mean", "sqrtn", "max"]

COMBINERS = ("sum", "mean", "sqrtn", "max")


def pool(
    rows: _native.Rows,
    num_rows: int,
    layout: Layout,
    bags: Bags,
    *,
    dtype: np.dtype[Any] | None = None,
    **options: Any,
) -> NDArray[Any]:
    """Return a row for each bag: an array of shape `bags.lead + layout.row_shape`.

    Args:
        rows: the table's rows.
        num_rows: how many there are.
        layout: how they lie.
        bags: from `as_bags`.
        dtype: of the result; the rows' own by default.
        options: those of `pool_task`.
    """
    out: NDArray[Any] = _native.empty(
        (len(bags.offsets) - 1, layout.width), layout.dtype if dtype is None else dtype
    )
    task = pool_task(rows, num_rows, layout, bags, out, **options)
    try:
        _native.run_pools([task])
    except _native.OutOfRangeId as error:
        position, value, _ = map(int, str(error).split())
        raise out_of_range_error(bags.values.shape, position, value, num_rows) from None
    return out.reshape(bags.lead + layout.row_shape)


def pool_task(
    rows: _native.Rows,
    num_rows: int,
    layout: Layout,
    bags: Bags,
    out: NDArray[Any],
    *,
    combiner: str = "sum",
    max_norm: float | None = None,
    out_of_range: OutOfRange = "error",
    padding_id: int | None = None,
    default_id: int | None = None,
    skip_negative: bool = False,
    skip_weightless: bool = False,
) -> _native.PoolTask:
    """Return what `run_pools` does: a row for each bag, written to `out`.

    Args:
        rows: the table's rows.
        num_rows: how many there are.
        layout: how they lie.
        bags: from `as_bags`.
        out: floats of shape (bags, elements of a row); each row lies in one piece.
        combiner: see `Table.pool`, for this and what follows.
        max_norm: the largest norm of a row.
        out_of_range: what an id outside the table does.
        padding_id: an id that is no part of its bag.
        default_id: whose row empty bags get.
        skip_negative: negative ids are no part of their bag.
        skip_weightless: ids with a weight that is not above 0 are no part of their bag.
    """
    check_combiner(combiner)
    if not layout.has_numbers:
        raise TableError(
            "expected rows of float16, bfloat16, float32, float64, or packed ones, to combine, "
            f"got {layout.dtype}; make a table of rows.astype(numpy.float32)"
        )
    policy, stand_in = as_policy(out_of_range, num_rows)
    padding = None if padding_id is None else as_id("padding_id", padding_id)
    if padding is not None and padding < 0 and bags.values.dtype.kind == "u":
        padding = None  # there is no such id
    empty_row = as_default(default_id, num_rows)
    weights = bags.weights
    if weights is not None:
        wanted = np.float64 if layout.dtype == np.float64 else np.float32
        with np.errstate(over="ignore"):
            weights = np.ascontiguousarray(weights, wanted)
    return rows.bags(
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
        out,
        name_of(out.dtype),
    )


def check_combiner(combiner: object) -> None:
    """Refuse what is no combiner.

    Raises:
        OptionError: it is none.
    """
    if not is_one_of(combiner, COMBINERS):
        raise OptionError(
            f"expected combiner to be one of {', '.join(map(repr, COMBINERS))}, got {combiner!r}"
        )


def as_default(default_id: object, num_rows: int) -> int | None:
    """Return the id whose row empty bags get, or None.

    Raises:
        OptionError: it is no id.
        IdOutOfRangeError: it is not one of the table's.
    """
    if default_id is None:
        return None
    row = as_id("default_id", default_id)
    if not 0 <= row < num_rows:
        raise IdOutOfRangeError(
            f"expected default_id to be the id of one of {num_rows} rows, got {default_id}"
        )
    return row


def as_id(name: str, value: object) -> int:
    try:
        number = operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        number = 1 << 63
    if isinstance(value, (bool, np.bool_)) or not -(1 << 63) <= number < 1 << 63:
        raise OptionError(f"expected {name} as an id of 64 bits, got {value!r:.60}")
    return number
