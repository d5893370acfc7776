import json
import math
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from shardwise import FormatError, Table, Vectors, Vocabulary
from shardwise.cli import app

DATA = Path(__file__).parents[2] / "shared" / "data"
WORDS = ["King", "man", "queen", "woman", "MAN", "sea"]
# In two dimensions, so that king - man + woman is queen.
ROWS = np.array([[1, 1], [1, 0.2], [0.2, 1], [-0.6, 1], [0, -1], [1, -1]])


@pytest.fixture
def vectors():
    return Vectors(Table.from_array(ROWS, 2), Vocabulary(WORDS))


def cosine(a, b):
    return a @ b / np.linalg.norm(a) / np.linalg.norm(b)


def write(path, text):
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def test_pairs(vectors, tmp_path):
    path = write(
        tmp_path / "pairs",
        "word1\tword2\tscore\n# a remark\n\nking\tman\t9.0\tmore\nQueen Woman 7\nman sea 7\n"
        "king ship 1\nsea woman 0\n\xff x nan\n".encode("latin-1"),
    )
    found = vectors.evaluate_pairs(path)
    assert (found.pairs, found.unknown, found.skipped) == (4, 1, 2)
    assert found.unknown_share == 0.2
    gold = np.array([9, 7, 7, 0])
    near = np.array([cosine(ROWS[a], ROWS[b]) for a, b in ((0, 1), (2, 3), (1, 5), (5, 3))])
    assert found.pearson == pytest.approx(np.corrcoef(gold, near)[0, 1])
    ranks = 1 + np.argsort(np.argsort(near))
    assert found.spearman == pytest.approx(np.corrcoef([4, 2.5, 2.5, 1], ranks)[0, 1])


def test_pairs_with_case(vectors, tmp_path):
    path = write(tmp_path / "pairs", "king man 1\nKing man 2\nMAN sea 3\nwoman sea 4\n")
    assert vectors.evaluate_pairs(path, case_insensitive=False).pairs == 3
    assert vectors.evaluate_pairs(path).pairs == 4
    assert vectors.evaluate_pairs(path, restrict=2).pairs == 2


def test_pairs_that_say_nothing(vectors, tmp_path):
    path = write(tmp_path / "pairs", "a b 1\nking man 1\n")
    found = vectors.evaluate_pairs(path)
    assert found.pairs == 1
    assert math.isnan(found.pearson)
    assert math.isnan(found.spearman)
    with pytest.raises(FormatError, match="two words and a score"):
        vectors.evaluate_pairs(write(tmp_path / "none", "a b\n"))


def test_analogies(vectors, tmp_path):
    path = write(
        tmp_path / "questions",
        ": family\nman king woman queen\nman king woman sea\nman king woman ship\n"
        ": empty\n: other\nbroken line\nking man queen queen\n",
    )
    found = vectors.evaluate_analogies(path)
    assert found.skipped == 1
    assert found.sections == (("family", 1, 2, 1), ("empty", 0, 0, 0), ("other", 0, 1, 0))
    assert found.total == ("total", 1, 3, 1)
    assert found.sections[0].accuracy == 0.5
    assert found.sections[1].accuracy == 0.0
    exact = vectors.evaluate_analogies(path, case_insensitive=False)
    assert exact.total == ("total", 0, 0, 4)
    with pytest.raises(FormatError, match="four words"):
        vectors.evaluate_analogies(write(tmp_path / "none", ": a\n"))


def test_command(vectors, tmp_path):
    vectors.save(tmp_path / "t")
    pairs = write(tmp_path / "pairs", "king man 1\n")
    questions = write(tmp_path / "questions", ": family\nman king woman queen\n")
    command = [
        "evaluate",
        str(tmp_path / "t"),
        "--pairs",
        str(pairs),
        "--analogies",
        str(questions),
    ]
    result = CliRunner().invoke(app, [*command, "--json"])
    assert result.exit_code == 0
    one, two = json.loads(result.stdout)
    assert one["pairs"] == 1
    assert one["pearson"] is None
    assert two["total"]["accuracy"] == 1.0
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0
    assert "100.0 %" in result.stdout
    assert CliRunner().invoke(app, command[:2]).exit_code == 1


# What gensim 4.4 says of the same files.
GENSIM = {
    "ws353": (0.497896, 0.483251, 20.9632),
    "bruni_men": (0.572639, 0.574096, 14.9333),
    "SimLex999": (0.351233, 0.328077, 5.7057),
    "luong_rare": (0.372986, 0.355182, 66.1259),
    "radinsky_mturk": (0.375625, 0.371558, 25.4355),
}


@pytest.mark.skipif(not DATA.exists(), reason="needs the shared data")
def test_same_figures_as_gensim():
    vectors = Vectors.from_file(DATA / "vectors" / "novels-100d.bin")
    for name, (pearson, spearman, unknown) in GENSIM.items():
        found = vectors.evaluate_pairs(DATA / "evaluation" / f"{name}.txt")
        got = (found.pearson, found.spearman, 100 * found.unknown_share)
        assert got == pytest.approx((pearson, spearman, unknown), abs=1e-4)
    total = vectors.evaluate_analogies(DATA / "evaluation" / "questions-words.txt").total
    assert (total.correct, total.questions) == (2754, 7851)
