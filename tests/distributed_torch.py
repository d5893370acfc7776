"""What ranks do with modules and checkpoints of torch's on a distributed table."""

from distributed_ranks import DIM, ROWS, batch


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
