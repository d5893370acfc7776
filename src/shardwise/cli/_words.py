"""Words from the command line, or a line each from standard input, in blocks; and JSON of them."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterable, Iterator
from typing import Any, BinaryIO

import typer

from shardwise import FormatError

_READ = 1 << 20  # bytes at once
_LONGEST = 16 << 20  # bytes of a line: whoever sends more sends no words
STDIN = "-"  # instead of words: read them, also where a person types them


def word_blocks(words: list[str] | None, at_most: int) -> Iterator[list[str]]:
    """Give the words of the command line, or else the lines of standard input, in lists.

    A line is a word as it stands, with its spaces, and an empty line is the empty word. A carriage
    return at its end is none of it. Bytes that are not UTF-8 become lone surrogates, as in
    arguments.

    Args:
        words: what the command line names; none of them, or "-" alone, stands for standard input.
        at_most: so many words in a list. What is read is not kept.

    Raises:
        typer.BadParameter: there is no word, and nobody said "-".
        FormatError: a line is too long.
    """
    told = bool(words)
    if words and words != [STDIN]:
        for begin in range(0, len(words), at_most):
            yield words[begin : begin + at_most]
        return
    if not told and (sys.stdin is None or sys.stdin.isatty()):
        raise _nothing()
    for lines in _lines(sys.stdin.buffer):
        told = True
        for begin in range(0, len(lines), at_most):
            yield lines[begin : begin + at_most]
    if not told:
        raise _nothing()


def all_words(words: list[str] | None) -> list[str]:
    """Return the words of `word_blocks` in one list."""
    return [word for block in word_blocks(words, _READ) for word in block]


def _nothing() -> typer.BadParameter:
    return typer.BadParameter(
        "expected words, got none; name them, or send them to standard input, a line each "
        '("-" for words that may be none, or that are typed)'
    )


def _lines(file: Any) -> Iterator[list[str]]:
    """Lists of the lines of a binary file, as they come."""
    source: BinaryIO = file
    read = getattr(source, "read1", source.read)  # read1 does not wait for more than is there
    rest: list[bytes] = []
    size = count = 0
    while part := read(_READ):
        end = part.rfind(b"\n") + 1
        size += len(part) if not end else 0
        if size > _LONGEST:
            raise FormatError(
                f"standard input, line {count + 1}: expected a word, got a line of more than "
                f"{_LONGEST} bytes; send a word a line"
            )
        if not end:
            rest.append(part)
            continue
        lines = _as_text(b"".join((*rest, part[: end - 1])))
        rest, size = [part[end:]], len(part) - end
        count += len(lines)
        yield lines
    if last := b"".join(rest):  # a line that nobody ended
        yield _as_text(last)


def _as_text(lines: bytes) -> list[str]:
    text = lines.decode("utf-8", "surrogateescape")
    words = text.split("\n")
    return [word.removesuffix("\r") for word in words] if "\r" in text else words


def print_json(blocks: Iterable[list[Any]]) -> None:
    """Print one JSON list of what comes in blocks; numbers in it must be finite."""
    before = "["
    for block in blocks:
        if block:
            sys.stdout.write(before + json.dumps(block, allow_nan=False)[1:-1])
            before = ", "
    print("[]" if before == "[" else "]")


def json_number(value: float) -> float | None:
    """Return a number as JSON can have it: null for NaN and the infinities."""
    return value if math.isfinite(value) else None
