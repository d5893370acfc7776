"""What the ranks of the tests of distributed tables do; and how the tests start them.

Ranks are forked by a server that has imported torch once.
"""

import contextlib
import multiprocessing
import os
import pickle
import signal
import sys
import tempfile
import time
import traceback
from datetime import timedelta
from pathlib import Path

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(
    [
        "torch.distributed.checkpoint",
        "torch.nn.parallel",
        "shardwise.distributed._checkpointable",
        "shardwise.distributed._create",
    ]
)
LONGEST = 60  # seconds


class RankFailed(Exception):
    """A rank ended otherwise than by returning."""


def start(function, size, *arguments, timeout=20.0):
    """Start `size` ranks that call function(rank, size, *arguments); return what `join` takes."""
    folder = tempfile.TemporaryDirectory()
    ranks = []
    for rank in range(size):
        job = (function.__name__, rank, size, folder.name, timeout, arguments)
        ranks.append(CONTEXT.Process(target=enter, args=job))
    for process in ranks:
        process.start()
    return folder, ranks


def join(started, *, survivors=None):
    """Return what the ranks returned; None for those that died. `survivors` do not."""
    folder, ranks = started
    end = time.monotonic() + LONGEST
    found, problems = [], []
    try:
        lives = range(len(ranks)) if survivors is None else survivors
        for rank in sorted(range(len(ranks)), key=lambda rank: rank not in lives):
            process = ranks[rank]
            process.join(max(0.1, end - time.monotonic()) if rank in lives else 0.1)
            if process.is_alive() and rank in lives:
                problems.append(f"rank {rank} hangs")
            result = Path(folder.name) / f"result-{rank}"
            if result.exists():
                ok, value = pickle.loads(result.read_bytes())
                if not ok:
                    problems.append(f"rank {rank}: {value}")
                found.append(value)
            else:
                found.append(None)
                if rank in lives:
                    problems.append(f"rank {rank} ended with {process.exitcode}")
    finally:
        for process in ranks:
            if process.is_alive():
                os.kill(process.pid, signal.SIGKILL)
                process.join()
        folder.cleanup()
    if problems:
        raise RankFailed("\n".join(problems))
    return found


def run(function, size, *arguments, timeout=20.0):
    """Return what function(rank, size, *arguments) returns on each of `size` ranks."""
    return join(start(function, size, *arguments, timeout=timeout))


def enter(name, rank, size, folder, timeout, arguments):
    """Be a rank."""
    import torch
    import torch.distributed as dist

    import shardwise

    torch.set_num_threads(1)
    shardwise.set_num_threads(1)
    sys.stderr = open(os.path.join(folder, f"stderr-{rank}"), "w")  # noqa: SIM115 - to the end
    store = dist.FileStore(os.path.join(folder, "store"), size)
    dist.init_process_group(
        "gloo", store=store, rank=rank, world_size=size, timeout=timedelta(seconds=timeout)
    )
    try:
        result = True, globals()[name](rank, size, *arguments)
    except BaseException:
        result = False, traceback.format_exc()
    whole = os.path.join(folder, f"result-{rank}")
    with open(whole + ".part", "wb") as file:
        pickle.dump(result, file)
    os.replace(whole + ".part", whole)
    sys.stderr.flush()
    os._exit(0)


# What ranks do. Each has ids and gradients of its own, made of its rank.

ROWS, DIM = 211, 5


def batch(rank, step=0, count=97):
    """Ids with many duplicates, bags of any lengths, weights, and gradients of both."""
    import numpy as np

    rng = np.random.default_rng([rank, step])
    count = 0 if (rank + step) % 4 == 3 else count + rank
    ids = np.minimum(rng.zipf(1.3, count) - 1, ROWS - 1)
    bags = 0 if count == 0 else 23
    offsets = np.sort(rng.integers(0, count + 1, bags))
    offsets[:1] = 0
    weights = rng.uniform(0.5, 2, count).astype(np.float32)
    rows = rng.standard_normal((count, DIM)).astype(np.float32)
    sums = rng.standard_normal((bags, DIM)).astype(np.float32)
    return ids, offsets, weights, rows, sums


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


def modules(rank, size, path, steps):
    """Train a small recommender of `shardwise.torch` with its dense part in DDP."""
    import torch

    from shardwise import optimizers
    from shardwise.distributed import DistributedTable
    from shardwise.torch import Embedding, EmbeddingBag

    tables = [DistributedTable.open(path, mode="memory", exact=True) for _ in range(2)]
    return train_modules(tables, Embedding, EmbeddingBag, optimizers, torch, rank, size, steps)


def train_modules(tables, embedding, bag, optimizers, torch, rank, size, steps):
    rows = embedding(table=tables[0], optimizer=optimizers.Adagrad(0.1))
    bags = bag(table=tables[1], mode="mean", optimizer=optimizers.RowwiseAdagrad(0.1))
    torch.manual_seed(0)
    dense = torch.nn.Linear(2 * DIM, 1)
    model = torch.nn.parallel.DistributedDataParallel(dense) if rank is not None else dense
    sgd = torch.optim.SGD(dense.parameters(), lr=0.1)
    losses = []
    for step in range(steps):
        generator = torch.Generator().manual_seed(step)
        ids = torch.randint(0, ROWS, (24,), generator=generator)
        baskets = torch.randint(0, ROWS, (24, 6), generator=generator)
        labels = torch.rand((24, 1), generator=generator)
        if rank is not None:
            mine = slice(24 // size * rank, 24 // size * (rank + 1))
            ids, baskets, labels = ids[mine], baskets[mine], labels[mine]
        found = model(torch.cat([rows(ids), bags(baskets)], dim=1))
        loss = torch.nn.functional.mse_loss(found, labels)
        sgd.zero_grad()
        loss.backward()
        sgd.step()
        losses.append(float(loss.detach()))
    everything = range(ROWS)
    weight = dense.weight.detach().numpy()
    return losses, tables[0].lookup(everything), tables[1].lookup(everything), weight


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


def save_with_torch(rank, size, path, folder, optimizer):
    import torch.distributed.checkpoint as dcp

    from shardwise.distributed import DistributedTable

    table = DistributedTable.open(path, mode="memory")
    for step in range(2):
        ids, _, _, rows, _ = batch(rank, step)
        table.update(ids, rows, optimizer)
    dcp.save(table.state_dict(), checkpoint_id=folder)
    state = {k: [a.tobytes() for a in v] for k, v in table.local.optimizer_state.items()}
    return table.lookup(range(ROWS)), whole_state(table), table.optimizer_step, state


def load_with_torch(rank, size, path, folder, optimizer):
    import torch.distributed.checkpoint as dcp

    from shardwise.distributed import DistributedTable

    table = DistributedTable.open(path, mode="memory")
    state = table.state_dict(optimizer)
    dcp.load(state, checkpoint_id=folder)
    table.load_state_dict(state)
    return table.lookup(range(ROWS)), whole_state(table), table.optimizer_step


def module_state(rank, size, path, folder, loads):
    """Save a module of a distributed table with torch, or load it, and train on."""
    import torch
    import torch.distributed.checkpoint as dcp

    from shardwise import optimizers
    from shardwise.distributed import DistributedTable
    from shardwise.torch import Embedding

    table = DistributedTable.open(path, mode="memory")
    model = torch.nn.Sequential(
        Embedding(table=table, optimizer=optimizers.Adagrad(0.1)), torch.nn.Linear(DIM, 1)
    )
    if loads:
        state = model.state_dict()
        dcp.load(state, checkpoint_id=folder)
        model.load_state_dict(state)
    else:
        model(torch.tensor([1, 2, 2])).sum().backward()
        dcp.save(model.state_dict(), checkpoint_id=folder)
    return table.lookup(range(ROWS)), whole_state(table), table.optimizer_step


def whole_state(table):
    """What the optimizer keeps of all rows, in the order of places."""
    import numpy as np

    found = {}
    for name, arrays in table.local.optimizer_state.items():
        own = np.concatenate([array.reshape(len(array), -1) for array in arrays])
        texts = table._exchange.gather(own.tobytes().hex())
        found[name] = b"".join(bytes.fromhex(text) for text in texts)
    return found


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


@contextlib.contextmanager
def caught(errors, kind):
    try:
        yield
    except kind as error:
        errors.append(f"{type(error).__name__}: {error}")


def other_copies(rank, size, path, mine, others):
    """Open a table with copies that the last rank wants otherwise."""
    from shardwise import ShardwiseError
    from shardwise.distributed import DistributedTable

    errors = []
    with caught(errors, ShardwiseError):
        DistributedTable.open(path, replicated=others if rank == size - 1 else mine)
    return errors


def copies_of_a_checkpoint(rank, size, path, folder, replicated):
    """Load a checkpoint of torch's into a table with copies; return what is looked up then."""
    import torch.distributed.checkpoint as dcp

    from shardwise import optimizers
    from shardwise.distributed import DistributedTable

    trained = DistributedTable.open(path, mode="memory")
    ids, _, _, rows, _ = batch(rank)
    trained.update(ids, rows, optimizers.SGD(0.1))
    dcp.save(trained.state_dict(), checkpoint_id=folder)
    table = DistributedTable.open(path, mode="memory", replicated=replicated)
    state = table.state_dict()
    dcp.load(state, checkpoint_id=folder)
    table.load_state_dict(state)
    made = DistributedTable.create(None, ROWS, DIM, initializer="normal", replicated=replicated)
    plain = DistributedTable.create(None, ROWS, DIM, initializer="normal")
    wanted = range(ROWS)
    return [one.lookup(wanted) for one in (trained, table, made, plain)]


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
