"""Tokens and their ids, both ways, with a policy for tokens that are not known."""

from __future__ import annotations

import math
import operator
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from shardwise import _native
from shardwise._counting import Choice, Ties, count_text, count_tokens, folded
from shardwise._errors import (
    OptionError,
    TokenTypeError,
    UnknownTokenError,
    VocabularyError,
)
from shardwise._folding import Folding, NormalForm
from shardwise._hashing import Buckets
from shardwise._ids import as_ids, out_of_range_error
from shardwise._safetensors import advise
from shardwise._tokens import (
    Bytes,
    Ids,
    Slots,
    Token,
    arrow_tokens,
    as_arrow,
    build_slots,
    flatten,
    map_arrow,
    pack_tokens,
    packed_tokens,
    token_bytes,
)

_INT64 = np.dtype(np.int64)
_SHOWN = 10  # tokens that an error names
_FEW = 2048  # tokens, in all, for which a file is read in pieces: its map is not touched
_MANY = 4096  # tokens, at once, for which a file is read as a whole
_BLOCK = 4096  # tokens that an iteration decodes at once


class Vocabulary:
    """Tokens and their ids: token `i` has the id `i`.

    Args:
        tokens: distinct tokens in the order of their ids. A `str` stands for its UTF-8 bytes.
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
            written as UTF-8.
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
    _counts: Ids | None
    _file: _native.MappedFile | None

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
        if isinstance(tokens, (str, bytes)):
            raise TokenTypeError(
                f"expected an iterable of tokens, got one token, {tokens!r}; write [{tokens!r}]"
            )
        if not isinstance(aliases, (Mapping, type(None))):
            raise OptionError(
                f"expected aliases as a mapping of tokens to tokens, got {aliases!r:.60}"
            )
        own = list(tokens)
        asked = [*own, *(aliases or ())]
        folding = Folding(casefold, normal_form)
        self._set(*folding.pack(asked), None, len(own), folding, lambda: asked)
        if aliases:
            self._alias_ids = _frozen("aliases", self._targets(aliases), np.int64)
        if counts is not None:
            self._counts = _as_counts(counts, len(own))
        self._set_unknown(unknown)

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
        if alias_ids is not None:
            alias_ids = _frozen("alias_ids", alias_ids, np.int64)
        vocabulary._set_arrays(data, offsets, slots, alias_ids, folding or Folding())
        if counts is not None:
            counts = _frozen("counts", counts, np.int64)
            if len(counts) != len(vocabulary):
                raise VocabularyError(
                    f"these arrays are no vocabulary: expected a count for each of "
                    f"{len(vocabulary)} tokens, got {len(counts)}"
                )
            vocabulary._counts = counts
        vocabulary._set_unknown(unknown)
        return vocabulary

    def _set_arrays(
        self,
        data: Bytes,
        offsets: Ids,
        slots: Slots | None,
        alias_ids: Ids | None,
        folding: Folding,
    ) -> None:
        data, offsets = _frozen("data", data, np.uint8), _frozen("offsets", offsets, np.int64)
        if alias_ids is not None and not alias_ids.size:
            alias_ids = None
        aliases = 0 if alias_ids is None else alias_ids.size
        size = offsets.size - 1 - aliases
        if aliases and size < 0:
            raise VocabularyError(
                f"these arrays are no vocabulary: expected at most {max(0, offsets.size - 1)} "
                f"alias_ids, one for each of the last tokens, got {aliases}"
            )
        if slots is None and folding:
            try:
                asked = packed_tokens(data, offsets)
            except IndexError as error:
                raise VocabularyError(f"these arrays are no vocabulary: {error}") from None
            self._set(*folding.pack(asked), None, size, folding, lambda: asked)
        else:
            self._set(data, offsets, slots, size, folding, lambda: packed_tokens(data, offsets))
        self._alias_ids = alias_ids

    def _set(
        self,
        data: Bytes,
        offsets: Ids,
        slots: Slots | None,
        size: int,
        folding: Folding,
        asked: Callable[[], Sequence[Token]],
    ) -> None:
        """Take folded tokens, `size` own ones and then aliases; `asked` is what they were."""
        self._data = _frozen("data", data, np.uint8)
        self._offsets = _frozen("offsets", offsets, np.int64)
        self._size = size
        self._folding = folding
        self._alias_ids = None
        self._counts = None
        self._is_cold = False  # of a file whose pages are read one by one
        self._file = None  # what reads it in pieces
        self._asked = 0  # tokens that it was asked for
        try:
            if slots is None:
                slots, first_of, repetitions = build_slots(self._data, self._offsets)
                if repetitions:
                    raise self._duplicate(first_of, repetitions, asked())
            self._slots = _frozen("slots", slots, np.uint64)
            _native.validate_token_map(self._data, self._offsets, self._slots)
        except ValueError as error:
            if isinstance(error, VocabularyError):
                raise
            raise VocabularyError(f"these arrays are no vocabulary: {error}") from None

    def _duplicate(
        self, first_of: Ids, repetitions: int, asked: Sequence[Token]
    ) -> VocabularyError:
        again = int(np.argmax(first_of != np.arange(len(first_of))))
        first = int(first_of[again])
        one, other = (token_bytes(asked[i], i) for i in (first, again))
        names = f"{_shown(one)!r}"
        if one != other:
            names += f" and {_shown(other)!r}, which are one by casefold= or normal_form=,"
        where = f"at positions {first} and {again}"
        if again >= self._size:
            where = f"at position {first} and as an alias" if first < self._size else "as aliases"
        return VocabularyError(
            f"expected distinct tokens, got {names} {where} ({repetitions} repetitions in all); "
            "remove the repetitions"
        )

    def _targets(self, aliases: Mapping[Any, Any]) -> Ids:
        """Return the ids that aliases stand for, whose own tokens are in the map already."""
        ids = np.empty(len(aliases), np.int64)
        tokens: list[Token] = []
        places = []
        for i, (alias, target) in enumerate(aliases.items()):
            if isinstance(target, (str, bytes)):
                tokens.append(target)
                places.append(i)
            elif isinstance(target, (int, np.integer)) and not isinstance(target, bool):
                if not 0 <= target < self._size:
                    raise OptionError(
                        f"expected an alias of a token or of an id from 0 to {self._size - 1}, "
                        f"got {alias!r:.60} of {target}"
                    )
                ids[i] = target
            else:
                raise OptionError(
                    f"expected an alias of a token or of an id, got {alias!r:.60} of {target!r:.60}"
                )
        found = self._find(tokens)
        wrong = np.flatnonzero((found < 0) | (found >= self._size))
        if wrong.size:
            alias = list(aliases)[places[wrong[0]]]
            raise OptionError(
                f"expected an alias of one of the {self._size} tokens, got {alias!r:.60} of "
                f"{tokens[wrong[0]]!r:.60}; name the token itself, and no other alias"
            )
        ids[places] = found
        return ids

    def _set_unknown(self, unknown: str | int | Buckets | None) -> None:
        self._unknown_id: int | None = None
        self._unknown_is_token = False
        self._buckets: Buckets | None = None
        if unknown is None:
            return
        if isinstance(unknown, Buckets):
            unknown.start(self._size)
            self._buckets = unknown
        elif isinstance(unknown, (str, bytes)):
            found = int(self._find([unknown])[0])
            if found < 0:
                raise OptionError(
                    f"expected unknown= to be one of the {len(self)} tokens, got {unknown!r}; "
                    "add it to the tokens, or leave unknown= out"
                )
            self._unknown_id = found
            self._unknown_is_token = True
        else:
            try:
                number = operator.index(unknown)
            except TypeError:
                number = 1 << 63
            if isinstance(unknown, (bool, np.bool_)) or not -(1 << 63) <= number < 1 << 63:
                raise OptionError(
                    f"expected unknown= as a token, an id of 64 bits, or Buckets, got "
                    f"{unknown!r:.60}"
                )
            self._unknown_id = number

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
        if self._alias_ids is None:
            return {}
        entries = np.arange(self._size, self._offsets.size - 1)
        ids = self._alias_targets(entries - self._size)
        return dict(zip(self._strings(entries), ids.tolist(), strict=True))

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
        most = self._size
        if self._unknown_id is not None:
            most = max(most, self._unknown_id + 1)
        if self._buckets is not None:
            most = max(most, self._buckets.start(self._size) + self._buckets.count)
        return most

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
        if isinstance(tokens, (str, bytes)):
            return int(self._known([tokens])[0])
        numbers = self._buckets is not None
        array = as_arrow(tokens, numbers=numbers)
        if array is not None:
            return self._known_arrow(array)
        flat, shape = flatten(tokens, numbers=numbers)
        ids = self._known(flat)
        if ids.size != math.prod(shape):
            raise _changed()
        return int(ids[0]) if isinstance(tokens, (int, np.integer)) else ids.reshape(shape)

    def _known(self, tokens: Sequence[Token]) -> Ids:
        def tokens_at(missing: Ids) -> list[Token]:
            try:
                return [tokens[i] for i in missing.tolist()]
            except IndexError:  # another thread took them out of the list
                raise _changed() from None

        ids = self._find(tokens, self._id_for_missing())
        self._replace_unknown(ids, tokens_at)
        return ids

    def _known_arrow(self, array: Any) -> Ids:
        def fill(data: Bytes, offsets: NDArray[Any], ids: Ids) -> None:
            if self._folding:
                data, offsets = self._folding.pack(packed_tokens(data, offsets))
            self._find_packed(data, offsets, ids, missing)

        missing = self._id_for_missing()
        try:
            ids = map_arrow(array, fill)
        except ValueError as error:
            if isinstance(error, VocabularyError):
                raise
            raise _damaged(error) from None
        self._replace_unknown(ids, lambda missing: arrow_tokens(array, missing))
        return ids

    def _id_for_missing(self) -> int:
        """What native code is to write for tokens that it does not find, -1 for later work."""
        if self._unknown_id is None or self._alias_ids is not None:
            return -1
        return self._unknown_id

    def _replace_unknown(self, ids: Ids, tokens_at: Callable[[Ids], list[Token]]) -> None:
        """Give tokens that were not found the ids that the policy has for them."""
        if self._id_for_missing() != -1 or not ids.size or ids.min() >= 0:
            return
        missing = np.flatnonzero(ids < 0)
        if self._buckets is not None:
            packed = self._folding.pack(tokens_at(missing))
            ids[missing] = self._buckets.ids(*packed, self._size)
        elif self._unknown_id is not None:
            ids[missing] = self._unknown_id
        else:
            raise _unknown_error(tokens_at(missing), len(ids))

    def _find(self, tokens: Sequence[Token], missing: int = -1) -> Ids:
        """Return the ids of tokens, `missing` for those that are not in the vocabulary."""
        ids: Ids = _native.empty((len(tokens),), _INT64)
        if self._is_cold:
            self._expect(len(tokens))
        arrays = self._data, self._offsets, self._slots
        try:
            if self._folding:
                self._find_packed(*self._folding.pack(tokens), ids, missing)
            elif _native.find_objects(*arrays, tokens, ids, missing, self._file) >= 0:
                self._resolve(ids)
            else:
                self._find_packed(*pack_tokens(list(tokens)), ids, missing)
        except ValueError as error:
            if isinstance(error, VocabularyError):
                raise
            raise _damaged(error) from None
        return ids

    def _find_packed(
        self, wanted: Bytes, offsets: NDArray[Any], ids: Ids, missing: int = -1
    ) -> None:
        if len(ids) != len(offsets) - 1:
            raise _changed()
        if self._is_cold:
            self._expect(len(ids))
        arrays = self._data, self._offsets, self._slots
        _native.find_tokens(*arrays, wanted, offsets, ids, missing, self._file)
        self._resolve(ids)

    def _expect(self, count: int) -> None:
        """Choose how a file is read for so many tokens more.

        A few are read in pieces, as a touch may map megabytes. Many at once would touch most of its
        pages, and have it read as a whole.
        """
        self._asked += count
        if self._asked > _FEW:
            self._file = None
        if count >= _MANY:
            advise(self._data, "all")
            self._is_cold = False

    def _resolve(self, ids: Ids) -> None:
        """Put the ids that aliases stand for in the place of their own."""
        if self._alias_ids is not None:
            entries = np.flatnonzero(ids >= self._size)
            if entries.size:
                ids[entries] = self._alias_targets(ids[entries] - self._size)

    def _alias_targets(self, aliases: Ids) -> Ids:
        assert self._alias_ids is not None
        ids: Ids = self._alias_ids[aliases]
        if ((ids < 0) | (ids >= self._size)).any():
            raise _damaged(f"expected aliases of ids from 0 to {self._size - 1}, got another")
        return ids

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
        if missing is not None and not isinstance(missing, str):
            raise OptionError(f"expected missing as a str, or None, got {missing!r:.40}")
        array = as_ids(ids)
        outside = (array < 0) | (array >= len(self))
        some = bool(outside.any())
        if some and missing is None:
            position = int(np.argmax(outside))
            # Not `flat`, which knows 32 dimensions of the 64 that there may be.
            id = int(array.reshape(-1)[position])
            raise out_of_range_error(array.shape, position, id, len(self))
        if some:
            strings = [missing or ""] * array.size
            inside = np.flatnonzero(~outside)
            known = self._strings(array.ravel()[inside].astype(np.int64))
            for i, token in zip(inside.tolist(), known, strict=True):
                strings[i] = token
        else:
            strings = self._strings(array.ravel().astype(np.int64))
        return _nested(strings, array.shape) if array.ndim else strings[0]

    def _strings(self, ids: Ids) -> list[str]:
        if self._is_cold:
            self._expect(len(ids))
        begins, ends = self._offsets[ids], self._offsets[ids + 1]
        if ((begins < 0) | (begins > ends) | (ends > self._data.size)).any():
            raise VocabularyError(
                "the vocabulary is damaged: expected offsets in ascending order, none beyond the "
                f"{self._data.size} bytes of the tokens; write it again"
            )
        data = self._data.data
        spans = zip(begins.tolist(), ends.tolist(), strict=True)
        return [str(data[begin:end], "utf-8", "surrogateescape") for begin, end in spans]

    def arrays(self) -> tuple[Bytes, Ids, Slots]:
        """Return (data, offsets, slots), read-only: what `from_arrays` takes; without aliases.

        Example:
            >>> from shardwise import Vocabulary
            >>> data, offsets, slots = Vocabulary(["king", "queen"]).arrays()
            >>> bytes(data), offsets, slots.shape
            (b'kingqueen', array([0, 4, 9]), (8,))
        """
        if self._alias_ids is None or not self._alias_ids.size:
            return self._data, self._offsets, self._slots
        offsets = self._offsets[: self._size + 1]
        end = int(offsets[-1])
        if not 0 <= end <= self._data.size:
            raise _damaged(f"expected offsets from 0 to {self._data.size}, got {end}")
        data = self._data[:end]
        try:
            slots = _frozen("slots", build_slots(data, offsets)[0], np.uint64)
        except ValueError as error:
            raise _damaged(error) from None
        return data, offsets, slots

    def _first(self, size: int, unknown: str | int | Buckets | None) -> Vocabulary:
        """Return the vocabulary of the first tokens, and of the aliases that they have."""
        offsets = self._offsets[: size + 1]
        end = int(offsets[-1])
        if not 0 <= end <= self._data.size:
            raise _damaged(f"expected offsets from 0 to {self._data.size}, got {end}")
        data, alias_ids = self._data[:end], None
        if self._alias_ids is not None:
            entries = np.flatnonzero((self._alias_ids >= 0) & (self._alias_ids < size))
            names, ends = pack_tokens(list(self._strings(entries + self._size)))
            data, offsets = np.concatenate([data, names]), np.concatenate([offsets, end + ends[1:]])
            alias_ids = self._alias_ids[entries]
        return Vocabulary._of(
            data,
            offsets,
            self._slots if size == self._size and alias_ids is None else None,
            alias_ids=alias_ids,
            counts=None if self._counts is None else self._counts[:size],
            folding=self._folding,
            unknown=unknown,
        )

    def __contains__(self, token: object) -> bool:
        if not isinstance(token, (str, bytes)):
            return False
        try:
            encoded = token_bytes(token, 0)
        except VocabularyError:  # what cannot be written as UTF-8 cannot have been put in
            return False
        return bool(self._find([encoded])[0] >= 0)

    def __len__(self) -> int:
        return self._size

    def __iter__(self) -> Iterator[str]:
        for begin in range(0, len(self), _BLOCK):
            yield from self._strings(np.arange(begin, min(begin + _BLOCK, len(self))))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Vocabulary):
            return NotImplemented
        return (
            (self._size, self._unknown_id, self._unknown_is_token, self._buckets, self._folding)
            == (
                other._size,
                other._unknown_id,
                other._unknown_is_token,
                other._buckets,
                other._folding,
            )
            and _same(self._counts, other._counts)
            and _same(self._alias_ids, other._alias_ids)
            and np.array_equal(self._offsets, other._offsets)
            and np.array_equal(self._data, other._data)
        )

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        shown = self._strings(np.arange(min(3, len(self))))
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


def _frozen(name: str, array: Any, dtype: type) -> NDArray[Any]:
    if not isinstance(array, np.ndarray) or array.dtype != dtype or array.ndim != 1:
        got = (
            f"{array.dtype} of shape {array.shape}"
            if isinstance(array, np.ndarray)
            else type(array).__name__
        )
        raise VocabularyError(
            f"expected {name} as a one-dimensional array of {np.dtype(dtype)}, got {got}"
        )
    view = np.require(array, dtype, ["C", "A"]).view(np.ndarray)
    view.flags.writeable = False
    return view


def _as_counts(counts: Any, size: int) -> Ids:
    try:
        array = np.asarray(counts)
    except ValueError:
        array = np.empty((0, 0))
    if not array.size:
        array = array.astype(np.int64)  # NumPy calls an empty list floats
    if array.dtype.kind not in "iu" or array.shape != (size,):
        raise OptionError(
            f"expected counts as {size} integers, one for each token, got {array.dtype} of shape "
            f"{array.shape}"
        )
    if size and (array.min() < 0 or int(array.max()) >= 1 << 63):
        raise OptionError(f"expected counts in [0, 2**63), got {array.min()} to {array.max()}")
    return _frozen("counts", array.astype(np.int64), np.int64)


def _same(one: Ids | None, other: Ids | None) -> bool:
    return one is other or (one is not None and other is not None and np.array_equal(one, other))


def _shown(token: bytes) -> str:
    return token.decode("utf-8", "surrogateescape")


def _damaged(error: object) -> VocabularyError:
    return VocabularyError(f"{error}; write the vocabulary again")


def _changed() -> VocabularyError:
    return VocabularyError(
        "expected a list of tokens that stays as it is, got one that changed while it was read; "
        "encode a copy of it"
    )


def _nested(strings: list[str], shape: tuple[int, ...]) -> list[Any]:
    if len(shape) == 1:
        return strings
    size = math.prod(shape[1:])
    rows = (strings[row * size : (row + 1) * size] for row in range(shape[0]))
    return [_nested(row, shape[1:]) for row in rows]


def _unknown_error(missing: list[Token], count: int) -> UnknownTokenError:
    distinct = list(dict.fromkeys(missing))
    shown = ", ".join(map(repr, distinct[:_SHOWN])) + (", ..." if len(distinct) > _SHOWN else "")
    error = UnknownTokenError(
        f"expected tokens of the vocabulary, got {len(distinct)} that are not ({len(missing)} of "
        f"{count} tokens): {shown}; leave them out (`token in vocabulary`), or make the "
        "vocabulary with unknown=, the token that stands for them"
    )
    error.tokens = tuple(distinct)
    return error
