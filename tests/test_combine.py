import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import shardwise.words._remake as remake
from shardwise import (
    Neighbour,
    OptionError,
    Partition,
    StoreError,
    Table,
    TableError,
    TokenTypeError,
    UnknownTokenError,
    Vectors,
    Vocabulary,
    VocabularyError,
)
from shardwise._hashing import Buckets

RNG = np.random.default_rng(5)


def made(tokens, rows=None, shards=1, partition="mod", **policies):
    tokens = list(tokens)
    if rows is None:
        rows = np.arange(3.0 * len(tokens), dtype=np.float32).reshape(-1, 3) + 1
    return Vectors(Table.from_array(rows, shards, partition), Vocabulary(tokens, **policies))


def contents(vectors):
    """What vectors say of each token, the aliases too."""
    tokens = [*vectors.vocabulary, *vectors.vocabulary.aliases]
    return {token: vectors[token].astype(float).tolist() for token in tokens}


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    monkeypatch.setattr(remake, "_BLOCK_BYTES", 60)


# ---- add ----


def test_added_tokens_come_behind_the_others():
    vectors = made("ab", counts=[5, 2])
    before = contents(vectors)
    more = vectors.add(["d", b"c"], [[1, 2, 3], [4.0, 5, 6]])
    assert list(more.vocabulary) == ["a", "b", "d", "c"]
    assert contents(more) == before | {"d": [1, 2, 3], "c": [4, 5, 6]}
    assert more.vocabulary.counts.tolist() == [5, 2, 0, 0]
    assert contents(vectors) == before
    assert more.table.dtype == np.float32


def test_one_token_and_one_row_for_many():
    vectors = made("ab").add("c", [7, 8, 9])
    assert vectors["c"].tolist() == [7, 8, 9]
    vectors = vectors.add(np.array(["d", "e"]), [1, 1, 1])
    assert vectors[["d", "e"]].tolist() == [[1, 1, 1]] * 2
    assert contents(vectors.add([], np.empty((0, 3)))) == contents(vectors)


def test_a_token_that_is_there_is_an_error_or_replaced():
    vectors = made("abc")
    with pytest.raises(VocabularyError, match="got 2 that they have: 'c', 'a'; pass replace=True"):
        vectors.add(["c", "d", "a"], np.zeros((3, 3)))
    more = vectors.add(["c", "d", "a"], [[1, 1, 1], [2, 2, 2], [3, 3, 3]], replace=True)
    assert list(more.vocabulary) == ["a", "b", "c", "d"]
    assert contents(more) == {"a": [3] * 3, "b": [4, 5, 6], "c": [1] * 3, "d": [2] * 3}
    assert vectors["a"].tolist() == [1, 2, 3]


def test_the_rows_are_a_copy():
    rows = np.zeros((1, 3), np.float32)
    vectors = made("a").add("b", rows)
    rows[:] = 9
    assert vectors["b"].tolist() == [0, 0, 0]


def test_tokens_that_come_twice_and_wrong_tokens():
    with pytest.raises(VocabularyError, match="1 more than once: 'x'"):
        made("a").add(["x", "y", "x"], np.zeros((3, 3)))
    with pytest.raises(VocabularyError, match="1 more than once: 'x'"):
        made("a", casefold=True).add(["x", "X"], np.zeros((2, 3)))
    with pytest.raises(TokenTypeError, match="position 1"):
        made("a").add(["x", 3], np.zeros((2, 3)))
    with pytest.raises(VocabularyError, match="a nest of shape"):
        made("a").add([["x"]], np.zeros((1, 3)))


def test_rows_that_do_not_fit():
    with pytest.raises(TableError, match=r"expected rows of shape \(1, 3\)"):
        made("a").add(["x"], np.zeros((1, 4)))
    with pytest.raises(TableError, match="expected rows of float32"):
        made("a").add(["x"], [[1e300, 0, 0]])
    integers = made("a", np.ones((1, 3), np.int8))
    with pytest.raises(TableError, match="expected rows of int8"):
        integers.add(["x"], [[0.5, 0, 0]])
    assert integers.add(["x"], [[127, 0, -1]])["x"].tolist() == [127, 0, -1]
    assert made("a").add(["x"], [[0.1, 0, 0]])["x"][0] == np.float32(0.1)


def test_aliases_of_what_is_added():
    vectors = made("ab", aliases={"A": "a", "B": "b"})
    more = vectors.add(["A", "b"], [[0] * 3, [9] * 3], replace=True)
    assert contents(more) == {"a": [1, 2, 3], "b": [9] * 3, "A": [0] * 3, "B": [9] * 3}
    assert list(more.vocabulary) == ["a", "b", "A"]
    with pytest.raises(VocabularyError, match="'A'"):
        vectors.add("A", [0] * 3)


def test_policies_move_with_the_rows_without_a_token():
    rows = np.arange(18, dtype=np.float32).reshape(6, 3)
    vectors = made("ab", rows, unknown=Buckets(4))
    more = vectors.add("c", [9, 9, 9])
    unknown = ["x", "y", "z", "king"]
    assert more.lookup(unknown).tolist() == vectors.lookup(unknown).tolist()
    assert more.vocabulary.unknown == Buckets(4)
    fixed = made("ab", rows, unknown=Buckets(3, first=3)).add("c", [9, 9, 9])
    assert fixed.vocabulary.unknown == Buckets(3, first=4)
    row = made("ab", rows, unknown=4)
    assert (
        row.add("c", [9, 9, 9]).lookup("x").tolist() == row.lookup("x").tolist() == rows[4].tolist()
    )
    assert made("ab", rows, unknown=1).add("c", [9, 9, 9]).lookup("x").tolist() == rows[1].tolist()
    assert made("ab", unknown=-1).add("c", [9, 9, 9]).vocabulary.unknown == -1
    assert made("ab", unknown="b").add("c", [9, 9, 9]).vocabulary.unknown == "b"
    with pytest.raises(OptionError, match="to stay side by side"):
        made("ab", rows, unknown=Buckets(3, first=1)).add("c", [9, 9, 9])


# ---- how results are cut ----


@pytest.mark.parametrize("dtype", ["f2", "bfloat16", "f4", ">f4", "f8", "i1", "S3", "?"])
@pytest.mark.parametrize("cut", ["mod", "div", "ranges"])
def test_every_dtype_and_partition(dtype, cut, tmp_path):
    kind = ml_dtypes.bfloat16 if dtype == "bfloat16" else np.dtype(dtype)
    rows = RNG.integers(0, 99, (7, 2, 2)).astype(kind)
    partition = Partition.ranges([0, 3, 3, 7]) if cut == "ranges" else cut
    vectors = made("abcdefg", rows, 3, partition)
    if dtype not in ("S3", "?", ">f4"):
        vectors.save(tmp_path / "t")
        vectors = Vectors.open(tmp_path / "t")
    more = vectors.add("h", rows[1])
    less = vectors.subset(["g", "c", "a"])
    assert (more["h"] == rows[1]).all()
    assert (less.table[[0, 1, 2]] == rows[[6, 2, 0]]).all()
    both = less.merge(more)
    assert (both[list("gcabdefh")] == rows[[6, 2, 0, 1, 3, 4, 5, 1]]).all()
    for found in (more, less, both):
        assert found.table.dtype == rows.dtype
        assert found.table.partition.num_shards == 3
        assert found.table.partition.strategy == {"ranges": "div"}.get(cut, cut)


# ---- subset ----


def test_a_subset_has_its_tokens_in_their_order():
    vectors = made("abcd", counts=[4, 3, 2, 1], unknown=-1)
    some = vectors.subset(["d", "a", "d", b"b"])
    assert list(some.vocabulary) == ["d", "a", "b"]
    assert contents(some) == {token: contents(vectors)[token] for token in "dab"}
    assert some.vocabulary.counts.tolist() == [1, 4, 3]
    assert some.vocabulary.unknown == -1
    assert len(some.table) == 3
    assert len(vectors.subset([])) == len(made("").subset([])) == 0
    assert list(vectors.subset("b").vocabulary) == ["b"]


def test_tokens_outside_a_subset():
    vectors = made("abc", unknown="b")
    with pytest.raises(UnknownTokenError, match="got 2 that are not: 'x', 'y'") as error:
        vectors.subset(["x", "a", "y", "x"])
    assert error.value.tokens == ("x", "y")
    assert list(vectors.subset(["x", "a"], missing="drop").vocabulary) == ["a", "b"]
    with pytest.raises(TableError, match="expected vectors of a fastText model"):
        vectors.subset(["x"], missing="subwords")
    with pytest.raises(OptionError, match="expected missing as"):
        vectors.subset(["x"], missing="skip")


def test_the_unknown_token_comes_along():
    vectors = made("abc", unknown="b")
    some = vectors.subset(["c"])
    assert list(some.vocabulary) == ["c", "b"]
    assert some.lookup("x").tolist() == vectors.lookup("x").tolist()
    assert vectors.subset(["b", "c"]).vocabulary.encode(["c", "x"]).tolist() == [1, 0]
    number = made("abc", unknown=2).subset(["a"])
    assert (list(number.vocabulary), number.vocabulary.unknown) == (["a", "c"], 1)


def test_buckets_of_a_subset():
    rows = np.arange(15, dtype=np.float32).reshape(5, 3)
    behind = made("abc", rows, unknown=Buckets(2))
    unknown = [f"x{i}" for i in range(9)]
    assert behind.subset(["c"]).lookup(unknown).tolist() == behind.lookup(unknown).tolist()
    among = made("abcde", rows, unknown=Buckets(2, first=1))
    some = among.subset(["d"])
    assert list(some.vocabulary) == ["d", "b", "c"]
    assert some.lookup(unknown).tolist() == among.lookup(unknown).tolist()
    with pytest.raises(OptionError, match=r"side by side, got \[1, 2\]|got \[2, 0\]"):
        among.subset(["c", "d", "b"])


def test_aliases_get_rows_of_their_own_in_a_subset():
    vectors = made("ab", aliases={"A": "a", "B": "b"}, counts=[3, 4])
    some = vectors.subset(["A", "b"])
    assert list(some.vocabulary) == ["A", "b"]
    assert contents(some) == {"A": [1, 2, 3], "b": [4, 5, 6]}
    assert some.vocabulary.counts.tolist() == [3, 4]
    assert some.vocabulary.aliases == {}


def test_tokens_of_arrow():
    pa = pytest.importorskip("pyarrow")
    vectors = made("abc")
    for tokens in (
        pa.array(["c", "a", "c"]),
        pa.chunked_array([["x", "c"], ["a"]], pa.string_view()).slice(1),
        pa.array(["c", "a", "c"]).dictionary_encode(),
        pa.array([b"c", b"a"], pa.binary(1)),
    ):
        assert list(vectors.subset(tokens).vocabulary) == ["c", "a"]
    with pytest.raises(TokenTypeError, match="got null at position 1"):
        vectors.subset(pa.array(["c", None]))


def test_folded_tokens_count_once():
    some = made(["king", "é"], casefold=True, normal_form="NFC").subset(["KING", "king", "e\u0301"])
    assert list(some.vocabulary) == ["king", "é"]
    assert (some.vocabulary.casefold, some.vocabulary.normal_form) == (True, "NFC")


# ---- prune ----


def nearest(rows, kept, i):
    """The kept row with the largest cosine, the simplest way there is."""
    wide = rows.astype(np.float64)
    lengths = np.linalg.norm(wide, axis=1)
    cosines = wide[kept] @ wide[i] / (lengths[kept] * lengths[i])
    return int(np.argmax(cosines)), pytest.approx(cosines.max(), abs=1e-9)


@pytest.mark.parametrize("shards", [1, 3])
@pytest.mark.parametrize("dtype", ["f2", "bfloat16", "f4", "f8", "i1"])
def test_pruned_tokens_have_the_nearest_row(dtype, shards):
    kind = ml_dtypes.bfloat16 if dtype == "bfloat16" else np.dtype(dtype)
    rows = (20 * RNG.standard_normal((60, 5))).astype(kind)
    names = [f"w{i}" for i in range(60)]
    vectors = made(names, rows, shards)
    calls = []
    pruned, remap = vectors.prune(10, progress=lambda done, total: calls.append((done, total)))
    assert list(remap) == names[10:]
    for i in range(10, 60):
        place, score = nearest(rows, range(10), i)
        assert remap[names[i]] == Neighbour(names[place], score)
        assert (pruned[names[i]] == rows[place]).all()
    assert list(pruned.vocabulary) == names[:10]
    assert len(pruned.table) == 10
    assert pruned.table.partition.num_shards == shards
    assert calls[-1] == (50, 50)
    chosen = [7, 3, 55]
    other = vectors.prune(keep=["w7", "w3", "w7", "w55"])
    assert list(other.vectors.vocabulary) == ["w7", "w3", "w55"]
    assert other.remap["w0"].token == names[chosen[nearest(rows, chosen, 0)[0]]]


def test_pruning_keeps_policies_and_aliases():
    rows = np.array([[1, 0], [0, 1], [3, 4], [4, 3], [0, 0], [9, 9]], np.float32)
    vectors = made(
        ["east", "north", "far", "<unk>", "nowhere"],
        rows,
        unknown="<unk>",
        counts=[5, 4, 3, 2, 1],
        aliases={"E": "east", "F": "far"},
    )
    pruned, remap = vectors.prune(2)
    assert list(pruned.vocabulary) == ["east", "north", "<unk>"]
    assert pruned.vocabulary.aliases == {"far": 1, "nowhere": 0, "E": 0, "F": 1}
    assert pruned.lookup("never").tolist() == [4, 3]
    assert pruned.vocabulary.counts.tolist() == [5, 4, 2]
    assert remap == {
        "far": Neighbour("north", pytest.approx(0.8)),
        "nowhere": Neighbour("east", 0.0),
    }
    assert pruned.table[[3]].tolist() == [[9, 9]]
    again, remap = pruned.prune(1)
    assert again.vocabulary.aliases == {t: 0 for t in ("north", "far", "nowhere", "E", "F")}
    assert list(remap) == ["north"]


def test_what_can_be_pruned(tmp_path):
    vectors = made("abc")
    assert vectors.prune(3).remap == vectors.prune(99).remap == {}
    assert len(made("").prune(5).vectors) == 0
    for wrong in ({}, {"count": 1, "keep": ["a"]}, {"count": 0}, {"count": True}, {"keep": []}):
        with pytest.raises(OptionError):
            vectors.prune(**wrong)
    with pytest.raises(UnknownTokenError):
        vectors.prune(keep=["x"])
    with pytest.raises(TableError, match="real numbers"):
        made("a", np.array([[b"x"]])).prune(1)
    pruned = vectors.prune(1).vectors
    pruned.save(tmp_path / "t")
    assert contents(Vectors.open(tmp_path / "t")) == contents(pruned)


# ---- merge ----


def test_merged_vectors_have_the_tokens_of_both():
    first, second = made("abc"), made("cbd", -np.ones((3, 3), np.float32))
    both = {
        "first": {"a": [1, 2, 3], "b": [4, 5, 6], "c": [7, 8, 9], "d": [-1] * 3},
        "second": {"a": [1, 2, 3], "b": [-1] * 3, "c": [-1] * 3, "d": [-1] * 3},
        "mean": {"a": [1, 2, 3], "b": [1.5, 2, 2.5], "c": [3, 3.5, 4], "d": [-1] * 3},
    }
    for conflict, wanted in both.items():
        merged = first.merge(second, conflict=conflict)
        assert list(merged.vocabulary) == list("abcd")
        assert contents(merged) == wanted
    assert contents(first.merge(second)) == both["first"]
    with pytest.raises(VocabularyError, match="got 2: 'c', 'b'; choose with conflict="):
        first.merge(second, conflict="error")
    assert list(first.merge(made("d"), conflict="error").vocabulary) == list("abcd")
    assert contents(made("").merge(first)) == contents(first.merge(made(""))) == contents(first)


def test_what_cannot_be_merged():
    vectors = made("ab")
    with pytest.raises(OptionError, match="expected conflict as"):
        vectors.merge(vectors, conflict="last")
    with pytest.raises(TableError, match="expected other as Vectors, got Table"):
        vectors.merge(vectors.table)
    with pytest.raises(TableError, match="rows of one shape"):
        vectors.merge(made("ab", np.zeros((2, 4))))
    with pytest.raises(TableError, match="one dtype can hold"):
        vectors.merge(made("ab", np.full((2, 3), b"x")))
    with pytest.raises(TableError, match="floating-point numbers for means, got int8"):
        made("a", np.ones((1, 3), "i1")).merge(made("b", np.ones((1, 3), "i1")), conflict="mean")
    with pytest.raises(VocabularyError, match="one casefold and one normal form"):
        vectors.merge(made("ab", casefold=True))


@pytest.mark.parametrize(
    ("one", "other", "result"),
    [
        ("f2", "f4", "f4"),
        ("f2", "bfloat16", "f4"),
        ("bfloat16", "bfloat16", "bfloat16"),
        ("bfloat16", "i8", "f8"),
        ("bfloat16", "i1", "f4"),
        ("i1", "i2", "i2"),
        ("i1", "f4", "f4"),
        (">f4", "f4", "f4"),
        ("S2", "S5", "S5"),
    ],
)
def test_the_dtype_holds_both(one, other, result):
    one, other, result = (
        np.dtype(ml_dtypes.bfloat16 if d == "bfloat16" else d) for d in (one, other, result)
    )
    for a, b in ((one, other), (other, one)):
        merged = made("a", np.ones((1, 2)).astype(a)).merge(made("b", np.ones((1, 2)).astype(b)))
        assert merged.table.dtype == result


def test_aliases_counts_and_policies_of_merged_vectors():
    first = made("abu", aliases={"x": "a", "y": "b"}, counts=[1, 2, 3], unknown="u")
    rows = np.array([[10], [20], [30]]) * np.ones(3)
    second = made(
        "bxw", rows.astype("f4"), aliases={"z": "b", "v": "w", "a": "w"}, counts=[4, 5, 6]
    )
    merged = first.merge(second)
    mine = {"a": [1, 2, 3], "b": [4, 5, 6], "u": [7, 8, 9], "w": [30] * 3}
    assert contents(merged) == mine | {
        "x": [1, 2, 3], "y": [4, 5, 6], "z": [4, 5, 6], "v": [30] * 3
    }  # fmt: skip
    assert list(merged.vocabulary) == list("abuw")
    assert merged.vocabulary.counts.tolist() == [1 + 5, 2 + 4, 3, 6]
    assert merged.vocabulary.unknown == "u"
    merged = first.merge(second, conflict="second")
    theirs = {token: second[token].tolist() for token in "bxwzva"}
    assert contents(merged) == {"u": [7, 8, 9], "y": [10] * 3} | theirs
    assert merged.vocabulary.counts.tolist() == [1, 2 + 4, 3, 6, 5]
    assert first.merge(made("q")).vocabulary.counts.tolist() == [1, 2, 3, 0]
    assert made("q").merge(first).vocabulary.counts.tolist() == [0, 1, 2, 3]
    means = contents(first.merge(second, conflict="mean"))
    assert means["x"] == [(1 + 20) / 2, 11, 23 / 2]
    assert means["a"] == [(1 + 30) / 2, 16, 33 / 2]


def test_means_of_large_values():
    large = np.full((1, 2), np.finfo("f8").max)
    assert (made("a", large).merge(made("a", large), conflict="mean")["a"] == large).all()


@given(st.text("abcdef", max_size=6), st.text("abcdef", max_size=6), st.integers(1, 4))
def test_merge_and_add_agree(one, other, shards):
    one, other = dict.fromkeys(one), dict.fromkeys(other)
    first = made(one, shards=shards)
    second = made(other, np.full((len(other), 3), -2, np.float32))
    rows = second[list(other)] if other else np.empty((0, 3))
    added = first.add(list(other), rows, replace=True)
    merged = first.merge(second, conflict="second")
    assert merged.vocabulary == added.vocabulary
    assert contents(merged) == contents(added)
    again = second.merge(first, conflict="first")
    assert contents(again) == contents(merged)
    assert contents(merged.subset(list(one))) == contents(added.subset(list(one)))


# ---- models of fastText ----

PIECES = ["they", "thus", "x", "norther"]


@pytest.fixture
def model(tmp_path):
    """Vectors with a rule for unknown words, and rows of n-grams behind those of the words."""
    rows = RNG.standard_normal((4 + 9, 5)).astype(np.float32)
    rule = {"version": 12, "words": 4, "ngrams": 9, "bucket": 9, "minn": 3, "maxn": 5}
    vectors = made(["</s>", "the", "of", "north"], rows, 2)
    vectors.save(tmp_path / "m", metadata={"fasttext": rule})
    return Vectors.open(tmp_path / "m")


def test_unknown_words_of_a_model_keep_their_vectors(model, tmp_path):
    wanted = model.lookup(PIECES, unknown="subwords").tolist()
    for n, vectors in enumerate(
        [
            model.add(["sea", "the"], np.ones((2, 5)), replace=True),
            model.subset(["of"]),
            model.prune(2).vectors,
            model.merge(made("uvw", np.ones((3, 5), np.float32))),
        ]
    ):
        assert vectors.lookup(PIECES, unknown="subwords").tolist() == wanted
        vectors.save(tmp_path / f"{n}")
        again = Vectors.open(tmp_path / f"{n}")
        assert again.lookup(PIECES, unknown="subwords").tolist() == wanted
        assert len(vectors.table) == len(vectors) + 9
    with pytest.raises(TableError, match="fastText"):
        made("uvw", np.ones((3, 5), np.float32)).merge(model).lookup("x", unknown="subwords")


def test_a_subset_with_words_that_a_model_has_not_seen(model):
    some = model.subset(["norther", "the", "they"], missing="subwords")
    assert list(some.vocabulary) == ["norther", "the", "they"]
    wanted = model.lookup(["norther", "the", "they"], unknown="subwords")
    assert (some[["norther", "the", "they"]] == wanted).all()


def test_a_turned_model_turns_unknown_words(model):
    rotation = np.linalg.qr(RNG.standard_normal((5, 5)))[0]
    moved = model.table[np.arange(4)] @ rotation + 3
    more = RNG.standard_normal((2, 5))
    reference = made([*model.vocabulary, "p", "q"], np.concatenate([moved, more]))
    aligned = model.align(reference, center=True)
    wanted = model.lookup(PIECES[:2], unknown="subwords") @ aligned.rotation + aligned.offset
    found = aligned.vectors.lookup(PIECES[:2], unknown="subwords")
    assert found == pytest.approx(wanted, abs=1e-5)


def test_a_damaged_rule_stays_damaged(tmp_path):
    vectors = made("ab", np.ones((5, 3), np.float32))
    for n, rule in enumerate(([], {"words": 1}, {"words": "2"}, {})):
        vectors.save(tmp_path / f"{n}", metadata={"fasttext": rule})
        more = Vectors.open(tmp_path / f"{n}").add("c", [0, 0, 0])
        with pytest.raises(StoreError, match="convert the model again"):
            more.lookup("x", unknown="subwords")
