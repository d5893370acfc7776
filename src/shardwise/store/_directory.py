"""The directory of a table while it is written: held by one writer, and whole before and after.

Data files get names that no older table in the directory has; the table is there when the
manifest is, which one rename puts in its place. Whoever has the old table open keeps its files.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import IO, Any

from shardwise._errors import StoreError, TableExistsError, TableNotFoundError
from shardwise.store._manifest import NAME, Manifest, read_manifest

MARK = ".shardwise-writing"  # here while a table is written, or after its writer was killed
_OURS = re.compile(
    r"((weight|optimizer)-\d{5,}-of-\d{5,}|vocabulary)(\.\d+)?\.safetensors|shardwise\.json(\.\d+)?\.new"
)

# What a file system says that does not know how to lock a file, or to sync a directory.
_CANNOT = (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP)


@contextmanager
def writing(path: str, overwrite: bool) -> Iterator[tuple[str, int]]:
    """Hold the directory while a table is written to it; after a failure it is as it was."""
    made = make_directory(path)
    path = os.path.realpath(path)  # the working directory may change
    try:
        with hold(path):
            old = _check_place(path, overwrite)
            try:
                yield path, 1 if old is None else old.generation + 1
            finally:
                _clean(path, _present(path))
    except BaseException:
        if made and _present(path) is None:
            remove_empty(path)
        raise


def make_directory(path: str) -> bool:
    """Make it, if it is not there; return whether it was made."""
    try:
        os.mkdir(path)
    except FileExistsError:
        if not os.path.isdir(path):
            raise TableExistsError(
                f"expected a directory or nothing at {path}, got a file; choose another name"
            ) from None
        return False
    except (FileNotFoundError, NotADirectoryError):
        raise TableNotFoundError(
            f"expected a directory to make {path} in, got none; make it first"
        ) from None
    sync_directory(os.path.dirname(os.path.realpath(path)))
    return True


@contextmanager
def hold(path: str, name: str = NAME) -> Iterator[None]:
    """The mark of a writer, locked against a second one for as long as this process lives.

    `name` is the file by which a directory of ours is known.

    Raises:
        StoreError: another process writes there, or this one has the table open for writing.
    """
    where = os.path.join(os.path.realpath(path), MARK)  # the working directory may change
    before = set(os.listdir(path))
    if before and name not in before and MARK not in before:
        raise StoreError(
            f"expected an empty directory or a table at {path}, got one that holds "
            f"{sorted(before)[0]!r}; choose another name"
        )
    with _locked(where) as file:
        ours = os.getpid()
        try:
            file.truncate(0)
            file.write(str(ours))
            file.flush()
            yield
        finally:
            # Not in a child after fork, whose lock is its parent's; and not another's mark, in
            # another directory of that name.
            if os.getpid() == ours and _is_at(file, where):
                with suppress(FileNotFoundError):  # the directory may be gone by now
                    os.unlink(where)


def _no_link(path: str, flags: int) -> int:
    """Open a file, and none that a link leads to: what is cut and written to here is our own."""
    return os.open(path, flags | getattr(os, "O_NOFOLLOW", 0), 0o666)


def _locked(where: str) -> IO[str]:
    """Return the mark, open and locked."""
    for _ in range(100):
        file = open(where, "a+", opener=_no_link)  # noqa: SIM115 - the caller's to close
        try:
            _lock(file, where)
            if _is_at(file, where):
                return file
        except BaseException:
            file.close()
            raise
        file.close()  # the mark of a writer that finished just now: the next one is ours
    raise StoreError(
        f"expected no other writer at {os.path.dirname(where)}, got one after the other; try again"
    )


def _is_at(file: IO[str], where: str) -> bool:
    try:
        return os.path.samestat(os.stat(where), os.fstat(file.fileno()))
    except FileNotFoundError:
        return False


def _lock(file: IO[str], where: str) -> None:
    try:
        import fcntl
    except ImportError:  # a system without it: two writers are not told apart there
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in _CANNOT:  # a file system without locks: as a system without them
            return
        if not isinstance(error, BlockingIOError):
            raise
        file.seek(0)
        holder = file.read()
        advice = "wait until it is done"
        if holder == str(os.getpid()):
            advice = 'it is this one: close the table that it opened with mode "r+" first'
        raise StoreError(
            f"expected no other writer at {os.path.dirname(where)}, got process "
            f"{holder or '(starting)'}; {advice}"
        ) from None


def _check_place(path: str, overwrite: bool) -> Manifest | None:
    try:
        old = _present(path)
    except StoreError as error:  # to replace it would be to remove files that may be saved yet
        raise StoreError(
            f"expected no table, or one that can be read, at {path}: {error}; to give it up, "
            "remove the directory first"
        ) from None
    if old is not None and not overwrite:
        raise _exists(path, old)
    _clean(path, old)  # what a killed writer left
    return old


def refuse_existing(path: str | os.PathLike[str]) -> None:
    """Refuse a directory that holds a table: before long work, which would end in the same.

    Raises:
        TableExistsError: it holds one.

    Example:
        >>> import tempfile
        >>> from shardwise import store
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     store.refuse_existing(folder)  # no table here: go on
    """
    old = _present(os.fspath(path))
    if old is not None:
        raise _exists(os.fspath(path), old)


def _exists(path: str, old: Manifest) -> TableExistsError:
    return TableExistsError(
        f"expected no table at {path}, got one of {old.shape[0]} rows; choose another name, "
        "or pass overwrite=True (on the command line: --overwrite)"
    )


def _present(path: str) -> Manifest | None:
    try:
        return read_manifest(path)
    except TableNotFoundError:
        return None


def _clean(path: str, keep: Manifest | None) -> None:
    """Remove the data files of tables that are not, or not any more, the one in the manifest."""
    kept = set() if keep is None else keep.files()
    for name in os.listdir(path):
        if _OURS.fullmatch(name) and name not in kept:
            os.unlink(os.path.join(path, name))


def remove_empty(path: str) -> None:
    """Remove a directory, if nothing is in it."""
    try:
        os.rmdir(path)
    except OSError:  # somebody put something else there meanwhile: it is theirs
        return


def sync_file(file: IO[Any]) -> None:
    """Wait until a file's bytes are on the disk."""
    file.flush()
    os.fsync(file.fileno())


def commit(path: str, manifest: Manifest) -> None:
    """Make it the manifest of the directory, by one rename."""
    commit_text(path, NAME, manifest.to_json())


def commit_text(path: str, name: str, text: str) -> None:
    """Write a file of a directory whose other files are on the disk, by one rename."""
    # A child after fork writes with its parent's leave: each has a file of its own.
    fresh = os.path.join(path, f"{name}.{os.getpid()}.new")
    try:
        with open(fresh, "w", encoding="utf-8") as file:
            file.write(text)
            sync_file(file)
        sync_directory(path)  # the data files' names are durable before the manifest tells them
        os.replace(fresh, os.path.join(path, name))
    except BaseException:
        with suppress(OSError):
            os.unlink(fresh)
        raise
    sync_directory(path)


def sync_directory(path: str) -> None:
    """Wait until the names in a directory are on the disk."""
    if os.name == "nt":
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _CANNOT:
            raise
    finally:
        os.close(descriptor)
