"""What bags of ids may be: runs of ids, each of which becomes one row."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from shardwise._bag_forms import (
    Form,
    as_integers,
    as_numbers,
    as_splits,
    as_vector,
    kind_of,
    read_bags,
)
from shardwise._errors import BagError
from shardwise._ids import as_ids

if TYPE_CHECKING:
    from numpy.typing import NDArray


class SparseIds(NamedTuple):
    """Bags as a sparse array: each id with its coordinates, those of one bag side by side.

    Attributes:
        indices: integers of shape (ids, rank): where each id stands, in row-major order. All but
            the last coordinate name the bag.
        values: integers of shape (ids,): the ids; or the weights of as many ids.
        dense_shape: `rank` integers: all bags are there, also those in which there is no id.

    Example:
        >>> import numpy as np
        >>> from shardwise import SparseIds, Table
        >>> table = Table.from_array(np.array([[1.0], [2.0], [4.0]]))
        >>> table.pool(SparseIds([[0, 0], [0, 1], [2, 0]], values=[0, 2, 1], dense_shape=[3, 2]))
        array([[5.],
               [0.],
               [2.]])
    """

    indices: Any
    values: Any
    dense_shape: Any


class RaggedIds(NamedTuple):
    """Bags end to end: bag `i` is `values[row_splits[i]:row_splits[i + 1]]`.

    Attributes:
        values: integers of shape (ids,): the ids; or the weights of as many ids.
        row_splits: integers of shape (bags + 1,), from 0 to the number of ids, never falling.

    Example:
        >>> import numpy as np
        >>> from shardwise import RaggedIds, Table
        >>> table = Table.from_array(np.array([[1.0], [2.0], [4.0]]))
        >>> table.pool(RaggedIds(values=[0, 2, 1], row_splits=[0, 2, 2, 3]))
        array([[5.],
               [0.],
               [2.]])
    """

    values: Any
    row_splits: Any


@dataclass(frozen=True, slots=True, eq=False)
class Bags:
    """Bags in the one form that the kernels read.

    Attributes:
        values: the ids of all bags, end to end: contiguous integers, as `as_ids` gives them.
        offsets: int64[bags + 1], from 0 to len(values), never falling; a copy of what came.
        weights: contiguous float32 or float64, one for each id, or None.
        lead: the shape of the bags, whose product is their number.
    """

    values: NDArray[Any]
    offsets: NDArray[np.int64]
    weights: NDArray[Any] | None
    lead: tuple[int, ...]


def as_bags(
    ids: Any, offsets: Any = None, weights: Any = None, *, include_last_offset: bool = False
) -> Bags:
    """Return bags of ids in the one form that the kernels read.

    Args:
        ids: one of
            integers of rank 1, with `offsets`;
            integers of rank 2 and more: the last axis is a bag;
            a list of bags of any lengths, each a sequence of integers;
            `SparseIds` or `RaggedIds`, or TensorFlow's and torch's tensors of these kinds;
            a SciPy array of the formats CSR or COO, whose data are the ids.
        offsets: where each bag begins in `ids`, as torch has it: the first offset is 0, none falls
            or lies beyond the ids, and two that are equal make an empty bag.
        weights: None, or real numbers in the same form as the ids; for bags that are not an array
            or a list, one number for each id is enough.
        include_last_offset: the last offset is the end of the last bag, as in the row splits of
            CSR. Ids after it are in no bag.

    Raises:
        IdTypeError: ids or offsets are not integers.
        BagError: offsets, splits or indices make no bags, or the weights are not as the ids.
    """
    if offsets is not None:
        return _from_offsets(ids, offsets, weights, include_last_offset)
    if include_last_offset:
        raise BagError("expected offsets with include_last_offset=True, got none")
    form = read_bags(ids, as_ids)
    numbers = None if weights is None else _weights_like(form, weights)
    values = form.values.reshape(-1)
    end = int(form.splits[-1])  # a CSR array may have room for more values than it has
    numbers = None if numbers is None else numbers[:end]
    return Bags(values[:end], form.splits, numbers, form.lead)


def _from_offsets(ids: Any, offsets: Any, weights: Any, include_last_offset: bool) -> Bags:
    values = as_ids(ids)
    if values.ndim != 1:
        raise BagError(
            f"expected ids of rank 1 with offsets, got the shape {values.shape}; "
            "a batch whose rows are bags needs no offsets"
        )
    numbers = None
    if weights is not None:
        numbers = as_numbers(weights)
        if numbers.shape != values.shape:
            raise BagError(
                f"expected as many weights as ids, {len(values)}, got the shape {numbers.shape}"
            )
    splits = as_splits(offsets, len(values), "offsets", closed=include_last_offset)
    end = int(splits[-1])
    if numbers is not None:
        numbers = numbers[:end]
    return Bags(values[:end], splits, numbers, (len(splits) - 1,))


def _weights_like(ids: Form, weights: Any) -> NDArray[Any]:
    """Return one weight for each id, from weights in the form of the ids."""
    if ids.kind in ("sparse", "ragged", "csr") and kind_of(weights) in ("list", "array"):
        numbers = as_numbers(weights)
        if numbers.shape != ids.values.shape:
            raise BagError(
                f"expected as many weights as ids, {len(ids.values)}, got the shape {numbers.shape}"
            )
        return numbers
    if ids.kind == kind_of(weights) == "sparse":  # at the same places, so they need no check
        numbers = as_vector(weights.values, as_numbers)
        sizes = as_integers(weights.dense_shape, "dense_shape")
        places = as_integers(weights.indices, "indices")
        if places.size == 0 and len(ids.values) == 0:
            places = places.reshape(ids.places[0].shape)
        form = ids._replace(values=numbers, places=(places, sizes))
    else:
        form = read_bags(weights, as_numbers)
    if form.kind != ids.kind:
        raise BagError(f"expected weights in the form of the ids, {ids.kind}, got {form.kind}")
    if form.lead != ids.lead or form.values.shape != ids.values.shape:
        raise BagError(
            f"expected weights of the shape of the ids, {ids.values.shape} in bags of the shape "
            f"{ids.lead}; got {form.values.shape} in {form.lead}"
        )
    ours, theirs = (ids.splits, *ids.places), (form.splits, *form.places)
    for here, there in zip(ours, theirs, strict=True):
        if here is not there and not np.array_equal(here, there):
            raise BagError("expected weights at the places of the ids, got them at other places")
    return form.values.reshape(-1)
