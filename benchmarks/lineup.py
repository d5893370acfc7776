"""Puts the contenders of one case together; those that are not installed are named as absent."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .harness import Case, Check, Contender, Target, equals
from .peers import Peers

NOT_INSTALLED = "not installed"


@dataclass(frozen=True)
class Setting:
    """What a suite may know of the run."""

    threads: int
    quick: bool
    peers: Peers


class Lineup:
    def __init__(self, expected: NDArray[Any]) -> None:
        self.check: Check = equals(expected)
        self.contenders: list[Contender] = []
        self.absent: dict[str, str] = {}

    def ours(
        self,
        name: str,
        statement: str,
        before: Callable[[], object] | None = None,
        **names: object,
    ) -> None:
        contender = Contender(name, statement, names, self.check, ours=True, before=before)
        self.contenders.append(contender)

    def peer(self, name: str, statement: str, **names: object) -> None:
        self.contenders.append(Contender(name, statement, names, self.check))

    def case(
        self,
        title: str,
        reference: str,
        targets: Sequence[Target] = (),
        note: str = "",
        sweep: tuple[str, float] | None = None,
    ) -> Case:
        return Case(title, self.contenders, reference, targets, self.absent, note, sweep)

    def numpy(self, array: NDArray[Any], ids: NDArray[Any]) -> None:
        self.peer("NumPy array[ids]", "array[ids]", array=array, ids=ids)
        self.peer("numpy.take", "np.take(array, ids, axis=0)", np=np, array=array, ids=ids)

    def torch(self, peers: Peers, array: NDArray[Any], ids: NDArray[Any]) -> None:
        name = "torch embedding"
        if peers.torch is None:
            self.absent[name] = NOT_INSTALLED
            return
        self.peer(
            name,
            "embedding(ids, weight)",
            embedding=peers.torch.nn.functional.embedding,
            ids=peers.torch.from_numpy(ids),
            weight=peers.torch.from_numpy(array),  # the same memory
        )

    def tensorflow(self, peers: Peers, array: NDArray[Any], ids: NDArray[Any]) -> None:
        name = "tf embedding_lookup"
        if peers.tensorflow is None:
            self.absent[name] = NOT_INSTALLED
            return
        self.peer(
            name,
            "tf.nn.embedding_lookup(params, ids)",
            tf=peers.tensorflow,
            params=peers.tensorflow.constant(array),
            ids=peers.tensorflow.constant(ids),
        )

    def tensorflow_shards(
        self, peers: Peers, shards: Sequence[NDArray[Any]], ids: NDArray[Any], strategy: str
    ) -> None:
        name = f"tf v1 embedding_lookup, {strategy}"
        if peers.tensorflow is None:
            self.absent[name] = NOT_INSTALLED
            return
        self.peer(
            name,
            f'embedding_lookup(params, ids, partition_strategy="{strategy}")',
            embedding_lookup=peers.tensorflow.compat.v1.nn.embedding_lookup,
            params=[peers.tensorflow.constant(shard) for shard in shards],
            ids=peers.tensorflow.constant(ids),
        )
