"""Tables of sorted strings, as LevelDB and TensorFlow write them: a checkpoint's index is one.

A table is blocks, a byte of kind and a checksum after each, and a footer that says where the last
block lies, the index, whose values say where the others lie. In a block each entry leaves out the
bytes that its key shares with the key before it, save every 16th entry, a "restart"; the places of
the restarts and their number end the block.
"""

from __future__ import annotations

from collections.abc import Iterator

from shardwise.formats._file import File

_MAGIC = 0xDB4775248B80FB57.to_bytes(8, "little")
_FOOTER = 48  # two handles of at most 20 bytes each, padding, the magic number
_TRAILER = 5
_RESTART_INTERVAL = 16
_MOST_BLOCK = 64 << 20  # TensorFlow cuts a block after 256 KB
_MOST = 1 << 30  # an index of a checkpoint has some 50 bytes for a variable
_ADVICE = "fetch the file again"


def is_table(file: File) -> bool:
    """Whether the last bytes are those of a table."""
    return file.size >= _FOOTER and file.bytes[-8:] == _MAGIC


def read_table(file: File) -> dict[bytes, bytes]:
    """Return all keys, in ascending order, and their values.

    Memory is bounded by some multiple of the file's size, whatever the file says.

    Raises:
        FormatError: the file is no such table, is compressed inside, or does not fit its checksums.
    """
    if not is_table(file) or file.size > _MOST:
        raise file.error(
            f"expected a table of sorted strings of {_FOOTER} bytes to 1 GB, got {file.size} bytes "
            f"that end with {file.bytes[-8:]!r}; {_ADVICE}"
        )
    footer = file.bytes[file.size - _FOOTER : -8]
    try:
        at = varint(footer, varint(footer, 0)[1])[1]  # past the handle of the meta index
        table: dict[bytes, bytes] = {}
        last, end = b"", 0
        for _, handle in _entries(_block(file, footer[at:], 0)):
            for key, value in _entries(_block(file, handle, end)):
                if table and key <= last:
                    raise ValueError(f"expected keys in ascending order, got {key!r:.80} again")
                table[key] = value
                last = key
            offset, at = varint(handle, 0)
            end = offset + varint(handle, at)[0]
    except ValueError as error:
        raise file.error(f"{error}; {_ADVICE}") from None
    return table


def varint(data: bytes, at: int) -> tuple[int, int]:
    """Return the number at a position, seven bits a byte, and the position after it.

    Raises:
        ValueError: the data ends within it, or it has more than 64 bits.
    """
    number = shift = 0
    for byte in data[at : at + 10]:
        at += 1
        number |= (byte & 127) << shift
        if byte < 128:
            if number >= 1 << 64:
                break
            return number, at
        shift += 7
    raise ValueError(f"expected a number of at most 64 bits, got {data[max(0, at - 10) : at]!r}")


def _block(file: File, handle: bytes, least: int) -> bytes:
    """The block that a handle names; blocks do not overlap, so none is read twice."""
    offset, at = varint(handle, 0)
    size, _ = varint(handle, at)
    room = file.size - _FOOTER - _TRAILER
    if not (least <= offset <= offset + size <= room) or size > _MOST_BLOCK:
        raise ValueError(
            f"expected a block of at most {_MOST_BLOCK} bytes between the bytes {least} and "
            f"{max(0, room)}, got one of {size} bytes at byte {offset}"
        )
    block = file.bytes[offset : offset + size]
    kind = file.bytes[offset + size]
    if kind:
        name = {1: "Snappy", 2: "zstd"}.get(kind, f"kind {kind}")
        raise ValueError(
            f"byte {offset + size}: expected a block that is not compressed, got {name}; "
            "TensorFlow writes no such index for checkpoints of version 2: save it again"
        )
    begin = offset + size + 1
    expected = int.from_bytes(file.bytes[begin : begin + 4], "little")
    if (got := masked_crc32c(file.bytes[offset:begin])) != expected:
        raise ValueError(
            f"expected the block at byte {offset} to have the checksum {expected:#010x}, as the "
            f"file says, got {got:#010x}"
        )
    return block


def _entries(block: bytes) -> Iterator[tuple[bytes, bytes]]:
    restarts = int.from_bytes(block[-4:], "little")
    end = len(block) - 4 * (restarts + 1)
    if end < 0:
        raise ValueError(f"expected {restarts} restarts, got a block of {len(block)} bytes")
    entries = block[:end]
    at, key = 0, b""
    # Between two restarts no key is longer than what the block holds for it and those before it.
    budget = _RESTART_INTERVAL * end
    while at < end:
        shared, at = varint(entries, at)
        own, at = varint(entries, at)
        size, at = varint(entries, at)
        budget -= shared + own
        if shared > len(key) or own + size > end - at or budget < 0:
            raise ValueError(
                f"expected a key after {key!r:.80} that fits in its block, got {shared} bytes "
                f"shared and {own} more, with a value of {size} bytes"
            )
        key = key[:shared] + entries[at : at + own]
        yield key, entries[at + own : at + own + size]
        at += own + size


def _crc_table() -> list[int]:
    table = []
    for crc in range(256):
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
        table.append(crc)
    return table


_CRC = _crc_table()


def masked_crc32c(data: bytes) -> int:
    """Return the CRC-32C (Castagnoli), rotated and shifted as these tables store it."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc = _CRC[(crc ^ byte) & 255] ^ crc >> 8
    crc ^= 0xFFFFFFFF
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF
