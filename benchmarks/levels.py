"""The same calls at each instruction level of this processor: `python -m benchmarks.levels`.

The suites measure the best level alone; most processors have only the one below. Rows are in the
caches, so what is seen is the work on them. Each level runs in a process of its own, in turns.
Times are the least of CPU time of one call on one thread; others' are divided by the best level's.
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from time import process_time

import numpy as np

ROWS, DIM, COUNT, BAG = 8_000, 64, 60_000, 20
TURNS, CALLS = 3, 5
FORMATS = ("float32", "float16", "bfloat16", "float64", "int8", "int4")


def calls() -> Iterator[tuple[str, Callable[[], object]]]:
    import ml_dtypes

    import shardwise
    from shardwise import Table, optimizers

    rng = np.random.default_rng(1)
    rows = rng.random((ROWS, DIM), dtype=np.float32)
    ids, weights = rng.integers(0, ROWS, COUNT), rng.random(COUNT, dtype=np.float32)
    offsets = np.arange(0, COUNT, BAG)
    dtypes = {name: np.dtype(name) for name in ("float32", "float16", "float64")}
    dtypes["bfloat16"] = np.dtype(ml_dtypes.bfloat16)
    whole = Table.from_array(rows)
    tables = {name: Table.from_array(rows.astype(dtypes[name])) for name in dtypes}
    tables |= {name: whole.quantize(name) for name in ("int8", "int4")}
    for name in FORMATS:
        table = tables[name]
        weighted = partial(table.pool, weights=weights, combiner="mean")
        yield f"sums of {name}", partial(table.pool, ids, offsets)
        yield f"weighted means of {name}", partial(weighted, ids, offsets)
        yield f"largest of {name}", partial(table.pool, ids, offsets, combiner="max")
        yield f"rows of {name} within a norm", partial(table.lookup, ids, max_norm=1.0)
        if name != "float32":
            yield f"rows of {name} as float32", partial(table.lookup, ids, dtype="float32")
    for name in ("float16", "bfloat16"):
        yield f"rows of float32 as {name}", partial(whole.lookup, ids, dtype=dtypes[name])
    for name in ("int8", "int4"):
        yield f"rows packed as {name}", partial(whole.quantize, name)
    gradients = rng.random((COUNT, DIM), dtype=np.float32)
    rules = [optimizers.SGD(0.1), optimizers.Adagrad(0.1), optimizers.RowwiseAdagrad(0.1)]
    for rule in (*rules, optimizers.Adam(0.1), optimizers.Ftrl(0.1)):
        for name in ("float32", "float16"):
            table = Table.from_array(rows.astype(name))
            yield f"{type(rule).__name__} on {name}", partial(table.update, ids, gradients, rule)
    words = [f"w{k}" for k in range(ROWS)]
    vectors = shardwise.Vectors(whole, shardwise.Vocabulary(words))
    yield (
        "neighbours of 200 words",
        partial(vectors.most_similar, [[w] for w in words[:200]], topn=10),
    )


def measure() -> dict[str, float]:
    """Give the least seconds of CPU time of each call."""
    found = {}
    for title, call in calls():
        call()
        times = []
        for _ in range(CALLS):
            begin = process_time()
            call()
            times.append(process_time() - begin)
        found[title] = min(times)
    return found


def main() -> None:
    from shardwise import _native

    levels = _native.isa_levels()
    least: dict[str, dict[str, float]] = {level: {} for level in levels}
    for _ in range(TURNS):
        for level in levels:
            variables = os.environ | {"SHARDWISE_ISA": level, "SHARDWISE_NUM_THREADS": "1"}
            command = [sys.executable, "-m", "benchmarks.levels", "--here"]
            done = subprocess.run(command, env=variables, check=True, stdout=subprocess.PIPE)
            for title, seconds in json.loads(done.stdout).items():
                least[level][title] = min(seconds, least[level].get(title, seconds))
    best = levels[-1]
    print(f"{'':36}{best + ', ms':>16}" + "".join(f"{level:>12}" for level in levels[-2::-1]))
    for title, seconds in least[best].items():
        others = "".join(f"{least[level][title] / seconds:12.2f}" for level in levels[-2::-1])
        print(f"{title:36}{seconds * 1e3:16.2f}{others}")


if __name__ == "__main__":
    if sys.argv[1:] == ["--here"]:
        print(json.dumps(measure()))
    else:
        main()
