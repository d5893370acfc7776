"""`shardwise create`: a new table, filled with first values."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from shardwise import Table
from shardwise.cli._progress import progress_bar
from shardwise.initializers import Initializer


def create(
    table: Annotated[Path, typer.Argument(metavar="OUT", help="the table directory that is made")],
    rows: Annotated[int, typer.Option(help="how many rows")],
    dim: Annotated[int, typer.Option(help="values a row")],
    dtype: Annotated[str, typer.Option(help="what rows are stored as, e.g. float16")] = "float32",
    shards: Annotated[int, typer.Option(help="how many shards")] = 1,
    partition: Annotated[
        str, typer.Option(help="how rows are dealt to shards: mod or div")
    ] = "mod",
    initializer: Annotated[
        str,
        typer.Option(
            help="zeros, uniform, normal, truncated_normal, glorot_uniform or glorot_normal"
        ),
    ] = "zeros",
    a: Annotated[float | None, typer.Option(help="uniform: the least; normal: the mean")] = None,
    b: Annotated[
        float | None, typer.Option(help="uniform: the most; normal: the standard deviation")
    ] = None,
    seed: Annotated[int, typer.Option(help="chooses the values")] = 0,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="replace a table")] = False,
) -> None:
    """Make a table of any size, larger than memory too.

    Zeros take no room on the disk until they are written over. The values of a row depend on the
    seed and its id alone, not on the shards.

    Example: shardwise create items --rows 1000000000 --dim 64 --shards 8 --initializer normal
    """
    low, high = Initializer.defaults(initializer)
    first = Initializer(initializer, low if a is None else a, high if b is None else b, seed)
    with progress_bar() as show:
        made = Table.create(
            table,
            rows,
            dim,
            dtype,
            shards=shards,
            partition=partition,
            initializer=first,
            overwrite=overwrite,
            progress=lambda done, total: show("create", done, total),
        )
        made.close()
    pieces = "1 shard" if shards == 1 else f"{shards} shards"
    print(f"{table}: {rows} rows of {dim} {made.dtype} values in {pieces}")
