"""A table: rows of one matrix, cut into shards by a partition, looked up by id."""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias

import numpy as np

from shardwise import _native
from shardwise._arrays import as_row_shape, is_usable, private_copy
from shardwise._bags import Bags, as_bags
from shardwise._changes import Changes
from shardwise._errors import TableError
from shardwise._ids import OutOfRange, as_ids
from shardwise._layout import Layout, packed_layout
from shardwise._partition import Partition
from shardwise._pool import Combiner, pool
from shardwise._reading import look_up, outside, pool_bags, prefetch, refuse_slices
from shardwise._shards import as_shards, cut_array, describe, packed_shards, partition_of
from shardwise._update import How, Nonfinite, Training, with_rate
from shardwise._writing import (
    check_goes_on,
    refuse_read_only,
    reset_optimizer,
    trained_by,
    update,
    write,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from shardwise.initializers import Initializer, RowMaker
    from shardwise.optimizers import Optimizer, Slot


_ERROR = "error"

Mode: TypeAlias = Literal["r", "r+", "c"]


class Files(Protocol):
    """What the store gives a table that is open for writing."""

    def write(self, rows: _native.Rows, ids: NDArray[np.int64], values: NDArray[Any]) -> None: ...
    def train(self, training: Training, slots: Sequence[Slot], table: Table) -> Training: ...
    def forget_state(self) -> None: ...
    def flush(self) -> None: ...
    def close(self) -> None: ...


class Table:
    """Rows of one matrix, in one array or in shards, looked up by id.

    Make one with `Table.from_array` or `Table.from_shards`, open one from disk with `Table.open`,
    or make one there with `Table.create`. A table of rank r holds `len(table)` rows of shape
    `table.shape[1:]`; only the first axis is cut into shards. A table never changes its shards, and
    holds no copy of arrays that it can read where they lie: what is written to them later is seen
    by later lookups.

    Example:
        >>> import numpy as np
        >>> from shardwise import Table
        >>> matrix = np.arange(18.0, dtype=np.float32).reshape(9, 2)
        >>> table = Table.from_array(matrix, shards=3, partition="mod")
        >>> table.lookup([0, 7])
        array([[ 0.,  1.],
               [14., 15.]], dtype=float32)
        >>> table.partition.locate(7)
        (array(1), array(2))
        >>> table.shape, table.dtype, table.mode, len(table.shards)
        ((9, 2), dtype('float32'), 'memory', 3)
    """

    __slots__ = (
        "__weakref__",
        "_changes",
        "_dtype",
        "_files",
        "_layout",
        "_mode",
        "_partition",
        "_rows",
        "_shape",
        "_shards",
        "_training",
    )

    _changes: Changes | None
    _dtype: np.dtype[Any]
    _files: Files | None
    _layout: Layout
    _mode: Mode | None
    _partition: Partition
    _rows: _native.Rows
    _shape: tuple[int, ...]
    _shards: tuple[NDArray[Any], ...]
    _training: Training | None

    def __init__(self, *_: Any, **__: Any) -> None:
        raise TypeError(
            "use Table.from_array(rows), Table.from_shards(shards, partition) or Table.open(path) "
            "to make a table"
        )

    @classmethod
    def from_array(
        cls,
        array: Any,
        shards: int = 1,
        partition: str | Partition = "mod",
        *,
        copy: bool = False,
        row_format: str | None = None,
        dim: int | None = None,
    ) -> Table:
        """Make a table of an array of shape (rows, ...), cut into `shards` shards.

        Args:
            array: a NumPy array of any fixed-size dtype, or what offers DLPack or the buffer
                protocol on the CPU.
            shards: how many shards, at least 1.
            partition: "mod", "div", or a `Partition` of as many rows (and then as many shards as
                it says).
            copy: make the shards private copies, each in 2 MB pages where the system grants them.
                Without it they are views of the array.
            row_format: "int8" or "int4" where the array holds packed rows, uint8 of shape
                (rows, bytes), as `quantize_rows` makes them, or PyTorch and FBGEMM. To pack rows
                of floats, see `quantize`.
            dim: how many values a packed row has; "int4" needs it.

        Raises:
            TableError: no array, of rank 0, or of Python objects; or not of such packed rows.
            PartitionError: there is no such partition, or it is one of another number of rows.
            OptionError: there is no such row format.

        Example:
            >>> import numpy as np
            >>> from shardwise import Table
            >>> table = Table.from_array(np.arange(6.0).reshape(3, 2), shards=2, partition="div")
            >>> table.shape, table.dtype, table.mode, [shard.shape for shard in table.shards]
            ((3, 2), dtype('float64'), 'memory', [(2, 2), (1, 2)])
        """
        pieces, cut, layout = cut_array(
            array, shards, partition, copy=copy, row_format=row_format, dim=dim
        )
        return cls._make(pieces, cut, layout=layout)

    @classmethod
    def from_shards(
        cls,
        shards: Sequence[Any],
        partition: str | Partition = "mod",
        *,
        row_format: str | None = None,
        dim: int | None = None,
    ) -> Table:
        """Make a table of arrays that are its shards already.

        Args:
            shards: arrays of shape (rows of that shard, ...) that differ in their first axis alone.
            partition: "mod", "div", or a `Partition`: how the rows were dealt out. The lengths of
                the shards must be the ones it gives.
            row_format: "int8" or "int4" where the shards hold packed rows; see `from_array`.
            dim: how many values a packed row has; "int4" needs it.

        Raises:
            TableError: no shards, or shards that differ in dtype or in the shape of a row.
            PartitionError: the lengths are not what the partition gives; the message says which
                partition would fit.

        Example:
            >>> import numpy as np
            >>> from shardwise import Table
            >>> even, odd = np.array([[0.0], [2.0]]), np.array([[1.0], [3.0]])
            >>> Table.from_shards([even, odd], "mod").lookup([0, 1, 2, 3]).ravel()
            array([0., 1., 2., 3.])
        """
        arrays, cut, layout = as_shards(shards, partition, row_format=row_format, dim=dim)
        return cls._make(arrays, cut, layout=layout)

    @classmethod
    def _make(
        cls,
        shards: Sequence[NDArray[Any]],
        partition: Partition,
        *,
        layout: Layout | None = None,
        mode: Mode | None = None,
        files: Files | None = None,
    ) -> Table:
        self = object.__new__(cls)
        if layout is None:
            layout = Layout(shards[0].shape[1:], shards[0].dtype)
        self._shards = tuple(a if is_usable(a) else private_copy(a) for a in shards)
        self._partition = partition
        self._layout = layout
        self._dtype = layout.dtype
        self._shape = (partition.num_rows, *layout.row_shape)
        self._mode = mode
        self._files = files
        self._training = None
        self._changes = None
        if files is not None:
            weakref.finalize(self, files.close)
        self._rows = _native.Rows(
            partition._core,
            list(self._shards),
            layout.dtype,
            layout.row_shape,
            layout.row_bytes,
            layout.kernel,
            mode is not None,
        )
        return self

    @classmethod
    def open(cls, path: str | os.PathLike[str], mode: Mode = "r", *, verify: bool = False) -> Table:
        """Open a table on disk by memory map: nothing is read before it is looked up.

        Args:
            path: the directory.
            mode: "r" to read. "r+" also to `write` in place: one table at a time may be open so,
                until it is closed; who has it open to read sees the changes. "c" to `write` to a
                private copy of the pages that change, which is lost with the table.
            verify: read all files first and compare their checksums.

        Raises:
            TableNotFoundError: there is no table at `path`.
            StoreError: the table is broken, or was written by a newer version, or, for "r+",
                another process writes to it.
            OptionError: there is no such mode.

        Example:
            >>> import tempfile
            >>> import numpy as np
            >>> from shardwise import Table
            >>> with tempfile.TemporaryDirectory() as folder:
            ...     Table.from_array(np.arange(6.0).reshape(3, 2)).save(folder)
            ...     table = Table.open(folder)
            >>> table.lookup([2]), table.mode
            (array([[4., 5.]]), 'r')
        """
        from shardwise.store import open_table  # upwards: the store imports the nouns it holds

        return open_table(path, mode, verify=verify).table

    @classmethod
    def create(
        cls,
        path: str | os.PathLike[str],
        rows: int,
        dim: int | tuple[int, ...],
        dtype: Any = "float32",
        *,
        row_format: str | None = None,
        shards: int = 1,
        partition: str | Partition = "mod",
        initializer: str | Initializer | RowMaker = "zeros",
        overwrite: bool = False,
        metadata: Mapping[str, Any] | None = None,
        progress: Callable[[int, int], object] | None = None,
    ) -> Table:
        """Make a table on disk, of any size, and open it with mode "r+".

        Args:
            path: the directory; it is made.
            rows: how many rows.
            dim: how many values a row has, or the shape of a row.
            dtype: the dtype of an element.
            row_format: "int8" or "int4" to pack rows of float32 in so many bits a value.
            shards: how many shards.
            partition: "mod", "div", or a `Partition` of as many rows.
            initializer: the rows' first values: a name ("zeros", "uniform", "normal",
                "truncated_normal", "glorot_uniform", "glorot_normal"), what a function of
                `shardwise.initializers` gives, or a function of ids (int64[n]) that returns their
                rows. Zeros take no room on the disk until they are written over.
            overwrite: replace a table that is there.
            metadata: any JSON object, kept with the table.
            progress: called with (rows done, rows in all).

        Raises:
            TableExistsError: there is a table already, and `overwrite` is false.
            StoreError: the dtype has no form on disk.
            PartitionError: there is no such partition.
            OptionError: there is no such initializer, or no such row format.

        Example:
            >>> import tempfile
            >>> from shardwise import Table
            >>> folder = tempfile.TemporaryDirectory()
            >>> with Table.create(f"{folder.name}/t", 1_000_000_000, 64, shards=8) as table:
            ...     table.write([7, 999_999_999], [[1.0], [2.0]])
            ...     table.lookup([7, 8, 999_999_999])[:, 0]
            array([1., 0., 2.], dtype=float32)
            >>> folder.cleanup()
        """
        from shardwise.store import create_table, open_table  # upwards, as above

        cut = partition_of(partition, rows, shards)
        create_table(
            path,
            (cut.num_rows, *as_row_shape(dim)),
            dtype=dtype,
            row_format=row_format,
            partition=cut,
            initializer=initializer,
            overwrite=overwrite,
            metadata=metadata,
            progress=progress,
        )
        return open_table(path, "r+").table

    def save(
        self,
        path: str | os.PathLike[str],
        *,
        overwrite: bool = False,
        metadata: Mapping[str, Any] | None = None,
    ) -> None:
        """Write the table to a directory, as it is cut; whole or, on any failure, not at all.

        Args:
            path: the directory; it is made.
            overwrite: replace a table that is there. Who has it open keeps the old one.
            metadata: any JSON object, kept with the table.

        Raises:
            TableExistsError: there is a table already, and `overwrite` is false.
            StoreError: the dtype has no form on disk.

        Example:
            >>> import tempfile
            >>> import numpy as np
            >>> from shardwise import Table
            >>> with tempfile.TemporaryDirectory() as folder:
            ...     Table.from_array(np.arange(6.0).reshape(3, 2), shards=2).save(folder)
            ...     Table.open(folder).partition
            Partition.mod(num_rows=3, num_shards=2)
        """
        from shardwise.store import write_table  # upwards: the store imports the nouns it holds

        write_table(path, self, overwrite=overwrite, metadata=metadata)

    def checkpoint(
        self,
        path: str | os.PathLike[str],
        *,
        overwrite: bool = False,
        whole: bool = False,
        progress: Callable[[int, int], object] | None = None,
    ) -> None:
        """Write the rows, and what an optimizer keeps of them, that changed since the last one.

        The first checkpoint of a table at `path` is a copy of all of it, and so is one after which
        the files of changes would be larger than that copy, or more than 256, or one after the
        optimizer's state was made or forgotten. From then on the table notes which rows `update`,
        `update_pool` and `write` change, in one bit a row: of 10^9 rows 125 MB, if all of them
        change. Whatever happens, `path` holds the last checkpoint or this one.

        Args:
            path: a directory for checkpoints of this table alone; it is made. A table of the same
                rows is made of it with `Table.restore`, after which checkpoints go on there.
            overwrite: replace the checkpoint of another table, or one that was not restored.
            whole: write all rows. What is changed in the arrays of `shards` by others than these
                methods is not noted, and needs it.
            progress: called with (rows done, rows in all) where all rows are written.

        Raises:
            TableExistsError: there is another table's checkpoint, and `overwrite` is false.
            StoreError: `path` holds something else, another process writes there, or the dtype has
                no form on disk.

        No other thread may change rows meanwhile.

        Example:
            >>> import tempfile, numpy as np
            >>> from shardwise import Table, optimizers
            >>> folder = tempfile.TemporaryDirectory()
            >>> table = Table.from_array(np.zeros((1000, 2)), shards=2)
            >>> for step in range(3):
            ...     table.update([3, step], np.ones((2, 2)), optimizers.SGD(0.5))
            ...     table.checkpoint(f"{folder.name}/kept")
            >>> with Table.restore(f"{folder.name}/kept", f"{folder.name}/again") as again:
            ...     again.lookup([0, 3]), again.optimizer_step
            (array([[-0.5, -0.5],
                   [-1.5, -1.5]]), 3)
            >>> folder.cleanup()
        """
        from shardwise.store import write_checkpoint  # upwards, as above

        write_checkpoint(self, path, overwrite=overwrite, whole=whole, progress=progress)

    @classmethod
    def restore(
        cls,
        checkpoint: str | os.PathLike[str],
        path: str | os.PathLike[str],
        *,
        overwrite: bool = False,
        progress: Callable[[int, int], object] | None = None,
    ) -> Table:
        """Make the table of the last checkpoint at `path`, and open it with mode "r+".

        Its checkpoints at `checkpoint` go on with what is there. See `store.restore` for what is
        read, written and raised.

        Args:
            checkpoint: the directory that `checkpoint` wrote.
            path: the directory that is made.
            overwrite: replace a table that is there, such as one that was half changed by a process
                that was killed.
            progress: called with (rows done, rows in all).

        Example:
            >>> import tempfile
            >>> import numpy as np
            >>> from shardwise import Table
            >>> with tempfile.TemporaryDirectory() as folder:
            ...     table = Table.from_array(np.zeros((3, 2)), copy=True)
            ...     table.write([1], [[5, 6]])
            ...     table.checkpoint(f"{folder}/kept")
            ...     with Table.restore(f"{folder}/kept", f"{folder}/again") as again:
            ...         again[1]
            array([5., 6.])
        """
        from shardwise.store import restore_table  # upwards, as above

        return restore_table(checkpoint, path, overwrite=overwrite, progress=progress)

    def quantize(self, row_format: str) -> Table:
        """Return a table in memory of the same rows, cut as they are, in 8 or 4 bits a value.

        Each row gets a scale and a bias of its own; the bytes are those of `quantize_rows`. Larger
        tables are quantized on the way to the disk by `shardwise.convert(..., dtype="int8")`.

        Args:
            row_format: "int8" or "int4".

        Raises:
            OptionError: there is no such format.
            TableError: the rows are not of finite floats, or have no values.

        Example:
            >>> import numpy as np
            >>> from shardwise import Table
            >>> table = Table.from_array(np.array([[0.0, 0.5, 1.0], [-3.0, 0.0, 12.0]]))
            >>> small = table.quantize("int8")
            >>> small
            Table(shape=(2, 3), dtype=float32, row_format='int8', partition=Partition.mod(num_rows=2, num_shards=1))
            >>> small.lookup(0).round(2)
            array([0. , 0.5, 1. ], dtype=float32)
        """  # noqa: E501 - the example's output
        layout = packed_layout(row_format, self._shape[1:])
        return Table._make(packed_shards(self, layout), self._partition, layout=layout)

    @property
    def partition(self) -> Partition:
        """How ids fall on the shards."""
        return self._partition

    @property
    def shards(self) -> tuple[NDArray[Any], ...]:
        """The shards, of shape (partition.shard_sizes[k], ...); of packed rows, their bytes."""
        return self._shards

    @property
    def _whole(self) -> NDArray[Any] | None:
        """All rows as they are looked up, where they lie so in one array."""
        return self._shards[0] if len(self._shards) == 1 and not self._layout.packed else None

    def _stored(self) -> Table:
        """The same rows as they lie in the shards: of packed rows, a table of their bytes."""
        if not self._layout.packed:
            return self
        return Table._make(self._shards, self._partition, mode=self._mode)

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the whole: (rows, ...)."""
        return self._shape

    @property
    def dtype(self) -> np.dtype[Any]:
        """The dtype of an element that is looked up."""
        return self._dtype

    @property
    def row_format(self) -> str:
        """How rows are stored: "int8" or "int4" where they are packed, else the dtype's name.

        Example:
            >>> import numpy as np
            >>> from shardwise import Table
            >>> table = Table.from_array(np.zeros((3, 2), np.float32))
            >>> table.row_format, table.quantize("int8").row_format
            ('float32', 'int8')
        """
        return self._layout.name

    @property
    def mode(self) -> str:
        """The mode that the table was opened with: "r", "r+" or "c"; else "memory"."""
        return self._mode or "memory"

    def __len__(self) -> int:
        return self._shape[0]

    def __reduce__(self) -> tuple[Any, ...]:
        if self._mode is not None:
            raise TableError(
                f"expected a table in memory to copy or pickle, got one of files (mode "
                f"{self._mode!r}); pass its path, and open it again there: its pages are shared"
            )
        return _remade, (self._shards, self._partition, self._layout, self._training)

    def __repr__(self) -> str:
        packed = f", row_format={self.row_format!r}" if self._layout.packed else ""
        return (
            f"Table(shape={self._shape}, dtype={self._dtype}{packed}, partition={self._partition})"
        )

    def lookup(
        self,
        ids: Any,
        *,
        out: NDArray[Any] | None = None,
        out_of_range: OutOfRange = "error",
        max_norm: float | None = None,
        dtype: Any = None,
    ) -> NDArray[Any]:
        """Return the rows of ids: an array of shape `ids.shape + table.shape[1:]`.

        The rows are bit-exact copies, whatever the partition, the number of shards or of threads.
        Packed rows ("int8", "int4") come as float32, the values of `dequantize_rows`.

        Args:
            ids: integers of any dtype and shape; see `embedding_lookup`.
            out: an array of the result's shape and dtype that takes the rows and is returned;
                it must not overlap the table or the ids. After an error it is as it was.
            out_of_range: what an id outside the table does: "error", "zeros" (a row of zeros),
                "clamp" (the nearest row), "wrap" (id modulo the number of rows), or the id of the
                row that stands in for it. Negative ids are outside the table.
            max_norm: scale rows whose L2 norm (over all their elements) is larger down to this
                norm; other rows keep their bits. For rows of floating-point or complex numbers.
            dtype: of the result: float16, bfloat16, float32 or float64, to which floats are
                converted as they are read, each rounded once; the table's own by default.

        Raises:
            IdOutOfRangeError: an id is outside the table; it names the first such id.
            IdTypeError: ids are not integers.
            OutputError: `out` cannot take the result.
            OptionError: `out_of_range`, `max_norm` or `dtype` is not one of its values.
            TableError: `max_norm` for rows that have no norm, or `dtype` for rows that are no
                floats.

        Example:
            >>> import numpy as np
            >>> from shardwise import Table
            >>> table = Table.from_array(np.array([[3.0, 4.0], [0.0, 1.0]]), shards=2)
            >>> table.lookup([[1, 0]]).shape
            (1, 2, 2)
            >>> table.lookup([1, 7], out_of_range="zeros")
            array([[0., 1.],
                   [0., 0.]])
            >>> table.lookup([0], max_norm=1.0)
            array([[0.6, 0.8]])
        """
        # By identity: an array has no plain answer to ==, and another str of the same letters goes
        # the longer way to the same rows.
        if out is None and max_norm is None and dtype is None and out_of_range is _ERROR:
            try:
                # A plain array of integers takes this path alone: it is the one that must be fast.
                rows = self._rows.lookup(ids)
                if rows is None:
                    ids = as_ids(ids)
                    rows = self._rows.lookup(ids)
                    assert rows is not None
                return rows
            except _native.OutOfRangeId as error:
                raise outside(self, ids, error) from None
            except TypeError:
                if ids is not None:  # the native function takes no None: as_ids says so below
                    raise
        return look_up(self, ids, out, out_of_range, max_norm, dtype)

    def pool(
        self,
        ids: Any,
        offsets: Any = None,
        *,
        weights: Any = None,
        combiner: Combiner = "sum",
        include_last_offset: bool = False,
        max_norm: float | None = None,
        out_of_range: OutOfRange = "error",
        padding_id: int | None = None,
        default_id: int | None = None,
        dtype: Any = None,
        out: NDArray[Any] | None = None,
    ) -> NDArray[Any]:
        """Combine the rows of each bag of ids to one row, in one pass.

        Of a bag with the rows e_1 ... e_n and the weights w_1 ... w_n (1 by default): "sum" is
        sum(w_i e_i), "mean" is the sum / sum(w_i), "sqrtn" the sum / sqrt(sum(w_i^2)), "max" the
        largest w_i e_i of each element, where NaN is larger than all (and always the same one). A
        division by zero gives zeros. Rows are added in the order of the ids, in float32 (float64
        for float64 rows), a row times its weight with one rounding (a fused multiply-add), so the
        result is the same for every partition and number of threads; at the end it is rounded to
        the result's dtype. An array of all the rows is never made.

        Args:
            ids: with `offsets`, integers of shape (ids,). Without: integers of shape (bags, ids of
                a bag) or of more dimensions, of which the last is the bag; a list of bags of any
                lengths; `SparseIds` or `RaggedIds`, or what has TensorFlow's, torch's or SciPy's
                attributes for these.
            offsets: where each bag begins in `ids`, as for `torch.nn.functional.embedding_bag`.
            weights: None, or numbers in the same form as the ids. They are taken as float32
                (float64 for float64 rows).
            combiner: "sum", "mean", "sqrtn" or "max".
            include_last_offset: the last offset is the end of the last bag.
            max_norm: scale rows with a larger L2 norm down to this one before they are combined.
            out_of_range: what an id outside the table does; see `lookup`. A row of zeros is a
                member of its bag and counts in the mean.
            padding_id: ids equal to this one are no part of their bag.
            default_id: empty bags get the row of this id, else zeros.
            dtype: of the result: float16, bfloat16, float32 or float64; the table's by default.
            out: an array of the result's shape and dtype that takes it and is returned.

        Returns:
            An array of shape (bags, ...) + `table.shape[1:]`.

        Raises:
            IdOutOfRangeError: an id is outside the table.
            IdTypeError: ids or offsets are not integers.
            BagError: ids, offsets and weights do not make bags.
            TableError: the rows are not of floating-point numbers of 16, 32 or 64 bits.
            OptionError: an option has a value that it cannot have.
            OutputError: `out` cannot take the result.

        Example:
            >>> import numpy as np
            >>> from shardwise import Table
            >>> table = Table.from_array(np.array([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]))
            >>> table.pool([0, 1, 2], [0, 2])
            array([[4., 6.],
                   [5., 6.]])
            >>> table.pool([[0, 2], [1, 1]], weights=[[3, 1], [1, 1]], combiner="mean")
            array([[2., 3.],
                   [3., 4.]])

        The formulas are those of `tf.nn.embedding_lookup_sparse`,
        https://www.tensorflow.org/api_docs/python/tf/nn/embedding_lookup_sparse.
        """
        bags = as_bags(ids, offsets, weights, include_last_offset=include_last_offset)
        return pool_bags(
            self,
            bags,
            out,
            dtype,
            combiner=combiner,
            max_norm=max_norm,
            out_of_range=out_of_range,
            padding_id=padding_id,
            default_id=default_id,
        )

    def _pool(self, bags: Bags, **options: Any) -> NDArray[Any]:
        return pool(self._rows, len(self), self._layout, bags, **options)

    def __getitem__(self, ids: Any) -> NDArray[Any]:
        """Return `lookup(ids)`."""
        refuse_slices(ids)
        return self.lookup(ids)

    def __iter__(self) -> None:
        # Without this, Python would iterate by __getitem__, one lookup a row.
        raise TypeError("a Table is not iterable; look its rows up in batches of ids")

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        # Without this, NumPy takes it for a sequence, and says that it is none.
        raise TypeError(
            "a Table is no array, and may be larger than the memory; "
            "table.lookup(numpy.arange(len(table))) gives all of its rows"
        )

    def write(self, ids: Any, rows: Any) -> None:
        """Write rows over the rows of ids; where an id comes again, its last row stays.

        A table in memory writes to the arrays that it was made of. With mode "r+" the files
        change: other processes that have the table open see it, `flush` waits until it is on the
        disk, and a process that is killed leaves every row that lies within one page (4,096 bytes)
        of its file as it was or as it should be.

        Args:
            ids: integers of any dtype and shape.
            rows: an array of shape `ids.shape + table.shape[1:]`, or what NumPy broadcasts to it;
                of the table's dtype, or of one that NumPy casts to it as "same_kind". A table of
                packed rows packs them.

        Raises:
            IdOutOfRangeError: an id is outside the table; nothing is written.
            IdTypeError: ids are not integers.
            TableError: `rows` have another shape or dtype, or the table cannot be written to.
            StoreError: the table was closed.
            OSError: the disk is full, or failed; some of the rows may be written.

        Example:
            >>> import numpy as np
            >>> from shardwise import Table
            >>> table = Table.from_array(np.zeros((4, 2)), shards=2)
            >>> table.write([3, 0, 3], [[1.0, 1.0], [2.0, 2.0], [3.0, 3.0]])
            >>> table.lookup([0, 1, 3])
            array([[2., 2.],
                   [0., 0.],
                   [3., 3.]])
        """
        write(self, ids, rows)

    def _refuse_read_only(self) -> None:
        refuse_read_only(self)

    def update(
        self,
        ids: Any,
        gradients: Any,
        optimizer: Optimizer,
        *,
        learning_rate: float | None = None,
        out_of_range: OutOfRange = "error",
        padding_id: int | None = None,
        frozen: slice | NDArray[np.bool_] | None = None,
        nonfinite: Nonfinite = "error",
        rounding_seed: int | None = None,
    ) -> None:
        """Change the rows of ids by their gradients: one step of an optimizer.

        The gradients of one row are summed in the order of their positions, and the row and what
        the optimizer keeps of it are changed in one visit, so the result is the same, bit for bit,
        for every partition and number of threads. Sums are made, and rows computed, in float32
        (float64 for float64 rows). Rows of other ids, and their state, stay as they are.

        Args:
            ids: integers of any dtype and shape; see `embedding_lookup`.
            gradients: floating-point numbers of shape `ids.shape + table.shape[1:]`.
            optimizer: a value of `shardwise.optimizers`. What it keeps of the rows is made at the
                first update; see `optimizer_state`.
            learning_rate: for this step, in place of the optimizer's.
            out_of_range: whose row an id outside the table changes; see `lookup`. With "zeros", no
                one's.
            padding_id: ids equal to this one change nothing.
            frozen: rows that stay as they are: a slice of ids, or a boolean for each row.
            nonfinite: what NaN or infinity in a gradient does: "error", or "propagate" to the row.
            rounding_seed: round rows of float16 or bfloat16 up or down by chance, with the
                probabilities that make the mean exact: a function of this seed, the step, the id
                and the column. Without it, to the nearest.

        Raises:
            IdOutOfRangeError: an id is outside the table.
            IdTypeError: ids are not integers.
            TableError: gradients of another shape or of no floating-point numbers, or a number in
                them is not finite; rows that cannot be trained or written to; or the state is of
                another optimizer.
            OptionError: an option has a value that it cannot have.
            StoreError: the table was closed.
            OSError: the disk is full.

        After an error no row and no state is changed. One thread at a time may update a table. With
        mode "r+" a process that is killed leaves at most one row a thread half changed, and of its
        last step some rows changed and some not: go on from a `checkpoint`.

        Example:
            >>> import numpy as np
            >>> from shardwise import Table, optimizers
            >>> table = Table.from_array(np.zeros((4, 2)))
            >>> table.update([3, 0, 3], np.ones((3, 2)), optimizers.SGD(0.5))
            >>> table.lookup([0, 1, 3])
            array([[-0.5, -0.5],
                   [ 0. ,  0. ],
                   [-1. , -1. ]])
        """
        how = How(
            out_of_range=out_of_range,
            padding_id=padding_id,
            frozen=frozen,
            nonfinite=nonfinite,
            rounding_seed=rounding_seed,
        )
        update(self, as_ids(ids), None, gradients, with_rate(optimizer, learning_rate), how)

    def update_pool(
        self,
        ids: Any,
        offsets: Any,
        gradients: Any,
        optimizer: Optimizer,
        *,
        weights: Any = None,
        combiner: Combiner = "sum",
        include_last_offset: bool = False,
        learning_rate: float | None = None,
        out_of_range: OutOfRange = "error",
        padding_id: int | None = None,
        frozen: slice | NDArray[np.bool_] | None = None,
        nonfinite: Nonfinite = "error",
        rounding_seed: int | None = None,
    ) -> None:
        """Change the rows of bags of ids by the gradients of what `pool` made of them.

        It is `update` with the gradient of each bag given to all its ids: times the id's weight,
        and divided as its combiner divides; for "max", each element goes to the row that had the
        largest value, the first of equal ones, as the rows are now. An array of a gradient for each
        id is never made.

        Args:
            ids: in any of the forms that `pool` takes.
            offsets: as for `pool`; None where the ids need none.
            gradients: floating-point numbers of the shape of `pool`'s result.
            optimizer: see `update`, for it and all that is not said here.
            weights: as for `pool`. They get no gradient here.
            combiner: as for `pool`, and so is `include_last_offset`.
            include_last_offset: see above.
            learning_rate: see `update`.
            out_of_range: see `update`.
            padding_id: see `update`; as for `pool`, such an id is no part of its bag.
            frozen: see `update`; a frozen row is a part of its bag.
            nonfinite: see `update`.
            rounding_seed: see `update`.

        Raises:
            BagError: ids, offsets and weights do not make bags.
            IdOutOfRangeError: see `update`, for it and all other errors.

        Example:
            >>> import numpy as np
            >>> from shardwise import Table, optimizers
            >>> table = Table.from_array(np.zeros((4, 1)))
            >>> table.update_pool([0, 1, 2, 2], [0, 2], [[2.0], [4.0]], optimizers.SGD(1.0),
            ...                   combiner="mean")
            >>> table.lookup([0, 1, 2, 3]).ravel()
            array([-1., -1., -4.,  0.])
        """
        bags = as_bags(ids, offsets, weights, include_last_offset=include_last_offset)
        how = How(
            combiner=combiner,
            out_of_range=out_of_range,
            padding_id=padding_id,
            frozen=frozen,
            nonfinite=nonfinite,
            rounding_seed=rounding_seed,
        )
        update(self, bags.values, bags, gradients, with_rate(optimizer, learning_rate), how)

    def _update(
        self,
        ids: NDArray[Any],
        bags: Bags | None,
        gradients: Any,
        optimizer: Optimizer,
        how: How,
    ) -> None:
        update(self, ids, bags, gradients, optimizer, how)

    def _check_optimizer(self, optimizer: Optimizer) -> None:
        check_goes_on(self, optimizer)

    def _trained_by(self, optimizer: Optimizer) -> Training:
        """Return the state for this optimizer, made where it is not there."""
        return trained_by(self, optimizer)

    @property
    def optimizer_state(self) -> dict[str, tuple[NDArray[Any], ...]]:
        """What an optimizer keeps of the rows, by stable names such as "adam.exp_avg".

        For each name, an array for each shard, of the shape of the shard or of shape (rows of the
        shard,): the arrays themselves, which later updates change. Empty before the first update.

        Example:
            >>> import numpy as np
            >>> from shardwise import Table, optimizers
            >>> table = Table.from_array(np.zeros((3, 2)), copy=True)
            >>> table.update([1], [[1.0, 2.0]], optimizers.Adagrad())
            >>> list(table.optimizer_state), table.optimizer_state["adagrad.sum"][0].shape
            (['adagrad.sum'], (3, 2))
            >>> table.optimizer_state["adagrad.sum"][0][1], table.optimizer_step
            (array([1., 4.]), 1)
        """
        if self._training is None:
            return {}
        return {name: tuple(arrays) for name, arrays in self._training.state.items()}

    @property
    def optimizer_step(self) -> int:
        """How many updates there were since the state was made.

        Example:
            >>> import numpy as np
            >>> from shardwise import Table, optimizers
            >>> table = Table.from_array(np.zeros((3, 2)), copy=True)
            >>> table.update([1], [[1.0, 2.0]], optimizers.Adagrad())
            >>> table.optimizer_step
            1
        """
        return 0 if self._training is None else self._training.step

    def reset_optimizer(self) -> None:
        """Forget what an optimizer keeps of the rows: the next update is the first again.

        Example:
            >>> import numpy as np
            >>> from shardwise import Table, optimizers
            >>> table = Table.from_array(np.zeros((3, 2)), copy=True)
            >>> table.update([1], [[1.0, 2.0]], optimizers.Adagrad())
            >>> table.reset_optimizer()
            >>> table.optimizer_step, table.optimizer_state
            (0, {})
        """
        reset_optimizer(self)

    def prefetch(self, ids: Any) -> None:
        """Begin to read the rows of a coming lookup or update from the disk, and return at once.

        What an optimizer keeps of the rows is read, too, where the table is open with mode "r+".

        The pages are asked for on another thread, sorted as they lie in the files, as many as the
        system's memory bears: at most 1 GiB may wait. Ids outside the table are passed over, and a
        table in memory has nothing to do. A lookup reads ahead by itself where it finds pages
        missing; this is for the time in which the caller still does something else.

        Raises:
            IdTypeError: ids are not integers.

        Example:
            >>> import tempfile
            >>> from shardwise import Table
            >>> with tempfile.TemporaryDirectory() as folder:
            ...     with Table.create(f"{folder}/t", rows=1000, dim=2) as table:
            ...         table.prefetch([3, 999])  # and meanwhile do something else
            ...         table.lookup([3, 999]).shape
            (2, 2)
        """
        prefetch(self, ids)

    def flush(self) -> None:
        """Wait until everything that was written with mode "r+" is on the disk.

        Example:
            >>> import tempfile
            >>> from shardwise import Table
            >>> with tempfile.TemporaryDirectory() as folder:
            ...     with Table.create(f"{folder}/t", rows=10, dim=2) as table:
            ...         table.write([3], [[1, 2]])
            ...         table.flush()  # what follows may fail: this row is on the disk
        """
        if self._files is not None:
            self._files.flush()

    def close(self) -> None:
        """End the writing of a table that is open with mode "r+": flush it, and let others write.

        The table can still be read. It happens by itself, without the flush, when the table is not
        used any more. For other tables there is nothing to do.

        Example:
            >>> import tempfile
            >>> from shardwise import Table
            >>> with tempfile.TemporaryDirectory() as folder:
            ...     table = Table.create(f"{folder}/t", rows=10, dim=2)
            ...     table.write([3], [[1, 2]])
            ...     table.close()
            ...     table[3]
            array([1., 2.], dtype=float32)
        """
        if self._files is not None:
            try:
                self._files.flush()
            finally:  # also where the disk failed: what is lost is lost, and others may write
                self._files.close()

    def __enter__(self) -> Table:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def describe(self) -> dict[str, Any]:
        """Return what the table is and where it lies, as a JSON object.

        Keys: `mode`, `shape`, `dtype`, `row_format`, `row_bytes`, `bytes`, `partition`, `shards`
        (for each: `rows`, `bytes`, `mapped`, `huge_page_bytes`: how many of its bytes lie in 2 MB
        pages at present), `optimizer` (None, or of what it keeps: `family`, `step` and `state`, the
        names), `threads` and `isa` (the instruction level that lookups use).

        Example:
            >>> import numpy as np
            >>> from shardwise import Table
            >>> about = Table.from_array(np.zeros((3, 2), np.float32), shards=2).describe()
            >>> about["bytes"], [shard["rows"] for shard in about["shards"]], about["mode"]
            (24, [2, 1], 'memory')
        """
        return describe(self)


def _remade(
    shards: Sequence[NDArray[Any]], partition: Partition, layout: Layout, training: Training | None
) -> Table:
    table = Table._make(shards, partition, layout=layout)
    table._training = training
    return table
