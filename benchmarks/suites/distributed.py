"""Tables over ranks: lookups and training steps, beside torch's ways and TorchRec's.

Each case runs on ranks of its own, with `threads` threads each; a call begins when the ranks are
told to, and ends when all have answered.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..harness import Case, Check, Contender, Target
from ..lineup import NOT_INSTALLED, Setting
from ..ranks import Ranks
from ..spread import LIBRARIES, RATE, Work, rows_of
from .lookup import zipf_ids

OURS, COPIED, DTENSOR, DDP, TORCHREC = LIBRARIES
DIM, BAG, BATCHES = 64, 20, 4
SAMPLED = 256

Array = NDArray[Any]


def cases(setting: Setting) -> Iterator[Case]:
    rows, bags = (100_000, 1_024) if setting.quick else (1_000_000, 8_192)
    if setting.peers.torch is None:
        yield Case("tables over ranks", [], OURS, absent={OURS: "torch is not installed"})
        return
    rng = np.random.default_rng(60)
    batches = [zipf_ids(rng, rows, bags * BAG).reshape(bags, BAG) for _ in range(BATCHES)]
    gradient = rng.standard_normal((bags, DIM), dtype=np.float32)
    for size in (2, 4):
        ranks = Ranks(size, setting.threads, Work)
        ranks.call("set_up", rows, DIM, batches, gradient)
        try:
            what = f"{bags:,} x {BAG} Zipf ids of all ranks, {rows:,} x {DIM} float32"
            yield looked_up(f"lookup, {size} ranks: {what}", ranks, size, batches[0])
            yield trained(f"step, {size} ranks: {what}", ranks, size, batches[0], gradient)
        finally:
            ranks.close()


def looked_up(title: str, ranks: Ranks, size: int, ids: Array) -> Case:
    names, absent = made(ranks, (OURS, COPIED, DTENSOR, TORCHREC))
    share = len(ids) // size * BAG
    places = np.linspace(0, share - 1, SAMPLED).astype(np.int64)
    parts = np.split(ids.reshape(-1), size)
    expected = np.stack([rows_of(part[places], DIM) for part in parts])
    contenders = [
        Contender(
            name,
            f"found(ranks.call('lookup', {name!r}))",
            {"ranks": ranks, "found": First(lambda name=name: ranks.call("found", name, places))},
            equal(expected),
            ours=name in (OURS, COPIED),
        )
        for name in names
    ]
    rows, least = wire(ids, size, 1)
    note = (
        f"Ids and rows that ranks must send at the least, each remote row once for a rank: "
        f"{least / 1e6:.2f} MB ({rows:,} rows); ours sent {sent(ranks, OURS, 'lookup') / 1e6:.2f} "
        f"MB, and {sent(ranks, COPIED, 'lookup') / 1e6:.2f} MB where each rank has copies of the "
        "10,000 most frequent rows."
    )
    targets = [Target(name, OURS, at_least=2) for name in (DTENSOR, TORCHREC)]
    return Case(title, contenders, OURS, targets, absent, note)


def trained(title: str, ranks: Ranks, size: int, ids: Array, gradient: Array) -> Case:
    names, absent = made(ranks, (OURS, COPIED, DTENSOR, DDP, TORCHREC))
    sampled = np.unique(ids)[:: max(1, len(np.unique(ids)) // SAMPLED)]
    sums = np.zeros((len(sampled), DIM))
    places = np.flatnonzero(np.isin(ids.reshape(-1), sampled))
    np.add.at(sums, np.searchsorted(sampled, ids.reshape(-1)[places]), gradient[places // BAG])
    expected = np.stack([rows_of(sampled, DIM) - RATE * sums / size] * size)
    contenders = [
        Contender(
            name,
            f"some(ranks.call('step', {name!r}))",
            {"ranks": ranks, "some": First(lambda name=name: ranks.call("some", name, sampled))},
            close(expected),
            ours=name in (OURS, COPIED),
        )
        for name in names
    ]
    rows, least = wire(ids, size, 2)
    note = (
        f"SGD. Rows there and gradients back, each remote row once for a rank, are "
        f"{least / 1e6:.2f} MB with their ids ({rows:,} rows); ours, which sends a sum for each "
        f"bag and rank, sent {sent(ranks, OURS, 'step') / 1e6:.2f} MB in a step, and "
        f"{sent(ranks, COPIED, 'step') / 1e6:.2f} MB where each rank has copies of the 10,000 most "
        "frequent rows, which come to all when they were changed. "
        "DistributedDataParallel has the whole table on each rank, and reduces a dense gradient."
    )
    targets = [Target(name, OURS, at_least=2) for name in (DTENSOR, DDP, TORCHREC)]
    return Case(title, contenders, OURS, targets, absent, note)


def made(ranks: Ranks, wanted: tuple[str, ...]) -> tuple[list[str], dict[str, str]]:
    """Make each library's table anew; return those that are there, and why others are not."""
    absent = {}
    for name in wanted:
        if any(why := ranks.call("make", name)):
            absent[name] = next(filter(None, why), NOT_INSTALLED)
    return [name for name in wanted if name not in absent], absent


def wire(ids: Array, size: int, ways: int) -> tuple[int, int]:
    """The rows that lie on other ranks than those that ask for them, dealt out by `mod`, and the
    bytes of their ids, and of themselves, sent `ways` times."""
    rows = 0
    for rank, mine in enumerate(np.split(ids, size)):
        unique = np.unique(mine)
        rows += int((unique % size != rank).sum())
    return rows, rows * (4 + ways * 4 * DIM)


def sent(ranks: Ranks, name: str, what: str) -> int:
    """The bytes that our ranks send in a call."""
    before: int = sum(ranks.call("sent_bytes", name))
    ranks.call(what, name)
    after: int = sum(ranks.call("sent_bytes", name))
    ranks.call("make", name)  # as if it had not been called
    return after - before


class First:
    """Gives what was found after the first call alone."""

    def __init__(self, read: Any) -> None:
        self._read: Any = read

    def __call__(self, _: object) -> Any:
        read, self._read = self._read, None
        return None if read is None else np.stack(read())


def equal(expected: Array) -> Check:
    return lambda found: bool(np.array_equal(found, expected))


def close(expected: Array) -> Check:
    """Check to some roundings of float32, of rows that are up to 64."""
    return lambda found: bool(np.abs(found - expected).max() < 1e-4)
