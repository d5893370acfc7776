"""What a table should be: one NumPy array of its rows, and what an optimizer keeps, in NumPy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shardwise import optimizers

from .fused import fused


class Model:
    """Rows, each operation written out as the documentation states it.

    Attributes:
        rows: what a lookup of all ids gives.
        state: what an optimizer keeps of the rows, by its stable name.
        step: how many updates there were since the state was made.
    """

    def __init__(self, rows: NDArray[Any]) -> None:
        self.rows = rows.copy()
        self.state: dict[str, NDArray[Any]] = {}
        self.step = 0

    def copy(self) -> Model:
        other = Model(self.rows)
        other.state = {name: values.copy() for name, values in self.state.items()}
        other.step = self.step
        return other

    @property
    def wide(self) -> np.dtype[Any]:
        """What sums are made in."""
        return np.dtype(np.float64 if self.rows.dtype == np.float64 else np.float32)

    def lookup(self, ids: NDArray[Any], policy: str | int) -> NDArray[Any]:
        """Rows of ids, of which some may be outside the table."""
        count = len(self.rows)
        flat = [int(id) for id in ids.reshape(-1)]
        result = np.zeros((len(flat), *self.rows.shape[1:]), self.rows.dtype)
        for k, id in enumerate(flat):
            inside = 0 <= id < count
            if not inside and policy == "zeros":
                continue
            if not inside:
                stands_in = {"clamp": min(max(id, 0), count - 1), "wrap": id % count}
                id = policy if isinstance(policy, int) else stands_in[policy]
            result[k] = self.rows[id]
        return result.reshape(ids.shape + self.rows.shape[1:])

    def pool(
        self, bags: Sequence[Sequence[int]], weights: Sequence[Sequence[float]] | None, how: str
    ) -> NDArray[Any]:
        """A row for each bag: added in the order of the ids, with one rounding each."""
        result = np.zeros((len(bags), *self.rows.shape[1:]), self.rows.dtype)
        for k, bag in enumerate(bags):
            if not len(bag):
                continue
            own = np.ones(len(bag), self.wide)
            rows = members = self.rows[np.array(bag)].astype(self.wide)
            if weights is not None:
                own = np.array(weights[k]).astype(self.wide)
                members = rows * own[:, None]
            total = squares = self.wide.type(0)
            for w in own:
                total, squares = total + w, squares + w * w
            if how == "max":
                best = members[0]  # of equal ones, such as 0.0 and -0.0, the first
                for row in members[1:]:
                    best = np.where(row > best, row, best)
                result[k] = best
                continue
            sums = members[0]
            for i, row in enumerate(members[1:], 1):
                sums = sums + row if weights is None else fused(rows[i], own[i], sums)
            divisor = {"sum": self.wide.type(1), "mean": total, "sqrtn": np.sqrt(squares)}[how]
            result[k] = sums / divisor if divisor != 0 else np.zeros_like(sums)
        return result

    def write(self, ids: Sequence[int], rows: NDArray[Any]) -> None:
        for id, row in zip(ids, rows, strict=True):
            self.rows[id] = row

    def update(
        self, ids: Sequence[int], gradients: NDArray[Any], optimizer: optimizers.Optimizer
    ) -> None:
        """One step of SGD, with momentum or without, or of Adagrad."""
        for slot in optimizer.slots():
            if slot.name not in self.state:
                self.state[slot.name] = np.full(self.rows.shape, slot.initial, self.wide)
        self.step += 1
        sums: dict[int, NDArray[Any]] = {}
        for id, gradient in zip(ids, gradients.astype(self.wide), strict=True):
            sums[id] = sums[id] + gradient if id in sums else gradient
        rate = self.wide.type(getattr(optimizer, "learning_rate"))  # noqa: B009 - not in the base
        for id, g in sums.items():
            row = self.rows[id].astype(self.wide)
            if isinstance(optimizer, optimizers.Adagrad):
                kept = self.state["adagrad.sum"]
                kept[id] += g * g
                row = row - g * rate / (np.sqrt(kept[id]) + self.wide.type(optimizer.eps))
            elif isinstance(optimizer, optimizers.SGD) and optimizer.momentum:
                kept = self.state["sgd.momentum_buffer"]
                kept[id] = kept[id] * self.wide.type(optimizer.momentum) + g
                row = row - kept[id] * rate
            else:
                row = row - g * rate
            self.rows[id] = row.astype(self.rows.dtype)

    def forget(self) -> None:
        self.state, self.step = {}, 0
