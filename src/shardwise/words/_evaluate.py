"""How well vectors agree with people: word pairs by rank correlation, analogies by section."""

from __future__ import annotations

import codecs
import math
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from shardwise._encoding import find_ids
from shardwise._errors import FormatError
from shardwise.words._questions import as_stop
from shardwise.words._search import Queries, check_rows, directions, search

if TYPE_CHECKING:
    from shardwise._vectors import Vectors

_TRIED = 5  # answers among which the first that is no word of the question counts, as in gensim


class PairScores(NamedTuple):
    """How far the cosines of word pairs agree with people's scores.

    Attributes:
        pearson: the linear correlation, of the pairs whose words are both known; NaN where there
            is none, as with fewer than two pairs.
        spearman: the correlation of the ranks, of equal scores the mean rank; likewise.
        pairs: how many pairs were compared.
        unknown: how many pairs were not, for want of a word.
        skipped: how many lines are no pair with a score, such as a header.

    Example:
        >>> from shardwise import PairScores
        >>> scores = PairScores(pearson=0.6, spearman=0.5, pairs=300, unknown=100, skipped=1)
        >>> scores.unknown_share
        0.25
    """

    pearson: float
    spearman: float
    pairs: int
    unknown: int
    skipped: int

    @property
    def unknown_share(self) -> float:
        """The share of the pairs that were not compared, from 0 to 1."""
        return self.unknown / max(1, self.pairs + self.unknown)


class AnalogySection(NamedTuple):
    """How many analogies of a section were answered rightly.

    Attributes:
        name: the section.
        correct: how many answers were right.
        questions: how many were asked: those whose four words are known.
        unknown: how many were not asked, for want of a word.

    Example:
        >>> from shardwise import AnalogySection
        >>> AnalogySection("capitals", correct=3, questions=4, unknown=1).accuracy
        0.75
    """

    name: str
    correct: int
    questions: int
    unknown: int

    @property
    def accuracy(self) -> float:
        """The share of right answers, from 0 to 1; 0 where nothing was asked."""
        return self.correct / max(1, self.questions)


class AnalogyScores(NamedTuple):
    """How many analogies were answered rightly.

    Attributes:
        sections: in the order of the file.
        total: all of them together.
        skipped: how many lines are no four words.

    Example:
        >>> from shardwise import AnalogyScores, AnalogySection
        >>> section = AnalogySection("capitals", correct=3, questions=4, unknown=1)
        >>> scores = AnalogyScores((section,), total=section._replace(name="all"), skipped=0)
        >>> [one.name for one in scores.sections], scores.total.accuracy
        (['capitals'], 0.75)
    """

    sections: tuple[AnalogySection, ...]
    total: AnalogySection
    skipped: int


def evaluate_pairs(
    vectors: Vectors,
    path: str | os.PathLike[str],
    *,
    restrict: int | None = 300_000,
    case_insensitive: bool = True,
) -> PairScores:
    """See `Vectors.evaluate_pairs`."""
    check_rows(vectors.table)
    stop = as_stop(vectors, restrict)
    words: list[tuple[str, str]] = []
    gold: list[float] = []
    skipped = 0
    for line in _lines(path):
        fields = _fields(line)
        score = _number(fields[2]) if len(fields) > 2 else math.nan
        if not math.isfinite(score) or not fields[0] or not fields[1]:
            skipped += 1
            continue
        words.append((fields[0], fields[1]))
        gold.append(score)
    if not words:
        raise FormatError(
            f"{os.fspath(path)}: expected lines of two words and a score, with tabs or spaces "
            f"between, got {skipped} lines and none of them so"
        )
    ids = _ids_of(vectors, [word for pair in words for word in pair], stop, case_insensitive)
    pairs = ids.reshape(-1, 2)
    known = (pairs >= 0).all(axis=1)
    distinct, place = np.unique(pairs[known], return_inverse=True)
    units = directions(vectors.table.lookup(distinct))[place.reshape(-1, 2)]
    cosines = np.einsum("pd,pd->p", units[:, 0], units[:, 1])
    wanted = np.array(gold)[known]
    return PairScores(
        pearson=_pearson(wanted, cosines),
        spearman=_pearson(_ranks(wanted), _ranks(cosines)),
        pairs=int(known.sum()),
        unknown=int((~known).sum()),
        skipped=skipped,
    )


def evaluate_analogies(
    vectors: Vectors,
    path: str | os.PathLike[str],
    *,
    restrict: int | None = 30_000,
    case_insensitive: bool = True,
) -> AnalogyScores:
    """See `Vectors.evaluate_analogies`."""
    asked = _asked(vectors, path, restrict=restrict, case_insensitive=case_insensitive)
    counts = [
        np.bincount(asked.sections[mask], minlength=len(asked.names)).tolist()
        for mask in (asked.right, asked.known, ~asked.known)
    ]
    found = tuple(
        AnalogySection(name, *numbers)
        for name, numbers in zip(asked.names, zip(*counts, strict=True), strict=True)
    )
    total = AnalogySection("total", *(sum(numbers) for numbers in counts))
    return AnalogyScores(found, total, asked.skipped)


class _Asked(NamedTuple):
    """The questions of a file, four `words` each: which section they are of, and how it went."""

    names: list[str]
    words: list[str]
    sections: NDArray[np.int64]
    known: NDArray[np.bool_]
    right: NDArray[np.bool_]
    skipped: int


def _asked(
    vectors: Vectors,
    path: str | os.PathLike[str],
    *,
    restrict: int | None,
    case_insensitive: bool,
    cosmul: bool = False,
) -> _Asked:
    """Ask the questions of a file, by 3CosAdd or by 3CosMul."""
    check_rows(vectors.table)
    stop = as_stop(vectors, restrict)
    names: list[str] = []
    section_of: list[int] = []
    words: list[str] = []
    skipped = 0
    for line in _lines(path):
        if line.startswith(":"):
            names.append(line.lstrip(": ").strip())
            continue
        fields = line.split()
        if len(fields) != 4:
            skipped += 1
            continue
        if not names:
            names.append("")  # before any section
        words += fields
        section_of.append(len(names) - 1)
    if not words:
        raise FormatError(
            f"{os.fspath(path)}: expected sections, `: name`, of lines of four words, got "
            f"{skipped} lines and none of four words"
        )
    asked = _ids_of(vectors, words, stop, case_insensitive).reshape(-1, 4)
    known: NDArray[np.bool_] = np.all(asked >= 0, axis=1)
    right = np.zeros(len(asked), bool)
    right[known] = _answered_rightly(vectors, asked[known], stop, case_insensitive, cosmul)
    return _Asked(names, words, np.array(section_of), known, right, skipped)


def _answered_rightly(
    vectors: Vectors, asked: NDArray[np.int64], stop: int, case_insensitive: bool, cosmul: bool
) -> NDArray[np.bool_]:
    """For questions, ids (n, 4) of `a` is to `b` as `c` is to `d`: whether `d` is the answer."""
    distinct, place = np.unique(asked, return_inverse=True)
    if not len(asked):
        return np.zeros(0, bool)
    place = place.reshape(-1, 4)
    units = directions(vectors.table.lookup(distinct))
    # Questions that differ in `d` alone have one answer.
    questions, question = np.unique(place[:, :3], axis=0, return_inverse=True)
    a, b, c = (units[questions[:, k]] for k in range(3))
    known = distinct[questions].tolist()
    if cosmul:
        terms = np.stack([b, c, a], axis=1).reshape(3 * len(known), -1)
        ends = [3 * (q + 1) for q in range(len(known))]
        queries = Queries(terms, known, ends, [2] * len(known))
    else:
        queries = Queries(directions(b + c - a), known)
    answers = search(vectors.table, queries, _TRIED, stop, exact=False)
    tried = np.full((len(questions), _TRIED), -1, np.int64)
    for q, (ids, _) in enumerate(answers):
        tried[q, : len(ids)] = ids
    if not case_insensitive:
        return np.asarray(tried[question.reshape(-1), 0] == asked[:, 3])
    # Words that differ in case alone are one word: of it, neither is an answer to the other.
    seen = np.unique(np.concatenate([tried[tried >= 0], distinct]))
    tokens = [token.upper() for token in vectors.vocabulary.decode(seen)]
    word_of = dict(zip(seen.tolist(), tokens, strict=True))
    right = np.zeros(len(asked), bool)
    for i, (line, q) in enumerate(zip(asked.tolist(), question.reshape(-1).tolist(), strict=True)):
        own = {word_of[k] for k in line[:3]}
        answer = None
        for k in tried[q].tolist():
            if k >= 0:
                answer = word_of[k]
                if answer not in own:
                    break
        right[i] = answer == word_of[line[3]]
    return right


def _lines(path: str | os.PathLike[str], encoding: str = "utf-8-sig") -> Iterator[str]:
    """A file's lines that say something; its bytes may be any."""
    if codecs.lookup(encoding).name == "utf-8":
        encoding = "utf-8-sig"
    # A number would be a descriptor, which the file would close at its end.
    with open(os.fspath(path), encoding=encoding, errors="surrogateescape") as file:
        for line in file:
            stripped = line.strip()
            if stripped and not stripped.startswith("#"):
                yield stripped


def _fields(line: str, delimiter: str | None = None) -> list[str]:
    """What stands between tabs, or else between spaces, or between delimiters."""
    if delimiter is None:
        delimiter = "\t" if "\t" in line else None
    return [field.strip() for field in line.split(delimiter)]


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan


def _ids_of(
    vectors: Vectors, words: list[str], stop: int, case_insensitive: bool
) -> NDArray[np.int64]:
    """The ids of words among the first `stop` tokens, -1 for those that are not there.

    Of tokens that differ in case alone the first stands for all, as in gensim.
    """
    if not case_insensitive:
        ids = find_ids(vectors.vocabulary, list(words))
        ids[ids >= stop] = -1
        return ids
    upper = [word.upper() for word in words]
    wanted = set(upper)
    found: dict[str, int] = {}
    for i, token in enumerate(_first(vectors, stop)):
        folded = token.upper()
        if folded in wanted:
            found.setdefault(folded, i)
    return np.array([found.get(word, -1) for word in upper], np.int64)


def _first(vectors: Vectors, stop: int) -> Iterator[str]:
    for _, token in zip(range(stop), vectors.vocabulary, strict=False):
        yield token


def _ranks(values: NDArray[Any]) -> NDArray[np.float64]:
    """Ranks from 1; equal values get the mean of theirs."""
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    means: NDArray[np.float64] = (last - (counts - 1) / 2)[place.reshape(-1)]
    return means


def _pearson(a: NDArray[Any], b: NDArray[Any]) -> float:
    """Pearson's correlation; NaN where one of them does not vary."""
    if len(a) < 2 or (a == a[0]).all() or (b == b[0]).all():
        return math.nan
    left, right = a - a.mean(), b - b.mean()
    # Each divided by its own length first, so that no product is lost.
    left, right = left / np.linalg.norm(left), right / np.linalg.norm(right)
    return float(np.clip(left @ right, -1.0, 1.0))
