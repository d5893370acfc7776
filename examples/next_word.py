"""Next-word prediction: an embedding that feeds an LSTM, with the layer of torch beside it.

    python examples/next_word.py novels.txt

The text is words with spaces between. Two models are trained on the same batches from the same
rows and weights, one with `shardwise.torch.Embedding` and one with `torch.nn.Embedding`, and their
losses are compared at each step. With `--fused` the rows of the first are changed in backward, by
`shardwise.optimizers.Adagrad`; without it both are parameters of torch's Adagrad.
"""

from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.console import Console
from rich.progress import track
from torch import nn

from shardwise import Vocabulary, optimizers
from shardwise.torch import Embedding

SEED = 7


class NextWord(nn.Module):
    """Rows of words -> an LSTM -> scores of the word that follows each."""

    def __init__(self, words, hidden):
        super().__init__()
        self.words = words
        self.lstm = nn.LSTM(words.embedding_dim, hidden, batch_first=True)
        self.scores = nn.Linear(hidden, words.num_embeddings)

    def forward(self, ids):
        """Return the loss of telling each word from those before it."""
        states, _ = self.lstm(self.words(ids[:, :-1]))
        return nn.functional.cross_entropy(self.scores(states).flatten(0, 1), ids[:, 1:].flatten())


def read(path, *, most, size):
    """Return the ids of at most so many words, and the vocabulary of the `size` most frequent."""
    with path.open() as file:
        words = file.read(most * 12).split()[:most]
    vocabulary = Vocabulary.build(words, max_size=size, specials=["<unk>"], unknown="<unk>")
    return torch.from_numpy(vocabulary.encode(words)), vocabulary


def pair(count, dim, hidden, rate, fused):
    """Two models of the same numbers, and torch's optimizer of each."""
    torch.manual_seed(SEED)
    theirs = NextWord(nn.Embedding(count, dim, sparse=False), hidden)
    rows = theirs.words.weight.detach().clone()
    optimizer = optimizers.Adagrad(rate) if fused else None
    ours = NextWord(Embedding(_weight=rows, optimizer=optimizer, sparse=False), hidden)
    for name in ("lstm", "scores"):
        getattr(ours, name).load_state_dict(getattr(theirs, name).state_dict())
    models = ours, theirs
    return models, [torch.optim.Adagrad(model.parameters(), rate) for model in models]


def main(
    path: Annotated[Path, typer.Argument(help="text, words with spaces", exists=True)],
    steps: int = 200,
    words: Annotated[int, typer.Option(help="how many words of the text are read")] = 500_000,
    size: Annotated[int, typer.Option(help="of the vocabulary")] = 2000,
    dim: int = 64,
    hidden: int = 128,
    rate: float = 0.05,
    batch: int = 32,
    length: int = 20,
    fused: Annotated[bool, typer.Option("--fused", help="change the rows in backward")] = False,
):
    """Train two models on a text, and print their losses side by side."""
    ids, vocabulary = read(path, most=words, size=size)
    models, optimizers_of = pair(len(vocabulary), dim, hidden, rate, fused)
    generator = torch.Generator().manual_seed(SEED)
    console = Console(stderr=True)
    furthest, shown = 0.0, []
    for step in track(range(steps), "next word", console=console, disable=not console.is_terminal):
        begins = torch.randint(len(ids) - length, (batch, 1), generator=generator)
        losses = []
        for model, optimizer in zip(models, optimizers_of, strict=True):
            loss = model(ids[begins + torch.arange(length + 1)])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        furthest = max(furthest, abs(losses[0] - losses[1]))
        if step % max(steps // 8, 1) == 0 or step == steps - 1:
            shown.append((step, *losses))
    print(f"{len(ids):,} words, {len(vocabulary):,} of them distinct")
    print(f"{'step':>5}  {'shardwise':>10}  {'torch.nn':>10}")
    for step, ours, theirs in shown:
        print(f"{step:5}  {ours:10.6f}  {theirs:10.6f}")
    print(f"largest difference of {steps} losses: {furthest:.2e}")


if __name__ == "__main__":
    typer.run(main)
