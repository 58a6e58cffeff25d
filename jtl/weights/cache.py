"""The cache folder of downloaded weights: where it is, its records, and one writer at a time."""

import contextlib
import dataclasses
import errno
import fcntl
import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TextIO

from jtl.errors import WeightsError

_TRUE = frozenset({"1", "true", "yes", "on"})
_FALSE = frozenset({"", "0", "false", "no", "off"})
_POLL = 0.1  # seconds between two looks at a lock that another process holds


@dataclasses.dataclass(frozen=True, kw_only=True)
class Record:
    """What is known of a cached file since it was first verified.

    Attributes:
        url: where it came from.
        bytes: its size.
        sha256: its whole digest, as it was when the file got its name.
        published: the publisher's digest that it was verified against, such as `MD5 2cb9…`;
            None where the publisher gives none, so that `sha256` is all there is.
    """

    url: str
    bytes: int
    sha256: str
    published: str | None


def cache_folder() -> Path:
    """The folder of downloads: `$JTL_CACHE`, else `$XDG_CACHE_HOME/jtl`, else `~/.cache/jtl`."""
    if named := os.environ.get("JTL_CACHE"):
        return Path(named).expanduser().absolute()
    # A relative XDG_CACHE_HOME is to be ignored (XDG Base Directory Specification).
    base = Path(os.environ.get("XDG_CACHE_HOME", ""))
    return (base if base.is_absolute() else Path.home() / ".cache") / "jtl"


def is_offline() -> bool:
    """Whether `JTL_OFFLINE` forbids downloads.

    Raises:
        WeightsError: the variable is neither a yes nor a no.
    """
    value = os.environ.get("JTL_OFFLINE", "").strip().lower()
    if value not in _TRUE | _FALSE:
        raise WeightsError(f"JTL_OFFLINE={value!r} is neither yes nor no; set it to 1 or 0.")
    return value in _TRUE


def record_path(path: Path) -> Path:
    """Where the record of a cached file lies."""
    return path.with_name(path.name + ".json")


def read_record(path: Path) -> Record | None:
    """The record of a cached file, or None where there is no readable one."""
    entries = read_json(record_path(path))
    try:
        record = Record(**entries)
    except TypeError:
        return None
    strings = (record.url, record.sha256, record.published or "")
    return record if all(isinstance(value, str) for value in strings) else None


def write_record(path: Path, record: Record) -> None:
    """Put the record beside its file, whole or not at all."""
    write_json(record_path(path), dataclasses.asdict(record))


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file; empty where there is none or it is damaged."""
    try:
        entries = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return entries if isinstance(entries, dict) else {}


def write_json(path: Path, entries: dict[str, Any]) -> None:
    """A JSON file that is whole or not there at all, also after a crash."""
    temporary = path.with_name(path.name + ".tmp")
    with writing(path.parent):
        with temporary.open("w", encoding="utf-8") as file:
            json.dump(entries, file, indent=2)
            file.write("\n")
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)


def settle(part: Path, target: Path) -> None:
    """Give a finished file its final name, durably: it is there whole or not at all."""
    with writing(target.parent):
        with part.open("rb") as file:
            os.fsync(file.fileno())
        part.replace(target)
        folder = os.open(target.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def keep_newest(folder: Path, pattern: str, most: int) -> None:
    """Removes all but so many of a folder's files, those that were touched longest ago."""
    with contextlib.suppress(OSError):  # of another process that does the same
        paths = sorted(folder.glob(pattern), key=lambda path: path.stat().st_mtime)
        for path in paths[:-most]:
            path.unlink(missing_ok=True)


@contextlib.contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Turns what the file system refuses in `folder` into an error that says how to mend it.

    Raises:
        WeightsError: no space, no permission, or any other refusal.
    """
    try:
        yield
    except OSError as error:
        elsewhere = "set JTL_CACHE to a folder"
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            found = "there is no space left"
            mend = f"free some (what has arrived is kept) or {elsewhere} on a larger disk"
        elif error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            found, mend = "there is no permission to write", f"{elsewhere} that you may write to"
        else:
            found, mend = (error.strerror or str(error)), f"mend that or {elsewhere} elsewhere"
        raise WeightsError(f"{folder}: {found}; {mend}.") from error


@contextlib.contextmanager
def locked(path: Path, waiting: Callable[[str], None]) -> Iterator[None]:
    """Holds the right to write `path`, which only one process or thread has at a time.

    The kernel gives the lock back when its owner ends, however it ends: a killed owner leaves
    a lock file that stops nobody.

    Args:
        path: the cached file; its folder is made.
        waiting: told once, with the owner's process id, when somebody else holds the lock.

    Raises:
        WeightsError: the folder cannot be written, or its file system has no locks.
    """
    with writing(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        # Left in place afterwards: to remove it would let two waiters lock two different files.
        file = path.with_name(path.name + ".lock").open("a+", encoding="utf-8")
    with file:
        _acquire(file, path, waiting)
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield


def _acquire(file: TextIO, path: Path, waiting: Callable[[str], None]) -> None:
    told = False
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if not told:
                file.seek(0)
                waiting(file.read().strip() or "unknown")
                told = True
            time.sleep(_POLL)
        except OSError as error:
            raise WeightsError(
                f"{path.parent}: its file system does not lock files ({error.strerror}); "
                "set JTL_CACHE to a folder on a local disk."
            ) from error
