import copy
import io
import itertools
import pickle

import numpy as np
import pytest

torch = pytest.importorskip("torch")
from torch import nn  # noqa: E402

from shardwise import (  # noqa: E402
    BagError,
    IdOutOfRangeError,
    IdTypeError,
    OptionError,
    PartitionError,
    Table,
    TableError,
    optimizers,
)
from shardwise.torch import Embedding, EmbeddingBag, _tensors, embedding_lookup  # noqa: E402

MODES = ("sum", "mean", "max")
CLOSE = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 2e-2, torch.float16: 2e-3}


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(3)


@pytest.fixture(params=["kernels", "torch"])
def way(request, monkeypatch):
    """The kernels, and what other devices than the CPU run, on the CPU."""
    monkeypatch.setattr(_tensors, "_through_torch", request.param == "torch")


def same(got, expected):
    got = got.to_dense() if got.is_sparse else got
    expected = expected.to_dense() if expected.is_sparse else expected
    assert got.dtype == expected.dtype
    bound = CLOSE[got.dtype]
    torch.testing.assert_close(got, expected, rtol=bound, atol=bound)


def pair(kind, *sizes, dtype=torch.float64, **options):
    """A module of ours and torch's, with the same rows."""
    theirs = getattr(nn, kind)(*sizes, dtype=dtype, **options)
    ours = {"Embedding": Embedding, "EmbeddingBag": EmbeddingBag}[kind](
        *sizes, dtype=dtype, **options
    )
    assert not ours.load_state_dict(theirs.state_dict()).missing_keys
    return ours, theirs


@pytest.mark.parametrize("dtype", CLOSE)
@pytest.mark.parametrize("padding_idx", [None, 2, -1])
@pytest.mark.parametrize("scale", [False, True])
@pytest.mark.parametrize("id_dtype", [torch.int32, torch.int64])
def test_embedding_is_torchs(dtype, padding_idx, scale, id_dtype, way):
    options = {"padding_idx": padding_idx, "scale_grad_by_freq": scale}
    ours, theirs = pair("Embedding", 10, 4, dtype=dtype, **options)
    ids = torch.tensor([[1, 9, 2], [1, 1, 5]], dtype=id_dtype)
    wanted, got = theirs(ids), ours(ids)
    assert torch.equal(got, wanted)
    up = torch.randn(got.shape).to(dtype)
    for out in (got, wanted):
        out.backward(up)
    assert ours.weight.grad.is_sparse
    assert ours.weight.grad.is_coalesced()
    if padding_idx is not None:
        assert padding_idx % 10 not in ours.weight.grad.indices()
    same(ours.weight.grad, theirs.weight.grad)


BAGS = [
    ([], [0, 0]),
    ([], []),
    ([1, 2, 2, 7], [0]),
    ([1, 2, 2, 7, 0, 2], [0, 0, 2, 6]),
    ([2, 2, 3], [0, 2]),
]


def by_rows(weight, ids, ends, mode, padding_idx):
    """Bags of the rows of torch's Embedding, whose scale_grad_by_freq is the documented one."""
    rows = nn.functional.embedding(ids, weight, scale_grad_by_freq=True)
    found = []
    for begin, end in itertools.pairwise(ends):
        bag = rows[begin:end]
        if padding_idx is not None:
            bag = bag[ids[begin:end] != padding_idx]
        found.append(bag.sum(0) / (max(len(bag), 1) if mode == "mean" else 1))
    return torch.stack(found)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("bags", BAGS)
@pytest.mark.parametrize("padding_idx", [None, 2])
@pytest.mark.parametrize("scale", [False, True])
@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("fused", [False, True])
def test_bags_are_torchs(mode, bags, padding_idx, scale, last, fused, way):
    if mode == "max" and scale:
        with pytest.raises(OptionError, match="scale_grad_by_freq=False"):
            EmbeddingBag(3, 3, mode=mode, scale_grad_by_freq=True)
        return
    ids, offsets = map(torch.tensor, bags)
    ids, offsets = ids.long(), offsets.long()
    if last:
        offsets = torch.cat([offsets, torch.tensor([len(ids)])])
        if len(offsets) == 1:
            return  # torch takes no such offsets
    options = {"padding_idx": padding_idx, "mode": mode, "scale_grad_by_freq": scale}
    ours, theirs = pair("EmbeddingBag", 10, 4, include_last_offset=last, **options)
    if fused:
        before = ours.weight.detach().clone()
        ours = EmbeddingBag(
            _weight=before.clone(), include_last_offset=last, optimizer=optimizers.SGD(1), **options
        )
    got, wanted = ours(ids, offsets), theirs(ids, offsets)
    same(got, wanted)
    if scale and len(offsets):
        # Not torch's: its bags (2.13) divide the gradient of some ids by the count of another.
        ends = [*offsets.tolist(), len(ids)][: len(wanted) + 1]
        wanted = by_rows(theirs.weight, ids, ends, mode, padding_idx)
        same(got, wanted)
    up = torch.randn(got.shape, dtype=got.dtype)
    got.backward(up)
    if not len(offsets) or not wanted.requires_grad:
        return
    wanted.backward(up)
    same(before - ours.weight if fused else ours.weight.grad, theirs.weight.grad)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("dtype", CLOSE)
def test_batches_of_bags(mode, dtype, way):
    ours, theirs = pair("EmbeddingBag", 10, 4, dtype=dtype, mode=mode)
    ids = torch.randint(0, 10, (5, 8))[:, ::2]
    got, wanted = ours(ids), theirs(ids)
    same(got, wanted)
    up = torch.randn(4, 5).to(dtype).T
    got.backward(up)
    wanted.backward(up)
    same(ours.weight.grad, theirs.weight.grad)


def by_hand(weight, ids, weights, mode):
    rows = weight[ids] * weights[..., None]
    if mode == "max":
        return rows.amax(1)
    found = rows.sum(1)
    return found / weights.sum(1)[:, None] if mode == "mean" else found


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("tracked", [False, True])
@pytest.mark.parametrize("fused", [False, True])
def test_weights_with_every_mode(mode, tracked, fused, way):
    start = torch.randn(10, 4, dtype=torch.float64)
    ids = torch.randint(0, 10, (5, 3))
    weights = (torch.rand(5, 3, dtype=torch.float64) + 0.1).requires_grad_(tracked)
    optimizer = optimizers.SGD(1) if fused else None
    ours = EmbeddingBag(_weight=start.clone(), mode=mode, optimizer=optimizer)
    weight = start.clone().requires_grad_()
    wanted, got = by_hand(weight, ids, weights, mode), ours(ids, per_sample_weights=weights)
    same(got, wanted)
    up = torch.randn(5, 4, dtype=torch.float64)
    ask = [weight, weights] if tracked else [weight]
    expected = torch.autograd.grad(wanted, ask, up)
    got.backward(up)
    same(start - ours.weight if fused else ours.weight.grad, expected[0])
    if tracked:
        same(weights.grad, expected[1])


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("max_norm", [None, 1.0])
def test_gradcheck(mode, max_norm, way):
    ids = torch.tensor([1, 2, 2, 4, 0, 3])
    module = EmbeddingBag(5, 3, mode=mode, max_norm=max_norm, sparse=False, dtype=torch.float64)
    rows = torch.randn(5, 3, dtype=torch.float64, requires_grad=True)
    weights = torch.rand(6, dtype=torch.float64, requires_grad=True)

    def run(rows, weights):
        return combine(module, rows, ids, weights)

    assert torch.autograd.gradcheck(run, (rows, weights))


def combine(module, rows, ids, weights):
    """What the module makes of these rows, as a function of them."""

    class Given(torch.autograd.Function):
        @staticmethod
        def forward(ctx, rows, weights):
            with torch.no_grad():
                module.weight.copy_(rows)
            ctx.weights = weights.detach().requires_grad_()
            with torch.enable_grad():
                ctx.out = module(ids, torch.tensor([0, 2, 2, 5]), ctx.weights)
            return ctx.out.detach()

        @staticmethod
        def backward(ctx, up):
            return torch.autograd.grad(ctx.out, (module.weight, ctx.weights), up, retain_graph=True)

    return Given.apply(rows, weights)


def test_max_norm_reads_and_does_not_write(way):
    ours, theirs = pair("Embedding", 10, 4, max_norm=1.0)
    before = ours.weight.detach().clone()
    ids = torch.tensor([1, 2, 2])
    assert torch.allclose(ours(ids), theirs(ids), atol=1e-6)  # torch adds 1e-7 to the norm
    assert torch.equal(ours.weight, before)
    ours.weight[1].sum().backward()  # torch's would refuse this after a forward
    bag = EmbeddingBag(_weight=before, max_norm=1.0, norm_type=1.0, mode="sum", _freeze=True)
    rows = before[ids]
    scale = rows.abs().sum(1, keepdim=True).clamp(min=1)
    same(bag(ids, torch.tensor([0])), (rows / scale).sum(0)[None])


TRAINED = [
    (optimizers.SGD(0.1), lambda p: torch.optim.SGD(p, 0.1)),
    (optimizers.Adagrad(0.1), lambda p: torch.optim.Adagrad(p, 0.1)),
    (optimizers.Adam(0.1), lambda p: torch.optim.SparseAdam(list(p), 0.1)),
]


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("way", TRAINED, ids=["sgd", "adagrad", "adam"])
@pytest.mark.filterwarnings("ignore:Sparse invariant checks")  # torch's Adagrad
@pytest.mark.parametrize("shards", [1, 3])
def test_losses_are_those_of_torchs_modules(fused, way, shards):
    theirs = nn.Embedding(20, 4, sparse=True, dtype=torch.float64)
    ours = Embedding(
        _weight=theirs.weight.detach().clone(),
        optimizer=way[0] if fused else None,
        shards=shards,
    )
    steps = way[1](theirs.parameters()), None if fused else way[1](ours.parameters())
    assert (len(list(ours.parameters())) == 0) == fused
    for _ in range(20):
        ids, target = torch.randint(0, 20, (6, 2)), torch.randn(6, 2, 4, dtype=torch.float64)
        losses = [((m(ids) - target) ** 2).mean() for m in (ours, theirs)]
        for loss, step in zip(losses, reversed(steps), strict=True):
            loss.backward()
            if step is not None:
                step.step()
                step.zero_grad()
        same(*(loss.detach() for loss in losses))
    assert torch.equal(ours.weight, torch.from_numpy(ours.table.lookup(range(20))))


@pytest.mark.parametrize("mode", MODES)
def test_hold_is_one_step_of_all(mode):
    start = torch.randn(10, 4, dtype=torch.float64)
    ids = torch.randint(0, 10, (4, 5))
    make = optimizers.Adagrad(0.1)
    whole = EmbeddingBag(_weight=start.clone(), mode=mode, optimizer=make)
    parts = EmbeddingBag(_weight=start.clone(), mode=mode, optimizer=make)
    up = torch.randn(4, 4, dtype=torch.float64)
    whole(ids).backward(up)
    parts.hold()
    weights = torch.ones(2, 5, dtype=torch.float64, requires_grad=True)
    parts(ids[:2]).backward(up[:2])
    parts(ids[2:], per_sample_weights=weights).backward(up[2:])
    assert torch.equal(parts.weight, start)
    parts.step()
    same(parts.weight, whole.weight)
    assert parts.table.optimizer_step == 1
    parts.hold()
    parts(ids).backward(up)
    parts.discard()
    with pytest.raises(OptionError, match="hold"):
        parts.step()
    same(parts.weight, whole.weight)


def test_scaled_losses_and_rates_of_a_step():
    start = torch.randn(10, 4)
    ours = Embedding(_weight=start.clone(), optimizer=optimizers.SGD(5))
    ours.grad_scale, ours.learning_rate = 1024.0, 0.5
    (ours(torch.tensor([3])).sum() * 1024).backward()
    same(start[3] - ours.weight[3], torch.full((4,), 0.5))


def test_only_training_changes_rows():
    module = Embedding(10, 4, optimizer=optimizers.SGD(1))
    before, ids = module.weight.clone(), torch.tensor([1, 2])
    assert not module.eval()(ids).requires_grad
    with torch.no_grad():
        assert not module.train()(ids).requires_grad
    frozen = Embedding.from_pretrained(before.clone(), optimizer=optimizers.SGD(1))
    assert not frozen(ids).requires_grad
    assert not Embedding.from_pretrained(before.clone())(ids).requires_grad
    assert torch.equal(module.weight, before)
    gradient = torch.full((2, 4), float("nan"))
    with pytest.raises(TableError, match="finite"):
        module(ids).backward(gradient)
    assert torch.equal(module.weight, before)


@pytest.mark.parametrize("fused", [False, True])
def test_no_second_derivatives(fused):
    module = Embedding(10, 4, sparse=False, optimizer=optimizers.SGD(1) if fused else None)
    scale = torch.ones((), requires_grad=True)
    loss = (module(torch.tensor([1, 2])) ** 2).sum() * scale
    if fused:
        loss.backward()
        return
    (gradient,) = torch.autograd.grad(loss, module.weight, create_graph=True)
    with pytest.raises(OptionError, match="second ones"):
        gradient.sum().backward()


def test_the_memory_is_the_tables():
    table = Table.from_array(np.zeros((5, 2)))
    for module in (Embedding(table=table), Embedding(table=table, optimizer=optimizers.SGD(1))):
        assert module.table is table
        table.write([1], [[1.0, 2.0]])
        assert module.weight[1].tolist() == [1, 2]
        with torch.no_grad():
            module.weight[1] = 7
        assert table.lookup(1).tolist() == [7, 7]
    moved = Embedding(table=table).float()
    assert moved(torch.tensor([1])).dtype == torch.float32
    assert moved.table is not table


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("shards", [1, 3])
def test_copies_are_apart(copied, fused, shards):
    module = EmbeddingBag(10, 4, shards=shards, optimizer=optimizers.Adagrad(1) if fused else None)
    ids = torch.tensor([[1, 2]])
    module(ids).sum().backward()
    twin = copied(module)
    before = module.weight.detach().clone()
    assert torch.equal(twin(ids), module(ids))
    with torch.no_grad():
        twin.weight.fill_(0)
    assert not twin(ids).any()
    assert torch.equal(module.weight, before)
    assert twin.table.optimizer_step == int(fused)
    assert twin.table.partition == module.table.partition


@pytest.mark.parametrize("kind", ["Embedding", "EmbeddingBag"])
@pytest.mark.parametrize("shards", [1, 3])
@pytest.mark.parametrize("fused", [False, True])
def test_state_goes_to_torchs_modules_and_back(kind, shards, fused):
    optimizer = optimizers.Adagrad(0.1) if fused else None
    make = {"Embedding": Embedding, "EmbeddingBag": EmbeddingBag}[kind]
    ours, again = (make(9, 4, shards=shards, optimizer=optimizer) for _ in range(2))
    theirs = getattr(nn, kind)(9, 4)
    assert list(ours.state_dict()) == ["weight"]
    theirs.load_state_dict(ours.state_dict())
    ids = torch.tensor([[1, 2], [8, 2]])
    same(ours(ids).detach(), theirs(ids).detach())
    ours.load_state_dict(nn.Embedding(9, 4).state_dict())
    ours(ids).sum().backward()
    file = io.BytesIO()
    torch.save(ours.state_dict(), file)
    file.seek(0)
    again.load_state_dict(torch.load(file, weights_only=True))
    for module in (ours, again):
        module(ids).sum().backward()
    assert torch.equal(ours.weight, again.weight)
    with pytest.raises(RuntimeError, match="shape"):
        ours.load_state_dict({"weight": torch.zeros(8, 4)})
    with pytest.raises(RuntimeError, match="Missing"):
        ours.load_state_dict({})


def test_the_state_of_another_optimizer_is_refused():
    adam, sgd = (Embedding(4, 2, optimizer=o) for o in (optimizers.Adam(), optimizers.SGD()))
    adam(torch.tensor([1])).sum().backward()
    before = sgd.weight.clone()
    with pytest.raises(RuntimeError, match="expected the state of 'sgd', got that of 'adam'"):
        sgd.load_state_dict(adam.state_dict())
    assert torch.equal(sgd.weight, before)


def test_a_broken_state_changes_nothing():
    module = Embedding(4, 2, optimizer=optimizers.Adam())
    module(torch.tensor([1])).sum().backward()
    state = copy.deepcopy(module.state_dict())
    plain = Embedding(4, 2, optimizer=optimizers.Adam(corrected=True))
    plain.load_state_dict(state)  # of rows that have missed no step
    assert plain.table.optimizer_state["adam.step"][0].tolist() == [1, 1, 1, 1]
    before = module.weight.clone()
    state["weight"] += 1
    state["_extra_state"]["state"]["adam.exp_avg"] = torch.zeros(3, 2)
    with pytest.raises(RuntimeError, match="expected rows of shape"):
        module.load_state_dict(state)
    assert torch.equal(module.weight, before)
    assert module.table.optimizer_step == 1


def test_files_are_trained_in_place(tmp_path):
    Table.from_array(np.zeros((6, 2), np.float32), shards=2).save(tmp_path / "t")
    with pytest.raises(TableError, match=r'"r\+"'):
        Embedding(table=Table.open(tmp_path / "t"), optimizer=optimizers.SGD(1))
    with Table.open(tmp_path / "t", "r+") as table:
        with pytest.raises(OptionError, match="one shard"):
            Embedding(table=table)
        module = Embedding(6, 2, table=table, optimizer=optimizers.SGD(1))
        with pytest.raises(AttributeError, match="2 shards"):
            _ = module.weight
        module(torch.tensor([3, 3])).sum().backward()
        assert module.state_dict()["weight"][3].tolist() == [-2, -2]
    assert Table.open(tmp_path / "t").lookup(3).tolist() == [-2, -2]
    Table.from_array(np.zeros((6, 2), np.float32)).save(tmp_path / "one", overwrite=True)
    with Table.open(tmp_path / "one", "r+") as table:
        with pytest.raises(TableError, match="rows in memory"):
            Embedding(table=table)
        module = Embedding(table=table, optimizer=optimizers.Adagrad(1))
        module(torch.tensor([3, 3])).sum().backward()
        state = copy.deepcopy(module.state_dict())
        with pytest.raises(RuntimeError, match="which holds its own"):
            module.load_state_dict(state)
        assert (table.lookup(3).tolist(), table.optimizer_step) == ([-1, -1], 1)
        module.load_state_dict({"weight": torch.ones(6, 2)})
        assert (table.lookup(3).tolist(), table.optimizer_step) == ([1, 1], 0)
    again = Embedding(6, 2, shards=2, optimizer=optimizers.Adagrad(1))
    again.load_state_dict(state)
    assert again.table.optimizer_step == 1
    assert again.table.optimizer_state["adagrad.sum"][1].tolist() == [[0, 0], [4, 4], [0, 0]]


def test_a_read_only_file_is_no_parameter(tmp_path):
    Table.from_array(np.zeros((6, 2), np.float32)).save(tmp_path / "t")
    with pytest.raises(TableError, match="read-only"):
        Embedding(table=Table.open(tmp_path / "t"))
    copied = Embedding(table=Table.open(tmp_path / "t", "c"))
    with torch.no_grad():
        copied.weight[1] = 1
    assert not Table.open(tmp_path / "t").lookup(1).any()


def test_what_is_refused(way):
    module, bag = Embedding(5, 2), EmbeddingBag(5, 2)
    with pytest.raises(IdOutOfRangeError):
        module(torch.tensor([5]))
    with pytest.raises(IdOutOfRangeError):
        bag(torch.tensor([[-1]]))
    for ids in (torch.tensor([1.0]), torch.tensor([True]), "words"):
        with pytest.raises(IdTypeError):
            module(ids)
    with pytest.raises(BagError, match="offsets"):
        bag(torch.tensor([1]))
    with pytest.raises(BagError):
        bag(torch.tensor([[1]]), torch.tensor([0]))
    with pytest.raises(BagError):
        bag(torch.tensor([1]), torch.tensor([1]))
    with pytest.raises(BagError):
        bag(torch.ones(1, 1, 1, dtype=torch.int64))
    with pytest.raises(OptionError, match="device of the rows"):
        module(torch.ones(2, dtype=torch.int64, device="meta"))
    with pytest.raises(OptionError, match="not converted"):
        Embedding(5, 2, optimizer=optimizers.SGD()).double()
    for verb in (module.hold, module.step):
        with pytest.raises(OptionError, match="optimizer=None"):
            verb()
    for options in (
        {"padding_idx": 5},
        {"padding_idx": -6},
        {"optimizer": torch.optim.SGD},
        {"device": "cuda", "optimizer": optimizers.SGD()},
        {"device": "meta", "table": Table.from_array(np.zeros((5, 2)))},
        {"nonfinite": "ignore"},
        {"table": np.zeros((5, 2))},
        {"table": Table.from_array(np.zeros((5, 2))), "shards": 2},
    ):
        with pytest.raises(OptionError):
            Embedding(5, 2, **options)
    for options in (
        {"dtype": torch.int64},
        {"_weight": torch.zeros(4, 2)},
        {"table": Table.from_array(np.zeros((4, 2)))},
        {"table": Table.from_array(np.zeros((5, 2), np.int32))},
    ):
        with pytest.raises(TableError):
            Embedding(5, 2, **options)
    with pytest.raises(OptionError, match="neither"):
        Embedding()
    for count in (-1, 5.0, "5"):
        with pytest.raises(OptionError, match=r"num_embeddings as a whole number from 0, got"):
            Embedding(count, 2)
        with pytest.raises(OptionError, match=r"embedding_dim as a whole number from 0, got"):
            EmbeddingBag(5, count)
    with pytest.raises(OptionError, match=r"got Table\(.*; pass table="):
        Embedding(Table.from_array(np.zeros((5, 2))))
    with pytest.raises(OptionError, match="mode"):
        EmbeddingBag(5, 2, mode="sqrtn")


@pytest.mark.parametrize("fused", [False, True])
def test_rows_that_lie_in_columns(fused):
    columns = nn.Parameter(torch.randn(3, 5).T)
    optimizer = optimizers.SGD(1) if fused else None
    module = Embedding(_weight=columns, optimizer=optimizer)
    module(torch.tensor([4])).sum().backward()
    with torch.no_grad():
        module.weight[0] = 0
    assert not module(torch.tensor([0])).any()
    if fused:
        same(module.weight[4], columns.detach()[4] - 1)


def test_what_is_printed():
    assert repr(Embedding(5, 2, padding_idx=1)) == "Embedding(5, 2, padding_idx=1)"
    assert "optimizer=SGD" in repr(EmbeddingBag(5, 2, optimizer=optimizers.SGD()))


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
@pytest.mark.parametrize("mode", [None, "mean", "max"])
@pytest.mark.filterwarnings("ignore")  # what torch's compiler warns of, of itself
def test_a_compiled_graph_stays_whole(backend, mode):
    torch._dynamo.reset()
    start, ids = torch.randn(10, 3), torch.tensor([[1, 2], [1, 9]])
    make = Embedding if mode is None else lambda **options: EmbeddingBag(mode=mode, **options)
    plain, compiled = (
        make(_weight=start.clone(), optimizer=optimizers.Adagrad(0.1)) for _ in range(2)
    )
    graph = torch.compile(lambda ids: compiled(ids).sin(), backend=backend, fullgraph=True)
    for module, run in ((plain, lambda ids: plain(ids).sin()), (compiled, graph)):
        for _ in range(3):
            run(ids).sum().backward()
        assert module.table.optimizer_step == 3
    assert torch.equal(plain.weight, compiled.weight)
    compiled.eval()
    assert torch.equal(graph(ids), plain(ids).sin())
    with pytest.raises(IdOutOfRangeError):
        graph(ids + 5)


@pytest.mark.filterwarnings("ignore")
def test_a_sparse_gradient_breaks_the_graph_and_no_more():
    torch._dynamo.reset()
    module, ids = Embedding(10, 3), torch.tensor([1, 1])
    graph = torch.compile(lambda ids: module(ids) * 2, backend="eager")
    graph(ids).sum().backward()
    assert module.weight.grad.to_dense()[1].tolist() == [4, 4, 4]
    with torch.no_grad():
        whole = torch.compile(lambda ids: module(ids) * 2, backend="eager", fullgraph=True)
        assert torch.equal(whole(ids), module(ids) * 2)


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_workers_of_a_loader():
    module = EmbeddingBag(50, 2, optimizer=optimizers.SGD(1), mode="sum")
    rows = torch.arange(50)[:, None]
    start = module.weight.clone()
    module(rows[:1]).sum().backward()  # threads of ours run before the fork
    loader = torch.utils.data.DataLoader(
        rows, batch_size=10, num_workers=2, multiprocessing_context="fork"
    )
    for ids in loader:
        module(ids).sum().backward()
    same(start[1:] - module.weight[1:], torch.ones(49, 2))


@pytest.mark.parametrize("strategy", ["mod", "div"])
@pytest.mark.parametrize("tail", [(3,), (2, 2), ()])
@pytest.mark.parametrize("max_norm", [None, 1.0])
def test_gradients_of_shards(strategy, tail, max_norm):
    whole = torch.randn(8, *tail, dtype=torch.float64)
    cut = [whole[k::3] for k in range(3)] if strategy == "mod" else whole.tensor_split(3)
    cut = [shard.clone().requires_grad_(k != 1) for k, shard in enumerate(cut)]
    ids = torch.tensor([[7, 0, 7], [3, 4, 1]])

    def run(*shards):
        return embedding_lookup(list(shards), ids, strategy, max_norm=max_norm)

    if max_norm is None:
        assert torch.equal(run(*cut), whole[ids])
    assert torch.autograd.gradcheck(run, cut)
    run(*cut).sum().backward()
    dense = [shard.grad for shard in cut]
    for shard in cut:
        shard.grad = None
    embedding_lookup(cut, ids, strategy, max_norm=max_norm, sparse=True).sum().backward()
    assert dense[1] is cut[1].grad is None
    for k in (0, 2):
        same(cut[k].grad, dense[k])


def test_shards_that_are_refused():
    with pytest.raises(TableError, match="tensors"):
        embedding_lookup([np.zeros((2, 2))], [0])
    with pytest.raises(TableError, match="dtype"):
        embedding_lookup(torch.zeros(2, 2, dtype=torch.int32), [0])
    with pytest.raises(PartitionError):
        embedding_lookup([torch.zeros(1, 2), torch.zeros(3, 2)], [0])
    with pytest.raises(IdOutOfRangeError):
        embedding_lookup(torch.zeros(2, 2), [2])
    assert embedding_lookup(torch.zeros(2, 2), []).shape == (0, 2)
