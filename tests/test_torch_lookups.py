"""Lookups in tensors: TensorFlow's gradients, NumPy's answers, on the kernels and through torch.

golden/make_gradients.py says how TensorFlow's answers were made. What other devices than the CPU
run is run here on the CPU, for there is no other.
"""

import itertools
import json
import math
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import shardwise  # noqa: E402
from shardwise import (  # noqa: E402
    BagError,
    IdOutOfRangeError,
    IdTypeError,
    OptionError,
    Partition,
    PartitionError,
    RaggedIds,
    SparseIds,
    TableError,
)
from shardwise.torch import (  # noqa: E402
    _tensors,
    embedding_lookup,
    embedding_lookup_sparse,
    safe_embedding_lookup_sparse,
)

CASES = json.loads((Path(__file__).parent / "golden" / "gradients.json").read_text())
CALLS = {
    "lookup": embedding_lookup,
    "plain": embedding_lookup_sparse,
    "safe": safe_embedding_lookup_sparse,
}
SEEDS = 150
COMBINERS = ("sum", "mean", "sqrtn", "max")
POLICIES = ("error", "zeros", "clamp", "wrap", 3)


@pytest.fixture(params=["kernels", "torch"])
def way(request, monkeypatch):
    monkeypatch.setattr(_tensors, "_through_torch", request.param == "torch")
    torch.manual_seed(4)
    return request.param


def cut(whole, strategy, count):
    if isinstance(strategy, Partition):
        ends = strategy.boundaries
        return [whole[a:b] for a, b in itertools.pairwise(ends)]
    return (
        [whole[k::count] for k in range(count)] if strategy == "mod" else whole.tensor_split(count)
    )


def learning(whole, strategy, count):
    return [shard.clone().requires_grad_() for shard in cut(whole, strategy, count)]


def close(got, expected, bound=1e-12):
    got, expected = torch.as_tensor(got).detach(), torch.as_tensor(expected).detach()
    torch.testing.assert_close(got, expected, rtol=bound, atol=bound, equal_nan=True)


@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("k", range(len(CASES)))
def test_tensorflows_gradients(k, sparse, way):
    case = CASES[k]
    count = 7 * math.prod(case["row"])
    whole = ((torch.arange(count) * 37 % 101 - 50) / 8).double().reshape(7, *case["row"])
    shards = learning(whole, case["args"]["partition_strategy"], case["shards"])
    weights = case.get("weights")
    weights = (
        None if weights is None else torch.tensor(weights, dtype=torch.float64).requires_grad_()
    )
    if case["function"] == "lookup":
        given = [torch.tensor(case["ids"])]
    else:
        form = (
            (lambda values: RaggedIds(values, torch.tensor(case["row_splits"])))
            if "row_splits" in case
            else (lambda values: SparseIds(case["indices"], values, case["dense_shape"]))
        )
        given = [form(torch.tensor(case["values"])), None if weights is None else form(weights)]
    params = shards if len(shards) > 1 else shards[0]
    found = CALLS[case["function"]](params, *given, **case["args"], sparse=sparse)
    close(found.ravel(), torch.tensor(case["answer"], dtype=torch.float64))
    found.backward(torch.arange(found.numel()).double().sin().reshape(found.shape))
    for shard, expected in zip(shards, case["shards_of_gradients"], strict=True):
        assert shard.grad.is_sparse == sparse
        close(shard.grad.to_dense().ravel(), torch.tensor(expected, dtype=torch.float64))
    if weights is not None:
        close(weights.grad, torch.tensor(case["weights_of_gradients"], dtype=torch.float64))


def forms(rng, rows, negative=False):
    """The same bags in every form: (name, ids, weights, the form of NumPy)."""
    lengths = np.array([2, 0, 3, 1])
    splits = np.concatenate([[0], np.cumsum(lengths)])
    low = -rows if negative else 0
    ids = rng.integers(low, rows, 6)
    weights = rng.integers(-1 if negative else 1, 9, 6) / 4
    columns = np.concatenate([np.arange(n) for n in lengths])
    places = np.stack([np.repeat(np.arange(4), lengths), columns], 1)
    given = RaggedIds(ids, splits), RaggedIds(weights, splits)
    ours = torch.from_numpy(ids), torch.from_numpy(weights)
    yield "ragged", *(RaggedIds(x, torch.from_numpy(splits)) for x in ours), given
    yield "sparse", *(SparseIds(torch.from_numpy(places), x, (4, 3)) for x in ours), given
    checked = {"size": (4, 3), "check_invariants": True}
    yield "coo", *(torch.sparse_coo_tensor(places.T, x, **checked) for x in ours), given
    yield "csr", *(torch.sparse_csr_tensor(splits, columns, x, **checked) for x in ours), given
    yield (
        "nested",
        *(torch.nested.nested_tensor_from_jagged(x, torch.from_numpy(splits)) for x in ours),
        given,
    )
    yield "list", *([part for part in x.tensor_split(splits[1:-1].tolist())] for x in ours), given
    yield "numbers", [b.tolist() for b in np.split(ids, splits[1:-1])], ours[1], None
    yield "arrays", *given, given
    batch = rng.integers(low, rows, (2, 2, 3)), rng.integers(1, 9, (2, 2, 3)) / 4
    yield "batch", *map(torch.from_numpy, batch), batch


NAMES = ("ragged", "sparse", "coo", "csr", "nested", "list", "numbers", "arrays", "batch")


@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support:UserWarning")
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("safe", [False, True])
def test_every_form_is_numpys(name, safe, way):
    rng = np.random.default_rng(5)
    whole = torch.randn(7, 3, dtype=torch.float64)
    shards = learning(whole, "div", 3)
    for combiner, max_norm, weighted in itertools.product(COMBINERS, (None, 1.2), (False, True)):
        _, ids, weights, given = next(f for f in forms(rng, 7, safe) if f[0] == name)
        options = {"combiner": combiner, "max_norm": max_norm, "partition_strategy": "div"}
        if safe:
            options["default_id"] = 4
        ours, theirs = (
            (CALLS["safe"], shardwise.safe_embedding_lookup_sparse)
            if safe
            else (CALLS["plain"], shardwise.embedding_lookup_sparse)
        )
        if given is None:  # a plain vector of weights goes with forms that say where bags end
            if weighted:
                with pytest.raises(BagError):
                    ours(shards, ids, weights, **options)
                continue
            given = ids, None
        expected = theirs(whole.numpy(), given[0], given[1] if weighted else None, **options)
        found = ours(shards, ids, weights if weighted else None, **options)
        close(found, expected)
        found.sum().backward()
        with torch.no_grad():
            close(ours(shards, ids, weights if weighted else None, **options), expected)


def test_ids_of_a_dtype_that_does_not_hold_the_number_of_rows_wrap(way):
    whole = torch.randn(300, 1, dtype=torch.float64, requires_grad=True)
    ids = torch.tensor([-1, 3, -128], dtype=torch.int8)
    found = embedding_lookup(whole, ids, out_of_range="wrap")
    assert torch.equal(found, whole[[299, 3, 172]])
    found.sum().backward()
    assert whole.grad.nonzero()[:, 0].tolist() == [3, 172, 299]


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("dtype", ["int64", "int32", "uint64", "uint8", "int16"])
@pytest.mark.parametrize("strategy", ["mod", "div", Partition.ranges([0, 1, 1, 5])])
def test_policies_are_numpys(policy, dtype, strategy, way):
    whole = torch.randn(5, 2, dtype=torch.float64)
    shards = learning(whole, strategy, 3)
    ids = np.array([0, 4, 5, 9, 100, 3, 3]).astype(dtype)
    if dtype == "uint64":
        ids[4] = 2**63 + 12
    elif dtype.startswith("int"):
        ids[3:5] = -1, -9
    given = torch.from_numpy(ids)
    options = {"partition_strategy": strategy, "out_of_range": policy}
    if policy == "error":
        with pytest.raises(IdOutOfRangeError) as caught:
            shardwise.embedding_lookup([s.detach().numpy() for s in shards], ids, strategy)
        with pytest.raises(IdOutOfRangeError) as again:
            embedding_lookup(shards, given, **options)
        assert str(again.value) == str(caught.value)
        return
    table = shardwise.Table.from_array(whole.numpy())
    found = embedding_lookup(shards, given, **options)
    expected = table.lookup(ids, out_of_range=policy)
    assert torch.equal(found.detach(), torch.from_numpy(expected))
    up = torch.randn(7, 2, dtype=torch.float64)
    found.backward(up)
    # The gradient is what SGD takes off the same table.
    trained = shardwise.Table.from_array(np.zeros((5, 2)))
    trained.update(ids, up.numpy(), shardwise.optimizers.SGD(1.0), out_of_range=policy)
    lost = -trained.lookup(range(5))
    for shard, part in zip(shards, cut(torch.from_numpy(lost), strategy, 3), strict=True):
        close(shard.grad, part)
    for combiner in COMBINERS:
        for shard in shards:
            shard.grad = None
        bags = RaggedIds(given, torch.tensor([0, 3, 3, 7]))
        found = embedding_lookup_sparse(shards, bags, None, combiner=combiner, **options)
        expected = table.pool(ids, [0, 3, 3], combiner=combiner, out_of_range=policy)
        close(found, expected)
        found.backward(up[:3])
        trained = shardwise.Table.from_array(whole.numpy().copy())
        trained.update_pool(
            ids,
            [0, 3, 3],
            up[:3].numpy(),
            shardwise.optimizers.SGD(1.0),
            combiner=combiner,
            out_of_range=policy,
        )
        lost = whole.numpy() - trained.lookup(range(5))
        for shard, part in zip(shards, cut(torch.from_numpy(lost), strategy, 3), strict=True):
            close(shard.grad, part)


@pytest.mark.parametrize("seed", range(SEEDS))
def test_kernels_and_torch_agree(seed, monkeypatch):
    """Options by chance, all at once: what the two ways give, and what NumPy's functions give."""
    rng = np.random.default_rng(seed)
    torch.manual_seed(seed)
    rows, count = int(rng.integers(1, 9)), int(rng.integers(1, 4))
    strategy = rng.choice(["mod", "div"])
    tail = [(3,), (2, 2), ()][rng.integers(3)]
    whole = torch.randn(rows, *tail, dtype=torch.float64)
    lengths = rng.integers(0, 4, rng.integers(1, 7))
    splits = np.concatenate([[0], np.cumsum(lengths)])
    safe, policy = rng.random() < 0.5, rng.choice(["zeros", "clamp", "wrap", "row"])
    ids = rng.integers(-3, rows + 4, splits[-1])
    weights = None
    if rng.random() < 0.6:
        weights = rng.choice([0.5, 1.0, 2.0, -1.0, 0.0], splits[-1])
        if safe and rng.random() < 0.3:
            weights[rng.random(splits[-1]) < 0.3] = np.nan
    options = {
        "combiner": str(rng.choice(COMBINERS)),
        "max_norm": [None, 1.0, 0.0, -1.0][rng.integers(4)],
        "out_of_range": rows - 1 if policy == "row" else str(policy),
        "partition_strategy": str(strategy),
        "like_tensorflow": bool(rng.random() < 0.3),
    }
    if safe and rng.random() < 0.6:
        options["default_id"] = int(rng.integers(0, rows))
    name, found = "safe" if safe else "plain", []
    arrays = RaggedIds(ids, splits), None if weights is None else RaggedIds(weights, splits)
    numpy = getattr(shardwise, ("safe_" if safe else "") + "embedding_lookup_sparse")
    expected = numpy(
        whole.numpy() if count == 1 else [p.numpy() for p in cut(whole, strategy, count)],
        *arrays,
        **options,
    )
    for through, tracked in ((False, False), (False, True), (True, False), (True, True)):
        monkeypatch.setattr(_tensors, "_through_torch", through)
        shards = learning(whole, strategy, count)
        given, leaf = [RaggedIds(torch.from_numpy(ids), torch.from_numpy(splits)), None], None
        if weights is not None:
            leaf = torch.tensor(weights).requires_grad_(tracked)
            given[1] = RaggedIds(leaf, torch.from_numpy(splits))
        out = CALLS[name](shards, *given, **options, sparse=bool(rng.random() < 0.5))
        close(out, expected)
        up = torch.linspace(-1, 1, out.numel(), dtype=torch.float64).reshape(out.shape)
        out.backward(up)
        found.append((leaf, [shard.grad.to_dense() for shard in shards]))
    for leaf, gradients in found[1:]:
        for got, wanted in zip(gradients, found[0][1], strict=True):
            close(got, wanted)
        if leaf is not None and leaf.requires_grad:
            close(leaf.grad, found[1][0].grad)


@pytest.mark.parametrize("combiner", COMBINERS)
@pytest.mark.parametrize("max_norm", [None, 1.0])
@pytest.mark.parametrize("safe", [False, True])
@pytest.mark.parametrize("tail", [(3,), (2, 2), ()])
def test_gradcheck(combiner, max_norm, safe, tail, way):
    whole = torch.randn(8, *tail, dtype=torch.float64)
    shards = learning(whole, "mod", 3)
    weights = (torch.rand(7, dtype=torch.float64) + 0.1).requires_grad_()
    ids = torch.tensor([7, 0, 7, 3, -4 if safe else 4, 1, 3])
    splits = torch.tensor([0, 2, 2, 4, 5, 7])
    options = {"default_id": 5} if safe else {}

    def run(weights, *shards):
        return CALLS["safe" if safe else "plain"](
            list(shards),
            RaggedIds(ids, splits),
            RaggedIds(weights, splits),
            combiner=combiner,
            max_norm=max_norm,
            partition_strategy="mod",
            **options,
        )

    assert torch.autograd.gradcheck(run, (weights, *shards))
    fixed = weights.detach()
    assert torch.autograd.gradcheck(lambda *shards: run(fixed, *shards), shards)


@pytest.mark.parametrize("max_norm", [None, 1.0])
def test_gradcheck_of_lookups(max_norm, way):
    shards = learning(torch.randn(8, 3, dtype=torch.float64), "div", 3)
    ids = torch.tensor([[7, 0, 7], [3, 4, 7]])

    def run(*shards):
        return embedding_lookup(list(shards), ids, "div", max_norm=max_norm)

    assert torch.autograd.gradcheck(run, shards)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("combiner", COMBINERS)
def test_rows_of_other_dtypes(dtype, combiner, way):
    whole = torch.randn(7, 5).to(dtype)
    shards = learning(whole, "mod", 2)
    ids = torch.tensor([[1, 6, 1], [0, 2, 5]])
    weights = torch.rand(2, 3).to(dtype).requires_grad_()
    found = embedding_lookup_sparse(shards, ids, weights, combiner=combiner, max_norm=1.5)
    assert found.dtype == dtype
    plain = embedding_lookup_sparse(
        whole.double(), ids, weights.detach().double(), combiner=combiner, max_norm=1.5
    )
    bound = 2 * torch.finfo(dtype).eps
    close(found.double(), plain, bound)
    found.float().sum().backward()
    assert {shard.grad.dtype for shard in shards} == {dtype}
    assert weights.grad.dtype == dtype
    with torch.no_grad():
        again = embedding_lookup_sparse(shards, ids, weights, combiner=combiner, max_norm=1.5)
    close(again.double(), plain, bound)


def test_the_largest_of_equal_ones_and_of_none(way):
    nan = float("nan")
    rows = torch.tensor([[1.0, nan], [1.0, 2.0], [-torch.inf, 3.0]], requires_grad=True)
    bags = RaggedIds(torch.tensor([1, 0, 2, 2]), torch.tensor([0, 3, 3, 4]))
    found = embedding_lookup_sparse(rows, bags, None, combiner="max")
    assert str(found.tolist()) == "[[1.0, nan], [0.0, 0.0], [-inf, 3.0]]"
    found.backward(torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]))
    assert rows.grad.tolist() == [[0, 2], [1, 0], [5, 6]]


def test_large_and_small_norms_are_exact(way):
    rows = torch.tensor([[3e30, 4e30], [3e-30, 4e-30], [0.0, 0.0]], requires_grad=True)
    found = embedding_lookup(rows, torch.tensor([0, 1, 2]), max_norm=1.0)
    close(found, torch.tensor([[0.6, 0.8], [3e-30, 4e-30], [0.0, 0.0]]), 1e-6)
    found.sum().backward()
    assert rows.grad.isfinite().all()


def test_bags_that_are_empty_or_many(way):
    shards = learning(torch.randn(4, 2), "mod", 2)
    none = RaggedIds(torch.tensor([], dtype=torch.int64), torch.tensor([0, 0, 0]))
    for combiner in COMBINERS:
        found = embedding_lookup_sparse(shards, none, None, combiner=combiner)
        assert found.tolist() == [[0, 0], [0, 0]]
        found.sum().backward()
        assert not shards[0].grad.any()
    none = torch.zeros(0, 3, dtype=torch.int64)
    assert embedding_lookup_sparse(shards, none, None).shape == (0, 2)
    empty = torch.zeros(0, 2)
    assert embedding_lookup(empty, [[]]).shape == (1, 0, 2)
    assert embedding_lookup(empty, [3], out_of_range="zeros").tolist() == [[0, 0]]
    with pytest.raises(IdOutOfRangeError):
        embedding_lookup(empty, [3])
    like = SparseIds([[0, 0], [2, 1]], torch.tensor([1, 2]), (9, 2))
    found = embedding_lookup_sparse(shards, like, None, like_tensorflow=True)
    assert found.shape == (3, 2)


def test_a_gradient_of_rows_in_columns(way):
    """What is not contiguous: shards, ids, weights, and the gradient from above."""
    whole = torch.randn(3, 8, dtype=torch.float64).T.requires_grad_()
    ids = torch.tensor([[7, 1, 1], [0, 3, 7]]).T
    weights = torch.rand(2, 3, dtype=torch.float64).T.requires_grad_()
    found = embedding_lookup_sparse(whole, ids, weights, combiner="sum")
    up = torch.randn(3, 3, dtype=torch.float64).T
    found.backward(up)
    other, heavy = (x.detach().clone().requires_grad_() for x in (whole, weights))
    expected = (other[ids] * heavy[..., None]).sum(1)
    close(found, expected)
    expected.backward(up)
    close(whole.grad, other.grad)
    close(weights.grad, heavy.grad)


def test_ids_may_change_before_backward(way):
    rows, ids = torch.zeros(4, 1, requires_grad=True), torch.tensor([1, 2])
    found = embedding_lookup_sparse(rows, RaggedIds(ids, [0, 2]), None, combiner="sum")
    plain = embedding_lookup(rows, ids)
    ids.fill_(0)
    if way == "kernels":
        (found.sum() + plain.sum()).backward()
        assert rows.grad.ravel().tolist() == [0, 2, 2, 0]


def test_what_is_refused(way):
    rows, ids = torch.zeros(4, 2, requires_grad=True), torch.tensor([[0, 1]])
    call, safe = embedding_lookup_sparse, safe_embedding_lookup_sparse
    with pytest.raises(TableError, match="empty list"):
        embedding_lookup([], ids)
    with pytest.raises(TableError, match="tensors"):
        call([np.zeros((4, 2))], ids, None)
    with pytest.raises(TableError, match="dense"):
        embedding_lookup(rows.detach().to_sparse(), ids)
    with pytest.raises(TableError, match="first axis"):
        embedding_lookup([rows, torch.zeros(4, 3)], ids)
    with pytest.raises(TableError, match="first axis"):
        embedding_lookup(torch.tensor(1.0), ids)
    with pytest.raises(TableError, match="dtype"):
        call(rows.detach().long(), ids, None)
    with pytest.raises(PartitionError):
        call([rows, torch.zeros(1, 2)], ids, None)
    with pytest.raises(OptionError, match="one device"):
        call([rows, torch.zeros(4, 2, device="meta")], ids, None)
    with pytest.raises(OptionError, match="device of the rows"):
        embedding_lookup(rows, ids.to("meta"))
    with pytest.raises(BagError, match="meta"):
        call(rows, ids.to("meta"), None)
    for bad in (torch.tensor([[1.0]]), torch.tensor([[True]])):
        with pytest.raises(IdTypeError):
            embedding_lookup(rows, bad)
        with pytest.raises(IdTypeError):
            call(rows, bad, None)
    for combiner, max_norm in itertools.product(COMBINERS, (None, 1.0)):
        with pytest.raises(IdOutOfRangeError, match=r"ids\[1\] = 4"):
            call(rows, torch.tensor([[0, 4]]), None, combiner=combiner, max_norm=max_norm)
    with pytest.raises(IdOutOfRangeError, match="default_id"):
        safe(rows, ids, default_id=4, max_norm=1.0)
    with pytest.raises(OptionError, match="default_id"):
        safe(rows, ids, default_id=1.5, combiner="max")
    with pytest.raises(OptionError, match="combiner"):
        call(rows, ids, None, combiner="median")
    with pytest.raises(OptionError, match="max_norm"):
        call(rows, ids, None, max_norm="big")
    with pytest.raises(OptionError, match="out_of_range"):
        embedding_lookup(rows, ids, out_of_range="drop")
    with pytest.raises(BagError):
        call(rows, torch.tensor([1, 2]), None)
    with pytest.raises(BagError):
        call(rows, ids, torch.ones(1, 3, requires_grad=True))
    with pytest.raises(BagError):
        call(rows, RaggedIds(torch.tensor([1]), torch.tensor([0, 2])), None)
    twice = torch.sparse_coo_tensor(
        [[0, 0], [0, 0]], torch.ones(2), (1, 1), check_invariants=True
    ).requires_grad_()
    double = torch.sparse_coo_tensor(
        [[0, 0], [0, 0]], torch.tensor([1, 1]), (1, 1), check_invariants=True
    )
    with pytest.raises(BagError):
        call(rows, double, twice)


def test_shapes_on_the_meta_device():
    shards = [torch.empty(n, 5, device="meta", requires_grad=True) for n in (2, 1)]
    ids = torch.zeros(2, 4, dtype=torch.int64, device="meta")
    found = embedding_lookup(shards, ids, max_norm=1.0)
    assert (found.shape, found.device.type) == ((2, 4, 5), "meta")
    found.sum().backward()
    assert [shard.grad.shape for shard in shards] == [(2, 5), (1, 5)]
