"""Word vectors larger than memory: `python -m benchmarks.skipgram_larger_than_memory FOLDER`.

Makes a text in which each of `--words` words occurs, those in the front more often (Zipf), and
trains an epoch on it with both matrices on disk. Each half minute it tells the words a second
since the last time, what was read and written, and the memory. FOLDER needs room for both
matrices and the table that is written: 3 times words x dim x 4 bytes.
"""

import argparse
import shutil
import time
from pathlib import Path

import numpy as np

from benchmarks.larger_than_memory import peak_memory
from shardwise import Vectors, skipgram

LETTERS, LENGTH, SENTENCE = 26, 5, 20
BLOCK = 1_000_000
EVERY = 30.0


def write_text(path: Path, words: int, tokens: int) -> None:
    """Each word once in random order, and the other tokens by Zipf's law, well mixed."""
    rng = np.random.default_rng(5)
    # The inverse of the distribution function of 1 / rank.
    ranks = np.exp(rng.random(tokens - words) * np.log(words)).astype(np.int64) - 1
    ids = rng.permutation(np.concatenate([np.arange(words), ranks]))
    with path.open("wb") as file:
        for begin in range(0, len(ids), BLOCK):
            some = ids[begin : begin + BLOCK]
            text = np.full((len(some), LENGTH + 1), ord(" "), np.uint8)
            for k in range(LENGTH):
                text[:, k] = some // LETTERS**k % LETTERS + ord("a")
            text[SENTENCE - 1 :: SENTENCE, LENGTH] = ord("\n")
            file.write(text.data)


def disk() -> tuple[float, float]:
    """How many MB the process had read from the disk, and written to it."""
    found = dict(line.split(":") for line in Path("/proc/self/io").read_text().splitlines())
    return int(found["read_bytes"]) / 1e6, int(found["write_bytes"]) / 1e6


class Watch:
    """Tells how fast each stage is."""

    def __init__(self) -> None:
        self.stage, self.begin = "", time.monotonic()
        self.last, self.done, self.disk = self.begin, 0, disk()
        self.cpu = time.process_time()

    def __call__(self, now: skipgram.Progress) -> None:
        at = time.monotonic()
        if now.stage != self.stage:
            print(f"{self.stage or 'begin':8} {at - self.begin:.0f} s; {peak_memory()}", flush=True)
            self.stage, self.begin, self.last, self.done = now.stage, at, at, now.done
            self.disk, self.cpu = disk(), time.process_time()
        if at - self.last < EVERY:
            return
        used, cpu = disk(), time.process_time()
        read, written = ((b - a) / (at - self.last) for a, b in zip(self.disk, used, strict=True))
        print(
            f"{now.stage:8} {now.done:,} of {now.total:,}: "
            f"{(now.done - self.done) / (at - self.last):,.0f} a second, "
            f"{(now.done - self.done) / (cpu - self.cpu):,.0f} a CPU-second, "
            f"{read:.0f} MB/s read, {written:.0f} MB/s written; {peak_memory()}",
            flush=True,
        )
        self.last, self.done, self.disk, self.cpu = at, now.done, used, cpu


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("folder", type=Path, help="an empty folder on the disk that is measured")
    parser.add_argument("--words", type=int, default=10_000_000)
    parser.add_argument("--dim", type=int, default=400)
    parser.add_argument("--tokens", type=int, default=11_000_000)
    parser.add_argument("--threads", type=int)
    given = parser.parse_args()
    text, output = given.folder / "text", given.folder / "vectors"
    write_text(text, given.words, given.tokens)
    size = 2 * given.words * given.dim * 4
    print(f"{given.words:,} words x {given.dim}: {size / 1e9:.1f} GB; {peak_memory()}", flush=True)
    watch = Watch()
    begin, cpu = time.monotonic(), time.process_time()
    vectors = skipgram.train(
        text,
        output,
        dim=given.dim,
        min_count=1,
        epochs=1,
        sample=1e-4,
        threads=given.threads,
        work=given.folder,
        progress=watch,
    )
    print(f"write    {time.monotonic() - watch.begin:.0f} s; {peak_memory()}")
    print(f"all      {time.monotonic() - begin:.0f} s, {time.process_time() - cpu:.0f} of the CPU")
    del vectors
    begin = time.perf_counter()
    found = Vectors.open(output)
    row = found.lookup(["aaaaa", "baaaa"])
    assert len(found) == given.words
    assert np.isfinite(row).all()
    assert row.any(1).all()
    print(f"opened, and two words looked up, in {(time.perf_counter() - begin) * 1e3:.1f} ms")
    shutil.rmtree(output)
    text.unlink()


if __name__ == "__main__":
    main()
