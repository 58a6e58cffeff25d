"""One chunk of trials, trained: the host's loop, which chooses best steps and stops early."""

import dataclasses
import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jtl.engine.metrics import summarize
from jtl.experiment.options import Config
from jtl.study.vectorised.layout import Course, Entry
from jtl.study.vectorised.numbers import numbers_of
from jtl.study.vectorised.outcome import Evaluation, Outcome
from jtl.study.vectorised.programs import Programs
from jtl.training.saved_steps import Progress
from jtl.training.selection import choose_best, count_patience


@dataclasses.dataclass(kw_only=True)
class _Track:
    """How far one trial came."""

    progress: Progress = dataclasses.field(default_factory=Progress)
    evaluations: list[Evaluation] = dataclasses.field(default_factory=list)
    failure: str | None = None

    @property
    def over(self) -> bool:
        return self.progress.stopped or self.failure is not None


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Chunk:
    """Trials of several orders, as one array of them.

    Attributes:
        programs: what is compiled.
        table: rows of features, on the devices.
        entries: the trials of each order.
        configs: of all trials, by index.
        batch_of: what the batches of some steps of a course hold.
        orders: what each order's trials share, `[orders, ...]`.
        start: the variables they begin with, `[orders, ...]`.
        validation: the batches of validation splits, `[orders, batches, batch]`.
        labels: of all examples.
        max_skipped: steps in a row without a finite gradient before a trial has failed.
    """

    programs: Programs
    table: Any
    entries: Sequence[Entry]
    configs: Sequence[Config]
    batch_of: Callable[[Course, int, int], dict[str, np.ndarray]]
    orders: Any
    start: Any
    validation: Any
    labels: np.ndarray
    max_skipped: int

    def run(self, keep_variables: bool) -> Iterator[tuple[int, Outcome]]:
        """Trains; yields the index of each trial, and its outcome."""
        tracks = [[_Track() for _ in own.trials[: own.count]] for own in self.entries]
        best = self._train(tracks)
        validation = self.programs.put_orders(self.validation)
        logits = np.asarray(self.programs.predict(self.table, validation, best))
        kept = jax.device_get(best) if keep_variables else {}
        for place, entry in enumerate(self.entries):
            for number, track in enumerate(tracks[place]):
                index = entry.trials[number]
                own = logits[place, :, number].reshape(-1, logits.shape[-1])
                val = entry.course.val
                yield (
                    index,
                    Outcome(
                        config=self.configs[index],
                        evaluations=tuple(track.evaluations),
                        best_step=track.progress.best_step or 0,
                        stopped_early=track.progress.stopped,
                        failure=track.failure,
                        examples=val,
                        labels=self.labels[val],
                        logits=own[: len(val)],
                        variables=_at(kept, place, number) if keep_variables else None,
                    ),
                )

    def _train(self, tracks: list[list[_Track]]) -> Any:
        """Trains all phases; the best variables, `[orders, trials, ...]`."""
        programs = self.programs
        orders = programs.put_orders(self.orders)
        start = programs.put_orders(self.start)
        state = programs.begin(orders, start, self._numbers(0))
        best = jax.tree.map(jnp.copy, programs.variables(state))
        width = len(self.entries[0].trials)
        streaks = programs.put_orders((np.zeros((len(tracks), width), np.int32),) * 2)
        validation = programs.put_orders(self.validation)
        for phase in range(programs.phase_count):
            numbers = self._numbers(phase)
            if phase:
                state = programs.succeed[phase](orders, start, numbers, state)
                self._enter(phase, tracks)
            for turn in itertools.count():
                segments = [own.course.segment(phase, turn) for own in self.entries]
                lengths = [stop - start for start, stop in segments]
                if not any(lengths) or all(own.over for row in tracks for own in row):
                    break
                columns = self._columns(segments)
                state, streaks = programs.advance[phase](
                    self.table, columns, orders, numbers, (state, streaks), np.int32(max(lengths))
                )
                sums = jax.device_get(programs.evaluate(self.table, validation, state))
                better = self._judge(tracks, segments, sums, np.asarray(streaks[1]), phase)
                best = programs.keep(best, programs.variables(state), programs.put_orders(better))
        return best

    def _numbers(self, phase: int) -> Any:
        rows = []
        for entry in self.entries:
            option = entry.course.timetable.stretches[phase].option
            own = [numbers_of(self.configs[index], option) for index in entry.trials]
            rows.append({name: [each[name] for each in own] for name in own[0]})
        stacked = {name: np.array([row[name] for row in rows], np.float32) for name in rows[0]}
        return self.programs.put_orders(stacked)

    def _columns(self, segments: Sequence[tuple[int, int]]) -> Any:
        rows = [
            self.batch_of(own.course, start, stop)
            for own, (start, stop) in zip(self.entries, segments)
        ]
        stacked = {name: np.stack([row[name] for row in rows]) for name in rows[0]}
        return self.programs.put_orders(stacked)

    def _enter(self, phase: int, tracks: list[list[_Track]]) -> None:
        """Patience begins to count anew with each phase of the options."""
        for entry, row in zip(self.entries, tracks):
            before, now = entry.course.timetable.stretches[phase - 1 : phase + 1]
            if before.option != now.option:
                for track in row:
                    if not track.over:
                        track.progress = dataclasses.replace(
                            track.progress, patience_value=None, stale=0
                        )

    def _judge(
        self,
        tracks: list[list[_Track]],
        segments: Sequence[tuple[int, int]],
        sums: Any,
        streaks: np.ndarray,
        phase: int,
    ) -> np.ndarray:
        """Notes an evaluation of each trial that is not over; bool, whose step is its best."""
        better = np.zeros(streaks.shape, bool)
        for place, (start, stop) in enumerate(segments):
            for number, track in enumerate(tracks[place]):
                if start == stop or track.over:
                    continue
                config = self.configs[self.entries[place].trials[number]]
                if streaks[place, number] >= self.max_skipped:
                    track.failure = (
                        f"diverged: {self.max_skipped} steps in a row without a finite loss and "
                        f"gradient before step {stop}"
                    )
                    continue
                own = {name: value[place, number] for name, value in sums.items()}
                metrics = summarize(own)
                track.progress = _judged(track.progress, metrics, config, stop, phase)
                track.evaluations.append(Evaluation(step=stop, metrics=metrics))
                better[place, number] = track.progress.best_step == stop
        return better


def _at(tree: Any, *place: int) -> Any:
    return jax.tree.map(lambda leaf: leaf[place], tree)


def _judged(
    progress: Progress, metrics: dict[str, float], config: Config, step: int, phase: int
) -> Progress:
    train = config.train
    progress = dataclasses.replace(progress, step=step, phase=phase)
    progress, _ = choose_best(progress, metrics, train.monitor)
    if train.early_stopping is not None:
        progress = count_patience(progress, metrics, train.early_stopping, train.monitor)
    return progress
