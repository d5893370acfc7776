"""Bags: pooled lookups beside torch's embedding_bag, FBGEMM, and TensorFlow's sparse lookup.

Beside each the ceiling: the time to read the rows of all ids at the rate at which this memory gives
rows at random.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import shardwise
from shardwise import SparseIds, Table

from ..ceiling import best_contender
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
TABLES = "pool_tables, one call"
EACH = "26 x torch embedding_bag"
JOINED = "the same, then torch.cat"
ONE_BY_ONE = "26 x table.pool"

# How many ids each of 26 features has: the multi-hot Criteo data of MLPerf's DLRM-v2 benchmark.
FEATURES = [3, 2, 1, 2, 6, 1, 1, 1, 1, 7, 3, 8, 1, 6, 9, 5, 1, 1, 1, 12, 100, 27, 10, 3, 1, 1]

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
    yield summed(f"{title} int8", setting, array, ids, ends, "int8")
    yield summed(f"{title} int4", setting, array, ids, ends, "int4")
    zipf = (rng.zipf(1.05, 4 * len(ids)) - 1).astype(np.int64)
    zipf = rng.permutation(rows)[zipf[zipf < rows][: len(ids)]]
    zipf_title = f"{bags:,} bags of 50 Zipf ids (s = 1.05), {rows:,} x 64 float32"
    yield summed(zipf_title, setting, array, zipf, np.arange(0, len(zipf) + 1, 50))
    del array
    yield tables(setting)
    if BASKETS.exists():
        baskets = [line.split() for line in BASKETS.read_text().splitlines()]
        ids = np.array([int(item) for basket in baskets for item in basket])
        ends = np.cumsum([0, *map(len, baskets)])
        array = rng.random((ids.max() + 1, 128), dtype=np.float32)
        title = f"{len(baskets):,} real baskets, {len(array):,} x 128 float32"
        yield summed(title, setting, array, ids, ends)


def close(expected: Array, tolerance: float | None = None) -> Check:
    """Check to a few roundings: the order in which numbers are added is each library's own."""
    exact = expected.astype(np.float64)
    if tolerance is None:
        tolerance = 2e-6 if expected.dtype == np.float32 else 2e-3
    scale = np.abs(exact).max(initial=0) * tolerance

    def check(result: Any) -> bool:
        found = np.asarray(result)
        return found.shape == exact.shape and bool(np.abs(found - exact).max(initial=0) <= scale)

    return check


def summed(
    title: str, setting: Setting, array: Array, ids: Array, ends: Array, packed: str = ""
) -> Case:
    offsets = ends[:-1].copy()
    table, shards = (Table.from_array(array, n, "mod", copy=True) for n in (1, 8))
    if packed:
        table, shards = table.quantize(packed), shards.quantize(packed)
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
            "weight": torch.from_numpy(table.shards[0]).clone(),
        }
        statement = 'bag(ids, weight, offsets, mode="sum")'
        if packed:
            kind = "byte" if packed == "int8" else "4bit"
            given["bag"] = getattr(torch.ops.quantized, f"embedding_bag_{kind}_rowwise_offsets")
            statement = "bag(weight, ids, offsets)"
        contenders.append(Contender(TORCH, statement, given, check))
    module = fbgemm(torch, table)
    if torch is None or module is None:
        absent[FBGEMM] = NOT_INSTALLED
    else:
        given = {
            "module": module,
            "ids": torch.from_numpy(ids.astype(np.int32)),
            "ends": torch.from_numpy(ends.astype(np.int32)),
        }
        # Its scale and bias of int8 are float16.
        loose = close(table.pool(ids, offsets), 1e-3) if packed == "int8" else check
        contenders.append(Contender(FBGEMM, "module(ids, ends)", given, loose))
    ceiling = best_contender(table.shards[0], ids, setting.threads)
    if isinstance(ceiling, str):
        absent["ceiling"] = ceiling
    else:
        contenders.append(ceiling)
    is_wide = table.row_format == "float32"
    targets = [
        Target(TORCH, OURS, at_least=1.3),
        Target(FBGEMM, OURS, at_least=1.5 if is_wide else 1.3),
        Target(WEIGHTED, OURS, at_most=1.1),
    ]
    note = (
        "Each library's rows lie where that library puts them. The ceiling reads the rows of the "
        "ids, and computes nothing."
    )
    return Case(title, contenders, OURS, targets, absent, note)


def fbgemm(torch: Any | None, table: Table) -> Any | None:
    """FBGEMM's module for inference with a copy of the rows."""
    if torch is None or imported("fbgemm_gpu") is None:
        return None
    inference = __import__(
        "fbgemm_gpu.split_table_batched_embeddings_ops_inference", fromlist=["_"]
    )
    common = __import__("fbgemm_gpu.split_table_batched_embeddings_ops_common", fromlist=["_"])
    kinds = __import__("fbgemm_gpu.split_embedding_configs", fromlist=["_"]).SparseType
    kind = {"float32": kinds.FP32, "float16": kinds.FP16, "int8": kinds.INT8, "int4": kinds.INT4}
    module = inference.IntNBitTableBatchedEmbeddingBagsCodegen(
        embedding_specs=[("", *table.shape, kind[table.row_format], common.EmbeddingLocation.HOST)],
        device="cpu",
        pooling_mode=common.PoolingMode.SUM,
        output_dtype=kinds.FP32,
    )
    module.initialize_weights()
    rows = table.shards[0].view(np.uint8)
    if table.row_format in ("int8", "int4"):  # its scale and bias lie in front, as float16
        steps, scales = module.split_embedding_weights(split_scale_shifts=True)[0]
        width = steps.shape[1]
        behind = np.ascontiguousarray(rows[:, width:])
        if table.row_format == "int8":
            behind = behind.view(np.float32).astype(np.float16).view(np.uint8)
        scales.copy_(torch.from_numpy(behind))
        steps.copy_(torch.from_numpy(rows[:, :width]))
    else:
        weights = module.split_embedding_weights(split_scale_shifts=False)[0][0]
        weights[:, : rows.shape[1]].copy_(torch.from_numpy(rows))
    return module


def tables(setting: Setting) -> Case:
    """Compare one call for 26 tables with a call for each."""
    rows, bags = (20_000, 256) if setting.quick else (200_000, 2_048)
    rng = np.random.default_rng(32)
    all_tables, features = [], []
    for length in FEATURES:
        array = rng.random((rows, 64), dtype=np.float32)
        all_tables.append(Table.from_array(array, copy=True))
        features.append((rng.integers(0, rows, bags * length), np.arange(0, bags * length, length)))
    each = [(table, *what) for table, what in zip(all_tables, features, strict=True)]
    alone = [table.pool(*what) for table, *what in each]
    check, checks = close(np.concatenate(alone, axis=1)), [close(one) for one in alone]

    def check_each(results: Any) -> bool:
        return all(check(one) for check, one in zip(checks, results, strict=True))

    names: dict[str, object] = {"tables": each, "pool_tables": shardwise.pool_tables}
    statement = "[table.pool(ids, offsets) for table, ids, offsets in tables]"
    contenders = [
        Contender(TABLES, "pool_tables(tables)", names, check, ours=True),
        Contender(ONE_BY_ONE, statement, names, check_each, ours=True),
    ]
    absent = {}
    torch = setting.peers.torch
    if torch is None:
        absent[EACH] = NOT_INSTALLED
    else:
        given: dict[str, object] = {
            "bag": torch.nn.functional.embedding_bag,
            "cat": torch.cat,
            "tables": [
                (torch.from_numpy(table.shards[0]).clone(), *map(torch.from_numpy, what))
                for table, what in zip(all_tables, features, strict=True)
            ],
        }
        calls = '[bag(ids, weight, offsets, mode="sum") for weight, ids, offsets in tables]'
        contenders.append(Contender(EACH, calls, given, check_each))
        contenders.append(Contender(JOINED, f"cat({calls}, 1)", given, check))
    title = f"26 tables of {rows:,} x 64 float32, {bags:,} bags each of 1 to 100 ids"
    return Case(title, contenders, TABLES, [Target(EACH, TABLES, at_least=1.5)], absent)


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
