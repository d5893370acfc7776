"""`Table.update` and `Table.update_pool`: against plain arithmetic, and torch's optimizers."""

import copy
import dataclasses
import json
import pickle
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import shardwise
from shardwise import (
    BagError,
    IdOutOfRangeError,
    IdTypeError,
    OptionError,
    Partition,
    RaggedIds,
    SparseIds,
    Table,
    TableError,
)
from shardwise.optimizers import (
    SGD,
    Adagrad,
    Adam,
    AdamW,
    Ftrl,
    Optimizer,
    RMSprop,
    RowwiseAdagrad,
)

OPTIMIZERS = [
    SGD(0.1),
    SGD(0.1, momentum=0.9),
    SGD(0.1, momentum=0.9, nesterov=True, weight_decay=0.01),
    Adagrad(0.1),
    Adagrad(0.1, learning_rate_decay=0.01, weight_decay=0.1, initial_accumulator_value=0.2),
    RowwiseAdagrad(0.1),
    RowwiseAdagrad(0.1, weight_decay=0.1, initial_accumulator_value=0.2),
    RMSprop(0.01),
    RMSprop(0.01, momentum=0.5, weight_decay=0.1),
    Adam(0.01),
    Adam(0.01, weight_decay=0.1, betas=(0.5, 0.9)),
    Adam(0.01, corrected=True),
    AdamW(0.01),
    AdamW(0.01, weight_decay=0.5, corrected=True),
    Ftrl(0.1),
    Ftrl(0.1, l1=0.01, l2=0.02, l2_shrinkage=0.03, beta=0.5),
]
names = [f"{i}-{type(one).__name__}" for i, one in enumerate(OPTIMIZERS)]
every_optimizer = pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=names)
DTYPES = [np.float16, ml_dtypes.bfloat16, np.float32, np.float64]


def mean_square(rows):
    """As the kernels add: in 64 bytes of lanes, then the halves of these."""
    lanes = 64 // rows.dtype.itemsize
    padded = np.zeros((len(rows), -(-rows.shape[1] // lanes) * lanes), rows.dtype)
    padded[:, : rows.shape[1]] = rows * rows
    parts = np.zeros((len(rows), lanes), rows.dtype)
    for begin in range(0, padded.shape[1], lanes):
        parts = parts + padded[:, begin : begin + lanes]
    while parts.shape[1] > 1:
        half = parts.shape[1] // 2
        parts = parts[:, :half] + parts[:, half:]
    return parts / rows.dtype.type(rows.shape[1])


class Plain:
    """The optimizers in NumPy, operation by operation as in the kernels."""

    def __init__(self, rows, optimizer):
        self.wide = np.float64 if rows.dtype == np.float64 else np.float32
        self.rows, self.optimizer, self.step = rows.copy(), optimizer, 0
        self.state = {
            slot.name: np.full(
                rows.shape[:1] if slot.per_row else rows.shape,
                slot.initial,
                np.int64 if slot.counts else self.wide,
            )
            for slot in optimizer.slots()
        }

    def update(self, ids, gradients, rate=None):
        self.step += 1
        sums = {}
        for id, gradient in zip(ids, gradients.astype(self.wide), strict=True):
            sums[id] = sums[id] + gradient if id in sums else gradient
        touched = np.array(sorted(sums), dtype=np.int64)
        if not len(touched):
            return
        g = np.stack([sums[id] for id in touched])
        o = (
            self.optimizer
            if rate is None
            else dataclasses.replace(self.optimizer, learning_rate=rate)
        )
        state = {name: values[touched] for name, values in self.state.items()}
        row = self.rows[touched].astype(self.wide)
        with np.errstate(all="ignore"):
            row = self.change(o, row, g, state)
        self.rows[touched] = row.astype(self.rows.dtype)
        for name, values in state.items():
            self.state[name][touched] = values

    def change(self, o, row, g, state):
        f = self.wide
        rate = f(o.learning_rate)
        decay = getattr(o, "weight_decay", 0)
        if decay and not isinstance(o, AdamW):
            g = g + row * f(decay)
        match o:
            case SGD():
                if o.momentum:
                    b = state["sgd.momentum_buffer"]
                    b[:] = b * f(o.momentum) + g
                    g = g + b * f(o.momentum) if o.nesterov else b
                return row - g * rate
            case Adagrad():
                rate = f(o.learning_rate / (1 + (self.step - 1) * o.learning_rate_decay))
                s = state["adagrad.sum"]
                s += g * g
                return row - g * rate / (np.sqrt(s) + f(o.eps))
            case RowwiseAdagrad():
                s = state["rowwise_adagrad.sum"]
                s += mean_square(g)[:, 0]
                return row - g * (rate / (np.sqrt(s) + f(o.eps)))[:, None]
            case RMSprop():
                s = state["rmsprop.square_avg"]
                s[:] = s * f(o.alpha) + g * g * f(1 - o.alpha)
                d = g / (np.sqrt(s) + f(o.eps))
                if o.momentum:
                    b = state["rmsprop.momentum_buffer"]
                    b[:] = d + b * f(o.momentum)
                    d = b
                return row - d * rate
            case Ftrl():
                n, z = state["ftrl.accumulator"], state["ftrl.linear"]
                inverse = f(1 / o.learning_rate)
                m = n + g * g
                sigma = (np.sqrt(m) - np.sqrt(n)) * inverse
                z[:] = z + ((g + row * f(2 * o.l2_shrinkage)) - sigma * row)
                n[:] = m
                l2 = o.l2 + o.beta / (2 * o.learning_rate)
                return (np.clip(z, -f(o.l1), f(o.l1)) - z) / (np.sqrt(m) * inverse + f(2 * l2))
        m, v = state["adam.exp_avg"], state["adam.exp_avg_sq"]
        b1, b2 = o.betas
        shrink = f(1 - o.learning_rate * decay if isinstance(o, AdamW) else 1)
        if o.corrected:
            for k, last in enumerate(state["adam.step"]):
                left1, left2 = f(b1 ** int(last)), f(b2 ** int(last))
                for _ in range(last + 1, self.step):
                    if last:
                        left1, left2 = left1 * f(b1), left2 * f(b2)
                        m[k], v[k] = m[k] * f(b1), v[k] * f(b2)
                        move = m[k] * (rate / (f(1) - left1))
                        root = np.sqrt(v[k]) / np.sqrt(f(1) - left2) + f(o.eps)
                        row[k] = row[k] * shrink - move / root
                if not last:
                    row[k] = row[k] * f(
                        float(
                            shrink
                            if f is np.float64
                            else (1 - o.learning_rate * decay if isinstance(o, AdamW) else 1)
                        )
                        ** (self.step - 1)
                    )
            state["adam.step"][:] = self.step
        m[:] = m + (g - m) * f(1 - b1)
        v[:] = v * f(b2) + g * g * f(1 - b2)
        c1, c2 = 1 - b1**self.step, 1 - b2**self.step
        sparse = isinstance(o, Adam) and not o.corrected
        size = f(o.learning_rate / c1 * (np.sqrt(c2) if sparse else 1))
        scale = f(1 if sparse else 1 / np.sqrt(c2))
        return row * shrink - m * size / (np.sqrt(v) * scale + f(o.eps))


def whole(arrays, partition):
    """The rows of shards, in the order of ids."""
    return Table.from_shards(list(arrays), partition).lookup(np.arange(partition.num_rows))


def assert_same(found, expected):
    assert found.dtype == expected.dtype
    assert found.shape == expected.shape
    assert found.tobytes() == expected.tobytes()


@every_optimizer
@pytest.mark.parametrize("dtype", DTYPES)
def test_every_optimizer_computes_what_plain_arithmetic_does(optimizer, dtype):
    rng = np.random.default_rng(1)
    rows = rng.standard_normal((30, 20)).astype(dtype)
    table = Table.from_array(rows.copy(), shards=3, partition="mod")
    plain = Plain(rows, optimizer)
    for step in range(12):
        ids = rng.integers(0, 30, 25)
        gradients = rng.standard_normal((25, 20)).astype(plain.wide)
        rate = None if step % 3 else 0.05
        table.update(ids, gradients, optimizer, learning_rate=rate)
        plain.update(ids, gradients, rate)
        assert_same(table.lookup(np.arange(30)), plain.rows)
    assert table.optimizer_step == 12
    assert list(table.optimizer_state) == [slot.name for slot in optimizer.slots()]
    for name, arrays in table.optimizer_state.items():
        assert_same(whole(arrays, table.partition), plain.state[name])


# ---- torch's optimizers, 200 random steps ----


def dense(torch, optimizer):
    """The optimizer of torch that gives the same where every row has a gradient."""
    o = optimizer
    decay = getattr(o, "weight_decay", 0.0)
    match o:
        case SGD():
            return lambda p: torch.optim.SGD(
                p, o.learning_rate, o.momentum, weight_decay=decay, nesterov=o.nesterov
            )
        case Adagrad():
            return lambda p: torch.optim.Adagrad(
                p,
                o.learning_rate,
                o.learning_rate_decay,
                decay,
                o.initial_accumulator_value,
                o.eps,
            )
        case RMSprop():
            return lambda p: torch.optim.RMSprop(
                p, o.learning_rate, o.alpha, o.eps, decay, o.momentum
            )
        case AdamW():
            return lambda p: torch.optim.AdamW(p, o.learning_rate, o.betas, o.eps, decay)
        case Adam(corrected=True):
            return lambda p: torch.optim.Adam(p, o.learning_rate, o.betas, o.eps)
    return None


def bound(dtype):
    return 1e-10 if dtype == np.float64 else 2e-5


@every_optimizer
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_all_rows_in_every_step_are_torch_s_dense_optimizer(optimizer, dtype):
    torch = pytest.importorskip("torch")
    make = dense(torch, optimizer)
    if make is None:
        assert isinstance(optimizer, (Adam, RowwiseAdagrad, Ftrl))  # they have tests of their own
        return
    rng = np.random.default_rng(2)
    rows = rng.standard_normal((13, 7)).astype(dtype)
    table = Table.from_array(rows.copy(), shards=2)
    weight = torch.nn.Parameter(torch.from_numpy(rows.copy()))
    theirs = make([weight])
    for step in range(200):
        rate = optimizer.learning_rate * (1 + step % 5)  # as a scheduler changes it
        theirs.param_groups[0]["lr"] = rate
        gradient = rng.standard_normal((13, 7)).astype(dtype)
        weight.grad = torch.from_numpy(gradient.copy())
        theirs.step()
        order = rng.permutation(13)
        table.update(order, gradient[order], optimizer, learning_rate=rate)
    found = table.lookup(np.arange(13))
    np.testing.assert_allclose(found, weight.detach().numpy(), rtol=0, atol=bound(dtype))


@pytest.mark.filterwarnings("ignore:Sparse invariant checks")
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("optimizer", [SGD(0.1), Adagrad(0.1), Adam(0.01)])
def test_some_rows_are_torch_s_optimizer_of_sparse_gradients(optimizer, dtype):
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(3)
    rows = rng.standard_normal((29, 5)).astype(dtype)
    table = Table.from_array(rows.copy(), shards=4, partition="div")
    weight = torch.nn.Parameter(torch.from_numpy(rows.copy()))
    theirs = {
        SGD: lambda: torch.optim.SGD([weight], 0.1),
        Adagrad: lambda: torch.optim.Adagrad([weight], 0.1),
        Adam: lambda: torch.optim.SparseAdam([weight], 0.01),
    }[type(optimizer)]()
    for _ in range(200):
        ids = rng.integers(0, 29, 17)
        gradients = rng.standard_normal((17, 5)).astype(dtype)
        weight.grad = torch.sparse_coo_tensor(
            torch.from_numpy(ids[None]),
            torch.from_numpy(gradients.copy()),
            (29, 5),
            check_invariants=True,
        )
        theirs.step()
        table.update(ids, gradients, optimizer)
    found = table.lookup(np.arange(29))
    np.testing.assert_allclose(found, weight.detach().numpy(), rtol=0, atol=bound(dtype))


@pytest.mark.parametrize(
    "optimizer", [SGD(0.1, momentum=0.9), RMSprop(0.01, momentum=0.5), RMSprop(0.01)]
)
def test_lazily_each_row_is_trained_as_if_it_were_alone(optimizer):
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(4)
    rows = rng.standard_normal((6, 3))
    table = Table.from_array(rows.copy())
    alone = [torch.nn.Parameter(torch.from_numpy(row.copy())) for row in rows]
    theirs = [dense(torch, optimizer)([row]) for row in alone]
    for _ in range(200):
        ids = rng.choice(6, 3, replace=False)
        gradients = rng.standard_normal((3, 3))
        for id, gradient in zip(ids, gradients, strict=True):
            alone[id].grad = torch.from_numpy(gradient.copy())
            theirs[id].step()
        table.update(ids, gradients, optimizer)
    expected = np.stack([row.detach().numpy() for row in alone])
    np.testing.assert_allclose(table.lookup(np.arange(6)), expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(
    "optimizer",
    [
        Adam(0.01, corrected=True),
        Adam(0.01, betas=(0.0, 0.9), corrected=True),
        AdamW(0.01, weight_decay=0.3, corrected=True),
    ],
)
def test_corrected_adam_is_dense_adam_for_rows_that_sat_out(optimizer, dtype):
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(5)
    rows = rng.standard_normal((40, 5)).astype(dtype)
    table = Table.from_array(rows.copy(), shards=3)
    weight = torch.nn.Parameter(torch.from_numpy(rows.copy()))
    theirs = dense(torch, optimizer)([weight])
    for step in range(1200):
        # The first rows come often, the last ones after some hundred steps or never.
        ids = np.unique((40 * rng.random(4) ** 6).astype(np.int64))
        gradients = rng.standard_normal((len(ids), 5)).astype(dtype)
        full = np.zeros_like(rows)
        full[ids] = gradients
        weight.grad = torch.from_numpy(full)
        theirs.step()
        table.update(ids, gradients, optimizer)
        if step % 100 == 0:
            found, expected = table.lookup(ids), weight.detach().numpy()[ids]
            np.testing.assert_allclose(found, expected, rtol=0, atol=bound(dtype))
    gradient = rng.standard_normal((40, 5)).astype(dtype)
    weight.grad = torch.from_numpy(gradient)
    theirs.step()
    table.update(np.arange(40), gradient, optimizer)
    found = table.lookup(np.arange(40))
    np.testing.assert_allclose(found, weight.detach().numpy(), rtol=0, atol=bound(dtype))


def test_what_correction_begins_late_has_missed_nothing():
    table = Table.from_array(np.ones((3, 2)))
    for _ in range(5):
        table.update([0, 1], np.ones((2, 2)), Adam())
    before = table.lookup(2)
    table.update([0], np.ones((1, 2)), Adam(corrected=True))
    assert whole(table.optimizer_state["adam.step"], table.partition).tolist() == [6, 5, 5]
    assert_same(table.lookup(2), before)


# ---- the same numbers everywhere ----


@every_optimizer
def test_results_depend_on_no_threads_shards_or_partition(optimizer):
    rng = np.random.default_rng(6)
    rows = rng.standard_normal((3000, 9)).astype(np.float32)
    batches = [(rng.zipf(1.3, 9000) % 3000) for _ in range(3)]
    gradients = rng.standard_normal((9000, 9)).astype(np.float32)
    before, expected = shardwise.num_threads(), None
    cuts = [Partition.mod(3000, 1), Partition.mod(3000, 17), Partition.div(3000, 5)]
    cuts.append(Partition.ranges([0, 0, 10, 2999, 3000]))
    try:
        for threads in (1, 2, 3, 4):
            shardwise.set_num_threads(threads)
            for cut in cuts:
                table = Table.from_array(rows, partition=cut, copy=True)
                for ids in batches:
                    table.update(ids, gradients, optimizer)
                state = table.optimizer_state.values()
                found = [table.lookup(np.arange(3000)), *(whole(a, cut) for a in state)]
                expected = expected or found
                for one, other in zip(found, expected, strict=True):
                    assert_same(one, other)
    finally:
        shardwise.set_num_threads(before)


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int16", "uint16", "int32", "uint32", "uint64"])
def test_ids_of_any_dtype_and_shape(dtype):
    ids = np.array([[3, 1], [1, 0]])
    gradients = np.arange(12, dtype=np.float64).reshape(2, 2, 3)
    tables = [Table.from_array(np.zeros((5, 3)), 2) for _ in range(2)]
    tables[0].update(ids, gradients, SGD(1.0))
    tables[1].update(ids.astype(dtype)[:, ::-1][:, ::-1], gradients.tolist(), SGD(1.0))
    expected = np.zeros((5, 3))
    np.subtract.at(expected, ids, gradients)
    for table in tables:
        assert_same(table.lookup(np.arange(5)), expected)


@pytest.mark.parametrize("shape", [(4,), (4, 0), (4, 2, 3), (0, 5)])
def test_rows_of_any_shape(shape):
    table = Table.from_array(np.zeros(shape), shards=3)
    ids = np.arange(len(table))
    table.update(ids, np.ones((len(ids), *shape[1:])), Adagrad(1.0))
    assert_same(table.lookup(ids), np.zeros(shape) - 1 / (1 + 1e-10))
    table.update(np.zeros(0, int), np.zeros((0, *shape[1:])), Adagrad(1.0))
    assert table.optimizer_step == 2


def test_shards_that_are_views_are_trained_where_they_lie():
    array = np.zeros((9, 4), np.float32)
    Table.from_array(array[::-1], shards=4).update([0, 5], np.ones((2, 4)), SGD(1.0))
    assert array[:, 0].tolist() == [0, 0, 0, -1, 0, 0, 0, 0, -1]


def test_a_table_of_more_ids_than_fit_beside_a_position():
    row = np.zeros(1, np.float16)
    many = np.lib.stride_tricks.as_strided(row, (1 << 60, 1), (0, 2))  # all rows are one
    table = Table.from_array(many)
    ids = np.array([5, 1 << 59, 5, (1 << 60) - 1] * 300)
    table.update(ids, np.full((1200, 1), 0.5), SGD(1.0))
    assert row.tolist() == [-600]
    with pytest.raises(IdOutOfRangeError):
        table.update(ids + 1, np.ones((1200, 1)), SGD(1.0))
    table.update_pool(ids, np.arange(0, 1200, 2), np.ones((600, 1)), SGD(1.0), combiner="mean")
    assert row.tolist() == [-1200]


@given(st.data())
@settings(deadline=None)
def test_duplicates_are_summed_in_order(data):
    rows = data.draw(st.integers(1, 6))
    ids = np.array(data.draw(st.lists(st.integers(0, rows - 1), max_size=600)), np.int64)
    scale = np.float32(10) ** data.draw(st.integers(-3, 3))
    rng = np.random.default_rng(len(ids))
    gradients = (rng.standard_normal((len(ids), 3)) * scale).astype(np.float32)
    table = Table.from_array(np.zeros((rows, 3), np.float32), shards=2)
    table.update(ids, gradients, SGD(1.0))
    plain = Plain(np.zeros((rows, 3), np.float32), SGD(1.0))
    plain.update(ids, gradients)
    assert_same(table.lookup(np.arange(rows)), plain.rows)


# ---- bags ----


def written_out(rows, ids, ends, gradients, weights, combiner, member):
    """The gradient of each id of bags, by plain arithmetic."""
    found = np.zeros((len(ids), *rows.shape[1:]), gradients.dtype)
    for k in range(len(ends) - 1):
        places = [i for i in range(ends[k], ends[k + 1]) if member[i]]
        own = np.ones(len(places), gradients.dtype) if weights is None else weights[places]
        total = squares = gradients.dtype.type(0)
        for w in own:
            total, squares = total + w, squares + w * w
        divisor = {"mean": total, "sqrtn": np.sqrt(squares)}.get(combiner, 1)
        gradient = gradients[k]
        if combiner in ("mean", "sqrtn"):
            gradient = gradient / divisor if divisor else np.zeros_like(gradient)
        part = np.stack([gradient] * len(places)) if places else np.zeros((0, *gradient.shape))
        if combiner == "max" and places:
            values = rows[ids[places]].astype(gradients.dtype)
            values = values * own[:, None] if weights is not None else values
            part = part * (values.argmax(axis=0)[None] == np.arange(len(places))[:, None])
        if weights is not None:
            part = part * own[:, None]
        found[places] = part
    return found


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("combiner", ["sum", "mean", "sqrtn", "max"])
def test_bags_are_an_update_with_the_gradient_written_out(combiner, weighted, dtype):
    rng = np.random.default_rng(8)
    rows = rng.standard_normal((50, 19)).astype(dtype)
    wide = np.float64 if dtype == np.float64 else np.float32
    ids = rng.zipf(1.3, 900) % 50
    ends = np.sort(np.concatenate([[0, 900], rng.integers(0, 901, 99)]))
    weights = rng.standard_normal(900).astype(wide) if weighted else None
    padding = 7
    tables = [Table.from_array(rows.copy(), shards=3) for _ in range(2)]
    for _ in range(3):
        now = tables[1].lookup(np.arange(50))
        gradients = rng.standard_normal((100, 19)).astype(wide)
        options = {"weights": weights, "combiner": combiner, "padding_id": padding}
        tables[0].update_pool(ids, ends[:-1], gradients, Adagrad(0.1), **options)
        full = written_out(now, ids, ends, gradients, weights, combiner, ids != padding)
        tables[1].update(ids, full, Adagrad(0.1), padding_id=padding)
    assert_same(*(table.lookup(np.arange(50)) for table in tables))


@pytest.mark.parametrize("mode", ["sum", "mean", "max"])
def test_the_gradient_of_bags_is_torch_s(mode):
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(9)
    rows = rng.standard_normal((40, 6))
    rows[5] = rows[6]  # for max, the first of equal ones
    ids, offsets = rng.integers(0, 40, 300), np.sort(rng.integers(0, 301, 49))
    offsets[0] = 0
    gradients = rng.standard_normal((49, 6))
    weight = torch.nn.Parameter(torch.from_numpy(rows.copy()))
    out = torch.nn.functional.embedding_bag(
        torch.from_numpy(ids), weight, torch.from_numpy(offsets), mode=mode
    )
    out.backward(torch.from_numpy(gradients))
    table = Table.from_array(rows.copy(), shards=2)
    np.testing.assert_allclose(
        table.pool(ids, offsets, combiner=mode), out.detach().numpy(), rtol=0, atol=1e-12
    )
    table.update_pool(ids, offsets, gradients, SGD(1.0), combiner=mode)
    expected = rows - weight.grad.numpy()
    np.testing.assert_allclose(table.lookup(np.arange(40)), expected, rtol=0, atol=1e-12)


def test_bags_in_every_form():
    bags = [[1, 2], [], [2, 0, 2]]
    gradients = np.array([[1.0], [10.0], [100.0]])
    values, splits = np.array([1, 2, 2, 0, 2]), np.array([0, 2, 2, 5])
    places = np.array([[0, 0], [0, 1], [2, 0], [2, 1], [2, 2]])
    forms = [
        (bags, None, {}),
        (values, splits[:-1], {}),
        (values, splits, {"include_last_offset": True}),
        (RaggedIds(values, splits), None, {}),
        (SparseIds(places, values, (3, 3)), None, {}),
    ]
    for ids, offsets, options in forms:
        table = Table.from_array(np.zeros((3, 1)))
        table.update_pool(ids, offsets, gradients, SGD(1.0), **options)
        assert table.lookup([0, 1, 2]).ravel().tolist() == [-100, -1, -201]
    table = Table.from_array(np.zeros((3, 1)))
    table.update_pool([[[0, 1]], [[1, 2]]], None, np.ones((2, 1, 1)), SGD(1.0))
    assert table.lookup([0, 1, 2]).ravel().tolist() == [-1, -2, -1]


def test_nan_is_larger_than_all_in_a_bag():
    table = Table.from_array(np.array([[1.0, np.nan], [np.nan, 2.0], [3.0, np.nan]]))
    before = table.lookup([0, 1, 2])
    table.update_pool([[0, 1, 2]], None, [[1.0, 1.0]], SGD(1.0), combiner="max")
    after = table.lookup([0, 1, 2])
    assert_same(after, before)  # NaN less 1 is NaN, and all others stay
    low = Table.from_array(np.full((2, 1), -np.inf))
    low.update_pool([[0, 1]], None, [[1.0]], Adagrad(1.0), combiner="max")
    assert [a.tolist() for a in low.optimizer_state["adagrad.sum"]] == [[[1.0], [0.0]]]


# ---- options ----


@pytest.mark.parametrize(
    ("policy", "changed"), [("zeros", {0}), ("clamp", {0, 4}), ("wrap", {0, 2, 4}), (3, {0, 3})]
)
def test_ids_outside_the_table(policy, changed):
    for pooled in (False, True):
        table = Table.from_array(np.zeros((5, 2)))
        if pooled:
            ids, gradients = [[0, -1, 7]], np.ones((1, 2))
            table.update_pool(ids, None, gradients, SGD(1.0), out_of_range=policy)
        else:
            table.update([0, -1, 7], np.ones((3, 2)), SGD(1.0), out_of_range=policy)
        rows = table.lookup(np.arange(5))[:, 0]
        assert set(np.flatnonzero(rows).tolist()) == changed


def test_zeros_outside_the_table_count_in_the_mean_and_the_maximum():
    table = Table.from_array(np.array([[-1.0], [2.0]]))
    table.update_pool([[0, 9]], None, [[4.0]], SGD(1.0), combiner="mean", out_of_range="zeros")
    assert table.lookup([0, 1]).ravel().tolist() == [-3, 2]
    table.update_pool([[0, 9]], None, [[4.0]], SGD(1.0), combiner="max", out_of_range="zeros")
    assert table.lookup([0, 1]).ravel().tolist() == [-3, 2]


def test_rows_may_be_frozen():
    mask = np.array([True, False, False, True, False])
    for frozen, kept in ((slice(1, 3), {1, 2}), (mask, {0, 3}), (slice(-2, None), {3, 4})):
        table = Table.from_array(np.zeros((5, 1)), shards=2)
        table.update(np.arange(5), np.ones((5, 1)), Adagrad(1.0), frozen=frozen)
        rows = table.lookup(np.arange(5)).ravel()
        assert set(np.flatnonzero(rows == 0).tolist()) == kept
        sums = whole(table.optimizer_state["adagrad.sum"], table.partition).ravel()
        assert set(np.flatnonzero(sums == 0).tolist()) == kept
    table = Table.from_array(np.array([[1.0], [5.0]]))
    table.update_pool([[0, 1]], None, [[2.0]], SGD(1.0), combiner="mean", frozen=slice(1, 2))
    table.update_pool([[0, 1]], None, [[2.0]], SGD(1.0), combiner="max", frozen=slice(1, 2))
    assert table.lookup([0, 1]).ravel().tolist() == [0, 5]


def test_the_gradient_of_a_row_is_clipped():
    table = Table.from_array(np.zeros((3, 2)))
    gradients = [[3.0, 0.0], [0.3, 0.4], [0.0, 4.0]]
    table.update([0, 1, 0], gradients, SGD(1.0, clip_norm=1.0))
    np.testing.assert_allclose(table.lookup([0, 1]), [[-0.6, -0.8], [-0.3, -0.4]])
    huge = Table.from_array(np.zeros((1, 2)))
    huge.update([0], [[3e300, 4e300]], SGD(1.0, clip_norm=1.0))
    np.testing.assert_allclose(huge.lookup([0]), [[-0.6, -0.8]])
    tiny = Table.from_array(np.zeros((1, 2)))
    tiny.update([0], [[3e-200, 4e-200]], SGD(1e200, clip_norm=1e-200))
    np.testing.assert_allclose(tiny.lookup([0]), [[-0.6, -0.8]])


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_rounding_by_chance_keeps_the_mean(dtype):
    table = Table.from_array(np.ones((4000, 16), dtype))
    step = float(np.nextafter(dtype(1), dtype(2)) - dtype(1)) if dtype is np.float16 else 2**-7
    ids, gradient = np.arange(4000), np.full((4000, 16), -0.25 * step)
    table.update(ids, gradient, SGD(1.0))
    assert (table.lookup(ids) == 1).all()  # to the nearest, nothing ever moves
    table.update(ids, gradient, SGD(1.0), rounding_seed=7)
    moved = (table.lookup(ids).astype(np.float64) - 1) / step
    assert set(np.unique(moved)) == {0, 1}
    assert abs(moved.mean() - 0.25) < 0.01
    assert abs(moved.mean(axis=0) - 0.25).max() < 0.05
    for cut, threads in ((Partition.mod(4000, 7), 3), (Partition.div(4000, 2), 1)):
        before = shardwise.num_threads()
        shardwise.set_num_threads(threads)
        other = Table.from_array(np.ones((4000, 16), dtype), partition=cut, copy=True)
        other.update(ids, gradient, SGD(1.0))
        other.update(ids, gradient, SGD(1.0), rounding_seed=7)
        shardwise.set_num_threads(before)
        assert_same(other.lookup(ids), table.lookup(ids))
    other.update(ids, gradient, SGD(1.0), rounding_seed=8)
    table.update(ids, gradient, SGD(1.0), rounding_seed=7)
    assert (other.lookup(ids) != table.lookup(ids)).any()


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
@pytest.mark.parametrize("seed", [None, 3])
def test_small_floats_are_rounded_right_everywhere(dtype, seed):
    rng = np.random.default_rng(10)
    bits = rng.integers(0, 1 << 32, 40_000, dtype=np.uint64).astype(np.uint32)
    edges = np.array([0, 1e-8, 3e-8, 6e-8, 6.1e-5, 65504, 65519, 65520, 7e4, np.inf, np.nan])
    near = (rng.standard_normal(20_000) * 10.0 ** rng.integers(-9, 6, 20_000)).astype(np.float32)
    values = np.concatenate([bits.view(np.float32), edges.astype(np.float32), near, -near])
    table = Table.from_array(np.zeros((1, len(values)), dtype))
    table.update([0], -values[None], SGD(1.0), nonfinite="propagate", rounding_seed=seed)
    found = table.lookup([0])[0]
    with np.errstate(all="ignore"):
        expected = values.astype(dtype)
    if seed is None:
        assert (np.isnan(found) == np.isnan(expected)).all()
        there = ~np.isnan(expected)
        assert_same(found[there] + dtype(0), expected[there] + dtype(0))
        return
    # One of the two neighbours, and the number itself where it has a form.
    with np.errstate(all="ignore"):
        exact = expected.astype(np.float32) == values
        assert (found[exact] == expected[exact]).all()
        gap = np.abs(found.astype(np.float64) - values)
        largest = float(ml_dtypes.finfo(dtype).max)
        inside = np.abs(values) < largest
        least = float(ml_dtypes.finfo(dtype).smallest_subnormal)
        step = np.maximum(
            np.abs(values.astype(np.float64)) * float(ml_dtypes.finfo(dtype).eps), least
        )
        assert (gap[inside] <= step[inside]).all()


# ---- what is refused, and changes nothing ----


@pytest.mark.parametrize(
    ("ids", "gradients", "error", "message"),
    [
        ([0, 5], np.ones((2, 2)), IdOutOfRangeError, r"ids\[1\] = 5"),
        ([0, -1], np.ones((2, 2)), IdOutOfRangeError, r"ids\[1\] = -1"),
        (np.array([0, 2**64 - 1], np.uint64), np.ones((2, 2)), IdOutOfRangeError, "18446744073709"),
        ([0.0], np.ones((1, 2)), IdTypeError, "float64"),
        ([0, 1], np.ones((2, 3)), TableError, r"shape \(2, 2\), got \(2, 3\)"),
        ([0, 1], np.ones(2), TableError, r"got \(2,\)"),
        ([0, 1], 1.0, TableError, r"got \(\)"),
        ([0, 1], np.ones((2, 2), int), TableError, "floating-point"),
        ([0, 1], [[1, 2], [3]], TableError, "array"),
        ([0, 1], np.ones((2, 2), complex), TableError, "floating-point"),
        ([0, 1], np.array([["a", "b"]] * 2), TableError, "floating-point"),
        ([0, 1], [[1.0, 2.0], [3.0, np.nan]], TableError, r"nan at gradients\[1, 1\]"),
        ([0, 1], [[1.0, -np.inf], [3.0, np.nan]], TableError, r"-inf at gradients\[0, 1\]"),
    ],
)
def test_nothing_is_changed_by_what_is_refused(ids, gradients, error, message):
    rows = np.arange(10.0).reshape(5, 2)
    table = Table.from_array(rows.copy(), shards=2)
    table.update([0], [[1.0, 1.0]], Adagrad())
    before = table.lookup(np.arange(5)), copy.deepcopy(table.optimizer_state)
    with pytest.raises(error, match=message):
        table.update(ids, gradients, Adagrad())
    assert_same(table.lookup(np.arange(5)), before[0])
    assert table.optimizer_step == 1
    for name, arrays in table.optimizer_state.items():
        for one, other in zip(arrays, before[1][name], strict=True):
            assert_same(one, other)


@pytest.mark.parametrize("optimizer", [Adam(), Adam(corrected=True), SGD(momentum=0.9)])
@pytest.mark.parametrize("known", [None, SGD(), Adam()])
@pytest.mark.parametrize(("ids", "gradient"), [([0, 5], 1.0), ([0, 1], np.nan)])
def test_an_update_that_is_refused_makes_and_forgets_no_state(optimizer, known, ids, gradient):
    table = Table.from_array(np.zeros((5, 2)), 2)
    for _ in range(3 if known else 0):
        table.update([0, 1], np.ones((2, 2)), known)
    before = pickle.dumps(table), table.describe()["optimizer"]
    with pytest.raises(shardwise.ShardwiseError):
        table.update(ids, np.full((2, 2), gradient), optimizer)
    with pytest.raises(shardwise.ShardwiseError):
        table.update_pool([ids], None, np.full((1, 2), gradient), optimizer, combiner="max")
    assert (pickle.dumps(table), table.describe()["optimizer"]) == before


def test_packed_rows_are_not_trained():
    for row_format in ("int8", "int4"):
        table = Table.from_array(np.ones((3, 4))).quantize(row_format)
        with pytest.raises(TableError, match=f"packed as {row_format}; train a table of floats"):
            table.update([0], np.ones((1, 4)), SGD())
        with pytest.raises(TableError, match=f"packed as {row_format}"):
            table.update_pool([[0]], None, np.ones((1, 4)), SGD())


def test_the_first_id_that_is_refused_is_told():
    table = Table.from_array(np.zeros((100, 1)))
    ids = np.arange(100_000) % 100
    ids[[70_000, 20_000, 99_999]] = 100
    with pytest.raises(IdOutOfRangeError, match=r"ids\[20000\] = 100"):
        table.update(ids, np.ones((100_000, 1)), SGD())
    with pytest.raises(IdOutOfRangeError, match=r"ids\[20000\] = 100"):
        table.update_pool(ids, np.arange(0, 100_000, 10), np.ones((10_000, 1)), SGD())
    assert not table.lookup(np.arange(100)).any()


def test_the_first_number_that_is_not_finite_is_told():
    for dtype in (np.float32, np.float64):
        table = Table.from_array(np.zeros((10, 33), dtype))
        gradients = np.ones((9000, 33), dtype)
        gradients[8000, 32] = gradients[8999, 1] = np.nan
        with pytest.raises(TableError, match=r"gradients\[8000, 32\]"):
            table.update(np.zeros(9000, int), gradients, SGD())
        assert not table.lookup(np.arange(10)).any()
    with pytest.raises(TableError, match=r"inf at gradients\[0, 0\]"):
        Table.from_array(np.zeros((1, 1), np.float32)).update([0], [[1e39]], SGD())


def test_what_is_not_finite_may_be_let_through():
    table = Table.from_array(np.zeros((2, 2)))
    table.update([0], [[1.0, np.nan]], SGD(1.0), nonfinite="propagate")
    assert_same(table.lookup([0, 1]), np.array([[-1.0, np.nan], [0, 0]]))


@pytest.mark.parametrize("bad", [{"weights": [1.0]}, {"weights": "x"}, {"include_last_offset": 1}])
def test_bags_that_are_none(bad):
    table = Table.from_array(np.zeros((5, 1)))
    with pytest.raises(BagError):
        table.update_pool(
            [0, 1], [1] if "include_last_offset" in bad else [0, 1], [[1.0]], SGD(), **bad
        )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"combiner": "median"}, "combiner"),
        ({"out_of_range": "ignore"}, "out_of_range"),
        ({"out_of_range": 5}, "out_of_range"),
        ({"padding_id": 1.5}, "padding_id"),
        ({"frozen": [0, 1]}, "frozen"),
        ({"frozen": np.ones(4, bool)}, r"bool of shape \(4,\)"),
        ({"frozen": slice(0, 4, 2)}, "step 1"),
        ({"frozen": "all"}, "frozen"),
        ({"frozen": slice("a", "b")}, "frozen"),
        ({"frozen": [[True], [True, False]]}, "frozen"),
        ({"nonfinite": "skip"}, "nonfinite"),
        ({"rounding_seed": "x"}, "rounding_seed"),
        ({"learning_rate": -1.0}, "learning_rate of SGD"),
        ({"learning_rate": "fast"}, "learning_rate of SGD"),
        ({"learning_rate": np.nan}, "learning_rate of SGD"),
    ],
)
def test_options_that_are_none(options, message):
    table = Table.from_array(np.zeros((5, 1)))
    with pytest.raises(OptionError, match=message):
        table.update_pool([[0, 1]], None, [[1.0]], SGD(), **options)
    assert table.optimizer_step == 0


@pytest.mark.parametrize("optimizer", [None, "adam", SGD, 0.1, Optimizer, Optimizer()])
def test_optimizers_that_are_none(optimizer):
    with pytest.raises(OptionError, match=r"shardwise\.optimizers"):
        Table.from_array(np.zeros((5, 1))).update([0], [[1.0]], optimizer)


@pytest.mark.parametrize(
    ("make", "options"),
    [
        (SGD, {"momentum": -1}),
        (SGD, {"learning_rate": 10**400}),
        (SGD, {"nesterov": True}),
        (SGD, {"clip_norm": -1}),
        (SGD, {"weight_decay": True}),
        (Adagrad, {"eps": None}),
        (RMSprop, {"alpha": 1}),
        (Adam, {"betas": (0.9, 1)}),
        (Adam, {"betas": 0.9}),
        (Adam, {"betas": (0.9,)}),
        (Adam, {"betas": np.zeros(2, complex)}),
        (Adam, {"betas": np.zeros(2, "M8[s]")}),
        (Adam, {"betas": np.ma.masked_array(np.zeros(2), mask=True)}),
        (AdamW, {"betas": np.broadcast_to(0.5, 1 << 46)}),
        (SGD, {"learning_rate": np.complex64(1)}),
        (Adam, {"corrected": True, "weight_decay": 0.1}),
        (AdamW, {"corrected": True, "eps": 0}),
        (Ftrl, {"learning_rate": 0}),
        (Ftrl, {"initial_accumulator_value": 0}),
        (Ftrl, {"l1": float("inf")}),
    ],
)
def test_numbers_that_an_optimizer_cannot_have(make, options):
    with pytest.raises(OptionError, match="expected"):
        make(**options)


@pytest.mark.parametrize("dtype", [np.int64, np.int8, np.complex64, ">f4", "S3", np.bool_])
def test_rows_that_cannot_be_trained(dtype):
    table = Table.from_array(np.zeros((5, 2), dtype))
    with pytest.raises(TableError, match="to train"):
        table.update([0], [[1.0, 1.0]], SGD())


def test_a_table_that_cannot_be_written_to():
    array = np.zeros((5, 2))
    array.flags.writeable = False
    with pytest.raises(TableError, match="read-only"):
        Table.from_array(array).update([0], [[1.0, 1.0]], SGD())


def test_gradients_may_be_the_rows_themselves():
    array = np.ones((4, 3), np.float32)
    table = Table.from_array(array, shards=2)
    table.update([0, 1, 2, 3], array, SGD(0.5))
    assert (array == 0.5).all()


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float32, np.float64, ">f8"])
def test_gradients_of_any_float(dtype):
    gradients = np.array([[1.5, -2.0], [0.25, 8.0]]).astype(dtype)
    for rows in DTYPES:
        table = Table.from_array(np.zeros((3, 2), rows))
        table.update([0, 2], gradients[:, ::-1], SGD(1.0))
        expected = np.array([[2.0, -1.5], [-8.0, -0.25]]).astype(rows)
        assert_same(table.lookup([0, 2]), expected)


def test_gradients_of_torch():
    torch = pytest.importorskip("torch")
    table = Table.from_array(np.zeros((3, 2), np.float32))
    for dtype in (torch.float32, torch.bfloat16, torch.float64):
        table.update(torch.tensor([0, 2]), torch.ones(2, 2, dtype=dtype), SGD(1.0))
    assert table.lookup([0, 1, 2])[:, 0].tolist() == [-3, 0, -3]


# ---- state ----


def test_corrected_is_not_left_for_lazy():
    table = Table.from_array(np.ones((3, 2)))
    table.update([0], [[1.0, 1.0]], Adam())
    table.update([0], [[1.0, 1.0]], Adam(corrected=True))
    before, state = table.lookup([0, 1, 2]), table.optimizer_state
    for optimizer in (Adam(), AdamW()):
        with pytest.raises(TableError, match=r"with corrected=True, .* without; call reset"):
            table.update([0], [[1.0, 1.0]], optimizer)
    assert_same(table.lookup([0, 1, 2]), before)
    assert table.optimizer_step == 2
    assert table.optimizer_state.keys() == state.keys()
    table.update([0], [[1.0, 1.0]], AdamW(corrected=True))


def test_another_optimizer_is_refused_until_the_state_is_forgotten():
    table = Table.from_array(np.zeros((3, 2)))
    table.update([0], [[1.0, 1.0]], Adam())
    table.update([0], [[1.0, 1.0]], AdamW())  # of one family
    with pytest.raises(TableError, match="'adam' after 2 updates, got SGD"):
        table.update([0], [[1.0, 1.0]], SGD())
    table.reset_optimizer()
    assert (table.optimizer_step, table.optimizer_state) == (0, {})
    table.update([0], [[1.0, 1.0]], SGD())
    assert (table.optimizer_step, table.optimizer_state) == (1, {})
    table.update([0], [[1.0, 1.0]], Adagrad())  # for SGD kept nothing
    assert table.optimizer_step == 1


def test_an_update_that_was_refused_leaves_the_choice_of_the_optimizer():
    table = Table.from_array(np.zeros((3, 2)))
    with pytest.raises(IdOutOfRangeError):
        table.update([9], [[1.0, 1.0]], Adam())
    table.update([0], [[1.0, 1.0]], SGD())


@pytest.mark.parametrize("how", [copy.deepcopy, lambda table: pickle.loads(pickle.dumps(table))])
def test_copies_keep_the_state(how):
    rng = np.random.default_rng(11)
    first = Table.from_array(rng.standard_normal((20, 3)).astype(np.float32), shards=3)
    for _ in range(3):
        first.update(rng.integers(0, 20, 9), rng.standard_normal((9, 3)), Adam(corrected=True))
    second = how(first)
    assert second.optimizer_step == 3
    ids, gradients = rng.integers(0, 20, 9), rng.standard_normal((9, 3))
    first.update(ids, gradients, Adam(corrected=True))
    second.update(ids, gradients, Adam(corrected=True))
    assert_same(second.lookup(np.arange(20)), first.lookup(np.arange(20)))
    second.update(ids, gradients, Adam(corrected=True))
    assert first.optimizer_step == 4
    for name, arrays in first.optimizer_state.items():
        assert (
            whole(arrays, first.partition) != whole(second.optimizer_state[name], second.partition)
        ).any()


# ---- TensorFlow's FTRL; tests/golden/make_training.py asked it ----

FTRL = json.loads((Path(__file__).parent / "golden" / "training.json").read_text())


@pytest.mark.parametrize("case", FTRL, ids=lambda case: "-".join(case["options"]))
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_ftrl_is_tensorflow_s(case, dtype):
    expected = np.array(case["rows"])
    rows = np.stack([np.cos(np.arange(3) + row) for row in range(11)]).astype(dtype)
    table = Table.from_array(rows, shards=2)
    optimizer = Ftrl(**case["options"])
    for step in range(200):
        ids = (step * 7 + np.arange(5)) % 11
        gradients = np.sin(np.arange(15).reshape(5, 3) * 1.7 + step * 0.9)
        rate = optimizer.learning_rate * (1 + step % 3)
        table.update(ids, gradients, optimizer, learning_rate=rate)
    bound = 1e-10 if dtype == np.float64 else 1e-4
    np.testing.assert_allclose(table.lookup(np.arange(11)), expected, rtol=0, atol=bound)
