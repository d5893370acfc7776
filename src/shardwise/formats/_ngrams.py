"""The vectors of fastText's words: the means of their own rows and their n-grams' rows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from shardwise import _native
from shardwise.formats._binary import Matrix, Words
from shardwise.formats._file import File

_MOST_NGRAMS = 1 << 22  # that are looked at together, and of one word
_STEP_BYTES = 1 << 20  # of sums: they should stay in a cache while rows are added to them


class Tokens(Protocol):
    """Tokens end to end, and where each begins."""

    @property
    def data(self) -> NDArray[np.uint8]: ...
    @property
    def offsets(self) -> NDArray[np.int64]: ...


@dataclass(frozen=True)
class Ngrams:
    """Which n-grams a word has, and where their rows are."""

    least: int
    most: int
    buckets: int
    cut_end: bool  # fastText cut "</s>" into n-grams before version 12's time; today it does not
    pruned: tuple[NDArray[np.int64], NDArray[np.int64]] | None  # buckets that have rows, and which

    def count(self, words: Tokens, begin: int, end: int) -> NDArray[np.int64]:
        counts = np.empty(end - begin, np.int64)
        offsets = words.offsets[begin : end + 1]
        _native.count_subwords(words.data, offsets, self.least, self.most, self.cut_end, counts)
        return counts

    def rows(
        self, words: Tokens, begin: int, end: int
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return the n-grams' rows, after the words', and where those of each word begin."""
        ids, offsets = _native.subword_buckets(
            words.data,
            words.offsets[begin : end + 1],
            self.least,
            self.most,
            self.buckets,
            self.cut_end,
            _MOST_NGRAMS,
        )
        if self.pruned is None:
            return ids, offsets
        kept, rows = self.pruned
        if not len(kept):
            return ids[:0], np.zeros_like(offsets)
        place = np.minimum(np.searchsorted(kept, ids), len(kept) - 1)
        known = kept[place] == ids
        before = np.concatenate(([0], np.cumsum(known)))
        return rows[place[known]], before[offsets]


def add_words(
    file: File,
    matrix: Matrix,
    words: Words,
    ngrams: Ngrams | None,
    word_count: int,
    begin: int,
    out: NDArray[np.float32],
) -> None:
    """Fill `out` with the vectors of the words from `begin` on.

    N-grams' rows come after the first `word_count` rows of the matrix. Memory is bounded, however
    many n-grams the words have.

    Raises:
        FormatError: a word has more n-grams than any word can have.
    """
    end = begin + len(out)
    step = max(1, _STEP_BYTES // (4 * matrix.shape[1]))
    for first in range(begin, end, step):
        last = min(end, first + step)
        if ngrams is None:
            with np.errstate(all="ignore"):
                sums = matrix.take(words.rows[first:last]) + np.float32(0)  # as in `_means`
            out[first - begin : last - begin] = sums
            continue
        counts = ngrams.count(words, first, last)
        if int(counts.max()) > _MOST_NGRAMS:
            raise file.error(
                f"word {first + int(np.argmax(counts))}: expected at most {_MOST_NGRAMS} n-grams, "
                f"got {int(counts.max())}; the file is broken, or its words are not words"
            )
        # As many words at once as their n-grams allow: nearly always all.
        while first < last:
            fit = max(1, int(np.searchsorted(np.cumsum(counts), _MOST_NGRAMS, "right")))
            stop = first + min(fit, last - first)
            ids, offsets = ngrams.rows(words, first, stop)
            ids += word_count
            with np.errstate(all="ignore"):  # fastText begins with 0, which makes 0 of -0
                own = matrix.take(words.rows[first:stop]) + np.float32(0)
            out[first - begin : stop - begin] = mean_rows(own, 1, matrix.take, ids, offsets)
            counts, first = counts[stop - first :], stop


def mean_rows(
    first: NDArray[np.float32],
    counted: int,
    take: Callable[[NDArray[np.int64]], NDArray[np.float32]],
    ids: NDArray[np.int64],
    offsets: NDArray[np.int64],
) -> NDArray[np.float32]:
    """Average the rows of each word's n-grams, and what comes before them.

    They are added one by one in float32, and multiplied by float32(1 / their number), which gives
    the bits of fastText's `getWordVector` (fasttext.cc). The words with the most n-grams come
    first, so that those that still have one are always the first.

    Args:
        first: float32[words, columns], what each sum begins with.
        counted: for how many rows it stands, 0 or 1.
        take: gives the rows of ids.
        ids: the rows of all n-grams.
        offsets: where each word's begin, and the end.
    """
    counts = np.diff(offsets)
    order = np.argsort(-counts, kind="stable")
    counts, starts = counts[order], offsets[:-1][order]
    sums = first[order]
    with np.errstate(all="ignore"):
        for i in range(int(counts[0])):
            active = int(np.searchsorted(-counts, -i, "left"))
            sums[:active] += take(ids[starts[:active] + i])
        sums *= (1.0 / np.maximum(counts + counted, 1)).astype(np.float32)[:, None]
    means = np.empty_like(sums)
    means[order] = sums
    return means
