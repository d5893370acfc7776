"""docs/format.md is enough: a reader and a writer of tables, made from that page alone.

They are plain Python. Neither uses shardwise or NumPy; the only library is one for the hashes that
the page names.
"""

import json
import struct
from math import prod
from pathlib import Path

import numpy as np
import pytest
import xxhash

from shardwise import Partition, Table, Vectors, Vocabulary, optimizers, store

CODES = {"BOOL": "?", "U8": "B", "I8": "b", "U16": "H", "I16": "h", "U32": "I", "I32": "i"}
CODES |= {"U64": "Q", "I64": "q", "F16": "e", "F32": "f", "F64": "d", "BF16": "H"}


class Reader:
    def __init__(self, folder):
        self.folder = Path(folder)
        self.manifest = json.loads((self.folder / "shardwise.json").read_text(encoding="utf-8"))
        assert (self.manifest["format"], self.manifest["version"]) == ("shardwise", 1)
        self.weights = [self.tensors(shard) for shard in self.manifest["shards"]]
        words, state = self.manifest.get("vocabulary"), self.manifest.get("optimizer")
        self.words = words and self.tensors(words)
        self.state = state and [self.tensors(file) for file in state["files"]]

    def tensors(self, entry):
        """{name: (dtype, shape, bytes)} of a data file."""
        data = (self.folder / entry["file"]).read_bytes()
        assert len(data) == entry["bytes"]
        assert entry["xxh128"] in (None, xxhash.xxh3_128_hexdigest(data))
        start = 8 + int.from_bytes(data[:8], "little")
        header = json.loads(data[8:start])
        header.pop("__metadata__", None)
        spans = {name: [start + at for at in one["data_offsets"]] for name, one in header.items()}
        return {k: (v["dtype"], v["shape"], data[slice(*spans[k])]) for k, v in header.items()}

    @staticmethod
    def values(tensor, begin, count):
        """`count` elements of a tensor from the element `begin` on."""
        dtype, _, data = tensor
        size = struct.calcsize(CODES[dtype])
        found = struct.unpack_from(f"<{count}{CODES[dtype]}", data, begin * size)
        if dtype == "BF16":  # the upper half of a float32
            return list(
                struct.unpack(f"<{count}f", b"".join(struct.pack("<HH", 0, x) for x in found))
            )
        return list(found)

    def locate(self, i):
        partition, n = self.manifest["partition"], len(self.manifest["shards"])
        if partition["strategy"] == "mod":
            return i % n, i // n
        if partition["strategy"] == "div":
            q, r = divmod(partition["num_rows"], n)
            j = i - r * (q + 1)
            return (i // (q + 1), i % (q + 1)) if j < 0 else (r + j // q, j % q)
        b = partition["boundaries"]
        k = next(k for k in range(n) if b[k] <= i < b[k + 1])
        return k, i - b[k]

    def row(self, i):
        """The elements of row i, in one list."""
        shard, row = self.locate(i)
        weight = self.weights[shard]["weight"]
        width = prod(weight[1][1:])
        found = self.values(weight, row * width, width)
        if self.manifest["row_format"] == self.manifest["dtype"]:
            return found
        dim = prod(self.manifest["shape"][1:])
        if self.manifest["row_format"] == "int8":
            steps, (scale, bias) = found[:dim], struct.unpack("<ff", bytes(found[dim:]))
        else:
            steps = [half for byte in found[:-4] for half in (byte & 15, byte >> 4)][:dim]
            scale, bias = struct.unpack("<ee", bytes(found[-4:]))
        return list(
            struct.unpack(f"<{dim}f", struct.pack(f"<{dim}f", *(s * scale + bias for s in steps)))
        )

    def find(self, token):
        """The id of a token, or what stands for those that are not there."""
        digest, size = xxhash.xxh64_intdigest(token, seed=0), self.words["slots"][1][0]
        at, tokens = digest % size, self.manifest["shape"][0]
        if "alias_ids" in self.words:
            tokens = self.words["offsets"][1][0] - 1 - self.words["alias_ids"][1][0]
        while slot := self.values(self.words["slots"], at, 1)[0]:
            found = slot % 2**48 - 1
            begin, end = self.values(self.words["offsets"], found, 2)
            if slot >> 48 == digest >> 48 and self.words["tokens"][2][begin:end] == token:
                aliased = found >= tokens and "alias_ids" in self.words
                return (
                    self.values(self.words["alias_ids"], found - tokens, 1)[0] if aliased else found
                )
            at = (at + 1) % size
        return self.manifest["vocabulary"]["unknown_id"]


CUTS = [
    Partition.mod(23, 1),
    Partition.mod(23, 5),
    Partition.div(23, 5),
    Partition.div(23, 30),
    Partition.ranges([0, 0, 7, 7, 22, 23]),
]


def same(found, expected):
    """The same bits, of the values of one row."""
    assert np.array(found, expected.dtype).tobytes() == expected.tobytes()


@pytest.mark.parametrize("cut", CUTS, ids=str)
@pytest.mark.parametrize(
    "dtype", ["bool", "uint8", "int16", "int64", "float16", "bfloat16", "float32"]
)
def test_a_reader_made_from_the_page_reads_rows(tmp_path, cut, dtype):
    dtype = store.storable_dtype(dtype)
    rows = (np.random.default_rng(0).standard_normal((23, 3, 2)) * 50).astype("f4")
    table = Table.from_array(np.abs(rows).astype(dtype), partition=cut)
    table.save(tmp_path / "t")
    reader = Reader(tmp_path / "t")
    for i in range(23):
        same(reader.row(i), table.lookup(i).ravel())


@pytest.mark.parametrize("row_format", ["int8", "int4"])
@pytest.mark.parametrize("dim", [1, 7, 16])
def test_it_reads_packed_rows(tmp_path, row_format, dim):
    rows = np.random.default_rng(1).standard_normal((23, dim)).astype("f4")
    table = Table.from_array(rows, 3).quantize(row_format)
    table.save(tmp_path / "t")
    reader = Reader(tmp_path / "t")
    for i in range(23):
        same(reader.row(i), table.lookup(i))


def test_it_finds_tokens(tmp_path):
    tokens = ["<unk>", "", "king", "größe", b"\xff\xfe", *(f"w{i}" for i in range(500))]
    words = Vocabulary(tokens, unknown="<unk>", aliases={"monarch": "king", "rex": "w7"})
    Vectors(Table.from_array(np.zeros((600, 1)), 2), words).save(tmp_path / "t")
    reader = Reader(tmp_path / "t")
    asked = [*tokens, "monarch", "rex", "nobody", "w500"]
    as_bytes = [token.encode() if isinstance(token, str) else token for token in asked]
    assert [reader.find(token) for token in as_bytes] == words.encode(asked).tolist()


def test_it_reads_the_state_of_training(tmp_path):
    table = Table.from_array(np.zeros((23, 2), np.float32), 3, copy=True)
    for _ in range(2):
        table.update([4, 22], np.ones((2, 2)), optimizers.Adam(corrected=True))
    table.save(tmp_path / "t")
    reader = Reader(tmp_path / "t")
    assert reader.manifest["optimizer"]["family"] == "adam"
    assert reader.values(reader.state[0]["step"], 0, 1) == [table.optimizer_step]
    for i in (0, 4, 22):
        shard, row = reader.locate(i)
        for name, arrays in table.optimizer_state.items():
            width = arrays[shard][row].size
            found = reader.values(reader.state[shard][name], row * width, width)
            same(found, arrays[shard][row].ravel())


def data_file(path, tensors):
    """Write a data file; its entry in the manifest."""
    header, at = {}, 0
    for name, (dtype, shape, data) in tensors.items():
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [at, at + len(data)]}
        at += len(data)
    text = json.dumps(header).encode()
    text += b" " * (-(8 + len(text)) % 4096)
    data = len(text).to_bytes(8, "little") + text + b"".join(one[2] for one in tensors.values())
    path.write_bytes(data)
    return {"file": path.name, "bytes": len(data), "xxh128": xxhash.xxh3_128_hexdigest(data)}


def write(folder, rows, tokens, shards):
    """A table of float32 rows in "mod" shards, and their tokens, as the page says."""
    folder.mkdir()
    files = []
    for k in range(shards):
        part = rows[k::shards]
        data = b"".join(struct.pack(f"<{len(row)}f", *row) for row in part)
        name = f"weight-{k:05}-of-{shards:05}.safetensors"
        entry = data_file(folder / name, {"weight": ("F32", [len(part), len(rows[0])], data)})
        files.append({"rows": len(part), **entry})
    size = max(8, 1 << (2 * len(tokens) - 1).bit_length())
    slots, offsets = [0] * size, [0]
    for i, token in enumerate(tokens):
        digest = xxhash.xxh64_intdigest(token, seed=0)
        at = digest % size
        while slots[at]:
            at = (at + 1) % size
        slots[at] = digest >> 48 << 48 | i + 1
        offsets.append(offsets[-1] + len(token))
    words = {
        "slots": ("U64", [size], struct.pack(f"<{size}Q", *slots)),
        "offsets": ("I64", [len(offsets)], struct.pack(f"<{len(offsets)}q", *offsets)),
        "tokens": ("U8", [offsets[-1]], b"".join(tokens)),
    }
    manifest = {
        "format": "shardwise",
        "version": 1,
        "generation": 1,
        "shape": [len(rows), len(rows[0])],
        "dtype": "float32",
        "partition": {"strategy": "mod", "num_rows": len(rows), "num_shards": shards},
        "shards": files,
        "vocabulary": data_file(folder / "vocabulary.safetensors", words) | {"unknown_id": None},
    }
    (folder / "shardwise.json").write_text(json.dumps(manifest), encoding="utf-8")


def test_a_table_that_is_written_from_the_page_alone(tmp_path):
    rows = [[i, i / 3, -i] for i in range(100)]
    tokens = [f"w{i}".encode() for i in range(100)]
    write(tmp_path / "t", rows, tokens, 7)
    assert {one.state for one in store.verify_table(tmp_path / "t")} == {"ok"}
    vectors = Vectors.open(tmp_path / "t")
    asked = [f"w{i}" for i in range(100)]
    assert vectors.vocabulary.encode(asked).tolist() == list(range(100))
    assert (vectors.lookup(asked) == np.array(rows, np.float32)).all()
    assert "w100" not in vectors
    with Table.open(tmp_path / "t", "r+") as table:
        table.update([3], [[1.0, 1.0, 1.0]], optimizers.SGD(0.5, momentum=0.9))
    assert Reader(tmp_path / "t").row(3) == Table.open(tmp_path / "t")[3].tolist()
