"""What is chosen by the kind of device that a program is traced for; here and nowhere else."""

import jax


def on_cpu() -> bool:
    """Whether a program that is traced now is for a processor, and not for an accelerator."""
    return jax.default_backend() == "cpu"
