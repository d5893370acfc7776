"""`KeyedVectors` and `FastTextKeyedVectors`: the questions, and the files they come from."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from shardwise._errors import OptionError, TableError
from shardwise._table import Table
from shardwise._vectors import Vectors
from shardwise._vocabulary import Vocabulary
from shardwise.gensim import _files
from shardwise.gensim._scores import Scored

_MOVED = {
    "vocab": "key_to_index, index_to_key, get_vecattr(key, attr) and set_vecattr(key, attr, val)",
    "index2word": "index_to_key",
    "index2entity": "index_to_key",
    "vectors_norm": "get_normed_vectors()",
    "syn0": "vectors",
    "syn0norm": "get_normed_vectors()",
}


class KeyedVectors(Scored):
    """Vectors by key, with the names, arguments and answers of gensim 4's class.

    Args:
        vector_size: how many values a vector has.
        count: how many vectors there should be room for.
        dtype: the dtype of the values.

    Example:
        >>> from shardwise.gensim import KeyedVectors
        >>> vectors = KeyedVectors(vector_size=2)
        >>> vectors.add_vectors(["east", "far", "north"], [[1.0, 0.0], [3.0, 4.0], [0.0, 2.0]])
        >>> [(key, round(cosine, 3)) for key, cosine in vectors.most_similar("north", topn=2)]
        [('far', 0.8), ('east', 0.0)]
        >>> vectors.key_to_index["far"], vectors.index_to_key[:2], vectors["far"].tolist()
        (1, ['east', 'far'], [3.0, 4.0])
    """

    @classmethod
    def _of(cls, vectors: Vectors) -> Self:
        made = cls.__new__(cls)
        made._start(vectors.table, vectors.vocabulary)
        made._owned = False
        made._room = np.empty((0, made.vector_size), made.dtype)
        if vectors.vocabulary.counts is not None:
            made.expandos["count"] = vectors.vocabulary.counts.copy()
        return made

    @classmethod
    def load_word2vec_format(
        cls,
        fname: str | os.PathLike[str],
        fvocab: str | os.PathLike[str] | None = None,
        binary: bool = False,
        encoding: str = "utf8",
        unicode_errors: str = "strict",
        limit: int | None = None,
        datatype: Any = np.float32,
        no_header: bool = False,
    ) -> Self:
        """Read a file of word2vec, or of GloVe (`no_header`), into memory.

        Args:
            fname: the file; it may be compressed (.gz, .bz2, .xz, .zst).
            fvocab: a text file of keys and their counts. Without it the count of the first key is
                the number of keys, of the next one less, and so on, as in gensim.
            binary: the file's values are binary.
            encoding: of the keys.
            unicode_errors: what is done about keys that are not so encoded; see `bytes.decode`.
            limit: read the first vectors only, so many.
            datatype: the dtype of the values in memory.
            no_header: the file is text without the line that has its size.

        Raises:
            FormatError: the file is not what it should be; it is a ValueError.
            OptionError: an option cannot have this value.
            OSError: the file cannot be opened.
        """
        found = _files.read(fname, binary, encoding, unicode_errors, limit, no_header)
        made = cls._of(Vectors(Table.from_array(_files.rows(found, datatype)), found.vocabulary))
        if fvocab is not None:
            counts = _files.counts(fvocab, encoding, unicode_errors, made.key_to_index)
        else:
            counts = np.arange(len(made), 0, -1)
        made.expandos["count"] = counts
        return made

    def save_word2vec_format(
        self,
        fname: str | os.PathLike[str],
        fvocab: str | os.PathLike[str] | None = None,
        binary: bool = False,
        total_vec: int | None = None,
        write_header: bool = True,
        prefix: str = "",
        append: bool = False,
        sort_attr: str = "count",
    ) -> None:
        """Write a file of word2vec, or of GloVe (without `write_header`), with float32 values.

        A file that is there is replaced: at the end, and as a whole.

        Args:
            fname: the file; by its name it is compressed (.gz, .bz2, .xz, .zst).
            fvocab: write the keys and their `sort_attr` to this file, too.
            binary: write the values as binary.
            total_vec: not supported.
            write_header: begin a file of text with the line that has its size.
            prefix: is put before each key.
            append: not supported.
            sort_attr: the keys with the largest one come first. Without such an attribute they
                come by position.

        Raises:
            OptionError: an option is not supported, or the format cannot hold a key.
            OSError: the file cannot be written.
        """
        if append or total_vec not in (None, len(self)) or (binary and not write_header):
            raise OptionError(
                "expected one whole file to write, got append, total_vec, or binary without its "
                "header; add the vectors of both to one KeyedVectors, and write that"
            )
        order = None
        column = self.expandos.get(sort_attr)
        if column is not None:
            order = np.argsort(-column.astype(np.float64), kind="stable")
        vocabulary = self._keys.vocabulary()
        if order is not None or prefix:
            names = list(vocabulary) if order is None else vocabulary.decode(order)
            vocabulary = Vocabulary([prefix + name for name in names])
        _files.write(fname, self._table, vocabulary, order, binary, write_header)
        if fvocab is not None:
            if column is None:
                raise KeyError(sort_attr)
            values = column if order is None else column[order]
            _files.write_counts(fvocab, vocabulary, values)

    @classmethod
    def load(cls, fname: str | os.PathLike[str], mmap: str | None = None) -> Any:
        """Open a table's directory: what `save` wrote, or `shardwise convert`, or `Vectors.save`.

        Nothing is read before it is looked up. The directory never changes by what is done to the
        vectors: rows that change are copied into memory first.

        Args:
            fname: the directory.
            mmap: None, "r" or "c", which all do the same.

        Returns:
            `KeyedVectors`, or `FastTextKeyedVectors` where there are rows of n-grams.

        Raises:
            FormatError: it is a file, such as gensim's pickles. Nothing is unpickled: the message
                says how to convert it.
            TableNotFoundError: there is no table; it is a FileNotFoundError.
            StoreError: the table is broken.
        """
        if mmap not in (None, "r", "c"):
            raise OptionError(f'expected mmap as None, "r" or "c", got {mmap!r}; see Table.open')
        _files.refuse_file(fname)
        vectors = Vectors.open(fname)
        if vectors._subwords is not None:
            return FastTextKeyedVectors._of(vectors)
        return cls._of(vectors)

    def save(
        self,
        fname: str | os.PathLike[str],
        separately: Any = None,
        sep_limit: int = 0,
        ignore: Any = frozenset(),
        pickle_protocol: int = 0,
    ) -> None:
        """Write a table's directory, which `load`, `Vectors.open` and `Table.open` can open.

        A table that is there is replaced. Of attributes, "count" is kept. The arguments after the
        first are gensim's, and do nothing.

        Raises:
            StoreError: there is something else, or the dtype has no form on disk.
        """
        self._saved().save(fname, overwrite=True)

    def _saved(self) -> Vectors:
        vocabulary, counts = self._keys.vocabulary(), self.expandos.get("count")
        if counts is not None and counts.dtype.kind in "iu" and counts.min(initial=0) >= 0:
            vocabulary = _files.with_counts(vocabulary, counts)
        return Vectors(self._table, vocabulary)

    def vectors_for_all(
        self, keys: Iterable[Any], allow_inference: bool = True, copy_vecattrs: bool = False
    ) -> KeyedVectors:
        """Return new vectors of those of some keys that are there, each once, in their order.

        Args:
            keys: the keys.
            allow_inference: also of keys that have no row, where vectors can be made for them.
            copy_vecattrs: with their attributes.
        """
        known = [
            key
            for key in dict.fromkeys(keys)
            if (key in self if allow_inference else self.has_index_for(key))
        ]
        names = [self._name(key) for key in known]
        made = KeyedVectors(self.vector_size, len(names), self.dtype)
        if names:
            made.add_vectors(names, self._rows_of(known))
        if copy_vecattrs:
            ids = self._keys.find(made.index_to_key[:])
            for name, column in self.expandos.items():
                mine = np.zeros(len(ids), column.dtype)
                mine[ids >= 0] = column[ids[ids >= 0]]
                made.expandos[name] = mine
        return made

    def intersect_word2vec_format(
        self,
        fname: str | os.PathLike[str],
        lockf: float = 0.0,
        binary: bool = False,
        encoding: str = "utf8",
        unicode_errors: str = "strict",
    ) -> None:
        """Write the vectors that a file has of keys that are here over those of these keys.

        Args:
            fname: a file of word2vec.
            lockf: does nothing: nothing is trained here.
            binary: see `load_word2vec_format`.
            encoding: likewise.
            unicode_errors: likewise.

        Raises:
            FormatError: the file is not what it should be.
            TableError: its vectors have another number of values.
        """
        found = _files.read(fname, binary, encoding, unicode_errors, None, False)
        if found.source.shape[1] != self.vector_size:
            raise TableError(
                f"expected vectors of {self.vector_size} values in {os.fspath(fname)}, got "
                f"{found.source.shape[1]}"
            )
        ids = self._keys.find(list(found.vocabulary))
        self._own(0)
        begin = 0
        for block in found.blocks():
            mine = ids[begin : begin + len(block)]
            self._room[mine[mine >= 0]] = block[mine >= 0].astype(self.dtype)
            begin += len(block)
        self._changed()

    def init_sims(self, replace: bool = False) -> None:
        """Count the norms, or with `replace` make unit vectors of the rows; an old name."""
        if replace:
            self.unit_normalize_all()
        else:
            self.fill_norms()

    def similar_by_entity(self, key: Any, topn: int = 10) -> Any:
        """Return `similar_by_key`; an old name."""
        return self.similar_by_key(key, topn)

    def word_vec(self, word: Any, use_norm: bool = False) -> NDArray[Any]:
        """Return `get_vector`; an old name."""
        return self.get_vector(word, norm=use_norm)

    def words_closer_than(self, w1: Any, w2: Any) -> list[str]:
        """Return `closer_than`; an old name."""
        return self.closer_than(w1, w2)

    def __getattr__(self, name: str) -> Any:
        if name in _MOVED:
            raise AttributeError(
                f"the attribute {name} is gone since gensim 4; use {_MOVED[name]} instead"
            )
        if name == "wmdistance":
            raise AttributeError(
                "wmdistance is not here: it needs a solver of optimal transport; see docs/gensim.md"
            )
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")


class FastTextKeyedVectors(KeyedVectors):
    """Vectors of a fastText model: a word without a row gets the mean of those of its n-grams.

    `key in vectors` is true for every `str`; ask `key in vectors.key_to_index` for a row.
    """

    _model: Vectors
    _words: int

    @classmethod
    def _of(cls, vectors: Vectors) -> Self:
        if vectors._subwords is None:
            raise TableError(
                "expected vectors of a fastText model, got others; use KeyedVectors, or convert "
                "the model's .bin"
            )
        words = Vectors(_first(vectors.table, len(vectors)), vectors.vocabulary)
        made = super()._of(words)
        made._model = vectors
        return made

    def _infer(self, keys: list[str]) -> NDArray[Any] | None:
        return self._model.lookup(keys, unknown="subwords")

    def __contains__(self, key: Any) -> bool:
        return isinstance(key, str) or self.has_index_for(key)

    def _saved(self) -> Vectors:
        rule = self._model._subwords.fasttext if self._model._subwords else None
        assert isinstance(rule, Mapping)
        pieces = self._model.table.lookup(np.arange(len(self._model), len(self._model.table)))
        if self.vector_size != pieces.shape[1] or self.dtype != pieces.dtype:
            raise TableError(
                f"expected rows like those of the n-grams, {pieces.dtype} of {pieces.shape[1]} "
                f"values, got {self.dtype} of {self.vector_size}; save them as KeyedVectors"
            )
        words = super()._saved()
        rows = words.table.lookup(np.arange(len(words)))
        table = Table.from_array(np.concatenate([rows, pieces]))
        metadata = {"fasttext": {**rule, "words": len(words)}}
        return Vectors(table, words.vocabulary)._with_subwords(metadata, "")


def _first(table: Table, count: int) -> Table:
    """The first rows of a table: where it lies in one piece, without a copy."""
    whole = table._whole
    if whole is not None:
        return Table._make([whole[:count]], table.partition.div(count, 1), mode=None)
    return Table.from_array(table.lookup(np.arange(count)))


def load_facebook_vectors(
    path: str | os.PathLike[str], encoding: str = "utf-8"
) -> FastTextKeyedVectors:
    """Read a model of fastText (.bin, .ftz), with what makes vectors of words that it lacks.

    Args:
        path: the file.
        encoding: of the words; only UTF-8.

    Raises:
        FormatError: the file is no such model.
        OptionError: another encoding.
    """
    _files.only_utf8(encoding)
    return FastTextKeyedVectors._of(Vectors.from_file(path, format="fasttext"))
