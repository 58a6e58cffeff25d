"""How trials are laid out for a program: by order, and in chunks that fit into memory."""

import dataclasses
from collections.abc import Sequence
from functools import cached_property

import numpy as np

from jtl.data.pipeline import TrainOrder
from jtl.study.vectorised.timetable import Timetable


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Course:
    """What trials of one order share: every batch, and when they are validated.

    Attributes:
        order: of training.
        timetable: its steps.
        val: int `[examples]`, the validation split.
    """

    order: TrainOrder
    timetable: Timetable
    val: np.ndarray

    @cached_property
    def examples(self) -> np.ndarray:
        """Int `[steps, batch]`, the batch of each step."""
        return np.stack([self.order[step] for step in range(len(self.timetable.course))])

    def segment(self, phase: int, turn: int) -> tuple[int, int]:
        """The steps between two validations of a phase; none where it has no more of them."""
        stretches = self.timetable.stretches
        begin = stretches[phase - 1].stops[-1] if phase else 0
        stops = (begin, *stretches[phase].stops)
        if turn + 1 >= len(stops):
            return stops[-1], stops[-1]
        return stops[turn], stops[turn + 1]

    @property
    def longest(self) -> int:
        """The most steps between two validations."""
        stops = [0, *(stop for own in self.timetable.stretches for stop in own.stops)]
        return int(np.diff(stops).max())


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Entry:
    """Some trials of one order.

    Attributes:
        course: theirs.
        trials: their indices; the last may be repeated to fill up.
        count: how many of them are not repeated.
    """

    course: Course
    trials: tuple[int, ...]
    count: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class Extent:
    """The lengths of the arrays that a program takes, which it is compiled for.

    Attributes:
        width: trials of an order.
        tall: orders of a chunk.
        steps: of a whole course.
        segment: the most steps between two validations.
        batches: of a validation split.
    """

    width: int = 0
    tall: int = 0
    steps: int = 0
    segment: int = 0
    batches: int = 0

    def holding(self, other: "Extent") -> "Extent":
        """The least extent that has room for both."""
        pairs = zip(dataclasses.astuple(self), dataclasses.astuple(other))
        return Extent(**dict(zip(_EXTENTS, (max(pair) for pair in pairs))))


_EXTENTS = tuple(field.name for field in dataclasses.fields(Extent))


def extent_of(courses: Sequence[Course], batch_size: int, at_once: int, devices: int) -> Extent:
    """The extent that trials need.

    Args:
        courses: of each trial; trials of one order have the same object.
        batch_size: of validation.
        at_once: how many trials a device takes at once.
        devices: how many there are; a multiple of it are the entries of a chunk.
    """
    owners = _owners(courses)
    most = max(map(len, owners.values()))
    width = max(1, min(at_once, most, -(-len(courses) // devices)))
    # Evenly, so that little is repeated.
    width = -(-most // -(-most // width))
    entries = sum(-(-len(own) // width) for own in owners.values())
    tall = max(1, at_once // width) * devices
    chunks = -(-entries // tall)
    tall = -(-entries // chunks)
    unique = [courses[own[0]] for own in owners.values()]
    return Extent(
        width=width,
        tall=-(-tall // devices) * devices,
        steps=max(len(own.timetable.course) for own in unique),
        segment=max(own.longest for own in unique),
        batches=-(-max(len(own.val) for own in unique) // batch_size),
    )


def lay_out(courses: Sequence[Course], extent: Extent) -> tuple[tuple[Entry, ...], ...]:
    """Chunks of entries, every one of this extent.

    Args:
        courses: of each trial; trials of one order have the same object.
        extent: of a chunk.
    """
    width, tall = extent.width, extent.tall
    entries = [
        _entry(courses[own[0]], own[start : start + width], width)
        for own in _owners(courses).values()
        for start in range(0, len(own), width)
    ]
    return tuple(
        _filled(entries[start : start + tall], tall) for start in range(0, len(entries), tall)
    )


def _owners(courses: Sequence[Course]) -> dict[int, list[int]]:
    owners: dict[int, list[int]] = {}
    for trial, course in enumerate(courses):
        owners.setdefault(id(course), []).append(trial)
    return owners


def _entry(course: Course, trials: Sequence[int], width: int) -> Entry:
    filled = (*trials, *[trials[-1]] * (width - len(trials)))
    return Entry(course=course, trials=filled, count=len(trials))


def _filled(entries: Sequence[Entry], tall: int) -> tuple[Entry, ...]:
    spare = dataclasses.replace(entries[-1], count=0)
    return (*entries, *[spare] * (tall - len(entries)))
