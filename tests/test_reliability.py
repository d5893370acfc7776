"""The hard life, short: `python -m reliability` is the long one."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# Mutated files are read by test_fuzz.py.
PARTS = ["lives", "threads", "processes", "limits", "arguments", "leaks"]


@pytest.mark.parametrize("part", PARTS)
def test_part(part):
    command = [sys.executable, "-m", "reliability", part, "--short", "--seed", "1"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-4000:]
    counted = [line for line in done.stdout.splitlines() if line.startswith(f"| {part} |")]
    assert counted
    assert "no faults" in done.stdout


def test_a_fault_is_found_and_told(tmp_path):
    """The machine of lives sees a lookup that is wrong in one bit of one row, now and then."""
    broken = tmp_path / "sitecustomize.py"
    broken.write_text(
        "import numpy as np\n"
        "from shardwise import Table\n"
        "lookup = Table.lookup\n"
        "def wrong(self, ids, **options):\n"
        "    rows = lookup(self, ids, **options)\n"
        "    if rows.ndim == 2 and len(rows) > 20:\n"
        "        rows.view(np.uint8)[17, 0] ^= 1\n"
        "    return rows\n"
        "Table.lookup = wrong\n"
    )
    path = os.pathsep.join(filter(None, [str(tmp_path), os.environ.get("PYTHONPATH")]))
    command = [sys.executable, "-m", "reliability", "lives", "--short", "--seed", "1"]
    done = subprocess.run(
        command, cwd=ROOT, env=os.environ | {"PYTHONPATH": path}, capture_output=True, text=True
    )
    assert done.returncode == 1
    assert "FAULTS in lives, seed 1" in done.stdout
    assert "again: python -m reliability lives --seed 1" in done.stdout
