"""Rows that are spread over the ranks of a group: which rank holds which, and their copies."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NoReturn, TypeAlias

import numpy as np

from shardwise._cuts import ids_of
from shardwise._errors import OptionError, TableError
from shardwise.distributed._asking import prepared
from shardwise.distributed._replicas import Replicas
from shardwise.distributed._routes import Routes
from shardwise.distributed._wire import Wire

if TYPE_CHECKING:
    from typing import Self

    from numpy.typing import NDArray

    from shardwise._cuts import Piece
    from shardwise._partition import Partition
    from shardwise._table import Table
    from shardwise._vocabulary import Vocabulary
    from shardwise.distributed._asking import Asked, Pending
    from shardwise.distributed._exchange import Exchange

Mode: TypeAlias = Literal["r", "r+", "c", "memory"]
Pools: TypeAlias = Literal["sums", "rows"]


# What a Table has and rows of many ranks have not, and what there is in its place.
_OF_ONE_PROCESS = {
    "checkpoint": "save(path, overwrite=True) writes all rows, and is whole or not there",
    "restore": "DistributedTable.open takes what Table.restore made",
    "shards": "local.shards are those of this rank",
    "optimizer_state": "local.optimizer_state is that of the rows of this rank",
    "quantize": "quantize the saved table with shardwise convert, and open that",
    "describe": "local.describe() tells of the rows of this rank",
}


@dataclass(frozen=True)
class Options:
    """How ranks exchange rows; see `DistributedTable.open`."""

    wire: str | None
    exact: bool
    pools: Pools
    average: bool
    replicated: Any


class Spread:
    """Rows of which each rank holds some: what is known of them."""

    exact: bool
    _average: bool
    _cuts: list[int]
    _exchange: Exchange
    _known: Asked[Any] | None
    _local: Table
    _mode: Mode
    _partition: Partition
    _pending: Pending | None
    _pieces: list[Piece]
    _pools: Pools
    _replicas: Replicas | None
    _routes: Routes
    _routes_of_reads: Routes
    _second: Exchange | None
    _vocabulary: Vocabulary | None
    _wire: Wire

    def __init__(self) -> None:
        raise TypeError("use DistributedTable.open or DistributedTable.create to make a table")

    @classmethod
    def _make(
        cls,
        exchange: Exchange,
        local: Table,
        partition: Partition,
        cuts: list[int],
        pieces: list[Piece],
        mode: Mode,
        options: Options,
    ) -> Self:
        self = object.__new__(cls)
        self._exchange, self._local, self._partition = exchange, local, partition
        self._cuts, self._pieces, self._mode = cuts, pieces, mode
        self._wire = Wire(local._layout, options.wire)
        if options.pools not in ("sums", "rows"):
            raise OptionError(f"expected pools to be 'sums' or 'rows', got {options.pools!r:.40}")
        self.exact, self._pools, self._average = options.exact, options.pools, options.average
        self._known, self._pending, self._vocabulary, self._second = None, None, None, None
        self._routes = self._routes_of_reads = Routes(partition, cuts)
        self._replicas = Replicas.of(options.replicated, partition, cuts, exchange.rank, local)
        if self._replicas is not None:
            copies = exchange.rank, self._replicas.places
            self._routes_of_reads = Routes(partition, cuts, copies)
        return self

    def _spread_changes(self, call: str) -> None:
        """Send the rows of this rank that have copies to all, where they are not what they were."""
        if self._replicas is not None:
            self._replicas.refresh(self._exchange, self._local, self._wire, call)

    @property
    def partition(self) -> Partition:
        """How ids fall on the shards."""
        return self._partition

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the whole: (rows, ...)."""
        return (self._partition.num_rows, *self._local.shape[1:])

    @property
    def dtype(self) -> np.dtype[Any]:
        """The dtype of an element that is looked up."""
        return self._local.dtype

    @property
    def row_format(self) -> str:
        """How rows are stored: "int8" or "int4" where they are packed, else the dtype's name."""
        return self._local.row_format

    @property
    def mode(self) -> str:
        """The mode that the table was opened with."""
        return self._mode

    @property
    def rank(self) -> int:
        """Which rank of the group this process is."""
        return self._exchange.rank

    @property
    def world_size(self) -> int:
        """How many ranks there are."""
        return self._exchange.size

    @property
    def wire(self) -> str | None:
        """How rows and gradients are sent; None: as they are."""
        return self._wire.name

    @property
    def local(self) -> Table:
        """The rows that this rank holds, as a table of their own; `local_ids` says which."""
        return self._local

    @property
    def local_ids(self) -> NDArray[np.int64]:
        """The ids of the rows of `local`, in their order."""
        return ids_of(self._partition, self._pieces)

    @property
    def rows_of_ranks(self) -> tuple[int, ...]:
        """How many rows each rank holds."""
        return tuple(b - a for a, b in zip(self._cuts[:-1], self._cuts[1:], strict=True))

    @property
    def replicated(self) -> NDArray[np.int64]:
        """The ids, in ascending order, of the rows that every rank has a copy of."""
        if self._replicas is None:
            return np.empty(0, np.int64)
        return np.sort(self._replicas.ids)

    @property
    def sent_bytes(self) -> int:
        """How many bytes this rank has sent to others since the table was opened."""
        return self._exchange.sent_bytes

    @property
    def optimizer_step(self) -> int:
        """How many updates there were since the state was made."""
        return self._local.optimizer_step

    def reset_optimizer(self) -> None:
        """Forget what an optimizer keeps of the rows: the next update is the first again."""
        call = "reset_optimizer()"
        prepared(self._exchange, call, self._local.reset_optimizer)
        self._exchange.agree(call)

    def flush(self) -> None:
        """Wait until everything that ranks changed with mode "r+" is on the disk."""
        prepared(self._exchange, "flush()", self._local.flush)
        self._exchange.agree("flush()")

    def close(self) -> None:
        """End the writing of a table that is open with mode "r+": flush it, and let others write.

        All ranks call it, but need not: it happens by itself, without the flush, when rank 0 does
        not use the table any more.
        """
        try:
            self.flush()
        finally:
            self._local.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        if kind is None:  # else others are in another call
            self.close()
        elif self._local._files is not None:
            self._local._files.close()

    def __len__(self) -> int:
        return self._partition.num_rows

    def __repr__(self) -> str:
        return (
            f"DistributedTable(shape={self.shape}, dtype={self.dtype}, "
            f"partition={self._partition}, rank={self.rank} of {self.world_size})"
        )

    def _refuse_read_only(self) -> None:
        if self._mode == "r":
            raise TableError(
                "expected a table that can be changed, got one of mode 'r'; open it with "
                'DistributedTable.open(path, mode="r+"), "memory", or "c" for a private copy'
            )

    @property
    def _whole(self) -> None:
        """No array has all rows; see `Table._whole`."""
        return None

    def __iter__(self) -> NoReturn:
        raise TypeError("a DistributedTable is not iterable; look its rows up in batches of ids")

    if not TYPE_CHECKING:  # else every name would be there

        def __getattr__(self, name: str) -> NoReturn:
            hint = _OF_ONE_PROCESS.get(name)
            if hint is None:
                raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
            raise AttributeError(
                f"expected what a DistributedTable has, got {name!r}, which is a Table's alone; "
                f"{hint}"
            )

    def __reduce__(self) -> NoReturn:
        raise TableError(
            "expected a table in memory to copy or pickle, got one of many processes; pass its "
            "path, and open it there"
        )
