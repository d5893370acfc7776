"""Rows of all ranks, changed: the calls."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from shardwise._arrays import as_values
from shardwise._bags import Bags, as_bags
from shardwise._errors import OptionError, TableError
from shardwise._ids import OutOfRange, as_ids
from shardwise._pool import Combiner
from shardwise._update import Checked, How, Nonfinite, check_update, with_rate
from shardwise.distributed._ahead import divided
from shardwise.distributed._asking import Question, ask_bags, ask_rows, prepared
from shardwise.distributed._in_place import begin_changes
from shardwise.distributed._lookups import Lookups
from shardwise.distributed._reading import fetch
from shardwise.distributed._routes import Which
from shardwise.distributed._writing import (
    by_position,
    check_finite,
    frozen_places,
    send_pieces,
    send_rows,
    send_sums,
    sums_by_row,
    sums_of_largest,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from shardwise.optimizers import Optimizer


class Updates(Lookups):
    """What changes rows."""

    def write(self, ids: Any, rows: Any) -> None:
        """Write rows over the rows of ids; where an id comes again, its last row stays.

        It is one `Table.write` with the ids and rows of rank 0, then those of rank 1, ...

        Args:
            ids: integers of any dtype and shape; each rank has its own, or none.
            rows: see `Table.write`.

        Raises:
            IdOutOfRangeError: an id is outside the table; other ranks get a `DistributedError`.
            TableError: `rows` have another shape or dtype, or the table cannot be written to.
            DistributedError: another rank cannot do its part, calls something else, or is lost.
        """
        exchange, call = self._exchange, "write"

        def check() -> tuple[NDArray[Any], NDArray[Any]]:
            found = as_ids(ids)
            self._refuse_read_only()
            return found, as_values(rows, found.shape + self.shape[1:], self.dtype)

        found, values = prepared(exchange, call, check)
        asked = ask_rows(exchange, self._routes, call, Question(found), self._known)
        begin_changes(self, call)
        with exchange.committed(call):
            last = np.empty(len(asked.routed.rows), np.int64)
            last[asked.routed.places] = np.arange(found.size)
            flat = values.reshape(found.size, *self.shape[1:])
            send_rows(exchange, self._local, call, asked, flat[last])
            self._spread_changes(call)

    def update(
        self,
        ids: Any,
        gradients: Any,
        optimizer: Optimizer,
        *,
        learning_rate: float | None = None,
        out_of_range: OutOfRange = "error",
        padding_id: int | None = None,
        frozen: slice | NDArray[np.bool_] | None = None,
        nonfinite: Nonfinite = "error",
    ) -> None:
        """Change the rows of ids by the gradients of all ranks: one step of an optimizer.

        It is one `Table.update` with the ids and gradients of rank 0, then those of rank 1, ...
        Each rank sums the gradients of an id that it has, in the order of their positions, and
        sends one row; those of several ranks are added in their order, and the rank that holds the
        row changes it. With `exact=True` each gradient is sent, and summed as one process would.

        Args:
            ids: see `Table.update`, for it and all that is not said here. A rank may have none.
            gradients: floating-point numbers of shape `ids.shape + table.shape[1:]`.
            optimizer: the same on all ranks.
            learning_rate: for this step; the same on all ranks.
            out_of_range: what an id outside the table does.
            padding_id: ids equal to this one change nothing.
            frozen: rows that stay as they are.
            nonfinite: what NaN or infinity in a gradient does.

        Raises:
            IdOutOfRangeError: an id is outside the table; other ranks get a `DistributedError`.
            TableError: see `Table.update`.
            DistributedError: another rank cannot do its part, calls something else, or is lost.
        """
        how = How(
            out_of_range=out_of_range, padding_id=padding_id, frozen=frozen, nonfinite=nonfinite
        )
        self._change(lambda: (as_ids(ids), None), gradients, optimizer, learning_rate, how)

    def update_pool(
        self,
        ids: Any,
        offsets: Any,
        gradients: Any,
        optimizer: Optimizer,
        *,
        weights: Any = None,
        combiner: Combiner = "sum",
        include_last_offset: bool = False,
        learning_rate: float | None = None,
        out_of_range: OutOfRange = "error",
        padding_id: int | None = None,
        frozen: slice | NDArray[np.bool_] | None = None,
        nonfinite: Nonfinite = "error",
    ) -> None:
        """Change the rows of bags of ids by the gradients of what `pool` made of them.

        The gradient of a bag goes to each rank that holds a row of it, once, and is given to its
        rows there. All gradients of a row are summed as one process would that has the bags of
        rank 0, then those of rank 1, ...: with the same bits, for all combiners but "max", of
        which each rank sums its own first.

        Args:
            ids: see `Table.update_pool`, for it and all that is not said here.
            offsets: where each bag begins in `ids`.
            gradients: floating-point numbers of the shape of `pool`'s result.
            optimizer: the same on all ranks.
            weights: None, or numbers in the form of the ids.
            combiner: the same on all ranks.
            include_last_offset: the last offset is the end of the last bag.
            learning_rate: for this step; the same on all ranks.
            out_of_range: what an id outside the table does.
            padding_id: such an id is no part of its bag.
            frozen: rows that stay as they are; they are part of their bags.
            nonfinite: what NaN or infinity in a gradient does.

        Raises:
            BagError: ids, offsets and weights do not make bags.
            IdOutOfRangeError: see `update`, for it and all other errors.
        """
        how = How(
            combiner=combiner,
            out_of_range=out_of_range,
            padding_id=padding_id,
            frozen=frozen,
            nonfinite=nonfinite,
        )

        def make() -> tuple[NDArray[Any], Bags]:
            bags = as_bags(ids, offsets, weights, include_last_offset=include_last_offset)
            return bags.values, bags

        self._change(make, gradients, optimizer, learning_rate, how)

    def _update(
        self, ids: NDArray[Any], bags: Bags | None, gradients: Any, optimizer: Optimizer, how: How
    ) -> None:
        """What the modules of `shardwise.torch` call."""
        if self._average and self.world_size > 1:
            gradients = gradients / gradients.dtype.type(self.world_size)
        self._change(lambda: (ids, bags), gradients, optimizer, None, how)

    def _change(
        self,
        make: Callable[[], tuple[NDArray[Any], Bags | None]],
        gradients: Any,
        optimizer: Any,
        learning_rate: float | None,
        how: How,
    ) -> None:
        call = (
            f"update(optimizer={optimizer!r}, learning_rate={learning_rate}, "
            f"combiner={how.combiner!r})"
        )

        def check() -> Any:
            made = with_rate(optimizer, learning_rate)
            self._refuse_read_only()
            if self._local._layout.packed is not None:
                raise TableError(
                    f"expected rows of floats to train, got rows packed as {self.row_format}"
                )
            if how.rounding_seed is not None:
                raise OptionError("expected rounding_seed=None for a distributed table, got one")
            ids, bags = make()
            # Whether rows overlap gradients is looked at where rows are changed.
            shards = tuple(shard[:0] for shard in self._local._shards)
            checked = check_update(ids, bags, gradients, how, self.shape, shards)
            self._local._check_optimizer(made)
            if how.nonfinite == "error":
                check_finite(checked.gradients)
            if bags is not None:
                bags = Bags(ids, bags.offsets, checked.names["weights"], bags.lead)
            elif self.exact:
                bags = _single(ids.reshape(-1))
            return ids, bags, checked, made

        ids, bags, checked, made = prepared(self._exchange, call, check)
        names = checked.names
        which = Which(
            names["policy"],
            names["stand_in"],
            names["padding"],
            names["skip_negative"],
            names["skip_weightless"],
            names["frozen"],
            names["frozen_range"],
        )
        if bags is None or (how.combiner != "max" and self._pools == "rows" and not self.exact):
            self._change_rows(call, ids, bags, which, checked, made, how)
        elif how.combiner == "max":
            self._change_largest(call, bags, which, checked, made, how)
        else:
            self._change_pieces(call, bags, which, checked.gradients, made, how.combiner)

    def _change_rows(
        self,
        call: str,
        ids: NDArray[Any],
        bags: Bags | None,
        which: Which,
        checked: Checked,
        optimizer: Optimizer,
        how: How,
    ) -> None:
        exchange, wire = self._exchange, self._wire
        question = Question(ids, None, replace(which, skip_weightless=False))
        asked = ask_rows(exchange, self._routes, call, question, self._known)
        begin_changes(self, call, optimizer)
        with exchange.committed(call):
            sums = sums_by_row(asked.routed, bags, checked, wire.sums.width, how)
            send_sums(exchange, self._local, wire, call, asked, sums, optimizer)
            self._spread_changes(call)

    def _change_pieces(
        self,
        call: str,
        bags: Bags,
        which: Which,
        gradients: NDArray[Any],
        optimizer: Optimizer,
        combiner: str,
    ) -> None:
        exchange = self._exchange
        question = Question(bags.values, bags, which, divided(combiner))
        asked = ask_bags(exchange, self._routes, call, question, self._known)
        begin_changes(self, call, optimizer)
        with exchange.committed(call):
            send_pieces(exchange, self._local, self._wire, call, asked, gradients, optimizer)
            self._spread_changes(call)

    def _change_largest(
        self,
        call: str,
        bags: Bags,
        which: Which,
        checked: Checked,
        optimizer: Optimizer,
        how: How,
    ) -> None:
        """Which row has the largest value is seen where the bag is: its rows are sent there."""
        exchange, wire = self._exchange, self._wire
        seen = replace(which, frozen=None, frozen_range=(0, 0), skip_weightless=False)
        question = Question(bags.values, None, seen)
        asked = ask_rows(exchange, self._routes, call, question, self._known)
        begin_changes(self, call, optimizer)
        with exchange.committed(call):
            rows = fetch(exchange, self._local, wire, call, asked)
            places = asked.routed.places
            if not self.exact:
                frozen = frozen_places(places, which, bags.values, len(rows), len(self))
                sums = sums_of_largest(places, rows, bags, checked, how, frozen)[:-1]
                send_sums(exchange, self._local, wire, call, asked, sums, optimizer)
                self._spread_changes(call)
                return
            own, each = by_position(places, rows)
            sums = sums_of_largest(own, each, bags, checked, how, None)
        self._change_pieces(call, _single(bags.values), which, sums, optimizer, "sum")


def _single(ids: NDArray[Any]) -> Bags:
    """Return bags of one id each."""
    return Bags(ids, np.arange(ids.size + 1), None, ids.shape)
