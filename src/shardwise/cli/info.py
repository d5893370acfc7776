"""`shardwise info`: what a table is and where it lies."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich import box
from rich.table import Table as Grid

from shardwise._hashing import Buckets
from shardwise._vocabulary import Vocabulary
from shardwise.cli._print import Printer, counted, sized
from shardwise.store import describe_checkpoint, open_table


def info(
    table: Annotated[
        Path, typer.Argument(metavar="TABLE", help="a table directory, or a checkpoint")
    ],
    as_json: Annotated[bool, typer.Option("--json", help="print JSON")] = False,
) -> None:
    """Print what a table is: shape, row format, partition, and each shard's rows and bytes.

    Of a checkpoint, its base and what changed after it.

    Example: shardwise info glove
    """
    chain = describe_checkpoint(table)
    if chain is not None:
        print(json.dumps(chain)) if as_json else _print_chain(chain)
        return
    stored = open_table(table)
    found = stored.table.describe()
    found["path"] = str(table)
    found["files"] = [shard.file for shard in stored.manifest.shards]
    found["vocabulary"] = None
    if stored.vocabulary is not None:
        found["vocabulary"] = _describe(stored.vocabulary)
    found["metadata"] = stored.manifest.metadata
    if as_json:
        print(json.dumps(found))
        return
    partition = stored.table.partition
    words = found["vocabulary"]
    console = Printer()
    console.print(f"{table}", style="bold")
    shape = " x ".join(map(str, found["shape"]))
    console.print(f"shape       {shape} {found['row_format']}, {sized(found['bytes'])}")
    console.print(f"partition   {partition}")
    if words is not None:
        unknown = _unknown(words["unknown"])
        rest = found["shape"][0] - words["tokens"]
        without = f", the last {counted(rest, 'row')} without one" if rest else ""
        console.print(f"vocabulary  {counted(words['tokens'], 'token')}{unknown}{without}")
        more = [
            f"{words['aliases']} more that stand for them" if words["aliases"] else "",
            "counts" if words["counts"] else "",
            "without case" if words["casefold"] else "",
            words["normal_form"] or "",
        ]
        if any(more):
            console.print(f"            {', '.join(filter(None, more))}")
    if found["optimizer"] is not None:
        kept = ", ".join(found["optimizer"]["state"]) or "no state"
        steps = counted(found["optimizer"]["step"], "update")
        console.print(f"optimizer   {found['optimizer']['family']}, {steps}: {kept}")
    console.print(f"kernels     {found['isa']}, {found['threads']} threads")
    if found["metadata"]:
        console.print(f"metadata    {json.dumps(found['metadata'])}")
    grid = Grid("shard", "file", box=box.SIMPLE_HEAD)
    for name in ("rows", "bytes", "in 2 MB pages"):
        grid.add_column(name, justify="right")
    for k, (shard, file) in enumerate(zip(found["shards"], found["files"], strict=True)):
        grid.add_row(
            str(k), file, str(shard["rows"]), str(shard["bytes"]), str(shard["huge_page_bytes"])
        )
    console.print(grid)


def _print_chain(chain: dict[str, Any]) -> None:
    console = Printer()
    console.print(f"{chain['path']}", style="bold")
    shape = " x ".join(map(str, chain["shape"]))
    count = counted(len(chain["deltas"]), "delta")
    console.print(f"checkpoint  {shape} {chain['row_format']}, a base and {count}")
    console.print(f"bytes       {sized(chain['bytes'])}")
    if chain["optimizer"] is not None:
        console.print(f"optimizer   {chain['optimizer']}, {counted(chain['step'], 'update')}")
    grid = Grid("file", box=box.SIMPLE_HEAD)
    for name in ("rows", "bytes", "updates"):
        grid.add_column(name, justify="right")
    for one in (chain["base"], *chain["deltas"]):
        name = one.get("file", one.get("directory"))
        grid.add_row(name, *(str(one[key]) for key in ("rows", "bytes", "step")))
    console.print(grid)


def _describe(vocabulary: Vocabulary) -> dict[str, Any]:
    unknown: Any = vocabulary.unknown
    if isinstance(unknown, Buckets):
        first = unknown.start(len(vocabulary))
        unknown = {"buckets": unknown.count, "first": first, "keyed": unknown.key is not None}
    return {
        "tokens": len(vocabulary),
        "unknown": unknown,
        "aliases": vocabulary._num_aliases,
        "counts": vocabulary.counts is not None,
        "casefold": vocabulary.casefold,
        "normal_form": vocabulary.normal_form,
    }


def _unknown(policy: Any) -> str:
    if isinstance(policy, dict):
        keyed = ", with a key" if policy["keyed"] else ""
        last = policy["first"] + policy["buckets"] - 1
        return f", unknown ones in rows {policy['first']} to {last} by their hash{keyed}"
    if isinstance(policy, str):
        return f", unknown token {policy!r}"
    return "" if policy is None else f", unknown ones have the id {policy}"
