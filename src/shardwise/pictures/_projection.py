"""Rows in the plane: principal components, or UMAP where it is installed."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from shardwise._errors import MissingLibraryError, OptionError, is_one_of

Points: TypeAlias = NDArray[np.float64]

Reader: TypeAlias = Callable[[int, int], NDArray[Any]]  # rows from one number to another

METHODS = ("pca", "umap")

_VALUES = 1 << 20  # of rows at once
_UMAP_FEWEST = 4  # rows; its layout of fewer means nothing, or fails
_UMAP_NEIGHBOURS = 15  # its own default


def project(rows: NDArray[Any], method: str = "pca") -> Points:
    """Return a place in the plane for each row.

    Args:
        rows: real numbers of shape (rows, ...).
        method: "pca", the first two principal components (Pearson, 1901): the rows, less their
            mean, times the first two right singular vectors. The largest entry of each of these
            counts as positive, so that the picture is never a mirror image of itself. Or "umap"
            (McInnes, Healy and Melville, 2018), of cosine distances and with a fixed seed.

    Returns:
        float64 of shape (rows, 2). Rows with a NaN or an infinity have no place: NaN. A direction
        in which the rows do not differ is 0.

    Raises:
        OptionError: there is no such method, or it is "umap" and there are fewer than 4 rows.
        MissingLibraryError: umap-learn is not installed.
    """
    return project_blocks(lambda begin, end: rows[begin:end], rows.shape, method)


def project_blocks(read: Reader, shape: tuple[int, ...], method: str = "pca") -> Points:
    """Return a place in the plane for each row; see `project`.

    Args:
        read: gives the rows from one number to another. For "pca" they are read three times, in
            blocks; "umap" needs them all at once.
        shape: that of the rows.
        method: as for `project`.
    """
    check_method(method)
    count, width = shape[0], int(np.prod(shape[1:], dtype=np.int64))
    step = max(1, _VALUES // max(1, width))

    def blocks() -> Iterator[tuple[slice, NDArray[np.float64], NDArray[np.bool_]]]:
        for begin in range(0, count, step):
            end = min(begin + step, count)
            wide = read(begin, end).reshape(end - begin, width).astype(np.float64)
            finite: NDArray[np.bool_] = np.logical_and.reduce(np.isfinite(wide), axis=1)
            yield slice(begin, end), wide, finite

    result = np.full((count, 2), np.nan)
    if method == "pca":
        mean, axes, power = _principal_axes(
            (lambda: (wide[finite] for _, wide, finite in blocks())), width
        )
        for place, wide, finite in blocks():
            found = (np.ldexp(wide[finite], -power) - mean) @ axes.T
            with np.errstate(over="ignore"):
                found = np.ldexp(found, power)
            limits = np.finfo(np.float64)
            result[place][finite] = np.clip(found, limits.min, limits.max)
        return result
    parts = [(wide.astype(np.float32), finite) for _, wide, finite in _scaled(blocks())]
    finite = np.concatenate([np.empty(0, bool), *(finite for _, finite in parts)])
    if finite.any():
        result[finite] = _umap(np.concatenate([wide[some] for wide, some in parts]))
    return result


def check_method(method: str) -> None:
    """See to it that there is such a method, and its library: before long work.

    Raises:
        OptionError: there is no such method.
        MissingLibraryError: umap-learn is not installed.
    """
    if not is_one_of(method, METHODS):
        raise OptionError(f"expected the method as one of {METHODS}, got {method!r:.40}")
    if method == "umap":
        _import_umap()


def _principal_axes(
    blocks: Callable[[], Iterator[NDArray[np.float64]]], width: int
) -> tuple[NDArray[np.float64], NDArray[np.float64], int]:
    """The mean and the first two axes, float64[2, width], of finite rows over 2 ** power."""
    # Scaled by a power of two, which is exact, so that neither sums nor squares overflow or vanish.
    power = int(
        np.frexp(max((float(np.abs(r).max(initial=0.0)) for r in blocks()), default=0.0))[1]
    )
    # The triangle of the rows with a column of ones before them, block after block: its first row
    # has their mean, and the rest is the triangle of the rows less their mean.
    triangle = np.empty((0, width + 1))
    count = 0
    for rows in blocks():
        if len(rows):
            count += len(rows)
            beside = np.hstack([np.ones((len(rows), 1)), np.ldexp(rows, -power)])
            both: Any = np.vstack([triangle, beside])
            triangle = np.asarray(np.linalg.qr(both, mode="r"))
    axes = np.zeros((2, width))
    if not count:
        return np.zeros(width), axes, power
    mean = triangle[0, 1:] / triangle[0, 0]
    _, sizes, found = np.linalg.svd(triangle[1:, 1:], full_matrices=False)
    rounding = np.linalg.norm(triangle) * max(count, width) * np.finfo(np.float64).eps
    for k in range(min(2, len(sizes))):
        if sizes[k] > rounding:
            axes[k] = found[k] * np.sign(found[k, np.argmax(np.abs(found[k]))])
    return mean, axes, power


def _scaled(
    blocks: Iterator[tuple[slice, NDArray[np.float64], NDArray[np.bool_]]],
) -> Iterator[tuple[slice, NDArray[np.float64], NDArray[np.bool_]]]:
    """Rows over their largest value: UMAP computes in float32, and a cosine has no length."""
    for place, wide, finite in blocks:
        wide[~finite] = 0.0
        peaks = np.abs(wide).max(axis=1, keepdims=True, initial=0.0)
        yield place, wide / np.where(peaks > 0, peaks, 1.0), finite


def _umap(rows: NDArray[np.float32]) -> Points:
    if len(rows) < _UMAP_FEWEST:
        raise OptionError(
            f"expected at least {_UMAP_FEWEST} finite rows for umap, got {len(rows)}; take pca"
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that a seed means one thread, and the like
        model = _import_umap()(
            n_neighbors=min(_UMAP_NEIGHBOURS, len(rows) - 1),
            metric="cosine",
            random_state=0,
            init="random" if len(rows) < 2 * _UMAP_NEIGHBOURS else "spectral",
        )
        found = np.asarray(model.fit_transform(rows), np.float64)
    return np.where(np.isfinite(found).all(axis=1, keepdims=True), found, np.nan)


def _import_umap() -> Callable[..., Any]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from umap import UMAP
    except ImportError:
        raise MissingLibraryError(
            "expected the library umap-learn for the method umap, got none; install it: "
            'pip install "shardwise[umap]", or take pca'
        ) from None
    found: Callable[..., Any] = UMAP
    return found
