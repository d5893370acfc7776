"""Files: reading text and binary vectors, opening, cold lookups, writes in place."""

import mmap
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from numpy.typing import NDArray

import shardwise
from shardwise import formats

from ..harness import Case, Contender, Target, equals
from ..lineup import NOT_INSTALLED, Setting
from ..peers import imported

CONVERT = "convert to a table"
READ = "Vectors.from_file"
GENSIM = "gensim load_word2vec_format"
PANDAS = "pandas read_csv, C engine"
MEMMAP = "numpy.memmap[ids]"

Floats = NDArray[np.float32]


def cases(setting: Setting) -> Iterator[Case]:
    words = 20_000 if setting.quick else 400_000
    with tempfile.TemporaryDirectory(prefix="shardwise-benchmark-") as folder:
        place = Path(folder)
        rows = real_vectors(words, 300)
        tokens = [f"{word}{k}" for k, word in enumerate(real_words(words))]
        write(place / "glove.txt", tokens, rows, "glove")
        write(place / "vectors.bin", tokens, rows, "word2vec-binary")
        yield text(place, tokens, rows)
        (place / "glove.txt").unlink()
        yield binary(place, tokens, rows)
        (place / "vectors.bin").unlink()
        yield opening(place, tokens, rows)
        yield cold(place, setting, 2_000)
        yield written(place, setting)


def example() -> shardwise.Vectors:
    return shardwise.Vectors.from_file(Path(__file__).parents[2] / "examples" / "novels-3000.bin")


def real_words(count: int) -> list[str]:
    words = list(example().vocabulary)
    return [words[k % len(words)] for k in range(count)]


def real_vectors(rows: int, columns: int) -> Floats:
    """Tile real vectors, add noise, and round them to the five decimals that GloVe prints."""
    rng = np.random.default_rng(20)
    real = example().table.lookup(np.arange(3000))
    array = np.tile(real, (rows // 3000 + 1, columns // 100 + 1))[:rows, :columns]
    noise = rng.normal(0, 0.1, (rows, columns)).astype(np.float32)
    return np.round(array + noise, 5).astype(np.float32)


def write(path: Path, tokens: list[str], rows: Floats, form: str) -> None:
    vocabulary = shardwise.Vocabulary(tokens)
    table = shardwise.Table.from_array(rows)
    formats.write(path, formats.table_source(table, vocabulary), format=form)


def text(place: Path, tokens: list[str], rows: Floats) -> Case:
    """Compare the readers of text. Ours also writes the table, and waits for the disk."""
    path = place / "glove.txt"
    contenders = [*ours(place, path, rows)]
    absent = {}
    gensim, pandas = imported("gensim"), imported("pandas")
    if gensim is None:
        absent[GENSIM] = NOT_INSTALLED
    else:
        statement = "load(path, binary=False, no_header=True).vectors"
        contenders.append(gensims(gensim, statement, path, rows))
    if pandas is None:
        absent[PANDAS] = NOT_INSTALLED
    else:
        statement = (
            'read_csv(path, sep=" ", header=None, index_col=0, quoting=3, engine="c", '
            "dtype=dtype, na_filter=False).to_numpy()"
        )
        dtype = {0: str} | {k: np.float32 for k in range(1, rows.shape[1] + 1)}
        names: dict[str, object] = {"read_csv": pandas.read_csv, "path": path, "dtype": dtype}
        contenders.append(Contender(PANDAS, statement, names, nearly(rows)))
    targets = [Target(GENSIM, CONVERT, at_least=30), Target(PANDAS, CONVERT, at_least=5)]
    size = path.stat().st_size / 1e6
    title = f"text of {rows.shape[0]:,} x {rows.shape[1]}, {size:,.0f} MB"
    note = "gensim's and pandas's decimals may be off by one unit in the last place."
    return Case(title, contenders, CONVERT, targets, absent, note)


def binary(place: Path, tokens: list[str], rows: Floats) -> Case:
    path = place / "vectors.bin"
    contenders = [*ours(place, path, rows)]
    absent = {}
    gensim = imported("gensim")
    if gensim is None:
        absent[GENSIM] = NOT_INSTALLED
    else:
        contenders.append(gensims(gensim, "load(path, binary=True).vectors", path, rows))
    targets = [Target(GENSIM, CONVERT, at_least=3)]
    title = f"word2vec binary of {rows.shape[0]:,} x {rows.shape[1]}"
    return Case(title, contenders, CONVERT, targets, absent)


def ours(place: Path, path: Path, rows: Floats) -> Iterator[Contender]:
    def check(result: Any) -> bool:
        table = shardwise.Table.open(place / "table", verify=True)
        return result.shape == rows.shape and same(table.lookup(np.arange(len(table))), rows)

    names: dict[str, object] = {
        "convert": shardwise.convert,
        "path": path,
        "table": place / "table",
    }
    statement = "convert(path, table, overwrite=True)"
    yield Contender(CONVERT, statement, names, check, ours=True)
    names = {"Vectors": shardwise.Vectors, "path": path}
    statement = "Vectors.from_file(path).table.shards[0]"
    yield Contender(READ, statement, names, equals(rows), ours=True)


def gensims(gensim: Any, statement: str, path: Path, rows: Floats) -> Contender:
    load = __import__("gensim.models").models.KeyedVectors.load_word2vec_format
    return Contender(GENSIM, statement, {"load": load, "path": str(path)}, nearly(rows))


def nearly(rows: Floats) -> Callable[[Any], bool]:
    def check(result: Any) -> bool:
        return result.shape == rows.shape and bool(np.allclose(result, rows, rtol=2e-7, atol=0))

    return check


def same(found: NDArray[Any], rows: Floats) -> bool:
    return bool(np.array_equal(found, rows))


def opening(place: Path, tokens: list[str], rows: Floats) -> Case:
    """Time how long it takes until a first row is there."""
    path = place / "opened"
    vectors = shardwise.Vectors(shardwise.Table.from_array(rows), shardwise.Vocabulary(tokens))
    vectors.save(path)
    np.save(place / "opened.npy", rows)
    last = tokens[-1]
    contenders = [
        Contender(
            "Vectors.open",
            "Vectors.open(path)[last]",
            {"Vectors": shardwise.Vectors, "path": path, "last": last},
            equals(rows[-1]),
            ours=True,
        ),
        Contender(
            "numpy.load, mapped",
            'np.array(np.load(path, mmap_mode="r")[-1])',
            {"np": np, "path": place / "opened.npy"},
            equals(rows[-1]),
        ),
    ]
    note = "numpy.load opens the rows alone, ours the words too."
    return Case(f"open, {len(tokens):,} words, one row", contenders, "Vectors.open", note=note)


def cold(place: Path, setting: Setting, count: int) -> Case:
    """Compare lookups of rows that are not in memory: the files are dropped from it each time."""
    rows = 200_000 if setting.quick else 8_000_000
    path = place / "cold"
    first = shardwise.initializers.uniform(seed=3)
    shardwise.Table.create(path, rows, 64, initializer=first).close()
    ids = np.random.default_rng(4).integers(0, rows, count)
    expected = shardwise.Table.open(path).lookup(ids)
    files = sorted(path.glob("weight-*"))
    (begin,) = {file.stat().st_size - rows * 256 for file in files}
    held = SimpleNamespace()

    def forget() -> None:
        held.__dict__.clear()  # what is mapped cannot be dropped
        for file in files:
            with file.open("rb+") as opened:
                os.fsync(opened.fileno())
                os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)

    def open_table() -> None:
        forget()
        held.table = shardwise.Table.open(path)

    def open_memmap() -> None:
        forget()
        held.array = np.memmap(files[0], np.float32, "r", begin, (rows, 64))

    def open_random() -> None:
        open_memmap()
        with suppress(AttributeError):
            held.array._mmap.madvise(mmap.MADV_RANDOM)

    names: dict[str, object] = {"held": held, "ids": ids}
    check = equals(expected)
    look = "held.table.lookup(ids)"
    contenders = [
        Contender("table.lookup", look, names, check, ours=True, before=open_table),
        Contender(
            "prefetch, then lookup",
            "(held.table.prefetch(ids), held.table.lookup(ids))[1]",
            names,
            check,
            ours=True,
            before=open_table,
        ),
        Contender(MEMMAP, "held.array[ids]", names, check, before=open_memmap),
        Contender(f"{MEMMAP}, MADV_RANDOM", "held.array[ids]", names, check, before=open_random),
    ]
    open_table()  # every first call answers from here
    open_memmap()
    targets = [
        Target(MEMMAP, "prefetch, then lookup", at_least=3),
        Target(f"{MEMMAP}, MADV_RANDOM", "prefetch, then lookup", at_least=3),
    ]
    held.table = shardwise.Table.open(path)
    title = f"cold lookup: {rows:,} x 64 float32 on disk, {count:,} ids"
    return Case(title, contenders, "prefetch, then lookup", targets)


def written(place: Path, setting: Setting) -> Case:
    """Compare writes of rows in place, where all pages are in memory."""
    rows, count = (100_000, 10_000) if setting.quick else (2_000_000, 200_000)
    shutil.rmtree(place / "written", ignore_errors=True)
    table = shardwise.Table.create(place / "written", rows, 64, initializer="uniform")
    memmap = np.lib.format.open_memmap(place / "written.npy", "w+", np.float32, (rows, 64))
    memmap[:] = 0
    rng = np.random.default_rng(6)
    ids = rng.permutation(rows)[:count]
    values = rng.random((count, 64), dtype=np.float32)
    memory = shardwise.Table.from_array(np.zeros((rows, 64), np.float32))
    array = np.zeros((rows, 64), np.float32)
    contenders = []
    for name, target, is_ours in (
        ('table.write, mode "r+"', table, True),
        ("table.write, in memory", memory, True),
        ("numpy.memmap[ids] = rows", memmap, False),
        ("numpy array[ids] = rows", array, False),
    ):
        names: dict[str, object] = {"target": target, "ids": ids, "values": values}
        statement = "target.write(ids, values)" if is_ours else "target.__setitem__(ids, values)"

        def check(_: Any, target: Any = target) -> bool:
            return same(target[ids], values)

        contenders.append(Contender(name, statement, names, check, ours=is_ours))
    note = 'Mode "r+" writes each row by a system call, so that a kill tears none.'
    title = f"write {count:,} of {rows:,} x 64 rows"
    return Case(title, contenders, "table.write, in memory", note=note)
