"""Batches put together from a table of rows, laid out as the placement's own."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jtl.engine.parallel import Placement
from jtl.training.cache.tables import Table


class RowBatches:
    """Makes placed batches of one size.

    What steps take, all but the rows themselves, is put on the devices for many steps at once;
    a step then costs one call, and the gathering of its rows.

    Args:
        place: where the batches go.
        batch_size: examples a step, over all devices.
    """

    def __init__(self, place: Placement, batch_size: int) -> None:
        self._place = place
        self._everywhere = place.put_state(jnp.zeros(())).sharding
        example = place.put_batch({"row": np.zeros(batch_size, np.int32)})["row"]
        self._pick = jax.jit(_picking(example.shape), out_shardings=example.sharding)

    def of(
        self, table: Table, columns: Mapping[str, np.ndarray], count: int
    ) -> Iterator[dict[str, jax.Array]]:
        """One placed batch a step.

        Args:
            table: the rows.
            columns: `[steps, batch, ...]` for each thing that a batch holds; `row` is which
                row of the table becomes its `image`.
            count: how many of the steps are wanted, the first ones.
        """
        placed = jax.device_put(dict(columns), self._everywhere)
        on_device = isinstance(table.rows, jax.Array)
        for step in range(count):
            if on_device:
                yield self._pick(table.rows, placed, np.int32(step))
                continue
            # Indexing with an array copies, so that the device may take its time.
            image = np.asarray(table.rows[columns["row"][step]])
            picked = self._pick(None, placed, np.int32(step))
            yield {**picked, **self._place.put_batch({"image": image})}


def _picking(layout: tuple[int, ...]) -> Callable[[Any, Any, Any], dict[str, jax.Array]]:
    def pick(
        table: jax.Array | None, columns: dict[str, jax.Array], step: jax.Array
    ) -> dict[str, jax.Array]:
        own = {name: column[step] for name, column in columns.items()}
        rows = own.pop("row")
        if table is not None:
            own["image"] = table.at[rows].get(mode="promise_in_bounds")
        return {name: value.reshape(*layout, *value.shape[1:]) for name, value in own.items()}

    return pick
