"""Rows into a table: written over those that are there, or changed by gradients."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from shardwise import _native
from shardwise._arrays import as_values
from shardwise._errors import TableError
from shardwise._ids import as_ids, out_of_range_error
from shardwise._reading import outside
from shardwise._update import How, Training, check_update, make_state

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from shardwise._bags import Bags
    from shardwise._table import Table
    from shardwise.optimizers import Optimizer


def refuse_read_only(table: Table) -> None:
    """Refuse a table whose rows cannot be changed.

    Raises:
        TableError: it is one.
    """
    if table._files is None and not all(array.flags.writeable for array in table._shards):
        advice = "make it of arrays that can be written"
        if table._mode == "r":
            advice = 'open it with Table.open(path, "r+"), or "c" for a private copy'
        raise TableError(f"expected a table that can be written to, got a read-only one; {advice}")


def write(table: Table, ids: Any, rows: Any) -> None:
    """Write rows over the rows of ids; see `Table.write`."""
    ids = as_ids(ids)
    if ids.dtype == np.uint64 and (ids >= 1 << 63).any():
        position = int((ids >= 1 << 63).argmax())
        raise out_of_range_error(ids.shape, position, int(ids.flat[position]), table._shape[0])
    refuse_read_only(table)
    values = as_values(rows, ids.shape + table._shape[1:], table._dtype)
    if table._layout.packed:
        values = table._layout.pack(values.reshape(ids.size, *table._shape[1:]))
    if any(np.may_share_memory(values, array) for array in table._shards):
        values = values.copy()
    # A copy: ids that another thread changes after they were checked would lead anywhere.
    flat = ids.reshape(-1).astype(np.int64)
    if (noted := table._changes) is not None:
        noted.mark(flat)
    try:
        if table._files is None:
            table._rows.write(flat, values)
        else:
            table._files.write(table._rows, flat, values)
    except _native.OutOfRangeId as error:
        raise outside(table, ids, error) from None
    finally:
        # A checkpoint of another thread, which begins to note anew, may have the rows as they were.
        while (now := table._changes) is not noted:
            if (noted := now) is not None:
                noted.mark(flat)


def update(
    table: Table,
    ids: NDArray[Any],
    bags: Bags | None,
    gradients: Any,
    optimizer: Optimizer,
    how: How,
) -> None:
    """Change the rows of ids by their gradients; see `Table.update` and `Table.update_pool`."""
    refuse_read_only(table)
    if table._layout.packed:
        raise TableError(
            f"expected rows of floats to train, got rows packed as {table.row_format}; train a "
            "table of floats, and quantize it then"
        )
    checked = check_update(ids, bags, gradients, how, table._shape, table._shards)
    slots = optimizer.slots()
    known = table._training
    if known is None or known.family != optimizer.family or not known.has(slots):
        checked.refuse(table._partition, table._shards)  # before state is made, or forgotten
    training = trained_by(table, optimizer)
    updater = training.updater(table._partition, table._shards, slots, table._mode is not None)
    noted = table._changes
    try:
        checked.run(
            updater, optimizer._rule(training.step + 1), None if noted is None else noted.bits
        )
        _native.count_one(training.counter)
    finally:
        while (now := table._changes) is not noted:  # as in `write`
            if (noted := now) is not None:
                noted.whole = True


def trained_by(table: Table, optimizer: Optimizer) -> Training:
    """Return the state for this optimizer, made where it is not there."""
    check_goes_on(table, optimizer)
    training = table._training
    if training is None or training.family != optimizer.family:
        training = table._training = Training(optimizer.family)
    if table._files is not None:
        training = table._training = table._files.train(training, optimizer.slots(), table)
    for slot in optimizer.slots():
        if slot.name not in training.state:
            training.state[slot.name] = make_state(slot, table._shards, training.step)
    return training


def check_goes_on(table: Table, optimizer: Optimizer) -> None:
    """Refuse an optimizer that cannot go on with the state that there is.

    Raises:
        TableError: it is one.
    """
    training = table._training
    if training is None:
        return
    other = training.family != optimizer.family
    if other and training.step and training.state:
        raise TableError(
            f"expected an optimizer that goes on with the state of {training.family!r} after "
            f"{training.step} updates, got {type(optimizer).__name__}; call reset_optimizer() "
            "to forget that state first"
        )
    kept = {slot.name for slot in optimizer.slots()}
    is_adam = not other and optimizer.family == "adam"
    if is_adam and "adam.step" in training.state.keys() - kept:
        raise TableError(
            "expected an optimizer with corrected=True, for the state says when each row took "
            f"part last, and has to go on saying it, got {type(optimizer).__name__} without; "
            "call reset_optimizer() to forget the state first"
        )


def reset_optimizer(table: Table) -> None:
    """Forget what an optimizer keeps of the rows; see `Table.reset_optimizer`."""
    if table._training is not None and table._files is not None:
        table._files.forget_state()
    table._training = None
    if table._changes is not None:
        table._changes.whole = True
