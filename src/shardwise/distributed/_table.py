"""A table whose rows are spread over the processes of a group."""

from __future__ import annotations

import os
from collections.abc import Mapping
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from shardwise.distributed._exchange import Exchange
from shardwise.distributed._spread import Mode, Options, Pools
from shardwise.distributed._updates import Updates

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

    from shardwise._partition import Partition
    from shardwise.initializers import Initializer, RowMaker
    from shardwise.optimizers import Optimizer


class DistributedTable(Updates):
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
        replicated: ArrayLike | None = None,
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
            mode: "r" to read. "r+" also to change the files in place, each rank those of its
                shards, of which there must be as many as ranks or more; rank 0 holds the directory
                until `close`, for there is one writer at a time. "c" to change rows in a private
                copy of the pages that change; "memory" likewise, with all rows of this rank read
                into its memory at once. What was changed so is kept by `save`.
            wire: how rows, sums and gradients are sent: "float32", "float16", "bfloat16" or "int8"
                (8 bits a value with a scale and a bias for each row, of finite numbers). By default
                as they are.
            exact: see the class.
            pools: what is sent of a bag: "sums", one row of each rank that holds some of its rows;
                or "rows", each row once for all bags of a rank. With more ranks than a bag has ids,
                rows are less; `shardwise plan` tells. Gradients of bags go the same way back.
            average: divide gradients that come through the modules of `shardwise.torch` by the
                number of ranks, as DistributedDataParallel does.
            replicated: ids of rows of which every rank keeps a copy, the same on all ranks: those
                that are asked for most. They are read without the network. Their gradients go to
                the rank that holds them, as those of others do, and the rows that an update changed
                come back to all ranks at its end. It changes no bit of a lookup.
            timeout: how long a rank waits for the others, 5 minutes by default.
            verify: compare the checksums of the files of this rank first.

        Raises:
            TableNotFoundError: there is no table at `path`.
            StoreError: the table is broken, or was written by a newer version.
            DistributedError: torch.distributed is not initialized, a rank cannot open the table, or
                ranks opened different tables.
            OptionError: an option has a value that it cannot have.
        """
        from shardwise.distributed._open import open_distributed

        return open_distributed(
            Exchange(group, timeout),
            path,
            mode,
            Options(wire, exact, pools, average, replicated),
            verify,
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
        replicated: ArrayLike | None = None,
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
            replicated: see `open`.
            timeout: see `open`.

        Raises:
            TableExistsError: there is a table already, and `overwrite` is false.
            PartitionError: there is no such partition.
            OptionError: there is no such initializer.
            DistributedError: see `open`.
        """
        from shardwise.distributed._create import create_distributed

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
            options=Options(wire, exact, pools, average, replicated),
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
        from shardwise.distributed._save import save_distributed

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
