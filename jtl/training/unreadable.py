"""The examples that a run leaves out because their images cannot be read."""

from collections.abc import Generator, Iterable
from pathlib import Path

import numpy as np

from jtl.data.sources.protocol import Arrays, Source
from jtl.training.files import read_json, write_json


class Unreadable:
    """Notes which examples came masked, and keeps them for the run's next start.

    Args:
        source: of the examples, whose names are noted.
        path: the file that holds them; None keeps none.
    """

    def __init__(self, source: Source, path: Path | None = None) -> None:
        self._source, self._path = source, path
        known = read_json(path)["examples"] if path is not None and path.exists() else {}
        self._examples = {int(index) for index in known}

    def noted(self, batches: Iterable[Arrays]) -> Generator[Arrays, None, None]:
        """The same batches, their masked examples noted."""
        for batch in batches:
            found = batch["example"][~batch["mask"] & (batch["example"] >= 0)]
            new = {int(index) for index in found} - self._examples
            if new:
                self._examples |= new
                self._write()
            yield batch

    def among(self, examples: np.ndarray) -> np.ndarray:
        """Bool, of the same shape: which of these examples cannot be read."""
        return np.isin(examples, sorted(self._examples))

    @property
    def names(self) -> list[str]:
        """What they are called, in the source's order."""
        return [self._source.name(index) for index in sorted(self._examples)]

    def _write(self) -> None:
        if self._path is not None and self._path.parent.is_dir():
            known = {str(index): self._source.where(index) for index in sorted(self._examples)}
            write_json(self._path, {"examples": known})
