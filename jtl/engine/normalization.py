"""The arithmetic of BatchNorm: statistics of the global batch, and normalising by them."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from jtl.engine.batch import BatchContext, batch_sum, check_leading


def batch_statistics(
    x: jax.Array,
    context: BatchContext,
    *,
    axis: int,
    fast: bool,
    path: str,
    around: jax.Array,
    mask: jax.Array | None = None,
) -> dict[str, jax.Array]:
    """Mean and variance, `[channel]`, over the unmasked examples of the global batch.

    Args:
        x: `[batch, ...]` with the channels at `axis`.
        context: the batch.
        axis: of the channels.
        fast: whether the variance is the mean square less the squared mean.
        path: the BatchNorm's own.
        around: `[channel]`, the running mean; squares of what differs from it lose less to
            rounding than those of `x`.
        mask: bool, broadcastable to `x`, False for places that the module itself leaves out.

    Raises:
        ConfigError: the first axis of `x` is not the batch.
    """
    check_leading(x, context, path, "BatchNorm")
    over = context.statistics_axis
    around = jax.lax.stop_gradient(around)
    return _statistics(x, context.mask, mask, around, axis=axis, fast=fast, axis_name=over)


# Traced once for all norms of a shape: a ResNet-50 has 53 of 12.
@partial(jax.jit, static_argnames=("axis", "fast", "axis_name"))
def _statistics(
    x: jax.Array,
    examples: jax.Array,
    mask: jax.Array | None,
    around: jax.Array,
    *,
    axis: int,
    fast: bool,
    axis_name: str | None,
) -> dict[str, jax.Array]:
    dtype = jnp.promote_types(x.dtype, jnp.float32)
    axes = tuple(a for a in range(x.ndim) if a != axis % x.ndim)
    weight = examples.astype(dtype).reshape(-1, *[1] * (x.ndim - 1))
    if mask is None:
        total = jnp.sum(weight) * (x.size // (x.shape[0] * x.shape[axis]))
    else:
        weight = jnp.where(jnp.broadcast_to(mask, x.shape), weight, 0)
        total = jnp.sum(weight, axes)
    total = jnp.maximum(batch_sum(total, axis_name), 1)

    def mean(values: jax.Array) -> jax.Array:
        return batch_sum(jnp.sum(values * weight, axes), axis_name) / total

    shape = [1] * x.ndim
    shape[axis] = x.shape[axis]
    around = around.astype(dtype)
    differences = x.astype(dtype) - around.reshape(shape)
    offset = mean(differences)
    if fast:
        variance = jnp.maximum(mean(jnp.square(differences)) - jnp.square(offset), 0)
    else:
        variance = mean(jnp.square(differences - offset.reshape(shape)))
    return {"mean": around + offset, "var": variance}


@partial(jax.jit, static_argnames=("epsilon", "axis", "dtype"))
def normalize(
    x: jax.Array,
    statistics: dict[str, jax.Array],
    *,
    scale: jax.Array | None,
    bias: jax.Array | None,
    epsilon: float,
    axis: int,
    dtype: Any,
) -> jax.Array:
    """Centred, divided by the deviation, scaled and moved; rounded once, at the end.

    Args:
        x: `[batch, ...]` with the channels at `axis`.
        statistics: `mean` and `var`, `[channel]`.
        scale: `[channel]`, or None for 1.
        bias: `[channel]`, or None for 0.
        epsilon: added to the variance.
        axis: of the channels.
        dtype: of the result.
    """
    factor, offset = _affine(statistics, scale, bias, epsilon)
    # What each element is moved by has no gradient; the mean's goes through the offset. The
    # backward pass then needs two sums a channel, which it takes in one reading.
    center = jax.lax.stop_gradient(statistics["mean"])
    offset = offset - (statistics["mean"] - center) * factor
    shape = [1] * x.ndim
    shape[axis] = x.shape[axis]
    factor, offset, center = (own.reshape(shape) for own in (factor, offset, center))
    return ((x - center) * factor + offset).astype(dtype)


def fold(
    kernel: jax.Array,
    kernel_bias: jax.Array | None,
    statistics: dict[str, jax.Array],
    *,
    scale: jax.Array | None,
    bias: jax.Array | None,
    epsilon: float,
) -> tuple[jax.Array, jax.Array]:
    """Kernel and bias of a convolution that normalises by stored statistics as it goes.

    Args:
        kernel: `[..., channel]`, the channels being those that leave the convolution.
        kernel_bias: of the convolution, `[channel]`, or None.
        statistics: `mean` and `var`, `[channel]`.
        scale: the BatchNorm's, `[channel]`, or None for 1.
        bias: the BatchNorm's, `[channel]`, or None for 0.
        epsilon: added to the variance.
    """
    factor, offset = _affine(statistics, scale, bias, epsilon)
    center = statistics["mean"] if kernel_bias is None else statistics["mean"] - kernel_bias
    by_channel = factor.reshape(*[1] * (kernel.ndim - 1), -1)
    return kernel * by_channel, offset - center * factor


def _affine(
    statistics: dict[str, jax.Array],
    scale: jax.Array | None,
    bias: jax.Array | None,
    epsilon: float,
) -> tuple[jax.Array, jax.Array]:
    factor = jax.lax.rsqrt(statistics["var"] + epsilon)
    if scale is not None:
        factor = factor * scale
    return factor, jnp.zeros_like(factor) if bias is None else bias.astype(factor.dtype)
