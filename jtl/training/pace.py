"""The loop's watch: metrics read a step late, speed, and the stop of a run that only skips."""

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np

from jtl.data.pipeline import TrainOrder
from jtl.errors import DataError, DivergedError
from jtl.training.events import Stepped
from jtl.training.phases import Phase


class Watch:
    """Measures how long the loop trains, and how much of that it waits for data."""

    def __init__(self) -> None:
        self._trained, self._waited, self._since = 0.0, 0.0, 0.0

    def start(self) -> None:
        """Begins, or goes on after an evaluation."""
        self._since = time.monotonic()

    def stop(self) -> None:
        """Leaves out what follows."""
        self._trained += time.monotonic() - self._since

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """Counts what is inside as waiting."""
        since = time.monotonic()
        yield
        self._waited += time.monotonic() - since

    @property
    def share(self) -> float:
        """What was waited, of what was trained, in [0, 1]; 0 where nothing was."""
        return self._waited / self._trained if self._trained else 0.0


class Pace:
    """Takes the metrics of one phase's steps and reports some of them, never waiting.

    Args:
        phase: whose steps they are.
        index: its place among the phases.
        order: turns steps into epochs.
        start: the step that it begins at, or goes on from.
        skipped: steps in a row up to there without a finite loss and gradient.
        last: the last step of the run.
        log_every: steps between two reports.
        max_skipped: steps in a row without a finite loss and gradient that are borne.
        tell: hears of reported steps.
    """

    def __init__(
        self,
        phase: Phase,
        index: int,
        *,
        order: TrainOrder,
        start: int,
        skipped: int,
        last: int,
        log_every: int,
        max_skipped: int,
        tell: Callable[[Stepped], None],
    ) -> None:
        self._phase, self._index, self._order, self._tell = phase, index, order, tell
        self._last, self._log_every, self._max_skipped = last, log_every, max_skipped
        self._pending: list[tuple[int, Any]] = []
        self.skipped = skipped
        self._step, self._time = start, time.monotonic()
        self._reported, self._compiling = start, True
        # As one program: taken operation by operation, a schedule costs more than a small step.
        self._rate = jax.jit(phase.rate)

    def stepped(self, step: int, metrics: Any) -> None:
        """Takes a step's metrics, still on the device; earlier ones may be read."""
        previous = self._pending[-1][0] if self._pending else None
        if previous is not None and (previous % self._log_every == 0 or previous == 1):
            self._read(report=previous % self._log_every == 0)
        self._pending.append((step, metrics))

    def flush(self) -> None:
        """Reads all that was taken, and reports the last step."""
        if self._pending:
            self._read(report=True)

    def settle(self) -> None:
        """Reads all that was taken, and reports only what is reported anyway."""
        if self._pending:
            self._read(report=self._pending[-1][0] % self._log_every == 0)

    def restart(self) -> None:
        """Measures the speed from here on, after an evaluation."""
        self._step, self._time = self._reported, time.monotonic()

    def _read(self, *, report: bool) -> None:
        pending, self._pending = self._pending, []
        step, metrics = pending[-1]
        host = {name: float(value) for name, value in jax.device_get(metrics).items()}
        skipped = bool(host["skipped"])
        if skipped or self.skipped or len(pending) > self._max_skipped:
            # In one call, which begins every transfer before it waits for the first.
            earlier = jax.device_get([own["skipped"] for _, own in pending[:-1]])
            for (own, _), missed in zip(pending[:-1], earlier, strict=True):
                self._count(own, bool(missed), host)
        # Otherwise no row of skipped steps can have been too long, whatever those before did.
        self._count(step, skipped, host)
        if report:
            self._report(step, host)

    def _report(self, step: int, host: dict[str, float]) -> None:
        self._reported = step
        host["rate"] = float(self._rate(np.int32(step - 1)))
        now = time.monotonic()
        speed = (step - self._step) / max(now - self._time, 1e-9)
        if self._compiling:
            self._compiling, self._step, self._time = False, step, now
        event = Stepped(
            step=step,
            epoch=self._order.epoch(step),
            phase=self._index,
            metrics=host,
            images_per_second=speed * self._order.batch_size,
            seconds_left=(self._last - step) / max(speed, 1e-9),
        )
        self._tell(event)

    def _count(self, step: int, missed: bool, host: dict[str, float]) -> None:
        if step == 1 and not np.isfinite(host["loss"]):
            raise DataError(
                f"the loss of the first batch is {host['loss']}: its images hold what is not a "
                "number, or the weights do. Look at the data, and at the weights with "
                "jtl weights inspect."
            )
        self.skipped = self.skipped + 1 if missed else 0
        if self.skipped >= self._max_skipped:
            raise DivergedError(
                f"the loss or its gradient was not finite at {self.skipped} steps in a row, the "
                f"last is step {step}; lower train.phases[{self._phase.option}].schedule.rate or "
                "set its optimizer.clip_norm. The last good checkpoint is kept."
            )
