"""How much detail an image keeps: resolution, blur and noise."""

import math

import jax
import jax.numpy as jnp

from jtl.data.augment import draws
from jtl.data.augment.options import Range


def lower_resolution(image: jax.Array, key: jax.Array, sides: tuple[int, int]) -> jax.Array:
    """Shrink to a random side, averaging, and grow back bilinearly."""
    choice = jax.random.randint(key, (), 0, sides[1] - sides[0] + 1)
    height, width, _ = image.shape

    def there_and_back(length: int) -> jax.Array:
        return jnp.stack([_shrink_and_grow(length, n) for n in range(sides[0], sides[1] + 1)])[
            choice
        ]

    return jnp.einsum(
        "hy,yxc,wx->hwc",
        there_and_back(height),
        image,
        there_and_back(width),
        precision=jax.lax.Precision.HIGHEST,
    )


def blur(image: jax.Array, key: jax.Array, sigmas: Range) -> jax.Array:
    """Blur with a Gaussian, first down the columns and then along the rows."""
    sigma = jax.random.uniform(key, (), minval=sigmas[0], maxval=sigmas[1])
    height, width, _ = image.shape
    return jnp.einsum(
        "hy,yxc,wx->hwc",
        _gaussian(height, sigma),
        image,
        _gaussian(width, sigma),
        precision=jax.lax.Precision.HIGHEST,
    )


def noise(image: jax.Array, key: jax.Array, sigma: float) -> jax.Array:
    """Add independent noise to every value of every channel."""
    # Each value takes one of 256 quantiles of the normal distribution.
    levels = draws.levels(key, image.shape)
    quantiles = (levels.astype(jnp.float32) + 0.5) / 128.0 - 1.0
    return image + sigma * (math.sqrt(2.0) * jax.lax.erf_inv(quantiles))


def _gaussian(size: int, sigma: jax.Array) -> jax.Array:
    """What each of `size` pixels takes from each other, `[size, size]`; every row sums to 1."""
    distance = jnp.arange(size)[:, None] - jnp.arange(size)[None, :]
    # Far below a pixel the kernel is the centre alone, which is what sigma 0 must give too.
    weights = jnp.exp(-0.5 * (distance / jnp.maximum(sigma, 1e-2)) ** 2)
    return weights / weights.sum(axis=1, keepdims=True)


def _shrink_and_grow(length: int, side: int) -> jax.Array:
    """What each pixel takes from each other on the way to `side` pixels and back, `[l, l]`."""
    small = jax.image.resize(jnp.eye(length), (side, length), "linear", antialias=True)
    return jax.image.resize(small, (length, length), "linear")
