"""What ranks do of a distributed table that are refused something, or lost."""

import contextlib
import os
import signal
import time
from datetime import timedelta

from distributed_ranks import DIM, ROWS, caught


def refused(rank, size, path, what):
    """Return the error that each rank gets, and that the table works afterwards."""
    import numpy as np

    from shardwise import ShardwiseError, optimizers
    from shardwise.distributed import DistributedTable

    table = DistributedTable.open(path, mode="memory")
    before = table.lookup([3, 4])
    sgd = optimizers.SGD(1.0)
    last = rank == size - 1
    try:
        if what == "id":
            table.lookup([1, 2 if not last else ROWS + 5])
        elif what == "id of a bag":
            table.pool([[1, 2 if not last else -1]])
        elif what == "gradient":
            table.update([3], np.full((1, DIM), np.nan if last else 1.0), sgd)
        elif what == "shape":
            table.update_pool([3], [0], np.ones((1, DIM + last)), sgd)
        elif what == "id of an update":
            table.update([ROWS if last else 3], np.ones((1, DIM)), sgd)
        elif what == "call":
            table.pool([[3]]) if last else table.lookup([3])
        elif what == "optimizer":
            table.update([3], np.ones((1, DIM)), optimizers.SGD(2.0) if last else sgd)
        elif what == "save":
            table.save("/dev/null/no" if last and size == 1 else path)
        error = None
    except (ShardwiseError, OSError) as caught:
        error = f"{type(caught).__name__}: {caught}"
    return error, bool((table.lookup([3, 4]) == before).all())


def odd_arguments(rank, size, path):
    """Return the errors of arguments that are none, the same on all ranks."""
    import numpy as np

    from shardwise.distributed import DistributedTable

    calls = {
        "timeout": lambda: DistributedTable.open(path, timeout=30),
        "too large": lambda: DistributedTable.create(None, 1 << 62, 2),
        "optimizer": lambda: DistributedTable.create(None, 5, 2).state_dict(5),
        "state": lambda: DistributedTable.create(None, 5, 2).load_state_dict(None),
    }
    found = {}
    for name, call in calls.items():
        try:
            call()
        except Exception as error:
            found[name] = f"{type(error).__name__}: {error}"
    table = DistributedTable.open(path, exact=np.True_, average=np.False_)
    return found, table.lookup([rank]).shape


def disagree(rank, size, path, others):
    """Open a table, the last rank another one."""
    from shardwise import ShardwiseError
    from shardwise.distributed import DistributedTable

    last = rank == size - 1
    options = others if last else {}
    try:
        DistributedTable.open(options.pop("path", path), **options)
    except ShardwiseError as error:
        return f"{type(error).__name__}: {error}"


def lost(rank, size, path, how):
    """Train until the last rank is lost; return the error of the others."""
    import numpy as np

    from shardwise import DistributedError, Table, optimizers
    from shardwise.distributed import DistributedTable, _exchange

    _exchange._GRACE = 1.5
    table = DistributedTable.open(path, mode="memory", timeout=timedelta(seconds=2))
    begin = time.monotonic()
    for step in range(1000):
        if rank == size - 1 and step == 5:
            if how == "dies":
                os.kill(os.getpid(), signal.SIGKILL)
            elif how == "hangs":
                time.sleep(30)
            elif how == "fails":
                Table._update = no_memory
        try:
            ids = [1, 2, 3] if size > 1 else []
            table.update(ids, np.ones((len(ids), DIM)), optimizers.SGD(0.1))
        except DistributedError as error:
            try:
                table.lookup([1])
            except DistributedError as again:
                return str(error), str(again), time.monotonic() - begin
        except MemoryError:  # of the rank that fails
            return None


def no_memory(*arguments):
    raise MemoryError("no room")


def refused_writes(rank, size, path):
    """Return the errors of what cannot be written, and that nothing was."""
    import numpy as np

    from shardwise import ShardwiseError
    from shardwise.distributed import DistributedTable

    table = DistributedTable.open(path, mode="memory", replicated=[3])
    before, errors = table.lookup(range(ROWS)), []
    last = rank == size - 1
    for ids, rows in (
        ([1, ROWS if last else 2], 0),
        ([1.5 if last else 1], 0),
        ([1, 2], np.zeros((2, DIM + last))),
        ([1], "no" if last else 0),
    ):
        with caught(errors, ShardwiseError):
            table.write(ids, rows)
    with caught(errors, ShardwiseError):
        DistributedTable.open(path).write([1], 0)
    return errors, bool((table.lookup(range(ROWS)) == before).all())


def other_copies(rank, size, path, mine, others):
    """Open a table with copies that the last rank wants otherwise."""
    from shardwise import ShardwiseError
    from shardwise.distributed import DistributedTable

    errors = []
    with caught(errors, ShardwiseError):
        DistributedTable.open(path, replicated=others if rank == size - 1 else mine)
    return errors


def missing(rank, size, path):
    """Return what is said of names that a DistributedTable has not."""
    from shardwise import OptionError, Table
    from shardwise.distributed import DistributedTable

    table, found = DistributedTable.open(path), {}
    for name in [*(name for name in dir(Table) if name[0] != "_"), "nothing"]:
        try:
            getattr(table, name)
        except AttributeError as error:
            found[name] = str(error)
    unexplained = [k for k, said in found.items() if "a Table's alone" not in said]
    assert set(unexplained) <= {"nothing", "from_array", "from_shards"}, unexplained
    for name, how in (("mode", {"mode": "w"}), ("group", {"group": "r"})):
        try:
            DistributedTable.open(path, **how)
        except OptionError as error:
            found[name] = str(error)
    return found


def killed_in_place(rank, size, path):
    """Train in place; the last rank is killed in the middle."""
    import numpy as np

    from shardwise import DistributedError, optimizers
    from shardwise.distributed import DistributedTable, _exchange

    _exchange._GRACE = 1.5
    with contextlib.suppress(DistributedError):
        table = DistributedTable.open(path, mode="r+", timeout=timedelta(seconds=2))
        for step in range(1000):
            if rank == size - 1 and step == 5:
                os.kill(os.getpid(), signal.SIGKILL)
            table.update([step % ROWS], np.ones((1, DIM)), optimizers.Adagrad(0.1))
