"""The rows that are trained: those of the words and their n-grams, and those of the contexts.

They are float32, padded to a multiple of 16 values with zeros, which stay zeros. N-grams share
`bucket` rows, of which most have no n-gram of any word: only those that have one are held.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from shardwise import _native
from shardwise._errors import OptionError
from shardwise._partition import Partition
from shardwise._safetensors import advise
from shardwise._table import Table
from shardwise._vocabulary import Vocabulary
from shardwise.formats._ngrams import mean_rows
from shardwise.initializers import Initializer, RowMaker, uniform
from shardwise.skipgram._corpus import room, temporary_file
from shardwise.skipgram._options import Options

Floats = NDArray[np.float32]
Ids = NDArray[np.int64]

_STEP = 16  # columns that a row is padded to a multiple of
_ALIGNMENT = 64
_BLOCK_BYTES = 16 << 20
_ALL = (1 << 62) - 1


@dataclass(frozen=True)
class Parts:
    """Which rows make a word: its own, and those of its n-grams.

    Attributes:
        ids: int64, of all words; row `len(vocabulary) + k` is that of the bucket `used[k]`.
        offsets: where those of each word begin, and the end.
        used: the buckets that have a row, in ascending order.
    """

    ids: Ids
    offsets: Ids
    used: Ids


def cut_words(vocabulary: Vocabulary, options: Options, whole: bool) -> Parts:
    """Find the n-grams of all words, as fastText does; `whole` gives all buckets a row."""
    data, offsets, _ = vocabulary.arrays()
    buckets, starts = _native.subword_buckets(
        data, offsets, options.min_n, options.max_n, options.bucket, False, _ALL
    )
    words = len(vocabulary)
    if whole:
        used, places = np.arange(options.bucket), buckets
    else:
        used, places = np.unique(buckets, return_inverse=True)
    ends = starts + np.arange(words + 1)
    ids = np.empty(int(ends[-1]), np.int64)
    own = np.zeros(ids.size, np.bool_)
    own[ends[:-1]] = True
    ids[own] = np.arange(words)
    ids[~own] = places + words
    return Parts(ids, ends, used)


class Rows:
    """Both matrices of a training.

    Args:
        vocabulary: the words.
        options: the size and the first values of the rows.
        on_disk: keep them in a temporary file; None does so where they would take more than half
            of the memory that is free.
        place: the directory for it.
        whole: hold a row for each bucket.

    Attributes:
        inputs: the rows of words and n-grams, float32.
        outputs: the rows of contexts.
        read_ahead: whether they are on disk, and more than the memory holds well.
    """

    def __init__(
        self,
        vocabulary: Vocabulary,
        options: Options,
        on_disk: bool | None,
        place: str,
        whole: bool,
    ) -> None:
        self.words = len(vocabulary)
        self.dim = options.dim
        self.parts = cut_words(vocabulary, options, whole) if options.subwords else None
        self._bucket = options.bucket
        self.held = self.words + (0 if self.parts is None else len(self.parts.used))
        columns = -(-options.dim // _STEP) * _STEP
        large = 4 * columns * (self.held + self.words) > _free_memory() // 2
        if on_disk is None:
            on_disk = large
        self.read_ahead = on_disk and large
        self.inputs = _new_rows((self.held, columns), on_disk, place)
        self.outputs = _new_rows((self.words, columns), on_disk, place)
        if self.read_ahead:  # what the system would read around each page is not needed
            advise(self.inputs, "random")
            advise(self.outputs, "random")
        self._reader = _native.Rows(
            Partition("mod", self.held, 1)._core,
            [self.inputs],
            self.inputs.dtype,
            (columns,),
            4 * columns,
            "float32",
            self.read_ahead,
        )
        # word2vec's first values are within 0.5 / dim, fastText's within 1 / dim.
        bound = (1.0 if options.subwords else 0.5) / options.dim
        self._make = _maker(uniform(-bound, bound, seed=options.seed), options.dim)

    def fill(self) -> None:
        """Give all rows their first values."""
        for begin, end in self._blocks(self.held):
            ids = np.arange(begin, end)
            self.inputs[begin:end, : self.dim] = self._make(self._full_ids(ids))

    def _full_ids(self, ids: Ids) -> Ids:
        """The ids in a table that has rows for all buckets."""
        if self.parts is None or not len(self.parts.used):
            return ids
        places = np.maximum(ids - self.words, 0)
        return np.where(ids < self.words, ids, self.parts.used[places] + self.words)

    def take(self, vocabulary: Vocabulary, start: Table, own: Vocabulary, outputs: bool) -> int:
        """Take rows of another table, of the words that both have; return how many they are."""
        if start.shape[1:] != (self.dim,):
            raise OptionError(
                f"expected rows of {self.dim} values to start with (dim), got rows of shape "
                f"{start.shape[1:]}"
            )
        rows = self.outputs if outputs else self.inputs
        mine = np.array([i for i, word in enumerate(own) if word in vocabulary], np.int64)
        for begin, end in self._blocks(len(mine)):
            some = mine[begin:end]
            theirs = vocabulary.encode([own.decode(int(i)) for i in some])
            rows[some, : self.dim] = start.lookup(theirs).astype(np.float32)
        return len(mine)

    def take_ngrams(self, start: Table, known: Vocabulary, own: Vocabulary) -> None:
        """Take the rows of n-grams behind the words of another table of the same rule.

        There a word's row is the mean of its own and its n-grams', here it is its own.
        """
        parts = self.parts
        assert parts is not None
        for begin, end in self._blocks(len(parts.used)):
            ids = parts.used[begin:end] + len(known)
            first = self.words + begin
            self.inputs[first : first + end - begin, : self.dim] = start.lookup(ids)
        for i, word in enumerate(own):
            if word in known:
                ids = parts.ids[parts.offsets[i] : parts.offsets[i + 1]]
                others = self.inputs[ids[1:]].sum(0, dtype=np.float64)
                self.inputs[i] = self.inputs[i] * np.float64(len(ids)) - others

    def vectors(self) -> Iterator[Floats]:
        """Give the rows of the result in blocks: words, and with n-grams a row of each bucket."""
        if self.parts is None:
            yield from self.blocks_of(self.inputs)
            return
        for begin, end in self._blocks(self.words):
            own = self.inputs[begin:end, : self.dim]
            offsets = self.parts.offsets[begin : end + 1]
            ids = np.delete(self.parts.ids[offsets[0] : offsets[-1]], offsets[:-1] - offsets[0])
            starts = offsets - offsets[0] - np.arange(end - begin + 1)
            yield mean_rows(np.ascontiguousarray(own), 1, self._take, ids, starts)
        for begin, end in self._blocks(self._bucket):
            rows = np.asarray(self._make(np.arange(begin, end) + self.words), np.float32)
            first, last = np.searchsorted(self.parts.used, [begin, end])
            used = self.parts.used[first:last] - begin
            rows[used] = self.inputs[self.words + first : self.words + last, : self.dim]
            yield rows

    @property
    def count(self) -> int:
        """How many rows `vectors` gives."""
        return self.words + (0 if self.parts is None else self._bucket)

    def blocks_of(self, rows: Floats) -> Iterator[Floats]:
        """Give the rows as they are held, without what pads them."""
        with self._read_in_order(rows):
            for begin, end in self._blocks(len(rows)):
                yield np.ascontiguousarray(rows[begin:end, : self.dim])

    def load(self, inputs: Table, outputs: Table) -> None:
        """Take rows back that `blocks_of` gave."""
        for rows, table in ((self.inputs, inputs), (self.outputs, outputs)):
            for begin, end in self._blocks(len(rows)):
                rows[begin:end, : self.dim] = table.lookup(np.arange(begin, end))

    @contextmanager
    def _read_in_order(self, rows: Floats) -> Iterator[None]:
        """Let the system read ahead: a tenth of the time that page after page takes."""
        if self.read_ahead:
            advise(rows, "in order")
        try:
            yield
        finally:
            if self.read_ahead:
                advise(rows, "random")

    def _take(self, ids: Ids) -> Floats:
        """Rows here and there; those that are not in memory are asked for together."""
        found = self._reader.lookup(ids)
        assert found is not None
        return found[:, : self.dim]

    def _blocks(self, count: int) -> Iterator[tuple[int, int]]:
        step = max(1, _BLOCK_BYTES // (4 * self.dim))
        for begin in range(0, count, step):
            yield begin, min(begin + step, count)


def _maker(initializer: Initializer, dim: int) -> RowMaker:
    make = initializer.maker((1, dim), np.dtype(np.float32))
    assert make is not None
    return make


def _new_rows(shape: tuple[int, int], on_disk: bool, place: str) -> Floats:
    """Return zeros, on a boundary that the kernel wants."""
    size = 4 * shape[0] * shape[1]
    if not on_disk:
        raw = _native.empty((size + _ALIGNMENT,), np.dtype(np.uint8))
        skipped = -raw.ctypes.data % _ALIGNMENT
        rows = raw[skipped : skipped + size].view(np.float32).reshape(shape)
        rows.fill(0)
        return rows
    with temporary_file(place) as file:
        with room(place, "the rows in training"):
            # A page that has no room on the disk when it is written to would end the process.
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(file.fileno(), 0, size)
            else:
                file.truncate(size)
        return np.memmap(file, np.float32, "r+", shape=shape)


def _free_memory() -> int:
    """How many bytes a process may still have, as far as the system tells; else all there are."""
    free = []
    try:
        with open("/proc/meminfo", encoding="ascii") as file:
            found = dict(line.split(":", 1) for line in file)
        free.append(int(found["MemAvailable"].split()[0]) * 1024)
    except (OSError, KeyError, ValueError):
        free.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    try:
        most, used = (
            int(Path("/sys/fs/cgroup", name).read_text(encoding="ascii"))
            for name in ("memory.max", "memory.current")
        )
        free.append(most - used)
    except (OSError, ValueError):  # no control group, or no limit
        pass
    return max(0, min(free))
