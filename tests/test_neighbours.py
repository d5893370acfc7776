import json
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from typer.testing import CliRunner

import shardwise.words._search as search_module
from shardwise import (
    Neighbour,
    OptionError,
    Table,
    TableError,
    TokenTypeError,
    UnknownTokenError,
    Vectors,
    Vocabulary,
)
from shardwise.cli import app

ROOT = Path(__file__).parents[1]
RNG = np.random.default_rng(4)


@pytest.fixture(scope="module")
def novels():
    return Vectors.from_file(ROOT / "examples" / "novels-3000.bin")


def named(rows, shards=1, tokens=None):
    count = len(rows) if tokens is None else tokens
    return Vectors(Table.from_array(rows, shards), Vocabulary([f"w{i}" for i in range(count)]))


def straight(rows, query, left_out=(), topn=10):
    """The answer as float64 gives it, the simplest way there is."""
    wide = rows.astype(np.float64)
    with np.errstate(all="ignore"):
        cosines = wide @ query / (np.linalg.norm(wide, axis=1) * np.linalg.norm(query))
    cosines[~np.isfinite(cosines)] = 0
    order = [i for i in np.argsort(-cosines, kind="stable") if i not in left_out][:topn]
    return [(f"w{i}", pytest.approx(cosines[i], abs=1e-9)) for i in order]


def test_same_neighbours_as_gensim(novels):
    with np.load(ROOT / "tests" / "golden" / "neighbours.npz") as golden:
        ids, scores = golden["ids"], golden["scores"]
    assert ids.shape == scores.shape == (2000, 10)
    words = list(novels)
    found = novels.most_similar([[word] for word in words[:2000]])
    got = np.array([novels.vocabulary.encode([near.token for near in one]) for one in found])
    np.testing.assert_allclose([[near.score for near in one] for one in found], scores, atol=1e-5)
    # gensim counts in float32: two that it holds for equal may stand in either order.
    tied = np.abs(np.diff(scores, axis=1, prepend=2, append=-2)) < 2e-7
    tied = tied[:, 1:] | tied[:, :-1]
    assert np.array_equal(got[~tied], ids[~tied])
    assert tied.sum() < 50


@pytest.mark.parametrize("shards", [1, 3])
@pytest.mark.parametrize("dtype", ["f2", "bfloat16", "f4", ">f4", "f8", "i1", "i8"])
def test_every_dtype_in_small_blocks(dtype, shards, monkeypatch):
    monkeypatch.setattr(search_module, "_BLOCK_BYTES", 1)  # 256 rows
    monkeypatch.setattr(search_module, "SCORES", 700)  # two queries
    kind = ml_dtypes.bfloat16 if dtype == "bfloat16" else np.dtype(dtype)
    rows = (20 * RNG.standard_normal((1000, 7))).astype(kind)
    vectors = named(rows, shards)
    words = [[f"w{i}"] for i in range(0, 1000, 125)]
    wanted = [straight(rows, rows[i].astype(float), [i]) for i in range(0, 1000, 125)]
    assert vectors.most_similar(words) == wanted
    assert [vectors.most_similar(w) for w in words] == wanted
    assert vectors.distances("w3")[77] == pytest.approx(1 - vectors.similarity("w3", "w77"), 1e-5)


def test_a_table_on_disk(tmp_path):
    rows = RNG.standard_normal((300, 5)).astype(np.float16)
    vectors = named(rows, 2)
    vectors.save(tmp_path / "t")
    assert Vectors.open(tmp_path / "t").most_similar("w9") == vectors.most_similar("w9")


def test_what_is_written_is_found():
    rows = np.eye(4)
    vectors = named(rows)
    assert vectors.most_similar("w0", topn=1) == [Neighbour("w1", 0.0)]
    vectors.table.write([3], rows[[0]])
    assert vectors.most_similar("w0", topn=1) == [Neighbour("w3", 1.0)]


def test_equal_scores_come_in_the_order_of_ids(monkeypatch):
    monkeypatch.setattr(search_module, "_BLOCK_BYTES", 1)
    rows = np.tile(RNG.standard_normal((3, 6)).astype(np.float32), (700, 1))
    found = named(rows).most_similar("w0", topn=40)
    assert [n.token for n in found] == [f"w{3 * i}" for i in range(1, 41)]
    assert [n.score for n in found] == pytest.approx([1.0] * 40)
    assert named(rows).rank("w1", "w4") == 1


@pytest.mark.parametrize("dtype", ["f4", "f8"])
def test_rows_without_a_direction_or_with_huge_or_tiny_values(dtype):
    limits = np.finfo(dtype)
    rows = np.array(
        [[1, 0], [0, 0], [np.nan, 1], [np.inf, 1], [limits.max, limits.max], [limits.tiny, 0],
         [-1, 0]], dtype
    )  # fmt: skip
    vectors = named(rows)
    found = vectors.most_similar("w0")
    assert [n.token for n in found] == ["w5", "w4", "w1", "w2", "w3", "w6"]
    assert [n.score for n in found] == pytest.approx([1, 0.5**0.5, 0, 0, 0, -1])
    assert vectors.distances("w0") == pytest.approx([0, 1, 1, 1, 1 - 0.5**0.5, 0, 2])
    assert [n.score for n in vectors.most_similar("w1")] == [0.0] * 6
    assert vectors.similarity("w4", "w5") == pytest.approx(0.5**0.5)


@pytest.mark.parametrize("dtype", ["f4", "f2"])
@pytest.mark.parametrize("kind", ["spread", "clustered", "equal", "narrow", "sorted", "odd"])
def test_many_queries_are_each_of_them(kind, dtype, monkeypatch):
    """Of many queries, products of bytes say which rows are looked at, after a sample of them."""
    monkeypatch.setattr(search_module, "_LEAST_SAMPLED", 64)
    monkeypatch.setattr(search_module, "_BLOCK_BYTES", 1 << 17)
    monkeypatch.setattr(search_module, "_SPARED", 3)
    rows = RNG.standard_normal((4000, 72))
    if kind in ("clustered", "equal"):
        rows = rows[RNG.integers(0, 12, 4000)] + (1e-3 * rows if kind == "clustered" else 0)
    if kind == "narrow":  # all are near all others
        rows = rows[0] + 0.1 * rows
    if kind == "sorted":  # the best rows of the last queries come last
        rows += np.linspace(-3, 3, 4000)[:, None] * rows[0]
    if kind == "odd":
        rows[RNG.random(4000) < 0.3] = 0
        rows[::7] *= 10.0 ** RNG.integers(-30, 30, (572, 1))
        rows[RNG.integers(0, 4000, 40), 5] = [np.nan, np.inf] * 20
    with np.errstate(over="ignore"):
        vectors = named(rows.astype(dtype))
    asked = RNG.choice(4000, 150, replace=False)
    for topn in (1, 10, 90):
        found = vectors.most_similar([[f"w{i}"] for i in asked], topn=topn)
        few = [vectors.most_similar(f"w{i}", topn=topn) for i in asked]
        # Rows whose scores float32 does not tell apart may stand for each other.
        scores = np.array([[n.score for n in one] for one in found])
        np.testing.assert_allclose(scores, [[n.score for n in one] for one in few], atol=2e-7)
        for one, other in zip(found, few, strict=True):
            near = sum(a.token != b.token for a, b in zip(one, other, strict=True))
            assert near == 0 or kind in ("clustered", "equal", "odd")
            assert len({n.token for n in one}) == topn


def test_rows_that_change_during_a_search(monkeypatch):
    """A row of the sample that is gone when its turn comes is no answer."""
    monkeypatch.setattr(search_module, "_LEAST_SAMPLED", 64)
    rows = np.abs(RNG.standard_normal((4000, 64))).astype(np.float32)
    vectors = named(rows)
    floors = search_module._floors

    def changed(*args):
        try:
            return floors(*args)
        finally:
            vectors.table.write(np.arange(100, 4000), -rows[100:])

    monkeypatch.setattr(search_module, "_floors", changed)
    found = vectors.most_similar([[f"w{i}"] for i in range(100)], topn=20)
    assert all(int(near.token[1:]) < 100 and near.score > 0 for one in found for near in one)
    for i, one in enumerate(found):
        assert len({n.token for n in one} - {f"w{i}"}) == len(one)


def test_rows_without_a_token_are_no_answers():
    vectors = named(np.ones((9, 2)), tokens=4)
    assert [n.token for n in vectors.most_similar("w0", topn=99)] == ["w1", "w2", "w3"]
    assert len(vectors.distances("w0")) == 4
    assert vectors.closer_than("w0", "w1") == []


def test_means_weights_and_vectors(novels):
    unit = {w: novels[w] / np.linalg.norm(novels[w]) for w in ("king", "man", "woman")}
    plain = novels.most_similar(["king", "woman"], ["man"])
    assert plain == novels.analogy("man", "king", "woman")
    mean = unit["king"] + unit["woman"] - unit["man"]
    by_vector = [n for n in novels.similar_by_vector(mean, 13) if n.token not in unit]
    assert [n.token for n in plain] == [n.token for n in by_vector[:10]]
    assert novels.most_similar([("king", 1.0), ("woman", 1.0), ("man", -1.0)]) == plain
    found = novels.most_similar([unit["king"], ("woman", 1)], [unit["man"]])
    assert [n.token for n in found[1:]] == [n.token for n in by_vector if n.token != "king"][:9]
    assert novels.most_similar(("king", 2.0)) == novels.most_similar("king")


def test_words_may_come_in_an_array(novels):
    words = ["king", "woman"]
    found = novels.most_similar(words, ["man"])
    for dtype in (str, object):
        assert novels.most_similar(np.array(words, dtype), np.array(["man"], dtype)) == found


def test_batches_are_their_queries(novels):
    batch = novels.most_similar([["king", "woman"], ["country"]], [["man"], []], 5)
    assert batch == [
        novels.most_similar(["king", "woman"], "man", 5),
        novels.most_similar("country", topn=5),
    ]
    one = novels.most_similar_cosmul(["king", "woman"], ["man"])
    assert one == novels.most_similar_cosmul([["king", "woman"], ["sea"]], [["man"], []])[0]
    assert novels.analogy(["man"], ["king"], ["woman"])[0] == novels.analogy("man", "king", "woman")
    rows = novels.lookup(["sea", "ship"])
    both = novels.similar_by_vector(rows, 3)
    assert both == [novels.similar_by_vector(row, 3) for row in rows]
    assert both[0][0] == Neighbour("sea", pytest.approx(1.0))


def test_cosmul_by_its_formula():
    rows = RNG.standard_normal((50, 4))
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    shifted = (1 + unit @ unit[:3].T) / 2
    wanted = shifted[:, 1] * shifted[:, 2] / (shifted[:, 0] + 1e-6)
    order = [i for i in np.argsort(-wanted) if i > 2][:10]
    got = named(rows).most_similar_cosmul(["w1", "w2"], ["w0"])
    assert got == [(f"w{i}", pytest.approx(wanted[i])) for i in order]


def test_similarity_and_its_kin(novels):
    left, right = ["king", "sea"], ["queen", "ship", "tree"]
    matrix = novels.similarity(left, right)
    assert matrix.shape == (2, 3)
    assert matrix[1, 1] == pytest.approx(novels.similarity("sea", "ship"), rel=1e-14)
    assert novels.similarity("sea", right) == pytest.approx(matrix[1])
    assert novels.similarity(left, "ship") == pytest.approx(matrix[:, 1])
    assert novels.distances("sea", right) == pytest.approx(1 - matrix[1])
    every = novels.distances(novels["sea"])
    assert every == pytest.approx(novels.distances("sea"), abs=1e-6)
    closer = novels.closer_than("sea", "ship")
    ids = np.flatnonzero(every < every[novels.vocabulary.encode("ship")])
    assert closer == [w for w in novels.vocabulary.decode(ids) if w != "sea"]
    assert novels.rank("sea", "ship") == len(closer) + 1
    assert novels.doesnt_match(["king", "queen", "prince", "sea"]) == "sea"


def test_rows_of_no_values_and_of_rank_3():
    assert named(np.ones((3, 0))).most_similar("w0") == [("w1", 0.0), ("w2", 0.0)]
    rows = RNG.standard_normal((30, 2, 3))
    assert named(rows).most_similar("w0") == named(rows.reshape(30, 6)).most_similar("w0")
    assert named(rows).similar_by_vector(rows[0])[0].token == "w0"


def test_how_many(novels):
    assert novels.most_similar("king", topn=0) == []
    assert len(novels.most_similar("king", topn=10**6)) == len(novels) - 1
    some = novels.most_similar("king", topn=99, restrict=50)
    assert len(some) == 50
    assert max(novels.vocabulary.encode([n.token for n in some])) < 50


def test_mistakes_are_told(novels):
    with pytest.raises(UnknownTokenError, match="'xyzzy'"):
        novels.most_similar(["king", "xyzzy"])
    unknown = Vectors(Table.from_array(np.eye(2)), Vocabulary(["<unk>", "a"], unknown="<unk>"))
    with pytest.raises(UnknownTokenError, match="'b'"):
        unknown.similarity("a", "b")
    for call in (
        lambda: novels.most_similar([]),
        lambda: novels.most_similar("king", topn=-1),
        lambda: novels.most_similar("king", topn=None),
        lambda: novels.most_similar("king", restrict=0),
        lambda: novels.most_similar([["king"], ["sea"]], [["man"]]),
        lambda: novels.most_similar([["king"]], "man"),
        lambda: novels.most_similar([("king", "sea", "ship")]),
        lambda: novels.most_similar_cosmul([], ["king"]),
        lambda: novels.most_similar_cosmul(("king", 0.5)),
        lambda: novels.analogy(["a"], "b", "c"),
        lambda: novels.doesnt_match([]),
        lambda: novels.doesnt_match("king"),
    ):
        with pytest.raises(OptionError, match="expected"):
            call()
    for no_words in (None, 3):
        with pytest.raises(TokenTypeError, match="expected a word, a list of words or a vector"):
            novels.most_similar(no_words)
    with pytest.raises(TableError, match="of the shape of a row"):
        novels.most_similar(np.ones(3))
    with pytest.raises(TableError, match="real numbers"):
        named(np.ones((2, 2), complex)).most_similar("w0")


def test_commands(novels, tmp_path):
    novels.save(tmp_path / "t")

    def run(*arguments):
        result = CliRunner().invoke(app, [str(a) for a in arguments])
        assert result.exit_code == 0, result.output
        return result.stdout

    wanted = novels.most_similar([["king"], ["sea"]], topn=2)
    lines = [
        line.split("\t")
        for line in run("similar", tmp_path / "t", "king", "sea", "--topn", 2).splitlines()
    ]
    assert [line[:2] for line in lines] == [
        [word, n.token] for word, near in zip(("king", "sea"), wanted, strict=True) for n in near
    ]
    found = json.loads(run("similar", tmp_path / "t", "sea", "--topn", 2, "--json"))
    assert found[0]["token"] == "sea"
    assert [n["token"] for n in found[0]["neighbours"]] == [n.token for n in wanted[1]]
    found = json.loads(run("analogy", tmp_path / "t", "man", "king", "woman", "--json"))
    best = novels.analogy("man", "king", "woman")[0]
    assert found[0]["neighbours"][0] == {"token": best.token, "score": best.score}
