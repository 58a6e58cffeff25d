"""Labelled image files as a source, and what folders and manifests of them share."""

import dataclasses
import hashlib
import os
import re
import stat
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from jtl.data.sources.names import shown
from jtl.errors import ChangedDataError, DataError

# What folders and manifests may call a split.
SPLITS = {
    **{"train": "train", "training": "train"},
    **{"val": "val", "valid": "val", "validation": "val"},
    **{"test": "test", "testing": "test"},
}
_FIRST = 5  # of many names, these are told
_BLOCK = 4096  # bytes of each file that the fingerprint looks at
_THREADS = 4  # that read them
_NUMBER = re.compile("([0-9]+)")
# What takes a file's place may be a pipe, which must not be waited for.
_FLAGS = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY
_KINDS = {
    stat.S_IFIFO: "a FIFO",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFDIR: "a folder",
}


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class File:
    """A file as it was when it was listed.

    Attributes:
        name: its path from the source's root, with slashes.
        size: bytes.
        mtime: when it was last written, nanoseconds.
    """

    name: str
    size: int
    mtime: int


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class FileSource:
    """Image files, read when they are asked for.

    Attributes:
        root: the folder that names start from.
        files: in the order of the examples.
        labels: int32 `[examples]`, or float32 `[examples, classes]` where images have several.
        classes: the name of each class, by label.
        splits: the examples of each split that the source names, int `[n]`.
        groups: int `[examples]`, equal for examples that belong in one split; None without.
        provenance: where the files lie, how many there are, and what was left out.
    """

    root: Path
    files: tuple[File, ...]
    labels: np.ndarray
    classes: tuple[str, ...]
    splits: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)
    groups: np.ndarray | None = None
    provenance: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def __len__(self) -> int:
        """The number of examples."""
        return len(self.files)

    def __getitem__(self, index: int) -> bytes:
        """The bytes of one file.

        Raises:
            DataError: it is gone, may not be read, or is not what it was when it was listed.
        """
        with self._opened(index) as descriptor:
            data = _read(descriptor, self.files[index].size)
        if len(data) < self.files[index].size:
            raise self._changed(index, f"only {len(data)} bytes could be read")
        return data

    def name(self, index: int) -> str:
        """The file's path within the root, on one line and with hidden characters escaped."""
        return shown(self.files[index].name)

    def where(self, index: int) -> str:
        """The file's whole path, on one line and with hidden characters escaped."""
        return shown(self.path(index))

    def path(self, index: int) -> str:
        """The file's whole path as the system takes it."""
        return os.path.join(self.root, self.files[index].name)  # noqa: PTH118, speed

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 that is the same wherever the files lie, and whenever they were written.

        Over every file in order: its name within the root, its label, split and group, its size,
        and the CRC-32 of the 4 KiB in its middle (none where the file may not be read). Reads
        that much of each file once, when it is first asked for.

        Raises:
            DataError: a file changed since it was listed.
        """
        with ThreadPoolExecutor(_THREADS, thread_name_prefix="jtl-fingerprint") as pool:
            checks = list(pool.map(self._check_middle, range(len(self)), chunksize=64))
        split = np.full(len(self), "", object)
        for name, indices in self.splits.items():
            split[indices] += f"{name} "
        group = [""] * len(self) if self.groups is None else self.groups.tolist()
        total = hashlib.sha256(repr(self.classes).encode())
        for file, label, *rest in zip(self.files, self.labels.tolist(), split, group, checks):
            total.update(os.fsencode(file.name))
            total.update(f"\0{label}\0{file.size}\0{rest}\n".encode())
        return total.hexdigest()

    def _check_middle(self, index: int) -> int | None:
        start = max(0, (self.files[index].size - _BLOCK) // 2)
        try:
            with self._opened(index) as descriptor:
                return zlib.crc32(os.pread(descriptor, _BLOCK, start))
        except _UnreadableError:
            return None

    @contextmanager
    def _opened(self, index: int) -> Iterator[int]:
        listed = self.files[index]
        try:
            with open_regular(self.path(index)) as (descriptor, status):
                if status.st_size != listed.size:
                    lines = f"{listed.size} bytes were listed, now it has {status.st_size}"
                    raise self._changed(index, lines)
                if status.st_mtime_ns != listed.mtime:
                    raise self._changed(index, "it was written to after it was listed")
                yield descriptor
        except (FileNotFoundError, NotADirectoryError) as error:
            raise self._changed(index, "it is gone") from error
        except OSError as error:
            raise _UnreadableError(
                f"{self.where(index)} cannot be read: {error.strerror}; allow reading it, or take "
                "it out of the dataset."
            ) from error

    def _changed(self, index: int, how: str) -> ChangedDataError:
        return ChangedDataError(
            f"{self.where(index)} was changed while the dataset was in use: {how}; start again "
            "once nothing writes there."
        )


class _UnreadableError(DataError):
    """A file is there but may not be read."""


@contextmanager
def open_regular(path: str | Path) -> Iterator[tuple[int, os.stat_result]]:
    """A file's descriptor and status; never waits for a pipe or reads a device.

    Args:
        path: of the file.

    Raises:
        OSError: it cannot be opened.
        DataError: it is no regular file.
    """
    descriptor = os.open(path, _FLAGS)
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise DataError(f"{shown(str(path))} is {kind_of(status)}, no file.")
        yield descriptor, status
    finally:
        os.close(descriptor)


def read_regular(path: str | Path) -> bytes:
    """The bytes of a file; never waits for a pipe or reads a device.

    Args:
        path: of the file.

    Raises:
        OSError: it cannot be opened.
        DataError: it is no regular file.
    """
    with open_regular(path) as (descriptor, status):
        return _read(descriptor, status.st_size)


def kind_of(status: os.stat_result) -> str:
    """What something that is no regular file is, such as `a FIFO`."""
    return _KINDS.get(stat.S_IFMT(status.st_mode), "of an unknown kind")


def natural_key(text: str) -> tuple[tuple[Any, ...], str]:
    """Sorts `img2` before `img10`, and is the same under every locale.

    A folder's files stand before those of another folder whose name goes on after it.
    """
    parts: list[Any] = _NUMBER.split(text.replace("/", "\0"))
    for place in range(1, len(parts), 2):
        digits = parts[place].lstrip("0")
        parts[place] = (len(digits), digits)
    return tuple(parts), text


def first_of(names: Iterable[str]) -> str:
    """The first few of many names, and how many there are beside them."""
    every = list(names)
    more = f" and {len(every) - _FIRST} more" if len(every) > _FIRST else ""
    return ", ".join(shown(name) for name in every[:_FIRST]) + more


def class_problems(
    members: Mapping[str, Mapping[str, int]], splits: Sequence[str], where: str
) -> list[str]:
    """What stands against training on these classes, one line each.

    Args:
        members: of each class, how many examples each split has (`""` without splits).
        splits: that the source names.
        where: what messages call the source.
    """
    problems = []
    if len(members) == 1:
        problems.append(
            f"{where} has one class only, {shown(next(iter(members)))}; telling classes apart "
            "needs at least two"
        )
    unseen = [name for name, counts in members.items() if "train" not in counts]
    if "train" in splits and unseen:
        problems.append(
            f"{where} has classes in val or test that train has no example of: "
            f"{first_of(unseen)}; give train some, or take them out of the others"
        )
    return problems


def missing_from(
    members: Mapping[str, Mapping[str, int]], splits: Sequence[str]
) -> dict[str, list[str]]:
    """The classes that each split lacks, for the provenance."""
    lacking = {
        split: [shown(name) for name, counts in members.items() if split not in counts]
        for split in splits
    }
    return {split: names for split, names in lacking.items() if names}


def _read(descriptor: int, size: int) -> bytes:
    data = os.read(descriptor, size)
    while len(data) < size and (more := os.read(descriptor, size - len(data))):
        data += more
    return data
