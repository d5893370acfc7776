"""`shardwise plan`: what a table takes on each rank of many, before there are any."""

from __future__ import annotations

import json
import math
import os
import re
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich import box
from rich.table import Table as Grid

from shardwise import OptionError, Partition, optimizers
from shardwise._ids import as_ids
from shardwise._layout import Layout, float_dtype, packed_layout
from shardwise._partition import as_partition
from shardwise._plan import Load, Plan, balanced, make_plan
from shardwise._safetensors import storable_dtype
from shardwise.cli._print import Printer, counted, sized
from shardwise.formats._write import refuse_file, replacing
from shardwise.pictures._picture import PICTURES, check_library
from shardwise.pictures._plan import draw_plan
from shardwise.store._manifest import read_manifest

_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}
_UNITS |= {"Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40}
_OPTIMIZERS = ("SGD", "Adagrad", "RowwiseAdagrad", "RMSprop", "Adam", "AdamW", "Ftrl")


def plan(
    table: Annotated[
        Path | None, typer.Argument(metavar="[TABLE]", help="a table directory; or --rows, --dim")
    ] = None,
    ids: Annotated[
        Path | None, typer.Option(help="a sample of ids: .npy, or text with an id a line")
    ] = None,
    ranks: Annotated[int, typer.Option(help="how many processes")] = 8,
    memory: Annotated[str | None, typer.Option(help="of a rank, e.g. 16G or 16Gi")] = None,
    rows: Annotated[int | None, typer.Option(help="of a table that is not there yet")] = None,
    dim: Annotated[int | None, typer.Option(help="values a row of such a table")] = None,
    dtype: Annotated[str, typer.Option(help="of such a table; also int8 or int4")] = "float32",
    partition: Annotated[
        str | None,
        typer.Option(help="mod, div or balanced; as the table is cut by default, else mod"),
    ] = None,
    batch: Annotated[int, typer.Option(help="ids that a rank looks up in a step")] = 163_840,
    bag: Annotated[int, typer.Option(help="ids of a bag, whose sums are sent; 0: rows")] = 0,
    optimizer: Annotated[
        str | None, typer.Option(help=f"one of {', '.join(_OPTIMIZERS)}: rows are trained by it")
    ] = None,
    wire: Annotated[
        str | None, typer.Option(help="float16, bfloat16 or int8; as rows lie by default")
    ] = None,
    network: Annotated[
        str | None, typer.Option(help="bits a second of a rank, each way, e.g. 25G")
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="a picture: .png, .svg or .pdf")
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="replace a picture that is there")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="print JSON")] = False,
) -> None:
    """Say what each rank holds, and sends and receives in a step, on a sample of ids.

    Steps are simulated: each rank takes the next --batch ids of the sample, and asks for each row
    once. Ids of other partitions are simulated beside those of the one that is asked for.

    Example: shardwise plan items --ids sample.npy --ranks 8 --memory 16G -o plan.svg
    """
    form = "" if output is None else output.suffix.lower()
    if output is not None:
        if form not in PICTURES:
            raise OptionError(
                f"expected a picture whose name ends in one of {', '.join(PICTURES)}, got "
                f"{str(output)!r}"
            )
        refuse_file(output, overwrite)
        check_library()
    layout, stored, kept = _table(table, rows, dim, dtype)
    if optimizer is not None:
        kept = _state_bytes(optimizer, layout)
    room = None if memory is None else _size(memory, "--memory")
    sample = _sample(ids)
    load = Load(
        row_bytes=layout.row_bytes + kept,
        sent_row_bytes=_wire_bytes(wire, layout, bag),
        batch=batch,
        bag=bag,
        trains=optimizer is not None,
    )
    chosen, cut = _cut(partition, stored, sample, ranks, load, room)
    made = make_plan(cut, sample, ranks, load)
    if output is not None:
        picture = draw_plan(made, room, form)
        with replacing(output, overwrite) as (_, file):
            file.write(picture)
    speed = None if network is None else _size(network, "--network") / 8
    if as_json:
        found = made.to_json()
        found["wire_seconds"] = None if speed is None else made.busiest / speed
        print(json.dumps(found))
        return
    others = {}
    for name in ("mod", "div", "balanced"):
        if name != chosen and not (name == "balanced" and stored.num_rows > 1 << 27):
            other = _cut(name, stored, sample, ranks, load, room)[1]
            others[name] = make_plan(other, sample, ranks, load)
    _print(made, chosen, others, room, speed)
    if output is not None:
        print(os.fspath(output))


def _table(
    path: Path | None, rows: int | None, dim: int | None, dtype: str
) -> tuple[Layout, Partition, int]:
    """Return how rows lie, how they are cut, and the bytes that an optimizer keeps of a row."""
    if path is not None:
        if rows is not None or dim is not None:
            raise OptionError("expected a table, or --rows and --dim of one, got both")
        manifest = read_manifest(os.fspath(path))
        kept = 0
        if manifest.optimizer is not None:
            size = sum(file.bytes for file in manifest.optimizer.files)
            kept = size // max(1, manifest.shape[0])
        return manifest.layout, manifest.partition, kept
    if rows is None or dim is None:
        raise OptionError("expected a table, or --rows and --dim of one that is not there yet")
    if dim < 1:
        raise OptionError(f"expected --dim from 1, got {dim}")
    if dtype in ("int8", "int4"):
        layout = packed_layout(dtype, (dim,))
    else:
        layout = Layout((dim,), storable_dtype(dtype))
    return layout, Partition.mod(rows, 1), 0


def _cut(
    name: str | None, stored: Partition, sample: Any, ranks: int, load: Load, memory: int | None
) -> tuple[str, Partition]:
    if name is None and stored.num_shards > 1:
        return "as it is", stored
    name = name or "mod"
    if name == "balanced":
        return name, balanced(stored.num_rows, sample, ranks, load, memory)
    return name, as_partition(name, stored.num_rows, ranks)


def _state_bytes(name: str, layout: Layout) -> int:
    if name not in _OPTIMIZERS:
        raise OptionError(f"expected --optimizer of {', '.join(_OPTIMIZERS)}, got {name!r}")
    wide = 8 if layout.dtype == np.float64 else 4
    slots = getattr(optimizers, name)().slots()
    return sum((1 if s.per_row else layout.width) * (8 if s.counts else wide) for s in slots)


def _wire_bytes(wire: str | None, layout: Layout, bag: int) -> int:
    if wire is None:
        return layout.width * 4 if bag else layout.row_bytes
    if wire == "int8":
        return packed_layout(wire, layout.row_shape).row_bytes
    return layout.width * float_dtype(wire).itemsize


def _sample(path: Path | None) -> Any:
    if path is None:
        raise OptionError("expected --ids with a sample of ids: .npy, or text with an id a line")
    try:
        if path.suffix == ".npy":
            found = np.load(path, mmap_mode="r", allow_pickle=False)
        else:
            found = np.loadtxt(path, dtype=np.int64, ndmin=1)
    except (ValueError, EOFError) as error:
        raise OptionError(
            f"expected ids in {path}, a .npy file of integers or text with an id a line; {error}"
        ) from None
    return as_ids(np.asarray(found).reshape(-1)).astype(np.int64, copy=False)


def _size(text: str, name: str) -> int:
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]i?)?B?", text)
    if match is None or not float(match[1]):
        raise OptionError(f"expected {name} as a number and a unit such as 16G, got {text!r}")
    return math.floor(float(match[1]) * _UNITS[match[2] or ""])


def _print(
    made: Plan, chosen: str, others: dict[str, Plan], memory: int | None, speed: float | None
) -> None:
    console = Printer()
    steps = counted(made.steps, "step") + (" of ids drawn again" if made.resampled else "")
    console.print(f"{counted(len(made.ranks), 'rank')}, {chosen}: means of {steps}")
    grid = Grid("rank", box=box.SIMPLE_HEAD)
    for name in ("rows", "memory", "asked for", "sent", "received"):
        grid.add_column(name, justify="right")
    for k, rank in enumerate(made.ranks):
        over = memory is not None and rank.bytes > memory
        grid.add_row(
            str(k),
            f"{rank.rows}",
            sized(rank.bytes),
            f"{rank.asked:.0f}",
            sized(rank.sent),
            sized(rank.received),
            style="red" if over else None,
        )
    console.print(grid)
    compared = Grid("partition", box=box.SIMPLE_HEAD)
    for name in ("most memory", "most traffic", "busiest to mean"):
        compared.add_column(name, justify="right")
    if speed is not None:
        compared.add_column("wire", justify="right")
    for name, one in {chosen: made, **others}.items():
        cells = [name, sized(one.largest), sized(one.busiest), f"{one.imbalance:.2f}"]
        if speed is not None:
            cells.append(f"{one.busiest / speed * 1e3:.3g} ms")
        compared.add_row(*cells)
    console.print(compared)
    if memory is not None and made.largest > memory:
        least = math.ceil(sum(rank.bytes for rank in made.ranks) / memory)
        console.print(
            f"does not fit: a rank needs {sized(made.largest)} of {sized(memory)}; "
            f"{counted(least, 'rank')} at the least"
        )
