import ml_dtypes
import numpy as np
import pytest

import shardwise.words._compare as compare
import shardwise.words._remake as remake
from shardwise import (
    MissingLibraryError,
    OptionError,
    Table,
    TableError,
    UnknownTokenError,
    Vectors,
    Vocabulary,
)

RNG = np.random.default_rng(6)
NAMES = [f"w{i}" for i in range(40)]


def made(rows, tokens=None, shards=1, **policies):
    tokens = [f"w{i}" for i in range(len(rows))] if tokens is None else tokens
    return Vectors(Table.from_array(rows, shards), Vocabulary(tokens, **policies))


def turned(dim):
    """Any orthogonal matrix."""
    return np.linalg.qr(RNG.standard_normal((dim, dim)))[0]


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    monkeypatch.setattr(remake, "_BLOCK_BYTES", 300)
    monkeypatch.setattr(compare, "_TOKENS", 7)


# ---- align ----

NUMBERS = np.arange(24.0).reshape(8, 3)
LEFT, RIGHT = np.sin(NUMBERS * 1.7 + 0.3).round(3), np.cos(NUMBERS * 0.9 + 1).round(3)
# Made with scipy.linalg.orthogonal_procrustes (SciPy 1.17) of LEFT and RIGHT, and of the same
# without their means.
SCIPY = [
    [0.22035901112299325, -0.9682720823644407, -0.11786042902741568],
    [-0.6668208067997072, -0.23772540376953252, 0.7062836852296681],
    [0.7118931927163542, 0.07704418807569197, 0.6980489060573573],
]
SCIPY_CENTERED = [
    [0.25136774550158003, -0.9583095396027429, -0.13585684681984872],
    [-0.6840071049065232, -0.27519190308552216, 0.6755765662850991],
    [0.6847981724266278, 0.07689110990581015, 0.7246649020468723],
]


def test_the_rotation_is_that_of_scipy():
    aligned = made(LEFT).align(made(RIGHT))
    assert aligned.rotation == pytest.approx(np.array(SCIPY), abs=1e-12)
    assert aligned.vectors[["w3", "w7"]] == pytest.approx((LEFT @ SCIPY)[[3, 7]])
    assert (aligned.offset == 0).all()
    assert aligned.shared == 8
    before, after = LEFT - RIGHT, LEFT @ SCIPY - RIGHT
    assert aligned.before == pytest.approx(np.linalg.norm(before) / 8**0.5)
    assert aligned.after == pytest.approx(np.linalg.norm(after) / 8**0.5)
    centered = made(LEFT).align(made(RIGHT), center=True)
    assert centered.rotation == pytest.approx(np.array(SCIPY_CENTERED), abs=1e-12)
    rows = (LEFT - LEFT.mean(axis=0)) @ SCIPY_CENTERED + RIGHT.mean(axis=0)
    assert centered.vectors.table[np.arange(8)] == pytest.approx(rows)
    assert LEFT @ centered.rotation + centered.offset == pytest.approx(rows)
    assert centered.after == pytest.approx(np.linalg.norm(rows - RIGHT) / 8**0.5)
    assert centered.after < aligned.after < aligned.before


@pytest.mark.parametrize("shards", [1, 3])
@pytest.mark.parametrize("dtype", ["f2", "bfloat16", "f4", ">f4", "f8"])
def test_what_was_turned_is_turned_back(dtype, shards, tmp_path):
    kind = ml_dtypes.bfloat16 if dtype == "bfloat16" else np.dtype(dtype)
    rows = RNG.standard_normal((43, 6)).astype(kind)
    rotation = turned(6)
    # Other tokens, in another order, and one that only the reference has.
    order = RNG.permutation(40)
    there = (rows.astype("f8") @ rotation)[[*order, 0]]
    reference = made(there, [*(f"w{i}" for i in order), "other"], 2)
    vectors = made(rows, NAMES, shards)
    if dtype != ">f4":
        vectors.save(tmp_path / "t")
        vectors = Vectors.open(tmp_path / "t")
    aligned = vectors.align(reference)
    assert aligned.rotation == pytest.approx(rotation, abs=1e-9)
    assert aligned.shared == 40
    assert aligned.after == pytest.approx(0, abs=1e-6)
    table = aligned.vectors.table
    assert table.dtype == (np.float64 if dtype == "f8" else np.float32)
    assert table.partition == vectors.table.partition
    # Rows without a token are turned too.
    assert table[np.arange(43)] == pytest.approx(rows.astype("f8") @ rotation, abs=1e-5)
    assert aligned.vectors.vocabulary == vectors.vocabulary
    few = vectors.align(reference, tokens=[*NAMES[:9], "w3"])
    assert few.shared == 9
    assert few.rotation == pytest.approx(rotation, abs=1e-9)


def test_rows_of_rank_two_are_turned_as_one():
    rows = RNG.standard_normal((9, 2, 3))
    rotation = turned(6)
    there = (rows.reshape(9, 6) @ rotation).reshape(9, 2, 3)
    aligned = made(rows).align(made(there))
    assert aligned.vectors.table[np.arange(9)] == pytest.approx(there)


def test_what_cannot_be_aligned():
    rows = RNG.standard_normal((4, 2))
    vectors = made(rows)
    with pytest.raises(TableError, match=r"rows of one shape, got \(2,\) and, of reference, \(3,"):
        vectors.align(made(np.zeros((4, 3))))
    with pytest.raises(TableError, match="expected reference as Vectors, got Table"):
        vectors.align(vectors.table)
    with pytest.raises(TableError, match="floating-point numbers to align, got int8"):
        vectors.align(made(np.ones((4, 2), "i1")))
    with pytest.raises(TableError, match="floating-point numbers to align, got int8"):
        made(np.ones((4, 2), "i1")).align(vectors)
    with pytest.raises(TableError, match="tokens that both vectors have"):
        vectors.align(made(rows, list("abcd")))
    with pytest.raises(TableError, match="tokens that both vectors have"):
        vectors.align(vectors, tokens=[])
    with pytest.raises(UnknownTokenError, match=r"tokens of the other vectors, got 1 .* 'w3'"):
        vectors.align(made(rows[:3]), tokens=["w1", "w3"])
    with pytest.raises(UnknownTokenError, match=r"tokens of these vectors, got 1 .* 'x'"):
        vectors.align(vectors, tokens=["x"])
    for wrong in (np.nan, np.inf):
        broken = rows.copy()
        broken[2, 1] = wrong
        for a, b in ((rows, broken), (broken, rows)):
            with pytest.raises(TableError, match="of the rows of 'w2'; leave such tokens out"):
                made(a).align(made(b))
            assert made(a).align(made(b), tokens=["w0", "w1", "w3"]).shared == 3
    with pytest.raises(TableError, match="scale the rows down"):
        made(rows * 1e200).align(vectors)


# ---- drift ----


@pytest.mark.parametrize("shards", [1, 3])
@pytest.mark.parametrize("dtype", ["f2", "bfloat16", "f4", "f8", "i1"])
def test_drift_is_that_of_numpy(dtype, shards):
    kind = ml_dtypes.bfloat16 if dtype == "bfloat16" else np.dtype(dtype)
    a, b = (20 * RNG.standard_normal((2, 40, 5))).astype(kind)
    order = RNG.permutation(40)
    found = made(a, shards=shards).drift(made(b[order], [f"w{i}" for i in order]))
    a, b = a.astype("f8"), b.astype("f8")
    norms = [np.linalg.norm(rows, axis=1) for rows in (a, b)]
    cosines = (a * b).sum(axis=1) / (norms[0] * norms[1])
    wanted = np.argsort(cosines, kind="stable")
    assert [d.token for d in found] == [f"w{i}" for i in wanted]
    assert [d.cosine for d in found] == pytest.approx(cosines[wanted])
    assert [d.distance for d in found] == pytest.approx(np.linalg.norm(a - b, axis=1)[wanted])
    assert [d.norm for d in found] == pytest.approx(norms[0][wanted])
    assert [d.other_norm for d in found] == pytest.approx(norms[1][wanted])
    assert {d.overlap for d in found} == {None}


def test_which_drift_is_given():
    a = made(np.array([[1.0, 0], [0, 1], [3, 4], [5, 0]]), list("abcd"))
    b = made(np.array([[0.0, 1], [5, 0], [3, 4], [1, 1]]), list("adcx"))
    assert [d.token for d in a.drift(b)] == ["a", "c", "d"]
    assert a.drift(b, topn=1) == a.drift(b)[:1]
    assert a.drift(b, topn=0) == a.drift(made(np.ones((1, 2)), ["q"])) == []
    assert [d.token for d in a.drift(b, tokens=["c", "a", "c"])] == ["a", "c"]
    assert a.drift(b, tokens="c")[0].cosine == 1.0
    calls = []
    a.drift(b, progress=lambda done, total: calls.append((done, total)))
    assert calls[-1] == (3, 3)
    with pytest.raises(UnknownTokenError, match="other vectors, got 1 that are not: 'b'"):
        a.drift(b, tokens=["b"])
    for wrong in ({"topn": -1}, {"topn": True}, {"neighbours": 0.5}):
        with pytest.raises(OptionError, match=f"expected {next(iter(wrong))} as a number from 0"):
            a.drift(b, **wrong)
    with pytest.raises(TableError, match="real numbers"):
        made(np.array([[b"x"]])).drift(made(np.array([[b"x"]])))


def test_drift_of_rows_without_a_direction_and_of_huge_values():
    large = np.finfo("f8").max
    a = np.array([[0, 0], [0, 0], [1, 0], [1, 0], [large, large], [np.nan, 0], [1, 0]])
    b = np.array([[0, 0], [1, 0], [np.nan, 0], [np.inf, 0], [large, 0], [np.nan, 0], [2, 0]])
    found = {d.token: d for d in made(a).drift(made(b))}
    assert list(found) == ["w3", "w2", "w5", "w1", "w4", "w6", "w0"]
    assert found["w0"][1:5] == (1, 0, 0, 0)
    assert found["w1"][1:5] == (0, 1, 0, 1)
    assert found["w3"][1:5] == (0, np.inf, 1, np.inf)
    assert found["w4"].cosine == pytest.approx(0.5**0.5)
    assert found["w4"].distance == large
    assert np.isnan(found["w2"].distance)
    assert found["w6"][1:5] == (1, 1, 1, 2)


def test_the_overlap_of_neighbours():
    rows = RNG.standard_normal((30, 6)).astype("f4")
    moved = rows + RNG.standard_normal((30, 6)).astype("f4") / 2
    a, b = made(rows), made(moved[:25])
    found = a.drift(b, topn=6, neighbours=4)
    assert len(found) == 6
    for token, *_, overlap in found:
        one, other = ({n.token for n in v.most_similar(token, topn=4)} for v in (a, b))
        assert overlap == len(one & other) / len(one | other)
    assert {d.overlap for d in a.drift(a, neighbours=4)} == {1.0}
    # A turned table has the same neighbours.
    assert {d.overlap for d in a.drift(made(rows @ turned(6)), neighbours=3)} == {1.0}
    assert made(rows[:1]).drift(made(rows[:1]), neighbours=3)[0].overlap == 1.0


def test_aliases_are_compared_by_name():
    a = made(np.eye(2), ["x", "y"], aliases={"z": "x"})
    b = made(np.eye(3)[:, :2], ["z", "x", "q"], aliases={"y": "z"})
    assert [(d.token, d.cosine) for d in a.drift(b)] == [("x", 0.0), ("y", 0.0)]
    assert [(d.token, d.cosine) for d in a.drift(b, tokens=["z", "y"])] == [("y", 0), ("z", 1)]


def test_drift_without_pandas(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "pandas", None)
    vectors = made(np.eye(2))
    with pytest.raises(MissingLibraryError, match=r'pip install "shardwise\[pandas\]"'):
        vectors.drift(vectors, as_frame=True)
