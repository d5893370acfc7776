"""The benchmarks' report page, from a document as a suite writes it."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest

ROOT = Path(__file__).parents[1]
if not (ROOT / "benchmarks").exists():  # where the wheel is tested
    pytest.skip("the benchmarks are in the repository alone", allow_module_level=True)
sys.path.insert(0, str(ROOT))

from benchmarks import page, runner  # noqa: E402
from benchmarks.options import Options  # noqa: E402


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
    assert "≥ 2 | **0.80** | (1) |" in text
    assert "≥ 2 | 2.50 |  |" in text
    assert f"1. {page.UNEXPLAINED}\n" in text
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


def rows_of_the_report() -> list[tuple[str, int, str, str, str, str]]:
    """Suite, threads, case, contender, reference and why, of all ratios of the committed page."""
    text = (ROOT / "docs" / "benchmarks" / "index.md").read_text(encoding="utf-8")
    rows = []
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.strip("| ").split(" | ")]
        if len(cells) in (6, 7) and cells[4][:1] in ("≥", "≤"):
            suite, threads, title, pair = cells[:4]
            contender, _, reference = pair.partition(" / ")
            why = cells[6].rstrip("| ") if len(cells) == 7 else ""
            rows.append((suite, int(threads), title, contender, reference, why))
    return rows


def test_every_explanation_of_a_shortfall_is_about_a_case_that_there_is() -> None:
    rows = rows_of_the_report()
    assert len(rows) > 100
    for one in page.shortfalls():
        assert set(one) <= {"suite", "contender", "reference", "case", "threads", "why"}
        assert len(one["why"].split()) > 5
        if one["suite"] not in {row[0] for row in rows}:
            continue  # the page that is committed is of some suites
        about = [row for row in rows if page.is_about(one, row[0], row[2], row[1], *row[3:5])]
        assert about, f"no ratio of the report is that of {one}"


def test_every_ratio_of_the_report_that_is_not_met_is_explained() -> None:
    text = (ROOT / "docs" / "benchmarks" / "index.md").read_text(encoding="utf-8")
    assert page.UNEXPLAINED not in text
    missed = [row for row in rows_of_the_report() if row[-1]]
    # What is in bold there besides: the words "ratio" and "bold".
    assert len(missed) == text.split("## Ratios against size")[0].count("**") // 2 - 2


def test_a_shortfall_is_explained_by_the_first_words_that_fit() -> None:
    target = {"contender": "NumPy", "reference": "ours"}
    said = [
        {"suite": "pool", **target, "why": "another suite"},
        {"suite": "lookup", **target, "case": "8 shards", "why": "another case"},
        {"suite": "lookup", **target, "threads": [2], "why": "two\nthreads"},
        {"suite": "lookup", **target, "why": "the rest"},
    ]
    assert page.explanation(said, "lookup", "one table", 2, target) == "two threads"
    assert page.explanation(said, "lookup", "one table", 1, target) == "the rest"
    assert page.explanation(said, "lookup", "in 8 shards", 1, target) == "another case"
    assert page.explanation(said, "words", "one table", 1, target) == page.UNEXPLAINED


def test_an_interrupted_run_goes_on_with_what_it_has_not(tmp_path: Path) -> None:
    options = Options(suite=None, quick=True, threads=None, rounds=None).of("words")
    assert (options.rounds, options.threads) == (3, (2,))
    options = replace(options, threads=(1, 2))
    assert Options(None, False, (4,), 9).of("skipgram").rounds == 9
    kept = tmp_path / "words.json"
    assert runner.measured(kept, options) is None
    runs = [{"threads": 1, "cases": []}, {"threads": 2, "cases": []}]
    document = json.loads(json.dumps({**runner.about_run(options), "runs": runs}))
    kept.write_text(json.dumps(document))
    assert runner.measured(kept, options) == document
    assert runner.measured(kept, replace(options, rounds=2)) is None
    assert runner.measured(kept, replace(options, threads=(1,))) is None
    kept.write_text(json.dumps(document | {"runs": runs[:1]}))  # the other one failed
    assert runner.measured(kept, options) is None
    kept.write_text(json.dumps(document | {"sources": "of another day"}))
    assert runner.measured(kept, options) is None
    kept.write_text(json.dumps(document)[:100])  # killed as it wrote
    assert runner.measured(kept, options) is None
