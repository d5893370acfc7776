"""What a vocabulary does beyond its tokens: unknown ones, counts, aliases, case, normal forms."""

import copy
import pickle
import unicodedata

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from shardwise import (
    IdOutOfRangeError,
    OptionError,
    Partition,
    TableError,
    TokenTypeError,
    UnknownTokenError,
    VocabularyError,
)
from shardwise._folding import Folding
from shardwise._hashing import Buckets, hash_buckets
from shardwise._table import Table
from shardwise._vectors import Vectors
from shardwise._vocabulary import Vocabulary

WORDS = ["the", "King", "of", ""]
FORMS = ["NFC", "NFD", "NFKC", "NFKD"]


def arrow(tokens):
    pa = pytest.importorskip("pyarrow")
    return [
        pa.array(tokens, pa.string()),
        pa.chunked_array([pa.array(tokens[:1], pa.string()), pa.array(tokens[1:], pa.string())]),
        pa.array(tokens, pa.large_binary()),
        pa.array(tokens, pa.string()).dictionary_encode(),
        pa.array(tokens, pa.string_view()),
    ]


def every_kind(tokens):
    return [
        tokens,
        tuple(tokens),
        iter(tokens),
        [token.encode() for token in tokens],
        np.array(tokens),
        np.array(tokens, object),
        np.array(tokens, np.dtypes.StringDType()),
        *arrow(tokens),
    ]


# ---- unknown ----


@pytest.mark.parametrize("given_id", [-1, 0, 3, 99, -(2**63), 2**63 - 1, np.int8(-1)])
def test_an_id_for_unknown_tokens(given_id):
    words = Vocabulary(WORDS, unknown=given_id)
    assert words.encode(["of", "x", "king"]).tolist() == [2, given_id, given_id]
    assert words.encode("x") == words.unknown == words.unknown_id == given_id
    assert type(words.unknown) is int
    assert words.num_ids == max(4, given_id + 1)
    assert repr(words).endswith(f", unknown={int(given_id)})")
    for tokens in every_kind(["x", "of"]):
        assert words.encode(tokens).tolist() == [given_id, 2]


@pytest.mark.parametrize("unknown", [True, np.True_, 1.0, 2**63, -(2**63) - 1, [1], ("the",)])
def test_what_is_no_policy(unknown):
    with pytest.raises(OptionError, match="expected unknown= as a token, an id of 64 bits, or Buc"):
        Vocabulary(WORDS, unknown=unknown)


def test_a_token_and_its_id_are_two_policies():
    by_token, by_id = Vocabulary(WORDS, unknown="King"), Vocabulary(WORDS, unknown=1)
    assert by_token != by_id
    assert (by_token.unknown, by_id.unknown) == ("King", 1)
    assert by_token.unknown_id == by_id.unknown_id == 1
    assert Vocabulary(WORDS, unknown=b"King") == by_token


def test_buckets_of_every_kind_of_tokens():
    words = Vocabulary(WORDS, unknown=Buckets(7, (1, 2)))
    wanted = [2, *(4 + hash_buckets(["king", "ÿ日本"], 7, (1, 2))).tolist(), 3]
    for tokens in every_kind(["of", "king", "ÿ日本", ""]):
        assert words.encode(tokens).tolist() == wanted
    assert (words.unknown, words.unknown_id, words.num_ids) == (Buckets(7, (1, 2)), None, 11)
    assert repr(words).endswith(", unknown=Buckets(count=7, key=(1, 2), first=None))")
    assert "king" not in words
    with pytest.raises(VocabularyError, match="half of a surrogate pair"):
        words.encode(["\ud800"])
    with pytest.raises(TokenTypeError, match="null at position 1"):
        words.encode(arrow(["of", None])[0])


def test_buckets_of_nothing():
    words = Vocabulary([], unknown=Buckets(5))
    assert words.encode([]).shape == (0,)
    assert words.encode([[], []]).shape == (2, 0)
    assert words.encode(arrow([])[0]).shape == (0,)
    assert (len(words), words.num_ids) == (0, 5)
    assert 0 <= words.encode("x") < 5


def test_integers_are_tokens_with_buckets_alone():
    words = Vocabulary(["5", "7"], unknown=Buckets(3))
    bucket = 2 + int(hash_buckets("-9", 3))
    assert words.encode([7, -9, "5"]).tolist() == [1, bucket, 0]
    assert words.encode([[7], [-9]]).tolist() == [[1], [bucket]]
    assert words.encode(np.array([[7, -9]], np.int16)).tolist() == [[1, bucket]]
    assert words.encode(7) == words.encode(np.uint8(7)) == 1
    pa = pytest.importorskip("pyarrow")
    for kind in (pa.int8(), pa.int64()):
        assert words.encode(pa.array([7, -9], kind)).tolist() == [1, bucket]
    assert words.encode(pa.array([7, -9, 7]).dictionary_encode()).tolist() == [1, bucket, 1]
    with pytest.raises(TokenTypeError, match="null at position 0"):
        words.encode(pa.array([None, 7]))
    for tokens in (True, [True], [1.5], pa.array([1.5])):
        with pytest.raises(TokenTypeError):
            words.encode(tokens)
    plain = Vocabulary(["5"], unknown=0)
    for tokens in (5, [5], np.array([5]), pa.array([5])):
        with pytest.raises(TokenTypeError):
            plain.encode(tokens)


def test_vectors_need_a_row_for_every_id():
    def vectors(rows, **policy):
        return Vectors(Table.from_array(np.eye(rows)), Vocabulary(["a", "b"], **policy))

    with pytest.raises(TableError, match="got 2 tokens and 1 rows"):
        vectors(1)
    for policy in (Buckets(3), 4):
        with pytest.raises(TableError, match=r"and for unknown ones, 5 for Vocabulary.*got 4"):
            vectors(4, unknown=policy)
    assert vectors(5, unknown=Buckets(3)).lookup(["b", "x"]).shape == (2, 5)
    assert vectors(2, unknown=Buckets(2, first=0)).lookup(["b", "x"]).shape == (2, 2)
    assert vectors(5, unknown=4).lookup("x").tolist() == [0, 0, 0, 0, 1]
    with pytest.raises(IdOutOfRangeError, match="got the id = -1"):
        vectors(2, unknown=-1).lookup("x")


def test_decode_with_something_for_the_missing():
    words = Vocabulary(["a", "b"], unknown=-1)
    assert words.decode([[1, -1], [2**40, 0]], "?") == [["b", "?"], ["?", "a"]]
    assert words.decode(words.encode(["x", "a"]), missing="") == ["", "a"]
    assert words.decode(np.uint64(2**64 - 1), "?") == "?"
    assert words.decode(1, "?") == "b"
    assert words.decode([], "?") == []
    assert Vocabulary([]).decode([0], "?") == ["?"]
    with pytest.raises(IdOutOfRangeError):
        words.decode([1, -1])


# ---- counts ----


def test_counts():
    for counts in ([3, 2, 2, 0], np.array([3, 2, 2, 0], np.uint8), (3, 2, 2, 0)):
        words = Vocabulary(WORDS, counts=counts)
        assert words.counts.dtype == np.int64
        assert words.counts.tolist() == [3, 2, 2, 0]
        assert not words.counts.flags.writeable
    assert Vocabulary(WORDS).counts is None
    assert Vocabulary([], counts=[]).counts.tolist() == []
    assert repr(words) == "Vocabulary(4 tokens: ['the', 'King', 'of', ...], counts)"
    assert words != Vocabulary(WORDS)
    assert words != Vocabulary(WORDS, counts=[3, 2, 2, 1])
    given = np.ones(4, np.int64)
    words = Vocabulary(WORDS, counts=given)
    given[0] = 5
    assert words.counts[0] == 1


@pytest.mark.parametrize(
    "counts",
    [
        [1],
        [1, 2, 3, -1],
        [1.0, 2, 3, 4],
        [[1, 2, 3, 4]],
        [True] * 4,
        5,
        "abcd",
        [[1], [1, 2]],
        np.full(4, 2**63, np.uint64),
        [1, 2, 3, None],
    ],
)
def test_wrong_counts(counts):
    with pytest.raises(OptionError, match="expected counts"):
        Vocabulary(WORDS, counts=counts)


# ---- aliases ----


def test_aliases():
    words = Vocabulary(WORDS, aliases={"monarch": "King", b"a": 0, "null": "", "x": np.int8(2)})
    assert (len(words), words.num_ids) == (4, 4)
    assert list(words) == WORDS
    assert words.aliases == {"monarch": 1, "a": 0, "null": 3, "x": 2}
    assert words.encode("monarch") == 1
    assert "monarch" in words
    assert "z" not in words
    for tokens in every_kind(["x", "the", "null", "monarch", "a", "of"]):
        assert words.encode(tokens).tolist() == [2, 0, 3, 1, 0, 2]
    assert words.encode([["x"], ["King"]]).tolist() == [[2], [1]]
    assert words.decode(words.encode(["monarch", "a"])) == ["King", "the"]
    with pytest.raises(UnknownTokenError, match=r"got 1 that are not .*'y'"):
        words.encode(["x", "y"])
    with pytest.raises(IdOutOfRangeError, match="from 0 to 3"):
        words.decode(4)
    assert repr(words) == "Vocabulary(4 tokens: ['the', 'King', 'of', ...], 4 aliases)"
    assert words != Vocabulary(WORDS)
    assert Vocabulary(WORDS, aliases={}) == Vocabulary(WORDS)
    assert Vocabulary(WORDS).aliases == {}


def test_the_arrays_are_of_the_tokens_alone():
    words = Vocabulary(["a", "b"], aliases={"c": "a"})
    assert Vocabulary.from_arrays(*words.arrays()) == Vocabulary(["a", "b"])
    assert Vocabulary.from_arrays(*words.arrays()).encode(["b", "a"]).tolist() == [1, 0]


def test_unknown_tokens_beside_aliases():
    by_token = Vocabulary(["a", "b"], aliases={"c": "b"}, unknown="c")
    assert (by_token.unknown, by_token.encode("x")) == ("b", 1)
    hashed = Vocabulary(["a", "b"], aliases={"c": "b"}, unknown=Buckets(1))
    assert hashed.encode(["c", "x", "a"]).tolist() == [1, 2, 0]


@pytest.mark.parametrize(
    ("aliases", "error", "match"),
    [
        ({"x": "nobody"}, OptionError, "got 'x' of 'nobody'; name the token itself"),
        ({"x": "the", "y": "x"}, OptionError, "got 'y' of 'x'; name the token itself"),
        ({"x": 4}, OptionError, "id from 0 to 3, got 'x' of 4"),
        ({"x": -1}, OptionError, "id from 0 to 3"),
        ({"x": True}, OptionError, "got 'x' of True"),
        ({"x": None}, OptionError, "got 'x' of None"),
        ([("x", "the")], OptionError, "expected aliases as a mapping"),
        ({"King": "the"}, VocabularyError, "'King' at position 1 and as an alias"),
        ({"a": 0, b"a": 0}, VocabularyError, "'a' as aliases"),
        ({5: "the"}, TokenTypeError, "got int at position 4"),
        ({"x": "\ud800"}, VocabularyError, "half of a surrogate pair"),
    ],
)
def test_wrong_aliases(aliases, error, match):
    with pytest.raises(error, match=match):
        Vocabulary(WORDS, aliases=aliases)


# ---- case and normal forms ----

# What Unicode says: "é" in two forms, a ligature, a Kelvin sign, ß, İ, and both sigmas.
COMPOSED, DECOMPOSED = "caf\u00e9", "cafe\u0301"


def test_normal_forms_of_an_accent():
    assert COMPOSED not in Vocabulary([DECOMPOSED])
    for form in FORMS:
        words = Vocabulary([DECOMPOSED, "x"], normal_form=form)
        for tokens in every_kind([COMPOSED, DECOMPOSED, "x"]):
            assert words.encode(tokens).tolist() == [0, 0, 1]
        assert words.decode(0) == (COMPOSED if form in ("NFC", "NFKC") else DECOMPOSED)
        assert words.normal_form == form
        assert ("\ufb01" in Vocabulary(["fi"], normal_form=form)) == form.startswith("NFK")
        assert repr(words).endswith(f", normal_form='{form}')")


def test_case():
    words = Vocabulary(["Stra\u00dfe", "\u0130stanbul", "\u03a3\u0395\u03a3", "K"], casefold=True)
    assert list(words) == ["strasse", "i\u0307stanbul", "\u03c3\u03b5\u03c3", "k"]
    asked = ["STRASSE", "i\u0307STANBUL", "\u03c3\u03b5\u03c2", "\u212a"]
    for tokens in every_kind(asked):
        assert words.encode(tokens).tolist() == [0, 1, 2, 3]
    assert "strAsse" in words
    assert b"STRASSE" in words
    assert words.encode("STRA\u1e9eE") == 0
    assert words.casefold
    assert repr(words).endswith(", casefold=True)")
    assert words != Vocabulary(list(words))


def test_case_and_form_together():
    words = Vocabulary(["CAF\u00c9"], casefold=True, normal_form="NFD")
    assert list(words) == [DECOMPOSED]
    assert words.encode(["Cafe\u0301", "cAF\u00e9"]).tolist() == [0, 0]
    # Case folding takes this letter apart; the second normal form puts it together.
    assert list(Vocabulary(["\u01f0"], casefold=True, normal_form="NFC")) == ["\u01f0"]
    assert list(Vocabulary(["\u01f0"], casefold=True)) == ["j\u030c"]


def test_all_policies_see_folded_tokens():
    words = Vocabulary(["The", "KING"], aliases={"Monarch": "King"}, casefold=True, unknown="THE")
    assert (words.unknown, words.aliases) == ("the", {"monarch": 1})
    assert words.encode(["mONARCH", "Jack"]).tolist() == [1, 0]
    hashed = Vocabulary(["a"], casefold=True, unknown=Buckets(1000))
    for tokens in every_kind(["Jack", "JACK", "A"]):
        bucket = 1 + int(hash_buckets("jack", 1000))
        assert hashed.encode(tokens).tolist() == [bucket, bucket, 0]
    with pytest.raises(UnknownTokenError, match="'JACK'"):
        Vocabulary(["a"], casefold=True).encode(["A", "JACK"])


@pytest.mark.parametrize(
    ("tokens", "options", "match"),
    [
        (["x", "King", "KING"], {"casefold": True}, "'King' and 'KING', which are one.* 1 and 2"),
        ([COMPOSED, "x", DECOMPOSED], {"normal_form": "NFC"}, "which are one.*positions 0 and 2"),
        ([b"A", "a"], {"casefold": True}, "'A' and 'a', which are one"),
        (["a", "a"], {"casefold": True}, "got 'a' at positions 0 and 1"),
        (["a"], {"casefold": True, "aliases": {"A": 0}}, "'a' and 'A'.* 0 and as an alias"),
    ],
)
def test_tokens_that_become_one(tokens, options, match):
    with pytest.raises(VocabularyError, match=match):
        Vocabulary(tokens, **options)


def test_arrays_are_folded_where_the_map_is_made():
    data, offsets, _ = Vocabulary(["The", "KING"]).arrays()
    words = Vocabulary.from_arrays(data, offsets, None, casefold=True, counts=np.arange(2))
    assert words == Vocabulary(["the", "king"], casefold=True, counts=[0, 1])
    again = Vocabulary.from_arrays(*words.arrays(), casefold=True, counts=words.counts)
    assert again == words
    data, offsets, _ = Vocabulary(["a", "A"]).arrays()
    with pytest.raises(VocabularyError, match="'a' and 'A'"):
        Vocabulary.from_arrays(data, offsets, None, casefold=True)
    with pytest.raises(VocabularyError, match="no vocabulary: expected offsets"):
        Vocabulary.from_arrays(data, offsets[::-1].copy(), None, casefold=True)
    with pytest.raises(VocabularyError, match="expected a count for each of 2 tokens, got 3"):
        Vocabulary.from_arrays(data, offsets, None, counts=np.arange(3))
    with pytest.raises(VocabularyError, match="at most 2 alias_ids"):
        Vocabulary._of(data, offsets, None, alias_ids=np.arange(3))
    with pytest.raises(VocabularyError, match="at most 0 alias_ids"):
        Vocabulary._of(data, offsets[:0], None, alias_ids=np.arange(3))


def test_odd_tokens_are_folded_one_by_one():
    odd = ["A\0B", "\0", b"\xff\xc4", "\udcffX", b"caf\xc3\x89", "Z" * 100_000]
    words = Vocabulary(odd, casefold=True)
    assert words.encode(odd).tolist() == list(range(6))
    assert words.encode(["a\0b", b"a\0B"]).tolist() == [0, 0]
    assert words.encode(["CAF\udcc3\udc89", "caf\u00e9"]).tolist() == [4, 4]  # as its bytes
    assert words.encode(["\udcffx", b"\xffX"]).tolist() == [3, 3]
    assert words.decode(2) == "\udcff\udcc4"
    for tokens, error in ((["a", "\ud800"], VocabularyError), (["a", 5], TokenTypeError)):
        with pytest.raises(error, match="at position 1"):
            words.encode(tokens)
        with pytest.raises(error, match="at position 1"):
            Vocabulary(tokens, casefold=True)
    # A mark that begins a token does not join with the token before it.
    assert Vocabulary(["e", "\u0301"], normal_form="NFC").encode("\u0301") == 1


@pytest.mark.parametrize(
    "options",
    [
        {"normal_form": "nfc"},
        {"normal_form": 5},
        {"normal_form": ["NFC"]},
        {"normal_form": True},
        {"casefold": 1},
        {"casefold": "yes"},
        {"casefold": None},
    ],
)
def test_wrong_options(options):
    with pytest.raises(OptionError, match=f"expected {next(iter(options))} as"):
        Vocabulary(["a"], **options)


odd_text = st.one_of(st.text(max_size=6), st.binary(max_size=6), st.just("\u0130\u0345\u01f0"))


@given(st.lists(odd_text, max_size=8), st.booleans(), st.sampled_from([None, *FORMS]))
@example(["\u0345\u0327"], True, "NFC")
def test_folding_all_at_once_is_folding_one_by_one(tokens, casefold, form):
    def folded(token):
        text = token if isinstance(token, bytes) else token.encode("utf-8", "surrogateescape")
        text = text.decode("utf-8", "surrogateescape")
        text = unicodedata.normalize(form, text) if form else text
        text = text.casefold() if casefold else text
        return unicodedata.normalize(form, text) if form else text

    folding = Folding(casefold, form)
    wanted = [folded(token) for token in tokens]
    assert folding.fold_tokens(tokens) == (wanted if folding else folding.fold_tokens(tokens))
    if folding:
        assert folding.fold_tokens(wanted) == wanted
    distinct = list(dict.fromkeys(wanted))
    words = Vocabulary(distinct, casefold=casefold, normal_form=form)
    assert list(words) == distinct
    assert words.encode(tokens).tolist() == [distinct.index(token) for token in wanted]


# ---- values ----


@pytest.mark.parametrize(
    "options",
    [
        {"unknown": -1},
        {"unknown": "of"},
        {"unknown": Buckets(3, (1, 2), 0)},
        {"counts": [1, 2, 3, 4]},
        {"aliases": {"x": 1}},
        {"casefold": True},
        {"normal_form": "NFKC"},
        {"unknown": Buckets(2), "counts": [4] * 4, "aliases": {"y": ""}, "casefold": True},
    ],
)
def test_copies_and_equality(options):
    words = Vocabulary(WORDS, **options)
    for again in (
        pickle.loads(pickle.dumps(words)),
        copy.copy(words),
        copy.deepcopy(words),
        Vocabulary(WORDS, **options),
    ):
        assert again == words
        assert repr(again) == repr(words)
        assert again.encode(["of", "the"]).tolist() == [2, 0]
    assert words != Vocabulary(list(words))


def test_a_damaged_alias():
    words = Vocabulary(["a", "b"], aliases={"c": 0})
    for wrong in (2, -1, 2**62):
        parts = words._data, words._offsets, words._slots
        damaged = Vocabulary._of(*parts, alias_ids=np.array([wrong]))
        assert damaged.encode(["b", "a"]).tolist() == [1, 0]
        for ask in (lambda d: d.encode(["a", "c"]), lambda d: d.aliases, lambda d: "c" in d):
            with pytest.raises(VocabularyError, match="expected aliases of ids from 0 to 1"):
                ask(damaged)


def test_ids_of_as_many_dimensions_as_arrays_have():
    ids = np.full((1,) * 33, 7)
    where = ", ".join(["0"] * 33)
    with pytest.raises(IdOutOfRangeError, match=rf"ids\[{where}\] = 7"):
        Vocabulary(["a", "b"]).decode(ids)
    with pytest.raises(IdOutOfRangeError, match="= 7"):
        Partition.mod(3, 2).locate(ids.astype(np.uint64))
