"""Bags taken apart: the forms in which ids and weights come, recognised and checked."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Callable, Sequence
from itertools import chain
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from shardwise import _native
from shardwise._arrays import as_rows
from shardwise._errors import BagError, IdTypeError, TableError
from shardwise._ids import as_ids
from shardwise._norms import is_small_float

if TYPE_CHECKING:
    from numpy.typing import NDArray


class Form(NamedTuple):
    """Bags as they came, with arrays for what they were made of."""

    kind: str  # "array", "list", "sparse", "ragged" or "csr"
    values: NDArray[Any]  # ids or weights; of any rank for an array, else of rank 1
    lead: tuple[int, ...]
    splits: NDArray[np.int64]
    places: tuple[NDArray[Any], ...] = ()  # what else must be the same for ids and weights


def kind_of(bags: Any) -> str:
    """Return what bags, or their weights, came as."""
    if hasattr(bags, "row_splits") and hasattr(bags, "values"):
        return "ragged"
    if all(hasattr(bags, name) for name in ("indices", "values", "dense_shape")):
        return "sparse"
    if all(hasattr(bags, name) for name in ("format", "data", "shape")):
        return "scipy"
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(bags, torch.Tensor) and bags.layout != torch.strided:
        return "torch"
    return "list" if isinstance(bags, (list, tuple)) else "array"


def read_bags(bags: Any, leaf: Callable[[Any], NDArray[Any]]) -> Form:
    """Take bags apart; `leaf` reads the ids or the weights in them."""
    kind = kind_of(bags)
    if kind == "ragged":
        return _ragged("ragged", as_vector(bags.values, leaf), bags.row_splits)
    if kind == "sparse":
        return _sparse(bags.indices, as_vector(bags.values, leaf), bags.dense_shape)
    if kind == "scipy":
        return _scipy(bags, leaf)
    if kind == "torch":
        return _torch(bags, leaf)
    if kind == "list":
        return _list(bags, leaf)
    array = leaf(bags)
    if array.ndim < 2:
        raise BagError(
            f"expected offsets with values of shape {array.shape}, got none; pass offsets=[0] "
            "for one bag, or values of shape (bags, values of a bag)"
        )
    return _batch(array)


def _batch(array: NDArray[Any]) -> Form:
    splits = np.arange(_check_bags(array.shape[:-1]) + 1, dtype=np.int64) * array.shape[-1]
    return Form("array", array, array.shape[:-1], splits)


def _list(bags: Sequence[Any], leaf: Callable[[Any], NDArray[Any]]) -> Form:
    try:
        array = leaf(bags)
    except (IdTypeError, BagError):
        if not all(isinstance(bag, (list, tuple, range, np.ndarray)) for bag in bags):
            raise
    else:
        if array.ndim > 1:
            return _batch(array)
        if array.size:
            raise BagError(
                f"expected a list of bags, got one of {len(bags)} numbers; pass offsets=[0] for "
                "one bag"
            )
    splits = np.zeros(len(bags) + 1, np.int64)
    np.cumsum([len(bag) for bag in bags], out=splits[1:])
    if any(isinstance(bag, np.ndarray) for bag in bags):
        pieces = [leaf(bag) for bag in bags]
        # Without empty ones, whose dtype would count: int64 and uint64 make floats.
        whole: Any = np.concatenate([piece for piece in pieces if piece.size] or pieces)
    else:
        whole = list(chain.from_iterable(bags))
    return Form("list", as_vector(whole, leaf), (len(bags),), splits)


def as_vector(values: Any, leaf: Callable[[Any], NDArray[Any]]) -> NDArray[Any]:
    if hasattr(values, "row_splits"):
        raise BagError("expected ragged bags of rank 2, got bags within bags")
    array = leaf(values)
    if array.ndim != 1:
        raise BagError(f"expected the values of bags of rank 1, got the shape {array.shape}")
    return array


def _ragged(kind: str, values: NDArray[Any], splits: Any, *places: Any) -> Form:
    name = "row_splits" if kind == "ragged" else "indptr"
    checked = as_splits(splits, len(values), name, closed=True)
    if kind == "ragged" and checked[-1] != len(values):
        raise BagError(
            f"expected {name} that end with the number of values, {len(values)}, got {checked[-1]}"
        )
    end = int(checked[-1])
    columns = tuple(as_integers(place, "column numbers")[:end] for place in places)
    return Form(kind, values, (len(checked) - 1,), checked, columns)


def _sparse(indices: Any, values: NDArray[Any], dense_shape: Any) -> Form:
    sizes = as_integers(dense_shape, "dense_shape")
    if sizes.ndim != 1 or not 2 <= len(sizes) <= 32 or (sizes < 0).any():
        raise BagError(f"expected dense_shape as 2 to 32 sizes from 0, got {sizes.tolist()!r:.80}")
    shape = tuple(sizes.tolist())
    places = as_integers(indices, "indices")
    if places.size == 0 and len(values) == 0:
        places = places.reshape(0, len(shape))  # an empty list has one axis
    if places.shape != (len(values), len(shape)):
        raise BagError(
            f"expected indices of shape {(len(values), len(shape))}, for there are {len(values)} "
            f"values of rank {len(shape)}; got {places.shape}"
        )
    # One contiguous copy for each axis, which no one changes after it was checked.
    columns = places.T.copy()
    for axis, (column, size) in enumerate(zip(columns, shape, strict=True)):
        last = min(size, 1 << 63) - 1
        if len(column) and (int(column.min()) < 0 or int(column.max()) > last):
            at = int(np.argmax((column < 0) | (column > last)))
            raise BagError(
                f"expected indices within dense_shape {shape}, got indices[{at}] = "
                f"{tuple(columns[:, at].tolist())}, which lies outside on axis {axis}"
            )
    columns = columns.astype(np.int64, copy=False)
    ascends: NDArray[np.bool_] | bool = True
    for column in columns[::-1]:
        above = column[1:] > column[:-1]
        ascends = above | ((column[1:] == column[:-1]) & ascends)
    if not np.all(ascends):
        at = int(np.argmin(ascends)) + 1
        raise BagError(
            f"expected indices in row-major order, got indices[{at}] = "
            f"{tuple(columns[:, at].tolist())} after {tuple(columns[:, at - 1].tolist())}; sort "
            "them, and the values with them"
        )
    splits = np.zeros(_check_bags(shape[:-1]) + 1, np.int64)
    bag = columns[0]
    for column, size in zip(columns[1:-1], shape[1:-1], strict=True):
        bag = bag * size + column
    np.cumsum(np.bincount(bag, minlength=len(splits) - 1), out=splits[1:])
    return Form("sparse", values, shape[:-1], splits, (places, sizes))


def _scipy(array: Any, leaf: Callable[[Any], NDArray[Any]]) -> Form:
    if len(array.shape) != 2 or array.format not in ("csr", "coo"):
        raise BagError(
            "expected a SciPy array of rank 2 in the format 'csr' or 'coo', got rank "
            f"{len(array.shape)} and {array.format!r:.40}; convert it with .tocsr()"
        )
    values = as_vector(array.data, leaf)
    if array.format == "coo":
        return _sparse(np.stack([array.row, array.col], axis=1), values, array.shape)
    return _ragged("csr", values, array.indptr, array.indices)


def _torch(tensor: Any, leaf: Callable[[Any], NDArray[Any]]) -> Form:
    torch = sys.modules["torch"]
    if tensor.device.type != "cpu":
        raise BagError(f"expected a tensor on the CPU, got one on {tensor.device}; copy it first")
    if tensor.layout == torch.sparse_coo:
        # As they are: to coalesce would add up ids of one place.
        places, values = tensor._indices(), tensor._values()
        return _sparse(places.t(), as_vector(values, leaf), tuple(tensor.shape))
    if tensor.layout == torch.sparse_csr and tensor.ndim == 2:
        values = as_vector(tensor.values(), leaf)
        return _ragged("csr", values, tensor.crow_indices(), tensor.col_indices())
    raise BagError(
        "expected a tensor of the layout sparse_coo, or sparse_csr and rank 2, got "
        f"{tensor.layout} and rank {tensor.ndim}"
    )


def as_splits(offsets: Any, count: int, name: str, *, closed: bool) -> NDArray[np.int64]:
    """Return checked int64[bags + 1], a copy; if not `closed`, the end is `count`."""
    array = as_integers(offsets, name)
    if array.ndim != 1:
        raise BagError(f"expected {name} of rank 1, got the shape {array.shape}")
    if len(array) == 0 and (closed or count):
        raise BagError(f"expected {name} that begin with 0, got none; there are {count} ids")
    # What a cast makes of a uint64 beyond int64 is negative.
    splits = _native.splits(array.astype(np.int64, copy=False), count, bool(closed))
    if splits is not None:
        return splits
    # Something is wrong: what is, compared as they came.
    outside = array > count
    if array.dtype.kind == "i":
        outside |= array < 0
    if outside.any():
        k = int(outside.argmax())
        raise BagError(
            f"expected {name} from 0 to {count}, for there are {count} ids; "
            f"got {name}[{k}] = {array[k]}"
        )
    if array[0] != 0:
        raise BagError(f"expected {name} that begin with 0, got {name}[0] = {array[0]}")
    k = int((array[1:] < array[:-1]).argmax()) + 1
    raise BagError(
        f"expected {name} that never fall, got {name}[{k}] = {array[k]} after {array[k - 1]}"
    )


def as_integers(array: Any, name: str) -> NDArray[Any]:
    try:
        return as_ids(array)
    except IdTypeError as error:
        raise IdTypeError(f"{name}: {str(error).replace(' ids ', f' {name} ', 1)}") from None


def _check_bags(lead: tuple[int, ...]) -> int:
    """Return the number of bags, if there is memory for one number of each."""
    try:
        memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):
        memory = 1 << 40
    if math.prod(max(size, 1) for size in lead) >= memory // 32:
        raise BagError(
            f"expected as many bags as memory can hold, got the shape {lead}: every bag is a row "
            "of the result, those without ids too"
        )
    return math.prod(lead)


def as_numbers(weights: Any) -> NDArray[Any]:
    """Return weights as a contiguous array of float32 or float64."""
    try:
        array = as_rows(weights, "weights")
    except TableError as error:
        raise BagError(str(error)) from None
    small = array.dtype.kind == "V" and is_small_float(array.dtype)
    if array.dtype.kind not in "iuf" and not small:
        raise BagError(f"expected weights as real numbers, got {array.dtype}")
    small = small or np.can_cast(array.dtype, np.float32)
    with np.errstate(over="ignore"):
        return np.require(array, np.float32 if small else np.float64, ["C", "A"])
