"""What a run was asked to do; passed on to the processes that do it."""

from dataclasses import dataclass, replace
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

# As many as the whole takes half an hour with: fewer where one round is long.
ROUNDS = {
    "lookup": 7,
    "store": 2,
    "pool": 5,
    "train": 3,
    "gradients": 3,
    "sweep": 3,
    "distributed": 5,
    "skipgram": 1,
    "words": 5,
}
QUICK_ROUNDS = dict.fromkeys(SUITES, 3) | {"skipgram": 1, "sweep": 1}
THREADS = dict.fromkeys(SUITES, (1, 2)) | {"distributed": (1,)}  # there, of each of 2 and 4 ranks
QUICK_THREADS = dict.fromkeys(SUITES, (2,)) | {"sweep": (1,), "distributed": (1,)}


@dataclass(frozen=True)
class Options:
    suite: str | None  # all of them, then, and the page
    quick: bool
    threads: tuple[int, ...] | None  # None: what the suite usually has
    rounds: int | None  # likewise
    json: Path | None = None
    here: bool = False
    resume: bool = False  # keep the suites that were measured already
    page: Path | None = None  # where the page goes
    worker: Path | None = None  # set in a worker process: where its results go

    def of(self, suite: str) -> "Options":
        """Give the options of one suite, with its own rounds and threads where none were asked."""
        rounds, threads = (QUICK_ROUNDS, QUICK_THREADS) if self.quick else (ROUNDS, THREADS)
        return replace(
            self,
            suite=suite,
            rounds=self.rounds or rounds[suite],
            threads=self.threads or threads[suite],
        )

    def command(self, *, here: bool) -> list[str]:
        """Give the arguments, after the interpreter's name, that ask for this run again."""
        command = ["-m", "benchmarks", *filter(None, [self.suite])]
        if self.rounds:
            command += ["--rounds", str(self.rounds)]
        if self.threads:
            command += ["--threads", ",".join(map(str, self.threads))]
        command += ["--quick"] * self.quick + ["--here"] * here + ["--resume"] * self.resume
        if self.json:
            command += ["--json", str(self.json)]
        if self.page:
            command += ["--page", str(self.page)]
        if self.worker:
            command += ["--worker", str(self.worker)]
        return command
