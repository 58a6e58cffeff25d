"""Batches: training order as a function of (seed, epoch), evaluation padded and masked."""

import dataclasses
from collections.abc import Iterator
from functools import lru_cache

import grain
import numpy as np

from jtl.data.sources import Arrays, Source
from jtl.errors import DataError

EVERYTHING = slice(None)  # the share of a process that is alone


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
        epochs, _ = self._places(step)
        return (epochs if self.views is None else epochs % self.views).astype(np.int32)

    def __getitem__(self, step: int) -> np.ndarray:
        """The examples of one step, int `[batch]`."""
        epochs, offsets = self._places(step)
        chosen = np.empty(self.batch_size, self.indices.dtype)
        for epoch in np.unique(epochs):
            here = epochs == epoch
            order = _permutation(len(self.indices), self.seed, int(epoch))
            chosen[here] = self.indices[order[offsets[here]]]
        return chosen

    def _places(self, step: int) -> tuple[np.ndarray, np.ndarray]:
        places = np.arange(step * self.batch_size, (step + 1) * self.batch_size)
        return np.divmod(places, len(self.indices))


@lru_cache(maxsize=4)
def _permutation(size: int, seed: int, epoch: int) -> np.ndarray:
    return np.random.default_rng(np.random.SeedSequence([seed, epoch])).permutation(size)


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class _Batches:
    source: Source
    order: TrainOrder
    stop: int
    share: slice

    def __len__(self) -> int:
        return self.stop

    def __getitem__(self, step: int) -> Arrays:
        indices = self.order[step][self.share]
        position = np.arange(self.order.batch_size, dtype=np.int32)[self.share]
        return {
            **self.source.gather(indices),
            "mask": np.ones(len(indices), bool),
            "position": position,
            "example": indices.astype(np.int32),
            "view": self.order.view(step)[self.share],
        }


def train_batches(
    source: Source,
    order: TrainOrder,
    *,
    start: int,
    stop: int,
    threads: int = 1,
    share: slice = EVERYTHING,
) -> Iterator[Arrays]:
    """The batches of steps `start` to `stop`, read ahead by threads.

    Args:
        source: where images come from.
        order: which examples each step takes.
        start: the first step, the data position of a resumed run.
        stop: the step after the last.
        threads: readers; the order does not depend on them.
        share: the rows of each batch that are read, where others read the rest.
    """
    batches = _Batches(source=source, order=order, stop=stop, share=share)
    dataset = grain.MapDataset.source(batches)
    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=2 * threads)
    iterator = iter(dataset.to_iter_dataset(options))
    iterator.set_state({"next_index": start})
    return iterator


def eval_batches(
    source: Source, indices: np.ndarray, batch_size: int, share: slice = EVERYTHING
) -> Iterator[Arrays]:
    """All examples once, in order; the last batch is padded to full size and masked.

    Args:
        source: where images come from.
        indices: int `[examples]`, which of them.
        batch_size: examples a step, over all devices.
        share: the rows of each batch that are read, where others read the rest.
    """
    for start in range(0, len(indices), batch_size):
        own = indices[start : start + batch_size]
        padded = np.concatenate([own, np.repeat(own[-1:], batch_size - len(own))])
        yield {
            **source.gather(padded[share]),
            "mask": (np.arange(batch_size) < len(own))[share],
            "position": np.arange(batch_size, dtype=np.int32)[share],
        }
