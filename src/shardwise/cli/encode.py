"""`shardwise encode`: the ids of words."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer
from rich import box
from rich.table import Table as Grid

from shardwise import Vocabulary
from shardwise.cli._print import Printer
from shardwise.cli._words import print_json, word_blocks

_WORDS = 1 << 16  # at once


def encode(
    table: Annotated[
        Path,
        typer.Argument(metavar="TABLE", help="a table directory, or a vocabulary's .safetensors"),
    ],
    words: Annotated[
        list[str] | None,
        typer.Argument(metavar="[WORD]...", help="by default a word a line of standard input"),
    ] = None,
    unknown: Annotated[
        int | None,
        typer.Option(metavar="ID", help="stands for unknown words, whatever the vocabulary says"),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print JSON")] = False,
) -> None:
    """Print the ids of words.

    On a terminal: a table. In a pipe: an id a line, in the order of the words. What is not in the
    vocabulary gets the id of its unknown token; where it has none, it is an error.

    Example: shardwise encode glove --unknown -1 < words.txt
    """
    vocabulary = Vocabulary.open(table)
    found = ((block, _encoded(vocabulary, block, unknown)) for block in word_blocks(words, _WORDS))
    if as_json:
        print_json(
            [{"token": token, "id": i} for token, i in zip(block, ids, strict=True)]
            for block, ids in found
        )
        return
    on_terminal = sys.stdout.isatty()
    for block, ids in found:
        if on_terminal:
            _print_grid(block, ids)
        else:
            print("\n".join(map(str, ids)), flush=True)


def _encoded(vocabulary: Vocabulary, words: list[str], unknown: int | None) -> list[int]:
    if unknown is None:
        found: list[int] = vocabulary.encode(words).tolist()
        return found
    known = [word in vocabulary for word in words]
    ids = iter(vocabulary.encode([w for w, k in zip(words, known, strict=True) if k]).tolist())
    return [next(ids) if k else unknown for k in known]


def _print_grid(words: list[str], ids: list[int]) -> None:
    grid = Grid("token", box=box.SIMPLE_HEAD)
    grid.add_column("id", justify="right")
    for word, i in zip(words, ids, strict=True):
        grid.add_row(word, str(i))
    Printer().print(grid)
