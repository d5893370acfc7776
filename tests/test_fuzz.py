"""The corpus of `fuzz.py`, and a few thousand mutated files; CI runs more, under sanitizers."""

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

CORPUS = Path(__file__).with_name("corpus")


def test_mutated_files():
    script = Path(__file__).with_name("fuzz.py")
    command = [sys.executable, str(script), "--count", "2000", "--workers", "2"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-4000:]
    assert "2000 inputs, 0 findings" in done.stdout
    # What the corpus has from the beginning is whole; a file that was a finding need not be.
    whole = [path for path in CORPUS.iterdir() if not path.name.startswith("finding-")]
    if importlib.util.find_spec("torch") is None:  # nobody else reads its files
        whole = [path for path in whole if path.suffix != ".pt"]
    for path in whole:
        assert re.search(rf"^{re.escape(path.name)} +read$", done.stdout, re.MULTILINE)
