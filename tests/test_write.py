"""Tables that change: `write` in memory and on disk, the modes of `open`, `prefetch`."""

import errno
import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shardwise import (
    IdOutOfRangeError,
    IdTypeError,
    OptionError,
    Partition,
    StoreError,
    Table,
    TableError,
    store,
)
from shardwise.store import _verify

PARTITIONS = [
    Partition.mod(20, 1),
    Partition.mod(20, 3),
    Partition.div(20, 3),
    Partition.ranges([0, 0, 5, 20]),
    Partition.mod(20, 33),
]
FILES = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)


def start(partition, tail=(3,), dtype=np.float32):
    size = partition.num_rows * int(np.prod(tail))
    return np.arange(size).reshape(partition.num_rows, *tail).astype(dtype)


def on_disk(path, array, partition, mode):
    Table.from_array(array, partition=partition).save(path, overwrite=True)
    return Table.open(path, mode)


# ---- write ----


@FILES
@given(st.data())
def test_write_equals_assignment(tmp_path, data):
    partition = data.draw(st.sampled_from(PARTITIONS))
    kind = data.draw(st.sampled_from(["memory", "r+", "c"]))
    array = start(partition)
    shape = data.draw(st.sampled_from([(), (0,), (1,), (7,), (2, 3)]))
    size = int(np.prod(shape))
    dtype = data.draw(st.sampled_from([np.int64, np.uint8, np.int32, np.uint64, ">i4"]))
    ids = np.array(data.draw(st.lists(st.integers(0, 19), min_size=size, max_size=size)), dtype)
    ids = ids.reshape(shape)
    rows = np.random.default_rng(size).random((*shape, 3)).astype(np.float32)
    if kind == "memory":
        table = Table.from_array(array.copy(), partition=partition, copy=True)
    else:
        table = on_disk(tmp_path / "t", array, partition, kind)
    with table:
        table.write(ids, rows)
        expected = array.copy()
        for i, row in zip(ids.reshape(-1), rows.reshape(-1, 3), strict=True):
            expected[i] = row  # in order: the last of equal ids stays
        everything = table.lookup(np.arange(20))
        assert np.array_equal(everything, expected)
    if kind == "r+":
        assert np.array_equal(Table.open(tmp_path / "t").lookup(np.arange(20)), expected)
    if kind == "c":
        assert np.array_equal(Table.open(tmp_path / "t", verify=True).lookup(np.arange(20)), array)


@pytest.mark.parametrize("mode", ["memory", "r+"])
@pytest.mark.parametrize(
    ("dtype", "tail"),
    [
        (np.float64, (2, 2)),
        (np.float16, (5,)),
        (ml_dtypes.bfloat16, (5,)),
        (np.int8, ()),
        (np.uint16, (1, 0)),
        (np.bool_, (3,)),
        (np.float32, (3000,)),  # rows that go over pages
    ],
)
def test_every_dtype_and_shape(tmp_path, mode, dtype, tail):
    partition = Partition.div(20, 3)
    array = (start(partition, tail, np.float64) % 100).astype(dtype)
    table = (
        Table.from_array(array.copy(), partition=partition)
        if mode == "memory"
        else on_disk(tmp_path / "t", array, partition, mode)
    )
    with table:
        table.write([19, 0, 7], array[[1, 2, 3]])
        expected = array.copy()
        expected[[19, 0, 7]] = array[[1, 2, 3]]
        found = table.lookup(np.arange(20))
        assert found.tobytes() == expected.tobytes()


def test_large_writes_on_threads(tmp_path):
    rng = np.random.default_rng(5)
    array = rng.random((5000, 16))
    ids = rng.integers(0, 5000, 40_000)
    rows = rng.random((40_000, 16))
    expected = array.copy()
    expected[ids[::-1]] = rows[::-1]  # NumPy writes in order too, but does not promise it
    last = {int(i): k for k, i in enumerate(ids)}
    for i, k in last.items():
        expected[i] = rows[k]
    memory = Table.from_array(array, shards=7, copy=True)
    disk = on_disk(tmp_path / "t", array, Partition.mod(5000, 7), "r+")
    for table in (memory, disk):
        table.write(ids, rows)
        assert np.array_equal(table.lookup(np.arange(5000)), expected)
    disk.close()


def test_broadcast_and_casts():
    table = Table.from_array(np.zeros((4, 2), np.float32))
    table.write([0, 1], 7)
    table.write([1], [1.5, 2.5])
    table.write(2, np.array([3, 4], np.int8))
    table.write([], np.empty((0, 2)))
    assert table.lookup([0, 1, 2, 3]).tolist() == [[7, 7], [1.5, 2.5], [3, 4], [0, 0]]
    whole = Table.from_array(np.zeros((4, 2), np.uint8))
    whole.write([0], [[200, 3]])  # Python's numbers, which fit
    assert whole.lookup(0).tolist() == [200, 3]
    small = Table.from_array(np.zeros((4, 2), ml_dtypes.bfloat16))
    small.write([0], np.array([1.5, 2.5]))
    assert small.lookup(0).tolist() == [1.5, 2.5]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (np.zeros((2, 3), np.float32), "expected rows of shape .2, 2., got .2, 3."),
        (np.zeros((3, 2, 2), np.float32), "expected rows of shape"),
        (np.zeros((2, 2), np.complex64), "expected rows of float32.*got complex64"),
        ([["a", "b"]], "expected rows of float32"),
        ([[1.0], [1.0, 2.0]], "expected rows"),
        (np.array([[None, 1]]), "got object"),
    ],
)
def test_rows_that_do_not_fit(rows, message):
    table = Table.from_array(np.ones((4, 2), np.float32))
    with pytest.raises(TableError, match=message):
        table.write([0, 1], rows)
    assert (table.lookup(np.arange(4)) == 1).all()


@pytest.mark.parametrize("dtype", [np.uint8, np.int32])
@pytest.mark.parametrize("rows", [[[1.5, 2.0]], [[300.0, 1]], [[2**40, 1]]])
def test_values_that_would_be_cut(dtype, rows):
    table = Table.from_array(np.ones((4, 2), dtype))
    with pytest.raises(TableError, match="expected rows of"):
        table.write([0], rows)
    assert (table.lookup(np.arange(4)) == 1).all()


@pytest.mark.parametrize(("dtype", "value"), [(np.float16, 1e6), (np.float32, 1e300)])
def test_values_that_would_become_infinite(dtype, value):
    table = Table.from_array(np.ones((4, 2), dtype))
    with pytest.raises(TableError, match="can hold but for rounding"):
        table.write([0], [[value, 1]])
    assert (table.lookup(np.arange(4)) == 1).all()
    table.write([0], [[np.inf, np.nan]])
    assert np.array_equal(table.lookup(0), [np.inf, np.nan], equal_nan=True)


@pytest.mark.parametrize("mode", ["memory", "r+", "c"])
@pytest.mark.parametrize("bad", [-1, 20, 2**63 - 1, -(2**63)])
def test_an_id_outside_changes_nothing(tmp_path, mode, bad):
    array = start(PARTITIONS[1])
    table = (
        Table.from_array(array.copy(), partition=PARTITIONS[1])
        if mode == "memory"
        else on_disk(tmp_path / "t", array, PARTITIONS[1], mode)
    )
    with table:
        with pytest.raises(IdOutOfRangeError, match=rf"ids\[2\] = {bad}"):
            table.write([0, 1, bad, 3], np.zeros((4, 3)))
        with pytest.raises(IdOutOfRangeError, match=str(2**64 - 1)):
            table.write(np.array([0, 2**64 - 1], np.uint64), np.zeros((2, 3)))
        with pytest.raises(IdTypeError):
            table.write([0.5], np.zeros((1, 3)))
        assert np.array_equal(table.lookup(np.arange(20)), array)


def test_rows_of_the_table_itself():
    array = start(PARTITIONS[0])
    expected = array.copy()
    expected[1:20] = array[0:19]
    table = Table.from_array(array)
    table.write(np.arange(1, 20), array[0:19])
    assert np.array_equal(table.lookup(np.arange(20)), expected)


def test_read_only_tables(tmp_path):
    array = start(PARTITIONS[1])
    on_disk(tmp_path / "t", array, PARTITIONS[1], "r")
    table = Table.open(tmp_path / "t")
    with pytest.raises(
        TableError, match=r"read-only one; open it with Table.open\(path, \"r\+\"\)"
    ):
        table.write(0, 1)
    array.flags.writeable = False
    with pytest.raises(TableError, match="read-only one; make it of arrays"):
        Table.from_array(array, shards=3).write(0, 1)
    table.flush()
    table.close()
    assert table.lookup(3).tolist() == [9, 10, 11]


# ---- modes ----


def test_modes(tmp_path):
    array = start(PARTITIONS[1])
    assert Table.from_array(array).mode == "memory"
    assert Table.from_array(array).describe()["mode"] == "memory"
    on_disk(tmp_path / "t", array, PARTITIONS[1], "r")
    for mode in ("r", "r+", "c"):
        with Table.open(tmp_path / "t", mode, verify=True) as table:
            assert table.mode == table.describe()["mode"] == mode
    for mode in ("w", "", None, 3, ["r"]):
        with pytest.raises(OptionError, match="expected mode as one of 'r', 'r\\+', 'c', got"):
            Table.open(tmp_path / "t", mode)


def test_readers_see_what_is_written_in_place(tmp_path):
    array = start(PARTITIONS[2])
    with on_disk(tmp_path / "t", array, PARTITIONS[2], "r+") as writer:
        reader = Table.open(tmp_path / "t")
        copy = Table.open(tmp_path / "t", "c")
        copy.write([4], 99)
        writer.write([4, 5], 7)
        assert (reader.lookup([4, 5]) == 7).all()
        assert (copy.lookup(4) == 99).all()
        writer.flush()
    assert not any("writing" in name for name in os.listdir(tmp_path / "t"))


def test_checksums_are_forgotten_before_the_first_change(tmp_path):
    array = start(PARTITIONS[1])
    table = on_disk(tmp_path / "t", array, PARTITIONS[1], "r+")
    assert None not in digests(tmp_path / "t")
    table.lookup([1])
    with pytest.raises(IdOutOfRangeError):
        table.write([99], 1)
    table.write([], np.empty((0, 3)))
    table.write([0], 1)
    assert digests(tmp_path / "t") == [None] * 3
    table.close()
    assert {one.state for one in store.verify_table(tmp_path / "t")} == {"unknown"}
    store.update_checksums(tmp_path / "t")
    assert None not in digests(tmp_path / "t")
    assert (Table.open(tmp_path / "t", verify=True).lookup(0) == 1).all()


def test_one_writer_at_a_time(tmp_path):
    array = start(PARTITIONS[1])
    table = on_disk(tmp_path / "t", array, PARTITIONS[1], "r+")
    message = rf"got process {os.getpid()}; it is this one"
    with pytest.raises(StoreError, match=message):
        Table.open(tmp_path / "t", "r+")
    with pytest.raises(StoreError, match=message):
        Table.from_array(array).save(tmp_path / "t", overwrite=True)
    code = f"from shardwise import Table; Table.open({str(tmp_path / 't')!r}, 'r+')"
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert f"got process {os.getpid()}; wait until it is done" in other.stderr
    table.close()
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
    with pytest.raises(StoreError, match="got one that was closed"):
        table.write([0], 1)
    table.close()
    assert np.array_equal(table.lookup([3]), array[[3]])
    second = Table.open(tmp_path / "t", "r+")
    del second  # not closed, and not used any more
    Table.open(tmp_path / "t", "r+").close()


def test_a_killed_writer_holds_nothing(tmp_path):
    on_disk(tmp_path / "t", start(PARTITIONS[1]), PARTITIONS[1], "r")
    code = (
        "import os, signal; from shardwise import Table\n"
        f"table = Table.open({str(tmp_path / 't')!r}, 'r+')\n"
        "table.write([0], 5)\nos.kill(os.getpid(), signal.SIGKILL)"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == -signal.SIGKILL
    with Table.open(tmp_path / "t", "r+") as table:
        assert (table.lookup(0) == 5).all()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_child_leaves_its_parents_lock_alone(tmp_path):
    table = on_disk(tmp_path / "t", start(PARTITIONS[1]), PARTITIONS[1], "r+")
    child = multiprocessing.get_context("fork").Process(target=table.write, args=([2], 8))
    child.start()
    child.join()
    assert child.exitcode == 0
    assert (table.lookup(2) == 8).all()
    with pytest.raises(StoreError, match="it is this one"):
        Table.open(tmp_path / "t", "r+")
    table.write([3], 9)
    table.close()
    Table.open(tmp_path / "t", "r+").close()


def digests(path):
    manifest = json.loads((path / "shardwise.json").read_text())
    return [shard["xxh128"] for shard in manifest["shards"]]


def test_many_threads_write_first_at_once(tmp_path):
    for _ in range(5):
        table = on_disk(tmp_path / "t", start(PARTITIONS[1]), PARTITIONS[1], "r+")
        barrier = threading.Barrier(4)

        def write(k, table=table, barrier=barrier):
            barrier.wait()
            table.write(np.arange(k, 20, 4), k)

        with ThreadPoolExecutor(4) as pool:
            list(pool.map(write, range(4)))
        assert digests(tmp_path / "t") == [None] * 3
        assert (table.lookup(np.arange(20)) == (np.arange(20) % 4)[:, None]).all()
        table.close()


class SlowRows:
    """Rows whose writing takes until it is told to end."""

    def __init__(self):
        self.begun, self.end = threading.Event(), threading.Event()

    def write_files(self, ids, values, files):
        for descriptor, _ in files:
            os.fstat(descriptor)
        self.begun.set()
        assert self.end.wait(60)
        for descriptor, _ in files:
            os.fstat(descriptor)


def test_close_waits_for_a_write(tmp_path):
    table = on_disk(tmp_path / "t", start(PARTITIONS[1]), PARTITIONS[1], "r+")
    rows = SlowRows()
    with ThreadPoolExecutor(2) as pool:
        writing = pool.submit(table._files.write, rows, np.zeros(1, np.int64), None)
        assert rows.begun.wait(60)
        closing = pool.submit(table.close)
        time.sleep(0.05)
        assert not closing.done()  # its descriptors may be other files' after that
        rows.end.set()
        writing.result()
        closing.result()
    Table.open(tmp_path / "t", "r+").close()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_child_does_not_wait_for_a_thread_that_it_has_not(tmp_path):
    table = on_disk(tmp_path / "t", start(PARTITIONS[1]), PARTITIONS[1], "r+")
    rows = SlowRows()
    with ThreadPoolExecutor(1) as pool:
        writing = pool.submit(table._files.write, rows, np.zeros(1, np.int64), None)
        assert rows.begun.wait(60)
        child = multiprocessing.get_context("fork").Process(target=table.write, args=([2], 8))
        child.start()
        child.join(60)
        code = child.exitcode
        child.kill()
        rows.end.set()
        writing.result()
    assert code == 0
    assert (table.lookup(2) == 8).all()
    table.close()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_child_that_writes_when_its_parent_is_done_leaves_no_wrong_checksum(tmp_path):
    table = on_disk(tmp_path / "t", start(PARTITIONS[1]), PARTITIONS[1], "r+")
    table.write([1], 5)
    context = multiprocessing.get_context("fork")
    go = context.Event()

    def write():
        assert go.wait(60)
        table.write([2], 8)

    child = context.Process(target=write)
    child.start()
    table.close()
    store.update_checksums(tmp_path / "t")
    go.set()
    child.join()
    assert child.exitcode == 0
    assert digests(tmp_path / "t") == [None] * 3


@pytest.mark.skipif(sys.platform == "win32", reason="needs links")
def test_a_link_that_is_moved_meanwhile(tmp_path):
    for name in ("one", "two"):
        on_disk(tmp_path / name, start(PARTITIONS[1]), PARTITIONS[1], "r")
    (tmp_path / "now").symlink_to("one")
    with Table.open(tmp_path / "now", "r+") as table:
        (tmp_path / "now").unlink()
        (tmp_path / "now").symlink_to("two")
        table.write([2], 8)
    assert digests(tmp_path / "one") == [None] * 3
    assert {one.state for one in store.verify_table(tmp_path / "two")} == {"ok"}
    # Two dots lead up from where the link leads to.
    (tmp_path / "deep" / "er").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "deep" / "er")
    Table.from_array(start(PARTITIONS[1])).save(f"{tmp_path}/link/../t")
    assert len(Table.open(tmp_path / "deep" / "t", "r+")) == 20


def test_the_mark_of_another_directory_stays(tmp_path):
    old = on_disk(tmp_path / "t", start(PARTITIONS[1]), PARTITIONS[1], "r+")
    shutil.rmtree(tmp_path / "t")
    new = on_disk(tmp_path / "t", start(PARTITIONS[2]), PARTITIONS[2], "r+")
    old.close()
    with pytest.raises(StoreError, match="it is this one"):
        Table.open(tmp_path / "t", "r+")
    new.close()
    assert ".shardwise-writing" not in os.listdir(tmp_path / "t")


@pytest.mark.skipif(sys.platform == "win32", reason="needs flock")
def test_a_writer_that_finishes_just_now(tmp_path, monkeypatch):
    import fcntl

    flock = fcntl.flock
    left = [3]

    def late(file, how):
        if left[0]:
            left[0] -= 1
            os.unlink(tmp_path / "t" / ".shardwise-writing")
        flock(file, how)

    on_disk(tmp_path / "t", start(PARTITIONS[1]), PARTITIONS[1], "r")
    monkeypatch.setattr(fcntl, "flock", late)
    with Table.open(tmp_path / "t", "r+"), pytest.raises(StoreError, match="it is this one"):
        Table.open(tmp_path / "t", "r+")
    assert left == [0]

    def without(file, how):
        raise OSError(errno.ENOSYS, "no locks here")

    monkeypatch.setattr(fcntl, "flock", without)
    Table.open(tmp_path / "t", "r+").close()


def test_a_disk_that_fails_ends_the_writing_too(tmp_path, monkeypatch):
    table = on_disk(tmp_path / "t", start(PARTITIONS[1]), PARTITIONS[1], "r+")
    table.write([0], 5)

    def fail(descriptor):
        raise OSError(errno.EIO, "the disk failed")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fail)
        with pytest.raises(OSError, match="the disk failed"):
            table.close()
    Table.open(tmp_path / "t", "r+").close()


def test_verified_while_it_is_changed_and_given_new_checksums(tmp_path):
    on_disk(tmp_path / "t", start(PARTITIONS[1]), PARTITIONS[1], "r")
    before = store.open_table(tmp_path / "t").manifest
    with Table.open(tmp_path / "t", "r+") as table:
        table.write([0], 5)
    store.update_checksums(tmp_path / "t")
    path = str(tmp_path / "t")
    found = _verify.check_files(path, before.data_files(), None)
    assert {one.state for one in found} == {"ok", "damaged"}
    settled = _verify._settle(path, before, found)
    assert {one.state for one in settled} == {"ok", "unknown"}


@pytest.mark.skipif(sys.platform != "linux", reason="other systems may refuse such maps")
def test_a_private_copy_of_a_table_larger_than_memory(tmp_path):
    Table.create(tmp_path / "t", 10**10, 64, "float32", shards=2).close()
    table = Table.open(tmp_path / "t", "c")
    table.write([5, 10**10 - 1], [[1], [2]])
    assert table.lookup([5, 6, 10**10 - 1])[:, 0].tolist() == [1, 0, 2]
    assert (Table.open(tmp_path / "t").lookup([5, 10**10 - 1]) == 0).all()


FULL = """
import errno, sys
from shardwise import Table
table = Table.create(sys.argv[1] + "/t", 1_000_000, 64)
table.write(range(100), 1)
try:
    table.write(range(0, 1_000_000, 100), 2)
except OSError as error:
    assert error.errno == errno.ENOSPC, error
    rows = table.lookup(range(100))
    print("told", sorted(set(rows.ravel())))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="needs Linux's mount namespaces")
def test_a_full_disk_is_an_error_and_not_the_end(tmp_path):
    # A file system of 2 MB, with a sparse table of 256 MB on it.
    command = (
        f"mount -t tmpfs -o size=2m none {tmp_path} && exec {sys.executable} -c '{FULL}' {tmp_path}"
    )
    done = subprocess.run(["unshare", "-rm", "sh", "-c", command], capture_output=True, text=True)
    if "unshare" in done.stderr or "mount" in done.stderr:
        pytest.skip("this machine lets nobody mount a file system")
    assert done.stdout.startswith("told"), done.stderr


KILLED = """
import sys, numpy as np
from shardwise import Table
table = Table.open(sys.argv[1], "r+")
ids = np.random.default_rng(int(sys.argv[2])).permutation(len(table))
print("ready", flush=True)
value = 0
while True:
    value += 1
    table.write(ids, np.full((len(ids), table.shape[1]), value, np.float32))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="needs SIGKILL")
def test_a_killed_write_tears_no_row_within_a_page(tmp_path):
    rng = np.random.default_rng(3)
    columns = 128  # 512 bytes: no row goes over a page
    for turn in range(12):
        Table.create(tmp_path / "t", 4000, columns, shards=3, overwrite=True).close()
        child = subprocess.Popen(
            [sys.executable, "-c", KILLED, str(tmp_path / "t"), str(turn)], stdout=subprocess.PIPE
        )
        child.stdout.readline()
        time.sleep(rng.random() * 0.05)
        child.kill()
        child.wait()
        child.stdout.close()
        rows = Table.open(tmp_path / "t").lookup(np.arange(4000))
        assert (rows == rows[:, :1]).all()
        assert len(np.unique(rows)) <= 2  # one pass over the table, and the one before


# ---- prefetch ----


def test_prefetch_takes_any_ids(tmp_path):
    array = start(PARTITIONS[1])
    Table.from_array(array).prefetch([1, 99])
    with on_disk(tmp_path / "t", array, PARTITIONS[1], "r+") as table:
        for ids in ([], 3, [[1, 2], [3, 4]], [-1, 20, 2**62], np.arange(20, dtype=np.uint8)):
            table.prefetch(ids)
        with pytest.raises(IdTypeError):
            table.prefetch(["a"])
        assert np.array_equal(table.lookup(np.arange(20)), array)


@pytest.mark.skipif(not hasattr(os, "posix_fadvise"), reason="needs posix_fadvise")
def test_lookups_of_what_the_system_forgot(tmp_path):
    rng = np.random.default_rng(1)
    array = rng.random((50_000, 64), dtype=np.float32)
    Table.from_array(array, shards=3).save(tmp_path / "t")
    for count in (1, 100, 20_000, 40_000):
        forget(tmp_path / "t")  # which the system does only while nobody has the pages mapped
        table = Table.open(tmp_path / "t")
        ids = rng.integers(0, 50_000, count)
        if count == 100:
            table.prefetch(ids)
        assert np.array_equal(table.lookup(ids), array[ids])
        del table
        forget(tmp_path / "t")
        table = Table.open(tmp_path / "t")
        ids[-1] = 50_000
        with pytest.raises(IdOutOfRangeError, match=rf"ids\[{count - 1}\] = 50000"):
            table.lookup(ids)
        assert (table.lookup(ids, out_of_range="zeros")[-1] == 0).all()
        del table


@pytest.mark.skipif(not hasattr(os, "posix_fadvise"), reason="the system cannot forget pages")
@pytest.mark.parametrize("dtype", [None, "float16", "bfloat16", "float64"])
@pytest.mark.parametrize("row_format", [None, "int8", "int4"])
def test_rows_from_the_disk_in_another_format_lie_where_they_belong(tmp_path, row_format, dtype):
    # Of more ids than are read ahead at once, whose results are longer or shorter than the rows.
    rows = np.random.default_rng(2).random((3000, 20), np.float32)
    table = Table.from_array(rows, 3)
    table = table if row_format is None else table.quantize(row_format)
    table.save(tmp_path / "t")
    ids = np.random.default_rng(3).integers(0, 3000, 40_000)
    wanted = table.lookup(ids, dtype=dtype)
    for out in (None, np.empty_like(wanted)):
        forget(tmp_path / "t")
        found = Table.open(tmp_path / "t").lookup(ids, dtype=dtype, out=out)
        assert found.tobytes() == wanted.tobytes()


def forget(path: Path) -> None:
    for file in path.iterdir():
        descriptor = os.open(file, os.O_RDONLY)
        os.fsync(descriptor)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)
