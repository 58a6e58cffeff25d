"""RandAugment and TrivialAugment: which operations of the published 14, and how strong."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from jtl.data.augment.layer import OPERATIONS, apply_layer
from jtl.data.augment.options import BINS, Fill, RandAugmentOptions
from jtl.errors import ConfigError

# Either way at random: to the left or right, brighter or darker.
_BLENDS = ("brightness", "contrast", "color", "sharpness")
_EITHER_WAY = ("shear_x", "shear_y", "translate_x", "translate_y", "rotate", *_BLENDS)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Ranges:
    """How far each operation goes at the strongest magnitude; at the least, none does anything.

    Attributes:
        shear: pixels across for each pixel down, or the other way round.
        shift: of a translation: a fraction of the side up to 1, or pixels.
        degrees: of a rotation.
        blend: how far the factor of brightness, contrast, color and sharpness is from 1.
        bits: that posterize leaves of 8.
    """

    shear: float
    shift: float
    degrees: float
    blend: float
    bits: int


# Cubuk et al. 2018, arXiv:1805.09501, table 6, which RandAugment takes over; shifts are of 150
# pixels in images of 331.
RANDAUGMENT = Ranges(shear=0.3, shift=150 / 331, degrees=30, blend=0.9, bits=4)
# Müller and Hutter 2021, arXiv:2103.10158, the wide ranges.
TRIVIALAUGMENT = Ranges(shear=0.99, shift=32, degrees=135, blend=0.99, bits=2)


def randaugment(
    image: jax.Array, key: jax.Array, options: RandAugmentOptions, fill: Fill
) -> jax.Array:
    """Several operations in a row, each one of 14, of one magnitude.

    Args:
        image: float32 `[height, width, channel]` in 0..255; taken in whole levels.
        key: the example's, folded with the operation's name.
        options: how many operations, and how strong.
        fill: what comes in from outside.
    """
    strengths = jnp.asarray(amounts(RANDAUGMENT, image.shape)[:, options.magnitude])

    def layer(place: jax.Array, levels: jax.Array) -> jax.Array:
        which_key, way_key = jax.random.split(jax.random.fold_in(key, place))
        operation = jax.random.randint(which_key, (), 0, len(OPERATIONS))
        amount = _either_way(way_key, operation, strengths[operation])
        return apply_layer(levels, operation, amount, fill)

    # A loop, so that any number of layers is compiled as one.
    levels = jax.lax.fori_loop(0, options.layers, layer, _levels(image))
    return levels.astype(jnp.float32)


def trivialaugment(image: jax.Array, key: jax.Array, fill: Fill) -> jax.Array:
    """One operation of 14, of a magnitude at random; images are as for `randaugment`."""
    strengths = jnp.asarray(amounts(TRIVIALAUGMENT, image.shape))
    which_key, bin_key, way_key = jax.random.split(key, 3)
    operation = jax.random.randint(which_key, (), 0, len(OPERATIONS))
    magnitude = jax.random.randint(bin_key, (), 0, BINS)
    amount = _either_way(way_key, operation, strengths[operation, magnitude])
    return apply_layer(_levels(image), operation, amount, fill).astype(jnp.float32)


def amounts(ranges: Ranges, shape: tuple[int, ...]) -> np.ndarray:
    """How strong each operation is at each magnitude, float32 `[14, 31]`, before its direction.

    Args:
        ranges: at the strongest.
        shape: of an image, height and width first.
    """
    part = np.linspace(0.0, 1.0, BINS)
    height, width = (
        side * ranges.shift if ranges.shift <= 1 else ranges.shift for side in shape[:2]
    )
    table = {
        **dict.fromkeys(("shear_x", "shear_y"), ranges.shear * part),
        # Whole pixels: a shift alone must not blur.
        "translate_x": np.trunc(width * part),
        "translate_y": np.trunc(height * part),
        "rotate": ranges.degrees * part,
        **dict.fromkeys(_BLENDS, ranges.blend * part),
        "posterize": 8 - np.round((8 - ranges.bits) * part),
        "solarize": 256 * (1 - part),
    }
    nothing = np.zeros(BINS)
    return np.stack([table.get(name, nothing) for name in OPERATIONS]).astype(np.float32)


def _either_way(key: jax.Array, operation: jax.Array, amount: jax.Array) -> jax.Array:
    """The amount with its direction, of blends as a factor."""
    either_way = jnp.asarray([name in _EITHER_WAY for name in OPERATIONS])[operation]
    blends = jnp.asarray([name in _BLENDS for name in OPERATIONS])[operation]
    negative = either_way & jax.random.bernoulli(key)
    return jnp.where(blends, 1.0, 0.0) + jnp.where(negative, -amount, amount)


def _levels(image: jax.Array) -> jax.Array:
    if image.shape[-1] not in (1, 3):
        raise ConfigError(
            f"augment.randaugment and augment.trivialaugment vary grey and RGB images, but these "
            f"have {image.shape[-1]} channels; switch them off."
        )
    return jnp.clip(jnp.round(image), 0.0, 255.0).astype(jnp.uint8)
