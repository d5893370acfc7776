"""A corpus as ids: its words are counted, and then written once as int32 to a temporary file.

The file is mapped, so that no epoch parses text and no corpus is too large for the memory; it has
no name, so that nothing is left of it whatever happens.
"""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shardwise import _native
from shardwise._choice import Choice
from shardwise._counting import count_text, count_tokens, read_text
from shardwise._errors import TokenTypeError, VocabularyError
from shardwise._folding import Folding
from shardwise._tokens import Token, pack_tokens
from shardwise._vocabulary import Vocabulary
from shardwise.skipgram._options import Options

Ids = NDArray[np.int32]
Tell = Callable[[str, int, int], object]

END = -1  # of a sentence
_CHUNK = 1 << 20  # ids that are looked at together


@dataclass(frozen=True)
class Corpus:
    """Words and their counts, and the text as their ids.

    Attributes:
        vocabulary: the words; those that the text lacks, if any, come last, with a count of 0.
        ids: `int32`, `END` behind each sentence, mapped from a file without a name.
        tokens: how many of them are words.
        digest: by which a corpus is known again.
    """

    vocabulary: Vocabulary
    ids: Ids
    tokens: int
    digest: str


def read_corpus(
    corpus: Any,
    options: Options,
    known: Vocabulary | None,
    more: Vocabulary | None,
    place: str,
    tell: Tell,
) -> Corpus:
    """Count the words of a corpus, and encode it.

    Args:
        corpus: paths of text files, or an iterable of sentences, which is iterated once.
        options: which words are taken.
        known: the vocabulary, if it is known already.
        more: words that the vocabulary is to have in any case.
        place: the directory for the temporary file.
        tell: called with ("count" or "encode", done, in all), in bytes or tokens.

    Raises:
        VocabularyError: the corpus has no words, or none that can be trained.
        TokenTypeError: `corpus` is neither paths nor sentences of tokens.
        FormatError: compressed data is damaged, or the text is UTF-16.
        OSError: a file cannot be read, or there is no room for the temporary file.
    """
    choice = Choice(options.min_count, options.max_size)
    names, sentences = _paths_or_sentences(corpus)
    with _Sink(place) as sink:
        if names is None:
            vocabulary = _encode_tokens(sentences, choice, known, more, sink, place, tell)
        else:
            vocabulary = _encode_text(names, choice, known, more, sink, tell)
        return sink.finish(vocabulary)


def _paths_or_sentences(corpus: Any) -> tuple[list[str] | None, Iterable[Any]]:
    if isinstance(corpus, (str, os.PathLike)):
        return _existing([corpus]), ()
    try:
        items = iter(corpus)
    except TypeError:
        raise TokenTypeError(
            "expected a corpus as paths of text files or as an iterable of sentences, got "
            f"{corpus!r:.60}"
        ) from None
    first = next(items, None)
    if first is None:
        raise VocabularyError(
            "expected a corpus of sentences or of files, got nothing; an iterator can be read "
            "once only"
        )
    rest = chain([first], items)
    if isinstance(first, (str, os.PathLike)):
        return _existing(rest), ()
    return None, rest


def _existing(paths: Iterable[Any]) -> list[str]:
    """Refuse what is no file before any is read: text itself, perhaps."""
    names = []
    for path in paths:
        names.append(os.fspath(path))
        if not os.path.exists(path):
            raise FileNotFoundError(
                errno.ENOENT,
                "expected a corpus as paths of text files or as sentences, got a str that is no "
                "file; a sentence is a list of words: line.split()",
                names[-1],
            )
    return names


def _chosen(counts: _native.TokenCounts, choice: Choice) -> Vocabulary:
    """Return the words that are frequent enough."""
    if not counts.total:
        raise VocabularyError("expected a corpus with words, got none; is it the right file?")
    vocabulary = Vocabulary._chosen(*choice.of(counts, Folding()), folding=Folding(), unknown=None)
    if len(vocabulary) < 2:
        most = int(counts.tokens(0)[2].max())
        raise VocabularyError(
            f"expected at least 2 different words that occur {choice.min_count} times "
            f"(min_count), got {len(vocabulary)} among {len(counts)} different ones, the most "
            f"frequent {most} times; lower min_count, or add text"
        )
    return vocabulary


def _with(vocabulary: Vocabulary, more: Vocabulary | None) -> Vocabulary:
    """Append the words that only `more` has."""
    added = [token for token in more or () if token not in vocabulary]
    if not added:
        return vocabulary
    assert vocabulary.counts is not None
    counts = np.concatenate([vocabulary.counts, np.zeros(len(added), np.int64)])
    return Vocabulary([*vocabulary, *added], counts=counts)


def _encode_text(
    names: list[str],
    choice: Choice,
    known: Vocabulary | None,
    more: Vocabulary | None,
    sink: _Sink,
    tell: Tell,
) -> Vocabulary:
    if known is None:
        counts = count_text(names, lambda done, total: tell("count", done, total))
        known = _with(_chosen(counts, choice), more)
    data, offsets, slots = known.arrays()

    def take(text: NDArray[np.uint8], last: bool) -> int:
        used, ids = _native.encode_text(data, offsets, slots, text, last, sink.ended)
        sink.add(ids)
        return used

    read_text(names, take, lambda done, total: tell("encode", done, total))
    return known


# ---- sentences of tokens ----


def _encode_tokens(
    sentences: Iterable[Any],
    choice: Choice,
    known: Vocabulary | None,
    more: Vocabulary | None,
    sink: _Sink,
    place: str,
    tell: Tell,
) -> Vocabulary:
    """Number the tokens as they come, for iterables may be read once only; then give them ids."""
    numbers: dict[Token, int] = {}
    counts = np.zeros(1 << 16, np.int64)
    with _Sink(place) as first:
        for block in _numbered(sentences, numbers):
            if len(numbers) > counts.size:
                counts = np.concatenate([counts, np.zeros(2 * len(numbers), np.int64)])
            counts += np.bincount(block[block != END], minlength=counts.size)
            first.add(block)
            tell("count", first.tokens, 0)
        provisional = first.mapped()
    tokens = list(numbers)
    if known is None:
        seen = count_tokens(dict(zip(tokens, counts[: len(tokens)].tolist(), strict=True)))
        known = _with(_chosen(seen, choice), more)
    unknown = END - 1
    of_number = np.full(len(tokens) + 1, END, np.int32)
    if tokens:
        found = np.empty(len(tokens), np.int64)
        _native.find_tokens(*known.arrays(), *pack_tokens(tokens), found, unknown)
        of_number[:-1] = found
    for begin in range(0, provisional.size, _CHUNK):
        ids = of_number[provisional[begin : begin + _CHUNK]]  # END is the last entry
        ids = ids[ids != unknown]
        ends = ids == END
        repeated = ends & np.concatenate([[sink.ended], ends[:-1]])
        sink.add(ids[~repeated])
        tell("encode", min(begin + _CHUNK, provisional.size), provisional.size)
    return known


def _numbered(sentences: Iterable[Any], numbers: dict[Token, int]) -> Iterator[Ids]:
    """Give the numbers of tokens in blocks, with `END` behind each sentence."""
    block: list[int] = []
    for place, sentence in enumerate(sentences):
        if isinstance(sentence, (str, bytes)):
            raise TokenTypeError(
                f"expected sentences as iterables of tokens, got {type(sentence).__name__} at "
                f"position {place}: {sentence!r:.60}; split it first"
            )
        try:
            for token in sentence:
                block.append(numbers.setdefault(token, len(numbers)))
        except TypeError:
            raise TokenTypeError(
                f"expected sentences as iterables of str or bytes, got {sentence!r:.60} at "
                f"position {place}"
            ) from None
        block.append(END)
        if len(block) >= _CHUNK:
            yield np.array(block, np.int32)
            block = []
    if block:
        yield np.array(block, np.int32)


# ---- the file ----


class _Sink:
    """Ids on their way to a file without a name."""

    def __init__(self, place: str) -> None:
        import xxhash  # as for checksums: only where it is needed

        self._place = place
        self._file = temporary_file(place)
        self._hash = xxhash.xxh3_128()
        self._size = self._pairs = 0
        self.tokens = 0
        self.ended = True  # a sentence, or nothing has begun

    def __enter__(self) -> _Sink:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()  # what is mapped of it stays

    def add(self, ids: Ids) -> None:
        if not ids.size:
            return
        words = ids != END
        self.tokens += int(words.sum())
        self._pairs += int((words[1:] & words[:-1]).sum()) + int(words[0] and not self.ended)
        self._size += ids.size
        self.ended = not words[-1]
        data = np.ascontiguousarray(ids).view(np.uint8).data
        self._hash.update(data)
        with room(self._place, "the ids of the corpus"):
            self._file.write(data)

    def mapped(self) -> Ids:
        with room(self._place, "the ids of the corpus"):
            self._file.flush()
        if not self._size:
            return np.empty(0, np.int32)
        return np.memmap(self._file, np.int32, "r", shape=(self._size,))

    def finish(self, vocabulary: Vocabulary) -> Corpus:
        if not self._pairs:
            raise VocabularyError(
                f"expected sentences of at least 2 words, one a line, got {self.tokens} words of "
                f"the vocabulary and no two of them in one sentence; min_count may be too large"
            )
        return Corpus(vocabulary, self.mapped(), self.tokens, self._hash.hexdigest())


def temporary_file(place: str) -> Any:
    """Return a new file without a name in a directory."""
    return tempfile.TemporaryFile(prefix="shardwise-", dir=place)


class room:
    """Tells where a disk is full, which the system tells without a name."""

    def __init__(self, place: str, what: str) -> None:
        self._place, self._what = place, what

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: Any, error: Any, _: Any) -> None:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise OSError(
                error.errno,
                f"expected room for {self._what} in a temporary file, got a full disk; make room, "
                "or name another directory: work=, on the command line --work",
                self._place,
            ) from None
