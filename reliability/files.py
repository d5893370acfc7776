"""Mutated files to every reader: `tests/fuzz.py`, as long as there is time."""

from __future__ import annotations

import re
import subprocess
import sys

from .counts import Fault, Run
from .workers import ROOT


def run(run: Run) -> None:
    begin = run.seed * 1_000_000
    count = 300 if run.is_short else 5000
    while True:
        command = [sys.executable, str(ROOT / "tests" / "fuzz.py"), f"--begin={begin}"]
        command += [f"--count={count}", "--workers=2", f"--keep={run.folder}", "--patience=600"]
        done = subprocess.run(command, capture_output=True, text=True)
        outcomes = re.findall(r"^\S+ +(\w+) +(\d+)$", done.stdout, re.MULTILINE)
        for outcome, times in outcomes:
            run.count(f"files that were {'read' if outcome == 'read' else 'refused'}", int(times))
        if done.returncode:
            raise Fault(f"{' '.join(command)}\n{done.stdout[-500:]}\n{done.stderr[-6000:]}")
        begin += count
        if not run.goes_on():
            return
