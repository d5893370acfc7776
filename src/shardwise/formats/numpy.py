"""NumPy's .npy, one array, and .npz, a zip archive of them: mapped where they are not deflated.

The format is https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html. Its header is
read here by a grammar of its own rather than as Python, and an array of objects is never unpickled.
"""

from __future__ import annotations

import math
import re
import struct
import zipfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any, BinaryIO

import numpy as np
from numpy.lib import format as npy_format
from numpy.typing import NDArray

from shardwise._errors import FormatError, OptionError
from shardwise._safetensors import is_array_shape
from shardwise._vocabulary import Vocabulary
from shardwise.formats._file import File
from shardwise.formats._mapped import (
    Packed,
    array_source,
    check_rows,
    choose,
    memory_of,
    pack_strings,
    write_blocks,
)
from shardwise.formats._source import Options, Source
from shardwise.formats._zip import data_of, head_of, is_zip, members

_MAGIC = b"\x93NUMPY"
_MAX_HEADER = 10_000  # NumPy's own bound
_HEAD = 12 + _MAX_HEADER
_PAIR = re.compile(
    rb"""\s*(['"])(?P<key>descr|fortran_order|shape)\1\s*:\s*"""
    rb"""(?:(['"])(?P<text>[^'"\\]*)\3|(?P<flag>True|False)|\((?P<shape>[\d\s,L]*)\))\s*(?:,|(?=\}))"""
)
_NUMBERS = re.compile(rb"\s*(?:(?:\d{1,19}L?\s*,\s*)*\d{1,19}L?\s*,?\s*)?")
_DTYPE = re.compile(rb"[<>|=]?[?biufcmMSUV]\d{0,10}(?:\[\d{0,10}[a-zA-Z]+\])?")
_TOKENS = ("tokens", "words", "vocab", "vocabulary", "keys", "labels")
_OBJECTS = 'save it with a dtype of its own, for text numpy.asarray(array, "U")'
_ALIGN = 64


@dataclass(frozen=True)
class _Header:
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    fortran: bool
    begin: int  # of the values

    @property
    def bytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize

    @property
    def end(self) -> int:
        return self.begin + self.bytes

    def first(self, rows: int | None) -> _Header:
        """The header of the first `rows` rows, where they follow each other."""
        if rows is None or not self.shape or (self.fortran and len(self.shape) > 1):
            return self
        return replace(self, shape=(min(rows, self.shape[0]), *self.shape[1:]))

    def array(self, data: NDArray[np.uint8]) -> NDArray[Any]:
        values = data[self.begin : self.end].view(self.dtype)
        return values.reshape(self.shape, order="F" if self.fortran else "C")


def is_npy(file: File) -> bool:
    return file.bytes[: len(_MAGIC)] == _MAGIC


def open_npy(file: File, options: Options) -> Source:
    """Open a .npy of shape (rows, ...), in C or Fortran order.

    Raises:
        FormatError: the file is not what its header says, or holds objects or structures.
        OptionError: `unknown` is given, and a .npy has no tokens.
    """
    whole = _read_header(file, file.bytes[:_HEAD])
    check_rows(file, "the array", whole.shape, options.dim)
    header = whole.first(options.limit)
    if file.size < header.end or (options.limit is None and file.size > header.end):
        raise _wrong_size(file, header, file.size)
    return array_source(file, "npy", header.array(file.data), options)


def is_npz(file: File) -> bool:
    return is_zip(file) and any(name.endswith(".npy") for name in members(file))


def open_npz(file: File, options: Options) -> Source:
    """Open a .npz: an array of shape (rows, ...), and perhaps a one-dimensional one of tokens.

    Raises:
        FormatError: a member is broken, or which holds the rows is not clear.
        OptionError: there is no member `tensor` or `tokens`.
    """
    archive = _Archive(file)
    arrays: dict[str, tuple[str, tuple[int, ...] | None]] = {
        name: (str(header.dtype), header.shape)
        for name, header in archive.headers.items()
        if header.dtype.kind not in "SU" or name == options.tensor
    }
    arrays |= {name: ("", None) for name in archive.broken if name not in _TOKENS}
    # numpy.savez calls the arrays that it gets without names arr_0, arr_1, ...
    name = choose(file, arrays, options.tensor, last=("arr_0",))
    if name in archive.broken:
        raise archive.broken[name]
    header = archive.headers[name]
    check_rows(file, repr(name), header.shape, options.dim)
    tokens = archive.tokens(options, name)
    array = archive.array(name, options)
    return array_source(file, "npz", array, options, tokens=tokens, name=name)


class _Archive:
    """The arrays of a .npz: the headers of those that can be read, the errors of the others."""

    def __init__(self, file: File) -> None:
        self._file = file
        self._infos = {
            name.removesuffix(".npy"): info
            for name, info in members(file).items()
            if name.endswith(".npy")
        }
        self.headers: dict[str, _Header] = {}
        self.broken: dict[str, FormatError] = {}
        for name, info in self._infos.items():
            try:
                head = head_of(file, info, _HEAD)
                self.headers[name] = _read_header(file, head, f"member {info.filename!r}: ")
            except FormatError as error:
                self.broken[name] = error

    def array(self, name: str, options: Options) -> NDArray[Any]:
        info, whole = self._infos[name], self.headers[name]
        if info.file_size != whole.end:
            raise _wrong_size(self._file, whole, info.file_size, f"member {info.filename!r}: ")
        header = whole.first(options.limit)
        return header.array(data_of(self._file, info, header.end, options.progress))

    def tokens(self, options: Options, rows: str) -> Packed | None:
        """The tokens: the array that is named, or one of strings that has a usual name."""
        name = options.tokens
        if name is None:
            usual = [n for n in _TOKENS if n != rows and (n in self.broken or self._is_list(n))]
            if not usual:
                return None
            name = usual[0]
        if name in self.broken:
            raise self.broken[name]
        if not self._is_list(name):
            known = ", ".join(map(repr, filter(self._is_list, self.headers))) or "none"
            raise OptionError(
                f"{self._file.path}: expected tokens= to name a one-dimensional array of strings "
                f"({known}), got {name!r}"
            )
        return pack_strings(self._file, name, self.array(name, options), options.limit)

    def _is_list(self, name: str) -> bool:
        header = self.headers.get(name)
        return header is not None and header.dtype.kind in "SU" and len(header.shape) == 1


def _read_header(file: File, head: bytes, where: str = "") -> _Header:
    try:
        return _parse_header(head)
    except ValueError as error:
        raise file.error(f"{where}{error}") from None


def _parse_header(head: bytes) -> _Header:
    """Read the header of a .npy at the beginning of `head`.

    Raises:
        ValueError: it is broken, or of an array that no table can hold.
    """
    advice = "fetch the file again, or save it again with numpy.save"
    if head[:6] != _MAGIC or len(head) < 10:
        raise ValueError(f"expected the header of a .npy, got {head[:10]!r}; {advice}")
    version = head[6]
    if version not in (1, 2, 3):
        raise ValueError(f"expected version 1, 2 or 3 of .npy, got {version}; {advice}")
    begin = 10 if version == 1 else 12
    (length,) = struct.unpack("<H" if version == 1 else "<I", head[8:begin].ljust(begin - 8, b"\0"))
    text = head[begin : begin + length]
    if length > _MAX_HEADER or len(text) < length:
        raise ValueError(
            f"expected a header of {min(_MAX_HEADER, len(head) - begin)} bytes or fewer, got one "
            f"of {length}; {advice}"
        )
    found = _parse_pairs(text, advice)
    dtype = _parse_dtype(found["descr"], advice)
    shape = tuple(int(n.strip().rstrip(b"L")) for n in found["shape"].split(b",") if n.strip())
    if not is_array_shape(shape, dtype):
        raise ValueError(f"expected a shape that an array can have, got {shape}; {advice}")
    return _Header(dtype, shape, found["fortran_order"] == b"True", begin + length)


def _parse_pairs(text: bytes, advice: str) -> dict[str, bytes]:
    if re.search(rb"""['"]descr['"]\s*:\s*[\[(]""", text):
        raise ValueError(
            "expected an array of numbers, got one of structures; save one field of it: "
            "numpy.save(FILE, array[FIELD])"
        )
    found: dict[str, bytes] = {}
    at = text.find(b"{") + 1
    while at and (pair := _PAIR.match(text, at)):
        kind = {"descr": "text", "fortran_order": "flag", "shape": "shape"}[pair["key"].decode()]
        value = pair[kind]
        if value is None or (kind == "shape" and not _NUMBERS.fullmatch(value)):
            break
        found[pair["key"].decode()] = value
        at = pair.end()
    if len(found) < 3 or text[:at].strip()[:1] != b"{" or text[at:].strip() != b"}":
        raise ValueError(
            "expected a header with descr, fortran_order and shape, got "
            f"{text.strip()[:200]!r}; {advice}"
        )
    return found


def _parse_dtype(text: bytes, advice: str) -> np.dtype[Any]:
    if text.lstrip(b"|<>=")[:1] == b"O":
        raise ValueError(f"expected an array of numbers, got one of pickled objects; {_OBJECTS}")
    if re.fullmatch(rb"[|<>=]?(V\d*|f1)", text):
        raise ValueError(
            f"expected a dtype that says what the values are, got {text.decode()!r}, which NumPy "
            "writes for bfloat16 and other types that it does not have; save the array as float32 "
            "or as safetensors"
        )
    try:
        dtype = np.dtype(text.decode()) if _DTYPE.fullmatch(text) else None
    except (TypeError, ValueError, OverflowError):
        dtype = None
    if dtype is None or dtype.itemsize == 0:
        raise ValueError(f"expected a dtype of fixed size, got {text[:40]!r}; {advice}")
    return dtype


def _wrong_size(file: File, header: _Header, size: int, where: str = "") -> FormatError:
    return file.error(
        f"{where}expected {header.bytes} bytes of values, {header.dtype} of shape {header.shape}, "
        f"got {size - header.begin} after the header; fetch the file again"
        + (f", or pass limit={header.shape[0]}" if size > header.end and header.shape[0] else "")
    )


def write_npy(file: BinaryIO, source: Source, blocks: Iterable[NDArray[Any]]) -> None:
    """Write the rows as one array in C order; a .npy has no place for tokens.

    Raises:
        OptionError: NumPy has no dtype of its own for the rows.
    """
    _write_header(file, source.dtype, source.shape)
    write_blocks(file, blocks, source.dtype)


def write_npz(file: BinaryIO, source: Source, blocks: Iterable[NDArray[Any]]) -> None:
    """Write "vectors", stored so that it can be mapped, and "tokens" where there are any.

    Raises:
        OptionError: NumPy has no dtype of its own for the rows, or a token ends in a NUL, which
            NumPy's strings cannot keep.
    """
    _check_dtype(source.dtype)
    width = _width(source.vocabulary)
    with zipfile.ZipFile(file, "w") as archive:
        with archive.open(_padded("vectors.npy"), "w", force_zip64=True) as member:
            _write_header(member, source.dtype, source.shape)
            write_blocks(member, blocks, source.dtype)
        if source.vocabulary is None:
            return
        info = zipfile.ZipInfo("tokens.npy")
        info.compress_type = zipfile.ZIP_DEFLATED
        info._compresslevel = 1  # type: ignore[attr-defined]
        with archive.open(info, "w", force_zip64=True) as member:
            dtype = np.dtype(f"<U{width}")
            _write_header(member, dtype, (len(source.vocabulary),))
            for tokens in _token_blocks(source.vocabulary, width):
                member.write(memory_of(tokens, dtype))


def _padded(name: str) -> zipfile.ZipInfo:
    """The entry of the first member, with an extra field that puts its bytes on a cache line."""
    info = zipfile.ZipInfo(name)
    zip64 = 20  # bytes of an extra field that zipfile adds
    pad = -(30 + len(name) + zip64 + 4) % _ALIGN
    info.extra = struct.pack("<HH", 0xD935, pad) + bytes(pad)  # the id that Android's zipalign has
    return info


def _write_header(file: Any, dtype: np.dtype[Any], shape: tuple[int, ...]) -> None:
    _check_dtype(dtype)
    npy_format.write_array_header_1_0(
        file, {"descr": dtype.str, "fortran_order": False, "shape": shape}
    )


def _check_dtype(dtype: np.dtype[Any]) -> None:
    try:
        kept = np.dtype(dtype.str) == dtype and dtype.kind not in "OV"
    except TypeError:
        kept = False
    if not kept:
        raise OptionError(
            f"expected a dtype that NumPy has itself, got {dtype}, which a .npy would lose; "
            "write float32 (dtype), or another format: safetensors"
        )


def _token_blocks(vocabulary: Vocabulary, width: int) -> Iterator[NDArray[np.str_]]:
    ids = np.arange(len(vocabulary))
    for begin in range(0, len(ids), _block_rows(width)):
        yield np.array(vocabulary.decode(ids[begin : begin + _block_rows(width)]), f"<U{width}")


def _block_rows(width: int) -> int:
    return max(1, (4 << 20) // (4 * width))


def _width(vocabulary: Vocabulary | None) -> int:
    """The length of the longest token, at least 1."""
    width = 1
    for token in vocabulary or ():
        if token[-1:] == "\0":
            raise OptionError(
                f"expected tokens that do not end in NUL, which NumPy's strings cannot keep, got "
                f"{token!r}; write another format: safetensors"
            )
        width = max(width, len(token))
    return width
