"""Pooling: means and maxima over space."""

import dataclasses
import functools
import itertools
from collections.abc import Iterator
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jtl.models.layers import float_dtype
from jtl.platforms import on_cpu


def max_pool(
    x: jax.Array, window: int, *, stride: int = 2, padding: int = 0, relu: bool = False
) -> jax.Array:
    """The largest of each square window; its gradient goes to the first of equals.

    Args:
        x: float `[batch, height, width, channel]`.
        window: a side in pixels.
        stride: pixels between two windows.
        padding: pixels a side that lose against every value.
        relu: whether to take the maxima of `relu(x)`; an accelerator does so in the same pass.
    """
    if relu and on_cpu():  # where the pass would compute anew, nine times, what `x` is made of
        return _Windows(window, stride, padding, relu=False).maximum(nn.relu(x))
    return _Windows(window, stride, padding, relu).maximum(x)


@dataclasses.dataclass(frozen=True)
class _Windows:
    """Maxima whose gradient is a sum of masked shifts.

    The gradient that JAX has for maxima over windows adds up by scattering, which an accelerator
    does at an eighth of the speed of its memory; a CPU takes ten times as long for it as for this.
    """

    size: int
    stride: int
    padding: int
    relu: bool

    def maximum(self, x: jax.Array) -> jax.Array:
        """Of every window."""

        @jax.custom_jvp
        def pool(x: jax.Array) -> jax.Array:
            if on_cpu():
                sides = ((self.padding, self.padding),) * 2
                windows, strides = (self.size, self.size), (self.stride, self.stride)
                return nn.max_pool(x, windows, strides, padding=sides)
            best = functools.reduce(jnp.maximum, self._shifts(x, -jnp.inf))
            return nn.relu(best) if self.relu else best

        def tangent(primals: tuple[jax.Array], tangents: tuple[jax.Array]) -> Any:
            (x,), (moves,) = primals, tangents
            shifts = list(self._shifts(x, -jnp.inf))
            # What a ReLU leaves at 0 comes from no place of its window.
            best = jnp.zeros_like(shifts[0]) if self.relu else shifts[0]
            place = jnp.full(best.shape, self.size**2 if self.relu else 0, jnp.int8)
            for index, other in enumerate(shifts):
                place = jnp.where(other > best, jnp.int8(index), place)
                best = jnp.maximum(best, other)
            return best, (self._each if on_cpu() else self._select)(moves, place)

        pool.defjvp(tangent)
        return pool(x)

    def _outputs(self, x: jax.Array) -> tuple[int, int]:
        height, width = (
            (length + 2 * self.padding - self.size) // self.stride + 1 for length in x.shape[1:3]
        )
        return height, width

    def _shifts(self, x: jax.Array, beyond: float) -> Iterator[jax.Array]:
        """For each place in a window, row by row, what all windows hold there."""
        height, width = self._outputs(x)
        sides = (self.padding, self.padding, 0)
        padded = jax.lax.pad(x, jnp.array(beyond, x.dtype), [(0, 0, 0), sides, sides, (0, 0, 0)])
        for i, j in itertools.product(range(self.size), repeat=2):
            stop = (i + self.stride * (height - 1) + 1, j + self.stride * (width - 1) + 1)
            yield padded[:, i : stop[0] : self.stride, j : stop[1] : self.stride]

    def _each(self, x: jax.Array, place: jax.Array) -> jax.Array:
        """From each window what it holds at its `place`; linear in `x`."""
        shifts = enumerate(self._shifts(x, 0))
        return functools.reduce(jnp.add, (jnp.where(place == i, own, 0) for i, own in shifts))

    def _select(self, x: jax.Array, place: jax.Array) -> jax.Array:
        """The same, its gradient in one pass over the input, which an accelerator likes.

        What the gradient reads has a margin on all sides, laid down first, so that the pass
        never asks where an image ends.
        """
        height, width = self._outputs(x)
        margin = (self.size - 1) // self.stride  # blocks of a stride that a window reaches beyond
        rows, columns = height + margin, width + margin
        squares = self._squares(x, rows, columns)
        place = _shut_off(_with_margin(_shut_off(place), margin, self.size**2))
        windows = jnp.zeros((len(x), rows + margin, columns + margin, x.shape[3]), x.dtype)
        for i, j in itertools.product(range(margin + 1), repeat=2):
            # Of each block the window whose block (i, j) it is.
            at, to = margin - i, margin - j
            own = place[:, at : at + rows, None, to : to + columns, None]
            found = jnp.sum(jnp.where(own == self._places(i, j), squares, 0), (2, 4))
            windows = windows.at[:, at : at + rows, to : to + columns].add(found)
        return _shut_off(windows)[:, margin : margin + height, margin : margin + width]

    def _squares(self, x: jax.Array, rows: int, columns: int) -> jax.Array:
        """`[batch, rows, stride, columns, stride, channel]`, padded or cut to that size."""
        widths = [
            (self.padding, count * self.stride - length - self.padding, 0)
            for count, length in zip((rows, columns), x.shape[1:3], strict=True)
        ]
        x = jax.lax.pad(x, jnp.zeros((), x.dtype), [(0, 0, 0), *widths, (0, 0, 0)])
        return x.reshape(x.shape[0], rows, self.stride, columns, self.stride, x.shape[3])

    def _places(self, i: int, j: int) -> jax.Array:
        """The places of a window that its block `(i, j)` holds, -1 for what is beyond it."""
        rows, columns = (self.stride * k + np.arange(self.stride) for k in (i, j))
        inside = (rows < self.size)[:, None] & (columns < self.size)
        places = np.where(inside, rows[:, None] * self.size + columns, -1).astype(np.int8)
        return jnp.asarray(places)[None, None, :, None, :, None]


def _with_margin(x: jax.Array, margin: int, value: int) -> jax.Array:
    sides = (0, 0), (margin, margin), (margin, margin), (0, 0)
    return jnp.pad(x, sides, constant_values=value)


def _shut_off(x: jax.Array) -> jax.Array:
    """`x`, which is written down before anything reads it."""
    return jax.lax.optimization_barrier(x)


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
