"""Rows of every dtype and layout that are looked up."""

import ml_dtypes
import numpy as np

FLOATS = ["float16", "float32", "float64", "longdouble"]
SMALL_FLOATS = [
    "bfloat16",
    "float8_e5m2",
    "float8_e4m3fn",
    "float8_e4m3b11fnuz",
    "float8_e4m3fnuz",
    "float8_e3m4",
]
INTEGERS = ["int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"]
OTHERS = ["bool", "complex64", "complex128", "S1", "S5", "U3", "M8[ns]", "m8[s]", "V7", "i2,f8,S3"]
NATIVE = [np.dtype(d) for d in FLOATS + INTEGERS + OTHERS] + [
    np.dtype(getattr(ml_dtypes, d)) for d in [*SMALL_FLOATS, "float8_e8m0fnu", "float4_e2m1fn"]
]
SWAPPED = [
    np.dtype(d).newbyteorder()
    for d in ("float16", "float32", "float64", "int32", "uint64", "complex64", "U3", "M8[s]")
]
ID_TYPES = [np.dtype(d) for d in INTEGERS] + [np.dtype(d).newbyteorder() for d in INTEGERS]


def random_array(shape, dtype, seed=0):
    """Random bits: NaNs of every payload, infinities and subnormal numbers among them."""
    dtype = np.dtype(dtype)
    rng = np.random.default_rng(seed)
    if dtype.kind == "b":
        return rng.integers(0, 2, shape).astype(bool)
    count = int(np.prod(shape)) * dtype.itemsize
    return np.frombuffer(bytearray(rng.bytes(count)), dtype).reshape(shape)


def in_layout(array, layout):
    """The same values lying in memory another way."""
    if layout == "fortran":
        return np.asfortranarray(array)
    if layout == "reversed":
        return array[::-1].copy()[::-1]
    if layout == "columns reversed":
        return array[..., ::-1].copy()[..., ::-1]
    if layout == "every other row":
        return np.repeat(array, 2, axis=0)[::2]
    if layout == "every other column":
        return np.repeat(array, 2, axis=-1)[..., ::2]
    if layout == "transposed":
        return array.T.copy().T
    if layout == "unaligned":
        room = np.empty(array.nbytes + 1, np.uint8)
        other = np.ndarray(array.shape, array.dtype, room, offset=1)
        other[...] = array
        return other
    other = array.copy()
    if layout == "read-only":
        other.flags.writeable = False
    return other


LAYOUTS = [
    "packed",
    "fortran",
    "reversed",
    "columns reversed",
    "every other row",
    "every other column",
    "transposed",
    "unaligned",
    "read-only",
]


def pieces_of(full, partition):
    return [full[partition.ids_of(k)] for k in range(partition.num_shards)]


def assert_same_bits(result, expected):
    assert type(result) is np.ndarray
    assert result.dtype == expected.dtype
    assert result.shape == expected.shape
    assert result.flags.carray
    assert result.tobytes() == expected.tobytes()
