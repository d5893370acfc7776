"""Sparse lookups with gradients: of one tensor and of shards, beside torch's and TensorFlow's."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..harness import Case, Check, Contender, Target
from ..lineup import NOT_INSTALLED, Setting
from .lookup import zipf_ids

OURS = "shardwise.torch, 4 shards"
WHOLE = "shardwise.torch, one tensor"
BAGS = "shardwise.torch.EmbeddingBag"
TORCH = "torch EmbeddingBag, coalesced"
TENSORFLOW = "tf embedding_lookup_sparse, 4 shards"

DIM, BAG, SHARDS, SAMPLED = 64, 20, 4, 64

Array = NDArray[Any]
Answer = tuple[Array, Array]  # bags, and the gradients of sampled rows


def cases(setting: Setting) -> Iterator[Case]:
    rows, bags = (100_000, 1_024) if setting.quick else (2_000_000, 8_192)
    for which in ("uniform", "Zipf"):
        rng = np.random.default_rng(60)
        count = bags * BAG
        ids = rng.integers(0, rows, count) if which == "uniform" else zipf_ids(rng, rows, count)
        params = rng.standard_normal((rows, DIM), dtype=np.float32)
        gradient = rng.standard_normal((bags, DIM), dtype=np.float32)
        title = f"forward and backward: {bags:,} bags of {BAG} {which} ids, {rows:,} x {DIM}"
        yield learned(title, setting, params, ids, gradient)


def learned(title: str, setting: Setting, params: Array, ids: Array, gradient: Array) -> Case:
    sampled = np.unique(ids)[:: max(1, len(np.unique(ids)) // SAMPLED)]
    expected = answer_of(params, ids, gradient, sampled)
    contenders, absent = [], {}
    for names, make in (
        ((OURS, WHOLE, BAGS, TORCH), with_torch),
        ((TENSORFLOW,), with_tensorflow),
    ):
        made = make(setting, params, ids, gradient)
        for name in names:
            if made is None:
                absent[name] = NOT_INSTALLED
                continue
            step, rows_of = made[name]
            check = close(expected, sampled, rows_of)
            ours = name.startswith("shardwise")
            contenders.append(Contender(name, "step()", {"step": step}, check, ours=ours))
    targets = [Target(TORCH, OURS, at_least=1), Target(TENSORFLOW, OURS, at_least=1)]
    note = (
        "Gradients are sparse: coalesced where they are torch's, so each row is there once; "
        "TensorFlow's are left as it gives them, a row for each id."
    )
    return Case(title, contenders, OURS, targets, absent, note)


def answer_of(params: Array, ids: Array, gradient: Array, sampled: Array) -> Answer:
    """The bags, and the gradients of the sampled rows, in float64."""
    bags = np.add.reduceat(params[ids].astype(np.float64), np.arange(0, len(ids), BAG))
    places = np.flatnonzero(np.isin(ids, sampled))
    sums = np.zeros((len(sampled), DIM))
    np.add.at(sums, np.searchsorted(sampled, ids[places]), gradient[places // BAG])
    return bags, sums


def close(expected: Answer, sampled: Array, rows_of: Callable[[Any, Array], Answer]) -> Check:
    """Check to some roundings of float32."""

    def check(result: Any) -> bool:
        found = rows_of(result, sampled)
        bounds = (np.abs(e).max() * 1e-5 for e in expected)
        both = zip(found, expected, bounds, strict=True)
        return all(bool(np.abs(got - wanted).max() <= bound) for got, wanted, bound in both)

    return check


Made = dict[str, tuple[Callable[[], Any], Callable[[Any, Array], Answer]]]


def with_torch(setting: Setting, params: Array, ids: Array, gradient: Array) -> Made | None:
    torch = setting.peers.torch
    if torch is None:
        return None
    from shardwise import RaggedIds
    from shardwise import torch as ours

    given, up = torch.from_numpy(ids), torch.from_numpy(gradient)
    splits = torch.arange(0, len(ids) + 1, BAG)
    bags = RaggedIds(given, splits)

    def tensors(cut: int) -> list[Any]:
        return [torch.from_numpy(params[k::cut].copy()).requires_grad_() for k in range(cut)]

    def looked_up(shards: list[Any]) -> Callable[[], Any]:
        def step() -> Any:
            for shard in shards:
                shard.grad = None
            found = ours.embedding_lookup_sparse(shards, bags, None, combiner="sum", sparse=True)
            found.backward(up)
            return found, [shard.grad for shard in shards]

        return step

    def module(kind: Any, coalesced: bool) -> Callable[[], Any]:
        options = {"freeze": False, "mode": "sum", "sparse": True}
        layer = kind.from_pretrained(torch.from_numpy(params.copy()), **options)

        def step() -> Any:
            layer.weight.grad = None
            found = layer(given, splits[:-1])
            found.backward(up)
            grad = layer.weight.grad
            return found, [grad if coalesced else grad.coalesce()]

        return step

    def rows_of(result: Any, sampled: Array) -> Answer:
        found, gradients = result
        cut = len(gradients)
        sums = np.zeros((len(sampled), DIM))
        for k, sparse in enumerate(gradients):
            here = sampled % cut == k
            wanted = torch.from_numpy(sampled[here] // cut)
            sparse = sparse.coalesce()
            places = torch.searchsorted(sparse.indices()[0], wanted)
            sums[here] = sparse.values()[places].numpy()
        return found.detach().numpy(), sums

    return {
        OURS: (looked_up(tensors(SHARDS)), rows_of),
        WHOLE: (looked_up(tensors(1)), rows_of),
        BAGS: (module(ours.EmbeddingBag, True), rows_of),
        TORCH: (module(torch.nn.EmbeddingBag, False), rows_of),
    }


def with_tensorflow(setting: Setting, params: Array, ids: Array, gradient: Array) -> Made | None:
    tf = setting.peers.tensorflow
    if tf is None:
        return None
    shards = [tf.constant(params[k::SHARDS]) for k in range(SHARDS)]
    bags = len(ids) // BAG
    places = np.stack([np.repeat(np.arange(bags), BAG), np.tile(np.arange(BAG), bags)], 1)
    given, up = tf.SparseTensor(places, ids, (bags, BAG)), tf.constant(gradient)
    look_up = tf.compat.v1.nn.embedding_lookup_sparse

    def step() -> Any:
        with tf.GradientTape() as tape:
            tape.watch(shards)
            found = look_up(shards, given, None, partition_strategy="mod", combiner="sum")
        return found, tape.gradient(found, shards, output_gradients=up)

    def rows_of(result: Any, sampled: Array) -> Answer:
        found, gradients = result
        sums = np.zeros((len(sampled), DIM))
        for k, slices in enumerate(gradients):
            here = np.flatnonzero(sampled % SHARDS == k)
            wanted, got = sampled[here] // SHARDS, slices.indices.numpy()
            at = np.flatnonzero(np.isin(got, wanted))
            rows = slices.values.numpy()[at]
            np.add.at(sums, here[np.searchsorted(wanted, got[at])], rows)
        return found.numpy(), sums

    return {TENSORFLOW: (step, rows_of)}
