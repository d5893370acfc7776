"""`shardwise explore`: a table in embedding-atlas, in the browser."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Annotated

import typer

from shardwise import MissingLibraryError, OptionError, Vectors
from shardwise.cli._print import counted
from shardwise.cli._progress import progress_bar
from shardwise.pictures._atlas import NEIGHBOURS, export, import_pyarrow
from shardwise.pictures._projection import check_method

_PROGRAM = "embedding-atlas"


def explore(
    table: Annotated[Path, typer.Argument(metavar="TABLE", help="a table directory")],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="keep the exported Parquet file, by this name"),
    ] = None,
    no_open: Annotated[
        bool, typer.Option("--no-open", help="export, and do not open embedding-atlas")
    ] = False,
    limit: Annotated[int, typer.Option(help="how many of the first tokens to show")] = 20_000,
    neighbours: Annotated[
        int, typer.Option(help="how many nearest neighbours of each token")
    ] = NEIGHBOURS,
    method: Annotated[str, typer.Option(help="pca or umap")] = "pca",
    rows: Annotated[bool, typer.Option("--rows", help="export the rows, too")] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="replace a file that is there")
    ] = False,
) -> None:
    """Export a table's first tokens with neighbours and places, and open them in embedding-atlas.

    embedding-atlas serves the page on this machine, until it is stopped with Ctrl-C.

    Example: shardwise explore glove --limit 50000
    """
    if no_open and output is None:
        raise OptionError("expected a file to export to, got no name for it; add -o words.parquet")
    if output is not None and output.suffix.lower() != ".parquet":
        raise OptionError(f"expected a file name that ends in .parquet, got {str(output)!r}")
    program = None if no_open else _program()
    check_method(method)
    import_pyarrow()
    vectors = Vectors.open(table)
    with tempfile.TemporaryDirectory(prefix="shardwise-") as folder:
        path = Path(folder, "words.parquet") if output is None else output
        with progress_bar() as show:
            count = export(
                vectors,
                path,
                limit=limit,
                neighbours=neighbours,
                method=method,
                rows=rows,
                overwrite=overwrite,
                progress=lambda done, total: show("search", done, total),
            )
        first = f"the first {count} of " if count < len(vectors) else ""
        print(f"{os.fspath(path)}: {first}{counted(len(vectors), 'token')}", flush=True)
        if program is not None:
            code = _open(program, path)
    if program is not None and code:
        raise typer.Exit(code)


def _program() -> str:
    """Where embedding-atlas is: on the PATH, or beside the Python that runs this."""
    beside = os.path.dirname(sys.executable)
    found = shutil.which(_PROGRAM) or shutil.which(_PROGRAM, path=beside)
    if found is None:
        raise MissingLibraryError(
            f"expected the program {_PROGRAM} to open the table in, got none; install it: "
            'pip install "shardwise[explore]", or export only: --no-open -o words.parquet'
        )
    return found


def _open(program: str, path: Path) -> int:
    """Run embedding-atlas until it ends; return its exit status."""
    columns = ("--text", "token", "--x", "x", "--y", "y", "--neighbors", "neighbors")
    process = subprocess.Popen([program, os.path.abspath(path), *columns])
    try:
        return process.wait()
    except KeyboardInterrupt:  # which the terminal sent to it, too
        process.wait()
        return 0
