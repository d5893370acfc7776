"""Words from standard input, and JSON that any program can read."""

import io
import json

import numpy as np
import pytest
from typer.testing import CliRunner

from shardwise import Table, Vectors, Vocabulary
from shardwise.cli import _words, app

WORDS = ["king", "queen", "man", "woman", "\udcff", "a b", "", "-1", "$x_y"]
ROWS = np.random.default_rng(0).standard_normal((9, 6)).astype(np.float32)
ROWS[3, 0] = np.nan
ROWS[4, 1] = np.inf


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Vectors(Table.from_array(ROWS, 3), Vocabulary(WORDS)).save("t")
    Vectors(Table.from_array(ROWS), Vocabulary(WORDS, unknown="king")).save("u")
    return tmp_path


def run(*arguments, sent=b""):
    result = CliRunner().invoke(app, [str(argument) for argument in arguments], input=sent)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.stdout_bytes, result.stderr


def ran(*arguments, sent=b""):
    code, out, err = run(*arguments, sent=sent)
    assert (code, err) == (0, "")
    return out


def strict(text):
    """Read JSON as other programs do, which know no NaN."""

    def refuse(constant):
        raise AssertionError(constant)

    return json.loads(text, parse_constant=refuse)


def test_encode(home):
    assert ran("encode", "t", "queen", "king", "-1") == b"1\n0\n7\n"
    assert ran("encode", "u", "queen", "nobody") == b"1\n0\n"
    assert ran("encode", "u", "queen", "nobody", "--unknown", "-1") == b"1\n-1\n"
    assert ran("encode", "t", "nobody", "nor", "--unknown", "7") == b"7\n7\n"
    assert strict(ran("encode", "t", "a b", "", "--json")) == [
        {"token": "a b", "id": 5},
        {"token": "", "id": 6},
    ]
    code, out, err = run("encode", "t", "nobody")
    assert (code, out) == (1, b"")
    assert "'nobody'" in err
    Table.from_array(ROWS).save("plain")
    assert "with a vocabulary" in run("encode", "plain", "king")[2]


def test_encode_by_the_file_of_a_vocabulary(home):
    Vocabulary(WORDS, unknown=-5).save("words.safetensors")
    assert ran("encode", "words.safetensors", "queen", "nobody") == b"1\n-5\n"
    assert ran("encode", "t/vocabulary.safetensors", sent=b"a b\n\n") == b"5\n6\n"
    code, out, err = run("encode", "nowhere.safetensors", "king")
    assert (code, out) == (1, b"")
    assert "got nothing" in err


@pytest.mark.parametrize(
    ("sent", "ids"),
    [
        (b"queen\nking\n", [1, 0]),
        (b"queen\nking", [1, 0]),
        (b"queen\r\nking\r\n", [1, 0]),
        (b"\n\na b\n", [6, 6, 5]),
        (b"\xff\n$x_y\n", [4, 8]),
        (b"-1\n", [7]),
    ],
)
def test_lines_are_words(home, sent, ids):
    told = b"".join(b"%d\n" % i for i in ids)
    assert ran("encode", "t", sent=sent) == ran("encode", "t", "-", sent=sent) == told
    assert [one["id"] for one in strict(ran("encode", "t", "--json", sent=sent))] == ids


@pytest.mark.parametrize("command", ["encode", "similar", "lookup", "analogy"])
def test_no_words(home, command):
    code, out, err = run(command, "t")
    assert (code, out) == (2, b"")
    assert "Usage:" in err
    assert ran(command, "t", "-") == b""
    assert strict(ran(command, "t", "-", "--json")) == []


class Terminal(io.BytesIO):
    def isatty(self):
        return True


def test_a_terminal_is_not_waited_for(home, monkeypatch):
    class Input(io.TextIOWrapper):
        pass

    monkeypatch.setattr("sys.stdin", Input(Terminal(b"king\n")))
    with pytest.raises(_words.typer.BadParameter, match="expected words, got none"):
        list(_words.word_blocks(None, 10))
    assert list(_words.word_blocks(["-"], 10)) == [["king"]]
    monkeypatch.setattr("sys.stdin", None)
    with pytest.raises(_words.typer.BadParameter):
        list(_words.word_blocks([], 10))


def test_blocks(home, monkeypatch):
    assert list(_words.word_blocks(["a", "-", "b"], 2)) == [["a", "-"], ["b"]]
    words = [f"word{i}" for i in range(1000)]
    for size in (1, 3, 64, 1 << 20):
        monkeypatch.setattr(_words, "_READ", size)
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO("\n".join(words).encode())))
        blocks = list(_words.word_blocks(None, 7))
        assert max(map(len, blocks)) <= 7
        assert [word for block in blocks for word in block] == words


def test_a_line_without_end(home, monkeypatch):
    monkeypatch.setattr(_words, "_READ", 10)
    monkeypatch.setattr(_words, "_LONGEST", 100)
    assert run("encode", "u", sent=b"x" * 99)[:2] == (0, b"0\n")
    code, _, err = run("encode", "u", sent=b"king\nking\n" + b"x" * 200)
    assert code == 1
    assert "standard input, line 3: expected a word" in err


def test_similar(home):
    asked = strict(ran("similar", "t", "king", "queen", "--topn", 2, "--json"))
    assert asked == strict(ran("similar", "t", "--topn", 2, "--json", sent=b"king\nqueen\n"))
    assert ran("similar", "t", "king") == ran("similar", "t", sent=b"king\n")
    assert ran("similar", "t", "king", "--topn", 8).count(b"\xff") == 1


def test_analogy(home):
    told = ran("analogy", "t", "man", "king", "queen")
    assert told.startswith(b"man : king = queen : ?\t")
    for line in (b"man king queen\n", b"man\tking\tqueen", b" man  king queen "):
        assert ran("analogy", "t", sent=line) == told
    two = strict(ran("analogy", "t", "--json", sent=b"a b\tking\tman\nman king queen\n"))
    assert [one["token"] for one in two] == ["a b : king = man : ?", "man : king = queen : ?"]
    assert run("analogy", "t", "man", "king")[0] == 2
    code, out, err = run("analogy", "t", sent=b"man king queen\nman king\n")
    assert (code, out) == (1, b"")
    assert "line 2: expected three words" in err


def test_lookup(home):
    assert ran("lookup", "t", sent=b"king\nqueen\n") == ran("lookup", "t", "king", "queen")
    assert ran("lookup", "t", "--ids", sent=b"1\n3\n") == ran("lookup", "t", "--ids", 1, 3)
    rows = [one["row"] for one in strict(ran("lookup", "t", "woman", "\udcff", "--json"))]
    assert [rows[0][0], rows[1][1]] == [None, None]
    assert rows[0][1:] == ROWS[3, 1:].tolist()
    assert strict(ran("lookup", "t", "\udcff", "--json"))[0]["token"] == "\udcff"


def test_evaluate_json(home):
    (home / "pairs.txt").write_text("king nobody 3\n")
    told = strict(ran("evaluate", "t", "--pairs", "pairs.txt", "--json"))
    assert told[0]["pearson"] is None
