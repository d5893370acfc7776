"""An interrupted training on disk: both matrices, and how far it came.

A directory of two tables and a file that names them, which one rename puts in its place: whatever
happens, it holds the last state or this one.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np

from shardwise._errors import OptionError, StoreError, TableNotFoundError
from shardwise._partition import Partition
from shardwise._table import Table
from shardwise._vocabulary import Vocabulary
from shardwise.skipgram._options import Options
from shardwise.skipgram._rows import Floats, Rows
from shardwise.store import open_table, write_blocks
from shardwise.store._directory import MARK, commit_text, hold, make_directory, remove_empty

NAME = "shardwise-training.json"
_VERSION = 2  # of the order of the blocks, too: 1 took them as they stand
_MOST_BYTES = 1 << 20
_TABLES = re.compile(r"(inputs|outputs)-\d+")


@dataclass(frozen=True)
class State:
    """How far a training came.

    Attributes:
        options: what it was told.
        digest: of the corpus.
        blocks: how many blocks of the corpus were trained, over all epochs.
        tokens: how many words were read.
    """

    options: Options
    digest: str
    blocks: int
    tokens: int


@dataclass(frozen=True)
class Found:
    """A training that can go on."""

    state: State
    vocabulary: Vocabulary
    inputs: Table
    outputs: Table


def is_there(path: str) -> bool:
    """Whether a directory holds an interrupted training."""
    return os.path.exists(os.path.join(path, NAME))


def save(path: str, rows: Rows, vocabulary: Vocabulary, state: State) -> None:
    """Write a state, in place of the one that is there.

    Raises:
        StoreError: the directory holds something else, or another process writes there.
        OSError: it cannot be written; the old state stays.
    """
    made = make_directory(path)
    try:
        with hold(path, NAME):
            number = _number(path) + 1
            try:
                _write(f"{path}/inputs-{number}", rows, rows.inputs, vocabulary)
                _write(f"{path}/outputs-{number}", rows, rows.outputs, None)
                text = {
                    "version": _VERSION,
                    "number": number,
                    "options": state.options.to_json(),
                    "corpus": state.digest,
                    "blocks": state.blocks,
                    "tokens": state.tokens,
                }
                commit_text(path, NAME, json.dumps(text, indent=1))
            finally:
                _clean(path, _number(path))
    except BaseException:
        if made and not is_there(path):
            remove_empty(path)
        raise


def _write(path: str, rows: Rows, matrix: Floats, vocabulary: Vocabulary | None) -> None:
    shutil.rmtree(path, ignore_errors=True)  # what a killed writer left
    write_blocks(
        path,
        rows.blocks_of(matrix),
        shape=(len(matrix), rows.dim),
        dtype=np.float32,
        partition=Partition("mod", len(matrix), 1),
        vocabulary=vocabulary,
    )


def load(path: str) -> Found:
    """Open a state.

    Raises:
        TableNotFoundError: there is none.
        StoreError: it is damaged, or of a newer version.
    """
    text = _read(path)
    if text is None:
        raise TableNotFoundError(
            f"expected an interrupted training at {path}, got none; train without resuming"
        )
    if text.get("version") != _VERSION:
        raise StoreError(
            f"{os.path.join(path, NAME)}: expected version {_VERSION}, got "
            f"{text.get('version')!r:.40}; go on with the shardwise that wrote it"
        )
    number, digest, blocks, tokens = (
        text.get(name) for name in ("number", "corpus", "blocks", "tokens")
    )
    try:
        options = Options.from_json(text.get("options"))
    except OptionError as error:
        raise _damaged(path, str(error)) from None
    if not all(type(n) is int and n >= 0 for n in (number, blocks, tokens)):
        raise _damaged(path, "numbers of blocks and tokens are missing")
    inputs = open_table(f"{path}/inputs-{number}")
    outputs = open_table(f"{path}/outputs-{number}").table
    if inputs.vocabulary is None or inputs.vocabulary.counts is None:
        raise _damaged(path, "the words' counts are missing")
    words = len(inputs.vocabulary)
    for table, least in ((inputs.table, words), (outputs, words)):
        if table.dtype != np.float32 or table.shape[1:] != (options.dim,) or len(table) < least:
            raise _damaged(path, f"got a table of {table.dtype} of shape {table.shape}")
    assert isinstance(blocks, int)
    assert isinstance(tokens, int)
    state = State(options, str(digest), blocks, tokens)
    return Found(state, inputs.vocabulary, inputs.table, outputs)


def remove(path: str) -> None:
    """Remove a state, if there is one."""
    if not is_there(path):
        return
    with suppress(FileNotFoundError):
        os.unlink(os.path.join(path, NAME))
    _clean(path, 0)
    with suppress(FileNotFoundError):
        os.unlink(os.path.join(path, MARK))
    remove_empty(path)


def _read(path: str) -> dict[str, Any] | None:
    try:
        with open(os.path.join(path, NAME), "rb") as file:
            data = file.read(_MOST_BYTES + 1)
    except (FileNotFoundError, NotADirectoryError):
        return None
    try:
        text = json.loads(data)
    except ValueError:
        text = None
    if not isinstance(text, dict):
        raise _damaged(path, "it is no JSON object")
    return text


def _number(path: str) -> int:
    text = _read(path)
    number = 0 if text is None else text.get("number")
    return number if isinstance(number, int) else 0


def _clean(path: str, keep: int) -> None:
    for name in os.listdir(path):
        if _TABLES.fullmatch(name) and name not in (f"inputs-{keep}", f"outputs-{keep}"):
            shutil.rmtree(os.path.join(path, name), ignore_errors=True)


def _damaged(path: str, why: str) -> StoreError:
    return StoreError(
        f"{os.path.join(path, NAME)} is broken: {why}; remove the directory and train anew"
    )
