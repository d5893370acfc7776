"""`shardwise verify`: whether the files of a table are as they were written."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from shardwise.cli._print import Printer
from shardwise.cli._progress import progress_bar
from shardwise.store import Checked, verify_table

_STYLES = {"ok": "green", "updated": "green", "unknown": "yellow"}


def verify(
    table: Annotated[Path, typer.Argument(metavar="TABLE", help="a table directory")],
    update: Annotated[
        bool, typer.Option("--update", help="store the checksums of files that have none")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="print JSON")] = False,
) -> None:
    """Read all files of a table and compare them with their checksums.

    Exits with 1 if a file is damaged or missing. A file whose rows were changed in place has no
    checksum: it is "unknown", which is no failure, until --update stores the one it has now.

    Example: shardwise verify glove
    """
    with progress_bar() as show:
        found = verify_table(
            table, update=update, progress=lambda done, total: show("verify", done, total)
        )
    if as_json:
        print(json.dumps({"path": str(table), "files": [vars(one) for one in found]}))
    else:
        console = Printer()
        width = max(len(one.file) for one in found)
        for one in found:
            console.print(f"{one.file:{width}}  ", end="")
            console.print(one.state, style=_STYLES.get(one.state, "bold red"), end="")
            console.print(_details(one))
    sys.stdout.flush()  # here, where it can be told that nobody reads
    if any(one.state in ("damaged", "missing") for one in found):
        raise typer.Exit(1)


def _details(one: Checked) -> str:
    if one.problem is not None:
        return f": {one.problem}"
    if one.state == "damaged" and one.got is None:
        return f": expected {one.bytes} bytes that can be read"
    if one.state == "damaged":
        return f": expected {one.expected}, got {one.got}"
    return ""
