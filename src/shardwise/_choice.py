"""Which of the counted tokens make a vocabulary, and in which order."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, get_args

import numpy as np

from shardwise import _native
from shardwise._errors import OptionError, VocabularyError, is_one_of
from shardwise._folding import Folding
from shardwise._tokens import Bytes, Ids, Slots, Token, build_slots, packed_tokens

Ties: TypeAlias = Literal["first", "ascending", "descending"]
Counted: TypeAlias = tuple[Bytes, Ids, Ids]
"""Tokens as bytes and offsets, and how often each was seen."""

_CHUNK = 1 << 16  # tokens that are folded at once


def folded(counts: _native.TokenCounts, folding: Folding) -> _native.TokenCounts:
    """Return the counts of folded tokens; those that become one are added up."""
    if not folding:
        return counts
    data, offsets, numbers = counts.tokens(0)
    result = _native.TokenCounts()
    for begin in range(0, len(numbers), _CHUNK):
        end = min(len(numbers), begin + _CHUNK)
        tokens = packed_tokens(data, offsets[begin : end + 1])
        result.add(*folding.pack(tokens), numbers[begin:end])
    return result


@dataclass(frozen=True)
class Choice:
    """Which of the counted tokens make a vocabulary, and in which order: checked before counting.

    Attributes:
        min_count: leave out tokens that were seen less often, but no special ones.
        max_size: the most tokens in all, special ones included; None takes all.
        ties: which of equally frequent tokens goes first: the one that was seen "first", or the
            one whose bytes come first in "ascending" or "descending" order.
        specials: tokens with fixed places. One that was also counted has its count, and stands at
            its fixed place alone.
        specials_first: whether they stand in front of the others, or behind them.

    Raises:
        OptionError: an option cannot have this value.
    """

    min_count: int = 1
    max_size: int | None = None
    ties: Ties = "first"
    specials: Sequence[Token] = ()
    specials_first: bool = True

    def __post_init__(self) -> None:
        if isinstance(self.specials, (str, bytes)):
            raise OptionError(
                f"expected specials as a list of tokens, got one token, {self.specials!r:.60}; "
                f"write [{self.specials!r:.60}]"
            )
        try:
            object.__setattr__(self, "specials", tuple(self.specials))
        except TypeError:
            raise OptionError(
                f"expected specials as a list of tokens, got {self.specials!r:.60}"
            ) from None
        object.__setattr__(self, "min_count", _whole("min_count", self.min_count, 1))
        if self.max_size is not None:
            fixed = len(self.specials)
            remark = f", for the special tokens are counted too ({fixed})" if fixed else ""
            most = _whole("max_size", self.max_size, max(1, fixed), remark)
            object.__setattr__(self, "max_size", most)
        if not is_one_of(self.ties, get_args(Ties)):
            known = ", ".join(map(repr, get_args(Ties)))
            raise OptionError(f"expected ties as one of {known}, got {self.ties!r:.40}")

    def of(self, counts: _native.TokenCounts, folding: Folding) -> Counted:
        """Return the chosen tokens in the order of their ids, the most frequent first.

        Args:
            counts: the counted tokens, folded.
            folding: what was done to them, and is done to `specials`.

        Raises:
            VocabularyError: a special token is there twice, or cannot be written as UTF-8.
            TokenTypeError: a special token is neither `str` nor `bytes`.
        """
        data, offsets, numbers = counts.tokens(self.min_count)
        order = _native.order_tokens(data, offsets, numbers, self.ties)
        if not self.specials:
            return _native.take_tokens(data, offsets, numbers, order[: self.max_size])
        fixed, slots = self._packed_specials(folding)
        special = np.empty(len(numbers), np.int64)
        _native.find_tokens(*fixed, slots, data, offsets, special)
        order = order[special[order] < 0]
        room = None if self.max_size is None else self.max_size - len(self.specials)
        others = _native.take_tokens(data, offsets, numbers, order[:room])
        own = np.empty(len(self.specials), np.int64)
        counts.find(*fixed, own)
        placed = (*fixed, own)
        return _joined(placed, others) if self.specials_first else _joined(others, placed)

    def _packed_specials(self, folding: Folding) -> tuple[tuple[Bytes, Ids], Slots]:
        fixed = folding.pack(self.specials)
        slots, first_of, repetitions = build_slots(*fixed)
        if repetitions:
            again = int(np.argmax(first_of != np.arange(len(self.specials))))
            first = int(first_of[again])
            raise VocabularyError(
                f"expected distinct special tokens, got {self.specials[first]!r:.60} at position "
                f"{first} and {self.specials[again]!r:.60} at position {again}; name each once"
            )
        return fixed, slots


def _joined(one: Counted, other: Counted) -> Counted:
    return (
        np.concatenate([one[0], other[0]]),
        np.concatenate([one[1], other[1][1:] + one[1][-1]]),
        np.concatenate([one[2], other[2]]),
    )


def _whole(name: str, value: Any, least: int, remark: str = "") -> int:
    try:
        number = operator.index(value)
    except TypeError:
        number = least - 1
    if isinstance(value, (bool, np.bool_)) or number < least:
        raise OptionError(
            f"expected {name} as an integer of at least {least}{remark}, got {value!r:.60}"
        )
    return min(number, (1 << 63) - 1)
