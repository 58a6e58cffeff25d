"""Images without labels, found by path, folder or glob, as a source for prediction."""

import dataclasses
import glob
import hashlib
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from jtl.data.decode import read_file
from jtl.data.sources.listing import natural_key
from jtl.data.sources.names import shown
from jtl.data.sources.walk import SUFFIXES, walk


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class PathSource:
    """Image files without labels, each read when it is asked for.

    Attributes:
        paths: of the files, as they were given.
        classes: of who predicts; no file has one.
    """

    paths: tuple[str, ...]
    classes: tuple[str, ...] = ()
    groups: np.ndarray | None = None
    splits: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)
    provenance: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def labels(self) -> np.ndarray:
        """Zeros that stand for no label, int32 `[examples]`."""
        return np.zeros(len(self.paths), np.int32)

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the paths alone."""
        return hashlib.sha256("\0".join(self.paths).encode("utf-8", "surrogateescape")).hexdigest()

    def __len__(self) -> int:
        """The number of files."""
        return len(self.paths)

    def __getitem__(self, index: int) -> bytes:
        """The bytes of one file.

        Raises:
            DataError: it cannot be read.
        """
        return read_file(self.paths[index])

    def name(self, index: int) -> str:
        """The file's path, on one line and with hidden characters escaped."""
        return shown(self.paths[index])

    def where(self, index: int) -> str:
        """The same."""
        return self.name(index)


def find_images(given: Iterable[str | Path]) -> tuple[tuple[str, ...], list[str]]:
    """The files that paths, folders and globs stand for, each once.

    Args:
        given: files; folders, whose images are taken at any depth; or globs such as `**/*.jpg`.
            What exists under its very name is never taken for a glob.

    Returns:
        The files in the order given, those of a folder or a glob in natural order; and a line
        for each that stands for no image.
    """
    found: dict[str, None] = {}
    problems: list[str] = []
    for each in map(str, given):
        # Path.glob takes no pattern that begins at the root.
        expanded = glob.glob(each, recursive=True) if glob.has_magic(each) else []  # noqa: PTH207
        if os.path.isdir(each):  # noqa: PTH112, a text as the rest
            listed = walk(os.path.realpath(each), follow_links=False)
            problems += listed.problems
            own = [os.path.join(each, file.name) for file in listed.files]  # noqa: PTH118
            if not own:
                problems.append(f"{shown(each)} is a folder without images.")
        elif expanded and not os.path.lexists(each):
            own = sorted((name for name in expanded if _is_image(name)), key=natural_key)
            if not own:
                problems.append(f"{shown(each)} matches no image.")
        elif glob.has_magic(each) and not os.path.lexists(each):
            own = []
            problems.append(f"{shown(each)} matches no file.")
        else:
            own = [each]  # one that is missing is told when it is read
        found.update(dict.fromkeys(own))
    return tuple(found), problems


def _is_image(name: str) -> bool:
    return Path(name).suffix.lower() in SUFFIXES and os.path.isfile(name)  # noqa: PTH113
