"""A step under `jax.pmap`, the state replicated and the batch in one part a device."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from jtl.engine.parallel.placement import (
    AXIS,
    check_share,
    copied,
    donated_by,
    plain,
    share_of,
)
from jtl.engine.parallel.processes import connect, own_range


@dataclasses.dataclass(frozen=True, kw_only=True)
class Mapped:
    """`jax.pmap` over devices, of which a process sees and feeds its own.

    Attributes:
        devices: of all processes.
        local_devices: this process's own.
        replicated: how a state lies on them.
        spread: how a batch does, its leading axis one entry a device.
    """

    devices: tuple[jax.Device, ...]
    local_devices: tuple[jax.Device, ...]
    replicated: NamedSharding
    spread: NamedSharding

    @classmethod
    def over(cls, devices: tuple[jax.Device, ...], own: tuple[jax.Device, ...]) -> "Mapped":
        """The placement over devices, of which some are this process's own."""
        connect(Mesh(np.asarray(devices), (AXIS,), axis_types=(AxisType.Auto,)))
        # Under several processes pmap takes and gives what lies on the process's own devices.
        local = Mesh(np.asarray(own), (AXIS,), axis_types=(AxisType.Auto,))
        return cls(
            devices=devices,
            local_devices=own,
            replicated=NamedSharding(local, PartitionSpec()),
            spread=NamedSharding(local, PartitionSpec(AXIS)),
        )

    @property
    def batch_parts(self) -> int:
        """As many as devices."""
        return len(self.devices)

    def share(self, batch_size: int) -> slice:
        """The rows of this process's devices."""
        return share_of(batch_size, len(self.devices), own_range(self.devices))

    def compile(self, step: Callable[..., Any]) -> Callable[..., Any]:
        """The step under `jax.pmap`, which takes no compiler options, bound to the axis `batch`."""
        bound = step.bind(AXIS) if hasattr(step, "bind") else step
        if jax.process_count() > 1:
            return _without_typed_keys(bound, lambda raw: self._mapped(raw, donated_by(step)))
        return self._mapped(bound, donated_by(step))

    def _mapped(self, step: Callable[..., Any], donated: tuple[int, ...]) -> Callable[..., Any]:
        # With out_axes=None the state stays replicated without a leading axis, as jit keeps it.
        return jax.pmap(
            step,
            axis_name=AXIS,
            in_axes=(None, 0),
            out_axes=None,
            devices=self.devices,
            donate_argnums=donated,
        )

    def put_state(self, state: Any) -> Any:
        """A copy on each of this process's devices."""
        return jax.device_put(copied(state), self.replicated)

    def get_state(self, state: Any) -> Any:
        """A copy on this process's first device."""
        return plain(state, self.local_devices[0])

    def put_batch(self, batch: Any) -> Any:
        """The share in one part a device, `[devices, rows, ...]` in every leaf."""
        own = len(self.local_devices)
        check_share(batch, own, whole=own == len(self.devices))
        parts = jax.tree.map(lambda leaf: leaf.reshape(own, -1, *leaf.shape[1:]), batch)
        return jax.device_put(parts, self.spread)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class _RawKey:
    data: jax.Array
    implementation: Any = dataclasses.field(metadata={"static": True})


def _without_typed_keys(
    step: Callable[..., Any], mapped: Callable[[Callable[..., Any]], Callable[..., Any]]
) -> Callable[..., Any]:
    # Under several processes pmap takes a typed key through the host, which would wait for the
    # step that it comes from: nothing would be dispatched ahead.
    inner = mapped(lambda state, batch: _raw(step(_typed(state), batch)))

    def run(state: Any, batch: Any) -> Any:
        return _typed(inner(_raw(state), batch))

    return run


def _raw(tree: Any) -> Any:
    def one(leaf: Any) -> Any:
        if not jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            return leaf
        return _RawKey(data=jax.random.key_data(leaf), implementation=jax.random.key_impl(leaf))

    return jax.tree.map(one, tree)


def _typed(tree: Any) -> Any:
    def one(leaf: Any) -> Any:
        if not isinstance(leaf, _RawKey):
            return leaf
        return jax.random.wrap_key_data(leaf.data, impl=leaf.implementation)

    return jax.tree.map(one, tree, is_leaf=lambda leaf: isinstance(leaf, _RawKey))
