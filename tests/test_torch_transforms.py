"""Compiled graphs, torch.func, second derivatives, states both ways, workers of a loader."""

import copy
import io
import itertools

import numpy as np
import pytest

torch = pytest.importorskip("torch")
from torch import nn  # noqa: E402

from shardwise import (  # noqa: E402
    IdOutOfRangeError,
    OptionError,
    Partition,
    RaggedIds,
    Table,
    TableError,
    optimizers,
)
from shardwise.torch import (  # noqa: E402
    Embedding,
    EmbeddingBag,
    embedding_lookup,
    embedding_lookup_sparse,
    safe_embedding_lookup_sparse,
)


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(9)


def cut(whole, strategy):
    if isinstance(strategy, Partition):
        pieces = [whole[a:b] for a, b in itertools.pairwise(strategy.boundaries)]
    else:
        pieces = [whole[k::3] for k in range(3)] if strategy == "mod" else whole.tensor_split(3)
    return [piece.clone().requires_grad_() for piece in pieces]


STRATEGIES = ("mod", "div", Partition.ranges([0, 1, 6, 8]))
SPLITS, WEIGHTS = torch.tensor([0, 2, 2, 6]), torch.arange(6.0).double()
LOOKUPS = {
    "rows": lambda shards, ids, how: embedding_lookup(shards, ids, how, out_of_range="clamp"),
    "norms": lambda shards, ids, how: embedding_lookup(shards, ids, how, max_norm=1.0),
    "ragged": lambda shards, ids, how: embedding_lookup_sparse(
        shards, RaggedIds(ids, SPLITS), None, how, combiner="sqrtn"
    ),
    "weights": lambda shards, ids, how: embedding_lookup_sparse(
        shards, RaggedIds(ids, SPLITS), RaggedIds(WEIGHTS, SPLITS), how
    ),
    "batch": lambda shards, ids, how: embedding_lookup_sparse(
        shards, ids.reshape(1, 2, 3), WEIGHTS.reshape(1, 2, 3), how
    ),
    "safe": lambda shards, ids, how: safe_embedding_lookup_sparse(
        shards,
        RaggedIds(ids, SPLITS),
        RaggedIds(WEIGHTS - 2, SPLITS),
        default_id=5,
        partition_strategy=how,
    ),
}


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
@pytest.mark.parametrize("strategy", STRATEGIES, ids=str)
@pytest.mark.parametrize("name", LOOKUPS)
@pytest.mark.filterwarnings("ignore")  # what torch's compiler warns of, of itself
def test_compiled_lookups_stay_whole(name, strategy, backend):
    torch._dynamo.reset()
    whole, ids = torch.randn(8, 3, dtype=torch.float64), torch.tensor([1, 7, 7, 0, 2, 3])
    plain, compiled = (cut(whole, strategy) for _ in range(2))

    def run(shards, ids):
        return LOOKUPS[name](shards, ids, strategy).sin()

    graph = torch.compile(run, backend=backend, fullgraph=True)
    for shards, call in ((plain, run), (compiled, graph)):
        call(shards, ids).sum().backward()
    assert torch.equal(graph(compiled, ids), run(plain, ids))
    for ours, theirs in zip(compiled, plain, strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-14, atol=1e-14)
    if name != "rows":
        with pytest.raises(IdOutOfRangeError):
            graph(compiled, ids + 9)


@pytest.mark.filterwarnings("ignore")
def test_what_breaks_a_graph_still_works():
    torch._dynamo.reset()
    ids = torch.tensor([[1, 7, 7], [0, 2, 3]])
    for options in ({"combiner": "max"}, {"max_norm": 1.0}, {"sparse": True}):
        plain, compiled = (cut(torch.arange(24.0).reshape(8, 3).sin(), "mod") for _ in range(2))

        def run(shards, options=options):
            return embedding_lookup_sparse(shards, ids, None, **options).sin()

        run(plain).sum().backward()
        torch.compile(run, backend="eager")(compiled).sum().backward()
        for ours, theirs in zip(compiled, plain, strict=True):
            assert torch.equal(ours.grad.to_dense(), theirs.grad.to_dense())


def test_operators_are_sound():
    shards = cut(torch.randn(8, 3, dtype=torch.float64), "mod")
    how = "mod", "mean", None, "error", None, False, False
    ids = torch.tensor([1, 7, 7, 0, 2, 3])
    operator = torch.ops.shardwise.read_shards.default
    for splits, weights in ((None, None), (SPLITS, None), (SPLITS, torch.rand(6).double())):
        torch.library.opcheck(operator, (shards, ids, splits, weights, *how))


@pytest.mark.filterwarnings("ignore:.*torch.jit.script:DeprecationWarning")  # torch's jvp
def test_gradients_of_torch_func():
    rows, ids = torch.randn(8, 3, dtype=torch.float64), torch.tensor([1, 7, 7, 0, 2, 3])
    for call in LOOKUPS.values():

        def loss(rows, call=call):
            return (call([rows], ids, "div") ** 2).sum()

        leaf = rows.clone().requires_grad_()
        loss(leaf).backward()
        torch.testing.assert_close(torch.func.grad(loss)(rows), leaf.grad)
        _, pull = torch.func.vjp(loss, rows)
        torch.testing.assert_close(pull(torch.ones((), dtype=rows.dtype))[0], leaf.grad)
        with pytest.raises((RuntimeError, OptionError), match=r"vmap|numbers can be read"):
            torch.func.vmap(loss)(rows[None])
        with pytest.raises((RuntimeError, OptionError), match=r"jvp|numbers can be read"):
            torch.func.jvp(loss, (rows,), (rows,))


@pytest.mark.parametrize("mode", [None, "mean", "max"])
def test_a_module_as_a_function_of_its_weight(mode):
    options = {"sparse": False, "dtype": torch.float64}
    module = (
        Embedding(8, 3, **options) if mode is None else EmbeddingBag(8, 3, mode=mode, **options)
    )
    ids, other = torch.tensor([[1, 7, 7]]), torch.randn(8, 3, dtype=torch.float64)
    before = module.weight.detach().clone()

    def loss(weight):
        return (torch.func.functional_call(module, {"weight": weight}, (ids,)) ** 2).sum()

    gradient = torch.func.grad(loss)(other)
    leaf = other.clone().requires_grad_()
    loss(leaf).backward()
    torch.testing.assert_close(gradient, leaf.grad)
    assert torch.equal(module.weight, before)
    assert (module.table.lookup(range(8)) == before.numpy()).all()


@pytest.mark.parametrize("mode", [None, "sum", "mean", "max"])
@pytest.mark.parametrize("weighted", [False, True])
def test_gradcheck_of_modules_as_functions(mode, weighted):
    """With weights that are fixed the kernels give the gradients, except those of "max"."""
    options = {"sparse": False, "dtype": torch.float64, "padding_idx": 2}
    module = (
        Embedding(6, 2, **options) if mode is None else EmbeddingBag(6, 2, mode=mode, **options)
    )
    ids = torch.tensor([1, 5, 5, 2, 0])
    given = (ids,)
    if mode is not None:
        given = ids, torch.tensor([0, 3, 3]), torch.rand(5).double() if weighted else None

    def run(weight):
        return torch.func.functional_call(module, {"weight": weight}, given)

    rows = torch.randn(6, 2, dtype=torch.float64, requires_grad=True)
    if mode is None:  # the row of padding_idx is read, and has no gradient
        rows.data[2] = 0
        expected = torch.zeros(6, 2).double()
        expected[[0, 1]], expected[5] = 1, 2
        assert torch.equal(torch.autograd.grad(run(rows).sum(), rows)[0], expected)
    else:
        assert torch.autograd.gradcheck(run, rows)


@pytest.mark.parametrize("call", LOOKUPS.values(), ids=LOOKUPS)
def test_second_derivatives_of_lookups_are_refused(call):
    shards = cut(torch.randn(8, 3, dtype=torch.float64), "div")
    found = (call(shards, torch.tensor([1, 7, 7, 0, 2, 3]), "div") ** 2).sum()
    gradients = torch.autograd.grad(found, shards, create_graph=True)
    with pytest.raises(OptionError, match="second ones"):
        sum(gradient.sum() for gradient in gradients).backward()


def test_a_fused_module_has_no_second_derivative_either():
    module = EmbeddingBag(8, 3, optimizer=optimizers.SGD(1))
    scale = torch.ones((), requires_grad=True)
    loss = (module(torch.tensor([[1, 2]])) * scale).sum()
    (gradient,) = torch.autograd.grad(loss, scale, create_graph=True)  # of another: it works
    before = module.weight.clone()
    gradient.backward()
    assert not torch.equal(module.weight, before)


MODELS = {
    "rows": (lambda **o: Embedding(9, 4, padding_idx=1, **o), lambda: nn.Embedding(9, 4, 1)),
    "bags": (
        lambda **o: EmbeddingBag(9, 4, mode="sum", **o),
        lambda: nn.EmbeddingBag(9, 4, mode="sum"),
    ),
}


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("shards", [1, 3])
def test_states_go_both_ways(kind, fused, shards):
    make, torchs = MODELS[kind]
    optimizer = optimizers.Adam(0.1) if fused else None
    ids = torch.tensor([[1, 2], [8, 2]])

    def model(layer):
        return nn.ModuleDict({"layer": layer, "head": nn.Linear(4, 1)})

    ours, theirs = model(make(optimizer=optimizer, shards=shards)), model(torchs())
    file = io.BytesIO()
    torch.save(theirs.state_dict(), file)
    file.seek(0)
    ours.load_state_dict(torch.load(file, weights_only=True))
    assert torch.equal(ours["layer"](ids), theirs["layer"](ids))
    for _ in range(3):
        ours["layer"](ids).sum().backward()
    extra = ["layer._extra_state"] if fused else []
    found = theirs.load_state_dict(ours.state_dict(), strict=False)
    assert (found.missing_keys, found.unexpected_keys) == ([], extra)
    assert torch.equal(ours["layer"](ids), theirs["layer"](ids))
    assert list(theirs.state_dict()) == [k for k in ours.state_dict() if k not in extra]
    # What torch loads is a copy: no memory is shared.
    theirs["layer"].weight.data.zero_()
    assert ours["layer"].weight.any()
    again = model(make(optimizer=optimizer, shards=5 - shards))
    again.load_state_dict(copy.deepcopy(ours.state_dict()))
    for module in (again, ours):
        module["layer"](ids).sum().backward()
    if fused:
        assert torch.equal(again["layer"].weight, ours["layer"].weight)
        assert again["layer"].table.optimizer_step == 4


def test_a_state_that_is_assigned():
    module, state = Embedding(9, 4), {"weight": torch.ones(9, 4)}
    module.load_state_dict(state, assign=True)
    assert module.weight.data_ptr() == state["weight"].data_ptr()
    assert module(torch.tensor([3])).tolist() == [[1, 1, 1, 1]]
    module.table.write([3], np.full((1, 4), 2.0))
    assert state["weight"][3].tolist() == [2, 2, 2, 2]


class Looked(torch.utils.data.Dataset):
    """Samples whose features a worker looks up."""

    def __init__(self, module):
        self.module = module

    def __len__(self):
        return 40

    def __getitem__(self, k):
        ids = torch.tensor([[k, (k * 7) % 50]])
        return ids[0], self.module(ids)[0].detach(), self.module.table.lookup(k)


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.parametrize("where", ["memory", "r+"])
def test_workers_that_look_rows_up(where, tmp_path):
    """After a fork: rows of the parent, as they are in files that both have open."""
    table = Table.from_array(np.random.default_rng(1).normal(size=(50, 4)).astype(np.float32))
    if where == "r+":
        table.save(tmp_path / "t")
        table = Table.open(tmp_path / "t", "r+")
    module = EmbeddingBag(table=table, mode="sum", optimizer=optimizers.SGD(1))
    module(torch.arange(50)[None]).sum().backward()  # threads run before the fork
    loader = torch.utils.data.DataLoader(
        Looked(module), batch_size=8, num_workers=2, multiprocessing_context="fork"
    )
    for _ in range(2):
        before = table.lookup(range(50))
        for ids, pooled, rows in loader:
            assert torch.equal(pooled, torch.from_numpy(before[ids].sum(axis=1)))
            assert torch.equal(rows, torch.from_numpy(before[ids[:, 0]]))
        module(torch.arange(50)[None]).sum().backward()


@pytest.mark.parametrize("mode", [None, "sum", "max"])
def test_held_gradients_are_one_step(mode):
    """Of one weight with torch's optimizer the same: gradients add up between its steps."""
    rows = torch.randn(9, 4, dtype=torch.float64)
    kind = Embedding if mode is None else lambda **o: EmbeddingBag(mode=mode, **o)
    fused = kind(_weight=rows.clone(), optimizer=optimizers.Adagrad(0.5))
    plain = kind(_weight=rows.clone(), sparse=False)
    adagrad = torch.optim.Adagrad(plain.parameters(), 0.5)
    for _ in range(3):
        fused.hold()
        for _ in range(4):
            ids = torch.randint(0, 9, (3, 5))
            for module in (fused, plain):
                (module(ids) ** 2).sum().backward()
            ids.fill_(0)  # a loader fills it anew
        fused.step()
        adagrad.step()
        adagrad.zero_grad()
        torch.testing.assert_close(fused.weight, plain.weight.detach())
    fused.hold()
    fused(torch.tensor([[1]])).backward(torch.full_like(fused(torch.tensor([[1]])), torch.inf))
    fused.hold()  # once more: what is held stays
    with pytest.raises(TableError, match="finite"):
        fused.step()
    fused.discard()
    assert fused.table.optimizer_step == 3
    fused.learning_rate = 0.0
    before = fused.weight.clone()
    fused(torch.tensor([[1]])).sum().backward()
    assert torch.equal(fused.weight, before)
