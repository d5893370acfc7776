"""How gradients change rows: frozen values for `Table.update` and `Table.update_pool`.

Each is lazy: it changes the rows of the ids of a call, and what it keeps of these rows, and no
others. Where every row is among the ids of every step, the results are those of the dense optimizer
of the same name in PyTorch (https://docs.pytorch.org/docs/stable/optim.html), with the same default
constants; `Ftrl` is TensorFlow's, `RowwiseAdagrad` is FBGEMM's.

In the formulas, g is the gradient of a row: the sum of the gradients of all places where its id
stands, scaled down to the norm `clip_norm` if it is larger, plus `weight_decay` times the row.
"""

from __future__ import annotations

import math
from dataclasses import KW_ONLY, dataclass
from itertools import islice
from typing import Any, ClassVar

import numpy as np

from shardwise import _native
from shardwise._errors import OptionError

__all__ = [
    "SGD",
    "Adagrad",
    "Adam",
    "AdamW",
    "Ftrl",
    "Optimizer",
    "RMSprop",
    "RowwiseAdagrad",
    "Slot",
]


@dataclass(frozen=True)
class Slot:
    """What an optimizer keeps of each row, by a stable name.

    Attributes:
        name: such as "adam.exp_avg"; a part before the point says whose it is.
        per_row: one number for a row, not one for each of its elements.
        initial: the number that it begins with.
        counts: the numbers are steps, as int64; else they are float64 for a table of float64, and
            float32 for all others.

    Example:
        >>> from shardwise import optimizers
        >>> optimizers.RowwiseAdagrad().slots()
        (Slot(name='rowwise_adagrad.sum', per_row=True, initial=0.0, counts=False),)
    """

    name: str
    per_row: bool = False
    initial: float = 0.0
    counts: bool = False


class Optimizer:
    """What all optimizers have; make one of the classes below.

    A scheduler gives a learning rate for each step: `table.update(..., learning_rate=rate)`, or
    `dataclasses.replace(optimizer, learning_rate=rate)`.

    Example:
        >>> import dataclasses
        >>> from shardwise import optimizers
        >>> optimizer = optimizers.SGD(0.1)
        >>> isinstance(optimizer, optimizers.Optimizer), optimizer.learning_rate, optimizer.slots()
        (True, 0.1, ())
        >>> dataclasses.replace(optimizer, learning_rate=0.05).learning_rate
        0.05
    """

    learning_rate: float
    clip_norm: float | None
    family: ClassVar[str]  # of those that can go on with each other's state

    def slots(self) -> tuple[Slot, ...]:
        """Return what it keeps of each row."""
        return ()

    def _numbers(self, step: int) -> dict[str, Any]:
        """The numbers of `_native.Rule` for the step, counted from 1."""
        raise NotImplementedError

    def _rule(self, step: int) -> _native.Rule:
        limit = math.inf if self.clip_norm is None else float(self.clip_norm)
        known = {"learning_rate": float(self.learning_rate), "clip_norm": limit, "step": step}
        return _native.Rule(kind=self.family, **(known | self._numbers(step)))

    def _check(self, **bounds: tuple[float, float]) -> None:
        """Refuse numbers outside [low, high), or of no number at all."""
        bounds = {"learning_rate": (0.0, math.inf)} | bounds
        if self.clip_norm is not None:
            bounds["clip_norm"] = (0.0, math.inf)
        for name, (low, high) in bounds.items():
            value = getattr(self, name)
            number = _real(value)
            if not low <= number < high:
                raise OptionError(
                    f"expected {name} of {type(self).__name__} from {low:g} to below {high:g}, "
                    f"got {value!r:.40}"
                )


@dataclass(frozen=True)
class SGD(Optimizer):
    """Gradient descent: `torch.optim.SGD`, without dampening.

    With momentum, b = momentum * b + g, and g is replaced by b, or with `nesterov` by
    g + momentum * b. Then row -= learning_rate * g.
    https://docs.pytorch.org/docs/stable/generated/torch.optim.SGD.html

    State: "sgd.momentum_buffer", if there is momentum.

    Example:
        >>> import numpy as np
        >>> from shardwise import Table, optimizers
        >>> table = Table.from_array(np.zeros((3, 2)), copy=True)
        >>> optimizer = optimizers.SGD(0.5, momentum=0.9)
        >>> table.update([1], [[1.0, 2.0]], optimizer)
        >>> table[1], [slot.name for slot in optimizer.slots()]
        (array([-0.5, -1. ]), ['sgd.momentum_buffer'])
    """

    learning_rate: float = 0.001
    _: KW_ONLY
    momentum: float = 0.0
    nesterov: bool = False
    weight_decay: float = 0.0
    clip_norm: float | None = None

    family: ClassVar[str] = "sgd"

    def __post_init__(self) -> None:
        self._check(momentum=(0.0, math.inf), weight_decay=(0.0, math.inf))
        if self.nesterov and not self.momentum:
            raise OptionError("expected a momentum above 0 with nesterov=True, got 0")

    def slots(self) -> tuple[Slot, ...]:
        """Return what it keeps of each row."""
        return (Slot("sgd.momentum_buffer"),) if self.momentum else ()

    def _numbers(self, step: int) -> dict[str, Any]:
        return {
            "momentum": float(self.momentum),
            "nesterov": bool(self.nesterov),
            "weight_decay": float(self.weight_decay),
        }


@dataclass(frozen=True)
class Adagrad(Optimizer):
    """Adagrad (Duchi, Hazan and Singer 2011): `torch.optim.Adagrad`, element by element.

    sum += g * g; row -= rate * g / (sqrt(sum) + eps), where the rate is
    learning_rate / (1 + (step - 1) * learning_rate_decay).
    https://docs.pytorch.org/docs/stable/generated/torch.optim.Adagrad.html

    State: "adagrad.sum".

    Example:
        >>> import numpy as np
        >>> from shardwise import Table, optimizers
        >>> table = Table.from_array(np.zeros((3, 2)), copy=True)
        >>> optimizer = optimizers.Adagrad(0.5)
        >>> table.update([1], [[1.0, 2.0]], optimizer)
        >>> table[1].round(6), [slot.name for slot in optimizer.slots()]
        (array([-0.5, -0.5]), ['adagrad.sum'])
    """

    learning_rate: float = 0.01
    _: KW_ONLY
    learning_rate_decay: float = 0.0
    weight_decay: float = 0.0
    initial_accumulator_value: float = 0.0
    eps: float = 1e-10
    clip_norm: float | None = None

    family: ClassVar[str] = "adagrad"

    def __post_init__(self) -> None:
        above = (0.0, math.inf)
        self._check(
            learning_rate_decay=above,
            weight_decay=above,
            initial_accumulator_value=above,
            eps=above,
        )

    def slots(self) -> tuple[Slot, ...]:
        """Return what it keeps of each row."""
        return (Slot("adagrad.sum", initial=float(self.initial_accumulator_value)),)

    def _numbers(self, step: int) -> dict[str, Any]:
        return {
            "learning_rate": self.learning_rate / (1 + (step - 1) * self.learning_rate_decay),
            "weight_decay": float(self.weight_decay),
            "eps": float(self.eps),
        }


@dataclass(frozen=True)
class RowwiseAdagrad(Optimizer):
    """Adagrad with one sum for a row: EXACT_ROWWISE_ADAGRAD of FBGEMM.

    sum += mean(g * g) over the row; row -= learning_rate * g / (sqrt(sum) + eps).
    https://docs.pytorch.org/FBGEMM/fbgemm_gpu/fbgemm_gpu-python-api/table_batched_embedding_ops.html

    State: "rowwise_adagrad.sum", of shape (rows,).

    Example:
        >>> import numpy as np
        >>> from shardwise import Table, optimizers
        >>> table = Table.from_array(np.zeros((3, 2)), copy=True)
        >>> optimizer = optimizers.RowwiseAdagrad(0.5)
        >>> table.update([1], [[1.0, 7.0]], optimizer)
        >>> table[1].round(6), [slot.name for slot in optimizer.slots()]
        (array([-0.1, -0.7]), ['rowwise_adagrad.sum'])
    """

    learning_rate: float = 0.01
    _: KW_ONLY
    weight_decay: float = 0.0
    initial_accumulator_value: float = 0.0
    eps: float = 1e-8
    clip_norm: float | None = None

    family: ClassVar[str] = "rowwise_adagrad"

    def __post_init__(self) -> None:
        above = (0.0, math.inf)
        self._check(weight_decay=above, initial_accumulator_value=above, eps=above)

    def slots(self) -> tuple[Slot, ...]:
        """Return what it keeps of each row."""
        initial = float(self.initial_accumulator_value)
        return (Slot("rowwise_adagrad.sum", per_row=True, initial=initial),)

    def _numbers(self, step: int) -> dict[str, Any]:
        return {"weight_decay": float(self.weight_decay), "eps": float(self.eps)}


@dataclass(frozen=True)
class RMSprop(Optimizer):
    """RMSprop (Hinton 2012): `torch.optim.RMSprop`, not centered.

    s = alpha * s + (1 - alpha) * g * g; d = g / (sqrt(s) + eps); with momentum,
    b = momentum * b + d, and d is replaced by b; row -= learning_rate * d.
    https://docs.pytorch.org/docs/stable/generated/torch.optim.RMSprop.html

    State: "rmsprop.square_avg", and if there is momentum "rmsprop.momentum_buffer".

    Example:
        >>> import numpy as np
        >>> from shardwise import Table, optimizers
        >>> table = Table.from_array(np.zeros((3, 2)), copy=True)
        >>> optimizer = optimizers.RMSprop(0.5)
        >>> table.update([1], [[1.0, 2.0]], optimizer)
        >>> table[1].round(4), [slot.name for slot in optimizer.slots()]
        (array([-5., -5.]), ['rmsprop.square_avg'])
    """

    learning_rate: float = 0.01
    _: KW_ONLY
    alpha: float = 0.99
    eps: float = 1e-8
    weight_decay: float = 0.0
    momentum: float = 0.0
    clip_norm: float | None = None

    family: ClassVar[str] = "rmsprop"

    def __post_init__(self) -> None:
        above = (0.0, math.inf)
        self._check(alpha=(0.0, 1.0), eps=above, weight_decay=above, momentum=above)

    def slots(self) -> tuple[Slot, ...]:
        """Return what it keeps of each row."""
        squares = Slot("rmsprop.square_avg")
        return (squares, Slot("rmsprop.momentum_buffer")) if self.momentum else (squares,)

    def _numbers(self, step: int) -> dict[str, Any]:
        return {
            "beta2": float(self.alpha),
            "eps": float(self.eps),
            "weight_decay": float(self.weight_decay),
            "momentum": float(self.momentum),
        }


@dataclass(frozen=True)
class Adam(Optimizer):
    """Adam (Kingma and Ba 2015): lazily `torch.optim.SparseAdam`, corrected `torch.optim.Adam`.

    m = beta1 * m + (1 - beta1) * g; v = beta2 * v + (1 - beta2) * g * g, and with
    c1 = 1 - beta1**step, c2 = 1 - beta2**step, where `step` counts the updates of the table:

    - lazily, row -= learning_rate * sqrt(c2) / c1 * m / (sqrt(v) + eps);
    - with `corrected=True`, row -= learning_rate / c1 * m / (sqrt(v / c2) + eps), and a row that
      sat out some steps is first moved as if its gradient had been zero in them (at the learning
      rate of now): after a step in which a row takes part, it is what dense Adam would make of it
      from the same gradients. Steps that lie so far back that nothing of m is left are passed over.

    https://docs.pytorch.org/docs/stable/generated/torch.optim.SparseAdam.html
    https://docs.pytorch.org/docs/stable/generated/torch.optim.Adam.html

    State: "adam.exp_avg", "adam.exp_avg_sq", and if corrected, "adam.step" of shape (rows,): the
    step in which each row took part last, 0 for never.

    Example:
        >>> import numpy as np
        >>> from shardwise import Table, optimizers
        >>> table = Table.from_array(np.zeros((3, 2)), copy=True)
        >>> optimizer = optimizers.Adam(0.5)
        >>> table.update([1], [[1.0, 2.0]], optimizer)
        >>> table[1].round(4), [slot.name for slot in optimizer.slots()]
        (array([-0.5, -0.5]), ['adam.exp_avg', 'adam.exp_avg_sq'])
    """

    learning_rate: float = 0.001
    _: KW_ONLY
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 0.0
    corrected: bool = False
    clip_norm: float | None = None

    family: ClassVar[str] = "adam"

    def __post_init__(self) -> None:
        self._check(eps=(0.0, math.inf), weight_decay=(0.0, math.inf))
        _check_betas(self)
        if self.corrected and self.weight_decay:
            raise OptionError(
                "expected a weight_decay of 0 with corrected=True, for a decay that is part of the "
                f"gradient has no end, got {self.weight_decay}; AdamW has one that is not"
            )

    def slots(self) -> tuple[Slot, ...]:
        """Return what it keeps of each row."""
        return _adam_slots(self.corrected)

    def _numbers(self, step: int) -> dict[str, Any]:
        return _adam_numbers(self) | {
            "weight_decay": float(self.weight_decay),
            "eps_last": not self.corrected,
        }


@dataclass(frozen=True)
class AdamW(Optimizer):
    """Adam with decoupled weight decay (Loshchilov and Hutter 2019): `torch.optim.AdamW`.

    row *= 1 - learning_rate * weight_decay, then row -= learning_rate / c1 * m / (sqrt(v / c2) +
    eps) with m, v, c1 and c2 of `Adam`. Lazily, only rows of the ids decay; with `corrected=True` a
    row that sat out some steps catches them up, its decay included (see `Adam`).
    https://docs.pytorch.org/docs/stable/generated/torch.optim.AdamW.html

    State: that of `Adam`, under the same names: one may go on with the other's.

    Example:
        >>> import numpy as np
        >>> from shardwise import Table, optimizers
        >>> table = Table.from_array(np.ones((3, 2)), copy=True)
        >>> optimizer = optimizers.AdamW(0.5, weight_decay=0.1)
        >>> table.update([1], [[1.0, 2.0]], optimizer)
        >>> table[1].round(4), [slot.name for slot in optimizer.slots()]
        (array([0.45, 0.45]), ['adam.exp_avg', 'adam.exp_avg_sq'])
    """

    learning_rate: float = 0.001
    _: KW_ONLY
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 0.01
    corrected: bool = False
    clip_norm: float | None = None

    family: ClassVar[str] = "adam"

    def __post_init__(self) -> None:
        self._check(eps=(0.0, math.inf), weight_decay=(0.0, math.inf))
        _check_betas(self)

    def slots(self) -> tuple[Slot, ...]:
        """Return what it keeps of each row."""
        return _adam_slots(self.corrected)

    def _numbers(self, step: int) -> dict[str, Any]:
        return _adam_numbers(self) | {"shrink": 1 - self.learning_rate * self.weight_decay}


@dataclass(frozen=True)
class Ftrl(Optimizer):
    """FTRL-Proximal (McMahan et al. 2013): Keras's Ftrl with a learning rate power of -0.5.

    With n the sum of squares and z the linear term: m = n + g * g;
    z += g + 2 * l2_shrinkage * row - (sqrt(m) - sqrt(n)) / learning_rate * row; n = m;
    row = (clip(z, -l1, l1) - z) / ((beta + sqrt(n)) / learning_rate + 2 * l2).
    https://www.tensorflow.org/api_docs/python/tf/keras/optimizers/Ftrl

    State: "ftrl.accumulator", "ftrl.linear".

    Example:
        >>> import numpy as np
        >>> from shardwise import Table, optimizers
        >>> table = Table.from_array(np.zeros((3, 2)), copy=True)
        >>> optimizer = optimizers.Ftrl(0.5)
        >>> table.update([1], [[1.0, 2.0]], optimizer)
        >>> table[1].round(4), [slot.name for slot in optimizer.slots()]
        (array([-0.4767, -0.4939]), ['ftrl.accumulator', 'ftrl.linear'])
    """

    learning_rate: float = 0.001
    _: KW_ONLY
    initial_accumulator_value: float = 0.1
    l1: float = 0.0
    l2: float = 0.0
    l2_shrinkage: float = 0.0
    beta: float = 0.0
    clip_norm: float | None = None

    family: ClassVar[str] = "ftrl"

    def __post_init__(self) -> None:
        above, least = (0.0, math.inf), math.ulp(0.0)
        self._check(
            learning_rate=(least, math.inf),
            initial_accumulator_value=(least, math.inf),
            l1=above,
            l2=above,
            l2_shrinkage=above,
            beta=above,
        )

    def slots(self) -> tuple[Slot, ...]:
        """Return what it keeps of each row."""
        initial = float(self.initial_accumulator_value)
        return Slot("ftrl.accumulator", initial=initial), Slot("ftrl.linear")

    def _numbers(self, step: int) -> dict[str, Any]:
        return {
            "l1": float(self.l1),
            "l2": self.l2 + self.beta / (2 * self.learning_rate),
            "l2_shrinkage": float(self.l2_shrinkage),
        }


def _real(value: Any) -> float:
    """A real number as a float; NaN for what is none: in a str or an array, complex, a date."""
    no_number = isinstance(value, np.generic) and value.dtype.kind in "bcmM"
    if no_number or isinstance(value, (str, bytes, bool, np.ndarray)):
        return math.nan
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        return math.nan


def _check_betas(adam: Adam | AdamW) -> None:
    betas: Any = adam.betas
    try:
        # Three say that there are not two: an array of broadcast numbers may have any length.
        found = tuple(islice(betas, 3))
    except TypeError:
        found = ()
    if len(found) != 2 or not all(0 <= _real(beta) < 1 for beta in found):
        raise OptionError(f"expected two betas from 0 to below 1, got {betas!r:.60}")
    if adam.corrected and not adam.eps > 0:
        raise OptionError(f"expected an eps above 0 with corrected=True, got {adam.eps}")


def _adam_slots(corrected: bool) -> tuple[Slot, ...]:
    slots = Slot("adam.exp_avg"), Slot("adam.exp_avg_sq")
    return (*slots, Slot("adam.step", per_row=True, counts=True)) if corrected else slots


def _adam_numbers(adam: Adam | AdamW) -> dict[str, Any]:
    beta1, beta2 = adam.betas
    return {
        "beta1": float(beta1),
        "beta2": float(beta2),
        "eps": float(adam.eps),
        "corrected": bool(adam.corrected),
    }
