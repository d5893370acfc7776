"""Words near in spelling: what an error about an unknown word can suggest."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any

from shardwise._encoding import find_ids
from shardwise._errors import UnknownTokenError, VocabularyError
from shardwise._vocabulary import Vocabulary

_SHOWN = 3  # suggestions
_NAMED = 10  # unknown tokens that an error names
_MOST_TOKENS = 3  # unknown tokens that get suggestions: each may take some milliseconds
_MOST_CHARS = 40  # of a word that gets suggestions: the candidates grow with it
_SAMPLE = 4096  # first tokens, whose characters are tried
_SAMPLE_BYTES = 1 << 16
_LETTERS = 64  # most of these characters that are tried at each place
_CANDIDATES = 12_000  # spellings of two edits that are tried, of each kind


def nearest_spellings(vocabulary: Vocabulary, token: str | bytes) -> list[str]:
    """Return at most three tokens of the vocabulary that are spelled nearly as `token`.

    An edit is a character left out, put in or replaced, two neighbours that change places, or
    another case of the whole word (Damerau, 1964). Words of one edit are all found, but for
    characters that are neither in the word nor among the most frequent of the first tokens; of two
    edits, the likely ones: a bounded number of spellings is looked up, and no token is looked at.
    Fewer edits come first, and then the lower id.
    """
    word = token.decode("utf-8", "surrogateescape") if isinstance(token, bytes) else str(token)
    if not 0 < len(word) <= _MOST_CHARS:
        return []
    tried = {word, ""}
    found: list[int] = []
    letters = _letters(vocabulary, word)
    edits = _cases(word)
    if len(word) > 1:
        edits += [*_shorter(word), *_longer(word, letters)]
    _look(vocabulary, edits, tried, found)
    if len(found) < _SHOWN and len(word) > 3:
        _look(vocabulary, _twice(word, letters), tried, found)
    return vocabulary.decode(found[:_SHOWN])


_LOOKUP = (
    "leave out what is not `in vectors`, or say what stands for it, as in lookup(..., "
    'unknown="zeros")'
)


def unknown_words_error(
    vocabulary: Vocabulary, tokens: tuple[Any, ...], advice: str = _LOOKUP
) -> UnknownTokenError:
    """Return the error about distinct tokens outside the vocabulary; of few, with suggestions.

    They are looked for when the message is read: a loop that catches `KeyError` does not wait.
    """
    error = UnknownTokenError(_message(tokens, [""] * len(tokens), advice))
    error.tokens = tokens
    if len(tokens) <= _MOST_TOKENS:
        error._explain = lambda: _message(
            tokens, [_hint(vocabulary, token) for token in tokens], advice
        )
    return error


def _message(tokens: tuple[Any, ...], hints: list[str], advice: str) -> str:
    named = [f"{token!r:.100}{hint}" for token, hint in zip(tokens[:_NAMED], hints, strict=False)]
    return (
        f"expected tokens of the vocabulary, got {len(tokens)} that "
        f"{'is' if len(tokens) == 1 else 'are'} not: {', '.join(named)}"
        f"{', ...' if len(tokens) > _NAMED else ''}; {advice}"
    )


def _hint(vocabulary: Vocabulary, token: str | bytes) -> str:
    try:
        near = [repr(word) for word in nearest_spellings(vocabulary, token)]
    except VocabularyError:  # it is damaged: that is no reason to lose this message
        return ""
    if near:
        words = " or ".join([*([", ".join(near[:-1])] if near[1:] else []), near[-1]])
        return f" (did you mean {words}?)"
    return " (this is one token; split it for its words)" if len(token.split()) > 1 else ""


def _look(vocabulary: Vocabulary, words: Iterable[str], tried: set[str], found: list[int]) -> None:
    """Add the ids of those of `words` that are tokens, in ascending order."""
    new = list({*words} - tried)
    tried.update(new)
    ids = find_ids(vocabulary, new)
    found += sorted({*ids[ids >= 0].tolist()} - {*found})


def _letters(vocabulary: Vocabulary, word: str) -> str:
    """The characters to try: those of the word, then the most frequent of the first tokens."""
    offsets = vocabulary._offsets  # also of aliases
    end = max(0, int(offsets[min(_SAMPLE, offsets.size - 1)]))
    counts = Counter(bytes(vocabulary._data[: min(end, _SAMPLE_BYTES)]).decode("utf-8", "ignore"))
    frequent = [char for char, _ in counts.most_common(_LETTERS)]
    return "".join(dict.fromkeys([*frequent[: _LETTERS // 2], *word, *frequent]))


def _cases(word: str) -> list[str]:
    return [word.lower(), word.upper(), word.title(), word.capitalize(), word.swapcase()]


def _shorter(word: str) -> Iterator[str]:
    """The word with a character left out, or with two neighbours exchanged."""
    for i in range(len(word)):
        yield word[:i] + word[i + 1 :]
    for i in range(len(word) - 1):
        yield word[:i] + word[i + 1] + word[i] + word[i + 2 :]


def _longer(word: str, letters: str) -> Iterator[str]:
    """The word with another character in a place, or one more."""
    for letter in letters:
        for i in range(len(word)):
            yield word[:i] + letter + word[i + 1 :]
        for i in range(len(word) + 1):
            yield word[:i] + letter + word[i:]


def _twice(word: str, letters: str) -> list[str]:
    """Spellings of two edits, those with few choices first: a bounded number."""
    once = list(dict.fromkeys([*(case for case in _cases(word) if case != word), *_shorter(word)]))
    words = [twice for near in once for twice in _shorter(near)]
    likely = (w for letter in letters for near in once for w in _longer(near, letter))
    words += islice(likely, _CANDIDATES // 2)
    # As many letters as leave (places x letters) squared within the bound, or nearly so.
    few = letters[: max(2, int(_CANDIDATES**0.5 / (2 * len(word) + 1)))]
    both = (w for near in dict.fromkeys(_longer(word, few)) for w in _longer(near, few))
    return words + list(islice(both, _CANDIDATES))
