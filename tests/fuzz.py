"""Feeds mutated files to every reader: `python tests/fuzz.py --count 100000`.

Each input is a file of `tests/corpus` with a few bytes changed, cut, doubled or joined to another
file. A reader must refuse it with an error of its own or read it; whatever else happens (another
exception, a crash, a large allocation, a hang) is a finding: the input is kept, and the exit code
is 1. `CONTRIBUTING.md` says how to run it under AddressSanitizer. Without `--count` the corpus
itself is read, which holds the findings of earlier runs.
"""

import argparse
import dataclasses
import multiprocessing
import os
import random
import shutil
import struct
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np

from shardwise import (
    FormatError,
    MissingLibraryError,
    OptionError,
    StoreError,
    Table,
    formats,
    store,
)
from shardwise.formats import _open as formats_open
from shardwise.store import _open as store_open

CORPUS = Path(__file__).with_name("corpus")
TABLE = "table"  # a directory of the corpus that is a table: one of its files is mutated
CHECKPOINT = "checkpoint"  # a directory: the index and the data of a TensorFlow checkpoint
ALLOWED = (FormatError, OptionError, StoreError, MissingLibraryError)
NUMBERS = [0, 1, 2, 3, 7, 8, 127, 128, 255, 256, 4095, 4096, 65535, 1 << 20, (1 << 31) - 1]
NUMBERS += [
    1 << 31,
    (1 << 32) - 1,
    1 << 32,
    1 << 40,
    (1 << 62),
    (1 << 63) - 1,
    1 << 63,
    (1 << 64) - 1,
]


def mutated(content: bytes, others: list[bytes], rng: random.Random) -> bytes:
    data = bytearray(content)
    for _ in range(rng.choice((1, 1, 1, 2, 3, 6))):
        if not data:
            break
        at = rng.randrange(len(data))
        # Headers are at the beginning (or end), and most of what can go wrong is there.
        if rng.random() < 0.6:
            at = min(at, rng.randrange(64))
        elif rng.random() < 0.2:
            at = max(at, len(data) - 1 - rng.randrange(64))
        at = min(at, len(data) - 1)
        kind = rng.randrange(10)
        if kind == 0:
            data[at] ^= 1 << rng.randrange(8)
        elif kind == 1:
            data[at] = rng.choice((0, 1, 0x0A, 0x20, 0x7F, 0x80, 0xFE, 0xFF))
        elif kind == 2:
            data[at] = rng.randrange(256)
        elif kind in (3, 4):
            width = rng.choice((2, 4, 4, 8, 8))
            number = rng.choice((*NUMBERS, len(data), len(data) - at)) + rng.choice((-1, 0, 0, 1))
            data[at : at + width] = struct.pack("<Q", number % (1 << 64))[:width]
        elif kind == 5:
            del data[at:]
        elif kind == 6:
            del data[at : at + rng.choice((1, 2, 4, 8, 64))]
        elif kind == 7:
            piece = bytes(data[at : at + rng.choice((1, 4, 8, 64, 512))])
            where = rng.randrange(len(data))
            data[where:where] = piece
        elif kind == 8:
            other = rng.choice(others)
            data[at:] = other[rng.randrange(len(other) + 1) :]
        else:  # a number in text: headers, JSON
            digits = [k for k, byte in enumerate(data[:4096]) if 48 <= byte < 58]
            if digits:
                data[rng.choice(digits)] = rng.choice(b"0123456789-.eE")
    return bytes(data)


def exact(file: formats_open.File) -> formats_open.File:
    """The same file in memory of just its size, where a sanitizer sees a read beyond its end."""
    return dataclasses.replace(file, data=file.data.copy())


def read(path: Path) -> str:
    """Read all of a file or table; say what became of it."""
    try:
        if path.name == TABLE:
            opened = store.open_table(path)
            rows = opened.table.lookup(np.arange(min(len(opened.table), 5000)))
            assert rows.shape[1:] == opened.table.shape[1:]
            if opened.vocabulary is not None:
                tokens = opened.vocabulary.decode(np.arange(min(len(opened.vocabulary), 5000)))
                opened.vocabulary.encode(tokens[:1] or ["a"])
            store.verify_table(path)
            Table.open(path, "c").write([0], 0)
        else:
            source = formats.open(path)
            count = 0
            for block in source.blocks(1000):
                assert block.shape[1:] == source.shape[1:]
                assert block.dtype == source.dtype
                count += len(block)
                block.tobytes()
                if count > 20_000:
                    break
            if source.vocabulary is not None:
                assert len(source.vocabulary) <= source.shape[0]
                list(zip(range(5000), source.vocabulary, strict=False))
        return "read"
    except ALLOWED as error:
        return type(error).__name__
    except (IndexError, KeyError) as error:
        # The only ones that a read table may give: a damaged vocabulary, found when it is used.
        if path.name == TABLE and type(error).__module__ == "shardwise":
            return type(error).__name__
        raise
    except ValueError as error:
        if path.name == TABLE and type(error).__module__ == "shardwise":
            return type(error).__name__
        raise


def seeds() -> list[tuple[str, list[tuple[str, bytes]]]]:
    """Each seed: its name, and its files (name, content): one, or those of a directory."""
    found = []
    for path in sorted(CORPUS.iterdir()):
        files = sorted(path.iterdir()) if path.is_dir() else [path]
        found.append((path.name, [(file.name, file.read_bytes()) for file in files]))
    return found


def put(folder: Path, name: str, files: list[tuple[str, bytes]]) -> Path:
    """Write a seed's files; what is opened to read it."""
    if len(files) == 1 and not name.startswith((TABLE, CHECKPOINT)):
        path = folder / "input"
        path.write_bytes(files[0][1])
        return path
    place = folder / (TABLE if name.startswith(TABLE) else CHECKPOINT)
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir()
    for file, content in files:
        (place / file).write_bytes(content)
    return place if name.startswith(TABLE) else place / "ckpt.index"


def make(number: int, all_seeds: list[tuple[str, list[tuple[str, bytes]]]]) -> tuple[str, list]:
    """The input of a number: always the same."""
    rng = random.Random(number)
    name, files = rng.choice(all_seeds)
    others = [content for _, some in all_seeds for _, content in some]
    which = rng.randrange(len(files))
    changed = mutated(files[which][1], others, rng)
    return name, [
        (file, changed if k == which else content) for k, (file, content) in enumerate(files)
    ]


def work(begin: int, step: int, end: int, pipe: Connection) -> None:
    """Read the inputs begin, begin + step, ...; tell of each before and after."""
    warnings.simplefilter("error")
    warnings.filterwarnings("ignore", category=DeprecationWarning)
    original = formats_open.map_file
    formats_open.map_file = lambda path: exact(original(path))
    mapped = store_open.map_tensors
    store_open.map_tensors = lambda *arguments: {
        name: array.copy() for name, array in mapped(*arguments).items()
    }
    all_seeds = seeds()
    with tempfile.TemporaryDirectory() as folder:
        for number in range(begin, end, step):
            name, files = make(number, all_seeds)
            path = put(Path(folder), name, files)
            pipe.send(number)
            try:
                pipe.send((name, read(path)))
            except Exception:
                pipe.send((name, "FAILED\n" + traceback.format_exc(limit=-6)))
    pipe.send(None)


def fuzz(begin: int, count: int, workers: int, keep: Path | None, seconds: float) -> int:
    """Run inputs [begin, begin + count), each in so many seconds; return how many were findings."""
    outcomes: Counter[tuple[str, str]] = Counter()
    findings = 0
    context = multiprocessing.get_context("spawn")
    end = begin + count
    started = []
    for k in range(workers):
        started.append(start(context, begin + k, workers, end))
    while started:
        for entry in list(started):
            process, pipe, state = entry
            failed = None
            try:
                while pipe.poll(0.05 if len(started) == 1 else 0.01):
                    message = pipe.recv()
                    state["since"] = time.monotonic()
                    if message is None:
                        started.remove(entry)
                        process.join()
                        break
                    if isinstance(message, int):
                        state["number"] = message
                    else:
                        name, outcome = message
                        if outcome.startswith("FAILED"):
                            findings += report(state["number"], name, outcome, keep)
                            outcome = "FAILED"
                        outcomes[name, outcome] += 1
            except EOFError:
                process.join()
                failed = f"the process ended with {process.exitcode}"
            patience = seconds + (40 if state["number"] < 0 else 0)
            waiting = entry in started and failed is None
            if waiting and time.monotonic() - state["since"] > patience:
                process.kill()
                process.join()
                failed = f"no answer in {seconds:.0f} s"
            if failed is not None:
                started.remove(entry)
                findings += report(state["number"], "?", failed, keep)
                if state["number"] >= 0 and state["number"] + workers < end:
                    started.append(start(context, state["number"] + workers, workers, end))
    for (name, outcome), number in sorted(outcomes.items()):
        print(f"{name:28} {outcome:24} {number}")
    print(f"{sum(outcomes.values())} inputs, {findings} findings")
    return findings


def start(context, begin: int, step: int, end: int):
    mine, theirs = context.Pipe(duplex=False)
    process = context.Process(target=work, args=(begin, step, end, theirs))
    process.start()
    theirs.close()
    return process, mine, {"number": -1, "since": time.monotonic()}


def report(number: int, name: str, what: str, keep: Path | None) -> int:
    print(f"input {number} ({name}): {what}", file=sys.stderr, flush=True)
    if keep is not None and number >= 0:
        name, files = make(number, seeds())
        place = keep / f"{name}-{number}"
        if len(files) == 1:
            place.write_bytes(files[0][1])
        else:
            place.mkdir(exist_ok=True)
            for file, content in files:
                (place / file).write_bytes(content)
    return 1


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--count", type=int, default=0, help="how many mutated inputs")
    parser.add_argument("--begin", type=int, default=0, help="the number of the first one")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--keep", type=Path, help="a directory for the inputs that are findings")
    parser.add_argument("--patience", type=float, default=20, help="seconds for one input")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        for name, files in seeds():
            print(f"{name:28} {read(put(Path(folder), name, files))}")
    findings = fuzz(options.begin, options.count, options.workers, options.keep, options.patience)
    return min(1, findings)


if __name__ == "__main__":
    sys.exit(main())
