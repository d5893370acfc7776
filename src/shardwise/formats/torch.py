"""PyTorch's state_dicts, loaded by torch with `weights_only=True`, which runs no code of the file.

torch maps the tensors of a file that `torch.save` wrote as a zip archive, as it does since 1.6;
older files are read into memory. bfloat16 and float8 become the dtypes of ml_dtypes, bit by bit.
"""

from __future__ import annotations

import os
import re
import tempfile
import warnings
import zipfile
from collections.abc import Iterable, Mapping
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from shardwise._errors import FormatError, MissingLibraryError, OptionError
from shardwise.formats._file import File
from shardwise.formats._mapped import array_source, check_rows, choose, write_blocks
from shardwise.formats._source import Options, Source
from shardwise.formats._zip import is_zip, members, span_of

# The first pickle of a file before torch 1.6: a number. From protocol 4 on a frame comes first.
_LEGACY = re.compile(rb"\x80[\x02-\x05](?:\x95.{8})?\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19\.", re.DOTALL)
_REFUSED = re.compile(r"(?:GLOBAL|global|class) ([\w.]+) (?:was|is) not")
_REASON = re.compile(r"WeightsUnpickler error: (.*?)(?: Check the documentation|$)")
_EXPORT = "export the tensors where it came from: torch.save(model.state_dict(), FILE)"
_SMALL_FLOATS = (  # torch and ml_dtypes have the same names for them
    "bfloat16",
    "float8_e4m3fn",
    "float8_e5m2",
    "float8_e4m3fnuz",
    "float8_e5m2fnuz",
    "float8_e8m0fnu",
)
_MAX_NAMES = 1_000_000


def is_state_dict(file: File) -> bool:
    """Whether torch.save wrote it.

    Raises:
        FormatError: it is a zip archive of other things.
    """
    if not is_zip(file):
        return _LEGACY.match(file.bytes) is not None
    names = list(members(file))
    if any(name.endswith("/data.pkl") for name in names):
        return True
    raise file.error(
        "expected a zip archive of arrays (.npz) or of tensors (torch.save), got one of "
        f"{', '.join(map(repr, names[:5])) or 'nothing'}; unpack it and name the file of vectors"
    )


def open_state_dict(file: File, options: Options) -> Source:
    """Open a tensor of shape (rows, ...) of a file that torch.save wrote.

    Raises:
        FormatError: torch cannot load the file without running code, or which tensor holds the
            rows is not clear.
        OptionError: there is no tensor `tensor`.
        MissingLibraryError: torch is not installed.
    """
    torch = _import_torch()
    tensors = _tensors(torch, _load(torch, file))
    described = {name: (str(t.dtype)[6:], tuple(t.shape)) for name, t in tensors.items()}
    name = choose(file, described, options.tensor)
    check_rows(file, repr(name), tuple(tensors[name].shape), options.dim)
    array = _as_array(torch, file, name, tensors[name])
    return array_source(file, "torch", array, options, name=name)


def _import_torch() -> Any:
    try:
        import torch
    except ImportError:
        raise MissingLibraryError(
            "expected the library torch to read and write PyTorch files, got none; install it: "
            'pip install "shardwise[torch]"'
        ) from None
    return torch


def _load(torch: Any, file: File) -> Any:
    mapped = is_zip(file)
    if mapped:
        _check_members(file)
    options = {"map_location": "cpu", "weights_only": True}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if mapped and _is_at_path(file):
                return torch.load(file.path, mmap=True, **options)
            file.bytes.seek(0)
            return torch.load(file.bytes, mmap=False, **options)
    except Exception as error:
        raise _refusal(file, error) from None


def _check_members(file: File) -> None:
    """Refuse an archive that was packed again: torch would take packed bytes for values."""
    for info in members(file).values():
        if info.file_size:
            span_of(file, info)
        if info.compress_type != zipfile.ZIP_STORED:
            raise file.error(
                f"member {info.filename!r}: expected it stored, as torch.save does, got it "
                "deflated; load and save it again with torch"
            )


def _is_at_path(file: File) -> bool:
    """Whether its path leads to these very bytes: not if they were unpacked from it."""
    if file.path.endswith(".safetensors"):  # by which torch.load goes
        return False
    try:
        with open(file.path, "rb") as there:
            if os.fstat(there.fileno()).st_size != file.size:
                return False
            ends = (0, max(0, file.size - 65_536))
            return all(
                there.seek(at) == at and there.read(65_536) == file.bytes[at : at + 65_536]
                for at in ends
            )
    except OSError:
        return False


def _refusal(file: File, error: Exception) -> FormatError:
    text = " ".join(str(error).split())
    if found := _REFUSED.search(text):
        return file.error(
            f"expected tensors and nothing else, got {found[1]}, which could run any program; "
            f"{_EXPORT}"
        )
    reason = _REASON.search(text)
    return file.error(
        "expected a file that torch.load takes with weights_only=True, got "
        f"{type(error).__name__}: {(reason[1] if reason else text)[:200]}; fetch the file again, "
        f"or {_EXPORT}"
    )


def _tensors(torch: Any, loaded: Any) -> dict[str, Any]:
    """The tensors of nested dicts, lists and tuples, by names with dots between."""
    found: dict[str, Any] = {}
    seen: set[int] = set()
    waiting = [("", loaded)]
    while waiting and len(found) < _MAX_NAMES:
        name, value = waiting.pop()
        if isinstance(value, torch.Tensor):
            if _is_plain(torch, value):
                found[name or "tensor"] = value
            continue
        if id(value) in seen:  # a file may hold what holds itself
            continue
        if isinstance(value, Mapping):
            items = [(str(key), item) for key, item in value.items()]
        elif isinstance(value, (list, tuple)) and len(value) <= 100:
            items = [(str(key), item) for key, item in enumerate(value)]
        else:
            continue
        seen.add(id(value))
        prefix = f"{name}." if name else ""
        waiting += [(prefix + key, item) for key, item in reversed(items)]
    return found


def _is_plain(torch: Any, tensor: Any) -> bool:
    """Whether it is an array in memory, of a dtype that an array can have."""
    return (
        tensor.layout == torch.strided
        and tensor.device.type == "cpu"
        and not tensor.is_quantized
        and not str(tensor.dtype).startswith(("torch.bits", "torch.q"))
    )


def _as_array(torch: Any, file: File, name: str, tensor: Any) -> NDArray[Any]:
    size = tensor.numel() * tensor.element_size()
    if size > file.size:  # a stride of 0 gives one value any number of rows
        raise file.error(
            f"tensor {name!r}: expected at most the {file.size} bytes of the file, got "
            f"{size} of shape {tuple(tensor.shape)}, views of the same values; save it with "
            "tensor.clone()"
        )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tensor = tensor.detach().resolve_conj().resolve_neg()
            small = str(tensor.dtype).removeprefix("torch.")
            if small not in _SMALL_FLOATS:
                array: NDArray[Any] = tensor.numpy()
            else:
                import ml_dtypes

                bits = torch.int16 if tensor.element_size() == 2 else torch.uint8
                array = tensor.view(bits).numpy().view(getattr(ml_dtypes, small))
    except (TypeError, RuntimeError, ValueError, AttributeError, KeyError) as error:
        raise file.error(
            f"tensor {name!r}: expected a dtype that NumPy or ml_dtypes has, got {tensor.dtype} "
            f"({error}); save it as float32"
        ) from None
    array = array.view()
    array.flags.writeable = False
    return array


def write_state_dict(file: BinaryIO, source: Source, blocks: Iterable[NDArray[Any]]) -> None:
    """Write {"weight": tensor}, which torch.nn.Embedding loads; it has no place for tokens.

    The rows go through a temporary file without a name, from which torch takes them page by page.

    Raises:
        OptionError: torch has no such dtype.
        MissingLibraryError: torch is not installed.
    """
    torch = _import_torch()
    dtype = source.dtype.newbyteorder("=")
    name = dtype.name if dtype.kind in "biufc" or dtype.name in _SMALL_FLOATS else ""
    known = getattr(torch, name, None)
    if not isinstance(known, torch.dtype):
        raise OptionError(
            f"expected a dtype that torch has, got {source.dtype}; write float32 (dtype)"
        )
    with tempfile.TemporaryFile() as rows:
        write_blocks(rows, blocks, dtype)
        rows.flush()
        if 0 in source.shape:  # an empty file cannot be mapped
            tensor = torch.empty(source.shape, dtype=known)
        else:
            mapped = np.memmap(rows, np.uint8, "c")
            tensor = torch.from_numpy(mapped).view(known).reshape(source.shape)
        torch.save({"weight": tensor}, file)
