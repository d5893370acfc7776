"""How the commands print what people read."""

from __future__ import annotations

from rich.console import Console


class Printer(Console):
    """A console on standard output that prints text as it is: no markup, no emoji codes."""

    def __init__(self) -> None:
        super().__init__(highlight=False, markup=False, emoji=False, soft_wrap=True)

    def on_broken_pipe(self) -> None:
        """Leave it to the caller, as `print` does; rich would end the program with an error."""
        raise BrokenPipeError
