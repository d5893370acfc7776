"""`shardwise analogy`: what is to one word as two others are to each other."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from shardwise import FormatError, Neighbour, Vectors
from shardwise.cli._words import STDIN, word_blocks
from shardwise.cli.similar import print_neighbours

_QUERIES = 1024  # that are searched for together


def analogy(
    table: Annotated[Path, typer.Argument(metavar="TABLE", help="a table directory")],
    words: Annotated[
        list[str] | None,
        typer.Argument(metavar="[A B C]", help="by default three a line of standard input"),
    ] = None,
    topn: Annotated[int, typer.Option(help="how many answers")] = 10,
    as_json: Annotated[bool, typer.Option("--json", help="print JSON")] = False,
) -> None:
    """Print what is to C as B is to A: the tokens nearest to B - A + C.

    Lines of standard input have tabs between the three words, or else spaces.

    Example: shardwise analogy glove man king woman
    """
    if words and words != [STDIN] and len(words) != 3:
        raise typer.BadParameter(f"expected three words, A B C, got {len(words)}")
    vectors = Vectors.open(table)
    print_neighbours((_answered(vectors, block, topn) for block in _questions(words)), as_json)


def _answered(
    vectors: Vectors, questions: list[tuple[str, str, str]], topn: int
) -> Iterator[tuple[str, list[Neighbour]]]:
    a, b, c = ([question[i] for question in questions] for i in range(3))
    found = vectors.analogy(a, b, c, topn)
    for (one, other, third), answers in zip(questions, found, strict=True):
        yield f"{one} : {other} = {third} : ?", answers


def _questions(words: list[str] | None) -> Iterator[list[tuple[str, str, str]]]:
    if words and words != [STDIN]:
        a, b, c = words
        yield [(a, b, c)]
        return
    count = 0
    for lines in word_blocks(words, _QUERIES):
        block = []
        for number, line in enumerate(lines, count + 1):
            parts = line.split("\t") if "\t" in line else [p for p in line.split(" ") if p]
            if len(parts) != 3:
                raise FormatError(
                    f"standard input, line {number}: expected three words with tabs or spaces "
                    f"between, got {len(parts)}: {line!r:.60}"
                )
            block.append((parts[0], parts[1], parts[2]))
        count += len(lines)
        yield block
