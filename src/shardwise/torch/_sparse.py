"""TensorFlow's sparse lookups on tensors, with gradients for each shard and for the weights."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from shardwise._bags import RaggedIds, as_bags
from shardwise._lookup_sparse import rows_of_tensorflow
from shardwise._pool import as_default, check_combiner
from shardwise.torch import _composed
from shardwise.torch._autograd import call
from shardwise.torch._combine import Runs, clipped, combine
from shardwise.torch._compiled_shards import read_compiled
from shardwise.torch._forms import numbers_of, on_host
from shardwise.torch._shards import Reading, ReadShards, check_shards
from shardwise.torch._tensors import as_tensor, is_native

if TYPE_CHECKING:
    from shardwise._bags import Bags
    from shardwise._ids import OutOfRange
    from shardwise._partition import Partition


def embedding_lookup_sparse(
    params: Any,
    sp_ids: Any,
    sp_weights: Any,
    partition_strategy: str | Partition = "mod",
    name: str | None = None,
    combiner: str | None = None,
    max_norm: float | None = None,
    *,
    out_of_range: OutOfRange = "error",
    like_tensorflow: bool = False,
    sparse: bool = False,
) -> Any:
    """Combine the rows of each bag of ids, as `shardwise.embedding_lookup_sparse` does of arrays.

    Args:
        params: a tensor, or a list of shards; see `embedding_lookup`.
        sp_ids: bags of ids: `SparseIds` or `RaggedIds` of tensors, a sparse tensor (COO or CSR)
            whose values are the ids, a nested tensor, a tensor whose last axis is a bag, a list of
            tensors, or any other form that `Table.pool` reads without offsets.
        sp_weights: None, or numbers in the same form as `sp_ids` and at the same places. They may
            require a gradient, except in a sparse tensor that is not coalesced.
        partition_strategy: see `embedding_lookup`.
        name: accepted for TensorFlow's sake, and not used.
        combiner: "sum", "mean" (also None), "sqrtn" or "max"; see `Table.pool`. The gradient of
            "max" goes to the first row that has the largest value.
        max_norm: scale rows of a larger L2 norm down to this one before they are combined; the
            gradient takes it into account.
        out_of_range: what an id outside the table does; see `embedding_lookup`.
        like_tensorflow: see `shardwise.embedding_lookup_sparse`.
        sparse: give each shard a coalesced sparse gradient, not a dense one.

    Returns:
        A tensor of shape `dense_shape[:-1] + params.shape[1:]`. An array of all rows is made only
        where gradients need it: with weights that require one, and with `max_norm` or "max" for
        shards that do; or on other devices than the CPU.

    Raises:
        TableError: `params` makes no table, or rows of it cannot have a gradient.
        PartitionError: the shards are not as long as the strategy says.
        BagError: ids and weights do not make bags.
        IdOutOfRangeError: an id is outside the table.
        IdTypeError: ids are no integers.
        OptionError: an option has a value that it cannot have, or tensors are on several devices.

    Example:
        >>> import torch
        >>> from shardwise import RaggedIds
        >>> from shardwise.torch import embedding_lookup_sparse
        >>> params = torch.tensor([[1.0], [2.0], [4.0]], requires_grad=True)
        >>> bags = RaggedIds(torch.tensor([1, 2, 2]), torch.tensor([0, 1, 1, 3]))
        >>> found = embedding_lookup_sparse(params, bags, None, combiner="sum")
        >>> found.sum().backward()
        >>> found.tolist(), params.grad.tolist()
        ([[2.0], [0.0], [8.0]], [[0.0], [1.0], [2.0]])
    """
    del name
    return _pool(
        params,
        sp_ids,
        sp_weights,
        partition_strategy,
        like_tensorflow=like_tensorflow,
        combiner="mean" if combiner is None else combiner,
        max_norm=max_norm,
        out_of_range=out_of_range,
        sparse=sparse,
    )


def safe_embedding_lookup_sparse(
    embedding_weights: Any,
    sparse_ids: Any,
    sparse_weights: Any = None,
    combiner: str | None = "mean",
    default_id: int | None = None,
    name: str | None = None,
    partition_strategy: str | Partition = "div",
    max_norm: float | None = None,
    *,
    out_of_range: OutOfRange = "error",
    like_tensorflow: bool = False,
    sparse: bool = False,
) -> Any:
    """Combine the rows of each bag, without ids that are negative or weigh nothing.

    As `shardwise.safe_embedding_lookup_sparse` does of arrays: negative ids and ids with a weight
    of 0, less, or NaN are no part of their bag and have no gradient, and a bag which then has no
    ids gives the row of `default_id`, to which its gradient goes.

    Args:
        embedding_weights: a tensor, or a list of shards; see `embedding_lookup`.
        sparse_ids: bags of ids; see `embedding_lookup_sparse`.
        sparse_weights: None, or numbers in the form of `sparse_ids`; see there.
        combiner: "sum", "mean" (also None), "sqrtn" or "max"; see there.
        default_id: the id whose row empty bags get; None for zeros.
        name: accepted for TensorFlow's sake, and not used.
        partition_strategy: "div", "mod" or a `Partition`. The default is not the one of
            `embedding_lookup_sparse`, as in TensorFlow.
        max_norm: see `embedding_lookup_sparse`.
        out_of_range: what an id does that is too large; see `embedding_lookup`.
        like_tensorflow: keep ids with a weight of 0 or less where `combiner` is "sum".
        sparse: give each shard a coalesced sparse gradient, not a dense one.

    Raises:
        TableError: `embedding_weights` makes no table, or rows of it cannot have a gradient.
        PartitionError: the shards are not as long as the strategy says.
        BagError: ids and weights do not make bags.
        IdOutOfRangeError: an id is too large, or `default_id` is outside the table.
        IdTypeError: ids are no integers.
        OptionError: an option has a value that it cannot have, or tensors are on several devices.

    Example:
        >>> import torch
        >>> from shardwise.torch import safe_embedding_lookup_sparse
        >>> params = torch.tensor([[1.0], [2.0], [4.0]])
        >>> safe_embedding_lookup_sparse(params, [[1, -1], [-1, -1]], default_id=2).tolist()
        [[2.0], [4.0]]
    """
    del name
    return _pool(
        embedding_weights,
        sparse_ids,
        sparse_weights,
        partition_strategy,
        combiner="mean" if combiner is None else combiner,
        max_norm=max_norm,
        out_of_range=out_of_range,
        default_id=default_id,
        skip_negative=True,
        skip_weightless=sparse_weights is not None and not (like_tensorflow and combiner == "sum"),
        sparse=sparse,
    )


def _pool(
    params: Any,
    ids: Any,
    weights: Any,
    strategy: str | Partition,
    *,
    like_tensorflow: bool = False,
    sparse: bool,
    **options: Any,
) -> Any:
    if torch.compiler.is_compiling() and not (sparse or like_tensorflow):
        found = _pool_compiled(params, ids, weights, strategy, options)
        if found is not None:
            return found
    return _pool_outside(params, ids, weights, strategy, like_tensorflow, sparse, options)


def _pool_compiled(
    params: Any, ids: Any, weights: Any, strategy: Any, options: dict[str, Any]
) -> Any:
    """The same in one operator, for bags of which a tensor tells where they end; None for others.

    So it is where gradients need no array of all rows.
    """
    shards = list(params) if isinstance(params, (list, tuple)) else [params]
    tracked = torch.is_grad_enabled()
    learns = tracked and any(shard.requires_grad for shard in shards)
    if not is_native(shards[0]) or (
        learns and (options["max_norm"] is not None or options["combiner"] == "max")
    ):
        return None
    if isinstance(ids, RaggedIds) and isinstance(ids.values, torch.Tensor):
        values, splits, lead = ids.values, ids.row_splits, None
        numbers = weights.values if isinstance(weights, RaggedIds) else weights
    elif isinstance(ids, torch.Tensor) and ids.layout == torch.strided and not ids.is_nested:
        lead, width = ids.shape[:-1], ids.shape[-1]
        if ids.dim() < 2 or (weights is not None and weights.shape != ids.shape):
            return None
        values = ids.reshape(-1)
        splits = torch.arange(lead.numel() + 1) * width
        numbers = None if weights is None else weights.reshape(-1)
    else:
        return None
    if numbers is not None and tracked and numbers.requires_grad:
        return None
    found = read_compiled(shards, values, strategy, splits=splits, weights=numbers, **options)
    return found if lead is None else found.reshape(*lead, *found.shape[1:])


@torch.compiler.disable
def _pool_outside(
    params: Any,
    ids: Any,
    weights: Any,
    strategy: str | Partition,
    like_tensorflow: bool,
    sparse: bool,
    options: dict[str, Any],
) -> Any:
    shards, partition = check_shards(params, strategy)
    bags = as_bags(on_host(ids), weights=None if weights is None else on_host(weights))
    bags = rows_of_tensorflow(bags) if like_tensorflow else bags
    reading = Reading(bags, partition, sparse, **options)
    tracked = torch.is_grad_enabled()
    learns = tracked and any(shard.requires_grad for shard in shards)
    numbers = numbers_of(weights) if tracked else None
    weighted = numbers is not None and numbers.requires_grad
    beyond_kernels = learns and (reading.max_norm is not None or reading.combiner == "max")
    if is_native(shards[0]) and not weighted and not beyond_kernels:
        return call(ReadShards, reading, *shards)
    return _composed_pool(shards, reading, bags, numbers if weighted else None)


def _composed_pool(shards: list[Any], reading: Reading, bags: Bags, numbers: Any) -> Any:
    """The same by torch's operations; `numbers` are the weights that require a gradient."""
    first, rows = shards[0], _composed.Rows(reading.partition, reading.sparse, wide=True)
    check_combiner(reading.combiner)
    default = as_default(reading.default_id, len(reading))
    weights = numbers
    if weights is None and bags.weights is not None:
        weights = torch.from_numpy(bags.weights).to(first.device)
    elif weights is not None:
        weights = weights[: len(bags.values)].to(first.device)
    ids = as_tensor(bags.values).to(first.device)
    ids = ids if ids.dtype == torch.uint64 else ids.long()
    splits = torch.from_numpy(bags.offsets).to(first.device)
    runs = Runs.between(ids, splits, weights)
    if reading.skip_negative and ids.dtype != torch.uint64:
        runs = runs.only(runs.ids >= 0)
    if reading.skip_weightless and runs.weights is not None:
        runs = runs.only(runs.weights > 0)

    def read(ids: Any) -> Any:
        found = _composed.look_up(shards, ids, rows, reading.out_of_range)
        found = found.reshape(len(ids), first.shape[1:].numel())
        if reading.max_norm is None:
            return found
        return clipped(found, reading.max_norm)

    found = combine(read(runs.ids), runs, reading.combiner)
    if default is not None:
        empty = torch.bincount(runs.of, minlength=runs.count)[:, None] == 0
        found = torch.where(empty, read(torch.full((1,), default, device=first.device)), found)
    return found.to(first.dtype).reshape(bags.lead + first.shape[1:])
