"""What a module in training must know of the batch, and sums over all of it."""

import dataclasses
from typing import Any

import jax

from jtl.engine.modes import Modes
from jtl.errors import ConfigError


@dataclasses.dataclass(frozen=True, kw_only=True)
class BatchContext:
    """What a module in training must know of the batch it sees a part of.

    Attributes:
        modes: which modules hold still.
        position: int `[batch]`, each example's place in the global batch.
        mask: bool `[batch]`, False for padding.
        axis_name: the mapped axis that the global batch is spread over, or None.
        global_batch_norm: whether BatchNorm in training looks beyond its device's part.
    """

    modes: Modes
    position: jax.Array
    mask: jax.Array
    axis_name: str | None
    global_batch_norm: bool = True

    @property
    def statistics_axis(self) -> str | None:
        """The mapped axis that BatchNorm's statistics are taken over, or None."""
        return self.axis_name if self.global_batch_norm else None


def batch_mean(tree: Any, axis_name: str | None) -> Any:
    """The mean over the devices of values that each device has in full."""
    return tree if axis_name is None else jax.lax.pmean(tree, axis_name)


def batch_sum(value: Any, axis_name: str | None) -> Any:
    """Adds up a per-device value over the devices; the value itself where there is one."""
    return value if axis_name is None else jax.lax.psum(value, axis_name)


def check_leading(x: jax.Array, context: BatchContext, path: str, what: str) -> None:
    """Refuses an array whose first axis is not the batch, whatever `what` at `path` makes of it."""
    batch = context.position.shape[0]
    if x.ndim < 1 or x.shape[0] != batch:
        raise ConfigError(
            f"{what} at {path!r} is given {list(x.shape)}, but its first axis "
            f"must be the batch of {batch} examples: masks and statistics belong to examples."
        )
