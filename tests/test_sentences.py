from itertools import pairwise

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shardwise import (
    IdOutOfRangeError,
    OptionError,
    OutputError,
    Table,
    TableError,
    TokenTypeError,
    UnknownTokenError,
    Vectors,
    Vocabulary,
    VocabularyError,
)
from shardwise._hashing import Buckets
from shardwise.words import _sentences

WORDS = ["like", "the", "country", "", "naïve", "\udcff", "日本"]
ROWS = np.random.default_rng(1).standard_normal((7, 3)).astype(np.float32)
DTYPES = [np.float16, np.float32, np.float64, ml_dtypes.bfloat16, np.int32, np.complex64, ">f4"]
POLICIES = ["error", "zeros", "skip"]

words = st.sampled_from([*WORDS, b"the", "roads", "x y"])
batches = st.lists(st.lists(words, max_size=6), max_size=6)


def vectors_of(rows=ROWS, shards=3, **options):
    return Vectors(Table.from_array(rows, shards), Vocabulary(WORDS, **options))


@pytest.fixture
def vectors():
    return vectors_of()


def same(left, right):
    assert left.dtype == right.dtype
    assert left.shape == right.shape
    assert left.tobytes() == right.tobytes()


def row_of(rows, word, unknown):
    """The obvious way: a word's row, or what stands for it; None to leave it out."""
    word = word.decode() if isinstance(word, bytes) else word
    if word in WORDS:
        return rows[WORDS.index(word)]
    if unknown == "error":
        raise KeyError(word)
    return np.zeros_like(rows[0]) if unknown == "zeros" else None


def expected(rows, sentences, unknown):
    return [
        [row for word in sentence if (row := row_of(rows, word, unknown)) is not None]
        for sentence in sentences
    ]


def summed(rows, dtype, shape, combiner):
    wide = np.float64 if dtype == np.float64 else np.float32
    total = np.zeros(shape, wide)
    for row in rows:
        total += row.astype(wide)
    if combiner != "sum":
        count = wide(max(1, len(rows)))
        total = total / (np.sqrt(count) if combiner == "sqrtn" else count)
    return total.astype(dtype)


# --- What stands for unknown words


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(7,), (7, 3), (7, 2, 2)])
def test_zeros(dtype, shape):
    rows = (np.arange(np.prod(shape)) + 1).reshape(shape).astype(dtype)
    for unknown in (None, "the", -1, 3, Buckets(5, first=2)):
        vectors = vectors_of(rows, unknown=unknown)
        found = vectors.lookup([["roads", "the"], ["\udcff", "x"]], unknown="zeros")
        same(found, np.stack([[rows[0] * 0, rows[1]], [rows[5], rows[0] * 0]]).astype(dtype))
        same(vectors.lookup("roads", unknown="zeros"), np.zeros(shape[1:], dtype))
        same(vectors.lookup(b"the", unknown="zeros"), np.asarray(rows[1], dtype))


def test_zeros_into_and_clipped(vectors):
    out = np.full((2, 6), 7, np.float32)[:, ::2]
    assert vectors.lookup(["x", "the"], unknown="zeros", out=out) is out
    assert np.array_equal(out, [ROWS[0] * 0, ROWS[1]])
    clipped = vectors.lookup(["the", "x"], unknown="zeros", max_norm=0.25)
    same(clipped[0], vectors.table.lookup(1, max_norm=0.25))
    assert not clipped[1].any()
    with pytest.raises(OutputError):
        vectors.lookup(["the"], unknown="zeros", out=out)


@pytest.mark.parametrize("unknown", [None, "the", -1, 3, Buckets(2, first=0)])
def test_an_error_whatever_the_vocabulary_says(unknown):
    vectors = vectors_of(unknown=unknown)
    with pytest.raises(UnknownTokenError, match="'roads'"):
        vectors.lookup(["the", "roads"], unknown="error")
    with pytest.raises(KeyError, match="'roads'"):
        vectors["roads"]
    out = np.full((2, 3), 7, np.float32)
    with pytest.raises(KeyError):
        vectors.lookup(["the", "roads"], unknown="error", out=out)
    assert (out == 7).all()
    same(vectors["the"], ROWS[1])
    same(vectors[["the", "日本"]], ROWS[[1, 6]])
    same(
        vectors.lookup([["the"]], unknown="error", max_norm=0.1)[0, 0],
        vectors.table.lookup(1, max_norm=0.1),
    )
    assert vectors[[]].shape == (0, 3)
    assert vectors.vocabulary.unknown == unknown  # as it was


def test_arrow():
    pa = pytest.importorskip("pyarrow")
    vectors = vectors_of()
    for array in (pa.array(["the", "roads"]), pa.chunked_array([["the"], ["roads"]])):
        same(vectors.lookup(array, unknown="zeros"), np.stack([ROWS[1], ROWS[0] * 0]))
        with pytest.raises(UnknownTokenError, match="'roads'"):
            vectors.lookup(array, unknown="error")


@pytest.mark.parametrize(
    "unknown", ["skip", "nonsense", 5, b"zeros", ["zeros"], np.array(["x", "y"])]
)
def test_no_such_policy(vectors, unknown):
    with pytest.raises(OptionError, match="'subwords' or None, got"):
        vectors.lookup("the", unknown=unknown)


# --- Sentences


@settings(deadline=None)
@given(batches, st.sampled_from(POLICIES), st.none() | st.integers(0, 7))
def test_padded_and_ragged(sentences, unknown, most):
    vectors = vectors_of()
    options = {"unknown": unknown, "max_length": most}
    try:
        rows = expected(ROWS, [s if unknown == "skip" else s[:most] for s in sentences], unknown)
    except KeyError:
        for kind in ("padded", "ragged"):
            with pytest.raises(UnknownTokenError):
                vectors.lookup(sentences, sentences=kind, **options)
        return
    rows = [part[:most] for part in rows]
    padded = vectors.lookup(sentences, sentences="padded", **options)
    ragged = vectors.lookup(sentences, sentences="ragged", **options)
    longest = max(map(len, rows), default=0)
    wanted = np.zeros((len(rows), longest, 3), np.float32)
    for i, part in enumerate(rows):
        wanted[i, : len(part)] = part or np.zeros((0, 3))
    same(padded.rows, wanted)
    for found in (padded, ragged):
        same(found.lengths, np.array([len(part) for part in rows], np.int64))
    assert padded.mask.shape == wanted.shape[:2]
    assert padded.mask.dtype == bool
    assert padded.mask.sum() == padded.lengths.sum()
    same(padded.rows[padded.mask], ragged.rows)
    assert len(ragged) == len(rows)
    for i, (part, found) in enumerate(zip(rows, ragged, strict=True)):
        same(found, np.array(part, np.float32).reshape(-1, 3))
        same(ragged[i], found)
        same(ragged[i - len(rows)], found)
    assert [b - a for a, b in pairwise(ragged.offsets)] == ragged.lengths.tolist()


@settings(deadline=None)
@given(batches, st.sampled_from(["mean", "sum", "sqrtn"]), st.sampled_from(["zeros", "skip"]))
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, ml_dtypes.bfloat16, ">f4"])
def test_one_row_a_sentence(dtype, sentences, combiner, unknown):
    rows = ROWS.astype(dtype)
    found = vectors_of(rows).sentence(sentences, combiner, unknown=unknown)
    wanted = [summed(s, rows.dtype, 3, combiner) for s in expected(rows, sentences, unknown)]
    same(found, np.array(wanted, rows.dtype).reshape(-1, 3))


def test_examples(vectors):
    same(vectors.sentence("like the country"), summed(ROWS[:3], np.float32, 3, "mean"))
    same(
        vectors.sentence(" like\u3000the\n\x1ccountry\u2028"), vectors.sentence("like the country")
    )
    same(vectors.sentence(["like the", "country"], "sum"), np.stack([ROWS[0] + ROWS[1], ROWS[2]]))
    same(vectors.sentence([["x y", "the"]], "sum", unknown="skip"), ROWS[1:2])
    same(vectors.sentence(""), np.zeros(3, np.float32))
    same(vectors.sentence("x y z", unknown="skip"), np.zeros(3, np.float32))
    same(vectors.sentence([]), np.zeros((0, 3), np.float32))
    same(vectors.sentence("the roads", unknown="zeros"), ROWS[1] / 2)
    same(vectors.sentence("the roads", unknown="skip"), ROWS[1])
    assert vectors_of(np.ones((7, 2, 2))).sentence(["the", ""]).tolist() == [
        [[1, 1]] * 2,
        [[0, 0]] * 2,
    ]
    assert vectors_of(np.ones(7)).sentence("like the", "sqrtn") == 2 / np.sqrt(2)
    assert vectors_of(np.ones((7, 0))).sentence(["like the"]).shape == (1, 0)
    with pytest.raises(KeyError, match="'roads'"):
        vectors.sentence("the roads")


def test_the_vocabularys_policy():
    same(vectors_of(unknown="the").sentence("roads roads"), ROWS[1])
    padded = vectors_of(unknown=2).lookup(["roads", "the x"], sentences="padded")
    same(padded.rows, np.stack([[ROWS[2], ROWS[0] * 0], [ROWS[1], ROWS[2]]]))
    buckets = vectors_of(unknown=Buckets(2, first=0)).lookup([["roads", 5]], sentences="ragged")
    same(buckets.rows, vectors_of(unknown=Buckets(2, first=0)).lookup(["roads", "5"]))
    for unknown in (-1, -(1 << 63)):  # no rows: an error, and no padding
        vectors = vectors_of(unknown=unknown)
        for ask in (
            lambda v: v.lookup(["the", "roads"]),
            lambda v: v.lookup(["the roads"], sentences="padded"),
            lambda v: v.lookup(["the roads"], sentences="ragged"),
            lambda v: v.sentence("the roads"),
        ):
            with pytest.raises(IdOutOfRangeError):
                ask(vectors)


def test_folded_and_shared_words():
    vectors = vectors_of(casefold=True, aliases={"a": "the"})
    same(vectors.lookup(["THE Country A"], sentences="ragged").rows, ROWS[[1, 2, 1]])
    same(vectors.sentence("THE NAÏVE", "sum"), ROWS[1] + ROWS[4])


@pytest.mark.parametrize(
    "sentences",
    [
        ["the country", "like"],
        ("the country", "like"),
        [["the", "country"], ("like",)],
        [np.array(["the", "country"]), np.array(["like"], object)],
        [np.array(["the", "x", "country"])[::2], [np.str_("like")]],
        np.array(["the country", "like"]),
        np.array(["the country", "like"], object),
        np.array(["the country", "like"], np.dtypes.StringDType()),
        [[b"the", "country"], [b"like"]],
        iter(["the country", "like"]),
        {"the country": 1, "like": 2},
    ],
    ids=lambda value: type(value).__name__,
)
def test_forms_of_sentences(vectors, sentences):
    same(vectors.lookup(sentences, sentences="ragged").rows, ROWS[[1, 2, 0]])


def test_an_array_of_tokens(vectors):
    array = np.array([["the", "country"], ["like", "the"]])
    for given_array in (array, array.astype(object), np.asfortranarray(array)):
        given_array.flags.writeable = False
        padded = vectors.lookup(given_array, sentences="padded")
        same(padded.rows, vectors.lookup(array))
        assert padded.mask.all()


@pytest.mark.parametrize(
    ("sentences", "message"),
    [
        ("like the country", r"got one str, 'like the country'; write \[\.\.\.\] around it"),
        (b"like", "got one bytes"),
        (5, "expected a list of sentences, got int: 5"),
        (None, "expected a list of sentences, got NoneType"),
        (np.array("the"), "got one str, 'the'"),
        ([5], "got int at position 0: 5"),
        (["the", None], "got NoneType at position 1"),
        ([b"the country"], "got bytes at position 0"),
        ([{"the"}], "got set at position 0"),
        (np.arange(3), "got int at position 0"),
        ([["the"], ["the", 5]], "got int as word 1 of sentence 1: 5"),
        ([[], [None]], "got NoneType as word 0 of sentence 1"),
        ([[["the"]]], "got list as word 0 of sentence 0"),
        ([[[]]], "got list as word 0 of sentence 0"),
        ([["the", ["the"]]], "got list as word 1 of sentence 0"),
        ([[["the"], ["the", "the"]]], "got list as word 0 of sentence 0"),
        ([[range(3)]], "got range as word 0 of sentence 0"),
        ([np.array([1, 2])], "got int as word 0 of sentence 0"),
        ([np.array([["the"]])], "got ndarray at position 0"),
        ([np.array("the")], "got ndarray at position 0"),
    ],
    ids=str,
)
def test_no_sentences(vectors, sentences, message):
    for kind in ("padded", "ragged"):
        for unknown in (None, *POLICIES):
            with pytest.raises(TokenTypeError, match=message):
                vectors.lookup(sentences, sentences=kind, unknown=unknown)
    if not isinstance(sentences, str):
        with pytest.raises(TokenTypeError, match=message):
            vectors.sentence(sentences)


def test_nests_and_numbers_where_numbers_are_tokens():
    vectors = vectors_of(unknown=Buckets(2, first=0))
    for sentences in ([[range(3)]], [[[1, 2]]], [[1, [2]]]):
        with pytest.raises(TokenTypeError):
            vectors.lookup(sentences, sentences="padded")


def test_hostile_words(vectors):
    with pytest.raises(VocabularyError, match="surrogate"):
        vectors.lookup(["the \ud800"], sentences="padded")
    padded = vectors.lookup([["x\0y", "\udcff", "w" * 10**6]], sentences="padded", unknown="skip")
    same(padded.rows, ROWS[None, 5:6])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sentences": "rows"}, "expected sentences to be 'padded', 'ragged' or None, got 'rows'"),
        ({"sentences": ["the"]}, "the sentences themselves come first"),
        ({"sentences": "padded", "out": np.empty((1, 1, 3), np.float32)}, "expected out without"),
        ({"max_length": 3}, "expected max_length with sentences="),
        ({"sentences": "padded", "max_length": -1}, "max_length as a number of words from 0"),
        ({"sentences": "padded", "max_length": 1.5}, "got 1.5"),
        ({"sentences": "ragged", "max_length": True}, "got True"),
        ({"sentences": "ragged", "unknown": "drop"}, "'skip' or None, got 'drop'"),
        ({"sentences": "ragged", "unknown": ["skip"]}, "'skip' or None, got"),
        ({"sentences": "ragged", "max_norm": "x"}, "max_norm"),
    ],
)
def test_options(vectors, options, message):
    with pytest.raises(OptionError, match=message):
        vectors.lookup(["the"], **options)


def test_options_of_one_row(vectors):
    for combiner in ("max", None, 5, ["mean"]):
        with pytest.raises(OptionError, match="expected combiner to be one of 'mean', 'sum'"):
            vectors.sentence("the", combiner)
    with pytest.raises(OptionError, match="'skip' or None"):
        vectors.sentence("the", unknown="drop")
    for dtype in (np.int32, np.complex64, "S3", bool):
        with pytest.raises(TableError, match="expected rows of floating-point numbers for a sum"):
            vectors_of(np.ones((7, 2), dtype)).sentence("the", "sum")


@pytest.mark.parametrize("dtype", DTYPES)
def test_any_rows(dtype):
    rows = (np.arange(42) + 1).reshape(7, 3, 2).astype(dtype)
    padded = vectors_of(rows).lookup(["the", "like 日本"], sentences="padded")
    same(padded.rows, np.stack([[rows[1], rows[0] * 0], [rows[0], rows[6]]]).astype(rows.dtype))


def test_clipped(vectors):
    found = vectors.lookup(["the", "like x"], sentences="padded", unknown="zeros", max_norm=0.25)
    wanted = vectors.table.lookup([[1, -1], [0, -1]], out_of_range="zeros", max_norm=0.25)
    same(found.rows, wanted)


def test_values_that_are_no_numbers():
    rows = np.array([[np.nan, 1], [np.inf, -0.0], [-np.inf, 65504], *[[1, 65504]] * 4], np.float16)
    vectors = vectors_of(rows)
    found = vectors.sentence(["like", "the country", "country", "the"], "sum")
    assert np.array_equal(
        found, [[np.nan, 1], [np.nan, 65504], rows[2], [np.inf, 0]], equal_nan=True
    )
    assert vectors.sentence("naïve naïve", "sum").tolist() == [2, np.inf]
    assert vectors.sentence("naïve naïve").tolist() == [1, 65504]


def test_blocks(vectors, monkeypatch):
    rng = np.random.default_rng(3)
    choice = [*WORDS[:3], "x"]
    sentences = [rng.choice(choice, n).tolist() for n in (0, 3, 50, 0, 1, 2, 7, 120, 0)]
    for unknown in ("zeros", "skip"):
        wanted = vectors.sentence(sentences, unknown=unknown)
        for block in (1, 12, 60, 100, 600):
            monkeypatch.setattr(_sentences, "_BLOCK_BYTES", block)
            same(vectors.sentence(sentences, unknown=unknown), wanted)
        monkeypatch.undo()


def test_many_words_in_float32():
    rows = np.zeros((7, 1), np.float32)
    rows[0] = 1e8
    rows[1] = 1
    vectors = vectors_of(rows)
    # In order, each 1 is lost beside 1e8; in another order they would not be.
    assert vectors.sentence([["like"] + ["the"] * 1000], "sum")[0, 0] == 1e8
    assert vectors.sentence([["the"] * 1000 + ["like"], []], "sum")[0, 0] == np.float32(1e8 + 1000)


@pytest.mark.parametrize("width", [1, 2, 3, 8, 64, 1000])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_the_order_of_long_sentences(dtype, width):
    rng = np.random.default_rng(width)
    rows = (rng.standard_normal((7, width)) * 10.0 ** rng.integers(-3, 1, (7, 1))).astype(dtype)
    long = rng.choice(WORDS[:3], 5000).tolist()
    vectors = vectors_of(rows)
    wanted = summed(expected(rows, [long], "error")[0], rows.dtype, width, "sum")
    same(vectors.sentence([long], "sum")[0], wanted)
    same(vectors.sentence([long, ["the"]], "sum")[0], wanted)


def test_zeros_have_no_sign():
    vectors = vectors_of(-np.zeros((7, 2), np.float32))
    for sentences in (["the"], ["the", "the like"]):
        assert not np.signbit(vectors.sentence(sentences)).any()


def test_ragged(vectors):
    ragged = vectors.lookup(["the country", "", "like"], sentences="ragged")
    assert ragged[0].base is ragged.rows or np.shares_memory(ragged[0], ragged.rows)
    assert [len(part) for part in ragged] == [2, 0, 1]
    same(ragged[np.int8(-1)], ROWS[:1])
    for number in (3, -4, 10**30):
        with pytest.raises(IdOutOfRangeError, match="one of 3 sentences"):
            ragged[number]
    for number in ("a", 1.0, None):
        with pytest.raises(TypeError):
            ragged[number]
    with pytest.raises(AttributeError):
        ragged.rows = 5
    assert repr(ragged).startswith("Ragged(rows=array(")


def test_padded(vectors):
    rows, lengths = vectors.lookup(["the country", "", "like"], sentences="padded")
    assert rows.shape == (3, 2, 3)
    assert lengths.tolist() == [2, 0, 1]
    empty = vectors.lookup(["", " \t"], sentences="padded")
    assert empty.rows.shape == (2, 0, 3)
    assert empty.mask.shape == (2, 0)
    none = vectors.lookup([], sentences="padded")
    assert (none.rows.shape, none.mask.shape) == ((0, 0, 3), (0, 0))
    unknown = vectors.lookup(["x y", "z"], sentences="padded", unknown="skip")
    assert unknown.rows.shape == (2, 0, 3)
    assert len(vectors.lookup([], sentences="ragged")) == 0


def test_subwords(tmp_path):
    rule = {"version": 12, "words": 7, "ngrams": 4, "bucket": 4, "minn": 3, "maxn": 3}
    rows = np.concatenate([ROWS, np.eye(4, 3, dtype=np.float32)])
    vectors_of(rows).save(tmp_path / "v", metadata={"fasttext": rule})
    vectors = Vectors.open(tmp_path / "v")
    roads, tracks = vectors.lookup(["roads", "tracks"], unknown="subwords")
    assert roads.any()
    sentences = ["the roads", "", "tracks the like"]
    padded = vectors.lookup(sentences, sentences="padded", unknown="subwords")
    zeros = ROWS[0] * 0
    wanted = [[ROWS[1], roads, zeros], [zeros] * 3, [tracks, ROWS[1], ROWS[0]]]
    same(padded.rows, np.array(wanted))
    ragged = vectors.lookup(sentences, sentences="ragged", unknown="subwords", max_length=2)
    same(ragged.rows, np.stack([ROWS[1], roads, tracks, ROWS[1]]))
    same(vectors.sentence("the roads", "sum", unknown="subwords"), ROWS[1] + roads)
    found = vectors.sentence(sentences, "sum", unknown="subwords")
    same(found, np.stack([ROWS[1] + roads, zeros, tracks + ROWS[1] + ROWS[0]]))
    clipped = vectors.lookup(["the roads"], sentences="ragged", unknown="subwords", max_norm=0.1)
    same(clipped.rows, Table.from_array(np.stack([ROWS[1], roads])).lookup([0, 1], max_norm=0.1))
    with pytest.raises(KeyError):
        vectors["roads"]
    with pytest.raises(TableError, match="fastText"):
        vectors_of().sentence("roads", unknown="subwords")
    pa = pytest.importorskip("pyarrow")
    same(vectors.lookup(pa.array(["roads", "the"]), unknown="subwords"), np.stack([roads, ROWS[1]]))
