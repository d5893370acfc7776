"""Training: what it learns, that it is the same each time, and what it says to bad input."""

import bz2
import errno
import gzip
import lzma
import os
import random
import resource
import subprocess
import sys

import numpy as np
import pytest

import shardwise
from shardwise import (
    FormatError,
    OptionError,
    Table,
    TableExistsError,
    TableNotFoundError,
    TokenTypeError,
    Vectors,
    Vocabulary,
    VocabularyError,
    skipgram,
)

TOPICS = [[f"{letter}{k}" for k in range(12)] for letter in "abcd"]


def text_of(sentences):
    return "".join(" ".join(sentence) + "\n" for sentence in sentences)


@pytest.fixture(scope="module")
def sentences():
    """Sentences whose words are of one topic each, and a few words that are everywhere."""
    drawn = random.Random(4)
    return [
        [
            drawn.choice(drawn.choice(TOPICS[k % 4 : k % 4 + 1] * 5 + [["the", "of"]]))
            for _ in "x" * 9
        ]
        for k in range(7000)
    ]


@pytest.fixture(scope="module")
def corpus(sentences, tmp_path_factory):
    path = tmp_path_factory.mktemp("corpus") / "text.txt"
    path.write_text(text_of(sentences))
    return path


SMALL = {"dim": 20, "epochs": 2, "threads": 1, "sample": 0}


def rows_of(vectors):
    return vectors.table.lookup(np.arange(len(vectors.table)))


def same_topic(vectors):
    """The share of the words whose five nearest are of their own topic."""
    words = [word for topic in TOPICS for word in topic]
    found = vectors.most_similar([[word] for word in words], topn=5)
    return np.mean([n.token[0] == w[0] for w, ns in zip(words, found, strict=True) for n in ns])


# ---- what it learns ----


@pytest.mark.parametrize(
    "how", [{}, {"model": "cbow"}, {"min_n": 2, "max_n": 3, "bucket": 500}, {"window": 20}]
)
@pytest.mark.parametrize("threads", [1, 2])
def test_words_that_occur_together_become_neighbours(corpus, how, threads):
    before = shardwise.num_threads()
    shardwise.set_num_threads(2)
    try:
        vectors = skipgram.train(corpus, dim=20, threads=threads, epochs=6, **how)
    finally:
        shardwise.set_num_threads(before)
    assert len(vectors) == 50
    assert vectors.vocabulary.counts[0] == max(vectors.vocabulary.counts)
    assert np.isfinite(rows_of(vectors)).all()
    assert same_topic(vectors) > 0.95


def test_nothing_is_learned_where_nothing_is_to_be_learned(corpus):
    untrained = skipgram.train(corpus, dim=20, threads=1, epochs=1, learning_rate=1e-9)
    assert same_topic(untrained) < 0.6  # so that the test above can fail
    assert np.abs(rows_of(untrained)).max() <= 0.5 / 20


def test_the_loss_falls_and_progress_is_told(corpus):
    seen = []
    skipgram.train(corpus, dim=20, threads=1, progress=seen.append)
    stages = [one.stage for one in seen]
    assert sorted(set(stages), key=stages.index) == ["count", "encode", "train"]
    training = [one for one in seen if one.stage == "train"]
    assert training[-1].loss < training[0].loss < 6 * np.log(2) + 0.1
    assert training[-1].done == training[-1].total == 5 * 7000 * 9
    assert training[-1].words_per_second > 0
    rates = [one.learning_rate for one in training]
    assert rates == sorted(rates, reverse=True)
    assert rates[-1] == pytest.approx(0.025e-4)


NGRAMS = {"min_n": 3, "max_n": 4, "bucket": 500}


@pytest.mark.parametrize(
    ("how", "last"),
    [
        ({}, 0.025e-4),
        ({"model": "cbow"}, 0.05e-4),
        (NGRAMS, 0.025e-4),
        ({**NGRAMS, "learning_rate": 0.04, "final_learning_rate": 0.004}, 0.004),
        ({"final_learning_rate": 0.01}, 0.01),
        ({"final_learning_rate": 0}, 0.025e-4),
        ({"learning_rate": 0.01, "final_learning_rate": 0.01}, 0.01),
    ],
)
def test_the_rate_falls_to_the_final_one(corpus, how, last):
    seen = []
    skipgram.train(corpus, dim=20, threads=1, progress=seen.append, **how)
    rates = [one.learning_rate for one in seen if one.stage == "train"]
    first = skipgram.Options(**how).rate
    assert rates == sorted(rates, reverse=True)
    assert last <= rates[0] <= first
    assert rates[-1] == pytest.approx(last, abs=1e-12)


def test_the_last_words_are_learned_at_the_final_rate():
    """One word beside another, in as little text as is read in its order."""
    text = [["a", "b"]] * 2500 + [["c", "d"]] * 2500
    how = {"dim": 16, "epochs": 1, "threads": 1, "sample": 0, "min_count": 1}
    kept = skipgram.train(text, **how, learning_rate=0.01, final_learning_rate=0.01)
    lost = skipgram.train(text, **how, learning_rate=0.01, final_learning_rate=0)
    halves = skipgram.train(text, **how, learning_rate=0.01, final_learning_rate=0.005)
    moved = [np.linalg.norm(one["d"]) for one in (lost, halves, kept)]
    assert moved[0] < moved[1] < moved[2]


def test_the_power_says_which_words_are_negatives(corpus, tmp_path):
    """A word that is drawn against all others gets small products with them."""
    products = {}
    for power in (-4, 0.75, 4):
        place = tmp_path / f"{power}"
        vectors = skipgram.train(corpus, **SMALL, negative_power=power, context=place)
        with Table.open(place) as context:
            products[power] = rows_of(vectors) @ context.lookup(np.arange(len(vectors))).T
    frequent = [products[power][:, 0].mean() for power in (-4, 0.75, 4)]
    rare = [products[power][:, -1].mean() for power in (-4, 0.75, 4)]
    assert frequent == sorted(frequent, reverse=True)
    assert rare == sorted(rare)


# ---- the same each time ----


def test_one_thread_gives_the_same_bits(corpus, sentences, tmp_path, monkeypatch):
    whole = rows_of(skipgram.train(corpus, **SMALL))
    assert np.array_equal(whole, rows_of(skipgram.train(str(corpus), **SMALL)))
    assert not np.array_equal(whole, rows_of(skipgram.train(corpus, **SMALL, seed=2)))
    assert np.array_equal(whole, rows_of(skipgram.train(sentences, **SMALL)))
    once = (tuple(word.encode() for word in s) for s in sentences)
    assert np.array_equal(whole, rows_of(skipgram.train(once, **SMALL)))
    assert np.array_equal(whole, rows_of(skipgram.train(corpus, **SMALL, on_disk=True)))
    monkeypatch.setattr(skipgram._rows, "_free_memory", lambda: 0)  # now rows are read ahead
    assert np.array_equal(whole, rows_of(skipgram.train(corpus, **SMALL)))
    text = corpus.read_bytes()
    middle = text.index(b"\n", len(text) // 2) + 1
    names = []
    for name, part, pack in (
        ("a.gz", text[:100], gzip.compress),
        ("a.xz", b"", lzma.compress),
        ("b.txt", text[100:middle], bytes),
        ("c.bz2", text[middle:], bz2.compress),
    ):
        names.append(tmp_path / name)
        names[-1].write_bytes(pack(part))
    cut = text.index(b"\n", 100) + 1  # a file ends a line
    names[0].write_bytes(gzip.compress(text[:cut]))
    names[2].write_bytes(text[cut : middle - 1])
    assert np.array_equal(whole, rows_of(skipgram.train(names, **SMALL)))


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16", "int8"])
def test_the_result_is_a_table_of_any_kind(corpus, tmp_path, dtype):
    plain = skipgram.train(corpus, **SMALL)
    made = skipgram.train(
        corpus,
        tmp_path / "out",
        **SMALL,
        shards=3,
        partition="div",
        dtype=dtype,
        context=tmp_path / "context",
    )
    memory = skipgram.train(corpus, **SMALL, shards=3, partition="div", dtype=dtype)
    for vectors in (made, memory, Vectors.open(tmp_path / "out")):
        assert list(vectors) == list(plain)
        assert vectors.table.partition.num_shards == 3
        assert vectors.table.partition.strategy == "div"
        assert np.array_equal(rows_of(vectors), rows_of(memory))
        found = rows_of(vectors).astype(np.float32)
        assert np.allclose(found, rows_of(plain), atol=0.02)
    assert (made.table.row_format or str(made.table.dtype)) == dtype
    context = Vectors.open(tmp_path / "context")
    assert list(context) == list(plain)
    assert np.abs(context.table.lookup([0, 1])).max() > 0
    described = shardwise.store.open_table(tmp_path / "out").manifest.metadata["skipgram"]
    assert described["dim"] == 20
    assert described["tokens"] == 63_000


# ---- words of n-grams ----


def test_unknown_words_get_vectors_of_their_ngrams(corpus, tmp_path):
    how = {**SMALL, "min_n": 2, "max_n": 3, "bucket": 300}
    made = skipgram.train(corpus, tmp_path / "out", **how)
    assert made.table.shape == (50 + 300, 20)
    memory = skipgram.train(corpus, **how)
    assert np.array_equal(rows_of(made), rows_of(memory))
    for vectors in (made, memory, Vectors.open(tmp_path / "out")):
        found = vectors.lookup(["a99", "a1"], unknown="subwords")
        assert np.array_equal(found[1], vectors["a1"])
        # fastText's rule, by hand: FNV-1a of "<a", "<a9", "a9", "a99", "99", "99>", "9>".
        buckets = []
        for gram in ("<a", "<a9", "a9", "a99", "99", "99>", "9>"):
            h = 2166136261
            for byte in gram.encode():
                h = ((h ^ byte) * 16777619) % 2**32
            buckets.append(50 + h % 300)
        rows = vectors.table.lookup(buckets)
        assert np.allclose(found[0], rows.mean(0, dtype=np.float64), atol=1e-6)


# ---- warm start ----


@pytest.mark.parametrize("ngrams", [{}, {"min_n": 2, "max_n": 3, "bucket": 300}])
def test_training_starts_from_vectors(corpus, tmp_path, ngrams):
    first = skipgram.train(corpus, tmp_path / "a", **SMALL, context=tmp_path / "ac", **ngrams)
    still = {**SMALL, **ngrams, "learning_rate": 1e-9, "epochs": 1}
    few = [["a1", "a2", "new"]] * 10
    again = skipgram.train(
        few, **still, start=first, start_context=Vectors.open(tmp_path / "ac"),
        context=tmp_path / "bc",
    )  # fmt: skip
    assert list(again)[:3] == ["a1", "a2", "new"]
    assert set(again) == {*first, "new"}
    names = list(first)
    assert np.allclose(again[names], first[names], atol=1e-6)
    assert again.vocabulary.counts[again.vocabulary.encode("b1")] == 0
    context = Vectors.open(tmp_path / "bc")
    assert np.allclose(context[names], Vectors.open(tmp_path / "ac")[names], atol=1e-6)
    if ngrams:
        unknown = [vectors.lookup(["a99"], unknown="subwords") for vectors in (first, again)]
        assert np.allclose(*unknown, atol=1e-6)


def test_a_start_must_fit(corpus):
    start = skipgram.train(corpus, **{**SMALL, "dim": 8})
    with pytest.raises(OptionError, match=r"expected rows of 20 values .* \(8,\)"):
        skipgram.train(corpus, **SMALL, start=start)
    with pytest.raises(OptionError, match="got vectors of words alone"):
        skipgram.train(corpus, **{**SMALL, "dim": 8}, start=start, min_n=2, max_n=3)
    with pytest.raises(OptionError, match="expected start with start_context"):
        skipgram.train(corpus, **SMALL, start_context=start)
    whole = Vectors(Table.from_array(np.ones((1, 20), np.int32)), Vocabulary(["a1"]))
    with pytest.raises(OptionError, match="rows of floats to start with, got int32"):
        skipgram.train(corpus, **SMALL, start=whole)


# ---- bad input ----


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        (b"", VocabularyError, "with words, got none"),
        (b" \n\t\r\n", VocabularyError, "with words, got none"),
        (b"word", VocabularyError, r"at least 2 different words .* got 0 among 1 .* 1 times"),
        (b"word " * 9, VocabularyError, "got 1 among 1 different ones, the most frequent 9 times"),
        (b"a b c\n" * 4, VocabularyError, "occur 5 times .* got 0 among 3"),
        (b"a\nb\nc\n" * 9, VocabularyError, "no two of them in one sentence"),
        ("a b\n".encode("utf-16"), FormatError, "UTF-16"),
        (gzip.compress(b"a b\n" * 99)[:-9], FormatError, "gzip data"),
    ],
)
def test_a_corpus_that_cannot_be_trained(tmp_path, text, error, message):
    path = tmp_path / "text"
    path.write_bytes(text)
    with pytest.raises(error, match=message):
        skipgram.train(path, tmp_path / "out", checkpoint=tmp_path / "state")
    assert os.listdir(tmp_path) == ["text"]


@pytest.mark.parametrize(
    ("corpus", "error", "message"),
    [
        ([], VocabularyError, "got nothing"),
        (iter([]), VocabularyError, "got nothing"),
        ([[], []], VocabularyError, "got none"),
        (7, TokenTypeError, "got 7"),
        ([["a", "b"], "a b"], TokenTypeError, "got str at position 1"),
        ([["a", "b"], 7], TokenTypeError, "got 7 at position 1"),
        ([["a", ["b"]]], TokenTypeError, "at position 0"),
        ([[1, 2]] * 9, TokenTypeError, "str or bytes"),
        ([["a", "\ud800"]] * 9, VocabularyError, "UTF-8"),
        ("nowhere.txt", FileNotFoundError, "nowhere"),
    ],
)
def test_what_is_no_corpus(corpus, error, message):
    with pytest.raises(error, match=message):
        skipgram.train(corpus)


def test_bytes_that_are_no_text_are_words(tmp_path):
    path = tmp_path / "text"
    path.write_bytes(b"\xff\xfe\xfd ok \x00\x01 caf\xe9\n"[4:] * 9 + b"a\xff b\xfe\n" * 9)
    vectors = skipgram.train(path, tmp_path / "out", dim=4, threads=1)
    assert set(vectors) == {"ok", "\x00\x01", "caf\udce9", "a\udcff", "b\udcfe"}
    assert "a\udcff" in Vectors.open(tmp_path / "out")


def test_a_line_of_100_megabytes(tmp_path):
    path = tmp_path / "text"
    path.write_bytes(b"some words on one line " * (100_000_000 // 23))
    vectors = skipgram.train(path, dim=4, epochs=1, window=1, negative=1, sample=1e-5)
    assert len(vectors) == 5
    assert np.isfinite(rows_of(vectors)).all()


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("model", "glove"),
        ("dim", 0),
        ("dim", 2.5),
        ("window", 0),
        ("negative", 0),
        ("negative", 64),
        ("negative_power", 4.1),
        ("negative_power", -4.1),
        ("negative_power", float("inf")),
        ("sample", -1),
        ("sample", float("nan")),
        ("epochs", 0),
        ("epochs", True),
        ("learning_rate", 0),
        ("learning_rate", "fast"),
        ("final_learning_rate", -0.001),
        ("final_learning_rate", 0.026),
        ("final_learning_rate", float("nan")),
        ("min_count", 0),
        ("max_size", 1),
        ("min_n", 3),
        ("max_n", 3),
        ("bucket", 0),
        ("seed", -1),
        ("threads", 0),
        ("threads", 5000),
        ("shards", 0),
        ("partition", "hash"),
        ("dtype", "int32"),
        ("work", "nowhere"),
        ("output", "nowhere/out"),
        ("checkpoint_every", 60),
    ],
)
def test_an_option_that_cannot_be(corpus, option, value):
    with pytest.raises(shardwise.ShardwiseError, match=r"expected .*, got"):
        skipgram.train(corpus, **{option: value})


def test_a_table_is_not_replaced_by_chance(corpus, tmp_path):
    skipgram.train(corpus, tmp_path / "out", **SMALL)
    before = rows_of(Vectors.open(tmp_path / "out"))
    with pytest.raises(TableExistsError):
        skipgram.train(corpus, tmp_path / "out", **SMALL, seed=3)
    with pytest.raises(TableExistsError):
        skipgram.train(corpus, tmp_path / "new", **SMALL, context=tmp_path / "out")
    assert np.array_equal(rows_of(Vectors.open(tmp_path / "out")), before)
    assert os.listdir(tmp_path) == ["out"]
    skipgram.train(corpus, tmp_path / "out", **SMALL, seed=3, overwrite=True)
    assert not np.array_equal(rows_of(Vectors.open(tmp_path / "out")), before)
    with pytest.raises(TableNotFoundError, match="expected an interrupted training"):
        skipgram.resume(corpus, tmp_path / "two", checkpoint=tmp_path / "state")


FULL = """
import resource, sys
from shardwise import skipgram
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[3]), resource.RLIM_INFINITY))
try:
    skipgram.train(
        sys.argv[1], sys.argv[2], dim=100, threads=1, epochs=1, on_disk=sys.argv[4] == "1",
        checkpoint=sys.argv[2] + ".training",
    )
except OSError as error:
    print(error)
"""


@pytest.mark.parametrize(
    ("room", "on_disk", "message"),
    [(100_000, 0, "the ids of the corpus"), (300_000, 1, ""), (10_000, 0, "")],
)
def test_a_disk_that_fills(corpus, tmp_path, room, on_disk, message):
    if not hasattr(resource, "RLIMIT_FSIZE"):
        pytest.skip("this system has no such limit")
    command = [sys.executable, "-c", FULL, corpus, tmp_path / "out", str(room), str(on_disk)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100)
    assert not done.stderr
    if room < 280_000:
        assert message in done.stdout
        assert "expected room for" in done.stdout
        assert os.listdir(tmp_path) == []
    else:
        assert list(Vectors.open(tmp_path / "out"))


def test_rows_that_find_no_room_on_the_disk(corpus, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full, raising=False)
    with pytest.raises(OSError, match="expected room for the rows in training"):
        skipgram.train(corpus, tmp_path / "out", **SMALL, on_disk=True)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("corpus", ["the king rules", ["the king", "the queen"], ["the king\n"]])
def test_text_in_place_of_a_corpus_is_told_what_to_do(corpus):
    with pytest.raises(FileNotFoundError, match=r"a list of words: line\.split\(\): 'the king"):
        skipgram.train(corpus)


def test_paths_are_looked_for_before_any_is_read(corpus, tmp_path):
    seen = []
    with pytest.raises(FileNotFoundError, match="nowhere"):
        skipgram.train([corpus, tmp_path / "nowhere"], progress=seen.append)
    assert not seen


def test_a_path_to_start_from_is_told_what_to_do(corpus):
    with pytest.raises(OptionError, match=r"start as Vectors, got 'words'; .* Vectors\.open"):
        skipgram.train(corpus, start="words")
