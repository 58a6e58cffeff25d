"""The four ways to ask for a placement, and what is refused at once."""

from collections.abc import Sequence

import jax

from jtl.engine.parallel.mapped import Mapped
from jtl.engine.parallel.mesh import Meshed
from jtl.engine.parallel.one import One
from jtl.engine.parallel.placement import Placement
from jtl.engine.parallel.processes import chosen_devices, own_devices
from jtl.errors import ConfigError


def single(device: jax.Device | None = None) -> Placement:
    """One device of this process, the first by default.

    Of several processes each then computes everything for itself.

    Raises:
        ConfigError: the device is another process's.
    """
    chosen = chosen_devices([device or jax.local_devices()[0]])
    return One(devices=chosen)


def pmap(devices: Sequence[jax.Device] | None = None) -> Placement:
    """`jax.pmap` over devices with the axis named `batch`, the state replicated.

    Args:
        devices: all of all processes by default; `jax.local_devices()` are this process's own.

    Raises:
        ConfigError: there is no device, or the processes have unequal numbers of them.
    """
    chosen = chosen_devices(devices)
    return Mapped.over(chosen, own_devices(chosen))


def mesh(
    devices: Sequence[jax.Device] | None = None,
    *,
    data: int | None = None,
    model: int = 1,
    zero: bool = False,
) -> Placement:
    """`jax.jit` over a mesh of devices with the axes `batch` and `model`.

    The batch is spread over `batch`. With `model` above 1 every matrix of parameters whose
    outputs `model` divides, such as a wide head, lies in as many parts along its outputs, and so
    do its running mean and its optimizer state; a matrix that does not divide stays whole.

    Args:
        devices: all of all processes by default.
        data: how many parts the batch is spread over; by default as many as fit.
        model: how many parts wide layers are split into.
        zero: whether each leaf of the optimizer's state is spread over `batch` too, along its
            first axis that divides; parameters stay whole there.

    Raises:
        ConfigError: `data` times `model` is not the number of devices, or they do not divide
            among the processes.
    """
    chosen = chosen_devices(devices)
    data = _parts(len(chosen), data, model)
    return Meshed.over(chosen, own_devices(chosen), data=data, model=model, zero=zero)


def best() -> Placement:
    """`pmap` where there are several devices, `single` where there is one."""
    return pmap() if jax.device_count() > 1 else single()


def _parts(devices: int, data: int | None, model: int) -> int:
    parts = devices // model if data is None and model > 0 else data
    if model > 0 and parts is not None and parts * model == devices:
        return parts
    asked = f"model={model}" if data is None else f"data={data}, model={model}"
    fitting = [f"data={devices // m}, model={m}" for m in range(1, devices + 1) if not devices % m]
    raise ConfigError(
        f"mesh({asked}) does not fit {devices} devices; what fits is {'; or '.join(fitting)}."
    )
