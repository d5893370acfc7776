import ast
import multiprocessing
import os
import pathlib
import signal
import subprocess
import sys
import threading
import time
import warnings
from concurrent.futures import ProcessPoolExecutor

import numpy as np
import pytest
from numpy.random import default_rng  # here, for NumPy imports it late: a fork may come between

import shardwise
from shardwise import OptionError, Partition, Table, embedding_lookup

LINUX = pytest.mark.skipif(sys.platform != "linux", reason="asks Linux about the process")
FORK = pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
PATIENCE = 60  # seconds; what takes as long hangs


@pytest.fixture
def threads():
    """Sets the number of threads, and puts it back."""
    before = shardwise.num_threads()
    yield shardwise.set_num_threads
    shardwise.set_num_threads(before)


def python(code, **environment):
    """What a Python process of its own prints; environment variables may be None: not set."""
    env = {key: value for key, value in os.environ.items() if not key.startswith("SHARDWISE_")}
    env |= environment
    return subprocess.run(
        [sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=PATIENCE
    )


def printed(code, **environment):
    run = python(code, **environment)
    assert run.returncode == 0, run.stderr
    return run.stdout.strip()


FULL = np.arange(5000 * 48, dtype=np.int32).reshape(5000, 48)


def check_rows(table, rng, count):
    """Whether each row of a lookup is the right one: row i holds i * 48 and what follows."""
    ids = rng.integers(0, len(FULL), count)
    result = table.lookup(ids)
    assert (result == (ids * 48)[:, None] + np.arange(48)).all()


# ---- fork ----------------------------------------------------------------------


def fork():
    """os.fork, without the warning that there are threads: they are what is tested."""
    with warnings.catch_warnings():
        if sys.version_info >= (3, 12):
            warnings.filterwarnings(
                "ignore", "This process .* is multi-threaded", DeprecationWarning
            )
        return os.fork()


def exit_code(pid):
    """Of a child that ends in time; another one is killed."""
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.001)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return "hung"


def in_child(work):
    pid = fork()
    if pid == 0:
        code = 1
        try:
            work()
            code = 0
        finally:
            os._exit(code)
    return exit_code(pid)


@FORK
def test_exit_code_tells():
    def fail():
        raise SystemExit

    assert in_child(fail) == 1
    assert in_child(lambda: None) == 0


@FORK
def test_fork_in_the_middle_of_lookups(threads):
    threads(2)
    tables = [Table.from_array(FULL, 1, "mod"), Table.from_array(FULL, 7, "mod")]
    stop = threading.Event()
    failures = []

    def look_up(seed):
        rng = default_rng(seed)
        try:
            while not stop.is_set():
                # Large results: the pool and the cache of blocks are at work when the fork comes.
                check_rows(tables[seed % 2], rng, 20_000)
        except BaseException as error:
            failures.append(error)

    def be_child():
        rng = default_rng(99)
        for table in tables:
            check_rows(table, rng, 20_000)
        shardwise.set_num_threads(3)
        check_rows(tables[1], rng, 30_000)
        shardwise.empty_cache()
        check_rows(Table.from_array(FULL, 3, "div"), rng, 10_000)

    def be_parent():
        be_child()
        assert in_child(be_child) == 0

    workers = [threading.Thread(target=look_up, args=[seed]) for seed in range(3)]
    for worker in workers:
        worker.start()
    try:
        codes = [in_child(be_parent if k % 10 == 0 else be_child) for k in range(30)]
    finally:
        stop.set()
        for worker in workers:
            worker.join()
    assert codes == [0] * 30
    assert not failures
    be_child()


def look_up_and_send(table, ids, connection):
    connection.send_bytes(table.lookup(ids).tobytes())
    connection.close()


@FORK
def test_multiprocessing_fork(threads):
    threads(2)
    table = Table.from_array(FULL, 5, "mod")
    ids = default_rng(0).integers(0, len(FULL), 50_000)
    expected = table.lookup(ids)
    context = multiprocessing.get_context("fork")
    for _ in range(3):
        receiver, sender = context.Pipe(duplex=False)
        process = context.Process(target=look_up_and_send, args=(table, ids, sender))
        with warnings.catch_warnings():
            warnings.filterwarnings(
                "ignore", "This process .* is multi-threaded", DeprecationWarning
            )
            process.start()
        sender.close()
        assert receiver.poll(PATIENCE)
        assert receiver.recv_bytes() == expected.tobytes()
        process.join(PATIENCE)
        assert process.exitcode == 0


def test_multiprocessing_spawn():
    ids = default_rng(0).integers(0, len(FULL), 30_000)
    partition = Partition.div(len(FULL), 3)
    shards = [FULL[partition.ids_of(k)] for k in range(3)]
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(2, mp_context=context) as executor:
        futures = [executor.submit(embedding_lookup, shards, ids, partition) for _ in range(2)]
        for future in futures:
            assert (future.result(PATIENCE) == FULL[ids]).all()
        assert executor.submit(shardwise.num_threads).result(PATIENCE) >= 1


# ---- threads ----------------------------------------------------------------------


@pytest.mark.parametrize("pool", [1, 3])
def test_sixteen_threads_at_once(threads, pool):
    threads(pool)
    tables = [Table.from_array(FULL, n, how) for n, how in ((1, "mod"), (8, "mod"), (8, "div"))]
    interval = sys.getswitchinterval()
    start = threading.Barrier(16)
    failures = []
    rounds = []

    def look_up(seed):
        rng = default_rng(seed)
        try:
            start.wait(PATIENCE)
            for k in range(30):
                check_rows(tables[k % 3], rng, int(rng.choice([1, 32, 1000, 12_000])))
                with pytest.raises(IndexError, match=r"ids\[3\] = -7;"):
                    tables[k % 3].lookup([0, 1, 2, -7])
                rounds.append(1)
        except BaseException as error:
            failures.append(error)

    workers = [threading.Thread(target=look_up, args=[seed]) for seed in range(16)]
    sys.setswitchinterval(1e-6)
    try:
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join(PATIENCE)
    finally:
        sys.setswitchinterval(interval)
    assert not failures
    assert len(rounds) == 16 * 30


@pytest.mark.parametrize("options", [{}, {"max_norm": 1e9}, {"out_of_range": "wrap"}], ids=repr)
def test_others_run_while_a_large_lookup_does(options, threads):
    threads(1)
    table = Table.from_array(FULL.astype(np.float32), 3, "mod")
    ids = default_rng(0).integers(0, len(FULL), 400_000)
    steps = 0
    stop = False

    def count():
        nonlocal steps
        while not stop:
            steps += 1
            time.sleep(0)  # lets go of the GIL: nobody is made to

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1000)  # a thread gets the GIL only where another one lets go of it
    counter = threading.Thread(target=count)
    try:
        counter.start()
        before = steps
        table.lookup(ids[:10], **options)  # too small to let go
        small = steps - before
        before = steps
        for _ in range(200):  # on a busy machine the other thread may miss one, short as it is
            table.lookup(ids, **options)
            if steps > before:
                break
        large = steps - before
    finally:
        stop = True
        counter.join()
        sys.setswitchinterval(interval)
    assert small == 0
    assert large > 0


def test_set_num_threads(threads):
    threads(3)
    assert shardwise.num_threads() == 3
    threads(np.int8(2))
    assert shardwise.num_threads() == 2
    for bad in (0, -1, 1025, 2**31, 2**70, 1.0, "2", None, True, [2]):
        with pytest.raises(OptionError, match="expected a number of threads from 1 to 1024, got"):
            shardwise.set_num_threads(bad)
    assert shardwise.num_threads() == 2
    threads(1024)
    check_rows(Table.from_array(FULL), default_rng(0), 10_000)


def test_threads_end_with_the_process():
    code = """
import numpy as np, shardwise
shardwise.set_num_threads(3)
table = shardwise.Table.from_array(np.ones((1000, 64), np.float32), 3, "mod")
ids = np.arange(100_000) % 1000
print(int(table.lookup(ids).sum()))
"""
    assert printed(code) == "6400000"


def test_python_may_end_during_lookups():
    """A daemon thread that comes back from a lookup when Python has ended does not crash it."""
    code = """
import threading, time
import numpy as np, shardwise
table = shardwise.Table.from_array(np.ones((1000, 64), np.float32), 3, "mod")
ids = np.arange(400_000) % 1000
def look_up():
    while True:
        table.lookup(ids)
for _ in range(3):
    threading.Thread(target=look_up, daemon=True).start()
time.sleep(0.1)
"""
    for _ in range(3):
        run = python(code)
        assert (run.returncode, run.stderr) == (0, "")


# ---- memory ----------------------------------------------------------------------


def address(array):
    return array.__array_interface__["data"][0]


def test_results_are_recycled():
    table = Table.from_array(FULL)
    shardwise.empty_cache()
    assert shardwise._native.cached_bytes() == 0
    result = table.lookup(np.zeros(50_000, int))
    first = address(result)
    size = result.nbytes
    assert shardwise._native.cached_bytes() == 0
    view = result[5:]
    del result
    assert shardwise._native.cached_bytes() == 0  # the view still needs it
    del view
    kept = shardwise._native.cached_bytes()
    assert size <= kept <= size + 2 * 2**20
    assert address(table.lookup(np.zeros(50_000, int))) == first
    assert shardwise.empty_cache() == kept
    assert shardwise.empty_cache() == 0
    assert shardwise._native.cached_bytes() == 0


BOUNDED = """
import numpy as np, shardwise

def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096

table = shardwise.Table.from_array(np.zeros((100, 256), np.float32))
ids = np.zeros(16 * 1024, int)  # results of 16 MB
table.lookup(ids)
low = resident()
for k in range(60):
    table.lookup(ids[: len(ids) - 1000 * (k % 7)])
flat = resident() - low
alive = [table.lookup(ids) for _ in range(20)]
high = resident() - low
del alive
print(flat, high, resident() - low, shardwise._native.cached_bytes())
print(shardwise.empty_cache(), resident() - low)
"""


@LINUX
def test_kept_results_are_bounded():
    bound = 64 * 2**20
    lines = printed(BOUNDED, SHARDWISE_CACHE_BYTES=str(bound)).splitlines()
    flat, high, after, cached = map(int, lines[0].split())
    assert flat < 40 * 2**20
    assert high > 250 * 2**20
    assert after < bound + 24 * 2**20
    assert bound - 16 * 2**20 <= cached <= bound
    emptied, at_last = map(int, lines[1].split())
    assert emptied == cached
    assert at_last < 24 * 2**20


# ---- environment and import ----------------------------------------------------------------------


def test_environment():
    ask = "import shardwise; print(shardwise.num_threads(), shardwise._native.isa())"
    best = shardwise._native.isa_levels()[-1]
    assert printed(ask, SHARDWISE_NUM_THREADS="7") == f"7 {best}"
    default = printed(ask)
    assert 1 <= int(default.split()[0]) <= (os.cpu_count() or 1)
    assert default.split()[1] == best
    assert printed(ask, SHARDWISE_NUM_THREADS="", SHARDWISE_ISA="") == default
    lowest = shardwise._native.isa_levels()[0]
    assert printed(ask, SHARDWISE_ISA=lowest).split()[1] == lowest


@LINUX
def test_threads_follow_affinity():
    code = """
import os
import pathlib
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
import shardwise
print(shardwise.num_threads())
"""
    assert printed(code) == "1"


def test_nothing_is_kept_where_nothing_may_be():
    code = """
import numpy as np, shardwise
table = shardwise.Table.from_array(np.zeros((100, 256), np.float32))
for _ in range(3):
    table.lookup(np.zeros(10_000, int))
print(shardwise._native.cached_bytes())
"""
    assert printed(code, SHARDWISE_CACHE_BYTES="0") == "0"
    assert int(printed(code)) >= 10_000 * 1024


@pytest.mark.parametrize(
    ("name", "bad"),
    [
        *(("SHARDWISE_NUM_THREADS", bad) for bad in ("0", "-2", "1025", "two", "2.5", "9" * 30)),
        *(("SHARDWISE_ISA", bad) for bad in ("avx2", "x86-64-v9", "X86-64")),
        *(("SHARDWISE_CACHE_BYTES", bad) for bad in ("-1", "1e9", "1G", "9" * 30)),
    ],
)
def test_bad_environment(name, bad):
    run = python("import shardwise", **{name: bad})
    assert run.returncode == 1
    last = run.stderr.strip().splitlines()[-1]
    assert last.startswith(f"ImportError: {name} must be ")
    assert f'got "{bad}"' in last


def test_import_brings_nothing_along(tmp_path):
    """No framework that is installed, and none of what the command line or files need."""
    frameworks = ("torch", "tensorflow", "jax", "jaxlib", "cupy", "pandas", "pyarrow", "keras")
    frameworks += ("usearch", "matplotlib", "umap", "gensim")
    for name in frameworks:
        (tmp_path / f"{name}.py").write_text("raise SystemExit(f'{__name__} was imported')")
    unwanted = (*frameworks, "typer", "click", "rich", "ml_dtypes", "xxhash", "safetensors")
    code = f"""
import sys
import numpy
before = set(sys.modules)
import shardwise
for name in dir(shardwise):
    getattr(shardwise, name)
shardwise.Vectors(shardwise.Table.from_array(numpy.eye(2)), shardwise.Vocabulary(["a", "b"]))["a"]
table = shardwise.Table.from_array(numpy.zeros((5, 2), "f4"), 2, "div")
table.lookup([[0, 4]], max_norm=1.0, out_of_range="zeros")
shardwise.embedding_lookup([numpy.zeros((2, 2)), numpy.zeros((1, 2))], 2)
print(sorted(name for name in set(sys.modules) - before if name.split(".")[0] in {unwanted!r}))
"""
    assert printed(code, PYTHONPATH=str(tmp_path)) == "[]"


def test_nothing_is_said_at_exit():
    """A table that is alive when Python ends is no leak worth a word."""
    code = """
import numpy as np, shardwise
def look(table=shardwise.Table.from_array(np.zeros((4, 2)), 2, "mod")):
    return table
look.__self__ = look
shardwise.keep = look
"""
    run = python(code)
    assert (run.returncode, run.stdout, run.stderr) == (0, "", "")


def test_what_is_imported_later_is_what_type_checkers_see():
    source = ast.parse(pathlib.Path(shardwise.__file__).read_text())
    (block,) = (node for node in source.body if isinstance(node, ast.If))
    seen = {
        node.names[0].name: node.module.removeprefix("shardwise").removeprefix(".")
        for node in block.body
    }
    later = {name: "" if path == name else path for name, path in shardwise._LATER.items()}
    assert later == seen
    assert set(later) <= set(dir(shardwise))
    with pytest.raises(AttributeError, match="nothing_of_the_kind"):
        _ = shardwise.nothing_of_the_kind


def test_words_and_files_are_imported_when_they_are_named():
    code = """
import sys, shardwise
assert "shardwise._vectors" not in sys.modules and "shardwise.formats" not in sys.modules
assert shardwise.Vectors.__name__ == "Vectors" and shardwise.formats.open
from shardwise import Neighbour, convert, store
"""
    run = python(code)
    assert run.returncode == 0, run.stderr
