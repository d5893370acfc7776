"""The rows of a module: a table's, in the memory of a parameter or of their own."""

from __future__ import annotations

from operator import index
from typing import TYPE_CHECKING, Any, SupportsIndex

import torch

from shardwise import _native
from shardwise._errors import OptionError, TableError
from shardwise._partition import Partition
from shardwise._table import Table
from shardwise._update import check_trained, with_rate
from shardwise.torch._compiled import register
from shardwise.torch._state import dtype_of_table, memory
from shardwise.torch._tensors import as_array, as_tensor, check_device, dtype_of, is_native

if TYPE_CHECKING:
    from shardwise.optimizers import Optimizer


class TableRows(torch.nn.Module):
    """A module whose rows are those of a table.

    With `optimizer=None` the rows are the parameter `weight`; else they are only the table's.
    """

    num_embeddings: int
    embedding_dim: int
    padding_idx: int | None
    scale_grad_by_freq: bool
    sparse: bool
    optimizer: Optimizer | None

    def _set_up_rows(
        self,
        rows: int | None,
        dim: int | None,
        *,
        padding_idx: int | None,
        weight: Any,
        freeze: bool,
        device: Any,
        dtype: Any,
        optimizer: Optimizer | None,
        table: Any,
        partition: str | Partition,
        shards: int,
    ) -> None:
        if optimizer is not None:
            with_rate(optimizer, None)  # says what an optimizer is
            if device is not None and torch.device(device).type != "cpu":
                raise OptionError(
                    f"expected device as the CPU, or None, got {device}; rows that train "
                    "themselves lie there, and go to the device of the ids as they are read"
                )
        counts: dict[str, Any] = {"num_embeddings": rows, "embedding_dim": dim}
        for name, count in counts.items():
            if count is not None and (not isinstance(count, SupportsIndex) or index(count) < 0):
                hint = "; pass table=" if isinstance(count, Table) else ""
                raise OptionError(
                    f"expected {name} as a whole number from 0, got {count!r:.60}{hint}"
                )
        fresh = table is None and weight is None
        if table is not None:
            if weight is not None or dtype is not None or shards != 1 or partition != "mod":
                raise OptionError(
                    "expected a table alone, got _weight, dtype, shards or partition beside it; "
                    "the table has its own"
                )
            if device is not None and torch.device(device).type != "cpu":
                raise OptionError(f"expected device as the CPU, where the table is, got {device}")
            _check_table(table, rows, dim, whole=optimizer is None)
            weight = memory(table)
        elif weight is not None:
            weight = _as_weight(weight, rows, dim, device)
            if optimizer is not None:
                check_device(weight, "_weight")
        elif rows is not None and dim is not None:
            number = dtype_of(dtype or torch.get_default_dtype())
            home = torch.get_default_device() if device is None else torch.device(device)
            if optimizer is not None or home.type == "cpu":
                weight = as_tensor(_native.empty((rows, dim), number))
            else:
                weight = torch.empty(rows, dim, dtype=getattr(torch, number.name), device=home)
        else:
            raise OptionError("expected num_embeddings and embedding_dim, or a table, got neither")
        self.optimizer = optimizer
        self._cut = partition, shards
        self._table, self._seen = table, None
        self._key = register(self)
        self.num_embeddings, self.embedding_dim = table.shape if table is not None else weight.shape
        self.padding_idx = _as_padding(padding_idx, self.num_embeddings)
        if optimizer is None:
            self.weight = torch.nn.Parameter(weight.detach(), requires_grad=not freeze)
            if table is not None:
                self._seen = _place(self.weight)
        else:
            if table is None:
                self._table = self._cut_up(weight)
            self._one = weight  # the rows as one tensor, where they are one
        if fresh:
            self.reset_parameters()

    def reset_parameters(self) -> None:
        """Fill the rows from N(0, 1), and that of `padding_idx` with zeros, as torch does."""
        with torch.no_grad():
            torch.nn.init.normal_(self.weight)
            if self.padding_idx is not None:
                self.weight[self.padding_idx].fill_(0)

    def _cut_up(self, weight: Any) -> Table:
        partition, shards = self._cut
        return Table.from_array(as_array(weight, "weight"), shards, partition)

    @property
    def table(self) -> Table:
        """The rows as a table; what is written to it is seen by the module, and the other way."""
        return self._table_of(self.weight if self.optimizer is None else None)

    def _table_of(self, weight: Any) -> Table:
        """The rows of a weight as a table, with an optimizer those of the module."""
        if weight is not None:
            place = _place(weight)
            if self._table is None or place != self._seen:  # `to`, `share_memory` and others move
                check_device(weight, "the module")
                self._table = self._cut_up(weight)
                # Rows that do not lie in one piece each were copied: they are read anew each time.
                self._seen = place if weight.stride(-1) == 1 else None
        table: Table | None = self._table
        assert table is not None
        return table

    def _is_native(self) -> bool:
        """Whether the kernels read the rows."""
        return self.optimizer is not None or is_native(self.weight)

    def __getattr__(self, name: str) -> Any:
        if name == "weight" and self.__dict__.get("optimizer") is not None:
            if self.__dict__.get("_one") is None:
                raise AttributeError(
                    "expected rows in one array of the memory for .weight, got "
                    f"{len(self.table.shards)} shards of mode {self.table.mode!r}; read and write "
                    "module.table"
                )
            return self.__dict__["_one"]
        return super().__getattr__(name)

    def __getstate__(self) -> dict[str, Any]:
        state: dict[str, Any] = self.__dict__.copy()
        if self.optimizer is None:  # a copy of the weight has another place
            state["_table"] = state["_seen"] = None
        elif self._one is not None:  # the shards are views of it, and shall be again
            state["_table"], state["_training"] = None, self.table._training
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._key = register(self)
        if self.optimizer is not None and self._one is not None:
            self._table = self._cut_up(self._one)
            self._table._training = self.__dict__.pop("_training")

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        if self.optimizer is not None:
            one = torch.empty(0, dtype=dtype_of_table(self.table))
            moved = fn(one)
            if moved.dtype != one.dtype:
                raise OptionError(
                    f"expected rows of {one.dtype} to stay so, got {moved.dtype}; a table that "
                    "trains itself is not converted"
                )
        return super()._apply(fn, recurse)


def _as_weight(weight: Any, rows: int | None, dim: int | None, device: Any) -> Any:
    """Return a tensor whose rows lie in one piece each, its own where it is such."""
    if not isinstance(weight, torch.Tensor) or weight.layout != torch.strided:
        got = (
            f"one of {weight.layout}" if isinstance(weight, torch.Tensor) else type(weight).__name__
        )
        raise TableError(f"expected _weight as a dense tensor, got {got}")
    if weight.dim() != 2 or any(
        n not in (None, m) for n, m in zip((rows, dim), weight.shape, strict=True)
    ):
        raise TableError(
            f"expected _weight of shape ({rows or 'rows'}, {dim or 'dim'}), got "
            f"{tuple(weight.shape)}"
        )
    dtype_of(weight.dtype)
    weight = weight.detach()
    weight = weight if device is None else weight.to(device)
    return weight if weight.stride(-1) == 1 else weight.contiguous()


def _place(weight: Any) -> tuple[Any, ...]:
    return weight.data_ptr(), weight.shape, weight.stride(), weight.dtype, weight.device


def _as_padding(padding_idx: int | None, rows: int) -> int | None:
    if padding_idx is None:
        return None
    if not -rows <= padding_idx < rows:
        raise OptionError(f"expected padding_idx from {-rows} to {rows - 1}, got {padding_idx}")
    return padding_idx % rows


def _check_table(table: Any, rows: int | None, dim: int | None, *, whole: bool) -> None:
    # The rows of this process, where the others' are on other ranks: a DistributedTable's.
    here = table if isinstance(table, Table) else getattr(table, "local", None)
    if not isinstance(here, Table):
        raise OptionError(
            f"expected a shardwise.Table, got {type(table).__name__}; make one with "
            "Table.from_array or Table.open"
        )
    check_trained(here.shards[0].dtype)
    if len(table.shape) != 2 or any(
        n not in (None, m) for n, m in zip((rows, dim), table.shape, strict=True)
    ):
        raise TableError(
            f"expected a table of shape ({rows or 'rows'}, {dim or 'dim'}), got {table.shape}"
        )
    if whole and (here is not table or len(table.shards) != 1):
        raise OptionError(
            f"expected a table of one shard, whose rows weight can share, got "
            f"{table.partition}; pass an optimizer of shardwise.optimizers"
        )
    table._refuse_read_only()
    if whole and not table.shards[0].flags.writeable:
        raise TableError(
            "expected rows in memory, which weight can share, got those of a file that is open "
            f"with mode {table.mode!r}; pass an optimizer of shardwise.optimizers, or open it "
            'with "c" for a private copy'
        )
