"""torchrun starts a program again of which a process was killed: it goes on from its checkpoint."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from shardwise import Table

pytest.importorskip("torch.distributed")

EXAMPLE = Path(__file__).parents[1] / "examples" / "train_on_ranks.py"
KILLED = """
import os, runpy, signal, sys, threading, time
from shardwise import Table, TableNotFoundError

def watch(path):
    while True:
        try:
            if Table.open(path).optimizer_step >= 20:
                os.kill(os.getpid(), signal.SIGKILL)
        except TableNotFoundError:
            pass
        time.sleep(0.01)

if os.environ["TORCHELASTIC_RESTART_COUNT"] == "0" and os.environ["RANK"] == "1":
    threading.Thread(target=watch, args=(sys.argv[2],), daemon=True).start()
del sys.argv[0]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def trained(folder, script, *more):
    """Run a program by torchrun; return what it printed, and its rows."""
    command = ["--standalone", "--nproc-per-node", "2", *more, *script, folder / "kept"]
    options = ["--steps", "60", "--every", "10", "--rows", "500", "--timeout", "10"]
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", *command, *options],
        capture_output=True,
        text=True,
        timeout=120,
        env=os.environ | {"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1", "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout, Table.open(folder / "kept", verify=True)


def test_a_killed_process_is_started_again(tmp_path):
    (tmp_path / "killed.py").write_text(KILLED)
    for name in ("whole", "again"):
        (tmp_path / name).mkdir()
    _, expected = trained(tmp_path / "whole", [EXAMPLE])
    script = [tmp_path / "killed.py", EXAMPLE]
    said, found = trained(tmp_path / "again", script, "--max-restarts", "2")
    begins = [int(step) for step in re.findall(r"from step (\d+)", said)]
    assert len(begins) == 2, said
    assert begins[0] == 0
    assert 20 <= begins[1] < 60
    assert begins[1] % 10 == 0
    assert found.optimizer_step == 60
    for a, b in zip(found.shards, expected.shards, strict=True):
        assert a.tobytes() == b.tobytes()
