"""Words to rows: tokens in any form, and what stands for those that the vocabulary lacks."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from shardwise._encoding import find_ids, set_unknown
from shardwise._errors import OptionError, TableError, UnknownTokenError
from shardwise._tokens import Ids, arrow_tokens, as_arrow, flatten
from shardwise.words._spelling import unknown_words_error

if TYPE_CHECKING:
    from shardwise._table import Table
    from shardwise._vectors import Vectors
    from shardwise._vocabulary import Vocabulary

Unknown: TypeAlias = Literal["error", "zeros", "subwords"] | None
UnknownOrSkip: TypeAlias = Literal["error", "zeros", "subwords", "skip"] | None

UNKNOWN = ("error", "zeros", "subwords")


class Found(NamedTuple):
    """Where the rows of tokens come from.

    Attributes:
        ids: of any shape; where they lie outside the table, a row is zeros, or made.
        inside: no id lies outside.
        places: int64, the positions in `ids.ravel()` of the rows that were made, ascending.
        made: these rows.
    """

    ids: Ids
    inside: bool
    places: Ids
    made: NDArray[Any] | None

    def rows(
        self, table: Table, out: NDArray[Any] | None = None, max_norm: float | None = None
    ) -> NDArray[Any]:
        """Return the rows, of shape `ids.shape + table.shape[1:]`."""
        if self.inside:
            return table.lookup(self.ids, out=out, max_norm=max_norm)
        rows = table.lookup(self.ids, out=out, out_of_range="zeros", max_norm=max_norm)
        if len(self.places):
            made = np.zeros(self.ids.size, np.bool_)
            made[self.places] = True
            rows[made.reshape(self.ids.shape)] = self.made
        return rows


NOWHERE: Ids = np.empty(0, np.int64)


def lookup(
    vectors: Vectors,
    tokens: Any,
    unknown: Unknown = None,
    out: NDArray[Any] | None = None,
    max_norm: float | None = None,
) -> NDArray[Any]:
    """Return the rows of tokens; see `Vectors.lookup`."""
    check_unknown(unknown, UNKNOWN)
    return find(vectors, tokens, unknown, max_norm).rows(vectors.table, out, max_norm)


def row(vectors: Vectors, token: str | bytes) -> NDArray[Any]:
    """Return the row of one token of the vocabulary; see `Vectors.__getitem__`."""
    ids = find_ids(vectors._vocabulary, [token])
    if ids[0] < 0:
        raise unknown_words_error(vectors._vocabulary, (token,))
    found: NDArray[Any] = vectors._table.lookup(ids)[0, ...]
    return found


def encode(vocabulary: Vocabulary, tokens: Any) -> Any:
    """Return what `Vocabulary.encode` does; an error about unknown words has suggestions."""
    try:
        return vocabulary.encode(tokens)
    except UnknownTokenError as error:
        raise unknown_words_error(vocabulary, error.tokens) from None


def check_unknown(unknown: object, known: tuple[str, ...]) -> None:
    """Refuse what is none of these.

    Raises:
        OptionError: it is none of them, and not None.
    """
    if unknown is None or (isinstance(unknown, str) and unknown in known):
        return
    advice = ""
    if isinstance(unknown, str) and unknown == "skip":
        advice = "; words can be left out of sentences: lookup(..., sentences=...)"
    raise OptionError(
        f"expected unknown to be one of {', '.join(map(repr, known))} or None, got "
        f"{unknown!r:.40}{advice}"
    )


def find(vectors: Vectors, tokens: Any, unknown: Unknown, max_norm: float | None) -> Found:
    """Find tokens, in any form that `Vocabulary.encode` takes."""
    vocabulary = vectors.vocabulary
    if unknown == "subwords":
        return _find_or_make(vectors, tokens, max_norm)
    if unknown == "zeros":
        ids = np.asarray(_with_unknown(vocabulary, -1).encode(tokens))
        return Found(ids, bool(ids.min(initial=0) >= 0), NOWHERE, None)
    exact = vocabulary if unknown is None else _with_unknown(vocabulary, None)
    return Found(np.asarray(encode(exact, tokens)), True, NOWHERE, None)


def _find_or_make(vectors: Vectors, tokens: Any, max_norm: float | None) -> Found:
    subwords = vectors._subwords
    if subwords is None:
        raise TableError(
            "expected vectors of a fastText model for unknown='subwords', got others; open the "
            "model's .bin with Vectors.from_file, or convert it to a table"
        )
    array = as_arrow(tokens)
    if array is not None:
        tokens = arrow_tokens(array, np.arange(len(array)))
    flat, shape = flatten(tokens)
    vocabulary = vectors.vocabulary
    ids = find_ids(vocabulary, flat)
    places = np.flatnonzero(ids < 0)
    missing = [flat[i] for i in places.tolist()]
    if vocabulary._folding:
        missing = vocabulary._folding.fold_tokens(missing)
    made = subwords.rows(missing, max_norm)
    return Found(ids.reshape(shape), not len(places), places, made)


def _with_unknown(vocabulary: Vocabulary, unknown_id: int | None) -> Vocabulary:
    """The same vocabulary with another policy for unknown tokens."""
    other = copy.copy(vocabulary)
    set_unknown(other, unknown_id)
    return other
