"""`shardwise analogy`: what is to one word as two others are to each other."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from shardwise import Vectors
from shardwise.cli.similar import print_neighbours


def analogy(
    table: Annotated[Path, typer.Argument(metavar="TABLE", help="a table directory")],
    a: Annotated[str, typer.Argument(metavar="A")],
    b: Annotated[str, typer.Argument(metavar="B")],
    c: Annotated[str, typer.Argument(metavar="C")],
    topn: Annotated[int, typer.Option(help="how many answers")] = 10,
    as_json: Annotated[bool, typer.Option("--json", help="print JSON")] = False,
) -> None:
    """Print what is to C as B is to A: the tokens nearest to B - A + C.

    Example: shardwise analogy glove man king woman
    """
    found = Vectors.open(table).analogy(a, b, c, topn)
    print_neighbours([f"{a} : {b} = {c} : ?"], [found], as_json)
