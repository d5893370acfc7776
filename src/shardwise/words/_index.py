"""An approximate index of neighbours, by usearch: a graph that is searched in place of all rows.

The graph names candidates; their scores are then counted from the table's rows, as the exact
search counts them. What an index can get wrong is to miss a neighbour: `recall` measures how often.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from contextlib import closing
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from shardwise._errors import (
    MissingLibraryError,
    OptionError,
    StoreError,
    TableError,
    TableNotFoundError,
    is_one_of,
)
from shardwise._runtime import num_threads
from shardwise._safetensors import make_header, map_tensors
from shardwise.formats._write import replacing
from shardwise.store._files import FileReader, is_large
from shardwise.store._manifest import DataFile, Manifest, read_manifest
from shardwise.words import _neighbours
from shardwise.words._search import Floats, Ids, Queries, check_rows, directions, row_width, search

if TYPE_CHECKING:
    from shardwise._table import Table
    from shardwise._vectors import Vectors

NAME = "index.safetensors"
_VERSION = 1
_DTYPES = ("f32", "f16", "bf16", "i8")
_SPARE = 20  # candidates beyond those asked for: their order by rounded values is not the true one
_MOST = 4096  # rows that are put in at once; an interruption is heard between them
_BLOCK_BYTES = 8 << 20  # of a file, read at once
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
        state = _state(self.vectors)
        if state != self._made_of:
            raise StoreError(
                f"expected the table at {_origin(self.vectors)[0]} as it was when this index was "
                "made of it, got one written to since; build it again with index(rebuild=True)"
            )
        _save(self._graph, os.fspath(path), state)

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
    state, folder = _state(vectors), _origin(vectors)[0]
    where = os.path.join(folder, NAME) if path is None else os.fspath(path)
    if os.path.exists(where) and not rebuild:
        return _open(library, vectors, where, state, expansion_search)
    if not os.access(os.path.dirname(where) or ".", os.W_OK):
        raise TableNotFoundError(
            f"expected a directory that can be written to for {where}, got none; pass path=, the "
            "file to keep the index in"
        )
    graph = _build(library, vectors, settings, progress)
    if _state(vectors) != state:
        raise StoreError(
            f"expected the table at {folder} to stay as it is while it is indexed, got one that "
            "changed; stop what writes to it, and try again"
        )
    _save(graph, where, state)
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


def _origin(vectors: Vectors) -> tuple[str, Manifest]:
    """The directory of a table on disk, and what it held when it was opened."""
    if vectors._origin is None:
        raise TableError(
            "expected vectors that were opened from a table on disk, to keep an index of them in "
            "a file, got ones in memory; save them, and open them with Vectors.open"
        )
    return vectors._origin


def _state(vectors: Vectors) -> dict[str, Any]:
    """What tells a table on disk from what it was before, and from others."""
    path, opened = _origin(vectors)
    manifest = read_manifest(path)
    if not _is_same(manifest, opened):
        raise TableError(
            f"expected the table at {path} as it was when it was opened, got one written since; "
            "open it again with Vectors.open"
        )
    # A file that was changed in place has no checksum, and its time does not tell: what is written
    # through a map does not always set it.
    files = [entry.xxh128 or _digest(path, entry) for entry in manifest.data_files()]
    return {
        "shape": list(manifest.shape),
        "dtype": manifest.dtype,
        # The same files are other rows where they are dealt out in another way.
        "partition": manifest.partition.to_json(),
        "files": files,
    }


def _digest(path: str, entry: DataFile) -> str:
    """Return the checksum of a data file as it is now."""
    import xxhash

    digest = xxhash.xxh3_128()
    with closing(FileReader(path, entry, release=is_large(entry.bytes))) as reader:
        block = np.empty(min(_BLOCK_BYTES, reader.size), np.uint8)
        for offset in range(0, reader.size, _BLOCK_BYTES):
            part = block[: reader.size - offset]
            reader.read(offset, part)
            digest.update(part.data)
    return digest.hexdigest()


def _is_same(manifest: Manifest, opened: Manifest) -> bool:
    """Whether a directory holds the table that was opened, or that one changed in place.

    The generation does not tell it alone: a directory that was removed and made again counts anew.
    """
    now, then = (
        (m.generation, m.shape, m.dtype, m.partition, [e.file for e in m.data_files()])
        for m in (manifest, opened)
    )
    digests = zip(manifest.data_files(), opened.data_files(), strict=False)
    return now == then and all(a.xxh128 in (None, b.xxh128) or b.xxh128 is None for a, b in digests)


def _save(graph: Any, path: str, state: dict[str, Any]) -> None:
    import xxhash

    data = np.frombuffer(graph.save(), np.uint8)
    about = {
        "version": _VERSION,
        "library": "usearch",
        "dtype": str(graph.dtype.name).lower(),
        "rows": len(graph),
        "xxh128": xxhash.xxh3_128_hexdigest(data.data),
        "table": state,
    }
    text = np.frombuffer(json.dumps(about).encode(), np.uint8)
    tensors = {"graph": data, "about": text}
    header = make_header({name: (a.dtype, a.shape) for name, a in tensors.items()})
    with replacing(path, overwrite=True) as (_, file):
        for part in (header, data.data, text.data):
            file.write(part)


def _open(
    library: Any, vectors: Vectors, path: str, state: dict[str, Any], expansion: int
) -> Index:
    import xxhash

    tensors = map_tensors(path)
    try:
        about = json.loads(bytes(tensors["about"]))
        data = tensors["graph"]
        version, stored = about["version"], about["table"]
        if version != _VERSION:
            raise StoreError(
                f"expected an index of version {_VERSION} at {path}, got {version!r:.40}; build it "
                "again with index(rebuild=True)"
            )
        if stored != state:
            raise StoreError(
                f"the index at {path} is stale: expected one of the table as it is now, got one of "
                "another or earlier one; build it again with index(rebuild=True)"
            )
        # A graph is followed without looking, so one that was damaged must not be.
        if about["xxh128"] != xxhash.xxh3_128_hexdigest(data.data):
            raise ValueError("expected the graph to have the checksum that the file says")
        graph = library.Index(ndim=row_width(vectors.table), metric="ip", dtype=about["dtype"])
        graph.view(data.data)
        graph.expansion_search = expansion
        if len(graph) != about["rows"] or graph.ndim != row_width(vectors.table):
            raise ValueError(f"expected {about['rows']} rows in the graph, got {len(graph)}")
    except StoreError:
        raise
    except (KeyError, TypeError, ValueError, RuntimeError, RecursionError) as error:
        what = f"expected {error}, got none" if isinstance(error, KeyError) else str(error)
        raise StoreError(
            f"{path} is broken: {what}; build it again with index(rebuild=True)"
        ) from None
    return Index(vectors, graph, path, state, data)
