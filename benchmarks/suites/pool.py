"""Bags: pooled lookups beside torch's embedding_bag, FBGEMM, and TensorFlow's sparse lookup."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import shardwise
from shardwise import SparseIds, Table

from ..harness import Case, Check, Contender, Target
from ..lineup import NOT_INSTALLED, Setting
from ..peers import imported

BASKETS = Path(__file__).parents[3] / "shared" / "data" / "baskets" / "retail.dat"
OURS = "table.pool"
MOD = "table.pool, 8 mod shards"
WEIGHTED = "table.pool, weighted mean"
TORCH = "torch embedding_bag"
FBGEMM = "FBGEMM IntNBit TBE"
SPARSE = "embedding_lookup_sparse"
TENSORFLOW = "tf embedding_lookup_sparse"

Array = NDArray[Any]


def cases(setting: Setting) -> Iterator[Case]:
    rows, bags = (200_000, 2_000) if setting.quick else (4_000_000, 20_000)
    rng = np.random.default_rng(30)
    array = rng.random((rows, 64), dtype=np.float32)
    ids = rng.integers(0, rows, bags * 50)
    ends = np.arange(0, len(ids) + 1, 50)
    title = f"{bags:,} bags of 50 uniform ids, {rows:,} x 64"
    yield summed(f"{title} float32", setting, array, ids, ends)
    yield sparse(f"{title} float32, 8 mod shards", setting, array, ids, ends)
    yield summed(f"{title} float16", setting, array.astype(np.float16), ids, ends)
    del array
    if BASKETS.exists():
        baskets = [line.split() for line in BASKETS.read_text().splitlines()]
        ids = np.array([int(item) for basket in baskets for item in basket])
        ends = np.cumsum([0, *map(len, baskets)])
        array = rng.random((ids.max() + 1, 128), dtype=np.float32)
        title = f"{len(baskets):,} real baskets, {len(array):,} x 128 float32"
        yield summed(title, setting, array, ids, ends)


def close(expected: Array) -> Check:
    """Check to a few roundings: the order in which numbers are added is each library's own."""
    exact = expected.astype(np.float64)
    scale = np.abs(exact).max(initial=0) * (2e-6 if expected.dtype == np.float32 else 2e-3)

    def check(result: Any) -> bool:
        found = np.asarray(result)
        return found.shape == exact.shape and bool(np.abs(found - exact).max(initial=0) <= scale)

    return check


def summed(title: str, setting: Setting, array: Array, ids: Array, ends: Array) -> Case:
    offsets = ends[:-1].copy()
    table, shards = (Table.from_array(array, n, "mod", copy=True) for n in (1, 8))
    check = close(table.pool(ids, offsets))
    weights = np.random.default_rng(31).random(len(ids), dtype=np.float32)
    weighted = table.pool(ids, offsets, weights=weights, combiner="mean")
    names: dict[str, object] = {"table": table, "ids": ids, "offsets": offsets, "w": weights}
    contenders = [
        Contender(OURS, "table.pool(ids, offsets)", names, check, ours=True),
        Contender(MOD, "table.pool(ids, offsets)", names | {"table": shards}, check, ours=True),
        Contender(
            WEIGHTED,
            'table.pool(ids, offsets, weights=w, combiner="mean")',
            names,
            close(weighted),
            ours=True,
        ),
    ]
    absent = {}
    torch = setting.peers.torch
    if torch is None:
        absent[TORCH] = NOT_INSTALLED
    else:
        given: dict[str, object] = {
            "bag": torch.nn.functional.embedding_bag,
            "ids": torch.from_numpy(ids),
            "offsets": torch.from_numpy(offsets),
            "weight": torch.from_numpy(array).clone(),
        }
        contenders.append(Contender(TORCH, 'bag(ids, weight, offsets, mode="sum")', given, check))
    module = fbgemm(torch, array)
    if torch is None or module is None:
        absent[FBGEMM] = NOT_INSTALLED
    else:
        given = {
            "module": module,
            "ids": torch.from_numpy(ids.astype(np.int32)),
            "ends": torch.from_numpy(ends.astype(np.int32)),
        }
        contenders.append(Contender(FBGEMM, "module(ids, ends)", given, check))
    is_wide = array.dtype == np.float32
    targets = [
        Target(TORCH, OURS, at_least=1.3),
        Target(FBGEMM, OURS, at_least=1.5 if is_wide else 1.3),
        Target(WEIGHTED, OURS, at_most=1.1),
    ]
    note = "Each library's rows lie where that library puts them."
    return Case(title, contenders, OURS, targets, absent, note)


def fbgemm(torch: Any | None, array: Array) -> Any | None:
    """FBGEMM's module for inference with a copy of the rows."""
    if torch is None or imported("fbgemm_gpu") is None:
        return None
    inference = __import__(
        "fbgemm_gpu.split_table_batched_embeddings_ops_inference", fromlist=["_"]
    )
    common = __import__("fbgemm_gpu.split_table_batched_embeddings_ops_common", fromlist=["_"])
    kinds = __import__("fbgemm_gpu.split_embedding_configs", fromlist=["_"]).SparseType
    kind = kinds.FP32 if array.dtype == np.float32 else kinds.FP16
    module = inference.IntNBitTableBatchedEmbeddingBagsCodegen(
        embedding_specs=[("", *array.shape, kind, common.EmbeddingLocation.HOST)],
        device="cpu",
        pooling_mode=common.PoolingMode.SUM,
        output_dtype=kinds.FP32,
    )
    module.initialize_weights()
    packed = array.view(np.uint8)
    weights = module.split_embedding_weights(split_scale_shifts=False)[0][0]
    weights[:, : packed.shape[1]].copy_(torch.from_numpy(packed))
    return module


def sparse(title: str, setting: Setting, array: Array, ids: Array, ends: Array) -> Case:
    """Compare TensorFlow's function with ours of the same name, on the same shards."""
    bags, longest = len(ends) - 1, int(np.diff(ends).max())
    places = np.repeat(np.arange(bags), np.diff(ends))
    columns = np.arange(len(ids)) - ends[places]
    sp_ids = SparseIds(np.stack([places, columns], axis=1), ids, (bags, longest))
    shards = [np.ascontiguousarray(array[k::8]) for k in range(8)]
    names: dict[str, object] = {
        "embedding_lookup_sparse": shardwise.embedding_lookup_sparse,
        "params": shards,
        "sp_ids": sp_ids,
    }
    statement = 'embedding_lookup_sparse(params, sp_ids, None, combiner="sum")'
    check = close(Table.from_array(array).pool(ids, ends[:-1]))
    contenders = [Contender(SPARSE, statement, names, check, ours=True)]
    absent = {}
    tensorflow = setting.peers.tensorflow
    if tensorflow is None:
        absent[TENSORFLOW] = NOT_INSTALLED
    else:
        given: dict[str, object] = {
            "embedding_lookup_sparse": tensorflow.compat.v1.nn.embedding_lookup_sparse,
            "params": [tensorflow.constant(shard) for shard in shards],
            "sp_ids": tensorflow.sparse.SparseTensor(*sp_ids),
        }
        contenders.append(Contender(TENSORFLOW, statement, given, check))
    targets = [Target(TENSORFLOW, SPARSE, at_least=8)]
    return Case(title, contenders, SPARSE, targets, absent)
