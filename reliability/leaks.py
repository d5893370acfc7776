"""What stays: objects at the end of Python, and memory, files, maps and threads of many calls."""

from __future__ import annotations

import sys

from .counts import Fault, Run
from .workers import python

# Everything native is used, and let go of; nanobind says at the end what was not.
EVERYTHING = """
import numpy as np
import shardwise
from shardwise import Table, Vectors, Vocabulary, _native, formats, optimizers, pool_tables, store

_native.set_leak_warnings(True)

def everything():
    rows = np.random.default_rng(0).standard_normal((5000, 24)).astype(np.float32)
    words = Vocabulary([f"word{i}" for i in range(5000)], unknown=shardwise.Buckets(3))
    built = Vocabulary.build([["a", "b", "a"]] * 1000)
    for shards in (1, 4):
        table = Table.from_array(rows.copy(), shards, copy=True)
        table.lookup(np.arange(5000))
        table.lookup([1, 9999], out_of_range="zeros", max_norm=1.0, dtype="float64")
        table.pool([[1, 2], [3]], weights=[[1.0, 2.0], [3.0]])
        pool_tables([(table, [[1]]), (table, [[2, 3]])])
        for optimizer in (optimizers.SGD(), optimizers.Adam(), optimizers.Ftrl()):
            table.reset_optimizer()
            table.update([1, 2], np.ones((2, 24), np.float32), optimizer)
        for row_format in ("int8", "int4"):
            table.quantize(row_format).lookup([1, 2])
        for wrong in ([5000], [1.5], ["a"], None):
            try:
                table.lookup(wrong)
            except (shardwise.ShardwiseError, TypeError):
                pass
        table.save(f"t{shards}", overwrite=True)
        with Table.open(f"t{shards}", "r+") as opened:
            opened.write([1, 2], 0.5)
            opened.update([1, 2], np.ones((2, 24), np.float32), optimizer)
            opened.prefetch([1, 2, 3])
            opened.checkpoint("steps", overwrite=True)
        vectors = Vectors(Table.from_array(rows), Vocabulary(f"word{i}" for i in range(5000)))
        vectors.save("words", overwrite=True)
        Vectors.open("words").most_similar("word7")
        source = formats.table_source(vectors.table, vectors.vocabulary)
        formats.write("w.vec", source, overwrite=True)
        Vectors.from_file("w.vec").lookup(["word1", "word2"])
        store.verify_table("words")
    words.encode(["word1", "nothing"])
    words.decode([1, 2])
    built.save("v.safetensors", overwrite=True)
    Vocabulary.open("v.safetensors")

everything()
"""

FLAT = (
    EVERYTHING
    + """
import gc, os, sys

def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGESIZE")

def held():
    return {name: len(os.listdir(f"/proc/self/{name}")) for name in ("fd", "task", "map_files")}

calls = int(sys.argv[1])
rows = np.random.default_rng(0).standard_normal((1000, 16)).astype(np.float32)
tables = [Table.from_array(rows, 3, copy=True), Table.open("t4")]
tables.append(tables[0].quantize("int8"))
words = Vocabulary([f"word{i}" for i in range(1000)])
optimizer = optimizers.Adagrad()
ids, bags = np.arange(7), np.arange(8).reshape(4, 2)
gradients = np.ones((7, 16), np.float32)
out = np.empty((7, 16), np.float32)

def one(k):
    table = tables[k % 3]
    what = k // 3 % 8
    if what == 0:
        table.lookup(ids)
    elif what == 1:
        table.lookup([1, 2, 3], out_of_range="clamp")
    elif what == 2:
        table.pool(bags)
    elif what == 3:
        tables[0].update(ids, gradients, optimizer)
    elif what == 4:
        tables[0].lookup(ids, out=out)
    elif what == 5:
        words.encode(["word1", "word900"])
    elif what == 6:
        try:
            table.lookup([1, 2, 10**6])
        except IndexError:
            pass
    else:
        words.decode([1, 2])

def many(count):
    for k in range(count):
        one(k)
    for _ in range(max(1, count // 2000)):  # the dear ones
        Table.open("t1").lookup(ids)
        Table.from_array(rows, 2, copy=True).lookup(np.arange(1000).repeat(30))
        Vectors.open("words")["word3"]
    gc.collect()

many(calls // 10)
before, kept = resident(), held()
many(calls)
grown, after = resident() - before, held()
assert grown < 4 << 20, f"{grown} bytes more after {calls} calls"
assert after == kept, (kept, after)
print(grown)
"""
)


def run(run: Run) -> None:
    python(EVERYTHING, folder=run.folder)
    run.count("processes after which nothing native was left")
    kept = (
        "import ctypes\nctypes.pythonapi.Py_IncRef(ctypes.py_object(_native.Partition.mod(1, 1)))"
    )
    control = EVERYTHING.removesuffix("everything()\n") + kept
    try:  # a test that cannot fail tests nothing
        python(control, folder=run.folder)
    except Fault as told:
        if "leaked" not in str(told):
            raise
    else:
        raise Fault("a leak was not reported")
    if sys.platform != "linux":
        run.notes.append("memory and descriptors are asked of Linux")
        return
    calls = 30_000 if run.is_short else 1_000_000
    python(FLAT, calls, folder=run.folder, patience=3600)
    run.count("calls after which memory, files, maps and threads were what they had been", calls)
