"""A TensorFlow checkpoint: an index of tensors by name, and the data files beside it, mapped.

The index is a table whose key "" has a header and whose other keys are names, each with an entry.
A tensor that was saved in slices has an entry without bytes that lists them; each slice has an
entry of its own, under a key that is made of the name and the slice so that keys sort as they do.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shardwise.formats._file import File, map_file
from shardwise.formats._tensorflow_entry import (
    WHOLE,
    Entry,
    Extent,
    numpy_dtype,
    parse_entry,
    parse_header,
    slice_key,
)
from shardwise.formats._tensorflow_index import read_table


class Bundle:
    """A checkpoint: its entries by name, and its data files, mapped when they are needed."""

    def __init__(self, file: File) -> None:
        self._file = file
        table = read_table(file)
        try:
            self.num_files, self._big_endian = parse_header(table.pop(b"", None))
        except ValueError as error:
            raise file.error(
                f"{error}; is this the index of a checkpoint of version 2? One of version 1 has to "
                "be saved again by TensorFlow"
            ) from None
        self._slices = {key: value for key, value in table.items() if key[:1] == b"\0"}
        self._keys: dict[str, bytes] = {}
        self.entries: dict[str, Entry] = {}
        for key, value in table.items():
            if key[:1] != b"\0":
                name = key.decode("utf-8", "backslashreplace")
                self._keys[name] = key
                self.entries[name] = self._entry(name, value)
        self._files: dict[int, File] = {}

    @property
    def mapped_bytes(self) -> int:
        """The size of the data files that arrays were made of."""
        return sum(file.size for file in self._files.values())

    def _entry(self, name: str, value: bytes) -> Entry:
        try:
            return parse_entry(value)
        except ValueError as error:
            raise self._file.error(f"tensor {name!r:.80}: {error}; fetch the file again") from None

    def _slice(self, name: str, extents: tuple[Extent, ...]) -> Entry:
        value = self._slices.get(slice_key(self._keys[name], extents))
        if value is None:
            raise self._file.error(
                f"tensor {name!r:.80}: expected an entry for its slice {extents}, got none; "
                "fetch the file again"
            )
        return self._entry(name, value)

    def slices(self, name: str) -> list[NDArray[Any]]:
        """Return the slices of a tensor, mapped, in the order of their rows, which they cover once.

        Raises:
            FormatError: they do not, or cut another axis than the rows.
        """
        whole = self.entries[name]

        def covers(axis: int, extent: Extent) -> bool:
            return extent[0] == 0 and extent[1] in (WHOLE, whole.shape[axis])

        where = f"tensor {name!r:.80} of shape {list(whole.shape)}"
        pieces: list[NDArray[Any]] = []
        end = 0
        for extents in sorted(whole.slices):
            if len(extents) != len(whole.shape) or not all(
                covers(axis, extent) for axis, extent in enumerate(extents) if axis
            ):
                raise self._file.error(
                    f"{where}: expected slices that cut the rows alone, got {extents!s:.80}; save "
                    "it without a partitioner"
                )
            begin, length = extents[0]
            length = whole.shape[0] if length == WHOLE else length
            if begin != end or not 0 <= length <= whole.shape[0] - begin:
                raise self._file.error(
                    f"{where}: expected a slice that begins with row {end}, got one of {length} "
                    f"rows from row {begin}; the checkpoint is damaged, or mixes several runs"
                )
            end += length
            entry = self._slice(name, extents)
            if (entry.dtype, entry.shape) != (whole.dtype, (length, *whole.shape[1:])):
                raise self._file.error(
                    f"{where}: expected {length} rows of {whole.dtype_name} in the slice at row "
                    f"{begin}, got {list(entry.shape)} {entry.dtype_name}; fetch the file again"
                )
            pieces.append(self.array(name, entry))
        if end != whole.shape[0]:
            raise self._file.error(
                f"{where}: expected slices up to row {whole.shape[0]}, got none from row {end}; "
                "the checkpoint is damaged"
            )
        return pieces

    def array(self, name: str, entry: Entry) -> NDArray[np.generic]:
        """Return the values of an entry, mapped, which may not be aligned.

        Raises:
            FormatError: its bytes are not where the entry says, or are not as many as it says.
        """
        dtype = self._dtype(name, entry)
        count = math.prod(entry.shape)
        where = f"tensor {name!r:.80} of shape {list(entry.shape)} and dtype {dtype}"
        if entry.size != count * dtype.itemsize:
            raise self._file.error(
                f"{where}: expected {count * dtype.itemsize} bytes, got an entry for {entry.size}; "
                "fetch the file again"
            )
        if not 0 <= entry.shard < self.num_files:
            raise self._file.error(
                f"{where}: expected a data file from 0 to {self.num_files - 1}, got {entry.shard}; "
                "fetch the file again"
            )
        if not count:
            return np.empty(entry.shape, dtype)
        data = self._data(entry.shard)
        if not 0 <= entry.offset <= data.size - entry.size:
            raise data.error(
                f"{where}: expected {entry.size} bytes at byte {entry.offset}, got a file of "
                f"{data.size} bytes; it was cut off, or is of another checkpoint"
            )
        return np.frombuffer(data.bytes, dtype, count, entry.offset).reshape(entry.shape)

    def _dtype(self, name: str, entry: Entry) -> np.dtype[np.generic]:
        if not entry.is_numeric:
            raise self._file.error(
                f"tensor {name!r:.80}: expected numbers that NumPy has, got {entry.dtype_name}; "
                "choose another tensor"
            )
        dtype = numpy_dtype(entry)
        if self._big_endian and dtype.itemsize > 1:
            if dtype.kind == "V":
                raise self._file.error(
                    f"tensor {name!r:.80}: expected {dtype} in little-endian byte order, got a "
                    "checkpoint of a big-endian machine; save it again as float32"
                )
            dtype = dtype.newbyteorder(">")
        return dtype

    def _data(self, number: int) -> File:
        if (known := self._files.get(number)) is not None:
            return known
        prefix = self._file.path.removesuffix(".index")
        if prefix == self._file.path:
            raise self._file.error(
                'expected a name that ends with ".index", which the names of the data files follow '
                "from; give the file its name back, and unpack it"
            )
        path = f"{prefix}.data-{number:05d}-of-{self.num_files:05d}"
        try:
            self._files[number] = data = map_file(path)
        except FileNotFoundError:
            raise self._file.error(
                f"expected the data file {path} beside the index, got none; fetch it too"
            ) from None
        return data
