"""How modules over tables meet bad gradients and bad ids: nothing changes, or what is asked for."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")
from torch import nn  # noqa: E402

from shardwise import (  # noqa: E402
    IdOutOfRangeError,
    Table,
    TableError,
    optimizers,
)
from shardwise.torch import Embedding, EmbeddingBag  # noqa: E402


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(6)


KINDS = {
    "rows": lambda **options: Embedding(6, 3, **options),
    "bags": lambda **options: EmbeddingBag(6, 3, **options),
    "files": lambda **options: EmbeddingBag(**options),
}


def made(kind, tmp_path, **options):
    """A module that trains itself, its ids, and what it holds as numbers."""
    if kind == "files":
        Table.from_array(np.ones((6, 3), np.float32), shards=2).save(tmp_path / "t")
        options["table"] = Table.open(tmp_path / "t", "r+")
    module = KINDS[kind](optimizer=optimizers.Adagrad(0.5), **options)
    return module, torch.tensor([[1, 2], [2, 5]]), lambda: module.table.lookup(range(6))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_gradients_that_are_not_finite(kind, bad, tmp_path):
    module, ids, rows = made(kind, tmp_path)
    before = rows()
    found = module(ids)
    up = torch.ones_like(found)
    up[-1, ..., 0] = bad
    with pytest.raises(TableError, match="finite"):
        found.backward(up, retain_graph=True)
    assert (rows() == before).all()
    assert module.table.optimizer_step == 0
    module.nonfinite = "skip"
    found.backward(up, retain_graph=True)
    assert (rows() == before).all()
    assert module.table.optimizer_step == 0
    module.hold()
    found.backward(up, retain_graph=True)
    module.nonfinite = "error"
    with pytest.raises(TableError, match="finite"):
        module.step()
    assert (rows() == before).all()
    module.discard()
    module.nonfinite = "propagate"
    found.backward(up, retain_graph=True)
    assert not np.isfinite(rows()).all()
    module.table.close()


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_of_another_shape_or_dtype(kind, tmp_path):
    module, ids, rows = made(kind, tmp_path)
    before, found = rows(), module(ids)
    for up in (torch.ones(5, 3), torch.ones_like(found)[..., :2], torch.ones(())):
        with pytest.raises(RuntimeError, match=r"(?i)shape"):
            found.backward(up, retain_graph=True)
    with pytest.raises((RuntimeError, TypeError)):
        found.backward(torch.ones_like(found, dtype=torch.complex64), retain_graph=True)
    assert (rows() == before).all()
    found.backward(torch.ones_like(found, dtype=torch.float64))  # torch casts it, as for its own
    assert (rows() != before).any(axis=1).tolist() == [False, True, True, False, False, True]
    module.table.close()


@pytest.mark.parametrize("kind", KINDS)
def test_an_id_outside_is_an_error_before_anything_changes(kind, tmp_path):
    module, ids, rows = made(kind, tmp_path)
    before = rows()
    for bad in (6, -1, 2**62):
        with pytest.raises(IdOutOfRangeError, match=str(bad)):
            module(torch.tensor([[1, bad]])).sum().backward()
    changed = ids.clone()
    found = module(changed)
    changed[0, 0] = 6
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        found.sum().backward()
    assert (rows() == before).all()
    assert module.table.optimizer_step == 0
    module.table.close()


def test_a_scaled_loss_that_overflows_is_left_out():
    """A loss scaled up for float16, with the scale of torch's GradScaler."""
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**16, growth_interval=100)
    bags = EmbeddingBag(6, 3, dtype=torch.float16, optimizer=optimizers.SGD(0.5), nonfinite="skip")
    head = nn.Linear(3, 1)
    sgd = torch.optim.SGD(head.parameters(), 0.0)
    ids = torch.tensor([[1, 2], [2, 5]])
    up = head.weight.detach().half().float()[0] * 64
    for _ in range(12):
        before, skipped = bags.weight.clone().float(), bags.skipped
        bags.grad_scale = scale = scaler.get_scale()
        loss = (head(bags(ids).float()) * 64).sum()
        scaler.scale(loss).backward()
        scaler.step(sgd)
        scaler.update(scale / 2 if bags.skipped > skipped else None)
        sgd.zero_grad()
        if bags.skipped == skipped:
            change = torch.tensor([0.0, 1.0, 2.0, 0.0, 0.0, 1.0])[:, None] * 0.5 * up / 2
            torch.testing.assert_close(bags.weight.float(), before - change, rtol=2e-3, atol=5e-2)
        else:
            assert torch.equal(bags.weight.float(), before)
    assert 0 < bags.skipped < 12
    assert bags.table.optimizer_step == 12 - bags.skipped
