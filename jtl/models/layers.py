"""The layers that every family is built from: factories with shared numerics, and pooling."""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

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
        pointwise = kernel_size == (1, 1) and (rows, columns) == (0, 0) and groups == 1
        return nn.Conv(
            features,
            kernel_size,
            conv_general_dilated=_pointwise if pointwise else None,
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
    x: jax.Array, kernel: jax.Array, strides: Sequence[int], *rest: Any, **options: Any
) -> jax.Array:
    """A 1×1 convolution whose gradient a CPU computes by matrix products, up to 8 × as fast."""

    @jax.custom_jvp
    def convolve(x: jax.Array, kernel: jax.Array) -> jax.Array:
        return jax.lax.conv_general_dilated(x, kernel, strides, *rest, **options)

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
    on_cpu = jax.default_backend() == "cpu"
    return convolve(x, kernel) if on_cpu else convolve.fun(x, kernel)


def global_average(x: jax.Array) -> jax.Array:
    """The mean over space, `[batch, h, w, c]` to `[batch, c]`, summed in at least float32."""
    return jnp.mean(x, axis=(1, 2), dtype=float_dtype(x.dtype))


def average_pool(x: jax.Array, window: int, *, count_padding: bool) -> jax.Array:
    """The mean over a square window at stride 1, output as large as the input.

    Args:
        x: float `[batch, height, width, channel]`.
        window: an odd width in pixels.
        count_padding: whether the zeros around the image count in the divisor: torch's
            `avg_pool2d` counts them, Keras's `AveragePooling2D` does not.
    """
    pad = window // 2
    return nn.avg_pool(
        x,
        (window, window),
        strides=(1, 1),
        padding=((pad, pad), (pad, pad)),
        count_include_pad=count_padding,
    )


def adaptive_average_pool(x: jax.Array, size: int) -> jax.Array:
    """Averages `[batch, h, w, c]` into `[batch, size, size, c]`, enlarging where it must.

    Cell i of n covers the pixels from floor(i·h/n) up to ceil((i+1)·h/n), as torch's
    `AdaptiveAvgPool2d` documents; cells overlap where h is no multiple of n.
    """
    if x.shape[1:3] == (size, size):
        return x
    dtype = float_dtype(x.dtype)
    rows = _pooling_matrix(x.shape[1], size, dtype)
    columns = _pooling_matrix(x.shape[2], size, dtype)
    pooled = jnp.einsum(
        "bhwc,ih,jw->bijc", x.astype(dtype), rows, columns, precision=jax.lax.Precision.HIGHEST
    )
    return pooled.astype(x.dtype)


def _pooling_matrix(length: int, size: int, dtype: Any) -> jax.Array:
    rows = []
    for i in range(size):
        start, stop = i * length // size, -(-(i + 1) * length // size)
        rows.append([1 / (stop - start) if start <= j < stop else 0.0 for j in range(length)])
    return jnp.asarray(rows, dtype)
