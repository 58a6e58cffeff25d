"""Placement: one pure step on one device, pmapped over several, or jitted over a named mesh."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from jtl.errors import ConfigError

AXIS = "batch"


class Placement(Protocol):
    """Where a step runs; it changes nothing that the step computes."""

    @property
    def devices(self) -> tuple[jax.Device, ...]:
        """The devices, the first of which plain states come back to."""
        ...

    def compile(self, step: Callable[..., Any]) -> Callable[..., Any]:
        """The step, compiled; its first argument is donated where the step allows it."""
        ...

    def put_state(self, state: Any) -> Any:
        """A copy of a state or of variables on all devices; the caller keeps its own."""
        ...

    def get_state(self, state: Any) -> Any:
        """One plain, unreplicated copy on the first device."""
        ...

    def put_batch(self, batch: Any) -> Any:
        """A global batch, `[batch, ...]` in every leaf, spread over the devices."""
        ...


def single(device: jax.Device | None = None) -> Placement:
    """One device, the first by default."""
    return _Single(devices=(device or jax.local_devices()[0],))


def pmap(devices: Sequence[jax.Device] | None = None) -> Placement:
    """`jax.pmap` over devices, all by default, with the state replicated."""
    return _Pmap(devices=_known(devices))


def mesh(devices: Sequence[jax.Device] | None = None) -> Placement:
    """`jax.jit` over a named mesh of devices, all by default, with the batch sharded."""
    return _JitMesh(devices=_known(devices))


def best() -> Placement:
    """`pmap` where there are several devices, `single` where there is one."""
    return pmap() if jax.local_device_count() > 1 else single()


def _known(devices: Sequence[jax.Device] | None) -> tuple[jax.Device, ...]:
    chosen = tuple(jax.devices() if devices is None else devices)
    if not chosen:
        raise ConfigError("a placement needs at least one device; leave `devices` out for all.")
    return chosen


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Single:
    devices: tuple[jax.Device, ...]

    def compile(self, step: Callable[..., Any]) -> Callable[..., Any]:
        return jax.jit(step, donate_argnums=_donated(step))

    def put_state(self, state: Any) -> Any:
        return jax.device_put(_copy(state), self.devices[0])

    def get_state(self, state: Any) -> Any:
        return _plain(state, self.devices[0])

    def put_batch(self, batch: Any) -> Any:
        return jax.device_put(batch, self.devices[0])


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Pmap:
    devices: tuple[jax.Device, ...]

    def compile(self, step: Callable[..., Any]) -> Callable[..., Any]:
        bound = step.bind(AXIS) if hasattr(step, "bind") else step
        # With out_axes=None the state stays replicated without a leading axis, as jit keeps it.
        return jax.pmap(
            bound,
            axis_name=AXIS,
            in_axes=(None, 0),
            out_axes=None,
            devices=self.devices,
            donate_argnums=_donated(step),
        )

    def put_state(self, state: Any) -> Any:
        return jax.device_put(_copy(state), self._sharding(PartitionSpec()))

    def get_state(self, state: Any) -> Any:
        return _plain(state, self.devices[0])

    def put_batch(self, batch: Any) -> Any:
        _check_divides(batch, len(self.devices))
        parts = jax.tree.map(
            lambda leaf: leaf.reshape(len(self.devices), -1, *leaf.shape[1:]), batch
        )
        return jax.device_put(parts, self._sharding(PartitionSpec(AXIS)))

    def _sharding(self, spec: PartitionSpec) -> NamedSharding:
        return NamedSharding(_named_mesh(self.devices), spec)


@dataclasses.dataclass(frozen=True, kw_only=True)
class _JitMesh:
    devices: tuple[jax.Device, ...]

    def compile(self, step: Callable[..., Any]) -> Callable[..., Any]:
        return jax.jit(
            step, donate_argnums=_donated(step), out_shardings=self._sharding(PartitionSpec())
        )

    def put_state(self, state: Any) -> Any:
        return jax.device_put(_copy(state), self._sharding(PartitionSpec()))

    def get_state(self, state: Any) -> Any:
        return _plain(state, self.devices[0])

    def put_batch(self, batch: Any) -> Any:
        _check_divides(batch, len(self.devices))
        return jax.device_put(batch, self._sharding(PartitionSpec(AXIS)))

    def _sharding(self, spec: PartitionSpec) -> NamedSharding:
        return NamedSharding(_named_mesh(self.devices), spec)


def check_batch_size(batch_size: int, device_count: int, name: str = "batch_size") -> None:
    """Refuses a global batch that does not divide over the devices.

    Raises:
        ConfigError: with the nearest size that does.
    """
    if batch_size % device_count:
        nearest = max(batch_size - batch_size % device_count, device_count)
        raise ConfigError(
            f"{name}={batch_size} does not divide over {device_count} devices; "
            f"set a multiple of {device_count}, such as {nearest}."
        )


def _check_divides(batch: Any, device_count: int) -> None:
    for leaf in jax.tree.leaves(batch):
        check_batch_size(leaf.shape[0], device_count, "the batch's first axis")


def _named_mesh(devices: Sequence[jax.Device]) -> Mesh:
    return Mesh(np.asarray(devices), (AXIS,), axis_types=(AxisType.Auto,))


def _donated(step: Callable[..., Any]) -> tuple[int, ...]:
    return getattr(step, "donated", ())


def _copy(tree: Any) -> Any:
    # device_put aliases what already lies on a device, and a donated step would delete it.
    return jax.tree.map(lambda leaf: jnp.array(leaf, copy=True), tree)


def _plain(tree: Any, device: jax.Device) -> Any:
    return _copy(jax.device_put(tree, device))
