"""`shardwise lookup`: the rows of words or ids."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from numpy.typing import NDArray
from rich import box
from rich.table import Table as Grid

from shardwise import IdTypeError, Table, TableError
from shardwise.cli._print import Printer
from shardwise.store import open_table


def lookup(
    table: Annotated[Path, typer.Argument(metavar="TABLE", help="a table directory")],
    tokens: Annotated[
        list[str], typer.Argument(metavar="TOKEN...", help="words, or ids with --ids")
    ],
    ids: Annotated[bool, typer.Option("--ids", help="the TOKENs are ids of rows")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="print JSON")] = False,
) -> None:
    """Print the rows of words or of ids.

    On a terminal: a table of the first values. In a pipe: a line a row, the word and all values.

    Example: shardwise lookup glove like the country
    """
    if ids:
        opened = Table.open(table)
        wanted = [_as_id(token) for token in tokens]
        rows = opened.lookup(wanted)
    else:
        stored = open_table(table)
        if stored.vocabulary is None:
            raise TableError(
                f"expected a table with a vocabulary at {table}, got one without; look its rows up "
                "by id: add --ids"
            )
        opened = stored.table
        wanted = stored.vocabulary.encode(tokens).tolist()
        rows = opened.lookup(wanted)
    shown = _as_python(rows)
    if as_json:
        found = zip(tokens, wanted, shown, strict=True)
        print(json.dumps([{"token": t, "id": i, "row": r} for t, i, r in found]))
    elif sys.stdout.isatty():
        _print_grid(opened, tokens, wanted, shown)
    else:
        digits = 9 if opened.dtype.itemsize <= 4 else 17  # enough to read the same value back
        for token, row in zip(tokens, shown, strict=True):
            print(token, *(f"{v:.{digits}g}" if isinstance(v, float) else v for v in row))


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
