"""Random keys, each derived from (seed, stream name, step, example) and never stored."""

import zlib

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from jtl.errors import ConfigError

KEY_IMPLEMENTATION = "threefry2x32"  # whose draws alone are the same under every sharding


def base_key(rng: int | jax.Array) -> jax.Array:
    """The typed threefry key that every other key of a run is derived from.

    Args:
        rng: a seed, a typed key (`jax.random.key`) or a raw one (`jax.random.PRNGKey`).

    Raises:
        ConfigError: the key's generator is not threefry, whose draws alone are the same under
            every sharding.
    """
    if isinstance(rng, int):
        return jax.random.key(rng, impl=KEY_IMPLEMENTATION)
    typed = jnp.issubdtype(rng.dtype, jax.dtypes.prng_key)
    key: jax.Array = rng if typed else jax.random.wrap_key_data(rng)
    implementation = str(jax.random.key_impl(key))
    if "fry" not in implementation:
        raise ConfigError(
            f"the random key uses the generator {implementation!r}, which draws other numbers "
            "on other device counts; make it with jax.random.key(seed, impl='threefry2x32')."
        )
    return key


def stream_key(rng: jax.Array, stream: str, step: ArrayLike) -> jax.Array:
    """The key of one named stream at one step: the same on every device and process."""
    return jax.random.fold_in(jax.random.fold_in(rng, zlib.crc32(stream.encode())), step)


def example_keys(rng: jax.Array, stream: str, step: ArrayLike, position: jax.Array) -> jax.Array:
    """One key per example, `[batch]`, by its place in the global batch.

    Args:
        rng: the run's base key.
        stream: what the keys are for, such as `"dropout"` or `"augment"`.
        step: the global step, an integer scalar.
        position: int `[batch]`, each example's place in the global batch.
    """
    key = stream_key(rng, stream, step)
    return jax.vmap(lambda place: jax.random.fold_in(key, place))(position)


def view_keys(rng: jax.Array, stream: str, view: jax.Array, example: jax.Array) -> jax.Array:
    """One key per example, `[batch]`, by what is looked at, wherever and whenever that is.

    Args:
        rng: the run's base key.
        stream: what the keys are for.
        view: int `[batch]`, which of an example's views, such as the epoch.
        example: int `[batch]`, each example's index in its source.
    """

    def key(own_view: jax.Array, own_example: jax.Array) -> jax.Array:
        return jax.random.fold_in(stream_key(rng, stream, own_view), own_example)

    return jax.vmap(key)(view, example)
