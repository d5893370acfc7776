"""Python in a process of its own: a crash there is a finding, not the end of the run."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

from .counts import Fault

ROOT = Path(__file__).parents[1]


def python(
    code: str,
    *arguments: object,
    folder: Path,
    patience: float = 1800,
    before: str = "",
    **env: str,
) -> str:
    """Run code, whose `sys.argv[1:]` are the arguments, and return what it prints.

    `before` starts the interpreter, as "unshare -m" does.

    Raises:
        Fault: it ended otherwise than by itself with 0, or said anything on standard error.
    """
    command = [*before.split(), sys.executable, "-c", code, *map(str, arguments)]
    paths = [str(ROOT), os.environ.get("PYTHONPATH", "")]
    done = subprocess.run(
        command,
        cwd=folder,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths))} | env,
        capture_output=True,
        text=True,
        timeout=patience,
    )
    if done.returncode != 0 or done.stderr:
        raise Fault(f"{ended(done.returncode)}\n{done.stdout[-2000:]}\n{done.stderr[-6000:]}")
    return done.stdout


def ended(code: int) -> str:
    return f"it ended with {code if code >= 0 else signal.Signals(-code).name}"
