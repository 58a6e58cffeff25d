"""Everything on one device."""

import dataclasses
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import jax
import numpy as np
from jax.sharding import SingleDeviceSharding

from jtl.engine.parallel.placement import copied, donated_by, jitted, plain, share_of


@dataclasses.dataclass(frozen=True, kw_only=True)
class One:
    """One device, plain `jax.jit`.

    Attributes:
        devices: that one.
    """

    devices: tuple[jax.Device, ...]

    batch_parts = 1

    @property
    def local_devices(self) -> tuple[jax.Device, ...]:
        """That one."""
        return self.devices

    def share(self, batch_size: int) -> slice:
        """All rows."""
        return share_of(batch_size, 1, range(1))

    def compile(self, step: Callable[..., Any]) -> Callable[..., Any]:
        """The step under `jax.jit`."""
        return jitted(step, self.devices[0], donate_argnums=donated_by(step))

    def put_state(self, state: Any) -> Any:
        """A copy on the device."""
        return jax.device_put(copied(state), self.devices[0])

    def get_state(self, state: Any) -> Any:
        """A copy on the device."""
        return plain(state, self.devices[0])

    def put_batch(self, batch: Any) -> Any:
        """The batch on the device."""
        of_host = all(isinstance(leaf, np.ndarray) for leaf in jax.tree.leaves(batch))
        config: Any = jax.config  # which declares only some of what it has
        if config.jax_disable_jit or not of_host:
            return jax.device_put(batch, self.devices[0])
        with jax.transfer_guard_host_to_device("allow"):  # as for `device_put`
            return _placing(self.devices[0])(batch)


@lru_cache
def _placing(device: jax.Device) -> Callable[[Any], Any]:
    """Copies arrays of the host to a device in one call; `device_put` takes one for each.

    Batches of new shapes have it compiled once more, some 25 ms.
    """
    # What the call itself has copied is given back as it is, since it may be donated.
    return jax.jit(_unchanged, donate_argnums=0, out_shardings=SingleDeviceSharding(device))


def _unchanged(batch: Any) -> Any:
    return batch
