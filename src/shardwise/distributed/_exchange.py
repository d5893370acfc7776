"""What ranks send each other: a header that shows whether they agree, then bytes."""

from __future__ import annotations

import itertools
import threading
import time
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np
import torch
import torch.distributed as dist

from shardwise import _native
from shardwise._errors import DistributedError, OptionError

if TYPE_CHECKING:
    from numpy.typing import NDArray

TIMEOUT = timedelta(minutes=5)
_GRACE = 5.0  # seconds in which ranks that live say so, after something was lost
# Numbers of a header: two counts, what is known, whether there is an error, and of which call.
_WIDTH = 5


class Exchange:
    """A group of ranks that call the same methods in the same order.

    Each method is called by all ranks. What one of them cannot do is an error on all: they find out
    together, before bytes are sent, so no rank waits for another in vain.

    Args:
        group: of torch.distributed, of any backend; None for all processes.
        timeout: how long a rank waits for another.
        first: the number of the first agreement; the others follow it in steps of 2.

    Attributes:
        number: of the last agreement, the same on all ranks.

    Raises:
        DistributedError: torch.distributed is not initialized, or this rank is not in the group.
        OptionError: it is no group, or the timeout is none.
    """

    def __init__(self, group: Any = None, timeout: timedelta | None = None, first: int = 1) -> None:
        if not dist.is_available() or not dist.is_initialized():
            raise DistributedError(
                "expected torch.distributed to be initialized, got no group; start the program "
                'with torchrun, and call torch.distributed.init_process_group("gloo") first'
            )
        self.parent = dist.group.WORLD if group is None else group
        if self.parent == dist.GroupMember.NON_GROUP_MEMBER:
            raise DistributedError(
                "expected a group that this rank belongs to, got another; let only its members open"
            )
        if not isinstance(self.parent, dist.ProcessGroup):
            raise OptionError(
                f"expected group=None or a process group of torch.distributed, got {group!r:.40}; "
                "other options, such as mode, are given by their names"
            )
        if timeout is not None and not isinstance(timeout, timedelta):
            raise OptionError(
                f"expected timeout=None or a datetime.timedelta, got {timeout!r:.40}; "
                "timedelta(seconds=30) is half a minute"
            )
        self.timeout = TIMEOUT if timeout is None else timeout
        self.rank: int = dist.get_rank(self.parent)
        self.size: int = dist.get_world_size(self.parent)
        self.sent_bytes, self.number = 0, first - 2
        self._lost: str | None = None
        # A group of our own: rows lie in the memory of CPUs, whatever the backend of the caller's
        # group is, and calls on other threads, such as those of DistributedDataParallel, do not
        # come between ours.
        with self._watched("opening"):
            self._group = dist.new_group(
                dist.get_process_group_ranks(self.parent),
                timeout=self.timeout,
                backend="gloo",
                use_local_synchronization=True,
            )
        self._name = str(self._group.group_name)

    def another(self) -> Exchange:
        """Return a second exchange of the same ranks, for another thread; its numbers are even."""
        return Exchange(self.parent, self.timeout, first=2)

    def agree(
        self,
        call: str,
        counts: NDArray[np.int64] | None = None,
        error: Exception | None = None,
        known: int = 0,
    ) -> tuple[NDArray[np.int64], bool]:
        """Send each rank two numbers; return theirs, and whether all know the same.

        Args:
            call: what this rank does, in words: the same on all ranks.
            counts: int64[ranks, 2].
            error: why this rank cannot do it.
            known: the number of an agreement whose outcome would do again; 0 where there is none.

        Raises:
            DistributedError: another rank cannot do it, does something else, or is lost.
            Exception: `error`, when the other ranks know of it.
        """
        sent = np.zeros((self.size, _WIDTH), np.int64)
        if counts is not None:
            sent[:, :2] = counts
        sent[:, 2], sent[:, 3] = known, error is not None
        sent[:, 4] = zlib.crc32(call.encode())
        row = [_WIDTH * 8] * self.size
        self.number += 2
        got = self.swap(sent.reshape(-1).view(np.uint8), row, row, what=call)
        theirs = got.view(np.int64).reshape(self.size, _WIDTH)
        if theirs[:, 3].any() or (theirs[:, 4] != sent[0, 4]).any():
            self._differ(call, theirs, error)
        return theirs[:, :2], known != 0 and bool((theirs[:, 2] == known).all())

    def _differ(self, call: str, theirs: NDArray[np.int64], error: Exception | None) -> NoReturn:
        said = call if error is None else f"{type(error).__name__}: {error}"
        texts = self.gather(said)
        if error is not None:
            raise error
        failed = np.flatnonzero(theirs[:, 3])
        if failed.size:
            rank = int(failed[0])
            more = f" (and {failed.size - 1} more ranks)" if failed.size > 1 else ""
            raise DistributedError(
                f"expected all ranks to do {shown(call)}, got an error of rank {rank}{more}: "
                f"{texts[rank]}; nothing was changed"
            )
        rank = next(k for k, text in enumerate(texts) if text != call)
        raise DistributedError(
            f"expected all {self.size} ranks to call the same, got {shown(call)} of rank "
            f"{self.rank} and {shown(texts[rank])} of rank {rank}; nothing was changed"
        )

    def gather(self, text: str) -> list[str]:
        """Return what each rank says."""
        data = np.frombuffer(text.encode(), np.uint8)
        size = np.full(self.size, data.size, np.int64).view(np.uint8)
        sizes = self.swap(size, [8] * self.size, [8] * self.size).view(np.int64).tolist()
        copies = np.tile(data, self.size)
        got = self.swap(copies, [data.size] * self.size, sizes)
        ends = np.cumsum([0, *sizes])
        return [got[a:b].tobytes().decode(errors="replace") for a, b in itertools.pairwise(ends)]

    def swap(
        self,
        data: NDArray[np.uint8],
        sent: Sequence[int],
        received: Sequence[int],
        out: NDArray[np.uint8] | None = None,
        what: str = "an exchange",
    ) -> NDArray[np.uint8]:
        """Send each rank its part of some bytes; return the parts that ranks sent, in their order.

        Args:
            data: uint8[sum(sent)]: the part of rank 0, that of rank 1, ...
            sent: the size of each rank's part.
            received: how much each rank sends.
            out: uint8[sum(received)], which takes them.
            what: what it is for, in words.

        Raises:
            DistributedError: a rank is lost.
        """
        if out is None:
            out = _native.empty((sum(received),), np.dtype(np.uint8))
        if self.size == 1:
            out[:] = data
            return out
        self.sent_bytes += sum(sent) - sent[self.rank]
        with self._watched(what):
            dist.all_to_all_single(
                as_bytes(out), as_bytes(data), list(received), list(sent), group=self._group
            )
        return out

    @contextmanager
    def _watched(self, what: str) -> Iterator[None]:
        if self._lost is not None:
            raise DistributedError(self._lost)
        try:
            yield
        except RuntimeError as error:
            self._lost = self._explain(what, str(error))
            raise DistributedError(self._lost) from error

    @contextmanager
    def committed(self, call: str) -> Iterator[None]:
        """The part of a call in which others wait: what goes wrong here alone is told to them.

        After it, nothing more is exchanged: the rank that failed closes its connections, and the
        others get an error that has its words.
        """
        try:
            yield
        except DistributedError:
            raise
        except BaseException as error:
            said = f"{type(error).__name__}: {error}"
            self._lost = (
                f"expected {shown(call)} to end, got {said}; start all ranks again from the last "
                "checkpoint"
            )
            self._say(f"failed with {said}")
            dist.destroy_process_group(self._group)
            raise

    def _say(self, text: str) -> None:
        thread = threading.Thread(target=self._tell, args=(text,), daemon=True)
        thread.start()
        thread.join(_GRACE)

    def _tell(self, text: str) -> None:
        try:
            _store().set(self._key(self.rank), text)
        except Exception:
            return

    def _key(self, rank: int) -> str:
        return f"shardwise/{getattr(self, '_name', 'opening')}/{rank}"

    def _explain(self, what: str, cause: str) -> str:
        """Say which ranks are lost: those that do not say that they lost somebody, too."""
        heard: dict[int, str] = {}

        def listen() -> None:
            try:
                store = _store()
                store.set(self._key(self.rank), "lives")
                waiting, end = set(range(self.size)), time.monotonic() + _GRACE
                while waiting and time.monotonic() < end:
                    for rank in sorted(waiting):
                        if store.check([self._key(rank)]):
                            heard[rank] = store.get(self._key(rank)).decode(errors="replace")
                    waiting -= heard.keys()
                    if waiting:
                        time.sleep(0.05)
            except Exception:  # nothing is heard, not even this rank itself
                heard.clear()

        thread = threading.Thread(target=listen, daemon=True)
        thread.start()
        thread.join(2 * _GRACE)
        first = " ".join(cause.split())[:300]
        slow = "timed out" in cause.lower() or "timeout" in cause.lower()
        seconds = self.timeout.total_seconds()
        failed = [rank for rank, text in sorted(heard.items()) if text != "lives"]
        lost = [rank for rank in range(self.size) if rank not in heard]
        if failed:
            who = f"rank {failed[0]}, which {heard[failed[0]]}"
        elif self.rank in lost:
            who = (
                "the store of the process group, of rank 0 or of torchrun, which does not answer: "
                "its process ended, or this host is cut off"
            )
        elif lost:
            # With several, some of them may be in another call, where they did not notice yet.
            ranks = ", ".join(map(str, lost))
            how = f"hangs: no answer in {seconds:g} s" if slow else "died: its connection closed"
            who = (
                f"rank {ranks}, which {how}"
                if len(lost) == 1
                else f"one of the ranks {ranks}: it {how}"
            )
        else:
            who = f"a connection of rank {self.rank}, though all ranks live"
        return (
            f"expected all {self.size} ranks to take part in {shown(what)}, lost {who} ({first}); "
            "tables on the disk are whole: start all ranks again from the last checkpoint"
        )


def _store() -> Any:
    from torch.distributed import distributed_c10d

    return distributed_c10d._get_default_store()


def as_bytes(array: NDArray[np.uint8]) -> Any:
    """Return bytes as a tensor of the same memory, which torch does not write to."""
    if not array.flags.writeable:
        array = array.copy()
    return torch.from_numpy(array)


def shown(call: str) -> str:
    """Return a call as a message has room for it."""
    return call if len(call) <= 200 else call[:200] + "..."
