"""The loop: phase by phase, step by step, with evaluation, the best kept, and exact resume."""

import contextlib
import dataclasses
import time
from collections.abc import Sequence
from typing import Any, Literal

from jtl.data.pipeline import TrainOrder
from jtl.engine.parallel import Placement
from jtl.engine.state import TrainState
from jtl.errors import CheckpointError, PreemptedError, TakenOverError
from jtl.training.audit import check_frozen, frozen_digests, frozen_leaves
from jtl.training.compilations import Compilations
from jtl.training.events import Began, Evaluated, Event, Listener, Taken, Unsaved
from jtl.training.feed import Feed
from jtl.training.frozen_store import Digests
from jtl.training.garbage import rare_collections
from jtl.training.pace import Pace, Watch
from jtl.training.phases import Phase, evaluation_steps
from jtl.training.preemption import Stop, never
from jtl.training.saved_steps import Progress, abstract
from jtl.training.selection import EarlyStoppingOptions, choose_best, count_patience
from jtl.training.shared_checkpoints import Store
from jtl.training.snapshot import Snapshots


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Outcome:
    """What became of a run.

    Attributes:
        state: the last one, plain.
        progress: how far it came, and which step was best.
        compilations: how many programs each phase's steps had to be compiled to, in this process.
        waited: the share of the time of training that the loop waited for data, in [0, 1].
    """

    state: TrainState
    progress: Progress
    compilations: tuple[int, ...]
    waited: float


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Loop:
    """Everything that training takes, assembled.

    Attributes:
        phases: in order.
        order: turns steps into epochs.
        feed: where placed batches come from, and what validates.
        place: where steps run.
        checkpoints: where states are saved.
        monitor: the metric that chooses the best step, or None for the last.
        early_stopping: when the run ends before its time, or None.
        listeners: who hears of what happens.
        evaluate_every: epochs between two evaluations and checkpoints.
        log_every: steps between two records.
        max_skipped: steps in a row without a finite loss and gradient before the run stops.
        ema: whether running means are kept, and are what is evaluated.
        loss_scale: whether the loss is scaled, for float16.
        stop: says after which step the run is to save and end, and why.
        save_every: steps between two checkpoints beside those that follow evaluations, or None.
        on_failure: whether a save that fails ends the run, or is told.
    """

    phases: Sequence[Phase]
    order: TrainOrder
    feed: Feed
    place: Placement
    checkpoints: Store
    monitor: str | None
    listeners: Sequence[Listener]
    evaluate_every: float
    log_every: int
    early_stopping: EarlyStoppingOptions | None = None
    max_skipped: int = 10
    ema: bool = False
    loss_scale: bool = False
    stop: Stop = never
    save_every: int | None = None
    on_failure: Literal["stop", "continue"] = "stop"

    def run(self, variables: Any, seed: int) -> Outcome:
        """Trains from these variables, or from the newest checkpoint.

        Args:
            variables: the start, `{"params": ..., "batch_stats": ...}`.
            seed: of every random stream.

        Raises:
            ConfigError: the loss or its gradient was not finite for too long.
            DataError: the loss of the first batch is not finite, or a label is no class.
            PreemptedError: the run was asked to stop, and is saved.
            CheckpointError: a checkpoint could not be saved; those before it stand.
        """
        with rare_collections():
            return self._run(variables, seed)

    def _run(self, variables: Any, seed: int) -> Outcome:
        progress = self.checkpoints.progress() or Progress()
        self._tell(Began(step=progress.step, steps=self.phases[-1].stop))
        first = self.phases[progress.phase]
        state = TrainState.create(
            variables, first.tx, rng=seed, ema=self.ema, loss_scale=self.loss_scale
        )
        if progress.step:
            state = self.checkpoints.restore(progress.step, abstract(state))
        compiled, watch = [], Watch()
        for index, phase in enumerate(self.phases):
            left = phase.stop > progress.step or (progress.due and index == progress.phase)
            if progress.stopped or not left:
                compiled.append(0)
                continue
            if index > progress.phase:
                state = state.succeeded_by(phase.tx, keep_optimizer=phase.continues)
                if phase.option != self.phases[progress.phase].option:
                    progress = dataclasses.replace(progress, patience_value=None, stale=0)
            state, progress, count = self._train(index, state, progress, watch)
            compiled.append(count)
        self.feed.close()
        return Outcome(
            state=state, progress=progress, compilations=tuple(compiled), waited=watch.share
        )

    def _train(
        self, index: int, state: TrainState, progress: Progress, watch: Watch
    ) -> tuple[TrainState, Progress, int]:
        phase, programs = self.phases[index], 0
        snapshots = Snapshots(self.place, frozen_leaves(state.variables, (phase,)))
        frozen = frozen_digests(state.variables, phase)
        # What no phase so far has trained is stored once for all of their steps.
        never = frozen_leaves(state.variables, self.phases[: index + 1])
        shared = {path: frozen[path] for path in never}
        began = time.monotonic() - progress.seconds
        tail = self.feed.enter(index, state)
        compiled = self.place.compile(phase.step if tail is None else tail)
        running = self.place.put_state(state if tail is None else tail.cut(state))
        pace = self._pace(index, progress)
        stops = evaluation_steps(phase, self.order, self.evaluate_every)
        with (
            Compilations() as compilations,
            contextlib.closing(self.feed.batches(index, progress.step, phase.stop)) as batches,
        ):

            def take(step: int) -> None:
                nonlocal running, programs
                with watch.waiting():
                    batch = next(batches)
                self._tell(Taken(step=step, batch=batch))
                before = compilations.count
                running, metrics = compiled(running, batch)
                programs += compilations.count - before
                pace.stepped(step, metrics)

            def settle(step: int, *, due: bool = False, whole: bool = False) -> None:
                nonlocal state, progress
                plain = snapshots(running, whole=whole)
                state = plain if tail is None else tail.whole(plain, state)
                seconds = time.monotonic() - began
                progress = dataclasses.replace(
                    progress, step=step, phase=index, seconds=seconds, skipped=pace.skipped, due=due
                )

            for stop in _remaining(stops, progress):
                watch.start()
                for step in range(progress.step + 1, stop + 1):
                    take(step)
                    reason = self.stop(step)
                    if reason or (step < stop and self._saves(step)):
                        pace.flush() if step == stop else pace.settle()
                        settle(step, due=step == stop)
                        progress = self._save(state, progress, shared)
                    if reason:
                        self._end(step, reason)
                pace.flush()
                watch.stop()
                progress = dataclasses.replace(progress, step=stop, phase=index)
                progress = self._evaluate(running, progress)
                ends = stop == phase.stop or progress.stopped
                settle(stop, whole=ends)
                if ends:
                    check_frozen(frozen, state.variables, phase)
                progress = self._save(state, progress, shared)
                if reason := self.stop(stop):
                    self._end(stop, reason)
                if progress.stopped:
                    break
                pace.restart()
        return state, progress, programs

    def _saves(self, step: int) -> bool:
        return self.save_every is not None and step % self.save_every == 0

    def _save(self, state: TrainState, progress: Progress, shared: Digests) -> Progress:
        """Saves, and says what to go on with where the save before it is lost."""
        try:
            self.checkpoints.wait()
        except CheckpointError as error:
            if self.on_failure == "stop" or isinstance(error, TakenOverError):
                raise
            self._tell(Unsaved(step=progress.step, note=str(error)))
            best = progress.best_step
            if best not in (None, progress.step) and not self.checkpoints.has(best):
                progress = dataclasses.replace(progress, best_step=None, best_value=None)
        self.checkpoints.save(state, progress, shared)
        return progress

    def _end(self, step: int, reason: str) -> None:
        self.checkpoints.wait()
        raise PreemptedError(f"stopped by {reason}; step {step} is saved, go on with --resume.")

    def _pace(self, index: int, progress: Progress) -> Pace:
        return Pace(
            self.phases[index],
            index,
            order=self.order,
            start=progress.step,
            skipped=progress.skipped,
            last=self.phases[-1].stop,
            log_every=self.log_every,
            max_skipped=self.max_skipped,
            tell=self._tell,
        )

    def _evaluate(self, running: TrainState, progress: Progress) -> Progress:
        variables = running.ema_variables if self.ema else running.variables
        found = self.feed.validate(progress.phase, variables)
        if found is None:
            return dataclasses.replace(progress, best_step=progress.step)
        metrics = found.metrics
        progress, better = choose_best(progress, metrics, self.monitor)
        if self.early_stopping is not None:
            progress = count_patience(progress, metrics, self.early_stopping, self.monitor)
        event = Evaluated(
            step=progress.step,
            epoch=self.order.epoch(progress.step),
            phase=progress.phase,
            split="val",
            metrics=metrics,
            best=better,
            confusion=found.confusion,
        )
        self._tell(event)
        return progress

    def _tell(self, event: Event) -> None:
        for listener in self.listeners:
            listener(event)


def _remaining(stops: Sequence[int], progress: Progress) -> list[int]:
    """The steps to stop at that are still to come, with one that was left before it was done."""
    return [s for s in stops if s > progress.step or (progress.due and s == progress.step)]
