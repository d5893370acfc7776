"""torch.nn.EmbeddingBag over a table."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from shardwise._errors import BagError, OptionError
from shardwise.torch._autograd import call
from shardwise.torch._combine import clipped, combine, runs_of
from shardwise.torch._functions import LookUp
from shardwise.torch._module import TableModule
from shardwise.torch._state import dtype_of_table

if TYPE_CHECKING:
    from shardwise._partition import Partition
    from shardwise.optimizers import Optimizer

_MODES = ("sum", "mean", "max")


class EmbeddingBag(TableModule):
    """`torch.nn.EmbeddingBag` over a `Table`: bags of rows, combined while they are read.

    It learns in the two ways of `Embedding`; with an optimizer no gradient of each id is made.

    Args:
        num_embeddings: how many rows; may be left out with a table, and so may `embedding_dim`.
        embedding_dim: how many values a row has.
        max_norm: see `Embedding`.
        norm_type: see `Embedding`.
        scale_grad_by_freq: see `Embedding`; not with "max".
        mode: "sum", "mean" or "max".
        sparse: see `Embedding`.
        _weight: see `Embedding`.
        include_last_offset: the last offset is the end of the last bag.
        padding_idx: this id is no part of its bag, and its row is never changed by a gradient.
        device: see `Embedding`.
        dtype: see `Embedding`.
        _freeze: see `Embedding`.
        optimizer: see `Embedding`.
        table: see `Embedding`.
        partition: see `Embedding`.
        shards: see `Embedding`.
        nonfinite: see `Embedding`.

    Raises:
        TableError: rows that cannot be trained or written to, or of another shape.
        OptionError: an option has a value that it cannot have.

    Example:
        >>> import torch
        >>> from shardwise.torch import EmbeddingBag
        >>> bags = EmbeddingBag.from_pretrained(torch.tensor([[1.0], [2.0], [4.0]]), mode="sum")
        >>> bags(torch.tensor([0, 1, 2]), torch.tensor([0, 2])).ravel()
        tensor([3., 4.])

    https://docs.pytorch.org/docs/stable/generated/torch.nn.EmbeddingBag.html
    """

    def __init__(
        self,
        num_embeddings: int | None = None,
        embedding_dim: int | None = None,
        max_norm: float | None = None,
        norm_type: float = 2.0,
        scale_grad_by_freq: bool = False,
        mode: str = "mean",
        sparse: bool = True,
        _weight: Any = None,
        include_last_offset: bool = False,
        padding_idx: int | None = None,
        device: Any = None,
        dtype: Any = None,
        *,
        _freeze: bool = False,
        optimizer: Optimizer | None = None,
        table: Any = None,
        partition: str | Partition = "mod",
        shards: int = 1,
        nonfinite: str = "error",
    ) -> None:
        super().__init__()
        if mode not in _MODES:
            raise OptionError(
                f"expected mode to be one of {', '.join(map(repr, _MODES))}, got {mode!r}"
            )
        if mode == "max" and scale_grad_by_freq:
            raise OptionError('expected scale_grad_by_freq=False with mode "max", got True')
        self.mode, self.include_last_offset = mode, include_last_offset
        self._set_up(
            num_embeddings,
            embedding_dim,
            padding_idx=padding_idx,
            max_norm=max_norm,
            norm_type=norm_type,
            scale_grad_by_freq=scale_grad_by_freq,
            sparse=sparse,
            weight=_weight,
            freeze=_freeze,
            device=device,
            dtype=dtype,
            optimizer=optimizer,
            table=table,
            partition=partition,
            shards=shards,
            nonfinite=nonfinite,
        )

    def forward(self, input: Any, offsets: Any = None, per_sample_weights: Any = None) -> Any:
        """Return a row for each bag: a tensor of shape (bags, embedding_dim).

        Args:
            input: integers of shape (ids,) with `offsets`, or of shape (bags, ids of a bag).
            offsets: where each bag begins in `input`.
            per_sample_weights: floats in the shape of `input`. With "mean" the sum of the weighted
                rows is divided by the sum of the weights, and with "max" the weighted rows are
                compared; torch has them for "sum" alone.

        Raises:
            IdOutOfRangeError: an id is outside the table.
            IdTypeError: ids or offsets are no integers.
            BagError: they make no bags.
        """
        return self._where_rows_are(self._pool, input, offsets, per_sample_weights)

    def _pool(self, ids: Any, offsets: Any, weights: Any) -> Any:
        if ids.dim() == 1 and offsets is None:
            raise BagError("expected offsets with input of one dimension, got none")
        if ids.dim() not in (1, 2):
            raise BagError(f"expected input of one or two dimensions, got {ids.dim()}")
        leaf = self._leaf()
        tracked = torch.is_grad_enabled()
        learns = tracked and leaf is not None and leaf.requires_grad
        weighted = tracked and weights is not None and weights.requires_grad
        # Of the row with the largest value a sparse gradient must know more than the kernels tell.
        largest = learns and self.mode == "max" and self.optimizer is None
        if self._is_native() and self.max_norm is None and not weighted and not largest:
            return self._look_up(leaf, ids, offsets, weights, True)
        return self._composed(leaf, ids, offsets, weights)

    @torch.compiler.disable
    def _composed(self, leaf: Any, ids: Any, offsets: Any, weights: Any) -> Any:
        """The same by torch's operations on all the rows, which give all gradients."""
        runs = runs_of(ids, offsets, weights, self.include_last_offset)
        if self.padding_idx is not None:
            runs = runs.only(runs.ids != self.padding_idx)
        # As wide as they are added up, and their gradients too.
        if self._is_native():
            rows = call(LookUp, leaf, runs.ids, None, None, self, False)
        else:
            rows = self._look_up_composed(leaf, runs.ids, wide=True)
        if self.max_norm is not None:
            rows = clipped(rows, self.max_norm, self.norm_type)
        dtype = leaf.dtype if self.optimizer is None else dtype_of_table(self.table)
        return combine(rows, runs, self.mode).to(dtype)

    _said = TableModule._said | {"mode": "mean", "include_last_offset": False}
