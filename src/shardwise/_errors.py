"""What can go wrong: each error is a `ShardwiseError` and the built-in that a user expects."""

from collections.abc import Callable, Container
from typing import Any


class ShardwiseError(Exception):
    """Base of every error that shardwise raises on purpose.

    Example:
        >>> from shardwise import Partition, ShardwiseError
        >>> try:
        ...     Partition.mod(-1, 2)
        ... except ShardwiseError as error:
        ...     print(type(error).__name__, isinstance(error, ValueError))
        PartitionError True
    """

    def __init_subclass__(cls) -> None:
        cls.__module__ = "shardwise"  # the name that users import, and that a traceback should show


def require(value: object, kind: type, name: str, error: type[ShardwiseError]) -> None:
    """Refuse what is not of a kind, before anything is asked of it.

    Raises:
        ShardwiseError: it is not; of the class `error`.
    """
    if not isinstance(value, kind):
        raise error(f"expected {name} as a {kind.__name__}, got {type(value).__name__}")


def is_one_of(value: object, names: Container[str]) -> bool:
    """Whether it is one of these names; of what is no str, an array say, that cannot be asked."""
    return isinstance(value, str) and value in names


class IdOutOfRangeError(ShardwiseError, IndexError):
    """An id names no row of the table.

    Example:
        >>> import numpy as np
        >>> from shardwise import embedding_lookup
        >>> embedding_lookup(np.zeros((3, 2)), [0, 5])
        Traceback (most recent call last):
        shardwise.IdOutOfRangeError: expected ids from 0 to 2, for there are 3 rows; got ids[1] =
        5; is this the right table?
    """


class IdTypeError(ShardwiseError, TypeError):
    """Ids are not integers.

    Example:
        >>> import numpy as np
        >>> from shardwise import embedding_lookup
        >>> embedding_lookup(np.zeros((3, 2)), [0.5])
        Traceback (most recent call last):
        shardwise.IdTypeError: expected ids of an integer dtype, got float64 (shape (1,)); if
        these are numbers of rows, make them integers of up to 64 bits first
    """


class TableError(ShardwiseError, ValueError):
    """Arrays do not make a table: their shapes, dtypes or lengths do not fit each other.

    Example:
        >>> import numpy as np
        >>> from shardwise import Table
        >>> Table.from_shards([np.zeros((2, 3)), np.zeros((2, 4))])
        Traceback (most recent call last):
        shardwise.TableError: expected shards that differ in their first axis alone, got float64
        rows of shape (3,) in shards[0] and float64 rows of shape (4,) in shards[1]
    """


class PartitionError(ShardwiseError, ValueError):
    """A partition is impossible, or the shards are not cut as it says.

    Example:
        >>> import numpy as np
        >>> from shardwise import embedding_lookup
        >>> embedding_lookup([np.zeros(1), np.zeros(3)], [2], "div")
        Traceback (most recent call last):
        shardwise.PartitionError: expected shards of [2, 2] rows, as 'div' cuts 4 rows into 2
        shards; got [1, 3] (shard 0 is the first that differs); these lengths fit
        Partition.ranges([0, 1, 4]) if they are contiguous pieces
    """


class BagError(ShardwiseError, ValueError):
    """Offsets, splits, indices or weights do not make bags of ids.

    Example:
        >>> import numpy as np
        >>> from shardwise import Table
        >>> Table.from_array(np.zeros((3, 2))).pool([0, 1], offsets=[0, 3])
        Traceback (most recent call last):
        shardwise.BagError: expected offsets from 0 to 2, for there are 2 ids; got offsets[1] = 3
    """


class OutputError(ShardwiseError, ValueError):
    """`out` cannot take the result.

    Example:
        >>> import numpy as np
        >>> from shardwise import Table
        >>> Table.from_array(np.zeros((3, 2))).lookup([0], out=np.zeros((2, 2)))
        Traceback (most recent call last):
        shardwise.OutputError: expected out of shape (1, 2) and dtype float64, got shape (2, 2)
        and dtype float64
    """


class OptionError(ShardwiseError, ValueError):
    """An option has a value that it cannot have.

    Example:
        >>> import numpy as np
        >>> from shardwise import Table
        >>> Table.from_array(np.zeros((3, 2))).lookup([7], out_of_range="ignore")
        Traceback (most recent call last):
        shardwise.OptionError: expected out_of_range to be one of 'error', 'zeros', 'clamp',
        'wrap' or the id of a row, got 'ignore'
    """


class UnknownTokenError(ShardwiseError, KeyError):
    """A token is not in the vocabulary, and nothing stands for such tokens.

    Attributes:
        tokens: the tokens that are not in the vocabulary, each once, where they are known.

    Example:
        >>> from shardwise import UnknownTokenError, Vocabulary
        >>> try:
        ...     Vocabulary(["king", "queen"]).encode(["king", "jack"])
        ... except UnknownTokenError as error:
        ...     print(error.tokens)
        ('jack',)
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
    """Tokens do not make a vocabulary, or not one array of tokens.

    Example:
        >>> from shardwise import Vocabulary
        >>> Vocabulary(["king", "queen", "king"])
        Traceback (most recent call last):
        shardwise.VocabularyError: expected distinct tokens, got 'king' at positions 0 and 2 (1
        repetitions in all); remove the repetitions
    """


class TokenTypeError(ShardwiseError, TypeError):
    """A token is neither str nor bytes.

    Example:
        >>> from shardwise import Vocabulary
        >>> Vocabulary(["king", 5])
        Traceback (most recent call last):
        shardwise.TokenTypeError: expected tokens of type str or bytes, got int at position 1: 5
    """


class FormatError(ShardwiseError, ValueError):
    r"""A file is not what its format promises; the message says where and what was expected.

    Example:
        >>> import pathlib, tempfile
        >>> from shardwise import FormatError, formats
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = pathlib.Path(folder, "short.vec")
        ...     _ = path.write_text("2 3\nking 1 2 3\n")
        ...     try:
        ...         formats.open(path)
        ...     except FormatError as error:
        ...         print(str(error).split(": ", 1)[1])
        line 1: expected at least 13 bytes for 2 rows of 3 values, got 11 after the header; the
        header is wrong or the file was cut off
    """


class MissingLibraryError(ShardwiseError, ImportError):
    """A library that this needs is not installed; the message has the line that installs it.

    Example:
        >>> from shardwise import MissingLibraryError
        >>> try:
        ...     from shardwise.torch import EmbeddingBag
        ... except MissingLibraryError:  # there is no PyTorch
        ...     EmbeddingBag = None
    """


class StoreError(ShardwiseError, ValueError):
    """A table directory is missing, broken, or newer than this version of shardwise.

    Example:
        >>> import pathlib, tempfile
        >>> from shardwise import StoreError, Table
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     _ = pathlib.Path(folder, "shardwise.json").write_text("{")
        ...     try:
        ...         Table.open(folder)
        ...     except StoreError as error:
        ...         print(str(error).split("/")[-1].split(" (")[0])
        shardwise.json is broken: expected JSON, got b'{'
    """


class TableExistsError(StoreError, FileExistsError):
    """A table would be overwritten, and nobody said that it may be.

    Example:
        >>> import tempfile
        >>> import numpy as np
        >>> from shardwise import Table, TableExistsError
        >>> table = Table.from_array(np.zeros((3, 2)))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     table.save(folder)
        ...     try:
        ...         table.save(folder)
        ...     except TableExistsError as error:
        ...         print(str(error).split("; ")[-1])
        choose another name, or pass overwrite=True (on the command line: --overwrite)
    """


class TableNotFoundError(StoreError, FileNotFoundError):
    """There is no table at this path.

    Example:
        >>> from shardwise import Table, TableNotFoundError
        >>> try:
        ...     Table.open("no such table")
        ... except FileNotFoundError as error:
        ...     print(type(error).__name__, error, sep=": ")
        TableNotFoundError: expected a table at no such table, got nothing of that name
    """


class DistributedError(ShardwiseError, RuntimeError):
    """Ranks do not agree, or one of them died, hangs, or cannot do its part.

    Example:
        >>> from shardwise import DistributedError
        >>> try:  # in truth, a call of a DistributedTable
        ...     raise DistributedError("expected all 2 ranks to take part in lookup, lost rank 1")
        ... except RuntimeError as error:
        ...     print(error)
        expected all 2 ranks to take part in lookup, lost rank 1
    """


class ShardwiseWarning(UserWarning):
    """An answer is right, and perhaps not to the question that was meant.

    Example:
        >>> import warnings
        >>> from shardwise import ShardwiseWarning, embedding_lookup
        >>> with warnings.catch_warnings():
        ...     warnings.simplefilter("error", ShardwiseWarning)
        ...     try:
        ...         embedding_lookup([[1, 2], [3, 4]], [0])
        ...     except ShardwiseWarning as warning:
        ...         print(warning)
        params is a list of 2 lists: like TensorFlow, this reads it as 2 shards of one table, not
        as its 2 rows. To look up rows, pass numpy.array(params); to keep this reading, pass a
        list of arrays
    """


ShardwiseError.__module__ = ShardwiseWarning.__module__ = "shardwise"
