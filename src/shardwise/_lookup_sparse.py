"""TensorFlow's sparse lookups, on NumPy arrays: each bag of ids becomes one row."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from shardwise._bags import Bags, as_bags
from shardwise._ids import OutOfRange
from shardwise._lookup import _as_table
from shardwise._partition import Partition

if TYPE_CHECKING:
    from numpy.typing import NDArray


def embedding_lookup_sparse(
    params: Any,
    sp_ids: Any,
    sp_weights: Any,
    partition_strategy: str | Partition = "mod",
    name: str | None = None,
    combiner: str | None = None,
    max_norm: float | None = None,
    *,
    out_of_range: OutOfRange = "error",
    like_tensorflow: bool = False,
) -> NDArray[Any]:
    """Combine the rows of each bag of ids, as TensorFlow's v1 function of this name does.

    The result has a row for each bag: the shape `dense_shape[:-1] + params.shape[1:]` and the dtype
    of `params`. A bag without ids gives zeros, and so does a division by zero.

    Args:
        params: an array, a list of shards, or a `Table`; see `embedding_lookup`.
        sp_ids: `SparseIds`, `RaggedIds`, or any other form of bags that `Table.pool` reads without
            offsets.
        sp_weights: None, or numbers in the same form as `sp_ids` and at the same places.
        partition_strategy: "mod", "div" or a `Partition`; see `embedding_lookup`.
        name: accepted for TensorFlow's sake, and not used.
        combiner: "sum", "mean" (also None), "sqrtn" or "max"; see `Table.pool`.
        max_norm: scale rows with a larger L2 norm down to this one before they are combined.
        out_of_range: what an id outside the table does, a negative one too; see `Table.lookup`.
        like_tensorflow: give TensorFlow's rows: none for the empty bags at the end, and one for
            each index of the first axis where there are more than two.

    Raises:
        TableError: `params` makes no table, or its rows cannot be combined.
        PartitionError: the shards are not as long as the strategy says, or there is none such.
        BagError: ids and weights do not make bags.
        IdOutOfRangeError: an id is outside the table.
        IdTypeError: ids are not integers.
        OptionError: an option has a value that it cannot have.

    Example:
        >>> import numpy as np
        >>> from shardwise import SparseIds, embedding_lookup_sparse
        >>> params = np.array([[0.0, 0.5], [1.0, 1.5], [2.0, 2.5], [3.0, 3.5]])
        >>> ids = SparseIds(indices=[[0, 0], [0, 1], [2, 0]], values=[1, 3, 0], dense_shape=[4, 2])
        >>> embedding_lookup_sparse(params, ids, None, combiner="sum")
        array([[4. , 5. ],
               [0. , 0. ],
               [0. , 0.5],
               [0. , 0. ]])

    The meaning is that of TensorFlow's documentation,
    https://www.tensorflow.org/api_docs/python/tf/compat/v1/nn/embedding_lookup_sparse.
    """
    del name
    table = _as_table(params, partition_strategy)
    bags = as_bags(sp_ids, weights=sp_weights)
    return table._pool(
        rows_of_tensorflow(bags) if like_tensorflow else bags,
        combiner="mean" if combiner is None else combiner,
        max_norm=max_norm,
        out_of_range=out_of_range,
    )


def safe_embedding_lookup_sparse(
    embedding_weights: Any,
    sparse_ids: Any,
    sparse_weights: Any = None,
    combiner: str | None = "mean",
    default_id: int | None = None,
    name: str | None = None,
    partition_strategy: str | Partition = "div",
    max_norm: float | None = None,
    *,
    out_of_range: OutOfRange = "error",
    like_tensorflow: bool = False,
) -> NDArray[Any]:
    """Combine the rows of each bag of ids, without ids that are negative or weigh nothing.

    As TensorFlow's v1 function of this name, and like `embedding_lookup_sparse`, save that negative
    ids and ids with a weight of 0, less, or NaN are no part of their bag, and that a bag which then
    has no ids gives the row of `default_id`.

    Args:
        embedding_weights: an array, a list of shards, or a `Table`; see `embedding_lookup`.
        sparse_ids: bags of ids; see `embedding_lookup_sparse`.
        sparse_weights: None, or numbers in the same form as `sparse_ids` and at the same places.
        combiner: "sum", "mean" (also None), "sqrtn" or "max"; see `Table.pool`.
        default_id: the id whose row empty bags get; None for zeros.
        name: accepted for TensorFlow's sake, and not used.
        partition_strategy: "div", "mod" or a `Partition`. The default is not the one of
            `embedding_lookup_sparse`, as in TensorFlow.
        max_norm: scale rows with a larger L2 norm down to this one before they are combined.
        out_of_range: what an id does that is too large; see `Table.lookup`.
        like_tensorflow: keep ids with a weight of 0 or less where `combiner` is "sum".

    Raises:
        TableError: `embedding_weights` makes no table, or its rows cannot be combined.
        PartitionError: the shards are not as long as the strategy says, or there is none such.
        BagError: ids and weights do not make bags.
        IdOutOfRangeError: an id is too large, or `default_id` is outside the table.
        IdTypeError: ids are not integers.
        OptionError: an option has a value that it cannot have.

    Example:
        >>> import numpy as np
        >>> from shardwise import RaggedIds, safe_embedding_lookup_sparse
        >>> params = np.array([[0.0, 0.5], [1.0, 1.5], [2.0, 2.5], [3.0, 3.5]])
        >>> ids = RaggedIds(values=[1, -1, 3, -7], row_splits=[0, 3, 3, 4])
        >>> safe_embedding_lookup_sparse(params, ids, default_id=0)
        array([[2. , 2.5],
               [0. , 0.5],
               [0. , 0.5]])

    The meaning is that of TensorFlow's documentation,
    https://www.tensorflow.org/api_docs/python/tf/compat/v1/nn/safe_embedding_lookup_sparse.
    """
    del name
    table = _as_table(embedding_weights, partition_strategy)
    bags = as_bags(sparse_ids, weights=sparse_weights)
    return table._pool(
        bags,
        combiner="mean" if combiner is None else combiner,
        max_norm=max_norm,
        out_of_range=out_of_range,
        default_id=default_id,
        skip_negative=True,
        skip_weightless=bags.weights is not None and not (like_tensorflow and combiner == "sum"),
    )


def rows_of_tensorflow(bags: Bags) -> Bags:
    """One bag for each index of the first axis, as far as there are ids."""
    step = math.prod(bags.lead[1:])
    starts = bags.offsets[::step] if step else np.zeros(1, np.int64)
    filled = np.flatnonzero(starts[1:] > starts[:-1])
    count = int(filled[-1]) + 1 if len(filled) else 0
    offsets = np.ascontiguousarray(starts[: count + 1])
    return Bags(bags.values, offsets, bags.weights, (count,))
