"""Rows with keys that can grow and change, and the norms that go with them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shardwise._errors import OptionError, TableError
from shardwise._table import Table
from shardwise._vectors import Vectors
from shardwise._vocabulary import Vocabulary
from shardwise.gensim._keys import IndexToKey, Keys, KeyToIndex, as_new_keys, missing
from shardwise.words import _search

_STEP = 1 << 20  # values that are looked at together


class Rows:
    """A table, the keys of its first rows, and further columns (`expandos`) of these keys.

    Rows are read where they lie. They are copied into memory of their own when the first of them
    changes. Norms are kept from one search to the next, and counted again after a change.
    """

    def __init__(self, vector_size: int, count: int = 0, dtype: Any = np.float32) -> None:
        kind = np.dtype(dtype)
        sizes: tuple[tuple[str, Any], ...] = (("vector_size", vector_size), ("count", count))
        for name, number in sizes:
            if isinstance(number, bool) or not isinstance(number, (int, np.integer)) or number < 0:
                raise OptionError(f"expected {name} as a whole number from 0, got {number!r:.40}")
        self._room = np.empty((0, int(vector_size)), kind)
        self._start(Table.from_array(self._room), Vocabulary([]))
        _search.check_rows(self._table)
        self._own(int(count))

    def _start(self, table: Table, vocabulary: Vocabulary) -> None:
        if len(table.shape) != 2:
            raise TableError(
                f"expected rows of values, of shape (keys, values), got shape {table.shape}; open "
                "other tables with Table.open"
            )
        self._keys = Keys(vocabulary)
        self._table = table
        self._owned = False  # whether the table's rows are those of `_room`
        self._kept: NDArray[Any] | None = None  # the rows' factors, see `_search.factors_of`
        self._norms: NDArray[Any] | None = None
        self.expandos: dict[str, NDArray[Any]] = {}

    def __reduce_ex__(self, protocol: Any) -> Any:
        raise TableError(
            f"expected {type(self).__name__} to be copied by a file, got a copy or a pickle of the "
            "object; save(path) it, and load(path) it where it is needed: processes share its pages"
        )

    @property
    def vector_size(self) -> int:
        """How many values a vector has."""
        return self._table.shape[1]

    @property
    def key_to_index(self) -> KeyToIndex:
        """The position of each key, as a mapping that holds no objects of its own."""
        return KeyToIndex(self._keys)

    @property
    def index_to_key(self) -> IndexToKey:
        """The key of each position, as a sequence that holds no objects of its own."""
        return IndexToKey(self._keys)

    @property
    def vectors(self) -> NDArray[Any]:
        """The rows, read-only, of shape (keys, vector_size); see `__setitem__` to change them.

        Assigning an array of this shape replaces them all.
        """
        whole = self._table._whole
        if whole is None:
            self._own(0)  # they lie in one piece from here on
            whole = self._room
        view = whole[: len(self)].view()
        view.flags.writeable = False
        return view

    @vectors.setter
    def vectors(self, rows: Any) -> None:
        array = np.array(rows)  # a copy: nobody else can write to it
        if array.ndim != 2 or len(array) != len(self) or not _search.is_real(array.dtype):
            raise TableError(
                f"expected {len(self)} rows of real numbers, one a key, got {array.dtype} of shape "
                f"{array.shape}"
            )
        self._room, self._owned = array, True
        self._table = Table.from_array(array)
        self._changed()

    @property
    def norms(self) -> NDArray[Any]:
        """The rows' L2 norms, read-only, of shape (keys,); always those of the rows as they are."""
        if self._norms is None:
            result = np.empty(len(self), np.float64)
            step = max(1, _STEP // max(1, self.vector_size))
            with np.errstate(all="ignore"):
                for a in range(0, len(self), step):
                    ids = np.arange(a, min(a + step, len(self)))
                    rows = self._table.lookup(ids).astype(np.float64)
                    result[a : a + step] = np.linalg.norm(rows, axis=1)
                self._norms = result.astype(_search._float_type(self._table))
            self._norms.flags.writeable = False
        return self._norms

    def fill_norms(self, force: bool = False) -> None:
        """Count the norms now that the next search would count; with `force`, anew.

        That is needed only where another process writes to the table that is open here.
        """
        if force:
            self._changed()
        self._factors()

    def _factors(self) -> NDArray[Any]:
        if self._kept is None:
            self._kept = _search.factors_of(self._table, len(self))
        return self._kept

    def _changed(self) -> None:
        self._kept = self._norms = None

    def _whole(self) -> Vectors:
        """What the questions of `Vectors` can be put to."""
        return Vectors(self._table, self._keys.vocabulary())

    def _own(self, more: int) -> None:
        """See to it that the rows are in memory of their own, with room for `more` of them."""
        count = len(self)
        if self._owned and count + more <= len(self._room):
            return
        # Growing by a share, each row is copied a few times at most, however many are added.
        room = np.empty(
            (count + max(more, count // 2 if more else 0), self.vector_size), self.dtype
        )
        step = max(1, _STEP // max(1, self.vector_size))
        for begin in range(0, count, step):
            end = min(begin + step, count)
            self._table.lookup(np.arange(begin, end), out=room[begin:end])
        self._room, self._owned = room, True
        self._table = Table.from_array(room[:count])

    @property
    def dtype(self) -> np.dtype[Any]:
        """The dtype of the values."""
        return self._table.dtype

    def add_vector(self, key: str, vector: Any) -> int:
        """Add a key with its vector; return its position. A key that is there keeps its vector.

        Raises:
            TokenTypeError: the key is no `str`.
            TableError: the vector has another shape, or is not of numbers.
        """
        self.add_vectors([key], np.asarray(vector)[None])
        return int(self._keys.find([key])[0])

    def add_vectors(
        self,
        keys: Any,
        weights: Any,
        extras: Mapping[str, Any] | None = None,
        replace: bool = False,
    ) -> None:
        """Add keys with their vectors: all of them or, on any error, none.

        Args:
            keys: one key, or a sequence of them.
            weights: as many vectors, of shape (keys, vector_size); one for one key.
            extras: for each attribute its values, as many; see `set_vecattr`.
            replace: write over the vectors of keys that are there. Without it they stay, and of
                a key that comes twice among `keys` the first vector counts; with it, the last.

        Raises:
            TokenTypeError: a key is no `str`.
            TableError: the vectors have another shape, or are not of numbers.

        Example:
            >>> from shardwise.gensim import KeyedVectors
            >>> vectors = KeyedVectors(2)
            >>> vectors.add_vectors(["sea", "ship"], [[3.0, 4.0], [1.0, 0.0]])
            >>> vectors["sea"] = [0.0, 2.0]
            >>> vectors.vectors.tolist(), vectors.norms.tolist()
            ([[0.0, 2.0], [1.0, 0.0]], [2.0, 1.0])
        """
        names = as_new_keys(keys)
        rows = np.asarray(weights)
        if rows.ndim == 1 and len(names) == 1:
            rows = rows[None]
        shape = (len(names), self.vector_size)
        if rows.shape != shape or not (_search.is_real(rows.dtype) or not rows.size):
            raise TableError(
                f"expected a vector of {self.vector_size} numbers for each of {len(names)} keys, "
                f"got {rows.dtype} of shape {rows.shape}"
            )
        columns = {name: np.asarray(values) for name, values in (extras or {}).items()}
        for name, values in columns.items():
            if values.shape != (len(names),):
                raise TableError(
                    f"expected {len(names)} values of {name!r}, got shape {values.shape}"
                )
        ids = self._keys.find(names)
        chosen: dict[str, int] = {}  # of each key, which of the rows counts
        for i, name in enumerate(names):
            if replace or (ids[i] < 0 and name not in chosen):
                chosen[name] = i
        new = [name for name, i in chosen.items() if ids[i] < 0]
        if not chosen:
            return
        Vocabulary(new)  # where a key cannot be one, this says so before anything is changed
        with np.errstate(over="ignore"):
            values = rows[list(chosen.values())].astype(self.dtype)
        self._own(len(new))
        count = len(self)
        self._keys.add(new)
        self._table = Table.from_array(self._room[: count + len(new)])
        self._room[self._keys.find(list(chosen))] = values
        self._changed()
        for name, column in self.expandos.items():
            more = np.zeros(len(new), column.dtype)
            self.expandos[name] = np.concatenate([column, more])
        for name, column in columns.items():
            for key, i in chosen.items():
                self.set_vecattr(key, name, column[i].item())

    def __setitem__(self, keys: Any, weights: Any) -> None:
        """Write the vectors of keys, and add those that are not there."""
        if not isinstance(keys, (list, tuple, np.ndarray)):
            keys, weights = [keys], np.asarray(weights)[None]
        self.add_vectors([self._name(key) for key in keys], weights, replace=True)

    def _name(self, key: Any) -> Any:
        """A key itself, or the one at a position."""
        if isinstance(key, (int, np.integer)):
            return self._keys.decode([self.get_index(key)])[0]
        return key

    def resize_vectors(self, seed: int = 0) -> None:
        """Do nothing: there is a row for each key at all times."""

    def unit_normalize_all(self) -> None:
        """Divide each row by its norm; rows without a direction become zeros."""
        if self.dtype.kind in "iu":
            raise TableError(f"expected rows of floating-point numbers, got {self.dtype}")
        self._own(0)
        step = max(1, _STEP // max(1, self.vector_size))
        for begin in range(0, len(self), step):
            rows = self._room[begin : min(begin + step, len(self))]
            rows[:] = _search.directions(rows)
        self._changed()

    def sort_by_descending_frequency(self) -> None:
        """Give the keys with the largest "count" the first positions; of equal ones keep the order.

        Without such an attribute it does nothing.
        """
        if "count" not in self.expandos or not len(self):
            return
        order = np.argsort(-self.expandos["count"].astype(np.float64), kind="stable")
        names = self._keys.decode(order)
        rows = self._table.lookup(order)
        self._keys.replace(Vocabulary(names))
        self._room, self._owned = rows, True
        self._table = Table.from_array(rows)
        self.expandos = {name: column[order] for name, column in self.expandos.items()}
        self._changed()

    def set_vecattr(self, key: Any, attr: str, val: Any) -> None:
        """Set an attribute of a key, such as its "count"; other keys without one have 0.

        A column holds integers or floats where all its values are such, else objects.

        Raises:
            UnknownTokenError: there is no such key.
        """
        place = self.get_index(key)
        given = np.asarray(val)
        kind = given.dtype if given.ndim == 0 and given.dtype.kind in "biuf" else np.dtype(object)
        column = self.expandos.get(attr)
        if column is None:
            column = np.zeros(len(self), kind)
        elif column.dtype != kind:
            wide = object if object in (column.dtype, kind) else np.result_type(column.dtype, kind)
            column = column.astype(wide, copy=False)
        column[place] = val
        self.expandos[attr] = column

    def get_vecattr(self, key: Any, attr: str) -> Any:
        """Return an attribute of a key.

        Raises:
            UnknownTokenError: there is no such key.
            KeyError: no key has such an attribute.
        """
        return self.expandos[attr][self.get_index(key)]

    def get_index(self, key: Any, default: Any = None) -> Any:
        """Return the position of a key; an integer stands for itself.

        Args:
            key: the key.
            default: what to return where there is no such key, instead of the error.

        Raises:
            UnknownTokenError: there is no such key, and no default; it is a KeyError.
        """
        found = int(self._keys.find([key])[0])
        if found >= 0:
            return found
        if default is None:
            raise missing(key)
        return default

    def has_index_for(self, key: Any) -> bool:
        """Whether a key has a row, or an integer is the position of one."""
        return bool(self.get_index(key, -1) >= 0)

    def __contains__(self, key: Any) -> bool:
        return self.has_index_for(key)

    def __len__(self) -> int:
        return len(self._keys)

    def __str__(self) -> str:
        return f"{type(self).__name__}<vector_size={self.vector_size}, {len(self)} keys>"

    __repr__ = __str__
