"""Random lives of one table, beside a model of it in NumPy: every answer is compared to the bit."""

from __future__ import annotations

import pickle
import shutil
import tempfile
import traceback
from pathlib import Path
from typing import Any

import hypothesis
import ml_dtypes
import numpy as np
from hypothesis import HealthCheck, Phase, Verbosity, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from numpy.typing import NDArray

import shardwise
from shardwise import IdOutOfRangeError, Partition, Table, TableError, optimizers, store

from .counts import Run
from .model import Model

DTYPES = (np.float32, np.float16, np.float64, ml_dtypes.bfloat16, np.int32, np.uint8, np.int64)
FLOATS = tuple(np.dtype(one) for one in DTYPES[:4])
OPTIMIZERS = (optimizers.SGD(0.25), optimizers.SGD(0.1, momentum=0.5), optimizers.Adagrad(0.1))
seeds = st.integers(0, 2**32 - 1)
counts = st.integers(0, 40)


@st.composite
def partitions(draw: st.DrawFn, rows: int) -> Partition:
    kind = draw(st.sampled_from(("mod", "div", "ranges")))
    shards = draw(st.integers(1, 7))
    if kind == "ranges":
        inner = draw(st.lists(st.integers(0, rows), max_size=5))
        return Partition.ranges([0, *sorted(inner), rows])
    return Partition.mod(rows, shards) if kind == "mod" else Partition.div(rows, shards)


def some_rows(seed: int, count: int, like: NDArray[Any]) -> NDArray[Any]:
    """Random rows of the dtype, among them zeros of both signs and numbers far apart."""
    rng = np.random.default_rng(seed)
    shape = (count, *like.shape[1:])
    if like.dtype.kind in "iu":
        return rng.integers(0, 200, shape).astype(like.dtype)
    values = rng.standard_normal(shape) * rng.choice([0.0, -0.0, 1e-3, 1.0, 30.0], shape)
    rows: NDArray[Any] = values.astype(like.dtype)
    return rows


class Life(RuleBasedStateMachine):
    """One table: in memory, or on disk in one of three modes; cut in any way; packed or not."""

    run: Run  # set by `run`

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(dir=self.run.folder))
        self.names = 0

    def teardown(self) -> None:
        if hasattr(self, "table"):
            self.table.close()
            self.run.count("lives")
        shutil.rmtree(self.folder)

    def count(self, what: str) -> None:
        self.run.count(what)

    def fresh(self) -> Path:
        self.names += 1
        return self.folder / f"table{self.names}"

    # ---- how a life begins ----

    @initialize(data=st.data(), rows=st.integers(0, 60), dim=st.integers(1, 21), seed=seeds)
    def begin(self, data: st.DataObject, rows: int, dim: int, seed: int) -> None:
        dtype = np.dtype(data.draw(st.sampled_from(DTYPES)))
        cut = data.draw(partitions(rows))
        way = data.draw(st.sampled_from(("array", "shards", "create", "initializer")))
        self.path: Path | None = None
        self.kept: dict[Path, tuple[Model, Partition]] = {}  # saved tables, and what is in them
        self.kept_checkpoint: Model | None = None
        self.packed = False
        whole = some_rows(seed, rows, np.zeros((0, dim), dtype))
        if way == "array":
            self.table = Table.from_array(whole.copy(), cut.num_shards, cut, copy=True)
        elif way == "shards":
            self.table = Table.from_shards(
                [whole[cut.ids_of(k)] for k in range(cut.num_shards)], cut
            )
        else:
            first: Any = "zeros"
            whole = np.zeros_like(whole)
            if way == "initializer" and dtype in FLOATS:
                first = shardwise.initializers.normal(seed=seed)
                whole = first.maker((rows, dim), dtype)(np.arange(rows)).astype(dtype)
            self.path = self.fresh()
            self.table = Table.create(self.path, rows, dim, dtype, partition=cut, initializer=first)
        self.model = Model(whole)
        self.count(f"tables made: {'on disk' if self.path else 'in memory'}")

    # ---- what can be asked ----

    def ids(self, seed: int, count: int, low: int, high: int) -> NDArray[Any]:
        rng = np.random.default_rng(seed)
        dtype = rng.choice(["int64", "int32", "uint8", "int8", "uint64"])
        ids = rng.integers(low, max(high, low + 1), count)
        small = ids.size == 0 or (ids.min() >= 0 and ids.max() < 127)
        found: NDArray[Any] = ids.astype(dtype if small else "int64")
        return found

    def inside(self, seed: int, count: int) -> NDArray[Any]:
        return self.ids(seed, count if len(self.table) else 0, 0, len(self.table))

    @rule(seed=seeds, count=st.integers(0, 300), rank=st.integers(1, 3))
    def lookup(self, seed: int, count: int, rank: int) -> None:
        ids = self.inside(seed, count)
        ids = ids.reshape((1,) * (rank - 1) + (-1,))
        same(self.table.lookup(ids), self.model.rows[ids.astype(np.int64)])
        self.count("lookups")

    @precondition(lambda self: len(self.table) > 0)
    @rule(seed=seeds, count=counts, policy=st.sampled_from(("zeros", "clamp", "wrap", 0)))
    def lookup_outside(self, seed: int, count: int, policy: Any) -> None:
        ids = self.ids(seed, count, -50, 110)
        found = self.table.lookup(ids, out_of_range=policy)
        same(found, self.model.lookup(ids, policy))
        self.count("lookups with ids outside")

    @rule(seed=seeds, beyond=st.sampled_from((0, 1, 1000, 2**62)), negative=st.booleans())
    def refused(self, seed: int, beyond: int, negative: bool) -> None:
        ids = [
            *self.inside(seed, 5).tolist(),
            -1 - beyond if negative else len(self.table) + beyond,
        ]
        for attempt in (
            lambda: self.table.lookup(ids),
            lambda: self.table.write(ids, np.zeros(self.model.rows.shape[1:], self.table.dtype)),
            lambda: self.table.update(ids, self.gradients(seed, len(ids)), OPTIMIZERS[0]),
        ):
            try:
                attempt()
            except IdOutOfRangeError:
                continue
            except TableError:  # read-only, packed, or no floats: said before the ids are looked at
                continue
            raise AssertionError(f"{ids} were taken by a table of {len(self.table)} rows")
        self.count("refused calls")

    def is_pooled(self) -> bool:
        return self.packed or self.model.rows.dtype in FLOATS

    def bags(self, seed: int, count: int) -> list[list[int]]:
        rng = np.random.default_rng(seed)
        most = 9 if len(self.table) else 1
        return [
            rng.integers(0, max(1, len(self.table)), rng.integers(0, most)).tolist()
            for _ in range(count)
        ]

    @precondition(is_pooled)
    @rule(
        seed=seeds,
        count=counts,
        how=st.sampled_from(("sum", "mean", "sqrtn", "max")),
        weighted=st.booleans(),
    )
    def pool(self, seed: int, count: int, how: Any, weighted: bool) -> None:
        bags = self.bags(seed, count)
        rng = np.random.default_rng(seed)
        weights = [rng.standard_normal(len(bag)).tolist() for bag in bags] if weighted else None
        with np.errstate(all="ignore"):
            expected = self.model.pool(bags, weights, how)
        if any(bags):  # without a single id a list does not say that it holds lists of ids
            same(self.table.pool(bags, weights=weights, combiner=how), expected)
        offsets = np.concatenate(([0], np.cumsum([len(bag) for bag in bags]))).astype(np.int64)
        flat = np.array([id for bag in bags for id in bag], np.int64)
        own = None if weights is None else np.array([w for bag in weights for w in bag])
        found = self.table.pool(flat, offsets, weights=own, combiner=how, include_last_offset=True)
        same(found, expected)
        self.count("pools")

    @rule(seed=seeds)
    def ahead(self, seed: int) -> None:
        self.table.prefetch(self.inside(seed, 50))
        assert self.table.describe()["shape"] == list(self.model.rows.shape)
        self.count("prefetches")

    # ---- what changes rows ----

    def is_writable(self) -> bool:
        return self.table.mode != "r"

    @precondition(is_writable)
    @rule(seed=seeds, count=counts)
    def write(self, seed: int, count: int) -> None:
        if self.packed:
            return
        ids = self.inside(seed, count)
        rows = some_rows(seed, len(ids), self.model.rows)
        self.table.write(ids, rows)
        self.model.write(ids.tolist(), rows)
        self.count("writes of rows")

    def gradients(self, seed: int, count: int) -> NDArray[Any]:
        rng = np.random.default_rng(seed)
        return rng.standard_normal((count, *self.model.rows.shape[1:])).astype(np.float32)

    def trains(self) -> bool:
        return self.is_writable() and not self.packed and self.model.rows.dtype in FLOATS

    def optimizer_for(self, choice: int) -> optimizers.Optimizer:
        """The chosen one; where another one's state is there, it is forgotten first."""
        optimizer = OPTIMIZERS[choice % len(OPTIMIZERS)]
        wanted = {slot.name for slot in optimizer.slots()}
        if self.model.step and set(self.model.state) != wanted:
            self.table.reset_optimizer()
            self.model.forget()
            self.count("states forgotten")
        return optimizer

    @precondition(trains)
    @rule(seed=seeds, count=counts, choice=st.integers(0, 2))
    def update(self, seed: int, count: int, choice: int) -> None:
        optimizer = self.optimizer_for(choice)
        ids = self.inside(seed, count)
        gradients = self.gradients(seed, len(ids))
        self.table.update(ids, gradients, optimizer)
        self.model.update(ids.tolist(), gradients, optimizer)
        self.count("updates")

    @precondition(trains)
    @rule(seed=seeds, count=counts, choice=st.integers(0, 2))
    def update_pool(self, seed: int, count: int, choice: int) -> None:
        optimizer = self.optimizer_for(choice)
        bags = [bag for bag in self.bags(seed, count) if bag]
        if not bags:
            return
        gradients = self.gradients(seed, len(bags))
        self.table.update_pool(bags, None, gradients, optimizer)
        ids = [id for bag in bags for id in bag]
        spread = np.repeat(gradients, [len(bag) for bag in bags], axis=0)
        self.model.update(ids, spread, optimizer)
        self.count("updates of pooled rows")

    @precondition(lambda self: not self.is_writable())
    @rule()
    def read_only(self) -> None:
        try:
            self.table.write([], np.zeros((0, *self.model.rows.shape[1:]), self.table.dtype))
        except TableError:
            self.count("refused calls")
            return
        raise AssertionError("a table of mode 'r' was written to")

    # ---- disks ----

    @rule(over=st.booleans())
    def save(self, over: bool) -> None:
        known = [path for path in self.kept if path != self.path]
        path = known[0] if over and known else self.fresh()
        self.table.save(path, overwrite=path in self.kept)
        self.kept[path] = (self.model.copy(), self.table.partition)
        self.count("saves")

    @precondition(lambda self: self.kept)
    @rule(data=st.data(), mode=st.sampled_from(("r", "r+", "c")), verify=st.booleans())
    def reopen(self, data: st.DataObject, mode: Any, verify: bool) -> None:
        path = data.draw(st.sampled_from(sorted(self.kept)))
        self.leave()
        self.path = path
        self.table = Table.open(path, mode, verify=verify)
        self.model = self.kept[path][0].copy()
        assert self.table.partition == self.kept[path][1]
        assert self.table.mode == mode
        self.packed = self.table.row_format in ("int8", "int4")
        self.kept_checkpoint = None
        self.count(f"opened with mode {mode}")

    def leave(self) -> None:
        """Close the table; what was done in place is what is there from now on."""
        if self.table.mode == "r+" and self.path is not None:
            self.kept[self.path] = (self.model.copy(), self.table.partition)
        self.table.close()

    @precondition(lambda self: self.kept)
    @rule(data=st.data(), in_place=st.booleans())
    def reshard(self, data: st.DataObject, in_place: bool) -> None:
        path = data.draw(st.sampled_from(sorted(self.kept)))
        if path == self.path and self.table.mode == "r+":
            return  # who writes there has the lock
        model = self.kept[path][0]
        cut = data.draw(partitions(len(model.rows)))
        to = path if in_place else self.fresh()
        store.reshard(path, to, partition=cut, overwrite=in_place)
        self.kept[to] = (model, cut)
        assert all(one.state in ("ok", "updated") for one in store.verify_table(to))
        self.count("reshards")

    @rule(row_format=st.sampled_from(("int8", "int4")))
    def quantize(self, row_format: str) -> None:
        rows = self.model.rows
        if self.packed or rows.dtype not in FLOATS:
            return
        packed = self.table.quantize(row_format)
        values = shardwise.dequantize_rows(
            shardwise.quantize_rows(rows, row_format), row_format, rows.shape[1]
        )
        wide = rows.astype(np.float64)
        span = np.ptp(wide, axis=1, keepdims=True) if len(rows) else np.zeros((0, 1))
        # Half a step; for int4 the scale and the bias are float16, which moves each value again.
        # Rows of float64 are rounded to float32 first, and so is what a value is made of.
        largest = np.abs(wide).max(axis=1, keepdims=True) if len(rows) else span
        bound = span / 510 * (1 + 1e-5) + largest * 2.0**-22 + 1e-6
        if row_format == "int4":
            bound = span / 30 + span / 1000 + largest / 1000 + 1e-6
        assert (np.abs(values - wide) <= bound).all()
        self.leave()
        self.table, self.path, self.packed = packed, None, True
        self.model = Model(values)
        self.kept_checkpoint = None
        self.count("tables quantized")

    @rule(whole=st.booleans())
    def checkpoint(self, whole: bool) -> None:
        path = self.folder / "checkpoint"
        # After another table, or one that was opened anew, it is another table's checkpoint.
        over = self.kept_checkpoint is None
        self.table.checkpoint(path, overwrite=over, whole=whole)
        self.kept_checkpoint = self.model.copy()
        self.count("checkpoints")

    @precondition(lambda self: self.kept_checkpoint is not None)
    @rule()
    def restore(self) -> None:
        self.leave()
        self.path = self.fresh()
        self.table = Table.restore(self.folder / "checkpoint", self.path)
        assert self.kept_checkpoint is not None
        self.model = self.kept_checkpoint.copy()
        self.count("restores")

    @precondition(lambda self: self.table.mode == "memory")
    @rule()
    def pickled(self) -> None:
        self.table = pickle.loads(pickle.dumps(self.table))
        self.kept_checkpoint = None
        self.count("tables pickled")

    # ---- what always holds ----

    @invariant()
    def rows_are_the_models(self) -> None:
        if hasattr(self, "table"):
            same(self.table.lookup(np.arange(len(self.model.rows))), self.model.rows)
            assert self.table.optimizer_step == self.model.step
            state = self.table.optimizer_state
            assert set(state) >= {name for name in self.model.state if self.model.step}
            cut = self.table.partition
            for name, expected in self.model.state.items():
                for k, values in enumerate(state[name]):
                    same(np.asarray(values), expected[cut.ids_of(k)])


def same(found: NDArray[Any], expected: NDArray[Any]) -> None:
    assert found.dtype == expected.dtype, (found.dtype, expected.dtype)
    assert found.shape == expected.shape, (found.shape, expected.shape)
    assert found.tobytes() == expected.tobytes(), (found, expected)


def run(run: Run) -> None:
    """Whole rounds of lives, each of them from a seed of its own; a fault does not end the rest."""
    Life.run = run
    lives = 25 if run.is_short else 200
    fixed = settings(
        max_examples=lives,
        stateful_step_count=30 if run.is_short else 60,
        deadline=None,
        database=None,
        print_blob=True,
        verbosity=Verbosity.quiet if run.is_short else Verbosity.normal,
        phases=(Phase.generate, Phase.shrink),
        suppress_health_check=list(HealthCheck),
    )
    seed = run.seed
    faults = []
    while True:
        hypothesis.seed(seed)(Life)
        try:
            run_state_machine_as_test(Life, settings=fixed)
        except Exception as fault:
            traceback.print_exc()
            print(f"the lives of seed {seed}: python -m reliability lives --seed {seed}")
            faults.append(fault)
        seed += 1
        if not run.goes_on():
            break
    if faults:
        raise faults[0]
