"""Words in, vectors out: a table and the vocabulary of its rows."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from shardwise import formats, store
from shardwise._errors import TableError
from shardwise._partition import Partition, as_partition
from shardwise._table import Table
from shardwise._vocabulary import Vocabulary

if TYPE_CHECKING:
    from numpy.typing import NDArray


class Vectors:
    """A `Table` and a `Vocabulary` of as many tokens: row `i` is the vector of token `i`.

    Example:
        >>> import numpy as np
        >>> from shardwise import Table, Vectors, Vocabulary
        >>> table = Table.from_array(np.array([[0.0, 0.0], [1.0, 2.0], [3.0, 4.0]]))
        >>> vectors = Vectors(table, Vocabulary(["<unk>", "the", "country"], unknown="<unk>"))
        >>> vectors.lookup("like the country".split())
        array([[0., 0.],
               [1., 2.],
               [3., 4.]])
    """

    __slots__ = ("_table", "_vocabulary")

    def __init__(self, table: Table, vocabulary: Vocabulary) -> None:
        if len(table) != len(vocabulary):
            raise TableError(
                f"expected as many tokens as rows, got {len(vocabulary)} tokens and "
                f"{len(table)} rows"
            )
        self._table = table
        self._vocabulary = vocabulary

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> Vectors:
        """Open vectors on disk by memory map: nothing is read before it is looked up.

        Raises:
            TableNotFoundError: there is no table at `path`.
            StoreError: the table is broken or of a newer version.
            TableError: the table has no vocabulary; open it with `Table.open`.
        """
        stored = store.open_table(path)
        if stored.vocabulary is None:
            raise TableError(
                f"expected a table with a vocabulary at {os.fspath(path)}, got one without; "
                "open it with Table.open"
            )
        return cls(stored.table, stored.vocabulary)

    @classmethod
    def from_file(
        cls,
        path: str | os.PathLike[str],
        *,
        shards: int = 1,
        partition: str = "mod",
        limit: int | None = None,
        unknown: str | None = None,
    ) -> Vectors:
        """Read a file of vectors (word2vec text or binary, GloVe text) into memory, as float32.

        Args:
            path: the file; its format is found out by what is in it.
            shards: on how many shards the rows are dealt.
            partition: "mod" or "div".
            limit: read that many rows from the beginning only.
            unknown: the token of the file that stands for tokens that it does not have.

        Raises:
            FormatError: the file is not what its format promises.
        """
        source = formats.open(path, limit=limit, unknown=unknown)
        table = Table.from_array(source.read(), shards, partition, copy=True)
        return cls(table, source.vocabulary)

    def save(
        self,
        path: str | os.PathLike[str],
        *,
        dtype: Any = None,
        overwrite: bool = False,
        metadata: Mapping[str, Any] | None = None,
        progress: Callable[[int, int], object] | None = None,
    ) -> None:
        """Write table and vocabulary to a directory; whole or, on any failure, not at all.

        Args:
            path: the directory; it is made.
            dtype: what the rows are stored as, by default as they are.
            overwrite: replace a table that is there.
            metadata: any JSON object, kept with the table.
            progress: called with (rows done, rows in all).

        Raises:
            TableExistsError: there is a table already, and `overwrite` is false.
            StoreError: the dtype has no form on disk.
        """
        store.write_table(
            path,
            self._table,
            vocabulary=self._vocabulary,
            dtype=dtype,
            overwrite=overwrite,
            metadata=metadata,
            progress=progress,
        )

    @property
    def table(self) -> Table:
        """The rows."""
        return self._table

    @property
    def vocabulary(self) -> Vocabulary:
        """The tokens."""
        return self._vocabulary

    def lookup(
        self,
        tokens: str | Sequence[Any] | NDArray[Any],
        *,
        out: NDArray[Any] | None = None,
        max_norm: float | None = None,
    ) -> NDArray[Any]:
        """Return the rows of tokens: an array of shape `tokens.shape + table.shape[1:]`.

        Args:
            tokens: one token, or tokens in a (nested, rectangular) sequence or array; to look up a
                sentence, split it: `lookup("like the country".split())`.
            out: see `Table.lookup`.
            max_norm: see `Table.lookup`.

        Raises:
            UnknownTokenError: tokens are not in the vocabulary, and it has no unknown token.
        """
        return self._table.lookup(self._vocabulary.encode(tokens), out=out, max_norm=max_norm)

    def __getitem__(self, tokens: str | Sequence[Any] | NDArray[Any]) -> NDArray[Any]:
        """Return `lookup(tokens)`."""
        return self.lookup(tokens)

    def __contains__(self, token: object) -> bool:
        return token in self._vocabulary

    def __len__(self) -> int:
        return len(self._vocabulary)

    def __repr__(self) -> str:
        return f"Vectors({self._table!r}, {self._vocabulary!r})"


def convert(
    source: str | os.PathLike[str],
    path: str | os.PathLike[str],
    *,
    shards: int = 1,
    partition: str | Partition = "mod",
    dtype: Any = None,
    format: Any = None,
    dim: int | None = None,
    limit: int | None = None,
    unknown: str | None = None,
    overwrite: bool = False,
    progress: Callable[[str, int, int], object] | None = None,
) -> formats.Source:
    r"""Make a table directory of a file of vectors, block by block, in little memory.

    Args:
        source: word2vec text or binary, or GloVe text.
        path: the directory that is made; see `Table.save`.
        shards: on how many shards the rows are dealt.
        partition: "mod", "div", or a `Partition` of as many rows.
        dtype: what the rows are stored as, float32 by default.
        format: None finds out by what is in the file; see `shardwise.formats.open`.
        dim: the number of values a row, found out by default.
        limit: read that many rows from the beginning only.
        unknown: the token of the file that stands for tokens that it does not have.
        overwrite: replace a table that is there.
        progress: called with ("read", bytes done, bytes in all), then with ("write", rows done,
            rows in all).

    Returns:
        What was read: its `format`, `shape`, `vocabulary` and the number of `duplicates`, rows
        left out because their token had come before.

    Raises:
        FormatError: the file is not what its format promises.
        TableExistsError: there is a table already, and `overwrite` is false.
        StoreError: the dtype has no form on disk.
        PartitionError: there is no such partition.
        OptionError: the dtype cannot hold the values.

    Example:
        >>> import pathlib, tempfile, shardwise
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     text = pathlib.Path(folder, "tiny.txt")
        ...     _ = text.write_text("like 1 2\nthe 3 4\ncountry 5 6\n")
        ...     _ = shardwise.convert(text, f"{folder}/tiny", shards=3)
        ...     shardwise.Vectors.open(f"{folder}/tiny").lookup(["the", "country"])
        array([[3., 4.],
               [5., 6.]], dtype=float32)
    """
    # What is sure to fail should not fail after a long file was read.
    if not overwrite:
        store.refuse_existing(path)
    stored = store.storable_dtype("float32" if dtype is None else dtype)
    if isinstance(partition, Partition):
        shards = partition.num_shards
    else:
        as_partition(partition, 0, shards)
    notify = progress or (lambda stage, done, total: None)
    found = formats.open(
        source,
        format=format,
        dim=dim,
        limit=limit,
        unknown=unknown,
        progress=lambda done, total: notify("read", done, total),
    )
    store.write_blocks(
        path,
        found.blocks(),
        shape=found.shape,
        dtype=stored,
        partition=as_partition(partition, found.shape[0], shards),
        vocabulary=found.vocabulary,
        overwrite=overwrite,
        progress=lambda done, total: notify("write", done, total),
    )
    return found
