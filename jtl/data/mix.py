"""Mixup and CutMix: neighbours in a batch share pixels, and their labels in the same measure."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from jtl.data.augment import AugmentOptions
from jtl.errors import ConfigError

Mix = Callable[[Mapping[str, Any], jax.Array], dict[str, jax.Array]]


def make_mix(options: AugmentOptions, classes: int) -> Mix:
    """The function that mixes each pair of neighbours in a batch.

    The function takes a batch with `image` float `[batch, height, width, channel]`, `label` and
    `mask`, and one typed key per example `[batch]`; it returns `image` and `label` float
    `[batch, classes]`. Examples 2k and 2k+1 are a pair, drawn for by the key of the first, so
    that no image leaves its device; a pair with padding in it stays as it is.

    Args:
        options: `mixup` and `cutmix`.
        classes: the width of the labels.

    Raises:
        ConfigError: when called, the batch has an odd number of examples.
    """

    def mix(batch: Mapping[str, Any], keys: jax.Array) -> dict[str, jax.Array]:
        images, size = batch["image"], batch["image"].shape[0]
        if size % 2:
            raise ConfigError(
                f"mixup and CutMix pair the examples of a device, which are {size}; set a batch "
                "size that gives each device an even number."
            )
        share = jax.vmap(lambda key: _share(key, images.shape[1:3], options))(keys[::2])
        whole = batch["mask"][::2] & batch["mask"][1::2]
        # The share of the own pixels, [batch / 2, height, width], equal in both of a pair.
        share = jnp.where(whole[:, None, None], share, 1.0).astype(images.dtype)
        labels = _probabilities(batch["label"], classes, images.dtype)
        return {
            "image": _blend(images, share[..., None]),
            "label": _blend(labels, jnp.mean(share, axis=(1, 2))[:, None]),
        }

    return mix


def _blend(values: jax.Array, share: jax.Array) -> jax.Array:
    first, second = values[::2], values[1::2]
    # What is not a number, as padding may be, must not pass a share of 0.
    gives = share < 1
    ahead = jnp.where(gives, share * first + (1 - share) * second, first)
    behind = jnp.where(gives, share * second + (1 - share) * first, second)
    return jnp.stack([ahead, behind], axis=1).reshape(values.shape)


def _share(key: jax.Array, size: tuple[int, int], options: AugmentOptions) -> jax.Array:
    which, blend_key, cut_key = jax.random.split(key, 3)
    if not options.cutmix:
        return _blended(blend_key, size, options.mixup)
    if not options.mixup:
        return _cut(cut_key, size, options.cutmix)
    return jnp.where(
        jax.random.bernoulli(which),
        _blended(blend_key, size, options.mixup),
        _cut(cut_key, size, options.cutmix),
    )


def _blended(key: jax.Array, size: tuple[int, int], alpha: float) -> jax.Array:
    return jnp.broadcast_to(jax.random.beta(key, alpha, alpha), size)


def _cut(key: jax.Array, size: tuple[int, int], alpha: float) -> jax.Array:
    area_key, place_key = jax.random.split(key)
    side = jnp.sqrt(1 - jax.random.beta(area_key, alpha, alpha))
    centre = jax.random.uniform(place_key, (2,))

    def inside(length: int, middle: jax.Array) -> jax.Array:
        pixel = (jnp.arange(length) + 0.5) / length
        return jnp.abs(pixel - middle) < side / 2

    box = inside(size[0], centre[0])[:, None] & inside(size[1], centre[1])[None, :]
    return jnp.where(box, 0.0, 1.0)


def _probabilities(label: jax.Array, classes: int, dtype: Any) -> jax.Array:
    if jnp.issubdtype(label.dtype, jnp.integer):
        known = (label >= 0) & (label < classes)
        # No class at all would cost nothing, and so pass for right.
        return jnp.where(known[:, None], jax.nn.one_hot(label, classes, dtype=dtype), jnp.nan)
    return label.astype(dtype)
