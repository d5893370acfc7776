import itertools
import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shardwise import FormatError, OptionError, Vectors, _native, formats
from shardwise.formats import _binary, _ngrams, fasttext

DATA = Path(__file__).parents[2] / "shared" / "data" / "vectors"
FILES = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
MAGIC = 793712314
NAMES = (
    *("dim", "ws", "epoch", "minCount", "neg", "wordNgrams", "loss", "model", "bucket"),
    *("minn", "maxn", "lrUpdateRate"),
)
ARGS = {
    **{"dim": 4, "ws": 5, "epoch": 6, "minCount": 1, "neg": 7, "wordNgrams": 1, "loss": 2},
    **{"model": 2, "bucket": 11, "minn": 3, "maxn": 6, "lrUpdateRate": 100},
}
WORDS = ["</s>", "the", "naïve", "日本", "a", b"caf\xe9", ""]


@pytest.fixture
def put(tmp_path):
    path = tmp_path / "model"

    def write(content):
        path.write_bytes(content)
        return path

    return write


def encoded(word):
    return word if isinstance(word, bytes) else word.encode()


def dense(rows):
    return struct.pack("<qq", *rows.shape) + rows.astype("<f4").tobytes()


def centroids(columns, width, flat):
    parts = -(-columns // width)
    return struct.pack("<4i", columns, parts, width, columns - (parts - 1) * width) + flat


class Quantised:
    """A quantised matrix, made of random centroids and codes."""

    def __init__(self, rows, columns, width, norms=False, seed=0):
        random = np.random.default_rng(seed)
        self.rows, self.columns, self.width = rows, columns, width
        self.books = [
            random.standard_normal((256, min(width, columns - at))).astype(np.float32)
            for at in range(0, columns, width)
        ]
        self.codes = random.integers(0, 256, (rows, len(self.books)), np.uint8)
        self.norms = random.random(256, np.float32) if norms else None
        self.norm_codes = random.integers(0, 256, rows, np.uint8)

    def bytes(self):
        flat = b"".join(book.tobytes() for book in self.books)
        return (
            struct.pack("<?qqi", self.norms is not None, self.rows, self.columns, self.codes.size)
            + self.codes.tobytes()
            + centroids(self.columns, self.width, flat)
            + (b"" if self.norms is None else self.norm_codes.tobytes())
            + (b"" if self.norms is None else centroids(1, 1, self.norms.tobytes()))
        )

    def values(self):
        rows = np.stack(
            [
                np.concatenate([book[c] for book, c in zip(self.books, codes, strict=True)])
                for codes in self.codes
            ]
        )
        return rows if self.norms is None else rows * self.norms[self.norm_codes][:, None]


def model(
    words=WORDS,
    labels=(),
    *,
    version=12,
    matrix=None,
    pruned=None,
    output=None,
    qout=False,
    extra=b"",
    sizes=None,
    t=1e-4,
    types=None,
    **changed,
):
    """The bytes of a model; `matrix` and `output` are arrays or `Quantised`."""
    args = {**ARGS, **changed}
    if matrix is None:
        matrix = matrix_for(words, args)
    output = np.ones((2, args["dim"]), np.float32) if output is None else output
    head = b"" if version is None else struct.pack("<ii", MAGIC, version)
    head += struct.pack("<12id", *(args[name] for name in NAMES), t)
    head += struct.pack("<3iq", *(sizes or (len(words) + len(labels), len(words), len(labels))), 99)
    if version is not None:
        head += struct.pack("<q", -1 if pruned is None else len(pruned))
    for i, entry in enumerate([*words, *labels]):
        kind = types[i] if types else int(i >= len(words))
        head += encoded(entry) + b"\0" + struct.pack("<qb", 10 - i, kind)
    head += b"".join(struct.pack("<ii", *pair) for pair in pruned or ())
    for flag, part in ((isinstance(matrix, Quantised), matrix), (qout, output)):
        head += b"" if version is None else struct.pack("<?", flag)
        head += part.bytes() if isinstance(part, Quantised) else dense(part)
    return head + extra


def matrix_for(words, args, seed=1):
    shape = (len(words) + args["bucket"], args["dim"])
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def ngrams(word, least, most):
    """The n-grams of a word, character by character."""
    chars = []
    for byte in b"<" + encoded(word) + b">":
        if chars and byte & 0xC0 == 0x80:
            chars[-1] += bytes([byte])
        else:
            chars.append(bytes([byte]))
    for begin in range(len(chars)):
        for n in range(max(1, least), min(most, len(chars) - begin) + 1):
            if n > 1 or 0 < begin < len(chars) - 1:
                yield b"".join(chars[begin : begin + n])


def bucket_of(ngram, buckets):
    value = 2166136261
    for byte in ngram:
        value = ((value ^ (byte if byte < 128 else byte | 0xFFFFFF00)) * 16777619) % (1 << 32)
    return value % buckets


def expected(words, matrix, args, *, pruned=None, end_is_cut=False, least_row=None):
    """The vectors of words, added one by one in float32."""
    places = None if pruned is None else dict(pruned)
    vectors = []
    for i, word in enumerate(words):
        rows = [i]
        for ngram in ngrams(word, args["minn"], args["maxn"]):
            if encoded(word) == b"</s>" and not end_is_cut:
                break
            bucket = bucket_of(ngram, args["bucket"])
            if places is None or bucket in places:
                rows.append(len(words) + (bucket if places is None else places[bucket]))
        total = np.zeros(matrix.shape[1], np.float32)
        for row in rows:
            total += matrix[row]
        vectors.append(total * np.float32(1.0 / len(rows)))
    return np.array(vectors, np.float32).reshape(len(words), matrix.shape[1])


def names(words):
    return [encoded(word).decode("utf-8", "surrogateescape") for word in words]


def check(source, words, vectors, others):
    assert source.format == "fasttext"
    assert list(source.vocabulary) == names(words)
    assert source.shape == (len(vectors) + len(others), vectors.shape[1])
    assert source.dtype == np.float32
    wanted = np.concatenate([vectors, others]).view(np.uint32)
    assert np.array_equal(source.read().view(np.uint32), wanted)
    for size in (1, 3, 1000):
        blocks = [np.ascontiguousarray(block) for block in source.blocks(size)]
        assert np.array_equal(np.concatenate(blocks).view(np.uint32), wanted)


# ---- what is written is read ----


@pytest.mark.parametrize("minn", [0, 1, 3])
@pytest.mark.parametrize("maxn", [0, 1, 2, 6])
@pytest.mark.parametrize("version", [None, 11, 12])
def test_dense(put, version, minn, maxn):
    args = {**ARGS, "minn": minn, "maxn": maxn}
    matrix = matrix_for(WORDS, args)
    source = formats.open(put(model(version=version, minn=minn, maxn=maxn)))
    vectors = expected(WORDS, matrix, args, end_is_cut=version is None)
    check(source, WORDS, vectors, matrix[len(WORDS) :])
    assert source.metadata["fasttext"] == {
        **args,
        **{"loss": "ns", "model": "sg", "t": 1e-4, "version": version},
        **{"words": len(WORDS), "ngrams": 11},
    }


@pytest.mark.parametrize("shift", range(4))
def test_alignment(put, shift):
    words = [*WORDS[:-1], "x" * shift]
    source = formats.open(put(model(words)))
    matrix = matrix_for(words, ARGS)
    check(source, words, expected(words, matrix, ARGS), matrix[len(words) :])
    assert source.read(len(words)).flags.aligned


@pytest.mark.parametrize("width", [1, 2, 3, 4])
@pytest.mark.parametrize("norms", [False, True])
@pytest.mark.parametrize("qout", [False, True])
def test_quantised(put, width, norms, qout):
    matrix = Quantised(len(WORDS) + 11, 4, width, norms)
    output = Quantised(3, 4, 2, norms, seed=5) if qout else np.ones((3, 4), np.float32)
    source = formats.open(put(model(matrix=matrix, output=output, qout=qout)))
    values = matrix.values()
    check(source, WORDS, expected(WORDS, values, ARGS), values[len(WORDS) :])


def test_output_is_dense_where_the_input_is(put):
    source = formats.open(put(model(qout=True)))  # fastText writes the flag and ignores it
    assert source.shape == (len(WORDS) + 11, 4)


@pytest.mark.parametrize("pruned", [[], [(3, 1), (10, 0), (0, 2)], [(i, i) for i in range(11)]])
def test_pruned(put, pruned):
    matrix = Quantised(len(WORDS) + len(pruned), 4, 2)
    source = formats.open(put(model(matrix=matrix, pruned=pruned)))
    values = matrix.values()
    check(source, WORDS, expected(WORDS, values, ARGS, pruned=pruned), values[len(WORDS) :])
    assert source.metadata["fasttext"]["pruned"] == [list(pair) for pair in pruned]


def test_a_bucket_pruned_twice_keeps_the_last(put):
    pruned = [(bucket_of(b"<a>", 11), 0), (bucket_of(b"<a>", 11), 1)]
    matrix = Quantised(3, 4, 2)
    source = formats.open(put(model(["a"], matrix=matrix, pruned=pruned)))
    values = matrix.values()
    assert np.array_equal(source.read(0, 1), expected(["a"], values, ARGS, pruned=pruned))


def test_supervised(put):
    labels = ["__label__x", b"__label__\xff"]
    content = model(labels=labels, model=3, loss=3, bucket=0, maxn=0, minn=0)
    source = formats.open(put(content))
    matrix = matrix_for(WORDS, {**ARGS, "bucket": 0})
    check(source, WORDS, matrix + np.float32(0), matrix[:0])
    named = source.metadata["fasttext"]
    assert named["labels"] == names(labels)
    assert (named["model"], named["loss"], named["ngrams"]) == ("sup", "softmax", 0)


def test_supervised_of_version_11_has_no_ngrams(put):
    source = formats.open(put(model(labels=["x"], model=3, version=11)))
    matrix = matrix_for(WORDS, ARGS)
    check(source, WORDS, matrix[: len(WORDS)], matrix[len(WORDS) :])
    assert source.metadata["fasttext"]["maxn"] == 0


def test_odd_dictionaries(put):
    # A label in an unsupervised model, counts that do not add up, and words that look like labels.
    matrix = matrix_for(WORDS, ARGS)
    for content in (
        model(labels=["__label__x"]),
        model(labels=["__label__x"], sizes=(len(WORDS) + 1, len(WORDS), 0)),
        model(types=[1] * len(WORDS)),
    ):
        source = formats.open(put(content))
        check(source, WORDS, expected(WORDS, matrix, ARGS), matrix[len(WORDS) :])


def test_repeated_words(put):
    words = ["b", "a", "b", "c", "a"]
    matrix = matrix_for(words, ARGS)
    source = formats.open(put(model(words)))
    vectors = expected(words, matrix, ARGS)[[0, 1, 3]]
    check(source, ["b", "a", "c"], vectors, matrix[5:])
    assert source.duplicates == 2
    assert source.metadata["fasttext"]["words"] == 3


def test_more_rows_than_buckets(put):
    matrix = matrix_for(WORDS, {**ARGS, "bucket": 20})
    source = formats.open(put(model(matrix=matrix)))
    check(source, WORDS, expected(WORDS, matrix, ARGS), matrix[len(WORDS) :])


def test_no_words(put):
    source = formats.open(put(model([], bucket=3)), format="fasttext")
    assert source.shape == (3, 4)
    assert len(source.vocabulary) == 0
    assert np.array_equal(source.read(), matrix_for([], {**ARGS, "bucket": 3}))
    empty = Quantised(0, 4, 2)
    source = formats.open(put(model([], maxn=0, bucket=0, matrix=empty)))
    assert source.read().shape == (0, 4)


def test_values_that_are_no_numbers(put):
    matrix = matrix_for(WORDS, ARGS)
    matrix[0] = [np.nan, np.inf, -np.inf, -0.0]
    matrix[len(WORDS) :] = np.inf
    matrix[len(WORDS) + bucket_of(b"<a>", 11)] = -np.inf
    source = formats.open(put(model(matrix=matrix, t=float("nan"))))
    with np.errstate(invalid="ignore"):
        vectors = expected(WORDS, matrix, ARGS)
    assert np.array_equal(source.read(0, len(WORDS)), vectors, equal_nan=True)
    assert not np.signbit(source.read(0, 1)[0, 3])
    assert source.metadata["fasttext"]["t"] is None


@pytest.mark.parametrize("limit", [1, 3, 7, 100])
def test_limit(put, limit):
    content = model(labels=["x"])
    matrix = matrix_for(WORDS, ARGS)
    vectors = expected(WORDS, matrix, ARGS)[:limit]
    for cut in (0, 1, 30, 49):  # bytes of the output matrix, which is of no matter
        source = formats.open(put(content[: len(content) - cut]), limit=limit)
        check(source, WORDS[:limit], vectors, matrix[:0])
    assert source.metadata["fasttext"]["ngrams"] == 0


def test_options(put):
    path = put(model())
    assert formats.open(path, dim=4).shape[1] == 4
    with pytest.raises(FormatError, match=r"expected rows of 5 values \(dim=5\), got 4"):
        formats.open(path, dim=5)
    assert formats.open(path, unknown="the").vocabulary.encode("nothing") == 1
    with pytest.raises(OptionError):
        formats.open(path, unknown="nothing")
    calls = []
    formats.open(path, progress=lambda done, size: calls.append((done, size)))
    assert calls
    assert all(done <= size for done, size in calls)


@FILES
@given(
    st.lists(st.binary(max_size=8).filter(lambda word: b"\0" not in word), max_size=6, unique=True),
    st.integers(0, 4),
    st.integers(0, 5),
    st.integers(1, 50),
)
def test_any_words(put, words, minn, maxn, bucket):
    args = {**ARGS, "minn": minn, "maxn": maxn, "bucket": bucket}
    matrix = matrix_for(words, args)
    source = formats.open(put(model(words, minn=minn, maxn=maxn, bucket=bucket)))
    check(source, words, expected(words, matrix, args), matrix[len(words) :])


def test_many_ngrams_at_once(put, monkeypatch):
    monkeypatch.setattr(_ngrams, "_MOST_NGRAMS", 20)
    source = formats.open(put(model()))
    matrix = matrix_for(WORDS, ARGS)
    check(source, WORDS, expected(WORDS, matrix, ARGS), matrix[len(WORDS) :])
    monkeypatch.setattr(_ngrams, "_STEP_BYTES", 32)
    check(source, WORDS, expected(WORDS, matrix, ARGS), matrix[len(WORDS) :])
    monkeypatch.setattr(_ngrams, "_MOST_NGRAMS", 8)
    with pytest.raises(FormatError, match="word 2: expected at most 8 n-grams, got 14"):
        source.read()


def test_opening_reads_no_values(put, monkeypatch):
    def read(*_):
        raise AssertionError

    monkeypatch.setattr(_binary.Dense, "take", read)
    monkeypatch.setattr(_binary.Dense, "block", read)
    assert formats.open(put(model())).shape == (18, 4)


# ---- the rules of n-grams ----


@given(
    st.lists(st.binary(max_size=10), max_size=5),
    st.integers(-1, 5),
    st.integers(-1, 6),
    st.integers(1, (1 << 32) - 1),
)
def test_subwords(words, least, most, buckets):
    data = np.frombuffer(b"".join(words), np.uint8)
    ends = np.cumsum([0] + [len(word) for word in words]).astype(np.int64)
    ids, offsets = _native.subword_buckets(data, ends, least, most, buckets, True, 10**6)
    counts = np.empty(len(words), np.int64)
    _native.count_subwords(data, ends, least, most, True, counts)
    wanted = [[bucket_of(ngram, buckets) for ngram in ngrams(w, least, most)] for w in words]
    assert [ids[a:b].tolist() for a, b in itertools.pairwise(offsets)] == wanted
    assert counts.tolist() == [len(found) for found in wanted]


def test_subwords_refuses():
    data, ends = np.frombuffer(b"words", np.uint8), np.array([0, 5])
    with pytest.raises(ValueError, match="at most 3 n-grams"):
        _native.subword_buckets(data, ends, 3, 6, 10, False, 3)
    with pytest.raises(ValueError, match="at least 1 bucket"):
        _native.subword_buckets(data, ends, 3, 6, 0, False, 100)
    with pytest.raises(ValueError, match="ascending order"):
        _native.subword_buckets(data, ends + 1, 3, 6, 1, False, 100)
    with pytest.raises(ValueError, match="one offset more"):
        _native.subword_buckets(data, ends[:0], 3, 6, 1, False, 100)
    with pytest.raises(ValueError, match="one count for each"):
        _native.count_subwords(data, ends, 3, 6, False, np.empty(2, np.int64))


# ---- files that are broken ----

PRUNED = [(3, 1), (10, 0)]
BROKEN = {
    "expected version 11 or 12 of fastText's format, got 13": model(version=13),
    "got dim = 0": model(dim=0, matrix=np.ones((18, 4))),
    "got dim = -4": model(dim=-4, matrix=np.ones((18, 4)), output=np.ones((2, 4))),
    "got loss = 5": model(loss=5),
    "got model = 0": model(model=0),
    "got minn = -1": model(minn=-1),
    "got maxn = 1025": model(maxn=1025),
    "got bucket = -1": model(bucket=-1, matrix=np.ones((18, 4))),
    "that fit each other, got 7, 8 and 0": model(sizes=(7, 8, 0)),
    "that fit each other, got 7, -1 and 0": model(sizes=(7, -1, 0)),
    "that fit each other, got 7, 7 and -1": model(sizes=(7, 7, -1)),
    "expected 2147483647 words": model(sizes=(2**31 - 1, 7, 0)),
    "expected the type of word 2, 0 or 1, got 7": model(types=[0, 0, 7, 0, 0, 0, 0]),
    "expected an input matrix of 4 columns, got 3": model(matrix=np.ones((18, 3))),
    "expected a row for each of the 7 words, got 6 rows": model(matrix=np.ones((6, 4))),
    "a row for each of the 11, got 10 rows": model(matrix=np.ones((17, 4))),
    "at least 1 bucket": model(bucket=0),
    "expected a matrix with columns, got 0 x 0": model(matrix=np.ones((0, 0))),
    "expected a quantised matrix in a pruned model": model(pruned=[(0, 0)]),
    "expected pruned n-grams of 11 buckets and 2 rows": model(
        matrix=Quantised(9, 4, 2), pruned=[(11, 0)]
    ),
    "2 rows, got some beyond them": model(matrix=Quantised(9, 4, 2), pruned=[(0, 2)]),
    "got some beyond": model(matrix=Quantised(9, 4, 2), pruned=[(-1, 0)]),
    "got 10 bytes more; fetch the file again, or pass limit=7": model(extra=bytes(10)),
}


@pytest.mark.parametrize("message", BROKEN)
def test_broken(put, message):
    with pytest.raises(FormatError, match=r"byte .*: expected ") as error:
        formats.open(put(BROKEN[message]))
    assert message in str(error.value)


def changed(content, at, layout, *values):
    data = bytearray(content)
    struct.pack_into(layout, data, at, *values)
    return bytes(data)


@pytest.mark.parametrize(
    ("offset", "layout", "value", "message"),
    [
        (0, "<B", 2, "whether the matrix is quantised, 0 or 1, got 2"),
        (1, "<B", 7, "whether norms are apart, 0 or 1, got 7"),
        (2, "<q", 1 << 40, "as many codes for each of"),
        (2, "<q", -1, "a matrix with columns, got -1 x 4"),
        (10, "<q", 1 << 40, "a matrix with columns"),
        (18, "<i", 37, "as many codes for each of 18 rows, 4 at most, got 37"),
        (18, "<i", -36, "as many codes"),
        (18, "<i", 18 * 5, "as many codes"),
        (18, "<i", 18, "centroids for 4 columns in 1 parts"),
        (22 + 36, "<i", 5, "centroids for 4 columns in 2 parts, got 5 columns"),
        (22 + 40, "<i", 3, "in 3 parts of 2"),
        (22 + 44, "<i", 0, "parts of 0"),
        (22 + 44, "<i", -2, "parts of -2"),
        (22 + 48, "<i", 1, "the last of 1"),
    ],
)
def test_broken_quantised(put, offset, layout, value, message):
    content = model(matrix=Quantised(18, 4, 2))
    begin = len(model(matrix=np.ones((18, 4)))) - 2 * 17 - 4 * 4 * (18 + 2)
    with pytest.raises(FormatError) as error:
        formats.open(put(changed(content, begin, "<B", 1)[:begin] + changed(
            content[begin:], offset, layout, value)))  # fmt: skip
    assert message in str(error.value)


def attempt(path, **options):
    """An open file reads, or it is refused."""
    try:
        source = formats.open(path, format="fasttext", **options)
        for block in source.blocks(5):
            assert block.shape[1:] == source.shape[1:]
        list(source.vocabulary)
    except (FormatError, OptionError):
        return False
    return True


SMALL = {
    "dense": model(WORDS[:3], ["x"], bucket=3, dim=2),
    "old": model(WORDS[:3], ["x"], bucket=3, dim=2, version=None),
    "pruned": model(WORDS[:3], bucket=3, dim=1, matrix=Quantised(4, 1, 1, True), pruned=[(1, 0)]),
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
    interesting = [at for at in range(len(content)) if at < 200 or at % 17 == 0]
    for at in interesting:
        for value in (0, 0x7F, 0xFF, content[at] ^ (1 << int(random.integers(8)))):
            attempt(put(content[:at] + bytes([value]) + content[at + 1 :]))
    for _ in range(300):
        data = bytearray(content)
        for _ in range(int(random.integers(1, 5))):
            data[int(random.choice(interesting))] = int(random.integers(256))
        attempt(put(data), limit=int(random.integers(1, 5)))


def test_a_file_of_old_words_is_no_old_model(put):
    # A header of word2vec, and the beginning of other formats: none has arguments that could be.
    for content in (b"2 2\na 1 2\nb 3 4\n" * 20, bytes(200), b"\1\0\0\0" * 60):
        assert not fasttext.is_model(fasttext_file(put(content)))
    assert fasttext.is_model(fasttext_file(put(SMALL["old"])))


def fasttext_file(path):
    from shardwise.formats._file import map_file

    return map_file(path)


# ---- files of fastText itself ----


def digits_of(path):
    """fastText's own text: the vectors that it prints, with 5 significant digits."""
    lines = path.read_bytes().split(b"\n")[1:-1]
    fields = [line.rstrip(b" ").split(b" ") for line in lines]
    return [row[0].decode() for row in fields], np.array([row[1:] for row in fields], np.float64)


@pytest.mark.skipif(not DATA.exists(), reason="no shared data")
def test_toy_model():
    source = formats.open(DATA / "toy-model.bin")
    words, vectors = digits_of(DATA / "toy-model.vec")
    assert list(source.vocabulary) == words
    assert source.shape == (22 + 100, 5)
    read = source.read(0, 22)
    assert np.array_equal([[float(f"{v:.5g}") for v in row] for row in read.tolist()], vectors)


@pytest.mark.skipif(not DATA.exists(), reason="no shared data")
def test_lee():
    source = formats.open(DATA / "lee_fasttext_new.bin")
    assert source.shape == (1763 + 1000, 10)
    assert source.vocabulary.encode("the") == 0
    named = source.metadata["fasttext"]
    assert (named["version"], named["model"], named["maxn"]) == (11, "sg", 6)
    # By fastText 0.9.2, to 9 digits.
    wanted = [
        -0.330221593,
        -0.31812048,
        0.100511827,
        -1.0400604,
        0.0878058448,
        -0.767040551,
        0.399688363,
        -0.196087986,
        -0.133976534,
        0.305539817,
    ]
    assert np.array_equal(source.read(0, 1)[0], np.array(wanted, np.float32))


@pytest.mark.skipif(not DATA.exists(), reason="no shared data")
def test_known_and_unknown_words_are_gensims():
    vectors = Vectors.from_file(DATA / "lee_fasttext_new.bin")
    with np.load(Path(__file__).parent / "golden" / "fasttext.npz") as golden:
        golden = dict(golden)
    words = golden["words"].tolist()
    assert len(words) == 441
    np.testing.assert_allclose(vectors.lookup(words), golden["known"], rtol=0, atol=2e-7)
    other = [word[::-1] + "x" for word in words]
    assert [word in vectors for word in other] == golden["is_known"].tolist()
    found = vectors.lookup(other, unknown="subwords")
    np.testing.assert_allclose(found, golden["unknown"], rtol=0, atol=2e-7)
