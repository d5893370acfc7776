"""Every public function with hostile arguments: it works, or says in words of its own why not.

Calls are made in a process of its own. It writes the number of each call to a file before it makes
it, so a crash is had again from the number alone.
"""

from __future__ import annotations

import collections
import gc
import inspect
import os
import random
import subprocess
import sys
import tempfile
import traceback
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from .counts import Fault, Run
from .workers import ROOT, ended

BATCH = 400  # calls a process, after which a fresh one is taken
PATIENCE = 900.0  # seconds for a batch: a machine may be busy, or the run paused for a while
PYTHONS = ("embedded null", "surrogates not allowed")  # what open() says of names that cannot be
# Results that users read and never make; what an adapter needs is tested with it.
NOT_CALLED = {"Aligned", "AnalogyScores", "AnalogySection", "Converted", "Drift", "Neighbour"}
NOT_CALLED |= {"Padded", "PairScores", "Pruned", "QuantizationLoss", "Checked", "Stored", "Index"}


class Evil:
    """Whatever is asked of it, it fails, in a way of its own."""

    def _fail(self, *arguments: Any, **options: Any) -> Any:
        raise RuntimeError("evil")

    __len__ = __iter__ = __getitem__ = __index__ = __int__ = __float__ = __array__ = _fail
    __fspath__ = __bool__ = __eq__ = __hash__ = __str__ = __repr__ = __contains__ = _fail


class Liar(list[Any]):
    """A list that says it is longer than it is."""

    def __len__(self) -> int:
        return 1 << 40


def hostile(rng: random.Random) -> Any:
    """Any object at all."""
    numbers = (0, 1, -1, 2, 7, 255, 2**31, -(2**31), 2**32, 2**62, 2**63, 2**64, -(2**63), 2**70)
    floats = (0.0, -0.0, 0.5, 1e308, -1e308, 5e-324, float("nan"), float("inf"), float("-inf"))
    words: tuple[str, ...] = (
        "",
        "a",
        "mod",
        "div",
        "error",
        "zeros",
        "int8",
        "float32",
        "x" * 5000,
        "\0",
        "\ud800",
    )
    words += ("sum", "r+", "O", "V0", "missing/at/all", "tab\tle", "é" * 300, "f4,f8", "-1", "a b")
    makers: tuple[Callable[[], Any], ...] = (
        lambda: None,
        lambda: rng.choice((True, False)),
        lambda: rng.choice(numbers),
        lambda: rng.choice(floats),
        lambda: rng.choice(words),
        lambda: rng.choice((b"", b"a", b"\xff\xfe", b"\0" * 9, bytearray(b"ab"), memoryview(b"x"))),
        lambda: rng.choice(([], [[]], [[], [1]], [1, [2]], (), (1, 2), {}, {"a": 1}, set(), {1})),
        lambda: rng.choice((object(), object, len, Ellipsis, slice(1, 5), range(3), 1j, Evil())),
        lambda: rng.choice((Liar([1]), iter([1, 2]), (k for k in (1, "a")), NotImplemented, np)),
        lambda: rng.choice((np.float32, np.dtype("f2"), "int4", np.dtype("V0"), np.dtype("M8[s]"))),
        lambda: [rng.choice((*numbers, *floats, *words, None)) for _ in range(rng.randrange(5))],
        lambda: hostile_array(rng),
        lambda: hostile_array(rng),
        lambda: hostile_array(rng),
    )
    return rng.choice(makers)()


def hostile_array(rng: random.Random) -> Any:
    shape = rng.choice(((), (0,), (1,), (3,), (7,), (3, 4), (0, 4), (3, 0), (2, 3, 4), (1,) * 33))
    dtype = rng.choice(("i8", "i4", "u8", "u1", "f4", "f8", "f2", ">i8", ">f4", "?", "c8", "S3"))
    if rng.random() < 0.3:
        dtype = rng.choice(("U2", "O", "M8[s]", "m8[D]", "V4", "f16", "i4,f4", "S0"))
    array = np.zeros(shape, dtype)
    if array.dtype.kind in "iu":
        array[...] = rng.choice((0, 1, 2, 5, 100))
        if array.dtype.kind == "i":
            array[...] = rng.choice(
                (0, -1, 1, np.iinfo(array.dtype).min, np.iinfo(array.dtype).max)
            )
    elif array.dtype.kind == "f":
        array[...] = rng.choice((0.0, 1.0, -1.5, np.nan, np.inf, -0.0, np.finfo(array.dtype).max))
    elif array.dtype.kind == "O":
        array[...] = rng.choice((None, "a", 1, 2**70))
    change = rng.randrange(9)
    if change == 0 and array.ndim:
        return np.repeat(array, 2, axis=0)[::2]
    if change == 1 and array.ndim:
        return array[::-1]
    if change == 2:
        array.flags.writeable = False
    if change == 3:
        return np.broadcast_to(array.reshape(-1)[:1], (1 << 46,)) if array.size else array
    if change == 4:
        return np.ma.masked_array(array, mask=True) if array.dtype.names is None else array
    if change == 5:
        return array.tolist()
    if change == 6 and array.nbytes and not array.dtype.hasobject:
        raw = np.zeros(array.nbytes + 1, np.uint8)[1:]  # not aligned
        return raw.view(array.dtype)[: array.size].reshape(array.shape)
    if change == 7:
        return np.asfortranarray(array)
    return array


class World:
    """Things as they should be, made anew for each call, and what may be called on them."""

    def __init__(self) -> None:
        import shardwise
        from shardwise import Table, Vectors, Vocabulary, formats, initializers, optimizers, store

        rows = np.linspace(-1, 1, 48, dtype=np.float32).reshape(12, 4)
        tokens = ["the", "of", "and", "to", "a", "in", "is", "was", "for", "on", "as", "by"]
        self.tables: tuple[Callable[[], Any], ...] = (
            lambda: Table.from_array(rows.copy()),
            lambda: Table.from_array(rows.copy(), 3, "div", copy=True),
            lambda: Table.from_array(rows.astype(np.float64), 5),
            lambda: Table.from_array(np.arange(24).reshape(12, 2)),
            lambda: Table.from_array(rows).quantize("int8"),
            lambda: Table.from_array(rows).quantize("int4"),
            lambda: Table.open("here", "r"),
            lambda: Table.open("here", "c"),
            lambda: Table.open("written", "r+"),
            lambda: Table.from_array(np.zeros((0, 4), np.float32)),
        )
        vocabulary = Vocabulary(tokens, counts=range(12, 0, -1))
        self.vocabularies: tuple[Callable[[], Any], ...] = (
            lambda: vocabulary,
            lambda: Vocabulary(tokens, unknown="of", casefold=True),
            lambda: Vocabulary(tokens, unknown=shardwise.Buckets(3)),
            lambda: Vocabulary([]),
        )
        vectors = Vectors(Table.from_array(rows), vocabulary)
        partition = shardwise.Partition.mod(12, 3)
        if not os.path.exists("here"):
            vectors.save("here")
            vectors.table.save("written")
            vectors.table.checkpoint("checkpoint")
            formats.write("vectors.txt", formats.table_source(vectors.table, vocabulary))
            formats.write_vocabulary(vocabulary, "words.txt")
            Path("pairs.tsv").write_text("the\tof\t3.5\nand\tto\t1\na\tin\t2\n")
            Path("analogies.txt").write_text(": some\nthe of and to\na in is was\n")
        source = formats.open("vectors.txt")
        self.selves: dict[str, tuple[Callable[[], Any], ...]] = {
            "Table": self.tables,
            "Vocabulary": self.vocabularies,
            "Vectors": (lambda: vectors,),
            "Partition": (lambda: partition, lambda: shardwise.Partition.ranges([0, 5, 5, 12])),
            "Buckets": (lambda: shardwise.Buckets(4),),
            "Source": (lambda: source,),
            "Manifest": (lambda: store.open_table("here").manifest,),
            "Initializer": (lambda: initializers.normal(),),
        }
        for name in ("SGD", "Adam", "AdamW", "Adagrad", "RowwiseAdagrad", "RMSprop", "Ftrl"):
            self.selves[name] = (getattr(optimizers, name),)
        ids = (lambda: [0, 3, 11], lambda: np.array([[1, 2], [3, 3]], np.int32), lambda: 5)
        some_words = (lambda: ["the", "of"], lambda: "and", lambda: [["a"], ["in", "is"]])
        new = (lambda: f"new{random.randrange(10**9)}",)
        self.arguments: dict[str, tuple[Callable[[], Any], ...]] = {
            "ids": ids,
            "sp_ids": (lambda: [[0, 1], [5]], lambda: shardwise.RaggedIds([0, 1], [0, 1, 2])),
            "sparse_ids": (lambda: [[0, 1], [5]],),
            "sp_weights": (lambda: None, lambda: [[0.5, 1.0], [2.0]]),
            "params": (lambda: rows, lambda: [rows[::2], rows[1::2]], self.tables[1]),
            "embedding_weights": (lambda: rows,),
            "table": self.tables,
            "vocabulary": self.vocabularies,
            "vectors": (lambda: vectors,),
            "other": (lambda: vectors,),
            "reference": (lambda: vectors,),
            "gradients": (lambda: np.ones((3, 4), np.float32), lambda: np.ones((2, 2, 4))),
            "rows": (lambda: np.ones((3, 4), np.float32), lambda: 12, lambda: 1.0),
            "offsets": (lambda: [0, 2], lambda: None),
            "weights": (lambda: None, lambda: [1.0, 2.0, 0.5]),
            "optimizer": (optimizers.SGD, optimizers.Adam, optimizers.Adagrad),
            "tokens": some_words,
            "token": (lambda: "the",),
            "word": (lambda: "the",),
            "words": some_words,
            "sentences": (lambda: ["the of", "and to"], lambda: ["a"]),
            "positive": some_words,
            "negative": (tuple, lambda: ["by"]),
            "vector": (lambda: rows[0],),
            "array": (lambda: rows.copy(),),
            "shards": (lambda: 3, lambda: [rows[::2], rows[1::2]]),
            "partition": (lambda: "mod", lambda: "div", lambda: partition),
            "tables": (lambda: [(self.tables[0](), [[0, 1], [2]])],),
            "packed": (lambda: shardwise.quantize_rows(rows, "int8"),),
            "format": (lambda: "int8", lambda: None, lambda: "text"),
            "row_format": (lambda: "int8", lambda: "int4"),
            "source": (lambda: source, lambda: "here"),
            "checkpoint": (lambda: "checkpoint",),
            "path": (*new, *new, lambda: "here", lambda: "vectors.txt", lambda: "words.txt"),
            "paths": (lambda: "vectors.txt",),
            "blocks": (lambda: [rows],),
            "shape": (lambda: (12, 4),),
            "dtype": (lambda: "float32", lambda: None),
            "dim": (lambda: 4,),
            "strategy": (lambda: "mod",),
            "num_rows": (lambda: 12,),
            "num_shards": (lambda: 3,),
            "num_tokens": (lambda: 2,),
            "num_buckets": (lambda: 9,),
            "boundaries": (lambda: None, lambda: (0, 5, 12)),
            "initializer": (lambda: "zeros", lambda: initializers.uniform()),
            "form": (partition.to_json,),
            "kind": (lambda: "normal",),
            "shard": (lambda: 1,),
            "count": (lambda: 3,),
            "data": (lambda: vocabulary.arrays()[0],),
            "a": (lambda: "the",),
            "b": (lambda: "of",),
            "c": (lambda: "and",),
            "name": (lambda: "a",),
            "missing": (lambda: None, lambda: "drop"),
        }
        self.functions = sorted(self._functions(), key=lambda found: found[0])

    def _functions(self) -> Iterator[tuple[str, str | None, Any]]:
        """What is called: its name, whose method it is, and the function."""
        import shardwise
        from shardwise import formats, initializers, optimizers, store

        seen: set[int] = set()
        for module in (shardwise, formats, initializers, optimizers, store):
            for name in getattr(module, "__all__", dir(module)):
                thing = getattr(module, name)
                plain = not name.startswith("_") and name not in NOT_CALLED
                if not plain or id(thing) in seen or inspect.ismodule(thing):
                    continue
                seen.add(id(thing))
                if inspect.isclass(thing) and not issubclass(thing, (Exception, Warning)):
                    yield name, None, thing
                    for method, member in vars(thing).items():
                        special: tuple[str, ...] = (
                            "__getitem__",
                            "__contains__",
                            "__len__",
                            "__iter__",
                            "__repr__",
                        )
                        special += ("__eq__", "__hash__", "__reduce__", "__enter__", "__bool__")
                        if method.startswith("_") and method not in special:
                            continue
                        if isinstance(member, (classmethod, staticmethod)):
                            yield f"{name}.{method}", None, getattr(thing, method)
                        elif inspect.isfunction(member) and name in self.selves:
                            yield f"{name}.{method}", name, member
                elif inspect.isfunction(thing) and thing is not store.refuse_existing:
                    yield f"{module.__name__}.{name}", None, thing

    def call(self, rng: random.Random) -> tuple[str, Callable[[], Any], Any]:
        """A call that is right but for one argument, or two, or all: its name, and whose it is."""
        name, owner, function = rng.choice(self.functions)
        try:
            parameters = list(inspect.signature(function).parameters.values())
        except ValueError:
            parameters = []
        itself = rng.choice(self.selves[owner])() if owner else None
        if owner:
            parameters = parameters[1:]
        kinds = inspect.Parameter
        parameters = [
            p for p in parameters if p.kind not in (kinds.VAR_KEYWORD, kinds.VAR_POSITIONAL)
        ]
        spoiled = set(
            rng.sample(range(len(parameters)), min(len(parameters), rng.choice((0, 1, 1, 1, 2))))
        )
        if rng.random() < 0.1:
            spoiled = set(range(len(parameters)))
        positional: list[Any] = []
        named: dict[str, Any] = {}
        for k, parameter in enumerate(parameters):
            right = self.arguments.get(parameter.name)
            needed = parameter.default is kinds.empty
            if k in spoiled or (needed and right is None):
                value = hostile(rng)
                # What has no truth of its own says so itself where it is asked for it.
                if isinstance(parameter.default, bool):
                    value = rng.choice((None, 0, 1, "", "x", [], [0], 0.5, Evil()))
            elif needed:
                assert right is not None
                value = rng.choice(right)()
            else:
                continue
            if parameter.kind is kinds.KEYWORD_ONLY or not needed:
                named[parameter.name] = value
            else:
                positional.append(value)
        first = () if itself is None else (itself,)
        said = ", ".join([*map(shown, positional), *(f"{k}={shown(v)}" for k, v in named.items())])
        return f"{name}({said})", lambda: function(*first, *positional, **named), itself


def shown(value: object) -> str:
    try:
        text = repr(value)
    except Exception:
        text = f"<{type(value).__name__}>"
    if isinstance(value, np.ndarray) and value.nbytes < 1 << 20:
        text = f"<array of {value.dtype}, {value.shape}>"
    return text if len(text) < 90 else text[:80] + "..."


def attempt(world: World, number: int, tell: Callable[[str], object]) -> str:
    """Make one call, of which is told before; what became of it: a finding begins with "FAULT"."""
    import shardwise

    random.seed(number)
    np.random.seed(number % (1 << 32))
    said, call, itself = world.call(random.Random(number))
    tell(said.splitlines()[0] + "\n")
    table = itself if isinstance(itself, shardwise.Table) and itself.mode == "memory" else None
    before = None if table is None else [shard.copy() for shard in table.shards]
    raised = True
    unraisable: list[str] = []
    hook, sys.unraisablehook = sys.unraisablehook, lambda u: unraisable.append(repr(u.exc_value))
    try:
        result = call()
        raised = False
        if inspect.isgenerator(result) or isinstance(result, Iterator):
            collections.deque(result, 100)
        outcome = "works"
    except shardwise.ShardwiseError as error:
        outcome = "is refused"
        if not str(error):
            outcome = f"FAULT: an error without words\n{traceback.format_exc(limit=-5)}"
    except (TypeError, OSError, MemoryError, OverflowError) as error:
        outcome = f"raises {type(error).__name__}"
    except (RuntimeError, ValueError) as error:
        outcome = f"raises {type(error).__name__}, as Python does for such a path or object"
        if str(error) != "evil" and not any(said in str(error) for said in PYTHONS):
            outcome = f"FAULT: {traceback.format_exc(limit=-5)}"
    except Exception:
        outcome = f"FAULT: {traceback.format_exc(limit=-5)}"
    finally:
        sys.unraisablehook = hook
    if unraisable:
        outcome = f"FAULT: nobody could catch {unraisable}"
    if raised and table is not None and before is not None:
        for old, new in zip(before, table.shards, strict=True):
            if old.tobytes() != new.tobytes():
                outcome = f"FAULT: rows were changed, and then it failed: {outcome}"
    if isinstance(itself, shardwise.Table):
        itself.close()
    return outcome


def work(begin: int, count: int, journal: str) -> None:
    """Make the calls of these numbers; the journal gets each before, and its outcome after."""
    if sys.platform != "win32":
        import resource

        # What cannot be had is an error at once, and no file fills the disk.
        resource.setrlimit(resource.RLIMIT_AS, (6 << 30, 6 << 30))
        resource.setrlimit(resource.RLIMIT_FSIZE, (64 << 20, 64 << 20))
    import shardwise

    warnings.simplefilter("error")
    warnings.simplefilter("ignore", shardwise.ShardwiseWarning)
    warnings.filterwarnings("ignore", "Data type alias", DeprecationWarning)  # of a dtype we gave
    threads = shardwise.num_threads()
    world = World()
    with open(journal, "a", encoding="utf-8", errors="backslashreplace") as file:
        for number in range(begin, begin + count):
            file.write(f"\0{number}\n")
            file.flush()
            file.write(
                attempt(world, number, lambda said: print(said, end="", file=file, flush=True))
            )
            shardwise.set_num_threads(threads)
    gc.collect()


def batch(run: Run, begin: int) -> list[str]:
    """Run a batch in a process; the findings, each with its number."""
    faults = []
    with tempfile.TemporaryDirectory(dir=run.folder) as folder:
        journal = Path(folder) / "journal"
        code = "import sys; from reliability.arguments import work; "
        code += "work(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3])"
        end = begin + BATCH
        while begin < end:
            done = Path(folder) / f"from{begin}"
            done.mkdir()
            command = [sys.executable, "-c", code, str(begin), str(end - begin), str(journal)]
            try:
                process = subprocess.run(
                    command,
                    cwd=done,
                    env=os.environ | {"PYTHONPATH": f"{ROOT}:{os.environ.get('PYTHONPATH', '')}"},
                    stdin=subprocess.DEVNULL,
                    capture_output=True,
                    text=True,
                    errors="replace",
                    timeout=PATIENCE,
                )
                failed = "" if process.returncode == 0 else ended(process.returncode)
                failed += f"\n{process.stderr[-3000:]}" if failed else ""
            except subprocess.TimeoutExpired:
                failed = f"no answer in {PATIENCE:.0f} s"
            calls = journal.read_text("utf-8").split("\0")[1:]
            journal.write_text("")
            for call in calls:
                number, _, rest = call.partition("\n")
                said, _, outcome = rest.partition("\n")
                begin = int(number) + 1
                if outcome.startswith("FAULT"):
                    faults.append(f"call {number}: {said}\n{outcome}")
                elif outcome:
                    run.count(f"calls: {outcome}")
            if failed:
                last = " ".join(calls[-1].splitlines()) if calls else "none"
                faults.append(f"call {last}: {failed}")
                begin = max(begin, end if not calls else begin)
    return faults


def run(run: Run) -> None:
    begin = run.seed * 1_000_000
    faults = []
    while True:
        faults += batch(run, begin)
        begin += BATCH
        if not run.goes_on():
            break
    if faults:
        raise Fault(f"{len(faults)} of the calls\n" + "\n\n".join(faults))


if __name__ == "__main__":  # python -m reliability.arguments NUMBER: one call again
    with tempfile.TemporaryDirectory() as place:
        os.chdir(place)
        warnings.simplefilter("error")
        print(attempt(World(), int(sys.argv[1]), print))
