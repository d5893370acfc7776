"""Rows and state as torch.distributed.checkpoint reads and writes them, in place.

A checkpoint's tensor is of the rows of all ranks in the order of their places, shard after shard:
each rank's part is one box of it, whatever the partition and the number of ranks. For "div" and
"ranges" that is the order of the ids; for "mod", that of shard 0, 0, N, 2N, ..., then shard 1.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.distributed.checkpoint.metadata import (
    ChunkStorageMetadata,
    MetadataIndex,
    TensorProperties,
)
from torch.distributed.checkpoint.planner import (
    TensorWriteData,
    WriteItem,
    WriteItemType,
)

from shardwise._errors import DistributedError, TableError
from shardwise._update import with_rate
from shardwise.torch._tensors import as_tensor

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from shardwise.distributed._table import DistributedTable
    from shardwise.optimizers import Optimizer

WEIGHT, STEP, FAMILY, PARTITION = "weight", "step", "family", "partition"
_STATE = "optimizer."


class RowsTensor(torch.Tensor):
    """The rows of all ranks, of which this one has some: for torch.distributed.checkpoint alone.

    It has the hooks that DTensor has, and no operations.
    """

    _pieces: list[tuple[int, Any]]

    @staticmethod
    def __new__(cls, pieces: list[tuple[int, Any]], rows: int) -> RowsTensor:
        """Make one of the place of each piece's first row, and its rows."""
        first = pieces[0][1]
        self = torch.Tensor._make_wrapper_subclass(
            cls, (rows, *first.shape[1:]), dtype=first.dtype, device="cpu"
        )
        self._pieces = [(place, piece) for place, piece in pieces if len(piece)]
        assert isinstance(self, RowsTensor)
        return self

    @classmethod
    def __torch_dispatch__(
        cls, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        """Refuse operations: the rows are on many ranks."""
        if function in (torch.ops.aten.detach.default, torch.ops.aten.alias.default):
            return args[0]
        raise TableError(
            f"expected rows of many ranks to be saved or loaded by torch.distributed.checkpoint, "
            f"got {function}; table.lookup(ids) reads rows"
        )

    def __repr__(self, **_: Any) -> str:
        return f"RowsTensor(shape={tuple(self.shape)}, dtype={self.dtype})"

    def is_of(self, table: DistributedTable) -> bool:
        """Whether it is the memory of a table's rows."""
        own = [as_tensor(shard).data_ptr() for shard in table._local._shards if len(shard)]
        return own == [piece.data_ptr() for _, piece in self._pieces]

    def _chunks(self) -> list[ChunkStorageMetadata]:
        tail = tuple(self.shape[1:])
        return [
            ChunkStorageMetadata(
                offsets=torch.Size((place, *[0] * len(tail))), sizes=torch.Size(piece.shape)
            )
            for place, piece in self._pieces
        ]

    def __create_write_items__(self, fqn: str, object: Any) -> list[WriteItem]:
        """What this rank writes."""
        return [
            WriteItem(
                index=MetadataIndex(fqn, chunk.offsets),
                type=WriteItemType.SHARD,
                tensor_data=TensorWriteData(
                    chunk=chunk,
                    properties=TensorProperties.create_from_tensor(piece),
                    size=self.shape,
                ),
            )
            for chunk, (_, piece) in zip(self._chunks(), self._pieces, strict=True)
        ]

    def __create_chunk_list__(self) -> list[ChunkStorageMetadata]:
        """What this rank reads."""
        return self._chunks()

    def __get_tensor_shard__(self, index: MetadataIndex) -> Any:
        """The rows of a chunk, which are written to where a checkpoint is loaded."""
        for place, piece in self._pieces:
            if index.offset is not None and index.offset[0] == place:
                return piece
        raise DistributedError(f"expected a chunk of this rank, got {index}")


def rows_tensor(table: DistributedTable, arrays: list[NDArray[Any]]) -> RowsTensor:
    """Return arrays that are cut like the table's own, as one tensor of all ranks."""
    place, pieces = table._cuts[table.rank], []
    for array in arrays:
        pieces.append((place, as_tensor(array)))
        place += len(array)
    return RowsTensor(pieces, len(table))


def state_dict(table: DistributedTable, optimizer: Optimizer | None) -> dict[str, Any]:
    """Return what there is to save, or to load into; see `DistributedTable.state_dict`."""
    local = table._local
    if local._layout.packed is not None:
        raise TableError(
            f"expected rows of floats for torch.distributed.checkpoint, got {table.row_format}; "
            "save(path) writes packed rows"
        )
    if table.mode == "r+":
        raise TableError(
            "expected rows in memory for torch.distributed.checkpoint, got a table of mode 'r+', "
            "whose files hold them; save(path) copies it"
        )
    found: dict[str, Any] = {
        WEIGHT: rows_tensor(table, list(local._shards)),
        PARTITION: json.dumps(table.partition.to_json()),
    }
    if optimizer is not None:
        table._refuse_read_only()
        local._trained_by(with_rate(optimizer, None))
    training = local._training
    if training is not None:
        found[FAMILY] = training.family
        found[STEP] = torch.tensor([training.step])
        for name, arrays in training.state.items():
            found[_STATE + name] = rows_tensor(table, arrays)
    return found


def load_state_dict(table: DistributedTable, state: dict[str, Any]) -> None:
    """Take what was loaded; see `DistributedTable.load_state_dict`."""
    given: Any = state
    weight = given.get(WEIGHT) if isinstance(given, dict) else given
    if not isinstance(weight, RowsTensor) or not weight.is_of(table):
        raise DistributedError(
            "expected what state_dict() of this table gave, which torch.distributed.checkpoint "
            f"loads into, got {type(weight).__name__} of other rows"
        )
    partition = json.loads(state[PARTITION])
    if partition != table.partition.to_json():
        raise DistributedError(
            f"expected a checkpoint of a table with {table.partition}, got one with "
            f"{partition}: its rows are in another order"
        )
    training = table._local._training
    if training is not None:
        if state.get(FAMILY) != training.family:
            raise DistributedError(
                f"expected the state of {training.family!r}, got that of {state.get(FAMILY)!r}"
            )
        training.counter[0] = int(np.asarray(state[STEP])[0])
    table._spread_changes("load_state_dict")
