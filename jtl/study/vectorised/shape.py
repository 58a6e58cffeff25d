"""All that trials of one shape share: features, splits, batches, timetables and programs."""

from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jtl.data.pipeline import TrainOrder
from jtl.data.splits import Splits
from jtl.engine.boundary import Boundary
from jtl.experiment.assemble import make_evaluator, make_model, splits_of
from jtl.experiment.options import Config
from jtl.experiment.setup import Setup
from jtl.rng import base_key
from jtl.study.vectorised.chunk import Chunk
from jtl.study.vectorised.features import Features
from jtl.study.vectorised.layout import Course, Entry, Extent, extent_of, lay_out
from jtl.study.vectorised.numbers import absent, numbers_of
from jtl.study.vectorised.outcome import Outcome
from jtl.study.vectorised.programs import Programs, Recipe
from jtl.study.vectorised.timetable import Timetables
from jtl.tree import nbytes

# Bytes for the states of trials that a device trains at once. A CPU goes through all of them at
# every step, and is nearly twice as fast where they stay in its cache.
_ROOM = {"cpu": 10 * 2**20}
_ROOM_ELSEWHERE = 2**30
# Trials that are repeated to fill an array cost less than another compilation, unless they take
# turns: then this many times the trials at most.
_SPARE = 2
_COPIES = 6  # of a trial's parameters: themselves, gradient, two moments, the best, an update

Columns = dict[str, np.ndarray]


class Shape:
    """Trains the trials of one shape.

    Args:
        setup: of one of them.
        boundary: behind which they are trained.
        devices: to spread them over.
        at_once: how many a device takes at once; by its memory where None.
    """

    def __init__(
        self,
        setup: Setup,
        boundary: Boundary,
        devices: Sequence[jax.Device],
        at_once: int | None,
    ) -> None:
        self._setup, self._boundary, self._devices = setup, boundary, devices
        self._features = Features(setup, boundary)
        variables = setup.pretrained.variables
        rest = boundary.rest(variables)
        room = _ROOM.get(devices[0].platform, _ROOM_ELSEWHERE)
        self._at_once = at_once or max(1, min(room // (nbytes(rest) * _COPIES), 1024))
        self._timetables = Timetables(setup.pretrained.model, variables["params"])
        self._splits: dict[Any, Splits] = {}
        self._courses: dict[Any, Course] = {}
        self._starts: dict[int, Any] = {setup.config.seed: jax.device_get(rest)}
        self._programs: dict[Any, Programs] = {}
        self._extents: dict[int, Extent] = {}

    def course(self, config: Config) -> Course:
        """The batches and validations of a trial: the same object for those that share them."""
        split = config.data.split
        part = (repr(split), config.seed if split.shots is not None else None)
        if part not in self._splits:
            source = self._setup.examples.source
            self._splits[part] = splits_of(source, config.data, config.seed)
        splits = self._splits[part]
        order = TrainOrder(
            indices=splits["train"],
            batch_size=config.data.batch_size,
            seed=config.seed,
            views=config.augment.views,
        )
        timetable = self._timetables.of(config, order)
        key = (part, config.seed, id(timetable))
        if key not in self._courses:
            self._courses[key] = Course(order=order, timetable=timetable, val=splits["val"])
        return self._courses[key]

    def run(
        self, configs: Sequence[Config], courses: Sequence[Course], keep_variables: bool
    ) -> Iterator[tuple[int, Outcome]]:
        """Trains configs of one structure.

        Args:
            configs: one a trial.
            courses: theirs.
            keep_variables: whether outcomes hold what was trained.

        Yields:
            The place of each config, in some order, and its outcome.
        """
        unique = list({id(course): course for course in courses}.values())
        parts = [part for own in unique for part in (own.order.indices, own.val)]
        self._features.know(np.unique(np.concatenate(parts)))
        programs = self._made(configs, courses[0])
        table = programs.put_everywhere(self._features.rows)
        extent = self._extent(programs, courses)
        for entries in lay_out(courses, extent):
            chunk = Chunk(
                programs=programs,
                table=table,
                entries=entries,
                configs=configs,
                batch_of=lambda course, start, stop: self._columns(
                    course, start, stop, extent.segment
                ),
                orders=_stacked([self._order(own, configs, extent.steps) for own in entries]),
                start=_stacked([self._start(configs[own.trials[0]]) for own in entries]),
                validation=_stacked(
                    [self._validation(own.course, extent.batches) for own in entries]
                ),
                labels=self._setup.examples.source.labels,
                max_skipped=self._setup.config.train.max_skipped,
            )
            yield from chunk.run(keep_variables)

    def _extent(self, programs: Programs, courses: Sequence[Course]) -> Extent:
        """The trials' own, or a larger one that programs are compiled for already."""
        size = self._setup.config.data.eval_batch_size
        own = extent_of(courses, size, self._at_once, len(self._devices))
        both = own.holding(self._extents.get(id(programs), own))
        most = self._at_once * len(self._devices)
        if programs.in_turn:
            most = min(most, _SPARE * own.width * own.tall)
        if both.width * both.tall > most:
            return own
        self._extents[id(programs)] = both
        return both

    def _made(self, configs: Sequence[Config], course: Course) -> Programs:
        stretches = course.timetable.stretches
        none = tuple(
            absent([numbers_of(config, own.option) for config in configs]) for own in stretches
        )
        key = (course.timetable.structure, none)
        for structure, zero in self._programs:
            # One that computes with more numbers than are needed serves as well.
            if structure == key[0] and all(map(frozenset.issubset, zero, none)):
                return self._programs[structure, zero]
        if key not in self._programs:
            setup = self._setup
            evaluator = make_evaluator(
                setup.config, setup.pretrained.model, setup.pretrained.preprocess, setup.place
            )
            recipe = Recipe(
                train=configs[0].train,
                order=course.order,
                model=setup.pretrained.model,
                shapes=jax.tree.map(
                    lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype),
                    setup.pretrained.variables,
                ),
                boundary=self._boundary,
                evaluate=evaluator.step,
                none=none,
                loss_scale=setup.config.model.precision == "float16",
            )
            self._programs[key] = Programs(recipe, self._devices)
        return self._programs[key]

    def _columns(self, course: Course, start: int, stop: int, length: int) -> Columns:
        """What the batches of some steps hold, filled up to a length: `[length, batch]` each."""
        example = course.examples[start:stop]
        filled = np.zeros((length, course.order.batch_size), example.dtype)
        filled[: stop - start] = example
        filled[stop - start :] = course.examples[0]
        return {**self._batch(filled), "steps": np.asarray(stop - start, np.int32)}

    def _validation(self, course: Course, batches: int) -> Columns:
        """The batches of the validation split, `[batches, batch]` each."""
        size = self._setup.config.data.eval_batch_size
        place = np.arange(batches * size).reshape(batches, size)
        own = self._batch(course.val[np.minimum(place, len(course.val) - 1)])
        position = np.broadcast_to(np.arange(size, dtype=np.int32), place.shape)
        return {**own, "mask": own["mask"] & (place < len(course.val)), "position": position}

    def _batch(self, example: np.ndarray) -> Columns:
        examples = self._setup.examples
        return {
            "row": self._features.places(example),
            "label": examples.source.labels[example],
            "mask": ~examples.unreadable.among(example),
        }

    def _order(self, entry: Entry, configs: Sequence[Config], steps: int) -> dict[str, Any]:
        course = entry.course
        rates = np.zeros(steps, np.float32)
        rates[: len(course.timetable.course)] = course.timetable.course
        order = {"key": base_key(configs[entry.trials[0]].seed), "course": rates}
        if self._setup.config.train.loss.class_weights == "balanced":
            source = self._setup.examples.source
            labels = source.labels[course.order.indices]
            order["counts"] = np.bincount(labels, minlength=len(source.classes))
        return order

    def _start(self, config: Config) -> Any:
        """The trained part as a trial begins with it."""
        if config.seed not in self._starts:
            classes = self._setup.examples.source.classes
            variables = make_model(config.model, classes, config.seed).variables
            self._starts[config.seed] = jax.device_get(self._boundary.rest(variables))
        return self._starts[config.seed]


def _stacked(trees: Sequence[Any]) -> Any:
    """Trees with a leading axis, one beside the other."""

    def stack(*leaves: Any) -> Any:
        typed = isinstance(leaves[0], jax.Array)  # keys, which numpy does not know
        return jnp.stack(leaves) if typed else np.stack(leaves)

    return jax.tree.map(stack, *trees)
