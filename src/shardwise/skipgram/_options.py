"""What a training can be told; checked before any work is done."""

from __future__ import annotations

import math
import operator
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, TypeAlias, get_args

from shardwise._errors import OptionError

Model: TypeAlias = Literal["skipgram", "cbow"]

# Each number's least and greatest value.
_WHOLE = {
    "dim": (1, 1 << 16),
    "window": (1, 10_000),
    "negative": (1, 63),
    "epochs": (1, 1_000_000),
    "min_count": (1, (1 << 63) - 1),
    "min_n": (0, 1024),
    "max_n": (0, 1024),
    "bucket": (1, (1 << 31) - 1),
    "seed": (0, (1 << 64) - 1),
}


@dataclass(frozen=True)
class Options:
    """How words are counted and trained; the defaults are word2vec's.

    Attributes:
        model: "skipgram" predicts a word from each of its context words, "cbow" from their mean.
        dim: how many values a vector has.
        window: how many words on each side are context at most; for each word a number from 1 to
            it is drawn, as in word2vec.
        negative: how many words are drawn against each word, in proportion to
            count^negative_power.
        negative_power: from -4 to 4. For items of baskets less than word2vec's 0.75 may be better
            (Caselles-Dupré et al., 2018).
        sample: a word that makes up a share f of the text is kept with the probability
            sqrt(sample / f) + sample / f; 0 keeps all.
        epochs: how many times the text is read.
        learning_rate: at the beginning. None is 0.025, and for "cbow" 0.05.
        final_learning_rate: at the end, from 0, as in word2vec, to `learning_rate`; it falls in
            proportion to what was read, but never below 0.0001 of `learning_rate`.
        min_count: leave out words that were seen less often.
        max_size: the most words, of the most frequent; None takes all.
        min_n: characters of the shortest n-gram that words are cut into, with "<" before a word
            and ">" after it, as in fastText; 0 for words alone.
        max_n: characters of the longest; 0 for words alone.
        bucket: how many rows n-grams share, by their hash.
        seed: chooses the first values and all that is drawn.

    Raises:
        OptionError: an option cannot have this value.

    Example:
        >>> from shardwise import skipgram
        >>> skipgram.Options().rate, skipgram.Options(model="cbow").rate
        (0.025, 0.05)
        >>> options = skipgram.Options(min_n=3, max_n=6, final_learning_rate=0.005)
        >>> options.rate_at(0), round(options.rate_at(0.5), 5), round(options.rate_at(1), 5)
        (0.025, 0.015, 0.005)
        >>> options.subwords, skipgram.Options.from_json(options.to_json()) == options
        (True, True)
    """

    model: Model = "skipgram"
    dim: int = 100
    window: int = 5
    negative: int = 5
    negative_power: float = 0.75
    sample: float = 1e-3
    epochs: int = 5
    learning_rate: float | None = None
    final_learning_rate: float = 0.0
    min_count: int = 5
    max_size: int | None = None
    min_n: int = 0
    max_n: int = 0
    bucket: int = 2_000_000
    seed: int = 1

    def __post_init__(self) -> None:
        if self.model not in get_args(Model):
            known = " or ".join(map(repr, get_args(Model)))
            raise OptionError(f"expected model as {known}, got {self.model!r:.40}")
        for name, (least, most) in _WHOLE.items():
            object.__setattr__(self, name, _whole(name, getattr(self, name), least, most))
        if self.max_size is not None:
            size = _whole("max_size", self.max_size, 2, (1 << 63) - 1)
            object.__setattr__(self, "max_size", size)
        _number("sample", self.sample, 0)
        power = float(_number("negative_power", self.negative_power, -4))
        if power > 4:
            raise OptionError(f"expected negative_power as a number from -4 to 4, got {power}")
        object.__setattr__(self, "negative_power", power)
        rate = self.learning_rate
        if rate is None:
            rate = 0.05 if self.model == "cbow" else 0.025
        object.__setattr__(self, "learning_rate", float(_number("learning_rate", rate, None)))
        last = float(_number("final_learning_rate", self.final_learning_rate, 0))
        if last > self.rate:
            raise OptionError(
                f"expected final_learning_rate of at most learning_rate, {self.rate}, got {last}; "
                "raise the other, or lower this"
            )
        object.__setattr__(self, "final_learning_rate", last)
        object.__setattr__(self, "sample", float(self.sample))
        if (self.min_n, self.max_n) != (0, 0) and not 1 <= self.min_n <= self.max_n:
            raise OptionError(
                "expected 1 <= min_n <= max_n for n-grams, or both 0 for words alone, got "
                f"{self.min_n} and {self.max_n}"
            )

    @property
    def subwords(self) -> bool:
        """Whether words are cut into n-grams."""
        return self.max_n > 0

    @property
    def rate(self) -> float:
        """The learning rate at the beginning."""
        assert self.learning_rate is not None
        return self.learning_rate

    def rate_at(self, done: float) -> float:
        """The learning rate when a share `done` of the training, from 0 to 1, is behind."""
        return self.rate * max(1 - done * (1 - self.final_learning_rate / self.rate), 1e-4)

    def to_json(self) -> dict[str, Any]:
        """Return them as JSON has them."""
        return asdict(self)

    @classmethod
    def from_json(cls, found: Any) -> Options:
        """Return the options that a file has.

        Raises:
            OptionError: they are none.
        """
        names = {field.name for field in fields(cls)}
        if not isinstance(found, dict) or set(found) != names:
            raise OptionError(f"expected the options of a training, got {found!r:.80}")
        return cls(**found)


def _whole(name: str, value: Any, least: int, most: int) -> int:
    try:
        number = -1 if isinstance(value, bool) else operator.index(value)
    except TypeError:
        number = -1
    if not least <= number <= most:
        raise OptionError(
            f"expected {name} as an integer from {least} to {most}, got {value!r:.40}"
        )
    return number


def _number(name: str, value: Any, least: float | None) -> float:
    try:
        number = math.nan if isinstance(value, (bool, str)) else float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not math.isfinite(number) or (number <= 0 if least is None else number < least):
        bound = "above 0" if least is None else f"from {least}"
        raise OptionError(f"expected {name} as a number {bound}, got {value!r:.40}")
    return number
