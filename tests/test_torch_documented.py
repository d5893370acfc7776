"""What torch documents of Embedding and EmbeddingBag, asked of ours beside torch's own.

Each is run on the kernels, and as other devices than the CPU run it.
"""

import copy

import pytest

torch = pytest.importorskip("torch")
from torch import nn  # noqa: E402

from shardwise import BagError, IdTypeError, OptionError, TableError, optimizers  # noqa: E402
from shardwise.torch import Embedding, EmbeddingBag, _tensors  # noqa: E402

MODES = ("sum", "mean", "max")


@pytest.fixture(autouse=True, params=["kernels", "torch"])
def way(request, monkeypatch):
    monkeypatch.setattr(_tensors, "_through_torch", request.param == "torch")
    torch.manual_seed(8)


def bags(mode, **options):
    """Ours and torch's, of the same rows."""
    rows = torch.randn(10, 3, dtype=torch.float64)
    return [
        kind.from_pretrained(rows.clone(), freeze=False, mode=mode, **options)
        for kind in (EmbeddingBag, nn.EmbeddingBag)
    ]


def agree(modules, *given, up=None, **more):
    """Results and gradients are those of torch's."""
    found = [module(*given, **more) for module in modules]
    torch.testing.assert_close(*found)
    up = torch.randn_like(found[0]) if up is None else up
    for module, out in zip(modules, found, strict=True):
        module.weight.grad = None
        out.backward(up)
    ours, theirs = (module.weight.grad.to_dense() for module in modules)
    torch.testing.assert_close(ours, theirs)
    return ours


def test_a_padding_row_is_read_and_never_learns():
    ours = Embedding(10, 3, padding_idx=-1)
    assert ours.padding_idx == 9
    assert not ours.weight[9].any()
    with torch.no_grad():
        ours.weight[9] = 5.0  # a padding vector of one's own
    found = ours(torch.tensor([9, 1, 9]))
    assert found[0].tolist() == [5, 5, 5]
    found.sum().backward()
    assert ours.weight.grad.coalesce().indices().tolist() == [[1]]
    given = Embedding.from_pretrained(torch.ones(10, 3), padding_idx=2)
    assert given(torch.tensor([2])).tolist() == [[1, 1, 1]]
    fused = Embedding.from_pretrained(
        torch.ones(10, 3), freeze=False, padding_idx=2, optimizer=optimizers.SGD(1)
    )
    fused(torch.tensor([2, 3])).sum().backward()
    assert fused.weight[1:4, 0].tolist() == [1, 1, 0]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("padding_idx", [4, -6])
def test_bags_of_nothing_but_padding(mode, padding_idx):
    ids = torch.tensor([4, 4, 4, 1, 4, 4, 2])
    offsets = torch.tensor([0, 2, 2, 5, 6])
    modules = bags(mode, padding_idx=padding_idx)
    gradient = agree(modules, ids, offsets)
    assert not gradient[4].any()
    assert not modules[0](ids, offsets)[[0, 1, 3]].any()
    batch = torch.tensor([[4, 4], [1, 4]])
    agree(modules, batch)


@pytest.mark.parametrize("mode", MODES)
def test_shapes_of_nothing(mode):
    modules = bags(mode)
    for shape in ((0,), (0, 3), (2, 0, 3)):
        ids = torch.zeros(shape, dtype=torch.int64)
        found = Embedding(10, 3)(ids)
        assert found.shape == (*shape, 3)
        found.sum().backward()
    assert modules[0](torch.zeros(0, 4, dtype=torch.int64)).shape == (0, 3)
    for given in (
        (torch.zeros(4, 0, dtype=torch.int64),),
        (torch.zeros(0, dtype=torch.int64), torch.zeros(4, dtype=torch.int64)),
    ):
        found = modules[0](*given)
        assert found.shape == (4, 3)
        assert not found.any()
        found.sum().backward()
        assert not modules[0].weight.grad.to_dense().any()


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("kinds", [(torch.int64, torch.int32), (torch.int32, torch.int64)])
def test_ids_and_offsets_of_two_dtypes(mode, kinds):
    """torch takes such pairs as well; ours takes all integers, and 0 dimensions for rows."""
    ids, offsets = torch.tensor([1, 2, 4, 2]).to(kinds[0]), torch.tensor([0, 1]).to(kinds[1])
    agree(bags(mode), ids, offsets)
    for dtype in (torch.uint8, torch.int16, torch.uint16, torch.uint32, torch.uint64):
        ours, theirs = bags(mode)
        torch.testing.assert_close(ours(ids.to(dtype), offsets), theirs(ids.long(), offsets.long()))
    row = Embedding(10, 3)
    assert torch.equal(row(torch.tensor(7)), row.weight[7])


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("last", [False, True])
def test_what_is_not_contiguous(mode, last):
    ids = torch.randint(0, 10, (12, 2))[:, 0]
    offsets = torch.tensor([[0, 0], [3, 9], [3, 9], [12, 9]])[:, 0]
    offsets = offsets if last else offsets[:-1]
    modules = bags(mode, include_last_offset=last)
    agree(modules, ids, offsets, up=torch.randn(3, 6, dtype=torch.float64)[:, ::2])
    one = torch.ones((), dtype=torch.float64).expand(3, 3)  # what sum() gives back
    agree(modules, ids, offsets, up=one)
    rows = torch.randn(3, 10, dtype=torch.float64).T
    pair = [
        kind.from_pretrained(rows, freeze=False, mode=mode)
        for kind in (EmbeddingBag, nn.EmbeddingBag)
    ]
    agree(pair, ids.reshape(3, 4).T)


def test_ids_behind_the_last_offset_are_in_no_bag():
    ours, theirs = bags("sum", include_last_offset=True)
    ids, ends = torch.tensor([1, 2, 3, 9]), torch.tensor([0, 1, 3])
    torch.testing.assert_close(ours(ids, ends), theirs(ids[:3], ends))
    weights = torch.rand(4, dtype=torch.float64, requires_grad=True)
    ours(ids, ends, weights).sum().backward()
    assert weights.grad[3] == 0
    assert 9 not in ours.weight.grad.coalesce().indices()


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("padding_idx", [None, 2])
@pytest.mark.parametrize("tracked", [False, True])
def test_weights_of_samples_are_torchs(last, padding_idx, tracked):
    modules = bags("sum", include_last_offset=last, padding_idx=padding_idx)
    ids, offsets = torch.tensor([1, 2, 2, 7, 7, 0]), torch.tensor([0, 2, 2, 5])
    offsets = torch.cat([offsets, torch.tensor([6])]) if last else offsets
    weights = [
        torch.linspace(-1, 2, 6, dtype=torch.float64).requires_grad_(tracked) for _ in range(2)
    ]
    found = [m(ids, offsets, w) for m, w in zip(modules, weights, strict=True)]
    torch.testing.assert_close(*found)
    up = torch.randn_like(found[0])
    for out in found:
        out.backward(up)
    grads = [module.weight.grad.to_dense() for module in modules]
    torch.testing.assert_close(*grads)
    if tracked:
        torch.testing.assert_close(*(w.grad for w in weights))
    batch = torch.randint(0, 10, (3, 4))
    heavy = torch.rand(3, 4, dtype=torch.float64)
    agree(
        modules[:1] + modules[1:],
        batch.reshape(-1),
        torch.tensor([0, 4, 8, 12][: 3 + last]),
        per_sample_weights=heavy.reshape(-1),
    )


@pytest.mark.parametrize("mode", MODES)
def test_weights_of_zero_and_less(mode):
    """A mean whose weights come to nothing gives zeros, and no gradient of NaN."""
    ours = bags(mode)[0]
    ids = torch.tensor([[1, 2], [3, 4]])
    weights = torch.tensor([[0.0, 0.0], [1.0, -1.0]], dtype=torch.float64, requires_grad=True)
    found = ours(ids, per_sample_weights=weights)
    found.sum().backward()
    assert found.isfinite().all()
    assert weights.grad.isfinite().all()
    assert ours.weight.grad.to_dense().isfinite().all()
    if mode == "mean":
        assert not found.any()
    with torch.no_grad():
        torch.testing.assert_close(ours(ids, per_sample_weights=weights), found)


@pytest.mark.parametrize("mode", MODES)
def test_the_first_of_equal_rows_is_the_largest(mode):
    rows = torch.tensor([[1.0, 2.0], [1.0, 3.0], [1.0, 2.0]], dtype=torch.float64)
    modules = [
        kind.from_pretrained(rows.clone(), freeze=False, mode=mode)
        for kind in (EmbeddingBag, nn.EmbeddingBag)
    ]
    agree(modules, torch.tensor([[2, 0, 1], [0, 0, 0]]))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("mode", MODES)
def test_small_floats_are_added_up_in_float32(dtype, mode):
    rows = torch.randn(10, 3).to(dtype)
    ours = EmbeddingBag.from_pretrained(rows.clone(), freeze=False, mode=mode)
    exact = nn.EmbeddingBag.from_pretrained(rows.double(), freeze=False, mode=mode)
    ids = torch.randint(0, 10, (4, 50))
    found, wanted = ours(ids), exact(ids)
    assert found.dtype == dtype
    half = torch.finfo(dtype).eps / 2
    torch.testing.assert_close(found.double(), wanted, rtol=1.01 * half, atol=1e-5)
    up = torch.randn(4, 3).to(dtype)
    found.backward(up)
    wanted.backward(up.double())
    assert ours.weight.grad.dtype == dtype
    got, expected = ours.weight.grad.to_dense().double(), exact.weight.grad
    torch.testing.assert_close(got, expected, rtol=1.01 * half, atol=1e-5)


def test_a_frequency_is_counted_in_the_whole_batch():
    ids = torch.tensor([[3, 3, 1], [3, 1, 5]])
    modules = [
        kind.from_pretrained(torch.ones(10, 3), freeze=False, scale_grad_by_freq=True)
        for kind in (Embedding, nn.Embedding)
    ]
    gradient = agree(modules, ids, up=torch.ones(2, 3, 3))
    assert gradient[:, 0].tolist() == [0, 1, 0, 1, 0, 1, 0, 0, 0, 0]
    agree(modules, ids)


@pytest.mark.parametrize("norm_type", [1.0, 2.0, 3.5, float("inf")])
@pytest.mark.parametrize("mode", [None, *MODES])
def test_max_norm_of_any_kind(norm_type, mode):
    rows = torch.randn(10, 3, dtype=torch.float64)
    options = {"max_norm": 1.0, "norm_type": norm_type}
    kinds = (Embedding, nn.Embedding) if mode is None else (EmbeddingBag, nn.EmbeddingBag)
    options |= {} if mode is None else {"mode": mode}
    ours, theirs = (kind.from_pretrained(rows.clone(), **options) for kind in kinds)
    ids = torch.tensor([[1, 2], [2, 2]])
    # torch divides by the norm and 1e-7.
    torch.testing.assert_close(ours(ids), theirs(ids), rtol=1e-6, atol=1e-6)
    assert torch.equal(ours.weight, rows)


def test_gradients_add_up_until_they_are_forgotten():
    ours, theirs = (kind(10, 3, sparse=True) for kind in (Embedding, nn.Embedding))
    theirs.load_state_dict(ours.state_dict())
    seen = []
    ours.weight.register_hook(lambda gradient: seen.append(gradient.is_sparse))
    for module in (ours, theirs):
        for ids in ([1, 2], [2, 5]):
            module(torch.tensor(ids)).sum().backward()
    torch.testing.assert_close(ours.weight.grad.to_dense(), theirs.weight.grad.to_dense())
    assert seen == [True, True]
    ours.zero_grad()
    assert ours.weight.grad is None
    ours.requires_grad_(False)
    assert not ours(torch.tensor([1])).requires_grad
    copied = copy.deepcopy(ours.requires_grad_(True))
    copied(torch.tensor([1])).sum().backward()
    assert ours.weight.grad is None


def test_frozen_rows():
    rows = torch.randn(4, 2)
    for module in (Embedding.from_pretrained(rows), EmbeddingBag.from_pretrained(rows)):
        assert module.weight.data_ptr() == rows.data_ptr()
        assert not module.weight.requires_grad
        assert not module(torch.tensor([[1]])).requires_grad


@pytest.mark.parametrize("mode", MODES)
def test_what_torch_refuses(mode):
    ours, theirs = bags(mode)
    ids = torch.tensor([1, 2, 3])
    for given in (
        (ids, torch.tensor([1, 2])),  # does not begin with 0
        (ids, torch.tensor([0, 4])),  # beyond the ids
        (ids, torch.tensor([[0, 1]])),
        (ids,),
        (ids[None, None],),
        (ids[None], torch.tensor([0])),
    ):
        with pytest.raises((RuntimeError, ValueError)):
            theirs(*given)
        with pytest.raises(BagError):
            ours(*given)
    with pytest.raises(BagError, match="never fall"):  # torch reads beyond such bags
        ours(ids, torch.tensor([0, 3, 1]))
    with pytest.raises(BagError, match="offsets"):
        EmbeddingBag(10, 3, include_last_offset=True)(ids, torch.zeros(0, dtype=torch.int64))
    for shape in ((2,), (3, 1), (1, 3)):
        with pytest.raises(BagError, match="weights"):
            ours(ids, torch.tensor([0]), torch.ones(shape, requires_grad=True))
        with pytest.raises(BagError, match="weights"):
            ours(ids, torch.tensor([0]), torch.ones(shape))
    for dtype in (torch.bool, torch.complex64):
        with pytest.raises(BagError, match="real numbers"):
            ours(ids, torch.tensor([0]), torch.ones(3, dtype=dtype))
    with pytest.raises(IdTypeError, match="offsets"):
        ours(ids, torch.tensor([0.0]))
    for bad in (torch.tensor([[1.0]]), torch.tensor([[True]]), torch.tensor([[1j]])):
        with pytest.raises(IdTypeError):
            ours(bad)
        with pytest.raises(IdTypeError):
            Embedding(10, 3)(bad)


def test_constructors_that_are_refused():
    for kind in (Embedding, EmbeddingBag):
        for bad in (10, -11):
            with pytest.raises(OptionError, match="padding_idx"):
                kind(10, 3, padding_idx=bad)
        for bad in ("big", float("nan"), [1.0]):
            with pytest.raises(OptionError, match="max_norm"):
                kind(10, 3, max_norm=bad)
        with pytest.raises(TableError, match="_weight"):
            kind(10, 3, _weight=torch.ones(10, 4))
        with pytest.raises(TableError, match="dense tensor"):
            kind.from_pretrained(torch.ones(10, 3).to_sparse())
        with pytest.raises(TableError, match="dense tensor"):
            kind.from_pretrained([[1.0, 2.0]])
        with pytest.raises(TableError, match="_weight of shape"):
            kind.from_pretrained(torch.ones(10))
        with pytest.raises(TableError, match="dtype"):
            kind.from_pretrained(torch.ones(10, 3, dtype=torch.int64))


def test_modules_of_shapes_alone():
    """On the meta device there are shapes, and no numbers."""
    ids = torch.zeros(4, 5, dtype=torch.int64, device="meta")
    for module, shape in (
        (Embedding(10, 3, device="meta", padding_idx=1, sparse=False), (4, 5, 3)),
        (EmbeddingBag(10, 3, device="meta", mode="mean", sparse=False), (4, 3)),
        (EmbeddingBag(10, 3, device="meta", mode="max", max_norm=1.0, sparse=False), (4, 3)),
    ):
        found = module(ids)
        assert (found.shape, found.device.type) == (shape, "meta")
        found.sum().backward()
        assert module.weight.grad.shape == (10, 3)
    moved = Embedding(10, 3).to("meta")
    assert moved(ids).shape == (4, 5, 3)
    with pytest.raises(OptionError, match="on the CPU"):
        _ = moved.table
    bag = EmbeddingBag(10, 3, device="meta", include_last_offset=True)
    offsets = torch.zeros(3, dtype=torch.int64, device="meta")
    assert bag(ids.reshape(-1), offsets).shape == (2, 3)


def test_rows_that_train_themselves_stay_where_they_are():
    with torch.device("meta"):
        model = nn.Sequential(EmbeddingBag(6, 3, mode="sum", optimizer=optimizers.SGD(1.0)))
    model.to("meta")
    before = model[0].weight.clone()
    assert before.device.type == "cpu"
    model(torch.tensor([[1, 2, 2]], device="cpu")).sum().backward()
    assert (before - model[0].weight)[:, 0].round().tolist() == [0, 1, 2, 0, 0, 0]
    with pytest.raises(OptionError, match="ids that have numbers"):
        model(torch.zeros(1, 2, dtype=torch.int64, device="meta"))
    weights = torch.ones(1, 2, device="meta")
    with pytest.raises(OptionError, match="device of the ids"):
        model[0](torch.tensor([[1, 2]]), per_sample_weights=weights)
