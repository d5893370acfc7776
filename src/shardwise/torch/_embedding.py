"""torch.nn.Embedding over a table."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from shardwise.torch._functions import clipped
from shardwise.torch._module import TableModule
from shardwise.torch._tensors import as_ids

if TYPE_CHECKING:
    from shardwise._partition import Partition
    from shardwise.optimizers import Optimizer


class Embedding(TableModule):
    """`torch.nn.Embedding` over a `Table`: rows of ids, which learn in one of two ways.

    With `optimizer=None` the rows are the parameter `weight`, in the memory of the table. Its
    gradient is a coalesced sparse tensor, for torch's SparseAdam, SGD and Adagrad; with
    `sparse=False` a dense one, for all.

    With an optimizer of `shardwise.optimizers` there is no parameter and no gradient: backward
    changes the rows at once (`Table.update`), in `train()` mode only. `hold()` keeps the gradients
    of several backwards until `step()` applies them as one; `learning_rate` may be set before each
    step; gradients are divided by `grad_scale`, by which the loss was multiplied.

    Args:
        num_embeddings: how many rows; may be left out with a table, and so may `embedding_dim`.
        embedding_dim: how many values a row has.
        padding_idx: the row of this id begins as zeros and is never changed by a gradient.
        max_norm: rows of a larger norm are scaled down as they are read, and the gradient takes
            this into account, as TensorFlow does. torch writes the scaled rows to the weight; here
            the rows change by training alone.
        norm_type: the p of that norm.
        scale_grad_by_freq: divide the gradient of each id by how often it is among the ids.
        sparse: whether the gradient of `weight` is sparse. torch's default is False.
        _weight: the rows, whose memory is used where each lies in one piece.
        _freeze: they do not learn.
        device: the CPU, or None.
        dtype: float16, bfloat16, float32 or float64.
        optimizer: None, or a value of `shardwise.optimizers`.
        table: the rows, a `Table` or a `DistributedTable`: in memory, or opened with mode "r+"
            to be trained in place. With `optimizer=None` it has one shard, in memory or of mode
            "c".
        partition: how the rows are cut, where there is no table.
        shards: into how many shards.

    Raises:
        TableError: rows that cannot be trained or written to, or of another shape.
        OptionError: an option has a value that it cannot have.

    Example:
        >>> import torch
        >>> from shardwise import optimizers
        >>> from shardwise.torch import Embedding
        >>> layer = Embedding(10, 3, optimizer=optimizers.SGD(0.5))
        >>> before = layer.weight[7].clone()
        >>> layer(torch.tensor([7])).sum().backward()
        >>> before - layer.weight[7]
        tensor([0.5000, 0.5000, 0.5000])

    https://docs.pytorch.org/docs/stable/generated/torch.nn.Embedding.html
    """

    def __init__(
        self,
        num_embeddings: int | None = None,
        embedding_dim: int | None = None,
        padding_idx: int | None = None,
        max_norm: float | None = None,
        norm_type: float = 2.0,
        scale_grad_by_freq: bool = False,
        sparse: bool = True,
        _weight: Any = None,
        _freeze: bool = False,
        device: Any = None,
        dtype: Any = None,
        *,
        optimizer: Optimizer | None = None,
        table: Any = None,
        partition: str | Partition = "mod",
        shards: int = 1,
    ) -> None:
        super().__init__()
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
    def from_pretrained(cls, embeddings: Any, freeze: bool = True, **options: Any) -> Embedding:
        """Make a module of a tensor of shape (rows, dim), whose memory it uses.

        Args:
            embeddings: the rows.
            freeze: they do not learn.
            options: those of the class.
        """
        return cls(_weight=embeddings, _freeze=freeze, **options)

    def forward(self, input: Any) -> Any:
        """Return a tensor of shape `input.shape + (embedding_dim,)`.

        Args:
            input: integers of any dtype and shape.

        Raises:
            IdOutOfRangeError: an id is outside the table.
            IdTypeError: they are no integers.
        """
        rows = self._look_up(self._leaf(), as_ids(input), None, None, False)
        if self.max_norm is None:
            return rows
        return clipped(rows, float(self.max_norm), float(self.norm_type))
