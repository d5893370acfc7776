"""What a file of tokens holds, and its bytes: refused where it is of another kind."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Callable, Iterable
from typing import NamedTuple, TypeAlias

from shardwise._errors import FormatError
from shardwise._folding import NormalForm
from shardwise._hashing import Buckets
from shardwise.formats._file import StrPath

Unknown: TypeAlias = str | int | Buckets | None

_LIBRARY = "an archive or a pickle, which could run any program"
_FOREIGN = tuple(
    (re.compile(magic, re.DOTALL), kind, advice)
    for magic, kind, advice in (
        (rb"\xff\xfe|\xfe\xff", "UTF-16 text", "convert it first: iconv -f UTF-16 -t UTF-8 FILE"),
        (
            rb"PK\x03\x04|\x80[\x02-\x05]",
            _LIBRARY,
            "write its tokens as JSON where it came from; for torchtext: "
            'json.dump(vocab.get_itos(), open("vocabulary.json", "w"))',
        ),
        (
            rb"\x1f\x8b|\xfd7zXZ\x00|\x28\xb5\x2f\xfd|BZh[1-9]1AY&SY",
            "a compressed file",
            "unpack it first",
        ),
        (rb"version https://git-lfs", "a pointer of Git LFS", "fetch the file: git lfs pull"),
        (
            rb".{4}\x00\x00\x00\x00\{",
            "a safetensors file",
            "open a vocabulary that shardwise saved with Vocabulary.open",
        ),
    )
)


class Parts(NamedTuple):
    """What a file says of a vocabulary.

    `aliases` are further tokens and the ids of those whose rows they share. `normalizer` names
    what the file does to tokens and no option here can state.
    """

    tokens: list[str]
    unknown: Unknown = None
    counts: list[int] | None = None
    aliases: dict[str, int] | None = None
    normal_form: NormalForm | None = None
    normalizer: str | None = None


def file_error(path: str, message: object) -> FormatError:
    return FormatError(f"{path}: {message}")


def foreign_kind(raw: bytes) -> tuple[str, str] | None:
    """Return what kind of file that is no text begins so, and what to do with it, or None."""
    return next(((kind, advice) for magic, kind, advice in _FOREIGN if magic.match(raw)), None)


def read_file(path: StrPath) -> tuple[str, bytes]:
    """Return the name of a file and all its bytes.

    Raises:
        FormatError: it is no regular file, is empty, or is of a kind that is not read here.
        OSError: it cannot be opened.
    """
    name = os.fspath(path)
    if os.path.isdir(name):
        raise file_error(
            name,
            "expected a file of tokens, got a directory; open a table's with Vocabulary.open, or "
            "name the file",
        )
    descriptor = os.open(name, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))  # a pipe would block
    with os.fdopen(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise file_error(name, "expected a file of tokens, got no regular file; name the file")
        raw = file.read()
    if not raw:
        raise file_error(name, "expected tokens, got an empty file; fetch it again")
    foreign = foreign_kind(raw)
    if foreign is not None:
        raise file_error(name, f"expected tokens, got {foreign[0]}; {foreign[1]}")
    return name, raw


def first_that(tokens: Iterable[str], is_wrong: Callable[[str], bool]) -> tuple[int, str]:
    """Return the number of the first token that `is_wrong`, and that token; there must be one."""
    return next((i, token) for i, token in enumerate(tokens) if is_wrong(token))


def is_text(token: str) -> bool:
    """Whether a token is text: can be written as UTF-8 by everybody."""
    try:
        token.encode()
    except UnicodeEncodeError:
        return False
    return True
