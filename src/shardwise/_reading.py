"""Rows out of a table: lookups with options, bags of rows, what is read ahead."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from shardwise import _native
from shardwise._errors import IdOutOfRangeError, IdTypeError
from shardwise._ids import OutOfRange, as_ids, as_policy, out_of_range_error
from shardwise._layout import name_of, other_dtype
from shardwise._norms import NO_LIMIT, as_limit, clip_rows, clips_in_kernel
from shardwise._output import check_out, given
from shardwise._pool import pool

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from shardwise._bags import Bags
    from shardwise._table import Table


def look_up(
    table: Table,
    ids: Any,
    out: NDArray[Any] | None,
    out_of_range: OutOfRange,
    max_norm: float | None,
    dtype: Any,
) -> NDArray[Any]:
    """Return the rows of ids, with any of the options of `Table.lookup`."""
    ids = as_ids(ids)
    policy, default_row = as_policy(out_of_range, table._shape[0])
    limit = as_limit(max_norm)
    clip_later = limit < NO_LIMIT and not clips_in_kernel(table._dtype)
    wanted = other_dtype(dtype, table._layout)
    if out is not None:
        _check_out(table, out, ids.shape, ids, wanted)
    if wanted is not None and limit < NO_LIMIT:  # clipped first, then rounded
        rows = table.lookup(ids, out_of_range=out_of_range, max_norm=max_norm)
        return given(out, rows if out is not None else _cast(rows, wanted))
    direct = out if out is not None and out.flags.carray else None
    name = "" if wanted is None else name_of(wanted)
    try:
        rows = table._rows.lookup_into(ids, direct, policy, default_row, limit, wanted, name)
    except _native.OutOfRangeId as error:
        raise outside(table, ids, error) from None
    if clip_later and rows.size:
        clip_rows(rows.reshape(ids.size, -1), limit)
    return rows if rows is direct else given(out, rows)


def pool_bags(
    table: Table, bags: Bags, out: NDArray[Any] | None, dtype: Any, **options: Any
) -> NDArray[Any]:
    """Return a row for each bag, in `out` if there is one; the options are those of `pool`."""
    layout = table._layout
    wanted = None if dtype is None else other_dtype(dtype, layout)
    if out is not None:
        _check_out(table, out, bags.lead, bags.values, wanted)
    rows = pool(table._rows, table._shape[0], layout, bags, dtype=wanted, **options)
    return rows if out is None else given(out, rows)


def prefetch(table: Table, ids: Any) -> None:
    """Begin to read rows, and what an optimizer keeps of them; see `Table.prefetch`."""
    ids = as_ids(ids)
    if table._mode is not None:
        table._rows.prefetch(ids)
        if table._training is not None and table._mode == "r+":
            table._training.prefetch(table._partition, ids)


def outside(table: Table, ids: NDArray[Any], error: Exception) -> IdOutOfRangeError:
    """Return the error for an id outside the table, of which the native core says where it is."""
    position, value, _ = map(int, str(error).split())
    return out_of_range_error(ids.shape, position, value, table._shape[0])


def refuse_slices(ids: object) -> None:
    """Refuse what NumPy takes between brackets, and a lookup does not.

    Raises:
        IdTypeError: it is a slice, a tuple, None or `...`.
    """
    if isinstance(ids, (slice, tuple)) or ids is None or ids is Ellipsis:
        raise IdTypeError(
            f"expected ids as integers, got {ids!r}; for a run of rows pass "
            "numpy.arange(start, stop), and index the result for columns"
        )


def _check_out(
    table: Table,
    out: object,
    lead: tuple[int, ...],
    ids: NDArray[Any],
    wanted: np.dtype[Any] | None,
) -> None:
    dtype = table._dtype if wanted is None else wanted
    check_out(out, lead + table._shape[1:], dtype, (ids, *table._shards))


def _cast(rows: NDArray[Any], dtype: np.dtype[Any]) -> NDArray[Any]:
    with np.errstate(over="ignore"):
        return rows.astype(dtype)
