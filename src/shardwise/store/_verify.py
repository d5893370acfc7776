"""Checksums: data files read again in full, and compared with what the manifest says of them."""

from __future__ import annotations

import errno
import os
import queue
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from shardwise._errors import StoreError
from shardwise._runtime import num_threads
from shardwise.store._directory import commit, hold
from shardwise.store._files import FileReader, is_large
from shardwise.store._manifest import DataFile, Manifest, read_manifest
from shardwise.store._vocabulary import read_file

_BLOCK_BYTES = 1 << 20  # stays in a core's cache between the reading and the checksum

Progress = Callable[[int, int], object]


@dataclass(frozen=True)
class Checked:
    """What became of one data file.

    Attributes:
        file: its name in the directory.
        bytes: how long it should be.
        state: "ok"; "damaged": its size or its checksum differs; "missing"; "unknown": the table
            has no checksum of it; "updated": it had none, and has one now.
        expected: the checksum in the manifest, or None.
        got: the checksum of the file, or None if it is missing or of another size.
        problem: what else is wrong with a file that is damaged: the vocabulary's may have its
            checksum, and not agree with the table.

    Example:
        >>> import tempfile
        >>> import numpy as np
        >>> from shardwise import Table, store
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     Table.from_array(np.zeros((3, 2))).save(folder)
        ...     [(one.file, one.state) for one in store.verify_table(folder)]
        [('weight-00000-of-00001.safetensors', 'ok')]
    """

    file: str
    bytes: int
    state: Literal["ok", "damaged", "missing", "unknown", "updated"]
    expected: str | None
    got: str | None
    problem: str | None = None


def verify_table(
    path: str | os.PathLike[str],
    *,
    update: bool = False,
    progress: Callable[[int, int], object] | None = None,
) -> list[Checked]:
    """Read all data files of the table at `path`, and compare them with their checksums.

    Files are read in parallel and in blocks: little memory is used, and of a table that is large
    for this machine, nothing stays in the page cache.

    Args:
        path: the directory.
        update: store the checksums of files that have none; see `update_checksums`.
        progress: called with (bytes done, bytes in all).

    Returns:
        One entry for each file: the shards', then the vocabulary's, then the optimizer's.

    Raises:
        TableNotFoundError: there is no table.
        StoreError: its manifest is broken.

    Example:
        >>> import tempfile, numpy as np
        >>> from shardwise import Table, store
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     Table.from_array(np.eye(3), shards=2).save(f"{folder}/t")
        ...     [checked.state for checked in store.verify_table(f"{folder}/t")]
        ['ok', 'ok']
    """
    place = os.fspath(path)
    if update:
        return _update(place, lambda entry: True, progress)
    for _ in range(16):
        manifest = read_manifest(place)
        found = check_files(place, manifest.data_files(), progress)
        settled = _settle(place, manifest, found)
        if settled is not None:
            return _check_vocabulary(place, manifest, settled)
    raise StoreError(f"the table at {place} is replaced again and again; stop its writers first")


def update_checksums(
    path: str | os.PathLike[str], *, progress: Callable[[int, int], object] | None = None
) -> list[Checked]:
    """Read the data files that have no checksum, and store it.

    A file has none after its rows were changed in place, or when it was made without being
    filled. What is in it now is taken as right.

    Args:
        path: the directory.
        progress: called with (bytes done, bytes in all).

    Returns:
        An entry for each of these files.

    Raises:
        TableNotFoundError: there is no table.
        StoreError: its manifest is broken, or another process writes there.

    Example:
        >>> import tempfile
        >>> from shardwise import Table, store
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     Table.create(f"{folder}/t", rows=10, dim=2).close()
        ...     [one.state for one in store.verify_table(f"{folder}/t")]
        ...     [one.state for one in store.update_checksums(f"{folder}/t")]
        ['unknown']
        ['updated']
    """
    return _update(os.fspath(path), lambda entry: entry.xxh128 is None, progress)


def check(path: str, manifest: Manifest) -> None:
    """Refuse a table of which a data file is not what its checksum says.

    Raises:
        StoreError: files are damaged: it names all of them.
        FileNotFoundError: a file is not there; the table may have been replaced.
    """
    found = check_files(path, manifest.data_files(), None)
    found = _settle(path, manifest, found) or found
    for one in found:
        if one.state == "missing":
            where = os.path.join(path, one.file)
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), where)
    damaged = [one.file for one in found if one.state == "damaged"]
    if damaged:
        raise StoreError(
            f"the table at {path} is broken: expected files with the checksums that they were "
            f"written with, got other bytes in {', '.join(damaged)}; restore the table from a "
            "copy, or write it again"
        )


def _check_vocabulary(path: str, manifest: Manifest, found: list[Checked]) -> list[Checked]:
    """Compare what the vocabulary's file says with the manifest, once its bytes are right."""
    at = len(manifest.shards)
    if manifest.vocabulary is None or found[at].state not in ("ok", "unknown"):
        return found
    try:
        read_file(os.path.join(path, manifest.vocabulary.file), manifest)
    except FileNotFoundError:  # the table was replaced just now: what was read was right
        return found
    except StoreError as error:
        found[at] = replace(found[at], state="damaged", problem=str(error))
    return found


def _settle(path: str, manifest: Manifest, found: list[Checked]) -> list[Checked] | None:
    """Tell damage from change: None if the table was replaced while it was read.

    A file that is changed in place loses its checksum first, so the manifest tells it by now: by
    none, or by the one that it was given after that.
    """
    if all(one.state in ("ok", "unknown") for one in found):
        return found
    now = read_manifest(path)
    if now.generation != manifest.generation:
        return None
    digests = {entry.file: entry.xxh128 for entry in now.data_files()}
    return [
        replace(one, state="unknown", expected=None)
        if one.state == "damaged" and one.got is not None and digests.get(one.file) != one.expected
        else one
        for one in found
    ]


def forget_checksums(
    path: str, manifest: Manifest, shards: Iterable[int], *, state: bool = False
) -> Manifest:
    """Say in the manifest that the checksums of these shards are not known; return it.

    With `state`, nor are those of the optimizer's state.

    To be called, and to come back, before the first byte of them is changed in place, by the one
    who holds the directory as its writer. Others may then tell change from damage.

    Raises:
        StoreError: the table was replaced since `manifest` was read.
    """
    changed = [manifest.shards[k] for k in set(shards)]
    if state and manifest.optimizer is not None:
        changed += manifest.optimizer.files
    return _restate(path, manifest, {entry.file: None for entry in changed})


def _restate(path: str, manifest: Manifest, digests: dict[str, str | None]) -> Manifest:
    """Change checksums in the manifest on disk; only its writer may."""
    now = read_manifest(path)
    if now.generation != manifest.generation:
        raise StoreError(
            f"expected generation {manifest.generation} of the table at {path}, got "
            f"{now.generation}: it was replaced meanwhile; open it again"
        )

    def restated(entry: DataFile) -> DataFile:
        return replace(entry, xxh128=digests.get(entry.file, entry.xxh128))

    changed = replace(
        now,
        shards=tuple(map(restated, now.shards)),
        vocabulary=now.vocabulary and restated(now.vocabulary),
        optimizer=now.optimizer
        and replace(now.optimizer, files=tuple(map(restated, now.optimizer.files))),
    )
    if changed != now:
        commit(path, changed)
    return changed


def _update(
    path: str, wanted: Callable[[DataFile], bool], progress: Progress | None
) -> list[Checked]:
    read_manifest(path)  # a directory without a table gets no mark
    path = os.path.realpath(path)  # the working directory, and links, may change
    with hold(path):
        manifest = read_manifest(path)
        entries = [entry for entry in manifest.data_files() if wanted(entry)]
        found = check_files(path, entries, progress, sync=True)
        fresh = {one.file: one.got for one in found if one.state == "unknown"}
        _restate(path, manifest, fresh)
    return [replace(one, state="updated") if one.file in fresh else one for one in found]


def check_files(
    path: str, entries: Iterable[DataFile], progress: Progress | None, sync: bool = False
) -> list[Checked]:
    """Check files in parallel; an interruption ends all of them at the next block."""
    files = list(entries)
    total = sum(entry.bytes for entry in files)
    release = is_large(total)
    stop = threading.Event()
    steps: queue.SimpleQueue[int | None] = queue.SimpleQueue()
    results: list[Checked | None] = [None] * len(files)

    def work(entry: DataFile) -> Checked:
        try:
            return _check_file(path, entry, release, sync, steps, stop)
        except BaseException:
            stop.set()
            raise
        finally:
            steps.put(None)

    done, left = 0, len(files)
    with ThreadPoolExecutor(num_threads()) as pool:
        try:
            # The longest first, lest one is left when all others are done.
            order = sorted(range(len(files)), key=lambda i: -files[i].bytes)
            futures = {pool.submit(work, files[i]): i for i in order}
            while left:
                step = steps.get()
                if step is None:
                    left -= 1
                    continue
                done += step
                if progress is not None:
                    progress(done, total)
            if progress is not None and done < total:  # there were files that cannot be read
                progress(total, total)
        except BaseException:
            stop.set()
            raise
        for future, i in futures.items():
            results[i] = future.result()
    return [one for one in results if one is not None]


def _check_file(
    path: str,
    entry: DataFile,
    release: bool,
    sync: bool,
    steps: queue.SimpleQueue[int | None],
    stop: threading.Event,
) -> Checked:
    broken = Checked(entry.file, entry.bytes, "damaged", entry.xxh128, None)
    try:
        with closing(FileReader(path, entry, release=release)) as reader:
            if reader.size != entry.bytes:
                return broken
            if sync:
                reader.sync()
            got = _digest(reader, steps, stop)
    except FileNotFoundError:
        return replace(broken, state="missing")
    except StoreError:  # no regular file, or it became shorter
        return broken
    except OSError as error:
        if error.errno == errno.EIO:  # the disk cannot read it
            return broken
        raise
    if entry.xxh128 is None:
        return replace(broken, state="unknown", got=got)
    return replace(broken, state="ok" if got == entry.xxh128 else "damaged", got=got)


def _digest(reader: FileReader, steps: queue.SimpleQueue[int | None], stop: threading.Event) -> str:
    import xxhash

    block = np.empty(min(_BLOCK_BYTES, reader.size), np.uint8)
    digest = xxhash.xxh3_128()
    for offset in range(0, reader.size, _BLOCK_BYTES):
        if stop.is_set():  # and nobody asks for the result
            break
        part = block[: reader.size - offset]
        reader.read(offset, part)
        digest.update(part.data)
        steps.put(part.size)
    return digest.hexdigest()
