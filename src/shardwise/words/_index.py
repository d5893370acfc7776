"""An approximate index of neighbours, by usearch: a graph that is searched in place of all rows.

The graph names candidates; their scores are then counted from the table's rows, as the exact
search counts them. What an index can get wrong is to miss a neighbour: `recall` measures how often.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from shardwise._errors import (
    MissingLibraryError,
    OptionError,
    StoreError,
    TableNotFoundError,
    is_one_of,
)
from shardwise._runtime import num_threads
from shardwise.words import _neighbours
from shardwise.words._index_file import open_graph, origin_of, save_graph, state_of
from shardwise.words._search import Floats, Ids, Queries, check_rows, directions, row_width, search

if TYPE_CHECKING:
    from shardwise._table import Table
    from shardwise._vectors import Vectors

NAME = "index.safetensors"
_DTYPES = ("f32", "f16", "bf16", "i8")
_SPARE = 20  # candidates beyond those asked for: their order by rounded values is not the true one
_MOST = 4096  # rows that are put in at once; an interruption is heard between them
_REPAIR = 64  # expansion of the search for rows that cannot be found
_SAME = 1e-3  # distance of rows that are the same, whatever the dtype of the graph
_ALONE = 1024  # first rows, put in by one thread: several at once leave some that are not found
_Progress = Callable[[int, int], object]


class Index:
    """An approximate index of the rows of tokens, made and opened by `Vectors.index`.

    Attributes:
        vectors: what it is an index of.
        path: the file, or None.

    Example:
        >>> import numpy as np
        >>> from shardwise import Table, Vectors, Vocabulary
        >>> rows = np.array([[1.0, 0.0], [3.0, 4.0], [0.0, 2.0]])
        >>> vectors = Vectors(Table.from_array(rows), Vocabulary(["east", "far", "north"]))
        >>> index = vectors.index()
        >>> index.most_similar("north", topn=1)
        [Neighbour(token='far', score=0.8)]
        >>> index.recall(queries=3, topn=2)
        1.0
    """

    __slots__ = ("_graph", "_kept", "_made_of", "path", "vectors")

    def __init__(
        self,
        vectors: Vectors,
        graph: Any,
        path: str | None,
        made_of: dict[str, Any] | None = None,
        kept: Any = None,
    ) -> None:
        self.vectors = vectors
        self.path = path
        self._graph = graph
        self._made_of = made_of  # the table on disk; None: of rows in memory
        self._kept = kept  # the mapped bytes, where the graph is one of a file

    def most_similar(
        self, positive: Any, negative: Any = (), topn: int = 10, *, as_frame: bool = False
    ) -> Any:
        """Return the tokens of the nearest rows; see `Vectors.most_similar`.

        Scores are exact. A neighbour may be missing, and the next one then takes its place.

        Raises:
            UnknownTokenError: a word is not in the vocabulary.
            OptionError: a query is empty, or `topn` is no such number.
            TableError: a vector has another shape than a row.
        """
        return _neighbours.most_similar(
            self.vectors, positive, negative, topn, None, as_frame, self._best
        )

    def similar_by_vector(self, vector: Any, topn: int = 10, *, as_frame: bool = False) -> Any:
        """Return the tokens of the rows nearest to a vector; see `Vectors.similar_by_vector`.

        Raises:
            OptionError: `topn` is no such number.
            TableError: the vector has another shape than a row.

        Example:
            >>> import numpy as np
            >>> from shardwise import Table, Vectors, Vocabulary
            >>> rows = np.array([[1.0, 0.0], [3.0, 4.0], [0.0, 2.0]])
            >>> vectors = Vectors(Table.from_array(rows), Vocabulary(["east", "far", "north"]))
            >>> vectors.index().similar_by_vector(np.array([0.0, 5.0]), topn=1)
            [Neighbour(token='north', score=1.0)]
        """
        return _neighbours.similar_by_vector(self.vectors, vector, topn, None, as_frame, self._best)

    def recall(self, queries: int = 1000, topn: int = 10, *, seed: int = 0) -> float:
        """Return the share of the true `topn` neighbours that the index finds, from 0 to 1.

        Args:
            queries: how many tokens, chosen at random, are asked for their neighbours.
            topn: how many neighbours of each.
            seed: chooses the tokens.

        Raises:
            OptionError: `queries` or `topn` is less than 1.
        """
        for name, value in (("queries", queries), ("topn", topn)):
            if type(value) is not int or value < 1:
                raise OptionError(f"expected {name} as a number from 1, got {value!r:.40}")
        table, stop = self.vectors.table, len(self.vectors)
        rng = np.random.default_rng(seed)
        ids = rng.choice(stop, min(queries, stop), replace=False)
        asked = Queries(directions(table.lookup(ids)), [[int(i)] for i in ids])
        true = search(table, asked, topn, stop)
        found = search(table, asked, topn, stop, candidates=self._best)
        hits = [np.intersect1d(a, b).size for (a, _), (b, _) in zip(true, found, strict=True)]
        wanted = sum(a.size for a, _ in true)
        return sum(hits) / wanted if wanted else 1.0

    def _best(self, queries: Queries, keep: int) -> tuple[Ids, Floats]:
        """The candidates: (ids, scores) of shape (queries, n); a score of -inf is no candidate."""
        keep = min(keep + _SPARE, max(1, len(self)))
        terms = np.ascontiguousarray(queries.terms, np.float32)
        ids = np.zeros((len(terms), keep), np.int64)
        scores = np.full((len(terms), keep), -np.inf, np.float32)
        if not len(self):
            return ids, scores
        found = self._graph.search(terms, keep, threads=num_threads())
        keys = np.asarray(found.keys).reshape(len(terms), -1)
        # Of one query the library gives as many as it found; of several it says how many of each.
        counts = np.broadcast_to(getattr(found, "counts", keys.shape[1]), len(terms))
        there = np.arange(keys.shape[1]) < counts[:, None]
        there &= keys < np.uint64(len(self.vectors))
        ids[:, : keys.shape[1]][there] = keys[there].astype(np.int64)
        scores[:, : keys.shape[1]][there] = 1.0
        return ids, scores

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the index to a file, in place of one that is there; whole or not at all.

        It can be opened again, with `Vectors.index`, for a table that is then as it is now.

        Raises:
            TableNotFoundError: there is no directory to write it in.
            TableError: the vectors are in memory alone, or were replaced where they lie.
            StoreError: the table was written to since the index was made of it.
            OSError: the file cannot be written.

        Example:
            >>> import tempfile
            >>> import numpy as np
            >>> from shardwise import Table, Vectors, Vocabulary
            >>> rows = np.array([[1.0, 0.0], [3.0, 4.0], [0.0, 2.0]])
            >>> vectors = Vectors(Table.from_array(rows), Vocabulary(["east", "far", "north"]))
            >>> with tempfile.TemporaryDirectory() as folder:
            ...     vectors.save(f"{folder}/words")
            ...     index = Vectors.open(f"{folder}/words").index(f"{folder}/words.index")
            ...     index.save(f"{folder}/copy.index")
        """
        state = state_of(self.vectors)
        if state != self._made_of:
            raise StoreError(
                f"expected the table at {origin_of(self.vectors)[0]} as it was when this index was "
                "made of it, got one written to since; build it again with index(rebuild=True)"
            )
        save_graph(self._graph, os.fspath(path), state)

    def __len__(self) -> int:
        return len(self._graph)

    def __repr__(self) -> str:
        where = "in memory" if self.path is None else f"at {self.path}"
        return f"Index({len(self)} rows of {self._graph.ndim} values, {where})"


def index(
    vectors: Vectors,
    path: str | os.PathLike[str] | None,
    *,
    rebuild: bool,
    dtype: str,
    connectivity: int,
    expansion_add: int,
    expansion_search: int,
    progress: _Progress | None,
) -> Index:
    """See `Vectors.index`."""
    library = _usearch()
    check_rows(vectors.table)
    settings = _settings(dtype, connectivity, expansion_add, expansion_search)
    if path is None and vectors._origin is None:
        return Index(vectors, _build(library, vectors, settings, progress), None)
    state, folder = state_of(vectors), origin_of(vectors)[0]
    where = os.path.join(folder, NAME) if path is None else os.fspath(path)
    if os.path.exists(where) and not rebuild:
        width = row_width(vectors.table)
        graph, kept = open_graph(library, where, state, width, expansion_search)
        return Index(vectors, graph, where, state, kept)
    if not os.access(os.path.dirname(where) or ".", os.W_OK):
        raise TableNotFoundError(
            f"expected a directory that can be written to for {where}, got none; pass path=, the "
            "file to keep the index in"
        )
    graph = _build(library, vectors, settings, progress)
    if state_of(vectors) != state:
        raise StoreError(
            f"expected the table at {folder} to stay as it is while it is indexed, got one that "
            "changed; stop what writes to it, and try again"
        )
    save_graph(graph, where, state)
    return Index(vectors, graph, where, state)


def _usearch() -> Any:
    try:
        import usearch.index
    except ImportError:
        raise MissingLibraryError(
            "expected the library usearch for an index of neighbours, got none; install it: "
            'pip install "shardwise[index]"'
        ) from None
    return usearch.index


def _settings(dtype: str, connectivity: int, add: int, search: int) -> dict[str, Any]:
    if not is_one_of(dtype, _DTYPES):
        raise OptionError(f"expected dtype as one of {', '.join(_DTYPES)}, got {dtype!r:.40}")
    numbers = {"connectivity": connectivity, "expansion_add": add, "expansion_search": search}
    for name, value in numbers.items():
        if type(value) is not int or not 2 <= value <= 1 << 16:
            raise OptionError(f"expected {name} as a number in [2, 65536], got {value!r:.40}")
    return {"dtype": dtype, **numbers}


def _build(
    library: Any, vectors: Vectors, settings: dict[str, Any], progress: _Progress | None
) -> Any:
    table, count = vectors.table, len(vectors)
    graph = library.Index(ndim=max(1, row_width(table)), metric="ip", **settings)
    step = max(1, min(_MOST, (32 << 20) // max(1, row_width(table))))
    begin = 0
    while begin < count:
        alone = begin < _ALONE
        end = min(begin + (min(step, _ALONE) if alone else step), count)
        ids, rows = _block(table, begin, end)
        if ids.size:
            graph.add(ids, rows, threads=1 if alone else num_threads())
        begin = end
        if progress is not None:
            progress(begin, count)
    if num_threads() > 1 and count > _ALONE:
        for begin in range(0, count, step):
            _repair(graph, *_block(table, begin, min(begin + step, count)))
    return graph


def _block(table: Table, begin: int, end: int) -> tuple[NDArray[np.uint64], Floats]:
    """Ids and directions of rows that follow each other; rows of zeros, near nothing, left out."""
    ids = np.arange(begin, end)
    rows = directions(table.lookup(ids)).astype(np.float32)
    some = rows.any(axis=1)
    return ids[some].astype(np.uint64), rows[some]


def _repair(graph: Any, ids: NDArray[np.uint64], rows: Floats) -> None:
    """Put those rows in again, by one thread, that do not find themselves.

    Threads that put rows in at the same time do not see each other's, and now and then no path
    is left to one: the more threads there are for a CPU, the more.
    """
    if not ids.size:
        return
    wide, graph.expansion_search = graph.expansion_search, _REPAIR
    found = graph.search(rows, 2, threads=num_threads())
    graph.expansion_search = wide
    keys = np.asarray(found.keys).reshape(len(ids), -1)
    distances = np.asarray(found.distances).reshape(len(ids), -1)
    # Rows that are the same find each other.
    lost = (keys != ids[:, None]).all(axis=1) & ~(distances[:, 0] < _SAME)
    if lost.any():
        graph.remove(ids[lost])
        graph.add(ids[lost], rows[lost], threads=1)
