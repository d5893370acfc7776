"""The file that embedding-atlas is started with, and how it is started."""

import os
import sys
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from shardwise import Table, Vectors, Vocabulary
from shardwise.cli import app
from shardwise.pictures._atlas import export
from shardwise.pictures._projection import project

pa = pytest.importorskip("pyarrow")
parquet = pytest.importorskip("pyarrow.parquet")

ROWS = np.random.default_rng(4).standard_normal((50, 8)).astype(np.float32)
WORDS = ["\udcff", "日本", "", *(f"w{i}" for i in range(46))]  # the last row has no token
COLUMNS = ["token", "id", "norm", "x", "y", "neighbors"]


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Vectors(Table.from_array(ROWS, 3), Vocabulary(WORDS)).save("t")
    return tmp_path


def run(*arguments):
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.stdout, result.stderr


def test_export(home):
    told = run("explore", "t", "--no-open", "-o", "w.parquet", "--rows", "--neighbours", 5)
    assert told == (0, "w.parquet: 49 tokens\n", "")
    table = parquet.read_table("w.parquet")
    assert table.column_names == [*COLUMNS, "vector"]
    assert table.schema.field("neighbors").type == pa.struct(
        {"ids": pa.list_(pa.int64()), "distances": pa.list_(pa.float64())}
    )
    assert table["token"].to_pylist() == ["\\xff", *WORDS[1:]]
    assert table["id"].to_pylist() == list(range(49))
    assert np.allclose(table["norm"], np.linalg.norm(ROWS[:49], axis=1))
    places = np.stack([table["x"], table["y"]], axis=1)
    assert np.allclose(places, project(ROWS[:49]), rtol=0, atol=1e-9)
    assert np.array_equal(np.stack(table["vector"].to_pylist()), ROWS[:49])
    vectors = Vectors.open("t")
    for word, near in zip(WORDS, table["neighbors"].to_pylist(), strict=True):
        found = vectors.most_similar(word, topn=5)
        assert vectors.vocabulary.decode(near["ids"]) == [n.token for n in found]
        assert np.allclose(near["distances"], [1 - n.score for n in found])


def test_export_of_the_first(home, monkeypatch):
    monkeypatch.setattr("shardwise.pictures._atlas._QUERIES", 7)
    told = run("explore", "t", "--no-open", "-o", "w.parquet", "--limit", 20, "--neighbours", 30)
    assert told[1] == "w.parquet: the first 20 of 49 tokens\n"
    table = parquet.read_table("w.parquet")
    assert table.column_names == COLUMNS
    near = table["neighbors"].to_pylist()
    assert {len(one["ids"]) for one in near} == {19}
    for i, one in enumerate(near):
        assert sorted([*one["ids"], i]) == list(range(20))


def test_export_of_odd_rows(tmp_path):
    rows = np.array([[1, 2], [0, 0], [np.nan, 1], [1e300, 1e300], [np.inf, 0]])
    vectors = Vectors(Table.from_array(rows), Vocabulary(list("abcde")))
    progress = []
    count = export(vectors, tmp_path / "w.parquet", progress=lambda *done: progress.append(done))
    assert (count, progress) == (5, [(5, 5)])
    table = parquet.read_table(tmp_path / "w.parquet")
    assert [x is None for x in table["x"].to_pylist()] == [False, False, True, False, True]
    assert np.isclose(table["norm"][3].as_py(), np.sqrt(2) * 1e300)
    assert {len(one["ids"]) for one in table["neighbors"].to_pylist()} == {4}
    one = Vectors(Table.from_array(rows[:1]), Vocabulary(["a"]))
    export(one, tmp_path / "one.parquet")
    assert parquet.read_table(tmp_path / "one.parquet")["neighbors"].to_pylist() == [
        {"ids": [], "distances": []}
    ]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["t", "--no-open"], "add -o words.parquet"),
        (["t", "--no-open", "-o", "w.txt"], ".parquet"),
        (["t", "--no-open", "-o", "w.parquet", "--limit", "0"], "restrict"),
        (["t", "--no-open", "-o", "w.parquet", "--method", "x"], "'x'"),
        (["t", "--no-open", "-o", "none/w.parquet"], "expected a directory"),
        (["none", "--no-open", "-o", "w.parquet"], "expected a table at none"),
    ],
)
def test_mistakes(home, arguments, words):
    code, out, err = run("explore", *arguments)
    assert (code, out) == (1, "")
    assert words in err
    assert not list(home.glob("*.parquet"))


def test_nothing_is_overwritten(home):
    (home / "w.parquet").write_text("mine")
    assert "--overwrite" in run("explore", "t", "--no-open", "-o", "w.parquet")[2]
    assert (home / "w.parquet").read_text() == "mine"
    assert run("explore", "t", "--no-open", "-o", "w.parquet", "--overwrite")[0] == 0


@pytest.mark.skipif(os.name == "nt", reason="a script is no program there")
@pytest.mark.parametrize("status", [0, 3])
def test_embedding_atlas_is_started(home, monkeypatch, status):
    program = home / "bin" / "embedding-atlas"
    program.parent.mkdir()
    program.write_text(
        f'#!/bin/sh\nprintf "%s\\n" "$@" > {home}/argv\ncp "$1" {home}/copy\nexit {status}\n'
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(program.parent), prepend=os.pathsep)
    assert run("explore", "t")[0] == status
    path, *options = Path("argv").read_text().splitlines()
    assert options == ["--text", "token", "--x", "x", "--y", "y", "--neighbors", "neighbors"]
    assert not os.path.exists(path)  # it was for this run alone
    assert parquet.read_table("copy").num_rows == 49
    assert run("explore", "t", "-o", "w.parquet")[0] == status
    assert Path("argv").read_text().splitlines()[0] == str(home / "w.parquet")
    assert Path("w.parquet").exists()


def test_without_embedding_atlas(home, monkeypatch):
    monkeypatch.setenv("PATH", str(home))
    monkeypatch.setattr(sys, "executable", str(home / "python"))
    code, out, err = run("explore", "t", "-o", "w.parquet")
    assert (code, out) == (1, "")
    assert "shardwise[explore]" in err
    assert "--no-open" in err
    assert not Path("w.parquet").exists()
