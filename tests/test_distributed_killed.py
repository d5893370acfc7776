"""Ranks killed at random moments of training: the last checkpoint is whole, and goes on.

`SHARDWISE_KILLS=50 python -m pytest tests/test_distributed_killed.py` kills each rank 50 times, at
moments that SHARDWISE_SEED says.
"""

import os
import random
import re
import shutil
import signal
import time

import numpy as np
import pytest

pytest.importorskip("torch.distributed")

import distributed_ranks as ranks
import distributed_training as training

from shardwise import Table

SIZE, STEPS, EVERY = 3, 40, 2
KILLS = int(os.environ.get("SHARDWISE_KILLS", "1"))
SEED = int(os.environ.get("SHARDWISE_SEED", "0"))


@pytest.mark.parametrize("victim", range(SIZE))
def test_a_killed_rank_leaves_a_whole_checkpoint(tmp_path, victim):
    path, saved = tmp_path / "t", tmp_path / "saved"
    matrix = np.random.default_rng(0).standard_normal((ranks.ROWS, ranks.DIM))
    Table.from_array(matrix.astype(np.float32), 2).save(path)  # cut over three ranks
    expected = training.bits_by_step(SIZE, path, STEPS)
    job = training.train_with_checkpoints, SIZE, path, saved, STEPS, EVERY
    begin = time.monotonic()
    assert set(ranks.run(*job)) == {STEPS}
    whole_run = time.monotonic() - begin
    assert training.bits(Table.open(saved, verify=True)) == expected[STEPS]

    moments, survivors = (
        random.Random(SEED + victim),
        [rank for rank in range(SIZE) if rank != victim],
    )
    for _ in range(KILLS):
        shutil.rmtree(saved)
        started = ranks.start(*job, timeout=5)
        process = started[1][victim]
        time.sleep(moments.uniform(0.0, whole_run))
        if process.is_alive():
            os.kill(process.pid, signal.SIGKILL)
        try:
            found = ranks.join(started, survivors=survivors)
        except ranks.RankFailed as error:  # as it should be, by an error that says who is lost
            if re.search(r"^rank \d hangs$", str(error), re.MULTILINE):
                raise
        else:  # it had ended already
            assert set(found) - {None} == {STEPS}
        if (saved / "shardwise.json").exists():
            table = Table.open(saved, verify=True)
            assert table.optimizer_step % EVERY == 0
            assert training.bits(table) == expected[table.optimizer_step]
        assert set(ranks.run(*job)) == {STEPS}
        assert training.bits(Table.open(saved, verify=True)) == expected[STEPS]
