"""Rows of all ranks, looked up and pooled: the calls."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from shardwise._bags import Bags, as_bags
from shardwise._errors import IdOutOfRangeError
from shardwise._ids import OutOfRange, as_ids, as_policy
from shardwise._layout import other_dtype
from shardwise._norms import as_limit
from shardwise._output import check_out, given
from shardwise._pool import Combiner, as_id, pool
from shardwise._reading import refuse_slices
from shardwise.distributed._ahead import Ahead, divided
from shardwise.distributed._asking import (
    Question,
    ask_bags,
    ask_rows,
    keep,
    prepared,
)
from shardwise.distributed._reading import fetch_sums
from shardwise.distributed._routes import Which

if TYPE_CHECKING:
    from numpy.typing import NDArray


class Lookups(Ahead):
    """What reads rows."""

    def lookup(
        self,
        ids: Any,
        *,
        out: NDArray[Any] | None = None,
        out_of_range: OutOfRange = "error",
        max_norm: float | None = None,
        dtype: Any = None,
    ) -> NDArray[Any]:
        """Return the rows of ids: what `Table.lookup` returns, with the same bits.

        Each row crosses the network once, however often its id is there.

        Args:
            ids: integers of any dtype and shape; each rank has its own, or none.
            out: see `Table.lookup`, for it and the other options.
            out_of_range: what an id outside the table does.
            max_norm: the largest norm of a row.
            dtype: of the result.

        Raises:
            IdOutOfRangeError: an id is outside the table; other ranks get a `DistributedError`.
            DistributedError: another rank cannot do its part, calls something else, or is lost.
        """
        call = "lookup"

        def check() -> tuple[Question, np.dtype[Any]]:
            found = as_ids(ids)
            policy, stand_in = as_policy(out_of_range, len(self))
            as_limit(max_norm)
            other = other_dtype(dtype, self._local._layout)
            made = self.dtype if other is None else other
            if out is not None:
                check_out(out, found.shape + self.shape[1:], made, (found,))
            return self._question(found, Which(policy, stand_in)), made

        question, wanted = prepared(self._exchange, call, check)
        known = self._known_of(question)
        asked = ask_rows(self._exchange, self._routes_of_reads, call, question, known)
        with self._exchange.committed(call):
            rows = self._fetch(self._exchange, call, asked)
        self._known = keep(asked)
        places = asked.routed.places.reshape(question.ids.shape)
        return rows.lookup(
            places,
            out=out,
            max_norm=max_norm,
            dtype=None if rows.dtype == wanted else wanted,
        )

    def __getitem__(self, ids: Any) -> NDArray[Any]:
        """Return `lookup(ids)`."""
        refuse_slices(ids)
        return self.lookup(ids)

    def pool(
        self,
        ids: Any,
        offsets: Any = None,
        *,
        weights: Any = None,
        combiner: Combiner = "sum",
        include_last_offset: bool = False,
        max_norm: float | None = None,
        out_of_range: OutOfRange = "error",
        padding_id: int | None = None,
        default_id: int | None = None,
        dtype: Any = None,
        out: NDArray[Any] | None = None,
    ) -> NDArray[Any]:
        """Combine the rows of each bag of ids to one row: what `Table.pool` returns.

        Each rank combines those rows of a bag that it holds, and sends one row; the rows of several
        ranks are combined in their order, in float32 (float64 for float64 rows). So bags whose rows
        are on one rank, and all with "max", have the bits of one process, and other sums are
        rounded elsewhere; with `exact=True` the rows are sent, and all have them.

        Args:
            ids: see `Table.pool`, for all options; each rank has bags of its own, or none.
            offsets: where each bag begins in `ids`.
            weights: None, or numbers in the form of the ids.
            combiner: "sum", "mean", "sqrtn" or "max"; the same on all ranks, and so are `max_norm`
                and `default_id`.
            include_last_offset: the last offset is the end of the last bag.
            max_norm: the largest norm of a row.
            out_of_range: what an id outside the table does.
            padding_id: ids equal to this one are no part of their bag.
            default_id: empty bags get the row of this id.
            dtype: of the result.
            out: an array that takes the result and is returned.

        Raises:
            IdOutOfRangeError: an id is outside the table; other ranks get a `DistributedError`.
            BagError: ids, offsets and weights do not make bags.
            DistributedError: another rank cannot do its part, calls something else, or is lost.
        """

        def make() -> Bags:
            bags = as_bags(ids, offsets, weights, include_last_offset=include_last_offset)
            if out is not None:
                wanted = other_dtype(dtype, self._local._layout)
                made = self.dtype if wanted is None else wanted
                check_out(out, bags.lead + self.shape[1:], made, (bags.values,))
            return bags

        found = self._pool(
            make,
            combiner=combiner,
            max_norm=max_norm,
            out_of_range=out_of_range,
            padding_id=padding_id,
            default_id=default_id,
            dtype=dtype,
        )
        return given(out, found)

    def _pool(
        self,
        bags: Bags | Callable[[], Bags],
        *,
        combiner: str = "sum",
        max_norm: float | None = None,
        out_of_range: OutOfRange = "error",
        padding_id: int | None = None,
        default_id: int | None = None,
        skip_negative: bool = False,
        skip_weightless: bool = False,
        dtype: Any = None,
    ) -> NDArray[Any]:
        # Where the sums of ranks do not say all that there is to know of a bag, rows are sent.
        as_rows = self.exact or self._pools == "rows" or default_id is not None
        as_rows = as_rows or (combiner == "max" and out_of_range == "zeros")
        call = f"pool(combiner={combiner!r}, max_norm={max_norm}, default_id={default_id})"

        def check() -> tuple[Bags, Which, np.dtype[Any]]:
            made = bags() if callable(bags) else bags
            layout = self._local._layout
            wanted = other_dtype(dtype, layout)
            # All that `Table.pool` refuses, it refuses of no bags, too.
            none = Bags(np.empty(0, np.int64), np.zeros(1, np.int64), None, (0,))
            self._local._pool(none, combiner=combiner, max_norm=max_norm, dtype=wanted)
            made, which = self._members(made, out_of_range, padding_id)
            which = replace(which, skip_negative=skip_negative, skip_weightless=skip_weightless)
            return made, which, self.dtype if wanted is None else wanted

        made, which, wanted = prepared(self._exchange, call, check)
        if as_rows:
            return self._pool_rows(made, which, wanted, call, combiner, max_norm, default_id)
        question = self._question(made.values, which, made, divided(combiner))
        known = self._known_of(question)
        asked = ask_bags(self._exchange, self._routes_of_reads, call, question, known)
        held = self._local if self._replicas is None else self._replicas.beside
        with self._exchange.committed(call):
            found = fetch_sums(
                self._exchange, held, self._wire, call, asked, combiner, max_norm, wanted
            )
        self._known = keep(asked)
        return found

    def _pool_rows(
        self,
        bags: Bags,
        which: Which,
        wanted: np.dtype[Any],
        call: str,
        combiner: str,
        max_norm: float | None,
        default_id: int | None,
    ) -> NDArray[Any]:
        """Pool rows that are sent here: what one process does, bit for bit."""

        def with_default() -> NDArray[Any]:
            if default_id is None:
                return bags.values
            row = as_id("default_id", default_id)
            if not 0 <= row < len(self):
                raise IdOutOfRangeError(
                    f"expected default_id to be the id of one of {len(self)} rows, got {default_id}"
                )
            return np.append(bags.values.astype(np.int64), row)

        # Weights are looked at here, where the bags are: ids without one may be sent for nothing.
        ids = prepared(self._exchange, call, with_default)
        question = self._question(ids, replace(which, skip_weightless=False))
        known = self._known_of(question)
        asked = ask_rows(self._exchange, self._routes_of_reads, call, question, known)
        with self._exchange.committed(call):
            rows = self._fetch(self._exchange, call, asked)
        self._known = keep(asked) if default_id is None else None
        places = asked.routed.places
        layout = rows._layout
        return pool(
            rows._rows,
            len(rows),
            layout,
            Bags(places[: bags.values.size], bags.offsets, bags.weights, bags.lead),
            combiner=combiner,
            max_norm=max_norm,
            default_id=None if default_id is None else int(places[-1]),
            skip_negative=True,
            skip_weightless=which.skip_weightless,
            dtype=None if layout.dtype == wanted else wanted,
        )
