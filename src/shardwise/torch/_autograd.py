"""Functions of autograd that torch.func may transform, and cost nothing more elsewhere."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import torch

from shardwise._errors import OptionError


def call(kind: Any, *inputs: Any) -> Any:
    """Apply a function of autograd whose context is set up apart from `forward`.

    torch.func asks for this form. But torch binds the arguments of such a function by its signature
    each time, in longer than a small lookup takes, so elsewhere the older form is applied.
    """
    kind = kind if torch._C._are_functorch_transforms_active() else _older(kind)
    return kind.apply(*inputs)


@cache
def _older(kind: Any) -> Any:
    def forward(ctx: Any, *inputs: Any) -> Any:
        found = kind.forward(*inputs)
        kind.setup_context(ctx, inputs, found)
        return found

    body = {"forward": staticmethod(forward), "backward": staticmethod(kind.backward)}
    return type(kind.__name__, (torch.autograd.Function,), body)


def derivative(run: Callable[[Any], Any], gradient: Any) -> Any:
    """Return what a backward makes of a gradient, which torch.func may have wrapped."""
    if torch.is_grad_enabled() or torch._C._are_functorch_transforms_active():
        return call(_Derivative, run, gradient)
    return run(gradient)


class _Derivative(torch.autograd.Function):
    @staticmethod
    def forward(run: Any, gradient: Any) -> Any:
        return run(gradient)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        raise OptionError(
            "expected first derivatives of a lookup, got a request for second ones, which have no "
            "kernel; leave out create_graph=True"
        )
