"""A table as a Parquet file for embedding-atlas: tokens, places in the plane, neighbours."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from shardwise._errors import MissingLibraryError, OptionError
from shardwise.formats._write import refuse_file, replacing
from shardwise.pictures._projection import project_blocks
from shardwise.words._questions import as_stop, as_topn
from shardwise.words._search import Queries, check_rows, directions, row_width, search

if TYPE_CHECKING:
    from shardwise._vectors import Vectors

NEIGHBOURS = 10  # of each token

_QUERIES = 2048  # tokens whose neighbours are searched for together
_VALUES = 1 << 22  # of rows at once


def export(
    vectors: Vectors,
    path: str | os.PathLike[str],
    *,
    limit: int | None = None,
    neighbours: int = NEIGHBOURS,
    method: str = "pca",
    rows: bool = False,
    overwrite: bool = False,
    progress: Callable[[int, int], object] | None = None,
) -> int:
    """Write tokens, their places in the plane and their neighbours to a Parquet file.

    Its columns, a line a token in the order of the ids: `token`, a string, in which bytes that are
    not UTF-8 are written as Python escapes them; `id`, int64; `count`, int64, where the vocabulary
    has counts; `norm`, float64; `x` and `y`, float64 or null for a row that is not finite;
    `neighbors`, as embedding-atlas takes it: `{"ids": list of int64, "distances": list of floats}`,
    the nearest of the exported tokens by their line, which is their id, and 1 - cosine; and with
    `rows`, `vector`, a list of float32.

    Args:
        vectors: the table.
        path: the file.
        limit: export the first tokens only, so many.
        neighbours: how many of each token.
        method: how rows come to lie in the plane, "pca" or "umap".
        rows: export the rows, too.
        overwrite: replace a file that is there.
        progress: called with (tokens done, tokens in all).

    Returns:
        How many tokens were exported.

    Raises:
        OptionError: an option cannot have this value.
        TableError: the rows are not of real numbers.
        TableExistsError: there is a file, and `overwrite` is false; or something else.
        MissingLibraryError: pyarrow is not installed, or umap-learn for "umap".
    """
    pa, parquet = import_pyarrow()
    check_rows(vectors.table)
    stop = as_stop(vectors, limit)
    count = min(as_topn(neighbours), max(0, stop - 1))  # of each token as many
    refuse_file(path, overwrite)
    if not stop:
        raise OptionError("expected a table with tokens to explore, got none")

    def read(begin: int, end: int) -> NDArray[Any]:
        return vectors.table.lookup(np.arange(begin, end))

    places = project_blocks(read, (stop, *vectors.table.shape[1:]), method)
    counts = getattr(vectors.vocabulary, "counts", None)
    with replacing(path, overwrite) as (_, file):
        writer = None
        for ids, found in _blocks(vectors, stop):
            columns = {
                "token": pa.array([_as_utf8(t) for t in vectors.vocabulary.decode(ids)]),
                "id": pa.array(ids),
                **({} if counts is None else {"count": pa.array(counts[ids])}),
                "norm": pa.array(_norms(found)),
                "x": pa.array(places[ids, 0], from_pandas=True),  # NaN is null
                "y": pa.array(places[ids, 1], from_pandas=True),
                "neighbors": _neighbours(pa, vectors, ids, found, count, stop),
            }
            if rows:
                columns["vector"] = _lists(pa, found.reshape(len(found), -1).astype(np.float32))
            table = pa.table(columns)
            if writer is None:
                writer = parquet.ParquetWriter(file, table.schema)
            writer.write_table(table)
            if progress is not None:
                progress(int(ids[-1]) + 1, stop)
        assert writer is not None
        writer.close()
    return stop


def import_pyarrow() -> tuple[Any, Any]:
    """Return pyarrow and its Parquet.

    Raises:
        MissingLibraryError: it is not installed.
    """
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise MissingLibraryError(
            "expected the library pyarrow to write a file to explore, got none; install it: "
            'pip install "shardwise[explore]"'
        ) from None
    return pyarrow, pyarrow.parquet


def _blocks(vectors: Vectors, stop: int) -> Iterator[tuple[NDArray[np.int64], NDArray[Any]]]:
    step = max(1, min(_QUERIES, _VALUES // max(1, row_width(vectors.table))))
    for begin in range(0, stop, step):
        ids = np.arange(begin, min(begin + step, stop))
        yield ids, vectors.table.lookup(ids)


def _as_utf8(token: str) -> str:
    return token.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def _norms(rows: NDArray[Any]) -> NDArray[np.float64]:
    wide = rows.reshape(len(rows), -1).astype(np.float64)
    with np.errstate(all="ignore"):
        peaks = np.abs(wide).max(axis=1, initial=0.0)
        units = wide / np.where(peaks > 0, peaks, 1.0)[:, None]
        norms: NDArray[np.float64] = np.sqrt(np.einsum("ij,ij->i", units, units)) * peaks
    return norms


def _neighbours(
    pa: Any, vectors: Vectors, ids: NDArray[np.int64], rows: NDArray[Any], count: int, stop: int
) -> Any:
    queries = Queries(directions(rows), [[i] for i in ids.tolist()])
    found = search(vectors.table, queries, count, stop)
    near = np.stack([one for one, _ in found])
    distances = 1 - np.stack([scores for _, scores in found])
    return pa.StructArray.from_arrays(
        [_lists(pa, near), _lists(pa, distances)], names=["ids", "distances"]
    )


def _lists(pa: Any, values: NDArray[Any]) -> Any:
    """A column of lists of an array's rows."""
    count, width = values.shape
    ends = np.arange(count + 1, dtype=np.int32) * np.int32(width)
    flat = pa.array(np.ascontiguousarray(values).reshape(-1))
    return pa.ListArray.from_arrays(pa.array(ends), flat)
