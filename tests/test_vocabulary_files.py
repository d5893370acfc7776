import contextlib
import json
import os
import stat
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from shardwise import (
    OptionError,
    ShardwiseError,
    ShardwiseWarning,
    TableExistsError,
    TableNotFoundError,
    UnknownTokenError,
    Vocabulary,
    VocabularyError,
)
from shardwise._errors import FormatError
from shardwise._hashing import Buckets
from shardwise.formats import open_vocabulary, write_vocabulary

GOLDEN = Path(__file__).parent / "golden"
FILES = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
WRITTEN = settings(FILES, max_examples=50)  # each is flushed to the disk
SEPARATORS = "\t\v\f\x1c\x1d\x1e\x85\u00a0\u1680\u2028\u2029\u3000\ufeff\0 "

texts = st.lists(
    st.text(st.characters(codec="utf-8") | st.sampled_from(SEPARATORS + "\r\n"), max_size=6),
    unique=True,
    max_size=12,
)
binaries = st.lists(
    st.binary(max_size=5).map(lambda token: token.decode("utf-8", "surrogateescape")),
    unique=True,
    max_size=12,
)


@pytest.fixture
def file(tmp_path):
    """Write bytes or JSON to a file, and return its path."""

    def write(content, name="vocabulary"):
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
        return path

    return write


def parts(vocabulary):
    counts = None if vocabulary.counts is None else vocabulary.counts.tolist()
    return list(vocabulary), vocabulary.aliases, counts, vocabulary.unknown


# ---- text ----


@pytest.mark.parametrize(
    ("raw", "tokens"),
    [
        (b"a\nb\n", ["a", "b"]),
        (b"a\nb", ["a", "b"]),
        (b"a\r\nb\r\n", ["a", "b"]),
        (b"a\n\nb\n", ["a", "", "b"]),
        (b"\n", [""]),
        (b"a\r\r\nb\r", ["a\r", "b\r"]),
        (b"\xef\xbb\xbfa\nb\n", ["a", "b"]),
        (b"a\n\xef\xbb\xbfb\n", ["a", "\ufeffb"]),
        (b"a b\t\n c\n", ["a b\t", " c"]),
        ("x\u2028y\x85\v\n\0\n".encode(), ["x\u2028y\x85\v", "\0"]),
        (b"\x80\xff\n\xc3\n", ["\udc80\udcff", "\udcc3"]),
        (b"[PAD]\n[UNK]\n", ["[PAD]", "[UNK]"]),
        (b"[\n]\n", ["[", "]"]),
    ],
)
def test_text_has_a_token_a_line(file, raw, tokens):
    vocabulary = open_vocabulary(file(raw, "vocab.txt"))
    assert parts(vocabulary) == (tokens, {}, None, None)
    assert parts(open_vocabulary(file(raw), "text")) == (tokens, {}, None, None)


def test_unknown_is_named_by_who_opens(file):
    path = file(b"[PAD]\n<unk>\nking\n")
    assert open_vocabulary(path, unknown="<unk>").encode(["king", "x"]).tolist() == [2, 1]
    assert open_vocabulary(path, unknown=-1).encode(["king", "x"]).tolist() == [2, -1]
    buckets = open_vocabulary(path, unknown=Buckets(5))
    assert buckets.encode(["king", "crimson"]).tolist() == [2, 3 + 4]
    with pytest.raises(OptionError, match="'gone'"):
        open_vocabulary(path, unknown="gone")
    folded = open_vocabulary(path, casefold=True, normal_form="NFC")
    assert folded.encode("KING") == 2
    assert (folded.casefold, folded.normal_form) == (True, "NFC")


def test_counts(file):
    raw = b"the 1061396\nof\t593677\na b 7\r\n 0\nc\t \t1"
    path = file(raw, "vocab.txt")
    expected = (["the", "of", "a b", "", "c\t "], {}, [1061396, 593677, 7, 0, 1], None)
    assert parts(open_vocabulary(path, "counts")) == expected
    assert next(iter(open_vocabulary(path, "text"))) == "the 1061396"
    with pytest.raises(FormatError, match=r'pass format="counts", or format="text"'):
        open_vocabulary(path)
    assert list(open_vocabulary(file(raw + b"\nx"))) == [
        *raw.decode().replace("\r", "").split("\n"),
        "x",
    ]


@pytest.mark.parametrize("count", ["", "x", "-1", "1.5", "²", "٣", "9223372036854775808", "1" * 30])
def test_counts_are_whole_numbers(file, count):
    path = file(f"a 1\nb {count}\n".encode())
    with pytest.raises(FormatError, match=r"line 2: expected a token.*correct the line"):
        open_vocabulary(path, "counts")


def test_as_many_counts_as_are_looked_at(file):
    lines = b"".join(b"w%d 1\n" % i for i in range(1500))
    with pytest.raises(FormatError, match="at the end of every line"):
        open_vocabulary(file(lines + b"end\n"))
    assert len(open_vocabulary(file(b"start\n" + lines))) == 1501


# ---- Keras ----


def cases(name):
    found = json.loads((GOLDEN / f"vocabularies_{name}.json").read_text(encoding="utf-8"))
    return pytest.mark.parametrize("case", found, ids=lambda case: case["name"])


@cases("keras")
@pytest.mark.parametrize("form", ["vocabulary.txt", "vocabulary.json"])
def test_keras_gives_the_same_ids(file, case, form):
    content = case["text"].encode() if form.endswith("txt") else case["tokens"]
    path = file(content, form)
    unknown = "<oov>" if case["name"] == "other name" else None
    vocabulary = open_vocabulary(path, "keras", unknown=unknown)
    assert vocabulary.encode(case["asked"]).tolist() == case["ids"]
    assert len(vocabulary) == len(case["tokens"])
    again = path.with_name(f"again-{form}")
    write_vocabulary(vocabulary, again, "keras")
    if form.endswith("txt"):
        assert again.read_bytes() == content
    else:
        assert json.loads(again.read_bytes()) == content


def test_keras_is_told_by_its_first_lines(file):
    assert open_vocabulary(file(b"\n[UNK]\nthe\n")).unknown == "[UNK]"
    assert open_vocabulary(file(b"[UNK]\r\nthe\r\n")).unknown == "[UNK]"
    several = open_vocabulary(file(b"\n[UNK]\n[UNK]\nthe"))
    assert several.unknown == Buckets(2, first=1)
    assert list(several) == ["", "[UNK] 0", "[UNK] 1", "the"]
    assert open_vocabulary(file(b"[PAD]\n[UNK]\nthe\n")).unknown is None
    assert open_vocabulary(file(b"[UNK]\nthe\n"), "text").unknown is None
    assert open_vocabulary(file(b"[UNKNOWN]\nthe\n")).unknown is None


def test_keras_buckets_have_names_that_no_token_has(file):
    vocabulary = open_vocabulary(file(b"[UNK]\n[UNK]\n[UNK] 1\n[UNK]  0\nthe"))
    assert list(vocabulary)[2:] == ["[UNK] 1", "[UNK]  0", "the"]
    assert len(set(vocabulary)) == 5


def test_keras_with_another_policy(file):
    path = file(b"[UNK]\n[UNK]\nthe\n\n\n")
    assert open_vocabulary(path, unknown=-1).encode(["the", "x"]).tolist() == [2, -1]
    assert open_vocabulary(path, unknown="[UNK]").unknown == Buckets(2, first=0)
    assert open_vocabulary(file(b"a\nb"), "keras", unknown="b").encode("x") == 1
    with pytest.raises(FormatError, match="a list"):
        open_vocabulary(file({"a": 0}, "x.json"), "keras")


@pytest.mark.parametrize(
    ("vocabulary", "message"),
    [
        (Vocabulary(["a", "b"], unknown=Buckets(2)), "in front, and pass first="),
        (Vocabulary(["a", "b"], unknown=Buckets(2, first=1)), "a token for each"),
        (Vocabulary(["a", "b"], unknown=Buckets(2, key=(1, 2), first=0)), "without a key"),
        (Vocabulary(["a", "b", "[UNK]"], unknown=Buckets(2, first=0)), "beside the buckets"),
        (Vocabulary(["[UNK]", "a"]), "without unknown="),
        (Vocabulary(["", "[UNK]", "a"]), "place 1"),
        (Vocabulary(["a", "b", "c"], unknown="c"), "got id 2"),
        (Vocabulary(["a"], unknown=1), "got id 1"),
        (Vocabulary(["a"], unknown=-1), "got id -1"),
        (Vocabulary(["[UNK]", "<unk>"], unknown="<unk>"), "got one at place 0"),
        (Vocabulary(["<unk>", "[UNK]"], unknown="<unk>"), "got one at place 1"),
        (Vocabulary(["a", ""]), "not empty"),
        (Vocabulary(["a\u2028b", "c"]), "several"),
        (Vocabulary(["a", b"\xff"]), r"got '\\udcff' \(token 1\)"),
        (Vocabulary([]), "at least one token"),
    ],
)
def test_what_keras_cannot_hold(tmp_path, vocabulary, message):
    with pytest.raises((OptionError, VocabularyError), match=message):
        write_vocabulary(vocabulary, tmp_path / "vocabulary.txt", "keras")
    assert not os.listdir(tmp_path)


# ---- JSON ----


def test_json_is_a_list_or_an_object_of_ids(file):
    assert list(open_vocabulary(file(["b", "a\n", "\0"], "x.json"))) == ["b", "a\n", "\0"]
    assert list(open_vocabulary(file(["[UNK]", "a"]))) == ["[UNK]", "a"]
    path = file({"b": 1, "a": 0, "c": 1, "d": 0})
    assert parts(open_vocabulary(path)) == (["a", "b"], {"c": 1, "d": 0}, None, None)
    assert open_vocabulary(path, unknown="c").encode("x") == 1
    assert [*open_vocabulary(file([], "a.json")), *open_vocabulary(file({}), "json")] == []
    assert list(open_vocabulary(file(b'\xef\xbb\xbf["a"]'))) == ["a"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"a": 0, "b": 2}, r"the ids 0 to 1, .* none with id 1 \(the largest is 2\)"),
        ({"a": 10**12}, "none with id 0"),
        ({"a": 1 << 63}, r"\[0, 2\*\*63\)"),
        ({"a": 10**400}, "a number beyond 64 bits"),
        ({"a": -1}, "got -1"),
        ({"a": True}, "got True"),
        ({"a": 0.0}, "got 0.0"),
        ({"a": None}, "got null"),
        ({"a": "0"}, "got '0'"),
        ({"a": [0]}, "got a list"),
        (["a", 1], "place 1: expected a token as a string, got 1"),
        (["a", ["b", -1.0]], "place 1: .* got a list"),
        (["a", "a"], "expected distinct tokens, got 'a' at positions 0 and 1"),
        (b'{"a": 0, "a": 1}', "an object with the name 'a' twice"),
        (b'["\\ud800"]', "half of a surrogate pair"),
        (b'["\\udc80"]', "half of a surrogate pair"),
        (b'{"\\udc80": 0}', "half of a surrogate pair"),
        (b'{"a": NaN}', "NaN"),
        (b"[Infinity]", "Infinity"),
        (b'["\xff"]', "expected JSON, .*0xff"),
        (b"[" * 100000, "expected JSON"),
        (b"[" + b"9" * 10000 + b"]", "expected JSON|beyond 64 bits"),
        (b"[1e999]", "got inf"),
        (b'["a"', "expected JSON"),
        (b"3", "expected a list of tokens, .* got 3"),
        (b"null", "got null"),
    ],
)
def test_broken_json(file, content, message):
    with pytest.raises(FormatError, match=message) as caught:
        open_vocabulary(file(content, "vocab.json"))
    assert len(str(caught.value)) < 1000
    with pytest.raises(FormatError):
        open_vocabulary(file(content), "json")


def test_a_token_of_a_megabyte(file, tmp_path):
    tokens = ["x" * (1 << 20), "é" * (1 << 20)]
    for name, content in (("a.json", tokens), ("a", "\n".join(tokens).encode())):
        assert list(open_vocabulary(file(content, name))) == tokens
    with pytest.raises(FormatError) as caught:
        open_vocabulary(file({tokens[0]: "y" * (1 << 20)}))
    assert len(str(caught.value)) < 1000


# ---- tokenizer.json ----


@cases("tokenizers")
def test_tokenizers_gives_the_same_ids(file, tmp_path, case):
    vocabulary = open_vocabulary(file(case["file"], "x.json"))
    assert vocabulary.encode(case["asked"]).tolist() == case["ids"]
    write_vocabulary(vocabulary, tmp_path / "tokenizer.json")
    again = open_vocabulary(tmp_path / "tokenizer.json", "tokenizer.json")
    assert parts(again) == parts(vocabulary)
    assert again.normal_form == vocabulary.normal_form
    if case["name"] == "WordLevel":
        assert json.loads((tmp_path / "tokenizer.json").read_bytes()) == case["file"]


def tokenizer(model=None, **rest):
    model = {
        "type": "WordLevel",
        "vocab": {"[UNK]": 0, "a": 1},
        "unk_token": "[UNK]",
        **(model or {}),
    }
    return {"version": "1.0", "added_tokens": [], "normalizer": None, "model": model, **rest}


def unigram(vocab, unk_id=0):
    return {"model": {"type": "Unigram", "vocab": vocab, "unk_id": unk_id}}


def added(*entries):
    return tokenizer(added_tokens=[{"content": token, "id": number} for token, number in entries])


def test_a_tokenizer_says_what_is_unknown(file):
    assert open_vocabulary(file(tokenizer())).unknown == "[UNK]"
    assert open_vocabulary(file(tokenizer()), unknown=-1).unknown == -1
    assert open_vocabulary(file(tokenizer({"unk_token": None}))).unknown is None
    assert open_vocabulary(file(tokenizer({"unk_token": "gone"}))).unknown is None
    assert open_vocabulary(file(unigram([["a", 0], ["b", -1.5]], 1))).unknown == "b"
    assert open_vocabulary(file(unigram([["a", 0]], None))).unknown is None
    shared = tokenizer({"vocab": {"a": 0, "<unk>": 0}, "unk_token": "<unk>"})
    assert open_vocabulary(file(shared)).unknown == "a"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"vocab": {"a": 0}}, 'expected an object with a "model"'),
        ([], 'expected an object with a "model"'),
        (tokenizer({"type": "Magic"}), "model.type: expected one of WordLevel"),
        (tokenizer({"type": ["BPE"]}), "model.type: .* got a list"),
        (tokenizer({"vocab": None}), "model.vocab: .* got null"),
        (tokenizer({"vocab": {"a": -1}}), "got -1"),
        (tokenizer({"vocab": {"a": "x"}}), "got 'x'"),
        (tokenizer({"vocab": {"a": []}}), "got a list"),
        (tokenizer({"vocab": {"a": 5}}), "none with id 0"),
        (tokenizer({"unk_token": 3}), "model.unk_token: .* got 3"),
        (tokenizer({"unk_token": []}), "model.unk_token: .* got a list"),
        (unigram([["a"]]), "model.vocab, place 0: .* got a list"),
        (unigram([["a", 0], [0, 0]]), "model.vocab, place 1"),
        (unigram(["ab"]), "model.vocab, place 0: .* got 'ab'"),
        (unigram([["a", 0], ["b", 0], ["a", 0]]), "'a' at places 0 and 2"),
        (unigram([["a", 0]], 1), "model.unk_id: expected an id below 1"),
        (unigram([["a", 0]], True), "model.unk_id"),
        (unigram([["a", 0]], -1), "model.unk_id"),
        (tokenizer(added_tokens={"a": 0}), "added_tokens: expected a list"),
        (tokenizer(added_tokens=["a"]), "added_tokens, place 0: .* got 'a'"),
        (tokenizer(added_tokens=[{"id": 2}]), "added_tokens, place 0"),
        (added(("b", None)), "'b': expected its id.* got null"),
        (added(("b", 3)), "none with id 2"),
        (added(("b", 1)), "an id of its own for 'b', got 1, the id of 'a'"),
        (added(("a", 2)), "one id for 'a', got two, 1 and 2"),
        (added(("b", 2), ("b", 3)), "one id for 'b', got two, 2 and 3"),
        (added(("b", 2), ("c", 2)), "an id of its own for 'c', got 2, the id of 'b'"),
        (tokenizer(normalizer="NFC"), "normalizer: .* got 'NFC'"),
        (tokenizer(normalizer={"type": "Sequence", "normalizers": ["NFC"]}), "normalizer"),
        (tokenizer(normalizer={"type": 3}), "normalizer"),
    ],
)
def test_broken_tokenizers(file, content, message):
    with pytest.raises(FormatError, match=message):
        open_vocabulary(file(content), "tokenizer.json")


def test_formats_are_not_mixed_up(file):
    with pytest.raises(FormatError, match=r'pass format="tokenizer\.json"'):
        open_vocabulary(file(tokenizer()), "json")
    assert list(open_vocabulary(file({"model": 0, "vocab": 1}))) == ["model", "vocab"]


def test_a_normalizer_is_a_normal_form_or_a_warning(file):
    composed = tokenizer({"vocab": {"[UNK]": 0, "é": 1}}, normalizer={"type": "NFC"})
    assert open_vocabulary(file(composed)).encode("e\u0301") == 1
    folded = open_vocabulary(file(composed), casefold=True)
    assert (folded.casefold, folded.normal_form, folded.encode("E\u0301")) == (True, "NFC", 1)
    assert open_vocabulary(file(composed), normal_form="NFD").normal_form == "NFD"
    steps = {"type": "Sequence", "normalizers": [{"type": "NFD"}, {"type": "Lowercase"}]}
    with pytest.warns(ShardwiseWarning, match="normalizer, NFD, Lowercase, is left out") as found:
        vocabulary = open_vocabulary(file(tokenizer(normalizer=steps)))
    assert found[0].filename == __file__
    assert (vocabulary.casefold, vocabulary.normal_form) == (False, None)
    assert open_vocabulary(file(tokenizer(normalizer=steps)), casefold=True).encode("A") == 1
    nothing = {"type": "Sequence", "normalizers": []}
    assert open_vocabulary(file(tokenizer(normalizer=nothing))).normal_form is None
    composed["normalizer"]["type"] = "NFD"  # in which no text can be equal to the token
    with pytest.warns(ShardwiseWarning, match=r"NFD \(which its tokens are not in\)"):
        assert open_vocabulary(file(composed)).encode("é") == 1


@pytest.mark.parametrize(
    ("vocabulary", "message"),
    [
        (Vocabulary(["a"], casefold=True), "without casefold"),
        (Vocabulary(["a"], unknown=-1), "got -1"),
        (Vocabulary(["a"], unknown=Buckets(3)), "without buckets"),
        (Vocabulary([b"\xff"]), "UTF-8 text"),
        (Vocabulary(["a"], aliases={b"\xff": "a"}), "UTF-8 text"),
    ],
)
def test_what_a_tokenizer_cannot_hold(tmp_path, vocabulary, message):
    with pytest.raises((OptionError, VocabularyError), match=message):
        write_vocabulary(vocabulary, tmp_path / "tokenizer.json")
    assert not os.listdir(tmp_path)


def test_a_tokenizer_without_unknown_names_a_token_that_it_lacks(tmp_path):
    path = tmp_path / "tokenizer.json"
    write_vocabulary(Vocabulary(["<unk>", "<<unk>>"]), path)
    assert json.loads(path.read_bytes())["model"]["unk_token"] == "<<<unk>>>"
    with pytest.raises(UnknownTokenError):
        open_vocabulary(path).encode("x")
    write_vocabulary(Vocabulary(["a", "b"], unknown=1), path, overwrite=True)
    assert open_vocabulary(path).encode("x") == 1


# ---- writing ----


@pytest.mark.parametrize("form", ["text", "counts", "keras", "keras.json", "json", "json-ids"])
@WRITTEN
@example(tokens=["\udcfe\udcff"])
@example(tokens=["\udcff\udcfe", "a"])
@example(tokens=["\ufeff"])
@example(tokens=["\x1f\udc8b", "PK\x03\x04", "[UNK]"])
@example(tokens=["[UNK]"])
@given(tokens=texts | binaries)
def test_round_trip_or_a_refusal(tmp_path, form, tokens):
    path = tmp_path / ("vocabulary.json" if form.endswith("json") else "vocabulary")
    form = form.removesuffix(".json")
    counts = list(range(len(tokens))) if form == "counts" else None
    vocabulary = Vocabulary(tokens, counts=counts)
    try:
        write_vocabulary(vocabulary, path, form, overwrite=True)
    except VocabularyError:
        is_text = all(token.isprintable() for token in tokens)
        assert not is_text or not tokens or (form == "keras" and not tokens[-1])
        return
    except OptionError:  # its place says what Keras takes it for
        assert form == "keras"
        assert "[UNK]" in tokens[:2]
        return
    assert parts(open_vocabulary(path, form)) == parts(vocabulary)


@WRITTEN
@given(tokens=texts, data=st.data())
def test_round_trip_of_a_tokenizer(tmp_path, tokens, data):
    path = tmp_path / "tokenizer.json"
    unknown = data.draw(st.sampled_from([None, *tokens]))
    cut = data.draw(st.integers(min(1, len(tokens)), len(tokens)))
    aliases = {token: data.draw(st.integers(0, cut - 1)) for token in tokens[cut:]}
    unknown = unknown if unknown in tokens[:cut] else None
    vocabulary = Vocabulary(tokens[:cut], unknown=unknown, aliases=aliases)
    write_vocabulary(vocabulary, path, overwrite=True)
    assert open_vocabulary(path) == vocabulary
    assert parts(open_vocabulary(path)) == parts(vocabulary)
    write_vocabulary(vocabulary, path, "json-ids", overwrite=True)
    assert parts(open_vocabulary(path, "json-ids", unknown=unknown)) == parts(vocabulary)


@WRITTEN
@given(
    tokens=st.lists(st.text("abc[]UNK", max_size=4), unique=True, min_size=1, max_size=8),
    count=st.integers(0, 3),
    first=st.integers(0, 1),
    form=st.sampled_from(["vocabulary", "vocabulary.json"]),
)
def test_round_trip_of_keras_buckets(tmp_path, tokens, count, first, form):
    marks = [f"?{i}" for i in range(count)]
    every = [*tokens[:first], *marks, *tokens[first:]]
    vocabulary = Vocabulary(every, unknown=Buckets(count, first=first) if count else None)
    try:
        write_vocabulary(vocabulary, tmp_path / form, "keras", overwrite=True)
    except (VocabularyError, OptionError):
        assert "[UNK]" in tokens or not every[-1]
        return
    again = open_vocabulary(tmp_path / form, "keras")
    asked = [*tokens, "king", "crimson", "[UNK] 9"] if count else tokens
    assert again.encode(asked).tolist() == vocabulary.encode(asked).tolist()


@pytest.mark.parametrize(
    ("form", "vocabulary", "message"),
    [
        ("text", Vocabulary(["a", "b\nc"]), r"got 'b\\nc' \(token 1\)"),
        ("text", Vocabulary(["a\r", "b"]), "carriage return"),
        ("text", Vocabulary(["\ufeffa"]), "byte order mark"),
        ("text", Vocabulary([b"\xff\xfea"]), "UTF-16"),
        ("text", Vocabulary([]), "at least one token"),
        ("text", Vocabulary(["a"], aliases={"b": "a"}), "without aliases, got 1, such as 'b'"),
        ("text", Vocabulary(["a"], unknown=Buckets(2)), "vocabulary.save"),
        ("json", Vocabulary(["a"], aliases={"b": "a"}), 'format="json-ids"'),
        ("json", Vocabulary([b"a", b"\xff"]), r"got '\\udcff'"),
        ("json-ids", Vocabulary(["a"], unknown=Buckets(2)), "without buckets"),
        ("counts", Vocabulary(["a"]), "with counts="),
        ("counts", Vocabulary(["a\n"], counts=[1]), "one line"),
        ("pickle", Vocabulary(["a"]), "expected the format of a vocabulary"),
        (None, Vocabulary(["a"]), r"ends in .txt or .json, got 'x'"),
    ],
)
def test_what_a_format_cannot_hold(tmp_path, form, vocabulary, message):
    with pytest.raises((OptionError, VocabularyError, FormatError), match=message):
        write_vocabulary(vocabulary, tmp_path / "x", form)
    assert not os.listdir(tmp_path)


def test_rules_that_have_no_place_are_a_warning(tmp_path):
    vocabulary = Vocabulary(["King", "é"], casefold=True, normal_form="NFC", unknown=0)
    with pytest.warns(ShardwiseWarning, match="normal_form='NFC' and casefold=True") as found:
        write_vocabulary(vocabulary, tmp_path / "x.txt")
    assert found[0].filename == __file__
    again = open_vocabulary(tmp_path / "x.txt", unknown=0, casefold=True, normal_form="NFC")
    assert again == vocabulary


def test_names_say_formats(tmp_path):
    vocabulary = Vocabulary(["a", "b"], unknown="a", counts=[2, 1])
    for name in ("a.txt", "B.JSON", "Tokenizer.json"):
        write_vocabulary(vocabulary, tmp_path / name)
    assert (tmp_path / "a.txt").read_bytes() == b"a\nb\n"
    assert (tmp_path / "B.JSON").read_bytes() == b'["a",\n"b"]\n'
    assert open_vocabulary(tmp_path / "Tokenizer.json").unknown == "a"
    write_vocabulary(vocabulary, tmp_path / "a.txt", "counts", overwrite=True)
    assert (tmp_path / "a.txt").read_bytes() == b"a 2\nb 1\n"
    write_vocabulary(vocabulary, tmp_path / "ids", "json-ids")
    assert (tmp_path / "ids").read_bytes() == b'{"a": 0,\n"b": 1}\n'


def test_a_file_is_replaced_only_if_that_was_said(tmp_path):
    path = tmp_path / "vocab.txt"
    path.write_text("old\n")
    link = tmp_path / "link.txt"
    link.symlink_to(path)
    with pytest.raises(TableExistsError):
        write_vocabulary(Vocabulary(["new"]), path)
    with pytest.raises(VocabularyError):
        write_vocabulary(Vocabulary(["new\n"]), path, overwrite=True)
    assert path.read_text() == "old\n"
    write_vocabulary(Vocabulary(["new"]), link, overwrite=True)
    assert path.read_text() == "new\n"
    assert link.is_symlink()
    assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0o666 & ~umask() & 0o077
    with pytest.raises(TableNotFoundError):
        write_vocabulary(Vocabulary(["new"]), tmp_path / "none" / "x.txt")
    with pytest.raises(TableExistsError):
        write_vocabulary(Vocabulary(["new"]), tmp_path, "text", overwrite=True)
    assert sorted(os.listdir(tmp_path)) == ["link.txt", "vocab.txt"]


def umask():
    mask = os.umask(0)
    os.umask(mask)
    return mask


# ---- files of other kinds, and broken ones ----


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"", "an empty file"),
        (b"\xef\xbb\xbf", "a byte order mark alone"),
        ("a\n".encode("utf-16"), "UTF-16"),
        (b"PK\x03\x04...", r"vocab.get_itos\(\)"),
        (b"\x80\x04...", r"vocab.get_itos\(\)"),
        (b"\x1f\x8b\x08", "unpack it first"),
        (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        ((64).to_bytes(8, "little") + b'{"data"', "Vocabulary.open"),
    ],
)
def test_files_of_other_kinds(file, raw, message):
    for form in (None, "text"):
        with pytest.raises(FormatError, match=message):
            open_vocabulary(file(raw), form)


def test_what_is_no_file(tmp_path):
    with pytest.raises(FormatError, match=r"Vocabulary\.open"):
        open_vocabulary(tmp_path)
    with pytest.raises(FileNotFoundError):
        open_vocabulary(tmp_path / "none.txt")
    with pytest.raises(OptionError, match="expected the format of a vocabulary, one of 'text'"):
        open_vocabulary(tmp_path / "none.txt", "txt")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(FormatError, match="no regular file"):
        open_vocabulary(tmp_path / "pipe")


SMALL = [
    ("text", b"a\r\n\xc3\xa9 b\n\n"),
    ("counts", b"a 12\nb\t3\n"),
    ("keras", b"\n[UNK]\n[UNK]\nthe"),
    ("keras.json", b'["", "[UNK]", "[UNK]", "the"]'),
    ("json", b'["a", "\\u00e9\\n", "b"]'),
    ("json", b'{"a": 1, "\\ud83e\\udd80": 0, "b": 1}'),
    (
        "tokenizer.json",
        b'{"added_tokens":[{"id":2,"content":"c"}],"normalizer":{"type":"NFC"},'
        b'"model":{"type":"WordLevel","vocab":{"a":0,"b":1},"unk_token":"a"}}',
    ),
    ("tokenizer.json", b'{"model":{"type":"Unigram","unk_id":0,"vocab":[["a",0.5],["b",-1]]}}'),
]


@pytest.mark.filterwarnings("ignore:.*normalizer:shardwise.ShardwiseWarning")
@pytest.mark.parametrize(("form", "raw"), SMALL)
def test_broken_anywhere(file, form, raw):
    name = "vocabulary.json" if form.endswith(".json") else "vocabulary"
    form = "keras" if form == "keras.json" else form
    broken = [raw[:end] for end in range(len(raw) + 1)]
    for place in range(len(raw)):
        for byte in b'\n "\\[}0-\xff':
            broken.append(raw[:place] + bytes([byte]) + raw[place + 1 :])
        broken.append(raw[:place] + raw[place + 1 :])
        broken.append(raw[:place] + raw[place : place + 1] + raw[place:])
    opened = 0
    for content in dict.fromkeys(broken):
        path = file(content, name)
        for asked in (form, None):
            try:
                vocabulary = open_vocabulary(path, asked)
            except ShardwiseError:
                continue
            opened += 1
            tokens = list(vocabulary)
            assert vocabulary.encode(tokens).tolist() == list(range(len(tokens)))
    assert opened


NAMES = ["model", "vocab", "type", "unk_token", "unk_id", "added_tokens", "content", "id"]
NAMES += ["normalizer", "normalizers", "a"]


@pytest.mark.filterwarnings("ignore:.*normalizer:shardwise.ShardwiseWarning")
@FILES
@given(
    content=st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
        lambda inner: (
            st.lists(inner, max_size=4)
            | st.dictionaries(
                st.sampled_from(NAMES),
                inner,
                max_size=5,
            )
        ),
        max_leaves=12,
    )
)
@pytest.mark.parametrize("form", ["json", "tokenizer.json", None])
def test_any_json(file, form, content):
    for whole in (content, tokenizer({"vocab": content}), tokenizer(normalizer=content)):
        with contextlib.suppress(ShardwiseError):
            open_vocabulary(file(whole, "x.json"), form)
