"""fastText's own models, `.bin` and the quantised `.ftz`: words, their n-grams, and their rows.

The layout is that of https://github.com/facebookresearch/fastText (fasttext.cc, dictionary.cc,
quantmatrix.cc): arguments, words and labels, the input matrix, the output matrix. The vector of a
word is in no file: it is the mean of the word's own row and the rows of its n-grams.
"""

from __future__ import annotations

import array
import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shardwise.formats._binary import Cursor, Dense, Matrix, Quantized, unique_words
from shardwise.formats._file import File
from shardwise.formats._ngrams import Ngrams, add_words
from shardwise.formats._source import Options, Source

_MAGIC = (793712314).to_bytes(4, "little")
_VERSIONS = (11, 12)
_ARGS = (
    *("dim", "ws", "epoch", "minCount", "neg", "wordNgrams", "loss", "model", "bucket"),
    *("minn", "maxn", "lrUpdateRate"),
)
_LOSSES = {1: "hs", 2: "ns", 3: "softmax", 4: "ova"}
_MODELS = {1: "cbow", 2: "sg", 3: "sup"}
_CENTROIDS = 256
_ENTRY_BYTES = 10  # of a word, beyond its own: a NUL, its count and its type
_MOST_CHARS = 1024  # of an n-gram; the work grows with it
_LONG_WORD = 1 << 16  # bytes of the first word that are looked at to know an old model
_SEEN = 1 << 16  # words between two calls of `progress`


def is_model(file: File) -> bool:
    """Whether it begins with fastText's magic number, or as its models did before they had one."""
    return file.bytes[:4] == _MAGIC or _is_old(file)


def _is_old(file: File) -> bool:
    if file.size < 56 + 20:
        return False
    cursor = Cursor(file)
    args = dict(zip(_ARGS, cursor.unpack("12i", ""), strict=True))
    (t,) = cursor.unpack("d", "")
    size, words, labels, tokens = cursor.unpack("3iq", "")
    end = file.bytes.find(b"\0", cursor.at, cursor.at + _LONG_WORD)
    if end < 0 or end + _ENTRY_BYTES > file.size:
        return False
    cursor.at = end + 1
    count, kind = cursor.unpack("qB", "")
    return (
        all(0 < args[name] < 1 << 16 for name in ("dim", "ws", "epoch", "wordNgrams"))
        and args["loss"] in _LOSSES
        and args["model"] in _MODELS
        and 0 <= args["minn"] < 1 << 10
        and 0 <= args["maxn"] < 1 << 10
        and args["bucket"] >= 0
        and 0 <= t <= 1
        and 0 < words <= size <= tokens
        and 0 < count <= tokens
        and kind <= 1
        and 0 <= labels <= size
        and size * _ENTRY_BYTES <= file.size
    )


def open_model(file: File, options: Options) -> Source:
    """Open a model of fastText: versions 11 and 12, those before them, and quantised ones.

    The first rows are the words' vectors as fastText gives them, then come the rows of the
    n-grams, which have no token: bucket `b` is row `words + b`, and in a pruned model the row that
    "pruned" says. Labels have no rows. `metadata` has fastText's arguments, and what the vector of
    another word can be made with.

    With `limit`, the source has the first words alone and no rows of n-grams, and what comes after
    the input matrix is not looked at.

    Raises:
        FormatError: the file is not what it says.
    """
    cursor = Cursor(file)
    version = None
    if file.bytes[:4] == _MAGIC:
        _, version = cursor.unpack("2i", "magic number and version")
        if version not in _VERSIONS:
            raise file.error(
                f"byte 4: expected version 11 or 12 of fastText's format, got {version}; "
                "if it is newer, export the vectors as .vec"
            )
    args = _read_args(cursor, version, options.dim)
    begins, ends, word_count, pruned = _read_dictionary(cursor, version, options)
    matrix = _read_input(cursor, version, args["dim"])
    rows = matrix.shape[0]
    if rows < word_count:
        raise cursor.error(f"a row for each of the {word_count} words", f"{rows} rows")
    ngrams = _checked_ngrams(cursor, args, version, pruned, rows - word_count)
    if isinstance(matrix, Dense) and pruned is not None:
        raise cursor.error(
            "a quantised matrix in a pruned model", "a dense one", "fetch today's model"
        )
    if options.limit is None:
        _check_rest(cursor, version, isinstance(matrix, Quantized), args["dim"], word_count)
    taken = word_count if options.limit is None else min(word_count, options.limit)
    words = unique_words(file, begins[:taken], ends[:taken], options.unknown)
    ngram_rows = rows - word_count if options.limit is None else 0
    named: dict[str, Any] = {"version": version, **args, "words": len(words), "ngrams": ngram_rows}
    if len(begins) > word_count:
        spans = zip(begins[word_count:].tolist(), ends[word_count:].tolist(), strict=True)
        named["labels"] = [str(file.bytes[b:e], "utf-8", "surrogateescape") for b, e in spans]
    if pruned is not None:
        named["pruned"] = pruned.tolist()

    def read(begin: int, end: int) -> NDArray[np.float32]:
        if begin >= len(words):
            first = word_count - len(words)
            return matrix.block(first + begin, first + end)
        out = np.empty((end - begin, args["dim"]), np.float32)
        last = min(end, len(words))
        add_words(file, matrix, words, ngrams, word_count, begin, out[: last - begin])
        out[last - begin :] = matrix.block(word_count, word_count + end - last)
        return out

    return Source(
        path=file.path,
        format="fasttext",
        shape=(len(words) + ngram_rows, args["dim"]),
        dtype=np.dtype(np.float32),
        vocabulary=words.vocabulary,
        duplicates=words.duplicates,
        metadata={"fasttext": named},
        _rows=read,
    )


def _read_args(cursor: Cursor, version: int | None, dim: int | None) -> dict[str, Any]:
    begin = cursor.at
    args: dict[str, Any] = dict(zip(_ARGS, cursor.unpack("12i", "arguments"), strict=True))
    (t,) = cursor.unpack("d", "arguments")
    wrong = [name for name in ("dim",) if args[name] < 1]
    wrong += [name for name in ("minn", "maxn", "bucket") if args[name] < 0]
    wrong += [name for name, known in (("loss", _LOSSES), ("model", _MODELS))
              if args[name] not in known]  # fmt: skip
    if args["maxn"] > _MOST_CHARS:
        wrong.append("maxn")
    if wrong:
        raise cursor.file.error(
            f"byte {begin}: expected fastText's arguments, got {wrong[0]} = {args[wrong[0]]}; "
            "fetch the file again"
        )
    if dim is not None and args["dim"] != dim:
        raise cursor.file.error(
            f"byte {begin}: expected rows of {dim} values (dim={dim}), got {args['dim']}; "
            "correct dim="
        )
    args["loss"], args["model"] = _LOSSES[args["loss"]], _MODELS[args["model"]]
    args["t"] = t if math.isfinite(t) else None  # JSON has no other numbers
    if version == 11 and args["model"] == "sup":
        args["maxn"] = 0  # as fastText does: these models were trained without n-grams
    return args


def _read_dictionary(
    cursor: Cursor, version: int | None, options: Options
) -> tuple[NDArray[np.int64], NDArray[np.int64], int, NDArray[np.int64] | None]:
    """Return where words and labels begin and end, how many are words, and the pruned buckets.

    fastText takes the first entries for words, whatever their type says.
    """
    at = cursor.at
    size, words, labels, _ = cursor.unpack("3iq", "numbers of words")
    (pruned_size,) = (-1,) if version is None else cursor.unpack("q", "number of pruned n-grams")
    if not (0 <= words <= size and labels >= 0 and pruned_size >= -1):
        raise cursor.file.error(
            f"byte {at}: expected numbers of entries, words and labels that fit each other, got "
            f"{size}, {words} and {labels} ({pruned_size} pruned); fetch the file again"
        )
    if size * _ENTRY_BYTES > cursor.left:
        raise cursor.error(f"{size} words", f"{cursor.left} bytes to the end of the file")
    begins, ends = array.array("q"), array.array("q")
    find, at = cursor.file.bytes.find, cursor.at
    for i in range(size):
        end = find(b"\0", at)
        if end < 0:
            cursor.at = at
            raise cursor.error(f"the end of word {i} of {size}", "none in the rest of the file")
        begins.append(at)
        ends.append(end)
        at = end + _ENTRY_BYTES
        if options.progress is not None and not i % _SEEN:
            options.progress(at, cursor.file.size)
    if at > cursor.file.size:
        cursor.at = cursor.file.size
        raise cursor.error(f"the count and type of word {size - 1}", "the end of the file")
    cursor.at = at
    starts, stops = np.array(begins, np.int64), np.array(ends, np.int64)
    types = cursor.file.data[stops + (_ENTRY_BYTES - 1)]
    if size and int(types.max()) > 1:
        i = int(np.argmax(types > 1))
        cursor.at = int(stops[i]) + _ENTRY_BYTES - 1
        raise cursor.error(f"the type of word {i}, 0 or 1", f"{types[i]}")
    if pruned_size < 0:
        return starts, stops, words, None
    pairs = cursor.array("<i4", 2 * pruned_size, "pruned n-grams")
    return starts, stops, words, pairs.reshape(-1, 2).astype(np.int64)


def _checked_ngrams(
    cursor: Cursor,
    args: dict[str, Any],
    version: int | None,
    pruned: NDArray[np.int64] | None,
    rows: int,
) -> Ngrams | None:
    """Return the n-grams' rule, for which the matrix has `rows` rows; None if words have none."""
    kept = None
    if pruned is not None:
        if len(pruned) and (
            pruned.min() < 0 or pruned[:, 0].max() >= args["bucket"] or pruned[:, 1].max() >= rows
        ):
            raise cursor.error(
                f"pruned n-grams of {args['bucket']} buckets and {rows} rows", "some beyond them"
            )
        # Where a bucket comes again, the last counts, as in fastText.
        found, last = np.unique(pruned[::-1, 0], return_index=True)
        kept = (found, pruned[::-1, 1][last])
    if args["maxn"] < max(1, args["minn"]):
        return None
    if args["bucket"] < 1 or (pruned is None and rows < args["bucket"]):
        raise cursor.error(
            f"at least 1 bucket of n-grams, and a row for each of the {args['bucket']}",
            f"{rows} rows besides the words'",
        )
    return Ngrams(args["minn"], args["maxn"], args["bucket"], version is None, kept)


def _read_input(cursor: Cursor, version: int | None, dim: int) -> Matrix:
    quantized = version is not None and _flag(cursor, "whether the matrix is quantised")
    matrix = _read_quantized(cursor) if quantized else _read_dense(cursor)
    if matrix.shape[1] != dim:
        raise cursor.error(f"an input matrix of {dim} columns", f"{matrix.shape[1]}")
    return matrix


def _read_dense(cursor: Cursor) -> Dense:
    rows, columns = _shape(cursor)
    values = cursor.array("<f4", rows * columns, f"a matrix of {rows} x {columns}")
    return Dense(values.reshape(rows, columns))


def _read_quantized(cursor: Cursor) -> Quantized:
    has_norms = _flag(cursor, "whether norms are apart")
    rows, columns = _shape(cursor)
    (size,) = cursor.unpack("i", "number of codes")
    parts = size // rows if rows else 0
    if size != rows * parts or not 0 <= parts <= columns:
        raise cursor.error(f"as many codes for each of {rows} rows, {columns} at most", f"{size}")
    codes = cursor.array("u1", size, "codes").reshape(rows, parts)
    books = _read_books(cursor, columns, parts if rows else None)
    if not rows:
        codes = codes.reshape(0, len(books))
    if not has_norms:
        return Quantized(cursor.file, codes, books)
    norm_codes = cursor.array("u1", rows, "codes of norms")
    (norms,) = _read_books(cursor, 1, 1)
    return Quantized(cursor.file, codes, books, norms=norms[:, 0], norm_codes=norm_codes)


def _read_books(cursor: Cursor, columns: int, parts: int | None) -> list[NDArray[np.float32]]:
    at = cursor.at
    dim, found, width, last = cursor.unpack("4i", "sizes of centroids")
    sane = dim == columns and width > 0 and last > 0 and found == -(-dim // width)
    if not sane or last != dim - (found - 1) * width or parts not in (None, found):
        cursor.at = at
        raise cursor.error(
            f"centroids for {columns} columns in {'some' if parts is None else parts} parts",
            f"{dim} columns in {found} parts of {width}, the last of {last}",
        )
    flat = np.require(cursor.array("<f4", dim * _CENTROIDS, "centroids"), requirements=["A"])
    widths = [width] * (found - 1) + [last]
    ends = np.cumsum(widths) * _CENTROIDS
    return [
        flat[end - _CENTROIDS * wide : end].reshape(_CENTROIDS, wide)
        for end, wide in zip(ends.tolist(), widths, strict=True)
    ]


def _check_rest(cursor: Cursor, version: int | None, quantized: bool, dim: int, words: int) -> None:
    """Go over the output matrix, which says nothing about rows, to see that nothing is missing."""
    if version is not None and _flag(cursor, "whether the output is quantised") and quantized:
        _read_quantized(cursor)
    else:
        _read_dense(cursor)
    if cursor.left:
        raise cursor.error(
            "the end of the file after the output matrix",
            f"{cursor.left} bytes more",
            f"fetch the file again, or pass limit={max(words, 1)} to read its words alone",
        )


def _flag(cursor: Cursor, what: str) -> bool:
    (value,) = cursor.unpack("B", what)
    if value > 1:
        cursor.at -= 1
        raise cursor.error(f"{what}, 0 or 1", f"{value}")
    return bool(value)


def _shape(cursor: Cursor) -> tuple[int, int]:
    at = cursor.at
    rows, columns = cursor.unpack("2q", "the shape of a matrix")
    if rows < 0 or not 0 < columns < 1 << 31:
        cursor.at = at
        raise cursor.error("a matrix with columns", f"{rows} x {columns}")
    return rows, columns
