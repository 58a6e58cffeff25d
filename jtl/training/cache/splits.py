"""A split with its rows: which row is whose, how they are computed, what a step takes of them."""

import dataclasses
from collections.abc import Callable, Iterator
from functools import cached_property
from typing import Any

import jax
import numpy as np

from jtl.data.pipeline import ReadOptions, TrainOrder, eval_batches, train_batches
from jtl.data.reader import Reader
from jtl.data.sources.protocol import Arrays
from jtl.engine.parallel import Placement
from jtl.training.cache.tables import Table
from jtl.training.unreadable import Unreadable

Columns = dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class TrainSplit:
    """The training split: a block of rows for each view, examples in ascending order.

    Attributes:
        reader: of labels, and of images while rows are computed.
        order: of training.
        views: of each example; one view is what every epoch sees.
        options: how images are read.
        unreadable: the examples that have no row.
    """

    reader: Reader
    order: TrainOrder
    views: int
    options: ReadOptions
    unreadable: Unreadable

    @cached_property
    def examples(self) -> np.ndarray:
        """Int `[length]`, whose row is whose within a block."""
        return np.unique(self.order.indices)

    @property
    def length(self) -> int:
        """Rows of one block."""
        return len(self.examples)

    def read(self, block: int) -> Iterator[Arrays]:
        """The images of one view, in the order of rows; the last batch is filled up."""
        order = _InOrder(
            indices=self.examples, batch_size=self.order.batch_size, seed=0, block=block
        )
        stop = -(-self.length // self.order.batch_size)
        batches = train_batches(self.reader, order, start=0, stop=stop, options=self.options)
        return self.unreadable.noted(batches)

    def columns(self, first: int, steps: int) -> Columns:
        """What the batches of some steps hold, beside their rows: `[steps, batch]` each."""
        own = range(first, first + steps)
        example = np.stack([self.order[step] for step in own]).astype(np.int32)
        view = np.stack([self.order.view(step) for step in own])
        block = view if self.views > 1 else np.zeros_like(view)
        row = block * self.length + np.searchsorted(self.examples, example)
        position = np.arange(self.order.batch_size, dtype=np.int32)
        return {
            "row": row.astype(np.int32),
            "label": self.reader.source.labels[example],
            "mask": ~self.unreadable.among(example),
            "position": np.broadcast_to(position, example.shape),
            "example": example,
            "view": view,
        }


@dataclasses.dataclass(frozen=True, kw_only=True)
class _InOrder(TrainOrder):
    """Every example once, in order, all of one view."""

    block: int

    def __getitem__(self, step: int) -> np.ndarray:
        places = np.arange(step * self.batch_size, (step + 1) * self.batch_size)
        return self.indices[np.minimum(places, len(self.indices) - 1)]

    def view(self, step: int) -> np.ndarray:
        del step
        return np.full(self.batch_size, self.block, np.int32)


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class EvalSplit:
    """A split that is evaluated: one block of rows, in the split's order.

    Attributes:
        reader: of labels, and of images while rows are computed.
        indices: int `[length]`, the split.
        batch_size: examples a step, over all devices.
        options: how images are read.
        unreadable: the examples that have no row.
    """

    reader: Reader
    indices: np.ndarray
    batch_size: int
    options: ReadOptions
    unreadable: Unreadable

    @property
    def length(self) -> int:
        """Rows of the block."""
        return len(self.indices)

    def read(self, block: int) -> Iterator[Arrays]:
        """The images in the order of rows; the last batch is filled up."""
        del block
        batches = eval_batches(self.reader, self.indices, self.batch_size, options=self.options)
        return self.unreadable.noted(batches)

    def columns(self) -> Columns:
        """What all batches hold, beside their rows: `[steps, batch]` each."""
        steps = -(-self.length // self.batch_size)
        place = np.arange(steps * self.batch_size).reshape(steps, self.batch_size)
        row = np.minimum(place, self.length - 1)
        position = np.arange(self.batch_size, dtype=np.int32)
        return {
            "row": row.astype(np.int32),
            "label": self.reader.source.labels[self.indices[row]],
            "mask": (place < self.length) & ~self.unreadable.among(self.indices[row]),
            "position": np.broadcast_to(position, place.shape),
        }


def fill_block(
    table: Table,
    split: TrainSplit | EvalSplit,
    block: int,
    *,
    extract: Callable[..., jax.Array],
    variables: Any,
    place: Placement,
) -> None:
    """Computes the rows of one block.

    Args:
        table: where they go.
        split: whose they are.
        block: the view.
        extract: the compiled step from images to rows.
        variables: those before the boundary, placed.
        place: where the step runs.
    """
    start, stop = block * split.length, (block + 1) * split.length
    pending: jax.Array | None = None
    for batch in split.read(block):
        own = {name: batch[name] for name in ("image", "example", "view") if name in batch}
        rows = extract(variables, place.put_batch(own))
        # One batch is computed while the one before is stored, and none waits beyond these.
        if pending is not None:
            start = _store(table, pending, start, stop)
        pending = rows
    if pending is not None:
        _store(table, pending, start, stop)
    table.finish(block)


def _store(table: Table, rows: jax.Array, start: int, stop: int) -> int:
    rows = jax.block_until_ready(rows)
    count = min(len(rows), stop - start)
    table.write(start, rows if count == len(rows) else rows[:count])
    return start + count
