"""Lookups by torch's own operations, for rows on another device than the CPU."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from shardwise._ids import as_policy, out_of_range_error
from shardwise.torch._autograd import call, derivative
from shardwise.torch._combine import widened
from shardwise.torch._functions import mark_coalesced

if TYPE_CHECKING:
    from collections.abc import Sequence

    from shardwise._ids import OutOfRange
    from shardwise._partition import Partition


@dataclass(frozen=True)
class Rows:
    """Where rows lie, and what their gradient is like.

    Attributes:
        partition: how they are cut into shards.
        sparse: each shard gets a coalesced sparse gradient, not a dense one.
        padding_id: this row has no gradient.
        by_frequency: the gradient of each id is divided by how often the id is there.
        wide: rows come in the dtype that they are added up in, and so do their gradients; else each
            of these would be rounded before they are added.
        leaf: a parameter, of which a sparse gradient shall stay known as coalesced.
    """

    partition: Partition
    sparse: bool = False
    padding_id: int | None = None
    by_frequency: bool = False
    wide: bool = False
    leaf: Any = None


def look_up(shards: list[Any], ids: Any, rows: Rows, out_of_range: OutOfRange = "error") -> Any:
    """Return the rows of ids: a tensor of shape `ids.shape + shards[0].shape[1:]`.

    Args:
        shards: tensors of one device.
        ids: integers on that device.
        rows: how the shards are cut.
        out_of_range: what an id outside the table does.

    Raises:
        IdOutOfRangeError: an id is outside the table.
        OptionError: `out_of_range` is no policy.
    """
    found, missing = _settled(ids, rows.partition.num_rows, out_of_range)
    if rows.partition.num_rows == 0:  # there is no row to stand in for another
        empty = shards[0].new_zeros((*ids.shape, *shards[0].shape[1:]))
        return widened(empty) if rows.wide else empty
    looked_up = call(_Gather, found, rows, *shards)
    if missing is None:
        return looked_up
    return looked_up.masked_fill(missing.reshape(missing.shape + (1,) * (shards[0].dim() - 1)), 0)


def _settled(ids: Any, size: int, out_of_range: OutOfRange) -> tuple[Any, Any]:
    """Return int64 ids of rows, and where there is a row of zeros instead, or None."""
    policy, stand_in = as_policy(out_of_range, size)
    # What is 2**63 and more as uint64 is negative here, and larger than all.
    beyond = ids.to(torch.int64) < 0 if ids.dtype == torch.uint64 else None
    found = ids.to(torch.int64)
    outside = (found < 0) | (found >= size)
    if policy == "error":
        if ids.device.type != "meta" and outside.any():
            position = int(outside.reshape(-1).to(torch.uint8).argmax())
            value = int(found.reshape(-1)[position])
            value += (1 << 64) if beyond is not None and value < 0 else 0
            raise out_of_range_error(tuple(ids.shape), position, value, size)
        return found, None
    if policy == "zeros":
        return torch.where(outside, 0, found), outside
    if policy == "row":
        return torch.where(outside, stand_in, found), None
    if policy == "clamp":
        clamped = found.clamp(0, size - 1)
        return clamped if beyond is None else torch.where(beyond, size - 1, clamped), None
    wrapped = found % size
    if beyond is not None:
        wrapped = torch.where(beyond, (wrapped + (1 << 64) % size) % size, wrapped)
    return wrapped, None


class _Gather(torch.autograd.Function):
    """Rows of ids that are all inside; their gradients are summed in float32, or float64."""

    @staticmethod
    def forward(ids: Any, rows: Rows, *shards: Any) -> Any:
        flat = ids.reshape(-1)
        if len(shards) == 1 or flat.device.type == "meta":
            found = torch.cat(shards) if len(shards) > 1 else shards[0]
            found = found.index_select(0, flat)
        else:
            of, places = _located(flat, rows.partition)
            order = torch.argsort(of, stable=True)
            counts = torch.bincount(of, minlength=len(shards)).tolist()
            parts = places[order].split(counts)
            pieces = [
                shard.index_select(0, part) for shard, part in zip(shards, parts, strict=True)
            ]
            found = torch.cat(pieces).index_select(0, torch.argsort(order))
        found = widened(found) if rows.wide else found
        return found.reshape(ids.shape + found.shape[1:])

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ids, ctx.rows, *shards = inputs
        ctx.save_for_backward(ids)
        ctx.shapes, ctx.dtype = [shard.shape for shard in shards], shards[0].dtype

    @staticmethod
    def backward(ctx: Any, gradient: Any) -> tuple[Any, ...]:
        (ids,), rows, shapes, dtype = ctx.saved_tensors, ctx.rows, ctx.shapes, ctx.dtype
        wanted = ctx.needs_input_grad[2:]

        def gradients(up: Any) -> tuple[Any, ...]:
            return tuple(_gradients(up, ids.reshape(-1), rows, shapes, dtype, wanted))

        return None, None, *derivative(gradients, gradient)


def _gradients(
    up: Any, ids: Any, rows: Rows, shapes: list[Any], dtype: Any, wanted: Sequence[bool]
) -> list[Any]:
    """Return a gradient for each shard, None where it is not wanted."""
    tail = shapes[0][1:]
    ones = (1,) * len(tail)
    up = widened(up).reshape(len(ids), *tail)
    if rows.by_frequency:
        _, places, counts = torch.unique(ids, return_inverse=True, return_counts=True)
        up = up / counts[places].reshape(-1, *ones)
    if rows.padding_id is not None:
        kept = ids != rows.padding_id
        if rows.sparse:
            ids, up = ids[kept], up[kept]
        else:
            up = up.masked_fill(~kept.reshape(-1, *ones), 0)
    if len(shapes) == 1 or ids.device.type == "meta":  # there no mask says how many it chooses
        found = [_summed(ids, up, shape, dtype, rows.sparse) for shape in shapes]
    else:
        of, places = _located(ids, rows.partition)
        found = []
        for k, shape in enumerate(shapes):
            here = of == k
            found.append(_summed(places[here], up[here], shape, dtype, rows.sparse))
    if rows.sparse and rows.leaf is not None:
        mark_coalesced(rows.leaf, found[0])
    return [one if is_wanted else None for one, is_wanted in zip(found, wanted, strict=True)]


def _located(ids: Any, partition: Partition) -> tuple[Any, Any]:
    """Return the shard of each id, and its row there."""
    shards = partition.num_shards
    if partition.strategy == "mod":
        return ids % shards, torch.div(ids, shards, rounding_mode="floor")
    ends = ids.new_tensor(partition.shard_sizes).cumsum(0)
    of = torch.searchsorted(ends, ids, right=True)
    return of, ids - torch.where(of == 0, 0, ends[of - 1])


def _summed(places: Any, up: Any, shape: Any, dtype: Any, sparse: bool) -> Any:
    if not sparse:
        return up.new_zeros(shape).index_add_(0, places, up).to(dtype)
    unique, inverse = torch.unique(places, return_inverse=True)
    sums = up.new_zeros((len(unique), *shape[1:])).index_add_(0, inverse, up).to(dtype)
    return torch.sparse_coo_tensor(
        unique[None], sums, shape, is_coalesced=True, check_invariants=False
    )
