"""Rows that every rank has a copy of: no bit is another, and copies stay equal."""

import numpy as np
import pytest

pytest.importorskip("torch.distributed")

import distributed_ranks as ranks
import distributed_refusals as refusals
import distributed_torch as with_torch
import distributed_training as training
from distributed_ranks import DIM, ROWS

from shardwise import Partition, Table, optimizers

HOT = [210, 0, 1, 2, 3, 4, 5, 60, 61, 3]
PARTITIONS = {
    "mod": "mod",
    "div": "div",
    "ranges": Partition.ranges([0, 50, 50, 90, ROWS]),
    "balanced": Partition.balanced(1 / np.arange(1, ROWS + 1), 4),
}


def same(found, expected):
    """Whether two lists of arrays are equal to the bit."""
    return all(
        a.shape == b.shape and a.dtype == b.dtype and a.tobytes() == b.tobytes()
        for a, b in zip(found, expected, strict=True)
    )


@pytest.fixture
def matrix():
    return np.random.default_rng(0).standard_normal((ROWS, DIM)).astype(np.float32)


@pytest.mark.parametrize("size", [1, 2, 3, 4])
@pytest.mark.parametrize("partition", PARTITIONS)
def test_exact_is_one_process(matrix, tmp_path, partition, size):
    Table.from_array(matrix, 4, PARTITIONS[partition]).save(tmp_path / "t")
    optimizer = optimizers.Adagrad(0.1)
    job = (training.everything, size, tmp_path / "t", True, optimizer, 2, "sums", HOT)
    expected, step = training.single(size, tmp_path / "t", optimizer, 2)
    after = expected[0][-1]  # all rows
    for (read, steps, copies), mine in zip(ranks.run(*job), expected, strict=True):
        assert steps == step
        assert same(read, mine)
        assert sorted(copies) == sorted(set(HOT))
        assert all(same([copies[id]], [after[id]]) for id in copies)


@pytest.mark.parametrize("pools", ["sums", "rows"])
def test_training_is_that_without_copies(matrix, tmp_path, pools):
    """Without `exact`, too: gradients go the way that they go without."""
    Table.from_array(matrix, 4).save(tmp_path / "t")
    job = (training.everything, 3, tmp_path / "t", False, optimizers.SGD(0.01), 3, pools)
    plain, copied = ranks.run(*job), ranks.run(*job, HOT)
    after = plain[0][0][-1]
    for (read, _, _), (mine, _, copies) in zip(plain, copied, strict=True):
        assert same(mine[:1] + mine[-1:], read[:1] + read[-1:])
        for a, b in zip(mine, read, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
        assert all(same([copies[id]], [after[id]]) for id in copies)


@pytest.mark.parametrize(
    "options",
    [
        {"mode": "r", "exact": True},
        {"mode": "c", "exact": True},
        {"mode": "memory", "pools": "rows"},
        {"mode": "memory", "wire": "float16", "pools": "rows"},
        {"mode": "memory", "wire": "int8", "pools": "rows"},
        {"mode": "r", "wire": "bfloat16"},
        {"mode": "r"},
    ],
)
@pytest.mark.parametrize("row_format", ["float32", "int8"])
def test_reads_are_those_without_copies(matrix, tmp_path, options, row_format):
    table = Table.from_array(matrix, 4)
    if row_format == "int8":
        table, options = table.quantize("int8"), options | {"mode": "r"}
    table.save(tmp_path / "t")
    sums = not options.get("exact") and "pools" not in options
    for plain, copied, sent in ranks.run(
        training.read_with_copies, 3, tmp_path / "t", options, HOT
    ):
        for k, (a, b) in enumerate(zip(plain, copied, strict=True)):
            if sums and k % 6 in (3, 4):  # which begin with the sums of other rows
                np.testing.assert_allclose(a, b, rtol=2e-2, atol=2e-2, err_msg=str(k))
            else:
                assert same([a], [b]), k
        assert sent == 2 * 5 * 8  # that all call the same, and no row


@pytest.mark.parametrize("row_format", ["float32", "int8"])
@pytest.mark.parametrize("size", [1, 3])
def test_rows_are_written(matrix, tmp_path, size, row_format):
    table = Table.from_array(matrix, 4)
    table = table.quantize("int8") if row_format == "int8" else table
    table.save(tmp_path / "t")
    found = ranks.run(training.written, size, tmp_path / "t", HOT, tmp_path / "saved")
    table = Table.open(tmp_path / "t", "c")
    for step in range(3):
        for rank in range(size):
            ids, _, _, rows, _ = ranks.batch(rank, step)
            table.write(ids, rows)
    table.write([5], 7)
    saved = Table.open(tmp_path / "saved", verify=True)
    assert saved.row_format == row_format
    for read in (*found, saved.lookup(range(ROWS))):
        assert same([read], [table.lookup(range(ROWS))])
    assert sum(len(shard) for shard in saved.shards) == ROWS  # copies are not saved


def test_what_cannot_be_written_is_an_error_on_all(matrix, tmp_path):
    Table.from_array(matrix, 3).save(tmp_path / "t")
    found = ranks.run(refusals.refused_writes, 2, tmp_path / "t")
    assert all(unchanged for _, unchanged in found)
    kinds = ["IdOutOfRangeError", "IdTypeError", "TableError", "TableError"]
    for errors, kind in ((found[0][0], ["DistributedError"] * 4), (found[1][0], kinds)):
        assert [error.split(":")[0] for error in errors] == [*kind, "TableError"]
        assert "mode 'r'" in errors[-1]
    assert all("rank 1" in error for error in found[0][0][:4])


@pytest.mark.parametrize(
    ("others", "kind", "words"),
    [
        ([0, 5], "DistributedError", "replicated"),
        (None, "DistributedError", "replicated"),
        ([0, ROWS], "IdOutOfRangeError", "ids[1] = 211"),
        ([-1, 4], "IdOutOfRangeError", "ids[0] = -1"),
        (np.array([1 << 63], np.uint64), "IdOutOfRangeError", str(1 << 63)),
        ([0.5], "IdTypeError", "integer"),
        ("hot", "IdTypeError", "integer"),
    ],
)
def test_copies_that_cannot_be_are_told_on_all(matrix, tmp_path, others, kind, words):
    Table.from_array(matrix, 3).save(tmp_path / "t")
    found = ranks.run(refusals.other_copies, 2, tmp_path / "t", [0, 1], others)
    assert found[1][0].startswith(kind)
    for (error,) in found:
        assert words in error
    assert found[0][0].startswith("DistributedError")


@pytest.mark.parametrize("replicated", [[], [[3, 4], [4, 5]], range(ROWS), np.uint8(7)])
def test_any_ids_are_copied(matrix, tmp_path, replicated):
    """None of them, all, or in arrays of any form; and those of a checkpoint, or a new table."""
    Table.from_array(matrix, 3).save(tmp_path / "t")
    job = with_torch.copies_of_a_checkpoint, 2, tmp_path / "t", tmp_path / "dcp", replicated
    for trained, table, made, plain in ranks.run(*job):
        assert same([table, made], [trained, plain])
