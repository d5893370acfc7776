"""Words in, vectors out: a table and the vocabulary of its rows."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from shardwise import formats, store
from shardwise._errors import TableError
from shardwise._table import Table
from shardwise._vocabulary import Vocabulary

if TYPE_CHECKING:
    from numpy.typing import NDArray


class Vectors:
    """A `Table` and a `Vocabulary`: row `i` is the vector of token `i`.

    There may be more rows than tokens; the last rows then have none, and `len(vectors)` is the
    number of tokens.

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
        for name, given, wanted in (
            ("table", table, Table),
            ("vocabulary", vocabulary, Vocabulary),
        ):
            if not isinstance(given, wanted):
                raise TableError(
                    f"expected {name} as a {wanted.__name__}, got {type(given).__name__}; make one "
                    "with Table.from_array(rows), Vocabulary(tokens)"
                )
        if len(table) < len(vocabulary):
            raise TableError(
                f"expected a row for each token, got {len(vocabulary)} tokens and {len(table)} rows"
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
        format: str | None = None,
        tensor: str | None = None,
        tokens: str | None = None,
        dim: int | None = None,
        limit: int | None = None,
        unknown: str | None = None,
    ) -> Vectors:
        """Read a file of vectors into memory; see `shardwise.formats.open` for what can be read.

        Args:
            path: the file; its format is found out by what is in it.
            shards: on how many shards the rows are dealt.
            partition: "mod" or "div".
            format: one of `shardwise.formats.FORMATS`, if it is not to be found out.
            tensor: the tensor, array, variable or column with the rows, where there are several.
            tokens: the array or column with the tokens, likewise.
            dim: the number of values a row, found out by default.
            limit: read that many rows from the beginning only.
            unknown: the token of the file that stands for tokens that it does not have.

        Raises:
            FormatError: the file is not what its format promises.
            TableError: it has no tokens.
            OptionError: an option cannot have this value.
            MissingLibraryError: its format needs a library that is not installed.
        """
        source = formats.open(
            path,
            format=format,
            tensor=tensor,
            tokens=tokens,
            dim=dim,
            limit=limit,
            unknown=unknown,
        )
        if source.vocabulary is None:
            raise TableError(
                f"expected a file with tokens at {os.fspath(path)}, got rows alone "
                f"({source.format}); make a table of it with shardwise.convert, and open it with "
                "Table.open"
            )
        return cls(Table.from_array(source.read(), shards, partition, copy=True), source.vocabulary)

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
