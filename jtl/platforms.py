"""What is chosen by the kind of device that a program is traced for; here and nowhere else."""

from functools import lru_cache
from typing import Any

import jax

# Of XLA's options for a CPU, as jaxlib 0.10.2 to 0.12.0 have them:
_ON_CPU: dict[str, str | bool] = {
    # Sums and products by YNNPACK, as without this, but convolutions by Eigen, which computes
    # those of large images on all cores and not on one.
    "xla_cpu_experimental_ynn_fusion_type": (
        "LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT,LIBRARY_FUSION_TYPE_REDUCE"
    ),
    # An optimizer's state is changed in place: without this it is copied first wherever the new
    # parameters are computed from the old state.
    "xla_cpu_copy_insertion_use_region_analysis": True,
    # As fast as the default, with two thirds of a full step's temporaries.
    "xla_cpu_scheduler_type": "CPU_SCHEDULER_TYPE_MEMORY_OPTIMIZED",
}


def on_cpu() -> bool:
    """Whether a program that is traced now is for a processor, and not for an accelerator.

    It is for the device, or the platform, that `jax.default_device` names, such as one of a
    machine that is not here; else for JAX's default backend.
    """
    return _platform() == "cpu"


def on_gpu() -> bool:
    """Likewise, whether it is for a GPU."""
    return _platform() in ("gpu", "cuda", "rocm")


def _platform() -> str:
    options: Any = jax.config  # which declares only some of what it has
    chosen = options.jax_default_device
    if chosen is None:
        return jax.default_backend()
    return str(chosen if isinstance(chosen, str) else chosen.platform)


def for_cpu_alone(x: jax.Array) -> bool:
    """Whether what is traced for `x` runs on a processor and nowhere else.

    A program of any batch size is being exported, which every platform is to run; one of a fixed
    size is taken to be for this machine.
    """
    return on_cpu() and all(isinstance(size, int) for size in x.shape)


def compiler_options(device: jax.Device | None = None) -> dict[str, str | bool] | None:
    """What XLA is told beside a network's program, as `jax.jit` takes it; None is nothing.

    JAX takes options for whole programs only, and refuses them inside another.

    Args:
        device: what the program is compiled for; by default what one is traced for now.
    """
    cpu = on_cpu() if device is None else device.platform == "cpu"
    return dict(_ON_CPU) if cpu and _are_known() else None


@lru_cache
def _are_known() -> bool:
    """Whether this XLA has the options, whose names may change."""
    try:
        with jax.default_device(jax.local_devices(backend="cpu")[0]):
            jax.jit(lambda: 0, compiler_options=_ON_CPU).lower().compile()
    except jax.errors.JaxRuntimeError:
        return False
    return True
