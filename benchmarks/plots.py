"""Plots of the sweeps: each peer's time divided by ours, against what was swept."""

from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

PEERS = {  # a peer keeps its colour in all plots
    "NumPy array[ids]": "tab:blue",
    "numpy.take": "tab:cyan",
    "torch embedding": "tab:orange",
    "torch embedding_bag": "tab:orange",
    "tf embedding_lookup": "tab:green",
    "tf v1 embedding_lookup, mod": "tab:olive",
    "FBGEMM IntNBit TBE": "tab:purple",
}

Lines = dict[tuple[str, int], list[tuple[float, float]]]  # (peer, threads) -> (size, ratio)


def draw(documents: Iterable[dict[str, Any]], folder: Path) -> list[tuple[str, str]]:
    """Draw one SVG for each sweep into the folder; give their titles and names."""
    import matplotlib

    matplotlib.use("svg")
    # The same numbers give the same file.
    with matplotlib.rc_context({"svg.hashsalt": "shardwise", "svg.fonttype": "none"}):
        return [
            (what, draw_one(what, lines, folder)) for what, lines in sweeps_of(documents).items()
        ]


def sweeps_of(documents: Iterable[dict[str, Any]]) -> dict[str, Lines]:
    sweeps: dict[str, Lines] = defaultdict(lambda: defaultdict(list))
    for document in documents:
        for run in document["runs"]:
            for case in run["cases"]:
                if case.get("sweep") is None:
                    continue
                what, size = case["sweep"]
                for contender in case["contenders"]:
                    if not contender["ours"]:
                        line = sweeps[what][contender["name"], run["threads"]]
                        line.append((size, contender["ratio_by_round"]))
    return sweeps


def draw_one(what: str, lines: Lines, folder: Path) -> str:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 3.6), layout="constrained")
    axes = figure.add_subplot()
    for (peer, threads), points in sorted(lines.items()):
        sizes, ratios = zip(*sorted(points), strict=True)
        axes.plot(
            sizes,
            ratios,
            color=PEERS.get(peer),
            linestyle="-" if threads == 1 else "--",
            marker="o",
            markersize=3,
            label=peer if threads == 1 else None,
        )
    axes.axhline(1, color="black", linewidth=0.8)
    swept = [size for points in lines.values() for size, _ in points]
    if min(swept) > 0 and max(swept) >= 8 * min(swept):
        axes.set_xscale("log")
    axes.set_yscale("log", base=2)
    axes.yaxis.set_major_formatter("{x:g}")
    axes.set_xlabel(what)
    axes.set_ylabel("their time / ours")
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small", frameon=False)
    name = "".join(c if c.isalnum() else "-" for c in what.lower()).strip("-") + ".svg"
    figure.savefig(folder / name, metadata={"Date": None})
    return name
