"""Batches: training order as a function of (seed, epoch), evaluation padded and masked."""

import dataclasses
from collections.abc import Generator, Iterator
from functools import lru_cache
from typing import Annotated, Protocol

import numpy as np
from annotated_types import Ge, Gt

from jtl.data.ahead import read_ahead
from jtl.data.reader import Reader
from jtl.data.sources.protocol import Arrays
from jtl.data.workers import read_steps
from jtl.errors import DataError

READERS = "the data's readers"  # who is waited for, in an error
EVERYTHING = slice(None)  # the share of a process that is alone
Batches = Generator[Arrays, None, None]


@dataclasses.dataclass(frozen=True, kw_only=True)
class ReadOptions:
    """How batches are read; no number depends on any of it.

    Attributes:
        workers: processes that read beside this one; 0 reads in this one, in threads, which is
            faster unless a source computes in Python.
        timeout: seconds without a batch after which reading ahead is given up.
    """

    workers: Annotated[int, Ge(0)] = 0
    timeout: Annotated[float, Gt(0)] = 300.0


IN_THREADS = ReadOptions()


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class TrainOrder:
    """Which examples make the batch of each step; any step can be asked for.

    Every epoch is a permutation of its own, and batches run on from one epoch into the next,
    so that all of them are full and every example is seen equally often.

    Attributes:
        indices: int `[examples]`, the training split.
        batch_size: examples a step, over all devices.
        seed: of the run.
        views: how many augmented views of each example there are, one an epoch and then again
            from the first; None draws a new one every epoch.
    """

    indices: np.ndarray
    batch_size: int
    seed: int
    views: int | None = None

    def __post_init__(self) -> None:
        """Refuses an empty split."""
        if not len(self.indices):
            raise DataError("the training split has no examples; check data.split.")

    def steps(self, epochs: float) -> int:
        """The steps after which every example was seen `epochs` times, at least one."""
        return max(1, int(np.ceil(epochs * len(self.indices) / self.batch_size - 1e-9)))

    def epoch(self, step: int) -> float:
        """How many times the examples were seen after `step` steps."""
        return step * self.batch_size / len(self.indices)

    def view(self, step: int) -> np.ndarray:
        """Which view of each example one step takes, int32 `[batch]`."""
        views = np.empty(self.batch_size, np.int32)
        for epoch, _, here in self._parts(step):
            views[here] = epoch if self.views is None else epoch % self.views
        return views

    def __getitem__(self, step: int) -> np.ndarray:
        """The examples of one step, int `[batch]`."""
        chosen = np.empty(self.batch_size, self.indices.dtype)
        for epoch, places, here in self._parts(step):
            order = _permutation(len(self.indices), self.seed, epoch)
            chosen[here] = self.indices[order[places]]
        return chosen

    def _parts(self, step: int) -> Iterator[tuple[int, slice, slice]]:
        """The epochs that one step takes of: which places of each, and where in the batch."""
        length, start = len(self.indices), step * self.batch_size
        stop = start + self.batch_size
        for epoch in range(start // length, -(-stop // length)):
            first, last = max(start, epoch * length), min(stop, (epoch + 1) * length)
            places = slice(first - epoch * length, last - epoch * length)
            yield epoch, places, slice(first - start, last - start)


@lru_cache(maxsize=4)
def _permutation(size: int, seed: int, epoch: int) -> np.ndarray:
    return np.random.default_rng(np.random.SeedSequence([seed, epoch])).permutation(size)


class Order(Protocol):
    """Which examples, and which view of each, make the batch of a step."""

    @property
    def batch_size(self) -> int:
        """Examples a step, over all devices."""
        ...

    def view(self, step: int) -> np.ndarray:
        """Int32 `[batch]`."""
        ...

    def __getitem__(self, step: int) -> np.ndarray:
        """Int `[batch]`."""
        ...


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class _TrainSteps:
    reader: Reader
    order: Order
    share: slice

    def __getitem__(self, step: int) -> Arrays:
        indices, views = self.order[step][self.share], self.order.view(step)[self.share]
        position = np.arange(self.order.batch_size, dtype=np.int32)[self.share]
        return {
            **self.reader.gather(indices, views),
            "position": position,
            "example": indices.astype(np.int32),
            "view": views,
        }


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class _EvalSteps:
    reader: Reader
    indices: np.ndarray
    batch_size: int
    share: slice

    def __getitem__(self, step: int) -> Arrays:
        own = self.indices[step * self.batch_size : (step + 1) * self.batch_size]
        place = np.minimum(np.arange(self.batch_size), len(own) - 1)[self.share]
        # Padding repeats the last example, which is read once.
        read, again = np.unique(place, return_inverse=True)
        batch = {name: rows[again] for name, rows in self.reader.gather(own[read]).items()}
        real = (np.arange(self.batch_size) < len(own))[self.share]
        position = np.arange(self.batch_size, dtype=np.int32)[self.share]
        return {
            **batch,
            "mask": batch["mask"] & real,
            "position": position,
            "example": np.where(real, own[place], -1).astype(np.int32),
        }


def train_steps(
    reader: Reader,
    order: Order,
    *,
    start: int,
    stop: int,
    share: slice = EVERYTHING,
    options: ReadOptions = IN_THREADS,
) -> Batches:
    """The batches of steps `start` to `stop`, each read once it is asked for.

    Args:
        reader: of the images.
        order: which examples each step takes.
        start: the first step, the data position of a resumed run.
        stop: the step after the last.
        share: the rows of each batch that are read, where others read the rest.
        options: how; the batches do not depend on it.

    Returns:
        Batches of `image`, `label`, `mask` (False where an image could not be read and is left
        out), `position`, `example` (in the source) and `view`. To close it ends its processes.

    Raises:
        DataError: an image cannot be read.
    """
    steps = _TrainSteps(reader=reader, order=order, share=share)
    return read_steps(steps, start, stop, options.workers)


def train_batches(
    reader: Reader,
    order: Order,
    *,
    start: int,
    stop: int,
    share: slice = EVERYTHING,
    options: ReadOptions = IN_THREADS,
) -> Batches:
    """The batches of `train_steps`, read ahead.

    Raises:
        DataError: an image cannot be read, or none came in time.
    """
    batches = train_steps(reader, order, start=start, stop=stop, share=share, options=options)
    return read_ahead(batches, options.timeout, READERS)


def eval_batches(
    reader: Reader,
    indices: np.ndarray,
    batch_size: int,
    share: slice = EVERYTHING,
    options: ReadOptions = IN_THREADS,
) -> Batches:
    """All examples once, in order; the last batch is padded to full size and masked.

    Args:
        reader: of the images.
        indices: int `[examples]`, which of them.
        batch_size: examples a step, over all devices.
        share: the rows of each batch that are read, where others read the rest.
        options: how; the batches do not depend on it.

    Returns:
        As `train_batches`, without `view`; `example` is -1 in padding.

    Raises:
        DataError: an image cannot be read, or none came in time.
    """
    steps = _EvalSteps(reader=reader, indices=indices, batch_size=batch_size, share=share)
    count = -(-len(indices) // batch_size)
    return read_ahead(read_steps(steps, 0, count, options.workers), options.timeout, READERS)
