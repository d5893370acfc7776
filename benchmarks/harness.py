"""Timing: contenders that must agree bit for bit, alternated in rounds.

A contender is a statement and the names it uses, compiled into the timing loop as `timeit` does:
what is timed is what a user writes, with no call around it that would flatter the slower side.
"""

import gc
import math
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import repeat
from time import perf_counter, process_time
from typing import Any

import numpy as np
from numpy.typing import NDArray

SHORTEST_SAMPLE = 0.020  # seconds; shorter calls are repeated within one sample
LONG = 5.0  # seconds; a first call that takes them is no matter of warming up
Check = Callable[[Any], bool]
Sampler = Callable[[int], tuple[float, float]]  # calls per sample -> wall and CPU time of one

_SOURCE = """
def once():
    return {statement}

def sample(loops):
    if loops == 1:
        cpu = _cpu()
        wall = _wall()
        result = {statement}
        wall = _wall() - wall
        cpu = _cpu() - cpu
        return wall, cpu  # the result is dropped here, after the clocks were read
    turns = _repeat(None, loops)
    cpu = _cpu()
    wall = _wall()
    for _turn in turns:
        {statement}
    wall = _wall() - wall
    cpu = _cpu() - cpu
    return wall / loops, cpu / loops
"""


class AnswersDiffer(Exception):
    """A contender's answer is not the expected one, so its time would mean nothing."""


@dataclass(frozen=True)
class Contender:
    name: str
    statement: str
    names: Mapping[str, object]
    check: Check
    ours: bool = False
    # Called off the clock before each sample, which is then one call however short it is.
    before: Callable[[], object] | None = None


@dataclass(frozen=True)
class Target:
    """A wish for the ratio time(contender) / time(reference): one of the two limits is given."""

    contender: str
    reference: str
    at_least: float | None = None
    at_most: float | None = None
    aim: float | None = None  # beyond the target: shown, not counted

    def met(self, ratio: float) -> bool:
        return ratio >= (self.at_least or 0) and ratio <= (self.at_most or math.inf)


@dataclass(frozen=True)
class Case:
    title: str
    contenders: Sequence[Contender]
    reference: str  # the contender that ratios are given to
    targets: Sequence[Target] = ()
    absent: Mapping[str, str] = field(default_factory=dict)  # contender -> why it is not here
    note: str = ""
    sweep: tuple[str, float] | None = None  # what is swept, and how much of it this case has


@dataclass
class Samples:
    """Seconds per call of one contender, one entry per round."""

    loops: int
    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)

    @property
    def median(self) -> float:
        return statistics.median(self.wall)


@dataclass(frozen=True)
class Result:
    case: Case
    samples: Mapping[str, Samples]

    def ratio_of_medians(self, contender: str, reference: str) -> float:
        return self.samples[contender].median / self.samples[reference].median

    def ratio_by_round(self, contender: str, reference: str) -> float:
        """Give the median over rounds of the ratio within a round: neighbours share the noise."""
        pairs = zip(self.samples[contender].wall, self.samples[reference].wall, strict=True)
        return statistics.median(mine / theirs for mine, theirs in pairs)

    def targets(self) -> Iterator[tuple[Target, float | None]]:
        """Give each target with the ratio by round that decides it; None if a side is absent."""
        for target in self.case.targets:
            if target.contender in self.samples and target.reference in self.samples:
                yield target, self.ratio_by_round(target.contender, target.reference)
            else:
                yield target, None


def measure(case: Case, rounds: int) -> Result:
    samplers: dict[str, Sampler] = {}
    results: dict[str, Samples] = {}
    for contender in case.contenders:
        once, sample = compiled(contender)
        begin = perf_counter()
        answer = once()
        is_long = perf_counter() - begin > LONG
        if not contender.check(answer):
            raise AnswersDiffer(f"{case.title}: {contender.name}: {contender.statement}")
        samplers[contender.name] = sample
        del answer
        one_call = contender.before is not None or is_long
        results[contender.name] = Samples(1 if one_call else fitting_loops(sample))
    order = list(case.contenders)
    gc.collect()
    gc.disable()
    try:
        for turn in range(rounds):
            first = turn % len(order)
            for contender in order[first:] + order[:first]:
                if contender.before:
                    contender.before()
                result = results[contender.name]
                if result.loops > 1:
                    # Off the clock: the neighbour's threads may spin on, and it may have read the
                    # same rows or others. Sums that follow the ceiling found their rows in a cache,
                    # and weighted ones, which follow another table's, did not: 8 % of the ratio.
                    samplers[contender.name](1)
                wall, cpu = samplers[contender.name](result.loops)
                result.wall.append(wall)
                result.cpu.append(cpu)
    finally:
        gc.enable()
    return Result(case, results)


def compiled(contender: Contender) -> tuple[Callable[[], object], Sampler]:
    space: dict[str, Any] = dict(contender.names)
    space.update(_wall=perf_counter, _cpu=process_time, _repeat=repeat)
    source = _SOURCE.format(statement=contender.statement)
    exec(compile(source, f"<{contender.name}>", "exec"), space)
    return space["once"], space["sample"]


def fitting_loops(sample: Sampler) -> int:
    """Find how many calls make a sample long enough; warms the caches on the way."""
    loops = 1
    while True:
        # The better of two: the first call may wait for fresh memory.
        seconds = min(sample(loops)[0] for _ in range(2))
        if seconds * loops >= SHORTEST_SAMPLE:
            return loops
        fitting = math.ceil(1.1 * SHORTEST_SAMPLE / max(seconds, 1e-9))
        loops = min(max(fitting, loops + 1), 10 * loops)


def equals(expected: NDArray[Any]) -> Check:
    """Check that a result has the expected shape, dtype and bits (so NaN equals itself)."""

    def check(result: Any) -> bool:
        array = np.asarray(result)
        if array.shape != expected.shape or array.dtype != expected.dtype:
            return False
        bits = np.dtype(f"u{expected.itemsize}")
        return bool(np.array_equal(array.view(bits), expected.view(bits)))

    return check
