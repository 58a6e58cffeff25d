"""One layer of a policy: any of 14 published operations, at the price of three passes.

Under `vmap` a switch between operations would run every one of them for every example. Instead,
each is one case of three passes, and the passes that are not its own change nothing:

- the five geometric ones are one affine warp with a matrix of their own;
- those that map each level by itself (with what they look up in the image first: the histogram,
  the mean) are one table of 256 levels a channel;
- colour and sharpness are a blend of the image with its grey, or with its smoothed self.

Levels are whole, uint8, between the passes, as in the published implementations: a table has
then 256 rows, and each pass reads a quarter of the bytes.
"""

import jax
import jax.numpy as jnp

from jtl.data.augment.geometry import resample
from jtl.data.augment.options import Fill

OPERATIONS = (
    *("identity", "shear_x", "shear_y", "translate_x", "translate_y", "rotate"),
    *("brightness", "contrast", "posterize", "solarize", "autocontrast", "equalize"),
    *("color", "sharpness"),
)
_LUMA = (19595, 38470, 7471)  # ITU-R BT.601 in 65536ths


def apply_layer(image: jax.Array, operation: jax.Array, amount: jax.Array, fill: Fill) -> jax.Array:
    """One operation on one image.

    Args:
        image: uint8 `[height, width, channel]`, of one channel or three.
        operation: int32 scalar, a place in `OPERATIONS`.
        amount: float32 scalar in the operation's own unit: pixels across for each pixel down (or
            the other way round), pixels, degrees, a factor, bits, or the first level inverted.
        fill: what comes in from outside.
    """
    moved = _warped(image, operation, amount, fill)
    mapped = _mapped(moved, operation, amount)
    return _blended(mapped, operation, amount)


def _is(operation: jax.Array, name: str) -> jax.Array:
    return operation == OPERATIONS.index(name)


def _warped(image: jax.Array, operation: jax.Array, amount: jax.Array, fill: Fill) -> jax.Array:
    height, width, _ = image.shape

    def only(name: str) -> jax.Array:
        return jnp.where(_is(operation, name), amount, 0.0)

    angle = jnp.deg2rad(only("rotate"))
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    row = jnp.arange(height, dtype=jnp.float32)[:, None]
    column = jnp.arange(width, dtype=jnp.float32)[None, :]
    # Turned about the middle; leaning and moved from the corner, half a pixel before pixel 0.
    down, across = row - (height - 1) / 2, column - (width - 1) / 2
    rows = row + (cos - 1) * down - sin * across
    rows = rows + only("shear_y") * (column + 0.5) + only("translate_y")
    columns = column + (cos - 1) * across + sin * down
    columns = columns + only("shear_x") * (row + 0.5) + only("translate_x")
    return _whole(jnp.round(resample(image, rows, columns, fill)))


def _mapped(image: jax.Array, operation: jax.Array, amount: jax.Array) -> jax.Array:
    channels = image.shape[-1]
    level = jnp.arange(256)[:, None]
    counts = _histogram(image)
    mean = jnp.where(_is(operation, "contrast"), _mean_grey(image), 0)
    bits = 8 - jnp.clip(amount, 1, 8).astype(jnp.int32)
    tables = {
        "brightness": _between(mean, level, amount),
        "contrast": _between(mean, level, amount),
        "posterize": (level >> bits) << bits,
        "solarize": jnp.where(level < amount, level, 255 - level),
        "autocontrast": _stretched(level, counts),
        "equalize": _equalized(counts),
    }
    table = jnp.broadcast_to(level, (256, channels))
    for name, own in tables.items():
        table = jnp.where(_is(operation, name), own, table)
    place = image.astype(jnp.int32) * channels + jnp.arange(channels)[None, None, :]
    return table.astype(jnp.uint8).reshape(-1).at[place].get(mode="promise_in_bounds")


def _blended(image: jax.Array, operation: jax.Array, amount: jax.Array) -> jax.Array:
    levels = image.astype(jnp.int32)
    other = jnp.where(_is(operation, "color"), _grey(levels), _smooth(levels))
    blends = _is(operation, "color") | _is(operation, "sharpness")
    return jnp.where(blends, _between(other, levels, amount), levels).astype(jnp.uint8)


def _between(start: jax.Array, stop: jax.Array, share: jax.Array) -> jax.Array:
    """As far from one level to another as `share` says, or beyond; int32."""
    between = start + share * (stop - start).astype(jnp.float32)
    return jnp.floor(jnp.clip(between, 0.0, 255.0)).astype(jnp.int32)


def _whole(levels: jax.Array) -> jax.Array:
    return jnp.clip(levels, 0.0, 255.0).astype(jnp.uint8)


def _histogram(image: jax.Array) -> jax.Array:
    """How often each level is in each channel, int32 `[256, channel]`."""
    channels = image.shape[-1]
    place = image.astype(jnp.int32) * channels + jnp.arange(channels)[None, None, :]
    empty = jnp.zeros(256 * channels, jnp.int32)
    return empty.at[place].add(1, mode="promise_in_bounds").reshape(256, channels)


def _stretched(level: jax.Array, counts: jax.Array) -> jax.Array:
    """Each channel's darkest level to 0 and its brightest to 255."""
    low = jnp.argmax(counts > 0, axis=0, keepdims=True)
    high = 255 - jnp.argmax(counts[::-1] > 0, axis=0, keepdims=True)
    stretched = (level - low) * 255 // jnp.maximum(high - low, 1)
    return jnp.where(high > low, jnp.clip(stretched, 0, 255), level)


def _equalized(counts: jax.Array) -> jax.Array:
    """The levels at which each channel's histogram is as flat as it can be."""
    brightest = 255 - jnp.argmax(counts[::-1] > 0, axis=0, keepdims=True)
    total = counts.sum(axis=0, keepdims=True, dtype=jnp.int32)
    step = (total - jnp.take_along_axis(counts, brightest, axis=0)) // 255
    below = jnp.cumsum(counts, axis=0, dtype=jnp.int32) - counts
    flat = jnp.clip((below + step // 2) // jnp.maximum(step, 1), 0, 255)
    return jnp.where(step > 0, flat, jnp.arange(256)[:, None])


def _grey(levels: jax.Array) -> jax.Array:
    """The brightness of each pixel, int32 `[height, width, 1]`."""
    if levels.shape[-1] == 1:
        return levels
    red, green, blue = (levels[..., channel : channel + 1] for channel in range(3))
    return (_LUMA[0] * red + _LUMA[1] * green + _LUMA[2] * blue + 32768) >> 16


def _mean_grey(image: jax.Array) -> jax.Array:
    grey = _grey(image.astype(jnp.int32))
    return (grey.sum(dtype=jnp.int32) + grey.size // 2) // grey.size


def _smooth(levels: jax.Array) -> jax.Array:
    """Each pixel with its eight neighbours, itself five times; the outermost stay as they are."""
    if min(levels.shape[:2]) < 3:
        return levels
    rows = levels[:, :-2] + levels[:, 1:-1] + levels[:, 2:]
    inner = levels[1:-1, 1:-1]
    sums = rows[:-2] + rows[1:-1] + rows[2:] + 4 * inner
    return levels.at[1:-1, 1:-1].set((2 * sums + 13) // 26)
