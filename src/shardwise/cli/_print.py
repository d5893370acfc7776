"""How the commands print what people read."""

from __future__ import annotations

from typing import Any

from rich.console import Console


class Printer(Console):
    """A console on standard output that prints text as it is: no markup, no emoji codes."""

    def __init__(self) -> None:
        super().__init__(highlight=False, markup=False, emoji=False, soft_wrap=True)

    def on_broken_pipe(self) -> None:
        """Leave it to the caller, as `print` does; rich would end the program with an error."""
        raise BrokenPipeError


def counted(count: int, noun: str) -> str:
    """A number of things: "1 shard", "3 shards"."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def rows_of(shape: tuple[int, ...], dtype: Any) -> str:
    """What a table of this shape holds: "3 rows of 2 float32 values"."""
    rows, *row = shape
    values = f"{' x '.join(map(str, row))} {dtype} values" if row else f"one {dtype} value"
    return f"{counted(rows, 'row')} of {values}"


def sized(count: float) -> str:
    """A number of bytes: "389 kB"."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if count < 999.5:  # three digits say less than a thousand
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} TB"
