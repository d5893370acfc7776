"""TensorFlow's checkpoints (version 2), read without TensorFlow: an index and its data files.

A variable may be cut into pieces, in two ways: as slices of one tensor, which is what a partitioned
variable of a graph becomes, or as tensors `NAME/part_0`, `NAME/part_1`, ... Both make one variable
here; its pieces are the cut of the rows.
"""

from __future__ import annotations

import bisect
import itertools
import os
import re
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from shardwise._errors import FormatError, OptionError, PartitionError
from shardwise._partition import Partition, check_shard_sizes
from shardwise.formats._file import File
from shardwise.formats._mapped import check_rows
from shardwise.formats._source import Options, RowReader, Source
from shardwise.formats._tensorflow_bundle import Bundle
from shardwise.formats._tensorflow_entry import Entry
from shardwise.formats._tensorflow_index import is_table

_SUFFIX = "/.ATTRIBUTES/VARIABLE_VALUE"  # after the name of each variable of TF2
_PART = re.compile(r"/part_(0|[1-9]\d{0,8})(?=/|$)")
_OPTIMIZER = re.compile(r"(^|/)(\.OPTIMIZER_SLOT|_?optimizer)(/|$)")
_LATEST = re.compile(rb'^\s*model_checkpoint_path:\s*"((?:[^"\\]|\\.)*)"', re.MULTILINE)
_SHOWN = 20  # variables that an error names


@dataclass(frozen=True)
class _Variable:
    """A tensor, or the parts of one: its name without the ending, and the tensors that hold it."""

    name: str
    parts: tuple[tuple[str, Entry], ...]
    numbers: tuple[int, ...] = ()  # of the parts

    @property
    def entry(self) -> Entry:
        return self.parts[0][1]

    @property
    def shape(self) -> tuple[int, ...]:
        if len(self.parts) == 1:
            return self.entry.shape
        return sum(entry.shape[0] for _, entry in self.parts), *self.entry.shape[1:]

    def __str__(self) -> str:
        pieces = max(len(self.parts), len(self.entry.slices))
        cut = f" in {pieces} pieces" if pieces > 1 else ""
        return f"{self.name} ({self.entry.dtype_name} {list(self.shape)}{cut})"


def is_index(file: File) -> bool:
    return is_table(file)


def file_of(path: str) -> str | None:
    """The index of a checkpoint that a prefix or a directory stands for, or None.

    A directory stands for the latest checkpoint that its file `checkpoint` names, for the variables
    of a SavedModel, or for a SavedModel's `variables`.
    """
    if not os.path.isdir(path):
        return _existing(path + ".index")
    return (
        _latest(path)
        or _existing(os.path.join(path, "variables", "variables.index"))
        or _existing(os.path.join(path, "variables.index"))
    )


def _latest(folder: str) -> str | None:
    state = os.path.join(folder, "checkpoint")
    if not os.path.isfile(state):
        return None
    with open(state, "rb") as file:
        found = _LATEST.search(file.read(1 << 16))
    if found is None:
        return None
    prefix = os.fsdecode(re.sub(rb"\\(.)", rb"\1", found[1]))
    # A directory that was moved still names where it was.
    moved = os.path.join(folder, os.path.basename(prefix))
    return _existing(os.path.join(folder, prefix) + ".index") or _existing(moved + ".index")


def _existing(path: str) -> str | None:
    return path if os.path.isfile(path) else None


def open_checkpoint(file: File, options: Options) -> Source:
    """Open the variable of a checkpoint that holds the rows; its values are mapped.

    It is the one that `tensor` names; otherwise the only matrix of floats with "embed" in its name,
    or the only matrix of floats, or the only matrix. What an optimizer keeps is no candidate.

    Raises:
        FormatError: the checkpoint is broken, or no variable or several could hold the rows.
        OptionError: `tensor` names no variable, or several; or `unknown` is given, and a checkpoint
            has no tokens.
        PartitionError: the pieces are not as long as `partition` cuts rows.
    """
    if options.unknown is not None:
        raise OptionError(
            f"{file.path}: expected no unknown= for a file without tokens, got "
            f"{options.unknown!r}; leave it out"
        )
    bundle = Bundle(file)
    variable = _chosen(file, _variables(bundle), bundle, options.tensor)
    check_rows(file, f"variable {variable.name!r:.80}", variable.shape, options.dim)
    pieces = _pieces(file, bundle, variable)
    if (size := sum(piece.nbytes for piece in pieces)) > bundle.mapped_bytes:
        raise file.error(
            f"expected at most {bundle.mapped_bytes} bytes, as the data files have, got {size} in "
            f"the pieces of {variable.name!r:.80}; they overlap: the checkpoint is damaged"
        )
    sizes = [len(piece) for piece in pieces]
    rows = sum(sizes)
    cut = _partition(file, variable, sizes, options.partition)
    limit = rows if options.limit is None else min(rows, options.limit)
    return Source(
        path=file.path,
        format="tensorflow",
        shape=(limit, *variable.shape[1:]),
        dtype=pieces[0].dtype,
        partition=cut if len(pieces) > 1 and limit == rows else None,
        metadata={"tensor": variable.name},
        _rows=_reader(file, pieces, cut),
    )


def _variables(bundle: Bundle) -> dict[str, _Variable]:
    """The variables by name, parts put together."""
    variables: dict[str, _Variable] = {}
    grouped: dict[str, dict[int, tuple[str, Entry]]] = {}
    for name, entry in bundle.entries.items():
        short = name.removesuffix(_SUFFIX)
        part = _PART.search(short)
        if part is not None and entry.shape:
            whole = short[: part.start()] + short[part.end() :]
            grouped.setdefault(whole, {})[int(part[1])] = (name, entry)
        else:
            variables[short] = _Variable(short, ((name, entry),))
    for whole, parts in grouped.items():
        numbers = tuple(sorted(parts))
        held = tuple(parts[number] for number in numbers)
        variables.setdefault(whole, _Variable(whole, held, numbers))
    return variables


def _chosen(
    file: File, variables: dict[str, _Variable], bundle: Bundle, name: str | None
) -> _Variable:
    if name is not None:
        return _named(file, variables, bundle, name)
    matrices = [
        variable
        for variable in variables.values()
        if len(variable.shape) == 2
        and variable.entry.is_numeric
        and not _is_slot(variable, variables)
    ]
    floats = [variable for variable in matrices if variable.entry.is_float]
    embeddings = [variable for variable in floats if "embed" in variable.name.lower()]
    found = embeddings or floats or matrices
    if len(found) == 1:
        return found[0]
    raise _unclear(file, "one matrix, or one with 'embed' in its name,", found, variables)


def _is_slot(variable: _Variable, variables: dict[str, _Variable]) -> bool:
    """Whether an optimizer keeps it: NAME/Adam beside a NAME of the same shape, or TF2's places."""
    if _OPTIMIZER.search(variable.name):
        return True
    owner = variables.get(variable.name.rpartition("/")[0])
    return owner is not None and owner.shape == variable.shape


def _named(file: File, variables: dict[str, _Variable], bundle: Bundle, name: str) -> _Variable:
    if name in variables:
        return variables[name]
    for full in (name, name + _SUFFIX):  # one part, too
        if full in bundle.entries:
            short = full.removesuffix(_SUFFIX)
            return variables.get(short) or _Variable(short, ((full, bundle.entries[full]),))
    found = [variable for key, variable in variables.items() if key.endswith("/" + name)]
    if len(found) == 1:
        return found[0]
    raise OptionError(
        str(_unclear(file, f"tensor= to name one variable, as {name!r},", found, variables))
    )


def _unclear(
    file: File, expected: str, found: list[_Variable], variables: dict[str, _Variable]
) -> FormatError:
    listed = [
        str(variable)
        for variable in found or variables.values()
        if variable.name != "_CHECKPOINTABLE_OBJECT_GRAPH"
    ]
    shown = ", ".join(listed[:_SHOWN]) + (", ..." if len(listed) > _SHOWN else "") or "nothing"
    got = f"{len(found)}: {shown}" if found else f"none among the {len(listed)} variables: {shown}"
    return file.error(f"expected {expected} got {got}; name one with tensor=")


def _pieces(file: File, bundle: Bundle, variable: _Variable) -> list[NDArray[Any]]:
    """The values of a variable, mapped: one array for each piece, which fit each other."""
    first = variable.entry
    where = f"variable {variable.name!r:.80}"
    if variable.numbers != tuple(range(len(variable.numbers))):
        raise file.error(
            f"{where}: expected parts from part_0 on, got the numbers "
            f"{list(variable.numbers)!s:.80}; a part is missing, or name one with tensor="
        )
    if len(variable.parts) == 1:
        name = variable.parts[0][0]
        if first.slices:
            return bundle.slices(name)
        return [bundle.array(name, first)]
    for name, entry in variable.parts:
        if (entry.dtype, entry.shape[1:]) != (first.dtype, first.shape[1:]) or entry.slices:
            raise file.error(
                f"{where}: expected parts as the first, {list(first.shape)} {first.dtype_name}, "
                f"got {list(entry.shape)} {entry.dtype_name} for {name!r:.80}; name one with "
                "tensor="
            )
    return [bundle.array(name, entry) for name, entry in variable.parts]


def _partition(
    file: File, variable: _Variable, sizes: list[int], strategy: Literal["mod", "div"] | None
) -> Partition:
    if strategy is None:
        return Partition.ranges([0, *itertools.accumulate(sizes)])
    partition = Partition(strategy, sum(sizes), len(sizes))
    try:
        check_shard_sizes(partition, sizes)
    except PartitionError as error:
        raise PartitionError(f"{file.path}: variable {variable.name!r:.80}: {error}") from None
    return partition


def _reader(file: File, pieces: list[NDArray[Any]], partition: Partition) -> RowReader:
    count = len(pieces)
    ends = list(itertools.accumulate(map(len, pieces)))

    def dealt(begin: int, end: int) -> NDArray[Any]:
        block = np.empty((end - begin, *pieces[0].shape[1:]), pieces[0].dtype)
        for shard, piece in enumerate(pieces):
            # The rows of shard k have the ids k, k + count, ...
            first, last = (max(0, -((shard - at) // count)) for at in (begin, end))
            block[first * count + shard - begin :: count] = piece[first:last]
        return block

    def following(begin: int, end: int) -> NDArray[Any]:
        blocks = []
        at, shard = begin, bisect.bisect_right(ends, begin)
        while at < end:
            first = ends[shard] - len(pieces[shard])
            blocks.append(pieces[shard][at - first : end - first])
            at, shard = ends[shard], shard + 1
        if len(blocks) == 1:
            return blocks[0]
        return np.concatenate([pieces[0][:0], *blocks])

    def read(begin: int, end: int) -> NDArray[Any]:
        rows = dealt(begin, end) if partition.strategy == "mod" else following(begin, end)
        if rows.dtype == np.bool_ and (rows.view(np.uint8) > 1).any():
            raise file.error(
                f"expected 0 and 1 for booleans in the rows from {begin}, got other bytes; fetch "
                "the data file again"
            )
        return np.require(rows, requirements="A")

    return read
