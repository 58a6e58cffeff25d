"""Draws that several operations make from an example's key."""

import math

import jax
import jax.numpy as jnp


def symmetric(key: jax.Array, amount: float, shape: tuple[int, ...] = ()) -> jax.Array:
    """Uniform between `-amount` and `+amount`."""
    return jax.random.uniform(key, shape, minval=-amount, maxval=amount)


def levels(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Independent levels, uint8, of this shape."""
    # Random bits are the dearest part of all augmentation: each random word serves four values.
    size = math.prod(shape)
    words = jax.random.bits(key, (math.ceil(size / 4),), jnp.uint32)
    return jax.lax.bitcast_convert_type(words, jnp.uint8).reshape(-1)[:size].reshape(shape)
