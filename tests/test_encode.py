"""`Vocabulary.encode`: long lists, Arrow arrays, tokens of every length, damaged input."""

import contextlib
import gc
import subprocess
import sys
import threading

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shardwise import Buckets, UnknownTokenError, _encoding, _native, num_threads, set_num_threads
from shardwise._errors import TokenTypeError, VocabularyError
from shardwise._vocabulary import Vocabulary

pa = pytest.importorskip("pyarrow")

# Lengths around 4, 8 and 16 bytes, tokens that differ in one byte or in NULs only, and odd bytes.
WORDS = [
    *("x" * n for n in range(40)),
    *("x" * n + "y" for n in range(40)),
    *("\0" * n for n in range(1, 20)),
    *("é" * n for n in range(1, 12)),
    "\udcff",
    "\udcff\udc80x",
    "\U0001f1f8\U0001f1f0",
    "z" * 1_000_000,
]


def mixed(words, count, seed=0):
    rng = np.random.default_rng(seed)
    picked = rng.integers(0, len(words), count)
    return [words[i] for i in picked], picked


def as_bytes(token):
    return token.encode("utf-8", "surrogateescape")


@pytest.mark.parametrize("count", [0, 1, 31, 33, 1023, 1024, 1025, 5000, 40_000])
@pytest.mark.parametrize("threads", [1, 2])
def test_long_lists_of_every_length(count, threads):
    before = _native.num_threads()
    _native.set_num_threads(threads)
    try:
        words = Vocabulary(WORDS)
        tokens, ids = mixed(WORDS[:-1], count)
        for given_tokens in (
            tokens,
            tuple(tokens),
            [as_bytes(token) for token in tokens],
            [as_bytes(t) if i % 3 else t for i, t in enumerate(tokens)],
            np.array(tokens, object),
            pa.array([as_bytes(token) for token in tokens], pa.binary()),
            pa.array([as_bytes(token) for token in tokens], pa.large_binary()),
        ):
            assert np.array_equal(words.encode(given_tokens), ids)
    finally:
        _native.set_num_threads(before)


def test_a_megabyte():
    words = Vocabulary(WORDS)
    assert words.encode(["x", "z" * 1_000_000]).tolist() == [1, len(WORDS) - 1]
    assert words.encode(pa.array(["z" * 1_000_000])).tolist() == [len(WORDS) - 1]


@given(st.lists(st.text(alphabet="ab\0é", max_size=20)), st.integers(0, 60))
def test_no_false_match(tokens, known):
    distinct = list(dict.fromkeys(tokens))[:known]
    words = Vocabulary(["<unk>", *distinct], unknown="<unk>")
    ids = {token: i + 1 for i, token in enumerate(distinct)}
    expected = [ids.get(token, 0) for token in tokens]
    assert words.encode(tokens * 60).tolist() == expected * 60
    assert words.encode(pa.array(tokens * 60, pa.string())).tolist() == expected * 60


def test_wrong_tokens_of_long_lists():
    words = Vocabulary(["a", "b"], unknown="a")
    tokens = ["b"] * 5000
    for position in (0, 1, 1023, 1024, 4999):
        with pytest.raises(VocabularyError, match=rf"'\\ud800' at position {position}, "):
            words.encode([*tokens[:position], "\ud800", *tokens[position:]])
        if position:
            with pytest.raises(TokenTypeError, match=f"got int at position {position}: 5"):
                words.encode([*tokens[:position], 5, *tokens[position:]])
    with pytest.raises(UnknownTokenError, match=r"got 1 that are not \(2 of 5002 tokens\): 'x'; "):
        Vocabulary(["b"]).encode([*tokens, "x", b"x".decode()])


def test_subclasses_are_asked_what_they_hold():
    class Reversed(list):
        def __iter__(self):
            return reversed([*super().__iter__()])

    words = Vocabulary(["a", "b"])
    assert words.encode(Reversed(["a", "b", "b"])).tolist() == [1, 1, 0]
    assert words.encode([np.str_("b"), np.bytes_(b"a")]).tolist() == [1, 0]
    assert words.encode(iter(["b", "a"])).tolist() == [1, 0]


def test_a_list_that_changes():
    words = Vocabulary(["a", "b"])
    arrays = words.arrays()
    ids = np.empty(3, np.int64)
    assert _native.find_objects(*arrays, ["a"], ids) == -1
    assert _native.find_objects(*arrays, ("a", 5, "b"), ids) == -1
    assert _native.find_objects(*arrays, ["b", "a", "x", "a"], ids) == 1
    assert ids.tolist() == [1, 0, -1]
    assert _native.find_objects(*arrays, ("x", "é", "b"), ids, 7) == 2
    assert ids.tolist() == [7, 7, 1]
    with pytest.raises(TypeError):
        _native.find_objects(*arrays, "abc", ids)
    with pytest.raises(VocabularyError, match="stays as it is, got one that changed"):
        _encoding._find_packed(words, np.empty(0, np.uint8), np.zeros(2, np.int64), ids, -1)


class Text(str):
    """A str that keeps its characters elsewhere."""


@pytest.mark.parametrize("count", [7, 300, 20_000])
@pytest.mark.parametrize("threads", [1, 3])
def test_every_kind_of_object_in_one_list(count, threads):
    sizes = [0, 1, 3, 4, 7, 8, 9, 14, 15, 16, 17, 40]
    parts = ["x", "\0", "é", "€", "😀", "\udcff"]
    tokens = list(dict.fromkeys(part * size for part in parts for size in sizes))
    words = Vocabulary(tokens)
    assert len(words) == len(tokens)
    rng = np.random.default_rng(count)
    ids = rng.integers(-1, len(tokens), count)
    other = ["y" * 15, "\0y", "é" * 41, b"\xfe", Text("y")]
    asked = []
    for i, pick in zip(ids.tolist(), rng.integers(0, 4, count).tolist(), strict=True):
        token = tokens[i] if i >= 0 else other[pick]
        if isinstance(token, bytes):
            asked.append(token)
        elif pick == 0:
            asked.append(token.encode("utf-8", "surrogateescape"))
        else:
            asked.append(Text(token) if pick == 1 else "".join(list(token)))
    before = num_threads()
    set_num_threads(threads)
    try:
        known = Vocabulary(tokens, unknown=-1)
        assert np.array_equal(known.encode(asked), ids)
        assert np.array_equal(known.encode(tuple(asked)), ids)
        far = Vocabulary(tokens, unknown=10**12, aliases={"y" * 15: 3})
        expected = np.where(ids < 0, 10**12, ids)
        expected[[token == "y" * 15 for token in asked]] = 3
        expected[[token == b"y" * 15 for token in asked]] = 3
        assert np.array_equal(far.encode(asked), expected)
    finally:
        set_num_threads(before)


def test_a_list_that_another_thread_changes():
    words = Vocabulary([f"w{i}" for i in range(1000)], unknown=-1)
    tokens = [f"w{i % 1000}" for i in range(30_000)]
    full, stop = list(tokens), threading.Event()

    def change():
        while not stop.is_set():
            del tokens[100:]
            tokens.extend(full[100:])

    thread = threading.Thread(target=change)
    thread.start()
    try:
        for _ in range(100):
            with contextlib.suppress(VocabularyError):  # it grew or shrank between two steps
                assert words.encode(tokens)[:100].tolist() == list(range(100))
    finally:
        stop.set()
        thread.join()


def test_a_list_that_shrinks_before_its_unknown_tokens_are_taken(monkeypatch):
    words, tokens = Vocabulary(["a"]), ["a", "b"]
    find_ids = _encoding.find_ids

    def and_then_clear(vocabulary, wanted, missing=-1):
        ids = find_ids(vocabulary, wanted, missing)
        tokens.clear()
        return ids

    monkeypatch.setattr(_encoding, "find_ids", and_then_clear)
    with pytest.raises(VocabularyError, match="got one that changed while it was read"):
        words.encode(tokens)


@pytest.mark.parametrize("kind", [list, tuple])
def test_a_subclass_that_lies_about_its_length(kind):
    lying = type("Lying", (kind,), {"__len__": lambda self: 1_000_000})(["a", "a"])
    with pytest.raises(VocabularyError, match="got one that changed while it was read"):
        _encoding.find_ids(Vocabulary(["a"]), lying)
    assert Vocabulary(["a"]).encode(lying).tolist() == [0, 0]


def test_a_list_that_shrinks_before_it_is_looked_up(monkeypatch):
    words, tokens = Vocabulary(["a"]), ["a", "a"]
    known = _encoding._known

    def without_the_last(vocabulary, wanted):
        tokens.pop()
        return known(vocabulary, wanted)

    monkeypatch.setattr(_encoding, "_known", without_the_last)
    with pytest.raises(VocabularyError, match="got one that changed while it was read"):
        words.encode(tokens)


def test_references_are_given_back():
    token = "".join(["to", "ken"])
    tokens = [token] * 2000 + ["\udcff"] * 10
    words = Vocabulary(["token", "\udcff"])
    gc.collect()
    before = sys.getrefcount(token)
    for _ in range(3):
        words.encode(tokens)
    assert sys.getrefcount(token) == before


KINDS = [pa.string(), pa.large_string(), pa.binary(), pa.large_binary()]


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_arrow(kind):
    words = Vocabulary(["<unk>", "king", "queen", ""], unknown="<unk>")
    array = pa.array(["queen", "jack", "", "king"], kind)
    assert words.encode(array).tolist() == [2, 0, 3, 1]
    assert words.encode(array).dtype == np.int64
    assert words.encode(array[1:3]).tolist() == [0, 3]
    assert words.encode(array[4:]).tolist() == words.encode(array[:0]).tolist() == []
    assert words.encode(pa.array([], kind)).tolist() == []
    chunks = pa.chunked_array([array[2:], array[:0], array[:3]], kind)
    assert words.encode(chunks).tolist() == [3, 1, 2, 0, 3]
    assert words.encode(pa.chunked_array([], kind)).shape == (0,)
    strict = Vocabulary(["king", "queen", ""])
    shown = "'jack'" if "string" in str(kind) else "b'jack'"
    with pytest.raises(UnknownTokenError, match=rf"got 1 that are not \(2 of 5 tokens\): {shown}"):
        strict.encode(pa.chunked_array([array[:1], array[1:2], array[1:4]]))
    with pytest.raises(TokenTypeError, match="got null at position 5; drop the nulls"):
        words.encode(pa.chunked_array([array, pa.array(["king", None, None], kind)[0:]]))
    assert words.encode(pa.array([None, "king"], kind)[1:]).tolist() == [1]


def test_arrow_arrays_without_a_value():
    for words in (Vocabulary(["a"]), Vocabulary(["a"], unknown=Buckets(2))):
        assert words.encode(pa.array([], pa.null())).shape == (0,)
        assert words.encode(pa.chunked_array([], pa.null())).shape == (0,)
        with pytest.raises(TokenTypeError, match="got null at position 0; drop the nulls"):
            words.encode(pa.array([None], pa.null()))


def test_a_column_of_lists_is_a_nest():
    pd = pytest.importorskip("pandas")
    words = Vocabulary(["a", "b"])
    column = pd.Series([["a", "b"], ["b", "b"]])
    assert words.encode(column).tolist() == [[0, 1], [1, 1]]
    assert list(Vocabulary.build(pd.Series([["b", "a"], ["b"]]))) == ["b", "a"]
    assert words.encode(column[:0]).shape == (0,)
    with pytest.raises(TokenTypeError, match="expected an Arrow array of strings, got list<"):
        words.encode(pa.array([["a", "b"]]))


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.binary()], ids=str)
def test_arrow_dictionaries(kind):
    words = Vocabulary(["king", "queen"])
    entries = pa.array(["unused", "queen", None, "king"], kind)
    for index in (pa.int8(), pa.uint8(), pa.int32(), pa.uint64()):
        array = pa.DictionaryArray.from_arrays(pa.array([3, 1, 1, 3], index), entries)
        assert words.encode(array).tolist() == [0, 1, 1, 0]
        assert words.encode(array[1:3]).tolist() == [1, 1]
    for indices, position in (([3, 2], 1), ([1, 3, None], 2)):
        array = pa.DictionaryArray.from_arrays(pa.array(indices, pa.int8()), entries)
        with pytest.raises(TokenTypeError, match=f"null at position {position}"):
            words.encode(array)
    array = pa.DictionaryArray.from_arrays(pa.array([1, 0], pa.int8()), entries)
    with pytest.raises(UnknownTokenError, match=r"\(1 of 2 tokens\): b?'unused'"):
        words.encode(array)
    assert words.encode(pa.array([], kind).dictionary_encode()).shape == (0,)


def test_arrow_kinds_with_another_layout():
    words = Vocabulary(["abc", "abd", "longer than twelve bytes"])
    fixed = pa.array([b"abd", b"abc"], pa.binary(3))
    assert words.encode(fixed).tolist() == [1, 0]
    for kind in (pa.string_view(), pa.binary_view()):
        array = pa.array(["abd", "longer than twelve bytes"], kind)
        assert words.encode(array[1:]).tolist() == [2]
        for unknown in (pa.array(["abd", "x"], kind), array[:0]):
            entries = pa.array([0, 1, 0][: len(unknown) + 1], pa.int8())
            coded = pa.DictionaryArray.from_arrays(entries[: len(unknown)], unknown)
            assert words.encode(coded[:1]).tolist() == [1][: len(unknown)]
            if len(unknown):
                for wrong in (unknown, coded):
                    with pytest.raises(UnknownTokenError, match=r"\(1 of 2 tokens\): b?'x'"):
                        words.encode(wrong)


def test_objects_that_hand_over_an_arrow_array():
    class Stream:
        def __init__(self, array):
            self.array = array

        def __arrow_c_stream__(self, requested_schema=None):
            return self.array.__arrow_c_stream__(requested_schema)

    class Array:
        def __arrow_c_array__(self, requested_schema=None):
            return pa.array(["b", "a"]).__arrow_c_array__(requested_schema)

    words = Vocabulary(["a", "b"])
    assert words.encode(Stream(pa.chunked_array([["b"], ["a", "b"]]))).tolist() == [1, 0, 1]
    assert words.encode(Array()).tolist() == [1, 0]
    for wrong in (pa.array([1]), pa.array([["a"]]), Stream(pa.chunked_array([[1.5]]))):
        with pytest.raises(TokenTypeError, match="expected an Arrow array of strings, got"):
            words.encode(wrong)


def test_damaged_arrow_arrays():
    words = Vocabulary(["a", "b"])
    for offsets in ([0, 9, 1, 2], [0, -1, 1, 2], [0, 2, 1, 2]):
        buffers = [None, pa.py_buffer(np.array(offsets, np.int32)), pa.py_buffer(b"ab")]
        with pytest.raises(VocabularyError, match="the Arrow array is damaged: expected token"):
            words.encode(pa.Array.from_buffers(pa.string(), 3, buffers))
    invalid = [None, pa.py_buffer(np.array([0, 1], np.int32)), pa.py_buffer(b"\xff")]
    array = pa.Array.from_buffers(pa.string(), 1, invalid)
    with pytest.raises(UnknownTokenError, match=r"'\\udcff'"):
        words.encode(array)
    assert Vocabulary([b"\xff"]).encode(array).tolist() == [0]
    unaligned = pa.py_buffer(b"\0" + np.array([0, 1, 2], np.int32).tobytes())[1:]
    array = pa.Array.from_buffers(pa.string(), 2, [None, unaligned, pa.py_buffer(b"ab")])
    assert words.encode(array).tolist() == [0, 1]
    wild = pa.DictionaryArray.from_arrays(pa.array([7], pa.int8()), pa.array(["a"]), safe=False)
    with pytest.raises(VocabularyError, match="damaged: expected indices below 1"):
        words.encode(wild)


def test_pyarrow_is_never_imported():
    code = (
        "import sys; from shardwise._vocabulary import Vocabulary; "
        "assert Vocabulary(['a']).encode(iter(['a'])) == [0]; "
        "assert 'pyarrow' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
