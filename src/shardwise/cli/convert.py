"""`shardwise convert`: a file of vectors to a table."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

import shardwise


def convert(
    source: Annotated[
        Path, typer.Argument(metavar="IN", help="word2vec text or binary, or GloVe text")
    ],
    table: Annotated[Path, typer.Argument(metavar="OUT", help="the table directory that is made")],
    shards: Annotated[int, typer.Option(help="how many shards")] = 1,
    partition: Annotated[
        str, typer.Option(help="how rows are dealt to shards: mod or div")
    ] = "mod",
    dtype: Annotated[str, typer.Option(help="what rows are stored as, e.g. float16")] = "float32",
    unknown: Annotated[
        str | None, typer.Option(help="the token of IN that stands for all tokens it lacks")
    ] = None,
    limit: Annotated[int | None, typer.Option(help="read only the first rows")] = None,
    dim: Annotated[int | None, typer.Option(help="values a row, if IN leaves it open")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="replace a table")] = False,
) -> None:
    """Make a table of a file of word vectors.

    The format is found out by what is in the file. If anything goes wrong or Ctrl-C is pressed,
    OUT is as it was before.

    Example: shardwise convert glove.6B.100d.txt glove --shards 3 --partition mod
    """
    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f}%"),
    )
    # On a terminal only: a pipe gets no bar.
    with Progress(
        *columns, TimeRemainingColumn(), console=console, disable=not console.is_terminal
    ) as bar:
        tasks: dict[str, TaskID] = {}

        def show(stage: str, done: int, total: int) -> None:
            if stage not in tasks:
                tasks[stage] = bar.add_task(f"{stage:5}", total=total)
            bar.update(tasks[stage], completed=done)

        found = shardwise.convert(
            source,
            table,
            shards=shards,
            partition=partition,
            dtype=dtype,
            dim=dim,
            limit=limit,
            unknown=unknown,
            overwrite=overwrite,
            progress=show,
        )
    rows, width = found.shape
    pieces = "1 shard" if shards == 1 else f"{shards} shards"
    print(f"{table}: {rows} rows of {width} {dtype} values in {pieces}, from {found.format}")
    if found.duplicates:
        print(f"{found.duplicates} rows left out: their token had come before")
