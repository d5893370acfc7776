"""Safetensors: one file, or a Hugging Face index that says which of several holds which tensor.

The format is https://github.com/huggingface/safetensors#format. Files that are written here have a
tensor "weight", and with tokens their bytes in "tokens" and where each begins in "offsets".
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Iterable
from dataclasses import replace
from typing import Any, BinaryIO

from numpy.typing import NDArray

from shardwise._errors import OptionError
from shardwise._safetensors import (
    MAX_HEADER,
    LayoutError,
    Tensor,
    is_storable,
    make_header,
    read_layout,
    storable_dtype,
)
from shardwise.formats._file import File, map_file
from shardwise.formats._mapped import (
    Packed,
    array_source,
    check_rows,
    choose,
    memory_of,
    write_blocks,
)
from shardwise.formats._source import Options, Source

_SUFFIX = ".safetensors"
_INDEX_SUFFIX = ".safetensors.index.json"
_MAX_INDEX = 64 << 20  # bytes
_INDEX = re.compile(rb"\s*\{\s*\"")
_ADVICE = "fetch the file again"


def is_file(file: File) -> bool:
    """Whether a header of JSON follows its length, which no text can begin with."""
    length = int.from_bytes(file.bytes[:8], "little")
    return 0 < length <= MAX_HEADER and file.bytes[8:9] == b"{"


def open_file(file: File, options: Options) -> Source:
    """Open a safetensors file: a tensor of shape (rows, ...), and perhaps its tokens.

    Raises:
        FormatError: the file is broken, or which tensor holds the rows is not clear.
        OptionError: there is no such tensor as an option names.
    """
    return _open(file, options, "safetensors")


def _open(file: File, options: Options, form: str) -> Source:
    file.bytes.seek(0)
    stream: Any = file.bytes
    try:
        tensors = read_layout(stream, file.size, whole=options.limit is None)
    except LayoutError as error:
        raise file.error(f"{error}; {_ADVICE}") from None
    known = {name: tensor for name, tensor in tensors.items() if tensor.is_known}
    if options.tensor in tensors and options.tensor not in known:
        raise file.error(
            f"tensor {options.tensor!r}: expected a dtype that NumPy or ml_dtypes has, got "
            f"{tensors[options.tensor].kind!r:.80}; convert it where it came from"
        )
    described = {name: (tensor.kind, tensor.shape) for name, tensor in known.items()}
    name = choose(file, described, options.tensor)
    check_rows(file, repr(name), known[name].shape, options.dim)
    array = _array(file, name, known[name], options.limit)
    tokens = _tokens(file, known, name, options)
    return array_source(file, form, array, options, tokens=tokens, name=name)


def _array(file: File, name: str, tensor: Tensor, limit: int | None = None) -> NDArray[Any]:
    """The first `limit` rows of a tensor."""
    if limit is not None and limit < tensor.shape[0]:
        shape = (limit, *tensor.shape[1:])
        tensor = replace(tensor, shape=shape, size=math.prod(shape) * tensor.dtype.itemsize)
    if tensor.begin + tensor.size > file.size:
        raise file.error(
            f"tensor {name!r}: expected {tensor.size} bytes from byte {tensor.begin}, got "
            f"{max(0, file.size - tensor.begin)} before the end of the file; {_ADVICE}"
        )
    return tensor.array(file.data)


def _tokens(file: File, tensors: dict[str, Tensor], rows: str, options: Options) -> Packed | None:
    """The tokens that files that are written here have."""
    name = options.tokens or "tokens"
    found = [
        tensors[key]
        for key, kind in ((name, "U8"), ("offsets", "I64"))
        if key in tensors and key != rows
        if tensors[key].kind == kind and len(tensors[key].shape) == 1
    ]
    if len(found) == 2:
        data, offsets = (_array(file, name, tensor) for tensor in found)
        return data, offsets if options.limit is None else offsets[: options.limit + 1]
    if options.tokens is not None:
        raise OptionError(
            f"{file.path}: expected tokens= to name a tensor of bytes (U8) beside one of where "
            f"each token begins, 'offsets' (I64), got {options.tokens!r}; leave it out"
        )
    return None


def is_index(file: File) -> bool:
    """Whether it is the JSON that names the files of a model."""
    begins = _INDEX.match(file.bytes) is not None
    return begins and file.bytes.find(b'"weight_map"', 0, _MAX_INDEX) >= 0


def open_index(file: File, options: Options) -> Source:
    """Open the file, beside its index, that holds the embeddings; no other is looked at.

    Raises:
        FormatError: the index or that file is broken, or no tensor has a usual name.
        OptionError: there is no such tensor as an option names.
        OSError: the file cannot be opened.
    """
    files = _weight_map(file)
    name = choose(file, {tensor: ("", None) for tensor in files}, options.tensor)
    part = files[name]
    if not isinstance(part, str) or not _is_plain(part):
        raise file.error(
            f"tensor {name!r}: expected the name of a file beside the index, got {part!r:.80}; "
            f"{_ADVICE}"
        )
    try:
        held = map_file(os.path.join(os.path.dirname(file.path), part))
    except FileNotFoundError as error:
        raise file.error(
            f"tensor {name!r}: expected it in {error.filename}, got no such file; fetch it too"
        ) from None
    if not is_file(held):
        raise held.error(
            f"expected a safetensors file, as {file.path} says, got {held.bytes[:16]!r}; {_ADVICE}"
        )
    return replace(_open(held, replace(options, tensor=name), "safetensors-index"), path=file.path)


def _weight_map(file: File) -> dict[str, Any]:
    try:
        if file.size > _MAX_INDEX:
            raise ValueError(f"{file.size} bytes, more than {_MAX_INDEX}")
        index = json.loads(file.bytes[:])
    except (ValueError, RecursionError) as error:
        raise file.error(
            f"expected an index in JSON, got other text ({error}); {_ADVICE}"
        ) from None
    files = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(files, dict):
        raise file.error(
            f"expected an object weight_map, from tensors to files, got {files!r:.80}; {_ADVICE}"
        )
    return files


def _is_plain(name: str) -> bool:
    """Whether a name leads to no other directory, on any system."""
    return bool(name) and name not in (".", "..") and not set(name) & set("/\\:\0")


def file_of(path: str) -> str | None:
    """Return the file of a directory that opens its tensors: an index, or the only file of them.

    None for a directory that has none or several, and for one that is a table of shardwise.
    """
    try:
        names = os.listdir(path)
    except OSError:
        return None
    if "shardwise.json" in names:
        return None
    for usual in (f"model{_INDEX_SUFFIX}", f"model{_SUFFIX}"):
        if usual in names:
            return os.path.join(path, usual)
    for suffix in (_INDEX_SUFFIX, _SUFFIX):
        found = [name for name in names if name.endswith(suffix)]
        if len(found) == 1:
            return os.path.join(path, found[0])
    return None


def write_file(file: BinaryIO, source: Source, blocks: Iterable[NDArray[Any]]) -> None:
    """Write "weight", and with a vocabulary "tokens" and "offsets"; the rows begin on a page.

    Raises:
        OptionError: the format has no such dtype.
    """
    if not is_storable(source.dtype.newbyteorder("=").name):
        raise OptionError(
            f"expected a dtype that safetensors has, got {source.dtype}; write float32 (dtype)"
        )
    dtype = storable_dtype(source.dtype.newbyteorder("="))
    extra: dict[str, NDArray[Any]] = {}
    if source.vocabulary is not None:
        data, offsets, _ = source.vocabulary.arrays()
        extra = {"offsets": offsets, "tokens": data}
    shapes = {"weight": (dtype, source.shape)}
    shapes |= {name: (array.dtype.newbyteorder("<"), array.shape) for name, array in extra.items()}
    file.write(make_header(shapes))
    write_blocks(file, blocks, dtype)
    for array in extra.values():
        file.write(memory_of(array, array.dtype.newbyteorder("<")))
