"""A vocabulary on disk: in a table, and in a file of its own."""

import copy
import json
import os
import pickle
import struct
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from shardwise import (
    OptionError,
    ShardwiseError,
    StoreError,
    Table,
    TableError,
    TableExistsError,
    TableNotFoundError,
    UnknownTokenError,
    Vectors,
    Vocabulary,
    VocabularyError,
    convert,
    store,
)
from shardwise._hashing import Buckets
from shardwise.cli import app

TOKENS = ["the", "King", "of", "", "a\0b", "\udcff"]
POLICIES = [
    {},
    {"unknown": "of"},
    {"unknown": ""},
    {"unknown": -1},
    {"unknown": 2},
    {"unknown": -(2**63)},
    {"unknown": Buckets(3)},
    {"unknown": Buckets(2, (2**64 - 1, 0), 1)},
    {"counts": [2**62, 3, 2, 1, 0, 0]},
    {"aliases": {"monarch": "King", "\udcfe": 4}},
    {"casefold": True},
    {"normal_form": "NFD"},
    {
        "unknown": "KING",
        "counts": range(6),
        "aliases": {"A": 0, "B": 0, "x": 1},
        "casefold": True,
        "normal_form": "NFKC",
    },
]
policies = pytest.mark.parametrize("options", POLICIES, ids=lambda options: ",".join(options))


def make(options):
    return Vocabulary(TOKENS, **options)


def asked(words):
    """What it does with every token, and with one that it lacks."""
    tokens = [*TOKENS, *words.aliases, "x", "KING"]
    found = []
    for token in tokens:
        try:
            found.append(words.encode(token))
        except UnknownTokenError as error:
            found.append(str(error))
    return found


def assert_same(words, again):
    assert again == words
    assert repr(again) == repr(words)
    assert asked(again) == asked(words)
    assert (again.unknown, again.unknown_id, again.num_ids) == (
        words.unknown,
        words.unknown_id,
        words.num_ids,
    )


# ---- round trips ----


@policies
def test_a_file(tmp_path, options):
    words = make(options)
    words.save(tmp_path / "words.safetensors")
    assert_same(words, Vocabulary.open(tmp_path / "words.safetensors"))
    assert os.listdir(tmp_path) == ["words.safetensors"]
    again = Vocabulary.open(str(tmp_path / "words.safetensors"))
    again.save(tmp_path / "again.safetensors")
    assert (tmp_path / "again.safetensors").read_bytes() == (
        tmp_path / "words.safetensors"
    ).read_bytes()


@policies
def test_a_table(tmp_path, options):
    words = make(options)
    table = Table.from_array(np.arange(20.0).reshape(10, 2), 2)
    Vectors(table, words).save(tmp_path / "t")
    assert_same(words, Vectors.open(tmp_path / "t").vocabulary)
    assert_same(words, Vocabulary.open(tmp_path / "t"))
    assert_same(words, Vocabulary.open(tmp_path / "t" / "vocabulary.safetensors"))
    manifest = json.loads((tmp_path / "t" / "shardwise.json").read_text())
    wanted = words.unknown_id if isinstance(words.unknown, str) else None
    assert manifest["vocabulary"]["unknown_id"] == wanted
    assert {one.state for one in store.verify_table(tmp_path / "t")} == {"ok"}
    store.reshard(tmp_path / "t", tmp_path / "r", shards=3)
    assert_same(words, Vectors.open(tmp_path / "r").vocabulary)
    convert(tmp_path / "t", tmp_path / "c", dtype="float16")
    assert_same(words, Vectors.open(tmp_path / "c").vocabulary)
    Vectors.open(tmp_path / "t").save(tmp_path / "s")
    assert_same(words, Vectors.open(tmp_path / "s").vocabulary)


@policies
def test_other_formats_get_the_tokens_alone(tmp_path, options):
    words = make(options)
    table = Table.from_array(np.arange(20.0).reshape(10, 2), 2)
    Vectors(table, words).save(tmp_path / "t")
    convert(tmp_path / "t", tmp_path / "t.safetensors")
    again = Vectors.from_file(tmp_path / "t.safetensors")
    assert list(again.vocabulary) == list(words)


def test_an_empty_vocabulary(tmp_path):
    for options in ({}, {"unknown": Buckets(2)}, {"counts": []}, {"casefold": True}):
        words = Vocabulary([], **options)
        words.save(tmp_path / "e.safetensors", overwrite=True)
        again = Vocabulary.open(tmp_path / "e.safetensors")
        assert again == words
        assert "x" not in again


def test_a_file_of_before_has_no_policy(tmp_path):
    Vocabulary(["a", "b"], unknown="b").save(tmp_path / "new.safetensors")
    Vectors(Table.from_array(np.eye(2)), Vocabulary(["a", "b"])).save(tmp_path / "t")
    assert b"unknown" not in (tmp_path / "t" / "vocabulary.safetensors").read_bytes()
    # As it was written: the manifest alone names the token.
    where = tmp_path / "t" / "shardwise.json"
    where.write_text(where.read_text().replace('"unknown_id": null', '"unknown_id": 1'))
    assert Vocabulary.open(tmp_path / "t").unknown == "b"
    assert Vectors.open(tmp_path / "t").vocabulary == Vocabulary(["a", "b"], unknown="b")
    assert {one.state for one in store.verify_table(tmp_path / "t")} == {"ok"}


def test_opening_reads_neither_counts_nor_aliases(tmp_path):
    """Opening takes what is there; what is wrong with an alias is told where it is used."""
    words = Vocabulary(["a", "b"], aliases={"c": 1, "d": 0}, counts=[1, 2])
    words.save(tmp_path / "w.safetensors")
    change(tmp_path / "w.safetensors", lambda tensors, policy: tensors["alias_ids"].fill(9))
    again = Vocabulary.open(tmp_path / "w.safetensors")
    assert again.encode(["b", "a"]).tolist() == [1, 0]
    with pytest.raises(VocabularyError, match="expected aliases of ids from 0 to 1"):
        again.encode("c")
    assert not again.counts.flags.writeable
    assert isinstance(again.counts.base, np.ndarray)


# ---- limits ----


def test_limit_keeps_what_there_is_of_the_first_tokens(tmp_path):
    words = Vocabulary(
        ["A", "b", "c", "d"],
        counts=[4, 3, 2, 1],
        aliases={"x": "a", "y": "d", "z": "b"},
        casefold=True,
        unknown="B",
    )
    Vectors(Table.from_array(np.eye(6)), words).save(tmp_path / "t")
    for limit, count in ((2, 2), (3, 3), (4, 4), (5, 4), (6, 4)):
        convert(tmp_path / "t", tmp_path / "c", limit=limit, overwrite=True)
        aliases = {"x": 0, "z": 1} | ({"y": 3} if count == 4 else {})
        wanted = Vocabulary(
            list("abcd"[:count]),
            counts=[4, 3, 2, 1][:count],
            aliases={name: aliases[name] for name in ("x", "y", "z") if name in aliases},
            casefold=True,
            unknown="b",
        )
        assert_same(wanted, Vectors.open(tmp_path / "c").vocabulary)
    convert(tmp_path / "t", tmp_path / "c", limit=1, unknown="A", overwrite=True)
    again = Vocabulary.open(tmp_path / "c")
    assert (again.unknown, again.aliases, again.counts.tolist()) == ("a", {"x": 0}, [4])


@pytest.mark.parametrize(
    ("unknown", "limit", "match"),
    [
        ("d", 3, "keep the token that stands for unknown ones, 'd' in row 3, got limit=3; raise"),
        (5, 5, "keep the token that stands for unknown ones, row 5, got limit=5"),
        (Buckets(2), 5, "keep the 2 rows of unknown tokens, from row 4 on, got limit=5; raise it"),
        (Buckets(2), 3, "keep the 2 rows of unknown tokens, from row 4 on"),
        (Buckets(2, first=1), 2, "keep the 2 rows of unknown tokens, from row 1 on"),
    ],
)
def test_limit_cuts_no_row_of_unknown_tokens(tmp_path, unknown, limit, match):
    words = Vocabulary(list("abcd"), unknown=unknown)
    Vectors(Table.from_array(np.eye(6)), words).save(tmp_path / "t")
    with pytest.raises(OptionError, match=match):
        convert(tmp_path / "t", tmp_path / "c", limit=limit)
    convert(tmp_path / "t", tmp_path / "c", limit=limit, unknown="a")
    assert Vocabulary.open(tmp_path / "c").unknown == "a"
    convert(tmp_path / "t", tmp_path / "whole", limit=6)
    assert Vocabulary.open(tmp_path / "whole") == words


def test_limit_keeps_ids_that_are_no_rows_or_early_ones(tmp_path):
    for unknown in (-1, 0, Buckets(1, first=1)):
        words = Vocabulary(list("abcd"), unknown=unknown)
        Vectors(Table.from_array(np.eye(6)), words).save(tmp_path / "t", overwrite=True)
        convert(tmp_path / "t", tmp_path / "c", limit=2, overwrite=True)
        assert_same(Vocabulary(["a", "b"], unknown=unknown), Vocabulary.open(tmp_path / "c"))


# ---- places ----


def test_where_it_is_saved(tmp_path):
    words = Vocabulary(["a"])
    with pytest.raises(OptionError, match=r"ends in .safetensors, got .*formats.write_vocabulary"):
        words.save(tmp_path / "words.txt")
    with pytest.raises(TableNotFoundError, match="expected a directory to write"):
        words.save(tmp_path / "none" / "w.safetensors")
    words.save(tmp_path / "w.safetensors")
    with pytest.raises(TableExistsError, match="overwrite=True"):
        words.save(tmp_path / "w.safetensors")
    Vocabulary(["b"]).save(tmp_path / "w.safetensors", overwrite=True)
    assert list(Vocabulary.open(tmp_path / "w.safetensors")) == ["b"]
    (tmp_path / "d.safetensors").mkdir()
    with pytest.raises(TableExistsError, match="something that is no file"):
        words.save(tmp_path / "d.safetensors", overwrite=True)
    os.symlink(tmp_path / "w.safetensors", tmp_path / "link.safetensors")
    words.save(tmp_path / "link.safetensors", overwrite=True)
    assert list(Vocabulary.open(tmp_path / "w.safetensors")) == ["a"]
    Vectors(Table.from_array(np.eye(1)), words).save(tmp_path / "t")
    with pytest.raises(StoreError, match="outside of a table"):
        words.save(tmp_path / "t" / "vocabulary.safetensors", overwrite=True)
    assert {one.state for one in store.verify_table(tmp_path / "t")} == {"ok"}


def test_an_open_vocabulary_outlives_its_file(tmp_path):
    Vocabulary(["a", "b"]).save(tmp_path / "w.safetensors")
    words = Vocabulary.open(tmp_path / "w.safetensors")
    words.save(tmp_path / "w.safetensors", overwrite=True)
    (tmp_path / "w.safetensors").unlink()
    assert words.encode(["b", "a"]).tolist() == [1, 0]


# ---- a file that is read in pieces at first ----


def resident(path):
    """Kilobytes of a mapped file that count as resident in this process."""
    lines = iter(Path("/proc/self/smaps").read_text().splitlines())
    return sum(
        int(next(line for line in lines if line.startswith("Rss:")).split()[1])
        for line in lines
        if line.endswith(str(path))
    )


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_few_tokens_leave_the_map_alone(tmp_path):
    where = tmp_path / "w.safetensors"
    tokens = [f"{k * 2654435761 % 2**32:x}-{k}" for k in range(100_000)]
    Vocabulary(tokens).save(where)
    assert len(where.read_bytes()) > 4 << 20
    words = Vocabulary.open(where)
    before = resident(where)
    for k in range(0, 100_000, 100):
        assert words.encode(tokens[k]) == k
    assert words.encode(pa.array(tokens[7::1000])).tolist() == list(range(7, 100_000, 1000))
    assert "x" not in words
    assert resident(where) == before
    assert words._file is not None
    assert words.encode(tokens[::100]).tolist() == list(range(0, 100_000, 100))
    assert words._file is None
    assert resident(where) > before
    assert words.encode(tokens).tolist() == list(range(100_000))


@policies
def test_pieces_and_map_give_the_same(tmp_path, options):
    words = make(options)
    words.save(tmp_path / "w.safetensors")
    pieces, mapped = (Vocabulary.open(tmp_path / "w.safetensors") for _ in range(2))
    mapped._file = None
    assert asked(pieces) == asked(mapped) == asked(words)
    assert pieces._file is not None
    assert asked(copy.copy(pieces)) == asked(words)
    for again in (copy.deepcopy(pieces), pickle.loads(pickle.dumps(pieces))):
        assert again._file is None
        assert asked(again) == asked(words)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
def test_a_process_that_closes_all_descriptors(tmp_path):
    Vocabulary(["a", "b"]).save(tmp_path / "w.safetensors")
    program = """if True:
        import os, sys
        from shardwise import Vocabulary
        words = Vocabulary.open(sys.argv[1])
        assert words.encode("b") == 1
        if os.fork():
            sys.exit(os.waitstatus_to_exitcode(os.wait()[1]))
        assert words.encode("b") == 1
        os.closerange(3, 256)
        with open(sys.argv[1], "rb") as same, open(os.devnull, "rb") as other:
            for number in range(3, 30):
                if number not in (same.fileno(), other.fileno()):
                    os.dup2(other.fileno(), number)
            assert words.encode(["b", "a"]).tolist() == [1, 0]
            assert words._file is not None
    """
    command = [sys.executable, "-c", program, str(tmp_path / "w.safetensors")]
    subprocess.run(command, check=True)


def test_what_cannot_be_opened(tmp_path):
    with pytest.raises(TableNotFoundError, match="got nothing of that name"):
        Vocabulary.open(tmp_path / "none.safetensors")
    with pytest.raises(TableNotFoundError, match="expected a table"):
        Vocabulary.open(tmp_path)
    (tmp_path / "words.txt").write_text("the\nof\n")
    with pytest.raises(StoreError, match=r"is broken.*shardwise.formats.open_vocabulary"):
        Vocabulary.open(tmp_path / "words.txt")
    Table.from_array(np.eye(2)).save(tmp_path / "t")
    with pytest.raises(TableError, match="got one without"):
        Vocabulary.open(tmp_path / "t")
    weight = tmp_path / "t" / "weight-00000-of-00001.safetensors"
    with pytest.raises(StoreError, match=r"expected a tensor '(slots|tokens)'"):
        Vocabulary.open(weight)
    Vectors(Table.from_array(np.eye(1)), Vocabulary(["a"])).save(tmp_path / "v")
    (tmp_path / "v" / "vocabulary.safetensors").unlink()
    with pytest.raises(StoreError, match=r"expected the file .*vocabulary.safetensors, got none"):
        Vocabulary.open(tmp_path / "v")


# ---- hostile files ----


def parts_of(content):
    length = struct.unpack("<Q", content[:8])[0]
    header = json.loads(content[8 : 8 + length])
    metadata = header.pop("__metadata__", {})
    data = content[8 + length :]
    kinds = {"U64": "<u8", "I64": "<i8", "U8": "u1", "I32": "<i4"}
    tensors = {}
    for name, entry in header.items():
        begin, end = entry["data_offsets"]
        raw = np.frombuffer(data[begin:end], kinds[entry["dtype"]]).copy()
        tensors[name] = raw.reshape(entry["shape"])
    return tensors, metadata


def joined(tensors, metadata):
    header, data = {"__metadata__": metadata}, b""
    for name, array in tensors.items():
        kind = {"u8": "U64", "i8": "I64", "u1": "U8", "i4": "I32"}[array.dtype.str[1:]]
        span = [len(data), len(data) + array.nbytes]
        header[name] = {"dtype": kind, "shape": list(array.shape), "data_offsets": span}
        data += array.tobytes()
    text = json.dumps(header).encode()
    text += b" " * (-(8 + len(text)) % 4096)
    return struct.pack("<Q", len(text)) + text + data


def change(path, edit):
    tensors, metadata = parts_of(path.read_bytes())
    policy = json.loads(metadata.get("vocabulary", "{}"))
    found = edit(tensors, policy)
    if isinstance(found, str):
        metadata["vocabulary"] = found
    elif policy:
        metadata["vocabulary"] = json.dumps(policy)
    path.write_bytes(joined(tensors, metadata))


WRONG = [
    "",
    "[]",
    "5",
    "[" * 100_000,
    '{"unknown": 5}',
    '{"unknown": []}',
    '{"unknown": {"token": 3}}',
    '{"unknown": {"token": -1}}',
    '{"unknown": {"token": null}}',
    '{"unknown": {"token": 1.0}}',
    '{"unknown": {"token": true}}',
    '{"unknown": {"token": 9223372036854775808}}',
    '{"unknown": {"id": null}}',
    '{"unknown": {"id": "a"}}',
    '{"unknown": {"id": true}}',
    '{"unknown": {"id": 9223372036854775808}}',
    '{"unknown": {"id": 1e3}}',
    '{"unknown": {"id": 1, "token": 1}}',
    '{"unknown": {"name": "a"}}',
    '{"unknown": {"buckets": 5}}',
    '{"unknown": {"buckets": 0, "key": null, "first": null}}',
    '{"unknown": {"buckets": 1e9, "key": null, "first": null}}',
    '{"unknown": {"buckets": 9223372036854775807, "key": null, "first": null}}',
    '{"unknown": {"buckets": 5, "key": "ab", "first": null}}',
    '{"unknown": {"buckets": 5, "key": [1], "first": null}}',
    '{"unknown": {"buckets": 5, "key": {"1": 2}, "first": null}}',
    '{"unknown": {"buckets": 5, "key": null, "first": -1}}',
    '{"unknown": {"buckets": 5, "key": null, "first": "0"}}',
    '{"casefold": 1}',
    '{"casefold": null}',
    '{"normal_form": "NFX"}',
    '{"normal_form": ["NFC"]}',
    '{"stems": true}',
]


@pytest.mark.parametrize("text", WRONG)
def test_wrong_policies(tmp_path, text):
    where = tmp_path / "w.safetensors"
    Vocabulary(["a", "b", "c"]).save(where)
    change(where, lambda tensors, policy: text)
    with pytest.raises(StoreError, match=r"w.safetensors is broken: expected"):
        Vocabulary.open(where)


@pytest.mark.parametrize("metadata", [[], "x", {"vocabulary": {}}, {"vocabulary": None}, 5])
def test_wrong_metadata(tmp_path, metadata):
    where = tmp_path / "w.safetensors"
    Vocabulary(["a"]).save(where)
    tensors, _ = parts_of(where.read_bytes())
    where.write_bytes(joined(tensors, metadata))
    with pytest.raises(StoreError, match="is broken: expected __metadata__ of strings"):
        Vocabulary.open(where)
    where.write_bytes(joined(tensors, None))  # as another program may write it
    assert Vocabulary.open(where) == Vocabulary(["a"])


@pytest.mark.parametrize(
    ("name", "array"),
    [
        ("alias_ids", np.arange(6)),
        ("alias_ids", np.arange(2, dtype=np.int32)),
        ("alias_ids", np.arange(2).reshape(1, 2)),
        ("counts", np.arange(3)),
        ("counts", np.arange(5)),
        ("counts", np.arange(4, dtype=np.int32)),
        ("counts", np.arange(4, dtype=np.uint64)),
        ("counts", np.arange(4).reshape(2, 2)),
        ("offsets", np.arange(4)),
        ("slots", np.arange(4, dtype=np.uint64)),
    ],
)
def test_wrong_tensors(tmp_path, name, array):
    where = tmp_path / "w.safetensors"
    Vocabulary(list("abcd"), counts=range(4), aliases={"x": 0}).save(where)
    change(where, lambda tensors, policy: tensors.update({name: array}))
    with pytest.raises(StoreError, match=r"w.safetensors is broken: "):
        Vocabulary.open(where)


def test_a_map_that_leads_beyond_the_aliases(tmp_path):
    """With fewer aliases the last tokens count as own ones: no id without a token comes out."""
    where = tmp_path / "w.safetensors"
    Vocabulary(["a", "b"], aliases={"x": 0, "y": 1}).save(where)
    change(where, lambda tensors, policy: tensors.update(alias_ids=np.zeros(1, np.int64)))
    words = Vocabulary.open(where)
    assert (len(words), words.encode(["x", "y"]).tolist()) == (3, [2, 0])


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_mutated_files(tmp_path_factory, data):
    where = tmp_path_factory.getbasetemp() / "mutated.safetensors"
    options = data.draw(st.sampled_from(POLICIES))
    words = Vocabulary(TOKENS, **options)
    words.save(where, overwrite=True)
    content = bytearray(where.read_bytes())
    text = content.find(b" " * 64, 8)
    places = [*range(text), *range(4096, len(content))]
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.sampled_from(places))
        content[at] ^= 1 << data.draw(st.integers(0, 7))
    if data.draw(st.booleans()):
        del content[data.draw(st.integers(0, len(content))) :]
    where.write_bytes(content)
    try:
        again = Vocabulary.open(where)
        assert isinstance(again.num_ids, int)
        most = again.num_ids
        repr(again)
        for token in ["of", "monarch", "x"]:
            with suppress(VocabularyError, UnknownTokenError):
                assert again.encode(token) < most
        _ = again.aliases, list(again)
    except (ShardwiseError, VocabularyError):
        pass


def test_verify_compares_the_policy_with_the_manifest(tmp_path):
    words = Vocabulary(["a", "b"], unknown="b")
    Vectors(Table.from_array(np.eye(2)), words).save(tmp_path / "t")
    where = tmp_path / "t" / "shardwise.json"
    good = where.read_text()
    for wrong in ("0", "null"):
        where.write_text(good.replace('"unknown_id": 1', f'"unknown_id": {wrong}'))
        found = store.verify_table(tmp_path / "t")
        assert [one.state for one in found] == ["ok", "damaged"]
        assert "expected the unknown_id of the table" in found[1].problem
        for opened in (Vectors, Vocabulary):
            with pytest.raises(StoreError, match="expected the unknown_id of the table"):
                opened.open(tmp_path / "t")
        shown = CliRunner().invoke(app, ["verify", str(tmp_path / "t")])
        assert shown.exit_code == 1
        assert "expected the unknown_id of the table" in " ".join(shown.output.split())


# ---- info ----


@policies
def test_info(tmp_path, options):
    words = make(options)
    Vectors(Table.from_array(np.arange(20.0).reshape(10, 2)), words).save(tmp_path / "t")
    command = ["info", str(tmp_path / "t")]
    found = json.loads(CliRunner().invoke(app, [*command, "--json"]).output)["vocabulary"]
    policy = words.unknown
    if isinstance(policy, Buckets):
        first = len(words) if policy.first is None else policy.first
        policy = {"buckets": policy.count, "first": first, "keyed": policy.key is not None}
    assert found == {
        "tokens": len(words),
        "unknown": policy,
        "aliases": len(words.aliases),
        "counts": words.counts is not None,
        "casefold": words.casefold,
        "normal_form": words.normal_form,
    }
    text = CliRunner().invoke(app, command).output
    for given_option, expected in (
        (words.counts is not None, "counts"),
        (words.aliases, f"{len(words.aliases)} more that stand for them"),
        (words.casefold, "without case"),
        (words.normal_form, f"{words.normal_form}"),
        (isinstance(words.unknown, Buckets), "by their hash"),
        (isinstance(words.unknown, str), f"unknown token {words.unknown!r}"),
        (isinstance(words.unknown, int), f"unknown ones have the id {words.unknown}"),
    ):
        assert (expected in text) == bool(given_option)
