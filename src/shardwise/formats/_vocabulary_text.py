"""Vocabularies as lines of text: plain, with counts, and in the layout of Keras."""

from __future__ import annotations

import re

from shardwise._errors import OptionError, VocabularyError
from shardwise._hashing import Buckets
from shardwise._vocabulary import Vocabulary
from shardwise.formats._file import BOM
from shardwise.formats._vocabulary_file import (
    Parts,
    Unknown,
    file_error,
    first_that,
    foreign_kind,
    is_text,
)
from shardwise.formats._vocabulary_json import dumped, parse_json, tokens_of_list

KERAS_UNKNOWN = "[UNK]"

_MOST = (1 << 63) - 1  # counts are int64
_COUNTED = re.compile(rb"(?:[^\n]*[ \t][0-9]{1,19}\r?(?:\n|\Z)){1,1000}")


def read_text(path: str, raw: bytes) -> Parts:
    """Read a token a line."""
    return Parts(_lines(path, raw))


def read_counts(path: str, raw: bytes) -> Parts:
    """Read a token, a space or tab, and a count, a line."""
    tokens, counts = [], []
    for number, line in enumerate(_lines(path, raw), 1):
        cut = max(line.rfind(" "), line.rfind("\t"))
        digits = line[cut + 1 :]
        is_count = digits.isascii() and digits.isdigit() and len(digits) <= 19
        if cut < 0 or not is_count or int(digits) > _MOST:
            raise file_error(
                path,
                f"line {number}: expected a token, a space or tab, and a count below 2**63, got "
                f'{line!a:.60}; correct the line, or pass format="text" if no line has a count',
            )
        tokens.append(line[:cut])
        counts.append(int(digits))
    return Parts(tokens, counts=counts)


def has_counts(raw: bytes) -> bool:
    """Whether each of the first 1000 lines ends in a number."""
    head = raw.removeprefix(BOM)
    match = _COUNTED.match(head)
    if match is None:
        return False
    return match.end() == len(head) or head.count(b"\n", 0, match.end()) == 1000


def is_keras(raw: bytes) -> bool:
    """Whether lines begin as Keras's do: "[UNK]", perhaps after an empty line, the mask."""
    lines = raw[:64].removeprefix(BOM).replace(b"\r\n", b"\n").split(b"\n", 2)
    mark = KERAS_UNKNOWN.encode()
    return lines[0] == mark or lines[:2] == [b"", mark]


def read_keras(path: str, raw: bytes, unknown: Unknown, is_json: bool) -> Parts:
    """Read what `get_vocabulary()` gives: perhaps a mask, a place for each bucket, the tokens."""
    if is_json:
        tokens = tokens_of_list(path, parse_json(path, raw))
    else:
        tokens = _lines(path, raw)
        while tokens and not tokens[-1]:  # as Keras does
            tokens.pop()
    mark = unknown if isinstance(unknown, str) else KERAS_UNKNOWN
    first = 1 if tokens[:1] != [mark] and tokens[1:2] == [mark] else 0
    count = 0
    while tokens[first + count : first + count + 1] == [mark]:
        count += 1
    found: Unknown = mark if count else None
    if count > 1:
        tokens[first : first + count] = _bucket_names(mark, count, set(tokens))
        found = Buckets(count, first=first)
    is_named = unknown is None or (isinstance(unknown, str) and count > 0)
    return Parts(tokens, unknown=found if is_named else unknown)


def _bucket_names(mark: str, count: int, taken: set[str]) -> list[str]:
    """A name for each bucket, which no token of the file has."""
    stem = mark
    while any(f"{stem} {i}" in taken for i in range(count)):
        stem += " "
    return [f"{stem} {i}" for i in range(count)]


def _lines(path: str, raw: bytes) -> list[str]:
    text = raw.removeprefix(BOM).decode("utf-8", "surrogateescape").replace("\r\n", "\n")
    lines = text.split("\n")
    if not lines[-1]:
        lines.pop()
    if not lines:
        raise file_error(path, "expected tokens, got a byte order mark alone; fetch it again")
    return lines


def write_text(vocabulary: Vocabulary) -> bytes:
    return _joined("text", list(vocabulary)) + b"\n"


def write_counts(vocabulary: Vocabulary) -> bytes:
    counts = vocabulary.counts
    if counts is None:
        raise OptionError(
            "counts: expected a vocabulary with counts, got one without; make it with counts=, or "
            'write format="text"'
        )
    tokens = list(vocabulary)
    _require_lines("counts", tokens)
    lines = [f"{token} {count}" for token, count in zip(tokens, counts.tolist(), strict=True)]
    return _joined("counts", lines) + b"\n"


def write_keras(vocabulary: Vocabulary, is_json: bool) -> bytes:
    """Write what `get_vocabulary()` would give, without a last newline, as Keras does."""
    tokens = _keras_order(vocabulary)
    if is_json:
        return dumped("keras", tokens)
    if tokens and not tokens[-1]:
        raise VocabularyError(
            "keras: expected a last token that is not empty, as Keras drops empty lines at the "
            "end, got an empty one; put it elsewhere, or write a file that ends in .json"
        )
    if not is_text("".join(tokens)):
        number, token = first_that(tokens, lambda token: not is_text(token))
        raise VocabularyError(
            f"keras: expected tokens that are UTF-8 text, got {token!a:.60} (token {number}), "
            'which Keras could not read; leave it out, or write format="text"'
        )
    for number, token in enumerate(tokens):
        if token and token.splitlines() != [token]:
            raise VocabularyError(
                f"keras: expected tokens of one line each, got {token!a:.60} (token {number}), "
                "which Keras would read as several; write a file that ends in .json"
            )
    return _joined("keras", tokens)


def _keras_order(vocabulary: Vocabulary) -> list[str]:
    tokens, unknown = list(vocabulary), vocabulary.unknown
    marks = [i for i, token in enumerate(tokens[:2]) if token == KERAS_UNKNOWN]
    if isinstance(unknown, Buckets):
        first = len(tokens) if unknown.first is None else unknown.first
        if unknown.key is not None or first > 1 or first + unknown.count > len(tokens):
            raise OptionError(
                "keras: expected buckets without a key, at id 0, or 1 after a mask, with a token "
                f"for each, got {unknown!r} and {len(tokens)} tokens; put a token for each bucket "
                "in front, and pass first="
            )
        tokens[first : first + unknown.count] = [KERAS_UNKNOWN] * unknown.count
        if tokens.count(KERAS_UNKNOWN) > unknown.count:
            raise VocabularyError(
                f"keras: expected no token {KERAS_UNKNOWN!r} beside the buckets, which have this "
                "name in Keras, got one; leave it out"
            )
        return tokens
    place = vocabulary.unknown_id
    if place is None and marks:
        raise OptionError(
            f"keras: expected unknown={KERAS_UNKNOWN!r}, as Keras takes this token at place "
            f"{marks[0]} for that, got a vocabulary without unknown=; make it with unknown="
        )
    if place is not None and not 0 <= place < min(2, len(tokens)):
        raise OptionError(
            "keras: expected unknown= as the first token, or the second after a mask, got id "
            f'{place}; put it in front, or write format="text"'
        )
    if place is not None and marks not in ([], [place]):
        raise OptionError(
            f"keras: expected no token {KERAS_UNKNOWN!r} at the front beside the unknown token "
            f"{tokens[place]!r}, got one at place {marks[0]}; put it elsewhere"
        )
    return tokens


def _require_lines(what: str, tokens: list[str]) -> None:
    if "\n" in "".join(tokens):
        number, token = first_that(tokens, lambda token: "\n" in token)
        raise VocabularyError(
            f"{what}: expected tokens of one line each, got {token!a:.60} (token {number}); write "
            'format="json", which has no lines'
        )


def _joined(what: str, lines: list[str]) -> bytes:
    """Lines as the readers will find them again, without a last newline."""
    if not lines:
        raise VocabularyError(
            f'{what}: expected at least one token, got none; write format="json", or nothing'
        )
    _require_lines(what, lines)
    text = "\n".join(lines)
    if "\r\n" in text or text.endswith("\r"):
        number, line = first_that(lines, lambda line: line.endswith("\r"))
        raise VocabularyError(
            f"{what}: expected tokens that do not end in a carriage return, which belongs to the "
            f'newline, got {line!a:.60} (token {number}); write format="json"'
        )
    raw = text.encode("utf-8", "surrogateescape")
    if raw.startswith(BOM):
        raise VocabularyError(
            f"{what}: expected a first token that does not begin with a byte order mark, which "
            f'readers skip, got {lines[0]!a:.60}; put another first, or write format="json"'
        )
    foreign = foreign_kind(raw)
    if foreign is not None:
        raise VocabularyError(
            f"{what}: expected a first token that readers do not take for the beginning of "
            f'{foreign[0]}, got {lines[0]!a:.60}; put another first, or write format="json"'
        )
    return raw
