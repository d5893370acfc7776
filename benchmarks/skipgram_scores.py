"""Speed and quality of word vectors in one run: `python -m benchmarks.skipgram_scores`.

Trains on the novels beside gensim's corpus_file, taking turns, with a seed a round, and scores the
very vectors that were timed: word pairs (Spearman's correlation), rare words also with those that
are unknown (n-grams make vectors of them), analogies among the 30,000 most frequent words. Speed is
in words of the text by seconds of CPU time, of all threads; counting words is left out.
"""

import argparse
import json
import logging
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from . import environment

DATA = environment.ROOT.parent / "shared" / "data"
EPOCHS = 5
PAIRS = {
    "WS353": "ws353.txt",
    "MEN": "bruni_men.txt",
    "SimLex": "SimLex999.txt",
    "rare": "luong_rare.txt",
}
Scores = dict[str, float]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--models", default="skip-gram,CBOW,n-grams", metavar="NAME,...")
    parser.add_argument("--seeds", default="1,2,3", metavar="N,...", help="a round each")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--alone", action="store_true", help="without gensim")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures to FILE")
    parser.add_argument("--here", action="store_true", help="use this interpreter and its peers")
    given = parser.parse_args()
    if not given.here:
        python = str(environment.prepare())
        found = given.json and ["--json", str(given.json.resolve())]
        os.chdir(environment.ROOT)
        again = [a for a in sys.argv[1:] if a != "--here"] + (found or [])
        os.execv(python, [python, "-m", "benchmarks.skipgram_scores", *again, "--here"])
    from .peers import quiet_environment

    os.environ |= quiet_environment(given.threads)  # before the libraries are loaded
    seeds = [int(seed) for seed in given.seeds.split(",")]
    rounds = run(given.models.split(","), seeds, given.threads, given.alone)
    if given.json:
        given.json.write_text(json.dumps(rounds, indent=1) + "\n")


def run(models: list[str], seeds: list[int], threads: int, alone: bool) -> list[dict[str, Any]]:
    """Train and score each model; print a table; return the figures of all rounds."""
    import shardwise

    from . import machine
    from .ceiling import multiply_adds
    from .suites import skipgram as suite

    logging.getLogger("gensim").setLevel(logging.ERROR)
    shardwise.set_num_threads(threads)
    most = multiply_adds()
    print(
        f"{machine.cpu_model()}, threads: {threads}, epochs: {EPOCHS}, seeds: {seeds}", flush=True
    )
    rounds = []
    with tempfile.TemporaryDirectory() as folder:
        text = Path(folder, "novels.txt")
        words = suite.write_text(text, quick=False) * EPOCHS
        # Each counts once: the words are the same for all models and seeds.
        corpus = suite.counted(text, options_of(models[0], seeds[0]))
        counts = None if alone else suite.counted_peer(gensim_models(), text)
        for model in models:
            found: dict[str, list[Scores]] = {}
            adds: float | None = None  # about the same for all seeds: counted with the first
            for turn, seed in enumerate(seeds):
                options = options_of(model, seed)
                both = [ours] if alone else [ours, peer]
                for train in both if turn % 2 == 0 else both[::-1]:
                    if train is ours:
                        seconds, scores, native = ours(corpus, options, threads)
                        if adds is None and model == "skip-gram":
                            adds = suite.work(native, options)[0]  # it trains on
                    else:
                        seconds, scores = peer(counts, text, options, threads)
                    scores = {"M words": words / seconds / 1e6, **scores}
                    if train is ours and adds is not None and not isinstance(most, str):
                        scores["of peak"] = adds / seconds / most
                    found.setdefault(train.__name__, []).append(scores)
                    rounds.append({"model": model, "by": train.__name__, "seed": seed, **scores})
            show(model, found)
    return rounds


def show(model: str, found: dict[str, list[Scores]]) -> None:
    """Print the means, and how far they are apart."""
    means = {
        by: {name: statistics.fmean(one[name] for one in scores) for name in scores[0]}
        for by, scores in found.items()
    }
    names = list(means["ours"])
    print(f"{model:10}" + "".join(f"{name:>12}" for name in names))
    for by, scores in means.items():
        print(f"{by:10}" + "".join(f"{scores.get(name, float('nan')):12.3f}" for name in names))
    if "peer" in means:
        ours, theirs = means["ours"], means["peer"]
        shared = [name for name in names if name in theirs]
        apart = [f"{ours[n] - theirs[n]:+12.3f}" for n in shared[1:]]
        print(f"{'':10}{ours['M words'] / theirs['M words']:11.2f}x" + "".join(apart), flush=True)


def ours(corpus: Any, options: Any, threads: int) -> tuple[float, Scores, Any]:
    """Train with shardwise; return seconds of CPU time, scores, and what trained."""
    from shardwise.skipgram._job import _fasttext

    from .suites import skipgram as suite

    corpus, rows, native = suite.prepared(corpus, options)
    begun = time.process_time()
    native.train(0, native.blocks * options.epochs, threads)
    seconds = time.process_time() - begun
    vectors = suite.vectors_of(corpus, rows)
    if options.subwords:
        vectors._with_subwords({"fasttext": _fasttext(options, rows.words)}, "here")
        scores = scored(vectors, lambda words: vectors.lookup(words, unknown="subwords"))
        return seconds, scores, native
    return seconds, scored(vectors), native


def peer(counts: Any, text: Path, options: Any, threads: int) -> tuple[float, Scores]:
    """Train with gensim; return seconds of CPU time and scores."""
    import numpy as np

    from .suites import skipgram as suite

    theirs = suite.prepared_peer(gensim_models(), counts, options, threads)
    names = {"model": theirs, "text": str(text), "epochs": EPOCHS}
    begun = time.process_time()
    eval(suite.TRAIN_PEER, names)
    seconds = time.process_time() - begun
    vectors = named(theirs.wv.vectors, theirs.wv.index_to_key)
    if options.subwords:
        return seconds, scored(vectors, lambda words: np.stack([theirs.wv[w] for w in words]))
    return seconds, scored(vectors)


def gensim_models() -> Any:
    import gensim.models

    return gensim.models


def scored(vectors: Any, make: Callable[[list[str]], Any] | None = None) -> Scores:
    """Score vectors; `make` gives rows of words that may be unknown."""
    folder = DATA / "evaluation"
    scores = {name: vectors.evaluate_pairs(folder / file).spearman for name, file in PAIRS.items()}
    if make is not None:
        rare = (folder / PAIRS["rare"]).read_text(encoding="utf-8").lower().split("\n")
        words = sorted({word for line in rare for word in line.split()[:2]})
        scores["all rare"] = (
            named(make(words), words).evaluate_pairs(folder / PAIRS["rare"]).spearman
        )
    total = vectors.evaluate_analogies(folder / "questions-words.txt").total
    return {**scores, "analogies": 100 * total.accuracy}


def named(rows: Any, words: list[str]) -> Any:
    import shardwise

    return shardwise.Vectors(shardwise.Table.from_array(rows), shardwise.Vocabulary(words))


def options_of(model: str, seed: int) -> Any:
    from shardwise import skipgram

    from .suites.skipgram import COMMON, NGRAMS

    how: dict[str, Any] = {"skip-gram": {}, "CBOW": {"model": "cbow"}, "n-grams": NGRAMS}[model]
    first = skipgram.Options(**how).rate
    # gensim's corpus_file with two workers ends near a tenth of the first rate (docs/skipgram.md).
    how = how | {"final_learning_rate": first / 10}
    return skipgram.Options(dim=100, epochs=EPOCHS, **{**COMMON, "seed": seed}, **how)


if __name__ == "__main__":
    main()
