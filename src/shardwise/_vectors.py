"""Words in, vectors out: a table and the vocabulary of its rows."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from shardwise import _evaluate, _neighbours, formats, store
from shardwise._errors import OptionError, TableError
from shardwise._subwords import Subwords
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

    __slots__ = ("_subwords", "_table", "_vocabulary")

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
        self._subwords: Subwords | None = None

    def _with_subwords(self, metadata: Mapping[str, Any], place: str) -> Vectors:
        """Take the rule for unknown words that a model of fastText left in its metadata."""
        if "fasttext" in metadata:
            self._subwords = Subwords(metadata["fasttext"], self._table, self._vocabulary, place)
        return self

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
        vectors = cls(stored.table, stored.vocabulary)
        return vectors._with_subwords(stored.manifest.metadata, os.fspath(path))

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
        vectors = cls(
            Table.from_array(source.read(), shards, partition, copy=True), source.vocabulary
        )
        return vectors._with_subwords(source.metadata, os.fspath(path))

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
            metadata: any JSON object, kept with the table. What a model of fastText says about
                its n-grams is kept too, so that `lookup(unknown="subwords")` goes on.
            progress: called with (rows done, rows in all).

        Raises:
            TableExistsError: there is a table already, and `overwrite` is false.
            StoreError: the dtype has no form on disk.
        """
        if self._subwords is not None:
            metadata = {"fasttext": self._subwords.fasttext, **(metadata or {})}
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
        unknown: Literal["subwords"] | None = None,
        out: NDArray[Any] | None = None,
        max_norm: float | None = None,
    ) -> NDArray[Any]:
        """Return the rows of tokens: an array of shape `tokens.shape + table.shape[1:]`.

        Args:
            tokens: one token, or tokens in a (nested, rectangular) sequence or array; to look up a
                sentence, split it: `lookup("like the country".split())`.
            unknown: what stands for tokens outside the vocabulary. None: its unknown token.
                "subwords", for vectors of a fastText model (`from_file`, or a table that
                `shardwise.convert` made): the mean of the rows of the word's n-grams, which is what
                fastText's `getWordVector` gives, bit for bit where the rows are float32; zeros for
                a word without n-grams. It is computed in float32 and given in the table's dtype.
            out: see `Table.lookup`.
            max_norm: see `Table.lookup`.

        Raises:
            UnknownTokenError: tokens are not in the vocabulary, and it has no unknown token.
            OptionError: `unknown` is not one of its values.
            TableError: "subwords", and the vectors have no rows of n-grams.
            StoreError: "subwords", and what the table says about them is damaged.
            VocabularyError: "subwords", and a word is too long.
        """
        if unknown is not None:
            if unknown != "subwords":
                raise OptionError(f"expected unknown as 'subwords' or None, got {unknown!r:.40}")
            if self._subwords is None:
                raise TableError(
                    "expected vectors of a fastText model for unknown='subwords', got others; "
                    "open the model's .bin with Vectors.from_file, or convert it to a table"
                )
            return self._subwords.lookup(tokens, out, max_norm)
        return self._table.lookup(self._vocabulary.encode(tokens), out=out, max_norm=max_norm)

    def most_similar(
        self, positive: Any, negative: Any = (), topn: int = 10, *, restrict: int | None = None
    ) -> list[Any]:
        """Return the tokens whose rows have the largest cosine to the mean of words.

        The search is exact, over blocks of rows: tables may be larger than memory. The words of
        the query are no answers, and rows without a token are not either. Of equal scores the
        lower id comes first. A row of zeros, or with a NaN or an infinity, has similarity 0.

        Args:
            positive: a word or a list of them; instead of a word may stand a (word, weight) pair,
                or a vector as an array of the shape of a row. Words count as unit vectors, vectors
                as they are. A list of lists is a batch of queries, which is much faster than one
                by one.
            negative: likewise, with the weight -1. For a batch, a list of as many lists.
            topn: how many.
            restrict: search the first tokens only, so many.

        Returns:
            A list of `Neighbour(token, score)`, best first; for a batch a list of such lists.

        Raises:
            UnknownTokenError: a word is not in the vocabulary; the unknown token stands for none.
            OptionError: a query is empty, or `topn` or `restrict` is no such number.
            TableError: the rows are not of real numbers, or a vector has another shape.

        Example:
            >>> import numpy as np
            >>> from shardwise import Table, Vectors, Vocabulary
            >>> rows = np.array([[1.0, 0.0], [3.0, 4.0], [0.0, 2.0]])
            >>> vectors = Vectors(Table.from_array(rows), Vocabulary(["east", "far", "north"]))
            >>> vectors.most_similar("north")
            [Neighbour(token='far', score=0.8), Neighbour(token='east', score=0.0)]
        """
        return _neighbours.most_similar(self, positive, negative, topn, restrict)

    def most_similar_cosmul(
        self, positive: Any, negative: Any = (), topn: int = 10, *, restrict: int | None = None
    ) -> list[Any]:
        """Return the tokens that score best by 3CosMul (Levy and Goldberg, 2014, equation 4).

        The score is the product of (1 + cosine) / 2 to each positive word, divided by 0.000001
        plus that to each negative one. All else is as with `most_similar`, but that there are no
        weights, and that vectors count as unit vectors, too.

        Raises:
            UnknownTokenError: a word is not in the vocabulary.
            OptionError: a query has no positive word, or a weight; or an option is no number.
            TableError: the rows are not of real numbers, or a vector has another shape.
        """
        return _neighbours.most_similar_cosmul(self, positive, negative, topn, restrict)

    def similar_by_vector(
        self, vector: Any, topn: int = 10, *, restrict: int | None = None
    ) -> list[Any]:
        """Return the tokens whose rows have the largest cosine to a vector.

        Args:
            vector: an array of the shape of a row, or a batch of them, (queries, ...).
            topn: how many.
            restrict: search the first tokens only, so many.

        Returns:
            As `most_similar`.

        Raises:
            OptionError: `topn` or `restrict` is no such number.
            TableError: the rows are not of real numbers, or a vector has another shape.
        """
        return _neighbours.similar_by_vector(self, vector, topn, restrict)

    def analogy(
        self, a: Any, b: Any, c: Any, topn: int = 10, *, restrict: int | None = None
    ) -> list[Any]:
        """Return what is to `c` as `b` is to `a`: `most_similar([b, c], [a])`.

        Args:
            a: a word, or a list of words: a batch.
            b: likewise.
            c: likewise.
            topn: how many.
            restrict: search the first tokens only, so many.

        Raises:
            UnknownTokenError: a word is not in the vocabulary.
            OptionError: the lists are not of one length, or an option is no such number.
            TableError: the rows are not of real numbers.
        """
        return _neighbours.analogy(self, a, b, c, topn, restrict)

    def similarity(self, a: Any, b: Any) -> Any:
        """Return the cosine of two words, or of each word of a list to each of another.

        Args:
            a: a word, or a list of words.
            b: likewise.

        Returns:
            A `float` for two words; float64 of shape (words,) for a word and a list, and of shape
            (words of a, words of b) for two lists.

        Raises:
            UnknownTokenError: a word is not in the vocabulary.
            TableError: the rows are not of real numbers.
        """
        return _neighbours.similarity(self, a, b)

    def distances(self, word: Any, others: Any = None) -> NDArray[Any]:
        """Return 1 - cosine of a word to each of some words, or to every token by its id.

        Args:
            word: a word, or a vector as an array of the shape of a row.
            others: words; by default all tokens.

        Returns:
            Floats of shape (words,), or (len(vectors),).

        Raises:
            UnknownTokenError: a word is not in the vocabulary.
            TableError: the rows are not of real numbers, or the vector has another shape.
        """
        return _neighbours.distances(self, word, others)

    def rank(self, a: str, b: str) -> int:
        """Return 1 + how many tokens are nearer to `a` than `b` is, without `a` itself.

        Raises:
            UnknownTokenError: a word is not in the vocabulary.
            TableError: the rows are not of real numbers.
        """
        return len(_neighbours.closer_ids(self, a, b)) + 1

    def closer_than(self, a: str, b: str) -> list[str]:
        """Return the tokens that are nearer to `a` than `b` is, without `a`, in order of their ids.

        Raises:
            UnknownTokenError: a word is not in the vocabulary.
            TableError: the rows are not of real numbers.
        """
        return self._vocabulary.decode(_neighbours.closer_ids(self, a, b))

    def doesnt_match(self, words: Any) -> str:
        """Return the word that is furthest from the mean of words, as unit vectors.

        Raises:
            UnknownTokenError: a word is not in the vocabulary.
            OptionError: there are no words, or one `str`.
            TableError: the rows are not of real numbers.
        """
        return _neighbours.doesnt_match(self, words)

    def evaluate_pairs(
        self,
        path: str | os.PathLike[str],
        *,
        restrict: int | None = 300_000,
        case_insensitive: bool = True,
    ) -> _evaluate.PairScores:
        """Compare the cosines of word pairs with people's scores.

        Args:
            path: a text file, a line each: two words and a score, and what else may follow, with
                tabs between, or else spaces. Lines that are not so, such as a header, and those
                that begin with "#" are passed over.
            restrict: know the first tokens only, so many; None knows all.
            case_insensitive: compare words in upper case; of several tokens the first counts.

        Returns:
            Pearson's and Spearman's correlations and how many pairs they are of.

        Raises:
            FormatError: the file has no such line.
            TableError: the rows are not of real numbers.
        """
        return _evaluate.evaluate_pairs(
            self, path, restrict=restrict, case_insensitive=case_insensitive
        )

    def evaluate_analogies(
        self,
        path: str | os.PathLike[str],
        *,
        restrict: int | None = 30_000,
        case_insensitive: bool = True,
    ) -> _evaluate.AnalogyScores:
        """Count how many analogies are answered rightly, by section and in all.

        A question is right where its fourth word is the first answer of `analogy` that is none of
        the first three. Questions with an unknown word are not asked.

        Args:
            path: a text file, as word2vec's `questions-words.txt`: sections begin with ": name",
                other lines have four words.
            restrict: know and search the first tokens only, so many; None takes all.
            case_insensitive: compare words in upper case; of several tokens the first counts.

        Raises:
            FormatError: the file has no line of four words.
            TableError: the rows are not of real numbers.
        """
        return _evaluate.evaluate_analogies(
            self, path, restrict=restrict, case_insensitive=case_insensitive
        )

    def __getitem__(self, tokens: str | Sequence[Any] | NDArray[Any]) -> NDArray[Any]:
        """Return `lookup(tokens)`."""
        return self.lookup(tokens)

    def __contains__(self, token: object) -> bool:
        return token in self._vocabulary

    def __len__(self) -> int:
        return len(self._vocabulary)

    def __repr__(self) -> str:
        return f"Vectors({self._table!r}, {self._vocabulary!r})"
