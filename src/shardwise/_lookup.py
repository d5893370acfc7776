"""The functions of TensorFlow's embedding-lookup family, on NumPy arrays."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from shardwise._errors import PartitionError, ShardwiseWarning, TableError
from shardwise._ids import OutOfRange
from shardwise._partition import Partition, unknown_strategy
from shardwise._table import Table

if TYPE_CHECKING:
    from numpy.typing import NDArray


def embedding_lookup(
    params: Any,
    ids: Any,
    partition_strategy: str | Partition = "mod",
    name: str | None = None,
    *,
    max_norm: float | None = None,
    out_of_range: OutOfRange = "error",
    out: NDArray[Any] | None = None,
) -> NDArray[Any]:
    """Look rows up by id, as TensorFlow's v1 `tf.nn.embedding_lookup` does.

    The result has the shape `ids.shape + params.shape[1:]` and the dtype of `params`: one row for
    each id. If `params` is a list of shards, they are read as the pieces of one table.

    Args:
        params: one array of shape (rows, ...), or a list or tuple of shards that differ in their
            first axis alone, or a `Table`. Arrays are NumPy's, or offer DLPack or the buffer
            protocol on the CPU; of any fixed-size dtype. Nested Python lists are read as
            TensorFlow reads them, as a list of shards, with a warning.
        ids: integers of any dtype, in any shape: a scalar, an array, nested lists, or none at
            all. They are not changed.
        partition_strategy: how the rows were dealt out to the shards: "mod" (id i is in shard
            i % n), "div" (contiguous shards, the first ones one row longer), or a `Partition`. A
            `Table` knows its own.
        name: accepted for TensorFlow's sake, and not used.
        max_norm: scale rows with a larger L2 norm down to this one; see `Table.lookup`.
        out_of_range: what an id outside the table does; see `Table.lookup`.
        out: an array to write the rows to; see `Table.lookup`.

    Raises:
        TableError: `params` makes no table.
        PartitionError: the shards are not as long as the strategy says, or there is none such.
        IdOutOfRangeError: an id is outside the table.
        IdTypeError: ids are not integers.

    Example:
        >>> import numpy as np
        >>> from shardwise import embedding_lookup
        >>> params = np.array([[0.0, 0.5], [1.0, 1.5], [2.0, 2.5], [3.0, 3.5]])
        >>> embedding_lookup(params, [3, 0])
        array([[3. , 3.5],
               [0. , 0.5]])
        >>> embedding_lookup([params[0::2], params[1::2]], [3, 0])
        array([[3. , 3.5],
               [0. , 0.5]])

    The meaning is that of TensorFlow's documentation,
    https://www.tensorflow.org/api_docs/python/tf/compat/v1/nn/embedding_lookup.
    """
    del name
    table = _as_table(params, partition_strategy)
    return table.lookup(ids, out=out, out_of_range=out_of_range, max_norm=max_norm)


def _as_table(params: Any, partition_strategy: str | Partition) -> Table:
    if isinstance(params, Table):
        # It knows its own partition; what else is named here should at least be one.
        if isinstance(partition_strategy, Partition) and partition_strategy != params.partition:
            raise PartitionError(
                f"expected the partition of the table, {params.partition}, got {partition_strategy}"
            )
        if isinstance(partition_strategy, str) and partition_strategy not in ("mod", "div"):
            raise unknown_strategy(partition_strategy)
        return params
    if params is None:
        raise TableError("expected params as an array, a list of shards or a Table, got None")
    if not isinstance(params, (list, tuple)):
        return Table.from_array(params, 1, partition_strategy)
    if any(isinstance(shard, (list, tuple)) for shard in params):
        warnings.warn(
            f"params is a list of {len(params)} lists: like TensorFlow, this reads it as "
            f"{len(params)} shards of one table, not as its {len(params)} rows. To look up rows, "
            "pass numpy.array(params); to keep this reading, pass a list of arrays",
            ShardwiseWarning,
            stacklevel=3,
        )
        params = [_from_python(shard) for shard in params]
    return Table.from_shards(params, partition_strategy)


def _from_python(shard: Any) -> Any:
    """Nested lists in the dtypes that TensorFlow gives Python's numbers: 32 bits."""
    if not isinstance(shard, (list, tuple)):
        return shard
    try:
        array = np.asarray(shard)
    except ValueError:
        raise TableError(
            "expected shards whose rows have one length, got nested lists of unequal lengths"
        ) from None
    kinds = {type(leaf) for leaf in _leaves(shard)}
    if float in kinds or not kinds:
        return array.astype(np.float32)
    if kinds == {int}:
        if array.dtype.kind not in "iu":
            raise TableError("expected integers of up to 64 bits in a nested list, got larger ones")
        small = array.astype(np.int32)
        return small if (small == array).all() else array
    return array


def _leaves(nest: Any) -> Iterator[Any]:
    for item in nest:
        if isinstance(item, (list, tuple)):
            yield from _leaves(item)
        else:
            yield item
