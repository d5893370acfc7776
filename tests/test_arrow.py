"""Parquet and Arrow: files of pyarrow's and our own, whole and broken."""

import io

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shardwise import FormatError, OptionError, Vocabulary, formats
from shardwise.formats import arrow
from shardwise.formats._source import Source

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")

FILES = settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=60
)
FORMS = ("parquet", "arrow", "stream")
ROWS = np.arange(24, dtype=np.float32).reshape(6, 4)
WORDS = ["a", "b", "", "déjà", "x y", "f"]


@pytest.fixture
def put(tmp_path):
    def write(table, form="parquet", **options):
        path = tmp_path / f"file.{form}"
        if form == "parquet":
            pq.write_table(table, path, **options)
        else:
            new = pa.ipc.new_file if form == "arrow" else pa.ipc.new_stream
            size = options.pop("row_group_size", None)
            with new(path, table.schema, options=pa.ipc.IpcWriteOptions(**options)) as writer:
                writer.write_table(table, max_chunksize=size)
        return path

    return write


def lists(rows, kind="fixed"):
    values = pa.array(np.ascontiguousarray(rows).reshape(-1))
    if kind == "fixed":
        return pa.FixedSizeListArray.from_arrays(values, rows.shape[1])
    offsets = np.arange(0, rows.size + 1, rows.shape[1])
    if kind == "list":
        return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), values)
    return pa.LargeListArray.from_arrays(pa.array(offsets, pa.int64()), values)


def check(source, rows, words):
    assert source.shape == rows.shape
    assert source.dtype == rows.dtype
    assert (None if source.vocabulary is None else list(source.vocabulary)) == words
    assert source.read().tobytes() == rows.tobytes()
    for step in (1, 2, 5):
        blocks = list(source.blocks(step))
        assert b"".join(block.tobytes() for block in blocks) == rows.tobytes()
    for begin in reversed(range(len(rows))):
        assert source.read(begin, begin + 2).tobytes() == rows[begin : begin + 2].tobytes()
    assert source.read(2, 2).shape == (0, *rows.shape[1:])


def written(rows, words, form, tmp_path, steps=3):
    """A file that shardwise writes."""
    vocabulary = None if words is None else Vocabulary(words)
    source = Source(
        path="memory",
        format="memory",
        shape=rows.shape,
        dtype=rows.dtype,
        vocabulary=vocabulary,
        _rows=lambda begin, end: rows[begin:end],
    )
    write = arrow.write_parquet if form == "parquet" else arrow.write_arrow
    path = tmp_path / f"written.{form}"
    with open(path, "wb") as file:
        write(file, source, source.blocks(steps))
        assert not file.closed
    return path


# ---- files of pyarrow's ----


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", ["fixed", "list", "large"])
@pytest.mark.parametrize("group", [None, 4, 1])
def test_lists(put, form, kind, group):
    path = put(pa.table({"word": WORDS, "vector": lists(ROWS, kind)}), form, row_group_size=group)
    source = formats.open(path)
    assert source.format == ("parquet" if form == "parquet" else "arrow")
    assert source.metadata == {"tensor": "vector"}
    check(source, ROWS, WORDS)
    check(formats.open(path, limit=3, dim=4), ROWS[:3], WORDS[:3])
    check(formats.open(path, limit=5), ROWS[:5], WORDS[:5])
    check(formats.open(path, limit=99), ROWS, WORDS)
    with pytest.raises(FormatError, match="dim=5"):
        formats.open(path, dim=5)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    "dtype", ["float16", "float32", "float64", "int8", "uint8", "int32", "int64", "uint64"]
)
def test_dtypes(put, form, dtype):
    rows = ROWS.astype(dtype)
    check(formats.open(put(pa.table({"v": lists(rows)}), form)), rows, None)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    "kind",
    [
        pa.string(),
        pa.large_string(),
        pa.binary(),
        pa.large_binary(),
        pa.dictionary(pa.int8(), pa.string()),
        pa.string_view(),
    ],
)
def test_kinds_of_strings(put, form, kind):
    words = pa.chunked_array([pa.array(["cut", *WORDS])]).slice(1)
    words = words.dictionary_encode().cast(kind) if "dict" in str(kind) else words.cast(kind)
    check(formats.open(put(pa.table({"k": words, "v": lists(ROWS)}), form)), ROWS, WORDS)


def test_compressed_batches(put):
    table = pa.table({"word": WORDS, "vector": lists(ROWS)})
    for form in ("arrow", "stream"):
        check(formats.open(put(table, form, compression="zstd", row_group_size=4)), ROWS, WORDS)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", ["fixed", "list"])
def test_slices_keep_their_place(put, form, kind):
    table = pa.table(
        {"word": ["z", "y", *WORDS], "vector": lists(np.vstack([-ROWS[:2], ROWS]), kind)}
    )
    check(formats.open(put(table.slice(2), form)), ROWS, WORDS)
    check(formats.open(put(table.slice(3, 2), form)), ROWS[1:3], WORDS[1:3])


def test_uncompressed_rows_are_views(put):
    source = formats.open(put(pa.table({"v": lists(ROWS)}), "arrow"))
    assert np.shares_memory(source.read(0, 3), source.read(2, 5))
    assert not source.read().flags.writeable


def test_a_tensor_of_a_fixed_shape(put):
    kind = pa.fixed_shape_tensor(pa.float32(), [4])
    column = pa.ExtensionArray.from_storage(kind, lists(ROWS))
    for form in FORMS:
        check(formats.open(put(pa.table({"v": column}), form)), ROWS, None)


@pytest.mark.parametrize("form", FORMS)
def test_columns_side_by_side(put, form):
    columns = {f"dim_{k}": ROWS[:, k] for k in range(4)}
    table = pa.table({"count": range(6), "name": WORDS, **columns})
    check(formats.open(put(table, form, row_group_size=4)), ROWS, WORDS)
    check(formats.open(put(table, form), tensor="dim_"), ROWS, WORDS)
    plain = pa.table({"name": WORDS, "x": ROWS[:, 0], "y": ROWS[:, 1], "z": ROWS[:, 2]})
    check(formats.open(put(plain, form)), np.ascontiguousarray(ROWS[:, :3]), WORDS)


@pytest.mark.parametrize(
    ("columns", "what"),
    [
        (
            {"a": lists(ROWS), "b": lists(ROWS)},
            "2 columns of lists of numbers; the columns are 'a'",
        ),
        ({"vector": lists(ROWS), "embedding": lists(ROWS)}, "2 columns of lists of numbers"),
        ({"w": WORDS}, r"got none; the columns are 'w' \(string\); name one with tensor="),
        ({"x": ROWS[:, 0], "n": range(6)}, "got 2 columns of numbers"),
        ({f"{c}{k}": ROWS[:, k] for c in "ab" for k in range(2)}, "got 4 columns of numbers"),
        ({}, "the columns are none"),
        ({f"c{k}": WORDS for k in range(30)}, "and 10 more"),
    ],
)
def test_no_clear_column(put, columns, what):
    for form in FORMS:
        with pytest.raises(FormatError, match=what):
            formats.open(put(pa.table(columns), form))


def test_columns_by_name(put):
    table = pa.table(
        {"text": WORDS, "key": WORDS[::-1], "n": range(6), "a": lists(ROWS), "b": lists(-ROWS)}
    )
    for form in FORMS:
        path = put(table, form)
        check(formats.open(path, tensor="b"), -ROWS, WORDS[::-1])
        check(formats.open(path, tensor="a", tokens="text", unknown=""), ROWS, WORDS)
        for options in ({"tensor": "c"}, {"tensor": "n"}, {"tensor": "a", "tokens": "n"}):
            with pytest.raises(OptionError, match=r"expected t.* to name .*the columns are"):
                formats.open(path, **options)
        with pytest.raises(OptionError, match="unknown="):
            formats.open(path, tensor="a", unknown="nobody")
        with pytest.raises(OptionError, match="expected no unknown="):
            formats.open(put(table.select(["a"]), form), unknown="f")
        twice = pa.Table.from_arrays(
            [lists(ROWS), pa.array(WORDS), pa.array(WORDS)], ["v", "key", "key"]
        )
        with pytest.raises(FormatError, match="one column 'key', got several"):
            formats.open(put(twice, form))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    ("column", "what"),
    [
        (
            pa.array([[1.0, 2], [3, 4], [5]]),
            "row 2: expected 2 values, as in the rows before, got 1",
        ),
        (pa.array([[1.0, 2], [3, 4], None]), "row 2: expected values, got null"),
        (pa.array([None, [3.0, 4]]), "row 0: expected values, got null"),
        (pa.array([[1.0, 2], [3, None]]), "row 1: expected values, got null"),
        (pa.array([[1.0, 2], [3, None]], pa.list_(pa.float32(), 2)), "row 1: expected values"),
        (pa.array([[], []], pa.list_(pa.float32())), "rows of at least 1 value"),
        (pa.array([], pa.list_(pa.float32())), "expected rows in column 'v', got none"),
    ],
)
def test_rows_that_are_none(put, form, column, what):
    with pytest.raises(FormatError, match=what):
        formats.open(put(pa.table({"v": column}), form, row_group_size=2)).read()


def test_null_lists_of_fixed_length(put):
    column = pa.array([[1.0, 2], None, [3, 4]], pa.list_(pa.float32(), 2))
    with pytest.raises(FormatError, match="row 1: expected values, got null"):
        formats.open(put(pa.table({"v": column}), "arrow")).read()
    with pytest.raises(FormatError):
        formats.open(put(pa.table({"v": column}))).read()
    with pytest.raises(FormatError, match="row 1: expected values, got null in column 'x0', 'x1'"):
        formats.open(put(pa.table({"x0": [1.0, None], "x1": [2.0, 3]}))).read()


def test_no_rows(put):
    for form in FORMS:
        source = formats.open(put(pa.table({"w": WORDS, "v": lists(ROWS)}).slice(0, 0), form))
        assert source.shape == (0, 4)
        assert source.read().shape == (0, 4)


@pytest.mark.parametrize("form", FORMS)
def test_rows_without_tokens(put, form):
    table = pa.table({"word": ["a", "b", None, None, None, None], "vector": lists(ROWS)})
    check(formats.open(put(table, form, row_group_size=3)), ROWS, ["a", "b"])
    for words, row in ((["a", None, "c"], 1), (["a", None, None, None, "e"], 1)):
        table = pa.table({"word": words, "vector": lists(ROWS[: len(words)])})
        with pytest.raises(FormatError, match=f"row {row}: expected a token"):
            formats.open(put(table, form, row_group_size=2))
    none = pa.table({"word": pa.nulls(6, pa.string()), "vector": lists(ROWS)})
    check(formats.open(put(none, form)), ROWS, None)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("group", [None, 2])
def test_the_first_of_two_tokens_wins(put, form, group):
    words = ["a", "b", "a", "c", "b", None]
    path = put(pa.table({"word": words, "vector": lists(ROWS)}), form, row_group_size=group)
    source = formats.open(path)
    assert source.duplicates == 2
    check(source, ROWS[[0, 1, 3, 5]], ["a", "b", "c"])
    check(formats.open(path, limit=3), ROWS[:2], ["a", "b"])


def test_tokens_that_repeat_without_end(put):
    words = pa.DictionaryArray.from_arrays(np.zeros(120_000, np.int8), ["long" * 1000])
    table = pa.table({"word": words, "vector": lists(np.zeros((120_000, 1), np.float32))})
    with pytest.raises(FormatError, match="1000 times the bytes of the file"):
        formats.open(put(table, compression="zstd"))


def test_tokens_that_are_no_utf8(put):
    tokens = [b"\xff\xfe", b"a", b"\xc3"]
    offsets = pa.py_buffer(np.array([0, 2, 3, 4], np.int32))
    strings = pa.Array.from_buffers(pa.string(), 3, [None, offsets, pa.py_buffer(b"".join(tokens))])
    words = [token.decode("utf-8", "surrogateescape") for token in tokens]
    for form in FORMS:
        for column in (strings, pa.array(tokens)):
            table = pa.table({"word": column, "vector": lists(ROWS[:3])})
            check(formats.open(put(table, form)), ROWS[:3], words)


# ---- files of our own ----


@pytest.mark.parametrize("form", ["parquet", "arrow"])
@pytest.mark.parametrize("words", [None, WORDS, WORDS[:4], [], [b"\xff", b"\xc3", b"a", b"\0"]])
@pytest.mark.parametrize("dtype", ["<f4", ">f4", "<f2", "<f8", "i1", "<u8"])
def test_round_trip(tmp_path, form, words, dtype):
    path = written(ROWS.astype(dtype), words, form, tmp_path)
    source = formats.open(path)
    assert source.format == form
    expected = [
        w if isinstance(w, str) else w.decode("utf-8", "surrogateescape") for w in words or ()
    ]
    check(source, ROWS.astype(np.dtype(dtype).newbyteorder("=")), expected or None)
    table = pq.read_table(path) if form == "parquet" else pa.ipc.open_file(path).read_all()
    assert table.column_names == (["vector"] if words is None else ["token", "vector"])
    field = table.schema.field("vector")
    assert not field.nullable
    assert field.type == pa.list_(pa.field("item", field.type.value_type, nullable=False), 4)
    assert table.column("vector").to_pylist() == ROWS.tolist()
    if words is not None:
        is_text = all(isinstance(word, str) for word in words)
        assert table.schema.field("token").type == (pa.string() if is_text else pa.binary())
        assert table.column("token").to_pylist() == words + [None] * (6 - len(words))


@FILES
@given(
    st.lists(st.binary(max_size=5), max_size=9, unique=True),
    st.integers(1, 3),
    st.data(),
    st.sampled_from(["parquet", "arrow"]),
)
def test_round_trip_of_any_bits(tmp_path, tokens, dim, data, form):
    count = data.draw(st.integers(len(tokens), 12))
    bits = data.draw(st.binary(min_size=4 * dim * count, max_size=4 * dim * count))
    rows = np.frombuffer(bits, np.float32).reshape(count, dim)
    source = formats.open(written(rows, tokens, form, tmp_path))
    words = [token.decode("utf-8", "surrogateescape") for token in tokens]
    check(source, rows, words or None)


@pytest.mark.parametrize("form", ["parquet", "arrow"])
def test_what_cannot_be_written(tmp_path, form):
    import ml_dtypes

    bad = (ml_dtypes.bfloat16, ml_dtypes.float8_e4m3fn, np.bool_, np.complex64, np.longdouble)
    for dtype in bad:
        with pytest.raises(OptionError, match="write float32 or float16"):
            written(ROWS.astype(dtype), None, form, tmp_path)
    for shape in ((24,), (2, 3, 4), (24, 0)):
        with pytest.raises(OptionError, match="expected rows of values"):
            written(np.zeros(shape, np.float32), None, form, tmp_path)


def test_row_groups(tmp_path, monkeypatch):
    from shardwise.formats import _arrow_write

    monkeypatch.setattr(_arrow_write, "_GROUP_BYTES", 1600)
    rows = np.arange(4000, dtype=np.float32).reshape(1000, 4)
    layout = pq.ParquetFile(written(rows, None, "parquet", tmp_path, steps=70)).metadata
    assert {layout.row_group(k).num_rows for k in range(layout.num_row_groups - 1)} <= {100, 40}
    reader = pa.ipc.open_file(written(rows, None, "arrow", tmp_path, steps=70))
    assert reader.num_record_batches == 15


def test_large_rows_are_read_in_steps(tmp_path, monkeypatch):
    monkeypatch.setattr(arrow, "BLOCK_BYTES", 160)
    rows = np.arange(4000, dtype=np.float32).reshape(1000, 4)
    words = [str(k // 2) for k in range(1000)]
    pq.write_table(pa.table({"word": words, "v": lists(rows)}), tmp_path / "x", row_group_size=300)
    source = formats.open(tmp_path / "x")
    assert source.duplicates == 500
    order = np.random.default_rng(1).integers(0, 500, 60)
    for row in order:
        assert np.array_equal(source.read(row, row + 3), rows[::2][row : row + 3])


# ---- broken files ----


def tried(path):
    """Open and read; a broken file may say so, and nothing else may happen."""
    try:
        source = formats.open(path, format=path.suffix[1:])
        for block in source.blocks(1000):
            assert block.shape[1:] == source.shape[1:]
            if block.nbytes > 1 << 20:
                break
    except (FormatError, OptionError) as error:
        return error
    return None


def contents(form):
    table = pa.table({"word": WORDS[:3], "vector": lists(ROWS[:3], "list")})
    sink = io.BytesIO()
    if form == "parquet":
        pq.write_table(table, sink)
    else:
        new = pa.ipc.new_file if form == "arrow" else pa.ipc.new_stream
        with new(sink, table.schema) as writer:
            writer.write_table(table, max_chunksize=2)
    return sink.getvalue()


@pytest.mark.parametrize("form", FORMS)
def test_cut_files(tmp_path, form):
    path = tmp_path / f"x.{'parquet' if form == 'parquet' else 'arrow'}"
    content = contents(form)
    for size in range(1, len(content)):
        path.write_bytes(content[:size])
        assert tried(path) is not None or form == "stream"


@pytest.mark.parametrize("form", FORMS)
def test_changed_bytes(tmp_path, form):
    path = tmp_path / f"x.{'parquet' if form == 'parquet' else 'arrow'}"
    content = contents(form)
    for position in range(len(content)):
        for change in (0x01, 0x80, 0xFF):
            changed = bytearray(content)
            changed[position] ^= change
            path.write_bytes(changed)
            tried(path)


def test_what_is_parquet_and_what_is_not(tmp_path):
    path = tmp_path / "x"
    path.write_bytes(b"PAR1 1.0 2.0\nARROW1 3.0 4.0\n")
    assert formats.open(path).format == "glove"
    path.write_bytes(b"PAR1" + b"no footer" + b"PAR1")
    with pytest.raises(FormatError, match="expected what pyarrow can read"):
        formats.open(path)
    path.write_bytes(b"ARROW1\0\0" + b"no footer" + b"ARROW1")
    with pytest.raises(FormatError, match="expected what pyarrow can read"):
        formats.open(path)


@pytest.mark.parametrize("form", ["parquet", "arrow"])
def test_without_pyarrow(put, form, monkeypatch):
    import sys

    from shardwise import MissingLibraryError

    path = put(pa.table({"v": lists(ROWS)}), form)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(MissingLibraryError, match=r'pip install "shardwise\[arrow\]"'):
        formats.open(path)
