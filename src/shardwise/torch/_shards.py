"""Tables whose shards are tensors: rows are read by the kernels, and each shard has a gradient."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from shardwise._bags import Bags
from shardwise._errors import OptionError, TableError
from shardwise._ids import OutOfRange, as_policy
from shardwise._partition import Partition, as_partition, check_shard_sizes
from shardwise._table import Table
from shardwise.torch._autograd import derivative
from shardwise.torch._functions import Gradient, as_sparse, single, summed, wide
from shardwise.torch._tensors import as_array, as_tensor, dtype_of

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True)
class Reading:
    """What is read of a table, and how: ids, or bags of them.

    Attributes:
        ids: integers of any shape, or bags.
        partition: how the rows are cut.
        sparse: each shard gets a coalesced sparse gradient, not a dense one.
        combiner: of bags; see `Table.pool` for this and what follows.
        max_norm: the largest norm of a row; gradients know nothing of it.
        out_of_range: what an id outside the table does.
        default_id: whose row empty bags get.
        skip_negative: negative ids are no part of their bag.
        skip_weightless: ids with a weight that is not above 0 are no part of their bag.
    """

    ids: NDArray[Any] | Bags
    partition: Partition
    sparse: bool = False
    combiner: str = "sum"
    max_norm: float | None = None
    out_of_range: OutOfRange = "error"
    default_id: int | None = None
    skip_negative: bool = False
    skip_weightless: bool = False

    def of(self, shards: Sequence[Any]) -> Any:
        """Return the rows, as a tensor.

        Raises:
            IdOutOfRangeError: an id is outside the table.
            OptionError: an option has a value that it cannot have.
        """
        table = Table.from_shards([as_array(shard, "params") for shard in shards], self.partition)
        how: dict[str, Any] = {"max_norm": self.max_norm, "out_of_range": self.out_of_range}
        if not isinstance(self.ids, Bags):
            return as_tensor(table.lookup(self.ids, **how))
        how |= {"combiner": self.combiner, "default_id": self.default_id}
        how |= {"skip_negative": self.skip_negative, "skip_weightless": self.skip_weightless}
        return as_tensor(table._pool(self.ids, **how))

    def kept(self) -> Reading:
        """The same with ids that no one else can change before backward."""
        ids = self.ids
        if isinstance(ids, Bags):
            return replace(self, ids=Bags(ids.values.copy(), ids.offsets, ids.weights, ids.lead))
        return replace(self, ids=ids.copy())

    def gradients(self, up: Any, shapes: list[Any], wanted: Sequence[bool]) -> list[Any]:
        """Return a gradient for each shard, None where it is not wanted.

        Args:
            up: the gradient of what `of` returned.
            shapes: those of the shards.
            wanted: which shards need one.
        """
        tail, partition = shapes[0][1:], self.partition
        bags = self._settled()
        rows = wide(up, up.dtype).reshape(len(bags.offsets) - 1, int(np.prod(tail)))
        combiner = self.combiner if isinstance(self.ids, Bags) else None
        unique, sums = summed(Gradient(bags, combiner, rows), None, outside=partition.num_rows)
        where, places = partition.locate(unique)
        table = Table.from_array(sums)
        found: list[Any] = []
        for k, shape in enumerate(shapes):
            if not wanted[k]:
                found.append(None)
                continue
            # A slice where shards are runs of ids; the kernel gathers the rows of others.
            here = np.flatnonzero(where == k)
            whole = len(here) and here[-1] - here[0] == len(here) - 1
            values = sums[here[0] : here[-1] + 1] if whole else table.lookup(here)
            values = values.reshape(len(here), *tail)
            one = as_sparse(places[here], values, tuple(shape), up.dtype)
            found.append(one if self.sparse else one.to_dense())
        return found

    def _settled(self) -> Bags:
        """Bags of ids that are rows, or the number of rows where an id gave zeros.

        What is no part of its bag is gone, and the default stands where a bag is empty.
        """
        bags = self.ids if isinstance(self.ids, Bags) else single(self.ids)
        values, offsets, weights, size = bags.values, bags.offsets, bags.weights, len(self)
        kept = np.ones(len(values), bool)
        if self.skip_negative and values.dtype.kind == "i":
            kept &= values >= 0
        if self.skip_weightless and weights is not None:
            kept &= weights > 0
        if not kept.all():
            offsets = np.concatenate([[0], np.cumsum(kept)])[offsets]
            values, weights = values[kept], None if weights is None else weights[kept]
        values = _within(values, size, self.out_of_range)
        empty = np.flatnonzero(offsets[1:] == offsets[:-1])
        if self.default_id is not None and len(empty):
            at = offsets[empty]
            values = np.insert(values, at, self.default_id)
            weights = None if weights is None else np.insert(weights, at, 1)
            offsets = offsets + np.concatenate([[0], np.cumsum(offsets[1:] == offsets[:-1])])
        return Bags(values, offsets, weights, (len(offsets) - 1,))

    def __len__(self) -> int:
        return self.partition.num_rows


def _within(ids: NDArray[Any], size: int, out_of_range: OutOfRange) -> NDArray[Any]:
    """Return the ids of the rows that were read, `size` for no row."""
    policy, stand_in = as_policy(out_of_range, size)
    if policy == "error":
        return ids
    outside = ids >= size
    if ids.dtype.kind == "i":
        outside |= ids < 0
    if not outside.any():
        return ids
    if policy == "wrap":
        wide = ids if ids.dtype == np.uint64 else ids.astype(np.int64)  # to hold the size
        return (wide % wide.dtype.type(size)).astype(np.int64)
    if policy == "clamp":
        stands: Any = np.where(ids > 0, size - 1, 0)
    else:
        stands = size if policy == "zeros" else stand_in
    inside = np.where(outside, 0, ids).astype(np.int64)
    return np.where(outside, stands, inside)


class ReadShards(torch.autograd.Function):
    """Rows of a table of tensors; the weights of bags get no gradient here."""

    @staticmethod
    def forward(reading: Reading, *shards: Any) -> Any:
        return reading.of(shards)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        reading, *shards = inputs
        ctx.shapes = [shard.shape for shard in shards]
        ctx.reading = reading.kept()

    @staticmethod
    def backward(ctx: Any, gradient: Any) -> tuple[Any, ...]:
        reading, shapes, wanted = ctx.reading, ctx.shapes, ctx.needs_input_grad[1:]

        def gradients(up: Any) -> tuple[Any, ...]:
            return tuple(reading.gradients(up, shapes, wanted))

        return None, *derivative(gradients, gradient)


def check_shards(params: Any, strategy: str | Partition) -> tuple[list[Any], Partition]:
    """Return the shards of a table as tensors of one device, and how it is cut.

    Raises:
        TableError: they are no such tensors, or rows of them cannot have a gradient.
        OptionError: they are on several devices.
        PartitionError: they are not as long as the strategy says.
    """
    shards = list(params) if isinstance(params, (list, tuple)) else [params]
    if not shards:
        raise TableError("expected params as a tensor or a list of them, got an empty list")
    for shard in shards:
        if not isinstance(shard, torch.Tensor) or shard.layout != torch.strided:
            got = type(shard).__name__
            got = f"one of {shard.layout}" if isinstance(shard, torch.Tensor) else got
            raise TableError(f"expected params as dense tensors, got {got}")
        dtype_of(shard.dtype)
        if shard.device != shards[0].device:
            raise OptionError(
                f"expected shards on one device, got {shards[0].device} and {shard.device}"
            )
    first = shards[0]
    for k, shard in enumerate(shards):
        if shard.dim() == 0 or shard.shape[1:] != first.shape[1:] or shard.dtype != first.dtype:
            raise TableError(
                "expected shards that differ in their first axis alone, got shard 0 of "
                f"{first.dtype} and shape {tuple(first.shape)}, shard {k} of {shard.dtype} and "
                f"shape {tuple(shard.shape)}"
            )
    sizes = [shard.shape[0] for shard in shards]
    partition = as_partition(strategy, sum(sizes), len(sizes))
    check_shard_sizes(partition, sizes)
    return shards, partition
