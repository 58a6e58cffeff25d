"""When a trial takes which step: its phases, its validations and the course of its rates."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jtl.data.pipeline import TrainOrder
from jtl.experiment.options import Config
from jtl.study.vectorised.numbers import length_of
from jtl.training.phases import evaluation_steps, make_phases


@dataclasses.dataclass(frozen=True, kw_only=True)
class Stretch:
    """One phase as trials go through it.

    Attributes:
        option: the index of the phase's options.
        freeze: what it freezes.
        continues: whether the optimizer's state goes on from the stretch before.
        stops: the steps after which trials are validated, its end among them.
    """

    option: int
    freeze: Any
    continues: bool
    stops: tuple[int, ...]


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Timetable:
    """The steps of a trial.

    Attributes:
        stretches: in order, from step 0.
        course: float `[steps]`, the learning rate as a share of the phase's `schedule.rate`.
    """

    stretches: tuple[Stretch, ...]
    course: np.ndarray

    @property
    def structure(self) -> tuple[Any, ...]:
        """What programs depend on: trials that share them may differ in their steps."""
        return tuple((own.option, own.freeze, own.continues) for own in self.stretches)


class Timetables:
    """The timetables of one network's trials, each made once.

    Args:
        model: the network.
        params: its parameters, or their shapes.
    """

    def __init__(self, model: Any, params: Any) -> None:
        self._model, self._params = model, params
        self._known: dict[tuple[str, int, int], Timetable] = {}

    def of(self, config: Config, order: TrainOrder) -> Timetable:
        """The timetable of a trial with this order of training."""
        train = length_of(config.train)
        key = (repr(train), len(order.indices), order.batch_size)
        if key not in self._known:
            phases = make_phases(train, self._model, self._params, order, None)
            stretches, courses = [], []
            for phase in phases:
                stops = tuple(evaluation_steps(phase, order, train.evaluate_every))
                stretches.append(
                    Stretch(
                        option=phase.option,
                        freeze=phase.freeze,
                        continues=phase.continues,
                        stops=stops,
                    )
                )
                steps = jnp.arange(phase.start, phase.stop)
                courses.append(np.asarray(jax.vmap(phase.rate)(steps), np.float32))
            # Every schedule is its peak times a course that does not depend on it.
            self._known[key] = Timetable(stretches=tuple(stretches), course=np.concatenate(courses))
        return self._known[key]
