"""Results as DataFrames of pandas, which is imported when one is asked for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from shardwise._errors import MissingLibraryError


def import_pandas() -> Any:
    """Return pandas.

    Raises:
        MissingLibraryError: it is not installed.
    """
    try:
        import pandas
    except ImportError:
        raise MissingLibraryError(
            "expected the library pandas to give results as a DataFrame, got none; install it: "
            'pip install "shardwise[pandas]", or leave out as_frame'
        ) from None
    return pandas


def as_frame(columns: Mapping[str, Any]) -> Any:
    """Return a DataFrame of columns: arrays of numbers, and lists of tokens."""
    pandas = import_pandas()
    return pandas.DataFrame(
        {
            name: _strings(pandas, column) if isinstance(column, list) else column
            for name, column in columns.items()
        }
    )


def _strings(pandas: Any, tokens: list[str]) -> Any:
    # An empty list has no type of its own, and pandas' strings cannot hold bytes that are not
    # UTF-8: those stay Python's.
    dtype = pandas.Series(["a"]).dtype
    try:
        return pandas.Series(tokens, dtype=dtype)
    except UnicodeEncodeError:
        return pandas.Series(tokens, dtype=object)
