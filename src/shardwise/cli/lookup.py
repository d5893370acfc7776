"""`shardwise lookup`: the rows of words or ids."""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from numpy.typing import NDArray
from rich import box
from rich.table import Table as Grid

from shardwise import IdTypeError, Table, TableError, Vocabulary
from shardwise.cli._print import Printer
from shardwise.cli._words import json_number, print_json, word_blocks
from shardwise.store import open_table
from shardwise.words._rows import encode

_VALUES = 1 << 18  # of rows at once


def lookup(
    table: Annotated[Path, typer.Argument(metavar="TABLE", help="a table directory")],
    tokens: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[TOKEN]...",
            help="words, or ids with --ids; by default one a line of standard input",
        ),
    ] = None,
    ids: Annotated[bool, typer.Option("--ids", help="the TOKENs are ids of rows")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="print JSON")] = False,
) -> None:
    """Print the rows of words or of ids.

    On a terminal: a table of the first values. In a pipe: a line a row, the word and all values.
    In JSON, null stands for a value that is no number or not finite.

    Example: shardwise lookup glove like the country
    """
    stored = open_table(table)
    if not ids and stored.vocabulary is None:
        raise TableError(
            f"expected a table with a vocabulary at {table}, got one without; look its rows up "
            "by id: add --ids"
        )
    opened, vocabulary = stored.table, None if ids else stored.vocabulary
    at_most = max(1, _VALUES // max(1, math.prod(opened.shape[1:])))
    found = (_found(opened, vocabulary, block) for block in word_blocks(tokens, at_most))
    if as_json:
        print_json(
            [{"token": t, "id": i, "row": r} for t, i, r in zip(block, wanted, rows, strict=True)]
            for block, wanted, rows in ((b, w, _as_json(rows)) for b, w, rows in found)
        )
        return
    on_terminal = sys.stdout.isatty()
    digits = 9 if opened.dtype.itemsize <= 4 else 17  # enough to read the same value back
    for block, wanted, rows in found:
        if on_terminal:
            _print_grid(opened, block, wanted, _as_python(rows))
            continue
        for token, row in zip(block, _as_python(rows), strict=True):
            print(token, *(f"{v:.{digits}g}" if isinstance(v, float) else v for v in row))
        sys.stdout.flush()


def _found(
    table: Table, vocabulary: Vocabulary | None, tokens: list[str]
) -> tuple[list[str], list[int], NDArray[Any]]:
    """The tokens, their ids and their rows."""
    if vocabulary is None:
        ids = [_as_id(token) for token in tokens]
    else:
        ids = encode(vocabulary, tokens).tolist()  # with spellings for words that it lacks
    return tokens, ids, table.lookup(ids)


def _as_id(token: str) -> int:
    try:
        return int(token)
    except ValueError:
        raise IdTypeError(f"expected ids as whole numbers after --ids, got {token!r}") from None


def _as_python(rows: NDArray[Any]) -> list[list[Any]]:
    """Rows as numbers of Python: whole numbers stay whole."""
    flat = rows.reshape(len(rows), -1)
    numbers: list[list[Any]] = (flat if flat.dtype.kind in "iub" else flat.astype(float)).tolist()
    return numbers


def _as_json(rows: NDArray[Any]) -> list[list[Any]]:
    """The same, with null for what JSON has no number for."""
    numbers = _as_python(rows)
    return [[json_number(v) if isinstance(v, float) else v for v in row] for row in numbers]


def _print_grid(table: Table, tokens: list[str], ids: list[int], rows: list[list[Any]]) -> None:
    shards, local = table.partition.locate(ids)
    grid = Grid("token", box=box.SIMPLE_HEAD)
    for name in ("id", "shard", "row"):
        grid.add_column(name, justify="right")
    grid.add_column(f"values ({len(rows[0])})", no_wrap=True)
    for token, i, shard, row, values in zip(tokens, ids, shards, local, rows, strict=True):
        text = " ".join(f"{value:8.4g}" for value in values[:4]) + (
            " ..." if len(values) > 4 else ""
        )
        cells: list[Any] = [token, i, shard, row, text]
        grid.add_row(*map(str, cells))
    Printer().print(grid)
