"""Safetensors files that begin their data on a page, and are mapped, not read.

The format is https://github.com/huggingface/safetensors#format. The `safetensors` library reads
these files too; it is not used here because it copies what it reads, and because it writes a
tensor only when it has the whole of it in memory.
"""

from __future__ import annotations

import json
import math
import mmap
import os
import stat
import sys
from collections.abc import Mapping, Sequence
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from shardwise._errors import StoreError

PAGE = 4096
_MAX_HEADER = 100_000_000  # the format's own bound

_NAMES = {
    "bool": "BOOL",
    "uint8": "U8",
    "int8": "I8",
    "uint16": "U16",
    "int16": "I16",
    "uint32": "U32",
    "int32": "I32",
    "uint64": "U64",
    "int64": "I64",
    "float16": "F16",
    "bfloat16": "BF16",
    "float32": "F32",
    "float64": "F64",
    "float8_e4m3fn": "F8_E4M3",
    "float8_e5m2": "F8_E5M2",
}
_DTYPES = {name: dtype for dtype, name in _NAMES.items()}


def is_storable(name: object) -> bool:
    """Whether it is the name of a dtype that has a form on disk."""
    return isinstance(name, str) and name in _NAMES


def storable_dtype(dtype: Any) -> np.dtype[Any]:
    """Return a dtype, given as NumPy takes it or by name, in the byte order of files.

    Raises:
        StoreError: it is no dtype, or files have no form for it.
    """
    try:
        found = np.dtype(_small_float(dtype) if isinstance(dtype, str) else dtype)
    except (TypeError, ValueError, SyntaxError):  # NumPy reads a string as a small language
        found = np.dtype(object)
    if found.newbyteorder("=").name not in _NAMES:
        raise StoreError(
            f"expected a dtype that has a form on disk ({', '.join(_NAMES)}), got {dtype!r}"
        )
    stored: np.dtype[Any] = found.newbyteorder("<")
    return stored


def _small_float(name: str) -> Any:
    if not name.startswith(("bfloat", "float8")):
        return name
    import ml_dtypes  # NumPy knows these names once it is imported

    return getattr(ml_dtypes, name, name)


def make_header(tensors: Mapping[str, tuple[np.dtype[Any], tuple[int, ...]]]) -> bytes:
    """Return the bytes before the data of tensors that follow each other, a multiple of a page."""
    header: dict[str, Any] = {"__metadata__": {"format": "np", "writer": "shardwise"}}
    end = 0
    for name, (dtype, shape) in tensors.items():
        begin, end = end, end + math.prod(shape) * dtype.itemsize
        header[name] = {
            "dtype": _NAMES[dtype.newbyteorder("=").name],
            "shape": list(shape),
            "data_offsets": [begin, end],
        }
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-(8 + len(text)) % PAGE)
    return len(text).to_bytes(8, "little") + text


def map_tensors(path: str) -> dict[str, NDArray[Any]]:
    """Return the tensors of a file by name, as read-only arrays that are mapped from it.

    Raises:
        StoreError: the file is not what the format says.
        FileNotFoundError: there is no such file.
    """
    file, size = open_file(path)
    with file:
        if size < 8:
            raise _broken(path, "at least 8 bytes", f"{size}")
        length = int.from_bytes(file.read(8), "little")
        if length > min(size - 8, _MAX_HEADER):
            raise _broken(
                path, f"a header of at most {min(size - 8, _MAX_HEADER)} bytes", f"{length}"
            )
        header = _parse_header(path, file.read(length))
        # Before Python 3.13 a mapping keeps a descriptor open for as long as it lives.
        untracked: Any = {"trackfd": False} if sys.version_info >= (3, 13) else {}
        mapped = mmap.mmap(file.fileno(), size, access=mmap.ACCESS_READ, **untracked)
    header.pop("__metadata__", None)
    begin = 8 + length
    tensors = {}
    end = 0
    for name, entry in sorted(header.items(), key=lambda item: _offsets(path, *item)):
        dtype, shape, span = _entry(path, name, entry)
        if span[0] != end:
            raise _broken(path, f"tensor {name!r} to begin at byte {end} of the data", f"{span[0]}")
        end = span[1]
        if end > size - begin:
            raise _broken(path, f"{end} bytes of data", f"{size - begin}")
        count = math.prod(shape)
        flat = np.frombuffer(mapped, dtype, count, begin + span[0] if count else 0)
        tensors[name] = flat.reshape(shape)
    if end != size - begin:
        raise _broken(path, f"{end} bytes of data", f"{size - begin}")
    return tensors


def _parse_header(path: str, text: bytes) -> dict[str, Any]:
    try:
        header = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise _broken(path, "a header in JSON", f"{text[:40]!r} ({error})") from None
    if not isinstance(header, dict):
        raise _broken(path, "a header that is a JSON object", f"{text[:40]!r}")
    return header


def _offsets(path: str, name: str, entry: Any) -> tuple[int, int]:
    span = entry.get("data_offsets") if isinstance(entry, dict) else None
    if not (isinstance(span, list) and len(span) == 2 and all(type(n) is int for n in span)):
        raise _broken(path, f"two data_offsets of tensor {name!r}", f"{entry!r:.80}")
    return span[0], span[1]


def _entry(
    path: str, name: str, entry: Any
) -> tuple[np.dtype[Any], tuple[int, ...], tuple[int, int]]:
    begin, end = _offsets(path, name, entry)
    kind, shape = entry.get("dtype"), entry.get("shape")
    if not isinstance(kind, str) or kind not in _DTYPES:
        raise _broken(path, f"tensor {name!r} of a known dtype", f"{kind!r:.80}")
    if not (isinstance(shape, list) and all(type(n) is int and n >= 0 for n in shape)):
        raise _broken(path, f"a shape of tensor {name!r}", f"{shape!r:.80}")
    dtype = storable_dtype(_DTYPES[kind])
    if not is_array_shape(shape, dtype):
        raise _broken(path, f"a shape of tensor {name!r} that an array can have", f"{shape!r:.80}")
    if not 0 <= begin <= end < 1 << 63 or end - begin != math.prod(shape) * dtype.itemsize:
        raise _broken(
            path,
            f"tensor {name!r} of {shape} {dtype} to fill its bytes",
            f"data_offsets {[begin, end]!r:.80}",
        )
    return dtype, tuple(shape), (begin, end)


def is_array_shape(shape: Sequence[int], dtype: np.dtype[Any]) -> bool:
    """Whether an array can have it: NumPy counts in 64 bits even where there are no elements."""
    return len(shape) <= 32 and math.prod(n or 1 for n in shape) * dtype.itemsize < 1 << 63


def open_file(path: str) -> tuple[BinaryIO, int]:
    """Open a file of a table for reading; return it and its size.

    Raises:
        StoreError: it is no regular file: a pipe, for example, would block.
        FileNotFoundError: there is no such file.
    """
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    descriptor = os.open(path, flags)
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
        os.close(descriptor)
        raise _broken(path, "a regular file", "something else")
    return os.fdopen(descriptor, "rb"), status.st_size


def _broken(path: str, expected: str, got: str) -> StoreError:
    return StoreError(
        f"{path} is broken: expected {expected}, got {got}; restore the table from a copy, "
        "or write it again"
    )
