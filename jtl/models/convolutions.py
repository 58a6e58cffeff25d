"""How a convolution is computed on each kind of device; what it computes is the same."""

import functools
import itertools
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from jtl.platforms import for_cpu_alone, on_cpu

# What Flax tells a convolution beside its arrays, strides and padding.
_OPTIONS = (
    *("lhs_dilation", "rhs_dilation", "dimension_numbers", "feature_group_count"),
    "precision",
)


def convolve(
    x: jax.Array,
    kernel: jax.Array,
    strides: Sequence[int],
    padding: Sequence[tuple[int, int]],
    **options: Any,
) -> jax.Array:
    """A convolution over two axes in one group and without dilation.

    Args:
        x: float `[batch, height, width, channel]`.
        kernel: float `[rows, columns, channel, feature]`.
        strides: pixels between two places of the kernel, along each axis.
        padding: pixels before and after, along each axis.
        **options: those that `flax.linen.Conv` passes on.
    """
    pointwise = kernel.shape[:2] == (1, 1) and not any(itertools.chain(*padding))
    if not on_cpu():
        if tuple(strides) == (2, 2) and _is_of_images(x) and not pointwise:
            return _in_squares(x, kernel, padding, **options)
    elif for_cpu_alone(x):
        fixed = (tuple(strides), tuple(padding))
        # In half precision each of several products would be rounded.
        several = not (pointwise or _is_of_images(x) or x.dtype.itemsize < 4)
        if several and _is_slow(x, kernel, *fixed):
            return _products(x, kernel, *fixed, options["precision"])
        if pointwise or (several and _is_slow_backward(x, kernel, *fixed)):
            return _by_products(x, kernel, *fixed, pointwise, **options)
    return jax.lax.conv_general_dilated(x, kernel, strides, padding, **options)


def _is_of_images(x: jax.Array) -> bool:
    return x.shape[-1] <= 4


def _is_slow(
    x: jax.Array,
    kernel: jax.Array,
    strides: Sequence[int],
    padding: Sequence[tuple[int, int]],
) -> bool:
    """Whether a convolution takes a CPU longer than one product a place of the kernel.

    It does where outputs are no more than features; and where the kernel is larger than the
    image, XLA takes it for the image, and up to 75 times as long (benchmarks/README.md).
    """
    return _places(x, kernel, strides, padding) <= kernel.shape[-1]


def _is_slow_backward(
    x: jax.Array,
    kernel: jax.Array,
    strides: Sequence[int],
    padding: Sequence[tuple[int, int]],
) -> bool:
    """Whether XLA's gradient of `x` takes a CPU longer than one product a place of the kernel.

    It convolves with a transposed copy of the kernel, which it makes at a hundredth of the speed
    of memory, and where the convolution strides, with zeros between what it convolves. Of 3×3 ones
    at stride 1 products win up to twice as many outputs as features (benchmarks/README.md).
    """
    return max(strides) > 1 or _places(x, kernel, strides, padding) <= 2 * kernel.shape[-1]


def _places(
    x: jax.Array,
    kernel: jax.Array,
    strides: Sequence[int],
    padding: Sequence[tuple[int, int]],
) -> int:
    """In all images, where the kernel lies once."""
    return x.shape[0] * math.prod(_outputs(x, kernel, strides, padding))


# Traced once for all convolutions of a shape.
@functools.partial(jax.jit, static_argnums=(2, 3, 4), static_argnames=_OPTIONS)
def _by_products(
    x: jax.Array,
    kernel: jax.Array,
    strides: tuple[int, ...],
    padding: tuple[tuple[int, int], ...],
    pointwise: bool,
    **options: Any,
) -> jax.Array:
    """A convolution whose gradient of `x` is of matrix products, and of a 1×1 one the kernel's.

    A 1×1 convolution's gradient takes an eighth of the time so.
    """

    @jax.custom_jvp
    def forward(x: jax.Array, kernel: jax.Array) -> jax.Array:
        return jax.lax.conv_general_dilated(x, kernel, strides, padding, **options)

    def multiplied(x: jax.Array, kernel: jax.Array) -> jax.Array:
        return _products(x, kernel, strides, padding, options["precision"])

    by_kernel = multiplied if pointwise else forward

    def tangent(primals: tuple[Any, ...], tangents: tuple[Any, ...]) -> tuple[Any, Any]:
        (x, kernel), (dx, dk) = primals, tangents
        parts = [
            move(left, right)
            for move, left, right, moves in ((multiplied, dx, kernel, dx), (by_kernel, x, dk, dk))
            if not isinstance(moves, jax.custom_derivatives.SymbolicZero)
        ]
        out = forward(x, kernel)
        return out, sum(parts) if parts else jnp.zeros_like(out)

    forward.defjvp(tangent, symbolic_zeros=True)
    return forward(x, kernel)


@functools.partial(jax.jit, static_argnums=(2, 3, 4))
def _products(
    x: jax.Array,
    kernel: jax.Array,
    strides: tuple[int, ...],
    padding: tuple[tuple[int, int], ...],
    precision: Any,
) -> jax.Array:
    """A convolution as the sum of one product for each place of its kernel."""
    outputs = _outputs(x, kernel, strides, padding)
    parts = []
    places = itertools.product(*map(range, kernel.shape[:2]))
    # The gradient of what is split is laid together, where that of slices would be a sum.
    count = math.prod(kernel.shape[:2])
    matrices = jax.lax.split(kernel.reshape(count, *kernel.shape[2:]), [1] * count)
    for place, matrix in zip(places, matrices, strict=True):
        seen, around = x, []
        for axis, (own, (low, _), stride, length) in enumerate(
            zip(place, padding, strides, outputs, strict=True), 1
        ):
            reached = _reached(x.shape[axis], length, stride, own - low)
            first = reached.start * stride + own - low if reached else 0
            end = first + stride * (len(reached) - 1) + 1 if reached else 0
            seen = jax.lax.slice_in_dim(seen, first, end, stride, axis)
            around.append((reached.start, length - reached.stop))
        if not seen.size:
            continue
        # Of two axes each: with four, the product's gradient would be a quarter slower.
        rows = seen.reshape(-1, seen.shape[-1])
        part = jnp.matmul(rows, matrix[0], precision=precision)
        part = part.reshape(*seen.shape[:-1], -1)
        parts.append(_pad(_pad(part, 1, *around[0]), 2, *around[1]))
    if not parts:  # nothing but padding is seen
        return jnp.zeros((len(x), *outputs, kernel.shape[-1]), x.dtype)
    return functools.reduce(jnp.add, parts)


def _reached(size: int, outputs: int, stride: int, offset: int) -> range:
    """The outputs whose pixel at an offset from the first one's corner lies inside the image."""
    start, stop = max(0, -(offset // stride)), min(outputs, (size - 1 - offset) // stride + 1)
    return range(start, max(start, stop))


def _outputs(
    x: jax.Array,
    kernel: jax.Array,
    strides: Sequence[int],
    padding: Sequence[tuple[int, int]],
) -> list[int]:
    """Height and width of what leaves a convolution."""
    sides = zip(x.shape[1:3], kernel.shape[:2], strides, padding, strict=True)
    return [(size + sum(pads) - own) // stride + 1 for size, own, stride, pads in sides]


def _in_squares(
    x: jax.Array, kernel: jax.Array, padding: Sequence[tuple[int, int]], **options: Any
) -> jax.Array:
    """A convolution of images at stride 2 as one of squares of four pixels at stride 1.

    It has four times as many channels, and of an even number: matrix units, which take eight at
    once, need less than half the time.
    """
    strides = (2, 2)
    if x.shape[3] % 2:
        x, kernel = _pad(x, 3, 0, 1), _pad(kernel, 2, 0, 1)
    for axis, ((low, _), count) in enumerate(
        zip(padding, _outputs(x, kernel, strides, padding), strict=True), 1
    ):
        size = kernel.shape[axis - 1]
        shift = low % 2  # the kernel begins at an even place
        blocks = -(-(size + shift) // 2)
        kernel = _pad(kernel, axis - 1, shift, 2 * blocks - size - shift)
        x = _pad(x, axis, low + shift, 2 * (count + blocks - 1) - x.shape[axis] - low - shift)
    batch, height, width, channels = x.shape[0], x.shape[1] // 2, x.shape[2] // 2, x.shape[3]
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
