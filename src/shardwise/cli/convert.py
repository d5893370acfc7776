"""`shardwise convert`: a file of vectors or a table into another."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

import shardwise
from shardwise import formats
from shardwise.cli._progress import progress_bar


def convert(
    source: Annotated[
        Path, typer.Argument(metavar="IN", help="a file of vectors, or a table directory")
    ],
    target: Annotated[
        Path,
        typer.Argument(
            metavar="OUT", help="the table directory that is made, or a file: OUT.vec, OUT.npy, ..."
        ),
    ],
    shards: Annotated[int | None, typer.Option(help="how many shards a table gets")] = None,
    partition: Annotated[
        str | None, typer.Option(help="how rows are dealt to shards: mod or div")
    ] = None,
    dtype: Annotated[
        str | None, typer.Option(help="what rows are stored as, e.g. float16; as in IN by default")
    ] = None,
    to: Annotated[
        str | None,
        typer.Option(help=f"what OUT is: table, {', '.join(formats.WRITABLE)}; by its name else"),
    ] = None,
    form: Annotated[
        str | None, typer.Option("--format", help="the format of IN, if it is mistaken")
    ] = None,
    tensor: Annotated[
        str | None, typer.Option(help="the tensor, array or column of IN that holds the rows")
    ] = None,
    tokens: Annotated[
        str | None, typer.Option(help="the array or column of IN that holds the tokens")
    ] = None,
    pieces: Annotated[
        str | None, typer.Option(help="how pieces of a TensorFlow variable hold rows: mod or div")
    ] = None,
    unknown: Annotated[
        str | None, typer.Option(help="the token of IN that stands for all tokens it lacks")
    ] = None,
    limit: Annotated[int | None, typer.Option(help="read only the first rows")] = None,
    dim: Annotated[int | None, typer.Option(help="values a row, if IN leaves it open")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="replace what is at OUT")] = False,
) -> None:
    """Make a table of a file of vectors, or a file of a table, or one file of another.

    The format of IN is found out by what is in it, that of OUT by its name. If anything goes wrong
    or Ctrl-C is pressed, OUT is as it was before.

    Example: shardwise convert glove.6B.100d.txt glove --shards 3 --partition mod
    """
    options: dict[str, Any] = {
        "shards": shards,
        "partition": partition,
        "dtype": dtype,
        "to": to,
        "format": form,
        "tensor": tensor,
        "tokens": tokens,
        "pieces": pieces,
        "unknown": unknown,
        "limit": limit,
        "dim": dim,
        "overwrite": overwrite,
    }
    with progress_bar() as show:
        made = shardwise.convert(source, target, **options, progress=show)
    print(_sentence(made))
    if made.duplicates:
        print(f"{made.duplicates} rows left out: their token had come before")
    if made.nonfinite:
        print(f"{made.nonfinite} rows have a NaN or an infinity; they were kept")
    if made.lost_tokens:
        print(
            f"{made.lost_tokens} tokens left out: {made.to} has no place for them; "
            "npz, safetensors and parquet have"
        )


def _sentence(made: shardwise.Converted) -> str:
    rows, *row = made.shape
    values = " x ".join(map(str, row)) or "1"
    place = f"as {made.to}"
    if made.partition is not None:
        count = made.partition.num_shards
        place = "in 1 shard" if count == 1 else f"in {count} shards"
    return f"{made.path}: {rows} rows of {values} {made.dtype} values {place}, from {made.format}"
