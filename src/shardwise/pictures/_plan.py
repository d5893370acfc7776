"""A picture of a table on many ranks: their memory, and the traffic of a step."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import numpy as np

from shardwise.pictures._picture import check_library

if TYPE_CHECKING:
    from shardwise._plan import Plan

_COLOURS = ("#3b6ea5", "#c8763a", "#8a8f98")


def draw_plan(plan: Plan, memory: int | None, form: str) -> bytes:
    """Return a picture: bars of memory, and of bytes sent and received, for each rank.

    Args:
        plan: that.
        memory: of a rank, drawn as a line; or None.
        form: ".png", ".svg" or ".pdf".

    Raises:
        MissingLibraryError: matplotlib is not installed.
    """
    check_library()
    import matplotlib as mpl
    from matplotlib.figure import Figure

    ranks = np.arange(len(plan.ranks))
    with mpl.rc_context({"svg.hashsalt": "shardwise"}):
        figure = Figure(figsize=(8, 5), facecolor="white", layout="constrained")
        above, below = figure.subplots(2, 1, sharex=True)
        above.bar(ranks, [rank.bytes / 1e9 for rank in plan.ranks], color=_COLOURS[0])
        above.set_ylabel("GB of rows and state")
        if memory is not None:
            above.axhline(memory / 1e9, color=_COLOURS[1], lw=1)
            above.annotate("memory", (0, memory / 1e9), va="bottom", color=_COLOURS[1])
        width = 0.4
        sent = [rank.sent / 1e6 for rank in plan.ranks]
        received = [rank.received / 1e6 for rank in plan.ranks]
        below.bar(ranks - width / 2, sent, width, color=_COLOURS[1], label="sent")
        below.bar(ranks + width / 2, received, width, color=_COLOURS[2], label="received")
        below.set_ylabel("MB in a step")
        below.set_xlabel("rank")
        below.legend(frameon=False)
        for axes in (above, below):
            axes.spines[["top", "right"]].set_visible(False)
        metadata = {".pdf": {"CreationDate": None}, ".svg": {"Date": None}, ".png": {}}[form]
        file = io.BytesIO()
        figure.savefig(file, format=form[1:], dpi=150, metadata=metadata)
    return file.getvalue()
