"""torch.nn.EmbeddingBag over a table."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from shardwise._errors import BagError, OptionError
from shardwise.torch._functions import LookUp, bag_of, clipped, read_bags
from shardwise.torch._module import TableModule
from shardwise.torch._tensors import as_ids

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
        )

    @classmethod
    def from_pretrained(cls, embeddings: Any, freeze: bool = True, **options: Any) -> EmbeddingBag:
        """Make a module of a tensor of shape (rows, dim), whose memory it uses.

        Args:
            embeddings: the rows.
            freeze: they do not learn.
            options: those of the class.
        """
        return cls(_weight=embeddings, _freeze=freeze, **options)

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
        ids = as_ids(input)
        if ids.dim() == 1 and offsets is None:
            raise BagError("expected offsets with input of one dimension, got none")
        if ids.dim() not in (1, 2):
            raise BagError(f"expected input of one or two dimensions, got {ids.dim()}")
        offsets = None if offsets is None else as_ids(offsets, "offsets")
        leaf, weights = self._leaf(), per_sample_weights
        tracked = torch.is_grad_enabled()
        learns = tracked and leaf is not None and leaf.requires_grad
        weighted = tracked and weights is not None and weights.requires_grad
        # Of the row with the largest value a sparse gradient must know more than the kernels tell.
        largest = learns and self.mode == "max" and self.optimizer is None
        if self.max_norm is None and not weighted and not largest:
            return self._look_up(leaf, ids, offsets, weights, True)
        return self._composed(leaf, ids, offsets, weights)

    @torch.compiler.disable
    def _composed(self, leaf: Any, ids: Any, offsets: Any, weights: Any) -> Any:
        """The same by torch's operations on all the rows, which give all gradients."""
        bags = read_bags(ids, offsets, weights, self.include_last_offset)
        splits, values = bags.offsets, torch.from_numpy(bags.values.astype(np.int64))
        if weights is not None:
            weights = weights.reshape(-1)[: len(values)]
        if self.padding_idx is not None:
            kept = bags.values != self.padding_idx
            splits = np.concatenate([[0], np.cumsum(kept)])[splits]
            chosen = torch.from_numpy(kept)
            values = values[chosen]
            weights = None if weights is None else weights[chosen]
        rows = LookUp.apply(leaf, values, None, None, self, False)
        if self.max_norm is not None:
            rows = clipped(rows, float(self.max_norm), float(self.norm_type))
        dtype = rows.dtype
        rows = rows.float() if rows.element_size() == 2 else rows
        if weights is not None:
            weights = weights.to(rows.dtype)
            rows = rows * weights[:, None]
        count = len(splits) - 1
        if self.mode == "max" and len(values):
            found = torch.nn.functional.embedding_bag(
                torch.arange(len(values)), rows, torch.from_numpy(splits[:-1]), mode="max"
            )
            return found.to(dtype)
        places = torch.from_numpy(bag_of(splits))
        found = rows.new_zeros((count, self.embedding_dim)).index_add(0, places, rows)
        if self.mode == "mean":
            if weights is None:
                weights = rows.new_ones(len(values))
            sums = rows.new_zeros(count).index_add(0, places, weights)[:, None]
            found = torch.where(sums == 0, 0.0, found / torch.where(sums == 0, 1.0, sums))
        return found.to(dtype)

    _said = TableModule._said | {"mode": "mean", "include_last_offset": False}
