"""Columns of a table of Arrow's: which hold the rows and the tokens, and their values in NumPy."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from shardwise._errors import FormatError, MissingLibraryError, OptionError, ShardwiseError
from shardwise.formats._file import File
from shardwise.formats._source import Options

if TYPE_CHECKING:
    import pyarrow as pa

_VECTORS = ("vector", "vectors", "embedding", "embeddings", "values")
_TOKENS = ("token", "word", "key", "id", "text")  # the surest first
_NUMBERED = re.compile(r"(.*?)(0|[1-9]\d{0,8})", re.DOTALL)
_INDEX = re.compile(r"__index_level_\d+__")  # what pandas adds
_SHOWN = 20


@dataclass(frozen=True)
class Columns:
    """The columns that are read: one of lists, or several of numbers; and one of tokens or None."""

    vectors: tuple[str, ...]
    dtype: np.dtype[Any]
    dim: int | None  # None: as long as the list in the first row
    tokens: str | None

    @property
    def names(self) -> str:
        return ", ".join(map(repr, self.vectors[:3])) + (", ..." if len(self.vectors) > 3 else "")


def pyarrow(kind: str) -> Any:
    """Return the library.

    Raises:
        MissingLibraryError: it is not installed.
    """
    try:
        import pyarrow
        import pyarrow.ipc
    except ImportError:
        raise MissingLibraryError(
            f"expected the library pyarrow to read and write {kind} files, got none; install it: "
            'pip install "shardwise[arrow]"'
        ) from None
    return pyarrow


@contextlib.contextmanager
def arrow_errors(file: File) -> Iterator[None]:
    """Turn what pyarrow raises for a broken file into FormatError."""
    import pyarrow as pa

    builtin = (OSError, ValueError, TypeError, LookupError, ArithmeticError, MemoryError)
    try:
        yield
    except ShardwiseError:
        raise
    except (pa.ArrowException, NotImplementedError, *builtin) as error:
        said = " ".join(str(error).split()) or type(error).__name__
        raise file.error(
            f"expected what pyarrow can read, got {said:.300}; fetch the file again, or write it "
            "with less unusual options"
        ) from None


def choose_columns(file: File, schema: pa.Schema, options: Options) -> Columns:
    """Return the columns that the options name; otherwise by their types and the usual names.

    Raises:
        FormatError: no column may hold the rows, or several.
        OptionError: a column that an option names is missing or of another type.
    """
    fields = list(schema)
    tokens = _choose_tokens(file, fields, options.tokens)
    if options.unknown is not None and tokens is None:
        raise OptionError(
            f"{file.path}: expected no unknown= for a file without tokens, got "
            f"{options.unknown!r}; leave it out, or name the column with tokens="
        )
    found = _choose_vectors(file, fields, options.tensor)
    for name in (*(field.name for field in found), *([tokens] if tokens else [])):
        if sum(field.name == name for field in fields) > 1:
            raise file.error(
                f"expected one column {name!r:.80}, got several; rename them in the file"
            )
    kind = _item(found[0])
    dim = len(found) if kind is None else _width(found[0])
    dtype = np.dtype((found[0].type if kind is None else kind).to_pandas_dtype())
    return Columns(tuple(field.name for field in found), dtype, dim, tokens)


def _choose_vectors(file: File, fields: list[Any], wanted: str | None) -> list[Any]:
    lists = [field for field in fields if _item(field) is not None]
    if wanted is not None:
        found = [field for field in lists if field.name == wanted] or _numbered(fields).get(wanted)
        if not found:
            raise OptionError(
                f"{file.path}: expected tensor= to name a column of lists of numbers, or what the "
                f"names of numbered columns begin with, got {wanted!r}; {_listed(fields)}"
            )
        return found[:1] if _item(found[0]) is not None else found
    usual = [field for field in lists if field.name in _VECTORS]
    found = lists if len(lists) == 1 else usual
    if len(found) == 1:
        return found
    if lists:
        raise _unclear(file, fields, f"{len(lists)} columns of lists of numbers")
    groups = list(_numbered(fields).values())
    if len(groups) == 1:
        return groups[0]
    numbers = [field for field in fields if _is_number(field) and not _INDEX.match(field.name)]
    if not groups and numbers and all(field.type == numbers[0].type for field in numbers):
        return numbers
    raise _unclear(file, fields, f"{len(numbers)} columns of numbers" if numbers else "none")


def _unclear(file: File, fields: list[Any], got: str) -> FormatError:
    return file.error(
        "expected one column of lists of numbers, or columns of numbers of one type and nothing "
        f"else, got {got}; {_listed(fields)}; name one with tensor="
    )


def _choose_tokens(file: File, fields: list[Any], wanted: str | None) -> str | None:
    names = [field.name for field in fields if _is_text(field.type)]
    if wanted is not None:
        if wanted not in names:
            raise OptionError(
                f"{file.path}: expected tokens= to name a column of strings, got {wanted!r}; "
                f"{_listed(fields)}"
            )
        return wanted
    found = [name for name in _TOKENS if name in names] or (names if len(names) == 1 else [])
    return found[0] if found else None


def _numbered(fields: list[Any]) -> dict[str, list[Any]]:
    """Columns of numbers of one type whose names count up from 0 or 1, by how the names begin."""
    groups: dict[str, list[Any]] = {}
    numbers: dict[str, list[int]] = {}
    for field in fields:
        if _is_number(field) and (match := _NUMBERED.fullmatch(field.name)):
            groups.setdefault(match[1], []).append(field)
            numbers.setdefault(match[1], []).append(int(match[2]))
    return {
        name: group
        for name, group in groups.items()
        if numbers[name][0] in (0, 1)
        and numbers[name] == list(range(numbers[name][0], numbers[name][0] + len(group)))
        and len(group) > 1
        and all(field.type == group[0].type for field in group)
    }


def _listed(fields: list[Any]) -> str:
    shown = [f"{field.name!r:.60} ({field.type!s:.60})" for field in fields[:_SHOWN]]
    more = [f"and {len(fields) - _SHOWN} more"] if len(fields) > _SHOWN else []
    return f"the columns are {', '.join([*shown, *more]) or 'none'}"


def _storage(kind: Any) -> Any:
    import pyarrow as pa

    return kind.storage_type if isinstance(kind, pa.BaseExtensionType) else kind


def _is_number(field: Any) -> bool:
    import pyarrow as pa

    return bool(pa.types.is_integer(field.type) or pa.types.is_floating(field.type))


def _item(field: Any) -> Any:
    """The type of the numbers in a column of lists, or None for another column."""
    import pyarrow as pa

    kind = _storage(field.type)
    is_list = (
        pa.types.is_fixed_size_list(kind) or pa.types.is_list(kind) or pa.types.is_large_list(kind)
    )
    return kind.value_type if is_list and _is_number(kind.value_field) else None


def _width(field: Any) -> int | None:
    import pyarrow as pa

    kind = _storage(field.type)
    return int(kind.list_size) if pa.types.is_fixed_size_list(kind) else None


def _is_text(kind: Any) -> bool:
    import pyarrow as pa

    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    plain = pa.string(), pa.large_string(), pa.binary(), pa.large_binary()
    return kind in (*plain, pa.string_view(), pa.binary_view())


def rows_of(file: File, batch: pa.RecordBatch, columns: Columns, first: int) -> NDArray[Any]:
    """Return the rows of a batch, `first` the number of its first; a view where that is possible.

    Raises:
        FormatError: a row or a value is null, or a list is not `columns.dim` long.
    """
    arrays = [batch.column(name) for name in columns.vectors]
    for array in arrays:
        array.validate(full=True)
    if len(arrays) > 1 or _item(batch.schema.field(columns.vectors[0])) is None:
        values = [_numbers(file, array, columns, first, 1) for array in arrays]
        return (
            np.stack(values, axis=1)
            if values[0].size
            else np.empty((0, len(values)), columns.dtype)
        )
    array = arrays[0]
    array = getattr(array, "storage", array)
    if array.null_count:
        raise _null(file, columns, first + _first_null(array))
    dim = columns.dim or 0
    if _width(array) is None:
        lengths = np.asarray(array.value_lengths())
        if (wrong := lengths != dim).any():
            row = int(wrong.argmax())
            raise file.error(
                f"row {first + row}: expected {dim} values, as in the rows before, got "
                f"{lengths[row]} in column {columns.names}; repair the row, or leave it out"
            )
    return _numbers(file, array.flatten(), columns, first, dim).reshape(len(array), dim)


def _numbers(file: File, array: Any, columns: Columns, first: int, dim: int) -> NDArray[Any]:
    if array.null_count:
        raise _null(file, columns, first + _first_null(array) // max(1, dim))
    values: NDArray[Any] = array.to_numpy(zero_copy_only=True)
    return values


def _null(file: File, columns: Columns, row: int) -> FormatError:
    return file.error(
        f"row {row}: expected values, got null in column {columns.names}; fill it in, or leave "
        "the row out"
    )


def _first_null(array: Any) -> int:
    return int(np.asarray(array.is_null()).argmax())


def first_length(file: File, batch: pa.RecordBatch, columns: Columns) -> int:
    """Return the length of a batch's first list.

    Raises:
        FormatError: it is null.
    """
    array = batch.column(columns.vectors[0]).slice(0, 1)
    array.validate(full=True)
    length = getattr(array, "storage", array).value_lengths()[0].as_py()
    if length is None:
        raise _null(file, columns, 0)
    return int(length)
