"""Random erasing: a rectangle of the image is covered."""

import math

import jax
import jax.numpy as jnp

from jtl.data.augment import draws
from jtl.data.augment.options import AugmentOptions, EraseFill

_GREY = 128.0
_TRIES = 10  # a drawn rectangle may be longer than the image


def erase(image: jax.Array, key: jax.Array, options: AugmentOptions) -> jax.Array:
    """Cover a rectangle with the probability, area and ratio of the options.

    Of ten draws the first that fits into the image counts; where none does, nothing is covered.
    """
    height, width, _ = image.shape
    chance_key, area_key, ratio_key, place_key, fill_key = jax.random.split(key, 5)
    low, high = options.erase_area
    area = jax.random.uniform(area_key, (_TRIES,), minval=low, maxval=high) * height * width
    low, high = (math.log(ratio) for ratio in options.erase_ratio)
    ratio = jnp.exp(jax.random.uniform(ratio_key, (_TRIES,), minval=low, maxval=high))
    tall = jnp.maximum(jnp.round(jnp.sqrt(area * ratio)), 1.0)
    wide = jnp.maximum(jnp.round(jnp.sqrt(area / ratio)), 1.0)
    fits = (tall <= height) & (wide <= width)
    first = jnp.argmax(fits)
    place = jax.random.uniform(place_key, (2,))
    rows = _inside(height, tall[first], place[0])
    columns = _inside(width, wide[first], place[1])
    covered = fits[first] & jax.random.bernoulli(chance_key, options.erase)
    box = covered & rows[:, None] & columns[None, :]
    return jnp.where(box[..., None], _cover(image, fill_key, options.erase_fill), image)


def _inside(length: int, size: jax.Array, place: jax.Array) -> jax.Array:
    """Which pixels of a side lie in a part of it, `place` of the way along."""
    start = jnp.floor(place * (length - size + 1.0))
    pixel = jnp.arange(length, dtype=jnp.float32)
    return (pixel >= start) & (pixel < start + size)


def _cover(image: jax.Array, key: jax.Array, fill: EraseFill) -> jax.Array:
    if fill == "noise":
        return draws.levels(key, image.shape).astype(image.dtype)
    if fill == "mean":
        return image.mean(axis=(0, 1), keepdims=True)
    return jnp.full((1, 1, 1), _GREY, image.dtype)
