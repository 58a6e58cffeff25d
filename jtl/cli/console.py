"""What the terminal shows of a run that goes on: its start, a bar, or plain lines."""

from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table

from jtl.engine.freeze import stage_table
from jtl.experiment.setup import Setup
from jtl.training.events import (
    Began,
    Cached,
    Evaluated,
    Event,
    Recovered,
    Stepped,
    Unsaved,
    Waiting,
)
from jtl.training.together import is_first
from jtl.tree import count

_PIPED_WIDTH = 120
_COLUMNS = 3  # phases that fit side by side


def make_console() -> Console:
    """Standard output: colours and bars on a terminal, plain lines in a file or a pipe.

    Of several processes the first alone prints.
    """
    console = Console(highlight=False, markup=False, quiet=not is_first())
    if not console.is_terminal:
        console.width = _PIPED_WIDTH
    return console


def announce(console: Console, setup: Setup) -> None:
    """Prints what was loaded, what it is trained on, and what each phase freezes."""
    pretrained, examples, config = setup.pretrained, setup.examples, setup.config
    console.print(f"run      {config.name}, seed {config.seed}, in {setup.kept}")
    console.print(f"model    {pretrained.ledger.summary()}")
    sizes = ", ".join(f"{len(own)} {name}" for name, own in examples.splits.items() if len(own))
    classes = len(examples.source.classes)
    console.print(f"data     {config.data.source}: {classes} classes; {sizes}")
    devices = f"{len(setup.place.devices)} × {setup.place.devices[0].device_kind}"
    console.print(f"devices  {devices}, batches of {config.data.batch_size}")
    many = len(setup.phases) > _COLUMNS
    console.print(_phase_list(setup) if many else _phase_table(setup))


def _phase_table(setup: Setup) -> Table:
    params, stages = setup.pretrained.variables["params"], setup.pretrained.model.stages
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("stage")
    table.add_column("parameters", justify="right")
    columns = []
    for index, phase in enumerate(setup.phases, 1):
        table.add_column(f"phase {index}: steps {phase.start}-{phase.stop}")
        columns.append(stage_table(params, phase.labels, stages))
    for rows in zip(*columns):
        row = rows[0]
        table.add_row(row.stage, f"{row.parameters:,}", *(_status(own) for own in rows))
    trained = (sum(row.parameters - row.frozen for row in rows) for rows in columns)
    table.add_row("total", f"{count(params):,}", *(f"{n:,} trained" for n in trained))
    return table


def _phase_list(setup: Setup) -> Table:
    params, stages = setup.pretrained.variables["params"], setup.pretrained.model.stages
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("phase", "steps", "trained"):
        table.add_column(name, justify="right")
    table.add_column("stages that are trained")
    for index, phase in enumerate(setup.phases, 1):
        rows = stage_table(params, phase.labels, stages)
        trained = sum(row.parameters - row.frozen for row in rows)
        names = [row.stage + ("" if not row.frozen else " in part") for row in rows
                 if row.frozen < row.parameters]  # fmt: skip
        steps = f"{phase.start}-{phase.stop}"
        table.add_row(str(index), steps, f"{trained:,}", ", ".join(names))
    return table


def _status(row: Any) -> str:
    if row.frozen == 0:
        return "trained"
    return "frozen" if row.frozen == row.parameters else f"{row.frozen:,} frozen"


class Live:
    """Listens to a run: a bar on a terminal, and a line for each evaluation everywhere."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._bar: Progress | None = None
        self._task = TaskID(0)
        self._last: Stepped | None = None
        self._refused: set[str] = set()

    def __enter__(self) -> "Live":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def __call__(self, event: Event) -> None:
        """Shows an event."""
        if isinstance(event, Began):
            self._begin(event)
        elif isinstance(event, Stepped):
            self._last = event
            if self._bar is not None:
                self._bar.update(self._task, completed=event.step, text=_pace(event))
        elif isinstance(event, Evaluated):
            self._console.print(self._line(event))
        elif isinstance(event, Recovered):
            for note in event.notes:
                self._console.print(f"damaged  {note}")
        elif isinstance(event, Waiting):
            self._console.print(f"waiting  {event.note}")
        elif isinstance(event, Unsaved):
            self._console.print(f"unsaved  {event.note}")
        elif isinstance(event, Cached) and (event.where or event.note not in self._refused):
            # A reason that holds for several phases is said once.
            self._refused.add(event.note)
            self._console.print(f"cache    {describe_cache(event)}")

    def _begin(self, event: Began) -> None:
        if event.step == event.steps:
            self._console.print(f"complete at step {event.step}; nothing is left to train")
        elif event.step:
            self._console.print(f"resumed  at step {event.step} of {event.steps}")
        if self._console.is_terminal:
            columns = (BarColumn(), TextColumn("{task.percentage:>3.0f}% {task.fields[text]}"))
            self._bar = Progress(*columns, TimeRemainingColumn(), console=self._console)
            self._task = self._bar.add_task("", total=event.steps, completed=event.step, text="")
            self._bar.start()

    def _line(self, event: Evaluated) -> str:
        train = f"train loss {self._last.metrics['loss']:.3f}, " if self._last else ""
        speed = f", {self._last.images_per_second:,.0f} images/s" if self._last else ""
        metrics = event.metrics
        return (
            f"epoch {event.epoch:5.1f}  phase {event.phase + 1}  {train}{event.split} loss "
            f"{metrics['loss']:.3f}, accuracy {metrics['accuracy']:.4f}{speed}"
            f"{'  best' if event.best else ''}"
        )


_KEPT = {"device": "on the device", "host": "in main memory", "file": "in a file"}


def describe_cache(event: Cached) -> str:
    """What a phase computes once and what that saves, or why it does not."""
    if event.where is None:
        return f"none in phase {event.phase + 1}: {event.note}"
    first, last = event.stages[0], event.stages[-1]
    stages = first if first == last else f"{first}..{last}"
    views = f"{event.views} view{'s' if event.views > 1 else ''}"
    saves = f"; each later epoch saves {event.share:.1%} of the forward" if event.share else ""
    return (
        f"{stages} computed once for {event.examples:,} images × {views}, "
        f"{event.bytes / 1e6:,.1f} MB {_KEPT[event.where]}{saves}"
        f"{f' ({event.note})' if event.note else ''}"
    )


def _pace(event: Stepped) -> str:
    metrics = event.metrics
    return (
        f"loss {metrics['loss']:.3f}  accuracy {metrics['accuracy']:.3f}  "
        f"{event.images_per_second:,.0f} images/s"
    )
