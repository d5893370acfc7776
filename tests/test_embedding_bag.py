"""`Table.pool` beside PyTorch's `embedding_bag`: all modes, forms, paddings and weights."""

import json
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from shardwise import Table

with np.load(Path(__file__).parent / "golden" / "embedding_bag.npz") as file:
    GOLDEN = dict(file)
CASES = json.loads(GOLDEN["cases"].tobytes())
DTYPES = {name: np.dtype(name) for name in ("float16", "float32", "float64")}
DTYPES["bfloat16"] = np.dtype(ml_dtypes.bfloat16)
# PyTorch adds in another order, and float16 and bfloat16 sums with roundings in between.
TOLERANCE = {"float64": 1e-13, "float32": 2e-6, "float16": 4e-3, "bfloat16": 3e-2}


@pytest.mark.parametrize("shards", [1, 4])
@pytest.mark.parametrize("number", range(len(CASES)))
def test_golden(number, shards):
    case = CASES[number]
    key, wanted = case["key"], GOLDEN[f"case{number}"]
    dtype = key.split("-")[0]
    table = Table.from_array(GOLDEN[f"{key}/rows"].astype(DTYPES[dtype]), shards)
    ids, offsets, last = {
        "offsets": (GOLDEN["ids"], GOLDEN["offsets"][:-1], False),
        "last": (GOLDEN["ids"], GOLDEN["offsets"], True),
        "matrix": (GOLDEN["matrix"], None, False),
    }[case["form"]]
    weights = None
    if case["w"]:
        weights = GOLDEN[f"{key}/weights"].ravel()[: ids.size].reshape(ids.shape)
    got = table.pool(
        ids,
        offsets,
        weights=weights,
        combiner=case["mode"],
        include_last_offset=last,
        padding_id=case["padding"],
    )
    assert got.dtype == DTYPES[dtype]
    assert got.shape == wanted.shape
    scale = max(1.0, np.abs(wanted).max())
    assert np.abs(got.astype(np.float64) - wanted).max() <= TOLERANCE[dtype] * scale
    if case["mode"] == "max":  # nothing is rounded
        assert np.array_equal(got.astype(np.float64), wanted)
