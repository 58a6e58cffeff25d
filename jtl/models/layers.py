"""The layers that every family is built from: factories with shared numerics."""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.experimental.xla_metadata import set_xla_metadata

from jtl.models.convolutions import convolve
from jtl.platforms import for_cpu_alone, on_cpu

Initializer = Callable[..., jax.Array]
# He normal over the fan out: what torchvision's ResNet and VGG draw their convolutions from.
conv_normal: Initializer = nn.initializers.variance_scaling(2.0, "fan_out", "normal")
# Uniform within 1/sqrt(fan_in): the default of torch's dense layers.
dense_uniform: Initializer = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")


def bias_uniform(fan_in: int) -> Initializer:
    """Uniform within 1/sqrt(fan_in): the default of a torch dense layer's bias."""
    bound = 1 / math.sqrt(fan_in)

    def init(key: jax.Array, shape: Sequence[int], dtype: Any = jnp.float32) -> jax.Array:
        return jax.random.uniform(key, tuple(shape), dtype, -bound, bound)

    return init


def float_dtype(dtype: Any) -> Any:
    """The dtype for sums, means and logits: at least float32, float64 where given."""
    return jnp.promote_types(dtype, jnp.float32)


@jax.custom_jvp
def computed_once(x: jax.Array) -> jax.Array:
    """`x`, which a CPU computes and keeps before anything reads it.

    XLA would compute what takes little arithmetic anew for each reader: of a chain of residual
    sums every block would add up all before it.
    """
    if not for_cpu_alone(x):
        return x
    with set_xla_metadata(inlineable="false"):  # nothing is fused across a call
        return _unchanged(x)


@computed_once.defjvp
def _linear(primals: tuple[jax.Array], tangents: tuple[jax.Array]) -> tuple[jax.Array, jax.Array]:
    return computed_once(*primals), *tangents


@jax.jit
def _unchanged(x: jax.Array) -> jax.Array:
    return x


@jax.custom_jvp
def lean_relu(x: jax.Array) -> jax.Array:
    """ReLU whose gradient, on accelerators, asks its output, which a later layer keeps anyway.

    The gradient that JAX has asks the input, which a compiler keeps beside the output or
    computes again from all that it was made of.
    """
    return nn.relu(x)


@lean_relu.defjvp
def _by_output(
    primals: tuple[jax.Array], tangents: tuple[jax.Array]
) -> tuple[jax.Array, jax.Array]:
    output = nn.relu(*primals)
    if on_cpu():
        return output, jnp.where(primals[0] > 0, tangents[0], 0)
    # Were it not shut off, the compiler would ask the input all the same.
    output = jax.lax.optimization_barrier(output)
    return output, jnp.where(output > 0, tangents[0], 0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Layers:
    """Makes a network's convolutions and norms, so that their numerics are said once.

    Attributes:
        dtype: of the computation; None lets inputs and parameters decide.
        param_dtype: of new parameters.
        epsilon: added to the variance in BatchNorm.
        momentum: the share of the old running statistics kept at a step (torch's 0.1 is 0.9).
        use_scale: whether BatchNorm has a scale (gamma).
        kernel_init: draws the kernels of convolutions.
    """

    dtype: Any = None
    param_dtype: Any = jnp.float32
    epsilon: float = 1e-5
    momentum: float = 0.9
    use_scale: bool = True
    kernel_init: Initializer = conv_normal

    def conv(
        self,
        features: int,
        kernel_size: tuple[int, int],
        *,
        name: str,
        stride: int = 1,
        padding: tuple[int, int] | None = None,
        groups: int = 1,
        use_bias: bool = False,
    ) -> nn.Conv:
        """A convolution; `padding` in pixels a side, by default half the kernel."""
        half = (kernel_size[0] // 2, kernel_size[1] // 2)
        rows, columns = half if padding is None else padding
        return nn.Conv(
            features,
            kernel_size,
            conv_general_dilated=convolve if groups == 1 else None,
            strides=(stride, stride),
            padding=((rows, rows), (columns, columns)),
            feature_group_count=groups,
            use_bias=use_bias,
            dtype=self.dtype,
            param_dtype=self.param_dtype,
            kernel_init=self.kernel_init,
            name=name,
        )

    def norm(self, *, name: str) -> nn.BatchNorm:
        """A BatchNorm; whether it uses running statistics is said at the call."""
        return nn.BatchNorm(
            momentum=self.momentum,
            epsilon=self.epsilon,
            use_scale=self.use_scale,
            dtype=self.dtype,
            param_dtype=self.param_dtype,
            name=name,
        )
