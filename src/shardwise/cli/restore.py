"""`shardwise restore`: a checkpoint made a table again."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from shardwise import store
from shardwise.cli._print import counted, rows_of
from shardwise.cli._progress import progress_bar


def restore(
    checkpoint: Annotated[
        Path, typer.Argument(metavar="CHECKPOINT", help="what table.checkpoint wrote")
    ],
    table: Annotated[Path, typer.Argument(metavar="OUT", help="the table directory that is made")],
    overwrite: Annotated[bool, typer.Option("--overwrite", help="replace a table")] = False,
) -> None:
    """Make a table of the last state of a checkpoint, with what its optimizer keeps.

    The checksums of CHECKPOINT are verified first. If anything goes wrong or Ctrl-C is pressed, OUT
    is as it was before.

    Example: shardwise restore kept items --overwrite
    """
    with progress_bar() as show:
        made = store.restore(
            checkpoint,
            table,
            overwrite=overwrite,
            progress=lambda done, total: show("restore", done, total),
        )
    pieces = counted(made.partition.num_shards, "shard")
    print(f"{table}: {rows_of(made.shape, made.row_format)} in {pieces}")
