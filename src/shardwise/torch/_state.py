"""A module's rows and its optimizer's state as tensors, and back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from shardwise._errors import TableError
from shardwise._table import Table
from shardwise._update import Training, make_state
from shardwise.torch._tensors import as_array, as_tensor

if TYPE_CHECKING:
    from shardwise.optimizers import Optimizer


def dtype_of_table(table: Table) -> Any:
    """Return torch's dtype of a table's rows."""
    return getattr(torch, table.dtype.name)


def memory(table: Table) -> Any:
    """All rows as a tensor of their memory; None where they are in many arrays, or in files."""
    one = table._whole
    return as_tensor(one) if one is not None and one.flags.writeable else None


def whole(table: Table) -> Any:
    """All rows as a tensor: of their memory, or a copy."""
    one = memory(table)
    return as_tensor(table.lookup(np.arange(len(table)))) if one is None else one


def optimizer_state(table: Table) -> dict[str, Any] | None:
    """What an optimizer keeps of the rows, as tensors; None before the first update."""
    training = table._training
    if training is None or not training.step:
        return None
    state = {
        name: whole(Table.from_shards(arrays, table.partition))
        for name, arrays in training.state.items()
    }
    return {"family": training.family, "step": training.step, "state": state}


def restore(table: Table, optimizer: Optimizer, weight: Any, extra: Any) -> None:
    """Write rows and the optimizer's state over those of a table.

    Args:
        table: that.
        optimizer: whose state it is to be.
        weight: a tensor of the table's shape.
        extra: from `optimizer_state`; with None the state begins anew.

    Raises:
        TableError: the state is another optimizer's, or the table holds its own.
    """
    if extra is not None and extra["family"] != optimizer.family:
        raise TableError(
            f"expected the state of {optimizer.family!r}, got that of {extra['family']!r}"
        )
    if extra is not None and table.mode == "r+":
        raise TableError(
            "expected a table in memory to load an optimizer's state into, got one of files, "
            "which holds its own; open a copy that table.save wrote, or leave out "
            "'_extra_state' to begin anew"
        )
    ids, training = np.arange(len(table)), None
    if extra is not None:
        training = Training(optimizer.family, np.array([extra["step"]], np.int64))
        for slot in optimizer.slots():
            arrays = make_state(slot, table.shards, training.step)
            if slot.name in extra["state"]:
                values = as_array(extra["state"][slot.name], slot.name)
                Table.from_shards(arrays, table.partition).write(ids, values)
            training.state[slot.name] = arrays
    weight = weight.detach().to(device="cpu", dtype=dtype_of_table(table))
    table.write(ids, as_array(weight, "weight"))
    table.reset_optimizer()
    table._training = training
