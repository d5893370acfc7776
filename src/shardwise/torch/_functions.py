"""What autograd knows of a table: rows are read, and their gradients are given back to it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from shardwise._bags import Bags, as_bags
from shardwise._table import Table
from shardwise._update import How
from shardwise.optimizers import SGD
from shardwise.torch._autograd import derivative
from shardwise.torch._tensors import as_array, as_tensor

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass
class Gradient:
    """The gradient of what was read of a table.

    Attributes:
        bags: the ids; where each has a gradient of its own, bags of one.
        combiner: how the bags were combined; None for bags of one.
        rows: a gradient for each bag: float32, or float64 for rows of float64.
    """

    bags: Bags
    combiner: str | None
    rows: NDArray[Any]

    def scaled_by_frequency(self, padding_id: int | None) -> Gradient:
        """The same, each id's share divided by how often the id is there."""
        bags = self.bags
        _, places, counts = np.unique(bags.values, return_inverse=True, return_counts=True)
        often = counts[places].astype(self.rows.dtype)
        if self.combiner is None:
            return Gradient(bags, None, self.rows / often[:, None])
        weights = np.ones(len(often), often.dtype) if bags.weights is None else bags.weights
        if self.combiner == "mean":  # its divisor is that of the weights before they are changed
            kept = weights if padding_id is None else weights * (bags.values != padding_id)
            of = bag_of(bags.offsets)
            sums = np.bincount(of, kept, len(bags.offsets) - 1).astype(often.dtype)
            weights = weights / np.where(sums == 0, np.inf, sums)[of]
        bags = Bags(bags.values, bags.offsets, weights / often, bags.lead)
        return Gradient(bags, "sum", self.rows)


def bag_of(offsets: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return in which bag each id is."""
    return np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))


def single(ids: NDArray[Any]) -> Bags:
    """Return bags of one id each."""
    values = np.ascontiguousarray(ids).reshape(-1)
    return Bags(values, np.arange(len(values) + 1), None, values.shape)


def joined(gradients: list[Gradient]) -> Gradient:
    """Return many gradients of one module as one.

    A bag of one id with the weight 1 is the same under each combiner, so those that have none take
    that of the others.
    """
    if len(gradients) == 1:
        return gradients[0]
    combiner = next((g.combiner for g in gradients if g.combiner is not None), None)
    ends = np.cumsum([0, *(len(g.bags.values) for g in gradients)])
    offsets = [g.bags.offsets[:-1] + end for g, end in zip(gradients, ends[:-1], strict=True)]
    weights = None
    if any(g.bags.weights is not None for g in gradients):
        weights = np.concatenate(
            [
                np.ones(len(g.bags.values)) if g.bags.weights is None else g.bags.weights
                for g in gradients
            ]
        )
    rows = np.concatenate([g.rows for g in gradients])
    values = np.concatenate([g.bags.values for g in gradients])
    splits = np.concatenate([*offsets, ends[-1:]])
    return Gradient(Bags(values, splits, weights, (len(rows),)), combiner, rows)


def summed(
    gradient: Gradient, padding_id: int | None, outside: int | None = None
) -> tuple[NDArray[np.int64], NDArray[Any]]:
    """Return the ids that have a gradient, each once and rising, and the sum of each.

    The ids `padding_id` and `outside` have none; the first is no part of its bag. The sums are made
    by the kernel of `Table.update`, in the order of positions: SGD with a learning rate of 1 makes
    them of rows of zeros, with the sign changed.
    """
    bags, rows = gradient.bags, gradient.rows
    ids, places = np.unique(bags.values, return_inverse=True)
    sums = np.zeros((len(ids), rows.shape[1]), rows.dtype)
    padding = None
    if padding_id is not None:
        found = np.flatnonzero(ids == padding_id)
        padding = int(found[0]) if len(found) else None
    if sums.size:
        table = Table.from_array(sums)
        how = How(combiner=gradient.combiner or "sum", padding_id=padding, nonfinite="propagate")
        placed = Bags(places.reshape(-1), bags.offsets, bags.weights, (len(bags.offsets) - 1,))
        table._update(placed.values, placed, rows, SGD(1.0), how)
        np.subtract(0, sums, out=sums)
    if padding is not None:
        ids, sums = np.delete(ids, padding), np.delete(sums, padding, axis=0)
    if outside is not None and len(ids) and ids[-1] == outside:
        ids, sums = ids[:-1], sums[:-1]
    return ids.astype(np.int64), sums


def as_sparse(ids: NDArray[np.int64], sums: NDArray[Any], shape: Any, dtype: Any) -> Any:
    """Return a coalesced sparse tensor."""
    return torch.sparse_coo_tensor(
        torch.from_numpy(ids)[None],
        torch.from_numpy(sums).to(dtype),
        shape,
        is_coalesced=True,
        check_invariants=False,
    )


def mark_coalesced(weight: Any, gradient: Any) -> None:
    """Say of this gradient, once it is `weight.grad`, that it is coalesced: autograd forgets it."""
    place = gradient._values().data_ptr()

    def mark(parameter: Any) -> None:
        handle.remove()
        found = parameter.grad
        if found is not None and found.is_sparse and found._values().data_ptr() == place:
            found._coalesced_(True)

    handle = weight.register_post_accumulate_grad_hook(mark)


def wide(gradient: Any, wanted: Any) -> NDArray[Any]:
    """Return a gradient as the kernels read it: float32, or float64 for rows of float64."""
    dtype = torch.float64 if wanted == torch.float64 else torch.float32
    return as_array(gradient.to(dtype).contiguous(), "the gradient")


class LookUp(torch.autograd.Function):
    """Rows of ids, or of a module of bags a row for each bag; the weights get no gradient here.

    Single rows of a module of bags are as wide as they are added up. `leaf` is the weight, or what
    stands for it so that backward is called.
    """

    @staticmethod
    def forward(leaf: Any, ids: Any, offsets: Any, weights: Any, module: Any, bags: bool) -> Any:
        return look_up(module, leaf, ids, offsets, weights, bags)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.leaf, ids, offsets, weights, ctx.module, ctx.bags = inputs
        ctx.save_for_backward(ids, offsets, weights)

    @staticmethod
    def backward(ctx: Any, gradient: Any) -> tuple[Any, ...]:
        ids, offsets, weights = ctx.saved_tensors

        def receive(gradient: Any) -> Any:
            found = as_gradient(ctx.module, gradient, ids, offsets, weights, ctx.bags)
            return ctx.module._receive(found, ctx.leaf)

        is_parameter = ctx.module.optimizer is None
        found = derivative(receive, gradient) if is_parameter else receive(gradient)
        return found, None, None, None, None, None


def look_up(
    module: Any, leaf: Any, ids: Any, offsets: Any, weights: Any, bags: bool | None = None
) -> Any:
    """Return the rows of ids, or a row for each bag: by default for a module of bags."""
    table = module._table_of(leaf if module.optimizer is None else None)
    if not (hasattr(module, "mode") if bags is None else bags):
        small = hasattr(module, "mode") and table.dtype.itemsize == 2
        found = table.lookup(as_array(ids, "input"), dtype=np.float32 if small else None)
        return as_tensor(found)
    given = read_bags(ids, offsets, weights, module.include_last_offset)
    return as_tensor(table._pool(given, combiner=module.mode, padding_id=module.padding_idx))


def as_gradient(
    module: Any, gradient: Any, ids: Any, offsets: Any, weights: Any, bags: bool | None = None
) -> Gradient:
    """Return the gradient of what `look_up` returned."""
    rows = wide(gradient, gradient.dtype)
    if not (hasattr(module, "mode") if bags is None else bags):
        return Gradient(
            single(as_array(ids, "input")), None, rows.reshape(ids.numel(), rows.shape[-1])
        )
    found = read_bags(ids, offsets, weights, module.include_last_offset)
    if found.weights is not None:
        numbers = np.ascontiguousarray(found.weights, rows.dtype)
        found = Bags(found.values, found.offsets, numbers, found.lead)
    return Gradient(found, module.mode, rows)


def read_bags(ids: Any, offsets: Any, weights: Any, include_last_offset: bool) -> Bags:
    """Return tensors as bags.

    Raises:
        BagError: they make no bags.
    """
    arrays = [
        None if tensor is None else as_array(tensor, name)
        for tensor, name in ((ids, "input"), (offsets, "offsets"), (weights, "per_sample_weights"))
    ]
    return as_bags(*arrays, include_last_offset=include_last_offset)
