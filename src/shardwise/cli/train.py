"""`shardwise train`: word vectors of text."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, TaskID, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bars

from shardwise import OptionError, Vectors, set_num_threads, skipgram
from shardwise.cli._print import counted, rows_of

# What `--resume` knows already.
_KEPT = (
    "model", "dim", "window", "negative", "negative_power", "sample", "epochs", "learning_rate",
    "final_learning_rate", "min_count", "max_size", "min_n", "max_n", "bucket", "seed", "start",
    "start_context",
)  # fmt: skip


def train(
    context: typer.Context,
    corpus: Annotated[
        list[Path],
        typer.Argument(
            metavar="CORPUS...", help="text files, a sentence a line; .gz, .bz2, .xz and .zst too"
        ),
    ],
    out: Annotated[
        Path, typer.Option("--out", "-o", metavar="OUT", help="the table directory that is made")
    ],
    model: Annotated[str, typer.Option(help="skipgram, or cbow, which is faster")] = "skipgram",
    dim: Annotated[int, typer.Option(help="values a vector")] = 100,
    window: Annotated[int, typer.Option(help="words on each side that are context, at most")] = 5,
    negative: Annotated[int, typer.Option(help="words drawn against each word")] = 5,
    negative_power: Annotated[
        float, typer.Option(help="draw them in proportion to their count to the power of this")
    ] = 0.75,
    sample: Annotated[
        float, typer.Option(help="leave out some of the words more frequent than this share")
    ] = 1e-3,
    epochs: Annotated[int, typer.Option(help="times that the text is read")] = 5,
    learning_rate: Annotated[
        float | None, typer.Option(help="at the beginning; 0.025 by default, with cbow 0.05")
    ] = None,
    final_learning_rate: Annotated[float, typer.Option(help="at the end")] = 0.0,
    min_count: Annotated[int, typer.Option(help="leave out words that are rarer")] = 5,
    max_size: Annotated[int | None, typer.Option(help="take so many words at most")] = None,
    min_n: Annotated[
        int, typer.Option(help="least characters of n-grams, e.g. 3; 0: words alone")
    ] = 0,
    max_n: Annotated[int, typer.Option(help="most characters of n-grams, e.g. 6")] = 0,
    bucket: Annotated[int, typer.Option(help="rows that n-grams share")] = 2_000_000,
    seed: Annotated[int, typer.Option(help="chooses all that is random")] = 1,
    threads: Annotated[
        int | None, typer.Option(help="one gives the same vectors each time; all CPUs by default")
    ] = None,
    shards: Annotated[int, typer.Option(help="how many shards")] = 1,
    partition: Annotated[
        str, typer.Option(help="how rows are dealt to shards: mod or div")
    ] = "mod",
    dtype: Annotated[
        str, typer.Option(help="what rows are stored as, e.g. float16 or int8")
    ] = "float32",
    context_out: Annotated[
        Path | None,
        typer.Option("--context", metavar="OUT", help="write the context vectors there, too"),
    ] = None,
    start: Annotated[
        Path | None, typer.Option(metavar="TABLE", help="vectors to start from")
    ] = None,
    start_context: Annotated[
        Path | None, typer.Option(metavar="TABLE", help="context vectors to start from")
    ] = None,
    checkpoint_every: Annotated[
        float, typer.Option(metavar="MINUTES", help="save the state in OUT.training so often")
    ] = 10.0,
    resume: Annotated[
        bool, typer.Option("--resume", help="go on from OUT.training, with its options")
    ] = False,
    on_disk: Annotated[
        bool | None,
        typer.Option(
            "--on-disk/--in-memory", help="where rows are in training; by default as they fit"
        ),
    ] = None,
    work: Annotated[
        Path | None, typer.Option(metavar="DIRECTORY", help="for temporary files")
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="replace OUT and OUT.training")
    ] = False,
) -> None:
    """Train word vectors on text: skip-gram or CBOW with negative sampling.

    Words are what stands between white space: lower their case and cut off punctuation before. With
    --min-n and --max-n words are made of their n-grams, as in fastText, and unknown words have
    vectors, too. Ctrl-C saves the state in OUT.training, from which --resume goes on.

    Example: shardwise train novels.txt.xz -o novels --sample 1e-4
    """
    if threads is not None:
        set_num_threads(threads)
    place = out.with_name(f"{out.name}.training")
    common: dict[str, Any] = {
        "shards": shards,
        "partition": partition,
        "dtype": dtype,
        "context": context_out,
        "checkpoint": place,
        "checkpoint_every": checkpoint_every * 60,
        "overwrite": overwrite,
        "on_disk": on_disk,
        "work": work,
    }
    if resume:
        _refuse(context)
    try:
        with _bars() as show:
            if resume:
                made = skipgram.resume(corpus, out, progress=show, **common)
            else:
                made = skipgram.train(
                    corpus,
                    out,
                    model=model,  # type: ignore[arg-type]  # it is checked there
                    dim=dim,
                    window=window,
                    negative=negative,
                    negative_power=negative_power,
                    sample=sample,
                    epochs=epochs,
                    learning_rate=learning_rate,
                    final_learning_rate=final_learning_rate,
                    min_count=min_count,
                    max_size=max_size,
                    min_n=min_n,
                    max_n=max_n,
                    bucket=bucket,
                    seed=seed,
                    start=None if start is None else Vectors.open(start),
                    start_context=None if start_context is None else Vectors.open(start_context),
                    progress=show,
                    **common,
                )
    except KeyboardInterrupt:
        if place.exists():
            print(f"saved in {place}; --resume goes on from there", file=sys.stderr)
        raise
    table = made.table
    print(
        f"{out}: {rows_of(table.shape, table.row_format)} in "
        f"{counted(table.partition.num_shards, 'shard')}, of {counted(len(made), 'word')}"
    )


def _refuse(context: typer.Context) -> None:
    for name in _KEPT:
        source = context.get_parameter_source(name)
        if source is not None and source.name == "COMMANDLINE":
            option = name.replace("_", "-")
            raise OptionError(
                f"expected no --{option} with --resume, which goes on with the options that the "
                "training began with; leave it away"
            )


@contextmanager
def _bars() -> Iterator[Callable[[skipgram.Progress], None]]:
    """Show a bar for each stage on a terminal, and nothing in a pipe."""
    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(20),
        TextColumn("{task.percentage:>3.0f}%"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[more]}"),
    )
    with Bars(*columns, console=console, disable=not console.is_terminal) as bars:
        tasks: dict[str, TaskID] = {}

        def show(now: skipgram.Progress) -> None:
            total = now.total or None
            if now.stage not in tasks:
                tasks[now.stage] = bars.add_task(f"{now.stage:6}", total=total, more="")
            more = ""
            if now.stage == "train":
                more = (
                    f"{now.words_per_second / 1e6:.2f} M words/s  loss {now.loss:.3f}  "
                    f"rate {now.learning_rate:.4f}"
                )
            bars.update(tasks[now.stage], completed=now.done, total=total, more=more)

        yield show
