"""Words: encoding, looking up, nearest neighbours, evaluation, counting; beside gensim and dict."""

import logging
import lzma
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import shardwise

from ..harness import Case, Contender, Target, equals
from ..lineup import NOT_INSTALLED, Setting
from ..peers import imported

ROOT = Path(__file__).parents[2]
DATA = ROOT.parent / "shared" / "data"  # the whole novels; without them, the example's 3,000 words
DICT = "[d.get(t, 0) for t in words]"
LIST = "encode, a list of str"
ARROW = "encode, an Arrow array"
LOOKUP = "vectors.lookup(words)"
KEYED = "gensim kv[words]"
BATCH = "most_similar, a batch"
LOOP = "gensim most_similar, a loop"
ANALOGIES = "evaluate_analogies"
GENSIM_ANALOGIES = "gensim evaluate_word_analogies"
BUILD = "Vocabulary.build_from_text"
COUNTER = "Counter(text.split())"


def cases(setting: Setting) -> Iterator[Case]:
    path = DATA / "vectors" / "novels-100d.bin"
    if not path.exists():
        path = ROOT / "examples" / "novels-3000.bin"
    tokens = list(shardwise.Vectors.from_file(path).vocabulary)
    vectors = shardwise.Vectors.from_file(path, unknown=tokens[0])
    text = read_text(tokens, 1_500_000 if setting.quick else 12_000_000)
    words = text.lower().split()
    kv = keyed_vectors(path)
    yield encode(vectors.vocabulary, tokens, words[: 100_000 if setting.quick else 1_000_000])
    yield encode_many(200_000 if setting.quick else 1_000_000)
    known = [word for word in words if word in vectors][: 10_000 if setting.quick else 100_000]
    yield lookup(vectors, kv, known)
    yield neighbours(vectors, kv, tokens[100 : 100 + 5 * (100 if setting.quick else 1000) : 5])
    questions = DATA / "evaluation" / "questions-words.txt"
    if questions.exists() and not setting.quick:
        yield analogies(vectors, kv, questions)
    yield build(text)


def read_text(tokens: Sequence[str], count: int) -> str:
    """Return text of that many characters: of the novels, or words drawn as often as they occur."""
    path = DATA / "novels.txt.xz"
    if path.exists():
        with lzma.open(path, "rt", encoding="utf-8") as file:
            return file.read(count)
    rng = np.random.default_rng(7)
    ranks = np.minimum(rng.zipf(1.2, count // 6), len(tokens)) - 1
    return " ".join(tokens[rank] for rank in ranks)


def keyed_vectors(path: Path) -> Any | None:
    if imported("gensim") is None:
        return None
    logging.getLogger("gensim").setLevel(logging.ERROR)
    models = __import__("gensim.models").models
    kv = models.KeyedVectors.load_word2vec_format(str(path), binary=True)
    kv.fill_norms()
    return kv


def encode(vocabulary: shardwise.Vocabulary, tokens: list[str], words: list[str]) -> Case:
    d = {token: k for k, token in enumerate(tokens)}
    return encoding(f"{len(words):,} words of a text, {len(tokens):,} known", vocabulary, d, words)


def encode_many(count: int) -> Case:
    """Encode words that come once each, in no order: every one is a trip to memory."""
    tokens = [f"{k * 2654435761 % 2**32:x}-{k}" for k in range(count)]
    d = {token: k for k, token in enumerate(tokens)}
    order = np.random.default_rng(8).permutation(count)
    words = [tokens[k].encode().decode() for k in order]  # other objects than the dict's keys
    vocabulary = shardwise.Vocabulary(tokens, unknown=tokens[0])
    return encoding(f"{count:,} distinct words in no order", vocabulary, d, words, targets=False)


def encoding(
    title: str,
    vocabulary: shardwise.Vocabulary,
    d: dict[str, int],
    words: list[str],
    targets: bool = True,
) -> Case:
    expected = np.array([d.get(word, 0) for word in words])
    check = equals(expected)

    def names(given: object) -> dict[str, object]:
        return {"encode": vocabulary.encode, "words": given, "d": d}

    contenders = [
        Contender(DICT, DICT, names(words), lambda found: check(np.array(found))),
        Contender(LIST, "encode(words)", names(words), check, ours=True),
    ]
    absent = {}
    pyarrow = imported("pyarrow")
    if pyarrow is None:
        absent[ARROW] = NOT_INSTALLED
    else:
        array = pyarrow.array(words)
        contenders.append(Contender(ARROW, "encode(words)", names(array), check, ours=True))
        compute = __import__("pyarrow.compute").compute
        keys = pyarrow.array(list(d))
        statement = "compute.index_in(words, keys).fill_null(0)"
        given: dict[str, object] = {"compute": compute, "words": array, "keys": keys}
        contenders.append(
            Contender(
                "pyarrow index_in", statement, given, lambda a: check(a.to_numpy() + 0 * expected)
            )
        )
    wanted = [Target(DICT, LIST, at_least=2), Target(DICT, ARROW, at_least=8)] if targets else []
    return Case(f"encode {title}", contenders, LIST, wanted, absent)


def lookup(vectors: shardwise.Vectors, kv: Any | None, words: list[str]) -> Case:
    expected = vectors.table.lookup(vectors.vocabulary.encode(words))
    names: dict[str, object] = {"lookup": vectors.lookup, "words": words, "kv": kv}
    contenders = [Contender(LOOKUP, "lookup(words)", names, equals(expected), ours=True)]
    absent = {}
    if kv is None:
        absent[KEYED] = NOT_INSTALLED
    else:
        contenders.append(Contender(KEYED, "kv[words]", names, equals(expected)))
    targets = [Target(KEYED, LOOKUP, at_least=8)]
    title = f"vectors of {len(words):,} words, {vectors.table.shape[1]} values each"
    return Case(title, contenders, LOOKUP, targets, absent)


def neighbours(vectors: shardwise.Vectors, kv: Any | None, words: list[str]) -> Case:
    expected = vectors.most_similar([[word] for word in words])
    names: dict[str, object] = {
        "most_similar": vectors.most_similar,
        "queries": [[word] for word in words],
        "words": words,
        "kv": kv,
    }
    statement = "most_similar(queries)"
    check = same_neighbours(expected)
    contenders = [Contender(BATCH, statement, names, check, ours=True)]
    absent = {}
    if kv is None:
        absent[LOOP] = NOT_INSTALLED
    else:
        statement = "[kv.most_similar(word) for word in words]"
        contenders.append(Contender(LOOP, statement, names, check))
    title = f"ten nearest of {len(words):,} words among {len(vectors):,}"
    return Case(title, contenders, BATCH, [Target(LOOP, BATCH, at_least=5)], absent)


def same_neighbours(expected: list[list[shardwise.Neighbour]]) -> Callable[[Any], bool]:
    """Check that each has the same tokens in the same order but for near ties, scores to 1e-5."""

    def check(result: Any) -> bool:
        for found, wanted in zip(result, expected, strict=True):
            scores = np.array([score for _, score in found])
            if np.abs(scores - [score for _, score in wanted]).max() > 1e-5:
                return False
            for k, (token, _) in enumerate(found):
                tied = np.abs(scores - scores[k]) < 1e-5
                if tied.sum() == 1 and token != wanted[k].token:
                    return False
        return True

    return check


def analogies(vectors: shardwise.Vectors, kv: Any | None, path: Path) -> Case:
    expected = vectors.evaluate_analogies(path)
    names: dict[str, object] = {"vectors": vectors, "path": path, "kv": kv}

    def check_ours(result: Any) -> bool:
        return bool(result == expected)

    def check(result: Any) -> bool:
        return bool(abs(result[0] - expected.total.accuracy) < 1e-9)

    statement = "vectors.evaluate_analogies(path)"
    contenders = [Contender(ANALOGIES, statement, names, check_ours, ours=True)]
    absent = {}
    if kv is None:
        absent[GENSIM_ANALOGIES] = NOT_INSTALLED
    else:
        names["file"] = str(path)
        statement = "kv.evaluate_word_analogies(file, restrict_vocab=30000)"
        contenders.append(Contender(GENSIM_ANALOGIES, statement, names, check))
    targets = [Target(GENSIM_ANALOGIES, ANALOGIES, at_least=5)]
    return Case("all analogies of questions-words", contenders, ANALOGIES, targets, absent)


def build(text: str) -> Case:
    folder = tempfile.TemporaryDirectory(prefix="shardwise-benchmark-")
    path = Path(folder.name) / "text.txt"
    path.write_text(text, encoding="utf-8")
    # Tokens end at ASCII white space for ours, at any of Unicode's for str.split.
    expected: Counter[bytes] = Counter(path.read_bytes().split())

    def check_ours(vocabulary: Any) -> bool:
        counts: NDArray[np.int64] = vocabulary.counts
        wanted = sorted(expected.values(), reverse=True)
        return len(vocabulary) == len(expected) and counts.tolist() == wanted

    def check(counter: Any) -> bool:
        return bool(counter == expected)

    names: dict[str, object] = {
        "build": shardwise.Vocabulary.build_from_text,
        "Counter": Counter,
        "path": path,
        "folder": folder,
    }
    contenders = [
        Contender(BUILD, "build(path)", names, check_ours, ours=True),
        Contender(COUNTER, "Counter(path.read_bytes().split())", names, check),
    ]
    size = path.stat().st_size / 1e6
    return Case(f"count the tokens of a text of {size:,.0f} MB", contenders, BUILD)
