"""The programs in examples/, run on small made-up data."""

import importlib.util
import multiprocessing
import random
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from shardwise import Table, Vectors, Vocabulary, _native
from shardwise.cli import app

ROOT = Path(__file__).parents[1]
NOVELS = ROOT.parent / "shared" / "data" / "novels.txt.xz"


def program(name, needs="torch"):
    pytest.importorskip(needs)
    spec = importlib.util.spec_from_file_location(name, ROOT / "examples" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.filterwarnings("ignore:Sparse invariant checks")  # torch's Adagrad
def test_recommend(tmp_path, capsys):
    """Items come in groups of 30, and a basket is of one group: its rest says which."""
    rng = np.random.default_rng(1)
    groups = rng.integers(0, 10, 1500)
    lines = [rng.choice(30, 6, replace=False) + group * 30 for group in groups]
    path, out = tmp_path / "baskets.dat", tmp_path / "items"
    path.write_text("\n".join(" ".join(f"i{item}" for item in line) for line in lines) + "\ni7\n")
    recommend, rates = program("recommend"), {}
    for peer in (False, True):
        recommend.main(path, out, peer=peer, epochs=4, dim=8, batch=64, drawn=64)
        printed = capsys.readouterr().out
        assert "1,350 baskets of 300 items, 150 held out" in printed
        rates |= {name: float(rate) for rate, name in re.findall(r": (0\.\d+)  (.*)", printed)}
    # Of the 25 items that are left of a group, a model that knows the group has 20 right.
    assert rates["shardwise"] > 0.7 > 0.2 > rates["most popular"]
    assert abs(rates["shardwise"] - rates["torch.nn"]) < 0.05
    shardwise = [sys.executable, "-c", "from shardwise.cli import app; app()"]
    found = subprocess.run([*shardwise, "lookup", out, "i7"], capture_output=True, text=True)
    assert len(found.stdout.split()) == 1 + 8, found.stderr


@pytest.mark.parametrize("fused", [False, True])
def test_next_word(fused, tmp_path, capsys):
    rng = np.random.default_rng(1)
    path = tmp_path / "text.txt"
    path.write_text(" ".join(f"w{word}" for word in rng.zipf(1.3, 5000) % 100))
    program("next_word").main(
        path, steps=20, size=60, dim=8, hidden=16, batch=8, length=10, fused=fused
    )
    printed = capsys.readouterr().out
    assert "5,000 words, 60 of them distinct" in printed
    losses = re.findall(r"^ +\d+ +(\d+\.\d+) +(\d+\.\d+)$", printed, re.MULTILINE)
    assert float(losses[-1][0]) < float(losses[0][0])
    assert float(re.search(r"losses: (.*)", printed)[1]) < 1e-5


def test_items_of_baskets(tmp_path):
    """Items of ten kinds, of which a basket has one: the other items tell which."""
    drawn = random.Random(6)
    kinds = [[f"{kind}{k}" for k in range(8)] for kind in "abcdefghij"]
    lines = [" ".join(drawn.sample(drawn.choice(kinds), 4)) for _ in range(3000)]
    path = tmp_path / "baskets.txt"
    path.write_text("\n".join([*lines, "", "alone"]))
    done = subprocess.run(
        [sys.executable, ROOT / "examples" / "baskets.py", path, "--threads", "1"],
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert (done.returncode, done.stderr) == (0, "")
    first, *items, last = done.stdout.splitlines()
    assert first == "80 items of 2702 baskets"
    assert len(items) == 10
    for item in items:
        name, *near = re.findall(r"[a-j]\d", item)
        assert all(other[0] == name[0] for other in near[:5])
    ours, baseline = map(float, re.findall(r"([\d.]+)%", last))
    assert ours > 95
    assert baseline < 30


@pytest.fixture
def novels(tmp_path):
    """A table of words, and Parquet files with some of them, and with others."""
    arrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    words = [f"w{k}" for k in range(1000)]
    rows = np.random.default_rng(1).standard_normal((1000, 8)).astype(np.float32)
    vectors = Vectors(Table.from_array(rows, 4), Vocabulary(words))
    vectors.save(tmp_path / "novels")
    (tmp_path / "words").mkdir()
    asked = random.Random(1).choices([*words, "nobody", "knows", ""], k=3000)
    for k in range(3):
        part = arrow.table({"word": asked[k::3], "line": range(1000)})
        parquet.write_table(part, tmp_path / "words" / f"{k}.parquet")
    return tmp_path, vectors, asked


def holds(worker):
    """Keep what a process of a pool works with: what an actor of Ray's is."""
    holds.worker = worker[0](*worker[1:])


def mapped(batch):
    return holds.worker(batch)


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")  # other tests' threads
def test_ray_lookup_maps_batches_in_processes(novels):
    """What its workers do, in processes of their own; the engine is not here."""
    from pyarrow import parquet

    folder, vectors, asked = novels
    example = program("ray_lookup", needs="pyarrow")
    batches = []
    for k in range(3):
        table = parquet.read_table(folder / "words" / f"{k}.parquet")
        columns = {name: table[name].to_numpy() for name in table.column_names}
        batches += [{n: c[at : at + 300] for n, c in columns.items()} for at in range(0, 1000, 300)]
    context = multiprocessing.get_context("fork")
    job = (example.LookUp, str(folder / "novels"))
    with context.Pool(2, initializer=holds, initargs=(job,)) as pool:
        made = pool.map(mapped, batches)
    for batch, found in zip(batches, made, strict=True):
        assert list(found) == ["word", "line", "vector"]
        assert (found["line"] == batch["line"]).all()
        expected = vectors.lookup([str(word) for word in batch["word"]], unknown="zeros")
        assert np.array_equal(found["vector"], expected)
    assert sum((found["vector"] == 0).all(axis=1).sum() for found in made) == sum(
        word not in vectors.vocabulary for word in asked
    )


def test_ray_lookup(novels):
    """The whole of it, where Ray is installed."""
    pytest.importorskip("ray")
    from pyarrow import parquet

    folder, vectors, asked = novels
    command = [sys.executable, ROOT / "examples" / "ray_lookup.py"]
    arguments = [folder / "novels", folder / "words", folder / "out"]
    done = subprocess.run([*command, *arguments], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    found = parquet.read_table(folder / "out")
    assert sorted(found["word"].to_pylist()) == sorted(asked)
    expected = vectors.lookup(found["word"].to_pylist(), unknown="zeros")
    assert np.array_equal(np.stack(found["vector"].to_numpy()), expected)


@pytest.mark.parametrize(
    "text", [ROOT / "examples" / "novels-excerpt.txt.xz", NOVELS], ids=["excerpt", "novels"]
)
def test_the_table_is_remade(text, tmp_path, monkeypatch):
    """By the commands that the page gives: of the excerpt a table like it, of all novels it."""
    if not text.exists():
        pytest.skip("needs the shared data")
    page = (ROOT / "examples" / "README.md").read_text()
    monkeypatch.chdir(tmp_path)
    Path("novels.txt.xz").symlink_to(text)
    for pattern in (r"^    shardwise (train novels\..*)$", r"^    shardwise (convert trained .*)$"):
        (command,) = re.findall(pattern, page, re.MULTILINE)
        app(shlex.split(command), standalone_mode=False)
    made = Path("novels-3000.bin")
    there = ROOT / "examples" / made
    assert made.stat().st_size == pytest.approx(there.stat().st_size, rel=0.01)
    if text != NOVELS:
        assert Vectors.from_file(made).table.shape == (3000, 100)
        return
    ours, theirs = (Vectors.from_file(path) for path in (made, there))
    assert list(ours) == list(theirs)
    np.testing.assert_allclose(ours.lookup(list(ours)), theirs.lookup(list(theirs)), atol=1e-3)
    if _native.isa() in ("x86-64-v3", "x86-64-v4"):  # others may round products
        assert made.read_bytes() == there.read_bytes()
