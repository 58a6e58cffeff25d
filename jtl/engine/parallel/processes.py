"""Which devices and rows belong to which process, and how processes come together."""

from collections import Counter
from collections.abc import Mapping, Sequence
from functools import lru_cache

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jtl.errors import ConfigError

_PATIENCE = 600  # seconds between the first and the last process that come to the same point


def chosen_devices(devices: Sequence[jax.Device] | None) -> tuple[jax.Device, ...]:
    """The devices of a placement, those of each process side by side.

    Args:
        devices: those that were asked for; None is all of all processes.

    Raises:
        ConfigError: there is none, none is this process's, or processes have unequal numbers.
    """
    chosen = tuple(jax.devices() if devices is None else devices)
    if not chosen:
        raise ConfigError("a placement needs at least one device; leave `devices` out for all.")
    counts = Counter(device.process_index for device in chosen)
    check_device_counts(counts)
    if jax.process_index() not in counts:
        raise ConfigError(
            f"none of the {len(chosen)} devices is one of process {jax.process_index()}'s; give "
            "every process some, or each of them its own jax.local_devices()."
        )
    # A process's rows of a batch are then consecutive, in whatever order the runtime counts.
    return tuple(sorted(chosen, key=lambda device: device.process_index))


def own_devices(devices: Sequence[jax.Device]) -> tuple[jax.Device, ...]:
    """Those of this process."""
    return tuple(device for device in devices if device.process_index == jax.process_index())


def own_range(devices: Sequence[jax.Device]) -> range:
    """Where this process's devices stand among them all."""
    places = [
        place for place, each in enumerate(devices) if each.process_index == jax.process_index()
    ]
    return range(places[0], places[-1] + 1)


def check_device_counts(counts: Mapping[int, int]) -> None:
    """Refuses processes with unequal numbers of devices.

    Args:
        counts: devices by process.

    Raises:
        ConfigError: which process has how many.
    """
    if len(set(counts.values())) > 1:
        listed = ", ".join(f"process {index} has {counts[index]}" for index in sorted(counts))
        raise ConfigError(
            f"all processes need the same number of devices, but {listed}; start each with as many."
        )


@lru_cache
def connect(mesh: Mesh) -> None:
    """Connects the devices of several processes along each axis of a mesh, and along all.

    Left to the first step, a connection would fail where the processes come to it apart: on CPUs,
    each waits 30 seconds for the others there, whatever is set, and one that compiles on a busy
    machine takes longer. So all wait for each other here, as long as that may take.

    Args:
        mesh: over devices of this process and others, which call this as well; nothing happens
            where all are this process's own.
    """
    devices = mesh.devices.flatten()
    members = sorted({device.process_index for device in devices})
    if len(members) == 1:
        return
    # JAX keeps the client for its own start, and has no public name for it.
    from jax._src import distributed

    names = ",".join(f"{name}={size}" for name, size in mesh.shape.items())
    point = f"jtl/connect/{names}/{','.join(str(device.id) for device in devices)}"
    client = distributed.global_state.client
    assert client is not None, "processes that see each other have joined"
    client.wait_at_barrier(point, _PATIENCE * 1000, members)
    place = NamedSharding(mesh, PartitionSpec(mesh.axis_names))
    ones = jax.make_array_from_callback(
        (devices.size,), place, lambda index: np.ones(devices.size, np.int8)[index]
    )
    for axes in (*((name,) for name in mesh.axis_names), mesh.axis_names):
        jax.block_until_ready(_summed(ones, mesh, axes))


def _summed(ones: jax.Array, mesh: Mesh, axes: tuple[str, ...]) -> jax.Array:
    def own(part: jax.Array) -> jax.Array:
        return jax.lax.psum(part, axes)

    spread = PartitionSpec(mesh.axis_names)
    summed = jax.shard_map(own, mesh=mesh, in_specs=spread, out_specs=spread, check_vma=False)
    return jax.jit(summed)(ones)
