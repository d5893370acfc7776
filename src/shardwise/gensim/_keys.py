"""Keys and their positions: a vocabulary that can grow, and views of it that look like gensim's."""

from __future__ import annotations

import itertools
import operator
from collections.abc import ItemsView, Iterator, Mapping, Sequence, ValuesView
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from shardwise._encoding import find_ids
from shardwise._errors import TokenTypeError, UnknownTokenError
from shardwise._vocabulary import Vocabulary

_Ids = NDArray[np.int64]


class Keys:
    """The keys in the order of their positions: those of a vocabulary, then those added since."""

    __slots__ = ("_added", "_base")

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._base = vocabulary
        self._added: dict[str, int] = {}

    def vocabulary(self) -> Vocabulary:
        """All keys; those added since are put in now, as a search or a file is to need them."""
        if self._added:
            old = self._base
            self._base = Vocabulary(
                list(self),
                unknown=old.unknown,
                aliases=old.aliases,
                casefold=old.casefold,
                normal_form=old.normal_form,
            )
            self._added = {}
        return self._base

    def find(self, keys: Sequence[Any]) -> _Ids:
        """Return the positions of keys, -1 for those that are not there; an integer is its own."""
        if all(isinstance(key, str) for key in keys):
            ids = find_ids(self._base, keys if isinstance(keys, list) else list(keys))
            if self._added and (ids < 0).any():
                for i in np.flatnonzero(ids < 0).tolist():
                    ids[i] = self._added.get(keys[i], -1)
            return ids
        ids = np.full(len(keys), -1, np.int64)
        words = [i for i, key in enumerate(keys) if isinstance(key, str)]
        ids[words] = self.find([keys[i] for i in words])
        for i, key in enumerate(keys):
            if isinstance(key, (int, np.integer)) and 0 <= key < len(self):
                ids[i] = key
        return ids

    def add(self, keys: list[str]) -> None:
        """Append keys that are not there yet."""
        for key in keys:
            self._added[key] = len(self)
        if self._base.casefold or self._base.normal_form:
            self.vocabulary()  # only it knows which other spellings are the same key

    def replace(self, vocabulary: Vocabulary) -> None:
        """Put other keys in their place; the views of them see it."""
        self._base, self._added = vocabulary, {}

    def decode(self, ids: Sequence[int] | _Ids) -> list[str]:
        """Return the keys at positions that are there."""
        if self._added:
            return self.vocabulary().decode(ids)
        return self._base.decode(ids)

    def __len__(self) -> int:
        return len(self._base) + len(self._added)

    def __iter__(self) -> Iterator[str]:
        return itertools.chain(self._base, self._added)


def missing(key: object) -> UnknownTokenError:
    """Return the error for a key that is not there; it is a KeyError."""
    return UnknownTokenError(
        f"Key {key!r:.60} not present: expected a key of these vectors, or the position of one; "
        "ask `key in vectors` first"
    )


def as_new_keys(keys: Any) -> list[str]:
    """Return keys to add as a list.

    Raises:
        TokenTypeError: one is no `str`.
    """
    listed = [keys] if isinstance(keys, str) else list(keys)
    for key in listed:
        if not isinstance(key, str):
            raise TokenTypeError(
                f"expected keys to add as str, got {type(key).__name__}: {key!r:.60}; an integer "
                "names a position here, so write str(key)"
            )
    return [str(key) for key in listed]


class _Items(ItemsView[str, int]):
    def __init__(self, mapping: KeyToIndex) -> None:
        super().__init__(mapping)
        self._all = mapping

    def __iter__(self) -> Iterator[tuple[str, int]]:
        return ((key, i) for i, key in enumerate(self._all))


class _Values(ValuesView[int]):
    def __init__(self, mapping: KeyToIndex) -> None:
        super().__init__(mapping)
        self._all = mapping

    def __iter__(self) -> Iterator[int]:
        return iter(range(len(self._all)))

    def __contains__(self, value: object) -> bool:
        return value in range(len(self._all))


class KeyToIndex(Mapping[str, int]):
    """Each key's position: a view, which holds no objects of its own and sees every change.

    Example:
        >>> from shardwise.gensim import KeyedVectors
        >>> vectors = KeyedVectors(2)
        >>> vectors.add_vectors(["sea", "ship"], [[1.0, 2.0], [3.0, 4.0]])
        >>> vectors.key_to_index["ship"], "land" in vectors.key_to_index
        (1, False)
        >>> dict(vectors.key_to_index)
        {'sea': 0, 'ship': 1}
    """

    __slots__ = ("_keys",)

    def __init__(self, keys: Keys) -> None:
        self._keys = keys

    def __getitem__(self, key: str) -> int:
        if key not in self:
            raise missing(key)
        return int(self._keys.find([key])[0])

    def __contains__(self, key: object) -> bool:
        return isinstance(key, str) and _has(self._keys, key)

    def __iter__(self) -> Iterator[str]:
        return iter(self._keys)

    def __len__(self) -> int:
        return len(self._keys)

    def items(self) -> ItemsView[str, int]:
        """The pairs of a key and its position, in their order."""
        return _Items(self)

    def values(self) -> ValuesView[int]:
        """The positions."""
        return _Values(self)

    def __repr__(self) -> str:
        return f"KeyToIndex({len(self)} keys)"


class IndexToKey(Sequence[str]):
    """The keys by position: a view that makes the strings that are asked for.

    Example:
        >>> from shardwise.gensim import KeyedVectors
        >>> vectors = KeyedVectors(2)
        >>> vectors.add_vectors(["sea", "ship", "land"], [[1, 2], [3, 4], [5, 6]])
        >>> vectors.index_to_key[-1], vectors.index_to_key[:2], len(vectors.index_to_key)
        ('land', ['sea', 'ship'], 3)
    """

    __slots__ = ("_keys",)

    def __init__(self, keys: Keys) -> None:
        self._keys = keys

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        if isinstance(index, slice):
            return self._keys.decode(np.arange(*index.indices(len(self)), dtype=np.int64))
        number = operator.index(index)
        place = number + len(self) if number < 0 else number
        if not 0 <= place < len(self):
            raise IndexError(f"expected a position below {len(self)}, got {number}")
        return self._keys.decode([place])[0]

    def __contains__(self, key: object) -> bool:
        return isinstance(key, str) and _has(self._keys, key)

    def __iter__(self) -> Iterator[str]:
        return iter(self._keys)

    def __len__(self) -> int:
        return len(self._keys)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, (list, IndexToKey)):
            return NotImplemented
        return len(self) == len(other) and all(map(operator.eq, self, other))

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        shown = ", ".join(map(repr, self[:3])) + (", ..." if len(self) > 3 else "")
        return f"IndexToKey({len(self)} keys: [{shown}])"


def _has(keys: Keys, key: str) -> bool:
    try:
        return bool(keys.find([key])[0] >= 0)
    except ValueError:  # what cannot be written as UTF-8 cannot have been put in
        return False
