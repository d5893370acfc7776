"""Training word vectors: skip-gram, CBOW and n-grams, on the novels, beside gensim's corpus_file.

The notes have how many words are read: by the CPU time, that is words a second of it.
"""

import logging
import lzma
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import shardwise
from shardwise import _native, skipgram
from shardwise.skipgram._corpus import Corpus, read_corpus
from shardwise.skipgram._loop import trainer
from shardwise.skipgram._rows import Rows

from ..ceiling import multiply_adds
from ..harness import Case, Contender, Target
from ..lineup import NOT_INSTALLED, Setting
from ..peers import imported

ROOT = Path(__file__).parents[2]
DATA = ROOT.parent / "shared" / "data"
EXCERPT = ROOT / "examples" / "novels-excerpt.txt.xz"
OURS = "shardwise.skipgram"
GENSIM = "gensim, corpus_file"
QUICK_LINES = 100_000
# Of the ten nearest of frequent words, the share that is among those of other vectors of the
# novels. Of words drawn by chance it would be a hundredth.
AGREEMENT, QUICK_AGREEMENT = 0.15, 0.05
ENOUGH, QUICK_ENOUGH = 10_000_000, 4_000_000  # words, over all epochs

COMMON: dict[str, Any] = {"window": 5, "negative": 5, "sample": 1e-4, "min_count": 5, "seed": 1}
NGRAMS: dict[str, Any] = {"min_n": 3, "max_n": 6}


def cases(setting: Setting) -> Iterator[Case]:
    with tempfile.TemporaryDirectory() as folder:
        text = Path(folder, "novels.txt")
        words = write_text(text, setting.quick)
        logging.getLogger("gensim").setLevel(logging.ERROR)
        gensim = None if imported("gensim") is None else __import__("gensim.models").models
        yield whole(setting, text, words, gensim)
        yield training(setting, text, words, gensim, "skip-gram", {}, target_of(2.5, 4))
        yield training(setting, text, words, gensim, "CBOW", {"model": "cbow"}, target_of(2))
        yield training(setting, text, words, gensim, "skip-gram of n-grams", NGRAMS, target_of(2.5))


def write_text(path: Path, quick: bool) -> int:
    """Write the novels, or the first of them, as plain text; return how many words they have."""
    source = DATA / "novels.txt.xz"
    count = 0
    with lzma.open(source if source.exists() else EXCERPT, "rb") as lines, path.open("wb") as out:
        for number, line in enumerate(lines):
            if quick and number >= QUICK_LINES:
                break
            out.write(line)
            count += len(line.split())
    return count


def epochs(words: int, quick: bool) -> int:
    """Return how many epochs a text needs to be learned from."""
    return max(1, round((QUICK_ENOUGH if quick else ENOUGH) / words))


def target_of(at_least: float, aim: float | None = None) -> Target:
    return Target(GENSIM, OURS, at_least=at_least, aim=aim)


def whole(setting: Setting, text: Path, words: int, gensim: Any | None) -> Case:
    """From a text file to vectors: what a user waits for."""
    how = COMMON | {"epochs": epochs(words, setting.quick)}
    names: dict[str, object] = {"train": skipgram.train, "text": text, "how": how}
    names["threads"] = setting.threads
    contenders = [
        Contender(
            OURS,
            "train(text, dim=100, threads=threads, **how)",
            names,
            check(setting.quick),
            ours=True,
        )
    ]
    absent = {}
    if gensim is None:
        absent[GENSIM] = NOT_INSTALLED
    else:
        names = names | {"Word2Vec": gensim.Word2Vec, "text": str(text)}
        statement = "Word2Vec(corpus_file=text, vector_size=100, sg=1, workers=threads, **how)"
        contenders.append(
            Contender(GENSIM, statement, names, check(setting.quick, lambda model: model.wv))
        )
    title = f"from {words:,} words of text to vectors, epochs: {how['epochs']}"
    return Case(title, contenders, OURS, [target_of(2.5)], absent)


def training(
    setting: Setting,
    text: Path,
    words: int,
    gensim: Any | None,
    title: str,
    how: dict[str, Any],
    target: Target,
) -> Case:
    """Train on words that are counted already."""
    options = skipgram.Options(dim=100, epochs=epochs(words, setting.quick), **COMMON, **how)
    corpus, rows, native = prepared(text, options)
    names: dict[str, object] = {"native": native, "threads": setting.threads}
    names["blocks"] = native.blocks * options.epochs

    def ours(_: Any) -> Any:
        return vectors_of(corpus, rows)

    contenders = [Contender(OURS, TRAIN, names, check(setting.quick, ours), ours=True)]
    absent = {}
    if gensim is None:
        absent[GENSIM] = NOT_INSTALLED
    else:
        model = prepared_peer(gensim, text, options, setting.threads)
        names = {"model": model, "text": str(text), "epochs": options.epochs}

        def theirs(_: Any, model: Any = model) -> Any:
            return model.wv

        contenders.append(Contender(GENSIM, TRAIN_PEER, names, check(setting.quick, theirs)))
    note = f"{words * options.epochs:,} words: divide by the CPU time"
    if not (options.subwords or options.model == "cbow"):
        adds, trained = work(native, options)
        most = multiply_adds()
        peak = most if isinstance(most, str) else f"{most / 1e9:.1f} G a second of a core at most"
        note += f"; {adds / 1e9:.1f} G multiply-adds ({trained:,} words after sub-sampling); {peak}"
    return Case(
        f"{title}, dim 100, epochs: {options.epochs}", contenders, OURS, [target], absent, note
    )


TRAIN = "native.train(0, blocks, threads)"
TRAIN_PEER = (
    "model.train(corpus_file=text, total_words=model.corpus_total_words, "
    "total_examples=model.corpus_count, epochs=epochs)"
)


def counted(text: Path, options: skipgram.Options) -> Corpus:
    """Count and encode the words."""
    return read_corpus(text, options, None, None, tempfile.gettempdir(), lambda *_: None)


def prepared(
    text: Path | Corpus, options: skipgram.Options
) -> tuple[Corpus, Rows, _native.SkipGram]:
    """Count the words if they are not, and give the rows their first values."""
    corpus = text if isinstance(text, Corpus) else counted(text, options)
    rows = Rows(corpus.vocabulary, options, False, tempfile.gettempdir(), whole=False)
    rows.fill()
    return corpus, rows, trainer(corpus, rows, options)


def vectors_of(corpus: Corpus, rows: Rows) -> shardwise.Vectors:
    """Return the rows of the words."""
    table = shardwise.Table.from_array(np.concatenate(list(rows.vectors())))
    return shardwise.Vectors(table, corpus.vocabulary)


class PeerCounts(NamedTuple):
    """What gensim counted in a text."""

    words: dict[str, int]
    total: int
    lines: int


def counted_peer(gensim: Any, text: Path) -> PeerCounts:
    """Let gensim count the words."""
    model = gensim.Word2Vec()
    total, lines = model.scan_vocab(corpus_file=str(text))
    return PeerCounts(model.raw_vocab, total, lines)


def prepared_peer(
    gensim: Any, text: Path | PeerCounts, options: skipgram.Options, threads: int
) -> Any:
    """Return gensim's model of the same options, its words counted."""
    given = {name: getattr(options, name) for name in COMMON}
    given |= {"vector_size": options.dim, "workers": threads, "alpha": options.rate}
    given["sg"] = 0 if options.model == "cbow" else 1
    if options.subwords:
        model = gensim.FastText(**given, **NGRAMS, bucket=options.bucket)
    else:
        model = gensim.Word2Vec(**given)
    if isinstance(text, PeerCounts):
        model.build_vocab_from_freq(text.words, corpus_count=text.lines)
        model.corpus_total_words = text.total
    else:
        model.build_vocab(corpus_file=str(text))
    return model


def work(native: _native.SkipGram, options: skipgram.Options) -> tuple[float, int]:
    """Return how many multiplications and additions it takes, and how many words are trained."""
    _, trained, _, contexts = native.train(0, native.blocks * options.epochs, 1)
    sample = 256  # of so many centre words the context words are counted
    pairs = contexts * sample * (1 + options.negative)
    return 3 * pairs * options.dim, trained  # one for the product, one for each of both rows


def check(
    quick: bool, vectors_of: Callable[[Any], Any] = lambda found: found
) -> Callable[[Any], bool]:
    """Check that the neighbours of frequent words are mostly those of other vectors of the novels.

    Random numbers differ, so no two trainings give the same bits.
    """
    path = DATA / "vectors" / "novels-100d.bin"  # gensim made them
    if not path.exists():
        path = ROOT / "examples" / "novels-3000.bin"
    wanted = shardwise.Vectors.from_file(path)
    some = list(wanted)[100:1100:5]

    def is_like(result: Any) -> bool:
        vectors = vectors_of(result)
        known = [word for word in some if word in vectors]
        shared = [word for word in list(wanted)[:1500] if word in vectors]
        lists = []
        for one in (wanted, vectors):
            rows = np.stack([one[word] for word in shared]).astype(np.float64)
            rows /= np.linalg.norm(rows, axis=1, keepdims=True)
            chosen = [shared.index(word) for word in known if word in shared]
            scores = rows[chosen] @ rows.T
            lists.append(np.argsort(-scores, axis=1)[:, 1:11])
        overlap = [len(np.intersect1d(a, b)) / 10 for a, b in zip(*lists, strict=True)]
        return bool(np.mean(overlap) > (QUICK_AGREEMENT if quick else AGREEMENT))

    return is_like
