"""Tables whose rows are packed in 8 or 4 bits, and results of another dtype than the rows."""

import copy
import json
import pickle
import re

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

import shardwise
from shardwise import (
    OptionError,
    OutputError,
    Partition,
    StoreError,
    Table,
    TableError,
    Vectors,
    Vocabulary,
    convert,
    dequantize_rows,
    initializers,
    quantize_rows,
    store,
)
from shardwise.cli import app
from shardwise.gensim import KeyedVectors

RNG = np.random.default_rng(8)
ROWS = RNG.standard_normal((40, 18)).astype(np.float32)
FORMATS = ["int8", "int4"]
FLOATS = [np.dtype(d) for d in (np.float16, ml_dtypes.bfloat16, np.float32, np.float64)]


def plain(rows, row_format):
    """The values that packed rows have, as a table of float32."""
    return dequantize_rows(quantize_rows(rows, row_format), row_format, rows.shape[1])


def same_bits(a, b):
    return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()


def equal(got, wanted):
    """The same numbers and signs; NaN is NaN, also of bfloat16."""
    wide, other = got.astype(np.float64), wanted.astype(np.float64)
    np.testing.assert_array_equal(wide, other)
    number = ~np.isnan(wide)
    assert np.array_equal(np.signbit(wide)[number], np.signbit(other)[number])


def cuts(rows):
    yield Partition.mod(rows, 1)
    yield Partition.mod(rows, 7)
    yield Partition.div(rows, 17)
    yield Partition.ranges([0, 0, rows // 3, rows])


@pytest.fixture(params=[1, 2, 4])
def threads(request):
    before = shardwise.num_threads()
    shardwise.set_num_threads(request.param)
    yield request.param
    shardwise.set_num_threads(before)


@pytest.mark.parametrize("row_format", FORMATS)
def test_what_a_packed_table_is(row_format):
    table = Table.from_array(ROWS, 3).quantize(row_format)
    packed = quantize_rows(ROWS, row_format)
    assert table.row_format == row_format
    assert table.dtype == np.float32
    assert table.shape == (40, 18)
    assert repr(table) == (
        f"Table(shape=(40, 18), dtype=float32, row_format='{row_format}', "
        "partition=Partition.mod(num_rows=40, num_shards=3))"
    )
    for k, shard in enumerate(table.shards):
        assert same_bits(np.ascontiguousarray(shard), packed[k::3])
    about = table.describe()
    assert about["row_format"] == row_format
    assert about["row_bytes"] == packed.shape[1]
    assert about["bytes"] == packed.nbytes
    assert Table.from_array(ROWS).row_format == "float32"
    assert Table.from_array(ROWS.astype(">f4")).row_format == "float32"


@pytest.mark.parametrize("row_format", FORMATS)
@pytest.mark.parametrize("dim", [1, 2, 7, 15, 16, 33, 64, 100, 130])
def test_lookups_give_the_unpacked_values(row_format, dim, threads):
    rows = (RNG.standard_normal((50, dim)) * 10.0 ** RNG.integers(-6, 4, (50, 1))).astype("f4")
    wanted = plain(rows, row_format)
    ids = RNG.integers(0, 50, (30, 400))
    for cut in cuts(50):
        table = Table.from_array(rows, partition=cut).quantize(row_format)
        assert same_bits(table.lookup(ids), wanted[ids])
        assert same_bits(table.lookup(3), wanted[3])
        assert same_bits(table[ids.astype(np.uint16)], wanted[ids])
        for policy, other in (
            ("zeros", np.zeros(dim, "f4")),
            ("clamp", wanted[-1]),
            (7, wanted[7]),
        ):
            got = table.lookup([0, 50], out_of_range=policy)
            assert same_bits(got, np.stack([wanted[0], other]))
        out = np.empty((30, 400, dim), np.float32)
        assert table.lookup(ids, out=out) is out
        assert same_bits(out, wanted[ids])
    with pytest.raises(shardwise.IdOutOfRangeError, match=r"ids\[1\] = 50"):
        table.lookup([0, 50])


@pytest.mark.parametrize("row_format", FORMATS)
@pytest.mark.parametrize("combiner", ["sum", "mean", "sqrtn", "max"])
def test_bags_of_packed_rows_are_those_of_their_values(row_format, combiner, threads):
    for dim in (1, 5, 16, 50, 129):
        rows = RNG.standard_normal((60, dim)).astype("f4")
        ids = RNG.integers(0, 60, 9000)
        offsets = np.sort(RNG.integers(0, 9000, 300))
        offsets[0] = 0
        weights = RNG.standard_normal(9000).astype("f4")
        wanted = Table.from_array(plain(rows, row_format))
        for cut in cuts(60):
            table = Table.from_array(rows, partition=cut).quantize(row_format)
            for options in ({}, {"weights": weights}, {"max_norm": 0.5}, {"default_id": 3}):
                got = table.pool(ids, offsets, combiner=combiner, **options)
                assert same_bits(got, wanted.pool(ids, offsets, combiner=combiner, **options))


def float_tables():
    special = np.array([0.0, -0.0, np.inf, -np.inf, np.nan, 65519.99, 65520.0, 1e-8, 3e-8, 1e39])
    for dtype in FLOATS:
        with np.errstate(over="ignore"):
            values = RNG.standard_normal((30, 37)) * 10.0 ** RNG.integers(-9, 6, (30, 37))
            rows = np.concatenate([values, np.resize(special, (2, 37))]).astype(dtype)
        yield Table.from_array(rows, 3), rows
    for row_format in FORMATS:
        rows = RNG.standard_normal((30, 37)).astype("f4")
        yield Table.from_array(rows, 3).quantize(row_format), plain(rows, row_format)


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_results_of_another_dtype(dtype, threads):
    for table, rows in float_tables():
        ids = RNG.integers(0, len(rows), (11, 500))
        with np.errstate(over="ignore"):
            wanted = rows.astype(dtype)[ids]
        got = table.lookup(ids, dtype=dtype)
        assert got.dtype == dtype
        equal(got, wanted)
        out = np.empty(wanted.shape, dtype)
        assert table.lookup(ids, dtype=dtype, out=out) is out
        equal(out, wanted)
        assert table.lookup(ids[0, 0], dtype=dtype).shape == (37,)
        with np.errstate(over="ignore", invalid="ignore"):
            clipped = table.lookup(ids, max_norm=2.0).astype(dtype)
        equal(table.lookup(ids, max_norm=2.0, dtype=dtype), clipped)


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_bags_of_another_dtype_are_rounded_once(dtype):
    for table, rows in float_tables():
        bags = RNG.integers(0, 30, (200, 7))
        wide = np.float64 if rows.dtype == np.float64 else np.float32
        with np.errstate(over="ignore", invalid="ignore"):
            sums = np.zeros((200, 37), wide)
            for k in range(7):
                sums = sums + rows[bags[:, k]].astype(wide)
            wanted = sums.astype(dtype)
        got = table.pool(bags, dtype=dtype)
        assert got.dtype == dtype
        equal(got, wanted)


def test_dtypes_that_are_refused():
    table = Table.from_array(ROWS)
    for dtype in ("int8", "nonsense", int, ">f4", object, 7, "complex64"):
        with pytest.raises(OptionError, match="expected dtype to be one of float16"):
            table.lookup(0, dtype=dtype)
        with pytest.raises(OptionError, match="expected dtype to be one of float16"):
            table.pool([[0]], dtype=dtype)
    with pytest.raises(TableError, match="to be read as float32, got int32"):
        Table.from_array(ROWS.astype(np.int32)).lookup(0, dtype="float32")
    with pytest.raises(OutputError, match="dtype float16, got"):
        table.lookup(0, dtype="float16", out=np.empty(18, np.float32))
    assert table.lookup(0, dtype="bfloat16").dtype == ml_dtypes.bfloat16


@given(st.data())
@settings(max_examples=50, deadline=None)
def test_any_bytes_are_rows(data):
    """Scales of infinity and NaN among them: the same values on every way to them."""
    row_format = data.draw(st.sampled_from(FORMATS))
    dim = data.draw(st.integers(1, 40))
    row_bytes = dim + 8 if row_format == "int8" else (dim + 1) // 2 + 4
    packed = np.frombuffer(
        data.draw(st.binary(min_size=5 * row_bytes, max_size=5 * row_bytes)), "u1"
    )
    packed = packed.reshape(5, row_bytes)
    table = Table.from_array(packed, 2, row_format=row_format, dim=dim)
    wanted = dequantize_rows(packed, row_format, dim)
    assert same_bits(table.lookup([4, 0, 1, 2, 3]), wanted[[4, 0, 1, 2, 3]])
    one = table.pool([[0], [1], [2], [3], [4]])
    np.testing.assert_array_equal(one, wanted)


@pytest.mark.parametrize("row_format", FORMATS)
def test_written_rows_are_packed(row_format):
    table = Table.from_array(ROWS, 3).quantize(row_format)
    new = RNG.standard_normal((2, 3, 18)).astype("f4")
    table.write([[5, 1, 5], [0, 39, 2]], new)
    wanted = plain(ROWS, row_format)
    wanted[[5, 1, 5, 0, 39, 2]] = plain(new.reshape(6, 18), row_format)
    assert same_bits(table.lookup(np.arange(40)), wanted)
    with pytest.raises(TableError, match=r"finite rows, got nan at rows\[1, 0\]"):
        table.write([3, 4], [[1.0], [np.nan]])
    assert same_bits(table.lookup(np.arange(40)), wanted)


@pytest.mark.parametrize("row_format", FORMATS)
def test_on_disk(row_format, tmp_path):
    table = Table.from_array(ROWS, 3).quantize(row_format)
    table.save(tmp_path / "t")
    manifest = json.loads((tmp_path / "t" / "shardwise.json").read_text())
    assert (manifest["dtype"], manifest["row_format"]) == ("float32", row_format)
    assert manifest["shape"] == [40, 18]
    opened = Table.open(tmp_path / "t", verify=True)
    assert opened.row_format == row_format
    for ours, theirs in zip(table.shards, opened.shards, strict=True):
        assert np.array_equal(ours, theirs)
    assert same_bits(opened.lookup(np.arange(40)), plain(ROWS, row_format))
    with Table.open(tmp_path / "t", "r+") as changed:
        changed.write(7, np.ones(18))
        assert np.allclose(changed[7], 1)
    assert np.allclose(opened[7], 1)
    private = Table.open(tmp_path / "t", "c")
    private.write(7, np.zeros(18))
    assert np.allclose(opened[7], 1)
    assert {one.state for one in store.verify_table(tmp_path / "t")} <= {"ok", "unknown"}


@pytest.mark.parametrize("row_format", FORMATS)
def test_made_on_disk(row_format, tmp_path):
    with Table.create(tmp_path / "z", 1000, 10, row_format=row_format, shards=2) as table:
        assert not table.lookup(np.arange(1000)).any()
        table.write([3], [np.arange(10.0)])
        assert same_bits(table[[3]], plain(np.arange(10, dtype="f4")[None], row_format))
    first = initializers.normal(seed=3)
    Table.create(tmp_path / "n", 1000, 10, initializer=first).close()
    Table.create(tmp_path / "p", 1000, 10, row_format=row_format, initializer=first).close()
    rows = Table.open(tmp_path / "n").lookup(np.arange(1000))
    assert same_bits(Table.open(tmp_path / "p").lookup(np.arange(1000)), plain(rows, row_format))
    with pytest.raises(OptionError, match="expected dtype float32"):
        Table.create(tmp_path / "w", 10, 10, "float16", row_format=row_format)
    with pytest.raises(OptionError, match="'int8' or 'int4', got 'int2'"):
        Table.create(tmp_path / "w", 10, 10, row_format="int2")
    with pytest.raises(TableError, match="one value and more"):
        Table.create(tmp_path / "w", 10, 0, row_format=row_format)
    assert not (tmp_path / "w").exists()


@pytest.mark.parametrize("row_format", FORMATS)
def test_conversions(row_format, tmp_path):
    np.save(tmp_path / "rows.npy", ROWS)
    made = convert(tmp_path / "rows.npy", tmp_path / "t", dtype=row_format, shards=3)
    packed = quantize_rows(ROWS, row_format)
    assert (made.dtype, made.row_format) == (np.float32, row_format)
    assert made.loss == shardwise.quantization_error(ROWS, packed, row_format)
    table = Table.open(tmp_path / "t")
    assert np.array_equal(table.shards[1], packed[1::3])
    # From table to table the bytes stay, however they are cut.
    again = convert(tmp_path / "t", tmp_path / "u", shards=2, partition="div")
    assert (again.row_format, again.loss) == (row_format, None)
    assert np.array_equal(np.concatenate(Table.open(tmp_path / "u").shards), packed)
    convert(tmp_path / "t", tmp_path / "same", dtype=row_format)
    assert np.array_equal(Table.open(tmp_path / "same").shards[2], packed[2::3])
    convert(tmp_path / "t", tmp_path / "first", limit=5)
    assert np.array_equal(np.concatenate(Table.open(tmp_path / "first").shards), packed[:5])
    store.reshard(tmp_path / "t", tmp_path / "v", shards=4)
    assert np.array_equal(Table.open(tmp_path / "v").shards[3], packed[3::4])
    wanted = plain(ROWS, row_format)
    convert(tmp_path / "t", tmp_path / "back.npy")
    assert same_bits(np.load(tmp_path / "back.npy"), wanted)
    store.reshard(tmp_path / "t", tmp_path / "half", dtype="float16")
    assert same_bits(Table.open(tmp_path / "half").lookup(np.arange(40)), wanted.astype("f2"))
    store.reshard(tmp_path / "t", tmp_path / "float", dtype=np.float32)
    assert same_bits(Table.open(tmp_path / "float").lookup(np.arange(40)), wanted)
    Table.from_array(ROWS).save(tmp_path / "plain")
    store.reshard(tmp_path / "plain", tmp_path / "w", dtype=row_format, shards=2)
    assert np.array_equal(Table.open(tmp_path / "w").shards[0], packed[::2])
    store.write_table(tmp_path / "x", Table.from_array(ROWS), dtype=row_format)
    assert np.array_equal(Table.open(tmp_path / "x").shards[0], packed)


@pytest.mark.parametrize("row_format", FORMATS)
def test_neighbours_are_compared_on_request(row_format, tmp_path):
    words = Vectors(Table.from_array(ROWS, 3), Vocabulary([f"w{i}" for i in range(40)]))
    words.save(tmp_path / "t")
    convert(tmp_path / "t", tmp_path / "rows.vec")
    for source in ("t", "rows.vec"):
        made = convert(
            tmp_path / source, tmp_path / "u", dtype=row_format, neighbours=40, overwrite=True
        )
        packed = Vectors.open(tmp_path / "u")
        kept = []
        for word in words.vocabulary:
            before, after = ({n.token for n in v.most_similar(word)} for v in (words, packed))
            kept.append(len(before & after) / 10)
        assert made.loss.neighbours_kept == pytest.approx(np.mean(kept))
    few = convert(tmp_path / "t", tmp_path / "v", dtype=row_format, neighbours=3, limit=1)
    assert few.loss.neighbours_kept == 1  # there are no others
    with pytest.raises(OptionError, match="expected neighbours as a number from 0, got -1"):
        convert(tmp_path / "t", tmp_path / "w", dtype=row_format, neighbours=-1)


def test_the_command_reports_what_is_lost(tmp_path):
    Table.from_array(ROWS).save(tmp_path / "t")
    run = CliRunner().invoke(app, ["convert", f"{tmp_path}/t", f"{tmp_path}/u", "--dtype", "int4"])
    assert run.exit_code == 0, run.output
    assert "40 rows of 18 int4 values in 1 shard, from shardwise" in run.output
    found = re.search(r"int4: values are off by (\S+) \(RMS\), at most by (\S+);", run.output)
    assert 0 < float(found[1]) < float(found[2]) < 0.5
    assert re.search(r"of the ten nearest rows [0-9.]+% stay", run.output)
    run = CliRunner().invoke(app, ["info", f"{tmp_path}/u"])
    assert "40 x 18 int4, 520 bytes" in run.output
    made = ["create", f"{tmp_path}/c", "--rows", "9", "--dim", "4", "--row-format", "int8"]
    run = CliRunner().invoke(app, made)
    assert "9 rows of 4 int8 values in 1 shard" in run.output
    run = CliRunner().invoke(app, ["reshard", f"{tmp_path}/t", f"{tmp_path}/r", "--dtype", "int8"])
    assert "40 rows of 18 int8 values in 1 shard" in run.output


def test_int8_of_integers_is_numpys(tmp_path):
    np.save(tmp_path / "whole.npy", np.arange(-6, 6).reshape(4, 3))
    made = convert(tmp_path / "whole.npy", tmp_path / "t", dtype="int8")
    assert (made.dtype, made.row_format, made.loss) == (np.int8, "int8", None)
    table = Table.open(tmp_path / "t")
    assert (table.dtype, table.row_format) == (np.int8, "int8")
    assert table.lookup(0).tolist() == [-6, -5, -4]
    with pytest.raises(StoreError, match="int4"):
        convert(tmp_path / "whole.npy", tmp_path / "u", dtype="int4")


def test_rows_that_cannot_be_packed(tmp_path):
    rows = ROWS.copy()
    rows[21, 4] = np.inf
    np.save(tmp_path / "rows.npy", rows)
    with pytest.raises(TableError, match=r"finite rows, got inf at rows\[21, 4\]"):
        convert(tmp_path / "rows.npy", tmp_path / "t", dtype="int8")
    assert not (tmp_path / "t").exists()
    with pytest.raises(TableError, match=r"of shard 1: .* got inf at rows\[10, 4\]"):
        Table.from_array(rows, 2).quantize("int4")
    for array in (np.zeros((3, 0), "f4"), np.zeros(3, "i4"), np.zeros((3, 2), "i8")):
        with pytest.raises(TableError, match="expected rows of"):
            Table.from_array(array).quantize("int8")
    with pytest.raises(OptionError, match="'int8' or 'int4', got 'float16'"):
        Table.from_array(rows).quantize("float16")


def test_tables_of_packed_bytes():
    packed = quantize_rows(ROWS, "int4")
    table = Table.from_array(packed, 2, row_format="int4", dim=18)
    assert table.shards[0].base is not None  # no copy
    assert same_bits(table.lookup(np.arange(40)), plain(ROWS, "int4"))
    odd = Table.from_shards([packed[::2], packed[1::2]], row_format="int4", dim=17)
    assert same_bits(odd.lookup(1), plain(ROWS, "int4")[1, :17])
    read_only = packed.copy()
    read_only.flags.writeable = False
    assert Table.from_array(read_only, row_format="int4", dim=18).shape == (40, 18)
    apart = np.zeros((40, 40), np.uint8)[:, : packed.shape[1]]
    apart[:] = packed
    assert same_bits(Table.from_array(apart, 3, row_format="int4", dim=18)[9], table[9])
    strided = np.zeros((40, 2 * packed.shape[1]), np.uint8)[:, ::2]
    strided[:] = packed
    assert same_bits(Table.from_array(strided, row_format="int4", dim=18)[9], table[9])
    with pytest.raises(OptionError, match="expected row_format with dim=4, got none"):
        Table.from_array(np.ones((3, 4)), dim=4)
    with pytest.raises(OptionError, match="expected row_format with dim=4, got none"):
        Table.from_shards([np.ones((3, 4))], dim=4)
    with pytest.raises(OptionError, match="expected dim for int4 rows"):
        Table.from_array(packed, row_format="int4")
    with pytest.raises(TableError, match="expected int4 rows of 14 bytes for 20 values, got 13"):
        Table.from_array(packed, row_format="int4", dim=20)
    with pytest.raises(TableError, match="packed as int8 in uint8"):
        Table.from_array(ROWS, row_format="int8")
    with pytest.raises(OptionError, match="'int8' or 'int4'"):
        Table.from_array(packed, row_format="float32")
    with pytest.raises(TableError, match="9 bytes or more, got 3"):
        Table.from_array(np.zeros((2, 3), np.uint8), row_format="int8")
    assert Table.from_array(packed[:0], row_format="int4", dim=18).lookup([]).shape == (0, 18)


@pytest.mark.parametrize("row_format", FORMATS)
def test_rows_of_more_axes(row_format, tmp_path):
    rows = RNG.standard_normal((9, 3, 2, 5)).astype("f4")
    table = Table.from_array(rows, 2).quantize(row_format)
    wanted = plain(rows.reshape(9, 30), row_format).reshape(rows.shape)
    assert same_bits(table.lookup([[8, 0]]), wanted[[[8, 0]]])
    assert table.pool([[1, 2]]).shape == (1, 3, 2, 5)
    table.write(4, rows[0])
    table.save(tmp_path / "t")
    assert same_bits(Table.open(tmp_path / "t").lookup(4), wanted[0])
    assert same_bits(table.quantize(row_format).lookup(0), table.quantize(row_format)[0])


def test_copies_and_views():
    table = Table.from_array(ROWS, 3).quantize("int4")
    for other in (copy.copy(table), copy.deepcopy(table), pickle.loads(pickle.dumps(table))):
        assert other.row_format == "int4"
        assert same_bits(other.lookup(np.arange(40)), table.lookup(np.arange(40)))


@pytest.mark.parametrize("row_format", FORMATS)
def test_words_on_packed_rows(row_format, tmp_path):
    words = Vocabulary([f"w{i}" for i in range(40)])
    exact = Vectors(Table.from_array(plain(ROWS, row_format)), words)
    for shards in (1, 3):
        packed = Vectors(Table.from_array(ROWS, shards).quantize(row_format), words)
        packed.save(tmp_path / f"t{shards}")
        for vectors in (packed, Vectors.open(tmp_path / f"t{shards}")):
            assert vectors.table.row_format == row_format
            assert vectors.most_similar("w3") == exact.most_similar("w3")
            assert vectors.similarity("w1", "w2") == exact.similarity("w1", "w2")
            assert same_bits(vectors.lookup(["w5", "w0"]), exact.lookup(["w5", "w0"]))
            assert same_bits(vectors.sentence(["w5", "w0"]), exact.sentence(["w5", "w0"]))
            both = vectors.subset(["w3", "w9"])
            assert same_bits(both.lookup("w9"), exact.lookup("w9"))
            moved = vectors.drift(Vectors(Table.from_array(ROWS), words), topn=None)
            assert 0.9 < min(one.cosine for one in moved) < 1
        keyed = KeyedVectors.load(str(tmp_path / f"t{shards}"))
        assert same_bits(np.ascontiguousarray(keyed.vectors), exact.table.lookup(np.arange(40)))
        keyed["w3"] = np.ones(18, np.float32)
        assert np.array_equal(keyed["w3"], np.ones(18))
