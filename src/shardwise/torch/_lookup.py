"""TensorFlow's embedding_lookup on tensors, with a gradient for each shard."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.autograd.function import once_differentiable

from shardwise._errors import TableError
from shardwise._table import Table
from shardwise.torch._functions import Gradient, as_sparse, clipped, single, summed, wide
from shardwise.torch._tensors import as_array, as_ids, as_tensor, dtype_of

if TYPE_CHECKING:
    from shardwise._partition import Partition


def embedding_lookup(
    params: Any,
    ids: Any,
    partition_strategy: str | Partition = "mod",
    *,
    max_norm: float | None = None,
    sparse: bool = False,
) -> Any:
    """Look rows of tensors up by id, as `shardwise.embedding_lookup` does of arrays.

    Args:
        params: a tensor of shape (rows, ...), or a list or tuple of them, the shards of one table.
        ids: integers of any dtype and shape.
        partition_strategy: "mod", "div" or a `Partition`: how the rows were dealt out.
        max_norm: scale rows of a larger L2 norm down to this one; the gradient takes it into
            account.
        sparse: give each shard a coalesced sparse gradient, not a dense one.

    Returns:
        A tensor of shape `ids.shape + params.shape[1:]`.

    Raises:
        TableError: `params` makes no table, or rows of it cannot have a gradient.
        PartitionError: the shards are not as long as the strategy says.
        IdOutOfRangeError: an id is outside the table.
        IdTypeError: ids are no integers.

    Example:
        >>> import torch
        >>> from shardwise.torch import embedding_lookup
        >>> even, odd = torch.tensor([[0.0], [2.0]]), torch.tensor([[1.0], [3.0]]).requires_grad_()
        >>> embedding_lookup([even, odd], torch.tensor([3, 2, 3])).sum().backward()
        >>> odd.grad
        tensor([[0.],
                [2.]])
    """
    shards = list(params) if isinstance(params, (list, tuple)) else [params]
    for shard in shards:
        if not isinstance(shard, torch.Tensor):
            raise TableError(f"expected params as tensors, got {type(shard).__name__}")
        dtype_of(shard.dtype)
    table = Table.from_shards([as_array(shard, "params") for shard in shards], partition_strategy)
    rows = _Shards.apply(as_ids(ids, "ids"), table, sparse, *shards)
    if max_norm is None:
        return rows
    flat = rows.reshape(*rows.shape[: rows.dim() - len(table.shape) + 1], -1)
    return clipped(flat, float(max_norm), 2.0).reshape(rows.shape)


class _Shards(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, ids: Any, table: Table, sparse: bool, *shards: Any) -> Any:
        ctx.save_for_backward(ids)
        ctx.table, ctx.sparse = table, sparse
        return as_tensor(table.lookup(as_array(ids, "ids")))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Any) -> tuple[Any, ...]:
        (ids,), partition, tail = ctx.saved_tensors, ctx.table.partition, ctx.table.shape[1:]
        width = int(np.prod(tail))
        rows = wide(gradient, gradient.dtype).reshape(ids.numel(), width)
        unique, sums = summed(Gradient(single(as_array(ids, "ids")), None, rows), None)
        where, places = partition.locate(unique)
        found: list[Any] = []
        for k, size in enumerate(partition.shard_sizes):
            here = where == k
            found.append(None)
            if ctx.needs_input_grad[3 + k]:
                values = sums[here].reshape(-1, *tail)
                found[k] = as_sparse(places[here], values, (size, *tail), gradient.dtype)
                found[k] = found[k] if ctx.sparse else found[k].to_dense()
        return None, None, None, *found
