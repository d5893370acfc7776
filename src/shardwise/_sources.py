"""A file of vectors or a table directory, whichever it is, as a source of rows and tokens."""

from __future__ import annotations

import math
import os
from dataclasses import replace
from typing import Any

from shardwise import formats, store
from shardwise._errors import FormatError, OptionError
from shardwise._hashing import Buckets
from shardwise._vocabulary import Vocabulary
from shardwise.formats._source import Source, positive
from shardwise.store._manifest import NAME


def open_source(path: str | os.PathLike[str], **options: Any) -> Source:
    """Open a file of vectors, or a table directory; the options are those of `formats.open`.

    Raises:
        FormatError: it is not what it promises.
        StoreError: the table is broken.
        OptionError: an option has no meaning here.
    """
    path = os.fspath(path)
    if not (os.path.isdir(path) and os.path.exists(os.path.join(path, NAME))):
        return formats.open(path, **options)
    for name in ("format", "tensor", "tokens", "partition"):
        if options[name] is not None:
            called = "pieces" if name == "partition" else name
            raise OptionError(
                f"{os.fspath(path)}: expected no {called}= for a table directory, got "
                f"{options[name]!r}; leave it out"
            )
    return _table(os.fspath(path), options["dim"], options["limit"], options["unknown"])


def _table(path: str, dim: int | None, limit: int | None, unknown: str | None) -> Source:
    stored = store.open_table(path)
    width, wanted = math.prod(stored.table.shape[1:]), positive("dim", dim)
    if wanted not in (None, width):
        raise FormatError(
            f"{path}: expected rows of {dim} values (dim={dim}), got {width}; correct dim="
        )
    words = stored.vocabulary
    if words is None and unknown is not None:
        raise OptionError(
            f"{path}: expected no unknown= for a table without tokens, got {unknown!r}; "
            "leave it out"
        )
    rows = min(len(stored.table), positive("limit", limit) or len(stored.table))
    if words is not None and (unknown is not None or rows < len(stored.table)):
        if unknown is None:
            _refuse_cut(path, words, rows, limit)
        kept = min(rows, len(words))
        words = words._first(kept, words.unknown if unknown is None else unknown)
    source = formats.table_source(stored.table, words, path=path, metadata=stored.manifest.metadata)
    return (
        source
        if rows == source.shape[0]
        else replace(source, shape=(rows, *source.shape[1:]), partition=None)
    )


def _refuse_cut(path: str, words: Vocabulary, rows: int, limit: int | None) -> None:
    """Refuse to leave out the rows of unknown tokens, or to give them others."""
    advice = f"got limit={limit}; raise it, or name one of the first tokens with unknown="
    policy = words.unknown
    if isinstance(policy, Buckets):
        first = policy.start(len(words))
        if first + policy.count > rows:
            raise OptionError(
                f"{path}: expected limit= to keep the {policy.count} rows of unknown tokens, from "
                f"row {first} on, {advice}"
            )
    elif words.unknown_id is not None and words.unknown_id >= rows:
        what = f"{policy!r} in row " if isinstance(policy, str) else "row "
        raise OptionError(
            f"{path}: expected limit= to keep the token that stands for unknown ones, "
            f"{what}{words.unknown_id}, {advice}"
        )
