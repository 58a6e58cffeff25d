"""The layers that every family is built from: factories with shared numerics."""

import dataclasses
import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jtl.platforms import on_cpu

Initializer = Callable[..., jax.Array]
# What Flax tells a convolution beside its arrays, strides and padding.
_CONVOLUTION = (
    *("lhs_dilation", "rhs_dilation", "dimension_numbers", "feature_group_count"),
    "precision",
)

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
        convolve = None
        if groups == 1 and kernel_size == (1, 1) and (rows, columns) == (0, 0):
            convolve = _pointwise
        elif groups == 1 and stride == 2:
            convolve = _halving
        return nn.Conv(
            features,
            kernel_size,
            conv_general_dilated=convolve,
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


def _pointwise(
    x: jax.Array,
    kernel: jax.Array,
    strides: Sequence[int],
    padding: Sequence[tuple[int, int]],
    **options: Any,
) -> jax.Array:
    """A 1×1 convolution whose gradient a CPU computes by matrix products, up to 8 × as fast."""
    if not on_cpu():
        return jax.lax.conv_general_dilated(x, kernel, strides, padding, **options)
    return _by_products(x, kernel, tuple(strides), tuple(padding), **options)


# Traced once for all convolutions of a shape.
@partial(jax.jit, static_argnums=(2, 3), static_argnames=_CONVOLUTION)
def _by_products(
    x: jax.Array,
    kernel: jax.Array,
    strides: tuple[int, ...],
    padding: tuple[tuple[int, int], ...],
    **options: Any,
) -> jax.Array:
    @jax.custom_jvp
    def convolve(x: jax.Array, kernel: jax.Array) -> jax.Array:
        return jax.lax.conv_general_dilated(x, kernel, strides, padding, **options)

    def multiply(x: jax.Array, kernel: jax.Array) -> jax.Array:
        seen = x[:, :: strides[0], :: strides[1]]
        # Of two axes each: with four, the product's gradient would be a quarter slower.
        flat = seen.reshape(-1, seen.shape[-1])
        product = jnp.matmul(flat, kernel[0, 0], precision=options["precision"])
        return product.reshape(*seen.shape[:-1], -1)

    def tangent(primals: tuple[Any, ...], tangents: tuple[Any, ...]) -> tuple[Any, Any]:
        (x, kernel), (dx, dk) = primals, tangents
        parts = [
            multiply(left, right)
            for left, right, moves in ((dx, kernel, dx), (x, dk, dk))
            if not isinstance(moves, jax.custom_derivatives.SymbolicZero)
        ]
        out = convolve(x, kernel)
        return out, sum(parts) if parts else jnp.zeros_like(out)

    convolve.defjvp(tangent, symbolic_zeros=True)
    return convolve(x, kernel)


def _halving(
    x: jax.Array,
    kernel: jax.Array,
    strides: Sequence[int],
    padding: Sequence[tuple[int, int]],
    **options: Any,
) -> jax.Array:
    """A convolution at stride 2; one of images takes squares of four pixels as one of 4 × as many
    channels, which matrix units, made for many channels, compute in less than half of the time.
    """
    channels = x.shape[-1]
    if on_cpu() or channels > 4:
        return jax.lax.conv_general_dilated(x, kernel, strides, padding, **options)
    for axis, (low, high) in enumerate(padding, 1):
        size = kernel.shape[axis - 1]
        outputs = (x.shape[axis] + low + high - size) // 2 + 1
        shift = low % 2  # the kernel begins at an even place
        blocks = -(-(size + shift) // 2)
        kernel = _pad(kernel, axis - 1, shift, 2 * blocks - size - shift)
        x = _pad(x, axis, low + shift, 2 * (outputs + blocks - 1) - x.shape[axis] - low - shift)
    batch, height, width = x.shape[0], x.shape[1] // 2, x.shape[2] // 2
    rows, columns = kernel.shape[0] // 2, kernel.shape[1] // 2
    x = x.reshape(batch, height, 2, width, 2, channels).swapaxes(2, 3)
    x = x.reshape(batch, height, width, 4 * channels)
    kernel = kernel.reshape(rows, 2, columns, 2, channels, -1).swapaxes(1, 2)
    kernel = kernel.reshape(rows, columns, 4 * channels, -1)
    return jax.lax.conv_general_dilated(x, kernel, (1, 1), "VALID", **options)


def _pad(x: jax.Array, axis: int, low: int, high: int) -> jax.Array:
    """Zeros before and after along an axis; what is negative is cut off."""
    widths = [(low, high, 0) if own == axis else (0, 0, 0) for own in range(x.ndim)]
    return jax.lax.pad(x, jnp.zeros((), x.dtype), widths)
