"""Operations in a row, each with draws of its own from an example's key."""

import zlib
from collections.abc import Callable

import jax
import jax.numpy as jnp

from jtl.data.augment import colour, detail, geometry
from jtl.data.augment.erase import erase
from jtl.data.augment.options import AugmentOptions, RandAugmentOptions
from jtl.data.augment.policies import randaugment, trivialaugment

Operation = Callable[[jax.Array, jax.Array], jax.Array]


def make_augment(options: AugmentOptions) -> Callable[[jax.Array, jax.Array], jax.Array]:
    """The function that varies a batch as the options say.

    The function takes images, uint8 or float `[batch, height, width, channel]` in 0..255, and one
    typed key per example `[batch]`, and returns float32 images in 0..255. Each example depends on
    its own key alone, whatever the batch around it; each operation draws from that key folded
    with the operation's name, so that switching one on leaves the draws of the others alone.
    `options.crop`, `mixup` and `cutmix` are not its part: an image is cropped while it is read.
    """
    operations = _operations(options)

    def augment_one(image: jax.Array, key: jax.Array) -> jax.Array:
        image = image.astype(jnp.float32)
        for name, operation in operations.items():
            image = operation(image, jax.random.fold_in(key, zlib.crc32(name.encode())))
        return jnp.clip(image, 0.0, 255.0).astype(jnp.float32) if operations else image

    def augment(images: jax.Array, keys: jax.Array) -> jax.Array:
        return jax.vmap(augment_one)(images, keys)

    return augment


def _operations(options: AugmentOptions) -> dict[str, Operation]:
    """The operations that are on, in order: geometry first, then colours, what covers last."""
    every = {**_placing(options), **_colouring(options), **_spoiling(options)}
    return {name: operation for name, (on, operation) in every.items() if on}


def _placing(options: AugmentOptions) -> dict[str, tuple[bool, Operation]]:
    warps = (options.rotate, options.stretch, options.shear, options.translate, options.elastic)
    moved, fill = options.scale != AugmentOptions.scale, options.fill
    return {
        "flip": (options.flip > 0, lambda i, k: geometry.flip(i, k, options.flip)),
        "crop": (
            options.crop_padding > 0,
            lambda i, k: geometry.crop(i, k, options.crop_padding, fill),
        ),
        # While the levels are still whole, as the published operations take them.
        "randaugment": (
            options.randaugment is not None,
            lambda i, k: randaugment(i, k, options.randaugment or RandAugmentOptions(), fill),
        ),
        "trivialaugment": (
            options.trivialaugment,
            lambda i, k: trivialaugment(i, k, fill),
        ),
        "warp": (any(warps) or moved, lambda i, k: geometry.warp(i, k, options)),
    }


def _colouring(options: AugmentOptions) -> dict[str, tuple[bool, Operation]]:
    return {
        "gamma": (
            options.gamma != AugmentOptions.gamma,
            lambda i, k: colour.gamma(i, k, options.gamma),
        ),
        "invert": (options.invert > 0, lambda i, k: colour.invert(i, k, options.invert)),
        "brightness": (
            options.brightness > 0,
            lambda i, k: colour.brightness(i, k, options.brightness),
        ),
        "contrast": (options.contrast > 0, lambda i, k: colour.contrast(i, k, options.contrast)),
        "saturation": (
            options.saturation > 0,
            lambda i, k: colour.saturation(i, k, options.saturation),
        ),
        "hue": (options.hue > 0, lambda i, k: colour.hue(i, k, options.hue)),
    }


def _spoiling(options: AugmentOptions) -> dict[str, tuple[bool, Operation]]:
    return {
        "resolution": (
            options.resolution is not None,
            lambda i, k: detail.lower_resolution(i, k, options.resolution or (1, 1)),
        ),
        "blur": (
            options.blur != AugmentOptions.blur,
            lambda i, k: detail.blur(i, k, options.blur),
        ),
        "noise": (options.noise > 0, lambda i, k: detail.noise(i, k, options.noise)),
        "erase": (options.erase > 0, lambda i, k: erase(i, k, options)),
    }
