import struct
from pathlib import Path

import numpy as np
import pytest

import shardwise
from shardwise import (
    OptionError,
    StoreError,
    Table,
    TableError,
    TokenTypeError,
    UnknownTokenError,
    Vectors,
    Vocabulary,
    VocabularyError,
)
from shardwise.words import _subwords

DATA = Path(__file__).parents[2] / "shared" / "data" / "vectors"
WORDS = ["</s>", "the", "naïve", "日本"]
UNKNOWN = ["they", "naïv", "日本語", "a", "", "the the", "x\0y", "é" * 40, "\udcff", "ab"]
BUCKETS, DIM = 11, 4


def rows_of(count, seed=1):
    return np.random.default_rng(seed).standard_normal((count, DIM)).astype(np.float32)


def model(words=WORDS, *, version=12, minn=3, maxn=6, bucket=BUCKETS, codes=None, pruned=None):
    """A model of fastText; with `codes` its matrix is quantised, each row one of 256 centroids."""
    head = b"" if version is None else struct.pack("<ii", 793712314, version)
    head += struct.pack("<12id", DIM, 5, 6, 1, 7, 1, 2, 2, bucket, minn, maxn, 100, 1e-4)
    head += struct.pack("<3iq", len(words), len(words), 0, 99)
    head += b"" if version is None else struct.pack("<q", -1 if pruned is None else len(pruned))
    head += b"".join(word.encode() + b"\0" + struct.pack("<qb", 9, 0) for word in words)
    head += b"".join(struct.pack("<ii", *pair) for pair in pruned or ())
    flag = [b"", b""] if version is None else [struct.pack("<?", codes is not None), b"\0"]
    if codes is None:
        rows = rows_of(len(words) + bucket)
        matrix = struct.pack("<qq", *rows.shape) + rows.tobytes()
    else:
        matrix = struct.pack("<?qqi", False, len(codes), DIM, len(codes)) + bytes(codes)
        matrix += struct.pack("<4i", DIM, 1, DIM, DIM) + rows_of(256).tobytes()
    return head + flag[0] + matrix + flag[1] + struct.pack("<qq4f", 1, DIM, *[0.0] * DIM)


def buckets_of(word, minn, maxn, buckets):
    chars = []
    for byte in b"<" + word.encode("utf-8", "surrogateescape") + b">":
        if chars and byte & 0xC0 == 0x80:
            chars[-1] += bytes([byte])
        else:
            chars.append(bytes([byte]))
    for begin in range(len(chars)):
        for n in range(max(1, minn), min(maxn, len(chars) - begin) + 1):
            if n > 1 or 0 < begin < len(chars) - 1:
                value = 2166136261
                for byte in b"".join(chars[begin : begin + n]):
                    value = (value ^ (byte if byte < 128 else byte | 0xFFFFFF00)) * 16777619 % 2**32
                yield value % buckets


def mean(rows):
    total = np.zeros(DIM, np.float32)
    for row in rows:
        total += row
    return total * np.float32(1.0 / max(1, len(rows)))


def expected(words, rows, minn=3, maxn=6, pruned=None):
    """fastText's vectors of unknown words; `rows` are those of the n-grams."""
    places = {i: i for i in range(BUCKETS)} if pruned is None else dict(pruned)
    return np.array(
        [
            mean([rows[places[b]] for b in buckets_of(word, minn, maxn, BUCKETS) if b in places])
            for word in words
        ],
        np.float32,
    )


def same(left, right):
    assert left.dtype == right.dtype
    assert left.shape == right.shape
    assert np.array_equal(left.view(np.uint32), right.view(np.uint32))


@pytest.fixture
def put(tmp_path):
    def write(**changed):
        path = tmp_path / "model.bin"
        path.write_bytes(model(**changed))
        return path

    return write


@pytest.fixture
def vectors(put):
    return Vectors.from_file(put())


@pytest.mark.parametrize("minn", [0, 1, 3])
@pytest.mark.parametrize("maxn", [0, 1, 2, 6])
@pytest.mark.parametrize("version", [None, 12])
def test_every_rule(put, minn, maxn, version):
    vectors = Vectors.from_file(put(minn=minn, maxn=maxn, version=version))
    rows = rows_of(len(WORDS) + BUCKETS)[len(WORDS) :]
    same(vectors.lookup(UNKNOWN, unknown="subwords"), expected(UNKNOWN, rows, minn, maxn))


def test_known_words_are_their_rows(vectors):
    tokens = [["the", "they"], ["日本語", "</s>"]]
    found = vectors.lookup(tokens, unknown="subwords")
    rows = rows_of(len(WORDS) + BUCKETS)[len(WORDS) :]
    same(found[[0, 1], [0, 1]], vectors.lookup(["the", "</s>"]))
    same(found[[0, 1], [1, 0]], expected(["they", "日本語"], rows))
    same(vectors.lookup("they", unknown="subwords"), found[0, 1])
    same(vectors.lookup(b"they", unknown="subwords"), found[0, 1])
    same(vectors.lookup("the", unknown="subwords"), found[0, 0])
    same(vectors.lookup(np.array(tokens), unknown="subwords"), found)
    assert vectors.lookup([], unknown="subwords").shape == (0, DIM)


def test_the_end_of_a_sentence_has_no_ngrams_today(put):
    words = ["the", "of"]
    today = Vectors.from_file(put(words=words)).lookup("</s>", unknown="subwords")
    assert not today.any()
    before = Vectors.from_file(put(words=words, version=None)).lookup("</s>", unknown="subwords")
    same(before, expected(["</s>"], rows_of(2 + BUCKETS)[2:])[0])


@pytest.mark.parametrize("pruned", [[], [(3, 1), (10, 0), (0, 2)], [(3, 1), (3, 0)]])
def test_quantised_and_pruned(put, pruned):
    codes = list(range(40, 40 + len(WORDS) + len(pruned)))
    vectors = Vectors.from_file(put(codes=codes, pruned=pruned))
    rows = rows_of(256)[codes[len(WORDS) :]]
    wanted = expected(UNKNOWN, rows, pruned=pruned)
    same(vectors.lookup(UNKNOWN, unknown="subwords"), wanted)


@pytest.mark.parametrize("shards", [1, 3])
def test_tables_on_disk(put, tmp_path, vectors, shards):
    wanted = vectors.lookup(UNKNOWN, unknown="subwords")
    shardwise.convert(put(), tmp_path / "table", shards=shards)
    opened = Vectors.open(tmp_path / "table")
    same(opened.lookup(UNKNOWN, unknown="subwords"), wanted)
    opened.save(tmp_path / "saved", metadata={"mine": 1})
    same(Vectors.open(tmp_path / "saved").lookup(UNKNOWN, unknown="subwords"), wanted)


def test_other_dtypes(put, tmp_path):
    shardwise.convert(put(), tmp_path / "halves", dtype="float16")
    found = Vectors.open(tmp_path / "halves").lookup(UNKNOWN, unknown="subwords")
    rows = rows_of(len(WORDS) + BUCKETS)[len(WORDS) :].astype(np.float16).astype(np.float32)
    assert np.array_equal(found, expected(UNKNOWN, rows).astype(np.float16))


def test_out_and_max_norm(vectors):
    tokens = ["the", "they", "naïv"]
    wanted = vectors.lookup(tokens, unknown="subwords")
    for out in (np.empty((3, DIM), np.float32), np.empty((3, 2 * DIM), np.float32)[:, ::2]):
        assert vectors.lookup(tokens, unknown="subwords", out=out) is out
        assert np.array_equal(out, wanted)
    clipped = vectors.lookup(tokens, unknown="subwords", max_norm=0.1)
    same(clipped, Table.from_array(wanted).lookup([0, 1, 2], max_norm=0.1))
    out = np.full((3, DIM), 7, np.float32)
    with pytest.raises(TokenTypeError):
        vectors.lookup(["the", 5, "they"], unknown="subwords", out=out)
    assert (out == 7).all()


def test_many_words(vectors, monkeypatch):
    words = [f"{i} {'word' * (i % 9)}" for i in range(500)]
    wanted = vectors.lookup(words, unknown="subwords")
    monkeypatch.setattr(_subwords, "_STEP_BYTES", 1000)
    monkeypatch.setattr(_subwords, "_MOST_NGRAMS", 200)
    same(vectors.lookup(words, unknown="subwords"), wanted)
    monkeypatch.setattr(_subwords, "_MOST_NGRAMS", 100)
    with pytest.raises(VocabularyError, match="at most 100 n-grams, got one of"):
        vectors.lookup(words, unknown="subwords")


def test_the_unknown_token_stays_for_other_lookups(tmp_path, put):
    vectors = Vectors.from_file(put(), unknown="the")
    same(vectors.lookup("they"), vectors.lookup("the"))
    assert not np.array_equal(vectors.lookup("they", unknown="subwords"), vectors.lookup("the"))


def test_refused(put, tmp_path, vectors):
    with pytest.raises(UnknownTokenError):
        vectors.lookup("they")
    with pytest.raises(OptionError, match="'subwords' or None, got 'subword'"):
        vectors.lookup("they", unknown="subword")
    others = Vectors(vectors.table, vectors.vocabulary)
    with pytest.raises(TableError, match="expected vectors of a fastText model"):
        others.lookup("they", unknown="subwords")
    words_alone = Vectors.from_file(put(), limit=3)
    with pytest.raises(TableError, match="convert the model without a limit"):
        words_alone.lookup("they", unknown="subwords")


GOOD = {"words": 4, "ngrams": 11, "minn": 3, "maxn": 6, "bucket": 11, "version": 12}


@pytest.mark.parametrize(
    "broken",
    [
        *(None, 5, [], {}, "x"),
        *({**GOOD, name: None} for name in ("words", "ngrams", "minn", "maxn", "bucket")),
        *({**GOOD, name: -1} for name in ("words", "ngrams", "minn", "maxn", "bucket")),
        *({**GOOD, "maxn": value} for value in (1.5, True, "6", 10**6)),
        *({**GOOD, name: 5} for name in ("words", "ngrams")),
        {**GOOD, "bucket": 0},
        *({**GOOD, "pruned": [[3, value]]} for value in (-1, 11, 2**40, 2**70, 0.5, "1", None)),
        *({**GOOD, "pruned": [[value, 1]]} for value in (-1, 11)),
        *({**GOOD, "pruned": value} for value in (5, "x", [1, 2], [[1], [1, 2]], {"a": 1})),
    ],
    ids=str,
)
def test_broken_metadata(tmp_path, broken):
    table = Table.from_array(rows_of(15))
    Vectors(table, Vocabulary(WORDS)).save(tmp_path / "t", metadata={"fasttext": broken})
    vectors = Vectors.open(tmp_path / "t")
    assert np.array_equal(vectors.lookup("the"), rows_of(15)[1])
    with pytest.raises(StoreError, match="convert the model again"):
        vectors.lookup("they", unknown="subwords")


def test_rows_that_have_no_mean(tmp_path):
    for rows in (np.ones((15, 4), int), np.ones((15, 2, 2))):
        vectors = Vectors(Table.from_array(rows), Vocabulary(WORDS))
        vectors.save(tmp_path / "t", metadata={"fasttext": GOOD}, overwrite=True)
        with pytest.raises(TableError, match="floating-point"):
            Vectors.open(tmp_path / "t").lookup("they", unknown="subwords")


@pytest.mark.skipif(not DATA.exists(), reason="needs ../shared/data")
@pytest.mark.parametrize(
    ("name", "word", "wanted"),
    [
        ("lee_fasttext_new.bin", "the", [-0.3302216, -0.3181205, 0.1005118]),
        ("lee_fasttext_new.bin", "kingdoms", [-0.2174068, -0.103643, 0.1282652]),
        ("lee_fasttext_new.bin", "日本語", [-0.3730069, -0.278753, 0.2541523]),
        ("lee_fasttext_new.bin", "é" * 50, [-0.1516874, -0.2995482, 0.260272]),
        ("toy-model.bin", "the", [0.0688109, 0.2661903, 0.0266224]),
        ("toy-model.bin", "kingdoms", [0.0696607, 0.0946802, 0.0441224]),
        ("toy-model.bin", "日本語", [0.0637397, 0.0237629, -0.0671569]),
        ("toy-model.bin", "é" * 50, [0.0414472, 0.0544625, 0.0224141]),
    ],
)
def test_gensims_answers(name, word, wanted):
    found = Vectors.from_file(DATA / name).lookup(word, unknown="subwords")
    assert np.abs(found[:3] - wanted).max() < 1e-6
