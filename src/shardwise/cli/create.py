"""`shardwise create`: a new table, filled with first values."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from shardwise import OptionError, Table
from shardwise.cli._print import counted, rows_of
from shardwise.cli._progress import progress_bar
from shardwise.initializers import Initializer

# The names that the functions of shardwise.initializers give to their parameters.
_PARAMETERS = {
    "uniform": ("low", "high"),
    "normal": ("mean", "stddev"),
    "truncated_normal": ("mean", "stddev"),
}


def create(
    table: Annotated[Path, typer.Argument(metavar="OUT", help="the table directory that is made")],
    rows: Annotated[int, typer.Option(help="how many rows")],
    dim: Annotated[int, typer.Option(help="values a row")],
    dtype: Annotated[str, typer.Option(help="what rows are stored as, e.g. float16")] = "float32",
    row_format: Annotated[
        str | None, typer.Option(help="int8 or int4: rows of float32, packed in so many bits")
    ] = None,
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
    low: Annotated[
        float | None, typer.Option(help="uniform: the least value; -0.05 by default")
    ] = None,
    high: Annotated[
        float | None, typer.Option(help="uniform: the greatest value; 0.05 by default")
    ] = None,
    mean: Annotated[
        float | None, typer.Option(help="normal, truncated_normal: the mean; 0 by default")
    ] = None,
    stddev: Annotated[
        float | None,
        typer.Option(help="normal, truncated_normal: the standard deviation; 0.05 by default"),
    ] = None,
    seed: Annotated[int, typer.Option(help="chooses the values, but for zeros")] = 0,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="replace a table")] = False,
) -> None:
    """Make a table of any size, larger than memory too.

    Zeros take no room on the disk until they are written over. The values of a row depend on the
    seed and its id alone, not on the shards.

    Example: shardwise create items --rows 1000000000 --dim 64 --shards 8 --initializer normal
    """
    given = {"low": low, "high": high, "mean": mean, "stddev": stddev}
    first = _initializer(initializer, {k: v for k, v in given.items() if v is not None}, seed)
    with progress_bar() as show:
        made = Table.create(
            table,
            rows,
            dim,
            dtype,
            row_format=row_format,
            shards=shards,
            partition=partition,
            initializer=first,
            overwrite=overwrite,
            progress=lambda done, total: show("create", done, total),
        )
        made.close()
    print(f"{table}: {rows_of(made.shape, made.row_format)} in {counted(shards, 'shard')}")


def _initializer(kind: str, given: dict[str, float], seed: int) -> Initializer:
    defaults = Initializer.defaults(kind)
    names = _PARAMETERS.get(kind, ())
    for name in given:
        if name not in names:
            taken = " and ".join(f"--{one}" for one in names) or "only --seed"
            raise OptionError(f"expected {taken} for --initializer {kind}, got --{name}")
    a, b = (given.get(n, d) for n, d in zip(names or ("", ""), defaults, strict=True))
    return Initializer(kind, a, b, seed)
