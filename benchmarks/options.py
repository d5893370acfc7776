"""What a run was asked to do; passed on to the processes that do it."""

from dataclasses import dataclass
from pathlib import Path

SUITES = {
    "lookup": "rows by id: one table, shards, small calls, the memory's ceiling",
    "store": "files: text and binary vectors, opening, cold lookups, writes in place",
    "pool": "bags of rows: sums, weighted means, shards, sparse ids, real baskets",
    "train": "bags, forward, backward and update: SGD, Adagrad, row-wise Adagrad, Adam",
    "gradients": "sparse lookups of tensors, forward and backward: one tensor and shards",
    "sweep": "ratios against size: ids, dimension, shards, skew, size of the table",
    "distributed": "tables over 2 and 4 ranks: lookups and training steps over gloo",
    "skipgram": "word vectors trained on text: skip-gram, CBOW, n-grams, beside gensim",
    "words": "tokens: ids, vectors, nearest neighbours, analogies, counting a text",
}


@dataclass(frozen=True)
class Options:
    suite: str | None  # all of them, then, and the page
    quick: bool
    threads: tuple[int, ...]
    rounds: int
    json: Path | None = None
    here: bool = False
    page: Path | None = None  # where the page goes
    worker: Path | None = None  # set in a worker process: where its results go

    def command(self, *, here: bool) -> list[str]:
        """Give the arguments, after the interpreter's name, that ask for this run again."""
        command = ["-m", "benchmarks", *filter(None, [self.suite]), "--rounds", str(self.rounds)]
        command += ["--threads", ",".join(map(str, self.threads))]
        command += ["--quick"] * self.quick + ["--here"] * here
        if self.json:
            command += ["--json", str(self.json)]
        if self.page:
            command += ["--page", str(self.page)]
        if self.worker:
            command += ["--worker", str(self.worker)]
        return command
