"""finalfusion's files, `.fifu`: chunks with the words, the matrix, the norms and what else is said.

The layout is that of https://finalfusion.github.io/spec. Words' rows are stored with the length 1
and their norms apart; here they come with their own length again.
"""

from __future__ import annotations

import array
import math
import struct
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shardwise.formats._binary import Cursor, Dense, Matrix, Quantized, unique_words
from shardwise.formats._file import File
from shardwise.formats._source import Options, Source

_MAGIC = b"FiFu"
_VOCABULARIES = {
    1: "SimpleVocab",
    3: "BucketSubwordVocab",
    7: "FastTextSubwordVocab",
    8: "ExplicitSubwordVocab",
}
_ND_ARRAY, _QUANTIZED_ARRAY, _METADATA, _ND_NORMS = 2, 4, 5, 6
_U8, _F32 = 1, 10
_MOST_METADATA = 1 << 20
_LENGTH = struct.Struct("<I")


@dataclass
class _Contents:
    """What the chunks read so far have given."""

    named: dict[str, Any] = field(default_factory=dict)
    words: tuple[NDArray[np.int64], NDArray[np.int64]] | None = None
    ngram_rows: int = 0
    matrix: Matrix | None = None
    norms: NDArray[np.float32] | None = None


def is_file(file: File) -> bool:
    """Whether it begins with finalfusion's magic bytes."""
    return file.bytes[:4] == _MAGIC


def open_file(file: File, options: Options) -> Source:
    """Open a file of finalfusion, with any of its vocabularies, a matrix or a quantised one.

    The first rows are the words' vectors. Where the vocabulary has n-grams their rows come next,
    which have no token; how a word is cut into them is in `metadata`, with the n-grams themselves
    and their rows (counted from the first n-gram's) where the file lists them.

    With `limit`, the source has the first words alone and no rows of n-grams.

    Raises:
        FormatError: the file is not what it says.
    """
    contents = _read_chunks(file, options)
    matrix, words = contents.matrix, contents.words
    if matrix is None or words is None:
        raise file.error(
            "expected a vocabulary and a matrix, got no "
            f"{'vocabulary' if words is None else 'matrix'} among the chunks; write the embeddings "
            "as one file, or with a vocabulary that finalfusion 0.17 knows"
        )
    begins, ends = words
    word_count, (rows, dim) = len(begins), matrix.shape
    if rows != word_count + contents.ngram_rows:
        raise file.error(
            f"expected a row for each of {word_count} words and {contents.ngram_rows} n-grams, got "
            f"{rows} rows; fetch the file again"
        )
    if word_count and int(ends[-1]) == file.size:
        raise file.error(
            "expected the matrix after the words, got the end of the file; write the embeddings "
            "again"
        )
    norms = contents.norms
    if norms is not None and len(norms) != word_count:
        raise file.error(
            f"expected a norm for each of {word_count} words, got {len(norms)}; fetch the file "
            "again"
        )
    if options.dim is not None and dim != options.dim:
        raise file.error(
            f"expected rows of {options.dim} values (dim={options.dim}), got {dim}; correct dim="
        )
    taken = word_count if options.limit is None else min(word_count, options.limit)
    kept = unique_words(file, begins[:taken], ends[:taken], options.unknown)
    ngram_rows = contents.ngram_rows if options.limit is None else 0

    def read(begin: int, end: int) -> NDArray[np.float32]:
        parts = []
        last = min(end, len(kept))
        if begin < last:
            parts.append(_word_rows(matrix, norms, kept.rows[begin:last]))
        if last < end or not parts:
            first = word_count + max(begin - len(kept), 0)
            parts.append(matrix.block(first, first + end - max(begin, last)))
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    named = {**contents.named, "words": len(kept), "ngrams": ngram_rows}
    return Source(
        path=file.path,
        format="finalfusion",
        shape=(len(kept) + ngram_rows, dim),
        dtype=np.dtype(np.float32),
        vocabulary=kept.vocabulary,
        duplicates=kept.duplicates,
        metadata={"finalfusion": named},
        _rows=read,
    )


def _word_rows(
    matrix: Matrix, norms: NDArray[np.float32] | None, rows: NDArray[np.int64]
) -> NDArray[np.float32]:
    first, last = int(rows[0]), int(rows[-1])
    consecutive = last - first == len(rows) - 1  # they ascend
    found = matrix.block(first, last + 1) if consecutive else matrix.take(rows)
    if norms is None:
        return found
    with np.errstate(all="ignore"):
        return found * norms[rows][:, None]


def _read_chunks(file: File, options: Options) -> _Contents:
    """Read all chunks: those that the header promises, and old files have norms besides."""
    cursor = Cursor(file)
    _, version, count = cursor.unpack("4s2I", "header")
    if version != 0:
        raise file.error(
            f"byte 4: expected version 0 of finalfusion's format, got {version}; if it is newer, "
            "write the embeddings as word2vec's text"
        )
    promised = set(cursor.array("<u4", count, "the kinds of chunks").tolist())
    contents = _Contents()
    while cursor.left:
        kind, size = cursor.unpack("IQ", "the header of a chunk")
        chunk = Cursor(file, cursor.at, cursor.at + size)
        cursor.skip(size, "a chunk")
        cursor.at = _read_chunk(chunk, kind, contents, options)
        promised.discard(kind)
    if promised:
        raise cursor.error(
            f"chunks of kind {sorted(promised)}, as the header promises", "the end of the file"
        )
    return contents


def _read_chunk(chunk: Cursor, kind: int, contents: _Contents, options: Options) -> int:
    """Read a chunk; return where the next begins."""
    begin = chunk.at
    if kind in _VOCABULARIES:
        _refuse_second(chunk, contents.words, "vocabulary")
        if kind == 8:
            return _read_explicit(chunk, contents, options)
        _read_vocabulary(chunk, kind, contents, options)
    elif kind == _ND_ARRAY:
        _refuse_second(chunk, contents.matrix, "matrix")
        contents.matrix = _read_matrix(chunk)
    elif kind == _QUANTIZED_ARRAY:
        _refuse_second(chunk, contents.matrix, "matrix")
        contents.matrix = _read_quantized(chunk)
    elif kind == _ND_NORMS:
        _refuse_second(chunk, contents.norms, "chunk of norms")
        contents.norms = _read_norms(chunk)
    elif kind == _METADATA:
        contents.named["metadata"] = _read_metadata(chunk)
    else:
        return chunk.end  # of a later time
    if chunk.left:
        raise chunk.error(
            f"the end of the chunk that begins at byte {begin}", f"{chunk.left} bytes more"
        )
    return chunk.end


def _refuse_second(chunk: Cursor, first: object, what: str) -> None:
    if first is not None:
        raise chunk.error(f"one {what}", "a second one", "write the embeddings again")


def _read_vocabulary(chunk: Cursor, kind: int, contents: _Contents, options: Options) -> None:
    at = chunk.at
    (count,) = chunk.unpack("Q", "number of words")
    contents.named["vocabulary"] = _VOCABULARIES[kind]
    if kind != 1:
        least, most, buckets = chunk.unpack("3I", "sizes of n-grams")
        if kind == 3 and buckets > 62:
            chunk.at = at
            raise chunk.error("at most 2 ** 62 buckets", f"2 ** {buckets}")
        contents.ngram_rows = 1 << buckets if kind == 3 else buckets
        contents.named |= {"min_n": least, "max_n": most, "buckets": contents.ngram_rows}
    contents.words = _read_items(chunk, count, 0, "words", options)


def _read_explicit(chunk: Cursor, contents: _Contents, options: Options) -> int:
    """Read words and listed n-grams; return where they end.

    finalfusion-python leaves the n-grams' rows out of the chunk's length.
    """
    begin, promised = chunk.at, chunk.end
    chunk.end = chunk.file.size
    count, ngram_count, least, most = chunk.unpack("2Q2I", "numbers of words and n-grams")
    contents.named |= {"vocabulary": _VOCABULARIES[8], "min_n": least, "max_n": most}
    contents.words = _read_items(chunk, count, 0, "words", options)
    begins, ends = _read_items(chunk, ngram_count, 8, "n-grams", options)
    if promised not in (chunk.at, chunk.at - 8 * ngram_count):
        raise chunk.error(
            f"the end of the chunk that begins at byte {begin}", f"a length up to byte {promised}"
        )
    ngrams = []
    bound = chunk.file.size  # a row has at least a byte
    for first, last in zip(begins.tolist(), ends.tolist(), strict=True):
        (row,) = struct.unpack_from("<Q", chunk.file.bytes, last)
        if row >= bound:
            chunk.at = last
            raise chunk.error("the row of an n-gram", f"{row}")
        ngrams.append([str(chunk.file.bytes[first:last], "utf-8", "surrogateescape"), row])
    contents.named["listed"] = ngrams
    contents.ngram_rows = max((row for _, row in ngrams), default=-1) + 1
    return chunk.at


def _read_items(
    chunk: Cursor, count: int, extra: int, what: str, options: Options
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return where items begin and end, each after its length and before `extra` bytes."""
    if count * (_LENGTH.size + extra) > chunk.left:
        raise chunk.error(f"{count} {what}", f"{chunk.left} bytes before byte {chunk.end}")
    begins, ends = array.array("q"), array.array("q")
    data, at, end = chunk.file.bytes, chunk.at, chunk.end
    for i in range(count):
        begin = at + _LENGTH.size
        stop = begin + _LENGTH.unpack_from(data, at)[0] if begin <= end else end
        at = stop + extra
        if begin > end or at > end:
            chunk.at = min(begin, end)
            raise chunk.error(f"number {i} of {count} {what} before byte {end}", "more")
        begins.append(begin)
        ends.append(stop)
        if options.progress is not None and not i & 0xFFFF:
            options.progress(at, chunk.file.size)
    chunk.at = at
    return np.array(begins, np.int64), np.array(ends, np.int64)


def _read_matrix(chunk: Cursor) -> Dense:
    at = chunk.at
    rows, columns, dtype = chunk.unpack("Q2I", "the shape of the matrix")
    _check_type(chunk, dtype, _F32)
    if columns < 1:
        chunk.at = at
        raise chunk.error("a matrix with columns", f"{rows} x {columns}")
    _skip_padding(chunk, 4 * rows * columns)
    values = chunk.array("<f4", rows * columns, f"a matrix of {rows} x {columns}")
    return Dense(values.reshape(rows, columns))


def _read_quantized(chunk: Cursor) -> Quantized:
    at = chunk.at
    projected, normed, parts, dim, centroids, rows, code, value = chunk.unpack(
        "5IQ2I", "the shape of the quantised matrix"
    )
    _check_type(chunk, code, _U8)
    _check_type(chunk, value, _F32)
    if projected > 1 or normed > 1 or not parts or not dim or dim % parts or not centroids:
        chunk.at = at
        raise chunk.error(
            "a quantised matrix",
            f"{dim} columns in {parts} parts of {centroids} centroids, flags {projected, normed}",
        )
    floats = projected * dim * dim + dim * centroids + normed * rows
    _skip_padding(chunk, 4 * floats + rows * parts)
    projection = _floats(chunk, projected * dim * dim, "the projection").reshape(-1, dim)
    books = _floats(chunk, dim * centroids, "centroids").reshape(parts, centroids, dim // parts)
    norms = _floats(chunk, normed * rows, "norms")
    codes = chunk.array("u1", rows * parts, "codes").reshape(rows, parts)
    return Quantized(
        chunk.file,
        codes,
        list(books),
        projection=projection if projected else None,
        norms=norms if normed else None,
    )


def _read_norms(chunk: Cursor) -> NDArray[np.float32]:
    count, dtype = chunk.unpack("QI", "the number of norms")
    _check_type(chunk, dtype, _F32)
    _skip_padding(chunk, 4 * count)
    return _floats(chunk, count, "norms")


def _floats(chunk: Cursor, count: int, what: str) -> NDArray[np.float32]:
    return np.require(chunk.array("<f4", count, what), requirements=["A"])


def _check_type(chunk: Cursor, found: int, wanted: int) -> None:
    if found != wanted:
        kind = "uint8" if wanted == _U8 else "float32"
        raise chunk.error(f"values of type {wanted} ({kind})", f"type {found}")


def _skip_padding(chunk: Cursor, data: int) -> None:
    """Go to the data that ends with the chunk.

    It begins at a multiple of 4, and what finalfusion writes has padding before it even where it
    would without.
    """
    padding = chunk.left - data
    if padding not in (-chunk.at % 4, 4 - chunk.at % 4):
        raise chunk.error(f"{data} bytes of values, padded", f"{chunk.left} in the chunk")
    chunk.skip(padding, "padding")


def _read_metadata(chunk: Cursor) -> Any:
    """Return TOML as JSON has it, or as it is written where it is not valid."""
    if chunk.left > _MOST_METADATA:
        raise chunk.error(f"at most {_MOST_METADATA} bytes of metadata", f"{chunk.left}")
    import tomllib  # not needed by any other file

    begin = chunk.skip(chunk.left, "metadata")
    text = str(chunk.file.bytes[begin : chunk.end], "utf-8", "surrogateescape")
    try:
        return _as_json(tomllib.loads(text))
    except (ValueError, RecursionError):
        return text


def _as_json(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _as_json(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_as_json(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    # What is left is of JSON, or a date or a time.
    return value.isoformat() if hasattr(value, "isoformat") else value
