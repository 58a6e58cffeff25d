"""Which devices and rows belong to which process."""

from collections import Counter
from collections.abc import Mapping, Sequence

import jax

from jtl.errors import ConfigError


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
