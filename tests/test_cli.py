import contextlib
import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import sysconfig
import time
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

import shardwise
from shardwise import Table, Vectors, Vocabulary, initializers
from shardwise.cli import app
from shardwise.cli._print import sized

NOVELS = Path(__file__).parents[2] / "shared" / "data" / "vectors" / "novels-100d.bin"
SCRIPT = Path(sysconfig.get_path("scripts"), "shardwise")
COMMAND = (
    [str(SCRIPT)]
    if SCRIPT.exists()
    else [sys.executable, "-c", "import shardwise.cli as c; c.app()"]
)
WORDS = ["like", "the", "country", ":cat:", "[bold]x", "\udcff", "a b", "", "-1"]
ROWS = np.random.default_rng(0).standard_normal((9, 6)).astype(np.float32)


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A folder with a table `t`, as the working directory."""
    monkeypatch.chdir(tmp_path)
    Vectors(Table.from_array(ROWS, 3), Vocabulary(WORDS)).save("t")
    Path("tiny.txt").write_text("like 1 2\nthe 3 4\ncountry 5 6\nthe 7 8\n")
    return tmp_path


def run(*arguments):
    """Run a command in this process: (exit code, standard output, standard error)."""
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.stdout, result.stderr


def ran(*arguments):
    code, out, err = run(*arguments)
    assert (code, err) == (0, "")
    return out


def failed(*arguments):
    """The one line that a command fails with."""
    code, out, err = run(*arguments)
    assert (code, out) == (1, "")
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    return err


def start(*arguments, **options):
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "env": os.environ} | options
    # Output is buffered, as a user's is: then a broken pipe is met at the end.
    options["env"] = {k: v for k, v in options["env"].items() if k != "PYTHONUNBUFFERED"}
    return subprocess.Popen([*COMMAND, *map(str, arguments)], **options)


def finished(process):
    """(exit code, standard output, standard error) of a process."""
    out, err = process.communicate(timeout=60)
    return process.returncode, out, err


# --- convert


def test_convert_says_what_it_made(home):
    out = ran("convert", "tiny.txt", "new", "--shards", 3, "--partition", "div")
    assert out.startswith("new: 3 rows of 2 float32 values in 3 shards, from glove\n")
    assert "1 row left out, whose token had come before" in out
    vectors = Vectors.open("new")
    assert vectors["country"].tolist() == [5, 6]
    assert vectors.table.partition.strategy == "div"


def test_convert_options(home):
    options = ("--dtype", "bfloat16", "--limit", 2, "--dim", 2, "--unknown", "the", "--shards", 7)
    ran("convert", "tiny.txt", "new", *options)
    vectors = Vectors.open("new")
    assert (vectors.table.dtype, len(vectors)) == ("bfloat16", 2)
    assert vectors.table.partition.num_shards == 7
    assert vectors.lookup("nobody").tolist() == [3, 4]


def test_convert_the_other_way(home):
    out = ran("convert", "t", "new.vec.gz")
    assert out == "new.vec.gz: 9 rows of 6 float32 values as word2vec-text, from shardwise\n"
    out = ran("convert", "new.vec.gz", "new.npy", "--dtype", "float16", "--limit", 4)
    assert out == (
        "new.npy: 4 rows of 6 float16 values as npy, from word2vec-text\n"
        "4 tokens left out: npy has no place for them; npz, safetensors and parquet have\n"
    )
    assert np.array_equal(np.load("new.npy"), ROWS[:4].astype("f2"))
    out = ran("convert", "t", "u", "--partition", "div")
    assert out == "u: 9 rows of 6 float32 values in 1 shard, from shardwise\n"
    assert ran("convert", "t", "v").startswith("v: 9 rows of 6 float32 values in 3 shards, from")
    assert ran("convert", "tiny.txt", "w.bin", "--to", "table", "--format", "glove").startswith(
        "w.bin: 3 rows of 2 float32 values in 1 shard, from glove\n"
    )


def test_convert_tells_what_is_not_finite(home):
    Path("odd.txt").write_text("a nan 1\nb 2 3\nc -inf inf\n")
    out = ran("convert", "odd.txt", "odd")
    assert out.endswith("from glove\n2 rows kept with a NaN or an infinity\n")
    assert "NaN" not in ran("convert", "tiny.txt", "even")


def test_convert_tells_of_rows_without_tokens(home):
    np.save("rows.npy", ROWS)
    assert ran("convert", "rows.npy", "rows").endswith(
        "from npy\nno tokens: its rows are looked up by id\n"
    )
    Vectors(Table.from_array(ROWS), Vocabulary(WORDS[:1])).save("one")
    assert ran("convert", "one", "more").endswith(
        "from shardwise\n1 token: the last 8 rows without one are looked up by id\n"
    )
    assert "vocabulary  1 token, the last 8 rows without one\n" in ran("info", "more")
    assert "token" not in ran("convert", "t", "all")


def test_convert_names_arrays(home):
    np.savez("a.npz", rows=ROWS, other=ROWS[::-1], names=np.array(list("abcdefghi")))
    ran("convert", "a.npz", "new", "--tensor", "other", "--tokens", "names")
    assert np.array_equal(Vectors.open("new")["a"], ROWS[-1])


def test_convert_overwrites_when_told(home):
    before = sorted(os.listdir("t"))
    assert "--overwrite" in failed("convert", "tiny.txt", "t")
    assert sorted(os.listdir("t")) == before
    assert np.array_equal(Vectors.open("t")["like"], ROWS[0])
    ran("convert", "tiny.txt", "t", "--overwrite")
    assert Vectors.open("t")["like"].tolist() == [1, 2]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["convert", "none.txt", "new"], "none.txt: expected a file, got nothing of that name"),
        (["convert", "tiny.txt", "no/new"], "make it first"),
        (["convert", "tiny.txt", "tiny.txt"], "got a file"),
        (["convert", "tiny.txt", "new", "--dtype", "int16"], "dtype of floats"),
        (["convert", "tiny.txt", "new", "--dtype", "(1e,)f4"], "bfloat16"),
        (["convert", "tiny.txt", "new", "--shards", "0"], "num_shards"),
        (["convert", "tiny.txt", "new", "--partition", "ranges"], '"mod" or "div"'),
        (["convert", "tiny.txt", "new", "--limit", "0"], "limit"),
        (["convert", "tiny.txt", "new", "--to", "csv"], "a format to write"),
        (["convert", "tiny.txt", "new", "--format", "csv"], "expected format"),
        (["convert", "tiny.txt", "new.txt", "--shards", "2"], "no shards"),
        (["convert", "tiny.txt", "no/new.txt"], "make it first"),
        (["convert", "t", "new.bin"], "which has a space in it"),
        (["convert", "t", "new", "--tensor", "x"], "no tensor="),
        (["convert", "tiny.txt", "new", "--dim", "3"], "tiny.txt: line 1"),
        (["convert", "tiny.txt", "new", "--unknown", "nobody"], "nobody"),
        (["lookup", "none", "like"], "expected a table at none"),
        (["lookup", "tiny.txt", "like"], "shardwise convert"),
        (["lookup", "t", ":dog:"], "':dog:'"),
        (["lookup", "t", "[red]b"], "'[red]b'"),
        (["lookup", "t", "like", "--ids"], "got 'like'"),
        (["lookup", "t", "--ids", "9"], "ids[0] = 9"),
        (["lookup", "t", "--ids", "0", "-1"], "ids[1] = -1"),
        (["lookup", "t", "--ids", "9" * 30], "ids"),
        (["lookup", "t", "--ids", "9" * 5000], "whole numbers"),
        (["lookup", "plain", "like"], "add --ids"),
        (["create", "new", "--rows", "9", "--dim", "2", "--low", "1"], "got --low"),
        (
            ["create", "new", "--rows", "9", "--dim", "2", "--initializer", "normal", "--high=1"],
            "--mean and --stddev",
        ),
        (["create", "new", "--rows", "9", "--dim", "2", "--initializer", "x"], "got 'x'"),
        (["info", "none"], "expected a table at none"),
        (["info", "."], "without shardwise.json"),
        (["explain", "--rows", "9", "--ids", "9"], "ids from 0 to 8"),
        (["explain", "--rows", "-1"], "num_rows"),
        (["explain", "--rows", "9", "--shards", "0"], "num_shards"),
        (["explain", "--rows", "9", "--partition", "x"], "'x'"),
    ],
)
def test_what_cannot_be_done_is_one_line(home, arguments, words):
    Table.from_array(ROWS).save("plain")
    before = sorted(os.listdir())
    assert words in failed(*arguments)
    assert sorted(os.listdir()) == before


def test_a_broken_table_is_one_line(home):
    next(Path("t").glob("weight-00001-*")).write_bytes(b"short")
    for command in (["lookup", "t", "like"], ["info", "t"]):
        assert "is broken: expected" in failed(*command)


def test_what_is_no_command(home):
    for arguments in (["lookup", "t"], ["convert", "tiny.txt"], ["nothing"], ["info", "t", "--x"]):
        code, out, err = run(*arguments)
        assert (code, out) == (2, "")
        assert "Usage:" in err


def test_help():
    names = ("convert", "create", "lookup", "info", "reshard", "verify", "explain")
    for command in ((), *((name,) for name in names)):
        assert "Usage: " in ran(*command, "--help")


def test_the_version_is_told():
    assert ran("--version") == f"shardwise {shardwise.__version__}\n"


def test_lookup_of_a_word_that_is_misspelled(home):
    assert "'contry' (did you mean 'country'?)" in failed("lookup", "t", "contry")


# --- create


def test_create(home):
    out = ran("create", "new", "--rows", 1, "--dim", 4, "--dtype", "float16", "--shards", 2)
    assert out == "new: 1 row of 4 float16 values in 2 shards\n"
    assert not Table.open("new").lookup([0]).any()
    options = ("--initializer", "uniform", "--low", 1, "--high", 2, "--seed", 7)
    ran("create", "new", "--rows", 100, "--dim", 4, *options, "--overwrite")
    first = initializers.uniform(1, 2, seed=7)
    with Table.create("same", 100, 4, initializer=first) as same:
        ids = np.arange(100)
        assert np.array_equal(Table.open("new").lookup(ids), same.lookup(ids))
    ran("create", "other", "--rows", 9, "--dim", 4, "--initializer", "normal", "--mean", 50)
    assert (Table.open("other").lookup(np.arange(9)) > 49).all()


# --- lookup


def parsed(out, words, dtype):
    """What the pipe's form says: after the word, the values."""
    lines = out.split("\n")
    assert lines.pop() == ""
    values = []
    for line, word in zip(lines, words, strict=True):
        assert line.startswith(f"{word} ")
        values.append(line[len(word) + 1 :].split(" "))
    return np.array(values, dtype)


def test_lookup_in_a_pipe_reads_back(home):
    words = ["the", ":cat:", "[bold]x", "a b", "", "the"]
    found = parsed(ran("lookup", "t", *words), words, np.float32)
    assert np.array_equal(found, ROWS[[1, 3, 4, 6, 7, 1]])
    assert np.array_equal(parsed(ran("lookup", "t", "--", "-1"), ["-1"], "f4"), ROWS[8:])
    assert np.array_equal(parsed(ran("lookup", "t", "--ids", 4, 0), ["4", "0"], "f4"), ROWS[[4, 0]])


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8", "i8", "u8"])
def test_lookup_reads_back_every_bit(home, dtype):
    bits = np.random.default_rng(1).integers(0, 256, (50, 4 * np.dtype(dtype).itemsize), np.uint8)
    rows = bits.view(dtype)
    if rows.dtype.kind == "f":
        tiny, large = np.finfo(dtype).smallest_subnormal, np.finfo(dtype).max
        rows[~np.isfinite(rows)] = 0
        rows[0] = [tiny, large, -0.0, np.inf]
    Table.from_array(rows, 2).save("bits")
    ids = [str(i) for i in range(50)]
    found = parsed(ran("lookup", "bits", "--ids", *ids), ids, dtype)
    assert found.tobytes() == rows.tobytes()
    told = ran("lookup", "bits", "--ids", "--json", *ids).replace("null", "Infinity")
    assert np.array([one["row"] for one in json.loads(told)], dtype).tobytes() == rows.tobytes()


def test_lookup_of_other_rows(home):
    for name, rows in {
        "rank1": np.arange(3.0),
        "rank3": np.arange(12.0).reshape(3, 2, 2),
        "none": np.ones((3, 0)),
        "flags": np.array([[True], [False], [True]]),
    }.items():
        Table.from_array(rows).save(name)
        told = json.loads(ran("lookup", name, "--ids", "2", "0", "--json"))
        assert [one["row"] for one in told] == rows.reshape(3, -1)[[2, 0]].tolist()
        assert ran("lookup", name, "--ids", "2").startswith("2")


def test_lookup_as_json(home):
    told = json.loads(ran("lookup", "t", "country", ":cat:", "--json"))
    assert told == [
        {"token": "country", "id": 2, "row": ROWS[2].tolist()},
        {"token": ":cat:", "id": 3, "row": ROWS[3].tolist()},
    ]


@pytest.mark.skipif(os.name == "nt", reason="arguments are text there")
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8:strict"])
def test_tokens_and_paths_that_are_no_utf8(home, encoding):
    os.rename("t", b"t\xff")
    environment = os.environ | {"PYTHONIOENCODING": encoding}
    code, out, err = finished(start("lookup", "t\udcff", "\udcff", env=environment))
    assert (code, err) == (0, b"")
    assert out.startswith(b"\xff ")
    code, out, err = finished(start("info", "t\udcff", env=environment))
    assert (code, err) == (0, b"")
    assert out.startswith(b"t\xff\n")
    code, out, err = finished(start("lookup", "t\udcff", "\udcfe", env=environment))
    assert (code, out) == (1, b"")
    assert err.startswith(b"error: ")


def test_a_terminal_that_cannot_show_a_token(home):
    Vectors(Table.from_array(ROWS[:1]), Vocabulary(["мир"])).save("ru")
    environment = os.environ | {"PYTHONIOENCODING": "ascii:strict"}
    code, out, err = finished(start("lookup", "ru", "мир", env=environment))
    assert (code, out) == (1, b"")
    assert err.startswith(b"error: 'ascii' codec can't encode")
    assert err.count(b"\n") == 1


# --- info


def test_info(home):
    out = ran("info", "t")
    assert out.startswith("t\n")
    for words in (
        "9 x 6 float32, 216 bytes",
        "Partition.mod(num_rows=9, num_shards=3)",
        "9 tokens\n",
        "weight-00002-of-00003.safetensors",
    ):
        assert words in out
    assert re.search(r"2 +weight-00002-of-00003.safetensors +3 +72 +\d+", out)


def test_info_of_words_and_metadata(home):
    words = Vocabulary(WORDS, unknown="")
    metadata = {"from": "[red]:cat:", "n": list(range(100))}
    Vectors(Table.from_array(ROWS), words).save(":dog:", metadata=metadata)
    out = ran("info", ":dog:")
    assert out.startswith(":dog:\n")
    assert "9 tokens, unknown token ''\n" in out
    assert json.dumps(metadata) in out


def test_info_as_json(home):
    words = Vocabulary(WORDS, unknown="\udcff")
    Vectors(Table.from_array(ROWS, 2, "div"), words).save("u", metadata={"a": [1]})
    told = json.loads(ran("info", "u", "--json"))
    assert told["path"] == "u"
    assert told["shape"] == [9, 6]
    assert told["dtype"] == "float32"
    assert told["bytes"] == 216
    assert told["partition"] == {"strategy": "div", "num_rows": 9, "num_shards": 2}
    assert told["files"] == [f"weight-0000{k}-of-00002.safetensors" for k in range(2)]
    assert [(shard["rows"], shard["bytes"], shard["mapped"]) for shard in told["shards"]] == [
        (5, 120, True),
        (4, 96, True),
    ]
    plain = {"aliases": 0, "counts": False, "casefold": False, "normal_form": None}
    assert told["vocabulary"] == {"tokens": 9, "unknown": "\udcff", **plain}
    assert told["metadata"] == {"a": [1]}
    Table.from_array(ROWS).save("plain")
    assert json.loads(ran("info", "plain", "--json"))["vocabulary"] is None
    assert "vocabulary" not in ran("info", "plain")


# --- explain


def grid_of(out):
    """The lines of numbers in a printed table."""
    lines = [line.split() for line in out.split("\n")]
    return [list(map(int, line)) for line in lines if line and all(map(str.isdigit, line))]


def test_explain(home):
    arguments = "--rows 9 --shards 3 --partition mod --ids 0 3 4 1 7"
    out = ran("explain", *arguments.split())
    assert out.startswith(
        "embedding_lookup(shards, ids, partition_strategy='mod')\n"
        "mod: shard = id % 3, row = id // 3; shard k holds params[k::3]\n"
    )
    assert re.search(r"id +shard +row of the shard", out)
    assert grid_of(out) == [[0, 0, 0], [3, 0, 1], [4, 1, 1], [1, 1, 0], [7, 1, 2]]


def test_explain_div_and_all_ids(home):
    out = ran("explain", "--rows", 8, "--shards", 3, "--partition", "div")
    assert "of 8 rows the first 2 shards hold 3 and the others 2" in out
    shards, rows = [0, 0, 0, 1, 1, 1, 2, 2], [0, 1, 2, 0, 1, 2, 0, 1]
    assert grid_of(out) == [list(one) for one in zip(range(8), shards, rows, strict=True)]
    assert len(grid_of(ran("explain", "--rows", 10**12, "--shards", 7))) == 20
    assert grid_of(ran("explain", "--rows", 10**12, "--shards", 7, 10**12 - 1)) == [
        [10**12 - 1, (10**12 - 1) % 7, (10**12 - 1) // 7]
    ]
    assert grid_of(ran("explain", "--rows", 0)) == []


# --- pipes, terminals and Ctrl-C


def test_the_script(home):
    code, out, err = finished(start("convert", "tiny.txt", "new", "--shards", 3))
    assert (code, err) == (0, b"")  # and no progress bar in a pipe
    assert out.startswith(b"new: 3 rows of 2 float32 values in 3 shards")
    assert finished(start("lookup", "new", "like", "the"))[:2] == (0, b"like 1 2\nthe 3 4\n")
    code, out, err = finished(start("lookup", "new", "nobody"))
    assert (code, out) == (1, b"")
    assert err.startswith(b"error: expected tokens of the vocabulary")


@pytest.mark.parametrize(
    "arguments",
    [
        ["lookup", "t", "like"],
        ["lookup", "t", "--json", "like"],
        ["lookup", "t", "--ids", *["1"] * 3000],
        ["info", "t"],
        ["explain", "--rows", "9"],
        ["convert", "tiny.txt", "new"],
    ],
    ids=lambda arguments: " ".join(arguments[:3]),
)
def test_output_that_nobody_reads(home, arguments):
    reader, writer = os.pipe()
    os.close(reader)
    try:
        code, _, err = finished(start(*arguments, stdout=writer))
    finally:
        os.close(writer)
    assert (code, err) == (0, b"")


def test_output_of_which_one_line_is_read(home):
    process = start("lookup", "t", "--ids", *["1"] * 20_000)
    assert process.stdout.readline().startswith(b"1 ")
    process.stdout.close()
    err = process.stderr.read()
    process.stderr.close()
    assert (process.wait(60), err) == (0, b"")


def on_terminal(*arguments):
    """What a command shows on a terminal of 100 columns, without colours: (exit code, text)."""
    terminal, end = pty.openpty()
    environment = os.environ | {"TERM": "xterm", "COLUMNS": "100", "NO_COLOR": "1"}
    for name in ("FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        environment.pop(name, None)
    process = start(*arguments, stdin=end, stdout=end, stderr=end, env=environment)
    os.close(end)
    shown = b""
    with contextlib.suppress(OSError):  # Linux says so when the other side is closed
        while select.select([terminal], [], [], 60)[0] and (part := os.read(terminal, 65536)):
            shown += part
    os.close(terminal)
    text = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", shown.decode().replace("\r", ""))
    return process.wait(60), text


def test_on_a_terminal(home):
    code, text = on_terminal("convert", "tiny.txt", "new")
    assert code == 0
    for words in ("read ", "write", "100%", "new: 3 rows of 2 float32 values"):
        assert words in text
    code, text = on_terminal("lookup", "t", "the", ":cat:", "[bold]x")
    assert code == 0
    for k, word in ((1, "the"), (3, ":cat:"), (4, "[bold]x")):
        values = " +".join(re.escape(f"{value:.4g}") for value in ROWS[k, :4])
        assert re.search(rf"{re.escape(word)} +{k} +{k % 3} +{k // 3} +{values} \.\.\.", text)
    assert "values (6)" in text


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """A made-up file of 30 MB, which takes long when it is dealt to 1500 shards."""
    rows, width = 75_000, 100
    made = np.zeros(rows, [("token", "S8"), ("space", "S1"), ("values", "<f4", width)])
    made["token"] = np.char.mod("%08d", np.arange(rows))
    made["space"] = b" "
    path = tmp_path_factory.mktemp("large") / "large.bin"
    path.write_bytes(b"%d %d\n" % (rows, width) + made.tobytes())
    return path


@pytest.mark.skipif(os.name == "nt", reason="sends SIGINT")
@pytest.mark.parametrize("files", [1, 400, 1000])  # of 5000: it must not be done when it is told
@pytest.mark.parametrize("there", [False, True], ids=["new", "overwriting"])
def test_ctrl_c_leaves_what_was_there(home, large, files, there):
    out = "t" if there else "new"
    before = sorted(os.listdir("t"))
    options = ("--shards", 5000, "--overwrite")
    # A shell that started us in the background had us ignore Ctrl-C: a child would inherit that.
    inherited = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        process = start("convert", large, out, *options)
    finally:
        signal.signal(signal.SIGINT, inherited)
    pattern = "weight-*.2.safetensors" if there else "weight-*"
    end = time.monotonic() + 60
    while len(list(Path(out).glob(pattern))) < files:
        assert process.poll() is None
        assert time.monotonic() < end
        time.sleep(0.001)
    process.send_signal(signal.SIGINT)
    assert finished(process) == (130, b"", b"stopped\n")
    assert not Path("new").exists()
    assert sorted(os.listdir("t")) == before
    assert np.array_equal(Vectors.open("t")["country"], ROWS[2])


@pytest.mark.skipif(not NOVELS.exists(), reason="needs the shared data")
def test_like_the_country(home):
    ran("convert", NOVELS, "novels", "--shards", 3, "--partition", "mod")
    words = ["like", "the", "country"]
    found = parsed(ran("lookup", "novels", *words), words, np.float32)
    assert np.array_equal(found, Vectors.from_file(NOVELS).lookup(words))


def test_sizes_have_three_digits():
    wanted = {0: "0 bytes", 999: "999 bytes", 1000: "1 kB", 999_400: "999 kB", 999_600: "1 MB"}
    assert {count: sized(count) for count in wanted} == wanted
    assert sized(5.5e15) == "5.5e+03 TB"
