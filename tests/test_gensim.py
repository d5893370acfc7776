import copy
import json
import math
import pickle
from pathlib import Path

import numpy as np
import pytest

from shardwise import FormatError, OptionError, TableError, TokenTypeError, Vectors
from shardwise.gensim import FastTextKeyedVectors, KeyedVectors, load_facebook_vectors
from shardwise.gensim._scores import p_value

ROOT = Path(__file__).parents[1]
DATA = ROOT.parent / "shared" / "data"
GOLDEN = json.loads((ROOT / "tests" / "golden" / "gensim.json").read_text())
NOVELS = ROOT / "examples" / "novels-3000.bin"
RNG = np.random.default_rng(8)


@pytest.fixture(scope="module")
def kv():
    return KeyedVectors.load_word2vec_format(NOVELS, binary=True)


def small(**options):
    made = KeyedVectors(3, **options)
    made.add_vectors(list("abcd"), [[1, 0, 0], [1, 1, 0], [0, 1, 0], [0, 0, 2]])
    return made


def agrees(got, wanted):
    if isinstance(wanted, float):
        return math.isclose(got, wanted, rel_tol=1e-4, abs_tol=1e-5)
    if isinstance(wanted, list):
        pairs = zip(got, wanted, strict=True)
        return len(got) == len(wanted) and all(agrees(g, w) for g, w in pairs)
    if isinstance(wanted, dict):
        return got.keys() == wanted.keys() and all(agrees(got[k], wanted[k]) for k in wanted)
    return got == wanted


@pytest.mark.parametrize("call", GOLDEN["calls"])
def test_answers_as_gensim(kv, call, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, text in GOLDEN["files"].items():
        Path(name).write_text(text)
    wanted = GOLDEN["calls"][call]
    if isinstance(wanted, dict) and "error" in wanted:
        kind = {e.__name__: e for e in (KeyError, ValueError, AttributeError, ZeroDivisionError)}
        with pytest.raises(kind[wanted["error"]]):
            eval(call, {"kv": kv})
    else:
        got = eval(call, {"kv": kv})
        assert agrees(got, wanted), (got, wanted)


def test_norms_are_those_of_the_rows_after_every_change():
    kv = small()
    assert kv.most_similar("d")[0][1] == 0
    kv.add_vector("e", [0, 0, 5])
    assert kv.most_similar("d", topn=1) == [("e", 1.0)]
    kv["e"] = [0, 3, 4]
    assert kv.most_similar("d", topn=1) == [("e", pytest.approx(0.8))]
    kv.add_vectors(["a", "f"], [[0, 0, 7], [0, 0, -1]], replace=True)
    assert kv.most_similar("d", topn=1) == [("a", 1.0)]
    assert kv.norms.tolist() == pytest.approx([7, 2**0.5, 1, 2, 5, 1])
    kv.vectors = np.eye(6)[::-1]
    assert kv.vector_size == 6
    assert kv.most_similar(np.eye(6)[0], topn=1) == [("f", 1.0)]
    kv.unit_normalize_all()
    assert kv.norms.tolist() == [1] * 6


def test_a_batch_with_duplicates_and_what_is_there():
    kv = small()
    kv.add_vectors(["x", "a", "x"], [[1, 1, 1], [9, 9, 9], [2, 2, 2]], extras={"count": [5, 6, 7]})
    assert kv.index_to_key == ["a", "b", "c", "d", "x"]
    assert kv["x"].tolist() == [1, 1, 1]
    assert kv["a"].tolist() == [1, 0, 0]
    assert kv.expandos["count"].tolist() == [0, 0, 0, 0, 5]
    kv.add_vectors(["x", "y", "y"], [[3] * 3, [4] * 3, [5] * 3], replace=True)
    assert kv[["x", "y"]][:, 0].tolist() == [3, 5]
    assert len(kv) == 6
    assert kv.add_vector("x", [0, 0, 0]) == 4
    assert kv["x"].tolist() == [3, 3, 3]


@pytest.mark.parametrize(
    ("keys", "rows", "error"),
    [
        (["x"], [1.0, 2.0], TableError),
        (["x", "y"], [[1.0, 2.0, 3.0]], TableError),
        (["x"], [["a", "b", "c"]], TableError),
        ([7], [[1.0, 2.0, 3.0]], TokenTypeError),
        (["x", "\ud800"], [[1.0] * 3] * 2, ValueError),
    ],
)
def test_a_refused_batch_changes_nothing(keys, rows, error):
    kv = small()
    with pytest.raises(error):
        kv.add_vectors(keys, rows)
    assert len(kv) == 4
    assert kv.vectors.shape == (4, 3)
    assert kv.index_to_key == list("abcd")


def test_rows_without_a_direction():
    kv = small()
    kv.add_vectors(["zero", "nan"], [[0, 0, 0], [math.nan, 1, 1]])
    assert kv.most_similar("zero", topn=2) == [("a", 0.0), ("b", 0.0)]
    assert dict(kv.most_similar("a"))["zero"] == dict(kv.most_similar("a"))["nan"] == 0.0
    assert kv.cosine_similarities(np.ones(2), np.zeros((2, 2))).tolist() == [0, 0]


def test_many_added_one_by_one():
    kv = KeyedVectors(4, dtype=np.float64)
    rows = RNG.standard_normal((300, 4))
    for i, row in enumerate(rows):
        assert kv.add_vector(f"w{i}", row) == i
    assert kv.vectors.dtype == np.float64
    assert np.array_equal(kv.vectors, rows)
    assert list(kv.key_to_index.values()) == list(range(300))
    assert kv.get_index("w299") == 299
    assert kv.index_to_key[-2:] == ["w298", "w299"]
    assert "w7" in kv.index_to_key


def test_an_empty_one():
    kv = KeyedVectors(3, count=5)
    assert len(kv) == 0
    assert kv.vectors.shape == (0, 3)
    assert kv.norms.shape == (0,)
    assert kv.most_similar(np.ones(3)) == []
    assert list(kv.index_to_key) == []
    with pytest.raises(OptionError):
        KeyedVectors(-1)


def test_views(kv):
    index, keys = kv.key_to_index, kv.index_to_key
    assert dict(index) == {key: i for i, key in enumerate(keys)}
    assert index == dict(index)
    assert keys == list(keys)
    assert keys != []
    assert keys.index("sea") == index["sea"]
    for wrong in ("nosuchword", 3, "\ud800"):
        assert wrong not in index
        assert wrong not in keys
        with pytest.raises(KeyError):
            index[wrong]
    with pytest.raises(IndexError):
        keys[3000]
    with pytest.raises(ValueError, match="read-only"):
        kv.vectors[0] = 0
    with pytest.raises(ValueError, match="read-only"):
        kv["sea"][0] = 0


def test_attributes():
    kv = small()
    kv.set_vecattr("b", "count", 3)
    kv.set_vecattr("c", "count", 9)
    kv.set_vecattr("c", "kind", "noun")
    assert kv.get_vecattr("c", "kind") == "noun"
    assert kv.get_vecattr("a", "kind") == 0
    kv.sort_by_descending_frequency()
    assert kv.index_to_key == ["c", "b", "a", "d"]
    assert kv["c"].tolist() == [0, 1, 0]
    assert kv.get_vecattr("c", "count") == 9
    assert kv.get_vecattr("c", "kind") == "noun"
    kv.set_vecattr("a", "count", 0.5)
    assert kv.expandos["count"].tolist() == [9, 3, 0.5, 0]


@pytest.mark.parametrize("shards", [1, 3])
def test_tables_on_disk(tmp_path, kv, shards):
    Vectors.from_file(NOVELS, shards=shards).save(tmp_path / "table")
    opened = KeyedVectors.load(tmp_path / "table", mmap="r")
    assert opened.most_similar("sea") == kv.most_similar("sea")
    opened["sea"] = np.ones(opened.vector_size)
    opened.add_vector("brandnew", np.ones(opened.vector_size))
    assert opened.most_similar("sea", topn=1) == [("brandnew", 1.0)]
    assert np.array_equal(KeyedVectors.load(tmp_path / "table").vectors, kv.vectors)
    opened.set_vecattr("brandnew", "count", 77)
    opened.save(tmp_path / "table")
    again = KeyedVectors.load(tmp_path / "table")
    assert again.get_vecattr("brandnew", "count") == 77
    assert np.array_equal(again.vectors, opened.vectors)
    assert again.index_to_key == opened.index_to_key


def test_files_that_are_no_tables(tmp_path):
    path = tmp_path / "model.kv"
    path.write_bytes(
        b"\x80\x04\x95\x00\x01\x00\x00\x00\x00\x00\x00\x8c\x1bgensim.models.keyedvectors"
    )
    with pytest.raises(FormatError, match="save_word2vec_format"):
        KeyedVectors.load(path)
    with pytest.raises(FormatError, match="load_word2vec_format"):
        KeyedVectors.load(NOVELS)
    with pytest.raises(FileNotFoundError):
        KeyedVectors.load(tmp_path / "none")
    with pytest.raises(OptionError):
        KeyedVectors.load(tmp_path, mmap="r+")


@pytest.mark.parametrize("binary", [False, True])
def test_word2vec_files(tmp_path, binary):
    kv = small()
    kv.set_vecattr("c", "count", 9)
    path, counts = tmp_path / "v.w2v", tmp_path / "counts"
    kv.save_word2vec_format(path, counts, binary=binary, prefix="*")
    assert counts.read_text() == "*c 9\n*a 0\n*b 0\n*d 0\n"
    back = KeyedVectors.load_word2vec_format(path, counts, binary=binary, datatype=np.float64)
    assert back.index_to_key == ["*c", "*a", "*b", "*d"]
    assert back.get_vecattr("*c", "count") == 9
    assert back.vectors.dtype == np.float64
    assert back["*d"].tolist() == [0, 0, 2]
    first = KeyedVectors.load_word2vec_format(path, binary=binary, limit=2)
    assert first.expandos["count"].tolist() == [2, 1]
    assert len(first) == 2
    with pytest.raises(OptionError):
        kv.save_word2vec_format(path, append=True)
    if not binary:
        kv.save_word2vec_format(path, write_header=False, sort_attr="none")
        assert path.read_text().startswith("a 1 0 0\n")
        assert len(KeyedVectors.load_word2vec_format(path, no_header=True)) == 4


def test_keys_in_other_encodings(tmp_path):
    path = tmp_path / "v.txt"
    path.write_bytes(b"3 2\n\xe9t\xe9 1 2\n\xe9t 3 4\nt 5 6\n")
    load = KeyedVectors.load_word2vec_format
    with pytest.raises(FormatError, match="unicode_errors"):
        load(path)
    assert load(path, encoding="latin-1").index_to_key == ["été", "ét", "t"]
    ignored = load(path, unicode_errors="ignore")
    assert ignored.index_to_key == ["t"]
    assert ignored["t"].tolist() == [1, 2]
    kept = load(path, unicode_errors="surrogateescape")
    assert kept.index_to_key[0] == "\udce9t\udce9"
    assert kept["\udce9t"].tolist() == [3, 4]
    for wrong in ({"encoding": "none"}, {"unicode_errors": "none"}):
        with pytest.raises(OptionError):
            load(path, **wrong)


def test_intersect(tmp_path):
    kv = small()
    path = tmp_path / "v.vec"
    path.write_text("2 3\nb 7 8 9\nzz 1 2 3\n")
    kv.intersect_word2vec_format(path)
    assert kv["b"].tolist() == [7, 8, 9]
    assert len(kv) == 4
    assert kv.norms[1] > 10
    path.write_text("1 2\nb 7 8\n")
    with pytest.raises(TableError):
        kv.intersect_word2vec_format(path)


def test_analogies_by_3cosmul_are_those_of_single_questions(kv, tmp_path):
    lines = GOLDEN["files"]["analogies.txt"] + "man he woman she\nsea ship land house\n"
    (tmp_path / "questions").write_text(lines)
    _, sections = kv.evaluate_word_analogies(
        tmp_path / "questions",
        case_insensitive=False,
        similarity_function="most_similar_cosmul",
    )
    for name in ("correct", "incorrect"):
        for a, b, c, d in sections[-1][name]:
            answer = kv.most_similar_cosmul([b, c], [a], topn=1)[0][0]
            assert (answer == d) == (name == "correct")
    with pytest.raises(OptionError):
        kv.evaluate_word_analogies(tmp_path / "questions", similarity_function="similarity")


def test_p_values():
    # scipy.stats.pearsonr and spearmanr give these for as many pairs.
    assert p_value(0.5, 10) == pytest.approx(0.14111328125, rel=1e-9)
    assert p_value(0.0, 10) == 1.0
    assert p_value(1.0, 10) == 0.0
    assert p_value(-0.5, 10) == p_value(0.5, 10)
    assert math.isnan(p_value(0.5, 2))
    assert math.isnan(p_value(math.nan, 9))


@pytest.mark.skipif(not DATA.exists(), reason="needs ../shared/data")
def test_fasttext(tmp_path):
    kv = load_facebook_vectors(DATA / "vectors" / "lee_fasttext_new.bin")
    words = Vectors.from_file(DATA / "vectors" / "lee_fasttext_new.bin")
    made = words.lookup(["kingdomless", "nightly"], unknown="subwords")
    assert np.array_equal(kv[["kingdomless", "nightly"]], made)
    assert "kingdomless" in kv
    assert "kingdomless" not in kv.key_to_index
    assert not kv.has_index_for("kingdomless")
    assert len(kv) == len(words)
    assert kv.get_vector("nightly", norm=True) @ made[1] == pytest.approx(np.linalg.norm(made[1]))
    near = words.similar_by_vector(made[1], topn=3)
    assert kv.most_similar("nightly", topn=3) == [(w, pytest.approx(c, abs=1e-9)) for w, c in near]
    kv.add_vector("kingdomless", np.ones(kv.vector_size))
    kv.save(tmp_path / "table")
    again = KeyedVectors.load(tmp_path / "table")
    assert isinstance(again, FastTextKeyedVectors)
    assert again["kingdomless"].tolist()[0] == 1
    assert np.array_equal(again["nightly"], made[1])
    assert kv.vectors_for_all(["nightly", "zz"]).index_to_key == ["nightly", "zz"]
    assert len(kv.vectors_for_all(["nightly"], allow_inference=False)) == 0
    with pytest.raises(KeyError):
        kv.get_index("nightly")


def test_copies_are_made_by_files(tmp_path):
    vectors = KeyedVectors(vector_size=2)
    vectors.add_vectors(["a", "b"], [[1.0, 2.0], [3.0, 4.0]])
    for attempt in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TableError, match=r"save\(path\)"):
            attempt(vectors)
    vectors.save(tmp_path / "t")
    assert KeyedVectors.load(tmp_path / "t")["b"].tolist() == [3.0, 4.0]


CORPUS = ROOT / "tests" / "corpus"


def test_a_model_of_ngrams(tmp_path):
    kv = load_facebook_vectors(CORPUS / "fasttext.bin")
    words = Vectors.from_file(CORPUS / "fasttext.bin")
    assert kv.index_to_key == list(words.vocabulary)
    made = words.lookup(["theory", "naïvely"], unknown="subwords")
    assert np.array_equal(kv[["theory", "naïvely"]], made)
    assert "theory" in kv
    assert 7.5 not in kv
    assert not kv.has_index_for("theory")
    assert kv.vectors_for_all(["theory", "the", "theory"]).index_to_key == ["theory", "the"]
    assert kv.vectors_for_all(["theory", "the"], allow_inference=False).index_to_key == ["the"]
    kv.add_vector("theory", [1, 2, 3, 4])
    kv.save(tmp_path / "table")
    again = KeyedVectors.load(tmp_path / "table")
    assert isinstance(again, FastTextKeyedVectors)
    assert again["theory"].tolist() == [1, 2, 3, 4]  # it has a row now
    assert np.array_equal(again["naïvely"], made[1])
    again.vectors = np.ones((len(again), 2))
    with pytest.raises(TableError, match="like those of the n-grams"):
        again.save(tmp_path / "table")
    with pytest.raises(OptionError, match="UTF-8"):
        load_facebook_vectors(CORPUS / "fasttext.bin", encoding="latin-1")
    with pytest.raises(OptionError, match="UTF-8"):
        load_facebook_vectors(CORPUS / "fasttext.bin", encoding="nobody's")
    with pytest.raises(FormatError):
        load_facebook_vectors(CORPUS / "w2v.bin")


def test_a_model_of_ngrams_in_shards(tmp_path):
    """Its words are a part of its rows: with all rows in one piece no copy is made of them."""
    Vectors.from_file(CORPUS / "fasttext.bin", shards=3).save(tmp_path / "table")
    kv = FastTextKeyedVectors.load(tmp_path / "table")
    whole = load_facebook_vectors(CORPUS / "fasttext.bin")
    assert np.array_equal(kv.vectors, whole.vectors)
    assert np.array_equal(kv["theory"], whole["theory"])
    small().save(tmp_path / "plain")
    with pytest.raises(TableError, match="fastText"):
        FastTextKeyedVectors.load(tmp_path / "plain")


def test_old_names():
    kv, other = small(), small()
    assert kv.similar_by_entity("b", 2) == kv.similar_by_key("b", 2)
    assert kv.word_vec("d", use_norm=True).tolist() == [0, 0, 1]
    assert kv.words_closer_than("a", "c") == kv.closer_than("a", "c") == ["b"]
    kv.init_sims()
    assert kv.vectors.tolist() == other.vectors.tolist()
    kv.init_sims(replace=True)
    assert kv.norms.tolist() == pytest.approx([1, 1, 1, 1])
    with pytest.raises(AttributeError, match="optimal transport"):
        kv.wmdistance(["a"], ["b"])
    with pytest.raises(AttributeError, match="'KeyedVectors' object has no attribute 'nothing'"):
        _ = kv.nothing


def test_counts_that_are_missing_or_none(tmp_path):
    kv = small()
    with pytest.raises(KeyError, match="count"):
        kv.save_word2vec_format(tmp_path / "v", tmp_path / "counts")
    kv.save_word2vec_format(tmp_path / "v")
    (tmp_path / "counts").write_text("a 3\nnobody 5\nb many\n")
    with pytest.raises(FormatError, match="line 3"):
        KeyedVectors.load_word2vec_format(tmp_path / "v", tmp_path / "counts")
    (tmp_path / "counts").write_text("a 3\nnobody 5\nb 2\n")
    found = KeyedVectors.load_word2vec_format(tmp_path / "v", tmp_path / "counts")
    assert found.expandos["count"].tolist() == [3, 2, 0, 0]
    chosen = found.vectors_for_all(["b", "a", "zz"], copy_vecattrs=True)
    assert chosen.expandos["count"].tolist() == [2, 3]


@pytest.mark.parametrize(
    "attempt",
    [
        lambda kv, path: kv.load_word2vec_format(path, binary=True, no_header=True),
        lambda kv, path: kv.load_word2vec_format(path, datatype="U3"),
        lambda kv, path: kv.most_similar_to_given("a", []),
        lambda kv, path: kv.most_similar([("a", "much")]),
        lambda kv, path: kv.most_similar([("a", 1.0, 2.0)]),
        lambda kv, path: kv.most_similar([]),
        lambda kv, path: kv.cosine_similarities(np.ones((2, 2)), np.ones((2, 2))),
        lambda kv, path: setattr(kv, "vectors", np.ones(4)),
        lambda kv, path: kv.add_vectors(["x"], [[1, 2, 3]], extras={"count": [1, 2]}),
        lambda kv, path: KeyedVectors(3, dtype=np.int32).unit_normalize_all(),
    ],
)
def test_what_cannot_be_is_refused_and_changes_nothing(tmp_path, attempt):
    kv = small()
    kv.save_word2vec_format(tmp_path / "v")
    before = kv.vectors.copy()
    with pytest.raises((OptionError, TableError)):
        attempt(kv, tmp_path / "v")
    assert np.array_equal(kv.vectors, before)
    assert kv.index_to_key == list("abcd")


def test_a_view_says_what_it_is():
    kv = small()
    assert repr(kv.key_to_index) == "KeyToIndex(4 keys)"
    assert repr(kv.index_to_key) == "IndexToKey(4 keys: ['a', 'b', 'c', ...])"
    assert kv.index_to_key != ("a", "b", "c", "d")
    assert 3 in kv.key_to_index.values()
    assert 4 not in kv.key_to_index.values()


def test_keys_by_position_and_rows_without_frequency():
    kv = small()
    kv[0] = [5, 5, 5]
    assert kv["a"].tolist() == [5, 5, 5]
    kv.resize_vectors()
    kv.sort_by_descending_frequency()
    assert kv.index_to_key == list("abcd")
    assert kv.most_similar_cosmul("a", topn=0) == []
    kv.fill_norms()
    kv.fill_norms(force=True)
    assert kv.norms[0] == pytest.approx(75**0.5)
