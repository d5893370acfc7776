import copy
import json
import pickle
import struct
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from shardwise import (
    FormatError,
    OptionError,
    Partition,
    PartitionError,
    ShardwiseError,
    StoreError,
    Table,
    TableError,
    TableExistsError,
    TableNotFoundError,
    UnknownTokenError,
    Vectors,
    Vocabulary,
    convert,
    store,
)

NOVELS = Path(__file__).parents[2] / "shared" / "data" / "vectors" / "novels-100d.bin"
WORDS = ["<unk>", "like", "the", "country", "", "a b", "\udcff"]
ROWS = np.arange(21, dtype=np.float32).reshape(7, 3) / 7
SENTENCE = ["like", "the", "country"]
LINES = ["like 1 2", "the 3 4", "country 5 6", "the 7 8", "like 9 10", "roads 11 12"]


@pytest.fixture
def vectors():
    return Vectors(Table.from_array(ROWS, 3), Vocabulary(WORDS, unknown="<unk>"))


@pytest.fixture
def text(tmp_path):
    path = tmp_path / "tiny.txt"
    path.write_text("\n".join(LINES) + "\n")
    return path


def straight_parse(path, limit=None):
    """Tokens and rows of word2vec's binary form, the simplest way there is."""
    content = path.read_bytes()
    begin = content.index(b"\n") + 1
    rows, width = map(int, content[:begin].split())
    tokens, values = [], []
    for _ in range(min(rows, limit or rows)):
        end = content.index(b" ", begin)
        tokens.append(content[begin:end].removeprefix(b"\n").decode())
        begin = end + 1 + 4 * width
        values.append(struct.unpack(f"<{width}f", content[end + 1 : begin]))
    return tokens, np.array(values, np.float32)


def all_rows(table):
    return table.lookup(np.arange(len(table)))


# --- Vectors


def test_lookup(vectors):
    assert np.array_equal(vectors.lookup(SENTENCE), ROWS[1:4])
    assert np.array_equal(vectors.lookup("the"), ROWS[2])
    assert np.array_equal(vectors["the"], ROWS[2])
    assert np.array_equal(vectors[["", "a b", "\udcff"]], ROWS[4:])
    assert np.array_equal(vectors[b"\xff"], ROWS[6])
    assert np.array_equal(vectors.lookup("the country"), ROWS[0])  # one token, and an unknown one
    nest = [["the", "nobody"], ["country", "like"]]
    assert np.array_equal(vectors.lookup(nest), ROWS[[[2, 0], [3, 1]]])
    assert np.array_equal(vectors.lookup(np.array(nest)), ROWS[[[2, 0], [3, 1]]])
    assert vectors.lookup([]).shape == (0, 3)
    assert vectors.lookup(("the",) * 5).shape == (5, 3)


def test_lookup_into_and_clipped(vectors):
    out = np.empty((2, 3), np.float32)
    assert vectors.lookup(["the", "like"], out=out) is out
    assert np.array_equal(out, ROWS[[2, 1]])
    clipped = vectors.lookup(["\udcff", "<unk>"], max_norm=0.5)
    assert np.linalg.norm(clipped[0]) == pytest.approx(0.5)
    assert np.array_equal(clipped[1], ROWS[0])


def test_what_they_hold(vectors):
    assert "the" in vectors
    assert b"the" in vectors
    assert "nobody" not in vectors
    assert 2 not in vectors
    assert len(vectors) == 7
    assert vectors.table.partition == Partition.mod(7, 3)
    assert vectors.vocabulary.unknown == "<unk>"
    assert repr(vectors).startswith("Vectors(Table(shape=(7, 3), dtype=float32")
    with pytest.raises(AttributeError):
        vectors.table = None


def test_unknown_tokens_without_an_unknown_token():
    vectors = Vectors(Table.from_array(ROWS), Vocabulary(WORDS))
    with pytest.raises(UnknownTokenError, match="'nobody', 'never'") as caught:
        vectors.lookup(["the", "nobody", "never"])
    assert isinstance(caught.value, KeyError)
    with pytest.raises(UnknownTokenError):
        vectors["nobody"]


def test_no_more_tokens_than_rows():
    words = Vocabulary(map(str, range(8)))
    with pytest.raises(TableError, match="a row for each token, got 8 tokens and 7 rows"):
        Vectors(Table.from_array(ROWS), words)


@pytest.mark.parametrize("count", [0, 1, 6])
def test_rows_without_tokens(tmp_path, count):
    words = Vocabulary(map(str, range(count)))
    made = Vectors(Table.from_array(ROWS), words)
    made.save(tmp_path / "v")
    for vectors in (made, Vectors.open(tmp_path / "v")):
        assert len(vectors) == count
        assert len(vectors.table) == 7
        assert np.array_equal(vectors.lookup(list(words)), ROWS[:count])


def test_save_and_open(vectors, tmp_path):
    calls = []
    vectors.save(
        tmp_path / "v", metadata={"n": 1}, progress=lambda done, total: calls.append((done, total))
    )
    assert calls == [(7, 7)]
    found = Vectors.open(tmp_path / "v")
    assert np.array_equal(all_rows(found.table), ROWS)
    assert found.vocabulary == vectors.vocabulary
    assert np.array_equal(found.lookup("nobody"), ROWS[0])
    assert found.table.partition == Partition.mod(7, 3)
    assert np.array_equal(all_rows(Table.open(tmp_path / "v")), ROWS)
    with pytest.raises(TableExistsError):
        vectors.save(tmp_path / "v")
    found.save(tmp_path / "v", dtype="float16", overwrite=True)
    assert np.array_equal(all_rows(Vectors.open(str(tmp_path / "v")).table), ROWS.astype("f2"))
    assert np.array_equal(all_rows(found.table), ROWS)
    assert json.loads((tmp_path / "v" / "shardwise.json").read_text())["metadata"] == {}


def test_open_what_has_no_words(tmp_path):
    Table.from_array(ROWS).save(tmp_path / "t")
    with pytest.raises(TableError, match=r"without; open it with Table\.open"):
        Vectors.open(tmp_path / "t")
    with pytest.raises(TableNotFoundError):
        Vectors.open(tmp_path / "none")


def test_from_file(text):
    vectors = Vectors.from_file(text, shards=3, partition="div", unknown="the")
    assert list(vectors.vocabulary) == ["like", "the", "country", "roads"]
    assert np.array_equal(vectors.lookup(["roads", "nobody"]), [[11, 12], [3, 4]])
    assert vectors.table.partition == Partition.div(4, 3)
    assert len(Vectors.from_file(str(text), limit=2)) == 2
    with pytest.raises(OptionError, match="unknown="):
        Vectors.from_file(text, unknown="nobody")
    with pytest.raises(FileNotFoundError):
        Vectors.from_file(text.with_name("none"))


# --- convert


@pytest.mark.parametrize("dtype", [None, "float16", "bfloat16", np.float64, "<f4"])
@pytest.mark.parametrize("partition", ["mod", "div"])
@pytest.mark.parametrize("shards", [1, 3, 7])
def test_convert(text, tmp_path, shards, partition, dtype):
    found = convert(text, tmp_path / "t", shards=shards, partition=partition, dtype=dtype)
    assert (found.format, found.shape, found.duplicates) == ("glove", (4, 2), 2)
    vectors = Vectors.open(tmp_path / "t")
    wanted = np.float32 if dtype is None else np.dtype(getattr(ml_dtypes, str(dtype), dtype))
    assert vectors.table.dtype == wanted
    assert vectors.table.partition == Partition(partition, 4, shards)
    assert np.array_equal(
        vectors.lookup(["roads", "country", "the", "like"]).astype(float),
        [[11, 12], [5, 6], [3, 4], [1, 2]],
    )
    assert vectors.vocabulary.unknown is None


def test_convert_by_ranges_and_with_an_unknown_token(text, tmp_path):
    cut = Partition.ranges([0, 1, 1, 4])
    convert(str(text), str(tmp_path / "t"), partition=cut, unknown="like")
    vectors = Vectors.open(tmp_path / "t")
    assert vectors.table.partition == cut
    assert vectors.lookup("nobody").tolist() == [1, 2]
    with pytest.raises(PartitionError, match="expected a partition of 4 rows"):
        convert(text, tmp_path / "u", partition=Partition.mod(5, 2))
    assert not (tmp_path / "u").exists()


@pytest.mark.parametrize("limit", [1, 3, 4, 5, 100])
def test_convert_the_first_rows(text, tmp_path, limit):
    # The limit counts rows of the file; of two rows with one token the first is taken.
    found = convert(text, tmp_path / "t", limit=limit)
    tokens = list(dict.fromkeys(line.split()[0] for line in LINES[:limit]))
    assert found.duplicates == min(limit, 6) - len(tokens)
    assert list(Vectors.open(tmp_path / "t").vocabulary) == tokens


def test_convert_tells_how_far_it_is(text, tmp_path):
    calls = []
    convert(text, tmp_path / "t", progress=lambda *call: calls.append(call))
    size = text.stat().st_size
    stages = [stage for stage, _, _ in calls]
    assert stages == sorted(stages)  # all of "read", then all of "write"
    reads = [(done, total) for stage, done, total in calls if stage == "read"]
    writes = [(done, total) for stage, done, total in calls if stage == "write"]
    assert {total for _, total in reads} == {size}
    assert reads == sorted(reads)
    assert reads[-1][0] <= size
    assert writes == [(4, 4)]


def test_convert_overwrites_when_told(text, tmp_path):
    convert(text, tmp_path / "t")
    with pytest.raises(TableExistsError):
        convert(text, tmp_path / "t", limit=1)
    assert len(Vectors.open(tmp_path / "t")) == 4
    convert(text, tmp_path / "t", limit=1, overwrite=True)
    assert len(Vectors.open(tmp_path / "t")) == 1


def interrupt(stage, wanted):
    if stage == wanted:
        raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"dtype": "int16"}, OptionError),
        ({"dtype": "nonsense"}, StoreError),
        ({"partition": "ranges"}, PartitionError),
        ({"shards": 0}, PartitionError),
        ({"limit": 0}, OptionError),
        ({"dim": 3}, FormatError),
        ({"format": "nonsense"}, OptionError),
        ({"unknown": "nobody"}, OptionError),
        ({"progress": lambda stage, *_: interrupt(stage, "read")}, KeyboardInterrupt),
        ({"progress": lambda stage, *_: interrupt(stage, "write")}, KeyboardInterrupt),
    ],
)
def test_what_convert_cannot_do_leaves_what_was_there(text, tmp_path, options, error):
    with pytest.raises(error):
        convert(text, tmp_path / "t", **options)
    assert not (tmp_path / "t").exists()
    convert(text, tmp_path / "t", limit=2)
    before = sorted(path.name for path in (tmp_path / "t").iterdir())
    with pytest.raises(error):
        convert(text, tmp_path / "t", overwrite=True, **options)
    assert sorted(path.name for path in (tmp_path / "t").iterdir()) == before
    assert Vectors.open(tmp_path / "t")["the"].tolist() == [3, 4]


def test_a_broken_value_far_down_leaves_nothing(tmp_path):
    path = tmp_path / "broken.txt"
    path.write_text("".join(f"w{i} {i} 1\n" for i in range(5000)) + "last 1 x\n")
    with pytest.raises(FormatError, match=r"broken\.txt: .*'x'"):
        convert(path, tmp_path / "t", dim=2)
    assert not (tmp_path / "t").exists()


def test_many_blocks_and_shards(tmp_path):
    rows, width = 60_000, 100  # 24 MB: two blocks
    path = tmp_path / "made.bin"
    rng = np.random.default_rng(0)
    made = np.empty(rows, [("token", "S8"), ("space", "S1"), ("values", "<f4", width)])
    made["token"] = [b"%08d" % i for i in range(rows)]
    made["space"] = b" "
    made["values"] = rng.random((rows, width), np.float32)
    path.write_bytes(b"%d %d\n" % (rows, width) + made.tobytes())
    calls = []
    convert(path, tmp_path / "t", shards=7, progress=lambda *call: calls.append(call))
    assert [call for call in calls if call[0] == "write"] == [
        ("write", (16 << 20) // (4 * width), rows),
        ("write", rows, rows),
    ]
    vectors = Vectors.open(tmp_path / "t")
    assert np.array_equal(all_rows(vectors.table), made["values"])
    assert np.array_equal(vectors["00059999"], made["values"][-1])


# --- the real thing


@pytest.mark.skipif(not NOVELS.exists(), reason="needs the shared data")
def test_like_the_country(tmp_path):
    tokens, rows = straight_parse(NOVELS)
    convert(NOVELS, tmp_path / "novels", shards=3)
    wanted = rows[[tokens.index(token) for token in SENTENCE]]
    for vectors in (
        Vectors.open(tmp_path / "novels"),
        Vectors.from_file(NOVELS, shards=3, partition="div"),
    ):
        assert np.array_equal(vectors.lookup(SENTENCE), wanted)
        assert list(vectors.vocabulary) == tokens
        assert np.array_equal(all_rows(vectors.table), rows)


def test_convert_refuses_before_it_reads(tmp_path):
    source = tmp_path / "a.txt"
    source.write_text("a 1 2\nb 3 4\n")
    convert(source, tmp_path / "t")
    read = []
    for options in ({}, {"dtype": "int7"}, {"partition": "modulo"}, {"shards": 0}):
        place = tmp_path / ("u" if options else "t")
        with pytest.raises(ShardwiseError):
            convert(source, place, progress=lambda *step: read.append(step), **options)
    assert not read
    assert not (tmp_path / "u").exists()


@pytest.mark.parametrize(
    ("values", "dtype", "got"),
    [
        ("1 70000", "float16", "70000.0 in row 1"),
        ("1e39 -1e5", "float8_e5m2", "-100000.0 in row 1"),
    ],
)
def test_values_that_a_dtype_cannot_hold(tmp_path, values, dtype, got):
    source = tmp_path / "a.txt"
    source.write_text(f"a inf nan\nb {values}\n")
    with pytest.raises(OptionError, match=got):
        convert(source, tmp_path / "t", dtype=dtype)
    assert not (tmp_path / "t").exists()
    convert(source, tmp_path / "t", dtype="bfloat16")  # infinities and NaN are values


def test_whole_numbers_that_a_dtype_cannot_hold(tmp_path):
    table = Table.from_array(np.array([[1, 2], [3, 300]]))
    with pytest.raises(OptionError, match="got 300 in row 1"):
        store.write_table(tmp_path / "t", table, dtype="int8")
    store.write_table(tmp_path / "t", table, dtype="int16")
    assert Table.open(tmp_path / "t")[1].tolist() == [3, 300]


def test_too_many_shards_for_files(tmp_path):
    table = Table.from_shards([np.zeros((0, 2))] * 100_000)
    with pytest.raises(OptionError, match="99999 shards"):
        table.save(tmp_path / "t")


def test_vectors_in_memory_are_pickled_and_copied(tmp_path):
    rows = np.arange(12, dtype=np.float32).reshape(6, 2)
    for partition in ("mod", "div", Partition.ranges([0, 1, 1, 6])):
        shards = 3 if isinstance(partition, str) else partition.num_shards
        table = Table.from_array(rows, shards, partition)
        vectors = Vectors(table, Vocabulary([*"abcdef"], unknown=0, aliases={"g": "a"}))
        sent = pickle.loads(pickle.dumps(vectors))
        for again in (sent, copy.copy(vectors), copy.deepcopy(vectors)):
            assert list(again) == [*"abcdef"]
            assert again.table.partition == table.partition
            assert again.vocabulary == vectors.vocabulary
            assert again.lookup(["f", "g", "?"]).tolist() == [[10, 11], [0, 1], [0, 1]]
    vectors.save(tmp_path / "t")
    with pytest.raises(TableError, match="pass its path"):
        pickle.dumps(Table.open(tmp_path / "t"))
