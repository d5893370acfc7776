"""What Embedding and EmbeddingBag have in common."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from shardwise._errors import OptionError, TableError
from shardwise._norms import as_limit
from shardwise._partition import Partition
from shardwise._table import Table
from shardwise.torch import _composed
from shardwise.torch._autograd import call
from shardwise.torch._compiled import compiled_look_up
from shardwise.torch._functions import LookUp
from shardwise.torch._state import optimizer_state, restore, whole
from shardwise.torch._tensors import as_ids
from shardwise.torch._training import Trained

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Self

_EXTRA = "_extra_state"  # torch's name for what a module keeps beside its tensors


class TableModule(Trained):
    """A module that looks rows up in a table, trains them and saves them."""

    max_norm: float | None
    norm_type: float

    def _set_up(
        self,
        rows: int | None,
        dim: int | None,
        *,
        max_norm: float | None,
        norm_type: float,
        scale_grad_by_freq: bool,
        sparse: bool,
        freeze: bool,
        nonfinite: str,
        **where: Any,
    ) -> None:
        as_limit(max_norm)  # says what one is
        self.max_norm, self.norm_type = max_norm, norm_type
        self.scale_grad_by_freq, self.sparse = scale_grad_by_freq, sparse
        self._set_up_rows(rows, dim, freeze=freeze, **where)
        self._set_up_training(freeze, nonfinite)

    @classmethod
    def from_pretrained(cls, embeddings: Any, freeze: bool = True, **options: Any) -> Self:
        """Make a module of a tensor of shape (rows, dim), whose memory it uses.

        Args:
            embeddings: the rows.
            freeze: they do not learn.
            options: those of the class.
        """
        return cls(_weight=embeddings, _freeze=freeze, **options)

    def _where_rows_are(
        self, read: Callable[..., Any], input: Any, offsets: Any = None, weights: Any = None
    ) -> Any:
        """Call `read` with tensors on the device of the rows.

        Rows that train themselves are on the CPU, whatever the model is on: there the tensors are
        copied, and what was read goes back.
        """
        home = self.weight.device if self.optimizer is None else None
        ids = as_ids(input, "input", home)
        here = ids.device
        offsets = None if offsets is None else as_ids(offsets, "offsets", here)
        if weights is not None and weights.device != here:
            raise OptionError(
                f"expected per_sample_weights on the device of the ids, {here}, got "
                f"{weights.device}"
            )
        if home is not None or here.type == "cpu":
            return read(ids, offsets, weights)
        if here.type == "meta":
            raise OptionError("expected ids that have numbers, got input on the meta device")
        ids, offsets, weights = (None if t is None else t.cpu() for t in (ids, offsets, weights))
        return read(ids, offsets, weights).to(here)

    def _look_up(self, leaf: Any, ids: Any, offsets: Any, weights: Any, bags: bool) -> Any:
        if not torch.compiler.is_compiling():
            return call(LookUp, leaf, ids, offsets, weights, self, bags)
        if self.optimizer is None and leaf.requires_grad and torch.is_grad_enabled():
            return self._look_up_outside(leaf, ids, offsets, weights, bags)
        leaf = self._nothing if leaf is None else leaf
        return compiled_look_up(leaf, ids, offsets, weights, self._key)

    @torch.compiler.disable
    def _look_up_outside(self, *what: Any) -> Any:
        """Outside of a compiled graph, which holds no sparse gradients."""
        leaf, ids, offsets, weights, bags = what
        return call(LookUp, leaf, ids, offsets, weights, self, bags)

    @torch.compiler.disable
    def _look_up_composed(self, leaf: Any, ids: Any, wide: bool = False) -> Any:
        """Rows of ids by torch's operations, where the kernels do not read them."""
        rows = _composed.Rows(
            Partition.mod(self.num_embeddings, 1),
            self.sparse,
            self.padding_idx,
            self.scale_grad_by_freq,
            wide,
            leaf if leaf.is_leaf and leaf.requires_grad else None,
        )
        return _composed.look_up([leaf], ids, rows)

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
        "nonfinite": "error",
    }
