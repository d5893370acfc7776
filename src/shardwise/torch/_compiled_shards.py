"""Lookups in tables of tensors as operators of torch.library, which torch.compile keeps whole."""

from __future__ import annotations

from typing import Any

import torch

from shardwise._bags import RaggedIds, as_bags
from shardwise._partition import Partition
from shardwise.torch._shards import Reading, check_shards
from shardwise.torch._tensors import as_array, as_ids

_IDS = "Tensor ids, Tensor? splits, Tensor? weights"
_HOW = (
    "str strategy, str combiner, float? max_norm, str out_of_range, int? default_id, "
    "bool skip_negative, bool skip_weightless"
)


def read_compiled(
    shards: list[Any],
    ids: Any,
    strategy: str | Partition,
    *,
    splits: Any = None,
    weights: Any = None,
    combiner: str = "sum",
    max_norm: float | None = None,
    out_of_range: Any = "error",
    default_id: int | None = None,
    skip_negative: bool = False,
    skip_weightless: bool = False,
) -> Any:
    """Return what `Reading.of` returns of these; without splits, of ids that are no bags."""
    if isinstance(strategy, Partition):  # an operator takes no such thing
        bounds = strategy.boundaries
        strategy = strategy.strategy if bounds is None else ",".join([str(b) for b in bounds])
    return _read(
        shards,
        ids,
        splits,
        weights,
        strategy,
        combiner,
        max_norm,
        str(out_of_range),
        default_id,
        skip_negative,
        skip_weightless,
    )


def _reading(
    partition: Partition,
    ids: Any,
    splits: Any,
    weights: Any,
    combiner: str,
    max_norm: float | None,
    out_of_range: str,
    *skips: Any,
) -> Reading:
    policy: Any = out_of_range if not out_of_range.isdigit() else int(out_of_range)
    array: Any = as_array(as_ids(ids, "ids"), "ids")
    if splits is not None:
        ragged = RaggedIds(array, as_array(as_ids(splits, "row_splits"), "row_splits"))
        numbers = None if weights is None else as_array(weights, "weights")
        array = as_bags(ragged, weights=numbers)
    return Reading(array, partition, False, combiner, max_norm, policy, *skips)


def _as_strategy(strategy: str) -> str | Partition:
    return Partition.ranges([*map(int, strategy.split(","))]) if "," in strategy else strategy


@torch.library.custom_op(
    "shardwise::read_shards",
    mutates_args=(),
    schema=f"(Tensor[] params, {_IDS}, {_HOW}) -> Tensor",
)
def _read(
    params: Any,
    ids: Any,
    splits: Any,
    weights: Any,
    strategy: str,
    *how: Any,
) -> Any:
    shards, partition = check_shards(list(params), _as_strategy(strategy))
    return _reading(partition, ids, splits, weights, *how).of(shards)


@_read.register_fake
def _(params: Any, ids: Any, splits: Any, *how: Any) -> Any:
    lead = ids.shape if splits is None else (splits.shape[0] - 1,)
    return params[0].new_empty((*lead, *params[0].shape[1:]))


@torch.library.custom_op(
    "shardwise::read_shards_backward",
    mutates_args=(),
    schema=f"(Tensor gradient, SymInt[] sizes, SymInt[] tail, {_IDS}, {_HOW}) -> Tensor[]",
)
def _gradients(
    gradient: Any,
    sizes: Any,
    tail: Any,
    ids: Any,
    splits: Any,
    weights: Any,
    strategy: str,
    *how: Any,
) -> Any:
    partition: Any = _as_strategy(strategy)
    if not isinstance(partition, Partition):
        partition = Partition(partition, sum(sizes), len(sizes))
    shapes = [(size, *tail) for size in sizes]
    reading = _reading(partition, ids, splits, weights, *how)
    found: list[Any] = reading.gradients(gradient, shapes, [True] * len(shapes))
    return found


@_gradients.register_fake
def _(gradient: Any, sizes: Any, tail: Any, *what: Any) -> Any:
    return [gradient.new_empty((size, *tail)) for size in sizes]


def _set_up(ctx: Any, inputs: Any, output: Any) -> None:
    params, ids, splits, weights, *ctx.how = inputs
    ctx.save_for_backward(ids, splits, weights)
    ctx.sizes, ctx.tail = [p.shape[0] for p in params], list(params[0].shape[1:])


def _backward(ctx: Any, gradient: Any) -> Any:
    found = _gradients(gradient, ctx.sizes, ctx.tail, *ctx.saved_tensors, *ctx.how)
    return found, None, None, None, *(None for _ in ctx.how)


_read.register_autograd(_backward, setup_context=_set_up)
