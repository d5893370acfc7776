"""Gradients applied to the rows of a table, and the optimizer's state beside them."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np

from shardwise import _native
from shardwise._arrays import as_rows
from shardwise._errors import OptionError, TableError, is_one_of
from shardwise._ids import OutOfRange, as_policy, out_of_range_error
from shardwise._norms import is_small_float
from shardwise._pool import as_id, check_combiner
from shardwise.optimizers import Optimizer, Slot

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from shardwise._bags import Bags
    from shardwise._partition import Partition

Nonfinite: TypeAlias = Literal["error", "propagate"]

TRAINED = ("float16", "bfloat16", "float32", "float64")


@dataclass(eq=False)
class Training:
    """What an optimizer keeps of a table: cut like its shards, by stable names.

    Attributes:
        family: whose it is, such as "adam".
        counter: int64[1], how many updates there were; of a table of files, in a file.
        state: by the names of slots, an array for each shard: of the shard's shape, or of shape
            (rows of the shard,).
    """

    family: str
    counter: NDArray[np.int64] = field(default_factory=lambda: np.zeros(1, np.int64))
    state: dict[str, list[NDArray[Any]]] = field(default_factory=dict)
    _updater: tuple[tuple[str, ...], _native.Updater] | None = None

    @property
    def step(self) -> int:
        """How many updates there were."""
        return _native.counted(self.counter)

    def has(self, slots: Iterable[Slot]) -> bool:
        """Whether all of these are kept already."""
        return all(slot.name in self.state for slot in slots)

    def prefetch(self, partition: Partition, ids: NDArray[Any]) -> None:
        """Begin to read the state of rows from the disk; see `Table.prefetch`."""
        for arrays in self.state.values():
            first = arrays[0]
            tail, dtype = first.shape[1:], first.dtype
            bytes_of = math.prod(tail) * dtype.itemsize
            rows = _native.Rows(partition._core, arrays, dtype, tail, bytes_of, dtype.name, True)
            rows.prefetch(ids)

    def describe(self) -> dict[str, Any]:
        """Return what it is, as a JSON object."""
        return {"family": self.family, "step": self.step, "state": list(self.state)}

    def __reduce__(self) -> tuple[Any, ...]:
        return Training, (self.family, self.counter, self.state)

    def updater(
        self,
        partition: Partition,
        shards: tuple[NDArray[Any], ...],
        slots: tuple[Slot, ...],
        mapped: bool,
    ) -> _native.Updater:
        """Return what writes to these rows, and to the state of the slots."""
        names = tuple(slot.name for slot in slots)
        if self._updater is None or self._updater[0] != names:
            first = shards[0]
            row_bytes = math.prod(first.shape[1:]) * first.dtype.itemsize
            for slot in slots:
                array = self.state[slot.name][0]
                dtype, tail = state_dtype(slot, first.dtype), first.shape[1:]
                if array.dtype != dtype or array.shape[1:] != (() if slot.per_row else tail):
                    raise TableError(
                        f"expected {slot.name!r} of {dtype} beside rows of shape {tail}, got "
                        f"{array.dtype} of shape {array.shape[1:]}; call reset_optimizer() to "
                        "begin anew"
                    )
            states: list[list[NDArray[Any]] | None] = [self.state[name] for name in names]
            made = _native.Updater(
                partition._core, list(shards), first.dtype.name, row_bytes, states, mapped
            )
            self._updater = names, made
        return self._updater[1]


def check_trained(dtype: np.dtype[Any]) -> None:
    """Refuse rows that gradients cannot change.

    Raises:
        TableError: they are no floating-point numbers of 16, 32 or 64 bits.
    """
    is_float = dtype.kind == "f" or is_small_float(dtype)
    if not is_float or not dtype.isnative or dtype.name not in TRAINED:
        raise TableError(
            f"expected rows of {', '.join(TRAINED)} to train, got {dtype}; make a table of "
            "rows.astype(numpy.float32)"
        )


def state_dtype(slot: Slot, dtype: np.dtype[Any]) -> np.dtype[Any]:
    """Return the dtype of a slot's numbers for a table of this dtype."""
    if slot.counts:
        return np.dtype(np.int64)
    return np.dtype(np.float64 if dtype == np.float64 else np.float32)


def make_state(slot: Slot, shards: tuple[NDArray[Any], ...], step: int) -> list[NDArray[Any]]:
    """Make a slot's numbers in memory, as they are before the first update.

    Args:
        slot: whose.
        shards: the rows.
        step: how many updates there were: rows have missed none of them.
    """
    dtype = state_dtype(slot, shards[0].dtype)
    initial = step if slot.counts else slot.initial
    arrays = []
    for shard in shards:
        array = _native.zeros(shard.shape[:1] if slot.per_row else shard.shape, dtype)
        if initial:
            array.fill(initial)
        arrays.append(array)
    return arrays


def with_rate(optimizer: Any, learning_rate: Any) -> Optimizer:
    """Return the optimizer, with a learning rate of its own for this step.

    Raises:
        OptionError: it is no optimizer.
    """
    if not isinstance(optimizer, Optimizer) or type(optimizer) is Optimizer:
        hint = "; make one of the class" if isinstance(optimizer, type) else ""
        raise OptionError(
            f"expected an optimizer of shardwise.optimizers, got {optimizer!r:.80}{hint}"
        )
    if learning_rate is None:
        return optimizer
    changed: Optimizer = replace(optimizer, learning_rate=learning_rate)  # type: ignore[type-var]
    return changed


def as_gradients(
    gradients: Any, shape: tuple[int, ...], dtype: np.dtype[Any], shards: tuple[NDArray[Any], ...]
) -> NDArray[Any]:
    """Return gradients as the kernels read them, without a copy where there can be.

    Args:
        gradients: what has them.
        shape: the shape that they must have.
        dtype: of the rows.
        shards: the rows: gradients must not change with them.

    Raises:
        TableError: they have another shape, or are no floating-point numbers.
    """
    array = gradients if isinstance(gradients, np.ndarray) else _as_array(gradients)
    array = as_rows(array, "gradients") if array.ndim else array
    is_float = array.dtype.kind == "f" or is_small_float(array.dtype)
    if not is_float or array.dtype.kind == "c":
        raise TableError(
            f"expected gradients of floating-point numbers, got {array.dtype} "
            f"of shape {array.shape}"
        )
    if array.shape != shape:
        raise TableError(f"expected gradients of shape {shape}, got {array.shape}")
    wanted = np.float64 if dtype == np.float64 else np.float32
    with np.errstate(over="ignore"):  # an infinity is told with its place
        found = np.require(array, wanted, ["C", "A"])
    if any(np.may_share_memory(found, shard) for shard in shards):
        found = found.copy()
    return found


def _as_array(gradients: Any) -> NDArray[Any]:
    if hasattr(gradients, "__dlpack__"):
        return as_rows(gradients, "gradients")
    try:
        return np.asarray(gradients)
    except (TypeError, ValueError) as error:
        raise TableError(f"expected gradients as an array, got {error}") from None


def as_frozen(frozen: Any, rows: int) -> tuple[NDArray[np.uint8] | None, tuple[int, int]]:
    """Return the rows that stay as they are: a flag for each, or None, and a range of them.

    Raises:
        OptionError: it is no slice and no array of `rows` booleans.
    """
    if frozen is None:
        return None, (0, 0)
    flags = None
    try:
        if isinstance(frozen, slice):
            begin, end, step = frozen.indices(rows)
            if step == 1:
                return None, (begin, max(begin, end))
        elif not isinstance(frozen, str):
            flags = np.asarray(frozen)
    except (TypeError, ValueError):  # of no numbers, or ragged
        pass
    if flags is None or flags.dtype != np.bool_ or flags.shape != (rows,):
        got = repr(frozen)[:60] if flags is None else f"{flags.dtype} of shape {flags.shape}"
        raise OptionError(
            f"expected frozen as a slice of step 1, or as {rows} booleans, one for each row; "
            f"got {got}"
        )
    return np.ascontiguousarray(flags).view(np.uint8), (0, 0)


@dataclass(frozen=True)
class How:
    """The options of an update; see `Table.update_pool`."""

    combiner: str = "sum"
    out_of_range: OutOfRange = "error"
    padding_id: int | None = None
    frozen: Any = None
    nonfinite: str = "error"
    rounding_seed: int | None = None
    skip_negative: bool = False
    skip_weightless: bool = False


@dataclass(frozen=True)
class Checked:
    """An update of which all is known but its ids and the numbers of its gradients."""

    names: dict[str, Any]
    gradients: NDArray[Any]
    num_rows: int

    def refuse(self, partition: Partition, shards: tuple[NDArray[Any], ...]) -> None:
        """Raise what `run` would raise of ids and gradients; nothing is changed.

        It is a step in which all rows are frozen, of an optimizer that keeps nothing of them.
        """
        first = shards[0]
        row_bytes = math.prod(first.shape[1:]) * first.dtype.itemsize
        updater = _native.Updater(
            partition._core, list(shards), first.dtype.name, row_bytes, [], False
        )
        names = self.names | {"frozen": None, "frozen_range": (0, self.num_rows)}
        replace(self, names=names).run(updater, _native.Rule(kind="sgd", learning_rate=0.0), None)

    def run(
        self, updater: _native.Updater, rule: _native.Rule, changed: NDArray[np.uint8] | None
    ) -> None:
        """Change the rows; set their bits in `changed`.

        Raises:
            IdOutOfRangeError: an id is outside the table; nothing is changed.
            TableError: a gradient is not finite, and may not be; nothing is changed.
        """
        try:
            updater.update(gradients=self.gradients, rule=rule, changed=changed, **self.names)
        except _native.RefusedUpdate as error:
            what, *numbers = str(error).split()
            if what == "id":
                shape, (position, value) = self.names["ids"].shape, map(int, numbers)
                raise out_of_range_error(shape, position, value, self.num_rows) from None
            raise nonfinite_error(self.gradients, int(numbers[0])) from None


def nonfinite_error(gradients: NDArray[Any], position: int) -> TableError:
    """Return the error for a number that is not finite: `position` counts in C order."""
    where = np.unravel_index(position, gradients.shape)
    place = ", ".join(str(int(i)) for i in where)
    return TableError(
        f"expected finite gradients, got {gradients[where]} at gradients[{place}]; "
        'leave out the step, or pass nonfinite="propagate"'
    )


def check_update(
    ids: NDArray[Any],
    bags: Bags | None,
    gradients: Any,
    how: How,
    shape: tuple[int, ...],
    shards: tuple[NDArray[Any], ...],
) -> Checked:
    """Check all of an update that can be checked without reading its ids.

    Args:
        ids: of any shape, as `as_ids` gives them; those of the bags, if there are bags.
        bags: from `as_bags`, or None for a gradient for each id.
        gradients: what has them.
        how: the options.
        shape: of the table.
        shards: its rows.

    Raises:
        OptionError: an option has a value that it cannot have.
        TableError: gradients of another shape or of no numbers.
    """
    dtype = shards[0].dtype
    check_trained(dtype)
    check_combiner(how.combiner)
    if not is_one_of(how.nonfinite, ("error", "propagate")):
        raise OptionError(
            f"expected nonfinite to be 'error' or 'propagate', got {how.nonfinite!r:.40}"
        )
    policy, stand_in = as_policy(how.out_of_range, shape[0])
    padding = None if how.padding_id is None else as_id("padding_id", how.padding_id)
    if padding is not None and padding < 0 and ids.dtype.kind == "u":
        padding = None  # there is no such id
    seed = None if how.rounding_seed is None else as_id("rounding_seed", how.rounding_seed)
    flags, frozen_range = as_frozen(how.frozen, shape[0])
    weights = None if bags is None else bags.weights
    if weights is not None:
        wanted = np.float64 if dtype == np.float64 else np.float32
        with np.errstate(over="ignore"):
            weights = np.ascontiguousarray(weights, wanted)
    lead = ids.shape if bags is None else bags.lead
    names = {
        "ids": ids,
        "offsets": None if bags is None else bags.offsets,
        "weights": weights,
        "combiner": how.combiner,
        "policy": policy,
        "stand_in": stand_in,
        "padding": padding,
        "skip_negative": how.skip_negative,
        "skip_weightless": how.skip_weightless,
        "check_finite": how.nonfinite == "error",
        "frozen": flags,
        "frozen_range": frozen_range,
        "seed": None if seed is None else seed % (1 << 64),
    }
    return Checked(names, as_gradients(gradients, lead + shape[1:], dtype, shards), shape[0])
