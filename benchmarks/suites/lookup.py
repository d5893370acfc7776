"""Rows by id: one table, the memory's ceiling, shards, small calls, and a sweep of shapes."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import cycle, pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

import shardwise

from ..ceiling import best_contender
from ..harness import Case, Target
from ..lineup import Lineup, Setting

OURS = "table.lookup"
PAGED = "table.lookup, 2 MB pages"
FUNCTION = "embedding_lookup"
NUMPY = "NumPy array[ids]"
NUM_SHARDS = 8
ALONE = "table.lookup, one array"

Floats = NDArray[np.float32]
Ids = NDArray[np.int64]


@dataclass(frozen=True)
class Sizes:
    rows: int  # a multiple of NUM_SHARDS
    ids: int
    sweep_bytes: int
    sweep_ids: int


FULL = Sizes(rows=4_000_000, ids=1_000_000, sweep_bytes=512 << 20, sweep_ids=100_000)
QUICK = Sizes(rows=400_000, ids=100_000, sweep_bytes=32 << 20, sweep_ids=20_000)


def cases(setting: Setting) -> Iterator[Case]:
    sizes = QUICK if setting.quick else FULL
    rng = np.random.default_rng(20)
    array = rng.random((sizes.rows, 64), dtype=np.float32)
    ids = rng.integers(0, sizes.rows, sizes.ids)
    yield one_table(setting, array, ids)
    yield result_memory(array, ids)
    yield mod_shards(setting, array, ids)
    yield other_shards(setting, array, ids)
    for count in (1, 32, 1024):
        yield small_call(setting, array, ids[:count])
        yield new_ids(array, ids, count)
    few = rng.random((100_000, 100), dtype=np.float32)
    for count in (1, 32, 1024):
        yield small_call(setting, few, rng.integers(0, len(few), count))
    del few
    yield plain(setting, "int32 ids", array, ids.astype(np.int32))
    yield plain(setting, "Zipf ids (s = 1)", array, zipf_ids(rng, sizes.rows, sizes.ids))
    del array
    for dim in (4, 16, 64, 100, 256, 1024):
        swept = rng.random((sizes.sweep_bytes // (4 * dim), dim), dtype=np.float32)
        yield plain(setting, "sweep", swept, rng.integers(0, len(swept), sizes.sweep_ids))
        del swept


def one_table(setting: Setting, array: Floats, ids: Ids) -> Case:
    """Compare everyone on one table, and with the ceiling of its memory."""
    lineup = Lineup(array[ids])
    table = shardwise.Table.from_array(array)
    lineup.ours(OURS, "table.lookup(ids)", table=table, ids=ids)
    paged = shardwise.Table.from_array(array, copy=True)
    lineup.ours(PAGED, "table.lookup(ids)", table=paged, ids=ids)
    function = shardwise.embedding_lookup
    lineup.ours(
        FUNCTION, "embedding_lookup(array, ids)", embedding_lookup=function, array=array, ids=ids
    )
    lineup.numpy(array, ids)
    lineup.torch(setting.peers, array, ids)
    lineup.tensorflow(setting.peers, array, ids)
    ceiling = best_contender(array, ids, setting.threads)
    if isinstance(ceiling, str):
        lineup.absent["ceiling"] = ceiling
    else:
        lineup.contenders.append(ceiling)
    targets = [
        Target(peer, ours, at_least=3)
        for peer in (NUMPY, "torch embedding", "tf embedding_lookup")
        for ours in (OURS, PAGED)
    ]
    note = (
        "The ceiling reads the rows and writes no result: its ratio is how near we come. "
        f"In 2 MB pages: {huge_share(table):.0%} of the array, {huge_share(paged):.0%} of the copy."
    )
    return lineup.case(titled("one table", array, ids), OURS, targets, note)


def result_memory(array: Floats, ids: Ids) -> Case:
    """Compare where the result goes: memory used before, fresh from the system, or given."""
    expected = array[ids]
    lineup = Lineup(expected)
    table = shardwise.Table.from_array(array)
    lineup.ours(OURS, "table.lookup(ids)", table=table, ids=ids)
    lineup.ours(
        "table.lookup, fresh memory",
        "table.lookup(ids)",
        before=shardwise.empty_cache,
        table=table,
        ids=ids,
    )
    out = np.zeros_like(expected)
    lineup.ours("table.lookup, out=", "table.lookup(ids, out=out)", table=table, ids=ids, out=out)
    lineup.numpy(array, ids)
    lineup.peer(
        "numpy.take, out=",
        'np.take(array, ids, axis=0, out=out, mode="clip")',
        np=np,
        array=array,
        ids=ids,
        out=np.zeros_like(expected),
    )
    note = "NumPy's results are fresh memory too where they exceed the 32 MB that malloc keeps."
    return lineup.case(titled("memory of the result", array, ids), OURS, note=note)


def mod_shards(setting: Setting, array: Floats, ids: Ids) -> Case:
    """Compare shards with no shards, and with TensorFlow's own way to look up in them."""
    lineup = Lineup(array[ids])
    name = f"table.lookup, {NUM_SHARDS} mod"
    shards = [array[first::NUM_SHARDS].copy() for first in range(NUM_SHARDS)]
    table = shardwise.Table.from_shards(shards, "mod")
    lineup.ours(name, "table.lookup(ids)", table=table, ids=ids)
    lineup.ours(ALONE, "table.lookup(ids)", table=shardwise.Table.from_array(array), ids=ids)
    lineup.ours(
        FUNCTION,
        'embedding_lookup(shards, ids, partition_strategy="mod")',
        embedding_lookup=shardwise.embedding_lookup,
        shards=shards,
        ids=ids,
    )
    lineup.tensorflow_shards(setting.peers, shards, ids, "mod")
    targets = [
        Target(name, ALONE, at_most=1.1),
        Target("tf v1 embedding_lookup, mod", name, at_least=6, aim=8),
    ]
    return lineup.case(titled(f"{NUM_SHARDS} mod shards", array, ids), name, targets)


def other_shards(setting: Setting, array: Floats, ids: Ids) -> Case:
    """Compare the other partitions, as information: `div`, and ranges of 1 to 8 parts in 36."""
    lineup = Lineup(array[ids])
    boundaries = [len(array) * (k * (k + 1) // 2) // 36 for k in range(NUM_SHARDS + 1)]
    ranges = [array[a:b].copy() for a, b in pairwise(boundaries)]
    div = [part.copy() for part in np.split(array, NUM_SHARDS)]
    lineup.ours(ALONE, "table.lookup(ids)", table=shardwise.Table.from_array(array), ids=ids)
    table = shardwise.Table.from_shards(div, "div")
    lineup.ours(f"table.lookup, {NUM_SHARDS} div", "table.lookup(ids)", table=table, ids=ids)
    table = shardwise.Table.from_shards(ranges, shardwise.Partition.ranges(boundaries))
    lineup.ours(f"table.lookup, {NUM_SHARDS} ranges", "table.lookup(ids)", table=table, ids=ids)
    lineup.tensorflow_shards(setting.peers, div, ids, "div")
    return lineup.case(titled("div and uneven ranges", array, ids), ALONE)


def small_call(setting: Setting, array: Floats, ids: Ids) -> Case:
    lineup = Lineup(array[ids])
    lineup.ours(OURS, "table.lookup(ids)", table=shardwise.Table.from_array(array), ids=ids)
    lineup.numpy(array, ids)
    lineup.torch(setting.peers, array, ids)
    note = "The same ids in every call, so the rows are in the caches."
    return lineup.case(titled("small call", array, ids), OURS, [small_target(len(ids))], note)


def small_target(count: int) -> Target:
    if count == 1:
        return Target(OURS, NUMPY, at_most=1.3)
    return Target(NUMPY, OURS, at_least=1 if count == 32 else 2)


def new_ids(array: Floats, ids: Ids, count: int) -> Case:
    """Compare small calls as a server sees them: other ids each time, so rows come from memory."""
    batches = [ids[k * count : (k + 1) * count] for k in range(min(1000, len(ids) // count))]
    lineup = Lineup(array[batches[0]])  # what each contender's first call answers: it is checked
    table = shardwise.Table.from_array(array)
    lineup.ours(OURS, "table.lookup(new())", table=table, new=cycle(batches).__next__)
    lineup.peer(NUMPY, "array[new()]", array=array, new=cycle(batches).__next__)
    title = titled("small call, new ids each time", array, batches[0])
    return lineup.case(title, OURS, [small_target(count)], "The rows are not in the caches.")


def plain(setting: Setting, what: str, array: Floats, ids: NDArray[Any]) -> Case:
    """Compare everyone, as information."""
    lineup = Lineup(array[ids])
    lineup.ours(OURS, "table.lookup(ids)", table=shardwise.Table.from_array(array), ids=ids)
    lineup.numpy(array, ids)
    lineup.torch(setting.peers, array, ids)
    lineup.tensorflow(setting.peers, array, ids)
    return lineup.case(titled(what, array, ids), OURS)


def huge_share(table: shardwise.Table) -> float:
    about = table.describe()
    return float(sum(shard["huge_page_bytes"] for shard in about["shards"]) / about["bytes"])


def zipf_ids(rng: np.random.Generator, rows: int, count: int) -> Ids:
    """Draw ids whose frequency falls as 1 / (id + 1): a vocabulary sorted by frequency."""
    return (float(rows) ** rng.random(count)).astype(np.int64) - 1


def titled(what: str, array: Floats, ids: NDArray[Any]) -> str:
    noun = "id" if len(ids) == 1 else "ids"
    return f"{what}: {array.shape[0]:,} x {array.shape[1]} {array.dtype}, {len(ids):,} {noun}"
