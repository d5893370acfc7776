"""Text in, word vectors out: the two public functions."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from typing import Any

from shardwise._errors import OptionError, StoreError
from shardwise._partition import Partition
from shardwise._vectors import Vectors
from shardwise.skipgram import _checkpoint
from shardwise.skipgram._checkpoint import State
from shardwise.skipgram._corpus import read_corpus
from shardwise.skipgram._job import Job, take_start
from shardwise.skipgram._loop import Progress, Saver, StrPath
from shardwise.skipgram._options import Model, Options
from shardwise.skipgram._rows import Rows


def train(
    corpus: StrPath | Iterable[Any],
    output: StrPath | None = None,
    *,
    model: Model = "skipgram",
    dim: int = 100,
    window: int = 5,
    negative: int = 5,
    negative_power: float = 0.75,
    sample: float = 1e-3,
    epochs: int = 5,
    learning_rate: float | None = None,
    final_learning_rate: float = 0.0,
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
        negative_power: how much more often frequent words are drawn.
        sample: how rare a word must be not to be left out now and then.
        epochs: how many times the text is read.
        learning_rate: at the beginning.
        final_learning_rate: at the end.
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
        checkpoint: a directory for the state of a training that Ctrl-C, SIGTERM or an error of
            `progress` ends, or that `checkpoint_every` saves; `resume` goes on from it. It is
            removed at the end.
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
        negative_power,
        sample,
        epochs,
        learning_rate,
        final_learning_rate,
        min_count,
        max_size,
        min_n,
        max_n,
        bucket,
        seed,
    )
    job = Job(output, shards, partition, dtype, context, overwrite, threads, work, progress)
    job.check()
    if checkpoint is not None and _checkpoint.is_there(os.fspath(checkpoint)) and not overwrite:
        raise StoreError(
            f"expected no interrupted training at {os.fspath(checkpoint)}, got one; go on with "
            "resume (on the command line: --resume), or pass overwrite=True (--overwrite)"
        )
    saver = Saver(checkpoint, checkpoint_every)
    if start_context is not None and start is None:
        raise OptionError("expected start with start_context, got none; pass both, or none")
    for name, given in (("start", start), ("start_context", start_context)):
        if given is not None and not isinstance(given, Vectors):
            raise OptionError(
                f"expected {name} as Vectors, got {given!r:.60}; open a table with Vectors.open"
            )
    known = None if start is None else start.vocabulary
    read = read_corpus(corpus, options, None, known, job.place, job.tell)
    # A start has rows of n-grams that are none of these words': they are to stay.
    rows = Rows(read.vocabulary, options, on_disk, job.place, whole=start is not None)
    rows.fill()
    if start is not None:
        take_start(rows, read.vocabulary, start, start_context, options)
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

    Example:
        >>> import tempfile
        >>> from shardwise import skipgram
        >>> sentences = 50 * [["the", "king", "rules"], ["the", "queen", "rules"], ["a", "cat"]]
        >>> def stop(now):
        ...     if now.stage == "train":
        ...         raise KeyboardInterrupt
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     try:
        ...         skipgram.train(sentences, dim=16, checkpoint=f"{folder}/state", progress=stop)
        ...     except KeyboardInterrupt:
        ...         print(len(skipgram.resume(sentences, checkpoint=f"{folder}/state")))
        6
    """
    found = _checkpoint.load(os.fspath(checkpoint))
    options = found.state.options
    job = Job(output, shards, partition, dtype, context, overwrite, threads, work, progress)
    job.check()
    saver = Saver(checkpoint, checkpoint_every)
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
