"""The loop over the blocks of a corpus: progress, saved states, and what interrupts it."""

from __future__ import annotations

import math
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from shardwise import _native
from shardwise._errors import OptionError
from shardwise._vocabulary import Vocabulary
from shardwise.skipgram import _checkpoint
from shardwise.skipgram._checkpoint import State
from shardwise.skipgram._corpus import Corpus
from shardwise.skipgram._options import Options
from shardwise.skipgram._rows import Rows

StrPath: TypeAlias = str | os.PathLike[str]

_SLICE = 0.25  # seconds of training between two looks at Ctrl-C
_POWER_OF_ALL = (1 << 32) - 1  # a word that sub-sampling keeps
_SHARED_BY = 16  # context words that have one set of negatives: all, up to a window of 8


class Progress(NamedTuple):
    """How far a training came.

    Attributes:
        stage: "count", "encode", "train" or "write".
        done: in bytes of text, in words for "train", in rows for "write".
        total: likewise; 0 where it is not known.
        words_per_second: of the text, since the training began or went on.
        loss: the mean over a sample of the last words and their context words of
            -log sigmoid(x) - sum of log sigmoid(-n), x and n being the products with the word's
            and the negatives' rows; NaN before the first.
        learning_rate: the current one.

    Example:
        >>> from shardwise import skipgram
        >>> seen = []
        >>> _ = skipgram.train(5 * [["a", "b"]], dim=4, threads=1, progress=seen.append)
        >>> seen[-1].stage, seen[-1].done, seen[-1].total
        ('train', 50, 50)
    """

    stage: str
    done: int
    total: int
    words_per_second: float = 0.0
    loss: float = math.nan
    learning_rate: float = 0.0


class Saver:
    """When and where the state of a training is saved."""

    def __init__(self, path: StrPath | None, every: float | None) -> None:
        if every is not None and path is None:
            raise OptionError("expected checkpoint with checkpoint_every, got none; name it")
        if every is not None and not every > 0:
            raise OptionError(f"expected checkpoint_every as seconds above 0, got {every!r:.40}")
        # Absolute: the working directory may change.
        self.path = None if path is None else os.path.abspath(path)
        self._every = math.inf if every is None else every
        self._last = time.monotonic()

    @property
    def is_due(self) -> bool:
        return time.monotonic() - self._last >= self._every

    def save(self, rows: Rows, vocabulary: Vocabulary, state: State) -> None:
        if self.path is not None:
            _checkpoint.save(self.path, rows, vocabulary, state)
            self._last = time.monotonic()


def _keep(corpus: Corpus, sample: float) -> NDArray[np.uint32] | None:
    """How often each word is kept, of 2^32 times: word2vec's formula."""
    if sample == 0:
        return None
    counts = corpus.vocabulary.counts
    assert counts is not None
    share = np.maximum(counts, 1) / (sample * corpus.tokens)
    kept = np.minimum(np.sqrt(1 / share) + 1 / share, 1)
    return np.where(kept < 1, kept * 2.0**32, _POWER_OF_ALL).astype(np.uint32)


def trainer(corpus: Corpus, rows: Rows, options: Options) -> _native.SkipGram:
    """Return what trains the rows on blocks of the corpus."""
    parts = rows.parts
    counts = corpus.vocabulary.counts
    assert counts is not None
    return _native.SkipGram(
        corpus=corpus.ids,
        inputs=rows.inputs,
        outputs=rows.outputs,
        counts=counts,
        keep=_keep(corpus, options.sample),
        parts=None if parts is None else parts.ids,
        part_offsets=None if parts is None else parts.offsets,
        read_ahead=rows.read_ahead,
        cbow=options.model == "cbow",
        window=options.window,
        negative=options.negative,
        negative_power=options.negative_power,
        shared_by=_SHARED_BY,
        epochs=options.epochs,
        rate=options.rate,
        final_rate=options.final_learning_rate,
        seed=options.seed,
    )


def train_rows(
    corpus: Corpus,
    rows: Rows,
    state: State,
    saver: Saver,
    threads: int,
    progress: Callable[[Progress], object] | None,
) -> State:
    """Train to the end; return the state there.

    Raises:
        KeyboardInterrupt: Ctrl-C was pressed, or the process was asked to end; the state is saved.
    """
    options = state.options
    native = trainer(corpus, rows, options)
    all_blocks = native.blocks * options.epochs
    all_tokens = corpus.tokens * options.epochs
    begun, before = time.monotonic(), state.tokens
    loss, size = math.nan, 2 * threads
    with _deferred() as asked:
        while state.blocks < all_blocks:
            start = time.monotonic()
            end = min(all_blocks, state.blocks + size)
            tokens, _, losses, pairs = native.train(state.blocks, end, threads)
            now = time.monotonic()
            size = max(threads, int((end - state.blocks) * min(4, _SLICE / (now - start + 1e-9))))
            state = replace(state, blocks=end, tokens=state.tokens + tokens)
            if pairs:
                loss = losses / pairs
            if asked() or (saver.is_due and end < all_blocks):
                saver.save(rows, corpus.vocabulary, state)
            if asked():
                break
            if progress is not None:
                rate = options.rate_at(end / all_blocks)
                speed = (state.tokens - before) / (now - begun + 1e-9)
                try:
                    progress(Progress("train", state.tokens, all_tokens, speed, loss, rate))
                except BaseException:  # another way to stop
                    saver.save(rows, corpus.vocabulary, state)
                    raise
    if asked():  # and the program's own handler did not raise
        raise KeyboardInterrupt
    return state


@contextmanager
def _deferred() -> Iterator[Callable[[], bool]]:
    """Hold Ctrl-C and SIGTERM back while rows change; they come through at the end of the block.

    Gives what tells whether one came. Nothing is held back in threads other than the main one,
    where none comes, and none that the program ignores or handles outside Python.
    """
    came: list[int] = []
    old: dict[int, Any] = {}

    def note(number: int, _: object) -> None:
        came.append(number)

    if threading.current_thread() is threading.main_thread():
        for number in map(int, (signal.SIGINT, signal.SIGTERM)):
            handler = signal.getsignal(number)
            if handler not in (None, signal.SIG_IGN):
                old[number] = signal.signal(number, note)
    try:
        yield lambda: bool(came)
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)
        if came:
            signal.raise_signal(came[0])
