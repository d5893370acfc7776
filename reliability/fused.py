"""x * y + z rounded once, as the kernels add up weighted rows, by plain arithmetic."""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


def fused(x: Array, y: Array, z: Array) -> Array:
    """Return it for arrays of float32 or of float64, which are broadcast."""
    x, y, z = np.broadcast_arrays(x, y, z)
    with np.errstate(all="ignore"):
        plain = x * y + z  # as good where that is exact: zeros with their signs, infinities, NaN
        once = _odd(x, y, z) if x.dtype == np.float32 else _exact(x, y, z)
        return np.where(np.isfinite(plain) & (once != 0), once, plain).astype(x.dtype)


def _odd(x: Array, y: Array, z: Array) -> Array:
    """In float64 the product is exact, and a sum that is rounded to odd may be rounded again."""
    product, addend = x.astype(np.float64) * y, z.astype(np.float64)
    total = product + addend
    part = total - product
    rest = (product - (total - part)) + (addend - part)
    bits = total.view(np.int64)
    towards = np.where((rest > 0) == (total > 0), 1, -1)
    odd = bits + np.where((rest != 0) & (bits % 2 == 0), towards, 0)
    return odd.view(np.float64).astype(np.float32)


def _exact(x: Array, y: Array, z: Array) -> Array:
    """The product as two numbers (Dekker's), and `math.fsum`, which rounds once."""
    (a, b), (c, d) = _halves(x), _halves(y)
    high = x * y
    low = ((a * c - high) + a * d + b * c) + b * d
    threes = np.stack([high, low, z], axis=-1).reshape(-1, 3)
    sums = [math.fsum(three) if np.isfinite(three).all() else math.nan for three in threes]
    return np.array(sums).reshape(x.shape)


def _halves(x: Array) -> tuple[Array, Array]:
    scaled = x * 134217729.0  # 2^27 + 1
    high = scaled - (scaled - x)
    return high, x - high
