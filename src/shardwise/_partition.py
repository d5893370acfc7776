"""How the ids of a table fall on its shards: a frozen value, no data."""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray

from shardwise import _native
from shardwise._balance import LIMIT, as_count, balanced
from shardwise._errors import PartitionError, require
from shardwise._ids import as_ids, out_of_range_error

Strategy: TypeAlias = Literal["mod", "div", "ranges"]


@dataclass(frozen=True, slots=True, repr=False)
class Partition:
    """How `num_rows` ids fall on `num_shards` shards.

    Make one with `Partition.mod`, `Partition.div` or `Partition.ranges`. Partitions are values:
    they are equal when strategy, rows and shards (and boundaries) are, can be hashed, pickled and
    written as JSON, and hold no data. All arithmetic is in 64 bits.

    Attributes:
        strategy: "mod", "div" or "ranges".
        num_rows: how many ids there are, from 0 to 2**63 - 1.
        num_shards: on how many shards they fall, at least 1; it may exceed `num_rows`.
        boundaries: for "ranges", the `num_shards + 1` cumulative boundaries; else None.

    Example:
        >>> from shardwise import Partition
        >>> partition = Partition.mod(num_rows=9, num_shards=3)
        >>> partition.locate([0, 3, 4, 1, 7])
        (array([0, 0, 1, 1, 1]), array([0, 1, 1, 0, 2]))
        >>> partition.ids_of(1), partition.shard_sizes
        (array([1, 4, 7]), (3, 3, 3))
    """

    strategy: Strategy
    num_rows: int
    num_shards: int
    boundaries: tuple[int, ...] | None = None
    _core: _native.Partition = field(init=False, compare=False)

    def __post_init__(self) -> None:
        num_rows = as_count(self.num_rows, "num_rows", least=0)
        num_shards = as_count(self.num_shards, "num_shards", least=1)
        object.__setattr__(self, "num_rows", num_rows)
        object.__setattr__(self, "num_shards", num_shards)
        if not isinstance(self.strategy, str):
            raise unknown_strategy(self.strategy)
        if self.strategy == "ranges":
            boundaries = _boundaries(self.boundaries)
            if len(boundaries) != num_shards + 1 or boundaries[-1] != num_rows:
                raise PartitionError(
                    f"expected {num_shards + 1} boundaries from 0 to {num_rows}, got "
                    f"{len(boundaries)} up to {boundaries[-1]}; use Partition.ranges(boundaries)"
                )
            object.__setattr__(self, "boundaries", boundaries)
            core = _native.Partition.ranges(boundaries)
        elif self.strategy not in ("mod", "div"):
            raise unknown_strategy(self.strategy)
        elif self.boundaries is not None:
            raise PartitionError(f'expected boundaries for "ranges" only, not {self.strategy!r}')
        elif self.strategy == "mod":
            core = _native.Partition.mod(num_rows, num_shards)
        else:
            core = _native.Partition.div(num_rows, num_shards)
        object.__setattr__(self, "_core", core)

    @classmethod
    def mod(cls, num_rows: int, num_shards: int) -> Partition:
        """Deal ids out in turn: id i is row i // num_shards of shard i % num_shards.

        Shard k holds `array[k::num_shards]`.

        Raises:
            PartitionError: a number is not whole, negative, or there are no shards.

        Example:
            >>> from shardwise import Partition
            >>> [Partition.mod(5, 2).ids_of(k).tolist() for k in range(2)]
            [[0, 2, 4], [1, 3]]
        """
        return cls("mod", num_rows, num_shards)

    @classmethod
    def div(cls, num_rows: int, num_shards: int) -> Partition:
        """Cut ids into contiguous shards; the first `num_rows % num_shards` have one row more.

        Shard k holds `numpy.array_split(array, num_shards)[k]`.

        Raises:
            PartitionError: a number is not whole, negative, or there are no shards.

        Example:
            >>> from shardwise import Partition
            >>> [Partition.div(5, 2).ids_of(k).tolist() for k in range(2)]
            [[0, 1, 2], [3, 4]]
        """
        return cls("div", num_rows, num_shards)

    @classmethod
    def ranges(cls, boundaries: Sequence[int] | NDArray[np.integer[Any]]) -> Partition:
        """Cut ids at any boundaries: shard k holds the ids from boundaries[k] to boundaries[k + 1].

        `boundaries` are cumulative: they begin with 0, do not decrease, and end with the number of
        rows, so shards of 4 and 2 rows are `Partition.ranges([0, 4, 6])`.

        Raises:
            PartitionError: they are not such numbers.

        Example:
            >>> from shardwise import Partition
            >>> partition = Partition.ranges([0, 4, 6])
            >>> partition.shard_sizes, partition.locate(5)
            ((4, 2), (array(1), array(1)))
        """
        checked = _boundaries(boundaries)
        return cls("ranges", checked[-1], len(checked) - 1, checked)

    @classmethod
    def balanced(
        cls, counts: ArrayLike, num_shards: int, *, max_rows: int | None = None
    ) -> Partition:
        """Cut ids into contiguous shards with as equal a traffic as can be.

        The largest sum of counts of a shard is the least that any cut has, so neighbours that are
        asked for often come to lie on many shards. It is a `Partition.ranges`: what is stored with
        the table are the boundaries alone.

        Args:
            counts: of shape (rows,): how often each id is asked for, such as
                `numpy.bincount(sample, minlength=rows)` of a sample of ids. What counts for tables
                of many processes is in how many batches an id is, for each batch asks once.
            num_shards: how many shards.
            max_rows: how many rows a shard may have; by default twice those of an even cut, for
                rows that nobody asks for take memory, too.

        Raises:
            PartitionError: counts that are negative or no numbers, or so many rows do not fit.

        Example:
            >>> from shardwise import Partition
            >>> Partition.balanced([9, 6, 3, 1, 1, 1, 1, 1, 1, 1], 3)
            Partition.ranges([0, 1, 3, 10])
        """
        shards = as_count(num_shards, "num_shards", least=1)
        most = None if max_rows is None else as_count(max_rows, "max_rows", least=1)
        return cls.ranges(balanced(counts, shards, most))

    @property
    def shard_sizes(self) -> tuple[int, ...]:
        """How many rows each shard has."""
        return tuple(map(self._core.shard_size, range(self.num_shards)))

    def locate(self, ids: ArrayLike) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return (shards, rows), two int64 arrays of the shape of `ids`: where each id lies.

        Raises:
            IdOutOfRangeError: an id is not from 0 to num_rows - 1.
            IdTypeError: ids are not integers.

        Example:
            >>> from shardwise import Partition
            >>> Partition.div(5, 2).locate([0, 3])
            (array([0, 1]), array([0, 0]))
        """
        array = as_ids(ids)
        # The native function takes int64, where an id of 2**63 and more would be negative.
        if array.dtype == np.uint64 and (beyond := array >= self.num_rows).any():
            position = int(beyond.argmax())
            raise out_of_range_error(
                array.shape, position, int(array.reshape(-1)[position]), self.num_rows
            )
        flat = array.reshape(-1).astype(np.int64, copy=False)
        shards = np.empty(flat.shape, np.int64)
        rows = np.empty(flat.shape, np.int64)
        position = self._core.locate(flat, shards, rows)
        if position < flat.size:
            raise out_of_range_error(array.shape, position, int(flat[position]), self.num_rows)
        return shards.reshape(array.shape), rows.reshape(array.shape)

    def ids_of(self, shard: int, rows: ArrayLike | None = None) -> NDArray[np.int64]:
        """Return the ids that lie in a shard, in the order of its rows: the inverse of `locate`.

        `rows` asks for those rows of the shard only, in an array of any shape.

        Raises:
            PartitionError: there is no such shard.
            IdOutOfRangeError: the shard has no such row.

        Example:
            >>> from shardwise import Partition
            >>> Partition.mod(9, 3).ids_of(1), Partition.mod(9, 3).ids_of(1, rows=[2, 0])
            (array([1, 4, 7]), array([7, 1]))
        """
        k = operator.index(shard)
        if not 0 <= k < self.num_shards:
            raise PartitionError(f"expected a shard from 0 to {self.num_shards - 1}, got {shard}")
        size = self._core.shard_size(k)
        step = self.num_shards if self.strategy == "mod" else 1
        if self.boundaries is not None:
            first = self.boundaries[k]
        elif self.strategy == "mod":
            first = k
        else:
            first = k * (self.num_rows // self.num_shards) + min(k, self.num_rows % self.num_shards)
        if rows is None:
            return np.arange(size, dtype=np.int64) * step + first
        local = as_ids(rows)
        bad = (local < 0) | (local >= size)
        if bad.any():
            position = int(bad.argmax())
            raise out_of_range_error(local.shape, position, int(local.flat[position]), size)
        return cast("NDArray[np.int64]", local.astype(np.int64) * step + first)

    def to_json(self) -> dict[str, Any]:
        """Return the partition as a JSON object, the form that is stored with a table.

        Example:
            >>> from shardwise import Partition
            >>> Partition.mod(9, 3).to_json()
            {'strategy': 'mod', 'num_rows': 9, 'num_shards': 3}
        """
        form: dict[str, Any] = {
            "strategy": self.strategy,
            "num_rows": self.num_rows,
            "num_shards": self.num_shards,
        }
        return form if self.boundaries is None else form | {"boundaries": list(self.boundaries)}

    @classmethod
    def from_json(cls, form: Mapping[str, Any]) -> Partition:
        """Return the partition that `to_json` wrote.

        Raises:
            PartitionError: a key is missing, or a value makes no partition.

        Example:
            >>> from shardwise import Partition
            >>> Partition.from_json({"strategy": "div", "num_rows": 9, "num_shards": 3})
            Partition.div(num_rows=9, num_shards=3)
        """
        try:
            require(form, Mapping, "form", PartitionError)
            strategy, rows, shards = form["strategy"], form["num_rows"], form["num_shards"]
        except (KeyError, TypeError):
            raise PartitionError(
                f"expected an object with strategy, num_rows and num_shards, got {form!r}"
            ) from None
        return cls(strategy, rows, shards, form.get("boundaries"))

    def __reduce__(self) -> tuple[Any, ...]:
        return Partition, (self.strategy, self.num_rows, self.num_shards, self.boundaries)

    def __repr__(self) -> str:
        if self.boundaries is None:
            return (
                f"Partition.{self.strategy}(num_rows={self.num_rows}, num_shards={self.num_shards})"
            )
        return f"Partition.ranges({list(self.boundaries)})"


def as_partition(partition: str | Partition, num_rows: int, num_shards: int) -> Partition:
    """Return the partition itself, or the one of that strategy; "ranges" cannot be named alone.

    Raises:
        PartitionError: it is neither, or a partition of another number of rows or shards.
    """
    if isinstance(partition, Partition):
        if (partition.num_rows, partition.num_shards) != (num_rows, num_shards):
            raise PartitionError(
                f"expected a partition of {num_rows} rows in {num_shards} shards, got {partition}"
            )
        return partition
    strategy: object = partition  # anything, in truth: an array would answer == with an array
    if isinstance(strategy, str) and strategy in ("mod", "div"):
        return Partition(cast("Strategy", strategy), num_rows, num_shards)
    raise unknown_strategy(strategy)


def unknown_strategy(strategy: object) -> PartitionError:
    """Return the error for what is no strategy's name."""
    return PartitionError(
        f'expected a partition strategy "mod" or "div", or a Partition, got {strategy!r}; '
        "for shards of any lengths pass Partition.ranges(boundaries)"
    )


def check_shard_sizes(partition: Partition, sizes: Sequence[int]) -> None:
    """Refuse shards that are not as long as the partition says, and say which partition fits.

    Raises:
        PartitionError: a length differs.
    """
    expected = partition.shard_sizes
    if tuple(sizes) == expected:
        return
    k = next(k for k, size in enumerate(sizes) if size != expected[k])
    boundaries = [0, *(int(b) for b in np.cumsum(np.asarray(sizes, np.int64)))]
    fitting = [
        f"Partition.{other.strategy}"
        for other in (
            Partition.mod(partition.num_rows, partition.num_shards),
            Partition.div(partition.num_rows, partition.num_shards),
        )
        if other.shard_sizes == tuple(sizes)
    ]
    fitting.append(f"Partition.ranges({_shown(boundaries)}) if they are contiguous pieces")
    raise PartitionError(
        f"expected shards of {_shown(expected)} rows, as {partition.strategy!r} cuts "
        f"{partition.num_rows} rows into {partition.num_shards} shards; got {_shown(sizes)} "
        f"(shard {k} is the first that differs); these lengths fit {' or '.join(fitting)}"
    )


def _shown(numbers: Sequence[int]) -> str:
    if len(numbers) <= 12:
        return f"[{', '.join(map(str, numbers))}]"
    return f"[{', '.join(map(str, numbers[:5]))}, ..., {numbers[-1]}] ({len(numbers)} in all)"


def _boundaries(boundaries: object) -> tuple[int, ...]:
    try:
        numbers = tuple(operator.index(b) for b in boundaries)  # type: ignore[attr-defined]
    except TypeError:
        numbers = ()
    if len(numbers) < 2 or numbers[0] != 0 or numbers[-1] > LIMIT:
        raise PartitionError(
            "expected boundaries as at least two whole numbers that begin with 0 and end with "
            f"the number of rows, got {boundaries!r}"
        )
    for k in range(1, len(numbers)):
        if numbers[k] < numbers[k - 1]:
            raise PartitionError(
                f"expected boundaries that do not decrease, got {numbers[k]} after "
                f"{numbers[k - 1]} at position {k}"
            )
    return numbers
