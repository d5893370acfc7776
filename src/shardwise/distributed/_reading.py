"""Rows of all ranks, looked up and pooled."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from shardwise._bags import Bags
from shardwise._pool import pool
from shardwise.distributed._wire import as_stored, as_table, room

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from shardwise._table import Table
    from shardwise.distributed._asking import Asked
    from shardwise.distributed._exchange import Exchange
    from shardwise.distributed._routes import RoutedBags, RoutedRows
    from shardwise.distributed._wire import Wire


def fetch(
    exchange: Exchange,
    local: Table,
    wire: Wire,
    call: str,
    asked: Asked[RoutedRows],
    copies: NDArray[Any] | None = None,
) -> Table:
    """Return the rows that were asked for, each once, a row of zeros, and copies behind them."""
    if asked.fetched is not None:
        return asked.fetched
    layout, routed = wire.rows, asked.routed
    data = wire.looked_up(local, asked.rows)
    out = room(len(routed.rows) + 1, layout)
    end = len(routed.rows) * layout.row_bytes
    out[end:] = 0
    exchange.swap(
        data,
        (asked.counts * layout.row_bytes).tolist(),
        (routed.counts * layout.row_bytes).tolist(),
        out[:end],
        call,
    )
    if layout.row_bytes == 0:
        return as_table(
            np.empty((len(routed.rows) + 1, *layout.stored_shape), layout.stored_dtype), layout
        )
    return as_table(as_stored(out, layout), layout, copies)


def fetch_sums(
    exchange: Exchange,
    local: Table,
    wire: Wire,
    call: str,
    asked: Asked[RoutedBags],
    combiner: str,
    max_norm: float | None,
    dtype: np.dtype[Any],
) -> NDArray[Any]:
    """Return a row for each bag: the sums, or largest values, that ranks make of their pieces.

    Those of a bag are combined in the order of the ranks.
    """
    layout, routed = wire.sent_sums, asked.routed
    assert asked.bags is not None
    assert asked.question.bags is not None
    parts = "max" if combiner == "max" else "sum"
    sums = local._pool(
        asked.bags,
        combiner=parts,
        max_norm=max_norm,
        dtype=None if layout.dtype == local.dtype else layout.dtype,
    )
    data = (layout.pack(sums) if layout.packed is not None else sums).reshape(-1)
    out = room(len(routed.bags), layout)
    exchange.swap(
        data.view(np.uint8),
        (asked.counts * layout.row_bytes).tolist(),
        (routed.piece_counts * layout.row_bytes).tolist(),
        out,
        call,
    )
    stored = as_stored(out, layout).reshape(len(routed.bags), *layout.stored_shape)
    table = as_table(stored, layout)
    lead = asked.question.bags.lead
    wide = dtype if routed.divisors is None else wire.sums.dtype
    found = pool(
        table._rows,
        len(stored),
        layout,
        Bags(routed.order, routed.ends, None, lead),
        combiner=parts,
        dtype=None if wide == layout.dtype else wide,
    )
    if routed.divisors is not None:
        divide(found.reshape(len(routed.divisors), layout.width), routed.divisors)
    if found.dtype == dtype:
        return found
    with np.errstate(over="ignore"):
        return found.astype(dtype)


def divide(rows: NDArray[Any], divisors: NDArray[np.float64]) -> None:
    """Divide rows in place, as the kernels do: in the rows' precision, and by zero to zeros."""
    by = divisors.astype(rows.dtype)
    zero = by == 0
    by[zero] = 1
    np.divide(rows, by[:, None], out=rows)
    rows[zero] = 0
