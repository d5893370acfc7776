"""Writing a table that fails or is killed leaves what was there."""

import builtins
import os
import subprocess
import sys

import numpy as np
import pytest
from stored import MANIFEST, assert_same, files_of, make_array, manifest_of, write

from shardwise import (
    OptionError,
    Partition,
    StoreError,
    Table,
    TableError,
    TableNotFoundError,
    Vocabulary,
)


def raising(error):
    def generate(array):
        yield array[:2]
        raise error

    return generate


def stop(done, total):
    raise KeyboardInterrupt


FAILURES = {
    "an error in the blocks": ({"blocks": raising(OSError("gone"))}, OSError),
    "Ctrl-C in the blocks": ({"blocks": raising(KeyboardInterrupt())}, KeyboardInterrupt),
    "Ctrl-C in progress": ({"progress": stop}, KeyboardInterrupt),
    "too few rows": ({"blocks": lambda a: [a[:3]]}, TableError),
    "no rows": ({"blocks": lambda a: []}, TableError),
    "too many rows": ({"blocks": lambda a: [a, a[:1]]}, TableError),
    "rows too wide": ({"blocks": lambda a: [a[:2], np.ones((2, 3))]}, TableError),
    "rows of another rank": ({"blocks": lambda a: [a.ravel()]}, TableError),
    "another partition": ({"partition": Partition.mod(9, 2)}, TableError),
    "too many tokens": ({"vocabulary": Vocabulary([*"abcdefg"])}, TableError),
    "no dtype": ({"dtype": "object"}, StoreError),
    "a dtype in NumPy's small language": ({"dtype": "(1e,)f4"}, StoreError),
    "a dtype in no language": ({"dtype": "\ud800"}, StoreError),
    "no form on disk": ({"dtype": "complex64"}, StoreError),
    "fractions cut off": ({"dtype": "int8"}, OptionError),
    "metadata of no JSON": ({"metadata": {"a": {1, 2}}}, OptionError),
    "metadata not a number": ({"metadata": {"a": float("nan")}}, OptionError),
    "metadata no object": ({"metadata": 3}, OptionError),
}


@pytest.mark.parametrize("name", FAILURES)
def test_a_failure_leaves_what_was_there(tmp_path, name):
    options, error = FAILURES[name]
    array = make_array((6, 2))

    def attempt(path):
        mine = {"blocks": options["blocks"](array)} if "blocks" in options else {}
        with pytest.raises(error):
            write(path, array, overwrite=True, **options | mine)

    attempt(tmp_path / "new")
    assert not (tmp_path / "new").exists()
    (tmp_path / "empty").mkdir()
    attempt(tmp_path / "empty")
    assert files_of(tmp_path / "empty") == {}
    write(tmp_path / "old", make_array((3, 3)))
    before = files_of(tmp_path / "old")
    attempt(tmp_path / "old")
    assert files_of(tmp_path / "old") == before
    assert_same(Table.open(tmp_path / "old"), make_array((3, 3)))


@pytest.mark.parametrize("call", range(1, 40))
def test_a_disk_that_fails_leaves_what_was_there(tmp_path, monkeypatch, call):
    # Every open, sync and rename of a write fails once.
    write(tmp_path / "t", make_array((3, 3)))
    before = files_of(tmp_path / "t")
    calls = 0

    def failing(function):
        def run(*args, **kwargs):
            nonlocal calls
            calls += 1
            if calls == call:
                raise OSError(28, "No space left on device")
            return function(*args, **kwargs)

        return run

    with monkeypatch.context() as patch:
        patch.setattr(builtins, "open", failing(open))
        for name in ("fsync", "replace"):
            patch.setattr(os, name, failing(getattr(os, name)))
        try:
            write(tmp_path / "t", make_array((4, 2)), overwrite=True)
            failed = False
        except OSError:
            failed = True
    assert failed == (call <= calls)
    found = Table.open(tmp_path / "t")
    if failed and manifest_of(tmp_path / "t")["generation"] == 1:
        assert files_of(tmp_path / "t") == before
        assert_same(found, make_array((3, 3)))
    else:  # it failed after the table was put in its place
        assert_same(found, make_array((4, 2)))
    assert len(files_of(tmp_path / "t")) == 3


def run_python(code, *args, **options):
    command = [sys.executable, "-c", code, *map(str, args)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, **options)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_two_writers(tmp_path):
    code = """
import sys, numpy, shardwise
try:
    shardwise.Table.from_array(numpy.ones((2, 2))).save(sys.argv[1], overwrite=True)
except shardwise.StoreError as error:
    print(error)
"""
    array = make_array((4, 2))
    told = []

    def blocks():
        yield array[:2]
        told.append(run_python(code, tmp_path / "t"))
        with pytest.raises(StoreError, match=f"process {os.getpid()}"):  # nor in this process
            write(tmp_path / "t", array, overwrite=True)
        yield array[2:]

    write(tmp_path / "t", array, blocks=blocks())
    assert f"expected no other writer at {tmp_path / 't'}, got process {os.getpid()}" in told[0]
    assert_same(Table.open(tmp_path / "t"), array)
    assert len(files_of(tmp_path / "t")) == 3


def test_what_a_killed_writer_left_is_no_table_and_no_hindrance(tmp_path):
    write(tmp_path / "t", make_array((4, 2)))
    path = tmp_path / "t"
    (path / MANIFEST).rename(path / "shardwise.json.new")
    (path / ".shardwise-writing").write_text("1")
    with pytest.raises(TableNotFoundError, match=r"without shardwise\.json"):
        Table.open(path)
    write(path, make_array((6, 3)), partition=Partition.mod(6, 1))
    assert_same(Table.open(path), make_array((6, 3)))
    assert len(files_of(path)) == 2
