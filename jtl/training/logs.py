"""What keeps the record of a run: JSON lines, TensorBoard's event files, other trackers."""

import contextlib
import json
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from jtl.training.events import Cached, Evaluated, Event, Pictured, Stepped
from jtl.training.files import read_lines, write_text
from jtl.training.pictures import confusion_picture
from jtl.training.trackers import About, Tracker, open_trackers

_FLUSH_EVERY = 60.0  # seconds after which an event puts those before it on the disk as well


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
            fields = dict(vars(event))  # `asdict` copies all that it holds, ten times as long
            fields.pop("confusion", None)  # of a thousand classes a million numbers
            self._file.write(json.dumps({"kind": kind, **fields}) + "\n")
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


def import_tensorboard(*unwanted: str) -> None:
    """Imports the writer of TensorBoard's files, without packages that it would bring.

    Args:
        *unwanted: left out unless they are there already; the writer never finds them later.
    """
    with _left_out(*unwanted):
        import tensorboardX.event_file_writer  # noqa: F401


class TensorBoard:
    """TensorBoard event files, written without TensorFlow.

    Events are written by who tells them, all numbers of one in one record: a queue and a thread,
    as `tensorboardX.SummaryWriter` has them, cost a loop of short steps more than the file does.
    """

    def __init__(self, folder: Path, start: int) -> None:
        import_tensorboard("torch")  # for annotations alone, and takes seconds
        from tensorboardX.event_file_writer import EventsWriter
        from tensorboardX.proto.event_pb2 import Event as Written

        self._written = Written
        self._writer = EventsWriter(str(folder / "events"))
        self._flushed = time.monotonic()
        if start:  # what an earlier start wrote beyond it is not to be shown
            self._write(start + 1, session_log={"status": "START"})

    def __call__(self, event: Event) -> None:
        """Writes scalars under `train/`, `val/` and so on, and pictures, by step."""
        if isinstance(event, Stepped | Evaluated):
            prefix = "train" if isinstance(event, Stepped) else event.split
            named = event.metrics.items()
            values = [{"tag": f"{prefix}/{name}", "simple_value": value} for name, value in named]
            self._write(event.step, summary={"value": values})
            if isinstance(event, Evaluated):
                self._flush()
        elif isinstance(event, Pictured):
            from tensorboardX.summary import image

            self._write(event.step, summary=image(event.name, event.image, dataformats="HWC"))
            self._flush()

    def close(self) -> None:
        """Writes what is pending and closes the file."""
        self._writer.close()

    def _write(self, step: int, **fields: Any) -> None:
        self._writer.write_event(self._written(wall_time=time.time(), step=step, **fields))
        if time.monotonic() - self._flushed > _FLUSH_EVERY:
            self._flush()

    def _flush(self) -> None:
        self._writer.flush()
        self._flushed = time.monotonic()


@contextlib.contextmanager
def _left_out(*names: str) -> Iterator[None]:
    """A context in which packages that nobody has imported are not found."""
    modules: dict[str, Any] = sys.modules
    unknown = [name for name in names if name not in modules]
    modules.update(dict.fromkeys(unknown))
    try:
        yield
    finally:
        for name in unknown:
            del modules[name]


class Records:
    """All records of a run, as a context that closes them.

    Args:
        workdir: the run's folder.
        start: the step that it begins with, or goes on from.
        classes: their names, which pictures show.
        about: what trackers outside of the folder are told, and which they are.
    """

    def __init__(
        self, workdir: Path, start: int, classes: Sequence[str] = (), about: About | None = None
    ) -> None:
        self._classes = classes
        self._trackers = open_trackers(workdir, about)
        self._listeners: tuple[JsonLines | TensorBoard | Tracker, ...] = (
            JsonLines(workdir / "metrics.jsonl", start),
            TensorBoard(workdir, start),
            *self._trackers,
        )

    def __call__(self, event: Event) -> None:
        """Passes an event on, and the confusion matrix of an evaluation as a picture."""
        for listener in self._listeners:
            listener(event)
        if isinstance(event, Evaluated) and event.confusion is not None:
            image = confusion_picture(event.confusion, self._classes)
            name = f"{event.split}/confusion"
            self(Pictured(step=event.step, name=name, image=image))

    def __enter__(self) -> "Records":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for tracker in self._trackers:
            tracker.failed = error is not None
        for listener in self._listeners:
            listener.close()
