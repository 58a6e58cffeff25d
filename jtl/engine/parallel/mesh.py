"""A step under `jax.jit` over a mesh, with wide layers and optimizer state in parts if asked."""

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
    jitted,
    plain,
    share_of,
)
from jtl.engine.parallel.processes import connect, own_range
from jtl.errors import ConfigError
from jtl.tree import map_with_path

MODEL_AXIS = "model"
_OPTIMIZER = "opt_state/"  # what the paths of a TrainState's optimizer state begin with


@dataclasses.dataclass(frozen=True, kw_only=True)
class Meshed:
    """`jax.jit` over a mesh, the batch in parts and the state as `state_shardings` says.

    Attributes:
        mesh: with the axes `batch` and `model`.
        devices: of all processes.
        local_devices: this process's own.
        zero: whether the optimizer's state is spread over `batch`.
        replicated: how what every device has in full lies.
        spread: how a batch lies.
        own_parts: which parts of the batch this process gives.
    """

    mesh: Mesh
    devices: tuple[jax.Device, ...]
    local_devices: tuple[jax.Device, ...]
    zero: bool
    replicated: NamedSharding
    spread: NamedSharding
    own_parts: range

    @classmethod
    def over(
        cls,
        devices: tuple[jax.Device, ...],
        own: tuple[jax.Device, ...],
        *,
        data: int,
        model: int,
        zero: bool,
    ) -> "Meshed":
        """The placement over devices, of which some are this process's own.

        Raises:
            ConfigError: `model` parts of a layer would straddle processes unevenly.
        """
        if len(own) % model and model % len(own):
            raise ConfigError(
                f"mesh(model={model}) does not fit processes of {len(own)} devices each; set a "
                f"divisor or a multiple of {len(own)}."
            )
        axes = (AXIS, MODEL_AXIS)
        grid = Mesh(np.asarray(devices).reshape(data, model), axes, axis_types=(AxisType.Auto,) * 2)
        connect(grid)
        places = own_range(devices)
        return cls(
            mesh=grid,
            devices=devices,
            local_devices=own,
            zero=zero,
            replicated=NamedSharding(grid, PartitionSpec()),
            spread=NamedSharding(grid, PartitionSpec(AXIS)),
            own_parts=range(places[0] // model, places[-1] // model + 1),
        )

    @property
    def batch_parts(self) -> int:
        """The length of the mesh along `batch`."""
        return self.mesh.shape[AXIS]

    def share(self, batch_size: int) -> slice:
        """The rows of the parts that this process's devices take."""
        return share_of(batch_size, self.batch_parts, self.own_parts)

    def state_shardings(self, state: Any) -> Any:
        """How each leaf of a state or of variables lies on the mesh.

        Along `model` lie the outputs of every matrix that divides: kernels of dense layers,
        and whatever an optimizer or a running mean keeps of the same shape. With `zero`, a
        leaf of the optimizer's state lies along `batch` with its first other axis that divides.
        """
        return map_with_path(
            lambda path, leaf: NamedSharding(self.mesh, self._spec(path, leaf.shape)), state
        )

    def _spec(self, path: str, shape: tuple[int, ...]) -> PartitionSpec:
        axes: list[str | None] = [None] * len(shape)
        model, data = self.mesh.shape[MODEL_AXIS], self.mesh.shape[AXIS]
        if model > 1 and len(shape) == 2 and shape[1] % model == 0:
            axes[1] = MODEL_AXIS
        if self.zero and data > 1 and path.startswith(_OPTIMIZER):
            free = [i for i, size in enumerate(shape) if axes[i] is None and size % data == 0]
            if free:
                axes[free[0]] = AXIS
        return PartitionSpec(*axes) if any(axes) else PartitionSpec()

    def compile(self, step: Callable[..., Any]) -> Callable[..., Any]:
        """The step under `jax.jit`; a state that it donates comes back as it lay."""
        donated = donated_by(step)
        if not donated or not (self.zero or self.mesh.shape[MODEL_AXIS] > 1):
            return jitted(
                step, self.devices[0], donate_argnums=donated, out_shardings=self.replicated
            )

        # Left to the compiler, a new state could lie otherwise, and the next step compile anew.
        return _ByState(
            lambda state: jitted(
                step,
                self.devices[0],
                donate_argnums=donated,
                out_shardings=(self.state_shardings(state), self.replicated),
            )
        )

    def put_state(self, state: Any) -> Any:
        """A copy, each leaf as `state_shardings` says."""
        if self._whole:
            return jax.device_put(copied(state), self.state_shardings(state))
        return jax.tree.map(_from_host, state, self.state_shardings(state))

    def get_state(self, state: Any) -> Any:
        """A copy on this process's first device, parts put together."""
        if not self._whole:
            state = jax.tree.map(self._seen, state)
        return plain(state, self.local_devices[0])

    def _seen(self, leaf: jax.Array) -> jax.Array:
        if not leaf.is_fully_replicated:
            leaf = jax.jit(_unchanged, out_shardings=self.replicated)(leaf)
        return _own_copy(leaf)

    def put_batch(self, batch: Any) -> Any:
        """The share over this process's devices; under several processes the whole batch."""
        own = len(self.own_parts)
        check_share(batch, own, self._whole)
        if self._whole:
            return jax.device_put(batch, self.spread)

        def one(leaf: Any) -> jax.Array:
            rows = leaf.shape[0] // own * self.batch_parts
            return jax.make_array_from_process_local_data(
                self.spread, np.asarray(leaf), (rows, *leaf.shape[1:])
            )

        return jax.tree.map(one, batch)

    @property
    def _whole(self) -> bool:
        return len(self.local_devices) == len(self.devices)


class _ByState:
    """A compiled step that is made for each structure of its state."""

    def __init__(self, make: Callable[[Any], Any]) -> None:
        self._make = make
        self._made: dict[Any, Any] = {}

    def _of(self, state: Any) -> Any:
        structure = jax.tree.structure(state)
        if structure not in self._made:
            self._made[structure] = self._make(state)
        return self._made[structure]

    def __call__(self, state: Any, batch: Any) -> Any:
        return self._of(state)(state, batch)

    def lower(self, state: Any, batch: Any) -> jax.stages.Lowered:
        """As that of a function under `jax.jit`."""
        lowered: jax.stages.Lowered = self._of(state).lower(state, batch)
        return lowered


def _unchanged(leaf: jax.Array) -> jax.Array:
    return leaf


def _is_key(leaf: Any) -> bool:
    return hasattr(leaf, "dtype") and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _from_host(leaf: Any, sharding: NamedSharding) -> jax.Array:
    if _is_key(leaf):
        data = _from_host(jax.random.key_data(leaf), NamedSharding(sharding.mesh, PartitionSpec()))
        return jax.random.wrap_key_data(data, impl=jax.random.key_impl(leaf))
    host = np.asarray(leaf)
    # Each device its own copy: one that several devices shared could not be donated.
    parts = [
        jax.device_put(np.array(host[index]), device)
        for device, index in sharding.addressable_devices_indices_map(host.shape).items()
    ]
    return jax.make_array_from_single_device_arrays(host.shape, sharding, parts)


def _own_copy(leaf: jax.Array) -> jax.Array:
    if _is_key(leaf):
        data = _own_copy(jax.random.key_data(leaf))
        return jax.random.wrap_key_data(data, impl=jax.random.key_impl(leaf))
    return leaf.addressable_data(0)
