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
from dataclasses import dataclass
from typing import Any, BinaryIO, Literal

import numpy as np
from numpy.typing import NDArray

from shardwise import _native
from shardwise._errors import StoreError

PAGE = 4096
MAX_HEADER = 100_000_000  # the format's own bound

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

    Example:
        >>> from shardwise import store
        >>> store.storable_dtype(">f4"), store.storable_dtype("bfloat16").name
        (dtype('<f4'), 'bfloat16')
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


def make_header(
    tensors: Mapping[str, tuple[np.dtype[Any], tuple[int, ...]]],
    metadata: Mapping[str, str] | None = None,
) -> bytes:
    """Return the bytes before the data of tensors that follow each other, a multiple of a page."""
    own = {"format": "np", "writer": "shardwise"}
    header: dict[str, Any] = {"__metadata__": {**own, **(metadata or {})}}
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


class LayoutError(ValueError):
    """The header of a safetensors file is broken, or does not fit the file."""

    def __init__(self, expected: str, got: str) -> None:
        super().__init__(f"expected {expected}, got {got}")


@dataclass(frozen=True)
class Tensor:
    """A tensor in a file: what it is, and at which byte of the file it begins.

    `kind` is what the file calls its dtype; where that is not known here, `dtype` is raw bytes.
    """

    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    begin: int
    size: int
    kind: str

    @property
    def is_known(self) -> bool:
        return self.kind in _DTYPES

    def array(self, data: NDArray[np.uint8]) -> NDArray[Any]:
        """Return it as a view of the bytes of the file."""
        return data[self.begin : self.begin + self.size].view(self.dtype).reshape(self.shape)


def map_tensors(path: str, mode: Literal["r", "r+", "c"] = "r") -> dict[str, NDArray[Any]]:
    """Return the tensors of a file by name, as arrays that are mapped from it.

    They are read-only, but with mode "c", where pages that are written to are copied. With "r+" the
    map may be written to, for the native core.

    Raises:
        StoreError: the file is not what the format says.
        FileNotFoundError: there is no such file.
    """
    file, size = open_file(path, writable=mode == "r+")
    with file:
        tensors = read_header(path, file, size)
        data = _map_bytes(file, size, mode)
        return {name: tensor.array(data) for name, tensor in tensors.items()}


def map_file(
    path: str,
) -> tuple[dict[str, NDArray[Any]], dict[str, str], _native.MappedFile]:
    """Return the tensors of a file, read-only, and what it says of itself in `__metadata__`.

    The third reads pieces of the file that shall not be touched in the map.

    Raises:
        StoreError: the file is not what the format says.
        FileNotFoundError: there is no such file.
    """
    file, size = open_file(path)
    with file:
        if hasattr(os, "posix_fadvise"):  # else the system may read megabytes behind the header
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_RANDOM)
        tensors = read_header(path, file, size)
        file.seek(0)
        length = int.from_bytes(file.read(8), "little")
        try:
            metadata = _parse_header(file.read(min(length, size, MAX_HEADER))).get("__metadata__")
            if metadata is None:
                metadata = {}
            if not isinstance(metadata, dict) or not all(
                isinstance(value, str) for value in metadata.values()
            ):
                raise LayoutError("__metadata__ of strings", f"{metadata!r:.80}")
        except LayoutError as error:
            raise _broken(path, error) from None
        data = _map_bytes(file, size, "r")
        whole = _native.MappedFile(file.fileno(), data)
        return {name: tensor.array(data) for name, tensor in tensors.items()}, metadata, whole


def _map_bytes(file: BinaryIO, size: int, mode: Literal["r", "r+", "c"]) -> NDArray[np.uint8]:
    # Before Python 3.13 a mapping keeps a descriptor open for as long as it lives.
    untracked: Any = {"trackfd": False} if sys.version_info >= (3, 13) else {}
    if mode == "c" and _NO_RESERVE:
        kind: Any = {
            "flags": mmap.MAP_PRIVATE | _NO_RESERVE,
            "prot": mmap.PROT_READ | mmap.PROT_WRITE,
        }
    else:
        kind = {"access": _ACCESS[mode]}
    mapped = mmap.mmap(file.fileno(), size, **kind, **untracked)
    data = np.frombuffer(mapped, np.uint8)
    data.flags.writeable = mode == "c"
    return data


def advise(array: NDArray[Any], advice: str) -> None:
    """Tell the system how the file will be read of which `array` is mapped, where it can be told.

    Args:
        array: from `map_tensors` or `map_file`, or a view of one; any other is let be.
        advice: "random": a page here and there; "in order": from the beginning to the end;
            "all": most of it, soon.
    """
    owner: Any = array
    while isinstance(owner, (np.ndarray, memoryview)):
        owner = owner.base if isinstance(owner, np.ndarray) else owner.obj
    if not isinstance(owner, mmap.mmap) or not hasattr(mmap, "MADV_RANDOM"):
        return
    if advice == "random":
        owner.madvise(mmap.MADV_RANDOM)
    elif advice == "in order":
        owner.madvise(mmap.MADV_SEQUENTIAL)
    else:
        owner.madvise(mmap.MADV_NORMAL)
        owner.madvise(mmap.MADV_WILLNEED)


def _no_reserve() -> int:
    """Linux's flag for private copies of files larger than the memory: only a few pages change."""
    if sys.platform != "linux":
        return 0
    # Python before 3.13 does not name it; it is the same number on these.
    usual = 0x4000 if os.uname().machine in ("x86_64", "aarch64", "riscv64", "s390x") else 0
    return int(getattr(mmap, "MAP_NORESERVE", usual))


_NO_RESERVE = _no_reserve()
_ACCESS = {"r": mmap.ACCESS_READ, "r+": mmap.ACCESS_WRITE, "c": mmap.ACCESS_COPY}


def read_header(path: str, file: BinaryIO, size: int) -> dict[str, Tensor]:
    """Return where the tensors of an open file lie, by name; nothing but the header is read.

    Raises:
        StoreError: the file is not what the format says, or has a tensor of a dtype that is not
            known here.
    """
    try:
        tensors = read_layout(file, size)
        for name, tensor in tensors.items():
            if not tensor.is_known:
                raise LayoutError(f"tensor {name!r} of a known dtype", f"{tensor.kind!r:.80}")
    except LayoutError as error:
        raise _broken(path, error) from None
    return tensors


def read_layout(file: BinaryIO, size: int, *, whole: bool = True) -> dict[str, Tensor]:
    """Return where the tensors of a file of `size` bytes lie, by name, in the order of their bytes.

    Args:
        file: the file, at its beginning.
        size: its bytes.
        whole: refuse a file that is shorter or longer than its tensors.

    Raises:
        LayoutError: the file is not what the format says.
    """
    if size < 8:
        raise LayoutError("at least 8 bytes", f"{size}")
    length = int.from_bytes(file.read(8), "little")
    if length > min(size - 8, MAX_HEADER):
        raise LayoutError(f"a header of at most {min(size - 8, MAX_HEADER)} bytes", f"{length}")
    header = _parse_header(file.read(length))
    header.pop("__metadata__", None)
    begin = 8 + length
    tensors = {}
    end = 0
    for name, entry in sorted(header.items(), key=lambda item: _offsets(*item)):
        tensors[name] = tensor = _tensor(name, entry, begin)
        if tensor.begin != begin + end:
            raise LayoutError(
                f"tensor {name!r} to begin at byte {end} of the data", f"{tensor.begin - begin}"
            )
        end += tensor.size
        if whole and end > size - begin:
            raise LayoutError(f"{end} bytes of data", f"{size - begin}")
    if whole and end != size - begin:
        raise LayoutError(f"{end} bytes of data", f"{size - begin}")
    return tensors


def _parse_header(text: bytes) -> dict[str, Any]:
    try:
        header = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise LayoutError("a header in JSON", f"{text[:40]!r} ({error})") from None
    if not isinstance(header, dict):
        raise LayoutError("a header that is a JSON object", f"{text[:40]!r}")
    return header


def _offsets(name: str, entry: Any) -> tuple[int, int]:
    span = entry.get("data_offsets") if isinstance(entry, dict) else None
    if not (isinstance(span, list) and len(span) == 2 and all(type(n) is int for n in span)):
        raise LayoutError(f"two data_offsets of tensor {name!r}", f"{entry!r:.80}")
    return span[0], span[1]


def _tensor(name: str, entry: Any, origin: int) -> Tensor:
    begin, end = _offsets(name, entry)
    kind, shape = entry.get("dtype"), entry.get("shape")
    if not isinstance(kind, str):
        raise LayoutError(f"tensor {name!r} of a known dtype", f"{kind!r:.80}")
    if not (isinstance(shape, list) and all(type(n) is int and n >= 0 for n in shape)):
        raise LayoutError(f"a shape of tensor {name!r}", f"{shape!r:.80}")
    dtype = storable_dtype(_DTYPES[kind]) if kind in _DTYPES else np.dtype(np.uint8)
    if not is_array_shape(shape, dtype):
        raise LayoutError(f"a shape of tensor {name!r} that an array can have", f"{shape!r:.80}")
    if not 0 <= begin <= end < 1 << 62 or (
        kind in _DTYPES and end - begin != math.prod(shape) * dtype.itemsize
    ):
        raise LayoutError(
            f"tensor {name!r} of {shape} {kind} to fill its bytes",
            f"data_offsets {[begin, end]!r:.80}",
        )
    return Tensor(dtype, tuple(shape), origin + begin, end - begin, kind)


def is_array_shape(shape: Sequence[int], dtype: np.dtype[Any]) -> bool:
    """Whether an array can have it: NumPy counts in 64 bits even where there are no elements."""
    return len(shape) <= 32 and math.prod(n or 1 for n in shape) * dtype.itemsize < 1 << 63


def open_file(path: str, *, writable: bool = False) -> tuple[BinaryIO, int]:
    """Open a file of a table for reading; return it and its size.

    Raises:
        StoreError: it is no regular file: a pipe, for example, would block.
        FileNotFoundError: there is no such file.
    """
    flags = os.O_RDWR if writable else os.O_RDONLY
    flags |= getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    descriptor = os.open(path, flags)
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
        os.close(descriptor)
        raise _broken(path, LayoutError("a regular file", "something else"))
    return os.fdopen(descriptor, "r+b" if writable else "rb"), status.st_size


def _broken(path: str, error: LayoutError) -> StoreError:
    return StoreError(
        f"{path} is broken: {error}; restore the table from a copy, or write it again"
    )
