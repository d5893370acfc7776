"""Bags of several tables at once, as models with many features read them."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import TYPE_CHECKING, Any

import numpy as np

from shardwise import _native
from shardwise._bags import Bags, as_bags
from shardwise._errors import BagError, OptionError, ShardwiseError, TableError
from shardwise._ids import OutOfRange, out_of_range_error
from shardwise._layout import float_dtype
from shardwise._output import check_out, given
from shardwise._pool import Combiner, pool_task
from shardwise._table import Table

if TYPE_CHECKING:
    from numpy.typing import NDArray


def pool_tables(
    tables: Sequence[tuple[Any, ...]],
    *,
    combiner: Combiner | Sequence[Combiner] = "sum",
    concat: bool = True,
    include_last_offset: bool = False,
    max_norm: float | None = None,
    out_of_range: OutOfRange = "error",
    padding_id: int | None = None,
    dtype: Any = None,
    out: NDArray[Any] | None = None,
) -> Any:
    """Combine bags of several tables, each as `Table.pool` does, in one native call.

    The tables may differ in their number of rows, width, row format, partition, and form of ids.
    The numbers are those of `Table.pool`, bit for bit.

    Args:
        tables: for each table `(table, ids)`, `(table, ids, offsets)` or
            `(table, ids, offsets, weights)`, as `Table.pool` takes them. A table may come twice.
        combiner: "sum", "mean", "sqrtn" or "max", or one of them for each table.
        concat: give one array with the rows of all tables side by side, for which each needs as
            many bags. Else an array for each table; these are parts of one block of memory.
        include_last_offset: the last of the offsets is the end of the last bag.
        max_norm: scale rows with a larger L2 norm down to this one before they are combined.
        out_of_range: what an id outside its table does; see `Table.lookup`.
        padding_id: ids equal to this one are no part of their bag.
        dtype: of the result: float16, bfloat16, float32 or float64. By default that of the tables
            if they have one in common; else float32, or float64 if one of them has it.
        out: an array of the result's shape and dtype that takes it and is returned; with `concat`.

    Returns:
        An array of shape (bags, elements of all tables' rows together); or without `concat` a list
        of arrays, each of the shape that `Table.pool` gives.

    Raises:
        IdOutOfRangeError: an id is outside its table.
        IdTypeError: ids or offsets are not integers.
        BagError: ids, offsets and weights do not make bags, or not as many for each table.
        TableError: rows are not of floating-point numbers of 16, 32 or 64 bits.
        OptionError: an option has a value that it cannot have.
        OutputError: `out` cannot take the result.

    Example:
        >>> import numpy as np
        >>> from shardwise import Table, pool_tables
        >>> users = Table.from_array(np.array([[1.0, 2.0], [3.0, 4.0]], np.float32))
        >>> items = Table.from_array(np.array([[0.5], [0.25]], np.float32))
        >>> pool_tables([(users, [0, 1], [0, 1]), (items, [0, 1, 1], [0, 2])])
        array([[1.  , 2.  , 0.75],
               [3.  , 4.  , 0.25]], dtype=float32)
    """
    read, bags = _read(tables, include_last_offset)
    combiners = [combiner] * len(read) if isinstance(combiner, str) else combiner
    several = isinstance(combiners, (list, tuple))
    if not several or len(combiners) != len(read):
        got = len(combiners) if several else repr(combiner)[:60]
        raise OptionError(
            f"expected one combiner, or one for each of {len(read)} tables, got {got}"
        )
    wanted = _common(read) if dtype is None else float_dtype(dtype)
    widths = [table._layout.width for table in read]
    counts = [len(one.offsets) - 1 for one in bags]
    if concat:
        block, parts = _side_by_side(counts, widths, wanted)
        if out is not None:
            shards = (shard for table in read for shard in table.shards)
            check_out(out, block.shape, wanted, [*shards, *(one.values for one in bags)])
    elif out is not None:
        raise OptionError("expected no out for an array for each table, got one; see concat")
    else:
        parts = _end_to_end(counts, widths, wanted)
    k = 0
    try:
        tasks = []
        for k, (table, one, part) in enumerate(zip(read, bags, parts, strict=True)):
            task = pool_task(
                table._rows,
                len(table),
                table._layout,
                one,
                part,
                combiner=combiners[k],
                max_norm=max_norm,
                out_of_range=out_of_range,
                padding_id=padding_id,
            )
            tasks.append(task)
        _native.run_pools(tasks)
    except _native.OutOfRangeId as error:
        position, value, k = map(int, str(error).split())
        refused = out_of_range_error(bags[k].values.shape, position, value, len(read[k]))
        raise _of_table(k, refused) from None
    except ShardwiseError as error:
        raise _of_table(k, error) from None
    if concat:
        return given(out, block)
    return [
        part.reshape(one.lead + table.shape[1:])
        for part, one, table in zip(parts, bags, read, strict=True)
    ]


def _read(tables: Sequence[Any], include_last_offset: bool) -> tuple[list[Table], list[Bags]]:
    read, bags = [], []
    for k, entry in enumerate(tables):
        if not isinstance(entry, tuple) or not 2 <= len(entry) <= 4:
            raise BagError(
                "expected (table, ids), (table, ids, offsets) or (table, ids, offsets, weights) "
                f"for each table, got {type(entry).__name__} in tables[{k}]"
            )
        table, *what = entry
        if not isinstance(table, Table):
            raise TableError(
                f"expected a Table in tables[{k}], got {type(table).__name__}; make one with "
                "Table.from_array"
            )
        try:
            bags.append(as_bags(*what, include_last_offset=include_last_offset))
        except ShardwiseError as error:
            raise _of_table(k, error) from None
        read.append(table)
    if not read:
        raise BagError("expected at least one table, got none")
    return read, bags


def _of_table(k: int, error: ShardwiseError) -> ShardwiseError:
    """Say in an error which table it is about."""
    return type(error)(f"tables[{k}]: {error}")


def _common(tables: Sequence[Table]) -> np.dtype[Any]:
    dtypes = {table.dtype for table in tables}
    if len(dtypes) == 1:
        return dtypes.pop()
    return np.dtype(np.float64 if np.dtype(np.float64) in dtypes else np.float32)


def _side_by_side(
    counts: Sequence[int], widths: Sequence[int], dtype: np.dtype[Any]
) -> tuple[NDArray[Any], list[NDArray[Any]]]:
    if len(set(counts)) > 1:
        raise BagError(
            f"expected as many bags for each table, got {', '.join(map(str, counts))}; with "
            "concat=False each table has an array of its own"
        )
    block: NDArray[Any] = _native.empty((counts[0], sum(widths)), dtype)
    ends = accumulate(widths)
    return block, [block[:, end - width : end] for end, width in zip(ends, widths, strict=True)]


def _end_to_end(
    counts: Sequence[int], widths: Sequence[int], dtype: np.dtype[Any]
) -> list[NDArray[Any]]:
    shapes = list(zip(counts, widths, strict=True))
    ends = list(accumulate(count * width for count, width in shapes))
    block: NDArray[Any] = _native.empty((ends[-1],), dtype)
    return [
        block[end - count * width : end].reshape(count, width)
        for end, (count, width) in zip(ends, shapes, strict=True)
    ]
