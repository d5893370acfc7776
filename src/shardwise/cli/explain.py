"""`shardwise explain`: where ids fall, for people who ask what the function does."""

from __future__ import annotations

from typing import Annotated

import typer
from rich import box
from rich.table import Table as Grid

from shardwise import Partition
from shardwise._ids import as_ids
from shardwise._partition import as_partition
from shardwise.cli._print import Printer

_SHOWN = 20  # ids that are explained when none are named


def explain(
    rows: Annotated[int, typer.Option(help="how many rows the table has")],
    numbers: Annotated[
        list[int] | None, typer.Argument(metavar="[ID]...", help="by default the first 20")
    ] = None,
    shards: Annotated[int, typer.Option(help="how many shards")] = 1,
    partition: Annotated[str, typer.Option(help="mod or div")] = "mod",
    ids: Annotated[bool, typer.Option("--ids", help="may stand before the ids")] = False,
) -> None:
    """Print in which shard, and as which row of it, each id is found.

    Example: shardwise explain --rows 9 --shards 3 --partition mod --ids 0 3 4 1 7
    """
    del ids
    cut = as_partition(partition, rows, shards)
    wanted = as_ids(numbers if numbers else range(min(rows, _SHOWN)))
    owners, local = cut.locate(wanted)
    console = Printer()
    console.print(f"embedding_lookup(shards, ids, partition_strategy={partition!r})")
    console.print(_rule(cut))
    grid = Grid(box=box.SIMPLE_HEAD)
    for name in ("id", "shard", "row of the shard"):
        grid.add_column(name, justify="right")
    for one in zip(wanted, owners, local, strict=True):
        grid.add_row(*map(str, one))
    console.print(grid)


def _rule(cut: Partition) -> str:
    rows, shards = cut.num_rows, cut.num_shards
    if cut.strategy == "mod":
        return (
            f"mod: shard = id % {shards}, row = id // {shards}; shard k holds params[k::{shards}]"
        )
    return (
        f"div: contiguous shards; of {rows} rows the first {rows % shards} shards hold "
        f"{rows // shards + 1} and the others {rows // shards}, as numpy.array_split cuts them"
    )
