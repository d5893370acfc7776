"""Text in, word vectors out: the two public functions, and the loop between them."""

from __future__ import annotations

import math
import os
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from shardwise import _native
from shardwise._errors import OptionError, StoreError
from shardwise._layout import asked_format
from shardwise._partition import Partition, as_partition
from shardwise._runtime import num_threads
from shardwise._safetensors import storable_dtype
from shardwise._table import Table
from shardwise._vectors import Vectors
from shardwise._vocabulary import Vocabulary
from shardwise.skipgram import _checkpoint
from shardwise.skipgram._checkpoint import State
from shardwise.skipgram._corpus import Corpus, read_corpus
from shardwise.skipgram._options import Model, Options
from shardwise.skipgram._rows import Rows
from shardwise.store import refuse_existing, write_blocks

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
    """

    stage: str
    done: int
    total: int
    words_per_second: float = 0.0
    loss: float = math.nan
    learning_rate: float = 0.0


def train(
    corpus: StrPath | Iterable[Any],
    output: StrPath | None = None,
    *,
    model: Model = "skipgram",
    dim: int = 100,
    window: int = 5,
    negative: int = 5,
    sample: float = 1e-3,
    epochs: int = 5,
    learning_rate: float | None = None,
    min_count: int = 5,
    max_size: int | None = None,
    min_n: int = 0,
    max_n: int = 0,
    bucket: int = 2_000_000,
    seed: int = 1,
    threads: int | None = None,
    shards: int = 1,
    partition: str | Partition = "mod",
    dtype: Any = "float32",
    context: StrPath | None = None,
    start: Vectors | None = None,
    start_context: Vectors | None = None,
    checkpoint: StrPath | None = None,
    checkpoint_every: float | None = None,
    overwrite: bool = False,
    on_disk: bool | None = None,
    work: StrPath | None = None,
    progress: Callable[[Progress], object] | None = None,
) -> Vectors:
    """Train word vectors with negative sampling (Mikolov et al., 2013).

    The context words of a word share its negatives, so that a step is a small product of matrices
    (after Ji et al., 2016). With one thread the result depends on the arguments alone (and, for
    processors without fused multiplication and addition, on that). With more, the threads change
    rows without waiting for each other (Hogwild: Niu et al., 2011), and no two runs are the same.

    Args:
        corpus: a text file or several, plain or compressed (gzip, bzip2, xz, zstd), a sentence a
            line, its words cut at white space; or an iterable of sentences, which are iterables of
            `str` or `bytes`. Anything that occurs together works: the items of baskets, too.
        output: a directory to write the vectors to; without it they stay in memory.
        model: this and what follows, down to `seed`, is as for `Options`.
        dim: how many values a vector has.
        window: how many words on each side are context at most.
        negative: how many words are drawn against each word.
        sample: how rare a word must be not to be left out now and then.
        epochs: how many times the text is read.
        learning_rate: at the beginning.
        min_count: leave out words that were seen less often.
        max_size: the most words.
        min_n: the least characters of n-grams, 0 for words alone.
        max_n: the most characters of n-grams, 0 for words alone.
        bucket: how many rows n-grams share.
        seed: chooses the first values and all that is drawn.
        threads: at most so many; by default, and at most, `num_threads()`.
        shards: on how many shards the rows of the result are dealt.
        partition: "mod", "div", or a `Partition` of as many rows.
        dtype: what the rows of the result are stored as, "int8" and "int4" included; training is
            in float32.
        context: a directory to write the context vectors to, which are the other matrix.
        start: vectors to start from, of the same `dim`. Words that the corpus lacks keep theirs.
        start_context: context vectors to start from, else they start from zeros.
        checkpoint: a directory for the state of a training that Ctrl-C or SIGTERM ends, or that
            `checkpoint_every` saves; `resume` goes on from it. It is removed at the end.
        checkpoint_every: save the state each time that so many seconds have gone by.
        overwrite: replace tables at `output` and `context`, and a state at `checkpoint`.
        on_disk: keep the matrices in a temporary file that is mapped; None does so where they
            would take more than half of the free memory.
        work: the directory for temporary files: the encoded corpus (four bytes a word), and the
            matrices if they are on disk. The system's by default.
        progress: called with a `Progress`, about four times a second.

    Returns:
        The vectors; with n-grams, `lookup(unknown="subwords")` makes those of other words.

    Raises:
        VocabularyError: the corpus has no words, or none that can be trained.
        TokenTypeError: `corpus` is neither paths nor sentences of tokens.
        FormatError: compressed data is damaged, or the text is UTF-16.
        OptionError: an option cannot have this value.
        TableExistsError: there is a table already, and `overwrite` is false.
        StoreError: there is an interrupted training at `checkpoint`, and `overwrite` is false.
        OSError: a file cannot be read, or the disk is full.

    Example:
        >>> from shardwise import skipgram
        >>> sentences = 50 * [["the", "king", "rules"], ["the", "queen", "rules"], ["a", "cat"]]
        >>> vectors = skipgram.train(sentences, dim=16, epochs=20, threads=1)
        >>> len(vectors), vectors.table.shape, list(vectors)[:2]
        (6, (6, 16), ['the', 'rules'])
    """
    options = Options(
        model,
        dim,
        window,
        negative,
        sample,
        epochs,
        learning_rate,
        min_count,
        max_size,
        min_n,
        max_n,
        bucket,
        seed,
    )
    job = _Job(output, shards, partition, dtype, context, overwrite, threads, work, progress)
    job.check()
    if checkpoint is not None and _checkpoint.is_there(os.fspath(checkpoint)) and not overwrite:
        raise StoreError(
            f"expected no interrupted training at {os.fspath(checkpoint)}, got one; go on with "
            "resume (on the command line: --resume), or pass overwrite=True (--overwrite)"
        )
    saver = _Saver(checkpoint, checkpoint_every)
    if start_context is not None and start is None:
        raise OptionError("expected start with start_context, got none; pass both, or none")
    known = None if start is None else start.vocabulary
    read = read_corpus(corpus, options, None, known, job.place, job.tell)
    # A start has rows of n-grams that are none of these words': they are to stay.
    rows = Rows(read.vocabulary, options, on_disk, job.place, whole=start is not None)
    rows.fill()
    if start is not None:
        _take_start(rows, read.vocabulary, start, start_context, options)
    state = State(options, read.digest, 0, 0)
    return job.run(read, rows, state, saver)


def resume(
    corpus: StrPath | Iterable[Any],
    output: StrPath | None = None,
    *,
    checkpoint: StrPath,
    checkpoint_every: float | None = None,
    threads: int | None = None,
    shards: int = 1,
    partition: str | Partition = "mod",
    dtype: Any = "float32",
    context: StrPath | None = None,
    overwrite: bool = False,
    on_disk: bool | None = None,
    work: StrPath | None = None,
    progress: Callable[[Progress], object] | None = None,
) -> Vectors:
    """Go on with a training that was interrupted, on the same corpus, with the same `Options`.

    With one thread the result has the bits of a training that was not interrupted.

    Args:
        corpus: the same as before.
        output: this and what follows is as for `train`.
        checkpoint: where the state is.
        checkpoint_every: save the state each time that so many seconds have gone by.
        threads: at most so many.
        shards: on how many shards the rows are dealt.
        partition: how they are dealt.
        dtype: what the rows are stored as.
        context: a directory for the context vectors.
        overwrite: replace tables at `output` and `context`.
        on_disk: keep the matrices in a temporary file.
        work: the directory for temporary files.
        progress: called with a `Progress`.

    Returns:
        The vectors.

    Raises:
        TableNotFoundError: there is no interrupted training at `checkpoint`.
        OptionError: the corpus is another one; or as for `train`.
        StoreError: the state is damaged.
    """
    found = _checkpoint.load(os.fspath(checkpoint))
    options = found.state.options
    job = _Job(output, shards, partition, dtype, context, overwrite, threads, work, progress)
    job.check()
    saver = _Saver(checkpoint, checkpoint_every)
    # The vocabulary's file goes when the next state is written: what is mapped of it stays.
    read = read_corpus(corpus, options, found.vocabulary, None, job.place, job.tell)
    if read.digest != found.state.digest:
        raise OptionError(
            f"expected the corpus of the training at {os.fspath(checkpoint)}, got another one, of "
            f"{read.tokens} known words; name the same files, in the same order"
        )
    whole = len(found.inputs) == len(read.vocabulary) + options.bucket
    rows = Rows(read.vocabulary, options, on_disk, job.place, whole)
    if len(found.inputs) != rows.held or len(found.outputs) != rows.words:
        raise StoreError(
            f"expected {rows.held} and {rows.words} rows at {os.fspath(checkpoint)}, got "
            f"{len(found.inputs)} and {len(found.outputs)}; remove the directory and train anew"
        )
    rows.load(found.inputs, found.outputs)
    return job.run(read, rows, found.state, saver)


class _Saver:
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


class _Job:
    """What becomes of the rows, and who is told."""

    def __init__(
        self,
        output: StrPath | None,
        shards: int,
        partition: str | Partition,
        dtype: Any,
        context: StrPath | None,
        overwrite: bool,
        threads: int | None,
        work: StrPath | None,
        progress: Callable[[Progress], object] | None,
    ) -> None:
        self._output = None if output is None else os.fspath(output)
        self._context = None if context is None else os.fspath(context)
        self._shards, self._partition, self._dtype = shards, partition, dtype
        self._overwrite = overwrite
        self._threads = num_threads() if threads is None else threads
        self._progress = progress
        self.place = tempfile.gettempdir() if work is None else os.fspath(work)

    def check(self) -> None:
        """Refuse what would be refused after the training."""
        most = num_threads()
        if type(self._threads) is not int or not 1 <= self._threads <= most:
            raise OptionError(
                f"expected threads from 1 to {most}, got {self._threads!r:.40}; for more, call "
                "set_num_threads first"
            )
        if not os.path.isdir(self.place):
            raise OptionError(f"expected a directory for temporary files at {self.place}, got none")
        for path in (self._output, self._context):
            if path is not None and not self._overwrite:
                refuse_existing(path)
            if path is not None and not os.path.isdir(os.path.dirname(os.path.abspath(path))):
                raise OptionError(f"expected a directory to make {path} in, got none; make it")
        if self._output is not None and self._output == self._context:
            raise OptionError(f"expected two places, got {self._output} for output and context")
        if not isinstance(self._partition, Partition):
            as_partition(self._partition, 0, self._shards)
        dtype = np.dtype(np.float32)
        if asked_format(self._dtype, dtype) is None:
            dtype = storable_dtype(self._dtype)
            if "float" not in dtype.name:
                raise OptionError(
                    f"expected dtype as floats, 'int8' or 'int4' with a scale a row, got {dtype}"
                )

    def tell(self, stage: str, done: int, total: int) -> None:
        if self._progress is not None:
            self._progress(Progress(stage, done, total))

    def run(self, corpus: Corpus, rows: Rows, state: State, saver: _Saver) -> Vectors:
        trained = _train(corpus, rows, state, saver, self._threads, self._progress)
        try:
            vectors = self._finish(corpus, rows, state.options)
        except BaseException:  # what was trained is not to be lost with a disk that is full
            with suppress(OSError):
                saver.save(rows, corpus.vocabulary, trained)
            raise
        if saver.path is not None:
            _checkpoint.remove(saver.path)
        return vectors

    def _finish(self, corpus: Corpus, rows: Rows, options: Options) -> Vectors:
        metadata: dict[str, Any] = {
            "skipgram": {**options.to_json(), "tokens": corpus.tokens},
        }
        if options.subwords:
            metadata["fasttext"] = _fasttext(options, rows.words)
        if self._context is not None:
            outputs = rows.blocks_of(rows.outputs)
            self._write(self._context, outputs, rows.words, corpus, options, {})
        if self._output is not None:
            self._write(self._output, rows.vectors(), rows.count, corpus, options, metadata)
            return Vectors.open(self._output)
        found = np.concatenate(list(rows.vectors()))
        cut = self._cut(rows.count)
        table = Table.from_array(found, partition=cut, copy=True)
        if (packed := asked_format(self._dtype, table.dtype)) is not None:
            table = table.quantize(packed.name)
        elif storable_dtype(self._dtype) != table.dtype:
            table = Table.from_array(
                found.astype(storable_dtype(self._dtype)), partition=cut, copy=True
            )
        return Vectors(table, corpus.vocabulary)._with_subwords(metadata, "this table")

    def _cut(self, count: int) -> Partition:
        return as_partition(self._partition, count, self._shards)

    def _write(
        self,
        path: str,
        blocks: Iterator[NDArray[np.float32]],
        count: int,
        corpus: Corpus,
        options: Options,
        metadata: dict[str, Any],
    ) -> None:
        packed = asked_format(self._dtype, np.dtype(np.float32))
        write_blocks(
            path,
            blocks,
            shape=(count, options.dim),
            dtype=np.float32 if packed is not None else self._dtype,
            row_format=None if packed is None else packed.name,
            partition=self._cut(count),
            vocabulary=corpus.vocabulary,
            overwrite=self._overwrite,
            metadata=metadata,
            progress=lambda done, total: self.tell("write", done, total),
        )


def _fasttext(options: Options, words: int) -> dict[str, Any]:
    """What a table of a model of fastText says about its n-grams."""
    return {
        "version": 12,
        "dim": options.dim,
        "ws": options.window,
        "epoch": options.epochs,
        "minCount": options.min_count,
        "neg": options.negative,
        "loss": "ns",
        "model": "cbow" if options.model == "cbow" else "sg",
        "bucket": options.bucket,
        "minn": options.min_n,
        "maxn": options.max_n,
        "t": options.sample,
        "words": words,
        "ngrams": options.bucket,
    }


def _take_start(
    rows: Rows,
    vocabulary: Vocabulary,
    start: Vectors,
    start_context: Vectors | None,
    options: Options,
) -> None:
    if start.table.dtype.kind not in "fV":
        raise OptionError(f"expected rows of floats to start with, got {start.table.dtype}")
    rows.take(start.vocabulary, start.table, vocabulary, outputs=False)
    if start_context is not None:
        rows.take(start_context.vocabulary, start_context.table, vocabulary, outputs=True)
    if not options.subwords:
        return
    found = None if start._subwords is None else start._subwords.fasttext
    rule = found if isinstance(found, Mapping) else {}
    wanted = (options.min_n, options.max_n, options.bucket)
    got = tuple(rule.get(name) for name in ("minn", "maxn", "bucket")) if rule else None
    whole = len(start.table) == len(start) + options.bucket
    if got != wanted or not whole or rule.get("pruned") is not None:
        raise OptionError(
            f"expected vectors with n-grams of min_n, max_n and bucket {wanted} to start with, got "
            f"{got or 'vectors of words alone'}; pass the same, or leave n-grams away"
        )
    rows.take_ngrams(start.table, start.vocabulary, vocabulary)


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
        cbow=options.model == "cbow",
        window=options.window,
        negative=options.negative,
        shared_by=_SHARED_BY,
        epochs=options.epochs,
        rate=options.rate,
        seed=options.seed,
    )


def _train(
    corpus: Corpus,
    rows: Rows,
    state: State,
    saver: _Saver,
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
                done = end / all_blocks
                rate = options.rate * max(1 - done, 1e-4)
                speed = (state.tokens - before) / (now - begun + 1e-9)
                progress(Progress("train", state.tokens, all_tokens, speed, loss, rate))
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
