"""Item vectors of baskets: what is bought with what, and the next item of a basket.

    python examples/baskets.py retail.dat

A line is a basket, its items with spaces between. One basket of ten is held out; of each of those
one item is hidden, and guessed from the others. By the loss that is trained, the product of an
item's vector and another's context vector comes near

    log P(other | item) - power * log count(other) + a constant

(Levy and Goldberg, 2014), where negatives are drawn in proportion to count^power. word2vec's 0.75
is for words, of which the most frequent say little. An item that is in every other basket is drawn
against nearly everything then, and its neighbours are items that are hardly ever beside it (less
is better for items: Caselles-Dupré et al., 2018). With 0.25 they are what is bought with it, and
the products rank the items as they are, as logarithms of how likely an item is beside each of the
others in the basket; the mean of those probabilities decides. Whoever guesses the most frequent
items has the baseline.
"""

from __future__ import annotations

import argparse
import random
import tempfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from shardwise import Table, Vectors, skipgram

NEGATIVE_POWER = 0.25
HELD_OUT = 10  # one basket of so many
GUESSES = 10


def read(path: Path) -> tuple[list[list[str]], list[list[str]]]:
    """Return the baskets to learn from, and those held out."""
    baskets = [line.split() for line in path.read_text(encoding="utf-8").splitlines()]
    drawn = random.Random(1)
    drawn.shuffle(baskets)
    cut = len(baskets) // HELD_OUT
    return baskets[cut:], baskets[:cut]


def train(
    baskets: list[list[str]], epochs: int, threads: int | None
) -> tuple[Vectors, NDArray[np.float32]]:
    """Return the items' vectors and their context vectors.

    All of a basket is context, in any order; no item is too frequent to count.
    """
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder, "context")
        vectors = skipgram.train(
            baskets,
            dim=64,
            window=50,
            negative_power=NEGATIVE_POWER,
            sample=0,
            epochs=epochs,
            threads=threads,
            context=place,
        )
        with Table.open(place) as context:
            return vectors, context.lookup(np.arange(len(context)))


def hit_rates(
    vectors: Vectors, contexts: NDArray[np.float32], held_out: list[list[str]]
) -> tuple[float, float, int]:
    """Return how often a hidden item is among the guesses, of the vectors and of the baseline."""
    counts = vectors.vocabulary.counts
    assert counts is not None
    drawn = random.Random(2)
    hits = np.zeros(2, int)
    asked = 0
    for basket in held_out:
        ids = vectors.vocabulary.encode([i for i in dict.fromkeys(basket) if i in vectors])
        if len(ids) < 2:
            continue
        asked += 1
        hidden = drawn.randrange(len(ids))
        rest = np.delete(ids, hidden)
        scores = np.exp(vectors.table.lookup(rest) @ contexts.T).mean(0)
        for k, ranked in enumerate((scores, counts.astype(float))):
            ranked[rest] = -np.inf
            hits[k] += ids[hidden] in np.argsort(-ranked)[:GUESSES]
    ours, baseline = hits / max(1, asked)
    return float(ours), float(baseline), asked


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("path", type=Path)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--threads", type=int, default=None)
    given = parser.parse_args()
    baskets, held_out = read(given.path)
    vectors, contexts = train(baskets, given.epochs, given.threads)
    print(f"{len(vectors)} items of {len(baskets)} baskets")
    frequent = list(vectors)[:10]
    for item, found in zip(frequent, vectors.most_similar([[i] for i in frequent]), strict=True):
        print(f"{item:>8}: {' '.join(near.token for near in found)}")
    ours, baseline, asked = hit_rates(vectors, contexts, held_out)
    print(
        f"a hidden item of {asked} held-out baskets is among {GUESSES} guesses: {ours:.1%}; among "
        f"the {GUESSES} most frequent items: {baseline:.1%}"
    )


if __name__ == "__main__":
    main()
