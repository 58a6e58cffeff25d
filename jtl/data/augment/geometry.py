"""Where pixels come from: mirror images, crops and warps."""

import math

import jax
import jax.numpy as jnp

from jtl.data.augment.draws import symmetric
from jtl.data.augment.options import AugmentOptions, Fill


def flip(image: jax.Array, key: jax.Array, probability: float) -> jax.Array:
    """Mirror left to right with this probability; `[height, width, channel]`, as all below."""
    return jnp.where(jax.random.bernoulli(key, probability), image[:, ::-1], image)


def crop(image: jax.Array, key: jax.Array, padding: int, fill: Fill) -> jax.Array:
    """A window of the image's own size at a random place in the padded image."""
    padded = _pad(image, padding, fill)
    top, left = jax.random.randint(key, (2,), 0, 2 * padding + 1)
    return jax.lax.dynamic_slice(padded, (top, left, 0), image.shape)


def warp(image: jax.Array, key: jax.Array, options: AugmentOptions) -> jax.Array:
    """Rotate, scale, stretch, shear, translate and bend, in one bilinear resampling."""
    height, width, _ = image.shape
    affine_key, bend_key = jax.random.split(key)
    matrix, shift = _affine(affine_key, options)
    middle = (height - 1) / 2, (width - 1) / 2
    row = jnp.arange(height)[:, None] - middle[0] - shift[0] * height
    column = jnp.arange(width)[None, :] - middle[1] - shift[1] * width
    # Written out for two coordinates: as a matrix product an accelerator would round to bfloat16.
    rows = matrix[0, 0] * row + matrix[0, 1] * column + middle[0]
    columns = matrix[1, 0] * row + matrix[1, 1] * column + middle[1]
    if options.elastic > 0:
        bumps = _bumps(bend_key, height, width, options.elastic)
        rows, columns = rows + bumps[..., 0], columns + bumps[..., 1]
    return resample(image, rows, columns, options.fill)


def resample(image: jax.Array, rows: jax.Array, columns: jax.Array, fill: Fill) -> jax.Array:
    """The image read at fractional places, bilinearly, as float32.

    Args:
        image: `[height, width, channel]`.
        rows: `[out_height, out_width]`, where each output pixel comes from, in pixels.
        columns: likewise.
        fill: what lies outside the image.
    """
    # A frame of one pixel stands for all that lies outside, at half the price of a mask a tap.
    frame = 0 if fill == "edge" else 1
    framed = _pad(jnp.asarray(image), frame, fill)
    height, width, channels = framed.shape
    pixels = framed.reshape(height * width, channels)
    top, left = jnp.floor(rows), jnp.floor(columns)
    down, across = rows - top, columns - left
    top, left = top.astype(jnp.int32) + frame, left.astype(jnp.int32) + frame

    def tap(row: jax.Array, column: jax.Array, weight: jax.Array) -> jax.Array:
        place = jnp.clip(row, 0, height - 1) * width + jnp.clip(column, 0, width - 1)
        values = pixels.at[place].get(mode="promise_in_bounds")
        return values.astype(jnp.float32) * weight[..., None]

    upper = tap(top, left, (1 - down) * (1 - across)) + tap(top, left + 1, (1 - down) * across)
    lower = tap(top + 1, left, down * (1 - across)) + tap(top + 1, left + 1, down * across)
    return upper + lower


def _pad(image: jax.Array, padding: int, fill: Fill) -> jax.Array:
    edges = ((padding, padding), (padding, padding), (0, 0))
    if fill == "edge":
        return jnp.pad(image, edges, mode="edge")
    return jnp.pad(image, edges, constant_values=fill)


def _affine(key: jax.Array, options: AugmentOptions) -> tuple[jax.Array, jax.Array]:
    """From output to source: a matrix over (row, column), and a shift as fractions of the side."""
    keys = jax.random.split(key, 5)
    angle = jnp.deg2rad(symmetric(keys[0], options.rotate))
    scale = jax.random.uniform(keys[1], (), minval=options.scale[0], maxval=options.scale[1])
    # Half of the change goes to each direction, so that the area stays as it is.
    aspect = jnp.exp(symmetric(keys[2], 0.5 * math.log1p(options.stretch)))
    lean = jnp.tan(jnp.deg2rad(symmetric(keys[3], options.shear)))
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    down, across = aspect / scale, 1.0 / (aspect * scale)
    # Undo the rotation, then the lean, then the sizes.
    first = jnp.stack([down * cos, down * sin])
    second = jnp.stack([across * (lean * cos - sin), across * (lean * sin + cos)])
    return jnp.stack([first, second]), symmetric(keys[4], options.translate, (2,))


def _bumps(key: jax.Array, height: int, width: int, amount: float) -> jax.Array:
    """A smooth random displacement `[height, width, 2]`, at most `amount` pixels each way."""
    coarse = symmetric(key, amount, (5, 5, 2))
    return jax.image.resize(coarse, (height, width, 2), "linear")
