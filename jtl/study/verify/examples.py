"""The ordered log of what each step of a run took, over all of its starts."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from jtl.training.events import Event, Taken
from jtl.tree import digest

NAME = "examples.jsonl"
_COLUMNS = ("example", "view")


class ExampleLog:
    """A listener that writes a line for each batch before its step is begun.

    What earlier starts wrote stays: steps that are taken again must take the same again.

    Args:
        path: of the log.
    """

    def __init__(self, path: Path) -> None:
        torn = path.exists() and not path.read_bytes().endswith(b"\n")
        self._file = path.open("a", encoding="utf-8")
        if torn:  # by a kill; its line is passed over
            self._file.write("\n")

    def __call__(self, event: Event) -> None:
        """Writes which examples and views a step takes, and the digest of all that it is given."""
        if not isinstance(event, Taken):
            return
        record: dict[str, Any] = {"step": event.step, "digest": digest(dict(event.batch))}
        for name in _COLUMNS:
            if name in event.batch:
                record[name] = np.asarray(event.batch[name]).ravel().tolist()
        self._file.write(json.dumps(record) + "\n")
        self._file.flush()


def read_examples(path: Path) -> list[dict[str, Any]]:
    """What was taken, in the order it was; lines that a kill cut off are passed over."""
    found = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            found.append(json.loads(line))
        except ValueError:
            continue
    return found
