"""x * y + z rounded once, as the kernels add up weighted rows, by plain arithmetic."""

import math

import numpy as np


def fused(x, y, z):
    """Return it for arrays of one shape and dtype, float32 or float64, or numbers."""
    x, y, z = np.broadcast_arrays(x, y, z)
    with np.errstate(all="ignore"):
        plain = x * y + z  # as good where that is exact: zeros with their signs, infinities, NaN
        once = _odd(x, y, z) if x.dtype == np.float32 else _exact(x, y, z)
        return np.where(np.isfinite(plain) & (once != 0), once, plain).astype(x.dtype)


def _odd(x, y, z):
    """In float64 the product is exact, and a sum that is rounded to odd may be rounded again."""
    product, addend = x.astype(np.float64) * y, z.astype(np.float64)
    total = product + addend
    part = total - product
    rest = (product - (total - part)) + (addend - part)
    bits = total.view(np.int64)
    towards = np.where((rest > 0) == (total > 0), 1, -1)
    odd = bits + np.where((rest != 0) & (bits % 2 == 0), towards, 0)
    return odd.view(np.float64).astype(np.float32)


def _exact(x, y, z):
    """The product as two numbers (Dekker's), and `math.fsum`, which rounds once."""
    high, low = _product(x, y)
    numbers = zip(high.ravel(), low.ravel(), z.ravel(), strict=True)
    sums = [math.fsum(three) if np.isfinite(three).all() else math.nan for three in numbers]
    return np.array(sums).reshape(x.shape)


def _product(x, y):
    product = x * y
    (a, b), (c, d) = _halves(x), _halves(y)
    return product, ((a * c - product) + a * d + b * c) + b * d


def _halves(x):
    scaled = x * 134217729.0  # 2^27 + 1
    high = scaled - (scaled - x)
    return high, x - high
