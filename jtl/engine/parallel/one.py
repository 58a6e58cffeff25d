"""Everything on one device."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax

from jtl.engine.parallel.placement import copied, donated_by, plain, share_of


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
        return jax.jit(step, donate_argnums=donated_by(step))

    def put_state(self, state: Any) -> Any:
        """A copy on the device."""
        return jax.device_put(copied(state), self.devices[0])

    def get_state(self, state: Any) -> Any:
        """A copy on the device."""
        return plain(state, self.devices[0])

    def put_batch(self, batch: Any) -> Any:
        """The batch on the device."""
        return jax.device_put(batch, self.devices[0])
