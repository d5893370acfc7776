"""Lookups against the answers of TensorFlow 2.21: golden/make_golden.py says how they were made."""

import json
import math
from itertools import accumulate
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

import shardwise

FOLDER = Path(__file__).parent / "golden"
CASES = {case["id"]: case for case in json.loads((FOLDER / "lookup.json").read_text())["cases"]}
with np.load(FOLDER / "lookup.npz") as arrays:
    DATA = dict(arrays)

PLAIN = [key for key, case in CASES.items() if "table" in case and case["max_norm"] is None]
CLIPPED = [key for key, case in CASES.items() if "table" in case and case["max_norm"] is not None]
NESTED = [key for key, case in CASES.items() if "list" in case]

SAVED_AS_BITS = ("bfloat16", "float8_e4m3fn", "float8_e5m2")
# How far a clipped row may be from TensorFlow's, which computes in the table's own dtype.
TOLERANCE = {"float64": 1e-14, "float32": 3e-7, "float16": 2e-3, "bfloat16": 1.6e-2}


def load(key, dtype):
    array = DATA[key]
    return array.view(getattr(ml_dtypes, dtype)) if dtype in SAVED_AS_BITS else array


def whole_table(case):
    if "table" in case:
        return load(f"table/{case['table']}", case["dtype"])[: case["rows"]]
    shards = [np.asarray(shard, case["dtype"]) for shard in case["list"]]
    if case["strategy"] == "div":
        return np.concatenate(shards)
    table = np.empty((sum(map(len, shards)), *shards[0].shape[1:]), case["dtype"])
    for k, shard in enumerate(shards):
        table[k :: len(shards)] = shard
    return table


def cut(table, strategy, num_shards):
    if strategy == "mod":
        return [table[k::num_shards] for k in range(num_shards)]
    return np.array_split(table, num_shards)


def shards_of(case):
    return cut(whole_table(case), case["strategy"], case["shards"] or 1)


def params_of(case):
    if "list" in case:
        return case["list"]
    return whole_table(case) if case["shards"] is None else shards_of(case)


def ids_of(case):
    return np.array(case["ids"], case["ids_dtype"]).reshape(case["ids_shape"])


def answer_of(case):
    flat = load(f"answers/{case['dtype']}", case["dtype"])
    return flat[case["at"] : case["at"] + math.prod(case["shape"])].reshape(case["shape"])


def assert_same_bits(result, expected):
    result = np.asarray(result)
    assert result.shape == expected.shape
    assert result.dtype == expected.dtype
    if result.tobytes() != expected.tobytes():
        np.testing.assert_array_equal(result, expected)  # a readable difference, if it can be seen
        raise AssertionError("equal values of different bits: NaN payloads or signs of zero")


def assert_clipped(result, case):
    """Rows within the norm are the table's own, the others are TensorFlow's."""
    result, expected, ids = np.asarray(result), answer_of(case), ids_of(case)
    assert result.shape == expected.shape
    assert result.dtype == expected.dtype
    rows = whole_table(case)[ids]
    axes = tuple(range(ids.ndim, rows.ndim))
    kept = np.sqrt(np.sum(rows.astype(np.float64) ** 2, axis=axes)) <= case["max_norm"]
    assert_same_bits(result[kept], rows[kept])
    np.testing.assert_allclose(
        result[~kept].astype(np.float64),
        expected[~kept].astype(np.float64),
        rtol=TOLERANCE[case["dtype"]],
    )


def lookup(case):
    return shardwise.embedding_lookup(
        params_of(case), ids_of(case), case["strategy"], max_norm=case["max_norm"]
    )


@pytest.mark.parametrize("key", PLAIN)
def test_lookup(key):
    assert_same_bits(lookup(CASES[key]), answer_of(CASES[key]))


@pytest.mark.parametrize("key", CLIPPED)
def test_lookup_with_max_norm(key):
    case = CASES[key]
    before = whole_table(case).tobytes()
    assert_clipped(lookup(case), case)
    assert whole_table(case).tobytes() == before


@pytest.mark.parametrize("key", NESTED)
def test_lookup_in_python_lists(key):
    case = CASES[key]
    with pytest.warns(shardwise.ShardwiseWarning):
        result = lookup(case)
    if case["max_norm"] is None:
        assert_same_bits(result, answer_of(case))
    else:
        assert_clipped(result, case)


@pytest.mark.parametrize("key", [key for key in CASES if CASES[key]["max_norm"] is None])
def test_table_lookup(key):
    case = CASES[key]
    table = shardwise.Table.from_shards(shards_of(case), case["strategy"])
    assert_same_bits(table.lookup(ids_of(case)), answer_of(case))


@pytest.mark.parametrize("key", PLAIN)
def test_partition_finds_the_rows(key):
    """The answer depends on no strategy: each finds TensorFlow's rows in shards of its own."""
    case = CASES[key]
    table, ids, num_shards = whole_table(case), ids_of(case), case["shards"] or 1
    rows_of = [len(shard) for shard in reversed(np.array_split(table, num_shards))]
    boundaries = [0, *accumulate(rows_of)]  # the shorter shards first, unlike "div"
    for partition, shards in (
        (shardwise.Partition.mod(len(table), num_shards), cut(table, "mod", num_shards)),
        (shardwise.Partition.div(len(table), num_shards), cut(table, "div", num_shards)),
        (shardwise.Partition.ranges(boundaries), np.split(table, boundaries[1:-1])),
    ):
        shard, row = partition.locate(ids)
        assert shard.shape == row.shape == ids.shape
        found = np.empty((ids.size, *table.shape[1:]), table.dtype)
        for n, (s, r) in enumerate(zip(shard.ravel(), row.ravel(), strict=True)):
            found[n] = shards[s][r]
        assert_same_bits(found.reshape(ids.shape + table.shape[1:]), answer_of(case))


def test_cases_cover_what_tensorflow_can_do():
    cases = [case for case in CASES.values() if "table" in case]
    assert len(CASES) >= 400
    assert len(PLAIN) >= 300
    stitched = {"float16", "float32", "float64", "bfloat16", "bool", "complex64", "complex128"}
    stitched |= {f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)} | {"string"}
    shards = {1, 2, 3, 4, 5, 7, 8, 13}
    assert {(c["strategy"], c["shards"], c["dtype"]) for c in cases} >= {
        (strategy, n, dtype) for strategy in ("mod", "div") for n in shards for dtype in stitched
    }
    one_shard = {c["dtype"] for c in cases if c["shards"] in (None, 1)}
    assert one_shard >= stitched | {"float8_e4m3fn", "float8_e5m2"}
    ranks = {(c["dtype"], len(c["shape"]) - len(c["ids_shape"])) for c in cases}
    assert ranks >= {(dtype, rank) for dtype in one_shard for rank in range(4)}
    assert {tuple(c["ids_shape"]) for c in cases} >= {
        *((), (0,), (1,), (7,)),
        *((3, 4), (2, 3, 4), (0, 5)),
    }
    assert {c["ids_dtype"] for c in cases} == {"int32", "int64"}
    assert {(c["dtype"], c["max_norm"]) for c in cases if c["max_norm"] is not None} == {
        (dtype, norm) for dtype in TOLERANCE for norm in (0.5, 1.0, 3.0, 100.0)
    }
