"""Vectors of words that a table lacks, of the rows of their n-grams, as fastText makes them."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from shardwise._errors import StoreError, TableError, VocabularyError
from shardwise._table import Table
from shardwise._tokens import pack_tokens
from shardwise._vocabulary import Vocabulary
from shardwise.formats._ngrams import Ngrams, mean_rows

_MOST_CHARS = 1024  # of an n-gram; the work grows with it
_MOST_NGRAMS = 1 << 22  # that are looked at together, and of one word
_STEP_BYTES = 1 << 20  # of sums: they should stay in a cache while rows are added to them


class _Packed(NamedTuple):
    data: NDArray[np.uint8]
    offsets: NDArray[np.int64]


class Subwords:
    """The rule by which words are cut into n-grams, each of which has a row behind the words'.

    Args:
        fasttext: what the metadata of a table or a source say under "fasttext". It is checked at
            the first use.
        table: the rows.
        vocabulary: the tokens of the first rows.
        place: of the table, for messages.
    """

    def __init__(self, fasttext: object, table: Table, vocabulary: Vocabulary, place: str) -> None:
        self.fasttext = fasttext
        self._table = table
        self._words = len(vocabulary)
        self._rows = len(table)
        self._place = place

    def rows(self, tokens: list[Any], max_norm: float | None) -> NDArray[Any]:
        """Return the means of the rows of tokens' n-grams, in the table's dtype."""
        table = self._table
        if len(table.shape) != 2 or table.dtype.kind not in "fV":
            raise TableError(
                f"expected rows of floating-point numbers for the means of n-grams, got "
                f"{table.dtype} of shape {table.shape}"
            )
        means = self._vectors(tokens).astype(table.dtype, copy=False)
        if max_norm is None:
            return means
        return Table.from_array(means).lookup(np.arange(len(means)), max_norm=max_norm)

    @cached_property
    def _ngrams(self) -> Ngrams | None:
        """The rule, or None where words have no n-grams."""
        found = self.fasttext
        if not isinstance(found, Mapping):
            raise self._error("an object", f"{found!r:.40}")
        words, rows = (self._number(found, name) for name in ("words", "ngrams"))
        least, most = (self._number(found, name, _MOST_CHARS) for name in ("minn", "maxn"))
        buckets = self._number(found, "bucket")
        if words != self._words or words + rows != self._rows:
            raise self._error(
                f"{self._words} words and {self._rows - self._words} rows of n-grams",
                f"{words} and {rows}",
            )
        if most < max(1, least):
            return None
        kept = None
        if found.get("pruned") is not None:
            kept = self._kept(found["pruned"], buckets, rows)
        elif rows < buckets:
            raise TableError(
                f"expected a row for each of {buckets} buckets of n-grams in the table at "
                f"{self._place}, got {rows}; convert the model without a limit"
            )
        if buckets < 1:
            raise self._error("at least 1 bucket of n-grams", "0")
        return Ngrams(least, most, buckets, found.get("version") is None, kept)

    def _number(self, found: Mapping[str, Any], name: str, most: int = (1 << 31) - 1) -> int:
        value = found.get(name)
        if type(value) is not int or not 0 <= value <= most:
            raise self._error(f"{name} as an integer in [0, {most}]", f"{value!r:.40}")
        return value

    def _kept(
        self, pruned: Any, buckets: int, rows: int
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        try:
            pairs = np.asarray(pruned)
            if not pairs.size:
                pairs = np.empty((0, 2), np.int64)
            right = pairs.dtype.kind == "i" and pairs.ndim == 2 and pairs.shape[1] == 2
        except (ValueError, OverflowError):
            right = False
        if not right:
            raise self._error("pruned as pairs of integers", "something else")
        if len(pairs) and not (
            pairs.min() >= 0 and pairs[:, 0].max() < buckets and pairs[:, 1].max() < rows
        ):
            if not rows:
                raise TableError(
                    f"expected rows of n-grams in the table at {self._place}, got none; convert "
                    "the model without a limit"
                )
            raise self._error(f"pruned n-grams of {buckets} buckets and {rows} rows", "others")
        # Where a bucket comes again, the last counts, as in fastText.
        found, last = np.unique(pairs[::-1, 0], return_index=True)
        return found.astype(np.int64), pairs[::-1, 1][last].astype(np.int64)

    def _error(self, expected: str, got: str) -> StoreError:
        return StoreError(
            f'expected metadata["fasttext"] of the table at {self._place} to have {expected}, got '
            f"{got}; convert the model again"
        )

    def _vectors(self, tokens: list[Any]) -> NDArray[np.float32]:
        """Return the means of the tokens' n-gram rows; zeros for a token without n-grams."""
        packed = _Packed(*pack_tokens(tokens))
        width = self._table.shape[1]
        out = np.zeros((len(tokens), width), np.float32)
        ngrams = self._ngrams
        if ngrams is None:
            return out
        step = max(1, _STEP_BYTES // (4 * width))
        for first in range(0, len(tokens), step):
            last = min(len(tokens), first + step)
            counts = ngrams.count(packed, first, last)
            if int(counts.max()) > _MOST_NGRAMS:
                raise VocabularyError(
                    f"expected words of at most {_MOST_NGRAMS} n-grams, got one of "
                    f"{int(counts.max())}, the unknown word {first + int(np.argmax(counts))}; "
                    "leave it out"
                )
            while first < last:
                fit = max(1, int(np.searchsorted(np.cumsum(counts), _MOST_NGRAMS, "right")))
                stop = first + min(fit, last - first)
                ids, offsets = ngrams.rows(packed, first, stop)
                none = np.zeros((stop - first, width), np.float32)
                out[first:stop] = mean_rows(none, 0, self._take, ids + self._words, offsets)
                counts, first = counts[stop - first :], stop
        return out

    def _take(self, ids: NDArray[np.int64]) -> NDArray[np.float32]:
        with np.errstate(all="ignore"):
            return self._table.lookup(ids).astype(np.float32, copy=False)
