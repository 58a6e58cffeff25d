"""What leaves the frozen part, computed once for every example that any trial asks for."""

import jax
import numpy as np

from jtl.engine.boundary import Boundary, make_extract_step
from jtl.experiment.setup import Setup
from jtl.rng import base_key
from jtl.training.cache.splits import EvalSplit, fill_block
from jtl.training.cache.tables import HostTable


class Features:
    """Rows at a boundary, by example; those of other examples are never computed.

    Args:
        setup: of a run whose leading part they come from.
        boundary: where that ends.
    """

    def __init__(self, setup: Setup, boundary: Boundary) -> None:
        self._setup, self._boundary = setup, boundary
        self._examples = np.zeros(0, np.int64)
        self._rows: np.ndarray | None = None

    @property
    def examples(self) -> np.ndarray:
        """Int `[length]`, ascending: whose rows are known."""
        return self._examples

    @property
    def rows(self) -> np.ndarray:
        """Float `[length, ...]`, in the order of `examples`."""
        assert self._rows is not None
        return self._rows

    def know(self, examples: np.ndarray) -> None:
        """Computes the rows of these examples, but for those that are known."""
        new = np.setdiff1d(examples, self._examples)
        if not len(new):
            return
        found = self._extract(new)
        if self._rows is not None:
            found = np.concatenate([self._rows, found])
        every = np.concatenate([self._examples, new])
        order = np.argsort(every)
        self._examples, self._rows = every[order], found[order]

    def places(self, examples: np.ndarray) -> np.ndarray:
        """Which rows are whose, int32 of the same shape."""
        return np.searchsorted(self._examples, examples).astype(np.int32)

    def _extract(self, examples: np.ndarray) -> np.ndarray:
        setup, parts = self._setup, self._setup.place.batch_parts
        size = -(-setup.config.data.eval_batch_size // parts) * parts
        step = make_extract_step(setup.phases[0].step, self._boundary, base_key(setup.config.seed))
        extract = setup.place.compile(step)
        split = EvalSplit(
            reader=setup.examples.reader,
            indices=examples,
            batch_size=size,
            options=setup.examples.options,
            unreadable=setup.examples.unreadable,
        )
        held = setup.place.put_state(self._boundary.held(setup.pretrained.variables))
        side = setup.examples.reader.size
        image = jax.ShapeDtypeStruct((size, side, side, 3), np.uint8)
        row = jax.eval_shape(step, held, {"image": image})
        table = HostTable(
            blocks=1, length=len(examples), row=jax.ShapeDtypeStruct(row.shape[1:], row.dtype)
        )
        fill_block(table, split, 0, extract=extract, variables=held, place=setup.place)
        return table.rows
