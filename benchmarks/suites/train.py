"""Training: forward, backward and update of bags, beside torch's optimizers and FBGEMM's."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import cycle
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shardwise import Table, optimizers

from ..ceiling import best_contender
from ..harness import Case, Check, Contender, Target
from ..lineup import NOT_INSTALLED, Setting
from ..peers import imported
from .lookup import zipf_ids

OURS = "table.pool, table.update_pool"
CEILING = "ceiling: reads alone"
TORCH = "torch EmbeddingBag, sparse"
FBGEMM = "FBGEMM TBE, CPU"

DIM, BAG, FIRST, RATE = 64, 20, 0.5, 0.01
BATCHES = 8  # of ids, one after the other: the rows of the last one are not those of the next
SAMPLED = 64  # rows that are checked after the first step

Array = NDArray[Any]
Step = Callable[[Array], Array]  # from a gradient and a row's state of zeros to a change


@dataclass(frozen=True)
class Kind:
    """An optimizer, as each library calls it.

    Attributes:
        ours: ours.
        visits: how many rows or states are visited for an id: once to pool, and then to update.
        first: what the first step adds to a row, of its gradient.
        torch: the name of torch's, and its options.
        fbgemm: the name of FBGEMM's, and its options.
        targets: wishes for time(name) / time(ours): for uniform ids, and for Zipf's.
    """

    ours: optimizers.Optimizer
    visits: int
    first: Step
    torch: tuple[str, dict[str, float]] | None
    fbgemm: tuple[str, dict[str, float]] | None
    targets: dict[str, tuple[float, float]]


KINDS = {
    "row-wise Adagrad": Kind(
        optimizers.RowwiseAdagrad(RATE, eps=1e-8),
        2,
        lambda g: -RATE * g / (np.sqrt((g * g).mean(axis=1, keepdims=True)) + 1e-8),
        None,
        ("EXACT_ROWWISE_ADAGRAD", {"eps": 1e-8}),
        {FBGEMM: (4, 2)},
    ),
    "Adagrad": Kind(
        optimizers.Adagrad(RATE, eps=1e-8),
        3,
        lambda g: -RATE * g / (np.abs(g) + 1e-8),
        ("Adagrad", {"eps": 1e-8}),
        ("EXACT_ADAGRAD", {"eps": 1e-8}),
        {FBGEMM: (4, 2), TORCH: (5, 5)},
    ),
    "SGD": Kind(
        optimizers.SGD(RATE),
        2,
        lambda g: -RATE * g,
        ("SGD", {}),
        ("EXACT_SGD", {}),
        {TORCH: (2, 2)},
    ),
    "Adam": Kind(
        optimizers.Adam(RATE),
        4,
        lambda g: -RATE * np.sqrt(1e-3) * g / (np.abs(g) * np.sqrt(1e-3) + 1e-8),
        ("SparseAdam", {}),
        None,
        {TORCH: (8, 8)},
    ),
}


def cases(setting: Setting) -> Iterator[Case]:
    rows, bags = (200_000, 1_024) if setting.quick else (10_000_000, 8_192)
    for name, kind in KINDS.items():
        for which in ("uniform", "Zipf"):
            rng = np.random.default_rng(50)
            count = bags * BAG
            ids = [
                rng.integers(0, rows, count) if which == "uniform" else zipf_ids(rng, rows, count)
                for _ in range(BATCHES)
            ]
            gradient = rng.standard_normal((bags, DIM), dtype=np.float32)
            title = f"{name}: {bags:,} bags of {BAG} {which} ids, {rows:,} x {DIM} float32"
            yield trained(title, setting, kind, rows, ids, gradient, which == "uniform")


def trained(
    title: str,
    setting: Setting,
    kind: Kind,
    rows: int,
    ids: Sequence[Array],
    gradient: Array,
    uniform: bool,
) -> Case:
    offsets = np.arange(0, len(ids[0]), BAG)
    sampled = np.unique(ids[0])[:: max(1, len(np.unique(ids[0])) // SAMPLED)]
    check = close(first_rows(kind, ids[0], sampled, gradient))
    table = Table.from_array(np.full((rows, DIM), FIRST, np.float32), copy=True)
    space = {
        "table": table,
        "batches": cycle(ids),
        "offsets": offsets,
        "gradient": gradient,
        "optimizer": kind.ours,
    }
    lookup = Sampled(lambda: table.lookup(sampled))
    statement = (
        "lookup((ids := next(batches), table.pool(ids, offsets), "
        "table.update_pool(ids, offsets, gradient, optimizer)))"
    )
    contenders = [Contender(OURS, statement, space | {"lookup": lookup}, check, ours=True)]
    absent = {}
    torch = setting.peers.torch
    for name, wanted, make in (
        (TORCH, kind.torch, with_torch),
        (FBGEMM, kind.fbgemm, with_fbgemm),
    ):
        if wanted is None:
            continue
        made = make(torch, wanted, rows, ids, offsets, gradient, sampled) if torch else None
        if made is None:
            absent[name] = NOT_INSTALLED
        else:
            contenders.append(Contender(name, made[0], made[1], check))
    ceiling = best_contender(table.shards[0], ids[0], setting.threads)
    if isinstance(ceiling, str):
        absent[CEILING] = ceiling
    else:
        reads = f"[{', '.join(['read_rows()'] * kind.visits)}][-1]"
        # The first, for its answer is checked with the rows as they are before a step.
        contenders.insert(0, replace(ceiling, name=CEILING, statement=reads))
    targets = [
        Target(name, OURS, at_least=least[0 if uniform else 1])
        for name, least in kind.targets.items()
    ]
    note = (
        f"Each call takes the next of {BATCHES} batches. Each library's rows lie where that "
        f"library puts them. The ceiling reads {kind.visits} rows for each id, at the rate of this "
        "memory: the bags' rows, then the rows and states that are updated; it sorts, computes and "
        "writes nothing."
    )
    return Case(title, contenders, OURS, targets, absent, note)


class Sampled:
    """Takes what a step gives, and gives the sampled rows after the first step alone."""

    def __init__(self, rows: Callable[[], Any]) -> None:
        self._rows: Callable[[], Any] | None = rows

    def __call__(self, _: object) -> Any:
        rows, self._rows = self._rows, None
        return None if rows is None else rows()


def first_rows(kind: Kind, ids: Array, sampled: Array, gradient: Array) -> Array:
    """The sampled rows after the first step, in float64."""
    places = np.flatnonzero(np.isin(ids, sampled))
    sums = np.zeros((len(sampled), DIM))
    np.add.at(sums, np.searchsorted(sampled, ids[places]), gradient[places // BAG])
    result: Array = FIRST + kind.first(sums)
    return result


def close(expected: Array) -> Check:
    """Check to some roundings of float32."""

    def check(result: Any) -> bool:
        found = np.asarray(result)
        return found.shape == expected.shape and bool(np.abs(found - expected).max() < 1e-5)

    return check


def with_torch(
    torch: Any,
    wanted: tuple[str, dict[str, float]],
    rows: int,
    ids: Sequence[Array],
    offsets: Array,
    gradient: Array,
    sampled: Array,
) -> tuple[str, dict[str, object]]:
    weight = torch.full((rows, DIM), FIRST)
    bag = torch.nn.EmbeddingBag(rows, DIM, mode="sum", sparse=True, _weight=weight)
    optimizer = getattr(torch.optim, wanted[0])(bag.parameters(), lr=RATE, **wanted[1])
    statement = (
        "lookup((optimizer.zero_grad(), bag(next(batches), offsets).backward(gradient), "
        "optimizer.step()))"
    )
    return statement, {
        "bag": bag,
        "optimizer": optimizer,
        "batches": cycle([torch.from_numpy(batch) for batch in ids]),
        "offsets": torch.from_numpy(offsets),
        "gradient": torch.from_numpy(gradient),
        "lookup": Sampled(lambda: bag.weight.detach().numpy()[sampled]),
    }


def with_fbgemm(
    torch: Any,
    wanted: tuple[str, dict[str, float]],
    rows: int,
    ids: Sequence[Array],
    offsets: Array,
    gradient: Array,
    sampled: Array,
) -> tuple[str, dict[str, object]] | None:
    if imported("fbgemm_gpu") is None:
        return None
    training = __import__("fbgemm_gpu.split_table_batched_embeddings_ops_training", fromlist=["_"])
    common = __import__("fbgemm_gpu.split_table_batched_embeddings_ops_common", fromlist=["_"])
    module = training.SplitTableBatchedEmbeddingBagsCodegen(
        [(rows, DIM, common.EmbeddingLocation.HOST, training.ComputeDevice.CPU)],
        optimizer=getattr(training.OptimType, wanted[0]),
        learning_rate=RATE,
        stochastic_rounding=False,
        pooling_mode=common.PoolingMode.SUM,
        bounds_check_mode=common.BoundsCheckMode.FATAL,  # as the others refuse ids, too
        device="cpu",
        **wanted[1],
    )
    weight = module.split_embedding_weights()[0]
    weight.detach().fill_(FIRST)
    ends = np.append(offsets, len(ids[0]))
    statement = "lookup(module(next(batches), ends).backward(gradient))"
    return statement, {
        "module": module,
        "batches": cycle([torch.from_numpy(batch) for batch in ids]),
        "ends": torch.from_numpy(ends),
        "gradient": torch.from_numpy(gradient),
        "lookup": Sampled(lambda: weight.detach().numpy()[sampled]),
    }
