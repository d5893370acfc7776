"""Tables as the tests store them, and what their files hold."""

import json
from pathlib import Path

import ml_dtypes
import numpy as np

from shardwise import Partition
from shardwise.store import write_blocks

DTYPES = [
    *("bool", "uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64"),
    *("float16", "bfloat16", "float32", "float64", "float8_e4m3fn", "float8_e5m2"),
]
MANIFEST = "shardwise.json"


def dtype_of(name):
    return np.dtype(getattr(ml_dtypes, name, name))


def make_array(shape, dtype="float32", seed=0):
    """Rows of random bits: every one of them has to come back."""
    dtype = dtype_of(dtype)
    raw = np.random.default_rng(seed).bytes(int(np.prod(shape)) * dtype.itemsize)
    bits = np.frombuffer(raw, np.uint8)
    return (bits & 1 if dtype.kind == "b" else bits).view(dtype).reshape(shape)


def rows_of(table):
    return table.lookup(np.arange(len(table)))


def assert_same(table, array):
    found = rows_of(table)
    assert (found.shape, found.dtype) == (array.shape, array.dtype)
    assert found.tobytes() == array.tobytes()


def manifest_of(path):
    return json.loads(Path(path, MANIFEST).read_text())


def files_of(path):
    """Names and contents of a directory, None where there is none."""
    if not Path(path).exists():
        return None
    return {file.name: file.read_bytes() for file in Path(path).iterdir()}


def split_file(path):
    """Return (header, where the data begins, data) of a safetensors file, by the book."""
    content = Path(path).read_bytes()
    length = int.from_bytes(content[:8], "little")
    return json.loads(content[8 : 8 + length]), 8 + length, content[8 + length :]


def write(path, array, **options):
    """Write an array in blocks of at most two rows."""
    options = {"dtype": array.dtype, "partition": Partition.mod(len(array), 2)} | options
    blocks = options.pop("blocks", [array[i : i + 2] for i in range(0, len(array), 2)])
    write_blocks(path, blocks, shape=array.shape, **options)
