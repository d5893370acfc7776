import copy
import pickle
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shardwise import Table, UnknownTokenError, Vectors, Vocabulary
from shardwise.words import _spelling
from shardwise.words._spelling import nearest_spellings

WORDS = [
    "<unk>",
    "king",
    "kings",
    "King",
    "queen",
    "country",
    "county",
    "the",
    "naïve",
    "日本語",
    "a",
]


def vectors_of(words=WORDS, **options):
    words = list(words)
    return Vectors(Table.from_array(np.ones((len(words), 2))), Vocabulary(words, **options))


def near(token, words=WORDS, **options):
    return nearest_spellings(Vocabulary(words, **options), token)


@pytest.mark.parametrize(
    ("token", "wanted"),
    [
        ("kig", ["king"]),  # put in; two edits are not tried in a word of three
        ("kking", ["king", "kings", "King"]),  # one edit first, then two by their ids
        ("kign", ["king", "kings", "King"]),  # exchanged
        ("qveen", ["queen"]),  # replaced
        ("contry", ["country", "county"]),
        ("KING", ["king", "King", "kings"]),
        ("KINNG", ["king", "King"]),  # another case is one edit, whatever its length
        ("Naïve", ["naïve"]),
        ("naive", ["naïve"]),  # a character that no word but the right one has
        ("日本", ["日本語"]),
        ("日語本", ["日本語"]),
        (b"kinng", ["king", "kings", "King"]),
        (b"\xff", []),
        ("\udcffking", ["king", "kings", "King"]),
        ("king\0", ["king", "kings", "King"]),
        ("A", ["a"]),
        ("b", []),  # of one character only the case is changed
        ("ab", ["a"]),
        ("", []),
        ("zebra", []),
        ("king" * 100, []),
        (np.str_("kinh"), ["king", "King"]),
    ],
)
def test_nearest(token, wanted):
    assert near(token) == wanted


def test_at_most_three_by_their_ids():
    words = ["bat", "cat", "hat", "mat"]
    assert near("rat", words) == ["bat", "cat", "hat"]
    assert near("rat", words[::-1]) == ["mat", "hat", "cat"]


def test_an_empty_vocabulary_and_an_empty_token():
    assert near("king", []) == []
    assert near("k", ["", "kk"]) == []
    assert near("kk", ["", "x"]) == []


def test_case_folding_and_aliases():
    assert near("KINK", casefold=True, words=["king", "ink"]) == ["king", "ink"]
    assert near("monarh", words=["king"], aliases={"monarch": "king"}) == ["king"]
    words = vectors_of(["king"], aliases={"monarch": "king"}, casefold=True)
    assert np.array_equal(words["MONARCH"], [1, 1])


def test_the_same_answer_whatever_the_hash_seed():
    words = [a + b + c + d for a in "abcdef" for b in "abcdef" for c in "abcdef" for d in "xyz"]
    tried = _spelling._twice("fade", "xyzabcdef")
    assert tried == _spelling._twice("fade", "xyzabcdef")
    assert near("qqfx", words) == sorted(near("qqfx", words), key=words.index)
    assert len(tried) <= 2 * _spelling._CANDIDATES


def distance(a, b):
    """Damerau-Levenshtein, of neighbours that are exchanged and not edited again."""
    rows = [list(range(len(b) + 1))]
    for i in range(1, len(a) + 1):
        rows.append([i])
        for j in range(1, len(b) + 1):
            best = [rows[i - 1][j], rows[i][j - 1], rows[i - 1][j - 1] - (a[i - 1] == b[j - 1])]
            if i > 1 and j > 1 and (a[i - 1], a[i - 2]) == (b[j - 2], b[j - 1]):
                best.append(rows[i - 2][j - 2])
            rows[i].append(min(best) + 1)
    return rows[-1][-1]


@settings(deadline=None)
@given(
    st.lists(st.text("abcé", min_size=1, max_size=7), min_size=1, max_size=30, unique=True),
    st.text("abcé", min_size=2, max_size=7),
)
def test_all_words_of_one_edit(words, token):
    if token in words:
        return
    found = near(token, words)
    once = [word for word in words if distance(word, token) == 1]
    assert found[: len(once)] == once[:3]
    assert len(found) <= 3
    # Two edits at one place, an exchange and another, count as 3 in `distance`.
    assert all(distance(word, token) in (2, 3) for word in found[len(once) :])


@settings(deadline=None)
@given(st.lists(st.text(max_size=8), max_size=9, unique=True), st.text(max_size=50) | st.binary())
def test_any_text(words, token):
    vocabulary = Vocabulary(words)
    if token not in vocabulary:
        assert set(nearest_spellings(vocabulary, token)) <= {*words}


# --- The error


def test_the_error():
    with pytest.raises(UnknownTokenError) as caught:
        vectors_of()["kign"]
    error = caught.value
    assert isinstance(error, KeyError)
    assert error.tokens == ("kign",)
    assert str(error) == (
        "expected tokens of the vocabulary, got 1 that is not: 'kign' (did you mean 'king', "
        "'kings' or 'King'?); leave out what is not `in vectors`, or say what stands for it, as "
        'in lookup(..., unknown="zeros")'
    )
    for same in (pickle.loads(pickle.dumps(error)), copy.copy(error)):
        assert str(same) == str(error)
        assert same.tokens == error.tokens


def test_a_vocabularys_own_error_has_the_tokens_too():
    with pytest.raises(UnknownTokenError) as caught:
        Vocabulary(WORDS).encode([["king", "x"], ["y", "x"]])
    assert caught.value.tokens == ("x", "y")
    assert UnknownTokenError("x").tokens == ()
    assert str(UnknownTokenError()) == ""


def test_the_error_about_several():
    vectors = vectors_of()
    with pytest.raises(KeyError, match=r"got 2 that are not: 'kig' \(did .* 'king'\?\), 'zzz'; le"):
        vectors.lookup(["the", "kig", "zzz", "kig"])
    with pytest.raises(KeyError, match="got 4 that are not: 'kig', 'w', 'x', 'y'; leave"):
        vectors.lookup(["the", "kig", "w", "x", "y"])
    with pytest.raises(KeyError, match=r"got 20 that are not: 'x0', .*'x9', \.\.\.; leave"):
        vectors.lookup([f"x{i}" for i in range(20)])
    with pytest.raises(KeyError, match="this is one token; split it for its words"):
        vectors.lookup("like the country")
    with pytest.raises(KeyError) as caught:
        vectors.lookup("x" * 1_000_000)
    assert len(str(caught.value)) < 400
    with pytest.raises(UnknownTokenError, match=r"got 1 that is not: b'kinf' \(did you mean"):
        vectors[b"kinf"]


def test_nobody_waits_who_does_not_read_it(monkeypatch):
    calls = []
    monkeypatch.setattr(_spelling, "nearest_spellings", lambda *call: calls.append(call) or ["x"])
    vectors = vectors_of()
    with pytest.raises(KeyError) as caught:
        vectors["kign"]
    assert not calls
    assert "did you mean 'x'?" in str(caught.value)
    assert str(caught.value) == str(caught.value)
    assert len(calls) == 1


def test_a_damaged_vocabulary_still_has_a_message():
    data, offsets, slots = Vocabulary(WORDS).arrays()
    offsets = offsets.copy()
    words = Vocabulary.from_arrays(data, offsets, slots)
    vectors = Vectors(Table.from_array(np.ones((len(WORDS), 2))), words)
    with pytest.raises(KeyError) as caught:
        vectors["kign"]
    offsets[2:5] = 1 << 40
    assert "'kign'; leave" in str(caught.value)


def test_it_takes_milliseconds():
    words = Vocabulary(dict.fromkeys(f"w{i * 7919 % 100_003}" for i in range(100_000)))
    begin = time.process_time()
    nearest_spellings(words, "vv" * 20)
    nearest_spellings(words, "w1000x00")
    assert time.process_time() - begin < 0.5  # 0.015 s; the bound is for slow machines
