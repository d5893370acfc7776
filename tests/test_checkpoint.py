"""Checkpoints: a chain of a base and of what changed, restored to the same bits."""

import contextlib
import json
import os
import random
import shutil
import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from shardwise import (
    Partition,
    StoreError,
    Table,
    TableExistsError,
    TableNotFoundError,
    _native,
    store,
)
from shardwise._update import Checked
from shardwise.cli import app
from shardwise.optimizers import SGD, Adagrad, Adam, AdamW, Ftrl, RMSprop, RowwiseAdagrad

OPTIMIZERS = [
    SGD(0.1),
    SGD(0.1, momentum=0.9),
    Adagrad(0.1, initial_accumulator_value=0.5),
    RowwiseAdagrad(0.1),
    RMSprop(0.01),
    Adam(0.01),
    Adam(0.01, corrected=True),
    AdamW(0.01),
    Ftrl(0.1),
]
ROWS, DIM = 8000, 5
CUTS = [
    Partition.mod(ROWS, 3),
    Partition.div(ROWS, 7),
    Partition.ranges([0, 0, 11, 1500, ROWS]),
    Partition.mod(ROWS, 1),
]


def fresh(dtype="float32", partition=CUTS[0]):
    if dtype == "bfloat16":
        import ml_dtypes

        dtype = ml_dtypes.bfloat16
    rows = np.random.default_rng(1).standard_normal((ROWS, DIM)).astype(dtype)
    return Table.from_array(rows, partition=partition, copy=True)


def steps(count, seed=0, low=0, high=ROWS):
    rng = np.random.default_rng(seed)
    return [(rng.integers(low, high, 40), rng.standard_normal((40, DIM))) for _ in range(count)]


def train(table, optimizer, batches):
    for ids, gradients in batches:
        table.update(ids, gradients, optimizer)


def contents(table):
    found = {"": [table._stored().lookup(np.arange(len(table))).tobytes()]}
    for name, arrays in table.optimizer_state.items():
        found[name] = [(a.dtype, a.tobytes()) for a in arrays]
    return found, table.optimizer_step, table.partition, table.row_format


def chain_of(path):
    found = store.describe_checkpoint(path)
    assert found is not None
    return found


def assert_restores(checkpoint, expected, tmp_path):
    with Table.restore(checkpoint, tmp_path / "restored", overwrite=True) as table:
        assert contents(table) == contents(expected)
    assert {one.state for one in store.verify_table(tmp_path / "restored")} == {"ok"}
    names = {".shardwise-writing"}
    chain = chain_of(checkpoint)
    names = {"checkpoint.json", chain["base"]["directory"], *(d["file"] for d in chain["deltas"])}
    assert set(os.listdir(checkpoint)) == names


@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=lambda one: type(one).__name__)
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_a_chain_is_the_table(tmp_path, optimizer, dtype):
    kept = tmp_path / "kept"
    table, straight = fresh(dtype), fresh(dtype)
    train(straight, optimizer, steps(7) + steps(3, 8))
    train(table, optimizer, steps(1))
    table.checkpoint(kept)
    assert_restores(kept, table, tmp_path)
    for k in range(1, 7):
        train(table, optimizer, steps(7)[k : k + 1])
        table.checkpoint(kept)
        assert len(chain_of(kept)["deltas"]) == k
    assert chain_of(kept)["step"] == 7
    assert_restores(kept, table, tmp_path)
    # It goes on as if nothing had happened, and so do its checkpoints.
    with Table.restore(kept, tmp_path / "on") as on:
        train(on, optimizer, steps(3, 8)[:2])
        on.checkpoint(kept)
        assert [one["rows"] <= 80 for one in chain_of(kept)["deltas"]] == [True] * 7
        train(on, optimizer, steps(3, 8)[2:])
        assert contents(on) == contents(straight)
        on.checkpoint(kept)
        assert_restores(kept, straight, tmp_path)
    with pytest.raises(TableExistsError, match="not restored"):
        table.checkpoint(kept)  # another table went on with it
    assert_restores(kept, straight, tmp_path)


@pytest.mark.parametrize("cut", CUTS)
@pytest.mark.parametrize("in_place", [False, True])
def test_only_rows_that_changed_are_written(tmp_path, cut, in_place):
    kept = tmp_path / "kept"
    table = fresh(partition=cut)
    if in_place:
        table.save(tmp_path / "t")
        table = Table.open(tmp_path / "t", "r+")
    optimizer = Adam(0.01, corrected=True)
    train(table, optimizer, steps(1))
    table.checkpoint(kept)
    table.checkpoint(kept)
    table.write([5, 5, 7999], np.ones((3, DIM)))
    table.checkpoint(kept)
    table.update_pool([[1, 2], [7999, 8]], None, np.ones((2, DIM)), optimizer, frozen=slice(8, 9))
    table.checkpoint(kept)
    table.update([-1, 7, 7], np.ones((3, DIM)), optimizer, out_of_range="wrap", padding_id=7)
    table.checkpoint(kept)
    table.update([-1], np.ones((1, DIM)), optimizer, out_of_range="zeros")
    with pytest.raises(IndexError):
        table.update([4, ROWS], np.ones((2, DIM)), optimizer)
    with pytest.raises(IndexError):
        table.write([-1], np.ones((1, DIM)))
    table.checkpoint(kept)
    chain = chain_of(kept)
    assert [one["rows"] for one in chain["deltas"]] == [0, 2, 3, 1, 0]
    assert [one["step"] for one in chain["deltas"]] == [1, 1, 2, 3, 4]
    assert_restores(kept, table, tmp_path)


@given(data=st.data())
@settings(max_examples=25, deadline=None)
def test_any_history_of_changes(tmp_path_factory, data):
    tmp_path = tmp_path_factory.mktemp("chain")
    optimizer = data.draw(st.sampled_from(OPTIMIZERS))
    table = fresh(partition=data.draw(st.sampled_from(CUTS)))
    row = st.integers(0, ROWS - 1)
    for what in data.draw(st.lists(st.sampled_from("uuwwcccrgs"), max_size=12)):
        if what == "u":
            ids = data.draw(st.lists(row, max_size=9))
            table.update(ids, np.full((len(ids), DIM), 0.5), optimizer)
        elif what == "w":
            ids = data.draw(st.lists(row, max_size=9))
            table.write(ids, np.full((len(ids), DIM), data.draw(st.integers(0, 9)), np.float32))
        elif what == "c":
            table.checkpoint(tmp_path / "kept", whole=data.draw(st.integers(0, 5)) == 0)
        elif what == "r" and (tmp_path / "kept").exists():
            table.checkpoint(tmp_path / "kept")
            table.close()
            table = Table.restore(tmp_path / "kept", tmp_path / "t", overwrite=True)
        elif what == "g":
            table.reset_optimizer()
        elif what == "s":
            table.reset_optimizer()
            optimizer = data.draw(st.sampled_from(OPTIMIZERS))
    table.checkpoint(tmp_path / "kept")
    assert_restores(tmp_path / "kept", table, tmp_path)


def test_a_base_where_deltas_would_be_larger(tmp_path):
    table, kept = fresh(), tmp_path / "kept"
    train(table, RowwiseAdagrad(), steps(1))
    for k in range(130):
        train(table, RowwiseAdagrad(), steps(1, k))
        table.checkpoint(kept)
        chain = chain_of(kept)
        assert sum(one["bytes"] for one in chain["deltas"]) <= chain["base"]["bytes"]
    assert int(chain["base"]["directory"].split("-")[1]) > 3
    assert_restores(kept, table, tmp_path)
    table.checkpoint(kept, whole=True)
    assert chain_of(kept)["deltas"] == []
    assert_restores(kept, table, tmp_path)


def test_a_base_where_deltas_are_many(tmp_path):
    table, kept = Table.from_array(np.zeros((300_000, 1)), copy=True), tmp_path / "kept"
    table.checkpoint(kept)
    for k in range(256):
        table.write([k], [[k]])
        table.checkpoint(kept)
    assert len(chain_of(kept)["deltas"]) == 256
    assert_restores(kept, table, tmp_path)
    table.write([7], [[0]])
    table.checkpoint(kept)
    assert chain_of(kept)["base"]["directory"] == "base-2"
    assert_restores(kept, table, tmp_path)


@pytest.mark.parametrize("shape", [(0, 4), (5, 0), (7,), (3, 2, 2), (9, 1)])
def test_shapes_of_all_kinds(tmp_path, shape):
    table = Table.from_array(np.zeros(shape, np.float32), shards=2, copy=True)
    ids = np.arange(shape[0])[:2]
    for _ in range(3):
        table.update(ids, np.ones((len(ids), *shape[1:])), Adagrad())
        table.checkpoint(tmp_path / "kept")
    assert_restores(tmp_path / "kept", table, tmp_path)


@pytest.mark.parametrize("dtype", ["int64", "bool", ">f4", "float8_e4m3fn"])
def test_rows_that_are_only_written(tmp_path, dtype):
    if dtype.startswith("float8"):
        import ml_dtypes

        dtype = ml_dtypes.float8_e4m3fn
    table = Table.from_array(np.zeros((3000, 3), dtype), shards=2, copy=True)
    table.checkpoint(tmp_path / "kept")
    table.write([2, 2999], np.ones((2, 3), dtype))
    table.checkpoint(tmp_path / "kept")
    assert [one["rows"] for one in chain_of(tmp_path / "kept")["deltas"]] == [2]
    again = Table.restore(tmp_path / "kept", tmp_path / "t")
    ids = np.arange(3000)
    assert (again.lookup(ids).astype("f4") == table.lookup(ids).astype("f4")).all()


@pytest.mark.parametrize("row_format", ["int8", "int4"])
def test_packed_tables(tmp_path, row_format):
    made = Table.create(
        tmp_path / "t", 3000, 6, row_format=row_format, shards=3, initializer="normal"
    )
    with made as table:
        table.checkpoint(tmp_path / "kept")
        table.write([1, 2998], np.arange(12.0, dtype=np.float32).reshape(2, 6))
        table.checkpoint(tmp_path / "kept")
        assert [one["rows"] for one in chain_of(tmp_path / "kept")["deltas"]] == [2]
        assert_restores(tmp_path / "kept", table, tmp_path)


def test_tables_that_are_read_or_private(tmp_path):
    fresh().save(tmp_path / "t")
    for mode in ("r", "c"):
        table = Table.open(tmp_path / "t", mode)
        table.checkpoint(tmp_path / mode)
        if mode == "c":
            table.write([1], np.ones((1, DIM)))
        table.checkpoint(tmp_path / mode)
        assert len(chain_of(tmp_path / mode)["deltas"]) == 1
        assert_restores(tmp_path / mode, table, tmp_path)


def test_places_that_are_something_else(tmp_path):
    table, other = fresh(), fresh()
    table.save(tmp_path / "t")
    before = {path.name: path.read_bytes() for path in (tmp_path / "t").iterdir()}
    with pytest.raises(StoreError, match="got one that holds"):
        table.checkpoint(tmp_path / "t")
    assert {path.name: path.read_bytes() for path in (tmp_path / "t").iterdir()} == before
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").write_text("mine")
    with pytest.raises(StoreError, match="empty directory"):
        table.checkpoint(tmp_path / "full")
    with pytest.raises(StoreError, match="form on disk"):
        Table.from_array(np.zeros((3, 1), complex)).checkpoint(tmp_path / "new")
    assert not (tmp_path / "new").exists()
    table.checkpoint(tmp_path / "kept")
    with pytest.raises(TableExistsError, match="overwrite=True"):
        other.checkpoint(tmp_path / "kept")
    other.write([3], np.ones((1, DIM)))
    other.checkpoint(tmp_path / "kept", overwrite=True)
    with pytest.raises(TableExistsError):
        table.checkpoint(tmp_path / "kept")
    assert_restores(tmp_path / "kept", other, tmp_path)
    # Elsewhere, and back again.
    other.checkpoint(tmp_path / "elsewhere")
    with pytest.raises(TableExistsError):
        other.checkpoint(tmp_path / "kept")
    shutil.rmtree(tmp_path / "kept")
    other.checkpoint(tmp_path / "kept")
    assert_restores(tmp_path / "kept", other, tmp_path)
    with pytest.raises(StoreError, match=r"checkpoint.*Table\.restore"):
        Table.open(tmp_path / "kept")
    with pytest.raises(StoreError):
        table.save(tmp_path / "kept", overwrite=True)
    with pytest.raises(TableNotFoundError, match="expected a checkpoint"):
        Table.restore(tmp_path / "t", tmp_path / "u")
    with pytest.raises(TableExistsError):
        Table.restore(tmp_path / "kept", tmp_path / "t")
    assert not (tmp_path / "u").exists()


def test_words_and_metadata_stay_where_a_table_is_restored_over(tmp_path):
    from shardwise import Vectors, Vocabulary

    words = Vectors(fresh(), Vocabulary(f"w{i}" for i in range(ROWS)))
    words.save(tmp_path / "t", metadata={"of": "words"})
    with Table.open(tmp_path / "t", "r+") as table:
        table.checkpoint(tmp_path / "kept")
        table.write([1], np.zeros((1, DIM)))
    Table.restore(tmp_path / "kept", tmp_path / "t", overwrite=True).close()
    again = Vectors.open(tmp_path / "t")
    assert again.vocabulary == words.vocabulary
    assert (again["w1"] == words["w1"]).all()
    assert store.open_table(tmp_path / "t").manifest.metadata == {"of": "words"}


def test_an_error_on_the_way_changes_nothing(tmp_path, monkeypatch):
    from shardwise.store import _checkpoint

    table, kept = fresh(), tmp_path / "kept"
    train(table, Adagrad(), steps(1))
    table.checkpoint(kept)
    before, expected = sorted(os.listdir(kept)), contents(table)
    train(table, Adagrad(), steps(2, 1))

    def fails(*args):
        raise OSError(28, "No space left on device")

    real = _checkpoint.commit_text

    def commits_and_fails(*args):
        real(*args)
        raise OSError(5, "of the directory")

    for where, what in (("as_bytes", fails), ("commit_text", fails)):
        monkeypatch.setattr(_checkpoint, where, what)
        with pytest.raises(OSError, match="No space"):
            table.checkpoint(kept)
        monkeypatch.undo()
        assert sorted(os.listdir(kept)) == before
        assert contents(Table.restore(kept, tmp_path / where)) == expected
    monkeypatch.setattr(_checkpoint, "commit_text", commits_and_fails)
    with pytest.raises(OSError, match="of the directory"):
        table.checkpoint(kept)
    monkeypatch.undo()
    assert_restores(kept, table, tmp_path)
    train(table, Adagrad(), steps(2, 2))
    table.checkpoint(kept)
    assert [one["rows"] < 85 for one in chain_of(kept)["deltas"]] == [True, True]
    assert_restores(kept, table, tmp_path)


# ---- files that are not what they should be ----


def victim(tmp_path):
    table, kept = fresh(), tmp_path / "kept"
    for k in range(4):
        train(table, Adam(corrected=True), steps(1, k))
        table.checkpoint(kept)
    return kept, table


def rewritten(kept, change):
    content = json.loads((kept / "checkpoint.json").read_text())
    change(content)
    (kept / "checkpoint.json").write_text(json.dumps(content))


def forged(kept, k, change):
    """Change a delta, and the checksums after it, as one would who wants to."""
    import xxhash

    chain = json.loads((kept / "checkpoint.json").read_text())
    entry = chain["deltas"][k]
    data = bytearray((kept / entry["file"]).read_bytes())
    change(data)
    (kept / entry["file"]).write_bytes(data)
    entry["xxh128"], entry["bytes"] = xxhash.xxh3_128_hexdigest(bytes(data)), len(data)
    (kept / "checkpoint.json").write_text(json.dumps(chain))


def ids_at(data):
    return 8 + int.from_bytes(data[:8], "little")


def id_set(place, value):
    def change(data):
        at = ids_at(data) + 8 * place
        data[at : at + 8] = value.to_bytes(8, "little", signed=True)

    return change


def assert_refused(kept, tmp_path, match):
    with pytest.raises(StoreError, match=match):
        store.restore(kept, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    with pytest.raises(StoreError, match=match):
        Table.restore(kept, tmp_path / "out")


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda c: c["deltas"].reverse(), "follows"),
        (lambda c: c["deltas"].pop(0), "follows"),
        (lambda c: c["deltas"].append(c["deltas"][0]), "a file of its own"),
        (lambda c: c["deltas"][1].update(xxh128="0" * 32), "delta-1-00002"),
        (lambda c: c["deltas"][1].update(xxh128=None), "xxh128"),
        (lambda c: c["deltas"][1].update(bytes=7), "delta-1-00002"),
        (lambda c: c["deltas"][1].update(rows=7), "tensors"),
        (lambda c: c["deltas"][1].update(rows=-1), "rows and step"),
        (lambda c: c["deltas"][2].update(step=9), "step 9"),
        (lambda c: c["deltas"][1].update(file="../t/weight.safetensors"), "name of a"),
        (lambda c: c["deltas"][1].update(file="gone.safetensors"), "no gone.safetensors"),
        (lambda c: c["base"].update(xxh128="0" * 32), "expected the base"),
        (lambda c: c["base"].update(directory="../t"), "base-<number>"),
        (lambda c: c["base"].update(directory="base-2"), "base-2"),
        (lambda c: c.pop("base"), "no 'base'"),
        (lambda c: c.update(base=3), "broken"),
        (lambda c: c.update(deltas={}), "list of deltas"),
        (lambda c: c.update(deltas=[3]), "broken"),
        (lambda c: c.update(version=2), "upgrade"),
        (lambda c: c.update(version="1"), "version from 1"),
        (lambda c: c.update(format="shardwise"), "shardwise-checkpoint"),
    ],
)
def test_chains_that_say_something_else(tmp_path, change, match):
    kept, _ = victim(tmp_path)
    rewritten(kept, change)
    assert_refused(kept, tmp_path, match)


@pytest.mark.parametrize("text", ["", "[", "null", "[" * 100_000, "\xff"])
def test_chains_that_are_no_json(tmp_path, text):
    kept, table = victim(tmp_path)
    (kept / "checkpoint.json").write_bytes(text.encode("latin-1"))
    assert_refused(kept, tmp_path, "broken")
    with pytest.raises(StoreError, match="broken"):
        table.checkpoint(kept)
    told = CliRunner().invoke(app, ["info", str(kept)])
    assert told.exit_code == 1


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (id_set(0, -1), "ascending"),
        (id_set(-1, 0), "tensors|header|JSON"),
        (id_set(3, 1 << 62), "ascending"),
        (id_set(3, 0), "ascending"),
        (lambda data: data.pop(), "bytes of data"),
        (lambda data: data.clear(), "at least 8 bytes"),
    ],
)
def test_deltas_that_are_forged(tmp_path, change, match):
    kept, _ = victim(tmp_path)
    forged(kept, 2, change)
    assert_refused(kept, tmp_path, match)


@pytest.mark.parametrize(
    "where", ["delta-1-00003.safetensors", "base-1/weight-00001-of-00003.safetensors"]
)
def test_files_that_are_damaged(tmp_path, where):
    kept, table = victim(tmp_path)
    whole = (kept / where).read_bytes()
    for data in (whole[:-1], whole[: len(whole) // 2], whole[:-1] + bytes([whole[-1] ^ 1]), b""):
        (kept / where).write_bytes(data)
        assert_refused(kept, tmp_path, where.split("/")[-1])
    (kept / where).unlink()
    assert_refused(kept, tmp_path, where.split("/")[-1])
    (kept / where).write_bytes(whole)
    assert_restores(kept, table, tmp_path)


def test_a_chain_on_another_base(tmp_path):
    kept, _ = victim(tmp_path)
    other = fresh()
    train(other, Adam(corrected=True), steps(1, 9))
    shutil.rmtree(kept / "base-1")
    other.save(kept / "base-1")
    assert_refused(kept, tmp_path, "expected the base")


def test_files_with_bytes_changed_at_random(tmp_path):
    kept, _ = victim(tmp_path)
    shutil.copytree(kept, tmp_path / "sound")
    rng, refused = random.Random(5), 0
    for attempt in range(150):
        shutil.rmtree(kept)
        shutil.copytree(tmp_path / "sound", kept)

        def change(data, among):
            for _ in range(rng.choice((1, 1, 3))):
                data[rng.randrange(min(among, len(data)))] = rng.choice(b'\x00\xff09{}[],"-e')

        if attempt % 2:
            forged(kept, rng.randrange(3), lambda data: change(data, 700))
        else:
            data = bytearray((kept / "checkpoint.json").read_bytes())
            change(data, len(data))
            (kept / "checkpoint.json").write_bytes(data)
        try:
            store.restore(kept, tmp_path / "out", overwrite=True)
        except StoreError:
            refused += 1
        with contextlib.suppress(StoreError):
            store.describe_checkpoint(kept)
    assert refused > 75


# ---- the command line ----


def test_commands(tmp_path):
    kept, table = victim(tmp_path)
    run = CliRunner().invoke
    told = run(app, ["info", str(kept)]).stdout
    assert "checkpoint  8000 x 5 float32, a base and 3 deltas" in told
    assert "optimizer   adam, 4 updates" in told
    assert "base-1" in told
    assert "delta-1-00003.safetensors" in told
    found = json.loads(run(app, ["info", "--json", str(kept)]).stdout)
    assert found["base"]["rows"] == ROWS
    assert found["bytes"] > found["base"]["bytes"]
    told = run(app, ["restore", str(kept), str(tmp_path / "t")]).stdout
    assert told.endswith("t: 8000 rows of 5 float32 values in 3 shards\n")
    assert contents(Table.open(tmp_path / "t")) == contents(table)
    assert run(app, ["restore", str(kept), str(tmp_path / "t")]).exit_code == 1
    assert run(app, ["restore", "--overwrite", str(kept), str(tmp_path / "t")]).exit_code == 0
    told = run(app, ["lookup", str(kept), "1"])
    assert told.exit_code == 1


# ---- threads ----


def test_rows_that_threads_write_at_once_are_all_noted():
    rows = 1 << 22
    for _ in range(8):
        bits, start = np.zeros(rows // 8, np.uint8), threading.Barrier(2)

        def mark(first, bits=bits, start=start):
            ids = np.arange(first, rows, 2)
            start.wait()
            _native.mark_rows(bits, ids, rows)

        threads = [threading.Thread(target=mark, args=[first]) for first in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert (bits == 255).all()


@pytest.mark.parametrize("fails", [False, True])
def test_rows_that_another_thread_writes_meanwhile_are_in_the_next(tmp_path, monkeypatch, fails):
    """They were marked as kept, though the checkpoint had their old values, or none."""
    rows, dim, kept = 200_000, 16, tmp_path / "kept"
    table = Table.from_array(np.zeros((rows, dim), np.float32), shards=3, copy=True)
    stop = threading.Event()

    def write(first):
        rng, number = np.random.default_rng(first), first
        while not stop.is_set():
            ids = rng.integers(0, rows // 2, 50) * 2 + first  # each thread its own rows
            table.write(ids, np.full((50, dim), number, np.float32))
            number += 2

    threads = [threading.Thread(target=write, args=(k,)) for k in range(2)]
    for thread in threads:
        thread.start()
    try:
        for step in range(8):
            if fails and step % 2:
                with monkeypatch.context() as patched:
                    patched.setattr("shardwise.store._checkpoint.commit_text", full_disk)
                    with pytest.raises(OSError, match="full"):
                        table.checkpoint(kept)
            else:
                table.checkpoint(kept)
                Table.restore(kept, tmp_path / "restored", overwrite=True).close()
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    table.checkpoint(kept)
    assert_restores(kept, table, tmp_path)


def test_changes_in_the_middle_of_a_checkpoint_are_in_the_next(tmp_path, monkeypatch):
    """As another thread makes them: of rows that were copied already, or are changed just now."""
    kept, optimizer = tmp_path / "kept", Adagrad(0.1)
    table = Table.from_array(np.zeros((100_000, 64), np.float32), copy=True)
    table.update([1], np.ones((1, 64)), optimizer)
    changed = []

    def change(done, total):
        if 0 < done < total and not changed:
            table.update([0, 99_999], np.ones((2, 64)), optimizer)
            changed.append(done)

    table.checkpoint(kept, progress=change)
    assert changed
    table.checkpoint(kept)
    assert_restores(kept, table, tmp_path)

    run = Checked.run
    with monkeypatch.context() as patched:

        def run_late(self, *arguments):
            table.checkpoint(kept)
            run(self, *arguments)

        patched.setattr(Checked, "run", run_late)
        table.update([7], np.ones((1, 64)), optimizer)
    table.checkpoint(kept)
    assert_restores(kept, table, tmp_path)


def full_disk(*_):
    raise OSError(28, "the disk is full")
