"""Gradients sent to the ranks that hold their rows."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from shardwise._bags import Bags
from shardwise._table import Table
from shardwise._update import Checked, How, Training, nonfinite_error
from shardwise.distributed._reading import divide
from shardwise.distributed._wire import room
from shardwise.optimizers import SGD

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from shardwise.distributed._asking import Asked
    from shardwise.distributed._exchange import Exchange
    from shardwise.distributed._routes import RoutedBags, RoutedRows, Which
    from shardwise.distributed._wire import Wire
    from shardwise.optimizers import Optimizer

_KEEPS_SUMS = SGD(0.0, momentum=0.5)


def check_finite(gradients: NDArray[Any]) -> None:
    """Refuse gradients that are not finite.

    Raises:
        TableError: it names the first.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        total = gradients.sum()
    if not np.isfinite(total):  # or the sum alone is too large
        bad = np.flatnonzero(~np.isfinite(gradients.reshape(-1)))
        if bad.size:
            raise nonfinite_error(gradients, int(bad[0]))


def sums_by_row(
    routed: RoutedRows, bags: Bags | None, checked: Checked, width: int, how: How
) -> NDArray[Any]:
    """Return the sum of the gradients of each row, in the order of positions.

    The kernel of `Table.update` makes them: SGD with a learning rate of 1, of rows of zeros.
    """
    rows = len(routed.rows)
    count = routed.places.size if bags is None else len(bags.offsets) - 1
    gradients, placed = checked.gradients.reshape(count, width), None
    if bags is not None:
        placed = Bags(routed.places, bags.offsets, bags.weights, (count,))
    sums = np.zeros((rows, width), gradients.dtype)
    if sums.size:
        how = How(
            combiner=how.combiner,
            out_of_range="zeros",
            skip_negative=True,
            skip_weightless=how.skip_weightless,
            nonfinite="propagate",
        )
        Table.from_array(sums)._update(routed.places, placed, gradients, SGD(1.0), how)
        np.subtract(0, sums, out=sums)
    return sums


def sums_of_largest(
    places: NDArray[np.int64],
    rows: Table,
    bags: Bags,
    checked: Checked,
    how: How,
    frozen: NDArray[np.bool_] | None,
) -> NDArray[Any]:
    """Return the sum of each row's gradients, where bags had their largest values of it.

    Args:
        places: which row an id is of; -1 where it is no part of its bag.
        rows: with the values that bags had.
        bags: of the ids.
        checked: the gradients of the bags.
        how: the options.
        frozen: the rows that stay as they are.
    """
    table = Table.from_array(rows.lookup(np.arange(len(rows))), copy=False)
    state = np.zeros(table.shape, checked.gradients.dtype)
    # The buffer of a first step with momentum is the sum of the gradients.
    table._training = Training("sgd", state={_KEEPS_SUMS.slots()[0].name: [state]})
    how = How(
        combiner="max",
        skip_negative=True,
        skip_weightless=how.skip_weightless,
        nonfinite="propagate",
        frozen=frozen,
    )
    placed = Bags(places, bags.offsets, bags.weights, bags.lead)
    table._update(places, placed, checked.gradients, _KEEPS_SUMS, how)
    return state


def frozen_places(
    places: NDArray[np.int64], which: Which, ids: NDArray[Any], rows: int, num_rows: int
) -> NDArray[np.bool_] | None:
    """Which of the rows that were asked for are frozen."""
    begin, end = which.frozen_range
    if which.frozen is None and begin >= end:
        return None
    found = np.zeros(rows, np.bool_)
    inside = (ids >= 0) & (ids < num_rows)
    wide = np.where(inside, ids, 0).astype(np.int64)
    is_frozen = (wide >= begin) & (wide < end)
    if which.frozen is not None:
        is_frozen = which.frozen[wide] != 0
    found[places[inside & is_frozen & (places >= 0)]] = True
    return found


def by_position(places: NDArray[np.int64], rows: Table) -> tuple[NDArray[np.int64], Table]:
    """Return a row for each id, and which it is: its position, or -1 where there is none."""
    own = np.where(places < 0, -1, np.arange(places.size))
    return own, Table.from_array(rows.lookup(np.maximum(places, 0)))


def send_sums(
    exchange: Exchange,
    local: Table,
    wire: Wire,
    call: str,
    asked: Asked[RoutedRows],
    sums: NDArray[Any],
    optimizer: Optimizer,
) -> None:
    """Send the sum of each row to its rank, which adds those of ranks up in their order."""
    gradients = _swapped(
        exchange, wire, call, wire.gathered(sums, None), asked, asked.routed.counts
    )
    how = How(nonfinite="propagate")
    local._update(asked.rows, None, gradients, optimizer, how)


def send_pieces(
    exchange: Exchange,
    local: Table,
    wire: Wire,
    call: str,
    asked: Asked[RoutedBags],
    gradients: NDArray[Any],
    optimizer: Optimizer,
) -> None:
    """Send the gradient of each bag to each rank that holds a row of it.

    What a rank gets is in the order of ranks, and of their bags: it sums as a single process would,
    which has all bags in that order.
    """
    routed = asked.routed
    assert asked.bags is not None
    rows = gradients.reshape(len(routed.ends) - 1, wire.sums.width)
    if routed.divisors is not None:
        rows = np.array(rows)
        divide(rows, routed.divisors)
    data = wire.gathered(rows, routed.bags)
    received = _swapped(exchange, wire, call, data, asked, routed.piece_counts)
    how = How(combiner="sum", nonfinite="propagate")
    local._update(asked.bags.values, asked.bags, received, optimizer, how)


def send_rows(
    exchange: Exchange, local: Table, call: str, asked: Asked[RoutedRows], rows: NDArray[Any]
) -> None:
    """Send rows to their ranks, which write them in the order of those that sent them."""
    size = rows.itemsize * math.prod(rows.shape[1:])
    got = exchange.swap(
        np.ascontiguousarray(rows).reshape(-1).view(np.uint8),
        (asked.routed.counts * size).tolist(),
        (asked.counts * size).tolist(),
        what=call,
    )
    if size:
        local.write(asked.rows, got.view(rows.dtype).reshape(-1, *rows.shape[1:]))


def _swapped(
    exchange: Exchange,
    wire: Wire,
    call: str,
    data: NDArray[np.uint8],
    asked: Asked[Any],
    sent: NDArray[np.int64],
) -> NDArray[Any]:
    """Send gradients, one for each row or bag; return those for this rank, as they are applied."""
    size, count = wire.sent_sums.row_bytes, int(asked.counts.sum())
    out = room(count, wire.sent_sums)
    exchange.swap(data, (sent * size).tolist(), (asked.counts * size).tolist(), out, call)
    return wire.sums_of(out).reshape(count, *wire.sums.row_shape)
