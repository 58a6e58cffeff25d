"""How several processes of one run start: each knows its place, and all have arrived."""

import math
import os
from collections import Counter

import jax
import numpy as np
from jax.sharding import Mesh

from jtl.engine.parallel.processes import check_device_counts, connect
from jtl.errors import ConfigError
from jtl.experiment.rollcall import Seat, call_roll

_TIMEOUT = 300.0  # seconds, as JAX itself waits


def start_processes(
    coordinator: str | None = None,
    processes: int | None = None,
    process: int | None = None,
    *,
    timeout: float = _TIMEOUT,
) -> None:
    """Joins this process with the others; the first thing that a process does with JAX.

    Without arguments, the place of this process is what SLURM, Open MPI, a TPU pod or Kubernetes
    says of it.

    Args:
        coordinator: `HOST:PORT` of process 0.
        processes: how many there are.
        process: which one this is, from 0.
        timeout: how long to wait for the others, in seconds.

    Raises:
        ConfigError: only some arguments are given, or none and nothing says the place; a process
            does not arrive in time, or they have unequal numbers of devices (on every process).
    """
    seat = _seat(coordinator, processes, process, timeout)
    _check_not_late()
    call_roll(seat, timeout)
    try:
        jax.distributed.initialize(
            seat.coordinator,
            seat.processes,
            seat.process,
            initialization_timeout=math.ceil(timeout),
        )
    except (RuntimeError, ValueError) as error:
        raise ConfigError(f"JAX could not join {seat.processes} processes: {error}") from error
    try:
        check_device_counts(Counter(device.process_index for device in jax.devices()))
    except ConfigError:
        # All of them are here, and all find the same.
        jax.distributed.shutdown()
        raise
    # As JAX's broadcasts have them.
    grid = np.asarray(jax.devices()).reshape(jax.process_count(), -1)
    connect(Mesh(grid, ("processes", "local_devices")))


def _seat(
    coordinator: str | None, processes: int | None, process: int | None, timeout: float
) -> Seat:
    given = {"coordinator": coordinator, "processes": processes, "process": process}
    missing = [name for name, value in given.items() if value is None]
    if coordinator is not None and processes is not None and process is not None:
        return Seat(coordinator=coordinator, processes=processes, process=process)
    if len(missing) < len(given):
        raise ConfigError(
            f"{' and '.join(missing)} not given: several processes take coordinator, processes "
            "and process, or none of them where SLURM, Open MPI, a TPU pod or Kubernetes says it."
        )
    return _detected(timeout)


def _detected(timeout: float) -> Seat:
    # The roll call needs what `initialize` would find out for itself and keep.
    from jax._src.clusters import ClusterEnv

    advice = (
        "give coordinator (HOST:PORT of process 0), processes (how many) and process (which, "
        "from 0) to each."
    )
    address = os.environ.get("JAX_COORDINATOR_ADDRESS")
    try:
        found = ClusterEnv.auto_detect_unset_distributed_params(
            address, None, None, None, None, math.ceil(timeout)
        )
    except (RuntimeError, KeyError, ValueError) as error:
        raise ConfigError(
            f"what the environment says of the processes cannot be used ({error}); {advice}"
        ) from error
    coordinator, processes, process, _ = found
    if coordinator is None or processes is None or process is None:
        raise ConfigError(
            "no SLURM, Open MPI, TPU pod or Kubernetes was found to say which of several "
            f"processes this is; {advice}"
        )
    return Seat(coordinator=coordinator, processes=processes, process=process)


def _check_not_late() -> None:
    # Asked before the roll call: once the others wait in `initialize`, they cannot be told.
    from jax._src import xla_bridge

    if jax.distributed.is_initialized() or xla_bridge.backends_are_initialized():
        raise ConfigError(
            "JAX has already started in this process, alone; call start_processes before "
            "anything else that uses a device."
        )
