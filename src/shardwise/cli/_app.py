"""The commands, put together; and how they tell what went wrong."""

from __future__ import annotations

import errno
import functools
import inspect
import io
import os
import sys
from collections.abc import Callable
from typing import Annotated, ParamSpec, TypeVar

import typer
from rich.console import Console
from rich.text import Text

from shardwise import ShardwiseError, __version__
from shardwise.cli.analogy import analogy
from shardwise.cli.convert import convert
from shardwise.cli.create import create
from shardwise.cli.encode import encode
from shardwise.cli.evaluate import evaluate
from shardwise.cli.explain import explain
from shardwise.cli.explore import explore
from shardwise.cli.info import info
from shardwise.cli.lookup import lookup
from shardwise.cli.plan import plan
from shardwise.cli.plot import plot
from shardwise.cli.reshard import reshard
from shardwise.cli.restore import restore
from shardwise.cli.similar import similar
from shardwise.cli.train import train
from shardwise.cli.verify import verify

P = ParamSpec("P")
R = TypeVar("R")

app = typer.Typer(
    name="shardwise",
    help="Embedding tables: rows looked up by id or by word, in shards, mapped from disk.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def _tell_version(asked: bool) -> None:
    if asked:
        print(f"shardwise {__version__}")
        raise typer.Exit


@app.callback()
def _whole(
    version: Annotated[
        bool,
        typer.Option(
            "--version", help="Show the version and exit.", is_eager=True, callback=_tell_version
        ),
    ] = False,
) -> None:
    pass


def told(command: Callable[P, R]) -> Callable[P, R]:
    """Make errors that users can mend one line on standard error, and exit with 1."""

    @functools.wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        if isinstance(sys.stdout, io.TextIOWrapper):
            # Tokens and paths that are no UTF-8 go out as the bytes that they are.
            sys.stdout.reconfigure(errors="surrogateescape")
        try:
            result = command(*args, **kwargs)
            sys.stdout.flush()  # here, where it can be told that nobody reads
            return result
        except BrokenPipeError:
            # Whoever read our output has enough of it. Python would complain when it closes it.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise typer.Exit(0) from None
        except (ShardwiseError, OSError, MemoryError, UnicodeError) as error:
            what = Text.assemble(("error:", "bold red"), " ", _words(error))
            Console(stderr=True, soft_wrap=True, highlight=False).print(what)
            raise typer.Exit(1) from None
        except KeyboardInterrupt:
            Console(stderr=True).print("stopped")
            raise typer.Exit(130) from None

    run.__doc__ = _unwrapped(command.__doc__)
    return run


def _words(error: BaseException) -> str:
    """What went wrong, without the numbers that systems have for it."""
    if not isinstance(error, OSError) or isinstance(error, ShardwiseError) or not error.strerror:
        return str(error) or "out of memory"
    known = isinstance(error.filename, str | bytes)
    name = f"{os.fsdecode(error.filename)}: " if known else ""
    if error.errno == errno.ENOENT:
        return f"{name}expected a file, got nothing of that name"
    if error.errno == errno.EFBIG:
        return f"{name}{error.strerror} for this file system; a table may have more --shards"
    return f"{name}{error.strerror}"


def _unwrapped(text: str | None) -> str | None:
    """A text without the line breaks inside its paragraphs, which help would show as they are."""
    if text is None:  # as it is with python -OO
        return None
    return "\n\n".join(" ".join(part.split()) for part in inspect.cleandoc(text).split("\n\n"))


# Words and ids may begin with a dash: "-1" is an id to explain, "--" a word.
LOOSE = {"ignore_unknown_options": True}

app.command()(told(convert))
app.command()(told(train))
app.command()(told(create))
app.command(context_settings=LOOSE)(told(lookup))
app.command()(told(info))
app.command()(told(reshard))
app.command()(told(restore))
app.command()(told(verify))
app.command(context_settings=LOOSE)(told(explain))
app.command(context_settings=LOOSE)(told(encode))
app.command(context_settings=LOOSE)(told(similar))
app.command(context_settings=LOOSE)(told(analogy))
app.command()(told(evaluate))
app.command(context_settings=LOOSE)(told(plot))
app.command()(told(explore))
app.command()(told(plan))
