"""How rows lie in the bytes that ranks send each other."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from shardwise import _native
from shardwise._errors import OptionError
from shardwise._layout import Layout, float_dtype, packed_layout
from shardwise._partition import Partition
from shardwise._table import Table

if TYPE_CHECKING:
    from numpy.typing import NDArray

WIRES = ("float32", "float16", "bfloat16", "int8")


class Wire:
    """Rows of a table, and sums of them, as they are sent.

    Args:
        layout: of the table's rows.
        name: one of `WIRES`; None to send rows as they lie in the shards, and sums as they are.

    Raises:
        OptionError: there is no such form, or rows are no floats.
    """

    def __init__(self, layout: Layout, name: str | None) -> None:
        wide = np.dtype(np.float64 if layout.dtype == np.float64 else np.float32)
        self.name, self.sums = name, Layout(layout.row_shape, wide)
        self.rows, self.sent_sums = layout, self.sums
        if name is None:
            return
        if name not in WIRES:
            raise OptionError(
                f"expected wire=None or one of {', '.join(map(repr, WIRES))}, got {name!r:.40}"
            )
        if not layout.has_numbers:
            raise OptionError(
                f"expected wire=None for rows of {layout.dtype}, which are no floats, got {name!r}"
            )
        if name == "int8":
            sent = packed_layout(name, layout.row_shape)
        else:
            sent = Layout(layout.row_shape, float_dtype(name))
        self.sent_sums = sent
        if sent.row_bytes < layout.row_bytes:  # else they lie smaller than they would be sent
            self.rows = sent

    def looked_up(self, table: Table, ids: NDArray[Any]) -> NDArray[np.uint8]:
        """Return the rows of a table as they are sent."""
        if self.rows is table._layout:
            return _bytes(table._stored().lookup(ids))
        if self.rows.packed is not None:
            return _bytes(self.rows.pack(table.lookup(ids)))
        return _bytes(table.lookup(ids, dtype=self.rows.dtype))

    def gathered(self, sums: NDArray[Any], places: NDArray[np.int64] | None) -> NDArray[np.uint8]:
        """Return sums as they are sent, those of `places` where it says which."""
        same = self.sent_sums.dtype == sums.dtype and self.sent_sums.packed is None
        if places is None:
            if same:
                return _bytes(sums)
            places = np.arange(len(sums))
        whole = Table.from_array(sums)
        if self.sent_sums.packed is not None:
            return _bytes(self.sent_sums.pack(whole.lookup(places)))
        return _bytes(whole.lookup(places, dtype=None if same else self.sent_sums.dtype))

    def sums_of(self, data: NDArray[np.uint8]) -> NDArray[Any]:
        """Return sums that were sent."""
        stored = as_stored(data, self.sent_sums)
        if self.sent_sums.packed is not None:
            return self.sent_sums.unpack(stored)
        if self.sent_sums.dtype == self.sums.dtype:
            return stored
        return as_table(stored, self.sent_sums).lookup(
            np.arange(len(stored)), dtype=self.sums.dtype
        )


def room(rows: int, layout: Layout) -> NDArray[np.uint8]:
    """Return the bytes of so many rows, not initialized."""
    return _native.empty((rows * layout.row_bytes,), np.dtype(np.uint8))


def as_stored(data: NDArray[np.uint8], layout: Layout) -> NDArray[Any]:
    """Return bytes as rows that lie so."""
    rows = data.size // layout.row_bytes if layout.row_bytes else 0
    return data.view(layout.stored_dtype).reshape(rows, *layout.stored_shape)


def as_table(stored: NDArray[Any], layout: Layout, more: NDArray[Any] | None = None) -> Table:
    """Return rows that lie so, and more behind them, as a table."""
    if more is None:
        return Table._make([stored], Partition.div(len(stored), 1), layout=layout)
    cut = Partition.ranges([0, len(stored), len(stored) + len(more)])
    return Table._make([stored, more], cut, layout=layout)


def _bytes(rows: NDArray[Any]) -> NDArray[np.uint8]:
    flat: NDArray[np.uint8] = np.ascontiguousarray(rows).reshape(-1).view(np.uint8)
    return flat
