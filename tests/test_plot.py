"""Words in the plane, and pictures of them."""

import json
import sys
import types
import xml.etree.ElementTree
from itertools import combinations

import numpy as np
import pytest
from typer.testing import CliRunner

from shardwise import MissingLibraryError, OptionError, Table, Vectors, Vocabulary
from shardwise.cli import app
from shardwise.pictures._picture import MOST_WORDS, PICTURES, _plain_style, draw, label, lay_out
from shardwise.pictures._projection import project

RANDOM = np.random.default_rng(3)
WORDS = [f"{'word' * (i % 4)}{i}" for i in range(80)]
ROWS = RANDOM.standard_normal((80, 10)).astype(np.float32)
ODD = ["$a_b$", "a^b_", "日本", "\U0001f600", "", " ", "\0x", "\n", "\udcff", "x" * 1000]
ODD += ["日" * 1000, "-->", "&<", "\u0301", "$x", "مرحبا"]


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Vectors(Table.from_array(ROWS, 2), Vocabulary(WORDS)).save("t")
    return tmp_path


def run(*arguments, sent=b""):
    result = CliRunner().invoke(app, [str(argument) for argument in arguments], input=sent)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.stdout, result.stderr


# --- projection


@pytest.mark.parametrize("shape", [(60, 7), (7, 60), (3000, 5), (10, 2), (4, 2, 3)])
def test_pca_is_the_singular_value_decomposition(shape):
    rows = np.random.default_rng(1).standard_normal(shape) + 5
    flat = rows.reshape(len(rows), -1)
    centred = flat - flat.mean(axis=0)
    axes = np.linalg.svd(centred, full_matrices=False)[2][:2]
    axes *= np.sign(axes[np.arange(2), np.abs(axes).argmax(axis=1)])[:, None]
    assert np.allclose(project(rows), centred @ axes.T, rtol=0, atol=1e-12)


def test_pca_of_blocks(monkeypatch):
    rows = RANDOM.standard_normal((100, 6))
    expected = project(rows)
    monkeypatch.setattr("shardwise.pictures._projection._VALUES", 42)
    assert np.allclose(project(rows), expected, rtol=0, atol=1e-12)


def test_pca_of_what_does_not_differ():
    assert project(np.ones((1, 5))).tolist() == [[0, 0]]
    assert not project(np.full((3, 5), 0.1)).any()
    assert not project(np.zeros((3, 0))).any()
    assert project(np.ones((0, 5))).shape == (0, 2)
    line = project(np.arange(12.0).reshape(4, 3))
    assert np.allclose(np.diff(line[:, 0]), np.sqrt(27))
    assert not line[:, 1].any()


@pytest.mark.parametrize("scale", [1e300, 1e-300])
def test_pca_of_values_whose_squares_no_float_holds(scale):
    rows = RANDOM.standard_normal((20, 4))
    assert np.allclose(project(rows * scale) / scale, project(rows), rtol=1e-9)


def test_rows_that_are_not_finite_have_no_place():
    rows = RANDOM.standard_normal((9, 4)).astype(np.float32)
    rows[2, 1], rows[5, 0] = np.nan, -np.inf
    found = project(rows)
    keep = [0, 1, 3, 4, 6, 7, 8]
    assert np.isnan(found[[2, 5]]).all()
    assert np.allclose(found[keep], project(rows[keep]))
    assert np.isnan(project(rows[[2, 2]])).all()


def test_methods(monkeypatch):
    with pytest.raises(OptionError, match="'tsne'"):
        project(ROWS, "tsne")
    monkeypatch.setitem(sys.modules, "umap", None)
    with pytest.raises(MissingLibraryError, match=r"shardwise\[umap\]"):
        project(ROWS, "umap")


def test_umap_is_asked_for_a_plane(monkeypatch):
    asked = []

    class Model:
        def __init__(self, **options):
            asked.append(options)

        def fit_transform(self, rows):
            assert (rows.dtype, np.isfinite(rows).all()) == (np.float32, True)
            return rows[:, :2]

    monkeypatch.setitem(sys.modules, "umap", types.SimpleNamespace(UMAP=Model))
    rows = ROWS[:10].astype(np.float64) * 1e200
    rows[4] = np.nan
    found = project(rows, "umap")
    assert np.isnan(found[4]).all()
    assert np.isfinite(np.delete(found, 4, axis=0)).all()
    assert (asked[0]["n_neighbors"], asked[0]["metric"], asked[0]["random_state"]) == (
        8,
        "cosine",
        0,
    )
    with pytest.raises(OptionError, match="at least 4"):
        project(ROWS[:3], "umap")


# --- the picture


def boxes(figure):
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(figure)
    (axes,) = figure.axes
    with _plain_style():
        canvas.draw()
        found = [text.get_window_extent(canvas.get_renderer()) for text in axes.texts]
    return found, figure.bbox


def check_apart(figure, count):
    found, canvas = boxes(figure)
    assert len(found) == count
    for box in found:
        assert canvas.x0 <= box.x0 < box.x1 <= canvas.x1
        assert canvas.y0 <= box.y0 < box.y1 <= canvas.y1
    for one, other in combinations(found, 2):
        assert not one.overlaps(other)


@pytest.mark.parametrize("dpi", [72, 100, 150])
def test_labels_do_not_overlap(dpi):
    pytest.importorskip("matplotlib")
    figure, missing = lay_out(project(ROWS[:60]), WORDS[:60], [i % 3 > 0 for i in range(60)])
    figure.set_dpi(dpi)
    check_apart(figure, 60)
    assert missing == []


@pytest.mark.parametrize(
    "points",
    [
        np.zeros((60, 2)),
        np.repeat([[0.0, 0.0], [1.0, 1.0]], 30, axis=0),
        np.vstack([np.zeros((59, 2)), [[1e308, -1e308]]]),
        np.vstack([np.zeros((58, 2)), [[1.7e308, 0], [-1.7e308, 0]]]),
        np.linspace(0, 5e-324, 120).reshape(60, 2),
    ],
    ids=["equal", "two", "far", "very far", "near"],
)
def test_labels_of_dots_that_crowd(points):
    pytest.importorskip("matplotlib")
    check_apart(lay_out(points, WORDS[:60], [True] * 60)[0], 60)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("form", PICTURES)
def test_odd_labels(form):
    pytest.importorskip("matplotlib")
    points = np.zeros((len(ODD), 2))
    points[0] = 1
    picture, missing = draw(points, ODD, [True] * len(ODD), form)
    assert "$a_b$" not in missing
    assert picture == draw(points, ODD, [True] * len(ODD), form)[0]
    if form == ".svg":
        xml.etree.ElementTree.fromstring(picture)
    check_apart(lay_out(points, ODD, [True] * len(ODD))[0], len(ODD))


def test_what_is_written_for_a_token():
    assert label("king") == "king"
    assert [label("\n"), label("a\0"), label("\udcff")] == ["\\n", "a\\x00", "\\udcff"]
    assert [label(""), label(" ")] == ['""', '" "']
    assert label("x" * 1000) == "x" * 39 + "…"
    assert len(label("\0" * 1000)) == 80


def test_few_and_many_words():
    pytest.importorskip("matplotlib")
    check_apart(lay_out(np.zeros((1, 2)), ["one"], [True])[0], 1)
    with pytest.raises(OptionError, match="explore"):
        lay_out(np.zeros((MOST_WORDS + 1, 2)), ["x"] * (MOST_WORDS + 1), [True] * (MOST_WORDS + 1))


def test_own_settings_change_nothing():
    matplotlib = pytest.importorskip("matplotlib")
    points = project(ROWS[:5])
    before = draw(points, WORDS[:5], [True] * 5, ".svg")
    with matplotlib.rc_context({"font.size": 30, "svg.hashsalt": "other", "axes.facecolor": "red"}):
        assert draw(points, WORDS[:5], [True] * 5, ".svg") == before
        assert matplotlib.rcParams["font.size"] == 30


# --- the command


@pytest.mark.parametrize(
    ("name", "head"), [("p.png", b"\x89PNG"), ("p.SVG", b"<?xml"), ("p.pdf", b"%PDF")]
)
def test_plot(home, name, head):
    pytest.importorskip("matplotlib")
    code, out, err = run("plot", "t", *WORDS[:9], "-o", name)
    assert (code, out, err) == (0, f"{name}: 9 words by pca\n", "")
    before = (home / name).read_bytes()
    assert before.startswith(head)
    code, _, err = run("plot", "t", *WORDS[:9], "-o", name)
    assert code == 1
    assert "--overwrite" in err
    assert run("plot", "t", "-o", name, "--overwrite", sent="\n".join(WORDS[:9]))[0] == 0
    assert (home / name).read_bytes() == before


def test_plot_places(home):
    code, out, err = run("plot", "t", *WORDS[:3], WORDS[0], "--neighbours", 4, "--json")
    assert (code, err) == (0, "")
    told = json.loads(out)
    vectors = Vectors.open("t")
    near = [n.token for w in WORDS[:3] for n in vectors.most_similar(w, topn=4)]
    tokens = list(dict.fromkeys(WORDS[:3] + near))
    assert [one["token"] for one in told] == tokens
    assert [one["asked"] for one in told] == [t in WORDS[:3] for t in tokens]
    assert [[one["x"], one["y"]] for one in told] == project(vectors.lookup(tokens)).tolist()


def test_plot_leaves_out_what_has_no_place(home):
    rows = ROWS[:4].copy()
    rows[1, 3] = np.nan
    Vectors(Table.from_array(rows), Vocabulary(["a", "b\udcff", "c", "d"])).save("nan")
    code, out, err = run("plot", "nan", "a", "b\udcff", "c", "--json")
    assert code == 0
    assert [one["token"] for one in json.loads(out)] == ["a", "c"]
    assert err == "1 word left out, whose row is not finite: 'b\\udcff'\n"
    assert "at least one word" in run("plot", "nan", "b\udcff", "--json")[2]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["t", "word1"], "add -o words.png"),
        (["t", "word1", "-o", "p.gif"], ".png, .svg"),
        (["t", "word1", "-o", "none/p.png"], "expected a directory"),
        (["t", "word1", "-o", "t"], "ends in one of"),
        (["t", "nobody", "-o", "p.png"], "'nobody'"),
        (["t", "word1", "-o", "p.png", "--method", "x"], "'x'"),
        (["t", "word1", "-o", "p.png", "--neighbours", "-1"], "topn"),
        (["none", "word1", "-o", "p.png"], "expected a table at none"),
    ],
)
def test_plot_mistakes(home, arguments, words):
    pytest.importorskip("matplotlib")
    code, out, err = run("plot", *arguments)
    assert (code, out) == (1, "")
    assert words in err
    assert not list(home.glob("*.p*"))


def test_plot_without_matplotlib(home, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    code, out, err = run("plot", "t", WORDS[0], "-o", "p.png")
    assert (code, out) == (1, "")
    assert "shardwise[plot]" in err
