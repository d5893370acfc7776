"""What is near what, asked as gensim is asked and answered by shardwise's search."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from shardwise._errors import OptionError, TableError
from shardwise.gensim._keys import missing
from shardwise.gensim._rows import Rows
from shardwise.words import _neighbours, _search
from shardwise.words._questions import as_vector, is_weight
from shardwise.words._search import Queries, directions

Answers: TypeAlias = list[tuple[str, float]]
_Wide: TypeAlias = NDArray[np.float64]


class Similar(Rows):
    """The questions. In all of them a key may also be an integer, a position.

    The search is `Vectors.most_similar`'s: exact, over tables of any size and dtype, with the last
    say in float64. Of equal scores the lower position comes first. A row of zeros, or with a NaN
    or an infinity, has the cosine 0 to all, never NaN.
    """

    def _infer(self, keys: list[str]) -> NDArray[Any] | None:
        """Vectors of keys that have no row, where these vectors can make some."""
        return None

    def _rows_of(self, keys: Sequence[Any]) -> NDArray[Any]:
        """The rows of keys, (keys, vector_size)."""
        ids = self._keys.find(keys)
        out = np.flatnonzero(ids < 0).tolist()
        if not out:
            return self._table.lookup(ids)
        words = [keys[i] for i in out]
        made = self._infer(words) if all(isinstance(word, str) for word in words) else None
        if made is None:
            raise missing(words[0])
        rows = self._table.lookup(ids, out_of_range="zeros")
        rows[out] = made
        return rows

    def __getitem__(self, key: Any) -> NDArray[Any]:
        """Return the vector of a key, (vector_size,), or of several, (keys, vector_size).

        Raises:
            UnknownTokenError: there is no such key.
        """
        if isinstance(key, (str, int, np.integer)):
            return self.get_vector(key)
        return self._rows_of(list(key))

    def get_vector(self, key: Any, norm: bool = False) -> NDArray[Any]:
        """Return the vector of a key, read-only; with `norm` as a unit vector.

        Raises:
            UnknownTokenError: there is no such key.
        """
        row = self._rows_of([key])
        if norm:
            row = directions(row).astype(_search._float_type(self._table))
        vector: NDArray[Any] = row[0]
        vector.flags.writeable = False
        return vector

    def get_normed_vectors(self) -> NDArray[Any]:
        """Return all rows as unit vectors: a new array of shape (keys, vector_size)."""
        result = np.empty((len(self), self.vector_size), _search._float_type(self._table))
        step = max(1, _search.SCORES // max(1, self.vector_size))
        for begin in range(0, len(self), step):
            ids = np.arange(begin, min(begin + step, len(self)))
            result[begin : begin + step] = directions(self._table.lookup(ids))
        return result

    def _terms(
        self, keys: list[Any], unit: bool = True, skip: bool = False
    ) -> tuple[list[int | None], _Wide, NDArray[np.bool_]]:
        """Keys and raw vectors as float64: (positions or None, vectors, which of them count).

        Keys count as unit vectors if `unit`; raw vectors as they are. With `skip` a missing key is
        left out.
        """
        given = [np.ndim(key) for key in keys]  # 0: a key, 1: a vector
        rows = np.zeros((len(keys), self.vector_size))
        used = np.ones(len(keys), bool)
        ids: list[int | None] = [None] * len(keys)
        named = [i for i, ndim in enumerate(given) if not ndim]
        found = self._keys.find([keys[i] for i in named])
        for i, place in zip(named, found.tolist(), strict=True):
            if place >= 0:
                ids[i] = place
            elif keys[i] not in self:
                used[i] = False
                if not skip:
                    raise missing(keys[i])
        named = [i for i in named if used[i]]
        if named:
            exact = self._rows_of([keys[i] for i in named])
            rows[named] = directions(exact) if unit else exact
        for i, ndim in enumerate(given):
            if ndim:
                rows[i] = as_vector(self._table, keys[i])
        return ids, rows, used

    def get_mean_vector(
        self,
        keys: Any,
        weights: Any = None,
        pre_normalize: bool = True,
        post_normalize: bool = False,
        ignore_missing: bool = True,
    ) -> NDArray[Any]:
        """Return the weighted mean of vectors: their weighted sum, by the sum of |weight|.

        Args:
            keys: keys, or vectors as arrays.
            weights: as many numbers; 1 by default.
            pre_normalize: keys count as unit vectors.
            post_normalize: return a unit vector.
            ignore_missing: leave out keys that are not there; all of them missing, it is zeros.

        Raises:
            OptionError: there are no keys, or another number of weights.
            UnknownTokenError: a key is not there, and `ignore_missing` is false.
        """
        listed = _listed(keys)
        if not listed:
            raise OptionError("cannot compute mean with no input: expected at least one key")
        scales = np.ones(len(listed)) if weights is None else np.asarray(weights, np.float64)
        if scales.shape != (len(listed),):
            raise OptionError(
                f"expected a weight for each of {len(listed)} keys, got shape {scales.shape}"
            )
        _search.check_rows(self._table)
        _, rows, used = self._terms(listed, pre_normalize, ignore_missing)
        mean = scales[used] @ rows[used]
        total = np.abs(scales[used]).sum()
        mean = mean / total if total > 0 else mean
        if post_normalize:
            mean = directions(mean[None])[0]
        result: NDArray[Any] = mean.astype(_search._float_type(self._table))
        return result

    def most_similar(
        self,
        positive: Any = None,
        negative: Any = None,
        topn: int | None = 10,
        clip_start: int = 0,
        clip_end: int | None = None,
        restrict_vocab: int | None = None,
        indexer: Any = None,
    ) -> Any:
        """Return the keys whose vectors have the largest cosine to the mean of some.

        Args:
            positive: a key, a vector, or a list of these; instead of one may stand a pair of it
                and its weight.
            negative: likewise; the weight is -1, or the one that is given.
            topn: how many; None for the cosines of all rows, in order, as an array.
            clip_start: the first position that is searched.
            clip_end: the position where the search ends.
            restrict_vocab: search the first rows only, so many.
            indexer: an object that is asked instead: `indexer.most_similar(vector, topn)`.

        Returns:
            A list of (key, cosine), best first, without the keys that were asked for.

        Raises:
            UnknownTokenError: there is no such key; it is a KeyError.
            OptionError: nothing is asked for; it is a ValueError.
            TableError: a vector has another shape.
        """
        if topn is not None and topn < 1:
            return []
        _search.check_rows(self._table)
        items = [*_weighted(positive, 1.0), *_weighted(negative, -1.0)]
        if not items:
            raise OptionError("cannot compute mean with no input: expected at least one key")
        ids, rows, _ = self._terms([item for item, _ in items])
        middle = directions((np.array([weight for _, weight in items]) @ rows)[None])
        if indexer is not None and topn is not None:
            return indexer.most_similar(middle[0].astype(np.float32), topn)
        start, stop = _range(len(self), clip_start, clip_end, restrict_vocab)
        if topn is None:
            return _search.cosines(self._table, middle[0], stop, self._factors())[start:]
        known = [i for i in dict.fromkeys(ids) if i is not None]
        return self._answers(Queries(middle, [known]), topn, start, stop)

    def _answers(self, queries: Queries, topn: int, start: int, stop: int) -> Answers:
        if start >= stop:
            return []
        factors = self._factors()
        ((ids, scores),) = _search.search(
            self._table, queries, topn, stop, start=start, factors=factors
        )
        return list(zip(self._keys.decode(ids), scores.tolist(), strict=True))

    def similar_by_key(
        self, key: Any, topn: int | None = 10, restrict_vocab: int | None = None
    ) -> Any:
        """Return `most_similar` of one key."""
        return self.most_similar([key], topn=topn, restrict_vocab=restrict_vocab)

    def similar_by_word(
        self, word: Any, topn: int | None = 10, restrict_vocab: int | None = None
    ) -> Any:
        """Return `most_similar` of one word."""
        return self.similar_by_key(word, topn, restrict_vocab)

    def similar_by_vector(
        self, vector: Any, topn: int | None = 10, restrict_vocab: int | None = None
    ) -> Any:
        """Return `most_similar` of one vector."""
        return self.most_similar([np.asarray(vector)], topn=topn, restrict_vocab=restrict_vocab)

    def most_similar_cosmul(
        self,
        positive: Any = None,
        negative: Any = None,
        topn: int | None = 10,
        restrict_vocab: int | None = None,
    ) -> Any:
        """Return the keys that score best by 3CosMul (Levy and Goldberg, 2014, equation 4).

        Args:
            positive: a key, a vector, or a list of these.
            negative: likewise.
            topn: how many; None for the scores of all rows, in order, as an array.
            restrict_vocab: search the first rows only, so many.

        Raises:
            UnknownTokenError: there is no such key.
            OptionError: nothing positive is asked for.
        """
        if topn is not None and topn < 1:
            return []
        _search.check_rows(self._table)
        wanted, unwanted = _listed(positive), _listed(negative)
        if not wanted:
            raise OptionError("cannot compute similarity with no input: expected a positive key")
        ids, rows, _ = self._terms([*wanted, *unwanted])
        terms = directions(rows)
        known = [i for i in dict.fromkeys(ids) if i is not None]
        start, stop = _range(len(self), 0, None, restrict_vocab)
        queries = Queries(terms, [known], [len(terms)], [len(wanted)])
        if topn is None:
            factors = self._factors()
            each = [_search.cosines(self._table, term, stop, factors) for term in terms]
            return queries.scores(np.stack(each), 0, 1)[0]
        return self._answers(queries, topn, start, stop)

    def similarity(self, w1: Any, w2: Any) -> Any:
        """Return the cosine of two keys.

        Raises:
            UnknownTokenError: there is no such key.
        """
        _, rows, _ = self._terms([w1, w2])
        return _search._float_type(self._table)(np.clip(rows[0] @ rows[1], -1.0, 1.0))

    def distance(self, w1: Any, w2: Any) -> Any:
        """Return 1 - the cosine of two keys."""
        return 1 - self.similarity(w1, w2)

    def distances(self, word_or_vector: Any, other_words: Iterable[Any] = ()) -> NDArray[Any]:
        """Return 1 - the cosine of a key or a vector to each of some keys, or to all by position.

        Raises:
            UnknownTokenError: there is no such key.
        """
        _search.check_rows(self._table)
        _, rows, _ = self._terms([word_or_vector])
        direction = directions(rows)[0]
        others = _listed(other_words)
        if not others:
            return 1 - _search.cosines(self._table, direction, len(self), self._factors())
        near: _Wide = np.clip(self._terms(others)[1] @ direction, -1.0, 1.0)
        return (1 - near).astype(_search._float_type(self._table))

    def n_similarity(self, ws1: Iterable[Any], ws2: Iterable[Any]) -> Any:
        """Return the cosine of the means of two lists of keys; missing keys are left out.

        Raises:
            ZeroDivisionError: a list is empty.
        """
        first, second = _listed(ws1), _listed(ws2)
        if not first or not second:
            raise ZeroDivisionError("expected at least one key in each list, got none")
        left, right = (
            self.get_mean_vector(keys, pre_normalize=False).astype(np.float64)
            for keys in (first, second)
        )
        units = directions(np.stack([left, right]))
        return _search._float_type(self._table)(np.clip(units[0] @ units[1], -1.0, 1.0))

    @staticmethod
    def cosine_similarities(vector_1: Any, vectors_all: Any) -> NDArray[Any]:
        """Return the cosine of a vector, (dim,), to each row of an array, (rows, dim)."""
        one, rows = np.asarray(vector_1), np.asarray(vectors_all)
        if one.ndim != 1 or rows.ndim != 2 or rows.shape[1:] != one.shape:
            raise TableError(
                f"expected a vector and rows of its length, got shapes {one.shape} and {rows.shape}"
            )
        kind = np.result_type(one.dtype, rows.dtype, np.float32)
        near: _Wide = directions(rows) @ directions(one[None])[0]
        return np.clip(near, -1.0, 1.0).astype(kind)

    def most_similar_to_given(self, key1: Any, keys_list: Sequence[Any]) -> Any:
        """Return the one of some keys that has the largest cosine to a key.

        Raises:
            UnknownTokenError: there is no such key.
            OptionError: the list is empty.
        """
        if not len(keys_list):
            raise OptionError("expected at least one key to choose from, got none")
        return keys_list[int(np.argmin(self.distances(key1, keys_list)))]

    def closer_than(self, key1: Any, key2: Any) -> list[str]:
        """Return the keys nearer to the first key than the second is, in order of position."""
        names = self._keys.decode([self.get_index(key1), self.get_index(key2)])
        return self._keys.decode(_neighbours.closer_ids(self._whole(), *names))

    def rank(self, key1: Any, key2: Any) -> int:
        """Return 1 + how many keys are nearer to the first key than the second is."""
        return len(self.closer_than(key1, key2)) + 1

    def rank_by_centrality(
        self, words: Iterable[Any], use_norm: bool = True
    ) -> list[tuple[Any, Any]]:
        """Return (dot product with the mean, word), the most central word first.

        Args:
            words: keys; those that are not there are left out.
            use_norm: of unit vectors. Without it of the vectors as they are.

        Raises:
            OptionError: no key is left.
        """
        listed = list(words)
        _, rows, used = self._terms(listed, use_norm, skip=True)
        kept = [word for word, is_used in zip(listed, used.tolist(), strict=True) if is_used]
        if not kept:
            raise OptionError("cannot select a word from an empty list: expected known words")
        rows = rows[used]
        near = (rows @ directions(rows.mean(axis=0)[None])[0]).astype(
            _search._float_type(self._table)
        )
        return sorted(zip(near, kept, strict=True), reverse=True)

    def doesnt_match(self, words: Iterable[Any]) -> Any:
        """Return the word that is furthest from the mean of words, as unit vectors.

        Raises:
            OptionError: no word is known.
        """
        return self.rank_by_centrality(words)[-1][1]

    def relative_cosine_similarity(self, wa: Any, wb: Any, topn: int = 10) -> Any:
        """Return the cosine of two words by the sum of those of the first one's `topn` nearest.

        Leeuwenberg et al. (2016), equation 1: more than 1 / topn says synonyms.
        """
        total = sum(score for _, score in self.similar_by_word(wa, topn))
        return float(self.similarity(wa, wb)) / total if total else float("nan")


def _listed(value: Any) -> list[Any]:
    """One key, one vector or several of them as a list."""
    if value is None:
        return []
    if isinstance(value, (str, int, np.integer)) or (
        isinstance(value, np.ndarray) and value.ndim == 1 and value.dtype.kind in "fc"
    ):
        return [value]
    return list(value)


def _weighted(value: Any, weight: float) -> list[tuple[Any, float]]:
    items = []
    for item in _listed(value):
        if isinstance(item, tuple):
            if len(item) != 2 or not is_weight(item[1]):
                raise OptionError(f"expected pairs of a key and its weight, got {item!r:.80}")
            items.append((item[0], float(item[1])))
        else:
            items.append((item, weight))
    return items


def _range(count: int, start: int, end: int | None, restrict: int | None) -> tuple[int, int]:
    """The positions that are searched; ends beyond the rows, and negative ones, as in a slice."""
    if restrict:
        start, end = 0, restrict
    first, last, _ = slice(start, end or None).indices(count)
    return first, last
