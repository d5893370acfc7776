"""Next-item recommendation: the other items of a basket -> the item that was left out.

    python examples/recommend.py retail.dat items

`retail.dat` has a basket a line, items with spaces between; http://fimi.uantwerpen.be/data has such
files. A bag of the other items is pooled to a vector, and a sampled softmax tells its item from
items that were drawn by chance. In the end the item of each held-out basket is sought among the 20
that score highest, and the vectors of the items are saved:

    shardwise lookup items 39 48
    shardwise similar items 39

`--peer` runs the same model on torch.nn.EmbeddingBag and torch.optim.Adagrad.
"""

import time
from pathlib import Path
from typing import Annotated, NamedTuple

import numpy as np
import torch
import typer
from rich.console import Console
from rich.progress import track
from torch import nn

from shardwise import Table, Vectors, Vocabulary, optimizers
from shardwise.torch import Embedding, EmbeddingBag

TOP, SEED = 20, 7


class Baskets(NamedTuple):
    """Baskets end to end: basket i is items[splits[i]:splits[i + 1]]."""

    items: np.ndarray
    splits: np.ndarray

    def leave_one_out(self, which, rng):
        """Return (others, offsets, left out): of each basket all items but one, drawn by chance."""
        starts, lengths = self.splits[which], np.diff(self.splits)[which]
        ends = np.cumsum(lengths)
        places = np.arange(ends[-1]) + np.repeat(starts - (ends - lengths), lengths)
        drawn = starts + (rng.random(len(which)) * lengths).astype(np.int64)
        others = self.items[places[places != np.repeat(drawn, lengths)]]
        offsets = ends - lengths - np.arange(len(which))  # each basket before has one item less
        return tuple(map(torch.from_numpy, (others, offsets, self.items[drawn])))


def read(path):
    """Return baskets of two items or more, and the vocabulary of items, most frequent first."""
    lines = [list(dict.fromkeys(line.split())) for line in path.read_text().splitlines()]
    lines = [line for line in lines if len(line) > 1]
    vocabulary = Vocabulary.build(lines)
    splits = np.cumsum([0, *map(len, lines)])
    return Baskets(vocabulary.encode([item for line in lines for item in line]), splits), vocabulary


class Recommender(nn.Module):
    """Scores of items for bags of others: the bag's vector times the item's, plus its bias."""

    def __init__(self, bags, items):
        super().__init__()
        self.bags, self.items = bags, items

    def forward(self, others, offsets, candidates):
        """Return scores of shape (bags, candidates)."""
        rows = self.items(candidates)
        return self.bags(others, offsets) @ rows[:, :-1].T + rows[:, -1]

    def loss(self, others, offsets, wanted, drawn, log_expected):
        """Return the softmax of the wanted item of each bag among those drawn for all bags.

        `log_expected` is the logarithm of how often each was to be drawn: with it taken off, the
        sum over those drawn stands for the sum over all items.
        """
        vectors, rows, right = self.bags(others, offsets), self.items(drawn), self.items(wanted)
        score = (vectors * right[:, :-1]).sum(1) + right[:, -1]
        scores = vectors @ rows[:, :-1].T + rows[:, -1] - log_expected
        scores = scores.masked_fill(drawn == wanted[:, None], -torch.inf)
        scores = torch.cat([score[:, None], scores], dim=1)
        return nn.functional.cross_entropy(scores, torch.zeros(len(wanted), dtype=torch.int64))


def first_rows(often, dim):
    """Return rows of the bags, and of the items: behind a vector how frequent the item is."""
    generator = torch.Generator().manual_seed(SEED)
    bags = torch.randn(len(often), dim, generator=generator) * 0.1
    items = torch.randn(len(often), dim + 1, generator=generator) * 0.1
    items[:, -1] = torch.log(often / often.sum())
    return bags, items


def ours(often, dim, rate):
    """The model on tables, whose rows backward changes; no optimizer of torch's is left to step."""
    optimizer = optimizers.Adagrad(rate)
    # What holds the rows: a table of another kind would be named here.
    tables = [Table.from_array(rows.numpy(), shards=2) for rows in first_rows(often, dim)]
    bags = EmbeddingBag(table=tables[0], mode="mean", optimizer=optimizer)
    return Recommender(bags, Embedding(table=tables[1], optimizer=optimizer)), []


def theirs(often, dim, rate):
    """The same on torch's modules, with sparse gradients."""
    bags, items = first_rows(often, dim)
    model = Recommender(
        nn.EmbeddingBag.from_pretrained(bags, freeze=False, mode="mean", sparse=True),
        nn.Embedding.from_pretrained(items, freeze=False, sparse=True),
    )
    return model, [torch.optim.Adagrad(model.parameters(), rate)]


def train(model, steps, baskets, which, often, *, epochs, batch, drawn):
    """Train on these baskets; each epoch leaves out other items. Return the last epoch's loss."""
    rng, generator = np.random.default_rng(SEED), torch.Generator().manual_seed(SEED)
    shares = often**0.75 / (often**0.75).sum()
    log_expected = torch.log(shares * drawn)
    loss = 0.0
    console = Console(stderr=True)
    for epoch in range(epochs):
        order, losses = rng.permutation(which), []
        cuts = range(0, len(order), batch)
        title = f"epoch {epoch + 1}/{epochs}, loss {loss:.3f}"
        for begin in track(cuts, title, console=console, disable=not console.is_terminal):
            given = baskets.leave_one_out(order[begin : begin + batch], rng)
            chance = torch.multinomial(shares, drawn, replacement=True, generator=generator)
            found = model.loss(*given, chance, log_expected[chance])
            for step in steps:
                step.zero_grad()
            found.backward()
            for step in steps:
                step.step()
            losses.append(found.item())
        loss = float(np.mean(losses))
    return loss


@torch.no_grad()
def hit_rate(score, baskets, which, count):
    """Return how often the item that was left out is among the TOP best that are not in the bag."""
    rng, hits = np.random.default_rng(SEED + 1), 0
    for part in np.array_split(which, len(which) // 1000 + 1):
        others, offsets, wanted = baskets.leave_one_out(part, rng)
        scores = score(others, offsets, torch.arange(count)).clone()
        lengths = torch.diff(torch.cat([offsets, torch.tensor([len(others)])]))
        scores[torch.repeat_interleave(torch.arange(len(part)), lengths), others] = -torch.inf
        best = scores.topk(min(TOP, count)).indices
        hits += int((best == wanted[:, None]).any(dim=1).sum())
    return hits / len(which)


def main(
    path: Annotated[Path, typer.Argument(help="baskets, one a line", exists=True, dir_okay=False)],
    out: Annotated[Path | None, typer.Argument(help="where the vectors of items are saved")] = None,
    peer: Annotated[bool, typer.Option("--peer", help="run on torch.nn's modules instead")] = False,
    epochs: int = 10,
    dim: int = 64,
    rate: Annotated[float, typer.Option(help="Adagrad's learning rate")] = 0.15,
    batch: int = 512,
    drawn: Annotated[int, typer.Option(help="items drawn by chance for each batch")] = 512,
):
    """Train a recommender on baskets, and measure it on a tenth of them."""
    baskets, vocabulary = read(path)
    count = len(vocabulary)
    shuffled = np.random.default_rng(SEED).permutation(len(baskets.splits) - 1)
    held, rest = np.split(shuffled, [max(len(shuffled) // 10, 1)])
    trained = np.repeat(~np.isin(np.arange(len(shuffled)), held), np.diff(baskets.splits))
    # One more than there are: an item may be in held-out baskets alone.
    often = torch.from_numpy(1 + np.bincount(baskets.items[trained], minlength=count)).float()
    model, steps = (theirs if peer else ours)(often, dim, rate)
    begun, work_begun = time.perf_counter(), time.process_time()
    loss = train(model, steps, baskets, rest, often, epochs=epochs, batch=batch, drawn=drawn)
    seconds, work = time.perf_counter() - begun, time.process_time() - work_begun
    model.eval()
    shares = {
        "torch.nn" if peer else "shardwise": hit_rate(model, baskets, held, count),
        "most popular": hit_rate(
            lambda _, offsets, items: often.expand(len(offsets), -1), baskets, held, count
        ),
    }
    print(f"{len(rest):,} baskets of {count:,} items, {len(held):,} held out")
    print(f"trained in {seconds:.1f} s ({work:.1f} s of the CPUs), loss {loss:.3f}")
    for name, share in shares.items():
        print(f"hit rate at {TOP}: {share:.4f}  {name}")
    if out is not None:
        table = Table.from_array(model.bags.weight.detach().numpy()) if peer else model.bags.table
        Vectors(table, vocabulary).save(out, overwrite=True)
        print(f"saved {out}")


if __name__ == "__main__":
    typer.run(main)
