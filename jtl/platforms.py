"""What is chosen by the kind of device that a program is traced for; here and nowhere else."""

from typing import Any

import jax


def on_cpu() -> bool:
    """Whether a program that is traced now is for a processor, and not for an accelerator.

    It is for the device, or the platform, that `jax.default_device` names, such as one of a
    machine that is not here; else for JAX's default backend.
    """
    options: Any = jax.config  # which declares only some of what it has
    chosen = options.jax_default_device
    if chosen is None:
        return jax.default_backend() == "cpu"
    return (chosen if isinstance(chosen, str) else chosen.platform) == "cpu"
