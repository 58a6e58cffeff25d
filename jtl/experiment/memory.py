"""What is said when the memory of a device is exhausted: one line, with what to reduce."""

from collections.abc import Iterator
from contextlib import contextmanager

import jax

from jtl.errors import DeviceMemoryError
from jtl.experiment.options import Config

_EXHAUSTED = "RESOURCE_EXHAUSTED"  # as the runtime's own errors begin


@contextmanager
def memory_named(config: Config) -> Iterator[None]:
    """Says of an exhausted memory what in a config to reduce.

    Args:
        config: of what is run inside.

    Raises:
        DeviceMemoryError: in place of the runtime's own error.
    """
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if _EXHAUSTED not in str(error):
            raise
        first = str(error).partition(_EXHAUSTED)[2].lstrip(": ").splitlines()
        said = first[0][:200].rstrip(".") if first else "no more is known"
        raise DeviceMemoryError(
            f"the memory of the device is exhausted ({said}): {_advice(config)}. What was saved "
            "before stands."
        ) from error


def _advice(config: Config) -> str:
    train = config.train
    ways = [f"lower data.batch_size (now {config.data.batch_size})"]
    ways.append(f"raise train.accumulate (now {train.accumulate})")
    if not config.model.remat:
        ways.append("name stages in model.remat")
    if train.cache != "off":
        ways.append("set train.cache=off")
    return ", or ".join(ways) + "; with --resume, name what changes by --allow"
