"""A table larger than memory, step by step: `python -m benchmarks.larger_than_memory FOLDER`.

Creates it, looks 10 million rows up at random, writes a million, flushes, deals it out to other
shards as float16 and compares. Each step is a process of its own, which tells its time, throughput
and peak memory: what is its own, and what of the files is in memory because there was room. FOLDER
needs room for 1.5 times the table. No peer is here but numpy.memmap, for a thousand rows.
"""

import argparse
import re
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from shardwise import Table, store

DIM, SHARDS, BATCH = 64, 8, 100_000


def create(place: Path, rows: int) -> str:
    begin = time.perf_counter()
    Table.create(place / "table", rows, DIM, shards=SHARDS, initializer="uniform").close()
    return f"{rows * DIM * 4 / 1e6 / (time.perf_counter() - begin):.0f} MB/s"


def lookup(place: Path, rows: int) -> str:
    table, rng, count = Table.open(place / "table"), np.random.default_rng(1), 10_000_000
    begin = time.perf_counter()
    for _ in range(count // BATCH):
        table.lookup(rng.integers(0, rows, BATCH))
    return f"{count / (time.perf_counter() - begin):,.0f} rows/s"


def write(place: Path, rows: int) -> str:
    rng, count = np.random.default_rng(2), 1_000_000
    values = rng.random((BATCH, DIM), dtype=np.float32)
    with Table.open(place / "table", "r+") as table:
        begin = time.perf_counter()
        for _ in range(count // BATCH):
            table.write(rng.integers(0, rows, BATCH), values)
        written = time.perf_counter() - begin
        table.flush()
        flushed = time.perf_counter() - begin
    return f"{count / written:,.0f} rows/s, {count / flushed:,.0f} rows/s with the flush"


def reshard(place: Path, rows: int) -> str:
    begin = time.perf_counter()
    store.reshard(place / "table", place / "other", shards=3, partition="div", dtype="float16")
    return f"{rows * DIM * 4 / 1e6 / (time.perf_counter() - begin):.0f} MB/s read"


def compare(place: Path, rows: int) -> str:
    table, other = Table.open(place / "table"), Table.open(place / "other")
    rng = np.random.default_rng(3)
    ids = rng.integers(0, rows, BATCH)
    if not np.array_equal(table.lookup(ids).astype(np.float16), other.lookup(ids)):
        raise SystemExit("the rows of the two tables differ")
    (first,) = (place / "table").glob("weight-00000-*")
    there = rows // SHARDS
    begin = first.stat().st_size - there * DIM * 4
    peer = np.memmap(first, np.float32, "r", begin, (there, DIM))
    times = {}
    for name in ("numpy.memmap", "lookup", "prefetch and lookup"):
        ids = rng.integers(0, there, 1000)
        start = time.perf_counter()
        if name == "numpy.memmap":
            peer[ids]
        else:
            if name != "lookup":
                table.prefetch(ids * SHARDS)
            table.lookup(ids * SHARDS)
        times[name] = (time.perf_counter() - start) * 1e3
    return ", ".join(f"{name} {taken:.1f} us a row" for name, taken in times.items())


STEPS = {step.__name__: step for step in (create, lookup, write, reshard, compare)}


def peak_memory() -> str:
    """What the process had in memory: its own, and pages of files, which the system may take."""
    status = Path("/proc/self/status").read_text()
    found = {key: int(re.findall(rf"{key}:\s+(\d+)", status)[0]) for key in ("VmHWM", "RssAnon")}
    return f"{found['RssAnon'] / 1e3:.0f} MB its own, {found['VmHWM'] / 1e3:.0f} MB at most"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("folder", type=Path, help="an empty folder on the disk that is measured")
    parser.add_argument("--gigabytes", type=float, default=40, help="the table's size")
    parser.add_argument("--step", choices=STEPS, help=argparse.SUPPRESS)
    given = parser.parse_args()
    rows = int(given.gigabytes * 1e9) // (DIM * 4 * SHARDS) * SHARDS
    if given.step:
        print(
            f"{given.step:8} {STEPS[given.step](given.folder, rows)}; {peak_memory()}", flush=True
        )
        return
    for step in STEPS:
        command = [sys.executable, "-m", "benchmarks.larger_than_memory", str(given.folder)]
        subprocess.run([*command, "--gigabytes", str(given.gigabytes), "--step", step], check=True)


if __name__ == "__main__":
    main()
