"""One layer of a policy: any of 14 published operations, at the price of at most three passes.

A switch between operations would, under `vmap`, run every one of them for every example. Here
each is one case of three passes, and the passes that are not its own change nothing:

- the five geometric ones are one affine warp with a matrix of their own;
- those that map each level by itself (with what they look up in the image first: the histogram,
  the mean) are one table of 256 levels a channel;
- colour and sharpness are a blend of the image with its grey, or with its smoothed self.

Levels are whole, uint8, between the passes, as in the published implementations: a table has
then 256 rows, and each pass reads a quarter of the bytes.
"""

from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp

from jtl.data.augment.geometry import resample
from jtl.data.augment.options import Fill

_MOVING = ("shear_x", "shear_y", "translate_x", "translate_y", "rotate")
_MAPPING = ("brightness", "contrast", "posterize", "solarize", "autocontrast", "equalize")
_BLENDING = ("color", "sharpness")
OPERATIONS = ("identity", *_MOVING, *_MAPPING, *_BLENDING)
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
    one = partial(_passes, fill=fill)
    layer = jax.custom_batching.custom_vmap(one)

    @layer.def_vmap
    def _(size: int, batched: Sequence[bool], *each: jax.Array) -> tuple[jax.Array, bool]:
        whole = (a if own else jnp.stack([a] * size) for a, own in zip(each, batched))
        return jax.lax.platform_dependent(*whole, cpu=in_turn, default=jax.vmap(one)), True

    def in_turn(*each: jax.Array) -> jax.Array:
        # A CPU makes one example after another in any case, and so skips the passes that change
        # nothing: a layer takes a sixth of the time.
        return jax.lax.map(lambda own: one(*own), each)

    return layer(image, operation, amount)


def _passes(image: jax.Array, operation: jax.Array, amount: jax.Array, fill: Fill) -> jax.Array:
    passes = (
        (_MOVING, partial(_warped, fill=fill)),
        (_MAPPING, _mapped),
        (_BLENDING, _blended),
    )
    for names, change in passes:
        concerned = _among(operation, names)
        image = jax.lax.cond(concerned, change, _same, image, operation, amount)
    return image


def _same(image: jax.Array, *_: jax.Array) -> jax.Array:
    return image


def _among(operation: jax.Array, names: tuple[str, ...]) -> jax.Array:
    return jnp.asarray([name in names for name in OPERATIONS])[operation]


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
    mean = jax.lax.cond(_is(operation, "contrast"), _mean_grey, lambda _: jnp.int32(0), image)
    counts = jax.lax.cond(
        _among(operation, ("autocontrast", "equalize")),
        _histogram,
        lambda _: jnp.zeros((channels, 256), jnp.int32),
        image,
    )
    # A loop over the channels, because the compiler fuses what makes a value into whatever reads
    # it, but no loop: fused, an entry of the table would be computed anew for every pixel.
    tables = jax.lax.map(lambda own: _table(own, mean, operation, amount), counts)
    # Not the places of the histogram, which, shared, would be kept in memory at eight bytes each.
    place = image.astype(jnp.int32) * channels + jnp.arange(channels)[None, None, :]
    return tables.T.reshape(-1).at[place].get(mode="promise_in_bounds")


def _table(
    counts: jax.Array, mean: jax.Array, operation: jax.Array, amount: jax.Array
) -> jax.Array:
    """What becomes of each level of a channel, uint8 `[256]`."""
    table = level = jnp.arange(256)
    bits = 8 - jnp.clip(amount, 1, 8).astype(jnp.int32)
    every = {
        "brightness": _between(mean, level, amount),
        "contrast": _between(mean, level, amount),
        "posterize": (level >> bits) << bits,
        "solarize": jnp.where(level < amount, level, 255 - level),
        "autocontrast": _stretched(level, counts),
        "equalize": _equalized(level, counts),
    }
    for name, own in every.items():
        table = jnp.where(_is(operation, name), own, table)
    return table.astype(jnp.uint8)


def _blended(image: jax.Array, operation: jax.Array, amount: jax.Array) -> jax.Array:
    levels = image.astype(jnp.int32)
    other = jnp.where(_is(operation, "color"), _grey(levels), _smooth(levels))
    return _between(other, levels, amount).astype(jnp.uint8)


def _between(start: jax.Array, stop: jax.Array, share: jax.Array) -> jax.Array:
    """As far from one level to another as `share` says, or beyond; int32."""
    between = start + share * (stop - start).astype(jnp.float32)
    return jnp.floor(jnp.clip(between, 0.0, 255.0)).astype(jnp.int32)


def _whole(levels: jax.Array) -> jax.Array:
    return jnp.clip(levels, 0.0, 255.0).astype(jnp.uint8)


def _histogram(image: jax.Array) -> jax.Array:
    """How often each level is in each channel, int32 `[channel, 256]`."""
    channels = image.shape[-1]
    place = image.astype(jnp.int32) + 256 * jnp.arange(channels)[None, None, :]
    empty = jnp.zeros(256 * channels, jnp.int32)
    return empty.at[place].add(1, mode="promise_in_bounds").reshape(channels, 256)


def _stretched(level: jax.Array, counts: jax.Array) -> jax.Array:
    """The darkest level to 0 and the brightest to 255."""
    low, high = jnp.argmax(counts > 0), 255 - jnp.argmax(counts[::-1] > 0)
    stretched = (level - low) * 255 // jnp.maximum(high - low, 1)
    return jnp.where(high > low, jnp.clip(stretched, 0, 255), level)


def _equalized(level: jax.Array, counts: jax.Array) -> jax.Array:
    """The levels with which the histogram is as flat as it can be."""
    brightest = 255 - jnp.argmax(counts[::-1] > 0)
    step = (counts.sum(dtype=jnp.int32) - counts[brightest]) // 255
    below = jnp.cumsum(counts, dtype=jnp.int32) - counts
    flat = jnp.clip((below + step // 2) // jnp.maximum(step, 1), 0, 255)
    return jnp.where(step > 0, flat, level)


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
    return levels.at[1:-1, 1:-1].set(jax.lax.div(2 * sums + 13, jnp.full_like(sums, 26)))
