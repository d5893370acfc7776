"""Results for people (a table on the terminal) and for programs (JSON)."""

from collections.abc import Iterable, Mapping
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from .harness import Result, Target


def make_console() -> Console:
    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=140)


def show(console: Console, result: Result) -> None:
    case = result.case
    unit, scale = fitting_unit(max(samples.median for samples in result.samples.values()))
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("contender", no_wrap=True)
    for heading in (f"median {unit}", f"min {unit}", f"CPU {unit}", "ratio", "by round"):
        table.add_column(heading, justify="right", no_wrap=True)
    if case.targets:
        table.add_column("target")
    ours = {contender.name for contender in case.contenders if contender.ours}
    for name, samples in result.samples.items():
        table.add_row(
            f"[bold]{escape(name)}[/]" if name in ours else escape(name),
            f"{samples.median * scale:.2f}",
            f"{min(samples.wall) * scale:.2f}",
            f"{middle(samples.cpu) * scale:.2f}",
            f"{result.ratio_of_medians(name, case.reference):.2f}",
            f"{result.ratio_by_round(name, case.reference):.2f}",
            *verdicts(result, name),
        )
    for name, why in case.absent.items():
        table.add_row(escape(name), f"[dim]{escape(why)}[/]", *[""] * 4, *verdicts(result, name))
    console.print(f"\n[bold]{escape(case.title)}[/]")
    console.print(table)
    footnote = f"ratio: to the time of {case.reference!r}. {case.note}".strip()
    console.print(f"[dim]{escape(footnote)}[/]", soft_wrap=True)


def verdicts(result: Result, contender: str) -> list[str]:
    """Give the text of the target column; no column if the case has no targets."""
    lines = [
        f"{verdict(target, ratio)}: {wording(target)}"
        for target, ratio in result.targets()
        if target.contender == contender
    ]
    return ["\n".join(lines)] if result.case.targets else []


def wording(target: Target) -> str:
    limit = f"≥ {target.at_least:g}" if target.at_least else f"≤ {target.at_most:g}"
    aim = f" (aim {target.aim:g})" if target.aim else ""
    return escape(f"{limit} x {target.reference}{aim}")


def verdict(target: Target, ratio: float | None) -> str:
    if ratio is None:
        return "[dim]not measured[/]"
    return f"{ratio:.2f} " + ("[green]met[/]" if target.met(ratio) else "[red]NOT MET[/]")


def summary(console: Console, runs: Iterable[Mapping[str, Any]], *, quick: bool) -> None:
    """Print which targets of all runs were met, and each one that was not."""
    judged = [
        (run["threads"], case["title"], target)
        for run in runs
        for case in run["cases"]
        for target in case["targets"]
        if target["met"] is not None
    ]
    missed = [entry for entry in judged if not entry[2]["met"]]
    console.print(f"\n[bold]{len(judged) - len(missed)} of {len(judged)} targets met[/]")
    for threads, title, target in missed:
        sign, limit = ("≥", target["at_least"]) if target["at_least"] else ("≤", target["at_most"])
        what = f"{target['contender']} / {target['reference']} {sign} {limit:g}"
        console.print(
            f"[red]NOT MET[/] threads {threads}: {escape(title)}: {escape(what)}, "
            f"is {target['ratio']:.2f}",
            soft_wrap=True,
        )
    if quick:
        console.print("[dim]A quick run: the targets are meant for the full sizes.[/]")


def as_json(result: Result) -> dict[str, Any]:
    case = result.case
    return {
        "title": case.title,
        "note": case.note,
        "reference": case.reference,
        "sweep": case.sweep,
        "contenders": [
            {
                "name": contender.name,
                "statement": contender.statement,
                "ours": contender.ours,
                "loops": samples.loops,
                "median_s": samples.median,
                "min_s": min(samples.wall),
                "ratio_of_medians": result.ratio_of_medians(contender.name, case.reference),
                "ratio_by_round": result.ratio_by_round(contender.name, case.reference),
                "wall_s": samples.wall,
                "cpu_s": samples.cpu,
            }
            for contender in case.contenders
            for samples in [result.samples[contender.name]]
        ],
        "absent": dict(case.absent),
        "targets": [
            {
                "contender": target.contender,
                "reference": target.reference,
                "at_least": target.at_least,
                "at_most": target.at_most,
                "aim": target.aim,
                "ratio": ratio,
                "met": None if ratio is None else target.met(ratio),
            }
            for target, ratio in result.targets()
        ],
    }


def fitting_unit(seconds: float) -> tuple[str, float]:
    return ("ms", 1e3) if seconds >= 1e-3 else ("µs", 1e6)


def middle(values: Iterable[float]) -> float:
    ordered = sorted(values)
    half = len(ordered) // 2
    return (ordered[half] + ordered[~half]) / 2
