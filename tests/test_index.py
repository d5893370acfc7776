"""`Vectors.index`: what it finds, and what it refuses."""

import json
import os
import shutil
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest

import shardwise
from shardwise import OptionError, StoreError, Table, TableError, Vectors, Vocabulary, store
from shardwise._safetensors import map_tensors


def some(count=2000, dim=24, seed=0, dtype=np.float32, shards=1):
    rng = np.random.default_rng(seed)
    middles = rng.normal(size=(50, dim))
    rows = middles[rng.integers(0, 50, count)] + rng.normal(0, 0.3, (count, dim))
    words = Vocabulary([f"w{k}" for k in range(count)])
    return Vectors(Table.from_array(rows.astype(dtype), shards), words)


@pytest.fixture
def saved(tmp_path):
    some(shards=3).save(tmp_path / "t")
    return tmp_path / "t"


@pytest.mark.parametrize("dtype", ["f32", "f16", "bf16", "i8"])
def test_most_neighbours_are_found_and_scores_are_exact(dtype):
    vectors = some()
    index = vectors.index(dtype=dtype)
    assert index.recall(200) > 0.95
    words = [[f"w{k}"] for k in range(100)]
    for found, true in zip(index.most_similar(words), vectors.most_similar(words), strict=True):
        assert len(found) == 10
        scores = dict(true)
        for token, score in found:
            assert score == scores.get(token, score)
        assert [s for _, s in found] == sorted((s for _, s in found), reverse=True)


def test_queries_are_those_of_the_exact_search():
    vectors = some(1000)  # so few are put in one by one: the graph is the same each time
    index = vectors.index(dtype="f32", expansion_search=2000)
    vector = vectors["w3"]
    assert index.similar_by_vector(vector)[0].token == "w3"
    assert index.similar_by_vector(vector, topn=3) == vectors.similar_by_vector(vector, topn=3)
    assert index.most_similar(["w1", ("w2", 0.5)], ["w9"]) == vectors.most_similar(
        ["w1", ("w2", 0.5)], ["w9"]
    )
    assert index.most_similar("w1", topn=0) == []
    with pytest.raises(shardwise.UnknownTokenError):
        index.most_similar("nobody")
    frame = index.most_similar([["w1"], ["w2"]], topn=2, as_frame=True)
    assert list(frame.columns) == ["query", "token", "score"]


def test_every_row_is_found_however_many_threads_put_it_in():
    before = shardwise.num_threads()
    vectors = Vectors.from_file(Path(__file__).parents[1] / "examples" / "novels-3000.bin")
    try:
        shardwise.set_num_threads(8)
        index = vectors.index(dtype="f32", expansion_search=100)
        own = [index.similar_by_vector(vectors[k], 1)[0].token for k in vectors.vocabulary]
        assert own == list(vectors.vocabulary)  # else some ten are not there
        assert len(index) == len(vectors)
    finally:
        shardwise.set_num_threads(before)


def test_recall_is_a_share():
    vectors = some(500)
    exact = vectors.index(dtype="f32", expansion_search=2000)
    assert exact.recall(queries=50, topn=5) == 1.0
    poor = vectors.index(dtype="i8", connectivity=2, expansion_add=2, expansion_search=2)
    assert 0 <= poor.recall(queries=50) <= 1
    assert poor.recall(50, seed=1) == poor.recall(50, seed=1)


def test_rows_of_zeros_and_nan_and_those_without_a_token_are_not_found():
    rows = np.zeros((8, 4), np.float32)
    rows[0], rows[1], rows[2], rows[6] = [1, 0, 0, 0], np.nan, [1, 1, 0, 0], [1, 0, 0, 0]
    vectors = Vectors(Table.from_array(rows), Vocabulary(["a", "nan", "b", "zero"]))
    index = vectors.index()
    assert len(index) == 2
    assert [n.token for n in index.most_similar("a")] == ["b"]
    assert [n.token for n in index.similar_by_vector([1.0, 0, 0, 0])] == ["a", "b"]


@pytest.mark.parametrize("count", [0, 1, 2])
def test_small_vectors(count, tmp_path):
    vectors = some(count)
    assert len(vectors.index()) == count
    assert vectors.index().recall() == 1.0
    if count:
        assert len(vectors.index().most_similar("w0")) == count - 1
    vectors.save(tmp_path / "t")
    for _ in range(2):
        assert len(Vectors.open(tmp_path / "t").index()) == count


def test_other_rows():
    for dtype in (np.float16, np.float64, np.int8):
        vectors = some(300, dtype=dtype)
        assert vectors.index(expansion_search=300).recall(50) > 0.9
    shaped = Vectors(Table.from_array(np.ones((3, 2, 2))), Vocabulary(["a", "b", "c"]))
    assert shaped.index().similar_by_vector(np.ones((2, 2)), topn=1)[0].score == pytest.approx(1)
    with pytest.raises(TableError, match="real numbers"):
        Vectors(Table.from_array(np.ones((1, 2), complex)), Vocabulary(["a"])).index()


def test_it_is_kept_beside_the_table_and_opened_again(saved, monkeypatch):
    seen = []
    built = Vectors.open(saved).index(progress=lambda done, total: seen.append((done, total)))
    assert seen[-1] == (2000, 2000)
    assert built.path == str(saved / "index.safetensors")
    monkeypatch.setattr("shardwise.words._index._build", None)  # it is not built a second time
    again = Vectors.open(saved).index()
    words = [[f"w{k}"] for k in range(50)]
    assert again.most_similar(words) == built.most_similar(words)
    shutil.copytree(saved, saved.with_name("copy"))  # with other times, and the same content
    assert Vectors.open(saved.with_name("copy")).index().most_similar("w1")
    assert "2000 rows" in repr(again)
    assert sorted(p.name for p in saved.iterdir() if p.name.startswith(".")) == []


def test_it_is_refused_when_the_table_was_changed_in_place(saved):
    Vectors.open(saved).index()
    with Table.open(saved, "r+") as table:
        table.write([5], np.ones((1, 24), np.float32))
    vectors = Vectors.open(saved)
    with pytest.raises(StoreError, match=r"stale.*rebuild=True"):
        vectors.index()
    assert vectors.index(rebuild=True).similar_by_vector(np.ones(24), 1)[0].token == "w5"
    vectors.index()  # known by what is in the file: there is no checksum of it
    with Table.open(saved, "r+") as table:
        table.write([6], np.ones((1, 24), np.float32))
        table.flush()
    with pytest.raises(StoreError, match="stale"):
        vectors.index()


def test_it_is_refused_while_the_writer_stays_open(saved):
    vectors = Vectors.open(saved)
    with Table.open(saved, "r+") as table:
        for row in (5, 6, 7):  # the system sets the file's time with the first of these alone
            table.write([row], np.ones((1, 24), np.float32))
            with pytest.raises(StoreError, match="stale") if row > 5 else nullcontext():
                vectors.index()
            vectors.index(rebuild=True)
    store.update_checksums(saved)
    assert Vectors.open(saved).index().similar_by_vector(np.ones(24), 1)[0].token == "w5"


def test_it_is_refused_when_the_table_was_replaced(saved):
    old = Vectors.open(saved)
    old.index()
    some(seed=1).save(saved, overwrite=True)
    with pytest.raises(StoreError, match="stale"):
        Vectors.open(saved).index()
    with pytest.raises(TableError, match="open it again"):
        old.index(rebuild=True)
    assert Vectors.open(saved).index(rebuild=True).recall(50) > 0.9


def test_it_is_refused_when_the_same_files_are_dealt_out_in_another_way(tmp_path):
    rows = some(100).table[np.arange(100)]
    words = Vocabulary([f"w{k}" for k in range(100)])
    for cut in ("mod", "div"):
        table = Table.from_shards([rows[:50], rows[50:]], cut)
        Vectors(table, words).save(tmp_path / "t", overwrite=True)
        if cut == "mod":
            Vectors.open(tmp_path / "t").index()
    with pytest.raises(StoreError, match="stale"):
        Vectors.open(tmp_path / "t").index()


def test_a_directory_that_was_made_again_gets_no_index_of_the_old_rows(saved):
    old = Vectors.open(saved)
    shutil.rmtree(saved)
    some(shards=3, seed=1).save(saved)  # of the same generation
    with pytest.raises(TableError, match="open it again"):
        old.index()
    assert not (saved / "index.safetensors").exists()


def test_an_index_is_not_saved_for_rows_that_were_written_since(saved, tmp_path):
    index = Vectors.open(saved).index()
    before = (saved / "index.safetensors").read_bytes()
    for row in (5, 6):  # at first the file has a checksum, and then it has none
        with Table.open(saved, "r+") as table:
            table.write([row], np.ones((1, 24), np.float32))
        for path in (saved / "index.safetensors", tmp_path / "mine.idx"):
            with pytest.raises(StoreError, match=r"written to since.*rebuild=True"):
                index.save(path)
        index = Vectors.open(saved).index(tmp_path / f"{row}.idx")
    assert (saved / "index.safetensors").read_bytes() == before
    assert not (tmp_path / "mine.idx").exists()
    index.save(tmp_path / "mine.idx")
    assert len(Vectors.open(saved).index(tmp_path / "mine.idx")) == 2000


def test_the_first_rows_are_put_in_one_by_one():
    vectors = some(1000, dim=8)
    words = [[f"w{k}"] for k in range(1000)]
    first, again = (vectors.index(dtype="i8", expansion_search=2) for _ in range(2))
    assert first.most_similar(words) == again.most_similar(words)


def test_a_table_that_changes_meanwhile_gets_no_index(saved):
    def write(done, total):
        if done == total:
            with Table.open(saved, "r+") as table:
                table.write([1], np.ones((1, 24), np.float32))

    with pytest.raises(StoreError, match="stay as it is"):
        Vectors.open(saved).index(progress=write)
    assert not (saved / "index.safetensors").exists()


def test_another_path(saved, tmp_path):
    vectors = Vectors.open(saved)
    index = vectors.index(tmp_path / "mine.idx")
    assert os.listdir(saved).count("index.safetensors") == 0
    assert vectors.index(tmp_path / "mine.idx").most_similar("w1") == index.most_similar("w1")
    index.save(tmp_path / "again.idx")
    assert vectors.index(tmp_path / "again.idx").most_similar("w1") == index.most_similar("w1")
    with pytest.raises(shardwise.TableNotFoundError):
        vectors.index(tmp_path / "nowhere" / "x")
    with pytest.raises(shardwise.TableNotFoundError):
        index.save(tmp_path / "nowhere" / "x")
    with pytest.raises(TableError, match="in memory"):
        some(10).index(tmp_path / "memory.idx")
    with pytest.raises(TableError, match="in memory"):
        some(10).index().save(tmp_path / "memory.idx")


def test_broken_files(saved):
    vectors = Vectors.open(saved)
    vectors.index()
    path = saved / "index.safetensors"
    good = path.read_bytes()
    begin = len(good) - map_tensors(str(path))["about"].size

    def about(**changes):
        said = json.loads(good[begin:]) | changes
        text = json.dumps({k: v for k, v in said.items() if v is not None}).encode()
        return good[:begin] + text.ljust(len(good) - begin)[: len(good) - begin]

    for bad in (
        b"",
        good[:100],
        good[:-1],
        good[:5000] + b"\xff" + good[5001:],
        good[:begin] + b"[" * (len(good) - begin),
        about(xxh128=None),
        about(rows=7),
        about(dtype="f33"),
        about(version=2),
        about(version=None, table=[]),
        about(table=None, dtype=3),
    ):
        path.write_bytes(bad)
        with pytest.raises(StoreError, match=r"broken|stale|version"):
            vectors.index()
    path.write_bytes(good)
    vectors.index()


@pytest.mark.parametrize(
    "options",
    [
        {"dtype": "f8"},
        {"dtype": 3},
        {"connectivity": 1},
        {"connectivity": True},
        {"expansion_add": 0},
        {"expansion_search": 1 << 20},
        {"expansion_search": 2.5},
    ],
)
def test_options(options):
    with pytest.raises(OptionError, match="expected"):
        some(10).index(**options)


@pytest.mark.parametrize("options", [{"queries": 0}, {"topn": 0}, {"queries": 1.5}])
def test_recall_options(options):
    with pytest.raises(OptionError):
        some(10).index().recall(**options)


def test_without_usearch(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "usearch.index", None)
    with pytest.raises(shardwise.MissingLibraryError, match=r"shardwise\[index\]"):
        some(10).index()


def test_an_interruption_leaves_nothing(saved):
    def stop(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Vectors.open(saved).index(progress=stop)
    assert not [p for p in saved.iterdir() if "index" in p.name]
