"""`shardwise convert`: a file of vectors or a table into another."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

import shardwise
from shardwise import formats
from shardwise.cli._print import counted, rows_of
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
    shards: Annotated[
        int | None, typer.Option(help="how many shards a table gets; as IN is cut, or 1")
    ] = None,
    partition: Annotated[
        str | None,
        typer.Option(help="how rows are dealt to shards: mod or div; as IN is cut, or mod"),
    ] = None,
    dtype: Annotated[
        str | None,
        typer.Option(
            help="what rows are stored as: float16, int8 or int4 (packed, with a scale a row), "
            "...; as in IN by default"
        ),
    ] = None,
    to: Annotated[
        str | None,
        typer.Option(help=f"what OUT is: table, {', '.join(formats.WRITABLE)}; by its name else"),
    ] = None,
    form: Annotated[
        str | None,
        typer.Option(
            "--format",
            help=f"what IN is, where it is taken for something else: {', '.join(formats.FORMATS)}",
        ),
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
    limit: Annotated[
        int | None, typer.Option(help="read only so many rows, from the beginning")
    ] = None,
    dim: Annotated[int | None, typer.Option(help="values a row, if IN leaves it open")] = None,
    neighbours: Annotated[
        int,
        typer.Option(
            help="int8, int4: of how many rows the ten nearest are compared before and after; "
            "all rows are read once more for it"
        ),
    ] = 100,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="replace what is at OUT")] = False,
) -> None:
    """Make a table of a file of vectors, or a file of a table, or one file of another.

    The format of IN is found out by what is in it, that of OUT by the ending of its name: .txt is
    glove, .vec and .bin are word2vec; .npy, .npz, .safetensors, .pt, .parquet and .arrow are what
    they say; any other name is a table directory. If anything goes wrong or Ctrl-C is pressed, OUT
    is as it was before.

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
        "neighbours": neighbours,
        "overwrite": overwrite,
    }
    with progress_bar() as show:
        made = shardwise.convert(source, target, **options, progress=show)
    place = f"as {made.to}"
    if made.partition is not None:
        place = f"in {counted(made.partition.num_shards, 'shard')}"
    print(f"{made.path}: {rows_of(made.shape, made.row_format)} {place}, from {made.format}")
    if made.loss is not None:
        largest, rms, cosine, kept = made.loss
        print(
            f"{made.row_format}: values are off by {rms:.2g} (RMS), at most by {largest:.2g}; mean "
            f"cosine of a row with what it was {cosine:.5f}"
            + ("" if kept is None else f"; of the ten nearest rows {kept:.1%} stay")
        )
    if made.to == "table":
        _tell_rows_without_tokens(made)
    if made.duplicates:
        print(f"{counted(made.duplicates, 'row')} left out, whose token had come before")
    if made.nonfinite:
        print(f"{counted(made.nonfinite, 'row')} kept with a NaN or an infinity")
    if made.lost_tokens:
        print(
            f"{counted(made.lost_tokens, 'token')} left out: {made.to} has no place for them; "
            "npz, safetensors and parquet have"
        )


def _tell_rows_without_tokens(made: shardwise.Converted) -> None:
    if made.vocabulary is None:
        print("no tokens: its rows are looked up by id")
    elif rest := made.shape[0] - len(made.vocabulary):
        words = counted(len(made.vocabulary), "token")
        print(f"{words}: the last {counted(rest, 'row')} without one are looked up by id")
