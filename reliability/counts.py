"""How long a part may take, what it has done, and the table that is made of it."""

from __future__ import annotations

import random
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path


class Fault(AssertionError):
    """What must not be; the message says how to have it again."""


@dataclass
class Run:
    """One part's time, chance and folder, and the counts of what it did.

    Attributes:
        seconds: how long the part may go on; it ends at the first whole round after them.
        seed: what all its choices follow from.
        folder: an empty directory of its own.
        done: how often each thing was done, by what the table calls it.
        notes: what was left out here, and why.
    """

    seconds: float
    seed: int
    folder: Path
    done: Counter[str] = field(default_factory=Counter)
    notes: list[str] = field(default_factory=list)
    begin: float = field(default_factory=time.monotonic)

    @property
    def is_short(self) -> bool:
        """Whether this is the run of the tests, which sees each thing once."""
        return self.seconds < 30

    def goes_on(self) -> bool:
        return time.monotonic() - self.begin < self.seconds

    def random(self, salt: object = "") -> random.Random:
        return random.Random(f"{self.seed} {salt}")

    def count(self, what: str, times: int = 1) -> None:
        self.done[what] += times


def table(runs: dict[str, Run]) -> str:
    """The counts of all parts, as a table of Markdown."""
    lines = ["| part | what was done | how often |", "|---|---|---:|"]
    for part, run in runs.items():
        for what, times in sorted(run.done.items()):
            lines.append(f"| {part} | {what} | {times:,} |")
    return "\n".join(lines)
