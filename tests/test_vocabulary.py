import copy
import pickle

import numpy as np
import pytest
import xxhash
from hypothesis import example, given
from hypothesis import strategies as st

from shardwise import IdOutOfRangeError, IdTypeError, OptionError, UnknownTokenError, _native
from shardwise._errors import TokenTypeError, VocabularyError
from shardwise._vocabulary import Vocabulary

ODD = [
    "",
    " ",
    "a b",
    "a\0b",
    "\0",
    "\u00a0",
    "x\u0085",
    "\ufeff",
    "\U0001f1f8\U0001f1f0",
    "\udcff\udc80",
]

tokens_lists = st.lists(
    st.one_of(
        st.text(max_size=8),
        st.binary(max_size=8).map(lambda b: b.decode("utf-8", "surrogateescape")),
    ),
    unique_by=lambda token: token.encode("utf-8", "surrogateescape"),
    max_size=60,
)


@given(st.binary(max_size=300))
def test_hash_is_xxh64(data):
    assert _native.hash64(data) == xxhash.xxh64_intdigest(data, seed=0)


def test_a_few_words():
    words = Vocabulary(["<unk>", "king", "queen"], unknown="<unk>")
    assert words.encode("king") == 1
    assert words.encode(b"queen") == 2
    assert words.encode("jack") == 0
    ids = words.encode(["queen", "jack", "king"])
    assert ids.dtype == np.int64
    assert ids.tolist() == [2, 0, 1]
    assert words.decode(2) == words.decode(np.uint8(2)) == words.decode(np.array(2)) == "queen"
    assert words.decode(ids) == ["queen", "<unk>", "king"]
    assert (words.unknown, words.unknown_id) == ("<unk>", 0)
    assert "king" in words
    assert b"king" in words
    assert "jack" not in words
    assert 1 not in words
    assert "\ud800" not in words
    assert list(words) == ["<unk>", "king", "queen"]
    assert len(words) == 3
    assert repr(words) == "Vocabulary(3 tokens: ['<unk>', 'king', 'queen'], unknown='<unk>')"
    assert (
        repr(Vocabulary("abcd"[i] for i in range(4)))
        == "Vocabulary(4 tokens: ['a', 'b', 'c', ...])"
    )


def test_odd_tokens():
    words = Vocabulary(ODD)
    assert list(words) == ODD
    assert words.encode(ODD).tolist() == list(range(len(ODD)))
    assert [words.encode(token) for token in ODD] == list(range(len(ODD)))
    assert words.encode(b"\xff\x80") == len(ODD) - 1
    assert words.encode([b"\xff\x80", "", "a\0b"]).tolist() == [9, 0, 3]


@given(tokens_lists, st.integers(0, 2**32))
@example([], 0)
def test_round_trip(tokens, seed):
    words = Vocabulary(tokens)
    assert list(words) == tokens
    assert words.encode(tokens).tolist() == list(range(len(tokens)))
    again = Vocabulary.from_arrays(*words.arrays())
    assert again == words
    assert Vocabulary.from_arrays(*words.arrays()[:2], None) == words
    order = np.random.default_rng(seed).permutation(len(tokens))
    assert again.decode(order) == [tokens[i] for i in order]
    assert again.encode([tokens[i] for i in order]).tolist() == order.tolist()


def test_many_tokens():
    tokens = [f"token{i}" for i in range(100_000)]
    words = Vocabulary(tokens)
    ids = np.random.default_rng(0).integers(0, len(tokens), 300_000)
    assert np.array_equal(words.encode([tokens[i] for i in ids]), ids)
    assert list(words) == tokens
    with pytest.raises(UnknownTokenError):
        words.encode([*tokens, "token100000"])


@pytest.mark.parametrize(
    ("tokens", "shape"),
    [
        ([], (0,)),
        ([[], []], (2, 0)),
        ([["a", "b"], ["b", "a"]], (2, 2)),
        ((("a",), ("b",)), (2, 1)),
        ([[["a", "b"]], [["b", "b"]]], (2, 1, 2)),
        (np.array([["a", "b", "a"]]), (1, 3)),
        (np.array(["a", b"b"], object), (2,)),
        (np.array([b"a", b"b"]), (2,)),
        (np.array(["a", "b"], np.dtypes.StringDType()), (2,)),
        (np.array("b"), ()),
        (np.empty((0, 3), "U1"), (0, 3)),
        ([np.str_("b"), "a"], (2,)),
        ([np.array(["a"]), ["b"]], (2, 1)),
    ],
)
def test_shapes(tokens, shape):
    words = Vocabulary(["a", "b"])
    ids = words.encode(tokens)
    assert ids.shape == shape
    assert ids.dtype == np.int64
    plain = np.array(tokens, object).astype(str) if ids.size else np.empty(shape)
    assert words.decode(ids) == plain.tolist()


def test_unknown_tokens_are_listed():
    words = Vocabulary(["a"])
    with pytest.raises(
        UnknownTokenError, match=r"got 2 that are not \(3 of 4 tokens\): 'x', 'y';.*unknown="
    ):
        words.encode(["x", "a", "y", "x"])
    with pytest.raises(KeyError, match=r"got 12 that are not.*'t9', \.\.\.; "):
        words.encode([f"t{i}" for i in range(12)])
    with pytest.raises(UnknownTokenError, match="'x'"):
        words.encode("x")


def test_wrong_tokens():
    words = Vocabulary(["a", "b"])
    with pytest.raises(TokenTypeError, match="got int at position 1: 5"):
        words.encode(["a", 5])
    with pytest.raises(TypeError, match="got list at position 1"):
        words.encode(["a", ["b"]])
    with pytest.raises(TokenTypeError, match="got 5"):
        words.encode(5)
    with pytest.raises(TokenTypeError, match="got 0"):
        words.encode([0, 1])
    with pytest.raises(TokenTypeError, match="float64"):
        words.encode(np.zeros(2))
    with pytest.raises(
        VocabularyError, match=r"shape \(1,\) at position 0 and \(2,\) at position 1"
    ):
        words.encode([["a"], ["b", "a"]])
    with pytest.raises(VocabularyError, match=r"'\\ud800' at position 1"):
        words.encode(["a", "\ud800"])
    with pytest.raises(ValueError, match=r"'\\ud800b' at position 0"):
        Vocabulary(["\ud800b"])
    with pytest.raises(TokenTypeError, match=r"write \['ab'\]"):
        Vocabulary("ab")
    with pytest.raises(TokenTypeError, match="NoneType at position 1"):
        Vocabulary(["a", None])


def test_wrong_ids():
    words = Vocabulary(["a", "b"])
    for ids in (2, -1, [0, 2], np.array([[0], [-3]]), np.array([2**64 - 1], np.uint64)):
        with pytest.raises(IdOutOfRangeError, match="from 0 to 1"):
            words.decode(ids)
    for ids in (1.0, [0.0], True, "a", None, [[0], [1, 0]]):
        with pytest.raises(IdTypeError):
            words.decode(ids)
    with pytest.raises(IdOutOfRangeError, match="no rows"):
        Vocabulary([]).decode(0)
    assert words.decode([]) == Vocabulary([]).decode([]) == []


def test_repetitions_are_named():
    with pytest.raises(
        VocabularyError, match=r"got 'b' at positions 1 and 3 \(2 repetitions in all\)"
    ):
        Vocabulary(["a", "b", "c", "b", b"a"])


def test_unknown_must_be_a_token():
    with pytest.raises(OptionError, match="one of the 1 tokens, got '<unk>'"):
        Vocabulary(["a"], unknown="<unk>")


def test_equality_and_copies():
    words = Vocabulary(["a", "b"], unknown="b")
    assert words == Vocabulary([b"a", b"b"], unknown="b")
    assert words != Vocabulary(["a", "b"])
    assert words != Vocabulary(["b", "a"], unknown="b")
    assert words != Vocabulary(["ab", ""])
    assert words != ["a", "b"]
    assert pickle.loads(pickle.dumps(words)) == words
    assert copy.deepcopy(words) == words
    for array in words.arrays():
        assert not array.flags.writeable
    with pytest.raises(TypeError):
        hash(words)


def test_arrays_that_do_not_fit():
    data, offsets, slots = (array.copy() for array in Vocabulary(["a", "b", "cd"]).arrays())
    for bad in (
        (data.astype(np.int8), offsets, slots),
        (data, offsets.astype(np.int32), slots),
        (data, offsets.tolist(), slots),
        (data[None], offsets, slots),
        (data, offsets[:0], slots),
        (data[:-1], offsets, slots),
        (data, offsets[:-1], slots),
        (data, offsets[1:], slots),
        (data, offsets, slots[:0]),
        (data, offsets, slots[:-1]),
        (data, offsets, slots[:4]),
        (data, offsets[:0], None),
        (data[:-1], offsets, None),
        (data, offsets[::-1].copy(), None),
    ):
        with pytest.raises(VocabularyError, match="expected"):
            Vocabulary.from_arrays(*bad)
    with pytest.raises(VocabularyError, match="'a' at positions 0 and 1"):
        Vocabulary.from_arrays(np.frombuffer(b"aa", np.uint8), np.arange(3), None)


@given(st.integers(0, 2), st.integers(0, 1000), st.integers(0, 63))
def test_damaged_arrays_are_an_error_or_no_harm(which, position, bit):
    arrays = [array.copy() for array in Vocabulary(["the", "of", "and", "to", ""]).arrays()]
    array = arrays[which]
    unsigned = array.view(f"u{array.itemsize}")
    unsigned[position % array.size] ^= unsigned.dtype.type(1 << (bit % (8 * array.itemsize)))
    try:
        words = Vocabulary.from_arrays(*arrays)
        assert words.encode("of") in range(5)
        words.decode([0, 1, 2, 3, 4])
    except (VocabularyError, UnknownTokenError):
        pass


def test_unaligned_and_noncontiguous_arrays_are_copied():
    data, offsets, slots = Vocabulary(["a", "b", "cd"]).arrays()
    buffer = np.zeros(offsets.nbytes + 1, np.uint8)
    unaligned = buffer[1:].view(np.int64)
    unaligned[:] = offsets
    again = Vocabulary.from_arrays(np.repeat(data, 2)[::2], unaligned, slots)
    assert again.encode("cd") == 2


def test_a_mapping_of_tokens_to_ids_is_read_by_the_ids():
    """As Hugging Face's get_vocab() and gensim's key_to_index are, in any order."""
    vocabulary = Vocabulary({"queen": 2, "<unk>": np.int64(0), "king": 1}, unknown="<unk>")
    assert list(vocabulary) == ["<unk>", "king", "queen"]
    assert vocabulary.encode(["queen", "king", "jack"]).tolist() == [2, 1, 0]
    assert len(Vocabulary({})) == 0
    assert list(Vocabulary(dict.fromkeys("baba"))) == ["b", "a"]


@pytest.mark.parametrize(
    "ids", [[1, 2], [0, 2], [0, 0], [0, -1], [7, 3], [0.0, 1.0], ["0", "1"], [None, 0]]
)
def test_a_mapping_that_is_not_to_ids_is_refused(ids):
    with pytest.raises(VocabularyError, match=r"to the ids 0 to 1, got .*Vocabulary\.build"):
        Vocabulary(dict(zip("ab", ids, strict=True)))


def test_arrow_arrays_are_tokens():
    pa = pytest.importorskip("pyarrow")
    words = ["b", "a", "déjà"]
    for form in (pa.array(words), pa.chunked_array([words[:1], words[1:]]), pa.array(words[:0])):
        assert list(Vocabulary(form)) == words[: len(form)]
    assert list(Vocabulary(pa.array(words).dictionary_encode())) == words
    with pytest.raises(TokenTypeError, match="got null at position 1; drop the nulls"):
        Vocabulary(pa.array(["a", None]))
    with pytest.raises(TokenTypeError, match="Arrow array of strings, got int64"):
        Vocabulary(pa.array([1]))
