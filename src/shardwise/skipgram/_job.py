"""What becomes of trained rows: a table on disk or in memory; and where rows start from."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shardwise._errors import OptionError
from shardwise._layout import asked_format
from shardwise._partition import Partition, as_partition
from shardwise._runtime import num_threads
from shardwise._safetensors import storable_dtype
from shardwise._table import Table
from shardwise._vectors import Vectors
from shardwise._vocabulary import Vocabulary
from shardwise.skipgram import _checkpoint
from shardwise.skipgram._checkpoint import State
from shardwise.skipgram._corpus import Corpus
from shardwise.skipgram._loop import Progress, Saver, StrPath, train_rows
from shardwise.skipgram._options import Options
from shardwise.skipgram._rows import Rows
from shardwise.store import refuse_existing, write_blocks


class Job:
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

    def run(self, corpus: Corpus, rows: Rows, state: State, saver: Saver) -> Vectors:
        trained = train_rows(corpus, rows, state, saver, self._threads, self._progress)
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


def take_start(
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
