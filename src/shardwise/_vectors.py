"""Words in, vectors out: a table and the vocabulary of its rows."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, overload

from shardwise._table import Table
from shardwise._vocabulary import Vocabulary
from shardwise.words import (
    _combine,
    _compare,
    _evaluate,
    _files,
    _index,
    _neighbours,
    _rows,
    _sentences,
)
from shardwise.words._index import Index
from shardwise.words._sentences import Padded, Ragged
from shardwise.words._subwords import Subwords

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from shardwise.store._manifest import Manifest


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
        >>> vectors.table.shape, list(vectors.vocabulary)
        ((3, 2), ['<unk>', 'the', 'country'])
    """

    __slots__ = ("_origin", "_subwords", "_table", "_vocabulary")

    def __init__(self, table: Table, vocabulary: Vocabulary) -> None:
        _files.check_parts(table, vocabulary)
        self._table = table
        self._vocabulary = vocabulary
        self._subwords: Subwords | None = None
        self._origin: tuple[str, Manifest] | None = None  # the directory, and what it then held

    def _with_subwords(self, metadata: Mapping[str, Any], place: str) -> Vectors:
        """Take the rule for unknown words that a model of fastText left in its metadata."""
        if "fasttext" in metadata:
            self._subwords = Subwords(metadata["fasttext"], self._table, self._vocabulary, place)
        return self

    def _with(self, table: Table, vocabulary: Vocabulary) -> Vectors:
        """Return vectors of other tokens, behind whose rows those without a token stand as here."""
        vectors = Vectors(table, vocabulary)
        if self._subwords is None:
            return vectors
        fasttext = self._subwords.fasttext
        if isinstance(fasttext, Mapping) and isinstance(fasttext.get("words"), int):
            more = len(vocabulary) - len(self)
            fasttext = {**fasttext, "words": fasttext["words"] + more}
        return vectors._with_subwords({"fasttext": fasttext}, self._subwords._place)

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> Vectors:
        """Open vectors on disk by memory map: nothing is read before it is looked up.

        Raises:
            TableNotFoundError: there is no table at `path`.
            StoreError: the table is broken or of a newer version.
            TableError: the table has no vocabulary; open it with `Table.open`.

        Example:
            >>> import tempfile
            >>> import numpy as np
            >>> from shardwise import Table, Vectors, Vocabulary
            >>> with tempfile.TemporaryDirectory() as folder:
            ...     Vectors(Table.from_array(np.eye(2)), Vocabulary(["east", "north"])).save(folder)
            ...     vectors = Vectors.open(folder)
            >>> vectors["north"], vectors.table.mode, list(vectors.vocabulary)
            (array([0., 1.]), 'r', ['east', 'north'])
        """
        table, vocabulary, manifest = _files.stored_at(path)
        vectors = cls(table, vocabulary)
        vectors._origin = os.path.realpath(path), manifest
        return vectors._with_subwords(manifest.metadata, os.fspath(path))

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
        r"""Read a file of vectors into memory; see `shardwise.formats.open` for what can be read.

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

        Example:
            >>> import pathlib, tempfile
            >>> from shardwise import Vectors
            >>> with tempfile.TemporaryDirectory() as folder:
            ...     path = pathlib.Path(folder, "tiny.vec")
            ...     _ = path.write_text("2 2\neast 1 0\nnorth 0 1\n")
            ...     vectors = Vectors.from_file(path, shards=2)
            >>> vectors["north"], vectors.table.partition.num_shards
            (array([0., 1.], dtype=float32), 2)
        """
        table, vocabulary, metadata = _files.read_file(
            path,
            shards,
            partition,
            format=format,
            tensor=tensor,
            tokens=tokens,
            dim=dim,
            limit=limit,
            unknown=unknown,
        )
        return cls(table, vocabulary)._with_subwords(metadata, os.fspath(path))

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

        Example:
            >>> import tempfile
            >>> import numpy as np
            >>> from shardwise import Table, Vectors, Vocabulary
            >>> with tempfile.TemporaryDirectory() as folder:
            ...     vectors = Vectors(Table.from_array(np.eye(2)), Vocabulary(["east", "north"]))
            ...     vectors.save(folder, dtype="float16", metadata={"made from": "eye"})
            ...     Vectors.open(folder)["north"]
            array([0., 1.], dtype=float16)
        """
        _files.save(self, path, dtype, overwrite, metadata, progress)

    @property
    def table(self) -> Table:
        """The rows."""
        return self._table

    @property
    def vocabulary(self) -> Vocabulary:
        """The tokens."""
        return self._vocabulary

    @overload
    def lookup(
        self,
        tokens: str | bytes | Sequence[Any] | NDArray[Any],
        *,
        unknown: _rows.Unknown = None,
        sentences: None = None,
        out: NDArray[Any] | None = None,
        max_norm: float | None = None,
    ) -> NDArray[Any]: ...
    @overload
    def lookup(
        self,
        tokens: Iterable[Any],
        *,
        unknown: _rows.UnknownOrSkip = None,
        sentences: Literal["padded"],
        max_length: int | None = None,
        max_norm: float | None = None,
    ) -> Padded: ...
    @overload
    def lookup(
        self,
        tokens: Iterable[Any],
        *,
        unknown: _rows.UnknownOrSkip = None,
        sentences: Literal["ragged"],
        max_length: int | None = None,
        max_norm: float | None = None,
    ) -> Ragged: ...
    def lookup(
        self,
        tokens: Any,
        *,
        unknown: Any = None,
        sentences: Literal["padded", "ragged"] | None = None,
        max_length: int | None = None,
        out: NDArray[Any] | None = None,
        max_norm: float | None = None,
    ) -> NDArray[Any] | Padded | Ragged:
        """Return the rows of tokens: an array of shape `tokens.shape + table.shape[1:]`.

        Args:
            tokens: one token, or tokens in a (nested, rectangular) sequence or array, or in an
                Arrow array. With `sentences`: a list or other iterable of sentences, each of which
                is a list, tuple or array of tokens, or one `str` that is cut at white space
                (`str.split`).
            unknown: what stands for tokens outside the vocabulary. None: what the vocabulary says.
                "error": nothing, they raise an error. "zeros": rows of zeros. "skip", with
                `sentences`: they are left out. "subwords", for vectors of a fastText model
                (`from_file`, or a table that `shardwise.convert` made): the mean of the rows of the
                word's n-grams, which is what fastText's `getWordVector` gives, bit for bit where
                the rows are float32; zeros for a word without n-grams. It is computed in float32
                and given in the table's dtype.
            sentences: "padded": return `Padded(rows, lengths)`, rows of shape (sentences, longest,
                ...) with zeros after the words of shorter sentences. "ragged": return
                `Ragged(rows, offsets)`, the rows of all words end to end.
            max_length: with `sentences`, look up the first words of each only, so many, counted
                without those that are left out.
            out: see `Table.lookup`; not with `sentences`.
            max_norm: see `Table.lookup`.

        Raises:
            UnknownTokenError: tokens are not in the vocabulary, and nothing stands for them; the
                message has the nearest spellings.
            OptionError: an option has a value that it cannot have.
            TokenTypeError: a token is neither `str` nor `bytes`, or a sentence is none.
            IdOutOfRangeError: the vocabulary gives unknown tokens an id that is no row's.
            TableError: "subwords", and the vectors have no rows of n-grams.
            StoreError: "subwords", and what the table says about them is damaged.
            VocabularyError: a token cannot be written as UTF-8, or a nest is not rectangular; or
                "subwords", and a word is too long.

        Example:
            >>> import numpy as np
            >>> from shardwise import Table, Vectors, Vocabulary
            >>> table = Table.from_array(np.array([[1.0, 2.0], [3.0, 4.0]]))
            >>> vectors = Vectors(table, Vocabulary(["the", "country"]))
            >>> vectors.lookup(["the", "roads"], unknown="zeros")
            array([[1., 2.],
                   [0., 0.]])
            >>> batch = vectors.lookup(["the country", "the"], sentences="padded")
            >>> batch.rows.shape, batch.lengths
            ((2, 2, 2), array([2, 1]))
        """
        if sentences is None and unknown is None and max_length is None:
            ids = _rows.encode(self._vocabulary, tokens)
            return self._table.lookup(ids, out=out, max_norm=max_norm)
        return _sentences.lookup(self, tokens, unknown, sentences, max_length, out, max_norm)

    def sentence(
        self,
        sentences: str | Iterable[Any],
        combiner: _sentences.Combiner = "mean",
        *,
        unknown: _rows.UnknownOrSkip = None,
    ) -> NDArray[Any]:
        """Return one row for a sentence, made of the rows of its words, or one for each of a list.

        With n words: "sum" is the sum of their rows, "mean" the sum / n, "sqrtn" the sum / sqrt(n),
        as in `tf.nn.embedding_lookup_sparse`. Rows are added in the order of the words, in float32
        (float64 for tables of it), and the result is given in the table's dtype. A sentence without
        words has zeros.

        Args:
            sentences: one `str`, which is cut at white space (`str.split`), or sentences as for
                `lookup`; the words of one sentence as a list `words` are `[words]`.
            combiner: "mean", "sum" or "sqrtn".
            unknown: as for `lookup`. Words that are left out by "skip" do not count in n, others
                do.

        Returns:
            An array of shape `table.shape[1:]` for one `str`, else (sentences, ...).

        Raises:
            UnknownTokenError: words are not in the vocabulary, and nothing stands for them.
            OptionError: an option has a value that it cannot have.
            TokenTypeError: a token is neither `str` nor `bytes`, or a sentence is none.
            TableError: rows are not of floating-point numbers; or "subwords", as for `lookup`.

        Example:
            >>> import numpy as np
            >>> from shardwise import Table, Vectors, Vocabulary
            >>> table = Table.from_array(np.array([[1.0, 2.0], [3.0, 6.0]]))
            >>> vectors = Vectors(table, Vocabulary(["the", "country"]))
            >>> vectors.sentence("the country")
            array([2., 4.])
            >>> vectors.sentence(["the old country", "country"], "sum", unknown="skip")
            array([[4., 8.],
                   [3., 6.]])
        """
        return _sentences.combine(self, sentences, combiner, unknown)

    def most_similar(
        self,
        positive: Any,
        negative: Any = (),
        topn: int = 10,
        *,
        restrict: int | None = None,
        as_frame: bool = False,
    ) -> Any:
        """Return the tokens whose rows have the largest cosine to the mean of words.

        The search is exact, over blocks of rows: tables may be larger than memory. The words of
        the query are no answers, and rows without a token are not either. Of equal scores the
        lower id comes first. A row of zeros, or with a NaN or an infinity, has similarity 0.

        Args:
            positive: a word, or a list or an array of them; instead of a word may stand a (word,
                weight) pair, or a vector as an array of the shape of a row. Words count as unit
                vectors, vectors as they are. A list of lists is a batch of queries, which is much
                faster than one by one.
            negative: likewise, with the weight -1. For a batch, a list of as many lists.
            topn: how many.
            restrict: search the first tokens only, so many.
            as_frame: give a pandas DataFrame with the columns token and score, and for a batch
                before them query, the place in the batch.

        Returns:
            A list of `Neighbour(token, score)`, best first; for a batch a list of such lists. With
            `as_frame` one DataFrame.

        Raises:
            UnknownTokenError: a word is not in the vocabulary; the unknown token stands for none.
            TokenTypeError: a word is neither `str` nor `bytes`.
            OptionError: a query is empty, or `topn` or `restrict` is no such number.
            TableError: the rows are not of real numbers, or a vector has another shape.
            MissingLibraryError: `as_frame`, and pandas is not installed.

        Example:
            >>> import numpy as np
            >>> from shardwise import Table, Vectors, Vocabulary
            >>> rows = np.array([[1.0, 0.0], [3.0, 4.0], [0.0, 2.0]])
            >>> vectors = Vectors(Table.from_array(rows), Vocabulary(["east", "far", "north"]))
            >>> vectors.most_similar("north")
            [Neighbour(token='far', score=0.8), Neighbour(token='east', score=0.0)]
        """
        return _neighbours.most_similar(self, positive, negative, topn, restrict, as_frame)

    def most_similar_cosmul(
        self,
        positive: Any,
        negative: Any = (),
        topn: int = 10,
        *,
        restrict: int | None = None,
        as_frame: bool = False,
    ) -> Any:
        """Return the tokens that score best by 3CosMul (Levy and Goldberg, 2014, equation 4).

        The score is the product of (1 + cosine) / 2 to each positive word, divided by 0.000001
        plus that to each negative one. All else is as with `most_similar`, but that there are no
        weights, and that vectors count as unit vectors, too.

        Raises:
            UnknownTokenError: a word is not in the vocabulary.
            OptionError: a query has no positive word, or a weight; or an option is no number.
            TableError: the rows are not of real numbers, or a vector has another shape.

        Example:
            >>> import numpy as np
            >>> from shardwise import Table, Vectors, Vocabulary
            >>> rows = np.array([[1.0, 0.0], [3.0, 4.0], [0.0, 2.0]])
            >>> vectors = Vectors(Table.from_array(rows), Vocabulary(["east", "far", "north"]))
            >>> [near.token for near in vectors.most_similar_cosmul(["north"], ["east"])]
            ['far']
        """
        return _neighbours.most_similar_cosmul(self, positive, negative, topn, restrict, as_frame)

    def similar_by_vector(
        self,
        vector: Any,
        topn: int = 10,
        *,
        restrict: int | None = None,
        as_frame: bool = False,
    ) -> Any:
        """Return the tokens whose rows have the largest cosine to a vector.

        Args:
            vector: an array of the shape of a row, or a batch of them, (queries, ...).
            topn: how many.
            restrict: search the first tokens only, so many.
            as_frame: as with `most_similar`.

        Returns:
            As `most_similar`.

        Raises:
            OptionError: `topn` or `restrict` is no such number.
            TableError: the rows are not of real numbers, or a vector has another shape.

        Example:
            >>> import numpy as np
            >>> from shardwise import Table, Vectors, Vocabulary
            >>> rows = np.array([[1.0, 0.0], [3.0, 4.0], [0.0, 2.0]])
            >>> vectors = Vectors(Table.from_array(rows), Vocabulary(["east", "far", "north"]))
            >>> vectors.similar_by_vector(np.array([0.0, 5.0]), topn=2)
            [Neighbour(token='north', score=1.0), Neighbour(token='far', score=0.8)]
        """
        return _neighbours.similar_by_vector(self, vector, topn, restrict, as_frame)

    def analogy(
        self,
        a: Any,
        b: Any,
        c: Any,
        topn: int = 10,
        *,
        restrict: int | None = None,
        as_frame: bool = False,
    ) -> Any:
        """Return what is to `c` as `b` is to `a`: `most_similar([b, c], [a])`.

        Args:
            a: a word, or a list of words: a batch.
            b: likewise.
            c: likewise.
            topn: how many.
            restrict: search the first tokens only, so many.
            as_frame: as with `most_similar`.

        Raises:
            UnknownTokenError: a word is not in the vocabulary.
            OptionError: the lists are not of one length, or an option is no such number.
            TableError: the rows are not of real numbers.

        Example:
            >>> import numpy as np
            >>> from shardwise import Table, Vectors, Vocabulary
            >>> rows = np.array([[1.0, 0, 0], [1, 1, 0], [0, 0, 1], [0, 1, 1]])
            >>> words = Vocabulary(["man", "king", "woman", "queen"])
            >>> vectors = Vectors(Table.from_array(rows), words)
            >>> vectors.analogy("man", "king", "woman", topn=1)[0].token
            'queen'
        """
        return _neighbours.analogy(self, a, b, c, topn, restrict, as_frame)

    def index(
        self,
        path: str | os.PathLike[str] | None = None,
        *,
        rebuild: bool = False,
        dtype: str = "f16",
        connectivity: int = 16,
        expansion_add: int = 128,
        expansion_search: int = 64,
        progress: Callable[[int, int], object] | None = None,
    ) -> Index:
        """Return an approximate index of neighbours: open the saved one, or build and save it.

        For vectors opened from disk the index is kept in a file beside the table, and mapped when
        it is opened again. It is refused when the table was changed since. For vectors in memory
        it is built anew, of the rows as they are now. An index that is open does not follow what
        is written to the rows later: it may miss more of the neighbours then.

        It is a graph (Malkov and Yashunin, 2016, https://arxiv.org/abs/1603.09320), by usearch;
        with `expansion_search` the recall rises and the speed falls. An index that somebody made
        to do harm can do it: open your own.

        Args:
            path: the file, by default `index.safetensors` in the table's directory.
            rebuild: build it even if there is one.
            dtype: what the rows are kept as in the index: "f32", "f16", "bf16" or "i8". Scores are
                counted from the table's rows in any case.
            connectivity: how many neighbours each row has in the graph.
            expansion_add: how many rows are looked at to place one.
            expansion_search: how many rows are looked at to answer a query.
            progress: called with (rows done, rows in all) while the index is built.

        Raises:
            StoreError: the saved index is broken, or stale: the table was changed since.
            OptionError: an option has a value that it cannot have.
            TableError: the rows are not of real numbers; or `path` is given for vectors in memory,
                or the table was written anew since these vectors were opened.
            TableNotFoundError: there is no directory for the file, or it cannot be written to.
            MissingLibraryError: usearch is not installed.

        Example:
            >>> import numpy as np
            >>> from shardwise import Table, Vectors, Vocabulary
            >>> rows = np.array([[1.0, 0.0], [3.0, 4.0], [0.0, 2.0]])
            >>> vectors = Vectors(Table.from_array(rows), Vocabulary(["east", "far", "north"]))
            >>> vectors.index().most_similar("north", topn=1)
            [Neighbour(token='far', score=0.8)]
        """
        return _index.index(
            self,
            path,
            rebuild=rebuild,
            dtype=dtype,
            connectivity=connectivity,
            expansion_add=expansion_add,
            expansion_search=expansion_search,
            progress=progress,
        )

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

        Example:
            >>> import numpy as np
            >>> from shardwise import Table, Vectors, Vocabulary
            >>> rows = np.array([[1.0, 0.0], [3.0, 4.0], [0.0, 2.0]])
            >>> vectors = Vectors(Table.from_array(rows), Vocabulary(["east", "far", "north"]))
            >>> vectors.similarity("far", "north")
            0.8
            >>> vectors.similarity(["far", "east"], ["north", "east", "far"]).shape
            (2, 3)
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

        Example:
            >>> import numpy as np
            >>> from shardwise import Table, Vectors, Vocabulary
            >>> rows = np.array([[1.0, 0.0], [3.0, 4.0], [0.0, 2.0]])
            >>> vectors = Vectors(Table.from_array(rows), Vocabulary(["east", "far", "north"]))
            >>> vectors.distances("east", ["far", "north"]), vectors.distances("east").shape
            (array([0.4, 1. ]), (3,))
        """
        return _neighbours.distances(self, word, others)

    def rank(self, a: str, b: str) -> int:
        """Return 1 + how many tokens are nearer to `a` than `b` is, without `a` itself.

        Raises:
            UnknownTokenError: a word is not in the vocabulary.
            TableError: the rows are not of real numbers.

        Example:
            >>> import numpy as np
            >>> from shardwise import Table, Vectors, Vocabulary
            >>> rows = np.array([[1.0, 0.0], [3.0, 4.0], [0.0, 2.0]])
            >>> vectors = Vectors(Table.from_array(rows), Vocabulary(["east", "far", "north"]))
            >>> vectors.rank("east", "far"), vectors.rank("east", "north")
            (1, 2)
        """
        return len(_neighbours.closer_ids(self, a, b)) + 1

    def closer_than(self, a: str, b: str) -> list[str]:
        """Return the tokens that are nearer to `a` than `b` is, without `a`, in order of their ids.

        Raises:
            UnknownTokenError: a word is not in the vocabulary.
            TableError: the rows are not of real numbers.

        Example:
            >>> import numpy as np
            >>> from shardwise import Table, Vectors, Vocabulary
            >>> rows = np.array([[1.0, 0.0], [3.0, 4.0], [0.0, 2.0]])
            >>> vectors = Vectors(Table.from_array(rows), Vocabulary(["east", "far", "north"]))
            >>> vectors.closer_than("east", "north")
            ['far']
        """
        return self._vocabulary.decode(_neighbours.closer_ids(self, a, b))

    def doesnt_match(self, words: Any) -> str:
        """Return the word that is furthest from the mean of words, as unit vectors.

        Raises:
            UnknownTokenError: a word is not in the vocabulary.
            OptionError: there are no words, or one `str`.
            TableError: the rows are not of real numbers.

        Example:
            >>> import numpy as np
            >>> from shardwise import Table, Vectors, Vocabulary
            >>> rows = np.array([[1.0, 0.0], [3.0, 4.0], [0.0, 2.0]])
            >>> vectors = Vectors(Table.from_array(rows), Vocabulary(["east", "far", "north"]))
            >>> vectors.doesnt_match(["north", "far", "east"])
            'east'
        """
        return _neighbours.doesnt_match(self, words)

    def evaluate_pairs(
        self,
        path: str | os.PathLike[str],
        *,
        restrict: int | None = 300_000,
        case_insensitive: bool = True,
    ) -> _evaluate.PairScores:
        r"""Compare the cosines of word pairs with people's scores.

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

        Example:
            >>> import pathlib, tempfile
            >>> import numpy as np
            >>> from shardwise import Table, Vectors, Vocabulary
            >>> rows = np.array([[1.0, 0.0], [3.0, 4.0], [0.0, 2.0]])
            >>> vectors = Vectors(Table.from_array(rows), Vocabulary(["east", "far", "north"]))
            >>> with tempfile.TemporaryDirectory() as folder:
            ...     path = pathlib.Path(folder, "pairs.txt")
            ...     _ = path.write_text("east far 6\nfar north 8\neast north 1\neast moon 2\n")
            ...     scores = vectors.evaluate_pairs(path)
            >>> round(scores.spearman, 6), scores.pairs, scores.unknown
            (1.0, 3, 1)
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
        r"""Count how many analogies are answered rightly, by section and in all.

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

        Example:
            >>> import pathlib, tempfile
            >>> import numpy as np
            >>> from shardwise import Table, Vectors, Vocabulary
            >>> rows = np.array([[1.0, 0, 0], [1, 1, 0], [0, 0, 1], [0, 1, 1]])
            >>> words = Vocabulary(["man", "king", "woman", "queen"])
            >>> with tempfile.TemporaryDirectory() as folder:
            ...     path = pathlib.Path(folder, "questions.txt")
            ...     _ = path.write_text(": rulers\nman king woman queen\nman king boy prince\n")
            ...     scores = Vectors(Table.from_array(rows), words).evaluate_analogies(path)
            >>> scores.total.correct, scores.total.questions, scores.total.unknown
            (1, 1, 1)
        """
        return _evaluate.evaluate_analogies(
            self, path, restrict=restrict, case_insensitive=case_insensitive
        )

    def add(self, tokens: Any, rows: Any, *, replace: bool = False) -> Vectors:
        """Return vectors with more tokens; these ones stay as they are.

        The new tokens come behind the others, and the rows without a token behind those: what a
        fastText model says of unknown words stays right. Where the vocabulary has counts, a new
        token has the count 0.

        Args:
            tokens: one token, or a list or an array of them.
            rows: an array of shape (tokens, ...), or what NumPy broadcasts to it; of the table's
                dtype, or of one that NumPy casts to it as "same_kind", as with `Table.write`:
                values may be rounded, but a float is never cut to an integer, and none becomes
                infinite.
            replace: give tokens that are there the new rows, in their old places. One that shared
                the row of another token (an alias) gets a row of its own.

        Returns:
            Vectors in memory, with as many shards.

        Raises:
            VocabularyError: a token is there already and `replace` is false, or it comes twice.
            TokenTypeError: a token is neither `str` nor `bytes`.
            TableError: the rows have another shape or dtype.

        Example:
            >>> import numpy as np
            >>> from shardwise import Table, Vectors, Vocabulary
            >>> vectors = Vectors(Table.from_array(np.eye(2)), Vocabulary(["east", "north"]))
            >>> more = vectors.add(["west"], [[-1.0, 0.0]])
            >>> len(vectors), len(more), more["west"]
            (2, 3, array([-1.,  0.]))
        """
        return _combine.add(self, tokens, rows, replace)

    def subset(
        self, tokens: Any, *, missing: Literal["error", "drop", "subwords"] = "error"
    ) -> Vectors:
        """Return vectors of some tokens alone, in their order.

        The vocabulary's policies and counts are kept. The token that stands for unknown ones comes
        along as the last, if it is not asked for, and so do the rows without a token. A token that
        shared the row of another (an alias) gets a row of its own.

        Args:
            tokens: one token, or a list or an array of them; repetitions count once.
            missing: what a token outside the vocabulary does: "error", "drop" (it is left out), or
                for vectors of a fastText model "subwords" (see `lookup`).

        Returns:
            Vectors in memory, with as many shards.

        Raises:
            UnknownTokenError: tokens are not in the vocabulary, and `missing` is "error".
            TokenTypeError: a token is neither `str` nor `bytes`.
            TableError: "subwords", and the vectors have no rows of n-grams.
            OptionError: `missing` is not one of its values.

        Example:
            >>> import numpy as np
            >>> from shardwise import Table, Vectors, Vocabulary
            >>> vectors = Vectors(Table.from_array(np.eye(3)), Vocabulary(["a", "b", "c"]))
            >>> vectors.subset(["c", "a", "c"]).table[[0, 1]]
            array([[0., 0., 1.],
                   [1., 0., 0.]])
        """
        return _combine.subset(self, tokens, missing)

    def prune(
        self,
        count: int | None = None,
        *,
        keep: Any = None,
        progress: Callable[[int, int], object] | None = None,
    ) -> _combine.Pruned:
        """Return vectors with fewer rows and the same tokens: the others share the nearest row.

        Every token that loses its row gets the kept one with the largest cosine to it, of equal
        ones the first; a row of zeros, or with a NaN or an infinity, gets the first of all. The
        search is exact, in blocks. The token that stands for unknown ones keeps its row in any
        case, and so do rows without a token. Counts stay those of the kept tokens.

        Args:
            count: keep the rows of the first tokens, so many.
            keep: or keep the rows of these tokens, in this order.
            progress: called with (tokens done, tokens in all).

        Returns:
            `Pruned(vectors, remap)`; the other tokens are aliases in the vocabulary. The vectors
            are in memory, with as many shards.

        Raises:
            OptionError: not one of `count` and `keep` is given, or no row is kept.
            UnknownTokenError: tokens of `keep` are not in the vocabulary.
            TableError: the rows are not of real numbers.

        Example:
            >>> import numpy as np
            >>> from shardwise import Table, Vectors, Vocabulary
            >>> rows = np.array([[2.0, 0.0], [0.0, 1.0], [3.0, 4.0]])
            >>> vectors = Vectors(Table.from_array(rows), Vocabulary(["east", "north", "far"]))
            >>> pruned = vectors.prune(2)
            >>> pruned.remap
            {'far': Neighbour(token='north', score=0.8)}
            >>> pruned.vectors["far"], len(pruned.vectors.table)
            (array([0., 1.]), 2)
        """
        return _combine.prune(self, count, keep, progress)

    def merge(
        self,
        other: Vectors,
        *,
        conflict: Literal["first", "second", "mean", "error"] = "first",
    ) -> Vectors:
        """Return vectors with the tokens of both: these ones, then those that only `other` has.

        The policy for unknown tokens and the rows without a token are those of these vectors;
        `other` gives the rows of its tokens alone. An alias of either goes on standing for its
        token. Counts are added up.

        Args:
            other: vectors with rows of the same shape.
            conflict: whose row a token has that both have: "first" (of these vectors), "second"
                (of `other`), "mean" of the two, or "error".

        Returns:
            Vectors in memory, cut into shards as these are; of the dtype that holds both (NumPy's
            promotion; float32 for float16 and bfloat16).

        Raises:
            TableError: the rows differ in shape, no dtype holds both, or "mean" is asked for rows
                that are not of floating-point numbers.
            VocabularyError: "error", and there is such a token; or the vocabularies differ in
                casefold or normal form.
            OptionError: `conflict` is not one of its values.

        Example:
            >>> import numpy as np
            >>> from shardwise import Table, Vectors, Vocabulary
            >>> a = Vectors(Table.from_array(np.zeros((2, 1))), Vocabulary(["x", "y"]))
            >>> b = Vectors(Table.from_array(np.ones((2, 1))), Vocabulary(["y", "z"]))
            >>> a.merge(b, conflict="mean")[["x", "y", "z"]].ravel()
            array([0. , 0.5, 1. ])
        """
        return _combine.merge(self, other, conflict)

    def align(
        self, reference: Vectors, *, tokens: Any = None, center: bool = False
    ) -> _compare.Aligned:
        """Turn all rows to fit those of other vectors, by the tokens that both have.

        The rotation is the solution of the orthogonal Procrustes problem: of all orthogonal
        matrices (they may also mirror) the one that leaves the least sum of squared distances
        (Schoenemann, 1966; for word vectors Hamilton, Leskovec and Jurafsky, 2016). Lengths stay,
        and so do the cosines of these vectors to each other, unless `center` is asked for. With
        fewer shared tokens than dimensions other rotations fit as well.

        Args:
            reference: vectors with rows of the same shape, of floating-point numbers.
            tokens: find the rotation by these tokens, which both have; by default by all such.
            center: also move the mean of the shared rows to that of the reference's.

        Returns:
            `Aligned(vectors, rotation, offset, shared, before, after)`. The vectors are in memory,
            cut as these, float32, or float64 for rows of it.

        Raises:
            TableError: the rows differ in shape, are not of floating-point numbers, or one of a
                shared token is not finite; or no token is shared.
            UnknownTokenError: a token of `tokens` is not in both.

        Example:
            >>> import numpy as np
            >>> from shardwise import Table, Vectors, Vocabulary
            >>> words = Vocabulary(["east", "north"])
            >>> old = Vectors(Table.from_array(np.array([[1.0, 0.0], [0.0, 1.0]])), words)
            >>> new = Vectors(Table.from_array(np.array([[0.0, 2.0], [-2.0, 0.0]])), words)
            >>> aligned = new.align(old)
            >>> (aligned.vectors["east"] + 0.0).round(6), aligned.shared
            (array([2., 0.]), 2)
        """
        return _compare.align(self, reference, tokens, center)

    def drift(
        self,
        other: Vectors,
        *,
        tokens: Any = None,
        topn: int | None = None,
        neighbours: int = 0,
        as_frame: bool = False,
        progress: Callable[[int, int], object] | None = None,
    ) -> Any:
        """Return how far the rows of tokens have moved from these vectors to others.

        The tokens with the least cosine of their two rows come first, of equal ones those with the
        larger distance; before all, those with a row that is not of finite numbers. To compare
        vectors that were trained apart, `align` them first; the overlap of neighbours needs no
        alignment.

        Args:
            other: vectors with rows of the same shape, such as a later checkpoint.
            tokens: which tokens, in both; by default all that both have.
            topn: give the first so many.
            neighbours: compare also this many nearest tokens of each token that is given (after
                Gonen et al., 2020): two searches for each.
            as_frame: give a pandas DataFrame with a column for each field.
            progress: called with (tokens done, tokens in all).

        Returns:
            A list of `Drift(token, cosine, distance, norm, other_norm, overlap)`, or a DataFrame,
            which has the column overlap only if it was asked for.

        Raises:
            TableError: the rows differ in shape, or are not of real numbers.
            UnknownTokenError: a token of `tokens` is not in both.
            OptionError: `topn` or `neighbours` is no number from 0.
            MissingLibraryError: `as_frame`, and pandas is not installed.

        Example:
            >>> import numpy as np
            >>> from shardwise import Table, Vectors, Vocabulary
            >>> words = Vocabulary(["still", "moved"])
            >>> a = Vectors(Table.from_array(np.array([[1.0, 0.0], [3.0, 4.0]])), words)
            >>> b = Vectors(Table.from_array(np.array([[1.0, 0.0], [5.0, 0.0]])), words)
            >>> [(d.token, round(d.cosine, 6)) for d in a.drift(b)]
            [('moved', 0.6), ('still', 1.0)]
        """
        return _compare.drift(self, other, tokens, topn, neighbours, as_frame, progress)

    def __getitem__(self, tokens: str | bytes | Sequence[Any] | NDArray[Any]) -> NDArray[Any]:
        """Return the rows of tokens of the vocabulary: `lookup(tokens, unknown="error")`.

        Raises:
            UnknownTokenError: a `KeyError`: tokens are not in the vocabulary, whatever it says
                about unknown tokens; the message has the nearest spellings.
        """
        if isinstance(tokens, (str, bytes)):
            return _rows.row(self, tokens)
        return self.lookup(tokens, unknown="error")

    def __contains__(self, token: object) -> bool:
        return token in self._vocabulary

    def __len__(self) -> int:
        return len(self._vocabulary)

    def __iter__(self) -> Iterator[str]:
        """Give the tokens in the order of their ids."""
        return iter(self._vocabulary)

    def __repr__(self) -> str:
        return f"Vectors({self._table!r}, {self._vocabulary!r})"
