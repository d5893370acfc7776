import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import shardwise
from shardwise import (
    OptionError,
    TokenTypeError,
    Vocabulary,
    VocabularyError,
    hash_buckets,
)
from shardwise._hashing import Buckets

PATH = Path(__file__).parent / "golden" / "hashing.json"
GOLDEN = json.loads(PATH.read_text(encoding="utf-8"))
TOKENS = GOLDEN["tokens"]
KEY = (0x0706050403020100, 0x0F0E0D0C0B0A0908)


# ---- the same as TensorFlow ----


def test_the_golden_tokens_have_all_classes_of_lengths():
    sizes = {len(token.encode()) for token in TOKENS}
    assert len(TOKENS) == 1000
    assert set(range(70)) | {127, 128, 129, 256, 2000} <= sizes
    assert len(set("".join(TOKENS))) > 5000


@pytest.mark.parametrize("num_buckets", GOLDEN["fast"])
def test_fast(num_buckets):
    found = hash_buckets(TOKENS, int(num_buckets))
    assert found.dtype == np.int64
    assert found.tolist() == GOLDEN["fast"][num_buckets]


@pytest.mark.parametrize("case", GOLDEN["strong"], ids=lambda case: str(case["key"]))
def test_strong(case):
    assert hash_buckets(TOKENS, case["num_buckets"], case["key"]).tolist() == case["buckets"]


@pytest.mark.parametrize("case", GOLDEN["static_vocabulary_table"])
def test_static_vocabulary_table(case):
    known = Vocabulary(GOLDEN["known"], unknown=Buckets(case["num_buckets"]))
    assert known.encode(GOLDEN["asked"]).tolist() == case["ids"]
    assert max(case["ids"]) < known.num_ids == len(known) + case["num_buckets"]


@pytest.mark.parametrize("case", GOLDEN["integer_table"])
def test_integers_are_their_decimal_digits(case):
    asked = GOLDEN["integers"]
    known = Vocabulary([str(i) for i in asked[:3]], unknown=Buckets(case["num_buckets"]))
    for tokens in (asked, np.array(asked), [str(i) for i in asked], np.array(asked, object)):
        assert known.encode(tokens).tolist() == case["ids"]


@pytest.mark.parametrize("case", GOLDEN["keras_string_lookup"])
def test_layouts_of_keras(case):
    mask, slots = case["mask_token"], case["num_oov_indices"]
    front = [] if mask is None else [mask]
    places = [f"[UNK] {i}" for i in range(slots)]
    words = [word for word in GOLDEN["known"] if word]
    known = Vocabulary([*front, *places, *words], unknown=Buckets(slots, first=len(front)))
    assert known.encode(GOLDEN["asked"]).tolist() == case["ids"]
    assert known.num_ids == len(known)


def test_the_published_examples():
    three = Vocabulary(["emerson", "lake", "palmer"], unknown=Buckets(5))
    assert three.encode(["king", "crimson"]).tolist() == [6, 7]
    four = Vocabulary(["a", "b", "c", "d"], unknown=Buckets(3))
    assert four.encode(["king", "tarkus", "black", "moon"]).tolist() == [5, 6, 6, 4]
    assert hash_buckets(list("ABCDE"), 3).tolist() == [1, 0, 1, 1, 2]


# ---- SipHash once more, from the paper ----


def siphash(key, data):
    mask = (1 << 64) - 1
    v = [
        key[0] ^ 0x736F6D6570736575,
        key[1] ^ 0x646F72616E646F6D,
        key[0] ^ 0x6C7967656E657261,
        key[1] ^ 0x7465646279746573,
    ]

    def turn(x, n):
        return (x << n | x >> (64 - n)) & mask

    def turn_all():
        v[0] = (v[0] + v[1]) & mask
        v[2] = (v[2] + v[3]) & mask
        v[1] = turn(v[1], 13) ^ v[0]
        v[3] = turn(v[3], 16) ^ v[2]
        v[0] = turn(v[0], 32)
        v[2] = (v[2] + v[1]) & mask
        v[0] = (v[0] + v[3]) & mask
        v[1] = turn(v[1], 17) ^ v[2]
        v[3] = turn(v[3], 21) ^ v[0]
        v[2] = turn(v[2], 32)

    whole = len(data) // 8 * 8
    tail = data[whole:] + bytes(7 - len(data) % 8) + bytes([len(data) % 256])
    for at in range(0, whole + 8, 8):
        word = int.from_bytes((data[:whole] + tail)[at : at + 8], "little")
        v[3] ^= word
        turn_all()
        turn_all()
        v[0] ^= word
    v[2] ^= 0xFF
    for _ in range(4):
        turn_all()
    return v[0] ^ v[1] ^ v[2] ^ v[3]


@given(st.binary(max_size=600), st.tuples(*[st.integers(0, 2**64 - 1)] * 2))
def test_siphash(data, key):
    assert hash_buckets(data, 2**63 - 1, key) == siphash(key, data) % (2**63 - 1)


# ---- what tokens may be ----


def test_kinds_of_tokens():
    words = ["king", "ÿ日本", "", "crimson"]
    wanted = hash_buckets(words, 1000).tolist()
    encoded = [word.encode() for word in words]
    for tokens in (
        tuple(words),
        iter(words),
        encoded,
        [words[0], encoded[1], words[2], encoded[3]],
        np.array(words),
        np.array(words, object),
        np.array(words, np.dtypes.StringDType()),
        np.array(encoded, object),
        [np.str_(word) for word in words],
    ):
        assert hash_buckets(tokens, 1000).tolist() == wanted
    assert hash_buckets([words, words], 1000).tolist() == [wanted, wanted]
    assert hash_buckets(np.array([words, words]), 1000).tolist() == [wanted, wanted]
    assert hash_buckets([], 7).shape == (0,)
    assert hash_buckets([[], []], 7).shape == (2, 0)
    assert hash_buckets("king", 1000).shape == ()
    assert hash_buckets("king", 1000) == hash_buckets(b"king", 1000) == wanted[0]


def test_hostile_tokens():
    tokens = ["\0", "a\0b", "x" * 1_000_000, b"\xff\xfe", "\udcff\udcfe", "\u2028", "\xa0"]
    found = hash_buckets(tokens, 2**63 - 1)
    assert len(set(found.tolist())) == len(tokens) - 1
    assert found[3] == found[4]  # a lone surrogate stands for its byte
    assert [int(hash_buckets(token, 2**63 - 1)) for token in tokens] == found.tolist()


def test_integers():
    wanted = hash_buckets(["7", "-5", "18446744073709551615"], 99).tolist()
    assert hash_buckets([7, -5, 2**64 - 1], 99).tolist() == wanted
    assert hash_buckets([np.int8(7), "-5", b"18446744073709551615"], 99).tolist() == wanted
    assert hash_buckets(np.array([2**64 - 1], np.uint64), 99).tolist() == wanted[2:]
    assert hash_buckets([[7, -5], [7, 7]], 99).tolist() == [wanted[:2], [wanted[0]] * 2]
    assert hash_buckets(7, 99) == hash_buckets(np.int16(7), 99) == wanted[0]


def test_threads_change_nothing():
    tokens = [f"token {i}" for i in range(50_000)]
    before = shardwise.num_threads()
    try:
        found = []
        for threads in (1, 4):
            shardwise.set_num_threads(threads)
            found.append(hash_buckets(tokens, 12345, KEY))
    finally:
        shardwise.set_num_threads(before)
    assert np.array_equal(*found)


@pytest.mark.parametrize("tokens", [[1.5], [None], [True], ["a", None], [["a"], None], 1.5, None])
def test_what_is_no_token(tokens):
    with pytest.raises(TokenTypeError):
        hash_buckets(tokens, 3)


@pytest.mark.parametrize("dtype", [float, bool, "M8[s]"])
def test_arrays_of_no_tokens(dtype):
    with pytest.raises(TokenTypeError, match="expected an array of strings or integers"):
        hash_buckets(np.zeros(2, dtype), 3)


def test_tokens_that_cannot_be():
    with pytest.raises(VocabularyError, match="half of a surrogate pair"):
        hash_buckets(["a", "\ud800"], 3)
    with pytest.raises(VocabularyError, match=r"shape \(1,\) at position 0 and \(2,\) at"):
        hash_buckets([["a"], ["a", "b"]], 3)


@pytest.mark.parametrize("num_buckets", [0, -1, 2**63, 1.0, "3", None])
def test_wrong_numbers_of_buckets(num_buckets):
    with pytest.raises(OptionError, match="expected num_buckets"):
        hash_buckets(["a"], num_buckets)
    with pytest.raises(OptionError, match="expected count"):
        Buckets(num_buckets)


@pytest.mark.parametrize("key", [(), (1,), (1, 2, 3), 5, "ab", (1.0, 2), (0, 2**64), (-(2**65), 0)])
def test_wrong_keys(key):
    for call in (lambda: hash_buckets(["a"], 3, key), lambda: Buckets(3, key)):
        with pytest.raises(OptionError, match="expected key as two integers of 64 bits"):
            call()


def test_keys_are_64_bits_with_a_sign_or_without():
    signed = hash_buckets(TOKENS, 1000, (-1, -(2**63)))
    assert np.array_equal(signed, hash_buckets(TOKENS, 1000, (2**64 - 1, 2**63)))
    assert np.array_equal(signed, hash_buckets(TOKENS, 1000, np.array([-1, -(2**63)])))


def test_buckets_are_values():
    assert Buckets(3, [-1, 2]) == Buckets(np.int8(3), (2**64 - 1, 2), None)
    assert Buckets(3) != Buckets(3, first=0)
    assert len({Buckets(3), Buckets(3), Buckets(4)}) == 2
    with pytest.raises(AttributeError):
        Buckets(3).count = 4
    assert repr(Buckets(3)) == "Buckets(count=3, key=None, first=None)"


# ---- Arrow ----


def test_arrow_arrays():
    pa = pytest.importorskip("pyarrow")
    words = ["king", "\u00ff\u65e5\u672c", "", "crimson", "king"]
    wanted = hash_buckets(words, 1000)
    kinds = [pa.string(), pa.large_string(), pa.binary(), pa.string_view()]
    arrays = [pa.array(words, kind) for kind in kinds]
    for array in [*arrays, pa.array(words).dictionary_encode(), pa.chunked_array([arrays[0]])]:
        assert np.array_equal(hash_buckets(array, 1000), wanted)
        assert np.array_equal(hash_buckets(array[2:], 1000), wanted[2:])
        assert hash_buckets(array[:0], 1000).shape == (0,)
    numbers = hash_buckets([7, -5], 99)
    assert np.array_equal(hash_buckets(pa.array([7, -5], pa.int8()), 99), numbers)
    assert np.array_equal(hash_buckets(pa.array([7, -5]).dictionary_encode(), 99), numbers)
    with pytest.raises(TokenTypeError, match="null at position 1"):
        hash_buckets(pa.array(["a", None]), 3)
    with pytest.raises(TokenTypeError, match="expected an Arrow array of strings or integers"):
        hash_buckets(pa.array([1.5]), 3)
    wrong = pa.py_buffer(np.array([0, 9, 2], np.int32))
    array = pa.Array.from_buffers(pa.string(), 2, [None, wrong, pa.py_buffer(b"ab")])
    with pytest.raises(VocabularyError, match="the Arrow array is damaged"):
        hash_buckets(array, 3)


# ---- ids ----


def test_known_tokens_keep_their_ids():
    known = Vocabulary(["<unk>", "a", "b"], unknown=Buckets(10, KEY))
    buckets = hash_buckets(["x", "y"], 10, KEY)
    ids = known.encode([["b", "x"], ["<unk>", "y"]])
    assert ids.tolist() == [[2, 3 + buckets[0]], [0, 3 + buckets[1]]]
    assert known.encode("b") == 2
    assert known.encode([]).shape == (0,)
    assert Vocabulary([], unknown=Buckets(10, KEY)).encode(["x"]).tolist() == [buckets[0]]
    far = Vocabulary(["a"], unknown=Buckets(10, KEY, first=100))
    assert far.encode(["x"]).tolist() == [100 + buckets[0]]
    assert far.num_ids == 110


@pytest.mark.parametrize("first", [-1, 2**63 - 9, 1.0, "0"])
def test_wrong_first_ids(first):
    with pytest.raises(OptionError, match="expected first"):
        Buckets(10, first=first)
    words = Vocabulary(["a"], unknown=Buckets(10, first=2**63 - 10))
    assert words.encode("x") > 0
    assert words.num_ids == 2**63
    with pytest.raises(OptionError, match="expected first so that the ids"):
        Vocabulary(["a", "b"], unknown=Buckets(2**63 - 1))


def test_a_damaged_vocabulary():
    data, offsets, slots = Vocabulary(["a", "b"]).arrays()
    damaged = np.where(slots, slots | 0xFFFF, slots)
    wrong = Vocabulary.from_arrays(data, offsets, damaged, unknown=Buckets(3))
    with pytest.raises(VocabularyError, match="write the vocabulary again"):
        wrong.encode(["a"])
