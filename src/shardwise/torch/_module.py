"""What Embedding and EmbeddingBag have in common: their rows, and how these are trained."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from shardwise import _native
from shardwise._errors import OptionError, TableError
from shardwise._partition import Partition
from shardwise._table import Table
from shardwise._update import How, check_trained, with_rate
from shardwise.torch._compiled import compiled_look_up, register
from shardwise.torch._functions import Gradient, LookUp, as_sparse, joined, mark_coalesced, summed
from shardwise.torch._state import dtype_of_table, memory, optimizer_state, restore, whole
from shardwise.torch._tensors import as_array, as_tensor, check_device, dtype_of

if TYPE_CHECKING:
    from shardwise.optimizers import Optimizer

_EXTRA = "_extra_state"  # torch's name for what a module keeps beside its tensors


class TableModule(torch.nn.Module):
    """A module whose rows are those of a table.

    With `optimizer=None` the rows are the parameter `weight`; else they are only the table's, and
    backward changes them.
    """

    learning_rate: float | None
    grad_scale: float

    def _set_up(
        self,
        rows: int | None,
        dim: int | None,
        *,
        padding_idx: int | None,
        max_norm: float | None,
        norm_type: float,
        scale_grad_by_freq: bool,
        sparse: bool,
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
        fresh = table is None and weight is None
        if device is not None and torch.device(device).type != "cpu":
            raise OptionError(f"expected device as the CPU, or None, got {device}")
        if table is not None:
            if weight is not None or dtype is not None or shards != 1 or partition != "mod":
                raise OptionError(
                    "expected a table alone, got _weight, dtype, shards or partition beside it; "
                    "the table has its own"
                )
            _check_table(table, rows, dim, whole=optimizer is None)
        elif weight is not None:
            check_device(weight, "_weight")
            if weight.dim() != 2 or any(
                n not in (None, m) for n, m in zip((rows, dim), weight.shape, strict=True)
            ):
                raise TableError(
                    f"expected _weight of shape ({rows}, {dim}), got {tuple(weight.shape)}"
                )
            dtype_of(weight.dtype)
            weight = weight.detach()
            if weight.stride(-1) != 1:  # a table's rows lie in one piece each
                weight = weight.contiguous()
        elif rows is not None and dim is not None:
            number = dtype_of(dtype or torch.get_default_dtype())
            weight = as_tensor(_native.empty((rows, dim), number))
        else:
            raise OptionError("expected num_embeddings and embedding_dim, or a table, got neither")
        self.optimizer, self.learning_rate, self.grad_scale = optimizer, None, 1.0
        self._cut = partition, shards
        self._table, self._seen = table, None
        self._held: list[Gradient] | None = None
        self._stand_in, self._nothing = torch.empty(0, requires_grad=True), torch.empty(0)
        self._key = register(self)
        if table is not None:
            weight = memory(table)
        self.num_embeddings: int
        self.embedding_dim: int
        self.num_embeddings, self.embedding_dim = table.shape if table is not None else weight.shape
        self.padding_idx = _as_padding(padding_idx, self.num_embeddings)
        self.max_norm, self.norm_type = max_norm, norm_type
        self.scale_grad_by_freq, self.sparse = scale_grad_by_freq, sparse
        if optimizer is None:
            self.weight = torch.nn.Parameter(weight.detach(), requires_grad=not freeze)
            if table is not None:
                self._seen = _place(self.weight)
        else:
            self.frozen = freeze
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
        if self.optimizer is None:
            place = _place(self.weight)
            if self._table is None or place != self._seen:  # `to`, `share_memory` and others move
                check_device(self.weight, "the module")
                self._table = self._cut_up(self.weight)
                # Rows that do not lie in one piece each were copied: they are read anew each time.
                self._seen = place if self.weight.stride(-1) == 1 else None
        table: Table | None = self._table
        assert table is not None
        return table

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

    def _leaf(self) -> Any:
        """What makes autograd call backward: the weight, or what stands for it, or None."""
        if self.optimizer is None:
            return self.weight
        if self.frozen or not self.training or not torch.is_grad_enabled():
            return None
        return self._stand_in

    def _look_up(self, leaf: Any, ids: Any, offsets: Any, weights: Any, bags: bool) -> Any:
        if not torch.compiler.is_compiling():
            return LookUp.apply(leaf, ids, offsets, weights, self, bags)
        if self.optimizer is None and leaf.requires_grad and torch.is_grad_enabled():
            return self._look_up_outside(leaf, ids, offsets, weights, bags)
        leaf = self._nothing if leaf is None else leaf
        return compiled_look_up(leaf, ids, offsets, weights, self._key)

    @torch.compiler.disable
    def _look_up_outside(self, *what: Any) -> Any:
        """Outside of a compiled graph, which holds no sparse gradients."""
        leaf, ids, offsets, weights, bags = what
        return LookUp.apply(leaf, ids, offsets, weights, self, bags)

    def _receive(self, gradient: Gradient) -> Any:
        """Take a gradient: return that of the weight, or change the rows."""
        if self.scale_grad_by_freq:
            gradient = gradient.scaled_by_frequency(self.padding_idx)
        if self.optimizer is None:
            ids, sums = summed(gradient, self.padding_idx)
            weight = self.weight
            found = as_sparse(ids, sums, weight.shape, weight.dtype)
            if not self.sparse:
                return found.to_dense()
            mark_coalesced(weight, found)
            return found
        if self.grad_scale != 1.0:
            gradient.rows = gradient.rows / gradient.rows.dtype.type(self.grad_scale)
        if self._held is None:
            self._update(gradient)
        else:
            gradient.bags = _kept(gradient)
            self._held.append(gradient)
        return None

    def _update(self, gradient: Gradient) -> None:
        assert self.optimizer is not None
        optimizer = with_rate(self.optimizer, self.learning_rate)
        bags = gradient.bags if gradient.combiner is not None else None
        how = How(combiner=gradient.combiner or "sum", padding_id=self.padding_idx)
        rows = gradient.rows
        if bags is not None:
            rows = rows.reshape(bags.lead + rows.shape[-1:])
        self.table._update(gradient.bags.values, bags, rows, optimizer, how)

    def hold(self) -> None:
        """Keep the gradients of what follows, until `step` applies them as one.

        Raises:
            OptionError: the module has no optimizer; then torch's accumulates by itself.
        """
        self._expect_optimizer("hold")
        if self._held is None:
            self._held = []

    def step(self) -> None:
        """Apply the gradients that were kept since `hold`, in one update, and end the hold.

        After an error nothing is changed, and the gradients are still kept; see `discard`.

        Raises:
            OptionError: nothing was held.
            TableError: see `Table.update`.
        """
        self._expect_optimizer("step")
        if self._held is None:
            raise OptionError("expected hold() before step(), got none; without it backward steps")
        if self._held:
            self._update(joined(self._held))
        self._held = None

    def discard(self) -> None:
        """Forget the gradients that were kept since `hold`, and end the hold."""
        self._held = None

    def _expect_optimizer(self, verb: str) -> None:
        if self.optimizer is None:
            raise OptionError(
                f"expected a module with an optimizer to {verb}, got optimizer=None: torch's "
                "optimizer has the gradients of weight"
            )

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        if self.optimizer is not None:
            one = torch.empty(0, dtype=dtype_of_table(self.table))
            moved = fn(one)
            if moved.device != one.device or moved.dtype != one.dtype:
                raise OptionError(
                    f"expected rows of {one.dtype} on the CPU to stay there, got "
                    f"{moved.dtype} on {moved.device}; a table that trains itself is not moved"
                )
        return super()._apply(fn, recurse)

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        if self.optimizer is None:
            return
        table: Any = self.table
        if not isinstance(table, Table):  # rows of many ranks: see DistributedTable.state_dict
            for key, value in table.state_dict(self.optimizer).items():
                destination[prefix + key] = value
            return
        destination[prefix + "weight"] = whole(table)
        extra = optimizer_state(table)
        if extra is not None:
            destination[prefix + _EXTRA] = extra

    def _load_from_state_dict(
        self,
        state_dict: Any,
        prefix: str,
        local_metadata: Any,
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        weight, extra = state_dict.get(prefix + "weight"), state_dict.get(prefix + _EXTRA)
        own = {} if self.optimizer is None or isinstance(self._table, Table) else state_dict
        spread = {key[len(prefix) :]: own[key] for key in own if key.startswith(prefix)}
        if spread:
            state_dict = {key: own[key] for key in own if not key.startswith(prefix)}
        elif self.optimizer is not None:
            # Not torch's to load: taken out of what it sees.
            state_dict = {
                key: value
                for key, value in state_dict.items()
                if key not in (prefix + "weight", prefix + _EXTRA)
            }
        super()._load_from_state_dict(
            state_dict,
            prefix,
            local_metadata,
            strict,
            missing_keys,
            unexpected_keys,
            error_msgs,
        )
        if self.optimizer is None:
            if prefix + _EXTRA in unexpected_keys:  # torch's optimizer has a state of its own
                unexpected_keys.remove(prefix + _EXTRA)
            return
        if weight is None:
            missing_keys.append(prefix + "weight")
            return
        if spread:
            try:
                self._table.load_state_dict(spread)
            except (KeyError, ValueError, RuntimeError) as error:
                error_msgs.append(f"{prefix}weight: {error}")
            return
        wanted = (self.num_embeddings, self.embedding_dim)
        if tuple(weight.shape) != wanted:
            error_msgs.append(
                f"expected {prefix}weight of shape {wanted}, got {tuple(weight.shape)}"
            )
            return
        try:
            restore(self.table, self.optimizer, weight, extra)
        except (TableError, OptionError) as error:
            error_msgs.append(f"{prefix}weight: {error}")

    def extra_repr(self) -> str:
        """Return what torch prints of the module."""
        said = [f"{self.num_embeddings}, {self.embedding_dim}"]
        for name, usual in self._said.items():
            value = getattr(self, name)
            if value != usual:
                said.append(f"{name}={value!r}")
        return ", ".join(said)

    _said: dict[str, Any] = {  # noqa: RUF012 - never changed
        "padding_idx": None,
        "max_norm": None,
        "norm_type": 2.0,
        "scale_grad_by_freq": False,
        "sparse": True,
        "optimizer": None,
    }


def _place(weight: Any) -> tuple[Any, ...]:
    return weight.data_ptr(), weight.shape, weight.stride(), weight.dtype, weight.device


def _kept(gradient: Gradient) -> Any:
    """Bags whose ids are a copy: the loader may fill the tensor anew."""
    bags = gradient.bags
    gradient.rows = gradient.rows.copy()
    return type(bags)(bags.values.astype(np.int64), bags.offsets, bags.weights, bags.lead)


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
