"""Tokens and their ids, both ways, with a policy for tokens that are not known."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from shardwise import _native
from shardwise._choice import Choice, Ties, folded
from shardwise._counting import count_text, count_tokens
from shardwise._encoding import decode, encode, find_ids, num_ids, set_unknown, strings_of
from shardwise._errors import VocabularyError
from shardwise._folding import Folding, NormalForm
from shardwise._hashing import Buckets
from shardwise._token_arrays import (
    aliases_of,
    are_equal,
    first_arrays,
    own_arrays,
    set_from_arrays,
    set_from_tokens,
)
from shardwise._tokens import Bytes, Ids, Slots, Token, build_slots, token_bytes

_BLOCK = 4096  # tokens that an iteration decodes at once


class Vocabulary:
    """Tokens and their ids: token `i` has the id `i`.

    Args:
        tokens: distinct tokens in the order of their ids, in an iterable or an Arrow array, or a
            mapping of them to their ids. A `str` stands for its UTF-8 bytes.
        unknown: what a token outside the vocabulary gets: the id of a token, one of `tokens`; an
            id, any of 64 bits; one of many ids by its hash, with `Buckets`. With None it is an
            error.
        counts: how often each token was seen: `int64[tokens]`, kept beside them.
        aliases: further tokens, each with the token or the id that it stands for. `encode` and
            `in` know them; `len`, iteration and `decode` do not.
        casefold: take tokens for equal that differ in case alone (Python's `str.casefold`).
        normal_form: the Unicode normal form that tokens are brought to: "NFC", "NFD", "NFKC" or
            "NFKD". This and `casefold` are done to the vocabulary's tokens, which `decode` gives
            then, and to each token that is asked for.

    Tokens are bytes inside. Bytes that are not UTF-8 come out as a `str` with lone surrogates
    (Python's "surrogateescape"), which goes back to the same bytes.

    Raises:
        VocabularyError: a token occurs twice, perhaps by `casefold` or `normal_form`, or cannot be
            written as UTF-8; or a mapping's ids are not 0 to n - 1.
        TokenTypeError: a token is neither `str` nor `bytes`.
        OptionError: `unknown`, or what an alias stands for, is not in the vocabulary; or an option
            cannot have this value.

    Example:
        >>> vocabulary = Vocabulary(["<unk>", "king", "queen"], unknown="<unk>")
        >>> vocabulary.encode(["queen", "king", "jack"])
        array([2, 1, 0])
        >>> vocabulary.decode([[1, 2], [2, 0]])
        [['king', 'queen'], ['queen', '<unk>']]
        >>> vocabulary.encode("king"), "jack" in vocabulary, len(vocabulary)
        (1, False, 3)
        >>> Vocabulary(["king", "queen"], aliases={"monarch": "king"}, casefold=True, unknown=-1)
        Vocabulary(2 tokens: ['king', 'queen'], 1 alias, unknown=-1, casefold=True)
    """

    __slots__ = (
        "_alias_ids",
        "_asked",
        "_buckets",
        "_counts",
        "_data",
        "_file",
        "_folding",
        "_is_cold",
        "_offsets",
        "_size",
        "_slots",
        "_unknown_id",
        "_unknown_is_token",
    )

    _alias_ids: Ids | None
    _asked: int  # how many tokens a file was asked for
    _buckets: Buckets | None
    _counts: Ids | None
    _data: Bytes
    _file: _native.MappedFile | None  # what reads it in pieces
    _folding: Folding
    _is_cold: bool  # of a file whose pages are read one by one
    _offsets: Ids  # also of aliases
    _size: int  # of tokens that are no aliases
    _slots: Slots
    _unknown_id: int | None
    _unknown_is_token: bool

    def __init__(
        self,
        tokens: Iterable[Token],
        *,
        unknown: str | int | Buckets | None = None,
        counts: Sequence[int] | NDArray[Any] | None = None,
        aliases: Mapping[Any, Any] | None = None,
        casefold: bool = False,
        normal_form: NormalForm | None = None,
    ) -> None:
        set_from_tokens(self, tokens, aliases, counts, Folding(casefold, normal_form))
        set_unknown(self, unknown)

    @classmethod
    def from_arrays(
        cls,
        data: Bytes,
        offsets: Ids,
        slots: Slots | None,
        *,
        unknown: str | int | Buckets | None = None,
        counts: Ids | None = None,
        casefold: bool = False,
        normal_form: NormalForm | None = None,
    ) -> Vocabulary:
        """Make a vocabulary of the arrays that `arrays()` gives, which may be mapped from a file.

        Nothing is copied, and with `slots` nothing is read but the ends of `offsets`; what lies
        between is checked where it is used.

        Args:
            data: `uint8[bytes]`, the tokens' bytes end to end.
            offsets: `int64[tokens + 1]`, where each token starts in `data`.
            slots: `uint64[power of two]`, the hash map; None builds it. With it the tokens are
                taken to be folded as `casefold` and `normal_form` say.
            unknown: as for `Vocabulary`.
            counts: `int64[tokens]`, or None.
            casefold: as for `Vocabulary`.
            normal_form: as for `Vocabulary`.

        Raises:
            VocabularyError: the arrays do not fit each other, or a token occurs twice.
            OptionError: `unknown` is not in the vocabulary.

        Example:
            >>> import numpy as np
            >>> from shardwise import Vocabulary
            >>> data = np.frombuffer(b"kingqueen", np.uint8)
            >>> Vocabulary.from_arrays(data, np.array([0, 4, 9]), slots=None)
            Vocabulary(2 tokens: ['king', 'queen'])
        """
        folding = Folding(casefold, normal_form)
        return cls._of(data, offsets, slots, counts=counts, folding=folding, unknown=unknown)

    @classmethod
    def build(
        cls,
        tokens: Iterable[Token | Iterable[Token]] | Mapping[Token, int],
        *,
        min_count: int = 1,
        max_size: int | None = None,
        ties: Ties = "first",
        specials: Sequence[Token] = (),
        specials_first: bool = True,
        unknown: str | int | Buckets | None = None,
        casefold: bool = False,
        normal_form: NormalForm | None = None,
        progress: Callable[[int, int], object] | None = None,
    ) -> Vocabulary:
        """Count tokens and make a vocabulary of them, the most frequent first.

        Args:
            tokens: an iterable of tokens, of sentences (iterables of tokens) or of both, an Arrow
                array of strings, or a mapping of tokens to their counts. A `str` is one token and
                is not cut. What is iterated is not kept: the memory grows with the distinct tokens.
            min_count: leave out tokens that were seen less often. Special ones stay.
            max_size: the most tokens in all, special ones included.
            ties: which of equally frequent tokens goes first: the one that was seen "first", or the
                one whose UTF-8 bytes come first in "ascending" (as in torchtext) or "descending"
                order (as in Keras).
            specials: tokens with fixed places, such as "<unk>". One that was also counted has its
                count, and stands at its fixed place alone.
            specials_first: whether they stand in front of the others, or behind them.
            unknown: as for `Vocabulary`.
            casefold: as for `Vocabulary`; tokens that become one are counted together.
            normal_form: as for `Vocabulary`.
            progress: called with (tokens done, 0): how many there will be is not known.

        Returns:
            A vocabulary with `counts`, which are the same for every number of threads.

        Raises:
            TokenTypeError: something is neither `str` nor `bytes` nor an iterable of them, or
                `tokens` is one token.
            VocabularyError: a token cannot be written as UTF-8, or a special one is there twice.
            OptionError: an option cannot have this value.

        Example:
            >>> sentences = [["the", "king"], ["the", "queen"], ["a", "king"]]
            >>> vocabulary = Vocabulary.build(sentences, specials=["<unk>"], unknown="<unk>")
            >>> list(vocabulary), vocabulary.counts.tolist()
            (['<unk>', 'the', 'king', 'queen', 'a'], [0, 2, 2, 1, 1])
            >>> list(Vocabulary.build(sentences, max_size=3, ties="ascending"))
            ['king', 'the', 'a']
        """
        folding = Folding(casefold, normal_form)
        choice = Choice(min_count, max_size, ties, specials, specials_first)
        counts = folded(count_tokens(tokens, progress), folding)
        return cls._chosen(*choice.of(counts, folding), folding=folding, unknown=unknown)

    @classmethod
    def build_from_text(
        cls,
        paths: str | os.PathLike[str] | Iterable[str | os.PathLike[str]],
        *,
        min_count: int = 1,
        max_size: int | None = None,
        ties: Ties = "first",
        specials: Sequence[Token] = (),
        specials_first: bool = True,
        unknown: str | int | Buckets | None = None,
        casefold: bool = False,
        normal_form: NormalForm | None = None,
        progress: Callable[[int, int], object] | None = None,
    ) -> Vocabulary:
        r"""Count the tokens of text files and make a vocabulary of them, the most frequent first.

        Tokens are what stands between ASCII white space (space, \t, \n, \v, \f, \r); other white
        space, such as a no-break space, is part of a token. Bytes that are not UTF-8 are kept. A
        byte order mark of UTF-8 is skipped.

        Args:
            paths: one file or several. What is compressed with gzip, bzip2, xz or zstd is unpacked
                as it is read. Files are read in parts, by all threads.
            min_count: this and what follows is as for `build`.
            max_size: the most tokens in all, special ones included.
            ties: the order of equally frequent tokens.
            specials: tokens with fixed places.
            specials_first: whether they stand in front of the others, or behind them.
            unknown: as for `Vocabulary`.
            casefold: as for `Vocabulary`.
            normal_form: as for `Vocabulary`.
            progress: called with (bytes done, bytes in all), as they are on disk.

        Returns:
            A vocabulary with `counts`, which are the same for every number of threads.

        Raises:
            OSError: a file cannot be read.
            FormatError: compressed data is cut off or damaged, or the text is UTF-16.
            MissingLibraryError: a file is zstd data, and its library is not installed.
            VocabularyError: a special token is there twice.
            OptionError: an option cannot have this value.

        Example:
            >>> import pathlib, tempfile
            >>> with tempfile.TemporaryDirectory() as folder:
            ...     text = pathlib.Path(folder, "text.txt")
            ...     _ = text.write_text("The king and the queen.\nthe country\n")
            ...     vocabulary = Vocabulary.build_from_text(text, casefold=True)
            >>> list(vocabulary), vocabulary.counts.tolist()
            (['the', 'king', 'and', 'queen.', 'country'], [3, 1, 1, 1, 1])
        """
        folding = Folding(casefold, normal_form)
        choice = Choice(min_count, max_size, ties, specials, specials_first)
        counts = folded(count_text(paths, progress), folding)
        return cls._chosen(*choice.of(counts, folding), folding=folding, unknown=unknown)

    @classmethod
    def _chosen(
        cls,
        data: Bytes,
        offsets: Ids,
        counts: Ids,
        *,
        folding: Folding,
        unknown: str | int | Buckets | None,
    ) -> Vocabulary:
        """Make a vocabulary of distinct tokens that are folded already."""
        slots = build_slots(data, offsets)[0]
        return cls._of(data, offsets, slots, counts=counts, folding=folding, unknown=unknown)

    @classmethod
    def _of(
        cls,
        data: Bytes,
        offsets: Ids,
        slots: Slots | None,
        *,
        alias_ids: Ids | None = None,
        counts: Ids | None = None,
        folding: Folding | None = None,
        unknown: str | int | Buckets | None = None,
    ) -> Vocabulary:
        """`from_arrays`, where the last tokens may be aliases of `alias_ids`."""
        vocabulary = cls.__new__(cls)
        set_from_arrays(vocabulary, data, offsets, slots, alias_ids, counts, folding or Folding())
        set_unknown(vocabulary, unknown)
        return vocabulary

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> Vocabulary:
        """Open a vocabulary on disk by memory map: nothing is read before it is used.

        Args:
            path: the directory of a table, or a file that `save` wrote.

        Raises:
            TableNotFoundError: there is nothing at `path`.
            TableError: the table has no vocabulary.
            StoreError: what is there is broken, or of a newer version.

        Example:
            >>> import tempfile
            >>> from shardwise import Vocabulary
            >>> with tempfile.TemporaryDirectory() as folder:
            ...     Vocabulary(["king", "queen"]).save(f"{folder}/words.safetensors")
            ...     Vocabulary.open(f"{folder}/words.safetensors").encode(["queen"])
            array([1])
        """
        from shardwise.store import open_vocabulary  # upwards: the store imports the nouns it holds

        return open_vocabulary(path)

    def save(self, path: str | os.PathLike[str], *, overwrite: bool = False) -> None:
        """Write the vocabulary, all of it, to a file; whole or, on any failure, not at all.

        Args:
            path: the file, of a name that ends in .safetensors.
            overwrite: replace a file that is there.

        Raises:
            OptionError: the name ends in something else.
            TableExistsError: there is a file already, and `overwrite` is false.
            TableNotFoundError: there is no directory to write it in.

        Example:
            >>> import tempfile
            >>> from shardwise import Vocabulary
            >>> with tempfile.TemporaryDirectory() as folder:
            ...     Vocabulary(["a", "b"], unknown=-1).save(f"{folder}/ab.safetensors")
            ...     Vocabulary.open(f"{folder}/ab.safetensors")
            Vocabulary(2 tokens: ['a', 'b'], unknown=-1)
        """
        from shardwise.store import save_vocabulary  # upwards: the store imports the nouns it holds

        save_vocabulary(path, self, overwrite=overwrite)

    @property
    def unknown(self) -> str | int | Buckets | None:
        """What tokens outside the vocabulary get: a token's id, an id, buckets, or an error.

        Example:
            >>> from shardwise import Vocabulary
            >>> words = Vocabulary(["<unk>", "king"], unknown="<unk>")
            >>> words.unknown, words.unknown_id
            ('<unk>', 0)
        """
        if self._unknown_is_token and self._unknown_id is not None:
            return self.decode(self._unknown_id)
        return self._unknown_id if self._buckets is None else self._buckets

    @property
    def unknown_id(self) -> int | None:
        """The one id that tokens outside the vocabulary get, or None.

        Example:
            >>> from shardwise import Vocabulary
            >>> Vocabulary(["<unk>", "king"], unknown="<unk>").unknown_id
            0
        """
        return self._unknown_id

    @property
    def counts(self) -> Ids | None:
        """How often each token was seen, `int64[tokens]`, read-only, or None if nobody said.

        Example:
            >>> from shardwise import Vocabulary
            >>> Vocabulary.build(["king queen".split(), ["king"]]).counts
            array([2, 1])
        """
        return self._counts

    @property
    def aliases(self) -> dict[str, int]:
        """The further tokens, each with the id that it stands for.

        Example:
            >>> from shardwise import Vocabulary
            >>> Vocabulary(["king", "queen"], aliases={"monarch": "king"}).aliases
            {'monarch': 0}
        """
        return aliases_of(self)

    @property
    def casefold(self) -> bool:
        """Whether tokens that differ in case alone are one.

        Example:
            >>> from shardwise import Vocabulary
            >>> words = Vocabulary(["king"], casefold=True)
            >>> words.casefold, words.encode("KING")
            (True, 0)
        """
        return self._folding.casefold

    @property
    def normal_form(self) -> NormalForm | None:
        r"""The Unicode normal form that tokens are brought to, or None.

        Example:
            >>> from shardwise import Vocabulary
            >>> words = Vocabulary(["caf\u00e9"], normal_form="NFC")
            >>> words.normal_form, words.encode("cafe\u0301")
            ('NFC', 0)
        """
        return self._folding.normal_form

    @property
    def _num_aliases(self) -> int:
        return 0 if self._alias_ids is None else self._alias_ids.size

    @property
    def num_ids(self) -> int:
        """One more than the largest id that `encode` can give: a table needs as many rows.

        Example:
            >>> from shardwise import Buckets, Vocabulary
            >>> words = Vocabulary(["king", "queen"], unknown=Buckets(3))
            >>> len(words), words.num_ids
            (2, 5)
        """
        return num_ids(self)

    @overload
    def encode(self, tokens: Token | int) -> int: ...
    @overload
    def encode(self, tokens: Sequence[Any] | NDArray[Any]) -> Ids: ...
    def encode(self, tokens: Token | int | Sequence[Any] | NDArray[Any]) -> int | Ids:
        """Return the ids of tokens.

        Args:
            tokens: one token, or tokens in a sequence, a rectangular nest of sequences, a NumPy
                array of strings or objects, or an Arrow array of strings, bytes or a dictionary
                of them: pyarrow's own, or where pyarrow is imported, any object that hands one
                over (`__arrow_c_stream__`, `__arrow_c_array__`). Arrow's arrays and lists of
                `str` are read where they lie. With `Buckets` an integer stands for its decimal
                digits, as in TensorFlow's tables.

        Returns:
            An `int` for one token, otherwise `int64` of the shape of `tokens`.

        Raises:
            UnknownTokenError: tokens are not in the vocabulary, and it has no `unknown`.
            VocabularyError: a nest is not rectangular, a token cannot be written as UTF-8, or an
                Arrow array is damaged.
            TokenTypeError: a token is neither `str` nor `bytes`; a null of Arrow is none.

        Example:
            >>> Vocabulary(["a", "b"]).encode([["a", "b"], ["b", "b"]])
            array([[0, 1],
                   [1, 1]])
        """
        return encode(self, tokens)

    @overload
    def decode(self, ids: int | np.integer[Any], missing: str | None = None) -> str: ...
    @overload
    def decode(
        self, ids: Sequence[Any] | NDArray[Any], missing: str | None = None
    ) -> list[Any]: ...
    def decode(
        self,
        ids: int | np.integer[Any] | Sequence[Any] | NDArray[Any],
        missing: str | None = None,
    ) -> str | list[Any]:
        """Return the tokens of ids.

        Args:
            ids: integers of any dtype and shape.
            missing: what stands for an id without a token; by default it is an error.

        Returns:
            A `str` for one id, otherwise a list, nested as `ids` are.

        Raises:
            IdOutOfRangeError: an id is negative, or not less than the number of tokens, and there
                is no `missing`.
            IdTypeError: ids are not integers.

        Example:
            >>> Vocabulary(["a", "b"]).decode([1, 0])
            ['b', 'a']
            >>> Vocabulary(["a", "b"]).decode([1, 7], missing="[UNK]")
            ['b', '[UNK]']
        """
        return decode(self, ids, missing)

    def arrays(self) -> tuple[Bytes, Ids, Slots]:
        """Return (data, offsets, slots), read-only: what `from_arrays` takes; without aliases.

        Example:
            >>> from shardwise import Vocabulary
            >>> data, offsets, slots = Vocabulary(["king", "queen"]).arrays()
            >>> bytes(data), offsets, slots.shape
            (b'kingqueen', array([0, 4, 9]), (8,))
        """
        return own_arrays(self)

    def _first(self, size: int, unknown: str | int | Buckets | None) -> Vocabulary:
        """Return the vocabulary of the first tokens, and of the aliases that they have."""
        arrays = first_arrays(self, size)
        return Vocabulary._of(**arrays, folding=self._folding, unknown=unknown)

    def __contains__(self, token: object) -> bool:
        if not isinstance(token, (str, bytes)):
            return False
        try:
            encoded = token_bytes(token, 0)
        except VocabularyError:  # what cannot be written as UTF-8 cannot have been put in
            return False
        return bool(find_ids(self, [encoded])[0] >= 0)

    def __len__(self) -> int:
        return self._size

    def __iter__(self) -> Iterator[str]:
        for begin in range(0, len(self), _BLOCK):
            yield from strings_of(self, np.arange(begin, min(begin + _BLOCK, len(self))))

    def __eq__(self, other: object) -> bool:
        return are_equal(self, other) if isinstance(other, Vocabulary) else NotImplemented

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        shown = strings_of(self, np.arange(min(3, len(self))))
        parts = [*map(repr, shown), *(["..."] if len(self) > len(shown) else [])]
        more = []
        if self._alias_ids is not None:
            more.append(f"{self._alias_ids.size} alias{'' if self._alias_ids.size == 1 else 'es'}")
        if self._counts is not None:
            more.append("counts")
        options: dict[str, object] = {
            "unknown": self.unknown,
            "casefold": self.casefold or None,
            "normal_form": self.normal_form,
        }
        more += [f"{name}={value!r}" for name, value in options.items() if value is not None]
        tokens = f"{len(self)} tokens: [{', '.join(parts)}]"
        return f"Vocabulary({', '.join([tokens, *more])})"
