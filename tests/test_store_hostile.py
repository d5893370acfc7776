"""Files of a table that are damaged or forged."""

import json
import os
import struct
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from stored import MANIFEST, files_of, make_array, manifest_of, rows_of, write

from shardwise import (
    OptionError,
    ShardwiseError,
    StoreError,
    Table,
    TableNotFoundError,
    Vectors,
    Vocabulary,
)
from shardwise.store import write_table


@pytest.fixture(scope="module")
def victim(tmp_path_factory):
    """A small table with a vocabulary, and what its files hold; `open_changed` puts them back."""
    path = tmp_path_factory.mktemp("victim") / "t"
    words = Vocabulary(["<unk>", "a", "b", "c", "d"], unknown="<unk>")
    write(path, make_array((5, 3)), vocabulary=words)
    return path, files_of(path)


def open_changed(victim, changes):
    """Open and use a table some of whose files are changed; return it, or the error."""
    path, files = victim
    for name, content in changes.items():
        (path / name).write_bytes(content)
    try:
        vectors = Vectors.open(path)
        rows_of(vectors.table)
        vectors.lookup(["a", "nobody", "d"])
        list(vectors.vocabulary)
        return vectors
    except ShardwiseError as error:
        return error
    finally:
        for name in changes:
            (path / name).write_bytes(files[name])


def refused(victim, changes, match):
    error = open_changed(victim, changes)
    assert isinstance(error, StoreError)
    assert error.args[0].count("\n") == 0
    with pytest.raises(StoreError, match=match):
        raise error


NAMES = [
    MANIFEST,
    "weight-00000-of-00002.safetensors",
    "weight-00001-of-00002.safetensors",
    "vocabulary.safetensors",
]
edits = st.lists(
    st.tuples(
        # Mostly where there is meaning: in the first bytes, or in those after the header.
        st.one_of(st.integers(0, 250), st.integers(4096, 4300), st.integers(0, 1 << 20)),
        st.one_of(st.integers(0, 255), st.sampled_from(list(b'0123456789"{}[],:.-eE \\'))),
    ),
    min_size=1,
    max_size=6,
)


@settings(max_examples=400, deadline=None)
@given(st.sampled_from(NAMES), edits)
def test_changed_bytes(victim, name, edits):
    content = bytearray(victim[1][name])
    for position, byte in edits:
        content[position % len(content)] = byte
    open_changed(victim, {name: bytes(content)})


@settings(max_examples=100, deadline=None)
@given(st.sampled_from(NAMES), st.floats(0, 1), st.binary(max_size=20))
def test_cut_and_grown_files(victim, name, share, tail):
    content = victim[1][name]
    changed = content[: int(share * len(content))] + tail
    found = open_changed(victim, {name: changed})
    if name != MANIFEST and len(changed) != len(content):
        assert isinstance(found, StoreError)


VALUES = [
    *(None, True, False, 0, -1, 1, 2, 5, 2**31, 2**62, 2**63, 2**64, 10**400, -(10**400)),
    *(0.5, float("nan"), float("inf"), "", "x", ".", "..", "a\0b", "\ud800", "n" * 300),
    *([], {}, [[]], ["a"], {"a": 1}, [5, 3], [0, 2**62, 2**62], [2**40, 2**40], [1] * 100),
    *("float32", "bfloat16", ">f4", "f4,f4", "(1e,)f4", "ranges", "vocabulary.safetensors"),
]


def places(value, place=()):
    yield place
    items = (
        value.items()
        if isinstance(value, dict)
        else enumerate(value)
        if isinstance(value, list)
        else ()
    )
    for key, inner in items:
        yield from places(inner, (*place, key))


def replaced(value, place, new):
    if not place:
        return new
    copy = value.copy()
    copy[place[0]] = replaced(copy[place[0]], place[1:], new)
    return copy


def without(value, place):
    if len(place) == 1:
        copy = value.copy()
        del copy[place[0]]
        return copy
    return replaced(value, place[:1], without(value[place[0]], place[1:]))


def as_file(header, data, size):
    """A data file of a header, as long as it was."""
    text = json.dumps(header).encode("utf-8", "surrogatepass")
    room = size - 8 - len(data)
    return struct.pack("<Q", room) + text.ljust(room) + data if len(text) <= room else None


@pytest.mark.parametrize("name", [MANIFEST, NAMES[1], NAMES[3]])
def test_every_part_of_the_json_replaced_by_anything(victim, name):
    content = victim[1][name]
    header, data = (json.loads(content), b"") if name == MANIFEST else split_file_of(content)
    tracemalloc.start()
    try:
        for k, place in enumerate(places(header)):
            # A third of the values in each place: neighbours get the others.
            changes = [replaced(header, place, value) for value in VALUES[k % 3 :: 3]]
            for changed in changes + ([without(header, place)] if place else []):
                if name == MANIFEST:
                    file = json.dumps(changed).encode()
                else:
                    file = as_file(changed, data, len(content))
                if file is not None:
                    open_changed(victim, {name: file})
        assert tracemalloc.get_traced_memory()[1] < 32 << 20
    finally:
        tracemalloc.stop()


def split_file_of(content):
    length = int.from_bytes(content[:8], "little")
    return json.loads(content[8 : 8 + length]), content[8 + length :]


@pytest.mark.parametrize(
    "name",
    [
        *("../t/weight-00000-of-00002.safetensors", "/etc/passwd", "..", ".", "", "a/b", "a\\b"),
        *(
            "sub/x.safetensors",
            "/x.safetensors",
            "..safetensors",
            ".safetensors",
            "x\n.safetensors",
        ),
        *("x.safetensors\n", "x\0.safetensors", "\ud800.safetensors", "n" * 300 + ".safetensors"),
        *(MANIFEST, None, 3, ["x.safetensors"]),
    ],
)
def test_names_do_not_lead_out_of_the_directory(victim, name):
    manifest = json.loads(victim[1][MANIFEST])
    for place in (("shards", 0, "file"), ("vocabulary", "file")):
        changed = json.dumps(replaced(manifest, place, name)).encode()
        refused(victim, {MANIFEST: changed}, r"expected the name of a \.safetensors file in this")


@pytest.mark.parametrize(
    ("place", "value", "match"),
    [
        (("format",), "else", '"format": "shardwise"'),
        (("version",), 2, r"version 1 or older at .*, got version 2; upgrade shardwise"),
        (("version",), 10**9, "upgrade shardwise"),
        (("version",), "1", "expected a version from 1"),
        (("shape",), [4, 3], "expected a partition of 4 rows"),
        (
            ("shape",),
            [5, 4],
            r"'weight' of float32 of shape \(3, 4\), got float32 of shape \(3, 3\)",
        ),
        (("shape",), [5, 4000], "to hold 3 rows in at least 48000 bytes, got 3 rows in 4132 bytes"),
        (("shape",), [5, 2], r"expected a tensor 'weight' of float32 of shape \(3, 2\)"),
        (("dtype",), "int32", "expected row_format to be the dtype.* got 'float32' for int32"),
        (("row_format",), "int4", r"'weight' of uint8 of shape \(3, 6\), got float32"),
        (("row_format",), "int2", "expected row_format to be the dtype.* got 'int2'"),
        (("row_format",), ["int8"], "expected row_format to be the dtype"),
        (("dtype",), "f4", "expected the name of a dtype, got 'f4'"),
        (("partition", "num_shards"), 10**12, "expected a list of 1000000000000 shards"),
        (("shards", 0, "bytes"), 5000, "expected 5000 bytes, got 4132"),
        (("shards", 0, "rows"), 2, "to hold 3 rows .* got 2 rows"),
        (("shards", 0, "file"), NAMES[2], "a file of its own"),
        (("shards", 1, "file"), "gone.safetensors", r"expected the file .*gone\.safetensors"),
        (("vocabulary",), [], "expected vocabulary to be an object or null"),
        (("vocabulary", "unknown_id"), 5, "expected unknown_id"),
        (("generation",), 10**300, "expected a generation"),
        (("optimizer",), {"kind": "adam"}, "optimizer to be an object with a family"),
        (("optimizer",), {"family": "adam", "files": []}, "files of the optimizer's state"),
        (("metadata",), [], "metadata"),
    ],
)
def test_manifests_that_say_something_else(victim, place, value, match):
    manifest = replaced(json.loads(victim[1][MANIFEST]), place, value)
    refused(victim, {MANIFEST: json.dumps(manifest).encode()}, match)


def header_with(victim, name, change):
    header, data = split_file_of(victim[1][name])
    change(header)
    return {name: as_file(header, data, len(victim[1][name]))}


@pytest.mark.parametrize(
    ("name", "change", "match"),
    [
        (NAMES[1], lambda h: h["weight"].update(data_offsets=[0, 32]), "to fill its bytes"),
        (NAMES[1], lambda h: h["weight"].update(data_offsets=[4, 40]), "to begin at byte 0"),
        (NAMES[1], lambda h: h["weight"].update(data_offsets=[36, 0]), "to fill its bytes"),
        (NAMES[1], lambda h: h["weight"].update(data_offsets=[-36, 0]), "to fill its bytes"),
        (NAMES[1], lambda h: h["weight"].update(shape=[9]), r"got float32 of shape \(9,\)"),
        (NAMES[1], lambda h: h["weight"].update(shape=[3, 4]), "to fill its bytes"),
        (NAMES[1], lambda h: h["weight"].update(shape=[0, 2**62, 4]), "an array can have"),
        (NAMES[1], lambda h: h["weight"].update(shape=[1] * 60), "an array can have"),
        (NAMES[1], lambda h: h["weight"].update(dtype="I32"), "got int32 of shape"),
        (NAMES[1], lambda h: h["weight"].update(dtype="X9"), "of a known dtype, got 'X9'"),
        (NAMES[1], lambda h: h.update(bias=h.pop("weight")), "expected a tensor 'weight'.*none"),
        (NAMES[1], lambda h: h.update(bias=h["weight"]), "to begin at byte 36"),
        (
            NAMES[1],
            lambda h: h["weight"].update(shape=[3, 2**50], data_offsets=[0, 3 * 2**52]),
            "expected 13510798882111488 bytes of data, got 36",
        ),
        (NAMES[1], lambda h: h.clear(), "expected 0 bytes of data, got 36"),
        (NAMES[3], lambda h: h.pop("tokens"), "bytes of data"),
        (
            NAMES[3],
            lambda h: h.update(tokens=h["offsets"], offsets=h["tokens"]),
            "expected data as a one-dimensional array of uint8",
        ),
        (NAMES[3], lambda h: h.update(renamed=h.pop("slots")), "expected a tensor 'slots'"),
    ],
)
def test_headers_that_say_something_else(victim, name, change, match):
    refused(victim, header_with(victim, name, change), match)


def test_overlapping_tensors_are_refused(victim):
    # Two tensors that share bytes, of sizes that add up to those of the file.
    def change(header):
        header["slots"]["data_offsets"] = [8, 8 + 8 * header["slots"]["shape"][0]]

    refused(victim, header_with(victim, NAMES[3], change), "to begin at byte")


@pytest.mark.parametrize(
    "length", [0, 1, 2, 4087, 4089, 5000, 2**31, 2**63, 2**64 - 1], ids=lambda n: f"{n:#x}"
)
def test_header_lengths(victim, length):
    content = victim[1][NAMES[1]]
    refused(victim, {NAMES[1]: struct.pack("<Q", length) + content[8:]}, "is broken: expected")


@pytest.mark.parametrize("name", [MANIFEST, NAMES[1]])
@pytest.mark.parametrize("opening", ["[", '{"a":'])
def test_deep_json(victim, name, opening):
    content = victim[1][name]
    if name == MANIFEST:
        file = opening.encode() * 200_000
    else:
        file = content[:8] + (opening * 4088)[:4088].encode() + content[4096:]
    refused(victim, {name: file}, "is broken: expected")


def test_a_wrong_row_is_not_read_by_a_wrong_unknown_token(victim):
    manifest = replaced(json.loads(victim[1][MANIFEST]), ("vocabulary", "unknown_id"), 2)
    changes = {MANIFEST: json.dumps(manifest).encode()}
    refused(victim, changes, r"expected the unknown_id of the table, 2, got 0")


def test_too_many_tokens_for_the_rows(victim, tmp_path):
    write(tmp_path / "t", make_array((6, 3)), vocabulary=Vocabulary(list("abcdef")))
    content = (tmp_path / "t" / NAMES[3]).read_bytes()
    manifest = json.loads(victim[1][MANIFEST])
    manifest["vocabulary"]["bytes"] = len(content)
    changes = {NAMES[3]: content, MANIFEST: json.dumps(manifest).encode()}
    refused(victim, changes, "expected at most 5 tokens, one a row, got 6")


def test_fewer_tokens_than_rows(tmp_path):
    rows = make_array((5, 3))
    write(tmp_path / "t", rows, vocabulary=Vocabulary(["a", "b"], unknown="b"))
    vectors = Vectors.open(tmp_path / "t")
    assert (len(vectors), len(vectors.table)) == (2, 5)
    assert np.array_equal(vectors.lookup("nobody"), rows[1])
    assert np.array_equal(vectors.table.lookup([4]), rows[4:])
    manifest = replaced(manifest_of(tmp_path / "t"), ("vocabulary", "unknown_id"), 2)
    (tmp_path / "t" / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(StoreError, match="is broken"):  # a row, and no token
        Vectors.open(tmp_path / "t")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes with names")
@pytest.mark.parametrize("make", [os.mkdir, getattr(os, "mkfifo", None)], ids=["folder", "pipe"])
@pytest.mark.parametrize("name", [MANIFEST, NAMES[1]])
def test_what_is_no_file(tmp_path, name, make):
    write(tmp_path / "t", make_array((0, 3)))
    (tmp_path / "t" / name).unlink()
    make(tmp_path / "t" / name)
    manifest = tmp_path / "t" / MANIFEST
    if name != MANIFEST:
        size = (tmp_path / "t" / name).stat().st_size
        manifest.write_text(
            json.dumps(replaced(manifest_of(tmp_path / "t"), ("shards", 0, "bytes"), size))
        )
    with pytest.raises(StoreError, match="expected a regular file"):
        Table.open(tmp_path / "t")


def test_a_missing_file_is_named(tmp_path):
    write(tmp_path / "t", make_array((4, 2)))
    (tmp_path / "t" / NAMES[2]).unlink()
    with pytest.raises(StoreError, match=f"expected the file .*{NAMES[2]}, got none") as caught:
        Table.open(tmp_path / "t")
    assert not isinstance(caught.value, TableNotFoundError)


@pytest.mark.parametrize("rows", [[[1 + 2j]], [["1"]], [[b"x"]]], ids=["complex", "str", "bytes"])
@pytest.mark.parametrize("dtype", ["float32", "int8", "bool"])
def test_rows_that_are_no_real_numbers_are_not_stored_as_such(tmp_path, rows, dtype):
    table = Table.from_array(np.array(rows))
    with pytest.raises(OptionError, match="expected rows of real numbers to store as"):
        write_table(tmp_path / "t", table, dtype=dtype)
    assert not (tmp_path / "t").exists()


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity"])
def test_a_manifest_with_what_json_has_not(tmp_path, number):
    write(tmp_path / "t", make_array((4, 2)))
    manifest = tmp_path / "t" / MANIFEST
    text = manifest.read_text()
    manifest.write_text(text.replace('"metadata": {}', f'"metadata": {{"a": {number}}}'))
    assert manifest.read_text() != text
    with pytest.raises(StoreError, match=f"expected JSON.*{number} is no number of JSON"):
        Table.open(tmp_path / "t", "r+")
