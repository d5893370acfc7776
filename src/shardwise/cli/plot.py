"""`shardwise plot`: a picture of words."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.console import Console
from rich.text import Text

from shardwise import OptionError, TableError, Vectors
from shardwise.cli._print import counted
from shardwise.cli._words import all_words, print_json
from shardwise.formats._write import refuse_file, replacing
from shardwise.pictures._picture import MOST_WORDS, PICTURES, check_library, draw
from shardwise.pictures._projection import check_method, project
from shardwise.words._questions import known_ids
from shardwise.words._search import check_rows


def plot(
    table: Annotated[Path, typer.Argument(metavar="TABLE", help="a table directory")],
    words: Annotated[
        list[str] | None,
        typer.Argument(metavar="[WORD]...", help="by default a word a line of standard input"),
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="the picture: .png, .svg or .pdf")
    ] = None,
    neighbours: Annotated[
        int, typer.Option(help="draw so many nearest neighbours of each word, too")
    ] = 0,
    method: Annotated[str, typer.Option(help="pca or umap")] = "pca",
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="replace a picture that is there")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="print the places as JSON")] = False,
) -> None:
    """Draw words in the plane, by their rows: near words are near, as far as a plane can have it.

    Words whose row has a NaN or an infinity are left out.

    Example: shardwise plot glove king queen sea ship --neighbours 5 -o words.svg
    """
    form = "" if output is None else output.suffix.lower()
    if output is not None:
        if form not in PICTURES:
            raise OptionError(
                f"expected a picture whose name ends in one of {', '.join(PICTURES)}, got "
                f"{str(output)!r}"
            )
        refuse_file(output, overwrite)
        check_library()
    elif not as_json:
        raise OptionError("expected a picture to draw, got no name for it; add -o words.png")
    check_method(method)
    vectors = Vectors.open(table)
    check_rows(vectors.table)
    asked = list(dict.fromkeys(all_words(words)))
    tokens = _with_neighbours(vectors, asked, neighbours)
    if output is not None and len(tokens) > MOST_WORDS:
        raise OptionError(
            f"expected at most {MOST_WORDS} words to draw, got {len(tokens)}; `shardwise explore` "
            "shows more"
        )
    ids = np.array(known_ids(vectors.vocabulary, tokens), np.int64)
    points = project(vectors.table.lookup(ids), method)
    placed = np.isfinite(points[:, 0])
    if lost := [token for token, place in zip(tokens, placed, strict=True) if not place]:
        _tell(f"{counted(len(lost), 'word')} left out, whose row is not finite: ", lost)
    if not placed.any():
        raise TableError("expected at least one word with a finite row, got none")
    tokens = [token for token, place in zip(tokens, placed, strict=True) if place]
    points = points[placed]
    is_asked = [token in set(asked) for token in tokens]
    if output is not None:
        picture, missing = draw(points, tokens, is_asked, form)
        with replacing(output, overwrite) as (_, file):
            file.write(picture)
        if missing:
            _tell("no font here has all characters of ", missing)
    if as_json:
        print_json([_as_json(tokens, points.tolist(), is_asked)])
    elif output is not None:
        print(f"{os.fspath(output)}: {counted(len(tokens), 'word')} by {method}")


def _with_neighbours(vectors: Vectors, asked: list[str], count: int) -> list[str]:
    found = vectors.most_similar([[word] for word in asked], topn=count) if asked else []
    return list(dict.fromkeys([*asked, *(n.token for one in found for n in one)]))


def _as_json(tokens: list[str], points: list[Any], asked: list[bool]) -> list[dict[str, Any]]:
    found = zip(tokens, points, asked, strict=True)
    return [{"token": t, "x": x, "y": y, "asked": a} for t, (x, y), a in found]


def _tell(what: str, tokens: list[str]) -> None:
    shown = ", ".join(map(ascii, tokens[:10])) + (", ..." if len(tokens) > 10 else "")
    Console(file=sys.stderr, soft_wrap=True, highlight=False).print(Text(what + shown))
