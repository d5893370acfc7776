"""Ratios against size: ids per call, dimension, shards, skew of the ids, size of the table."""

from collections.abc import Iterator

import numpy as np

import shardwise

from ..harness import Case
from ..lineup import Lineup, Setting
from .lookup import Floats, Ids, titled

DIM = 64
OURS = "table.lookup"


def cases(setting: Setting) -> Iterator[Case]:
    rows, ids, largest = (200_000, 20_000, 5) if setting.quick else (4_000_000, 200_000, 7)
    rng = np.random.default_rng(60)
    array = rng.random((rows, DIM), dtype=np.float32)
    for power in range(largest + 1):
        yield point("ids per call", 10**power, setting, array, rng.integers(0, rows, 10**power))
    for exponent in (0.0, 0.5, 0.8, 1.0, 1.2, 1.5):
        skewed = zipf_ids(rng, rows, ids, exponent)
        yield point("Zipf exponent of the ids", exponent, setting, array, skewed)
    wanted = rng.integers(0, rows, ids)
    for count in (1, 2, 4, 8, 16, 32, 64):
        yield sharded(count, setting, array, wanted)
    del array
    for dim in (4, 8, 16, 32, 64, 128, 256, 512, 1024):
        array = rng.random((rows * DIM // dim, dim), dtype=np.float32)
        fewer = rng.integers(0, len(array), max(1000, ids * min(DIM, 2 * dim) // (2 * dim)))
        yield point("numbers in a row", dim, setting, array, fewer)
        del array
    for megabytes in (1, 4, 16) if setting.quick else (1, 4, 16, 64, 256, 1024, 4096):
        array = rng.random((megabytes * 2**20 // (4 * DIM), DIM), dtype=np.float32)
        drawn = rng.integers(0, len(array), ids)
        yield point("size of the table in MiB", megabytes, setting, array, drawn)
        del array


def point(what: str, size: float, setting: Setting, array: Floats, ids: Ids) -> Case:
    """Compare everyone at one size."""
    lineup = Lineup(array[ids])
    lineup.ours(OURS, "table.lookup(ids)", table=shardwise.Table.from_array(array), ids=ids)
    lineup.numpy(array, ids)
    lineup.torch(setting.peers, array, ids)
    lineup.tensorflow(setting.peers, array, ids)
    return lineup.case(titled(f"{what}: {size:,}", array, ids), OURS, sweep=(what, size))


def sharded(count: int, setting: Setting, array: Floats, ids: Ids) -> Case:
    """Compare with TensorFlow's lookup in as many shards."""
    lineup = Lineup(array[ids])
    shards = [array[first::count].copy() for first in range(count)]
    table = shardwise.Table.from_shards(shards, "mod")
    lineup.ours(OURS, "table.lookup(ids)", table=table, ids=ids)
    lineup.tensorflow_shards(setting.peers, shards, ids, "mod")
    return lineup.case(titled(f"{count} mod shards", array, ids), OURS, sweep=("shards", count))


def zipf_ids(rng: np.random.Generator, rows: int, count: int, exponent: float) -> Ids:
    """Draw ids whose frequency falls as (rank + 1)^-exponent, ranks spread over the table."""
    ends = np.cumsum(np.arange(1, rows + 1, dtype=np.float64) ** -exponent)
    ranks = np.searchsorted(ends, rng.random(count) * ends[-1])
    drawn: Ids = rng.permutation(rows)[ranks]
    return drawn
