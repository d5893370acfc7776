"""TensorFlow's embedding_lookup on tensors, with a gradient for each shard."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from shardwise.torch import _composed
from shardwise.torch._autograd import call
from shardwise.torch._combine import clipped
from shardwise.torch._compiled_shards import read_compiled
from shardwise.torch._shards import Reading, ReadShards, check_shards
from shardwise.torch._tensors import as_array, as_ids, is_native

if TYPE_CHECKING:
    from shardwise._ids import OutOfRange
    from shardwise._partition import Partition


def embedding_lookup(
    params: Any,
    ids: Any,
    partition_strategy: str | Partition = "mod",
    name: str | None = None,
    *,
    max_norm: float | None = None,
    out_of_range: OutOfRange = "error",
    sparse: bool = False,
) -> Any:
    """Look rows of tensors up by id, as `shardwise.embedding_lookup` does of arrays.

    Args:
        params: a tensor of shape (rows, ...), or a list or tuple of them, the shards of one table:
            of float16, bfloat16, float32 or float64, on one device.
        ids: integers of any dtype and shape.
        partition_strategy: "mod", "div" or a `Partition`: how the rows were dealt out.
        name: accepted for TensorFlow's sake, and not used.
        max_norm: scale rows of a larger L2 norm down to this one; the gradient takes it into
            account.
        out_of_range: what an id outside the table does; see `Table.lookup`. The gradient goes to
            the row that was read, with "zeros" to none.
        sparse: give each shard a coalesced sparse gradient, not a dense one.

    Returns:
        A tensor of shape `ids.shape + params.shape[1:]`.

    Raises:
        TableError: `params` makes no table, or rows of it cannot have a gradient.
        PartitionError: the shards are not as long as the strategy says.
        IdOutOfRangeError: an id is outside the table.
        IdTypeError: ids are no integers.
        OptionError: an option has a value that it cannot have, or tensors are on several devices.

    Example:
        >>> import torch
        >>> from shardwise.torch import embedding_lookup
        >>> even, odd = torch.tensor([[0.0], [2.0]]), torch.tensor([[1.0], [3.0]]).requires_grad_()
        >>> embedding_lookup([even, odd], torch.tensor([3, 2, 3])).sum().backward()
        >>> odd.grad
        tensor([[0.],
                [2.]])
    """
    del name
    options = {"max_norm": max_norm, "out_of_range": out_of_range, "sparse": sparse}
    if torch.compiler.is_compiling() and not sparse and isinstance(ids, torch.Tensor):
        shards = list(params) if isinstance(params, (list, tuple)) else [params]
        if is_native(shards[0]):
            rows = read_compiled(shards, ids, partition_strategy, out_of_range=out_of_range)
            return rows if max_norm is None else _clipped(rows, ids, max_norm)
    return _look_up(params, ids, partition_strategy, **options)


@torch.compiler.disable
def _look_up(
    params: Any,
    ids: Any,
    strategy: str | Partition,
    *,
    max_norm: float | None,
    out_of_range: OutOfRange,
    sparse: bool,
) -> Any:
    shards, partition = check_shards(params, strategy)
    ids = as_ids(ids, "ids", shards[0].device)
    if is_native(shards[0]):
        reading = Reading(as_array(ids, "ids"), partition, sparse, out_of_range=out_of_range)
        rows = call(ReadShards, reading, *shards)
    else:
        rows = _composed.look_up(shards, ids, _composed.Rows(partition, sparse), out_of_range)
    return rows if max_norm is None else _clipped(rows, ids, max_norm)


def _clipped(rows: Any, ids: Any, max_norm: float) -> Any:
    flat = rows.reshape(*ids.shape, rows.shape[ids.dim() :].numel())
    return clipped(flat, max_norm).reshape(rows.shape)
