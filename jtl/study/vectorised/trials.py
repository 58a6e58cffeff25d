"""Trials trained together: which may be, and the host's side of training them."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax

from jtl.data.sources.protocol import Source
from jtl.engine.boundary import find_boundary
from jtl.errors import ConfigError
from jtl.experiment.options import Config
from jtl.experiment.setup import set_up
from jtl.study.vectorised.layout import Course
from jtl.study.vectorised.numbers import shape_of
from jtl.study.vectorised.outcome import Outcome
from jtl.study.vectorised.shape import Shape
from jtl.training.cache.plan import varies

Tell = Callable[[int, int], None]


def train_together(
    configs: Sequence[Config],
    *,
    source: Source | None = None,
    folder: Path | None = None,
    keep_variables: bool = False,
    tell: Tell | None = None,
) -> tuple[Outcome, ...]:
    """Trains each config as `jtl train` would, all of them together.

    Trials that differ in numbers only, such as rates, decays, dropout, smoothing, seeds and
    folds, run in one compiled program; those that differ in shape in one program a shape. No
    folder is made, and test splits are not looked at.

    Args:
        configs: one a trial, of the same data.
        source: the examples, in place of those that the configs name.
        folder: a study's own, for the note of examples that cannot be read.
        keep_variables: whether outcomes hold the parameters that were trained.
        tell: hears how many of how many trials are done.

    Raises:
        ConfigError: a config cannot be trained so; see `Trials.refusal`.
        DataError: the examples cannot be used.
        WeightsError: the weights cannot be loaded.
    """
    trials = Trials(source=source, folder=folder)
    return trials.run(configs, keep_variables=keep_variables, tell=tell)


class Trials:
    """Trains batch after batch of trials, with features and programs made once.

    Args:
        source: the examples, in place of those that configs name.
        folder: a study's own, for the note of examples that cannot be read.
        devices: to spread trials over; all of this process's by default.
        at_once: how many trials a device takes at once; by its memory where None.
        convolutions: whether trials that train convolutions are taken, one after the other in
            one program; None takes them but on CPUs, which are slow at that.
    """

    def __init__(
        self,
        *,
        source: Source | None = None,
        folder: Path | None = None,
        devices: Sequence[jax.Device] | None = None,
        at_once: int | None = None,
        convolutions: bool | None = None,
    ) -> None:
        self._source, self._folder = source, folder or Path("runs") / "trials"
        self._devices = tuple(devices or jax.local_devices())
        self._at_once = at_once
        on_cpus = self._devices[0].platform == "cpu"
        self._convolutions = not on_cpus if convolutions is None else convolutions
        self._shapes: dict[str, Shape | str] = {}

    def refusal(self, config: Config) -> str | None:
        """Why a config cannot be trained together with others; None where it can be.

        Raises:
            JtlError: as `jtl.experiment.train` does of a config that cannot be trained at all.
        """
        shape = self._shape(config)
        return shape if isinstance(shape, str) else None

    def run(
        self,
        configs: Sequence[Config],
        *,
        keep_variables: bool = False,
        tell: Tell | None = None,
    ) -> tuple[Outcome, ...]:
        """Trains each config; see `train_together`."""
        groups: dict[tuple[int, Any], list[int]] = {}
        courses: list[Course] = []
        for index, config in enumerate(configs):
            shape = self._shape(config)
            if isinstance(shape, str):
                raise ConfigError(f"this config cannot be trained together with others: {shape}.")
            courses.append(shape.course(config))
            structure = courses[-1].timetable.structure
            groups.setdefault((id(shape), structure), []).append(index)
        outcomes: dict[int, Outcome] = {}
        for members in groups.values():
            shape = self._shape(configs[members[0]])
            assert not isinstance(shape, str)
            own = [configs[index] for index in members]
            for place, outcome in shape.run(own, [courses[i] for i in members], keep_variables):
                outcomes[members[place]] = outcome
                if tell is not None:
                    tell(len(outcomes), len(configs))
        return tuple(outcomes[index] for index in range(len(configs)))

    def _shape(self, config: Config) -> Shape | str:
        key = shape_of(config)
        if key not in self._shapes:
            self._shapes[key] = self._look(config)
        return self._shapes[key]

    def _look(self, config: Config) -> Shape | str:
        if jax.process_count() > 1:
            return "several processes train together"
        if varies(config.augment) or config.augment.mixup or config.augment.cutmix:
            return "training images are varied"
        setup = set_up(config, self._folder, self._source)
        if not len(setup.examples.splits["val"]):
            return "nothing validates them; set data.split.val above 0"
        if setup.place.batch_parts > 1 and not config.train.global_batch_norm:
            return "train.global_batch_norm is off, so that results depend on the devices"
        found = [
            find_boundary(own.step, own.labels, setup.pretrained.variables["batch_stats"])
            for own in setup.phases
        ]
        bounds = [own for own in found if own is not None]
        if len(bounds) < len(found):
            return "no leading part stays frozen in all phases"
        boundary = min(bounds, key=lambda own: len(own.stages))
        rest = boundary.rest(setup.pretrained.variables)["params"]
        if not self._convolutions and any(leaf.ndim > 2 for leaf in jax.tree.leaves(rest)):
            return "convolutions are trained, which is faster one by one on a CPU"
        return Shape(setup, boundary, self._devices, self._at_once)
