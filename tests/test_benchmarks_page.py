"""The benchmarks' report page, from a document as a suite writes it."""

import json
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

ROOT = Path(__file__).parents[1]


def contender(name: str, seconds: float, ratio: float, *, ours: bool = False) -> dict[str, object]:
    return {"name": name, "ours": ours, "median_s": seconds, "ratio_by_round": ratio}


def case(size: int, ratio: float) -> dict[str, object]:
    return {
        "title": f"ids per call: {size}",
        "reference": "table.lookup",
        "sweep": ["ids per call", size],
        "contenders": [
            contender("table.lookup", 2e-3, 1.0, ours=True),
            contender("table.lookup, out=", 2e-3, 0.99, ours=True),
            contender("NumPy array[ids]", 5e-3, ratio),
            contender("ceiling: T0, 16 ahead", 1e-3, 0.5),
        ],
        "absent": {"torch embedding": "not installed"},
        "targets": [
            {
                "contender": "NumPy array[ids]",
                "reference": "table.lookup",
                "at_least": 2,
                "at_most": None,
                "ratio": ratio,
                "met": ratio >= 2,
            }
        ],
    }


def test_the_page_shows_what_was_met_what_was_not_and_where_a_peer_wins(tmp_path: Path) -> None:
    document = {
        "suite": "sweep",
        "quick": True,
        "rounds": 3,
        "time": "2026-11-28T12:00:00+0000",
        "sources": "0123",
        "machine": {
            "cpu": "a processor",
            "usable_cores": 2,
            "memory_bytes": 2**34,
            "system": "Linux",
            "kernel": "6",
            "python": "CPython 3.11",
        },
        "packages": {"shardwise": "0.1.0"},
        "runs": [{"threads": n, "cases": [case(1, 0.8), case(1000, 2.5)]} for n in (1, 2)],
    }
    saved = tmp_path / "sweep.json"
    saved.write_text(json.dumps(document))
    folder = tmp_path / "page"
    command = [sys.executable, "-m", "benchmarks.page", str(saved), "--to", str(folder)]
    subprocess.run(command, check=True, cwd=ROOT)
    text = (folder / "index.md").read_text()
    assert "2 of 4 ratios are met" in text
    assert "≥ 2 | **0.80** |" in text
    assert "≥ 2 | 2.50 |" in text
    row = "| ids per call: 1 | 1 | 2 ms | 0.50 | *table.lookup, out=* | 2 ms | 0.99 |"
    assert row in text
    assert "| | | | | NumPy array[ids] | 5 ms | **0.80** |" in text
    assert "| | | | | torch embedding | not installed | |" in text
    assert "A quick run" in text
    assert "![ids per call](ids-per-call.svg)" in text
    plot = folder / "ids-per-call.svg"
    assert ElementTree.parse(plot).getroot().tag.endswith("svg")
    first = plot.read_bytes()
    subprocess.run(command, check=True, cwd=ROOT)
    assert plot.read_bytes() == first  # so that a page's changes are changes of its numbers
