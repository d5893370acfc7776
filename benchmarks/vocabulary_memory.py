"""What a vocabulary of a million tokens costs in memory and time, and a dict beside it.

`python -m benchmarks.vocabulary_memory [TOKENS]`: each is measured in a process of its own, with
the file on the disk alone, and with all of it in the system's page cache. There a kernel may map
many pages with one that is touched, and all of them count as resident.
"""

import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

MEASURE = """
import gc, json, re, sys, time
import numpy, shardwise
def resident():
    with open("/proc/self/status") as file:
        status = file.read()
    sizes = [re.search(name + r":\\s+(\\d+)", status)[1] for name in ("VmRSS", "RssAnon")]
    return [int(size) / 1024 for size in sizes]
path, asked = sys.argv[1], json.loads(sys.stdin.read())
import shardwise.store  # which the first Vocabulary.open of a process imports
shardwise.Vocabulary(["warm"]).encode(["warm"])
gc.collect()
before, begin = resident(), time.perf_counter()
{make}
opened = time.perf_counter() - begin
ids = [{look} for token in asked]
grown = [now - then for now, then in zip(resident(), before)]
print(json.dumps([opened * 1e3, *grown, ids]))
"""

EXAMPLE = Path(__file__).parents[1] / "examples" / "novels-3000.bin"

WAYS = {
    "Vocabulary.open": (
        "vocabulary = shardwise.Vocabulary.open(path)",
        "vocabulary.encode(token)",
    ),
    "dict, read from JSON": (
        'vocabulary = {t: k for k, t in enumerate(json.load(open(path + ".json")))}',
        "vocabulary[token]",
    ),
}


def main(count: int) -> None:
    import shardwise

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "vocabulary.safetensors"
        words = list(shardwise.Vectors.from_file(EXAMPLE).vocabulary)
        tokens = [f"{words[k % len(words)]}{k // len(words)}" for k in range(count)]
        shardwise.Vocabulary(tokens).save(path)
        Path(f"{path}.json").write_text(json.dumps(tokens))
        wanted = random.Random(1).sample(range(count), 1000)
        asked = [tokens[k] for k in wanted]
        for name, (make, look) in WAYS.items():
            code = MEASURE.replace("{make}", make).replace("{look}", look)
            for where in ("on the disk", "in the page cache"):
                runs = []
                for _ in range(5):
                    forget(path)
                    if where == "in the page cache":
                        path.read_bytes()
                    command = [sys.executable, "-c", code, str(path)]
                    done = subprocess.run(
                        command, input=json.dumps(asked), capture_output=True, text=True, check=True
                    )
                    *figures, ids = json.loads(done.stdout)
                    if ids != wanted:
                        sys.exit(f"{name}: wrong ids, nothing is reported")
                    runs.append(figures)
                opened, grown, own = (
                    statistics.median(values) for values in zip(*runs, strict=True)
                )
                print(
                    f"{name}, {where}: opened in {opened:.1f} ms; after 1,000 lookups "
                    f"{grown:.1f} MB resident, {own:.1f} MB of them the process's own"
                )


def forget(path: Path) -> None:
    """Drop a file from the page cache."""
    for file in (path, Path(f"{path}.json")):
        with file.open("rb+") as opened:
            os.fsync(opened.fileno())
            os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000)
