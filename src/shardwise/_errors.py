"""What can go wrong: each error is a `ShardwiseError` and the built-in that a user expects."""

from collections.abc import Callable
from typing import Any


class ShardwiseError(Exception):
    """Base of every error that shardwise raises on purpose."""

    def __init_subclass__(cls) -> None:
        cls.__module__ = "shardwise"  # the name that users import, and that a traceback should show


class IdOutOfRangeError(ShardwiseError, IndexError):
    """An id names no row of the table."""


class IdTypeError(ShardwiseError, TypeError):
    """Ids are not integers."""


class TableError(ShardwiseError, ValueError):
    """Arrays do not make a table: their shapes, dtypes or lengths do not fit each other."""


class PartitionError(ShardwiseError, ValueError):
    """A partition is impossible, or the shards are not cut as it says."""


class BagError(ShardwiseError, ValueError):
    """Offsets, splits, indices or weights do not make bags of ids."""


class OutputError(ShardwiseError, ValueError):
    """`out` cannot take the result."""


class OptionError(ShardwiseError, ValueError):
    """An option has a value that it cannot have."""


class UnknownTokenError(ShardwiseError, KeyError):
    """A token is not in the vocabulary, and nothing stands for such tokens.

    Attributes:
        tokens: the tokens that are not in the vocabulary, each once, where they are known.
    """

    tokens: tuple[Any, ...] = ()
    _explain: Callable[[], str] | None = None  # a message that takes too long to make for nobody

    # KeyError shows the repr of its argument: a sentence would come out quoted.
    def __str__(self) -> str:
        explain, self._explain = self._explain, None
        if explain is not None:
            self.args = (explain(),)
        return str(self.args[0]) if self.args else ""

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (str(self),), {"tokens": self.tokens}


class VocabularyError(ShardwiseError, ValueError):
    """Tokens do not make a vocabulary, or not one array of tokens."""


class TokenTypeError(ShardwiseError, TypeError):
    """A token is neither str nor bytes."""


class FormatError(ShardwiseError, ValueError):
    """A file is not what its format promises; the message says where and what was expected."""


class MissingLibraryError(ShardwiseError, ImportError):
    """A library that this needs is not installed; the message has the line that installs it."""


class StoreError(ShardwiseError, ValueError):
    """A table directory is missing, broken, or newer than this version of shardwise."""


class TableExistsError(StoreError, FileExistsError):
    """A table would be overwritten, and nobody said that it may be."""


class TableNotFoundError(StoreError, FileNotFoundError):
    """There is no table at this path."""


class ShardwiseWarning(UserWarning):
    """An answer is right, and perhaps not to the question that was meant."""


ShardwiseError.__module__ = ShardwiseWarning.__module__ = "shardwise"
