"""int8 and int4 rows: the bytes and the values of PyTorch, what is refused, and what is lost."""

import math
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

import shardwise
from shardwise import OptionError, TableError
from shardwise._quantize import (
    INT4,
    INT8,
    QuantizationLoss,
    as_row_format,
    dequantize_rows,
    quantization_error,
    quantize_rows,
)

with np.load(Path(__file__).parent / "golden" / "quantize.npz") as file:
    GOLDEN = dict(file)
KEYS = [key.removesuffix("/rows") for key in GOLDEN if key.endswith("/rows")]


@pytest.fixture(params=[1, 2, 7])
def threads(request):
    before = shardwise.num_threads()
    shardwise.set_num_threads(request.param)
    yield request.param
    shardwise.set_num_threads(before)


def same_bits(a, b):
    return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()


def torch_ops(format):
    torch = pytest.importorskip("torch")
    ops = torch.ops.quantized
    if format == "int8":
        pack, unpack = ops.embedding_bag_byte_prepack, ops.embedding_bag_byte_unpack
    else:
        pack, unpack = ops.embedding_bag_4bit_prepack, ops.embedding_bag_4bit_unpack
    return (
        lambda rows: pack(torch.tensor(rows)).numpy(),
        lambda packed: unpack(torch.tensor(packed)).numpy(),
    )


@pytest.mark.parametrize("format", ["int8", "int4"])
@pytest.mark.parametrize("key", KEYS)
def test_golden_bytes(key, format):
    rows = GOLDEN[f"{key}/rows"]
    packed = quantize_rows(rows, format)
    assert same_bits(packed, GOLDEN[f"{key}/{format}"])
    assert same_bits(
        dequantize_rows(packed, format, rows.shape[1]), GOLDEN[f"{key}/{format}/values"]
    )


ROWS = arrays.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=40).flatmap(
    lambda shape: st.one_of(
        arrays.arrays(np.float32, shape, elements=st.floats(-6e4, 6e4, width=32)),
        arrays.arrays(
            np.float16, shape, elements=st.floats(allow_nan=False, allow_infinity=False, width=16)
        ),
        arrays.arrays(np.float32, shape, elements=st.sampled_from([0.0, -0.0, 1.0, -1e-7, 1e-40])),
    )
)


@pytest.mark.parametrize("format", ["int8", "int4"])
@settings(deadline=None)  # the first imports torch
@given(rows=ROWS)
def test_the_bytes_and_values_are_torchs(format, rows):
    pack, unpack = torch_ops(format)
    if format == "int4" and rows.shape[1] % 2:
        rows = np.repeat(rows, 2, axis=1)
    packed = quantize_rows(rows, format)
    assert same_bits(packed, pack(rows))
    assert same_bits(dequantize_rows(packed, format, rows.shape[1]), unpack(packed))


@pytest.mark.parametrize("format", [INT8, INT4])
def test_many_rows_on_threads(format, threads):
    random = np.random.default_rng(3)
    rows = (
        random.standard_normal((20_000, 40)) * 10.0 ** random.uniform(-9, 4, (20_000, 1))
    ).astype(np.float32)
    packed = quantize_rows(rows, format)
    pieces = [quantize_rows(rows[i : i + 1], format) for i in range(0, 20_000, 997)]
    assert same_bits(packed[::997], np.concatenate(pieces))
    values = dequantize_rows(packed, format, 40)
    pack, unpack = torch_ops(format.name)
    assert same_bits(packed, pack(rows))
    assert same_bits(values, unpack(packed))


@pytest.mark.parametrize("format", ["int8", "int4"])
def test_any_bytes_are_rows(format):
    random = np.random.default_rng(4)
    packed = random.integers(0, 256, (3000, as_row_format(format).row_bytes(34)), dtype=np.uint8)
    values = dequantize_rows(packed, format, 34)
    _, unpack = torch_ops(format)
    expected = unpack(packed)
    assert np.array_equal(values, expected, equal_nan=True)
    odd = values.view(np.uint32)[np.isnan(values)]
    assert len(odd)
    assert (odd == 0x7FC00000).all()


@given(rows=ROWS)
def test_an_odd_number_of_int4_values(rows):
    rows = rows[:, : (rows.shape[1] - 1) // 2 * 2 + 1]
    packed = quantize_rows(rows, "int4")
    least = np.float16(rows.astype(np.float64).min(axis=1))[:, None].astype(np.float64)
    padded = np.concatenate([rows, rows.min(axis=1, keepdims=True)], axis=1)
    longer = quantize_rows(padded, "int4")
    steps = rows.shape[1] // 2
    assert (packed[:, steps] >> 4 == 0).all()
    assert same_bits(packed[:, :steps], longer[:, :steps])
    assert (packed[:, steps] == longer[:, steps] & 15).all()
    assert (packed[:, steps + 1 : -2] == longer[:, steps + 1 : -2]).all()
    assert (packed[:, -2:].copy().view(np.float16) == least).all()  # of two zeros either
    assert np.array_equal(
        dequantize_rows(packed, "int4", rows.shape[1]),
        dequantize_rows(longer, "int4", rows.shape[1] + 1)[:, :-1],
    )


def test_other_floats_and_strides():
    rows = np.random.default_rng(5).standard_normal((1000, 6))
    expected = quantize_rows(rows.astype(np.float32), "int8")
    assert same_bits(quantize_rows(rows, "int8"), expected)
    assert same_bits(quantize_rows(rows.astype(">f4"), "int8"), expected)
    small = rows.astype(ml_dtypes.bfloat16)
    assert same_bits(quantize_rows(small, "int4"), quantize_rows(small.astype(np.float32), "int4"))
    half = rows.astype(np.float16)
    assert same_bits(quantize_rows(half, "int4"), quantize_rows(half.astype(">f2"), "int4"))
    one = rows.astype(np.float32)
    for view in (
        one[::-1],
        one[::3],
        one[:, 1:4],
        one[:, ::2],
        one[:, ::-1],
        np.asfortranarray(one),
    ):
        packed = quantize_rows(view, "int8")
        assert same_bits(packed, quantize_rows(view.copy(), "int8"))
        assert same_bits(
            dequantize_rows(packed[::-2], "int8"), dequantize_rows(packed[::-2].copy(), "int8")
        )
    read_only = one.copy()
    read_only.flags.writeable = False
    assert same_bits(quantize_rows(read_only, "int8"), expected)
    assert quantize_rows(one[:0], "int4").shape == (0, 7)
    assert dequantize_rows(expected[:0], "int8").shape == (0, 6)


def test_more_than_a_block_at_a_time():
    rows = np.random.default_rng(6).standard_normal((9000, 200))
    packed = quantize_rows(rows, "int8")
    assert same_bits(packed, quantize_rows(rows.astype(np.float32), "int8"))
    rows[8000, 7] = 1e300
    with pytest.raises(TableError, match=r"1e\+300 in rows\[8000\]"):
        quantize_rows(rows, "int8")


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("format", ["int8", "int4"])
def test_rows_that_are_not_finite(format, dtype, value, threads):
    rows = np.ones((30_000, 9), dtype)
    rows[[21_000, 29_999], 5] = value
    with pytest.raises(TableError, match=rf"got {value} at rows\[21000, 5\]"):
        quantize_rows(rows, format)


def test_rows_that_are_too_wide():
    with pytest.raises(
        TableError, match=r"3\.4e38 wide for int8, got -3e\+38 to 3e\+38 in rows\[1\]"
    ):
        quantize_rows(np.float32([[0, 1], [-3e38, 3e38]]), "int8")
    for row in ([-65520, 0], [0, 982800], [65520, 65520], [3e38, 0]):
        with pytest.raises(TableError, match=r'int4, got .* in rows\[0\]; .* or take "int8"'):
            quantize_rows(np.float32([row]), "int4")
    largest = np.float32([[0, np.finfo(np.float32).max]])
    assert np.isfinite(dequantize_rows(quantize_rows(largest, "int8"), "int8")).all()


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (np.zeros(3), "of shape"),
        (np.zeros((2, 0)), "dim from 1"),
        (np.zeros((2, 3, 4)), "rows.reshape"),
        (np.zeros((2, 3), int), "rows of floats, got int64"),
        (np.zeros((2, 3), bool), "rows of floats"),
        (np.zeros((2, 3), complex), "rows of floats"),
        (np.zeros((2, 3), "S4"), "rows of floats"),
        ("a", "scalar"),
    ],
)
def test_what_is_no_row(rows, message):
    with pytest.raises(TableError, match=message):
        quantize_rows(rows, "int8")


def test_what_are_no_bytes_of_a_row():
    packed = quantize_rows(np.ones((2, 5), np.float32), "int4")
    with pytest.raises(OptionError, match="7 bytes hold 5 or 6 values"):
        dequantize_rows(packed, "int4")
    assert dequantize_rows(packed, "int4", np.int64(6)).shape == (2, 6)
    with pytest.raises(TableError, match="of 8 bytes for 7 values, got 7"):
        dequantize_rows(packed, "int4", 7)
    with pytest.raises(TableError, match="9 bytes or more, got 7"):
        dequantize_rows(packed, "int8")
    with pytest.raises(TableError, match="packed as uint8"):
        dequantize_rows(packed.view(np.int8), "int4", 5)
    with pytest.raises(TableError, match="packed as uint8"):
        dequantize_rows(packed[0], "int4", 5)
    for dim in (0, -1, True, 2.0, "5", 2**80):
        with pytest.raises((OptionError, TableError)):
            dequantize_rows(packed, "int4", dim)
    for format in ("int2", "INT8", None, 8, ["int8"]):
        with pytest.raises(OptionError, match="'int8' or 'int4'"):
            dequantize_rows(packed, format, 5)


def test_bytes_of_a_row():
    assert [INT8.row_bytes(d) for d in (1, 2, 7)] == [9, 10, 15]
    assert [INT4.row_bytes(d) for d in (1, 2, 7)] == [5, 5, 8]
    assert INT8.dim(15) == 7
    assert INT4.dim(8) is None
    assert as_row_format(INT4) is as_row_format("int4") is INT4
    for format in (INT8, INT4):
        with pytest.raises(TableError, match="bytes or more"):
            format.dim(format.row_bytes(0))


def test_quantization_error():
    rows = np.random.default_rng(7).standard_normal((30_000, 50)).astype(np.float32)
    for format, most, cosine in (("int8", 0.02, 0.9999), ("int4", 0.31, 0.99)):
        packed = quantize_rows(rows, format)
        loss = quantization_error(rows, packed, format)
        after = dequantize_rows(packed, format, 50).astype(np.float64)
        lost = after - rows
        assert loss.max_error == np.abs(lost).max() < most
        assert loss.rms_error == pytest.approx(math.sqrt(np.square(lost).mean()))
        norms = np.linalg.norm(after, axis=1) * np.linalg.norm(rows.astype(np.float64), axis=1)
        assert loss.mean_cosine == pytest.approx(((after * rows).sum(1) / norms).mean(), abs=1e-12)
        assert cosine < loss.mean_cosine < 1


def test_quantization_error_of_odd_rows():
    assert quantization_error(
        np.zeros((0, 3)), np.zeros((0, 11), np.uint8), "int8"
    ) == QuantizationLoss(0, 0, 1)
    zeros = np.zeros((2, 3), np.float32)
    packed = quantize_rows(zeros, "int8")
    assert quantization_error(zeros, packed, "int8")[:3] == (0, 0, 1)
    moved = quantization_error(zeros + np.float32([[0], [2]]), packed, "int8")
    assert moved[:3] == (2, pytest.approx(math.sqrt(2)), 0.5)
    huge = np.float32([[1e38, -1e38], [1e-40, -1e-40]])
    assert quantization_error(huge[:1], quantize_rows(huge[:1], "int8"), "int8").mean_cosine > 0.999
    with pytest.raises(TableError, match="as many rows"):
        quantization_error(zeros[:1], packed, "int8")
    with pytest.raises(TableError, match="for 2 values"):
        quantization_error(zeros[:, :2], packed, "int8")
