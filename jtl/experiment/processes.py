"""Several processes as one: how they start, and what one of them does for all."""

import json
import math
import os
from collections import Counter
from collections.abc import Callable
from typing import Any, TypeVar

import jax
import numpy as np

from jtl import errors
from jtl.engine.parallel.processes import check_device_counts
from jtl.errors import ConfigError, JtlError
from jtl.experiment.rollcall import Seat, call_roll

Value = TypeVar("Value")

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


def is_first() -> bool:
    """Whether this is the process that prints and writes; one that is alone is."""
    return jax.process_index() == 0


def on_first(function: Callable[[], Value]) -> Value:
    """What a function returns on process 0, which alone runs it, on every process.

    All processes call this at the same point, and wait there for process 0. An error of jtl's
    is raised on all of them.

    Args:
        function: returns what JSON can hold.
    """
    if jax.process_count() == 1:
        return function()
    if not is_first():
        return _opened(json.loads(_text_from_first(None)))
    try:
        outcome = {"value": function()}
        text = json.dumps(outcome)
    except JtlError as error:
        _text_from_first(json.dumps({"error": type(error).__name__, "text": str(error)}))
        raise
    except BaseException as error:
        _text_from_first(json.dumps({"crash": repr(error)}))
        raise
    return _opened(json.loads(_text_from_first(text)))


def broadcast_from_first(tree: Any) -> Any:
    """The arrays that process 0 gives, on every process, as numpy arrays.

    Args:
        tree: a pytree of arrays and numbers of the same shapes and dtypes on all processes.
    """
    from jax.experimental import multihost_utils

    return multihost_utils.broadcast_one_to_all(tree)


def _opened(outcome: dict[str, Any]) -> Any:
    if "error" in outcome:
        raise getattr(errors, outcome["error"], JtlError)(outcome["text"])
    if "crash" in outcome:
        raise RuntimeError(f"process 0 failed: {outcome['crash']}")
    return outcome["value"]


def _text_from_first(text: str | None) -> str:
    data = np.frombuffer((text or "").encode(), np.uint8)
    size = int(broadcast_from_first(np.int32(data.size)))
    # Few lengths, because each is compiled.
    buffer = np.zeros(1 << size.bit_length(), np.uint8)
    buffer[: data.size] = data
    return bytes(broadcast_from_first(buffer)[:size]).decode()


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
