"""Bags of ids as tensors: their forms, in the memory of the CPU and with their gradients."""

from __future__ import annotations

from typing import Any

import torch

from shardwise._bags import RaggedIds, SparseIds
from shardwise._errors import BagError
from shardwise.torch._tensors import as_array


def on_host(bags: Any) -> Any:
    """Return bags, or their weights, in a form that `shardwise._bags.as_bags` reads."""
    if isinstance(bags, torch.Tensor):
        if bags.device.type == "meta":
            raise BagError("expected bags of tensors that have numbers, got one on the meta device")
        if bags.is_nested:
            return (
                _ragged(bags) if bags.layout == torch.jagged else list(map(on_host, bags.unbind()))
            )
        if bags.layout == torch.strided:
            return as_array(bags.detach().cpu(), "bags")
        return bags.detach().cpu()
    if hasattr(bags, "row_splits") and hasattr(bags, "values"):
        return RaggedIds(on_host(bags.values), on_host(bags.row_splits))
    if all(hasattr(bags, name) for name in SparseIds._fields):
        return SparseIds(*(on_host(getattr(bags, name)) for name in SparseIds._fields))
    if isinstance(bags, (list, tuple)) and any(isinstance(bag, torch.Tensor) for bag in bags):
        return [on_host(bag) for bag in bags]
    return bags


def _ragged(bags: Any) -> RaggedIds:
    if bags.dim() != 2 or bags.lengths() is not None:
        raise BagError(
            "expected a nested tensor of rank 2 without holes, got one of rank "
            f"{bags.dim()}; call .contiguous() on a narrowed one"
        )
    return RaggedIds(on_host(bags.values()), on_host(bags.offsets()))


def numbers_of(weights: Any) -> Any:
    """Return the weights in a form, end to end, as one tensor that autograd knows; None for none.

    Raises:
        BagError: their gradient would be lost.
    """
    if isinstance(weights, torch.Tensor):
        if weights.is_nested:
            jagged = weights.layout == torch.jagged
            return weights.values() if jagged else torch.cat(weights.unbind())
        if weights.layout == torch.strided:
            return weights.reshape(-1)
        if weights.layout == torch.sparse_coo:
            if weights.requires_grad and not weights.is_coalesced():
                raise BagError(
                    "expected weights that require a gradient in a coalesced tensor, got one that "
                    "is not; pass SparseIds with the tensor of weights as values"
                )
            return weights.values() if weights.requires_grad else weights._values()
        return weights.values()
    if hasattr(weights, "values") and not isinstance(weights, dict):
        return numbers_of(weights.values)
    if isinstance(weights, (list, tuple)) and any(isinstance(w, torch.Tensor) for w in weights):
        return torch.cat([torch.as_tensor(bag).reshape(-1) for bag in weights])
    return None
