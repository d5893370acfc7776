"""`shardwise similar`: the nearest neighbours of words."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich import box
from rich.table import Table as Grid

from shardwise import Neighbour, Vectors
from shardwise.cli._print import Printer


def similar(
    table: Annotated[Path, typer.Argument(metavar="TABLE", help="a table directory")],
    words: Annotated[list[str], typer.Argument(metavar="WORD...")],
    topn: Annotated[int, typer.Option(help="how many neighbours")] = 10,
    as_json: Annotated[bool, typer.Option("--json", help="print JSON")] = False,
) -> None:
    """Print the nearest neighbours of each word: tokens, by the cosine of their rows.

    In a pipe: a line a neighbour, with tabs between the word, the neighbour and the cosine.

    Example: shardwise similar glove king queen --topn 5
    """
    found = Vectors.open(table).most_similar([[word] for word in words], topn=topn)
    print_neighbours(words, found, as_json)


def print_neighbours(words: list[str], found: list[list[Neighbour]], as_json: bool) -> None:
    """Print what was found for each word."""
    if as_json:
        pairs = zip(words, found, strict=True)
        print(json.dumps([{"token": w, "neighbours": [n._asdict() for n in f]} for w, f in pairs]))
        return
    if not sys.stdout.isatty():
        for word, neighbours in zip(words, found, strict=True):
            for neighbour in neighbours:
                print(word, neighbour.token, f"{neighbour.score:.6f}", sep="\t")
        return
    for word, neighbours in zip(words, found, strict=True):
        grid = Grid(word, box=box.SIMPLE_HEAD)
        grid.add_column("cosine", justify="right")
        for neighbour in neighbours:
            grid.add_row(neighbour.token, f"{neighbour.score:.4f}")
        Printer().print(grid)
