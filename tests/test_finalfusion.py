import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shardwise import FormatError, OptionError, formats

DATA = Path(__file__).parents[2] / "shared" / "data" / "vectors"
FILES = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
WORDS = ["one", "zwölf", b"caf\xe9", "", "five words in one"]
SIMPLE, MATRIX, BUCKET, QUANTISED, METADATA, NORMS, FASTTEXT, EXPLICIT = range(1, 9)
ROWS = np.random.default_rng(0).standard_normal((40, 6)).astype(np.float32)


@pytest.fixture
def put(tmp_path):
    path = tmp_path / "embeddings"

    def write(content):
        path.write_bytes(content)
        return path

    return write


def encoded(word):
    return word if isinstance(word, bytes) else word.encode()


def names(words):
    return [encoded(word).decode("utf-8", "surrogateescape") for word in words]


def items(words):
    return b"".join(struct.pack("<I", len(encoded(word))) + encoded(word) for word in words)


def padded(head, data, lean=False):
    """A chunk's content by its position: there is padding even before what is aligned."""

    def content(at):
        end = at + len(head)
        return head + bytes(-end % 4 if lean else 4 - end % 4) + data

    return content


def simple(words=WORDS):
    return SIMPLE, struct.pack("<Q", len(words)) + items(words)


def buckets(kind, number, words=WORDS):
    return kind, struct.pack("<Q3I", len(words), 3, 6, number) + items(words)


def explicit(ngrams, words=WORDS):
    content = struct.pack("<2Q2I", len(words), len(ngrams), 2, 3) + items(words)
    for ngram, row in ngrams:
        content += items([ngram]) + struct.pack("<Q", row)
    return EXPLICIT, content


def matrix(rows, kind=10, lean=False):
    return MATRIX, padded(struct.pack("<Q2I", *rows.shape, kind), rows.tobytes(), lean)


def norms(values, kind=10):
    head = struct.pack("<QI", len(values), kind)
    return NORMS, padded(head, np.asarray(values, "<f4").tobytes())


def quantised(codes, books, projection=None, lengths=None, code=1, value=10):
    parts, count, width = books.shape
    flags = (projection is not None, lengths is not None)
    head = struct.pack("<5IQ2I", *flags, parts, parts * width, count, len(codes), code, value)
    floats = [part for part in (projection, books, lengths) if part is not None]
    data = b"".join(part.astype("<f4").tobytes() for part in floats)
    return QUANTISED, padded(head, data + codes.tobytes())


def file_of(*chunks, promised=None, version=0, short=0):
    """The bytes of a file; the last chunk's length lacks `short` bytes."""
    kinds = [kind for kind, _ in chunks] if promised is None else promised
    data = b"FiFu" + struct.pack(f"<2I{len(kinds)}I", version, len(kinds), *kinds)
    for kind, content in chunks:
        part = content(len(data) + 12) if callable(content) else content
        lacks = short if kind == EXPLICIT else 0
        data += struct.pack("<IQ", kind, len(part) - lacks) + part
    return data


def check(source, words, rows, bits=True):
    assert source.format == "finalfusion"
    assert list(source.vocabulary) == names(words)
    assert source.shape == rows.shape
    assert source.dtype == np.float32
    whole = source.read()
    assert whole.flags.aligned
    if bits:
        assert np.array_equal(whole.view(np.uint32), rows.astype(np.float32).view(np.uint32))
    else:
        assert np.allclose(whole, rows, rtol=1e-5, atol=1e-5)
    for size in (1, 3, 1000):
        blocks = list(source.blocks(size))
        assert np.array_equal(np.concatenate(blocks).view(np.uint32), whole.view(np.uint32))


# ---- what is written is read ----


@pytest.mark.parametrize("shift", range(4))
@pytest.mark.parametrize("lean", [False, True])
def test_words_and_matrix(put, shift, lean):
    words = [*WORDS, "x" * (shift + 1)]
    source = formats.open(put(file_of(simple(words), matrix(ROWS[:6], lean=lean))))
    check(source, words, ROWS[:6])
    assert source.metadata == {
        "finalfusion": {"vocabulary": "SimpleVocab", "words": 6, "ngrams": 0}
    }


def test_norms_are_multiplied_back(put):
    lengths = np.array([1, 2.5, 0, np.inf, 3], np.float32)
    with np.errstate(invalid="ignore"):
        wanted = ROWS[:5] * lengths[:, None]
    for chunks in (
        (simple(), matrix(ROWS[:5]), norms(lengths)),
        (norms(lengths), simple(), matrix(ROWS[:5])),
    ):
        check(formats.open(put(file_of(*chunks))), WORDS, wanted)
    # Old files have norms that their header does not promise.
    old = file_of(simple(), matrix(ROWS[:5]), norms(lengths), promised=[SIMPLE, MATRIX])
    check(formats.open(put(old)), WORDS, wanted)


@pytest.mark.parametrize(
    ("vocabulary", "name", "count"),
    [
        (buckets(BUCKET, 3), "BucketSubwordVocab", 8),
        (buckets(FASTTEXT, 11), "FastTextSubwordVocab", 11),
    ],
)
@pytest.mark.parametrize("normed", [False, True])
def test_buckets(put, vocabulary, name, count, normed):
    lengths = np.arange(5, dtype=np.float32)
    rows = ROWS[: 5 + count]
    chunks = [vocabulary, matrix(rows), *([norms(lengths)] if normed else [])]
    source = formats.open(put(file_of(*chunks)))
    wanted = rows.copy()
    if normed:
        wanted[:5] *= lengths[:, None]
    check(source, WORDS, wanted)
    assert source.metadata["finalfusion"] == {
        **{"vocabulary": name, "min_n": 3, "max_n": 6, "buckets": count},
        **{"words": 5, "ngrams": count},
    }


@pytest.mark.parametrize("short", [0, 24])  # finalfusion-python's length lacks the n-grams' rows
def test_listed_ngrams(put, short):
    ngrams = [("<o", 0), (b"\xe9>", 1), ("ne>", 0)]
    content = file_of(explicit(ngrams), matrix(ROWS[:7]), short=short)
    source = formats.open(put(content))
    check(source, WORDS, ROWS[:7])
    assert source.metadata["finalfusion"] == {
        **{"vocabulary": "ExplicitSubwordVocab", "min_n": 2, "max_n": 3, "words": 5, "ngrams": 2},
        "listed": [["<o", 0], ["\udce9>", 1], ["ne>", 0]],
    }
    check(formats.open(put(file_of(explicit([]), matrix(ROWS[:5])))), WORDS, ROWS[:5])


@pytest.mark.parametrize("projected", [False, True])
@pytest.mark.parametrize("normed", [False, True])
@pytest.mark.parametrize("shift", range(4))
def test_quantised(put, projected, normed, shift):
    words = [*WORDS[:-1], "x" * (shift + 1)]
    random = np.random.default_rng(shift)
    books = random.standard_normal((3, 16, 2)).astype(np.float32)
    codes = random.integers(0, 16, (5, 3), np.uint8)
    projection = random.standard_normal((6, 6)).astype(np.float32) if projected else None
    lengths = random.random(5, np.float32) if normed else None
    content = file_of(simple(words), quantised(codes, books, projection, lengths), norms([2] * 5))
    wanted = np.stack([np.concatenate([books[i, c] for i, c in enumerate(row)]) for row in codes])
    if projection is not None:
        wanted = np.stack([projection.astype(np.float64) @ row for row in wanted])
    if lengths is not None:
        wanted = wanted * lengths[:, None]
    check(formats.open(put(content)), words, wanted * 2, bits=not projected)


def test_codes_beyond_the_centroids(put):
    books = np.ones((3, 4, 2), np.float32)
    codes = np.zeros((5, 3), np.uint8)
    codes[3, 1] = 4
    source = formats.open(put(file_of(simple(), quantised(codes, books))))
    assert np.array_equal(source.read(0, 3), np.ones((3, 6)))
    with pytest.raises(FormatError, match=r"expected codes up to 3, .* got 4"):
        source.read()


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        (b'a = 1\n[b]\nc = ["x", 2.5, true]\n', {"a": 1, "b": {"c": ["x", 2.5, True]}}),
        (
            b"t = 1979-05-27T07:32:00Z\nd = 1979-05-27\nn = [nan, -inf]",
            {"t": "1979-05-27T07:32:00+00:00", "d": "1979-05-27", "n": ["nan", "-inf"]},
        ),
        (b"no toml", "no toml"),
        (b"\xff", "\udcff"),
        (b"a = " + b"[" * 100_000, "a = " + "[" * 100_000),
        (b"", {}),
    ],
)
def test_metadata(put, text, wanted):
    source = formats.open(put(file_of((METADATA, text), simple(), matrix(ROWS[:5]))))
    check(source, WORDS, ROWS[:5])
    assert source.metadata["finalfusion"]["metadata"] == wanted


def test_chunks_of_a_later_time_are_passed_over(put):
    content = file_of((77, b"what"), simple(), (78, b""), matrix(ROWS[:5]))
    check(formats.open(put(content)), WORDS, ROWS[:5])


def test_repeated_words(put):
    words = ["b", "a", "b", "c", "a"]
    lengths = np.arange(1, 6, dtype=np.float32)
    content = file_of(buckets(FASTTEXT, 2, words), matrix(ROWS[:7]), norms(lengths))
    source = formats.open(put(content))
    kept = ROWS[[0, 1, 3]] * lengths[[0, 1, 3], None]
    check(source, ["b", "a", "c"], np.concatenate([kept, ROWS[5:7]]))
    assert source.duplicates == 2


def test_no_words(put):
    source = formats.open(put(file_of(simple([]), matrix(ROWS[:0]))))
    assert source.read().shape == source.shape == (0, 6)
    assert list(source.blocks()) == []


def test_words_at_the_end_of_the_file(put):
    with pytest.raises(FormatError, match="expected the matrix after the words"):
        formats.open(put(file_of(matrix(ROWS[:5]), simple())))


@pytest.mark.parametrize("limit", [1, 3, 5, 100])
def test_limit(put, limit):
    content = file_of(buckets(FASTTEXT, 11), matrix(ROWS[:16]), norms([2] * 5))
    source = formats.open(put(content), limit=limit)
    check(source, WORDS[:limit], ROWS[: min(limit, 5)] * 2)
    assert source.metadata["finalfusion"]["ngrams"] == 0


def test_options(put):
    path = put(file_of(simple(), matrix(ROWS[:5])))
    assert formats.open(path, dim=6).shape[1] == 6
    with pytest.raises(FormatError, match=r"expected rows of 5 values \(dim=5\), got 6"):
        formats.open(path, dim=5)
    assert formats.open(path, unknown="one").vocabulary.encode("nothing") == 0
    with pytest.raises(OptionError):
        formats.open(path, unknown="nothing")
    calls = []
    formats.open(path, progress=lambda done, size: calls.append((done, size)))
    assert calls
    assert all(done <= size for done, size in calls)


@FILES
@given(st.lists(st.binary(max_size=8), max_size=6, unique=True), st.integers(0, 3))
def test_any_words(put, words, others):
    rows = ROWS[: len(words) + others]
    source = formats.open(put(file_of(buckets(FASTTEXT, others, words), matrix(rows))))
    assert list(source.vocabulary) == names(words)
    assert np.array_equal(source.read(), rows)


# ---- files that are broken ----

BOOKS = np.ones((3, 4, 2), np.float32)
CODES = np.zeros((5, 3), np.uint8)


def with_shape(layout, *values, kind=MATRIX, data=b""):
    return kind, padded(struct.pack(layout, *values), data)


BROKEN = {
    "expected version 0 of finalfusion's format, got 1": file_of(simple(), version=1),
    "got no vocabulary": file_of(matrix(ROWS[:5])),
    "got no matrix": file_of(simple()),
    "expected one vocabulary, got a second one": file_of(simple(), explicit([])),
    "expected one matrix, got a second one": file_of(
        simple(), matrix(ROWS[:5]), quantised(CODES, BOOKS)
    ),
    "expected one chunk of norms": file_of(norms([1]), norms([1])),
    "chunks of kind [6], as the header promises": file_of(
        simple(), matrix(ROWS[:5]), promised=[SIMPLE, MATRIX, NORMS]
    ),
    "a row for each of 5 words and 0 n-grams, got 6": file_of(simple(), matrix(ROWS[:6])),
    "a row for each of 5 words and 8 n-grams, got 5": file_of(buckets(BUCKET, 3), matrix(ROWS[:5])),
    "a norm for each of 5 words, got 4": file_of(simple(), matrix(ROWS[:5]), norms([1] * 4)),
    "at most 2 ** 62 buckets, got 2 ** 63": file_of(buckets(BUCKET, 63), matrix(ROWS[:5])),
    "of type 10 (float32), got type 11": file_of(simple(), matrix(ROWS[:5], kind=11)),
    "of type 10 (float32), got type 1;": file_of(norms([1], kind=1)),
    "expected values of type 1 (uint8), got type 2": file_of(quantised(CODES, BOOKS, code=2)),
    "(float32), got type 9": file_of(quantised(CODES, BOOKS, value=9)),
    "a matrix with columns, got 5 x 0": file_of(with_shape("<Q2I", 5, 0, 10)),
    "bytes of values, padded": file_of(with_shape("<Q2I", 1 << 60, 6, 10)),
    "100 bytes of values, padded, got": file_of(with_shape("<Q2I", 5, 5, 10, data=bytes(92))),
    "6 columns in 4 parts": file_of(with_shape("<5IQ2I", 0, 0, 4, 6, 4, 5, 1, 10, kind=4)),
    "6 columns in 0 parts": file_of(with_shape("<5IQ2I", 0, 0, 0, 6, 4, 5, 1, 10, kind=4)),
    "3 parts of 0 centroids": file_of(with_shape("<5IQ2I", 0, 0, 3, 6, 0, 5, 1, 10, kind=4)),
    "flags (2, 0)": file_of(with_shape("<5IQ2I", 2, 0, 3, 6, 4, 5, 1, 10, kind=4)),
    "values, padded, got 4 in": file_of(
        with_shape("<5IQ2I", 1, 1, 1, 1 << 31, 1 << 31, 1 << 60, 1, 10, kind=4)
    ),
    "expected 1152921504606846976 words": file_of((SIMPLE, struct.pack("<Q", 1 << 60))),
    "expected number 1 of 2 words": file_of((SIMPLE, struct.pack("<2Q", 2, 1))),
    "expected number 0 of 1 words": file_of((SIMPLE, struct.pack("<QI", 1, 9) + bytes(8))),
    "expected the end of the chunk that begins": file_of((SIMPLE, simple()[1] + b"x")),
    "a length up to byte": file_of(explicit([("a", 0)]), matrix(ROWS[:6]), short=7),
    "expected the row of an n-gram": file_of(explicit([("a", 1 << 62)]), matrix(ROWS[:6])),
    "at most 1048576 bytes of metadata": file_of((METADATA, bytes((1 << 20) + 1))),
    "expected 12 bytes of the header of a chunk, got 3": file_of(simple()) + b"abc",
}


@pytest.mark.parametrize("message", BROKEN)
def test_broken(put, message):
    with pytest.raises(FormatError, match="expected ") as error:
        formats.open(put(BROKEN[message]))
    assert message in str(error.value)


def attempt(path, **options):
    """An open file reads, or it is refused."""
    try:
        source = formats.open(path, format="finalfusion", **options)
        for block in source.blocks(3):
            assert block.shape[1:] == source.shape[1:]
        list(source.vocabulary)
    except (FormatError, OptionError):
        return False
    return True


SMALL = {
    "matrix": file_of((METADATA, b"a = 1"), buckets(BUCKET, 1), matrix(ROWS[:7]), norms([1] * 5)),
    "listed": file_of(explicit([("a", 0), ("b", 1)]), matrix(ROWS[:7]), norms([1] * 5)),
    "quantised": file_of(simple(), quantised(CODES, BOOKS, np.eye(6), np.ones(5)), norms([1] * 5)),
}


@pytest.mark.parametrize("kind", SMALL)
def test_cut_anywhere(put, kind):
    content = SMALL[kind]
    for size in range(1, len(content)):
        assert not attempt(put(content[:size])), size
    assert attempt(put(content))


@pytest.mark.parametrize("kind", SMALL)
def test_any_byte_changed(put, kind):
    content = SMALL[kind]
    random = np.random.default_rng(3)
    for at in range(len(content)):
        for value in (0, 0x7F, 0xFF, content[at] ^ (1 << int(random.integers(8)))):
            attempt(put(content[:at] + bytes([value]) + content[at + 1 :]))
    for _ in range(300):
        data = bytearray(content)
        for _ in range(int(random.integers(1, 5))):
            data[int(random.integers(len(data)))] = int(random.integers(256))
        attempt(put(data), limit=int(random.integers(1, 5)))


# ---- files of finalfusion itself ----


@pytest.mark.skipif(not DATA.exists(), reason="no shared data")
def test_text_twins():
    source = formats.open(DATA / "ff-embeddings.fifu")
    rows = source.read()
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    for twin, wanted in (
        ("ff-embeddings.txt", rows),
        ("ff-embeddings.dims.txt", rows),
        ("ff-embeddings.w2v", rows / lengths),
    ):
        other = formats.open(DATA / twin)
        assert list(source.vocabulary) == list(other.vocabulary)
        assert np.allclose(wanted, other.read(), rtol=1e-6, atol=0)
