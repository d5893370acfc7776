"""The file of a vocabulary: the arrays of its map, and what it does with tokens that it lacks."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shardwise._encoding import set_unknown
from shardwise._errors import (
    OptionError,
    ShardwiseError,
    StoreError,
    TableError,
    TableExistsError,
    TableNotFoundError,
    VocabularyError,
    require,
)
from shardwise._folding import Folding
from shardwise._hashing import Buckets
from shardwise._safetensors import advise, make_header, map_file
from shardwise._vocabulary import Vocabulary
from shardwise.store._directory import sync_directory
from shardwise.store._files import FileWriter
from shardwise.store._manifest import DataFile, Manifest, read_manifest

_KEY = "vocabulary"  # in the metadata of the file
_BLOCK_BYTES = 16 << 20
_ENDING = ".safetensors"


def write_file(directory: str, name: str, vocabulary: Vocabulary) -> DataFile:
    """Write a vocabulary under a name that nothing has yet in a directory."""
    # The widest first: each begins on a multiple of its item size.
    arrays: dict[str, NDArray[Any]] = {
        "slots": vocabulary._slots,
        "offsets": vocabulary._offsets,
        **({} if vocabulary._counts is None else {"counts": vocabulary._counts}),
        **({} if vocabulary._alias_ids is None else {"alias_ids": vocabulary._alias_ids}),
        "tokens": vocabulary._data,
    }
    writer = FileWriter(directory, name)
    policy = _policy(vocabulary)
    header = make_header(
        {key: (a.dtype, a.shape) for key, a in arrays.items()},
        {_KEY: json.dumps(policy, separators=(",", ":"))} if policy else None,
    )
    writer.write(np.frombuffer(header, np.uint8))
    for array in arrays.values():
        data = array.view(np.uint8)
        for begin in range(0, data.size, _BLOCK_BYTES):
            writer.write(data[begin : begin + _BLOCK_BYTES])
    return writer.finish()


def token_id(vocabulary: Vocabulary | None) -> int | None:
    """The id of the token that stands for unknown ones: what a manifest says of the policy."""
    if vocabulary is None or not vocabulary._unknown_is_token:
        return None
    return vocabulary.unknown_id


def _policy(vocabulary: Vocabulary) -> dict[str, Any]:
    policy: dict[str, Any] = {}
    unknown = vocabulary.unknown
    if isinstance(unknown, Buckets):
        policy["unknown"] = {
            "buckets": unknown.count,
            "key": None if unknown.key is None else list(unknown.key),
            "first": unknown.first,
        }
    elif unknown is not None:
        kind = "id" if token_id(vocabulary) is None else "token"
        policy["unknown"] = {kind: vocabulary.unknown_id}
    if vocabulary.casefold:
        policy["casefold"] = True
    if vocabulary.normal_form is not None:
        policy["normal_form"] = vocabulary.normal_form
    return policy


def read_file(where: str, manifest: Manifest | None = None) -> Vocabulary:
    """Map the file of a vocabulary; nothing is read but its header and the ends of arrays.

    Args:
        where: the file.
        manifest: that of the table which it belongs to: both must agree.

    Raises:
        StoreError: it is broken.
        FileNotFoundError: there is no such file.
    """
    tensors, metadata, file = map_file(where)
    try:
        policy = _parse(metadata.get(_KEY))
        unknown = {} if policy is None else policy.pop("unknown")
        token = unknown.get("token")
        if manifest is not None:
            if policy is not None and token != manifest.unknown_id:
                raise StoreError(
                    f"expected the unknown_id of the table, {manifest.unknown_id}, got {token}"
                )
            token = manifest.unknown_id
        # A few words shall not bring megabytes from the disk, as a system reads ahead by default.
        advise(tensors["slots"], "random")
        vocabulary = Vocabulary._of(
            tensors["tokens"],
            tensors["offsets"],
            tensors["slots"],
            alias_ids=tensors.get("alias_ids"),
            counts=tensors.get("counts"),
            folding=Folding(**(policy or {})),
            unknown=_as_unknown(unknown),
        )
        if manifest is not None and len(vocabulary) > manifest.shape[0]:
            raise StoreError(
                f"expected at most {manifest.shape[0]} tokens, one a row, got {len(vocabulary)}"
            )
        vocabulary._is_cold, vocabulary._file = True, file
        if token is not None:
            set_unknown(vocabulary, vocabulary.decode(token))
            if vocabulary.unknown_id != token:
                raise StoreError(
                    f"expected the unknown token's id to be {token}, got {vocabulary.unknown_id}"
                )
        return vocabulary
    except (KeyError, ShardwiseError) as error:
        what = str(error) if isinstance(error, ShardwiseError) else f"expected a tensor {error}"
        raise StoreError(f"{where} is broken: {what}; write the table again") from None


def _parse(text: str | None) -> dict[str, Any] | None:
    """Return what the metadata say, checked but for the values: "unknown" is always there."""
    if text is None:
        return None
    try:
        policy = json.loads(text)
    except (ValueError, RecursionError):
        policy = None
    if not isinstance(policy, dict):
        raise StoreError(f"expected metadata {_KEY!r} as a JSON object, got {text!r:.80}")
    if not policy.keys() <= {"unknown", "casefold", "normal_form"}:
        raise StoreError(
            f"expected metadata {_KEY!r} that this version of shardwise knows, got "
            f"{', '.join(map(repr, policy))!s:.80}"
        )
    unknown = policy.setdefault("unknown", {})
    known: tuple[set[str], ...] = ({"token"}, {"id"}, {"buckets", "key", "first"})
    if not isinstance(unknown, dict) or (unknown and set(unknown) not in known):
        raise StoreError(f"expected a policy for unknown tokens, got {unknown!r:.80}")
    token = unknown.get("token", 0)
    if type(token) is not int or not 0 <= token < 1 << 63:
        raise StoreError(f"expected the id of an unknown token, got {token!r:.40}")
    return policy


def _as_unknown(unknown: Mapping[str, Any]) -> int | Buckets | None:
    if "buckets" in unknown:
        return Buckets(unknown["buckets"], unknown["key"], unknown["first"])
    if "id" not in unknown:
        return None
    if type(unknown["id"]) is not int:
        raise StoreError(f"expected an id for unknown tokens, got {unknown['id']!r:.40}")
    return unknown["id"]


def open_vocabulary(path: str | os.PathLike[str]) -> Vocabulary:
    """Open the vocabulary of a table's directory, or a file of one, by memory map.

    Raises:
        TableNotFoundError: there is nothing at `path`.
        TableError: the table has no vocabulary.
        StoreError: what is there is broken, or of a newer version.

    Example:
        >>> import tempfile
        >>> from shardwise import Vocabulary, store
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     store.save_vocabulary(f"{folder}/words.safetensors", Vocabulary(["king", "queen"]))
        ...     list(store.open_vocabulary(f"{folder}/words.safetensors"))
        ['king', 'queen']
    """
    place = os.fspath(path)
    if not os.path.isdir(place):
        try:
            return read_file(place)
        except FileNotFoundError:
            raise TableNotFoundError(
                f"expected a table directory or the file of a vocabulary at {place}, got nothing "
                "of that name"
            ) from None
        except StoreError as error:
            if place.endswith(_ENDING):
                raise
            raise StoreError(
                f"{error}; or if it is the file of another program, open it with "
                "shardwise.formats.open_vocabulary"
            ) from None
    for _ in range(16):
        manifest = read_manifest(place)
        if manifest.vocabulary is None:
            raise TableError(f"expected a table with a vocabulary at {place}, got one without")
        try:
            return read_file(sized(place, manifest.vocabulary), manifest)
        except FileNotFoundError as error:
            if read_manifest(place).generation == manifest.generation:
                raise missing_file(place, error) from None
    raise StoreError(f"the table at {place} is replaced again and again; stop its writers first")


def sized(path: str, entry: DataFile) -> str:
    """Return where a data file is, which must be as long as the manifest says."""
    where = os.path.join(path, entry.file)
    size = os.stat(where).st_size
    if size != entry.bytes:
        raise StoreError(
            f"{where} is broken: expected {entry.bytes} bytes, got {size}; "
            "restore it from a copy, or write the table again"
        )
    return where


def missing_file(path: str, error: FileNotFoundError) -> StoreError:
    """The error for a table of which a data file is not there."""
    return StoreError(
        f"the table at {path} is broken: expected the file {error.filename}, got "
        "none; restore it from a copy, or write the table again"
    )


def save_vocabulary(
    path: str | os.PathLike[str], vocabulary: Vocabulary, *, overwrite: bool = False
) -> None:
    """Write a vocabulary to a file of its own; see `Vocabulary.save`.

    Example:
        >>> import tempfile
        >>> from shardwise import Vocabulary, store
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     store.save_vocabulary(f"{folder}/words.safetensors", Vocabulary(["king", "queen"]))
        ...     len(Vocabulary.open(f"{folder}/words.safetensors"))
        2
    """
    import secrets

    require(vocabulary, Vocabulary, "vocabulary", VocabularyError)
    if not os.fspath(path).endswith(_ENDING):
        raise OptionError(
            f"expected the name of a file that ends in {_ENDING}, got {os.fspath(path)!r}; for "
            "other kinds of files see shardwise.formats.write_vocabulary"
        )
    target = os.path.realpath(path)  # a link stays, and its file is replaced
    directory = os.path.dirname(target)
    _refuse(target, overwrite)
    temporary = f".shardwise-{secrets.token_hex(8)}.tmp"
    try:
        write_file(directory, temporary, vocabulary)
        _refuse(target, overwrite)  # somebody else may have been faster
        os.replace(os.path.join(directory, temporary), target)
    finally:
        with suppress(FileNotFoundError):
            os.unlink(os.path.join(directory, temporary))
    sync_directory(directory)


def _refuse(target: str, overwrite: bool) -> None:
    directory, name = os.path.split(target)
    if not os.path.isdir(directory):
        raise TableNotFoundError(f"expected a directory to write {target} in, got none; make it")
    with suppress(TableNotFoundError):
        if name in read_manifest(directory).files():
            raise StoreError(
                f"expected a place outside of a table, got {target}, a file of the table at "
                f"{directory}; choose another name, or save the table as a whole"
            )
    try:
        mode = os.stat(target).st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISREG(mode) or not overwrite:
        raise TableExistsError(
            f"expected nothing at {target}, got "
            + (
                "a file; choose another name, or pass overwrite=True"
                if stat.S_ISREG(mode)
                else "something that is no file; choose another name"
            )
        )
