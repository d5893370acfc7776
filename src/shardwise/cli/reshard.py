"""`shardwise reshard`: a table cut into other shards."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from shardwise import store
from shardwise.cli._print import counted, rows_of
from shardwise.cli._progress import progress_bar


def reshard(
    source: Annotated[Path, typer.Argument(metavar="IN", help="a table directory")],
    table: Annotated[
        Path, typer.Argument(metavar="OUT", help="the table directory that is made; it may be IN")
    ],
    shards: Annotated[
        int | None, typer.Option(help="how many shards; as many as IN has by default")
    ] = None,
    partition: Annotated[
        str | None, typer.Option(help="how rows are dealt to shards: mod or div; as IN by default")
    ] = None,
    dtype: Annotated[
        str | None,
        typer.Option(help="what rows are stored as: float16, int8, int4, ...; as IN by default"),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="replace a table")] = False,
) -> None:
    """Cut a table into other shards, or store its rows as another dtype, in little memory.

    Rows keep their ids. The checksums of IN are verified on the way. If anything goes wrong or
    Ctrl-C is pressed, OUT is as it was before.

    Example: shardwise reshard glove glove8 --shards 8 --partition div
    """
    with progress_bar() as show:
        made = store.reshard(
            source,
            table,
            shards=shards,
            partition=partition,
            dtype=dtype,
            overwrite=overwrite,
            progress=lambda done, total: show("write", done, total),
        )
    pieces = counted(made.partition.num_shards, "shard")
    what = rows_of(made.shape, made.row_format)
    print(f"{table}: {what} in {pieces}, by {made.partition.strategy}")
