"""Listeners that keep a record on disk: JSON lines and TensorBoard's event files."""

import dataclasses
import json
from pathlib import Path
from types import TracebackType

from jtl.training.events import Cached, Evaluated, Event, Stepped
from jtl.training.files import read_lines, write_text


class JsonLines:
    """`metrics.jsonl`: one record a line, in the order of events.

    Opening it for a resumed run drops the records beyond the step it resumes at, which are
    about to be made again.
    """

    def __init__(self, path: Path, start: int) -> None:
        kept = [record for record in read_lines(path) if record["step"] <= start]
        write_text(path, "".join(json.dumps(record) + "\n" for record in kept))
        self._cached = {record["phase"] for record in kept if record["kind"] == "cache"}
        self._file = path.open("a", encoding="utf-8")

    def __call__(self, event: Event) -> None:
        """Writes the record of a step, an evaluation or, once a phase, its cache."""
        if isinstance(event, Cached):
            if event.phase in self._cached:
                return  # a resumed phase tells it once more
            self._cached.add(event.phase)
        if kind := _kind(event):
            self._file.write(json.dumps({"kind": kind, **dataclasses.asdict(event)}) + "\n")
            self._file.flush()

    def close(self) -> None:
        """Closes the file."""
        self._file.close()


def _kind(event: Event) -> str | None:
    if isinstance(event, Stepped):
        return "train"
    if isinstance(event, Evaluated):
        return "evaluation"
    return "cache" if isinstance(event, Cached) else None


class TensorBoard:
    """TensorBoard event files, written without TensorFlow."""

    def __init__(self, folder: Path, start: int) -> None:
        from tensorboardX import SummaryWriter

        self._writer = SummaryWriter(str(folder), purge_step=start + 1 if start else None)

    def __call__(self, event: Event) -> None:
        """Writes scalars under `train/`, `val/` and so on, by step."""
        if isinstance(event, Stepped | Evaluated):
            prefix = "train" if isinstance(event, Stepped) else event.split
            for name, value in event.metrics.items():
                self._writer.add_scalar(f"{prefix}/{name}", value, event.step)

    def close(self) -> None:
        """Writes what is pending and closes the file."""
        self._writer.close()


class Records:
    """All records of a run's folder, as a context that closes them."""

    def __init__(self, workdir: Path, start: int) -> None:
        self._listeners = (
            JsonLines(workdir / "metrics.jsonl", start),
            TensorBoard(workdir, start),
        )

    def __call__(self, event: Event) -> None:
        """Passes an event on."""
        for listener in self._listeners:
            listener(event)

    def __enter__(self) -> "Records":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for listener in self._listeners:
            listener.close()
