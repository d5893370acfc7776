import json
import os

import ml_dtypes
import numpy as np
import pytest

from shardwise import (
    Converted,
    FormatError,
    OptionError,
    Partition,
    PartitionError,
    StoreError,
    Table,
    TableError,
    TableExistsError,
    TableNotFoundError,
    Vectors,
    Vocabulary,
    convert,
    formats,
    store,
)

ROWS = np.random.default_rng(0).standard_normal((9, 4)).astype(np.float32)
WORDS = [f"w{i}" for i in range(9)]


def all_rows(table):
    return table.lookup(np.arange(len(table)))


@pytest.fixture
def table(tmp_path):
    """A table directory of 9 rows on 3 shards."""
    path = tmp_path / "t"
    words = Vocabulary(WORDS, unknown="w2")
    Vectors(Table.from_array(ROWS, 3, "div"), words).save(path, metadata={"n": [1]})
    return path


def metadata_of(path):
    return store.open_table(path).manifest.metadata


# --- every direction


@pytest.mark.parametrize("name", ["a.txt", "a.vec", "a.bin", "a.vec.gz", "a.npz", "a.safetensors"])
def test_from_a_table_and_back(table, tmp_path, name):
    made = convert(table, tmp_path / name)
    assert isinstance(made, Converted)
    assert (made.path, made.format) == (str(tmp_path / name), "shardwise")
    assert (made.shape, made.dtype, made.partition) == ((9, 4), np.float32, None)
    assert (made.duplicates, made.nonfinite, made.lost_tokens) == (0, 0, 0)
    again = convert(tmp_path / name, tmp_path / "again", shards=2)
    assert again.format == made.to
    assert (again.to, again.partition) == ("table", Partition.mod(9, 2))
    vectors = Vectors.open(tmp_path / "again")
    assert np.array_equal(all_rows(vectors.table), ROWS)
    assert list(vectors.vocabulary) == WORDS


@pytest.mark.parametrize("first", ["a.txt", "a.vec.xz", "a.bin", "a.npz"])
@pytest.mark.parametrize("second", ["b.txt.bz2", "b.vec", "b.bin.gz", "b.safetensors"])
def test_from_a_file_to_a_file(table, tmp_path, first, second):
    convert(table, tmp_path / first)
    convert(tmp_path / first, tmp_path / second)
    source = formats.open(tmp_path / second)
    assert np.array_equal(source.read(), ROWS)
    assert list(source.vocabulary) == WORDS


def test_from_a_table_to_a_table(table, tmp_path):
    made = convert(table, tmp_path / "u")
    assert made.partition == Partition.div(9, 3)  # as it was cut
    vectors = Vectors.open(tmp_path / "u")
    assert np.array_equal(all_rows(vectors.table), ROWS)
    assert (vectors.vocabulary.unknown, metadata_of(tmp_path / "u")) == ("w2", {"n": [1]})
    for options, cut in (
        ({"shards": 2}, Partition.mod(9, 2)),
        ({"partition": "mod"}, Partition.mod(9, 1)),
        ({"shards": 4, "partition": "div"}, Partition.div(9, 4)),
        ({"partition": Partition.ranges([0, 1, 9])}, Partition.ranges([0, 1, 9])),
    ):
        made = convert(table, tmp_path / "u", overwrite=True, **options)
        assert made.partition == Table.open(tmp_path / "u").partition == cut
    with pytest.raises(PartitionError, match="9 rows in 3 shards"):
        convert(table, tmp_path / "v", partition=Partition.mod(9, 2), shards=3)
    assert not (tmp_path / "v").exists()


def test_a_table_over_itself(table):
    with pytest.raises(TableExistsError):
        convert(table, table, dtype="float16")
    convert(table, table, dtype="float16", shards=5, overwrite=True)
    assert np.array_equal(all_rows(Table.open(table)), ROWS.astype("f2"))


def test_a_table_with_an_ending_stays_one(table, tmp_path):
    made = convert(table, tmp_path / "t.bin", to="table")
    assert made.to == "table"
    with pytest.raises(TableExistsError, match="got one of 9 rows"):
        convert(table, tmp_path / "t.bin")
    convert(table, tmp_path / "t.bin", overwrite=True, shards=2)
    assert Table.open(tmp_path / "t.bin").partition.num_shards == 2
    with pytest.raises(TableExistsError, match="got a directory"):
        convert(table, tmp_path / "t.bin", to="word2vec-binary", overwrite=True)
    made = convert(table, tmp_path / "noname", to="glove")
    assert (made.to, formats.open(tmp_path / "noname").format) == ("glove", "glove")


@pytest.mark.parametrize("name", ["t", "a.txt", "a.safetensors"])
def test_limit_dim_and_unknown(table, tmp_path, name):
    path = tmp_path / name
    if name != "t":
        convert(table, path)
    made = convert(path, tmp_path / "u", limit=5, dim=4, unknown="w1")
    assert made.shape == (5, 4)
    assert made.partition == Partition.mod(5, 1)
    vectors = Vectors.open(tmp_path / "u")
    assert list(vectors.vocabulary) == WORDS[:5]
    assert np.array_equal(vectors.lookup("nobody"), ROWS[1])
    assert np.array_equal(all_rows(vectors.table), ROWS[:5])
    convert(path, tmp_path / "a.vec", limit=100)
    assert formats.open(tmp_path / "a.vec").shape == (9, 4)
    for options in ({"limit": 0}, {"dim": 0}, {"unknown": "nobody"}, {"limit": 2, "unknown": "w2"}):
        with pytest.raises(OptionError):
            convert(path, tmp_path / "v", **options)
    with pytest.raises((OptionError, FormatError), match=r"dim=3|expected a token and 3 values"):
        convert(path, tmp_path / "v", dim=3)
    assert not (tmp_path / "v").exists()


def test_a_limit_that_cuts_off_the_unknown_token(table, tmp_path):
    with pytest.raises(OptionError, match=r"expected limit= to keep .* 'w2' in row 2, got limit=2"):
        convert(table, tmp_path / "u", limit=2)
    assert convert(table, tmp_path / "u", limit=3).shape == (3, 4)


@pytest.mark.parametrize("option", ["format", "tensor", "tokens", "pieces"])
def test_options_that_mean_nothing_for_a_table(table, tmp_path, option):
    with pytest.raises(OptionError, match=f"expected no {option}= for a table directory"):
        convert(table, tmp_path / "u", **{option: "mod"})
    assert not (tmp_path / "u").exists()


def test_what_is_no_table(table, tmp_path):
    (tmp_path / "folder").mkdir()
    with pytest.raises(FormatError, match="directory"):
        convert(tmp_path / "folder", tmp_path / "u")
    (table / "shardwise.json").write_text("{}")
    with pytest.raises(StoreError, match="is broken"):
        convert(table, tmp_path / "u")
    with pytest.raises(FileNotFoundError):
        convert(tmp_path / "none", tmp_path / "u")
    assert not (tmp_path / "u").exists()


# --- what rows become


@pytest.mark.parametrize(
    "dtype", ["float64", "float16", "bfloat16", "float8_e5m2", "int8", "uint32", "int64", "bool"]
)
def test_a_table_keeps_its_dtype(tmp_path, dtype):
    dtype = np.dtype(getattr(ml_dtypes, dtype, dtype))
    rows = np.array([[1, 0, 1], [0, 1, 1]]).astype(dtype)
    small = dtype.name.startswith(("bfloat", "float8"))
    np.save(tmp_path / "a.npy", rows.astype("f4") if small else rows)
    Table.from_array(rows).save(tmp_path / "t")
    made = convert(tmp_path / "t", tmp_path / "u", shards=2)
    assert made.dtype == Table.open(tmp_path / "u").dtype == dtype
    assert np.array_equal(all_rows(Table.open(tmp_path / "u")), rows)
    made = convert(tmp_path / "a.npy", tmp_path / "u", overwrite=True, dtype=dtype)
    assert made.dtype == Table.open(tmp_path / "u").dtype == dtype
    assert (made.vocabulary, made.format) == (None, "npy")
    with pytest.raises(TableError, match=r"Table\.open"):
        Vectors.open(tmp_path / "u")


def test_files_get_a_dtype_too(table, tmp_path):
    made = convert(table, tmp_path / "a.npy", dtype="float16")
    assert made.dtype == np.float16
    assert np.array_equal(np.load(tmp_path / "a.npy"), ROWS.astype("f2"))
    assert made.lost_tokens == 9
    with pytest.raises(OptionError, match="expected no metadata for a file"):
        convert(table, tmp_path / "b.npy", metadata={})
    Vectors(Table.from_array(np.array([[0.1]])), Vocabulary(["a"])).save(tmp_path / "named")
    with pytest.raises(OptionError, match=r"float32 can hold, got 0\.1 in row 0; round them"):
        convert(tmp_path / "named", tmp_path / "a.txt")
    convert(tmp_path / "named", tmp_path / "a.txt", dtype="float32")
    assert (tmp_path / "a.txt").read_text() == "a 0.1\n"
    with pytest.raises(OptionError, match="dtype of floats"):
        convert(table, tmp_path / "b.npy", dtype="int8")
    with pytest.raises(StoreError, match="int8"):
        convert(table, tmp_path / "b", dtype=["int8"])
    with pytest.raises(StoreError, match="nonsense"):
        convert(table, tmp_path / "b.npy", dtype="nonsense")
    assert not (tmp_path / "b.npy").exists()


def test_other_ranks(tmp_path):
    rows = np.arange(24.0).reshape(4, 3, 2)
    Table.from_array(rows, 2).save(tmp_path / "t")
    convert(tmp_path / "t", tmp_path / "a.npy")
    assert np.array_equal(np.load(tmp_path / "a.npy"), rows)
    with pytest.raises(OptionError, match="of shape"):
        convert(tmp_path / "t", tmp_path / "a.txt")


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "bfloat16"])
@pytest.mark.parametrize("target", ["u", "a.npy"])
def test_what_is_not_finite_is_kept_and_counted(tmp_path, dtype, target):
    dtype = np.dtype(getattr(ml_dtypes, dtype, dtype))
    rows = np.ones((70_000, 8)).astype(dtype)  # several blocks
    rows[3, 1:3] = np.nan
    rows[60_000] = np.inf
    rows[-1, -1] = -np.inf
    Table.from_array(rows, 2).save(tmp_path / "t")
    if dtype.name == "bfloat16":
        target = "u"
    made = convert(tmp_path / "t", tmp_path / target)
    assert made.nonfinite == 3
    found = np.load(tmp_path / target) if target != "u" else all_rows(Table.open(tmp_path / "u"))
    assert np.array_equal(found.astype("f4"), rows.astype("f4"), equal_nan=True)


def test_rows_without_tokens(tmp_path):
    Vectors(Table.from_array(ROWS, 2), Vocabulary(WORDS[:4])).save(tmp_path / "t")
    convert(tmp_path / "t", tmp_path / "u", shards=3)
    vectors = Vectors.open(tmp_path / "u")
    assert (len(vectors), len(vectors.table)) == (4, 9)
    convert(tmp_path / "t", tmp_path / "a.safetensors")
    source = formats.open(tmp_path / "a.safetensors")
    assert (len(source.vocabulary), source.shape) == (4, (9, 4))
    with pytest.raises(OptionError, match="a token for each of the 9 rows"):
        convert(tmp_path / "t", tmp_path / "a.vec")
    assert convert(tmp_path / "t", tmp_path / "a.vec", limit=4).shape == (4, 4)


def test_metadata(table, tmp_path):
    convert(table, tmp_path / "u", metadata={"n": 2, "mine": "yes"})
    assert metadata_of(tmp_path / "u") == {"n": 2, "mine": "yes"}
    convert(table, tmp_path / "v", metadata={"mine": "yes"})
    assert metadata_of(tmp_path / "v") == {"n": [1], "mine": "yes"}
    with pytest.raises(OptionError, match="metadata"):
        convert(table, tmp_path / "w", metadata={"n": {1, 2}})
    assert not (tmp_path / "w").exists()


# --- what cannot be


def interrupt(stage, wanted):
    if stage == wanted:
        raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"shards": 2}, OptionError),
        ({"partition": "mod"}, OptionError),
        ({"to": "nonsense"}, OptionError),
        ({"dtype": "nonsense"}, StoreError),
        ({"limit": 0}, OptionError),
        ({"to": "parquet.gz"}, OptionError),
        ({"progress": lambda stage, *_: interrupt(stage, "write")}, KeyboardInterrupt),
    ],
)
def test_a_file_is_as_it_was(table, tmp_path, options, error):
    path = tmp_path / "a.vec"
    with pytest.raises(error):
        convert(table, path, **options)
    assert sorted(os.listdir(tmp_path)) == ["t"]
    path.write_text("old")
    with pytest.raises(error):
        convert(table, path, overwrite=True, **options)
    with pytest.raises(TableExistsError, match="got a file"):
        convert(table, path)
    assert path.read_text() == "old"
    assert sorted(os.listdir(tmp_path)) == ["a.vec", "t"]


def test_a_file_is_refused_before_anything_is_read(table, tmp_path):
    read = []
    (tmp_path / "a.txt").write_text("a 1\n")
    for path, error in (("a.txt", TableExistsError), ("no/a.txt", TableNotFoundError)):
        with pytest.raises(error):
            convert(tmp_path / "a.txt", tmp_path / path, progress=lambda *call: read.append(call))
    assert not read


def test_progress(table, tmp_path):
    calls = []
    convert(table, tmp_path / "a.vec", progress=lambda *call: calls.append(call))
    assert calls == [("write", 9, 9)]
    calls.clear()
    convert(tmp_path / "a.vec", tmp_path / "a.npz", progress=lambda *call: calls.append(call))
    assert [call[0] for call in calls] == ["read", "write"]


def test_the_report_and_the_manifest_agree(table):
    manifest = json.loads((table / "shardwise.json").read_text())
    made = convert(table, table, overwrite=True)
    after = json.loads((table / "shardwise.json").read_text())
    assert after["shape"] == manifest["shape"] == list(made.shape)
    assert after["generation"] == 2


@pytest.mark.parametrize("name", ["a.csv", "A.JSON", "a.vec.zip", "a.gz", "-", "a.kv"])
def test_a_name_of_a_file_makes_no_table(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in.vec").write_text("1 2\na 1 2\n")
    with pytest.raises(OptionError, match="for a table of that name pass to="):
        convert("in.vec", name)
    assert [path.name for path in tmp_path.iterdir()] == ["in.vec"]
    convert("in.vec", name, to="table")
    assert len(Vectors.open(name)) == 1
