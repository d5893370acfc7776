import gc
import io
import json
import os
import pickle
import struct
import sys
import zipfile
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shardwise import FormatError, OptionError, Table, Vocabulary, formats, store
from shardwise.formats import numpy as numpy_format
from shardwise.formats import safetensors as safetensors_format
from shardwise.formats._source import Source

FILES = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
ROWS = np.arange(12, dtype=np.float32).reshape(4, 3)
TOKENS = ["a", "b c", "é", "\udcff"]


@pytest.fixture
def put(tmp_path):
    def write(content, name="file"):
        path = tmp_path / name
        path.write_bytes(content)
        return path

    return write


def source_of(rows, tokens=None):
    vocabulary = None if tokens is None else Vocabulary(tokens)
    return Source(
        path="memory",
        format="npy",
        shape=rows.shape,
        dtype=rows.dtype,
        vocabulary=vocabulary,
        _rows=lambda begin, end: rows[begin:end],
    )


def written(write, rows, tokens=None):
    file = io.BytesIO()
    source = source_of(rows, tokens)
    write(file, source, source.blocks(3))
    return file.getvalue()


def npy_of(array, version=None):
    file = io.BytesIO()
    np.lib.format.write_array(file, array, version)
    return file.getvalue()


def npz_of(compressed=False, **arrays):
    file = io.BytesIO()
    (np.savez_compressed if compressed else np.savez)(file, **arrays)
    return file.getvalue()


def safetensors_of(tensors, data=b"", **header):
    text = json.dumps(tensors | header).encode()
    return struct.pack("<Q", len(text)) + text + data


def entry(shape, begin, end, dtype="F32"):
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


def survives(path, content, **options):
    """Broken content is refused with an error of ours, or read as something valid."""
    path.write_bytes(content)
    try:
        source = formats.open(path, **options)
        rows = source.read()
        assert rows.shape == source.shape
        assert source.vocabulary is None or len(list(source.vocabulary)) <= len(rows)
    except (FormatError, OptionError):
        pass


def break_everywhere(path, content, seed, **options):
    # Left to itself, the collector would close maps during the loop, one by one.
    random = np.random.default_rng(seed)
    for size in range(1, len(content)):
        survives(path, content[:size], **options)
    for at in range(len(content)):
        changed = bytearray(content)
        changed[at] ^= 1 << int(random.integers(8))
        survives(path, bytes(changed), **options)
        changed[at] = int(random.integers(256))
        survives(path, bytes(changed), **options)
    gc.collect()


# ---- .npy ----

dtypes = st.sampled_from(
    ["<f4", ">f4", "<f2", "<f8", "|i1", "|u1", ">i8", "|b1", "<c8", "<U3", "|S2", "<M8[ns]"]
)


@FILES
@given(
    dtypes,
    st.lists(st.integers(1, 4), min_size=0, max_size=3),
    st.integers(0, 5),
    st.booleans(),
    st.sampled_from([(1, 0), (2, 0), (3, 0), None]),
)
def test_npy(put, dtype, row, rows, fortran, version):
    array = np.arange(rows * int(np.prod(row))).reshape(rows, *row).astype(dtype)
    if fortran:
        array = np.asfortranarray(array)
    source = formats.open(put(npy_of(array, version)))
    assert (source.format, source.shape, source.dtype) == ("npy", array.shape, array.dtype)
    assert np.array_equal(source.read(), array)
    assert source.vocabulary is None
    assert source.read().flags.c_contiguous
    assert all(np.array_equal(source.read(k, k + 1), array[k : k + 1]) for k in range(rows))


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ("{'descr': '|O', 'fortran_order': False, 'shape': (2,), }", "pickled objects"),
        ("{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (2,), }", "structures"),
        ("{'descr': '<V2', 'fortran_order': False, 'shape': (2, 4), }", "bfloat16"),
        ("{'descr': '<f1', 'fortran_order': False, 'shape': (2, 8), }", "bfloat16"),
        ("{'descr': '<q9', 'fortran_order': False, 'shape': (2, 2), }", "dtype of fixed size"),
        ("{'descr': '<f3', 'fortran_order': False, 'shape': (2, 2), }", "dtype of fixed size"),
        ("{'descr': '<U0', 'fortran_order': False, 'shape': (2, 2), }", "dtype of fixed size"),
        ("{'descr': '<f4', 'fortran_order': False, 'shape': (), }", "got one value"),
        ("{'descr': '<f4', 'fortran_order': False, 'shape': (2, 0), }", "at least 1 value"),
        ("{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }", "expected 24 bytes"),
        ("{'descr': '<f4', 'fortran_order': False, 'shape': (2, 1), }", "got 16 after"),
        ("{'descr': '<f4', 'fortran_order': False, 'shape': (4294967296, 4294967296), }", "shape"),
        ("{'descr': '<f4', 'fortran_order': False, 'shape': (-2, 2), }", "expected a header"),
        ("{'descr': '<f4', 'fortran_order': 0, 'shape': (2, 2), }", "expected a header"),
        ("{'descr': '<f4', 'shape': (2, 2), }", "expected a header"),
        ("{'descr': '<f4', 'fortran_order': False, 'shape': (2, 2), ", "expected a header"),
        ("{'descr': '<f4', 'fortran_order': False, 'shape': (2, 2), } + f()", "expected a header"),
        ("[1, 2]", "expected a header"),
    ],
)
def test_npy_with_another_header(put, header, message):
    text = header.encode()
    content = b"\x93NUMPY\x01\0" + struct.pack("<H", len(text)) + text + b"\0" * 16
    with pytest.raises(FormatError, match=message):
        formats.open(put(content))


def test_npy_header_of_other_writers(put):
    text = b'{"shape":(2L,2L),"descr":"<f4","fortran_order":False}\n'
    content = b"\x93NUMPY\x02\0" + struct.pack("<I", len(text)) + text + b"\0" * 16
    assert formats.open(put(content)).read().tolist() == [[0, 0], [0, 0]]
    with pytest.raises(FormatError, match="version 1, 2 or 3"):
        formats.open(put(content.replace(b"\x02", b"\x04", 1)))
    with pytest.raises(FormatError, match="of 4294967295"):
        formats.open(put(content[:8] + b"\xff" * 4 + content[12:]))


def test_npy_limit_and_dim(put):
    content = npy_of(ROWS)
    path = put(content + b"more")
    with pytest.raises(FormatError, match="limit=4"):
        formats.open(path)
    assert np.array_equal(formats.open(path, limit=4).read(), ROWS)
    assert np.array_equal(formats.open(put(content[:-12]), limit=3).read(), ROWS[:3])
    with pytest.raises(FormatError, match="expected 36 bytes"):
        formats.open(put(content[:-13]), limit=3)
    fortran = put(npy_of(np.asfortranarray(ROWS)))
    assert np.array_equal(formats.open(fortran, limit=2, dim=3).read(), ROWS[:2])
    with pytest.raises(FormatError, match=r"4 values \(dim=4\)"):
        formats.open(fortran, dim=4)
    for option in ({"tensor": "a"}, {"tokens": "a"}, {"unknown": "a"}):
        with pytest.raises(OptionError, match=next(iter(option))):
            formats.open(fortran, **option)


def test_npy_broken(put, tmp_path):
    break_everywhere(tmp_path / "x", npy_of(np.asfortranarray(ROWS)), 1)


def test_npy_is_written(put):
    for rows in (ROWS, ROWS.astype(">f8"), ROWS[:0], np.arange(5), ROWS.reshape(2, 2, 3)):
        content = written(numpy_format.write_npy, rows)
        loaded = np.load(io.BytesIO(content))
        assert loaded.dtype == rows.dtype
        assert np.array_equal(loaded, rows)
    for dtype in ("bfloat16", "float8_e4m3fn", "float8_e5m2"):
        for write in (numpy_format.write_npy, numpy_format.write_npz):
            with pytest.raises(OptionError, match="safetensors"):
                written(write, ROWS.astype(getattr(ml_dtypes, dtype)))


# ---- .npz ----


@pytest.mark.parametrize("compressed", [False, True])
def test_npz(put, compressed):
    many = np.random.default_rng(0).normal(size=(4000, 300)).astype(np.float32)
    words = [f"word{i}" for i in range(3999)]
    seen = []
    path = put(npz_of(compressed, other=many[:, :2], vectors=many, words=np.array(words)))
    source = formats.open(path, progress=lambda *at: seen.append(at))
    assert (source.format, source.shape, source.duplicates) == ("npz", many.shape, 0)
    assert list(source.vocabulary) == words
    assert np.array_equal(source.read(), many)
    assert not source.read().flags.writeable
    assert (seen[-1][0] == seen[-1][1]) if compressed else not seen
    source = formats.open(path, limit=7, tensor="other", tokens="words", unknown="word3")
    assert np.array_equal(source.read(), many[:7, :2])
    assert source.vocabulary.encode(["none", "word6"]).tolist() == [3, 6]


def test_npz_tokens(put):
    words = np.array(["a", "b", "a", "c"])
    for tokens in (words, words.astype("S"), words.astype(">U4")):
        source = formats.open(put(npz_of(embeddings=np.tile(ROWS, (2, 1)), tokens=tokens)))
        assert list(source.vocabulary) == ["a", "b", "c"]
        assert (source.shape, source.duplicates) == ((7, 3), 1)
        assert source.read()[:, 0].tolist() == [0, 3, 9, 0, 3, 6, 9]
    # class numbers are no tokens
    assert formats.open(put(npz_of(x=ROWS, labels=np.arange(4)))).vocabulary is None
    with pytest.raises(FormatError, match="at most as many tokens as rows, got 4 tokens and 3"):
        formats.open(put(npz_of(vectors=ROWS[:3], tokens=words)))
    with pytest.raises(FormatError, match="pickled objects"):
        formats.open(put(npz_of(vectors=ROWS, tokens=words.astype(object))))
    with pytest.raises(OptionError, match=r"\('names'\), got 'vectors'"):
        formats.open(put(npz_of(vectors=ROWS, names=words)), tokens="vectors")
    broken = npz_of(vectors=ROWS, tokens=words).replace("b".encode("utf-32-le"), b"\xff" * 4)
    with pytest.raises(FormatError, match="no text"):
        formats.open(put(broken))


@pytest.mark.parametrize(
    ("arrays", "chosen"),
    [
        ({"vectors": ROWS, "other": ROWS[1:]}, "vectors"),
        ({"ids": np.arange(4), "mine": ROWS}, "mine"),
        ({"arr_0": ROWS, "arr_1": ROWS[1:]}, "arr_0"),
        ({"arr_0": np.array(list("abcd")), "arr_1": ROWS}, "arr_1"),
        ({"arr_0": np.arange(4), "arr_1": ROWS}, "arr_1"),
        ({"only": np.arange(4)}, "only"),
        ({"vectors": ROWS, "objects": np.array([None])}, "vectors"),
    ],
)
def test_npz_chooses(put, arrays, chosen):
    source = formats.open(put(npz_of(**arrays)))
    assert source.metadata == {"tensor": chosen}
    assert np.array_equal(source.read(), arrays[chosen])


def test_npz_asks(put):
    two = put(npz_of(x=ROWS, y=ROWS[:2]))
    with pytest.raises(FormatError, match=r"'x' \(float32, \[4, 3\]\), 'y' \(float32, \[2, 3\]\)"):
        formats.open(two)
    with pytest.raises(OptionError, match="got 'z'"):
        formats.open(two, tensor="z")
    assert np.array_equal(formats.open(two, tensor="y").read(), ROWS[:2])
    with pytest.raises(FormatError, match="pickled objects"):
        formats.open(put(npz_of(vectors=np.array([None]), ids=np.arange(3))))
    with pytest.raises(FormatError, match="rows of 4"):
        formats.open(put(npz_of(x=ROWS.reshape(3, 4))), dim=3)


def test_npz_bomb(put, monkeypatch):
    content = npz_of(True, vectors=np.zeros((1000, 1000), np.float32))
    path = put(content)
    assert formats.open(path).shape == (1000, 1000)
    usage = type("Usage", (), {"free": 1_000_000, "total": 2_000_000})
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage)
    told = r"expected room for 4000128 bytes in .* got too little .*1000000 bytes are free.*TMPDIR"
    with pytest.raises(FormatError, match=told):
        formats.open(path)
    # a promise that deflate cannot keep: 4 GB of 4 KB
    size = struct.pack("<I", 4_000_128)
    assert size in content
    with pytest.raises(FormatError, match=r"expected at most .* got a promise of 4294967280"):
        formats.open(put(content.replace(size, struct.pack("<I", 0xFFFFFFF0))))


def test_npz_damaged(put):
    stored, deflated = npz_of(vectors=ROWS), npz_of(True, vectors=np.tile(ROWS, (50, 1)))
    with pytest.raises(FormatError, match="directory at the end"):
        formats.open(put(stored[:-30]))
    flipped = bytearray(deflated)
    flipped[14:18] = flipped[deflated.index(b"PK\1\2") + 16 :][:4] = b"\1\2\3\4"
    flipped[deflated.index(b"PK\1\2") + 16] ^= 1
    with pytest.raises(FormatError, match="checksum"):
        formats.open(put(bytes(flipped)))
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_BZIP2) as archive:
        archive.writestr("vectors.npy", npy_of(ROWS))
    with pytest.raises(FormatError, match="packed by method 12"):
        formats.open(put(file.getvalue()))
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("vectors.npy", npy_of(ROWS) + b"1")
    with pytest.raises(FormatError, match="got 49 after the header"):
        formats.open(put(file.getvalue()))
    with zipfile.ZipFile(file := io.BytesIO(), "w") as archive:
        archive.writestr("notes.txt", "hello")
    with pytest.raises(FormatError, match=r"got one of 'notes\.txt'"):
        formats.open(put(file.getvalue()))
    with pytest.raises(FormatError, match="got one of nothing"):
        formats.open(put(b"PK\5\6" + bytes(18)))


@pytest.mark.parametrize("compressed", [False, True])
def test_npz_broken(tmp_path, compressed):
    content = npz_of(compressed, vectors=ROWS[:2], tokens=np.array(["a", "b"]))
    break_everywhere(tmp_path / "x", content, 2)


def test_npz_is_written(put):
    rows = ROWS.astype("<f8")
    content = written(numpy_format.write_npz, rows, [*TOKENS[:3], "a\0b"])
    loaded = np.load(io.BytesIO(content))
    assert np.array_equal(loaded["vectors"], rows)
    assert loaded["tokens"].tolist() == [*TOKENS[:3], "a\0b"]
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        assert archive.testzip() is None
        assert archive.getinfo("vectors.npy").compress_type == zipfile.ZIP_STORED
    assert content.index(b"\x93NUMPY") % 64 == 0
    for tokens in (None, [], TOKENS[:2], TOKENS):
        source = formats.open(put(written(numpy_format.write_npz, rows, tokens)))
        assert np.array_equal(source.read(), rows)
        assert source.vocabulary is tokens or list(source.vocabulary) == tokens
    with pytest.raises(OptionError, match="NUL"):
        written(numpy_format.write_npz, rows, ["a\0"])


# ---- safetensors ----


def test_safetensors(put):
    tensors = {
        "lm_head.weight": entry([2, 1], 24, 32),
        "model.embed_tokens.weight": entry([2, 3], 0, 24),
        "odd": entry([3], 32, 35, "F7_NEW"),
        "__metadata__": {"format": "pt"},
    }
    values = np.arange(8, dtype=np.float32)
    path = put(safetensors_of(tensors, values.tobytes() + b"odd"))
    source = formats.open(path)
    assert source.format == "safetensors"
    assert source.metadata == {"tensor": "model.embed_tokens.weight"}
    assert source.read().tolist() == [[0, 1, 2], [3, 4, 5]]
    assert formats.open(path, tensor="lm_head.weight", limit=1).read().tolist() == [[6]]
    with pytest.raises(FormatError, match="got 'F7_NEW'"):
        formats.open(path, tensor="odd")
    with pytest.raises(OptionError, match=r"'lm_head\.weight' .*, got 'x'"):
        formats.open(path, tensor="x")
    with pytest.raises(OptionError, match="tokens="):
        formats.open(path, tokens="odd")
    with pytest.raises(FormatError, match="dim=2"):
        formats.open(path, dim=2)


@pytest.mark.parametrize(
    ("names", "chosen"),
    [
        (["shared.weight", "encoder.embed_tokens.weight"], "shared.weight"),
        (["bert.embeddings.word_embeddings.weight", "x.weight"], None),
        (["transformer.wte.weight", "transformer.wpe.weight"], "transformer.wte.weight"),
        (["gpt_neox.embed_in.weight", "embed_out.weight"], "gpt_neox.embed_in.weight"),
        (["embeddings", "weights"], "embeddings"),
        (["0.weight", "weight"], "weight"),
        (["anything"], "anything"),
    ],
)
def test_safetensors_chooses(put, names, chosen):
    shapes = {name: entry([1, 2], 8 * k, 8 * k + 8) for k, name in enumerate(names)}
    source = formats.open(put(safetensors_of(shapes, bytes(8 * len(names)))))
    assert source.metadata == {"tensor": chosen or names[0]}


def test_safetensors_asks(put):
    names = [f"layer.{k}.weight" for k in range(30)]
    shapes = {name: entry([1, 1], 4 * k, 4 * k + 4) for k, name in enumerate(names)}
    with pytest.raises(FormatError, match=r"got 30, .* \(F32, \[1, 1\]\), and 10 more; name one"):
        formats.open(put(safetensors_of(shapes, bytes(120))))
    several = {"a.wte.weight": entry([1, 1], 0, 4), "b.wte.weight": entry([1, 1], 4, 8)}
    with pytest.raises(FormatError, match=r"several have a usual name: 'a\.wte\.weight'"):
        formats.open(put(safetensors_of(several, bytes(8))))
    with pytest.raises(FormatError, match="got 's'"):
        formats.open(put(safetensors_of({"s": entry([], 0, 4)}, bytes(4))))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (safetensors_of({"a": entry([2, 3], 0, 24)}, bytes(20)), "24 bytes of data, got 20"),
        (safetensors_of({"a": entry([2, 3], 0, 24)}, bytes(25)), "24 bytes of data, got 25"),
        (safetensors_of({"a": entry([2, 3], 4, 28)}, bytes(28)), "begin at byte 0"),
        (safetensors_of({"a": entry([2, 3], 0, 20)}, bytes(20)), "fill its bytes"),
        (safetensors_of({"a": entry([2, -3], 0, 24)}, bytes(24)), "a shape of tensor 'a'"),
        (safetensors_of({"a": entry([1 << 40, 1 << 40], 0, 24)}, bytes(24)), "an array can have"),
        (safetensors_of({"a": entry([2, 0], 0, 0)}), "at least 1 value"),
        (safetensors_of({"a": 1}), "two data_offsets"),
        (safetensors_of({}), "got none"),
        (struct.pack("<Q", 3) + b"{12", "header in JSON"),
        (struct.pack("<Q", 99) + b"{}", "header of at most 2 bytes, got 99"),
    ],
)
def test_safetensors_refuses(put, content, message):
    with pytest.raises(FormatError, match=message):
        formats.open(put(content))


def test_safetensors_limit_of_a_cut_file(put):
    path = put(safetensors_of({"a": entry([4, 3], 0, 48)}, ROWS.tobytes()[:25]))
    assert np.array_equal(formats.open(path, limit=2).read(), ROWS[:2])
    with pytest.raises(FormatError, match="expected 36 bytes from byte"):
        formats.open(path, limit=3)


@pytest.mark.parametrize(
    "dtype", ["float32", "float16", "bfloat16", "float8_e4m3fn", ">i4", "bool"]
)
def test_safetensors_is_written(put, dtype):
    from safetensors import safe_open

    rows = ROWS[:3].astype(getattr(ml_dtypes, dtype, dtype))
    for tokens in (None, TOKENS[:2], TOKENS[:3]):
        path = put(written(safetensors_format.write_file, rows, tokens))
        source = formats.open(path)
        assert source.dtype == rows.dtype.newbyteorder("<")
        assert np.array_equal(source.read(), rows)
        assert source.vocabulary is tokens or list(source.vocabulary) == tokens
        with safe_open(path, "np") as file:
            names = {"weight"} if tokens is None else {"weight", "tokens", "offsets"}
            assert set(file.keys()) == names
            if "8" not in dtype and "b" not in dtype:
                assert np.array_equal(file.get_tensor("weight"), rows)
    with pytest.raises(OptionError, match="dtype that safetensors has"):
        written(safetensors_format.write_file, ROWS.astype("U3"))


def test_safetensors_tokens(put):
    def with_offsets(*offsets):
        array = np.array(offsets, np.int64)
        at = 16 + array.nbytes
        shapes = {
            "weight": entry([4, 1], 0, 16),
            "offsets": entry(list(array.shape), 16, at, "I64"),
            "tokens": entry([3], at, at + 3, "U8"),
        }
        return put(safetensors_of(shapes, ROWS.tobytes()[:16] + array.tobytes() + b"aab"))

    source = formats.open(with_offsets(0, 1, 2, 3), tokens="tokens")
    assert list(source.vocabulary) == ["a", "b"]
    assert (source.duplicates, source.read().ravel().tolist()) == (1, [0, 2, 3])
    assert list(formats.open(with_offsets(1, 2, 3)).vocabulary) == ["a", "b"]
    assert list(formats.open(with_offsets(0, 1, 2, 3), limit=1).vocabulary) == ["a"]
    for offsets in ((), (0, 4), (-1, 2), (0, 2, 1, 3)):
        with pytest.raises(FormatError, match="offsets"):
            formats.open(with_offsets(*offsets))
    with pytest.raises(FormatError, match="at most as many tokens as rows"):
        formats.open(with_offsets(0, 0, 1, 1, 2, 3))
    with pytest.raises(OptionError, match="unknown"):
        formats.open(with_offsets(0, 1), unknown="z")


def test_safetensors_broken(tmp_path):
    content = written(safetensors_format.write_file, ROWS, TOKENS)
    length = int.from_bytes(content[:8], "little")
    text = content[8 : 8 + length].rstrip()
    content = struct.pack("<Q", len(text)) + text + content[8 + length :]
    break_everywhere(tmp_path / "x", content, 3)


def test_shards_of_a_table_read_alone(tmp_path):
    store.write_table(tmp_path / "table", Table.from_array(ROWS, shards=2))
    source = formats.open(tmp_path / "table" / "weight-00001-of-00002.safetensors")
    assert np.array_equal(source.read(), ROWS[1::2])
    assert safetensors_format.file_of(str(tmp_path / "table")) is None


@pytest.fixture
def model(tmp_path):
    name = "model.embed_tokens.weight"
    parts = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    (tmp_path / parts[0]).write_bytes(safetensors_of({"norm": entry([1], 0, 4)}, bytes(4)))
    (tmp_path / parts[1]).write_bytes(safetensors_of({name: entry([4, 3], 0, 48)}, ROWS.tobytes()))

    def index(files):
        path = tmp_path / "model.safetensors.index.json"
        path.write_text(json.dumps({"metadata": {"total_size": 52}, "weight_map": files}, indent=2))
        return path

    return {"norm": parts[0], name: parts[1]}, index


def test_index(model, tmp_path):
    files, index = model
    for path in (index(files), tmp_path):
        source = formats.open(path)
        assert source.format == "safetensors-index"
        assert source.path == str(tmp_path / "model.safetensors.index.json")
        assert source.metadata == {"tensor": "model.embed_tokens.weight"}
        assert np.array_equal(source.read(), ROWS)
    (tmp_path / files["norm"]).unlink()  # which is not needed
    assert np.array_equal(formats.open(tmp_path, dim=3, limit=1).read(), ROWS[:1])
    with pytest.raises(FormatError, match="fetch it too"):
        formats.open(tmp_path, tensor="norm")
    with pytest.raises(OptionError, match=r"'norm', 'model\.embed_tokens\.weight', got 'x'"):
        formats.open(tmp_path, tensor="x")
    with pytest.raises(FormatError, match="name one with tensor="):
        formats.open(index({"a": "x", "b": "x"}))


@pytest.mark.parametrize("part", ["../x", "/etc/passwd", "..", "", "a/b", "a\\b", "a\0", 1, None])
def test_index_stays_in_its_directory(model, part):
    with pytest.raises(FormatError, match="the name of a file beside the index"):
        formats.open(model[1]({"weight": part}))


def test_index_refuses(model, put, tmp_path):
    (tmp_path / "text").write_text("hello")
    with pytest.raises(FormatError, match="expected a safetensors file"):
        formats.open(model[1]({"weight": "text"}))
    (tmp_path / "folder").mkdir()
    with pytest.raises(FormatError, match="got a directory"):
        formats.open(model[1]({"weight": "folder"}))
    for content in (b'{"weight_map": 1}', b'{"weight_map"', b'{"a": "weight_map"}'):
        with pytest.raises(FormatError):
            formats.open(put(content))
    content = model[1](model[0]).read_bytes()
    break_everywhere(tmp_path / "model.safetensors.index.json", content, 4)


def test_file_of_a_directory(tmp_path, model):
    def found():
        path = safetensors_format.file_of(str(tmp_path))
        return path and os.path.basename(path)

    assert found() is None  # several
    (tmp_path / "model-00001-of-00002.safetensors").unlink()
    assert found() == "model-00002-of-00002.safetensors"
    (tmp_path / "model.safetensors").touch()
    assert found() == "model.safetensors"
    model[1](model[0])
    assert found() == "model.safetensors.index.json"
    (tmp_path / "shardwise.json").touch()
    assert found() is None
    assert safetensors_format.file_of(str(tmp_path / "none")) is None


# ---- pickles ----


@pytest.mark.parametrize("protocol", range(6))
def test_pickles_are_refused(put, protocol):
    for content in ({"a": [1.0]}, [1.0, 2.0], ROWS):
        with pytest.raises(FormatError, match="a pickle, which could run any program"):
            formats.open(put(pickle.dumps(content, protocol)))


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize(
    ("module", "name", "advice"),
    [
        (
            "gensim.models.keyedvectors",
            "KeyedVectors",
            r'KeyedVectors\.load\("FILE"\)\.save_word2v',
        ),
        ("gensim.models.keyedvectors", "Word2VecKeyedVectors", r"FILE\.vectors\.npy"),
        ("gensim.models.fasttext", "FastTextKeyedVectors", "save_facebook_model"),
        ("gensim.models.word2vec", "Word2Vec", r'Word2Vec\.load\("FILE"\)\.wv\.save_word2vec'),
    ],
)
def test_gensim_files_are_refused(put, protocol, module, name, advice, monkeypatch):
    kind = type(name, (), {"__module__": module})
    for imported in ("gensim", "gensim.models", module):
        monkeypatch.setitem(sys.modules, imported, type("module", (), {name: kind}))
    model = kind()
    model.vector_size = 3
    with pytest.raises(FormatError, match=advice):
        formats.open(put(pickle.dumps(model, protocol)))


def test_text_that_looks_like_a_pickle(put):
    for token in (b"(d", b"}q", b"](", b"ccopy", b"(lp0"):
        assert formats.open(put(token + b" 1 2\nb 3 4\n"), format="glove").shape == (2, 2)
        assert formats.open(put(token + b" 1 2\nb 3 4\n")).format == "glove"


def test_sources_outlive_their_paths(put):
    path = Path(put(npz_of(True, vectors=ROWS)))
    source = formats.open(path)
    path.unlink()
    gc.collect()
    assert np.array_equal(source.read(), ROWS)
