"""Exchanges that begin before the call that they are for."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from shardwise._bags import Bags, as_bags
from shardwise._errors import OptionError, ShardwiseError
from shardwise._ids import OutOfRange, as_ids, as_policy
from shardwise._pool import Combiner, as_id
from shardwise.distributed._asking import Asked, Pending, Question, ask_bags, ask_rows
from shardwise.distributed._reading import fetch
from shardwise.distributed._routes import Which
from shardwise.distributed._spread import Spread

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from shardwise._table import Table
    from shardwise.distributed._exchange import Exchange
    from shardwise.distributed._routes import RoutedRows


class Ahead(Spread):
    """What reads ask, now or ahead of their time."""

    def prefetch(
        self,
        ids: Any,
        offsets: Any = None,
        *,
        weights: Any = None,
        combiner: Combiner | None = None,
        include_last_offset: bool = False,
        out_of_range: OutOfRange = "error",
        padding_id: int | None = None,
    ) -> None:
        """Begin the exchange of a coming lookup, or `pool` with a combiner, and return at once.

        All ranks call it. Ids are sorted and sent on another thread, and rows that are not in the
        memory of their rank are read from the disk; of a table of mode "r" that is looked up, the
        rows are sent, too. The call that comes with the same ids and options takes it from there;
        what it reads is what is there then. Updates may come between, and an error is told by that
        call. At most one exchange waits: the next takes its place.

        Args:
            ids: of the next `lookup`; or of the next `pool`, where there is a combiner.
            offsets: as for `pool`, and so are the others.
            weights: see above.
            combiner: of the next `pool`.
            include_last_offset: see above.
            out_of_range: what an id outside the table does.
            padding_id: see above.
        """
        if self._exchange.size > 1 and self._second is None:
            self._second = self._exchange.another()
        exchange = self._second or self._exchange

        def check() -> Question:
            if combiner is None and offsets is None:
                policy, stand_in = as_policy(out_of_range, len(self))
                return self._question(as_ids(ids), Which(policy, stand_in)).kept()
            bags = as_bags(ids, offsets, weights, include_last_offset=include_last_offset)
            made, which = self._members(bags, out_of_range, padding_id)
            if self.exact or self._pools == "rows":
                return self._question(made.values, which).kept()
            return self._question(made.values, which, made, divided(combiner or "sum")).kept()

        try:
            question: Question | None = check()
        except ShardwiseError:  # told by the call that it is for
            question = None

        def work() -> Asked[Any]:
            call = "prefetch"
            if question is None:
                exchange.agree(call, error=OptionError("expected ids to prefetch, got none"))
            assert question is not None
            if question.bags is not None:
                return ask_bags(exchange, self._routes_of_reads, call, question, None)
            asked = ask_rows(exchange, self._routes_of_reads, call, question, None)
            if self._mode != "r":
                self._local.prefetch(asked.rows)
                return asked
            with exchange.committed(call):
                return replace(asked, fetched=self._fetch(exchange, call, asked))

        if self._pending is not None:
            self._pending.wait()
        self._pending = Pending(question, work)

    def _question(
        self,
        ids: NDArray[Any],
        which: Which,
        bags: Bags | None = None,
        divided: str | None = None,
    ) -> Question:
        """Return what reads ask: not for rows that this rank has a copy of."""
        return Question(ids, bags, which, divided, self._replicas is not None)

    def _fetch(self, exchange: Exchange, call: str, asked: Asked[RoutedRows]) -> Table:
        copies = None if self._replicas is None else self._replicas.sent
        return fetch(exchange, self._local, self._wire, call, asked, copies)

    def _known_of(self, question: Question) -> Asked[Any] | None:
        """What was exchanged before for the same ids."""
        pending = self._pending
        asked = None if pending is None else pending.question
        if pending is not None and asked is not None and asked.equals(question):
            self._pending = None
            return pending.wait()
        return self._known

    def _members(
        self, bags: Bags, out_of_range: OutOfRange, padding_id: int | None
    ) -> tuple[Bags, Which]:
        """Return bags as they are sent, and which of their ids take part."""
        policy, stand_in = as_policy(out_of_range, len(self))
        padding = None if padding_id is None else as_id("padding_id", padding_id)
        if padding is not None and padding < 0 and bags.values.dtype.kind == "u":
            padding = None
        if bags.weights is not None:
            with np.errstate(over="ignore"):
                numbers = np.ascontiguousarray(bags.weights, self._wire.sums.dtype)
            bags = Bags(bags.values, bags.offsets, numbers, bags.lead)
        return bags, Which(policy, stand_in, padding)


def divided(combiner: str) -> str | None:
    """Return the combiner, where sums are divided by something."""
    return combiner if combiner in ("mean", "sqrtn") else None
