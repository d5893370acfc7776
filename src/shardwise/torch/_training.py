"""How the rows of a module learn: by a gradient of `weight`, or in backward itself."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from shardwise._errors import OptionError
from shardwise._table import Table
from shardwise._update import How, with_rate
from shardwise.torch._functions import Gradient, as_sparse, joined, mark_coalesced, summed
from shardwise.torch._weight import TableRows

NONFINITE = ("error", "skip", "propagate")


class Trained(TableRows):
    """Rows that gradients change, and what is kept of these meanwhile."""

    learning_rate: float | None
    grad_scale: float
    skipped: int

    def _set_up_training(self, freeze: bool, nonfinite: str) -> None:
        if nonfinite not in NONFINITE:
            raise OptionError(
                f"expected nonfinite to be one of {', '.join(map(repr, NONFINITE))}, got "
                f"{nonfinite!r:.40}"
            )
        self.learning_rate, self.grad_scale, self.nonfinite = None, 1.0, nonfinite
        if (
            nonfinite == "skip"
            and self.optimizer is not None
            and not isinstance(self._table, Table)
        ):
            raise OptionError(
                "expected nonfinite='error' or 'propagate' with a distributed table, got 'skip': "
                "ranks would leave out different steps"
            )
        self.skipped = 0
        self._held: list[Gradient] | None = None
        # On the CPU as the rows are, whatever torch's default device is.
        self._nothing = torch.empty(0, device="cpu")
        self._stand_in = torch.empty(0, device="cpu", requires_grad=True)
        if self.optimizer is not None:
            self.frozen = freeze

    def _leaf(self) -> Any:
        """What makes autograd call backward: the weight, or what stands for it, or None."""
        if self.optimizer is None:
            return self.weight
        if self.frozen or not self.training or not torch.is_grad_enabled():
            return None
        return self._stand_in

    def _receive(self, gradient: Gradient, weight: Any) -> Any:
        """Take a gradient: return that of the weight, or change the rows.

        Args:
            gradient: that.
            weight: the leaf that was read; None for what stands for it.
        """
        if self.scale_grad_by_freq:
            gradient = gradient.scaled_by_frequency(self.padding_idx)
        if self.optimizer is None:
            ids, sums = summed(gradient, self.padding_idx)
            found = as_sparse(ids, sums, weight.shape, weight.dtype)
            if not self.sparse:
                return found.to_dense()
            if weight is self.weight and weight.is_leaf:
                mark_coalesced(weight, found)
            return found
        if self.grad_scale != 1.0:
            gradient.rows = gradient.rows / gradient.rows.dtype.type(self.grad_scale)
        if self._held is None:
            self._update(gradient)
        else:
            gradient.bags = _kept(gradient)
            self._held.append(gradient)
        return None

    def _update(self, gradient: Gradient) -> None:
        assert self.optimizer is not None
        if self.nonfinite == "skip" and not np.isfinite(gradient.rows).all():
            self.skipped += 1
            return
        optimizer = with_rate(self.optimizer, self.learning_rate)
        bags = gradient.bags if gradient.combiner is not None else None
        how = How(
            combiner=gradient.combiner or "sum",
            padding_id=self.padding_idx,
            nonfinite="propagate" if self.nonfinite == "propagate" else "error",
        )
        rows = gradient.rows
        if bags is not None:
            rows = rows.reshape(bags.lead + rows.shape[-1:])
        self.table._update(gradient.bags.values, bags, rows, optimizer, how)

    def hold(self) -> None:
        """Keep the gradients of what follows, until `step` applies them as one.

        Raises:
            OptionError: the module has no optimizer; then torch's accumulates by itself.
        """
        self._expect_optimizer("hold")
        if self._held is None:
            self._held = []

    def step(self) -> None:
        """Apply the gradients that were kept since `hold`, in one update, and end the hold.

        After an error nothing is changed, and the gradients are still kept; see `discard`.

        Raises:
            OptionError: nothing was held.
            TableError: see `Table.update`.
        """
        self._expect_optimizer("step")
        if self._held is None:
            raise OptionError("expected hold() before step(), got none; without it backward steps")
        if self._held:
            self._update(joined(self._held))
        self._held = None

    def discard(self) -> None:
        """Forget the gradients that were kept since `hold`, and end the hold."""
        self._held = None

    def _expect_optimizer(self, verb: str) -> None:
        if self.optimizer is None:
            raise OptionError(
                f"expected a module with an optimizer to {verb}, got optimizer=None: torch's "
                "optimizer has the gradients of weight"
            )


def _kept(gradient: Gradient) -> Any:
    """Bags whose ids and weights are a copy: the loader may fill the tensors anew."""
    bags = gradient.bags
    gradient.rows = gradient.rows.copy()
    weights = None if bags.weights is None else bags.weights.copy()
    return type(bags)(bags.values.astype(np.int64), bags.offsets, weights, bags.lead)
