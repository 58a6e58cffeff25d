"""The loop: phase by phase, step by step, with evaluation, the best kept, and exact resume."""

import dataclasses
import math
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax

from jtl.data.pipeline import TrainOrder
from jtl.data.sources import Arrays
from jtl.engine.parallel import Placement
from jtl.engine.state import TrainState
from jtl.errors import ConfigError
from jtl.training.checkpoint import Checkpoints, Progress, abstract
from jtl.training.events import Began, Evaluated, Event, Listener, Stepped
from jtl.training.phases import Phase, evaluation_steps

Evaluate = Callable[[Any], dict[str, float]]

_LOWER_IS_BETTER = ("loss", "ece")
_SKIPS_IN_A_ROW = 10


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Loop:
    """Everything that training takes, assembled.

    Attributes:
        phases: in order.
        order: which examples each step takes.
        batches: the batches of steps `start` to `stop`.
        place: where steps run.
        checkpoints: where states are saved.
        validate: metrics of the validation split for variables on the devices, or None.
        monitor: the metric that chooses the best step, or None for the last.
        listeners: who hears of what happens.
        evaluate_every: epochs between two evaluations and checkpoints.
        log_every: steps between two records.
    """

    phases: Sequence[Phase]
    order: TrainOrder
    batches: Callable[[int, int], Iterator[Arrays]]
    place: Placement
    checkpoints: Checkpoints
    validate: Evaluate | None
    monitor: str | None
    listeners: Sequence[Listener]
    evaluate_every: float
    log_every: int

    def run(self, variables: Any, seed: int) -> tuple[TrainState, Progress]:
        """Trains from these variables, or from the newest checkpoint.

        Args:
            variables: the start, `{"params": ..., "batch_stats": ...}`.
            seed: of every random stream.

        Returns:
            The last state, plain, and what became of the run.
        """
        progress = self.checkpoints.progress() or Progress()
        self._tell(Began(step=progress.step, steps=self.phases[-1].stop))
        state = self._enter(self.phases[progress.phase], variables, seed, at=0)
        if progress.step:
            state = self.checkpoints.restore(progress.step, abstract(state))
        batches = self.batches(progress.step, self.phases[-1].stop)
        for index, phase in enumerate(self.phases):
            if phase.stop <= progress.step:
                continue
            if index > progress.phase:
                state = self._enter(phase, state.variables, seed, at=progress.step)
            state, progress = self._train(index, state, progress, batches)
        return state, progress

    def _enter(self, phase: Phase, variables: Any, seed: int, *, at: int) -> TrainState:
        state = TrainState.create(variables, phase.tx, rng=seed)
        return dataclasses.replace(state, step=state.step + at)

    def _train(
        self, index: int, state: TrainState, progress: Progress, batches: Iterator[Arrays]
    ) -> tuple[TrainState, Progress]:
        phase = self.phases[index]
        compiled, running = self.place.compile(phase.step), self.place.put_state(state)
        pace = _Pace(self, index, progress.step)
        began = time.monotonic() - progress.seconds
        stops = evaluation_steps(phase, self.order, self.evaluate_every)
        ahead = [stop for stop in stops if stop > progress.step]
        for stop in ahead:
            for step in range(progress.step, stop):
                running, metrics = compiled(running, self.place.put_batch(next(batches)))
                pace.stepped(step + 1, metrics)
            pace.flush()
            seconds = time.monotonic() - began
            progress = dataclasses.replace(progress, step=stop, phase=index, seconds=seconds)
            progress = self._evaluate(running, progress)
            state = self.place.get_state(running)
            self.checkpoints.save(state, progress)
            pace.restart()
        return state, progress

    def _evaluate(self, running: TrainState, progress: Progress) -> Progress:
        if self.validate is None:
            return dataclasses.replace(progress, best_step=progress.step)
        metrics = self.validate(running.variables)
        progress, better = self._choose(metrics, progress)
        event = Evaluated(
            step=progress.step,
            epoch=self.order.epoch(progress.step),
            phase=progress.phase,
            split="val",
            metrics=metrics,
            best=better,
        )
        self._tell(event)
        return progress

    def _choose(self, metrics: dict[str, float], progress: Progress) -> tuple[Progress, bool]:
        if self.monitor is None:
            return dataclasses.replace(progress, best_step=progress.step), False
        if self.monitor not in metrics:
            raise ConfigError(
                f"train.monitor={self.monitor!r} is never reported; choose one of "
                f"{', '.join(metrics)}."
            )
        value, before = metrics[self.monitor], progress.best_value
        sign = -1 if self.monitor in _LOWER_IS_BETTER else 1
        # A NaN is better than nothing in no comparison, so it is never chosen.
        better = not math.isnan(value) and (before is None or sign * value > sign * before)
        if not better:
            return progress, False
        return dataclasses.replace(progress, best_step=progress.step, best_value=value), True

    def _tell(self, event: Event) -> None:
        for listener in self.listeners:
            listener(event)


class _Pace:
    """Reads metrics one step late, measures speed, and stops a run that only skips."""

    def __init__(self, loop: Loop, index: int, step: int) -> None:
        self._loop, self._index = loop, index
        self._pending: tuple[int, Any] | None = None
        self._skipped = 0
        self._step, self._time = step, time.monotonic()
        self._reported, self._compiling = step, True

    def stepped(self, step: int, metrics: Any) -> None:
        """Takes a step's metrics, still on the device, and reads the step's before."""
        previous, self._pending = self._pending, (step, metrics)
        if previous is not None and previous[0] % self._loop.log_every == 0:
            self._report(*previous)

    def flush(self) -> None:
        """Reads the last step's metrics."""
        if self._pending is not None:
            self._report(*self._pending)
            self._pending = None

    def restart(self) -> None:
        """Measures the speed from here on, after an evaluation."""
        self._step, self._time = self._reported, time.monotonic()

    def _report(self, step: int, metrics: Any) -> None:
        loop, phase = self._loop, self._loop.phases[self._index]
        self._reported = step
        host = {name: float(value) for name, value in jax.device_get(metrics).items()}
        host["rate"] = float(phase.rate(step - 1 - phase.start))
        self._check(step, host)
        now = time.monotonic()
        speed = (step - self._step) / max(now - self._time, 1e-9)
        if self._compiling:
            self._compiling, self._step, self._time = False, step, now
        event = Stepped(
            step=step,
            epoch=loop.order.epoch(step),
            phase=self._index,
            metrics=host,
            images_per_second=speed * loop.order.batch_size,
            seconds_left=(loop.phases[-1].stop - step) / max(speed, 1e-9),
        )
        loop._tell(event)

    def _check(self, step: int, metrics: dict[str, float]) -> None:
        self._skipped = self._skipped + 1 if metrics["skipped"] else 0
        if self._skipped >= _SKIPS_IN_A_ROW:
            raise ConfigError(
                f"the loss or its gradient was not finite at {_SKIPS_IN_A_ROW} reported steps in "
                f"a row, the last is step {step}; lower train.phases[{self._index}].schedule.rate "
                "or set its optimizer.clip_norm. The last good checkpoint is kept."
            )
