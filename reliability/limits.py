"""Systems that refuse: memory, disk, folders and files; what is said, and what is still there.

Each try is a process of its own, for limits stay. In it every operation either works or raises the
error that is documented, after which what was there before is whole and the next one works.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

from .counts import Run
from .workers import python

# What all tries know: tables to work on, and operations that need memory or a disk.
PRELUDE = """
import errno, os, random, sys, warnings
import numpy as np
import shardwise
from shardwise import Table, Vectors, Vocabulary, convert, formats, optimizers, store
warnings.simplefilter("error")
warnings.simplefilter("ignore", shardwise.ShardwiseWarning)
rng = random.Random(sys.argv[1])
rows = np.random.default_rng(0).standard_normal((20_000, 16)).astype(np.float32)
words = Vocabulary(f"word{i}" for i in range(len(rows)))

def check(path):
    assert {one.state for one in store.verify_table(path)} <= {"ok", "unknown"}
    found = Table.open(path)
    assert np.array_equal(found.lookup(np.arange(len(rows))), rows), path

def add(name):
    done[name] = done.get(name, 0) + 1

done = {}
"""

MEMORY = (
    PRELUDE
    + """
import resource

def mapped():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[0]) * os.sysconf("SC_PAGESIZE")

Vectors(Table.from_array(rows, 3), words).save("kept")
table = Table.from_array(rows, 3, copy=True)
tables = [table, Table.open("kept"), table.quantize("int8")]
ids = np.random.default_rng(1).integers(0, len(rows), 400_000)
bags = ids.reshape(-1, 2)
small = table.lookup(ids[:100])
gradients = np.ones((len(ids), 16), np.float32)
optimizer = optimizers.Adam()
table.update(ids[:5], np.zeros((5, 16), np.float32), optimizers.SGD(0.0))
shardwise.empty_cache()

def update():
    before = table.lookup(np.arange(len(rows)))
    fresh = Table.from_array(before, 2, copy=True)
    try:
        fresh.update(ids, gradients, optimizer)
    except MemoryError:
        assert np.array_equal(fresh.lookup(np.arange(len(rows))), before)
        raise

# Not what starts threads of Python (save, checkpoint, reshard): where a new thread gets no memory
# before it has said that it runs, CPython waits for it for ever. Nor products of matrices: OpenBLAS
# ends the process where it gets none.
operations = {
    "lookup": lambda: rng.choice(tables).lookup(ids),
    "pool": lambda: rng.choice(tables).pool(bags),
    "update": update,
    "quantize": lambda: table.quantize("int4"),
    "copy": lambda: Table.from_array(np.broadcast_to(rows[0], (300_000, 16)), 3, copy=True),
    "vocabulary": lambda: Vocabulary(f"token{i}" for i in range(200_000)),
    "encode": lambda: words.encode(["word7"] * 200_000),
    "vectors": lambda: Vectors.open("kept").lookup(["word5"] * 50_000),
    "open": lambda: Table.open("kept", "c").write(np.arange(len(rows)), 1.0),
    "text": lambda: formats.write("t.vec", formats.table_source(table, words), overwrite=True),
    "read text": lambda: Vectors.from_file("t.vec") if os.path.exists("t.vec") else None,
}
unlimited = resource.getrlimit(resource.RLIMIT_AS)[1]
for _ in range(int(sys.argv[2])):
    name = rng.choice(list(operations))
    # A little more than there is: from nothing at all to enough for most.
    room = int(2 ** rng.uniform(14, 26))
    resource.setrlimit(resource.RLIMIT_AS, (mapped() + room, unlimited))
    try:
        operations[name]()
        outcome = "works"
    except (MemoryError, OSError) as error:
        if isinstance(error, OSError) and error.errno not in (errno.ENOMEM, None):
            raise
        outcome = "is refused"
    except RuntimeError as error:  # Python's, of a pool that gets no thread
        if "can't start new thread" not in str(error):
            raise
        outcome = "is refused"
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (unlimited, unlimited))
    add(f"operation with little memory {outcome}")
    assert np.array_equal(table.lookup(ids[:100]), small)
    check("kept")
print(done)
"""
)

# The disk is a tmpfs of 6 MB, or all files together may be so large; what fills it is a file.
DISK = (
    PRELUDE
    + """
place = sys.argv[3]
limited = sys.argv[4] == "limit"
if limited:  # no tmpfs here: each file is small
    import resource, signal
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
os.chdir(place)
rows = rows[:8000]
words = Vocabulary(f"word{i}" for i in range(len(rows)))
Vectors(Table.from_array(rows, 3), words).save("kept")
other = rows + 1
state = {"rows": rows.copy()}
checkpointed = Table.from_array(rows, 2, copy=True)
checkpointed.checkpoint("steps")

def checkpoint():
    checkpointed.write(np.arange(3000), rows[:3000] + rng.random())
    expected = checkpointed.lookup(np.arange(len(rows)))
    checkpointed.checkpoint("steps")
    state["rows"] = expected

def in_place():
    with Table.open("written", "r+") as table:
        table.write(np.arange(len(rows)), other)

def train():
    with Table.open("written", "r+") as table:
        ids = np.arange(0, len(rows), 7)
        table.update(ids, np.ones((len(ids), 16), np.float32), optimizers.Adagrad())

def with_words():
    return formats.table_source(checkpointed, words)

operations = {
    "save": lambda: Table.from_array(other).save("new", overwrite=True),
    "save over": lambda: Vectors(Table.from_array(rows, 2), words).save("kept", overwrite=True),
    "create": lambda: Table.create("new", 60_000, 16, initializer="uniform").close(),
    "reshard": lambda: store.reshard("kept", "kept", shards=5, overwrite=True),
    "convert": lambda: convert("kept", "new", dtype="float16", overwrite=True),
    "checkpoint": checkpoint,
    "write in place": in_place,
    "update in place": train,
    "text": lambda: formats.write("t.vec", with_words(), overwrite=True),
    "npy": lambda: formats.write("t.npy", formats.table_source(checkpointed), overwrite=True),
    "tokens": lambda: words.save("words.safetensors", overwrite=True),
    "restore": lambda: Table.restore("steps", "new", overwrite=True).close(),
}
import shutil
for _ in range(int(sys.argv[2])):
    shutil.rmtree("new", ignore_errors=True)
    shutil.rmtree("written", ignore_errors=True)
    name = rng.choice(list(operations))
    if "in place" in name:
        Table.create("written", len(rows), 16, dtype="float32").close()
    room = int(2 ** rng.uniform(12, 22.5))
    if limited:
        resource.setrlimit(resource.RLIMIT_FSIZE, (room, resource.RLIM_INFINITY))
    else:
        there = os.statvfs(".")
        with open("ballast", "wb") as file:
            size = max(0, there.f_bavail * there.f_frsize - room)
            os.posix_fallocate(file.fileno(), 0, size) if size else None
    try:
        operations[name]()
        outcome = "works"
    except OSError as error:
        assert error.errno in (errno.ENOSPC, errno.EFBIG, errno.EDQUOT), repr(error)
        outcome = "is refused"
    finally:
        if limited:
            resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)
        else:
            os.unlink("ballast")
    add(f"operation on a full disk {outcome}")
    check("kept")
    if "in place" in name and outcome == "is refused":
        found = Table.open("written").lookup(np.arange(len(rows)))
        written = (found == other).all(axis=1) & (name == "write in place")
        assert ((found == 0).all(axis=1) | written).all(), name
    if os.path.exists("new/shardwise.json"):
        assert {one.state for one in store.verify_table("new")} <= {"ok", "unknown"}
    if rng.random() < 0.3:
        shutil.rmtree("new", ignore_errors=True)
        with Table.restore("steps", "new") as again:
            assert np.array_equal(again.lookup(np.arange(len(rows))), state["rows"])
    if name == "checkpoint" and outcome == "is refused":
        checkpointed.checkpoint("steps")  # now there is room
        state["rows"] = checkpointed.lookup(np.arange(len(rows)))
    assert not [one for one in os.listdir(".") if one.endswith(".tmp")], os.listdir(".")
print(done)
"""
)

READ_ONLY = (
    PRELUDE
    + """
def texts(folder):
    return {p: os.path.getsize(os.path.join(d, p)) for d, _, ps in os.walk(folder) for p in ps}

os.mkdir("locked")
Vectors(Table.from_array(rows, 3), words).save("locked/kept")
Table.from_array(rows).checkpoint("locked/steps")
for folder, _, files in os.walk("locked", topdown=False):
    for file in files:
        os.chmod(os.path.join(folder, file), 0o444)
    os.chmod(folder, 0o555)
os.chmod(".", 0o755)
if os.getuid() == 0:  # for root everything is allowed: become nobody
    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)
before = texts("locked")
table = Table.from_array(rows)
source = formats.table_source(table, words)
for name, operation in {
    "save": lambda: table.save("locked/new"),
    "save over": lambda: table.save("locked/kept", overwrite=True),
    "create": lambda: Table.create("locked/new", 10, 4),
    "open": lambda: Table.open("locked/kept", "r+"),
    "reshard": lambda: store.reshard("locked/kept", "locked/kept", shards=2, overwrite=True),
    "reshard to": lambda: store.reshard("locked/kept", "locked/new", shards=2),
    "convert": lambda: convert("locked/kept", "locked/new.txt"),
    "write": lambda: formats.write("locked/new.vec", source),
    "tokens": lambda: words.save("locked/words.safetensors"),
    "list": lambda: formats.write_vocabulary(words, "locked/words.txt"),
    "checkpoint": lambda: table.checkpoint("locked/steps", overwrite=True),
    "checkpoint to": lambda: table.checkpoint("locked/new"),
    "restore": lambda: Table.restore("locked/steps", "locked/new"),
    "update checksums": lambda: store.update_checksums("locked/kept"),
}.items():
    try:
        operation()
    except PermissionError as error:
        assert "locked" in str(error), error
        add("writing in a read-only folder is refused")
        continue
    except shardwise.StoreError as error:
        assert "locked" in str(error), error
        add("writing in a read-only folder is refused")
        continue
    assert name == "update checksums", name  # all are known: there is nothing to write
assert texts("locked") == before
check("locked/kept")
assert Vectors.open("locked/kept")["word7"].tobytes() == rows[7].tobytes()
private = Table.open("locked/kept", "c")
private.write([3], 0.0)
assert store.describe_checkpoint("locked/steps") is not None
add("reading there works")
print(done)
"""
)

CUT = (
    PRELUDE
    + """
import shutil
rows = rows[:6000]
everything = np.arange(len(rows))
for _ in range(int(sys.argv[2])):
    shutil.rmtree("cut", ignore_errors=True)
    shards = rng.randrange(1, 6)
    Table.from_array(rows, shards, rng.choice(["mod", "div"])).save("cut")
    mode = rng.choice(["r", "r+", "c"])
    table = Table.open("cut", mode)
    if mode == "r+" and rng.random() < 0.5:
        table.update([1], np.zeros((1, 16), np.float32), optimizers.Adagrad())
    shardwise.set_num_threads(rng.randrange(1, 4))
    files = [name for name in sorted(os.listdir("cut")) if name.endswith(".safetensors")]
    file = os.path.join("cut", rng.choice(files))
    # Between the end of a file and that of its page the system gives zeros, and says nothing.
    os.truncate(file, rng.randrange(os.path.getsize(file)) // 4096 * 4096)
    lost = False
    for _ in range(4):
        ids = np.array([rng.randrange(len(rows)) for _ in range(rng.choice([1, 50, 5000]))])
        what = rng.choice(["lookup", "pool", "write", "update"])
        try:
            if what == "lookup":
                assert np.array_equal(table.lookup(ids), rows[ids])
                assert not lost
            elif what == "pool":
                assert np.array_equal(table.pool(ids.reshape(-1, 1)), rows[ids])
                assert not lost
            elif what == "write" and mode != "r":
                table.write(ids, rows[ids])
            elif what == "update" and mode != "r":
                table.update(ids, np.zeros((len(ids), 16), np.float32), optimizers.Adagrad())
        except shardwise.StoreError as error:
            lost |= what in ("lookup", "pool")
            assert "cut short" in str(error) or "broken" in str(error), error
            add("call on a file that was cut is refused")
        else:
            add("call on a file that was cut gives the rows that it has")
    try:
        table.close()
    except OSError:
        pass
print(done)
"""
)


def add_counts(run: Run, printed: str) -> None:
    for what, times in eval(printed.strip().splitlines()[-1]).items():
        run.count(what, times)


def little_memory(run: Run, seed: int) -> None:
    folder = run.folder / f"memory{seed}"
    folder.mkdir()
    # Python's own threads would take 64 MB of addresses each, at moments of their own.
    printed = python(MEMORY, seed, 25 if run.is_short else 100, folder=folder, MALLOC_ARENA_MAX="1")
    add_counts(run, printed)


def mounting() -> str | None:
    """What lets a process mount a tmpfs that nobody else sees; None where nothing does."""
    for before in ("unshare -m", "unshare -Urm"):
        if shutil.which("unshare") and shutil.which("mount"):
            tried = [*before.split(), "mount", "-t", "tmpfs", "none", "/mnt"]
            if subprocess.run(tried, capture_output=True).returncode == 0:
                return before
    return None


def full_disk(run: Run, seed: int) -> None:
    folder = run.folder / f"disk{seed}"
    folder.mkdir()
    before = mounting()
    count = 12 if run.is_short else 60
    if before is None:
        run.notes.append("no tmpfs may be mounted: files may only be so large (RLIMIT_FSIZE)")
        add_counts(run, python(DISK, seed, count, folder, "limit", folder=folder))
        return
    mount = "import os, subprocess, sys\n"
    mount += "command = ['mount', '-t', 'tmpfs', '-o', 'size=6m', 'none', sys.argv[3]]\n"
    mount += "subprocess.run(command, check=True)\n"
    printed = python(mount + DISK, seed, count, folder, "tmpfs", folder=folder, before=before)
    add_counts(run, printed)


def cut_files(run: Run, seed: int) -> None:
    folder = run.folder / f"cut{seed}"
    folder.mkdir()
    add_counts(run, python(CUT, seed, 20 if run.is_short else 200, folder=folder))


def read_only(run: Run, seed: int) -> None:
    folder = run.folder / f"locked{seed}"
    folder.mkdir()
    for above in (run.folder, folder):
        above.chmod(0o755)
    add_counts(run, python(READ_ONLY, seed, folder=folder))
    for place in [folder / "locked", *(folder / "locked").iterdir()]:
        place.chmod(0o755)  # for who takes the folder away


def run(run: Run) -> None:
    if sys.platform == "win32":
        run.notes.append("limits of a process are asked of POSIX; nothing was done")
        return
    seed = run.seed
    while True:
        if Path("/proc/self/statm").exists():
            little_memory(run, seed)
        full_disk(run, seed)
        read_only(run, seed)
        cut_files(run, seed)
        seed += 1
        if not run.goes_on():
            return
