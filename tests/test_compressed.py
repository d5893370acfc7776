import bz2
import gzip
import lzma
import os
import random
import shutil
import sys
import tempfile
import tracemalloc
from collections import namedtuple

import numpy as np
import pytest

from shardwise import FormatError, MissingLibraryError, ShardwiseError, formats

zstandard = pytest.importorskip("zstandard")

PACK = {
    "gzip": lambda data: gzip.compress(data, 6),
    "bzip2": bz2.compress,
    "xz": lambda data: lzma.compress(data, preset=1),
    "lzma": lambda data: lzma.compress(data, lzma.FORMAT_ALONE, preset=1),
    "zstd": zstandard.ZstdCompressor().compress,
}
SEVERAL = ["gzip", "bzip2", "xz", "zstd"]  # that may follow each other in one file
ROWS = np.random.default_rng(0).standard_normal((7, 3)).astype("<f4")
TEXT = "".join(f"w{i} {' '.join(map(str, row.tolist()))}\n" for i, row in enumerate(ROWS)).encode()
BINARY = b"7 3\n" + b"".join(b"w%d " % i + row.tobytes() for i, row in enumerate(ROWS))
LONG = b"".join(b"w%d %d.5 1\n" % (i, i) for i in range(60_000))


@pytest.fixture
def put(tmp_path):
    path = tmp_path / "vectors"

    def write(content):
        path.write_bytes(content)
        return path

    return write


@pytest.fixture
def spilled(monkeypatch):
    """How many bytes were unpacked, of all files so far."""
    made, sizes = tempfile.TemporaryFile, []

    class Watched:
        def __init__(self):
            self.file = made()

        def __enter__(self):
            return self.file

        def __exit__(self, *error):
            sizes.append(os.fstat(self.file.fileno()).st_size)
            self.file.close()

    monkeypatch.setattr(tempfile, "TemporaryFile", Watched)
    return sizes


@pytest.mark.parametrize("kind", PACK)
@pytest.mark.parametrize("content", [TEXT, b"7 3\n" + TEXT, BINARY], ids=["glove", "vec", "bin"])
def test_it_is_read_as_what_it_holds(put, kind, content):
    plain = formats.open(put(content))
    source = formats.open(put(PACK[kind](content)))
    assert source.format == plain.format
    assert source.vocabulary == plain.vocabulary
    assert np.array_equal(source.read(), ROWS)
    assert np.array_equal(source.read(2, 4), ROWS[2:4])  # its file is closed, and still there


@pytest.mark.parametrize("kind", SEVERAL)
def test_several_follow_each_other(put, kind):
    for cut in (0, 1, 50, len(TEXT)):
        parts = PACK[kind](TEXT[:cut]) + PACK[kind](TEXT[cut:])
        assert np.array_equal(formats.open(put(parts)).read(), ROWS)
        assert np.array_equal(formats.open(put(parts + bytes(512))).read(), ROWS)  # padding


def test_frames_that_zstd_skips(put):
    skipped = b"\x5c\x2a\x4d\x18" + (3).to_bytes(4, "little") + b"abc"
    content = PACK["zstd"](TEXT[:50]) + skipped + PACK["zstd"](TEXT[50:]) + skipped
    assert np.array_equal(formats.open(put(content)).read(), ROWS)


@pytest.mark.parametrize("kind", PACK)
def test_cut_off_anywhere(put, kind):
    packed = PACK[kind](TEXT)
    for size in range(1, len(packed)):
        with pytest.raises(FormatError) as error:
            formats.open(put(packed[:size]))
        if size > 16:
            assert f"expected {kind} data to the end, got the end of the file at byte {size}" in (
                str(error.value)
            )


@pytest.mark.parametrize("kind", PACK)
def test_changed_bytes_never_do_harm(put, kind):
    packed = PACK[kind](TEXT)
    pick = random.Random(kind)
    for _ in range(300):
        changed = bytearray(packed)
        for _ in range(pick.randint(1, 3)):
            changed[pick.randrange(len(changed))] = pick.randrange(256)
        try:
            source = formats.open(put(bytes(changed)))
            rows = source.read()
        except ShardwiseError:
            continue
        assert rows.shape == source.shape


@pytest.mark.parametrize("kind", PACK)
def test_what_is_wrong_is_told(put, kind):
    packed = PACK[kind](TEXT)
    with pytest.raises(FormatError, match=rf"got b'garbage' at byte {len(packed)}; fetch it again"):
        formats.open(put(packed + b"garbage"))
    with pytest.raises(FormatError, match=f"{kind} data of nothing"):
        formats.open(put(PACK[kind](b"")))
    for again in PACK:
        with pytest.raises(FormatError, match=f"in the {again} data, got {kind} data"):
            formats.open(put(PACK[again](packed)))
    with pytest.raises(FormatError, match="line 2: expected a token and 1 values"):
        formats.open(put(PACK[kind](b"a 1\nb\n")), dim=1)


@pytest.mark.parametrize("kind", PACK)
@pytest.mark.parametrize("header", [b"", b"60000 2\n", b"\xef\xbb\xbf60000 2\r\n"])
def test_a_limit_stops_early(put, spilled, kind, header):
    path = put(PACK[kind](header + LONG))
    source = formats.open(path, limit=5)
    assert spilled[-1] <= 20_000
    assert source.shape == (5, 2)
    assert source.read().tolist() == [[i + 0.5, 1] for i in range(5)]
    source = formats.open(path, limit=50_000)
    assert source.shape == (50_000, 2)
    assert spilled[-1] < len(LONG)
    assert formats.open(path, limit=10**9).shape == (60_000, 2)


def test_a_limit_reads_what_it_reads_of_the_plain_file(put):
    wide = b"".join(b"a b%d 1 2\n" % i for i in range(3)) + b"".join(
        b"w%d 1 2\n" % i for i in range(2000)
    )
    narrow = b"2000 1\n" + b"".join(b"%d 1\n" % i for i in range(2000))
    other = b"3000 1\n" + b"".join(b"%d 1\n" % i for i in range(2000))
    newlines = b"3 2\n" + b"".join(b"w%d " % i + b"\n" * 8 for i in range(3))
    newlines += b"\n" * 5000
    for content in (wide, narrow, other, newlines, LONG[:-1], TEXT[:-1]):
        for limit in (1, 2, 3, 1500):
            plain = formats.open(put(content), limit=limit)
            rows = plain.read()
            source = formats.open(put(PACK["gzip"](content)), limit=limit)
            assert source.format == plain.format
            assert source.vocabulary == plain.vocabulary
            assert np.array_equal(source.read(), rows)


@pytest.mark.parametrize("kind", PACK)
def test_it_tells_how_far_it_is(put, kind):
    noise = np.random.default_rng(0).standard_normal((40_000, 20)).astype("<f4")
    content = b"40000 20\n" + b"".join(b"%d " % i + row.tobytes() for i, row in enumerate(noise))
    content += b"\n" * (5 << 20)
    packed, calls = PACK[kind](content), []
    formats.open(put(packed), progress=lambda *call: calls.append(call))
    unpacking = [done for done, total in calls if total == len(packed)]
    assert unpacking == sorted(unpacking)
    assert len(unpacking) > 1
    assert unpacking[-1] == len(packed)
    assert calls[-1][1] == len(content)


def test_an_interrupt_leaves_nothing(put, tmp_path, monkeypatch):
    folder = tmp_path / "spill"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))

    def stop(done, total):
        raise KeyboardInterrupt

    before = set(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else None
    with pytest.raises(KeyboardInterrupt):
        formats.open(put(PACK["gzip"](LONG)), progress=stop)
    assert not os.listdir(folder)
    if before is not None:
        assert len(os.listdir("/proc/self/fd")) <= len(before) + 1


Usage = namedtuple("Usage", "total used free")


@pytest.mark.parametrize("kind", PACK)
def test_a_bomb_ends_before_the_disk_is_full(put, kind, monkeypatch, spilled):
    left = [30 << 20]

    def usage(folder):
        left[0] -= 1 << 20
        return Usage(100 << 20, 0, left[0])

    monkeypatch.setattr(shutil, "disk_usage", usage)
    bomb = PACK[kind](bytes(60 << 20))
    path = put(bomb)
    del bomb
    tracemalloc.start()
    with pytest.raises(FormatError, match=r"expected room in .* TMPDIR"):
        formats.open(path)
    assert tracemalloc.get_traced_memory()[1] < 100 << 20
    tracemalloc.stop()
    assert spilled[-1] < 100 << 20


def test_a_full_disk(put, monkeypatch):
    folder = "/dev/full"
    if not os.path.exists(folder):
        pytest.skip("needs a device that is full")
    path = put(PACK["gzip"](LONG))
    with open(folder, "wb", buffering=0) as full:
        monkeypatch.setattr(tempfile, "TemporaryFile", lambda: full)
        with pytest.raises(FormatError, match="No space left on device"):
            formats.open(path)


def test_memory_that_a_file_asks_for_is_bounded(put):
    header = bytearray(lzma.compress(TEXT, lzma.FORMAT_ALONE))
    header[1:5] = (1 << 31).to_bytes(4, "little")
    with pytest.raises(FormatError, match="expected lzma data to the end, got damaged data"):
        formats.open(put(bytes(header)))
    parameters = zstandard.ZstdCompressionParameters(window_log=31, enable_ldm=True)
    stream = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    packed = stream.compress(TEXT) + stream.flush()
    with pytest.raises(FormatError, match="expected zstd data to the end, got damaged data"):
        formats.open(put(packed))


def test_without_its_library(put, monkeypatch):
    if sys.version_info >= (3, 14):
        pytest.skip("Python has it")
    monkeypatch.setitem(sys.modules, "zstandard", None)
    path = put(PACK["zstd"](TEXT))
    with pytest.raises(MissingLibraryError, match=r'pip install "shardwise\[zstd\]"'):
        formats.open(path)
