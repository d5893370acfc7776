import os
import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shardwise import FormatError, OptionError, formats

DATA = Path(__file__).parents[2] / "shared" / "data" / "vectors"
NEWLINES = struct.unpack("<f", b"\n" * 4)[0]
FILES = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)

floats = st.floats(width=32, allow_nan=False)
text_tokens = st.binary(min_size=1, max_size=6).filter(
    lambda token: not set(token) & set(b" \t\r\n")
)
binary_tokens = st.binary(max_size=6).filter(lambda token: b" " not in token and token[:1] != b"\n")


def tables(tokens):
    shapes = st.tuples(st.integers(0, 8), st.integers(1, 5))
    return shapes.flatmap(
        lambda shape: st.tuples(
            st.lists(tokens, min_size=shape[0], max_size=shape[0], unique=True),
            st.lists(floats, min_size=shape[0] * shape[1], max_size=shape[0] * shape[1]).map(
                lambda values: np.array(values, np.float32).reshape(shape)
            ),
        )
    )


def text_of(tokens, rows, end=b"\n"):
    values = [b" ".join(b"%.9g" % value for value in row.tolist()) for row in rows]
    return b"".join(token + b" " + value + end for token, value in zip(tokens, values, strict=True))


def header_of(rows):
    return b"%d %d\n" % rows.shape


def binary_of(tokens, rows, end=b""):
    return b"".join(
        token + b" " + row.astype("<f4").tobytes() + end
        for token, row in zip(tokens, rows, strict=True)
    )


def names(tokens):
    return [token.decode("utf-8", "surrogateescape") for token in tokens]


@pytest.fixture
def put(tmp_path):
    path = tmp_path / "vectors"

    def write(content):
        path.write_bytes(content)
        return path

    return write


def check(source, form, tokens, rows):
    assert source.format == form
    assert source.shape == rows.shape
    assert source.dtype == np.float32
    assert list(source.vocabulary) == tokens
    assert np.array_equal(source.read(), rows, equal_nan=True)
    assert np.array_equal(np.signbit(source.read()), np.signbit(rows))
    blocks = list(source.blocks(2))
    assert [len(block) for block in blocks[:-1]] == [2] * (len(blocks) - 1)
    if blocks:
        assert np.array_equal(np.concatenate(blocks), rows, equal_nan=True)


# ---- what is written is read ----


@FILES
@given(tables(text_tokens), st.sampled_from([b"\n", b" \n", b"\r\n"]), st.booleans())
def test_round_trip_text(put, table, end, newline_at_end):
    tokens, rows = table
    content = header_of(rows) + text_of(tokens, rows, end)
    path = put(content if newline_at_end else content.rstrip(b"\n"))
    check(formats.open(path, format="word2vec-text"), "word2vec-text", names(tokens), rows)


@FILES
@given(
    tables(st.binary(max_size=6).filter(lambda t: not set(t) & set(b"\t\r\n") and t[-1:] != b" ")),
    st.booleans(),
)
def test_round_trip_glove(put, table, newline_at_end):
    tokens, rows = table
    if not tokens or any(token[:3] == b"\xef\xbb\xbf" for token in tokens):
        return
    if any(set(b".eE") & set(token) and b" " in token for token in tokens):
        return  # a token that ends in " 1.5" is refused
    content = text_of(tokens, rows)
    path = put(content if newline_at_end else content.rstrip(b"\n"))
    check(formats.open(path, format="glove", dim=rows.shape[1]), "glove", names(tokens), rows)


@FILES
@given(tables(binary_tokens), st.sampled_from([b"", b"\n"]))
def test_round_trip_binary(put, table, end):
    tokens, rows = table
    path = put(header_of(rows) + binary_of(tokens, rows, end))
    check(formats.open(path, format="word2vec-binary"), "word2vec-binary", names(tokens), rows)


@FILES
@given(tables(text_tokens))
def test_forms_are_told_apart(put, table):
    tokens, rows = table
    rows = np.concatenate([rows, rows], axis=1) + np.float32(0.1)
    if len(rows) < 2 or b"\n" in rows.tobytes():
        return  # binary values with a newline may look like lines of text by chance
    text = text_of(tokens, rows)
    assert formats.open(put(header_of(rows) + text)).format == "word2vec-text"
    assert formats.open(put(header_of(rows) + binary_of(tokens, rows))).format == "word2vec-binary"
    if tokens[0][:3] != b"\xef\xbb\xbf":
        assert (
            formats.open(put(b"token 1" + b" 2" * (rows.shape[1] - 1) + b"\n" + text)).format
            == "glove"
        )


@pytest.mark.parametrize(
    ("content", "form", "tokens", "rows"),
    [
        (b"2 1\na 0.5\nb 1\n", "word2vec-text", ["a", "b"], [[0.5], [1]]),
        (b"2 1\na 0.5\n", "glove", ["2", "a"], [[1], [0.5]]),
        (b"7 5\n8 6\n", "glove", ["7", "8"], [[5], [6]]),
        (b"0 7\n", "word2vec-text", [], np.empty((0, 7))),
        (b"0 7", "word2vec-text", [], np.empty((0, 7))),
        (b"\xef\xbb\xbf1 2\na 1 2\n", "word2vec-text", ["a"], [[1, 2]]),
        (b"\xef\xbb\xbfa 1 2\n", "glove", ["a"], [[1, 2]]),
        (b"\xef\xbb\xbf 1 2\n", "glove", ["\ufeff"], [[1, 2]]),
        (b"1  2\r\na 1 2\r\n", "word2vec-text", ["a"], [[1, 2]]),
        (b"a 1 2\nb 3 4\n\n \n\r\n", "glove", ["a", "b"], [[1, 2], [3, 4]]),
        (b"a nan inf\nb -inf 1e-3\n", "glove", ["a", "b"], [[np.nan, np.inf], [-np.inf, 1e-3]]),
        (
            b"2 2\na " + struct.pack("<2f", 10, 20) + b"b " + b"\n" * 8,
            "word2vec-binary",
            ["a", "b"],
            [[10, 20], [NEWLINES, NEWLINES]],
        ),
        (
            b"1 2\na \n" + b"\x00" * 2 + b"\x41" + struct.pack("<f", 3),
            "word2vec-binary",
            ["a"],
            [[struct.unpack("<f", b"\n\0\0A")[0], 3]],
        ),
    ],
)
def test_special_files(put, content, form, tokens, rows):
    check(formats.open(put(content)), form, tokens, np.array(rows, np.float32))


def test_odd_tokens_of_glove(put):
    tokens = [
        "the",
        "at name@domain.com",
        ". . .",
        "\u00a0",
        "x\u0085y",
        "\u2028",
        "",
        "\udcff",
        "1.5",
        "3",
        "a  b",
    ]
    rows = np.arange(len(tokens) * 3, dtype=np.float32).reshape(-1, 3) / 8
    content = text_of([token.encode("utf-8", "surrogateescape") for token in tokens], rows)
    source = formats.open(put(content), unknown="the")
    check(source, "glove", tokens, rows)
    assert source.vocabulary.unknown == "the"


def test_duplicates_first_wins(put):
    for content in (
        b"a 1 2\nb 3 4\na 5 6\nc 7 8\nb 9 9\n",
        b"4 2\n"
        + binary_of([b"a", b"b", b"a", b"c"], np.float32([[1, 2], [3, 4], [5, 6], [7, 8]])),
    ):
        source = formats.open(put(content))
        assert source.duplicates == content.count(b"a ") - 1 + content.count(b"b ") - 1
        check(source, source.format, ["a", "b", "c"], np.float32([[1, 2], [3, 4], [7, 8]]))


def test_limit_and_dim(put):
    content = b"a 1 2\nb 3 4\nc 5 6\nbroken\n"
    assert formats.open(put(content), limit=3).shape == (3, 2)
    assert formats.open(put(b"3 2\n" + content), limit=2).read().tolist() == [[1, 2], [3, 4]]
    assert formats.open(put(b"3 2\n" + content), limit=3).shape == (3, 2)
    assert formats.open(put(b"900 2\n" + content), limit=3).shape == (3, 2)
    assert formats.open(put(b"a b 1 2\nc d 3 4\n")).shape == (2, 3)
    assert list(formats.open(put(b"a b 1 2\nc d 3 4\n"), dim=2).vocabulary) == ["a b", "c d"]
    binary = b"9 2\n" + binary_of([b"a", b"b"], np.float32([[1, 2], [3, 4]])) + b"rest"
    assert formats.open(put(binary), limit=2).shape == (2, 2)
    for wrong in (
        {"limit": 0},
        {"limit": -1},
        {"limit": 1.5},
        {"limit": True},
        {"dim": 0},
        {"format": "csv"},
    ):
        with pytest.raises(OptionError, match="expected"):
            formats.open(put(content), **wrong)
    with pytest.raises(OptionError, match="unknown="):
        formats.open(put(b"a 1\n"), unknown="b")
    with pytest.raises(OptionError, match="rows"):
        formats.open(put(b"a 1\n")).blocks(0)


def test_progress_and_blocks(put):
    content = b"".join(b"token%d %d.5 1\n" % (i, i) for i in range(300_000))
    seen = []
    source = formats.open(put(content), progress=lambda done, total: seen.append((done, total)))
    assert len(seen) > 1
    assert seen == sorted(seen)
    assert abs(seen[-1][0] - len(content)) <= 1
    assert {total for _, total in seen} == {len(content)}
    assert source.shape == (300_000, 2)
    assert np.array_equal(source.read(5, 7), np.float32([[5.5, 1], [6.5, 1]]))
    assert sum(len(block) for block in source.blocks()) == 300_000


def test_an_interrupt_goes_through(put):
    def stop(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        formats.open(put(b"a 1 2\n"), progress=stop)


# ---- what is wrong is told ----


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "empty file"),
        (b"\n\n", "expected word2vec's header or a line with a token"),
        (b"<!DOCTYPE html>\n", "DOCTYPE html"),
        (b"\x1f\x8b\x08rest", "expected gzip data to the end, got .* at byte"),
        (b"\xfd7zXZ\x00", "expected xz data to the end, got the end of the file at byte 6"),
        (b"\x28\xb5\x2f\xfd", "expected zstd data to the end, got the end of the file at byte 4"),
        (b"BZh91AY&SY", "expected bzip2 data to the end, got the end of the file at byte 10"),
        (b"PK\x03\x04", "expected"),
        (b"\xba\x16\x4f\x2f\x0c\0\0\0", "expected"),
        (b"\xff\xfea\0 \0", "UTF-16"),
        (b"a 1 2\nb 3\nc 4 5\n", "line 2: expected a token and 2 values, got 2 fields: 'b 3'"),
        (b"a 1 2\nb 1 2\nc 0.5 3 4\n", "line 3: expected a token and 2 values, got 4 fields"),
        (b"a 1 2\n\nc 4 5\n", "line 2: expected a token and 2 values, got 0 fields"),
        (b"a 1:0.5 7:0.25\nb 3:1\n", "sparse rows"),
        (b"2 9\na 1:0.5 7:0.25\nb 3:1 5:1 6:1 7:1 8:1\n", "sparse rows"),
        (b"3 2\na 1 2\nb 3 4\n" + b" " * 9, "expected 3 rows, as the header promises, got 2"),
        (b"1 2\na 1 2\nb 3 4\n", "line 3: expected the end of the file after the 1 rows"),
        (b"0 2\na 1 2\n", "line 2: expected the end of the file after the 0 rows"),
        (b"9999999999 300\na 1 2 3\n", "line 1: expected at least .* got 8 after the header"),
        (
            b"99999999999999999999999 99999999999999999999999\na 1 2 3\n",
            "line 1: expected at least",
        ),
        (b"9999999999 1\n" + b"a \0\0\0\0", "line 1: expected at least"),
        (b"1 0\na \n", "at least 1 value"),
        (b"1 3\na 1 2\n", "line 1: expected at least|line 2: expected a token and 3 values"),
        (b"1 2\na 0.1 0.2 0.3\n", "line 2: expected a token and 2 values, got 4 fields"),
        (b"2 2\na \0\0\0\0\0\0\0\0b \0\0\0\0\0\0\0", "row 2, byte 14: expected 8 bytes .* got 7"),
        (b"2 2\na \0\0\0\0\0\0\0\0bbbbbbbbbbb", "row 2, byte 14: expected a token and a space"),
        (b"1 2\na \0\0\0\0\0\0\0\0b \0", "byte 14: expected the end of the file after the 1 rows"),
    ],
)
def test_bad_files(put, content, message):
    path = put(content)
    with pytest.raises(FormatError, match=message) as error:
        formats.open(path)
    assert str(error.value).startswith(f"{path}: ")


def test_bad_values(put):
    source = formats.open(put(b"a 1 2\nb 1 2\nc 3 4x\n"))
    assert source.read(0, 2).tolist() == [[1, 2], [1, 2]]
    with pytest.raises(FormatError, match="line 3, value 2 of 2: expected a number, got '4x'"):
        source.read()
    with pytest.raises(FormatError, match="line 3"):
        list(source.blocks(1))


def test_bad_headers(put):
    with pytest.raises(FormatError, match="line 1: expected word2vec's header"):
        formats.open(put(b"a 1 2\n"), format="word2vec")
    with pytest.raises(
        FormatError, match=r"expected rows of 3 values \(dim=3\), got a header for 2"
    ):
        formats.open(put(b"1 2\na 1 2\n"), dim=3)


def test_paths(tmp_path, put):
    with pytest.raises(FileNotFoundError):
        formats.open(tmp_path / "nothing")
    with pytest.raises(FormatError, match="a directory"):
        formats.open(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(FormatError, match="no regular file"):
        formats.open(tmp_path / "pipe")
    assert formats.open(str(put(b"a 1\n"))).shape == (1, 1)


GOOD = [
    b"3 3\nthe 0.418 0.24968 -0.41242\nof 1e-5 -2 3.5 \nand 1 2 3\n",
    b"the 0.418 0.24968 -0.41242\nat b@c.d 1e-5 -2 3.5\nand 1 2 3",
    b"3 3\n"
    + binary_of([b"the", b"of", b"and"], np.float32([[0.4, 0.2, 1], [3, 4, 5], [6, 7, 8]]), b"\n"),
]


@FILES
@given(
    st.sampled_from(GOOD),
    st.lists(st.tuples(st.integers(0, 99), st.binary(max_size=2), st.integers(0, 2)), max_size=3),
    st.sampled_from([None, "word2vec", "word2vec-text", "word2vec-binary", "glove"]),
)
def test_changed_bytes_never_do_harm(put, content, changes, form):
    for at, new, gone in changes:
        content = content[:at] + new + content[at + gone :]
    try:
        source = formats.open(put(content), format=form)
        rows = source.read()
    except FormatError:
        return
    assert rows.shape == source.shape == (len(list(source.vocabulary)), source.shape[1])
    assert source.vocabulary.encode(list(source.vocabulary)).tolist() == list(range(len(rows)))


# ---- real files ----


def need(name):
    if not (DATA / name).exists():
        pytest.skip(f"{name} is not here")
    return DATA / name


@pytest.mark.parametrize(
    ("name", "header"),
    [
        ("test_glove.txt", False),
        ("lee_fasttext.vec", True),
        ("toy-model.vec", True),
        ("ff-embeddings.txt", False),
        ("ff-embeddings.dims.txt", True),
        ("ff-utf8-incomplete.txt", False),
    ],
)
def test_real_text(name, header):
    lines = need(name).read_bytes().rstrip(b"\n").split(b"\n")
    if header:
        assert lines[0].split() == [
            str(len(lines) - 1).encode(),
            str(len(lines[1].split()) - 1).encode(),
        ]
    fields = [line.rstrip(b" ").split(b" ") for line in lines[int(header) :]]
    source = formats.open(DATA / name)
    rows = np.array([[np.float32(value) for value in line[1:]] for line in fields], np.float32)
    check(source, "word2vec-text" if header else "glove", names(line[0] for line in fields), rows)


@pytest.mark.parametrize(
    "name", ["emoji2vec.bin", "novels-100d.bin", "ff-embeddings.w2v", "ff-utf8-incomplete.bin"]
)
def test_real_binary(name):
    content = need(name).read_bytes()
    header, rest = content.split(b"\n", 1)
    count, dim = map(int, header.split())
    tokens, rows = [], []
    at = 0
    while at < len(rest) and len(tokens) < 3000:
        space = rest.index(b" ", at)
        tokens.append(rest[at:space].lstrip(b"\n"))
        rows.append(np.frombuffer(rest, "<f4", dim, space + 1))
        at = space + 1 + 4 * dim
        at += rest[at : at + 1] == b"\n"
    source = formats.open(DATA / name)
    assert source.shape == (count, dim)
    assert source.format == "word2vec-binary"
    assert source.vocabulary.decode(np.arange(len(tokens))) == names(tokens)
    assert np.array_equal(source.read(0, len(rows)), rows)
    check(
        formats.open(DATA / name, limit=len(rows)), "word2vec-binary", names(tokens), np.array(rows)
    )


@pytest.mark.parametrize("form", ["word2vec-text", "word2vec-binary"])
def test_no_rows_of_more_values_than_an_array_has(put, form):
    for values in (1 << 62, 10**30):
        with pytest.raises(FormatError, match="expected a shape that an array can have"):
            formats.open(put(b"0 %d\n" % values), format=form)


def test_a_limit_beyond_64_bits(put):
    path = put(b"a 1 2\nb 3 4\n")
    assert formats.open(path, limit=10**30).shape == (2, 2)
    with pytest.raises(FormatError):
        formats.open(path, dim=10**30)


@pytest.mark.parametrize("option", ["tensor", "tokens"])
def test_names_where_there_are_none(put, option):
    with pytest.raises(OptionError, match=f"expected no {option}= for glove"):
        formats.open(put(b"a 1 2\nb 3 4\n"), **{option: "x"})
