"""`shardwise evaluate`: how well vectors agree with people."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich import box
from rich.table import Table as Grid

from shardwise import OptionError, Vectors
from shardwise.cli._print import Printer
from shardwise.cli._words import json_number


def evaluate(
    table: Annotated[Path, typer.Argument(metavar="TABLE", help="a table directory")],
    pairs: Annotated[
        list[Path] | None, typer.Option(help="a file of word pairs with scores; may come again")
    ] = None,
    analogies: Annotated[
        list[Path] | None, typer.Option(help="a file of analogies in sections; may come again")
    ] = None,
    restrict: Annotated[
        int, typer.Option(help="for analogies, how many of the first tokens to know and search")
    ] = 30_000,
    case_sensitive: Annotated[
        bool, typer.Option("--case-sensitive", help="take words as they are written")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="print JSON")] = False,
) -> None:
    """Print how well vectors agree with people on word pairs, and how many analogies they solve.

    Example: shardwise evaluate glove --pairs ws353.txt --analogies questions-words.txt
    """
    if not pairs and not analogies:
        raise OptionError("expected a file to evaluate on, got none; add --pairs or --analogies")
    vectors = Vectors.open(table)
    fold = not case_sensitive
    found: list[dict[str, Any]] = []
    for path in pairs or []:
        scores = vectors.evaluate_pairs(path, case_insensitive=fold)
        line = scores._asdict() | {"unknown_share": scores.unknown_share}
        line |= {name: json_number(line[name]) for name in ("pearson", "spearman")}
        found.append({"pairs_file": str(path), **line})
    for path in analogies or []:
        solved = vectors.evaluate_analogies(path, restrict=restrict, case_insensitive=fold)
        sections = [
            s._asdict() | {"accuracy": s.accuracy} for s in (*solved.sections, solved.total)
        ]
        found.append(
            {
                "analogies_file": str(path),
                "sections": sections[:-1],
                "total": sections[-1],
                "skipped": solved.skipped,
            }
        )
    if as_json:
        print(json.dumps(found, allow_nan=False))
        return
    for one in found:
        Printer().print(_pairs_grid(one) if "pairs_file" in one else _analogies_grid(one))


def _pairs_grid(found: dict[str, Any]) -> Grid:
    grid = Grid("word pairs", box=box.SIMPLE_HEAD)
    cells = [Path(found["pairs_file"]).name]
    for name in ("spearman", "pearson"):
        grid.add_column(name, justify="right")
        cells.append("-" if found[name] is None else f"{found[name]:.4f}")
    for name in ("pairs", "unknown"):
        grid.add_column(name, justify="right")
        cells.append(str(found[name]))
    grid.add_row(*cells)
    return grid


def _analogies_grid(found: dict[str, Any]) -> Grid:
    grid = Grid("analogies", box=box.SIMPLE_HEAD)
    for name in ("right", "asked", "share", "unknown"):
        grid.add_column(name, justify="right")
    for section in (*found["sections"], found["total"]):
        grid.add_row(
            section["name"],
            str(section["correct"]),
            str(section["questions"]),
            f"{100 * section['accuracy']:.1f} %",
            str(section["unknown"]),
        )
    return grid
