"""Lookups of rows that are clipped to a norm."""

import ml_dtypes
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from lookups import FLOATS, SMALL_FLOATS, assert_same_bits, pieces_of

from shardwise import OptionError, Partition, Table, TableError, embedding_lookup


def norms_of(rows, ids_rank):
    """In the widest floats there are."""
    wide = rows.astype(np.clongdouble if rows.dtype.kind == "c" else np.longdouble)
    axes = tuple(range(ids_rank, rows.ndim))
    return np.sqrt(np.sum(np.abs(wide) ** 2, axis=axes, keepdims=True)), wide


def check_clipped(result, rows, ids_rank, limit):
    """Rows within the norm are as they were; others are within rounding of the reference."""
    norms, wide = norms_of(rows, ids_rank)
    assert result.dtype == rows.dtype
    assert result.shape == rows.shape
    flat = norms.reshape(norms.shape[:ids_rank])
    inside, above = flat < limit * (1 - 1e-9), flat > limit * (1 + 1e-9)
    assert result[inside].tobytes() == rows[inside].tobytes()
    if not above.any():
        return
    expected = wide[above] * (np.longdouble(limit) / norms[above])
    got = result.astype(expected.dtype)[above]
    kind = rows.real.dtype if rows.dtype.kind == "c" else rows.dtype
    info = ml_dtypes.finfo(kind.newbyteorder("="))
    # Half a unit of the format, and what the sum of a long row gathers where it is computed.
    relative = 0.51 * float(info.eps) + 20 * min(float(info.eps), 2.0**-52)
    absolute = 0.51 * float(info.smallest_subnormal)
    for part in ("real", "imag"):
        x, y = getattr(got, part), getattr(expected, part)
        assert (np.abs(x - y) <= np.maximum(relative * np.abs(y), absolute)).all()


CLIPPED = [
    *(np.dtype(d) for d in [*FLOATS, "complex64", "complex128", "clongdouble"]),
    *(np.dtype(getattr(ml_dtypes, d)) for d in SMALL_FLOATS),
    *(np.dtype(d).newbyteorder() for d in ("float16", "float32", "float64", "complex128")),
]


@pytest.mark.parametrize("dtype", CLIPPED, ids=str)
@pytest.mark.parametrize("tail", [(), (1,), (8,), (3, 5), (2, 1, 19)], ids=str)
def test_max_norm(dtype, tail):
    rng = np.random.default_rng(0)
    values = rng.normal(size=(50, *tail)) * rng.uniform(0.01, 2, (50, *(1 for _ in tail)))
    if dtype.kind == "c":
        values = values + 1j * rng.normal(size=values.shape)
    full = values.astype(dtype)
    full[3] = np.zeros((), dtype)
    before = full.tobytes()
    partition = Partition.mod(50, 3)
    table = Table.from_shards(pieces_of(full, partition), partition)
    for ids in (np.array([3, 9, 9, 3]), np.arange(48).reshape(6, 8), np.array(7), np.zeros(0, int)):
        for limit in (0.25, 1.0, 3, np.float32(0.5)):
            rows = full[ids, ...]
            check_clipped(table.lookup(ids, max_norm=limit), rows, ids.ndim, float(limit))
            out = np.empty_like(rows)
            assert table.lookup(ids, max_norm=limit, out=out) is out
            check_clipped(out, rows, ids.ndim, float(limit))
        for none in (None, float("inf"), 1e300):
            assert_same_bits(table.lookup(ids, max_norm=none), full[ids, ...])
        for limit in (0, -1.0):
            assert not np.any(table.lookup(ids, max_norm=limit).astype(np.complex128))
    assert full.tobytes() == before


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_max_norm_of_random_rows(data):
    dtype = data.draw(st.sampled_from(CLIPPED), label="dtype")
    count = data.draw(st.integers(1, 40), label="elements")
    exponent = data.draw(st.integers(-1080, 1020), label="exponent")
    rng = np.random.default_rng(data.draw(st.integers(0, 1000), label="seed"))
    with np.errstate(over="ignore", under="ignore"):
        full = np.ldexp(rng.uniform(-1, 1, (4, count)), exponent).astype(dtype)
    norms, _ = norms_of(full, 1)
    assume(np.isfinite(norms).all() and norms.all())
    limit = float(norms[1, 0] * data.draw(st.sampled_from([0.01, 0.7, 1.0, 1.4, 10])))
    assume(0 < limit < 1e308)
    check_clipped(embedding_lookup(full, range(4), max_norm=limit), full, 1, limit)


def test_a_row_at_the_norm_is_within():
    full = np.array([[3, 4], [-4, 3], [5, 0]])
    for dtype in ("f2", "f4", "f8", ml_dtypes.bfloat16, ml_dtypes.float8_e5m2, "c8", ">f4"):
        rows = full.astype(dtype)
        assert_same_bits(embedding_lookup(rows, range(3), max_norm=5), rows)


def test_infinities_and_nans():
    for dtype in ("f2", "f4", "f8", ml_dtypes.bfloat16, ml_dtypes.float8_e5m2, "c16", ">f8"):
        full = np.array([[np.inf, 1], [np.nan, 9], [3, 4]]).astype(dtype)
        result = embedding_lookup(full, range(3), max_norm=1)
        assert np.isnan(result[0, 0])
        assert result[0, 1] == 0
        assert result[1].tobytes() == full[1].tobytes()
        assert np.abs(result[2].astype(complex) - [0.6, 0.8]).max() < 0.1


@pytest.mark.parametrize(
    "dtype",
    ["int32", "uint8", "bool", "S3", "U3", "M8[s]", "m8[s]", "V4", "f4,f4", ml_dtypes.int4],
    ids=str,
)
def test_max_norm_of_what_has_none(dtype):
    full = np.zeros((3, 2), dtype)
    for sharded in (full, [full, full]):
        with pytest.raises(TableError, match="expected rows of floating-point or complex numbers"):
            embedding_lookup(sharded, [0], max_norm=1.0)


def test_max_norm_refused():
    for bad in (float("nan"), "1", b"1", "x", [1.0], [1.0, 2.0], 1j, object(), {}, 10**400):
        with pytest.raises(OptionError, match="expected max_norm as a number or None, got"):
            embedding_lookup(np.ones((3, 2)), [0], max_norm=bad)
    negative_zero = embedding_lookup(np.ones((3, 2)), [0], max_norm=-0.0)
    assert_same_bits(negative_zero, np.zeros((1, 2)))
