"""A table whose rows are spread over the processes of a group."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Literal, NoReturn, TypeAlias

import numpy as np

from shardwise._bags import Bags, as_bags
from shardwise._cuts import ids_of
from shardwise._errors import (
    IdOutOfRangeError,
    IdTypeError,
    OptionError,
    ShardwiseError,
    TableError,
)
from shardwise._ids import OutOfRange, as_ids, as_policy
from shardwise._layout import other_dtype
from shardwise._norms import as_limit
from shardwise._output import check_out, given
from shardwise._partition import Partition
from shardwise._pool import Combiner, as_id, pool
from shardwise._update import Checked, How, Nonfinite, check_update, with_rate
from shardwise.distributed._asking import (
    Asked,
    Pending,
    Question,
    ask_bags,
    ask_rows,
    keep,
    prepared,
)
from shardwise.distributed._exchange import Exchange
from shardwise.distributed._reading import fetch, fetch_sums
from shardwise.distributed._routes import Routes, Which
from shardwise.distributed._wire import Wire
from shardwise.distributed._writing import (
    by_position,
    check_finite,
    send_pieces,
    send_sums,
    sums_by_row,
    sums_of_largest,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from shardwise._cuts import Piece
    from shardwise._table import Table
    from shardwise._vocabulary import Vocabulary
    from shardwise.initializers import Initializer, RowMaker
    from shardwise.optimizers import Optimizer

Mode: TypeAlias = Literal["r", "c", "memory"]
Pools: TypeAlias = Literal["sums", "rows"]
_COMBINERS = ("sum", "mean", "sqrtn", "max")


class DistributedTable:
    """A `Table` whose rows are spread over the ranks of a group of torch.distributed.

    All ranks call the same methods in the same order, each with ids and gradients of its own, and
    each gets what it would get of a table that holds all rows. What a rank cannot do is an error on
    all ranks, and nothing is changed.

    Lookups give the same bits as one process. Sums of a bag are made by each rank of the rows that
    it holds, and added up in the order of the ranks; gradients of an id are summed by each rank
    that has some, and added up in the order of the ranks. With `exact=True` the rows themselves are
    sent, and each gradient: then all has the bits of one process that has the batches of all ranks
    one after the other, for more bytes.

    Attributes:
        world_size: how many ranks there are.
        rank: which this is.
        wire: how rows and gradients are sent.
        exact: whether all has the bits of one process.

    Example:
        >>> import torch.distributed as dist
        >>> from shardwise.distributed import DistributedTable
        >>> dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
        >>> table = DistributedTable.create(None, 1000, 2, initializer="zeros")
        >>> table.lookup([3, 999])
        array([[0., 0.],
               [0., 0.]], dtype=float32)
        >>> dist.destroy_process_group()
    """

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
    _routes: Routes
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
        *,
        mode: Mode,
        wire: str | None,
        exact: bool,
        pools: Pools,
        average: bool,
    ) -> DistributedTable:
        self = object.__new__(cls)
        self._exchange, self._local, self._partition = exchange, local, partition
        self._cuts, self._pieces, self._mode = cuts, pieces, mode
        self._routes = Routes(partition, cuts)
        self._wire = Wire(local._layout, wire)
        if pools not in ("sums", "rows"):
            raise OptionError(f"expected pools to be 'sums' or 'rows', got {pools!r:.40}")
        self.exact, self._pools, self._average = exact, pools, average
        self._known, self._pending, self._vocabulary, self._second = None, None, None, None
        return self

    @classmethod
    def open(
        cls,
        path: str | os.PathLike[str],
        group: Any = None,
        mode: Mode = "r",
        *,
        wire: str | None = None,
        exact: bool = False,
        pools: Pools = "sums",
        average: bool = True,
        timeout: timedelta | None = None,
        verify: bool = False,
    ) -> DistributedTable:
        """Open a table that all ranks can read at `path`; each maps the shards that it holds.

        With as many shards as ranks and more, each rank holds whole shards that follow each other;
        with fewer, shards are cut, and each rank holds as many rows as another.

        Args:
            path: the directory of the table: of `Table.save`, `Table.create` or `save`.
            group: of torch.distributed; None for all processes. Rows are exchanged over a gloo
                group of the same processes.
            mode: "r" to read. "c" also to change rows, in a private copy of the pages that change;
                "memory" likewise, with all rows of this rank read into its memory at once. What was
                changed is kept by `save`.
            wire: how rows, sums and gradients are sent: "float32", "float16", "bfloat16" or "int8"
                (8 bits a value with a scale and a bias for each row, of finite numbers). By default
                as they are.
            exact: see the class.
            pools: what is sent of a bag: "sums", one row of each rank that holds some of its rows;
                or "rows", each row once for all bags of a rank. With more ranks than a bag has ids,
                rows are less; `shardwise plan` tells. Gradients of bags go the same way back.
            average: divide gradients that come through the modules of `shardwise.torch` by the
                number of ranks, as DistributedDataParallel does.
            timeout: how long a rank waits for the others, 5 minutes by default.
            verify: compare the checksums of the files of this rank first.

        Raises:
            TableNotFoundError: there is no table at `path`.
            StoreError: the table is broken, or was written by a newer version.
            DistributedError: torch.distributed is not initialized, a rank cannot open the table, or
                ranks opened different tables.
            OptionError: an option has a value that it cannot have.
        """
        from shardwise.distributed._files import open_distributed

        return open_distributed(
            Exchange(group, timeout),
            path,
            mode,
            wire=wire,
            exact=exact,
            pools=pools,
            average=average,
            verify=verify,
        )

    @classmethod
    def create(
        cls,
        path: str | os.PathLike[str] | None,
        rows: int,
        dim: int | tuple[int, ...],
        dtype: Any = "float32",
        group: Any = None,
        *,
        shards: int | None = None,
        partition: str | Partition = "mod",
        initializer: str | Initializer | RowMaker = "zeros",
        overwrite: bool = False,
        metadata: Mapping[str, Any] | None = None,
        wire: str | None = None,
        exact: bool = False,
        pools: Pools = "sums",
        average: bool = True,
        timeout: timedelta | None = None,
    ) -> DistributedTable:
        """Make a table whose rows are in the memory of the ranks; each makes its own.

        Args:
            path: a directory in which the table is saved first, or None for memory alone.
            rows: how many rows.
            dim: how many values a row has, or the shape of a row.
            dtype: the dtype of an element.
            group: see `open`.
            shards: how many shards; as many as ranks by default.
            partition: "mod", "div", or a `Partition` of as many rows.
            initializer: as for `Table.create`: rows are the same for any number of ranks.
            overwrite: replace a table that is there.
            metadata: any JSON object, kept with the table.
            wire: see `open`.
            exact: see the class.
            pools: see `open`.
            average: see `open`.
            timeout: see `open`.

        Raises:
            TableExistsError: there is a table already, and `overwrite` is false.
            PartitionError: there is no such partition.
            OptionError: there is no such initializer.
            DistributedError: see `open`.
        """
        from shardwise.distributed._files import create_distributed

        return create_distributed(
            Exchange(group, timeout),
            path,
            rows,
            dim,
            dtype,
            shards=shards,
            partition=partition,
            initializer=initializer,
            overwrite=overwrite,
            metadata=metadata,
            wire=wire,
            exact=exact,
            pools=pools,
            average=average,
        )

    def save(
        self,
        path: str | os.PathLike[str],
        *,
        overwrite: bool = False,
        metadata: Mapping[str, Any] | None = None,
    ) -> None:
        """Write the table, and what an optimizer keeps of it, to a directory that all ranks see.

        Each rank writes the files of its shards; one rename by rank 0 makes them the table. It is
        whole or, on any failure of any rank, not there: then the directory holds the table that it
        held before. It is an ordinary table, for `Table.open` and for any number of ranks.

        Args:
            path: the directory; it is made.
            overwrite: replace a table that is there, such as the last checkpoint of this one.
            metadata: any JSON object, kept with the table.

        Raises:
            TableExistsError: there is a table already, and `overwrite` is false.
            DistributedError: another rank cannot write, or is lost.
            OSError: the disk is full.
        """
        from shardwise.distributed._files import save_distributed

        save_distributed(self, path, overwrite=overwrite, metadata=metadata)

    def state_dict(self, optimizer: Optimizer | None = None) -> dict[str, Any]:
        """Return rows and state for torch.distributed.checkpoint, which writes and reads them.

        Keys: "weight", "partition", and where there is a state of an optimizer "family", "step" and
        "optimizer.<name>" for each name. Tensors have the rows in the order of `partition`'s shards
        (that of the ids for "div" and "ranges"), and are the memory of this table: to load is to
        write to it. `save` writes a table that needs no torch to be read, with checksums.

        Args:
            optimizer: whose state is loaded: it is made, where there is none.

        Raises:
            TableError: rows are packed.

        Example:
            >>> import tempfile, torch.distributed as dist
            >>> import torch.distributed.checkpoint as dcp
            >>> from shardwise.distributed import DistributedTable
            >>> dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
            >>> table = DistributedTable.create(None, 10, 2, initializer="normal")
            >>> folder = tempfile.TemporaryDirectory()
            >>> _ = dcp.save(table.state_dict(), checkpoint_id=folder.name)
            >>> other = DistributedTable.create(None, 10, 2)
            >>> state = other.state_dict()
            >>> dcp.load(state, checkpoint_id=folder.name)
            >>> other.load_state_dict(state)
            >>> bool((other.lookup(range(10)) == table.lookup(range(10))).all())
            True
            >>> dist.destroy_process_group()
            >>> folder.cleanup()
        """
        from shardwise.distributed._checkpointable import state_dict

        return state_dict(self, optimizer)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """End what `torch.distributed.checkpoint.load` of a `state_dict` of this table began.

        Raises:
            DistributedError: the checkpoint is of a table that was cut otherwise, or its state is
                another optimizer's.
        """
        from shardwise.distributed._checkpointable import load_state_dict

        load_state_dict(self, state)

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
    def sent_bytes(self) -> int:
        """How many bytes this rank has sent to others since the table was opened."""
        return self._exchange.sent_bytes

    @property
    def optimizer_step(self) -> int:
        """How many updates there were since the state was made."""
        return self._local.optimizer_step

    def reset_optimizer(self) -> None:
        """Forget what an optimizer keeps of the rows: the next update is the first again."""
        self._exchange.agree("reset_optimizer()")
        self._local.reset_optimizer()

    def __len__(self) -> int:
        return self._partition.num_rows

    def __repr__(self) -> str:
        return (
            f"DistributedTable(shape={self.shape}, dtype={self.dtype}, "
            f"partition={self._partition}, rank={self.rank} of {self.world_size})"
        )

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
            return Question(found, None, Which(policy, stand_in)), made

        question, wanted = prepared(self._exchange, call, check)
        known = self._known_of(question)
        asked = ask_rows(self._exchange, self._routes, call, question, known)
        with self._exchange.committed(call):
            rows = fetch(self._exchange, self._local, self._wire, call, asked)
        self._known = keep(asked)
        places = asked.routed.places.reshape(question.ids.shape)
        return rows.lookup(
            places,
            out=out,
            max_norm=max_norm,
            dtype=None if rows.dtype == wanted else wanted,
        )

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
                return Question(as_ids(ids), None, Which(policy, stand_in)).kept()
            bags = as_bags(ids, offsets, weights, include_last_offset=include_last_offset)
            made, which = self._members(bags, out_of_range, padding_id)
            if self.exact or self._pools == "rows":
                return Question(made.values, None, which).kept()
            return Question(made.values, made, which, _divided(combiner or "sum")).kept()

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
                return ask_bags(exchange, self._routes, call, question, None)
            asked = ask_rows(exchange, self._routes, call, question, None)
            if self._mode != "r":
                self._local.prefetch(asked.rows)
                return asked
            with exchange.committed(call):
                rows = fetch(exchange, self._local, self._wire, call, asked)
            return replace(asked, fetched=rows)

        if self._pending is not None:
            self._pending.wait()
        self._pending = Pending(question, work)

    def _known_of(self, question: Question) -> Asked[Any] | None:
        """What was exchanged before for the same ids."""
        pending = self._pending
        asked = None if pending is None else pending.question
        if pending is not None and asked is not None and asked.equals(question):
            self._pending = None
            return pending.wait()
        return self._known

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
        question = Question(made.values, made, which, _divided(combiner))
        known = self._known_of(question)
        asked = ask_bags(self._exchange, self._routes, call, question, known)
        with self._exchange.committed(call):
            found = fetch_sums(
                self._exchange, self._local, self._wire, call, asked, combiner, max_norm, wanted
            )
        self._known = keep(asked)
        return found

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
        question = Question(ids, None, replace(which, skip_weightless=False))
        known = self._known_of(question)
        asked = ask_rows(self._exchange, self._routes, call, question, known)
        with self._exchange.committed(call):
            rows = fetch(self._exchange, self._local, self._wire, call, asked)
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
        with exchange.committed(call):
            sums = sums_by_row(asked.routed, bags, checked, wire.sums.width, how)
            send_sums(exchange, self._local, wire, call, asked, sums, optimizer)

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
        question = Question(bags.values, bags, which, _divided(combiner))
        asked = ask_bags(exchange, self._routes, call, question, self._known)
        with exchange.committed(call):
            send_pieces(exchange, self._local, self._wire, call, asked, gradients, optimizer)

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
        with exchange.committed(call):
            rows = fetch(exchange, self._local, wire, call, asked)
            places = asked.routed.places
            if not self.exact:
                frozen = self._frozen_places(places, which, bags.values, len(rows))
                sums = sums_of_largest(places, rows, bags, checked, how, frozen)[:-1]
                send_sums(exchange, self._local, wire, call, asked, sums, optimizer)
                return
            own, each = by_position(places, rows)
            sums = sums_of_largest(own, each, bags, checked, how, None)
        self._change_pieces(call, _single(bags.values), which, sums, optimizer, "sum")

    def _frozen_places(
        self, places: NDArray[np.int64], which: Which, ids: NDArray[Any], rows: int
    ) -> NDArray[np.bool_] | None:
        """Which of the rows that were asked for are frozen."""
        begin, end = which.frozen_range
        if which.frozen is None and begin >= end:
            return None
        found = np.zeros(rows, np.bool_)
        inside = (ids >= 0) & (ids < len(self))
        wide = np.where(inside, ids, 0).astype(np.int64)
        is_frozen = (wide >= begin) & (wide < end)
        if which.frozen is not None:
            is_frozen = which.frozen[wide] != 0
        found[places[inside & is_frozen & (places >= 0)]] = True
        return found

    def _refuse_read_only(self) -> None:
        if self._mode == "r":
            raise TableError(
                "expected a table that can be changed, got one of mode 'r'; open it with "
                'DistributedTable.open(path, mode="memory"), or "c" for a private copy'
            )

    @property
    def _whole(self) -> None:
        """No array has all rows; see `Table._whole`."""
        return None

    def __getitem__(self, ids: Any) -> NDArray[Any]:
        """Return `lookup(ids)`."""
        if isinstance(ids, (slice, tuple)) or ids is None or ids is Ellipsis:
            raise IdTypeError(
                f"expected ids as integers, got {ids!r}; for a run of rows pass "
                "numpy.arange(start, stop), and index the result for columns"
            )
        return self.lookup(ids)

    def __iter__(self) -> NoReturn:
        raise TypeError("a DistributedTable is not iterable; look its rows up in batches of ids")

    def __reduce__(self) -> NoReturn:
        raise TableError(
            "expected a table in memory to copy or pickle, got one of many processes; pass its "
            "path, and open it there"
        )


def _single(ids: NDArray[Any]) -> Bags:
    """Return bags of one id each."""
    return Bags(ids, np.arange(ids.size + 1), None, ids.shape)


def _divided(combiner: str) -> str | None:
    return combiner if combiner in ("mean", "sqrtn") else None
