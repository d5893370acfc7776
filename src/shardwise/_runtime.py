"""Settings of the process: threads, instruction level, kept memory."""

from __future__ import annotations

import operator

from shardwise import _native
from shardwise._errors import OptionError


def num_threads() -> int:
    """Return how many threads a lookup may use, the calling one included.

    The default is the number of CPUs that the process may use (its affinity and its control
    group's quota), or the environment variable ``SHARDWISE_NUM_THREADS``.

    Example:
        >>> import shardwise
        >>> before = shardwise.num_threads()
        >>> shardwise.set_num_threads(2)
        >>> shardwise.num_threads()
        2
        >>> shardwise.set_num_threads(before)
    """
    return _native.num_threads()


def set_num_threads(count: int) -> None:
    """Set how many threads a lookup may use, from 1 to 1024.

    Results do not depend on it. It holds for the whole process, from the next lookup on.

    Raises:
        OptionError: `count` is not a whole number from 1 to 1024.

    Example:
        >>> import shardwise
        >>> shardwise.set_num_threads(1)
        >>> shardwise.num_threads()
        1
    """
    try:
        _native.set_num_threads(0 if isinstance(count, bool) else operator.index(count))
    except (TypeError, ValueError):
        raise OptionError(f"expected a number of threads from 1 to 1024, got {count!r}") from None


def empty_cache() -> int:
    """Give the memory of freed results back to the system; return how many bytes that were.

    Results of 1 MB and more lie in blocks of 2 MB pages. A freed block is kept for the next
    result, because fresh pages cost more than the lookup that fills them. At most
    ``SHARDWISE_CACHE_BYTES`` are kept (by default 1 GiB or a sixteenth of the memory, whichever
    is less), and the system may take them back before, when memory runs short.

    Example:
        >>> import shardwise
        >>> shardwise.empty_cache() >= 0
        True
    """
    return _native.empty_cache()
