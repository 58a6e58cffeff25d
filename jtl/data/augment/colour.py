"""Colours and levels of a whole image: gamma, inversion and colour jitter."""

import jax
import jax.numpy as jnp

from jtl.data.augment.draws import symmetric
from jtl.data.augment.options import Range

# Of red, green and blue in a pixel's brightness: ITU-R BT.601.
_LUMA = (0.299, 0.587, 0.114)


def gamma(image: jax.Array, key: jax.Array, exponents: Range) -> jax.Array:
    """Raise the levels, as fractions of 255, to an exponent."""
    exponent = jax.random.uniform(key, (), minval=exponents[0], maxval=exponents[1])
    return 255.0 * (jnp.clip(image, 0.0, 255.0) / 255.0) ** exponent


def invert(image: jax.Array, key: jax.Array, probability: float) -> jax.Array:
    """Exchange dark and bright with this probability."""
    return jnp.where(jax.random.bernoulli(key, probability), 255.0 - image, image)


def brightness(image: jax.Array, key: jax.Array, amount: float) -> jax.Array:
    """Add one level to the whole image, at most `amount` of 255 up or down."""
    return image + 255.0 * symmetric(key, amount)


def contrast(image: jax.Array, key: jax.Array, amount: float) -> jax.Array:
    """Scale the distance of every level from the image's mean."""
    mean = image.mean()
    return mean + (image - mean) * (1.0 + symmetric(key, amount))


def saturation(image: jax.Array, key: jax.Array, amount: float) -> jax.Array:
    """Scale the distance of every colour from its grey; grey images stay as they are."""
    if image.shape[-1] != len(_LUMA):
        return image
    image = jnp.clip(image, 0.0, 255.0)
    red, green, blue = (image[..., channel : channel + 1] for channel in range(3))
    grey = _LUMA[0] * red + _LUMA[1] * green + _LUMA[2] * blue
    return jnp.clip(grey + (image - grey) * (1.0 + symmetric(key, amount)), 0.0, 255.0)


def hue(image: jax.Array, key: jax.Array, amount: float) -> jax.Array:
    """Turn every colour on the circle of hues; grey images stay as they are."""
    if image.shape[-1] != len(_LUMA):
        return image
    image = jnp.clip(image, 0.0, 255.0)
    red, green, blue = (image[..., channel] for channel in range(3))
    value = image.max(axis=-1)
    chroma = value - image.min(axis=-1)
    # Sixths of a turn from red, of Smith's hexagon (1978); where there is no hue, none is shown.
    # Not found by equality with the brightest, which, fused elsewhere, may be rounded otherwise.
    sector = jnp.where(
        (red >= green) & (red >= blue),
        green - blue,
        jnp.where(green >= blue, 2 * chroma + blue - red, 4 * chroma + red - green),
    )
    turned = sector / jnp.where(chroma > 0, chroma, 1.0) + 6.0 * symmetric(key, amount)

    def channel(offset: int) -> jax.Array:
        place = turned + offset
        place = place - 6.0 * jnp.floor(place / 6.0)
        return value - chroma * jnp.clip(jnp.minimum(place, 4.0 - place), 0.0, 1.0)

    return jnp.stack([channel(5), channel(3), channel(1)], axis=-1)
