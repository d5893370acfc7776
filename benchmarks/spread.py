"""Tables spread over ranks, by each library: the workers of the suite `distributed`."""

import logging
from itertools import cycle
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
RATE = 0.01


def rows_of(ids: Array, dim: int) -> Array:
    """The rows that all libraries begin with."""
    rows: Array = (ids % 997)[:, None].astype(np.float32) / 997 + np.arange(dim, dtype=np.float32)
    return rows


class Work:
    """What a rank is given.

    Attributes:
        rows: of the table.
        dim: of a row.
        batches: of ids, of shape (bags, ids of a bag): of all ranks, one after the other.
        gradient: of the bags of all ranks.
    """

    def __init__(self, rank: int, size: int, threads: int) -> None:
        self.rank, self.size, self.threads = rank, size, threads
        self.made: dict[str, Any] = {}

    def set_up(self, rows: int, dim: int, batches: list[Array], gradient: Array) -> None:
        self.rows, self.dim, self.batches, self.gradient = rows, dim, batches, gradient
        bags = len(gradient) // self.size
        self.mine = slice(self.rank * bags, self.rank * bags + bags)

    def make(self, name: str) -> str | None:
        """Make a library's table; return why there is none."""
        logging.disable(logging.WARNING)
        try:
            self.made[name] = LIBRARIES[name](self)
        except ModuleNotFoundError as error:
            return f"{error.name} is not installed"
        return None

    def drop(self, name: str) -> None:
        del self.made[name]

    def lookup(self, name: str) -> None:
        self.made[name].lookup()

    def step(self, name: str) -> None:
        self.made[name].step()

    def found(self, name: str, places: Array) -> Array:
        """Some of the rows that were looked up last."""
        found: Array = np.asarray(self.made[name].found).reshape(-1, self.dim)[places]
        return found

    def some(self, name: str, ids: Array) -> Array:
        """Rows as they are."""
        found: Array = self.made[name].some(ids)
        return found

    def sent_bytes(self, name: str) -> int:
        return int(self.made[name].table.sent_bytes)


class Ours:
    """shardwise: a DistributedTable, as the storage of EmbeddingBag."""

    copies = 0  # rows, the most frequent ones, of which each rank has a copy

    def __init__(self, work: Work) -> None:
        import torch

        from shardwise import optimizers
        from shardwise.distributed import DistributedTable
        from shardwise.torch import Embedding, EmbeddingBag

        self.table = DistributedTable.create(
            None,
            work.rows,
            work.dim,
            initializer=lambda ids: rows_of(ids, work.dim),
            replicated=np.arange(self.copies),  # ids are sorted by frequency
        )
        sgd = optimizers.SGD(RATE)
        self.embedding = Embedding(table=self.table, optimizer=sgd).eval()
        self.bags = EmbeddingBag(table=self.table, mode="sum", optimizer=sgd)
        self.ids = cycle([torch.from_numpy(batch[work.mine]) for batch in work.batches])
        self.gradient = torch.from_numpy(work.gradient[work.mine])

    def lookup(self) -> None:
        self.found = self.embedding(next(self.ids))

    def step(self) -> None:
        self.bags(next(self.ids)).backward(self.gradient)

    def some(self, ids: Array) -> Array:
        return self.table.lookup(ids)


class Copied(Ours):
    """The same, with copies of the rows that are asked for most."""

    copies = 10_000


class DTensor:
    """torch's RowwiseParallel of nn.Embedding: ids on all ranks, whole outputs are reduced."""

    def __init__(self, work: Work) -> None:
        import torch
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.tensor import Replicate, Shard
        from torch.distributed.tensor.parallel import RowwiseParallel, parallelize_module

        self.torch = torch
        weight = torch.from_numpy(rows_of(np.arange(work.rows), work.dim))
        embedding = torch.nn.Embedding(work.rows, work.dim, _weight=weight)
        style = RowwiseParallel(input_layouts=Replicate(), output_layouts=Shard(0))
        mesh = init_device_mesh("cpu", (work.size,))
        self.embedding = parallelize_module(embedding, mesh, style)
        self.sgd = torch.optim.SGD(self.embedding.parameters(), lr=RATE)
        self.ids = cycle([torch.from_numpy(batch) for batch in work.batches])
        # Others average what ranks have; here all is summed.
        self.gradient = torch.from_numpy(work.gradient[work.mine] / work.size)

    def lookup(self) -> None:
        with self.torch.no_grad():
            self.found = self.embedding(next(self.ids))

    def step(self) -> None:
        self.sgd.zero_grad()
        self.embedding(next(self.ids)).sum(dim=1).backward(self.gradient)
        self.sgd.step()

    def some(self, ids: Array) -> Array:
        found: Array = self.embedding.weight.full_tensor().detach().numpy()[ids]
        return found


class Replicated:
    """DistributedDataParallel: the whole table on each rank, its dense gradient is reduced."""

    def __init__(self, work: Work) -> None:
        import torch

        weight = torch.from_numpy(rows_of(np.arange(work.rows), work.dim))
        self.bags = torch.nn.EmbeddingBag(work.rows, work.dim, mode="sum", _weight=weight)
        self.model = torch.nn.parallel.DistributedDataParallel(
            self.bags, gradient_as_bucket_view=True
        )
        self.sgd = torch.optim.SGD(self.bags.parameters(), lr=RATE)
        self.ids = cycle([torch.from_numpy(batch[work.mine]) for batch in work.batches])
        self.gradient = torch.from_numpy(work.gradient[work.mine])

    def step(self) -> None:
        self.sgd.zero_grad()
        self.model(next(self.ids)).backward(self.gradient)
        self.sgd.step()

    def some(self, ids: Array) -> Array:
        found: Array = self.bags.weight.detach().numpy()[ids]
        return found


class TorchRec:
    """TorchRec's EmbeddingCollection, row-wise; `use_index_dedup` has no operator for CPUs."""

    def __init__(self, work: Work) -> None:
        import torch

        torchrec: Any = __import__("torchrec")
        plans: Any = __import__("torchrec.distributed.sharding_plan", fromlist=["_"])
        embedding: Any = __import__("torchrec.distributed.embedding", fromlist=["_"])
        parallel: Any = __import__("torchrec.distributed.model_parallel", fromlist=["_"])
        types: Any = __import__("torchrec.distributed.types", fromlist=["_"])
        optim: Any = __import__("torch.distributed.optim", fromlist=["_"])
        self.torch = torch

        def fill(weight: Any) -> None:  # of the whole table, and then of the rows of this rank
            here = len(weight)
            first = 0 if here == work.rows else work.rank * -(-work.rows // work.size)
            weight.data.copy_(torch.from_numpy(rows_of(np.arange(first, first + here), work.dim)))

        table = torchrec.EmbeddingConfig(
            name="t",
            embedding_dim=work.dim,
            num_embeddings=work.rows,
            feature_names=["f"],
            init_fn=fill,
        )
        collection = torchrec.EmbeddingCollection(tables=[table], device=torch.device("cpu"))
        optim._apply_optimizer_in_backward(torch.optim.SGD, collection.parameters(), {"lr": RATE})
        sharder = embedding.EmbeddingCollectionSharder(use_index_dedup=False)
        plan = plans.construct_module_sharding_plan(
            collection,
            {"t": plans.row_wise()},
            sharder=sharder,
            local_size=work.size,
            world_size=work.size,
            device_type="cpu",
        )
        self.model = parallel.DistributedModelParallel(
            module=collection,
            device=torch.device("cpu"),
            plan=types.ShardingPlan(plan={"": plan}),
            sharders=[sharder],
        )
        bags = len(work.gradient) // work.size
        made = []
        for batch in work.batches:
            ids = torch.from_numpy(batch[work.mine].reshape(-1))
            made.append(
                torchrec.KeyedJaggedTensor(
                    keys=["f"],
                    values=ids,
                    lengths=torch.full((bags,), batch.shape[1], dtype=torch.int64),
                )
            )
        self.ids = cycle(made)
        self.size = work.size
        self.shape = bags, work.batches[0].shape[1], work.dim
        self.gradient = torch.from_numpy(work.gradient[work.mine])

    def lookup(self) -> None:
        with self.torch.no_grad():
            self.found = self.model(next(self.ids))["f"].values()

    def step(self) -> None:
        rows = self.model(next(self.ids))["f"].values()
        rows.reshape(self.shape).sum(dim=1).backward(self.gradient)

    def some(self, ids: Array) -> Array:
        own = next(iter(self.model.state_dict().values())).local_shards()[0].tensor
        parts = [self.torch.empty(0)] * self.size
        self.torch.distributed.all_gather_object(parts, own)
        found: Array = self.torch.cat(parts).numpy()[ids]
        return found


LIBRARIES = {
    "DistributedTable": Ours,
    "with 10,000 copies": Copied,
    "DTensor RowwiseParallel": DTensor,
    "DDP, replicated": Replicated,
    "TorchRec EC, row-wise": TorchRec,
}
