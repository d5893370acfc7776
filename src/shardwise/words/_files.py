"""Vectors from tables and files, and back: what a table and a vocabulary must be to fit."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from shardwise import formats, store
from shardwise._errors import TableError
from shardwise._table import Table
from shardwise._vocabulary import Vocabulary

if TYPE_CHECKING:
    from shardwise._vectors import Vectors


def check_parts(table: Table, vocabulary: Vocabulary) -> None:
    """Refuse what is no table and no vocabulary, or a table with too few rows.

    Raises:
        TableError: they are so.
    """
    for name, given, wanted in (
        ("table", table, Table),
        ("vocabulary", vocabulary, Vocabulary),
    ):
        if not isinstance(given, wanted):
            raise TableError(
                f"expected {name} as a {wanted.__name__}, got {type(given).__name__}; make one "
                "with Table.from_array(rows), Vocabulary(tokens)"
            )
    if len(table) < vocabulary.num_ids:
        raise TableError(
            f"expected a row for each token and for unknown ones, {vocabulary.num_ids} for "
            f"{vocabulary!r:.200}, got {len(table)}"
            if len(table) >= len(vocabulary)
            else f"expected a row for each token, got {len(vocabulary)} tokens and "
            f"{len(table)} rows"
        )


def stored_at(path: str | os.PathLike[str]) -> tuple[Table, Vocabulary, store.Manifest]:
    """Open a table with a vocabulary, and say what its directory holds; see `Vectors.open`."""
    stored = store.open_table(path)
    if stored.vocabulary is None:
        raise TableError(
            f"expected a table with a vocabulary at {os.fspath(path)}, got one without; "
            "open it with Table.open"
        )
    return stored.table, stored.vocabulary, stored.manifest


def read_file(
    path: str | os.PathLike[str], shards: int, partition: str, **options: Any
) -> tuple[Table, Vocabulary, Mapping[str, Any]]:
    """Read a file of vectors, and what else it says; see `Vectors.from_file`."""
    source = formats.open(path, **options)
    if source.vocabulary is None:
        raise TableError(
            f"expected a file with tokens at {os.fspath(path)}, got rows alone "
            f"({source.format}); make a table of it with shardwise.convert, and open it with "
            "Table.open"
        )
    table = Table.from_array(source.read(), shards, partition, copy=True)
    return table, source.vocabulary, source.metadata


def save(
    vectors: Vectors,
    path: str | os.PathLike[str],
    dtype: Any,
    overwrite: bool,
    metadata: Mapping[str, Any] | None,
    progress: Callable[[int, int], object] | None,
) -> None:
    """Write table, vocabulary and the rule for unknown words; see `Vectors.save`."""
    if vectors._subwords is not None:
        metadata = {"fasttext": vectors._subwords.fasttext, **(metadata or {})}
    store.write_table(
        path,
        vectors.table,
        vocabulary=vectors.vocabulary,
        dtype=dtype,
        overwrite=overwrite,
        metadata=metadata,
        progress=progress,
    )
