"""Vocabularies built from texts and iterables, against collections.Counter and plain sorts."""

import bz2
import gzip
import lzma
import os
import re
import threading
import unicodedata
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shardwise import (
    FormatError,
    OptionError,
    TokenTypeError,
    Vocabulary,
    VocabularyError,
    _counting,
    _native,
    num_threads,
    set_num_threads,
)

SPACES = b" \t\n\v\f\r"
TEXTS = st.lists(
    st.one_of(
        st.sampled_from(
            [b" ", b"\t", b"\n", b"\v", b"\f", b"\r", b"\r\n", b"  ", b"a", b"b", b"ab"]
        ),
        st.sampled_from(["\u00a0", "\u2028", "\x85", "\x1c", "\u3000", "\0"]).map(str.encode),
        st.binary(min_size=1, max_size=20),
    ),
    max_size=60,
).map(b"".join)
TOKENS = st.text(st.sampled_from("abAB\0 é\u00df\udcff\U0001f600"), max_size=3)


@pytest.fixture(autouse=True)
def _threads():
    before = num_threads()
    yield
    set_num_threads(before)


@pytest.fixture
def write(tmp_path):
    def written(*texts):
        paths = [tmp_path / f"text{i}" for i in range(len(texts))]
        for path, text in zip(paths, texts, strict=True):
            path.write_bytes(text)
        return paths

    return written


def cut(text):
    """The tokens of a text by the rule."""
    if text.startswith(b"\xef\xbb\xbf"):
        text = text[3:]
    return [token for token in re.split(rb"[ \t\n\v\f\r]+", text) if token]


def as_text(token):
    return token.decode("utf-8", "surrogateescape") if isinstance(token, bytes) else token


def counted(vocabulary):
    return list(zip(vocabulary, vocabulary.counts.tolist(), strict=True))


def expected(tokens):
    """Tokens and counts, the most frequent first, then by first appearance."""
    return Counter(map(as_text, tokens)).most_common()


# ---- text ----


@settings(max_examples=150)
@given(texts=st.lists(TEXTS, min_size=1, max_size=3))
def test_text(texts, tmp_path_factory):
    folder = tmp_path_factory.mktemp("texts")
    paths = []
    for i, text in enumerate(texts):
        if text.startswith((b"\xff\xfe", b"\xfe\xff")):  # UTF-16
            text = b" " + text
        paths.append(folder / str(i))
        paths[-1].write_bytes(text)
    tokens = [token for path in paths for token in cut(path.read_bytes())]
    assert counted(Vocabulary.build_from_text(paths)) == expected(tokens)


@pytest.mark.parametrize("step", [1, 3, 64, 1000])
def test_blocks_of_any_size_give_the_same(write, monkeypatch, step):
    random = np.random.default_rng(step)
    words = [b"x" * int(n) for n in random.integers(1, 300, 200)]
    text = b"".join(word + SPACES[i % 6 : i % 6 + 1] for i, word in enumerate(words)) + b"end"
    monkeypatch.setattr(_counting, "_BLOCK", step)
    monkeypatch.setattr(_counting, "_STEP", max(1, step // 3))
    assert counted(Vocabulary.build_from_text(write(text))) == expected(cut(text))


@pytest.mark.parametrize("threads", [1, 2, 7])
def test_threads_give_the_same(write, threads):
    set_num_threads(threads)
    random = np.random.default_rng(1)
    numbers = np.concatenate([random.integers(0, 200_000, 150_000), random.zipf(1.3, 150_000)])
    random.shuffle(numbers)
    tokens = [str(n) if n % 50 else f"a-token-of-more-than-sixteen-bytes-{n}" for n in numbers]
    tokens.insert(1000, "long" * 1_250_000)
    vocabulary = Vocabulary.build_from_text(write("\n".join(tokens).encode()))
    assert counted(vocabulary) == expected(tokens)
    assert counted(Vocabulary.build(tokens)) == expected(tokens)


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        (b"", []),
        (SPACES, []),
        (b"token", ["token"]),
        (b"\nz" * 7 + b"\r\n", ["z"]),
        (b"a\tb\nc\vd\fe\rf g\r\nh", list("abcdefgh")),
        (b"\0 a\0b", ["\0", "a\0b"]),
        ("\u00a0 a\u2003b\u3000 \x85".encode(), ["\u00a0", "a\u2003b\u3000", "\x85"]),
        (b"a\x1cb\x1f \x7f", ["a\x1cb\x1f", "\x7f"]),
        (b"\xff\xff \xc3", ["\udcff\udcff", "\udcc3"]),
        (b"\xef\xbb\xbfthe \xef\xbb\xbfthe", ["the", "\ufeffthe"]),
        (b"\xef\xbb\xbf", []),
        (b"x" * 5_000_000, ["x" * 5_000_000]),
    ],
)
def test_what_a_token_is(write, text, tokens):
    assert list(Vocabulary.build_from_text(write(text)[0])) == tokens


def test_a_token_ends_with_its_file(write):
    assert list(Vocabulary.build_from_text(write(b"a b", b"c", b"", b"d"))) == ["a", "b", "c", "d"]


def test_ids_and_counts(write):
    vocabulary = Vocabulary.build_from_text(
        write(b"the king and the queen"), specials=["<unk>"], unknown="<unk>", min_count=2
    )
    assert vocabulary.encode(["the", "king"]).tolist() == [1, 0]
    assert vocabulary.counts.dtype == np.int64
    assert vocabulary.counts.tolist() == [0, 2]


@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress, lzma.compress])
def test_compressed(write, pack):
    text = b"\xef\xbb\xbf" + b"some words and some more \xff " * 100_000
    plain, packed = write(text, pack(text[:1000]) + pack(text[1000:]))
    assert counted(Vocabulary.build_from_text(packed)) == expected(cut(text))
    both = Vocabulary.build_from_text([plain, packed])
    assert both.counts.tolist() == [2 * count for _, count in expected(cut(text))]
    damaged = packed.read_bytes()
    for broken in (damaged[:-3], damaged[:30], damaged + b"rest"):
        packed.write_bytes(broken)
        with pytest.raises(FormatError, match="to the end"):
            Vocabulary.build_from_text(packed)


def test_zstd(write):
    zstandard = pytest.importorskip("zstandard")
    text = b"some words and some more " * 100_000
    path = write(zstandard.compress(text))[0]
    assert counted(Vocabulary.build_from_text(path)) == expected(cut(text))
    path.write_bytes(zstandard.compress(text)[:-5])
    with pytest.raises(FormatError, match="the end of the file"):
        Vocabulary.build_from_text(path)


def test_a_pipe(tmp_path):
    path = tmp_path / "pipe"
    os.mkfifo(path)
    text = b"in a pipe " * 50_000
    thread = threading.Thread(target=path.write_bytes, args=(text,))
    thread.start()
    assert counted(Vocabulary.build_from_text(path)) == expected(cut(text))
    thread.join()


def test_progress_of_text(write, monkeypatch):
    monkeypatch.setattr(_counting, "_BLOCK", 1000)
    paths = write(b"word " * 1000, gzip.compress(b"words " * 1000), b"")
    total = sum(path.stat().st_size for path in paths)
    seen = []
    Vocabulary.build_from_text(paths, progress=lambda *now: seen.append(now))
    assert seen[-1] == (total, total)
    assert len(seen) > 5
    assert seen == sorted(seen)
    assert {whole for _, whole in seen} == {total}


def test_it_stops_between_blocks(write, monkeypatch):
    monkeypatch.setattr(_counting, "_BLOCK", 100)

    def interrupt(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Vocabulary.build_from_text(write(b"word " * 1000), progress=interrupt)


def test_wrong_files(write, tmp_path):
    with pytest.raises(FileNotFoundError):
        Vocabulary.build_from_text(tmp_path / "none")
    with pytest.raises(IsADirectoryError):
        Vocabulary.build_from_text(tmp_path)
    with pytest.raises(OptionError, match="at least one file, got none"):
        Vocabulary.build_from_text([])
    with pytest.raises(OptionError, match=r"expected paths .* got b'x'"):
        Vocabulary.build_from_text(b"x")
    for text in ("a".encode("utf-16"), b"\xfe\xff\0a"):
        with pytest.raises(FormatError, match="got UTF-16; convert"):
            Vocabulary.build_from_text(write(text))


# ---- iterables ----


@given(st.lists(st.one_of(TOKENS, st.lists(TOKENS, max_size=4), TOKENS.map(tuple)), max_size=40))
def test_tokens_and_sentences(items):
    flat = [t for item in items for t in ([item] if isinstance(item, str) else item)]
    assert counted(Vocabulary.build(items)) == expected(flat)
    assert counted(Vocabulary.build(iter(items))) == expected(flat)
    assert counted(Vocabulary.build([iter(flat)])) == expected(flat)
    assert counted(Vocabulary.build(Counter(flat))) == expected(flat)


@pytest.mark.parametrize("chunk", [1, 2, 5])
def test_chunks_of_any_size_give_the_same(monkeypatch, chunk):
    monkeypatch.setattr(_counting, "_CHUNK", chunk)
    items = ["a", b"b", ["c", "a", "a", "d"], [], "e", ("c",), "a", (t for t in "abc")]
    tokens = ["a", "b", "c", "a", "a", "d", "e", "c", "a", "a", "b", "c"]
    seen = []
    vocabulary = Vocabulary.build(items, casefold=True, progress=lambda *now: seen.append(now))
    assert counted(vocabulary) == expected(tokens)
    assert seen[-1] == (len(tokens), 0)
    with pytest.raises(TokenTypeError, match=r"got float at position 5: 1\.5"):
        Vocabulary.build([["a", "b", "c"], ["d", "e", 1.5]])
    with pytest.raises(TokenTypeError, match=r"got int at position 3: 7"):
        Vocabulary.build(["a", ["b"], "c", 7])


def test_a_str_is_one_token():
    assert list(Vocabulary.build(["the king", ["the king", b"\xff "]])) == ["the king", "\udcff "]
    for one in ("the king", b"the"):
        with pytest.raises(TokenTypeError, match="expected an iterable of tokens, got one token"):
            Vocabulary.build(one)


def test_arrays():
    for array in (np.array(["b", "a", "b"]), np.array([["b", "a"], ["b", "b"]], object)):
        assert counted(Vocabulary.build(array)) == expected(array.ravel().tolist())
    strings = np.array(["b", "a", "b"], np.dtypes.StringDType())
    assert counted(Vocabulary.build(strings)) == expected(["b", "a", "b"])


def test_arrow_arrays(monkeypatch):
    pa = pytest.importorskip("pyarrow")
    monkeypatch.setattr(_counting, "_CHUNK", 2)
    tokens = ["b", "a", "b", "é", "b"]
    chunked = pa.chunked_array([tokens[:2], tokens[2:]])
    for array in (pa.array(tokens), chunked, pa.array(tokens).dictionary_encode()):
        assert counted(Vocabulary.build(array)) == expected(tokens)
    with pytest.raises(TokenTypeError, match="got 1 nulls"):
        Vocabulary.build(pa.array(["a", None]))


@pytest.mark.parametrize("tokens", [5, None, [None], [1], [["a"], [["b"]]], np.arange(3)])
def test_what_is_no_token(tokens):
    with pytest.raises(TokenTypeError, match="expected"):
        Vocabulary.build(tokens)


def test_tokens_that_cannot_be_written():
    with pytest.raises(VocabularyError, match=r"at position 2, which has half"):
        Vocabulary.build(["a", "b", "\ud800"])


def test_mappings():
    assert counted(Vocabulary.build({"a": 2, "b": 5, "c": 0})) == [("b", 5), ("a", 2)]
    most = 2**63 - 1
    assert counted(Vocabulary.build({"a": most})) == [("a", most)]
    assert counted(Vocabulary.build({"A": 2, "a": 3}, casefold=True)) == [("a", 5)]
    with pytest.raises(OptionError, match=r"less than 2\*\*63 in all"):
        Vocabulary.build({"a": most, "b": 1})
    for wrong in (-1, 1.5, "2", True, None):
        with pytest.raises(OptionError, match="expected counts as integers"):
            Vocabulary.build({"a": wrong})
    with pytest.raises(TokenTypeError, match="got tuple at position 2"):  # it is no sentence
        Vocabulary.build({"a": 1, "b": 2, ("a", "b"): 3})


# ---- folding ----


@given(
    st.lists(
        st.text(
            st.sampled_from("aAéÉeE\u0301ß\u1e9e\u017fİ\u0131\ufb01\u00a0\u1e9b\u0323\udc80"),
            max_size=4,
        )
    )
)
@pytest.mark.parametrize("form", [None, "NFC", "NFKD"])
def test_folded(form, tokens):
    def fold(token):
        token = token.casefold() if form is None else unicodedata.normalize(form, token)
        return token if form is None else unicodedata.normalize(form, token.casefold())

    vocabulary = Vocabulary.build(tokens, casefold=True, normal_form=form)
    assert counted(vocabulary) == expected(map(fold, tokens))
    assert (vocabulary.encode(tokens) >= 0).all()


def test_folded_text(write):
    # Cut first, then folded: a no-break space, which NFKC makes a space, stays in its token.
    text = "ﬁn FIN a\u00a0b \u00c9 e\u0301 \udcff".encode("utf-8", "surrogateescape")
    vocabulary = Vocabulary.build_from_text(write(text), casefold=True, normal_form="NFKC")
    assert counted(vocabulary) == [("fin", 2), ("é", 2), ("a b", 1), ("\udcff", 1)]
    assert vocabulary.encode(["FIN", "a\u00a0b"]).tolist() == [0, 2]


def test_folded_specials():
    vocabulary = Vocabulary.build(
        ["b", "[unk]"], specials=["[UNK]"], unknown="[UNK]", casefold=True
    )
    assert counted(vocabulary) == [("[unk]", 1), ("b", 1)]
    with pytest.raises(VocabularyError, match="got 'A' at position 0 and 'a' at position 1"):
        Vocabulary.build([], specials=["A", "a"], casefold=True)


# ---- the choice ----


@given(
    tokens=st.lists(st.one_of(TOKENS, st.sampled_from("abcdefgh")), max_size=60),
    specials=st.lists(st.one_of(TOKENS, st.sampled_from("abc")), unique=True, max_size=3),
    ties=st.sampled_from(["first", "ascending", "descending"]),
    min_count=st.integers(1, 4),
    room=st.one_of(st.none(), st.integers(0, 5)),
    specials_first=st.booleans(),
)
def test_order(tokens, specials, ties, min_count, room, specials_first):
    def as_bytes(token):
        return token.encode("utf-8", "surrogateescape")

    counts = Counter(tokens)
    others = [t for t in counts if counts[t] >= min_count and t not in specials]
    if ties != "first":
        others.sort(key=as_bytes, reverse=ties == "descending")
    others.sort(key=counts.__getitem__, reverse=True)
    others = others[:room]
    wanted = specials + others if specials_first else others + specials
    most = None if room is None else room + len(specials)
    if most == 0:
        return
    vocabulary = Vocabulary.build(
        tokens,
        min_count=min_count,
        max_size=most,
        ties=ties,
        specials=specials,
        specials_first=specials_first,
    )
    assert counted(vocabulary) == [(token, counts[token]) for token in wanted]


def test_the_layout_of_keras():
    # StringLookup(max_tokens=5, mask_token="").adapt: the mask, "[UNK]", then the most frequent
    # tokens, of equals the last in the order of the alphabet first.
    words = list("bacabdeee")
    vocabulary = Vocabulary.build(words, max_size=5, ties="descending", specials=["", "[UNK]"])
    assert list(vocabulary) == ["", "[UNK]", "e", "b", "a"]


def test_the_layout_of_torchtext():
    # build_vocab_from_iterator(sentences, min_freq=2, specials=["<pad>", "b"]): equals in the order
    # of the alphabet; special tokens need no frequency, and stand once.
    sentences = [["c", "b", "a"], ["a", "c", "d"]]
    options = {"min_count": 2, "ties": "ascending", "specials": ["<pad>", "b"]}
    vocabulary = Vocabulary.build(sentences, **options)
    assert counted(vocabulary) == [("<pad>", 0), ("b", 1), ("a", 2), ("c", 2)]
    last = Vocabulary.build(sentences, **options, specials_first=False)
    assert list(last) == ["a", "c", "<pad>", "b"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"min_count": 0}, "expected min_count as an integer of at least 1, got 0"),
        ({"min_count": 1.0}, "expected min_count as an integer"),
        ({"min_count": True}, "expected min_count as an integer"),
        ({"max_size": 0}, "expected max_size as an integer of at least 1, got 0"),
        ({"max_size": 1, "specials": ["x", "y"]}, r"at least 2, for the special tokens .* \(2\)"),
        ({"ties": "last"}, "expected ties as one of 'first', 'ascending', 'descending', got"),
        ({"ties": None}, "expected ties as one of"),
        ({"specials": "<unk>"}, "expected specials as a list of tokens, got one token"),
        ({"specials": None}, "expected specials as a list of tokens, got None"),
        ({"unknown": "<unk>"}, "expected unknown= to be one of"),
        ({"normal_form": "NFX"}, "normal_form"),
    ],
)
def test_wrong_options(write, options, message):
    with pytest.raises(OptionError, match=message):
        Vocabulary.build(["a"], **options)
    with pytest.raises(OptionError, match=message):
        Vocabulary.build_from_text(write(b"a"), **options)


def test_wrong_options_are_told_before_counting():
    def tokens():
        raise AssertionError
        yield "a"

    with pytest.raises(OptionError):
        Vocabulary.build(tokens(), ties="last")


def test_wrong_specials():
    with pytest.raises(VocabularyError, match="got 'x' at position 0 and 'x' at position 2; name"):
        Vocabulary.build(["a"], specials=["x", "y", "x"])
    with pytest.raises(TokenTypeError, match="got int at position 0"):
        Vocabulary.build(["a"], specials=[1])


def test_large_limits():
    assert list(Vocabulary.build(["a"], min_count=2**70)) == []
    assert list(Vocabulary.build(["a"], max_size=2**70)) == ["a"]


# ---- the native counter ----


def test_broken_arrays_are_refused():
    counts = _native.TokenCounts()
    data = np.zeros(3, np.uint8)
    with pytest.raises(ValueError, match="within 3 bytes"):
        counts.count_tokens(data, np.array([0, 4]))
    with pytest.raises(ValueError, match="one offset more"):
        counts.count_tokens(data, np.empty(0, np.int64))
    with pytest.raises(ValueError, match="one count for each token"):
        counts.add(data, np.array([0, 3]), np.array([1, 2]))
    one = (data, np.array([0, 3]), np.array([1]))
    with pytest.raises(ValueError, match="id below 1, got 1"):
        _native.take_tokens(*one, np.array([1]))
    with pytest.raises(ValueError, match="expected first, ascending or descending"):
        _native.order_tokens(*one, "last")


def test_python_threads_may_share_a_counter():
    counts = _native.TokenCounts()
    text = np.frombuffer(b"some words " * 20_000, np.uint8)
    threads = [threading.Thread(target=counts.count_text, args=(text, True)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert counts.total == 4 * 40_000
    assert len(counts) == 2
