"""Lookups and bags as operators of torch.library, so that torch.compile keeps a graph whole.

An operator takes tensors and numbers: a module is named by its key.
"""

from __future__ import annotations

import itertools
import weakref
from typing import Any

import torch

from shardwise.torch._functions import as_gradient, look_up

_modules: weakref.WeakValueDictionary[int, Any] = weakref.WeakValueDictionary()
_keys = itertools.count()


def register(module: Any) -> int:
    """Return a key that names the module as long as it lives."""
    key = next(_keys)
    _modules[key] = module
    return key


_IDS = "Tensor ids, Tensor? offsets, Tensor? weights, int key"


@torch.library.custom_op(
    "shardwise::look_up", mutates_args=(), schema=f"(Tensor leaf, {_IDS}) -> Tensor"
)
def compiled_look_up(leaf: Any, ids: Any, offsets: Any, weights: Any, key: int) -> Any:
    """Return the rows of ids, or of a module of bags a row for each bag."""
    return look_up(_modules[key], leaf, ids, offsets, weights)


@compiled_look_up.register_fake
def _(leaf: Any, ids: Any, offsets: Any, weights: Any, key: int) -> Any:
    module = _modules[key]
    lead = tuple(ids.shape)
    if hasattr(module, "mode"):
        lead = lead[:1] if offsets is None else (offsets.shape[0] - module.include_last_offset,)
    dtype = getattr(torch, module.table.dtype.name)
    return leaf.new_empty((*lead, module.embedding_dim), dtype=dtype)


@torch.library.custom_op(
    "shardwise::receive", mutates_args=(), schema=f"(Tensor gradient, {_IDS}) -> Tensor"
)
def _receive(gradient: Any, ids: Any, offsets: Any, weights: Any, key: int) -> Any:
    """Change the rows; return a gradient of the leaf, for what returns nothing is left out."""
    module = _modules[key]
    module._receive(as_gradient(module, gradient, ids, offsets, weights), None)
    return torch.empty(0)


@_receive.register_fake
def _(gradient: Any, ids: Any, offsets: Any, weights: Any, key: int) -> Any:
    return torch.empty(0, device=gradient.device)


def _set_up(ctx: Any, inputs: Any, output: Any) -> None:
    _, ids, offsets, weights, ctx.key = inputs
    ctx.save_for_backward(ids, offsets, weights)


def _backward(ctx: Any, gradient: Any) -> Any:
    ids, offsets, weights = ctx.saved_tensors
    return _receive(gradient, ids, offsets, weights, ctx.key), None, None, None, None


compiled_look_up.register_autograd(_backward, setup_context=_set_up)
