import bz2
import contextlib
import gzip
import lzma
import os
import stat
import sys
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shardwise import (
    MissingLibraryError,
    OptionError,
    ShardwiseWarning,
    Table,
    TableExistsError,
    TableNotFoundError,
    Vocabulary,
    VocabularyError,
    formats,
)

DATA = Path(__file__).parents[2] / "shared" / "data" / "vectors"
FILES = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
TOKENS = {"glove": ".txt", "word2vec-text": ".vec", "word2vec-binary": ".bin"}
HUGE = np.float32(3.4028235e38)
SPECIAL = np.array(
    [
        [0.0, -0.0, 1e-45, HUGE],
        [-HUGE, np.inf, -np.inf, np.nan],
        [0.1, 16777217, 1e10, 123456790528],
    ],
    np.float32,
)

values = st.floats(width=32) | st.integers(-(10**6), 10**6).map(float)


def tables(tokens):
    shapes = st.tuples(st.integers(1, 8), st.integers(2, 5))
    return shapes.flatmap(
        lambda shape: st.tuples(
            st.lists(tokens, min_size=shape[0], max_size=shape[0], unique=True),
            st.lists(values, min_size=shape[0] * shape[1], max_size=shape[0] * shape[1]).map(
                lambda flat: np.array(flat, np.float32).reshape(shape)
            ),
        )
    )


def source_of(rows, tokens=None, shards=1):
    rows = np.asarray(rows)
    words = [f"w{i}" for i in range(len(rows))] if tokens is None else tokens
    return formats.table_source(Table.from_array(rows, shards), Vocabulary(words))


def same_bits(a, b):
    """Every bit but those of a NaN beside its sign."""
    both = np.isnan(a) & np.isnan(b)
    bits = a.view(np.uint32) == b.view(np.uint32)
    return bool((bits | (both & (np.signbit(a) == np.signbit(b)))).all())


@pytest.fixture
def path(tmp_path):
    return tmp_path / "vectors"


# ---- what is written is read back ----


@pytest.mark.parametrize("form", TOKENS)
@FILES
@given(table=tables(st.binary(min_size=1, max_size=6)))
def test_round_trip_or_a_refusal(path, form, table):
    tokens, rows = table
    path.unlink(missing_ok=True)
    try:
        formats.write(path, source_of(rows, tokens), format=form)
    except OptionError:
        assert not path.exists()
        # A token that a line has no room for, or a beginning that another format has.
        odd = set(b"".join(tokens)) & set(b"\n\t \r") or any(token.isdigit() for token in tokens)
        assert odd or not tokens[0][:1].islower() or tokens[0][:1] in b"cv"
        return
    source = formats.open(path)
    assert source.format == form
    assert list(source.vocabulary) == list(Vocabulary(tokens))
    assert same_bits(source.read(), rows)


@pytest.mark.parametrize("form", TOKENS)
def test_special_values(path, form):
    formats.write(path, source_of(SPECIAL), format=form)
    assert same_bits(formats.open(path).read(), SPECIAL)


def test_the_bytes(path):
    source = source_of(np.float32([[1, -0.5], [0.1, 1e-9], [np.nan, -np.inf]]), ["a", "b c", "é"])
    formats.write(path, source, format="glove")
    assert path.read_bytes() == "a 1 -0.5\nb c 0.1 1e-09\né nan -inf\n".encode()
    formats.write(path, source, format="word2vec-text", overwrite=True)
    assert path.read_bytes() == "3 2\na 1 -0.5\nb c 0.1 1e-09\né nan -inf\n".encode()
    source = source_of(np.float32([[1, -0.5]]), ["é"])
    formats.write(path, source, format="word2vec-binary", overwrite=True)
    assert path.read_bytes() == "1 2\né ".encode() + np.float32([1, -0.5]).tobytes() + b"\n"


@pytest.mark.parametrize("form", TOKENS)
@pytest.mark.parametrize("shards", [1, 3])
def test_many_blocks(path, form, shards):
    rows = np.random.default_rng(1).standard_normal((30_000, 100)).astype(np.float32)
    calls = []
    formats.write(
        path, source_of(rows, shards=shards), format=form, progress=lambda *x: calls.append(x)
    )
    assert len(calls) == 3
    assert calls[-1] == (30_000, 30_000)
    source = formats.open(path)
    assert np.array_equal(source.read(), rows)
    assert list(source.vocabulary) == [f"w{i}" for i in range(len(rows))]


def test_wide_rows(path):
    rows = np.arange(3 << 20, dtype=np.float32).reshape(2, -1)
    formats.write(path, source_of(rows), format="word2vec-text")
    assert np.array_equal(formats.open(path).read(), rows)


@pytest.mark.parametrize(
    "dtype",
    [
        *("f2", ">f4", "f8", ">f8", "i1", "u1", "i2", "i4", "u4", "i8", "u8", "?"),
        *("bfloat16", "float8_e4m3fn", "float8_e5m2"),
    ],
)
@pytest.mark.parametrize("form", TOKENS)
def test_other_dtypes(path, dtype, form):
    dtype = np.dtype(getattr(ml_dtypes, dtype, None) or dtype)
    rows = np.array([[1, 0], [16, 0]]).astype(dtype)
    formats.write(path, source_of(rows), format=form)
    assert np.array_equal(formats.open(path).read(), rows.astype(np.float32))


@pytest.mark.parametrize("dtype", ["f2", "bfloat16", "float8_e4m3fn"])
def test_every_small_float(path, dtype):
    dtype = np.dtype(getattr(ml_dtypes, dtype, None) or dtype)
    bits = np.arange(1 << 8 * dtype.itemsize, dtype=f"u{dtype.itemsize}")
    rows = bits.view(dtype).reshape(-1, 2)
    formats.write(path, source_of(rows), format="word2vec-text")
    with np.errstate(invalid="ignore"):
        assert np.array_equal(formats.open(path).read(), rows.astype("f4"), equal_nan=True)


@pytest.mark.parametrize(
    ("rows", "got"),
    [
        (np.array([[1.0, 2.0], [3.0, 0.1]]), "0.1 in row 1"),
        (np.array([[1e300, 2.0]]), "1e.300 in row 0"),
        (np.array([[1, 2], [3, 2**24 + 1]]), "16777217 in row 1"),
        (np.array([[2**63 - 1, 2]]), "9223372036854775807 in row 0"),
        (np.array([[2**64 - 1, 2]], np.uint64), "18446744073709551615 in row 0"),
        (np.array([[2**31 - 1, 2]], np.int32), "2147483647 in row 0"),
        (np.array([[1j, 2]]), "rows of complex128"),
        (np.array([["a", "b"]]), "rows of str"),
    ],
)
@pytest.mark.parametrize("form", TOKENS)
def test_values_that_would_change(path, form, rows, got):
    with pytest.raises(OptionError, match=f"float32 can hold, got {got}"):
        formats.write(path, source_of(rows), format=form)
    assert not path.exists()
    assert not os.listdir(path.parent)


# ---- what a format cannot hold ----


@pytest.mark.parametrize(
    ("form", "tokens", "what"),
    [
        ("glove", ["a", "b\nc", "d"], r"'b\\nc' in row 1, which has the end of a line"),
        ("glove", ["a", "b 1.5", "d"], "'b 1.5' in row 1, which ends in what would be read"),
        ("glove", ["a", "b", "c\t1e5"], "in row 2, which ends in what would be read"),
        ("glove", ["\ufeffa", "b", "c"], "in row 0, which begins as a file with a byte order mark"),
        ("glove", ["a b", "c d", "e"], "tokens without spaces on most of the first lines"),
        ("word2vec-text", ["\n", "b", "c"], "in row 0, which has the end of a line"),
        ("word2vec-text", ["a", "", "c -.5"], "in row 2, which ends in what would be read"),
        ("word2vec-text", ["a b c d e f", "b", "c"], "look like another format"),
        ("word2vec-binary", ["a", "b c", "d"], "'b c' in row 1, which has a space"),
        ("word2vec-binary", ["a", "", "\nd"], "in row 2, which begins with a newline"),
    ],
)
def test_tokens_that_would_change(path, form, tokens, what):
    with pytest.raises(OptionError, match=what):
        formats.write(path, source_of(np.ones((3, 2), np.float32), tokens), format=form)
    assert not os.listdir(path.parent)


@pytest.mark.parametrize(
    ("form", "tokens"),
    [
        (
            "glove",
            ["a", "", "\t", " b", "c ", "1.5", "a b", "1.5 x", "\r", "x\r", "a\x85", "\udcff"],
        ),
        ("glove", ["\ufeff", "b", "c"]),
        ("word2vec-text", ["", "\ufeffa", "2 3", "c 3", "d\te", "\r"]),
        ("word2vec-text", ["\ufeffa", "b", " ", "  ", "\t \t"]),
        ("word2vec-binary", ["a", "", "b\nc", "\t", "1.5", "\ufeff", "\udcff", "d\n"]),
    ],
)
def test_tokens_that_are_odd(path, form, tokens):
    rows = np.random.default_rng(0).standard_normal((len(tokens), 4)).astype(np.float32)
    formats.write(path, source_of(rows, tokens), format=form)
    source = formats.open(path)
    assert (source.format, list(source.vocabulary)) == (form, tokens)
    assert np.array_equal(source.read(), rows)


def test_a_first_row_that_looks_like_a_header(path):
    source = source_of(np.float32([[5], [6.5]]), ["12", "b b"])
    with pytest.raises(OptionError, match=r"told to be glove again.*\.safetensors"):
        formats.write(path, source, format="glove")
    assert not os.listdir(path.parent)
    with pytest.raises(OptionError, match="told to be glove again"):
        formats.write(f"{path}.gz", source, format="glove")
    assert not os.listdir(path.parent)


@pytest.mark.parametrize("form", TOKENS)
def test_rows_that_are_not_rows_of_tokens(path, form):
    rows = np.ones((3, 2), np.float32)
    for words in (None, Vocabulary([]), Vocabulary(["a", "b"])):
        with pytest.raises(OptionError, match=r"a token for each of the 3 rows.*safetensors"):
            formats.write(path, formats.table_source(Table.from_array(rows), words), format=form)
    for shape in ((3,), (3, 2, 2), (3, 0)):
        with pytest.raises(OptionError, match=r"of shape .rows, values."):
            formats.write(path, source_of(np.ones(shape, np.float32)), format=form)
    assert not os.listdir(path.parent)


def test_no_rows(path):
    empty = source_of(np.ones((0, 5), np.float32))
    for form in ("word2vec-text", "word2vec-binary"):
        formats.write(path, empty, format=form, overwrite=True)
        assert formats.open(path).shape == (0, 5)
    with pytest.raises(OptionError, match=r"expected rows for GloVe's text.*\(\.vec\)"):
        formats.write(path, empty, format="glove", overwrite=True)
    assert formats.open(path).shape == (0, 5)


@pytest.mark.parametrize("form", TOKENS)
@pytest.mark.parametrize("offsets", [[0, 2, 1, 3], [0, 1, 2, 99], [-1, 1, 2, 3]])
def test_a_damaged_vocabulary(path, form, offsets):
    words = Vocabulary(["a", "b", "c"])
    data, good, slots = words.arrays()
    broken = np.array(good)
    damaged = Vocabulary.from_arrays(data, broken, slots)
    broken[:] = offsets
    source = formats.table_source(Table.from_array(np.ones((3, 2), np.float32)), damaged)
    with pytest.raises(VocabularyError, match="damaged"):
        formats.write(path, source, format=form)
    assert not os.listdir(path.parent)


def test_more_tokens_than_rows():
    with pytest.raises(OptionError, match="a row for each token"):
        formats.table_source(Table.from_array(np.ones((1, 2))), Vocabulary(["a", "b"]))


# ---- names ----


@pytest.mark.parametrize("ending", TOKENS.values())
@pytest.mark.parametrize("packing", ["", ".gz", ".bz2", ".xz", ".zst"])
def test_endings(tmp_path, ending, packing):
    if packing == ".zst" and sys.version_info < (3, 14):
        pytest.importorskip("zstandard")
    path = tmp_path / f"Vectors{ending}{packing}".replace(".gz", ".GZ")
    rows = np.random.default_rng(0).standard_normal((2000, 4)).astype(np.float32)
    formats.write(path, source_of(rows))
    content = path.read_bytes()
    if packing:
        plain = tmp_path / f"plain{ending}"
        formats.write(plain, source_of(rows))
        unpack = {".gz": gzip.decompress, ".bz2": bz2.decompress, ".xz": lzma.decompress}
        if packing in unpack:
            assert unpack[packing](content) == plain.read_bytes()
    source = formats.open(path)
    assert TOKENS[source.format] == ending
    assert np.array_equal(source.read(), rows)
    formats.write(path, source_of(rows), overwrite=True)
    assert path.read_bytes() == content  # the same rows, the same bytes


@pytest.mark.parametrize("ending", [".npy", ".npz", ".safetensors", ".pt", ".parquet", ".arrow"])
def test_other_formats(tmp_path, ending):
    if ending == ".pt":
        pytest.importorskip("torch")
    if ending in (".parquet", ".arrow"):
        pytest.importorskip("pyarrow")
    rows = np.random.default_rng(0).standard_normal((5, 4)).astype(np.float32)
    lost = pytest.warns(ShardwiseWarning, match="5 are left out")
    with lost if ending in (".npy", ".pt") else contextlib.nullcontext():
        formats.write(tmp_path / f"a{ending}", source_of(rows, shards=2))
    source = formats.open(tmp_path / f"a{ending}")
    assert np.array_equal(source.read(), rows)
    if ending not in (".npy", ".pt"):
        assert list(source.vocabulary) == [f"w{i}" for i in range(5)]
    with pytest.raises(OptionError, match=r"a file name without \.gz"):
        formats.write(tmp_path / f"b{ending}.gz", source_of(rows))


def test_names_that_say_nothing(tmp_path):
    source = source_of(np.ones((1, 2), np.float32))
    for name in ("a", "a.csv", "a.gz", ".txt", "a.txt.zip"):
        with pytest.raises(OptionError, match=r"ends in one of \.txt, \.vec, \.bin"):
            formats.write(tmp_path / name, source)
    for form in ("word2vec", "fasttext", "csv"):
        with pytest.raises(OptionError, match="a format to write, one of 'glove'"):
            formats.write(tmp_path / "a.txt", source, format=form)
    formats.write(tmp_path / "a.txt", source, format="npz")
    assert formats.open(tmp_path / "a.txt").format == "npz"


def test_without_its_library(tmp_path, monkeypatch):
    if sys.version_info >= (3, 14):
        pytest.skip("Python has it")
    monkeypatch.setitem(sys.modules, "zstandard", None)
    with pytest.raises(MissingLibraryError, match=r'pip install "shardwise\[zstd\]"'):
        formats.write(tmp_path / "a.txt.zst", source_of(np.ones((1, 2), np.float32)))
    assert not os.listdir(tmp_path)


# ---- whole or not at all ----


def test_what_is_there_is_kept(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    source = source_of(np.ones((1, 2), np.float32))
    with pytest.raises(TableExistsError, match=r"got a file.*overwrite=True") as error:
        formats.write(path, source)
    assert isinstance(error.value, FileExistsError)
    assert path.read_text() == "old"
    formats.write(path, source, overwrite=True)
    assert path.read_text() == "w0 1 1\n"
    (tmp_path / "b.txt").mkdir()
    for overwrite in (False, True):
        with pytest.raises(TableExistsError, match="got a directory"):
            formats.write(tmp_path / "b.txt", source, overwrite=overwrite)
    os.mkfifo(tmp_path / "c.txt")
    with pytest.raises(TableExistsError, match="no regular file"):
        formats.write(tmp_path / "c.txt", source, overwrite=True)
    with pytest.raises(TableNotFoundError, match="make it first"):
        formats.write(tmp_path / "no" / "d.txt", source)
    with pytest.raises(TableNotFoundError, match="make it first"):
        formats.write(path / "d.txt", source)
    assert sorted(os.listdir(tmp_path)) == ["a.txt", "b.txt", "c.txt"]


def test_a_link_stays(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "real.txt").write_text("old")
    (tmp_path / "link.txt").symlink_to("folder/real.txt")
    formats.write(tmp_path / "link.txt", source_of(np.ones((1, 2), np.float32)), overwrite=True)
    assert (tmp_path / "link.txt").is_symlink()
    assert (tmp_path / "folder" / "real.txt").read_text() == "w0 1 1\n"
    assert os.listdir(tmp_path / "folder") == ["real.txt"]


@pytest.mark.skipif(os.name == "nt", reason="has no umask")
def test_the_umask_counts(tmp_path):
    old = os.umask(0o027)
    try:
        formats.write(tmp_path / "a.txt", source_of(np.ones((1, 2), np.float32)))
    finally:
        os.umask(old)
    assert stat.S_IMODE((tmp_path / "a.txt").stat().st_mode) == 0o640


@pytest.mark.parametrize("name", ["a.txt", "a.vec.gz", "a.bin", "a.vec.xz"])
@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
@pytest.mark.parametrize("there", [False, True])
def test_a_failure_leaves_what_was_there(tmp_path, name, error, there):
    path = tmp_path / name
    if there:
        path.write_text("old")
    names = []

    def stop(done, total):
        names.extend(os.listdir(tmp_path))
        if done == total:
            raise error

    rows = np.ones((30_000, 100), np.float32)
    with pytest.raises(error):
        formats.write(path, source_of(rows), overwrite=True, progress=stop)
    temporary = {name for name in names if name.endswith(".tmp")}
    assert len(temporary) == 1
    assert os.listdir(tmp_path) == ([name] if there else [])
    if there:
        assert path.read_text() == "old"


def test_somebody_else_was_faster(tmp_path):
    path = tmp_path / "a.txt"
    source = source_of(np.ones((1, 2), np.float32))
    with pytest.raises(TableExistsError):
        formats.write(path, source, progress=lambda *_: path.write_text("theirs"))
    assert path.read_text() == "theirs"
    assert os.listdir(tmp_path) == ["a.txt"]


def test_a_file_written_over_itself(tmp_path):
    path = tmp_path / "a.vec"
    rows = np.random.default_rng(0).standard_normal((5, 4)).astype(np.float32)
    formats.write(path, source_of(rows))
    formats.write(path, formats.open(path), overwrite=True)
    assert np.array_equal(formats.open(path).read(), rows)


# ---- real files ----


@pytest.mark.parametrize(
    ("name", "form"),
    [
        (name, form)
        for name in (
            "test_glove.txt",
            "lee_fasttext.vec",
            "emoji2vec.bin",
            "ff-utf8-incomplete.bin",
        )
        for form in TOKENS
    ],
)
def test_real_files(tmp_path, name, form):
    if not (DATA / name).exists():
        pytest.skip(f"{name} is not here")
    source = formats.open(DATA / name)
    path = tmp_path / f"a{TOKENS[form]}"
    formats.write(path, source)
    again = formats.open(path)
    assert again.format == form
    assert again.vocabulary == source.vocabulary
    assert again.read().tobytes() == source.read().tobytes()
