"""First values of a new table's rows: each a function of (seed, row id, column) alone.

A table gets the same values for every number of shards, partition, number of threads and order of
filling. The random bits are Philox4x32-10's, keyed by the seed, with the id and the column as its
counter; the normal quantiles are algorithm AS 241's.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from shardwise import _native
from shardwise._errors import OptionError, is_one_of, require

__all__ = [
    "Initializer",
    "RowMaker",
    "glorot_normal",
    "glorot_uniform",
    "normal",
    "truncated_normal",
    "uniform",
    "zeros",
]

RowMaker: TypeAlias = Callable[[NDArray[np.int64]], NDArray[Any]]
"""Makes the rows of ids: an array of shape (len(ids), ...)."""


@dataclass(frozen=True)
class Initializer:
    """How the rows of a new table are filled; made by the functions of this module.

    Attributes:
        kind: the name of the function that made it.
        a, b: its two parameters.
        seed: chooses the values, from 0 to 2**64 - 1.

    Example:
        >>> from shardwise import initializers
        >>> initializers.normal(stddev=0.1, seed=7)
        Initializer(kind='normal', a=0.0, b=0.1, seed=7)
    """

    kind: str
    a: float = 0.0
    b: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        if not is_one_of(self.kind, _DEFAULTS):
            raise unknown_initializer(self.kind)
        try:
            seed = operator.index(self.seed)
            # Of an array of one number NumPy would make a number, with a warning if it is masked.
            if any(isinstance(one, np.ndarray) for one in (self.a, self.b)):
                raise TypeError
            parameters = float(self.a), float(self.b)
        except (TypeError, ValueError, OverflowError):
            seed, parameters = -1, (0.0, 0.0)
        if not 0 <= seed < 1 << 64 or not all(map(math.isfinite, parameters)):
            raise OptionError(
                "expected finite numbers and a seed from 0 to 2**64 - 1, "
                f"got {self.a!r:.40}, {self.b!r:.40} and seed {self.seed!r:.40}"
            )
        if self.kind in ("normal", "truncated_normal") and self.b < 0:
            raise OptionError(f"expected a standard deviation from 0, got {self.b}")
        if self.kind == "uniform" and not 0 <= float(self.b) - float(self.a) < math.inf:
            raise OptionError(
                f"expected low <= high, and a finite difference, got {self.a} and {self.b}"
            )

    @staticmethod
    def defaults(kind: str) -> tuple[float, float]:
        """Return the parameters that the function `kind` takes by default.

        Raises:
            OptionError: there is no such function.

        Example:
            >>> from shardwise.initializers import Initializer
            >>> Initializer.defaults("normal")
            (0.0, 0.05)
        """
        if not is_one_of(kind, _DEFAULTS):
            raise unknown_initializer(kind)
        return _DEFAULTS[kind]

    def maker(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> RowMaker | None:
        """Return what makes the rows of a table of this shape; None if all are zeros.

        They are `float32`, or `float64` for a table of that dtype.

        Example:
            >>> import numpy as np
            >>> from shardwise import initializers
            >>> make = initializers.uniform(seed=7).maker((1000, 4), np.dtype("float32"))
            >>> rows = make(np.array([3, 999]))
            >>> rows.shape, rows.dtype
            ((2, 4), dtype('float32'))
        """
        require(shape, tuple, "shape", OptionError)
        require(dtype, np.dtype, "dtype", OptionError)
        if self.kind == "zeros":
            return None
        columns = math.prod(shape[1:])
        name, a, b = self.kind, float(self.a), float(self.b)
        if self.kind.startswith("glorot"):
            # Glorot and Bengio 2010, equation 16; the matrix's sides are fan-in and fan-out.
            variance = 2.0 / max(1, shape[0] + columns)
            if self.kind == "glorot_uniform":
                name, a, b = "uniform", -math.sqrt(3 * variance), math.sqrt(3 * variance)
            else:
                name, a, b = "truncated_normal", 0.0, math.sqrt(variance) / _TRUNCATED_DEVIATION
        made = np.dtype(np.float64 if dtype == np.float64 else np.float32)

        def make(ids: NDArray[np.int64]) -> NDArray[Any]:
            rows = np.empty((len(ids), columns), made)
            _native.initialize(name, a, b, self.seed, ids, rows)
            return rows.reshape(len(ids), *shape[1:])

        return make


# The standard deviation of a standard normal distribution that is cut at -2 and 2.
_TRUNCATED_DEVIATION = 0.87962566103423978
_DEFAULTS = {
    "zeros": (0.0, 0.0),
    "uniform": (-0.05, 0.05),
    "normal": (0.0, 0.05),
    "truncated_normal": (0.0, 0.05),
    "glorot_uniform": (0.0, 0.0),
    "glorot_normal": (0.0, 0.0),
}


def zeros() -> Initializer:
    """Fill with zeros; on disk nothing is written: the files are sparse.

    Example:
        >>> import tempfile
        >>> from shardwise import Table, initializers
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     first = initializers.zeros()
        ...     with Table.create(f"{folder}/t", rows=10**9, dim=8, initializer=first) as table:
        ...         table[10**9 - 1].tolist()
        [0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0]
    """
    return Initializer("zeros")


def uniform(low: float = -0.05, high: float = 0.05, *, seed: int = 0) -> Initializer:
    """Fill uniformly from `low` up to `high`, by default as Keras's RandomUniform.

    Example:
        >>> import tempfile
        >>> from shardwise import Table, initializers
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     first = initializers.uniform(-1, 1, seed=7)
        ...     table = Table.create(f"{folder}/t", 1000, 8, shards=3, initializer=first)
        ...     table.close()
        ...     rows = table.lookup([0, 999])
        >>> rows.shape, bool((abs(rows) <= 1).all())
        ((2, 8), True)
    """
    return Initializer("uniform", low, high, seed)


def normal(mean: float = 0.0, stddev: float = 0.05, *, seed: int = 0) -> Initializer:
    """Fill from a normal distribution; torch.nn.Embedding has a `stddev` of 1.

    Example:
        >>> import tempfile
        >>> from shardwise import Table, initializers
        >>> first = initializers.normal(stddev=0.1, seed=7)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     with Table.create(f"{folder}/t", rows=10_000, dim=8, initializer=first) as table:
        ...         rows = table.lookup(range(10_000))
        >>> round(float(rows.std()), 2)
        0.1
    """
    return Initializer("normal", mean, stddev, seed)


def truncated_normal(mean: float = 0.0, stddev: float = 0.05, *, seed: int = 0) -> Initializer:
    """Fill from a normal distribution that is cut at two standard deviations from its mean.

    Example:
        >>> import tempfile
        >>> from shardwise import Table, initializers
        >>> first = initializers.truncated_normal(stddev=0.1, seed=7)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     with Table.create(f"{folder}/t", rows=10_000, dim=8, initializer=first) as table:
        ...         rows = table.lookup(range(10_000))
        >>> bool(abs(rows).max() <= 0.2)
        True
    """
    return Initializer("truncated_normal", mean, stddev, seed)


def glorot_uniform(*, seed: int = 0) -> Initializer:
    """Fill uniformly within +-sqrt(6 / (rows + columns)), as Keras's GlorotUniform.

    Example:
        >>> import tempfile
        >>> from shardwise import Table, initializers
        >>> first = initializers.glorot_uniform(seed=7)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     with Table.create(f"{folder}/t", rows=592, dim=8, initializer=first) as table:
        ...         rows = table.lookup(range(592))
        >>> bool(abs(rows).max() <= 0.1)  # sqrt(6 / 600)
        True
    """
    return Initializer("glorot_uniform", seed=seed)


def glorot_normal(*, seed: int = 0) -> Initializer:
    """Fill from a truncated normal of variance 2 / (rows + columns), as Keras's GlorotNormal.

    Example:
        >>> import tempfile
        >>> from shardwise import Table, initializers
        >>> first = initializers.glorot_normal(seed=7)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     with Table.create(f"{folder}/t", rows=192, dim=8, initializer=first) as table:
        ...         rows = table.lookup(range(192))
        >>> round(float(rows.std()), 1)  # sqrt(2 / 200)
        0.1
    """
    return Initializer("glorot_normal", seed=seed)


def as_initializer(
    initializer: str | Initializer | RowMaker, shape: tuple[int, ...], dtype: np.dtype[Any]
) -> RowMaker | None:
    """Return what makes the rows, or None for zeros.

    Raises:
        OptionError: there is no such initializer.
    """
    given: object = initializer
    for function in _FUNCTIONS:
        if given is function:  # it itself, not called
            initializer = function()
    if isinstance(initializer, str):
        initializer = Initializer(initializer, *Initializer.defaults(initializer))
    if isinstance(initializer, Initializer):
        return initializer.maker(shape, dtype)
    if not callable(initializer):
        raise unknown_initializer(initializer)
    return initializer


_FUNCTIONS = (zeros, uniform, normal, truncated_normal, glorot_uniform, glorot_normal)


def unknown_initializer(initializer: object) -> OptionError:
    """Return the error for what is no initializer."""
    return OptionError(
        f"expected an initializer ({', '.join(_DEFAULTS)}), one of shardwise.initializers, or a "
        f"function of ids, got {initializer!r:.80}"
    )
