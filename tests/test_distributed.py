"""Tables over ranks, each a process of its own over gloo, beside one process.

`SHARDWISE_STEPS=100 python -m pytest tests/test_distributed.py -k one_process` trains for longer.
"""

import os

import numpy as np
import pytest

pytest.importorskip("torch.distributed")

import distributed_ranks as ranks
import distributed_refusals as refusals
import distributed_torch as with_torch
import distributed_training as training
from distributed_ranks import DIM, ROWS

from shardwise import Partition, Table, Vectors, Vocabulary, optimizers

PARTITIONS = {
    "mod": "mod",
    "div": "div",
    "ranges": Partition.ranges([0, 50, 50, 90, ROWS]),
    "balanced": Partition.balanced(1 / np.arange(1, ROWS + 1), 4),
}


STEPS = int(os.environ.get("SHARDWISE_STEPS", "2"))


@pytest.fixture
def matrix():
    return np.random.default_rng(0).standard_normal((ROWS, DIM)).astype(np.float32)


def same(found, expected):
    """Whether two lists of arrays are equal to the bit."""
    return all(
        a.shape == b.shape and a.dtype == b.dtype and a.tobytes() == b.tobytes()
        for a, b in zip(found, expected, strict=True)
    )


@pytest.mark.parametrize("size", [1, 2, 3, 4, 8])
@pytest.mark.parametrize("partition", PARTITIONS)
def test_exact_is_one_process(matrix, tmp_path, partition, size):
    Table.from_array(matrix, 4, PARTITIONS[partition]).save(tmp_path / "t")
    optimizer = optimizers.Adagrad(0.1)
    job = training.everything, size, tmp_path / "t", True, optimizer, STEPS
    found = ranks.run(*job, timeout=50)
    expected, step = training.single(size, tmp_path / "t", optimizer, STEPS)
    for (read, steps, _), mine in zip(found, expected, strict=True):
        assert steps == step
        assert same(read, mine)


@pytest.mark.parametrize(("size", "pools"), [(2, "sums"), (3, "sums"), (3, "rows")])
def test_sums_are_rounded_elsewhere_and_no_more(matrix, tmp_path, size, pools):
    Table.from_array(matrix, 4, "mod").save(tmp_path / "t")
    optimizer = optimizers.SGD(0.01)
    found = ranks.run(training.everything, size, tmp_path / "t", False, optimizer, 3, pools)
    expected, _ = training.single(size, tmp_path / "t", optimizer, 3)
    for (read, _, sent), mine in zip(found, expected, strict=True):
        assert same(read[:1], mine[:1])  # lookups, before anything was trained
        assert same(read[4:6], mine[4:6])  # the largest; and bags with a default
        for a, b in zip(read, mine, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
        assert sent > 0


@pytest.mark.parametrize("size", [2, 3])
@pytest.mark.parametrize("partition", ["mod", "balanced"])
def test_bags_train_as_in_one_process(matrix, tmp_path, partition, size):
    """Without `exact`, too: gradients of bags are summed where their rows are."""
    Table.from_array(matrix, 4, PARTITIONS[partition]).save(tmp_path / "t")
    optimizer = optimizers.Adagrad(0.1)
    found = ranks.run(training.only_pools, size, tmp_path / "t", optimizer, 4)
    table = Table.open(tmp_path / "t", "c")
    for step in range(4):
        batches = [ranks.batch(rank, step) for rank in range(size)]
        starts = np.cumsum([0, *(len(one[0]) for one in batches)])
        offsets = [one[1] + start for one, start in zip(batches, starts, strict=False)]
        ids, _, weights, _, sums = (np.concatenate(parts) for parts in zip(*batches, strict=True))
        table.update_pool(
            ids,
            np.concatenate(offsets),
            sums,
            optimizer,
            combiner="sqrtn",
            weights=weights,
        )
        once = [np.unique(one[0], return_index=True) for one in batches]
        rows = [one[3][places] for one, (_, places) in zip(batches, once, strict=True)]
        table.update(np.concatenate([ids for ids, _ in once]), np.concatenate(rows), optimizer)
    assert all(same([one], [table.lookup(range(ROWS))]) for one in found)


@pytest.mark.parametrize(("shards", "size"), [(1, 3), (2, 4), (4, 4), (8, 3), (300, 2)])
def test_saved_by_ranks_opened_by_one_and_by_others(matrix, tmp_path, shards, size):
    path, saved = tmp_path / "t", tmp_path / "saved"
    words = Vocabulary([f"w{k}" for k in range(100)])
    Vectors(Table.from_array(matrix, shards, "mod"), words).save(path)
    optimizer = optimizers.Adam(0.1)
    ranks.run(training.train_and_save, size, path, saved, optimizer, 3)

    table = Table.open(path, "c")
    for step in range(3):
        batches = [ranks.batch(rank, step) for rank in range(size)]
        starts = np.cumsum([0, *(len(one[0]) for one in batches)])
        offsets = [one[1] + start for one, start in zip(batches, starts, strict=False)]
        ids, _, _, rows, sums = (np.concatenate(parts) for parts in zip(*batches, strict=True))
        table.update(ids, rows, optimizer)
        table.update_pool(ids, np.concatenate(offsets), sums, optimizer, combiner="mean")
    again = Table.open(saved, verify=True)
    assert again.partition == table.partition
    assert same([again.lookup(range(ROWS))], [table.lookup(range(ROWS))])
    assert again.optimizer_step == table.optimizer_step == 6
    for name, arrays in table.optimizer_state.items():
        assert same(again.optimizer_state[name], arrays)
    assert list(Vectors.open(saved).vocabulary)[:2] == ["w0", "w1"]

    for others, mode in ((1, "r"), (3, "memory"), (8, "c")):
        found = ranks.run(training.read_all, others, saved, mode)
        covered = np.concatenate([ids for _, ids, _, _ in found])
        assert sorted(covered) == list(range(ROWS))
        for rows, _, state, step in found:
            assert same([rows], [table.lookup(range(ROWS))])
            assert step == 6
            assert set(state) == set(table.optimizer_state)


def test_modules_train_as_in_one_process(matrix, tmp_path):
    import torch

    from shardwise.torch import Embedding, EmbeddingBag

    Table.from_array(matrix, 4, "mod").save(tmp_path / "t")
    found = ranks.run(with_torch.modules, 2, tmp_path / "t", 20)
    tables = [Table.open(tmp_path / "t", "c") for _ in range(2)]
    losses, *expected = with_torch.train_modules(
        tables, Embedding, EmbeddingBag, optimizers, torch, None, 1, 20
    )
    np.testing.assert_allclose(np.mean([one[0] for one in found], axis=0), losses, rtol=1e-4)
    for one in found:
        for a, b in zip(one[1:], expected, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("what", "kind", "words"),
    [
        ("id", "IdOutOfRangeError", "ids[1] = 216"),
        ("id of a bag", "IdOutOfRangeError", "= -1"),
        ("gradient", "TableError", "finite gradients"),
        ("shape", "TableError", "gradients of shape"),
        ("id of an update", "IdOutOfRangeError", "= 211"),
    ],
)
def test_what_one_rank_cannot_do_is_an_error_on_all(matrix, tmp_path, what, kind, words):
    Table.from_array(matrix, 3).save(tmp_path / "t")
    found = ranks.run(refusals.refused, 3, tmp_path / "t", what)
    assert all(works for _, works in found)
    assert found[2][0].startswith(f"{kind}: ")
    assert words in found[2][0]
    for error, _ in found[:2]:
        assert error.startswith("DistributedError: ")
        assert "rank 2" in error
        assert words in error


@pytest.mark.parametrize("what", ["call", "optimizer"])
def test_ranks_that_call_different_things_are_told(matrix, tmp_path, what):
    Table.from_array(matrix, 3).save(tmp_path / "t")
    found = ranks.run(refusals.refused, 3, tmp_path / "t", what)
    assert all(works for _, works in found)
    assert all(error.startswith("DistributedError: ") for error, _ in found)
    assert "rank 2" in found[0][0]
    assert "rank 0" in found[2][0]


def test_ranks_that_open_different_tables_are_told(matrix, tmp_path):
    Table.from_array(matrix, 3).save(tmp_path / "t")
    Table.from_array(matrix, 3, "div").save(tmp_path / "other")
    for others, words in (
        ({"path": tmp_path / "other"}, "partition"),
        ({"path": tmp_path / "missing"}, "TableNotFoundError"),
        ({"wire": "float16"}, "wire"),
        ({"mode": "c"}, "mode"),
    ):
        found = ranks.run(refusals.disagree, 3, tmp_path / "t", others)
        assert all(words in error for error in found)
        assert "rank 2" in found[0]
    Table.from_array(matrix + 1, 3).save(tmp_path / "newer")
    found = ranks.run(refusals.disagree, 2, tmp_path / "t", {"path": tmp_path / "newer"})
    assert all("files" in error for error in found)


@pytest.mark.parametrize("how", ["dies", "hangs", "fails"])
def test_a_lost_rank_is_named_on_all_others(matrix, tmp_path, how):
    Table.from_array(matrix, 3).save(tmp_path / "t")
    started = ranks.start(refusals.lost, 3, tmp_path / "t", how)
    words = {"dies": "died", "hangs": "hangs", "fails": "MemoryError: no room"}[how]
    found = ranks.join(started, survivors=(0, 1))
    for error, again, seconds in found[:2]:
        assert "rank 2" in error
        assert words in error
        assert again == error
        assert seconds < 12
    assert same([Table.open(tmp_path / "t").lookup(range(ROWS))], [matrix])


@pytest.mark.filterwarnings("ignore:torch.distributed is disabled")
@pytest.mark.parametrize(("partition", "sizes"), [("mod", (1, 3, 8)), ("balanced", (2,))])
def test_torch_checkpoints_are_read_by_other_ranks_and_by_torch(matrix, tmp_path, partition, sizes):
    import torch
    import torch.distributed.checkpoint as dcp

    path, folder = tmp_path / "t", tmp_path / "dcp"
    Table.from_array(matrix, 4, PARTITIONS[partition]).save(path)
    optimizer = optimizers.Adam(0.1)
    rows, state, step, _ = ranks.run(with_torch.save_with_torch, 4, path, folder, optimizer)[0]
    for size in sizes:
        for found in ranks.run(with_torch.load_with_torch, size, path, folder, optimizer):
            assert same([found[0]], [rows])
            assert found[1:] == (state, step)
    plain = {"weight": torch.empty(ROWS, DIM)}
    dcp.load(plain, checkpoint_id=folder, no_dist=True)
    cut = Table.open(path).partition
    order = np.concatenate([cut.ids_of(shard) for shard in range(4)])
    assert same([plain["weight"].numpy()], [rows[order]])


@pytest.mark.parametrize("size", [1, 2])
def test_arguments_that_are_none(matrix, tmp_path, size):
    Table.from_array(matrix, 4).save(tmp_path / "t")
    for errors, shape in ranks.run(refusals.odd_arguments, size, tmp_path / "t"):
        assert shape == (1, DIM)
        assert (
            "OptionError: expected timeout=None or a datetime.timedelta, got 30"
            in errors["timeout"]
        )
        assert "too big" in errors["too large"] or "cannot allocate" in errors["too large"]
        assert "OptionError: expected an optimizer" in errors["optimizer"]
        assert "DistributedError: expected what state_dict() of this table" in errors["state"]


@pytest.mark.parametrize("bags", [False, True])
@pytest.mark.parametrize("mode", ["r", "memory"])
def test_what_ranks_know_of_different_exchanges_is_not_mixed(matrix, tmp_path, mode, bags):
    """They were given rows of other ids, or waited for each other without end."""
    Table.from_array(matrix, 4).save(tmp_path / "t")
    for reads in ranks.run(training.known_elsewhere, 2, tmp_path / "t", mode, bags, timeout=10):
        for ids, found in reads:
            np.testing.assert_array_equal(found, matrix[ids])


@pytest.mark.parametrize(("mode", "exact"), [("r", False), ("memory", False), ("c", True)])
def test_prefetch_changes_no_result(matrix, tmp_path, mode, exact):
    Table.from_array(matrix, 3).save(tmp_path / "t")
    for plain, ahead in ranks.run(training.prefetched, 3, tmp_path / "t", mode, exact):
        assert same(ahead, plain)


@pytest.mark.parametrize("size", [1, 2])
def test_bags_of_the_same_ids_in_another_shape(matrix, tmp_path, size):
    table = Table.from_array(matrix, 4)
    table.save(tmp_path / "t")
    for read in ranks.run(training.same_ids_in_other_shapes, size, tmp_path / "t"):
        for ids, found in read:
            expected = table.pool(ids)
            assert found.shape == expected.shape
            np.testing.assert_allclose(found, expected, rtol=1e-6)


@pytest.mark.parametrize(
    ("wire", "size", "error"),
    [("float16", 2, 2e-3), ("bfloat16", 2, 2e-2), ("int8", 4, 5e-2), ("float32", 4, 1e-5)],
)
def test_wires(matrix, tmp_path, wire, size, error):
    Table.from_array(matrix, 4).save(tmp_path / "t")
    found = ranks.run(training.wires, size, tmp_path / "t", wire)
    exact = ranks.run(training.wires, size, tmp_path / "t", None)
    for (read, sent, _), (expected, most, _) in zip(found, exact, strict=True):
        for a, b in zip(read, expected, strict=True):
            assert a.dtype == b.dtype == np.float32
            np.testing.assert_allclose(a, b, atol=error * 4 * max(1, np.abs(b).max(initial=0)))
        assert sent < most or wire == "float32"


def test_other_rows_and_options(matrix, tmp_path):
    path, packed, integers = (tmp_path / name for name in ("t", "packed", "integers"))
    table = Table.from_array(matrix, 4)
    table.save(path)
    table.quantize("int8").save(packed)
    Table.from_array(np.arange(ROWS * DIM).reshape(ROWS, DIM), 4, "div").save(integers)
    found = ranks.run(training.odd_tables, 3, path, packed, integers)
    expected = training.odd_tables_of_one(3, path, packed, integers)
    for read, mine in zip(found, expected, strict=True):
        for k, (a, b) in enumerate(zip(read, mine, strict=True)):
            assert a.shape == b.shape
            assert a.dtype == b.dtype
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5, err_msg=str(k))
        assert same(read[:8], mine[:8])


def test_torch_checkpoints_of_modules(matrix, tmp_path):
    path, folder = tmp_path / "t", tmp_path / "dcp"
    Table.from_array(matrix, 4).save(path)
    expected = ranks.run(with_torch.module_state, 2, path, folder, False)[0]
    for found in ranks.run(with_torch.module_state, 3, path, folder, True):
        assert same([found[0]], [expected[0]])
        assert found[1:] == expected[1:]


@pytest.mark.parametrize(("size", "partition"), [(2, "balanced"), (4, "mod")])
def test_a_hundred_steps_are_those_of_one_process(matrix, tmp_path, size, partition):
    path = tmp_path / "t"
    Table.from_array(matrix, 4, PARTITIONS[partition]).save(path)
    found = ranks.run(training.hundred_steps, size, path, timeout=50)
    table = Table.open(path, "c")
    for step in range(100):
        parts = [ranks.batch(rank, step) for rank in range(size)]
        ids, rows = (np.concatenate([part[k] for part in parts]) for k in (0, 3))
        table.update(ids, rows, optimizers.Adagrad(0.05))
    assert all(same([one], [table.lookup(range(ROWS))]) for one in found)


def test_no_group_is_an_error_that_says_what_to_do(matrix, tmp_path):
    from shardwise import DistributedError
    from shardwise.distributed import DistributedTable

    with pytest.raises(DistributedError, match="init_process_group"):
        DistributedTable.open(tmp_path)
    with pytest.raises(TypeError, match=r"DistributedTable\.open"):
        DistributedTable()


def test_what_a_table_alone_has_is_told(matrix, tmp_path):
    Table.from_array(matrix).save(tmp_path / "t")
    (found,) = ranks.run(refusals.missing, 1, tmp_path / "t")
    names = ["checkpoint", "restore", "shards", "quantize", "describe"]
    for name in names:
        assert f"got {name!r}, which is a Table's alone; " in found[name]
    assert found["nothing"] == "'DistributedTable' object has no attribute 'nothing'"
    assert "'r', 'r+', 'c', 'memory'" in found["mode"]
    assert "process group" in found["group"]
