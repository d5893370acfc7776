"""Sentences to rows: batches of them, padded or ragged, and one row for each."""

from __future__ import annotations

import math
import operator
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain, pairwise
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from shardwise._errors import (
    IdOutOfRangeError,
    OptionError,
    TableError,
    TokenTypeError,
    VocabularyError,
)
from shardwise._ids import out_of_range_error
from shardwise._norms import is_small_float
from shardwise._tokens import Ids
from shardwise.words import _rows
from shardwise.words._rows import NOWHERE, UNKNOWN, Found, UnknownOrSkip, check_unknown, find

if TYPE_CHECKING:
    from shardwise._table import Table
    from shardwise._vectors import Vectors

Combiner: TypeAlias = Literal["mean", "sum", "sqrtn"]

_COMBINERS = ("mean", "sum", "sqrtn")
_BLOCK_BYTES = 4 << 20  # of rows that are summed together


class Padded(NamedTuple):
    """The rows of sentences, those of the shorter ones filled up with zeros at their ends.

    Attributes:
        rows: of shape (sentences, longest, ...), in the table's dtype.
        lengths: int64[sentences], how many rows of each are words.

    Example:
        >>> import numpy as np
        >>> from shardwise import Table, Vectors, Vocabulary
        >>> vectors = Vectors(Table.from_array(np.eye(2)), Vocabulary(["the", "country"]))
        >>> batch = vectors.lookup(["the country", "the"], sentences="padded")
        >>> batch.rows.shape, batch.lengths
        ((2, 2, 2), array([2, 1]))
        >>> batch.mask
        array([[ True,  True],
               [ True, False]])
    """

    rows: NDArray[Any]
    lengths: NDArray[np.int64]

    @property
    def mask(self) -> NDArray[np.bool_]:
        """bool[sentences, longest]: True where a row is a word's."""
        return _mask(self.lengths, self.rows.shape[1])


@dataclass(frozen=True, slots=True, eq=False)
class Ragged:
    """The rows of sentences end to end; item `i` is a view of those of sentence `i`.

    Attributes:
        rows: of shape (words of all sentences, ...), in the table's dtype.
        offsets: int64[sentences + 1], where each sentence begins in `rows`, and the end.

    Example:
        >>> import numpy as np
        >>> from shardwise import Table, Vectors, Vocabulary
        >>> vectors = Vectors(Table.from_array(np.eye(2)), Vocabulary(["the", "country"]))
        >>> batch = vectors.lookup(["the country", "the"], sentences="ragged")
        >>> batch.rows.shape, batch.offsets, batch.lengths
        ((3, 2), array([0, 2, 3]), array([2, 1]))
        >>> batch[1]
        array([[1., 0.]])
    """

    rows: NDArray[Any]
    offsets: NDArray[np.int64]

    @property
    def lengths(self) -> NDArray[np.int64]:
        """int64[sentences]: how many words each has."""
        return np.diff(self.offsets)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, sentence: int) -> NDArray[Any]:
        i = operator.index(sentence)
        if not -len(self) <= i < len(self):
            raise IdOutOfRangeError(
                f"expected the number of one of {len(self)} sentences, got {sentence}"
            )
        i %= len(self)
        return self.rows[self.offsets[i] : self.offsets[i + 1]]

    def __iter__(self) -> Iterator[NDArray[Any]]:
        ends = self.offsets.tolist()
        return (self.rows[i:j] for i, j in pairwise(ends))


def lookup(
    vectors: Vectors,
    tokens: Any,
    unknown: Any,
    sentences: object,
    max_length: int | None,
    out: NDArray[Any] | None,
    max_norm: float | None,
) -> NDArray[Any] | Padded | Ragged:
    """Return the rows of tokens, or of the words of sentences; see `Vectors.lookup`."""
    if sentences is None:
        if max_length is not None:
            raise OptionError("expected max_length with sentences= only, got it without")
        return _rows.lookup(vectors, tokens, unknown, out, max_norm)
    if out is not None:
        raise OptionError("expected out without sentences= only, got both")
    known = isinstance(sentences, str)
    if known and sentences == "padded":
        return _padded(vectors, tokens, unknown, max_length, max_norm)
    if known and sentences == "ragged":
        return _ragged(vectors, tokens, unknown, max_length, max_norm)
    raise OptionError(
        f"expected sentences to be 'padded', 'ragged' or None, got {sentences!r:.40}; the "
        'sentences themselves come first: lookup(list_of_sentences, sentences="padded")'
    )


def _padded(
    vectors: Vectors,
    sentences: Any,
    unknown: UnknownOrSkip,
    max_length: int | None,
    max_norm: float | None,
) -> Padded:
    """Return the rows of sentences, padded; see `Vectors.lookup`."""
    found, lengths = _find_sentences(vectors, sentences, unknown, max_length, max_norm)
    mask = _mask(lengths, int(lengths.max(initial=0)))
    ids = np.full(mask.shape, -1, np.int64)
    ids[mask] = found.ids
    inside = found.inside and len(found.ids) == ids.size
    places = np.flatnonzero(mask)[found.places]
    rows = Found(ids, inside, places, found.made).rows(vectors.table, None, max_norm)
    return Padded(rows, lengths)


def _ragged(
    vectors: Vectors,
    sentences: Any,
    unknown: UnknownOrSkip,
    max_length: int | None,
    max_norm: float | None,
) -> Ragged:
    """Return the rows of sentences, end to end; see `Vectors.lookup`."""
    found, lengths = _find_sentences(vectors, sentences, unknown, max_length, max_norm)
    return Ragged(found.rows(vectors.table, None, max_norm), _offsets(lengths))


def combine(
    vectors: Vectors, sentences: Any, combiner: object, unknown: UnknownOrSkip
) -> NDArray[Any]:
    """Return a row for each sentence; see `Vectors.sentence`."""
    if not isinstance(combiner, str) or combiner not in _COMBINERS:
        raise OptionError(
            f"expected combiner to be one of {', '.join(map(repr, _COMBINERS))}, got "
            f"{combiner!r:.40}"
        )
    table = vectors.table
    if table.dtype.kind != "f" and (table.dtype.kind in "cbiu" or not is_small_float(table.dtype)):
        raise TableError(
            f"expected rows of floating-point numbers for a {combiner}, got {table.dtype}; look "
            "the words up and combine them in a dtype of your choice"
        )
    one = isinstance(sentences, str)
    batch = [sentences] if one else sentences
    found, lengths = _find_sentences(vectors, batch, unknown, None, None)
    with np.errstate(all="ignore"):
        sums = _sums(table, found, _offsets(lengths))
        if combiner != "sum":
            counts = np.maximum(lengths, 1).astype(sums.dtype)
            sums /= (np.sqrt(counts) if combiner == "sqrtn" else counts)[:, None]
        rows = sums.astype(table.dtype, copy=False)
    return rows.reshape(table.shape[1:] if one else (len(lengths), *table.shape[1:]))


def _find_sentences(
    vectors: Vectors,
    sentences: Any,
    unknown: UnknownOrSkip,
    max_length: int | None,
    max_norm: float | None,
) -> tuple[Found, Ids]:
    """Find the words of sentences, end to end; return them and the lengths of the sentences."""
    check_unknown(unknown, (*UNKNOWN, "skip"))
    most = _as_length(max_length)
    parts = _words_of(sentences)
    if most is not None and unknown != "skip":
        parts = [part[:most] for part in parts]
    lengths = np.fromiter(map(len, parts), np.int64, len(parts))
    words = list(chain.from_iterable(parts))
    try:
        found = find(vectors, words, "zeros" if unknown == "skip" else unknown, max_norm)
        if found.ids.shape != (len(words),):
            raise TokenTypeError("expected sentences as lists of tokens, got deeper nests")
    except (TokenTypeError, VocabularyError) as error:
        raise _no_word(parts) or error from None
    rows = len(vectors.table)
    if unknown is None and found.ids.size:
        # An id of the policy may be any; below, one outside the table would stand for padding.
        outside = (found.ids < 0) | (found.ids >= rows)
        if outside.any():
            at = int(np.argmax(outside))
            raise out_of_range_error(found.ids.shape, at, int(found.ids[at]), rows)
    if unknown == "skip":
        known = found.ids >= 0
        before = _offsets(known.astype(np.int64))
        offsets = _offsets(lengths)
        lengths = np.diff(before[offsets])
        ids = found.ids[known]
        if most is not None:
            ids = ids[np.arange(len(ids)) - np.repeat(before[offsets[:-1]], lengths) < most]
            lengths = np.minimum(lengths, most)
        found = Found(ids, True, NOWHERE, None)
    return found, lengths


def _words_of(sentences: Any) -> list[Any]:
    """Return a list or tuple of words for each sentence; the words are not looked at.

    Raises:
        TokenTypeError: these are no sentences.
    """
    if isinstance(sentences, np.ndarray):
        sentences = sentences.tolist()
    if isinstance(sentences, (str, bytes)):
        raise TokenTypeError(
            f"expected a list of sentences, got one {type(sentences).__name__}, "
            f"{sentences!r:.60}; write [...] around it"
        )
    try:
        given = iter(sentences)
    except TypeError:
        raise TokenTypeError(
            f"expected a list of sentences, got {type(sentences).__name__}: {sentences!r:.60}"
        ) from None
    parts: list[Any] = []
    for number, sentence in enumerate(given):
        if isinstance(sentence, str):
            parts.append(sentence.split())
        elif isinstance(sentence, (list, tuple)):
            parts.append(sentence)
        elif isinstance(sentence, np.ndarray) and sentence.ndim == 1:
            parts.append(sentence.tolist())
        else:
            raise TokenTypeError(
                "expected each sentence as a str, which is split at white space, or as a list of "
                f"tokens, got {type(sentence).__name__} at position {number}: {sentence!r:.60}"
            )
    return parts


def _no_word(parts: list[Any]) -> TokenTypeError | None:
    """The error about the first thing in sentences that is no word, if there is one."""
    for number, part in enumerate(parts):
        for place, word in enumerate(part):
            if not isinstance(word, (str, bytes)):
                return TokenTypeError(
                    f"expected tokens of type str or bytes in sentences, got "
                    f"{type(word).__name__} as word {place} of sentence {number}: {word!r:.60}"
                )
    return None


def _as_length(max_length: Any) -> int | None:
    if max_length is None:
        return None
    try:
        length = -1 if isinstance(max_length, bool) else operator.index(max_length)
    except TypeError:
        length = -1
    if length < 0:
        raise OptionError(f"expected max_length as a number of words from 0, got {max_length!r}")
    return length


def _sums(table: Table, found: Found, offsets: Ids) -> NDArray[Any]:
    """Sum the rows of each sentence in the order of its words, in float32, or float64 for those."""
    dtype = np.result_type(table.dtype, np.float32) if table.dtype.kind == "f" else np.float32
    width = math.prod(table.shape[1:])
    sums = np.zeros((len(offsets) - 1, width), dtype)
    step = max(1, _BLOCK_BYTES // max(1, width * sums.itemsize))
    if offsets[-1] <= step:
        rows = found.rows(table).reshape(len(found.ids), width).astype(dtype, copy=False)
        _add(rows, offsets, sums)
        return sums
    begin = 0  # a sentence
    while begin < len(sums):
        first = int(offsets[begin])
        end = max(begin + 1, int(np.searchsorted(offsets, first + step, "right")) - 1)
        for start in range(first, int(offsets[end]), step):  # more than one turn for long ones
            stop = min(start + step, int(offsets[end]))
            low, high = np.searchsorted(found.places, [start, stop])
            made = None if found.made is None else found.made[low:high]
            part = Found(found.ids[start:stop], found.inside, found.places[low:high] - start, made)
            rows = part.rows(table).reshape(stop - start, width).astype(dtype, copy=False)
            _add(rows, np.clip(offsets[begin : end + 1], start, stop) - start, sums[begin:end])
        begin = end
    return sums


def _add(rows: NDArray[Any], offsets: Ids, sums: NDArray[Any]) -> None:
    """Add each sentence's rows to its sum one by one: the first of all, the second, and so on."""
    if len(sums) == 1 and rows.shape[1] > 1:
        # NumPy sums rows in their order, but that of a single column by pairs.
        np.add.reduce(np.concatenate([sums, rows]), axis=0, out=sums[0])
        return
    if not len(rows):
        return
    lengths = np.diff(offsets)
    order = np.argsort(-lengths, kind="stable")
    shorter, starts = -lengths[order], offsets[:-1][order]
    ordered = sums[order]
    for i in range(-int(shorter[0])):
        active = int(np.searchsorted(shorter, -i, "left"))
        ordered[:active] += rows[starts[:active] + i]
    sums[order] = ordered


def _offsets(lengths: Ids) -> Ids:
    offsets = np.zeros(len(lengths) + 1, np.int64)
    np.cumsum(lengths, out=offsets[1:])
    return offsets


def _mask(lengths: Ids, longest: int) -> NDArray[np.bool_]:
    return np.arange(longest) < lengths[:, None]
