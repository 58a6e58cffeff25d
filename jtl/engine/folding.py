"""BatchNorms that use stored statistics, folded into the convolution before them."""

from typing import Any

import flax.linen as nn
import jax
from flax.linen.dtypes import canonicalize_dtype

from jtl.engine.normalization import fold
from jtl.errors import ConfigError
from jtl.platforms import on_cpu


class Folding:
    """Remembers a network's last convolution, for the case that a BatchNorm takes its output.

    An accelerator's convolutions add a bias at no cost, while a BatchNorm behind one reads and
    writes all of its output once more. The convolution is traced again with the folded kernel; the
    first one, whose output nobody then uses, is dropped by the compiler. On a CPU folding a large
    kernel at every step costs more than it saves.
    """

    def __init__(self) -> None:
        self._last: tuple[nn.Conv, jax.Array, jax.Array] | None = None

    def remember(self, module: nn.Module, x: jax.Array, output: Any) -> None:
        """Notes what a module made of `x`, if it is a plain convolution."""
        if type(module) is nn.Conv and module.mask is None and not on_cpu():
            self._last = (module, x, output)

    def fold(self, norm: nn.BatchNorm, x: jax.Array) -> jax.Array | None:
        """What a BatchNorm by stored statistics makes of `x`; None where nothing can be folded."""
        if type(norm) is not nn.BatchNorm or norm.axis % x.ndim != x.ndim - 1:
            return None
        if self._last is None or self._last[2] is not x:
            return None
        conv, before, _ = self._last
        variables, own = conv.variables["params"], parameters(norm)
        kernel, bias = fold(
            variables["kernel"],
            variables.get("bias"),
            stored_statistics(norm),
            epsilon=norm.epsilon,
            **own,
        )
        folded = conv.clone(parent=None, name=None, use_bias=True)
        output: Any = folded.apply({"params": {"kernel": kernel, "bias": bias}}, before)
        return output.astype(result_dtype(norm, x))


def parameters(norm: nn.BatchNorm) -> dict[str, jax.Array | None]:
    """A BatchNorm's `scale` and `bias`, None for one that it lacks."""
    wanted = {"scale": norm.use_scale, "bias": norm.use_bias}
    return {
        name: norm.get_variable("params", name) if used else None for name, used in wanted.items()
    }


def stored_statistics(norm: nn.BatchNorm) -> dict[str, jax.Array]:
    """A BatchNorm's running `mean` and `var`.

    Raises:
        ConfigError: the variables that the network was given lack them.
    """
    found: dict[str, jax.Array] = {
        name: norm.get_variable("batch_stats", name) for name in ("mean", "var")
    }
    if missing := [name for name, value in found.items() if value is None]:
        path = "/".join(norm.path)
        raise ConfigError(
            f"BatchNorm at {path!r} has no running {' and '.join(missing)}: give variables with "
            f"'batch_stats' for it, as model.init or load_model makes them."
        )
    return found


def result_dtype(norm: nn.BatchNorm, x: jax.Array) -> Any:
    """The dtype that Flax gives a BatchNorm's output."""
    own = [value for value in parameters(norm).values() if value is not None]
    return canonicalize_dtype(x, *own, dtype=norm.dtype)
