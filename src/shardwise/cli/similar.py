"""`shardwise similar`: the nearest neighbours of words."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, TypeAlias

import typer
from rich import box
from rich.table import Table as Grid

from shardwise import Neighbour, Vectors
from shardwise.cli._print import Printer
from shardwise.cli._words import json_number, print_json, word_blocks

Answers: TypeAlias = Iterable[tuple[str, list[Neighbour]]]

_QUERIES = 1024  # that are searched for together


def similar(
    table: Annotated[Path, typer.Argument(metavar="TABLE", help="a table directory")],
    words: Annotated[
        list[str] | None,
        typer.Argument(metavar="[WORD]...", help="by default a word a line of standard input"),
    ] = None,
    topn: Annotated[int, typer.Option(help="how many neighbours")] = 10,
    as_json: Annotated[bool, typer.Option("--json", help="print JSON")] = False,
) -> None:
    """Print the nearest neighbours of each word: tokens, by the cosine of their rows.

    In a pipe: a line a neighbour, with tabs between the word, the neighbour and the cosine.

    Example: shardwise similar glove king queen --topn 5
    """
    vectors = Vectors.open(table)
    print_neighbours(
        (
            zip(block, vectors.most_similar([[word] for word in block], topn=topn), strict=True)
            for block in word_blocks(words, _QUERIES)
        ),
        as_json,
    )


def print_neighbours(blocks: Iterable[Answers], as_json: bool) -> None:
    """Print what was found for each word; a block of words is searched for when it is its turn."""
    if as_json:
        print_json([_as_json(word, found) for word, found in block] for block in blocks)
        return
    on_terminal = sys.stdout.isatty()
    for block in blocks:
        for word, found in block:
            if on_terminal:
                _print_grid(word, found)
            else:
                for neighbour in found:
                    print(word, neighbour.token, f"{neighbour.score:.6f}", sep="\t")
        sys.stdout.flush()


def _as_json(word: str, found: list[Neighbour]) -> dict[str, Any]:
    neighbours = [{"token": n.token, "score": json_number(n.score)} for n in found]
    return {"token": word, "neighbours": neighbours}


def _print_grid(word: str, found: list[Neighbour]) -> None:
    grid = Grid(word, box=box.SIMPLE_HEAD)
    grid.add_column("cosine", justify="right")
    for neighbour in found:
        grid.add_row(neighbour.token, f"{neighbour.score:.4f}")
    Printer().print(grid)
