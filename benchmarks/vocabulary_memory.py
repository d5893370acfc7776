"""What a vocabulary of a million tokens costs in memory and time, and a dict beside it.

`python -m benchmarks.vocabulary_memory [TOKENS]`: each is measured in a process of its own.
"""

import json
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
        return int(re.search(r"VmRSS:\\s+(\\d+)", file.read())[1]) / 1024
path, asked = sys.argv[1], json.loads(sys.stdin.read())
shardwise.Vocabulary(["warm"]).encode(["warm"])
gc.collect()
before, begin = resident(), time.perf_counter()
{make}
opened = time.perf_counter() - begin
ids = [{look} for token in asked]
print(json.dumps([opened * 1e3, resident() - before, ids]))
"""

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
        tokens = [f"{k * 2654435761 % 2**32:x}-{k}" for k in range(count)]
        shardwise.Vocabulary(tokens).save(path)
        Path(f"{path}.json").write_text(json.dumps(tokens))
        asked = [tokens[k * 7919 % count] for k in range(1000)]
        wanted = [k * 7919 % count for k in range(1000)]
        for name, (make, look) in WAYS.items():
            code = MEASURE.replace("{make}", make).replace("{look}", look)
            runs = []
            for _ in range(5):
                command = [sys.executable, "-c", code, str(path)]
                done = subprocess.run(
                    command, input=json.dumps(asked), capture_output=True, text=True, check=True
                )
                opened, grown, ids = json.loads(done.stdout)
                if ids != wanted:
                    sys.exit(f"{name}: wrong ids, nothing is reported")
                runs.append((opened, grown))
            opened, grown = (statistics.median(values) for values in zip(*runs, strict=True))
            print(f"{name}: opened in {opened:.1f} ms, {grown:.1f} MB after 1,000 lookups")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000)
