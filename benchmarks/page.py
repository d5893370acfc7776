"""The report page: what suites measured, as Markdown with plots, from the JSON that they wrote."""

import argparse
import json
import sys
import tomllib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from .options import SUITES
from .plots import draw
from .report import fitting_unit

Document = dict[str, Any]
SHORTFALLS = Path(__file__).with_name("shortfalls.toml")
UNEXPLAINED = "No explanation yet."

HOW_TO_READ = (
    "Every contender gave the expected answer first; then all took turns, in rounds whose order "
    "rotates; a call of less than 20 ms is repeated, after one off the clock. *ours* and *theirs* "
    "are medians of the wall time of one call. **ratio** is the "
    "median over the rounds of theirs / ours: 3 means that shardwise takes a third of the time; "
    "below 1, in **bold**, the peer is faster. A name in *italics* is another call of shardwise. "
    "*of ceiling* is the time in which a simple reader with prefetches gets the rows alone from "
    "this memory, divided by our time: at 1 we are as fast as that, above it faster."
)


def write(documents: Sequence[Document], folder: Path) -> Path:
    """Write the page and its plots into a folder; give the page's path."""
    folder.mkdir(parents=True, exist_ok=True)
    plots = draw(documents, folder)
    page = folder / "index.md"
    page.write_text("\n".join(lines(documents, plots)) + "\n")
    return page


def lines(documents: Sequence[Document], plots: Sequence[tuple[str, str]]) -> Iterator[str]:
    yield "# Benchmarks"
    yield ""
    yield from about(documents)
    yield HOW_TO_READ
    yield ""
    yield from wishes(documents)
    if plots:
        yield "## Ratios against size"
        yield ""
        yield "Each line is a peer: its time divided by ours. Solid: one thread; dashed: two."
        yield ""
        for title, file in plots:
            yield f"![{title}]({file})"
            yield ""
    for document in documents:
        yield from suite(document)


def about(documents: Sequence[Document]) -> Iterator[str]:
    first = documents[0]
    machine, packages = first["machine"], first["packages"]
    memory = machine["memory_bytes"] / 2**30
    versions = ", ".join(f"{name} {version}" for name, version in packages.items())
    yield (
        f"{machine['cpu']}, {machine['usable_cores']} usable cores, {memory:.0f} GiB, "
        f"{machine['system']} {machine['kernel']}, {machine['python']}; {versions}."
    )
    sources = " and ".join(dict.fromkeys(document["sources"] for document in documents))
    days = " and ".join(sorted({document["time"][:10] for document in documents}))
    rounds = ", ".join(f"{document['suite']} {document['rounds']}" for document in documents)
    quick = " A quick run: small tables." if any(d["quick"] for d in documents) else ""
    yield (
        f"From the suites of `python -m benchmarks`, {days}, "
        f"sources {sources}; rounds: {rounds}.{quick}"
    )
    yield ""


def wishes(documents: Iterable[Document]) -> Iterator[str]:
    """The ratios that were asked for, and whether they are met, or why not."""
    explained = shortfalls()
    rows = [
        (document["suite"], run["threads"], case["title"], target)
        for document in documents
        for run in document["runs"]
        for case in run["cases"]
        for target in case["targets"]
        if target["met"] is not None
    ]
    met = sum(row[3]["met"] for row in rows)
    yield "## What was wished for"
    yield ""
    yield f"{met} of {len(rows)} ratios are met; those that are not, in bold."
    yield ""
    yield "| suite | threads | case | time of / time of | wished | measured | why |"
    yield "|---|---|---|---|---|---|---|"
    reasons: dict[str, int] = {}
    for name, threads, title, target in rows:
        sign, limit = ("≥", target["at_least"]) if target["at_least"] else ("≤", target["at_most"])
        found, note = f"{target['ratio']:.2f}", ""
        if not target["met"]:
            why = explanation(explained, name, title, threads, target)
            found, note = f"**{found}**", f"({reasons.setdefault(why, len(reasons) + 1)})"
        yield (
            f"| {name} | {threads} | {title} | {target['contender']} / {target['reference']} "
            f"| {sign} {limit:g} | {found} | {note} |"
        )
    yield ""
    if reasons:
        yield "Why some are not met:"
        yield ""
        for why, number in reasons.items():
            yield f"{number}. {why}"
        yield ""


def shortfalls() -> list[dict[str, Any]]:
    """The prose about ratios that were not met; it is kept when the page is written anew."""
    found: list[dict[str, Any]] = tomllib.loads(SHORTFALLS.read_text())["shortfall"]
    return found


def explanation(
    explained: Sequence[dict[str, Any]],
    suite: str,
    title: str,
    threads: int,
    target: dict[str, Any],
) -> str:
    """Give the first of the explanations that fits a ratio which is not met."""
    for one in explained:
        if is_about(one, suite, title, threads, target["contender"], target["reference"]):
            return " ".join(one["why"].split())
    return UNEXPLAINED


def is_about(
    one: dict[str, Any], suite: str, title: str, threads: int, contender: str, reference: str
) -> bool:
    pair = (one["suite"], one["contender"], one["reference"]) == (suite, contender, reference)
    return pair and one.get("case", "") in title and threads in one.get("threads", [threads])


def suite(document: Document) -> Iterator[str]:
    yield f"## {document['suite']}: {SUITES[document['suite']]}"
    yield ""
    yield "| case | threads | ours | of ceiling | peer | theirs | ratio |"
    yield "|---|---|---|---|---|---|---|"
    for run in document["runs"]:
        for case in run["cases"]:
            yield from compared(case, run["threads"])
    yield ""


def compared(case: dict[str, Any], threads: int) -> Iterator[str]:
    """One row for each peer."""
    by_name = {contender["name"]: contender for contender in case["contenders"]}
    ours = by_name[case["reference"]]
    share = "".join(
        f"{other['ratio_by_round']:.2f}" for name, other in by_name.items() if is_ceiling(name)
    )
    start = f"| {case['title']} | {threads} | {readable(ours['median_s'])} | {share} "
    for name, other in by_name.items():
        if name == case["reference"] or is_ceiling(name):
            continue
        ratio = f"{other['ratio_by_round']:.2f}"
        wins = other["ratio_by_round"] < 1 and not other["ours"]
        shown, bold = f"*{name}*" if other["ours"] else name, "**" if wins else ""
        yield f"{start}| {shown} | {readable(other['median_s'])} | {bold}{ratio}{bold} |"
        start = "| | | | "
    for name, why in case["absent"].items():
        yield f"{start}| {name} | {why} | |"
        start = "| | | | "


def is_ceiling(name: str) -> bool:
    return name.startswith("ceiling")


def readable(seconds: float) -> str:
    if seconds >= 1:
        return f"{seconds:.2f} s"
    unit, scale = fitting_unit(seconds)
    return f"{seconds * scale:.3g} {unit}"


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.page", description="Write the page from the suites' JSON files."
    )
    parser.add_argument("documents", nargs="+", type=Path, metavar="FILE")
    parser.add_argument("--to", type=Path, required=True, metavar="FOLDER")
    given = parser.parse_args(arguments)
    print(write([json.loads(path.read_text()) for path in given.documents], given.to))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
