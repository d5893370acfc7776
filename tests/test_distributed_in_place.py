"""Tables that ranks change where they lie on disk: mode "r+"."""

import numpy as np
import pytest

pytest.importorskip("torch.distributed")

import distributed_ranks as ranks
import distributed_refusals as refusals
import distributed_training as training
from distributed_ranks import DIM, ROWS

from shardwise import Table, optimizers


@pytest.fixture
def matrix():
    return np.random.default_rng(0).standard_normal((ROWS, DIM)).astype(np.float32)


@pytest.mark.parametrize("partition", ["mod", "div"])
@pytest.mark.parametrize(("size", "shards"), [(1, 1), (2, 4), (3, 4), (4, 4)])
def test_training_in_place_is_that_of_one_process(matrix, tmp_path, partition, size, shards):
    path, one, steps = tmp_path / "t", tmp_path / "one", 2
    for place in (path, one):
        Table.from_array(matrix, shards, partition).save(place)
    replicated = None if size == 2 else [0, 1, 2, 210]
    found = ranks.run(training.in_place, size, path, steps, replicated)
    with Table.open(one, "r+") as table:
        for step in range(2 * steps):
            parts = [ranks.batch(rank, step) for rank in range(size)]
            starts = np.cumsum([0, *(len(part[0]) for part in parts)])
            offsets = [part[1] + start for part, start in zip(parts, starts, strict=False)]
            ids, _, _, rows, sums = (np.concatenate(kind) for kind in zip(*parts, strict=True))
            optimizer = optimizers.Adam(0.1)
            table.update(ids, rows, optimizer)
            table.update_pool(ids, np.concatenate(offsets), sums, optimizer, combiner="mean")
            for part in parts:
                table.write(part[0][:3], part[3][:3])
        expected = table.lookup(range(ROWS))
        for read, step, state, own, _ in found:
            assert read.tobytes() == expected.tobytes()
            assert step == table.optimizer_step == 4 * steps
            assert set(state) == set(table.optimizer_state)
            for name, arrays in state.items():
                whole = Table.from_shards(table.optimizer_state[name], table.partition)
                assert b"".join(arrays) == whole.lookup(own).tobytes()
        table.reset_optimizer()
        table.update([2], np.ones((1, DIM)), optimizers.Adagrad(0.1))
    again = Table.open(path, verify=True)
    assert again.lookup(range(ROWS)).tobytes() == Table.open(one).lookup(range(ROWS)).tobytes()
    assert list(again.optimizer_state) == ["adagrad.sum"]
    assert again.optimizer_step == 1
    for rank, (*_, errors) in enumerate(found):
        words = ["IdOutOfRangeError", "no other writer", "closed", "mode 'r+'", "Adagrad"]
        if rank > 0:  # rank 0 holds the directory, and all fail first in the lowest of them
            words[1] = "rank 0"
        for error, word in zip(errors, words, strict=True):
            assert word in error


def test_shards_on_several_ranks_are_refused(matrix, tmp_path):
    Table.from_array(matrix, 2).save(tmp_path / "t")
    for error in ranks.run(refusals.disagree, 3, tmp_path / "t", {"mode": "r+"}):
        assert "shard 0 lies on several ranks" in error or "mode" in error
    with Table.open(tmp_path / "t", "r+") as table:  # nobody holds it
        table.write([0], 1)


def test_a_killed_rank_leaves_a_table_that_opens(matrix, tmp_path):
    Table.from_array(matrix, 3).save(tmp_path / "t")
    started = ranks.start(refusals.killed_in_place, 3, tmp_path / "t")
    ranks.join(started, survivors=(0, 1))
    with Table.open(tmp_path / "t", "r+", verify=True) as table:
        assert table.optimizer_step >= 5
        rows = table.lookup(range(ROWS))
        assert (rows[6:] == matrix[6:]).all()
        assert (rows[:5] != matrix[:5]).all()
