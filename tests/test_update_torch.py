"""Updates beside torch's optimizers, 200 random steps."""

import numpy as np
import pytest
from plain_updates import assert_same, every_optimizer, whole

from shardwise import Table
from shardwise.optimizers import SGD, Adagrad, Adam, AdamW, Ftrl, RMSprop, RowwiseAdagrad


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
