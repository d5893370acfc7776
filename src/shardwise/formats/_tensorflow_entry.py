"""What the index of a TensorFlow checkpoint says of a tensor, parsed from Protocol Buffers.

The messages are BundleHeaderProto and BundleEntryProto
(tensorflow/core/protobuf/tensor_bundle.proto) and what they hold: a shape, slices, a version.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import DTypeLike

from shardwise.formats._tensorflow_index import varint

Extent: TypeAlias = tuple[int, int]
"""First index and length on an axis; the length -1 means all of it."""

WHOLE = -1
_MOST_AXES = 32
_NEWEST = 1  # version of the layout
# tensorflow/core/framework/types.proto: what NumPy, or ml_dtypes for the small floats, can hold.
_DTYPES = {
    1: "float32",
    2: "float64",
    3: "int32",
    4: "uint8",
    5: "int16",
    6: "int8",
    8: "complex64",
    9: "int64",
    10: "bool",
    14: "bfloat16",
    17: "uint16",
    18: "complex128",
    19: "float16",
    22: "uint32",
    23: "uint64",
    24: "float8_e5m2",
    25: "float8_e4m3fn",
    26: "float8_e4m3fnuz",
    27: "float8_e4m3b11fnuz",
    28: "float8_e5m2fnuz",
}


@dataclass(frozen=True)
class Entry:
    """A tensor of the index, or a slice of one."""

    dtype: int = 0
    shape: tuple[int, ...] = ()
    shard: int = 0
    offset: int = 0
    size: int = 0
    slices: tuple[tuple[Extent, ...], ...] = ()

    @property
    def dtype_name(self) -> str:
        """NumPy's name of the dtype, or one that says what TensorFlow calls it."""
        return _DTYPES.get(self.dtype, "string" if self.dtype == 7 else f"dtype {self.dtype}")

    @property
    def is_numeric(self) -> bool:
        return self.dtype in _DTYPES

    @property
    def is_float(self) -> bool:
        return "float" in self.dtype_name


def numpy_dtype(entry: Entry) -> np.dtype[np.generic]:
    """Return the dtype of a numeric entry, in the byte order of this machine."""
    name: DTypeLike = _DTYPES[entry.dtype]
    if entry.dtype == 14 or entry.dtype >= 24:
        import ml_dtypes

        name = getattr(ml_dtypes, entry.dtype_name)
    return np.dtype(name)


def slice_key(name: bytes, extents: tuple[Extent, ...]) -> bytes:
    """Return the key of a slice: TensorFlow's EncodeTensorNameSlice, in its OrderedCode."""
    escaped = re.sub(rb"[\0\xff]", lambda byte: b"\0\xff" if byte[0] == b"\0" else b"\xff\0", name)
    numbers = b"".join(_signed(number) for extent in extents for number in extent)
    return b"\0" + escaped + b"\0\x01" + _unsigned(len(extents)) + numbers


def _unsigned(number: int) -> bytes:
    """Its bytes, big-endian, after their number."""
    length = (number.bit_length() + 7) // 8
    return bytes([length]) + number.to_bytes(length, "big")


def _signed(number: int) -> bytes:
    """Two's complement, big-endian, with as many leading ones (flipped if negative) as bytes."""
    length = (number if number >= 0 else ~number).bit_length() // 7 + 1
    bits = 8 * length
    header = ((1 << length) - 1) << (bits - length)
    return ((number & ((1 << bits) - 1)) ^ header).to_bytes(length, "big")


def _fields(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    """The fields of a message of Protocol Buffers: (number, value)."""
    at = 0
    while at < len(data):
        tag, at = varint(data, at)
        kind = tag & 7
        if kind == 0:
            value, at = varint(data, at)
            yield tag >> 3, value
            continue
        if kind == 2:
            size, at = varint(data, at)
        elif kind in (1, 5):
            size = 8 if kind == 1 else 4
        else:
            raise ValueError(f"expected a field of a known kind, got kind {kind}")
        if size > len(data) - at:
            raise ValueError(
                f"expected a field of {size} bytes, got {len(data) - at} before the end"
            )
        yield tag >> 3, data[at : at + size]
        at += size


def _whole(value: int | bytes) -> int:
    if isinstance(value, bytes):
        raise ValueError(f"expected a number, got the bytes {value!r:.40}")
    return value - (1 << 64) if value >> 63 else value


def _message(value: int | bytes) -> Iterator[tuple[int, int | bytes]]:
    if isinstance(value, int):
        raise ValueError(f"expected a message, got the number {value}")
    return _fields(value)


def parse_header(value: bytes | None) -> tuple[int, bool]:
    if value is None:
        raise ValueError('expected a header under the key "", got none')
    num_files, endianness, needed = 0, 0, 0
    for number, field in _fields(value):
        if number == 1:
            num_files = _whole(field)
        elif number == 2:
            endianness = _whole(field)
        elif number == 3:
            needed = max((_whole(part) for n, part in _message(field) if n == 2), default=0)
    if num_files < 1 or endianness not in (0, 1) or needed > _NEWEST:
        raise ValueError(
            f"expected a header for at least 1 data file, of version {_NEWEST}, got {num_files} "
            f"files, byte order {endianness}, version {needed}"
        )
    return num_files, endianness == 1


def parse_entry(value: bytes) -> Entry:
    numbers = {1: 0, 3: 0, 4: 0, 5: 0}
    shape: tuple[int, ...] = ()
    slices = []
    for number, field in _fields(value):
        if number in numbers:
            numbers[number] = _whole(field)
        elif number == 2:
            shape = _shape(field)
        elif number == 7:
            slices.append(_extents(field))
    return Entry(numbers[1], shape, numbers[3], numbers[4], numbers[5], tuple(slices))


def _shape(value: int | bytes) -> tuple[int, ...]:
    shape = []
    for number, dim in _message(value):
        if number == 2:
            shape.append(next((_whole(size) for n, size in _message(dim) if n == 1), 0))
    count = 1
    for length in shape:
        count *= max(1, length)
        if length < 0 or count >= 1 << 58 or len(shape) > _MOST_AXES:
            raise ValueError(f"expected a shape that an array can have, got {shape!r:.80}")
    return tuple(shape)


def _extents(value: int | bytes) -> tuple[Extent, ...]:
    extents = []
    for number, extent in _message(value):
        if number == 1:
            start, length = 0, WHOLE
            for n, size in _message(extent):
                if n == 1:
                    start = _whole(size)
                elif n == 2:
                    length = _whole(size)
            extents.append((start, length))
    return tuple(extents)
