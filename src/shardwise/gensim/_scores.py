"""Word pairs and analogies, with the figures in the places where gensim has them."""

from __future__ import annotations

import math
import os
from typing import Any, NamedTuple

import numpy as np

from shardwise._errors import FormatError, OptionError, is_one_of
from shardwise.gensim._similar import Similar
from shardwise.words import _evaluate, _search

_TINY = 1e-300
_STEPS = 500


class Correlation(NamedTuple):
    """A correlation, and how likely one as far from 0 is where there is none.

    Attributes:
        statistic: the correlation, from -1 to 1.
        pvalue: of the two-sided test by Student's t.
    """

    statistic: float
    pvalue: float


class Scored(Similar):
    """How well vectors agree with people; the figures of `Vectors.evaluate_pairs` and the like."""

    def evaluate_word_pairs(
        self,
        pairs: str | os.PathLike[str],
        delimiter: str = "\t",
        encoding: str = "utf8",
        restrict_vocab: int | None = 300_000,
        case_insensitive: bool = True,
        dummy4unknown: bool = False,
    ) -> tuple[Correlation, Correlation, float]:
        """Compare the cosines of word pairs with people's scores.

        Args:
            pairs: a text file of lines with two words and a score; other lines, and those that
                begin with "#", are passed over.
            delimiter: what stands between them. Where it is a tab or spaces, either will do.
            encoding: of the file.
            restrict_vocab: know the first keys only, so many.
            case_insensitive: compare words in upper case; of several keys the first counts.
            dummy4unknown: pairs with an unknown word count with the cosine 0.

        Returns:
            (Pearson's correlation, Spearman's correlation, the share of pairs with an unknown
            word, in percent). Each correlation is (statistic, pvalue).

        Raises:
            FormatError: the file has no such line.
        """
        _search.check_rows(self._table)
        words: list[str] = []
        gold: list[float] = []
        for line in _evaluate._lines(pairs, encoding):
            fields = _evaluate._fields(line, None if delimiter.isspace() else delimiter)
            score = _evaluate._number(fields[2]) if len(fields) > 2 else math.nan
            if math.isfinite(score) and fields[0] and fields[1]:
                words += fields[:2]
                gold.append(score)
        if not gold:
            raise FormatError(
                f"{os.fspath(pairs)}: expected lines of two words and a score with {delimiter!r} "
                "between, got none; pass delimiter="
            )
        whole, stop = self._whole(), min(len(self), restrict_vocab or len(self))
        ids = _evaluate._ids_of(whole, words, stop, case_insensitive).reshape(-1, 2)
        known = (ids >= 0).all(axis=1)
        distinct, place = np.unique(ids[known], return_inverse=True)
        units = _search.directions(self._table.lookup(distinct))[place.reshape(-1, 2)]
        cosines = np.zeros(len(ids))
        cosines[known] = np.einsum("pd,pd->p", units[:, 0], units[:, 1])
        counted = np.ones(len(ids), bool) if dummy4unknown else known
        ours, theirs = cosines[counted], np.array(gold)[counted]
        pearson = _evaluate._pearson(theirs, ours)
        spearman = _evaluate._pearson(_evaluate._ranks(theirs), _evaluate._ranks(ours))
        count = int(counted.sum())
        return (
            Correlation(pearson, p_value(pearson, count)),
            Correlation(spearman, p_value(spearman, count)),
            100.0 * int((~known).sum()) / len(ids),
        )

    def evaluate_word_analogies(
        self,
        analogies: str | os.PathLike[str],
        restrict_vocab: int | None = 300_000,
        case_insensitive: bool = True,
        dummy4unknown: bool = False,
        similarity_function: str = "most_similar",
    ) -> tuple[float, list[dict[str, Any]]]:
        """Ask the questions of a file like word2vec's `questions-words.txt`, all at once.

        Args:
            analogies: the file: lines `: name` begin sections, others have four words.
            restrict_vocab: know and search the first keys only, so many.
            case_insensitive: compare words in upper case; of several keys the first counts.
            dummy4unknown: questions with an unknown word count as answered wrongly.
            similarity_function: "most_similar" or "most_similar_cosmul".

        Returns:
            (share of right answers, sections). A section has "section", its name, and "correct"
            and "incorrect", lists of questions as four words, in upper case where case does not
            matter. The last section is "Total accuracy".

        Raises:
            OptionError: there is no such function.
            FormatError: the file has no line of four words.
        """
        if not is_one_of(similarity_function, ("most_similar", "most_similar_cosmul")):
            raise OptionError(
                "expected similarity_function as 'most_similar' or 'most_similar_cosmul', got "
                f"{similarity_function!r:.40}"
            )
        asked = _evaluate._asked(
            self._whole(),
            analogies,
            restrict=restrict_vocab or None,
            case_insensitive=case_insensitive,
            cosmul=similarity_function == "most_similar_cosmul",
        )
        sections: list[dict[str, Any]] = [
            {"section": name, "correct": [], "incorrect": []}
            for name in [*asked.names, "Total accuracy"]
        ]
        words = [word.upper() for word in asked.words] if case_insensitive else asked.words
        answered = zip(asked.sections.tolist(), asked.known, asked.right, strict=True)
        for i, (section, known, right) in enumerate(answered):
            if known or dummy4unknown:
                question = tuple(words[4 * i : 4 * i + 4])
                for place in (section, -1):
                    sections[place]["correct" if right else "incorrect"].append(question)
        correct, wrong = (len(sections[-1][name]) for name in ("correct", "incorrect"))
        return correct / max(1, correct + wrong), sections


def p_value(correlation: float, count: int) -> float:
    """Return the two-sided p-value of a correlation of `count` pairs, by Student's t.

    With x = 1 - r^2 it is the regularised incomplete beta function I_x(count / 2 - 1, 1 / 2).
    """
    if count < 3 or math.isnan(correlation):
        return math.nan
    return _beta(count / 2 - 1, 0.5, max(0.0, (1 - correlation) * (1 + correlation)))


def _beta(a: float, b: float, x: float) -> float:
    """The regularised incomplete beta function, by its continued fraction (DLMF 8.17.22)."""
    if x <= 0 or x >= 1:
        return float(x >= 1)
    if x > (a + 1) / (a + b + 2):  # where the fraction of the other end converges faster
        return 1 - _beta(b, a, 1 - x)
    log = math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x)
    factor = math.exp(log + b * math.log1p(-x)) / a
    # Lentz's method: the fraction as a product of ratios c * d.
    c, d, result = math.inf, 1.0, 1.0
    for step in range(1, _STEPS):
        m, odd = divmod(step, 2)
        if odd:
            term = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        else:
            term = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        c, d = _nonzero(1 + term / c), 1 / _nonzero(1 + term * d)
        result *= c * d
        if abs(c * d - 1) < 1e-15:
            break
    return min(1.0, factor * result)


def _nonzero(value: float) -> float:
    return value if abs(value) > _TINY else _TINY
