"""Which tensor of a file holds the embeddings: by its name, or because there is only one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeAlias

from shardwise._errors import FormatError, OptionError
from shardwise.formats._file import File

Shape: TypeAlias = tuple[int, ...]

# What models call the table of their tokens, the surest first. A name in a module
# ("transformer.wte.weight") ends in one of these after a dot.
_USUAL = (
    "shared.weight",
    "embed_tokens.weight",
    "wte.weight",
    "word_embeddings.weight",
    "word_embedding.weight",
    "tok_embeddings.weight",
    "token_embedding.weight",
    "token_embeddings.weight",
    "embed_in.weight",
    "embedding.weight",
    "embeddings.weight",
    "emb.weight",
    "embeddings",
    "embedding",
    "vectors",
)
_WHOLE = ("weight",)  # as the end of a name it is any layer
_SHOWN = 20


def choose(
    file: File,
    tensors: Mapping[str, tuple[str, Shape | None]],
    wanted: str | None,
    last: Sequence[str] = (),
) -> str:
    """Return the name of the tensor that holds the rows.

    Args:
        file: for the message.
        tensors: what may hold rows: the dtype in words, and the shape where it is known.
        wanted: the name that the caller gave.
        last: names of matrices that decide where nothing else does.

    Raises:
        OptionError: there is no tensor `wanted`.
        FormatError: no tensor, or several, may be meant.
    """
    if wanted is not None:
        if wanted not in tensors:
            raise OptionError(
                f"{file.path}: expected tensor= to name one of {_listed(tensors)}, got {wanted!r}"
            )
        return wanted
    for usual in (*_USUAL, *_WHOLE):
        if usual in tensors and tensors[usual][1] != ():
            return usual
        if usual in _WHOLE:
            continue
        ends = [n for n in tensors if n.endswith(f".{usual}") and _is_matrix(tensors[n][1])]
        if len(ends) == 1:
            return ends[0]
        if ends:
            raise _unsure(file, "several have a usual name", {n: tensors[n] for n in ends})
    matrices = [name for name, (_, shape) in tensors.items() if shape and len(shape) == 2]
    matrices = [name for name in last if name in matrices][:1] or matrices
    rows = matrices or [name for name in tensors if tensors[name][1] != ()]
    if len(rows) == 1:
        return rows[0]
    if not rows:
        raise file.error(
            f"expected a tensor of shape (rows, ...), got {_listed(tensors)}; is this a file of "
            "vectors?"
        )
    raise _unsure(file, "none has a usual name", tensors)


def _is_matrix(shape: Shape | None) -> bool:
    return shape is None or len(shape) == 2


def _unsure(file: File, why: str, tensors: Mapping[str, tuple[str, Shape | None]]) -> FormatError:
    return file.error(
        f"expected one tensor that may hold the rows, got {len(tensors)}, and {why}: "
        f"{_listed(tensors)}; name one with tensor="
    )


def _listed(tensors: Mapping[str, tuple[str, Shape | None]]) -> str:
    shown = [
        f"{name!r:.120}" + ("" if shape is None else f" ({kind}, {list(shape)})")
        for name, (kind, shape) in list(tensors.items())[:_SHOWN]
    ]
    if len(tensors) > _SHOWN:
        shown.append(f"and {len(tensors) - _SHOWN} more")
    return ", ".join(shown) or "none"
