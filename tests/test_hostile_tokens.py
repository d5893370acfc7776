"""Tokens that nobody expects, through every way in and out, and ten million that are not there."""

import sys

import numpy as np
import pyarrow as pa
import pytest

from shardwise import Table, Vectors, Vocabulary, VocabularyError

SPACES = [chr(c) for c in range(sys.maxunicode + 1) if chr(c).isspace()]
LONG = "x" * (1 << 20)
HOSTILE = [
    "",
    "\0",
    "a\0b",
    "a",
    "a\0",
    "\0a",
    LONG,
    LONG + "\0",
    LONG[:-1],
    b"\xff\xfe".decode("utf-8", "surrogateescape"),
    b"\x80".decode("utf-8", "surrogateescape"),
    "é",
    "e\u0301",
    "\U0001f600",
    "\ufeff",
    "\u202e",
    "\r\n",
    *SPACES,
    *(f"a{space}b" for space in SPACES),
]


@pytest.fixture(scope="module")
def hostile():
    tokens = list(dict.fromkeys(HOSTILE))
    return tokens, Vocabulary(tokens)


def packed(tokens):
    return [token.encode("utf-8", "surrogateescape") for token in tokens]


@pytest.mark.parametrize(
    "given",
    [
        list,
        tuple,
        packed,
        lambda tokens: np.array(tokens, object),
        lambda tokens: pa.array(packed(tokens)),
        lambda tokens: pa.array(packed(tokens), pa.large_binary()),
        lambda tokens: pa.array(packed(tokens), pa.binary_view()),
        lambda tokens: pa.array(packed(tokens)).dictionary_encode(),
    ],
)
def test_every_way_in(hostile, given):
    tokens, vocabulary = hostile
    assert vocabulary.encode(given(tokens)).tolist() == list(range(len(tokens)))
    assert vocabulary.encode(given(tokens[::-1])).tolist() == list(range(len(tokens)))[::-1]


def test_every_way_out(hostile, tmp_path):
    tokens, vocabulary = hostile
    assert vocabulary.decode(np.arange(len(tokens))) == tokens == list(vocabulary)
    assert all(token in vocabulary for token in tokens)
    vocabulary.save(tmp_path / "v.safetensors")
    assert list(Vocabulary.open(tmp_path / "v.safetensors")) == tokens
    vectors = Vectors(Table.from_array(np.arange(len(tokens))), vocabulary)
    vectors.save(tmp_path / "t")
    opened = Vectors.open(tmp_path / "t")
    assert opened.lookup(tokens).tolist() == list(range(len(tokens)))
    assert opened[tokens[6]] == 6


def test_near_misses_are_not_found(hostile):
    _, vocabulary = hostile
    for token in ("\0\0", "a\0b\0", LONG + "x", LONG[:-2], "E\u0301", b"\xff", b"\xff\xfe\xff"):
        assert token not in vocabulary
        with pytest.raises(KeyError):
            vocabulary.encode([token])


def test_half_of_a_surrogate_pair_is_no_token(hostile):
    _, vocabulary = hostile
    for token in ("\ud800", "a\udfff\ud800"):
        assert token not in vocabulary
        with pytest.raises(VocabularyError, match="UTF-8"):
            vocabulary.encode([token])
        with pytest.raises(VocabularyError, match="UTF-8"):
            Vocabulary([token])


@pytest.mark.parametrize("token", HOSTILE[:10])
def test_duplicates_are_refused(token):
    with pytest.raises(VocabularyError, match="distinct"):
        Vocabulary(["other", token, "more", token])


def test_ten_million_random_tokens_without_a_false_match():
    rng = np.random.default_rng(11)
    size, known = 8, 1_000_000
    # Known ones begin with a byte below 128, the others with one from 128: none is the same.
    data = rng.integers(0, 256, (known, size), np.uint8)
    data[:, 0] &= 127
    data = np.unique(data, axis=0)
    offsets = np.arange(len(data) + 1, dtype=np.int64) * size
    vocabulary = Vocabulary.from_arrays(data.reshape(-1), offsets, None, unknown=-1)
    for _ in range(10):
        others = rng.integers(0, 256, (1_000_000, size), np.uint8)
        others[:, 0] |= 128
        ends = np.arange(len(others) + 1, dtype=np.int32) * size
        buffers = [None, pa.py_buffer(ends), pa.py_buffer(others)]
        array = pa.Array.from_buffers(pa.binary(), len(others), buffers)
        assert (vocabulary.encode(array) == -1).all()
    every = pa.Array.from_buffers(
        pa.large_binary(), len(data), [None, pa.py_buffer(offsets), pa.py_buffer(data)]
    )
    assert np.array_equal(vocabulary.encode(every), np.arange(len(data)))
