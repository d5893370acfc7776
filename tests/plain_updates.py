"""What every optimizer does to rows and states, in plain arithmetic."""

import dataclasses

import ml_dtypes
import numpy as np
import pytest

from shardwise import Table
from shardwise.optimizers import SGD, Adagrad, Adam, AdamW, Ftrl, RMSprop, RowwiseAdagrad

OPTIMIZERS = [
    SGD(0.1),
    SGD(0.1, momentum=0.9),
    SGD(0.1, momentum=0.9, nesterov=True, weight_decay=0.01),
    Adagrad(0.1),
    Adagrad(0.1, learning_rate_decay=0.01, weight_decay=0.1, initial_accumulator_value=0.2),
    RowwiseAdagrad(0.1),
    RowwiseAdagrad(0.1, weight_decay=0.1, initial_accumulator_value=0.2),
    RMSprop(0.01),
    RMSprop(0.01, momentum=0.5, weight_decay=0.1),
    Adam(0.01),
    Adam(0.01, weight_decay=0.1, betas=(0.5, 0.9)),
    Adam(0.01, corrected=True),
    AdamW(0.01),
    AdamW(0.01, weight_decay=0.5, corrected=True),
    Ftrl(0.1),
    Ftrl(0.1, l1=0.01, l2=0.02, l2_shrinkage=0.03, beta=0.5),
]
names = [f"{i}-{type(one).__name__}" for i, one in enumerate(OPTIMIZERS)]
every_optimizer = pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=names)
DTYPES = [np.float16, ml_dtypes.bfloat16, np.float32, np.float64]


def mean_square(rows):
    """As the kernels add: in 64 bytes of lanes, then the halves of these."""
    lanes = 64 // rows.dtype.itemsize
    padded = np.zeros((len(rows), -(-rows.shape[1] // lanes) * lanes), rows.dtype)
    padded[:, : rows.shape[1]] = rows * rows
    parts = np.zeros((len(rows), lanes), rows.dtype)
    for begin in range(0, padded.shape[1], lanes):
        parts = parts + padded[:, begin : begin + lanes]
    while parts.shape[1] > 1:
        half = parts.shape[1] // 2
        parts = parts[:, :half] + parts[:, half:]
    return parts / rows.dtype.type(rows.shape[1])


class Plain:
    """The optimizers in NumPy, operation by operation as in the kernels."""

    def __init__(self, rows, optimizer):
        self.wide = np.float64 if rows.dtype == np.float64 else np.float32
        self.rows, self.optimizer, self.step = rows.copy(), optimizer, 0
        self.state = {
            slot.name: np.full(
                rows.shape[:1] if slot.per_row else rows.shape,
                slot.initial,
                np.int64 if slot.counts else self.wide,
            )
            for slot in optimizer.slots()
        }

    def update(self, ids, gradients, rate=None):
        self.step += 1
        sums = {}
        for id, gradient in zip(ids, gradients.astype(self.wide), strict=True):
            sums[id] = sums[id] + gradient if id in sums else gradient
        touched = np.array(sorted(sums), dtype=np.int64)
        if not len(touched):
            return
        g = np.stack([sums[id] for id in touched])
        o = (
            self.optimizer
            if rate is None
            else dataclasses.replace(self.optimizer, learning_rate=rate)
        )
        state = {name: values[touched] for name, values in self.state.items()}
        row = self.rows[touched].astype(self.wide)
        with np.errstate(all="ignore"):
            row = self.change(o, row, g, state)
        self.rows[touched] = row.astype(self.rows.dtype)
        for name, values in state.items():
            self.state[name][touched] = values

    def change(self, o, row, g, state):
        f = self.wide
        rate = f(o.learning_rate)
        decay = getattr(o, "weight_decay", 0)
        if decay and not isinstance(o, AdamW):
            g = g + row * f(decay)
        match o:
            case SGD():
                if o.momentum:
                    b = state["sgd.momentum_buffer"]
                    b[:] = b * f(o.momentum) + g
                    g = g + b * f(o.momentum) if o.nesterov else b
                return row - g * rate
            case Adagrad():
                rate = f(o.learning_rate / (1 + (self.step - 1) * o.learning_rate_decay))
                s = state["adagrad.sum"]
                s += g * g
                return row - g * rate / (np.sqrt(s) + f(o.eps))
            case RowwiseAdagrad():
                s = state["rowwise_adagrad.sum"]
                s += mean_square(g)[:, 0]
                return row - g * (rate / (np.sqrt(s) + f(o.eps)))[:, None]
            case RMSprop():
                s = state["rmsprop.square_avg"]
                s[:] = s * f(o.alpha) + g * g * f(1 - o.alpha)
                d = g / (np.sqrt(s) + f(o.eps))
                if o.momentum:
                    b = state["rmsprop.momentum_buffer"]
                    b[:] = d + b * f(o.momentum)
                    d = b
                return row - d * rate
            case Ftrl():
                n, z = state["ftrl.accumulator"], state["ftrl.linear"]
                inverse = f(1 / o.learning_rate)
                m = n + g * g
                sigma = (np.sqrt(m) - np.sqrt(n)) * inverse
                z[:] = z + ((g + row * f(2 * o.l2_shrinkage)) - sigma * row)
                n[:] = m
                l2 = o.l2 + o.beta / (2 * o.learning_rate)
                return (np.clip(z, -f(o.l1), f(o.l1)) - z) / (np.sqrt(m) * inverse + f(2 * l2))
        m, v = state["adam.exp_avg"], state["adam.exp_avg_sq"]
        b1, b2 = o.betas
        shrink = f(1 - o.learning_rate * decay if isinstance(o, AdamW) else 1)
        if o.corrected:
            for k, last in enumerate(state["adam.step"]):
                left1, left2 = f(b1 ** int(last)), f(b2 ** int(last))
                for _ in range(last + 1, self.step):
                    if last:
                        left1, left2 = left1 * f(b1), left2 * f(b2)
                        m[k], v[k] = m[k] * f(b1), v[k] * f(b2)
                        move = m[k] * (rate / (f(1) - left1))
                        root = np.sqrt(v[k]) / np.sqrt(f(1) - left2) + f(o.eps)
                        row[k] = row[k] * shrink - move / root
                if not last:
                    row[k] = row[k] * f(
                        float(
                            shrink
                            if f is np.float64
                            else (1 - o.learning_rate * decay if isinstance(o, AdamW) else 1)
                        )
                        ** (self.step - 1)
                    )
            state["adam.step"][:] = self.step
        m[:] = m + (g - m) * f(1 - b1)
        v[:] = v * f(b2) + g * g * f(1 - b2)
        c1, c2 = 1 - b1**self.step, 1 - b2**self.step
        sparse = isinstance(o, Adam) and not o.corrected
        size = f(o.learning_rate / c1 * (np.sqrt(c2) if sparse else 1))
        scale = f(1 if sparse else 1 / np.sqrt(c2))
        return row * shrink - m * size / (np.sqrt(v) * scale + f(o.eps))


def whole(arrays, partition):
    """The rows of shards, in the order of ids."""
    return Table.from_shards(list(arrays), partition).lookup(np.arange(partition.num_rows))


def assert_same(found, expected):
    assert found.dtype == expected.dtype
    assert found.shape == expected.shape
    assert found.tobytes() == expected.tobytes()
