"""What ranks do that look up and train a distributed table."""

from datetime import timedelta

from distributed_ranks import DIM, ROWS, batch, caught


def everything(rank, size, path, exact, optimizer, steps, pools="sums", replicated=None):
    """Look up, pool and train; return all that was read, and copies as they are in the end."""
    from shardwise.distributed import DistributedTable

    options = {"exact": exact, "pools": pools, "replicated": replicated}
    table = DistributedTable.open(path, mode="memory", **options)
    read = []
    for step in range(steps):
        ids, offsets, weights, rows, sums = batch(rank, step)
        read.append(table.lookup(ids))
        for combiner in ("sum", "mean", "sqrtn", "max"):
            read.append(table.pool(ids, offsets, weights=weights, combiner=combiner))
        read.append(table.pool(ids, offsets, combiner="mean", padding_id=0, default_id=7))
        table.update(ids, rows, optimizer)
        table.update_pool(ids, offsets, sums, optimizer, combiner="mean", padding_id=2)
        table.update_pool(ids, offsets, sums, optimizer, weights=weights)
        table.update_pool(ids, offsets, sums, optimizer, combiner="max")
    read.append(table.lookup(range(ROWS) if rank == 0 else []))
    if replicated is not None:
        copies = table._replicas
        assert table.replicated.tolist() == sorted(copies.ids.tolist())
        return read, table.optimizer_step, dict(zip(copies.ids.tolist(), copies.rows, strict=True))
    return read, table.optimizer_step, table.sent_bytes


def single(size, path, optimizer, steps):
    """The same by one process, with the batches of all ranks one after the other."""
    import numpy as np

    from shardwise import Table

    table = Table.open(path, "c")
    read = [[] for _ in range(size)]
    for step in range(steps):
        batches = [batch(rank, step) for rank in range(size)]
        for rank, (ids, offsets, weights, _, _) in enumerate(batches):
            read[rank].append(table.lookup(ids))
            for combiner in ("sum", "mean", "sqrtn", "max"):
                read[rank].append(table.pool(ids, offsets, weights=weights, combiner=combiner))
            read[rank].append(table.pool(ids, offsets, combiner="mean", padding_id=0, default_id=7))
        starts = np.cumsum([0, *(len(one[0]) for one in batches)])
        offsets = np.concatenate(
            [one[1] + start for one, start in zip(batches, starts, strict=False)]
        )
        ids, _, weights, rows, sums = (
            np.concatenate(parts) for parts in zip(*batches, strict=True)
        )
        table.update(ids, rows, optimizer)
        table.update_pool(ids, offsets, sums, optimizer, combiner="mean", padding_id=2)
        table.update_pool(ids, offsets, sums, optimizer, weights=weights)
        table.update_pool(ids, offsets, sums, optimizer, combiner="max")
    for rank in range(size):
        read[rank].append(table.lookup(range(ROWS) if rank == 0 else np.empty(0, np.int64)))
    return read, table.optimizer_step


def train_and_save(rank, size, path, saved, optimizer, steps, reopen=None):
    """Train, save, and train on what was opened again; return rows and state, by rank 0."""
    from shardwise.distributed import DistributedTable

    table = DistributedTable.open(path, mode="memory", exact=True)
    for step in range(steps):
        ids, offsets, _, rows, sums = batch(rank, step)
        table.update(ids, rows, optimizer)
        table.update_pool(ids, offsets, sums, optimizer, combiner="mean")
    table.save(saved, overwrite=True)
    return table.optimizer_step


def read_all(rank, size, path, mode):
    from shardwise.distributed import DistributedTable

    table = DistributedTable.open(path, mode=mode, verify=True)
    state = {
        name: [array.tobytes() for array in arrays]
        for name, arrays in table.local.optimizer_state.items()
    }
    return table.lookup(range(ROWS)), table.local_ids, state, table.optimizer_step


def only_pools(rank, size, path, optimizer, steps):
    """Train by bags alone, and by ids of which each rank has each once."""
    import numpy as np

    from shardwise.distributed import DistributedTable

    table = DistributedTable.open(path, mode="c")
    for step in range(steps):
        ids, offsets, weights, rows, sums = batch(rank, step)
        table.update_pool(ids, offsets, sums, optimizer, combiner="sqrtn", weights=weights)
        once, places = np.unique(ids, return_index=True)
        table.update(once, rows[places], optimizer)
    return table.lookup(range(ROWS))


def train_with_checkpoints(rank, size, path, saved, steps, every):
    """Train from the last checkpoint on, as a program under torchrun does; save now and then."""
    from shardwise import Table, optimizers
    from shardwise.distributed import DistributedTable, _exchange

    _exchange._GRACE = 0.5
    options = {"mode": "memory", "exact": True, "replicated": range(8)}
    options["timeout"] = timedelta(seconds=5)
    try:
        table = DistributedTable.open(saved, **options)
    except OSError:
        table = DistributedTable.open(path, **options)
    for step in range(table.optimizer_step, steps):
        ids, _, _, rows, _ = batch(rank, step)
        table.update(ids, rows, optimizers.Adagrad(0.1))
        if (step + 1) % every == 0:
            table.save(saved, overwrite=True)
    return Table.open(saved).optimizer_step


def bits_by_step(size, path, steps):
    """The rows and the state that one process has after each step."""
    import numpy as np

    from shardwise import Table, optimizers

    table = Table.open(path, "c")
    found = {0: bits(table)}
    for step in range(steps):
        parts = [batch(rank, step) for rank in range(size)]
        ids, rows = (np.concatenate([part[k] for part in parts]) for k in (0, 3))
        table.update(ids, rows, optimizers.Adagrad(0.1))
        found[step + 1] = bits(table)
    return found


def bits(table):
    arrays = [a for arrays in table.optimizer_state.values() for a in arrays]
    return [array.tobytes() for array in (*table.shards, *arrays)]


def prefetched(rank, size, path, mode, exact):
    """Read and train with and without prefetch; return both, and the bytes sent in the calls."""
    from shardwise import optimizers
    from shardwise.distributed import DistributedTable

    found = []
    for ahead in (False, True):
        table = DistributedTable.open(path, mode=mode, exact=exact)
        read = []
        for step in range(4):
            ids, offsets, weights, rows, _ = batch(rank, step)
            read.append(table.lookup(ids))
            if ahead:
                table.prefetch(ids, offsets, weights=weights, combiner="mean")
            if mode != "r":
                table.update(ids, rows, optimizers.SGD(0.1))
            read.append(table.pool(ids, offsets, weights=weights, combiner="mean"))
            if ahead:  # also one that this rank, or one alone, has no use for
                table.prefetch(batch(rank, step + 1 + (step == 2 and rank == 1))[0])
        if ahead:
            table.prefetch([ROWS + 1] if rank == 0 else [1])  # told by nobody: nothing asks for it
            read.append(table.lookup([rank]))
        else:
            read.append(table.lookup([rank]))
        found.append(read)
    return found


def known_elsewhere(rank, size, path, mode, bags):
    """Look up what one rank knows of a prefetch, and another of its last call."""
    from shardwise.distributed import DistributedTable

    table, rows = DistributedTable.open(path, mode=mode), 8
    first, ahead = (range(k * rows, (k + 1) * rows) for k in (rank, size + rank))
    asked = first if rank else ahead

    def read(ids):
        return table.pool(ids, range(rows)) if bags else table.lookup(ids)

    read(first)
    table.prefetch(ahead, range(rows) if bags else None, combiner="sum" if bags else None)
    found = [(list(asked), read(asked))]
    found.append((list(ahead), read(ahead)))  # of which the others know an earlier exchange
    return found


def same_ids_in_other_shapes(rank, size, path):
    """Pool one list of ids as bags of several shapes; return what each gave."""
    import numpy as np

    from shardwise.distributed import DistributedTable

    table, ids, found = DistributedTable.open(path), np.arange(12) + rank, []
    for ahead in ((4, 3), (2, 2, 3)):
        for shape in ((4, 3), (2, 2, 3), (1, 4, 3)):
            found.append((ids.reshape(shape), table.pool(ids.reshape(shape))))
        table.prefetch(ids.reshape(ahead), combiner="sum")
    return found


def wires(rank, size, path, wire):
    from shardwise import optimizers
    from shardwise.distributed import DistributedTable

    table = DistributedTable.open(path, mode="memory", wire=wire)
    ids, offsets, weights, rows, sums = batch(rank)
    before = table.sent_bytes
    read = [table.lookup(ids), table.pool(ids, offsets, weights=weights, combiner="mean")]
    sent = table.sent_bytes - before
    table.update(ids, rows, optimizers.SGD(0.1))
    table.update_pool(ids, offsets, sums, optimizers.SGD(0.1))
    return [*read, table.lookup(range(ROWS))], sent, table.rows_of_ranks


def odd_tables(rank, size, path, packed, integers):
    """Tables of rows in 8 bits, of integers, of 16 bits, and of no rows."""
    import numpy as np

    from shardwise import TableError, optimizers
    from shardwise.distributed import DistributedTable

    ids = batch(rank)[0]
    read = []
    for one in (packed, integers):
        table = DistributedTable.open(one)
        read.append(table.lookup(ids, out_of_range="wrap"))
        read.append(table.lookup(ids + 150, out_of_range="zeros"))
        try:
            table.update(ids, np.ones((len(ids), DIM)), optimizers.SGD(1.0))
        except TableError:
            read.append(np.empty(0))
    table = DistributedTable.open(path, mode="c")
    read.append(table.lookup(ids.reshape(1, -1), max_norm=1.0, dtype="float16"))
    read.append(table.lookup(np.uint8(ids % 200)))
    for combiner in ("sum", "max"):
        read.append(table.pool([ids], combiner=combiner, out_of_range="clamp", max_norm=0.5))
        read.append(table.pool([ids + 150], combiner=combiner, out_of_range="zeros"))
    out = np.empty((len(ids), DIM), np.float32)
    table.lookup(ids, out=out)
    read.append(out)
    table.update(ids + 150, np.ones((len(ids), DIM)), optimizers.SGD(1.0), out_of_range="zeros")
    table.update(ids, np.ones((len(ids), DIM)), optimizers.SGD(1.0), frozen=slice(0, 100))
    frozen = np.arange(ROWS) % 2 == 0
    for combiner in ("mean", "max"):
        table.update_pool(
            [ids], None, np.ones((1, DIM)), optimizers.SGD(1.0), combiner=combiner, frozen=frozen
        )
    read.append(table.lookup(range(ROWS)))
    return read


def odd_tables_of_one(size, path, packed, integers):
    import numpy as np

    from shardwise import Table, optimizers

    batches = [batch(rank)[0] for rank in range(size)]
    table, found = Table.open(path, "c"), []
    for ids in batches:
        read = []
        for one in (packed, integers):
            read.append(Table.open(one).lookup(ids, out_of_range="wrap"))
            read.append(Table.open(one).lookup(ids + 150, out_of_range="zeros"))
            read.append(np.empty(0))
        read.append(table.lookup(ids.reshape(1, -1), max_norm=1.0, dtype="float16"))
        read.append(table.lookup(np.uint8(ids % 200)))
        for combiner in ("sum", "max"):
            read.append(table.pool([ids], combiner=combiner, out_of_range="clamp", max_norm=0.5))
            read.append(table.pool([ids + 150], combiner=combiner, out_of_range="zeros"))
        read.append(table.lookup(ids))
        found.append(read)
    ids = np.concatenate(batches)
    sgd = optimizers.SGD(1.0)
    table.update(ids + 150, np.ones((len(ids), DIM)), sgd, out_of_range="zeros")
    table.update(ids, np.ones((len(ids), DIM)), sgd, frozen=slice(0, 100))
    for combiner in ("mean", "max"):
        table.update_pool(
            [ids.tolist() for ids in batches],
            None,
            np.ones((size, DIM)),
            sgd,
            combiner=combiner,
            frozen=np.arange(ROWS) % 2 == 0,
        )
    for read in found:
        read.append(table.lookup(range(ROWS)))
    return found


def sent_by_lookup(rank, size, path, replicated, trains):
    import numpy as np

    from shardwise import optimizers
    from shardwise.distributed import DistributedTable

    table = DistributedTable.open(path, mode="memory", replicated=replicated)
    ids = np.random.default_rng(rank).integers(0, ROWS, 64)
    before = table.sent_bytes
    table.lookup(ids)
    if trains:
        table.update(ids, np.ones((64, DIM)), optimizers.SGD(0.1))
    return table.sent_bytes - before


def hundred_steps(rank, size, path):
    from shardwise import optimizers
    from shardwise.distributed import DistributedTable

    table = DistributedTable.open(path, mode="memory", exact=True)
    for step in range(100):
        ids, _, _, rows, _ = batch(rank, step)
        table.update(ids, rows, optimizers.Adagrad(0.05))
    return table.lookup(range(ROWS))


def read_with_copies(rank, size, path, options, replicated):
    """Read with copies and without; return both, and the bytes sent for rows with copies alone."""
    from shardwise import optimizers
    from shardwise.distributed import DistributedTable

    found = []
    for copied in (None, replicated):
        table = DistributedTable.open(path, **options, replicated=copied)
        read = []
        for step in range(3):
            ids, offsets, weights, rows, _ = batch(rank, step)
            table.prefetch(ids)
            read.append(table.lookup(ids))
            read.append(table.lookup(ids, max_norm=0.5, dtype="float16"))
            read.append(table.lookup(ids - 1, out_of_range="zeros"))
            for combiner in ("mean", "max"):
                table.prefetch(ids, offsets, weights=weights, combiner=combiner)
                read.append(table.pool(ids, offsets, weights=weights, combiner=combiner))
            read.append(table.pool(ids, offsets, default_id=0))
            if table.mode != "r":
                table.update(ids, rows, optimizers.Adagrad(0.1))
        found.append(read)
    before = table.sent_bytes
    table.lookup(replicated)
    return *found, table.sent_bytes - before


def written(rank, size, path, replicated, saved):
    """Write rows of many ranks, of which several have the same ids; save."""
    from shardwise.distributed import DistributedTable

    table = DistributedTable.open(path, mode="memory", replicated=replicated)
    for step in range(3):
        ids, _, _, rows, _ = batch(rank, step)
        table.write(ids, rows)
    table.write([], 0)
    table.write([5] if rank == size - 1 else [], 7)
    table.save(saved)
    return table.lookup(range(ROWS))


def in_place(rank, size, path, steps, replicated):
    """Train and write a table in place, in two openings; return what is read, and errors."""
    import numpy as np

    from shardwise import ShardwiseError, optimizers
    from shardwise.distributed import DistributedTable

    options, errors = {"mode": "r+", "exact": True, "replicated": replicated}, []
    with DistributedTable.open(path, **options) as table:
        with caught(errors, ShardwiseError):
            table.update([ROWS], [[1.0] * DIM], optimizers.Adam(0.1))
        assert not table.local.optimizer_state
        with caught(errors, ShardwiseError):
            DistributedTable.open(path, mode="r+")
        change(table, rank, 0, steps, optimizers.Adam(0.1))
    with caught(errors, ShardwiseError):
        table.write([1], 0)
    with DistributedTable.open(path, **options, verify=True) as table:
        change(table, rank, steps, 2 * steps, optimizers.Adam(0.1))
        with caught(errors, ShardwiseError):
            table.state_dict()
        with caught(errors, ShardwiseError):
            table.update([1], [[1.0] * DIM], optimizers.Adagrad(0.1))
        step = table.optimizer_step
        read = table.lookup(range(ROWS))
        table.flush()
        state = {name: [a.tobytes() for a in v] for name, v in table.local.optimizer_state.items()}
        own = table.local_ids
        table.reset_optimizer()
        mine = [2] if rank == 0 else []
        table.update(mine, np.ones((len(mine), DIM)), optimizers.Adagrad(0.1))
    return read, step, state, own, errors


def change(table, rank, begin, end, optimizer):
    for step in range(begin, end):
        ids, offsets, _, rows, sums = batch(rank, step)
        table.update(ids, rows, optimizer)
        table.update_pool(ids, offsets, sums, optimizer, combiner="mean")
        table.write(ids[:3], rows[:3])
