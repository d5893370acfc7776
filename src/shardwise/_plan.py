"""What a table takes on each rank of many: memory, and the traffic of a step."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from shardwise._cuts import cuts_of, shard_starts
from shardwise._errors import OptionError
from shardwise._partition import Partition

if TYPE_CHECKING:
    from numpy.typing import NDArray

_MOST_STEPS = 4
_BALANCED_ROWS = 1 << 31  # of which counts are held in memory


@dataclass(frozen=True)
class RankPlan:
    """One rank's part.

    Attributes:
        rows: that it holds.
        bytes: of these rows, and of what an optimizer keeps of them.
        asked: of how many rows a step asks it, each once for a rank that asks; with bags, of how
            many sums.
        sent: bytes that it sends to others in a step.
        received: bytes that others send it.
    """

    rows: int
    bytes: int
    asked: float
    sent: float
    received: float


@dataclass(frozen=True)
class Plan:
    """A table on many ranks.

    Attributes:
        partition: how ids fall on shards.
        ranks: one entry for each.
        steps: how many steps were simulated; figures are means over them.
        resampled: the sample was too small for one, so that ids were drawn from it again.
    """

    partition: Partition
    ranks: tuple[RankPlan, ...]
    steps: int
    resampled: bool

    @property
    def largest(self) -> int:
        """The bytes of the rank that holds most."""
        return max(rank.bytes for rank in self.ranks)

    @property
    def busiest(self) -> float:
        """The bytes that the busiest rank sends or receives in a step, whichever is more."""
        return max(max(rank.sent, rank.received) for rank in self.ranks)

    @property
    def imbalance(self) -> float:
        """How many times the mean the busiest rank is asked for; 1 is even."""
        asked = [rank.asked for rank in self.ranks]
        mean = sum(asked) / len(asked)
        return max(asked) / mean if mean else 1.0

    def to_json(self) -> dict[str, Any]:
        """Return the plan as a JSON object."""
        return {
            "partition": self.partition.to_json(),
            "steps": self.steps,
            "resampled": self.resampled,
            "largest_bytes": self.largest,
            "busiest_bytes": self.busiest,
            "imbalance": self.imbalance,
            "ranks": [vars(rank) for rank in self.ranks],
        }


@dataclass(frozen=True)
class Load:
    """What is asked of a table.

    Attributes:
        row_bytes: of a row and of what an optimizer keeps of it, in memory.
        sent_row_bytes: of a row on the wire.
        batch: how many ids a rank looks up in a step.
        bag: ids of a bag, of which each rank sends one sum; 0 for rows.
        trains: whether gradients go back.
        copy_bytes: of a row that every rank has a copy of, in memory and on the wire.
    """

    row_bytes: int
    sent_row_bytes: int
    batch: int
    bag: int = 0
    trains: bool = True
    copy_bytes: int = 0


def hottest(sample: NDArray[Any], count: int) -> NDArray[np.int64]:
    """Return the ids, in ascending order, that are most often in a sample; fewer if it has fewer.

    Example:
        >>> from shardwise._plan import hottest
        >>> hottest([5, 3, 5, 9, 9, 9], 2)
        array([5, 9])
    """
    ids, counts = np.unique(np.asarray(sample, np.int64), return_counts=True)
    order = np.argsort(-counts, kind="stable")[: max(0, count)]
    return np.sort(ids[order])


def make_plan(
    partition: Partition,
    sample: NDArray[Any],
    ranks: int,
    load: Load,
    replicated: NDArray[np.int64] | None = None,
) -> Plan:
    """Simulate steps of lookups and updates.

    Args:
        partition: how ids fall on shards, which fall on ranks as `DistributedTable.open` has it.
        sample: integers of shape (ids,), as they come in training.
        ranks: how many, at least 1.
        load: of a step.
        replicated: ids, in ascending order, of the rows that every rank has a copy of.

    Raises:
        OptionError: there are no ids, or an option has a value that it cannot have.
        IdOutOfRangeError: an id is outside the table.

    Example:
        >>> import numpy as np
        >>> from shardwise import Partition
        >>> from shardwise._plan import Load, make_plan
        >>> ids = np.random.default_rng(0).zipf(1.2, 10_000) % 1000
        >>> plan = make_plan(Partition.mod(1000, 4), ids, 4, Load(256, 256, batch=500))
        >>> [rank.rows for rank in plan.ranks], plan.steps
        ([250, 250, 250, 250], 4)
    """
    if ranks < 1 or load.batch < 1 or not 0 <= load.bag <= load.batch:
        raise OptionError(
            f"expected ranks and a batch from 1, and bags of at most a batch, got {ranks} ranks, "
            f"batches of {load.batch} and bags of {load.bag}"
        )
    if sample.size == 0:
        raise OptionError("expected a sample of at least one id, got none")
    cuts = np.asarray(cuts_of(partition, ranks))
    starts = np.asarray(shard_starts(partition)[:-1])
    steps = min(_MOST_STEPS, sample.size // (ranks * load.batch))
    copied = np.empty(0, np.int64) if replicated is None else replicated
    # By who asks, and who is asked: of what is read, and of what is changed.
    asked, ids, changed, changed_ids = np.zeros((4, ranks, ranks))
    pushed = np.zeros(ranks)  # copies of each rank's rows that a step changes
    touched: list[NDArray[Any]] = []
    for rank, batch in _batches(sample, ranks, load.batch, steps):
        own = batch if load.bag else np.unique(batch)
        bags = np.arange(len(own)) // max(1, load.bag)
        shards, rows = partition.locate(own)
        owners = np.searchsorted(cuts, starts[shards] + rows, side="right") - 1
        _count(changed[rank], changed_ids[rank], owners, bags, load.bag)
        if not copied.size:
            continue
        is_copied = np.isin(own, copied)
        reads = np.where(is_copied, rank, owners) if load.bag else owners[~is_copied]
        _count(asked[rank], ids[rank], reads, bags, load.bag)
        touched.append(np.stack([own[is_copied], owners[is_copied]]))
        if len(touched) == ranks:  # of all ranks in a step
            _, first = np.unique(np.concatenate(touched, axis=1)[0], return_index=True)
            who = np.concatenate(touched, axis=1)[1][first].astype(np.int64)
            pushed += np.bincount(who, minlength=ranks)[:ranks]
            touched.clear()
    if not copied.size:
        asked, ids = changed, changed_ids
    counts = (asked, ids, changed, changed_ids, pushed)
    asked, ids, changed, changed_ids, pushed = (one / max(1, steps) for one in counts)
    total = asked.sum(axis=0)
    for one in (asked, ids, changed, changed_ids):
        np.fill_diagonal(one, 0)
    id_bytes = 4 if np.diff(cuts).max() <= 1 << 32 else 8
    # Rows of the owner to who asks; ids, and gradients, the other way; changed copies to all.
    down = asked * load.sent_row_bytes
    up = ids * id_bytes
    if load.trains:
        up = up + changed * load.sent_row_bytes
        if copied.size:
            up = up + changed_ids * id_bytes
            copies = np.tile(pushed * (4 + (load.copy_bytes or load.row_bytes)), (ranks, 1))
            np.fill_diagonal(copies, 0)
            down = down + copies
    sent = down.sum(axis=0) + up.sum(axis=1)
    received = down.sum(axis=1) + up.sum(axis=0)
    return Plan(
        partition,
        tuple(
            RankPlan(
                int(cuts[k + 1] - cuts[k]),
                int(cuts[k + 1] - cuts[k]) * load.row_bytes
                + copied.size * (load.copy_bytes or load.row_bytes),
                float(total[k]),
                float(sent[k]),
                float(received[k]),
            )
            for k in range(ranks)
        ),
        max(1, steps),
        steps == 0,
    )


def _count(
    asked: NDArray[Any], ids: NDArray[Any], owners: NDArray[np.int64], bags: NDArray[Any], bag: int
) -> None:
    """Add what one rank asks of each owner: rows, or sums where they are in bags, and ids."""
    ranks = len(ids)
    ids += np.bincount(owners, minlength=ranks)[:ranks]
    if bag:
        owners = np.unique(bags * ranks + owners) % ranks
    asked += np.bincount(owners, minlength=ranks)[:ranks]


def balanced(
    num_rows: int, sample: NDArray[Any], ranks: int, load: Load, memory: int | None
) -> Partition:
    """Return the partition in which ranks are asked for as equal numbers of rows as can be.

    A rank asks for a row once in a step, so an id of the share p of the sample counts
    1 - (1 - p)^batch: how often it is among the ids of a batch.

    Raises:
        OptionError: there are too many rows to count them.
        PartitionError: the memory is too small.
    """
    if num_rows > _BALANCED_ROWS:
        raise OptionError(
            f"expected at most {_BALANCED_ROWS} rows to balance, got {num_rows}; mod spreads "
            "neighbours, and so rows that are asked for often"
        )
    shares = np.bincount(sample, minlength=num_rows) / max(1, sample.size)
    counts = -np.expm1(load.batch * np.log1p(-np.minimum(shares, 1 - 1e-16)))
    most = None if memory is None else max(1, memory // max(1, load.row_bytes))
    if most is not None and most * ranks < num_rows:
        most = None  # it does not fit in any way; the plan says so
    return Partition.balanced(counts, ranks, max_rows=most)


def _batches(
    sample: NDArray[Any], ranks: int, batch: int, steps: int
) -> Iterator[tuple[int, NDArray[Any]]]:
    """Each rank's ids of each step: one after the other in the sample, or drawn from it."""
    if steps == 0:
        rng = np.random.default_rng(0)
        for rank in range(ranks):
            yield rank, sample[rng.integers(0, sample.size, batch)]
        return
    for step in range(steps):
        for rank in range(ranks):
            begin = (step * ranks + rank) * batch
            yield rank, np.asarray(sample[begin : begin + batch])
