"""The scripts of examples/, on small made-up data."""

import random
import re
import subprocess
import sys
from pathlib import Path

EXAMPLES = Path(__file__).parents[1] / "examples"


def test_items_of_baskets(tmp_path):
    """Items of ten kinds, of which a basket has one: the other items tell which."""
    drawn = random.Random(6)
    kinds = [[f"{kind}{k}" for k in range(8)] for kind in "abcdefghij"]
    lines = [" ".join(drawn.sample(drawn.choice(kinds), 4)) for _ in range(3000)]
    path = tmp_path / "baskets.txt"
    path.write_text("\n".join([*lines, "", "alone"]))
    done = subprocess.run(
        [sys.executable, EXAMPLES / "baskets.py", path, "--threads", "1"],
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert (done.returncode, done.stderr) == (0, "")
    first, *items, last = done.stdout.splitlines()
    assert first == "80 items of 2702 baskets"
    assert len(items) == 10
    for item in items:
        name, *near = re.findall(r"[a-j]\d", item)
        assert all(other[0] == name[0] for other in near[:5])
    ours, baseline = map(float, re.findall(r"([\d.]+)%", last))
    assert ours > 95
    assert baseline < 30
