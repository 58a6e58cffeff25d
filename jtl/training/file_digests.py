"""SHA-256 of files, of many at a time, and of some while others are still being written."""

import contextlib
import hashlib
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import TypeVar

_BLOCK = 1 << 22  # bytes read at a time
_EVERY = 0.02  # seconds between two looks at what has been written
_SETTLED = 50_000_000  # nanoseconds without a change, many times what file times resolve
_LARGE = 1 << 20  # bytes; smaller files are not worth a look ahead
_THREADS = 4

Item = TypeVar("Item")
Result = TypeVar("Result")


def digest_of(handle: int) -> str:
    """The digest of an open file, from where it stands to its end."""
    value = hashlib.sha256()
    while block := os.read(handle, _BLOCK):
        value.update(block)
    return value.hexdigest()


def each(function: Callable[[Item], Result], items: Iterable[Item]) -> list[Result]:
    """The function of every item, several at a time: hashing and syncing both let go."""
    with ThreadPoolExecutor(_THREADS, "jtl-files") as pool:
        return list(pool.map(function, items))


class DigestsAhead:
    """Takes the digests of a folder's files while it is written; a context.

    Orbax writes beside the folder, under a name that begins with its own, and renames at the end.
    A digest counts only for the very file, unchanged since: what is not known is taken when asked.

    Args:
        folder: that is about to be written.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._known: dict[tuple[int, ...], str] = {}
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._look, name="jtl-digests", daemon=True)

    def __enter__(self) -> "DigestsAhead":
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._ended.set()
        self._thread.join()

    def __call__(self, handle: int) -> str:
        """The digest of an open file, from its beginning to its end."""
        return self._known.get(_identity(os.fstat(handle))) or digest_of(handle)

    def _look(self) -> None:
        while not self._ended.wait(_EVERY):
            # What vanishes in between was renamed or removed.
            with contextlib.suppress(OSError):
                for path in self._written():
                    self._take(path)

    def _written(self) -> Iterator[Path]:
        for beside in self._folder.parent.glob(f"{self._folder.name}.*"):
            for parent, _, names in os.walk(beside):
                yield from (Path(parent) / name for name in names)

    def _take(self, path: Path) -> None:
        with path.open("rb", buffering=0) as file:
            before = os.fstat(file.fileno())
            settled = time.time_ns() - before.st_mtime_ns > _SETTLED
            if before.st_size < _LARGE or not settled or _identity(before) in self._known:
                return
            found = digest_of(file.fileno())
            if _identity(os.fstat(file.fileno())) == _identity(before):
                self._known[_identity(before)] = found


def _identity(status: os.stat_result) -> tuple[int, ...]:
    changed = (status.st_mtime_ns, status.st_ctime_ns)
    return (status.st_dev, status.st_ino, status.st_size, *changed)
