"""Test-time augmentation: several views of each image, whose probabilities are averaged."""

from collections.abc import Callable
from typing import Literal, get_args

import jax
import jax.numpy as jnp

from jtl.engine.losses import at_least_float32
from jtl.errors import ConfigError

ViewsName = Literal["flip", "five", "ten"]
Views = Callable[[jax.Array], jax.Array]


def make_views(name: ViewsName, size: int) -> Views:
    """The function from images to their views, `[views, batch, size, size, 3]`.

    Args:
        name: `flip` is each image and its mirror image; `five` its four corners and its centre;
            `ten` these and their mirror images (Krizhevsky et al. 2012).
        size: side of the square that the network takes, pixels; for `five` and `ten` the images
            come larger.

    Raises:
        ConfigError: there are no such views; or, when called, images leave nothing to cut off.
    """
    if name not in get_args(ViewsName):
        raise ConfigError(f"tta={name!r} is none of {', '.join(get_args(ViewsName))}.")

    def views(images: jax.Array) -> jax.Array:
        crops = [images] if name == "flip" else _five(images, size)
        mirrored = [] if name == "five" else [crop[:, :, ::-1] for crop in crops]
        return jnp.stack([*crops, *mirrored])

    return views


def _five(images: jax.Array, size: int) -> list[jax.Array]:
    height, width = images.shape[1:3]
    if min(height, width) <= size:
        raise ConfigError(
            f"images of {height}×{width} have no corners to cut {size}×{size} from; give larger "
            "ones, or take tta='flip'."
        )
    bottom, right = height - size, width - size
    corners = [(0, 0), (0, right), (bottom, 0), (bottom, right)]
    centre = (round(bottom / 2), round(right / 2))
    return [images[:, y : y + size, x : x + size] for y, x in (*corners, centre)]


def average_logits(logits: jax.Array, *, several: bool) -> jax.Array:
    """Logits whose probabilities are the mean of those of all views.

    Args:
        logits: float `[views, batch, classes]`.
        several: whether probabilities are a sigmoid's, not softmax's.

    Returns:
        float `[batch, classes]`.
    """
    logits = at_least_float32(logits)
    share = jnp.log(jnp.asarray(logits.shape[0], logits.dtype))
    if several:
        yes, no = jax.nn.log_sigmoid(logits), jax.nn.log_sigmoid(-logits)
        return jax.nn.logsumexp(yes, axis=0) - jax.nn.logsumexp(no, axis=0)
    return jax.nn.logsumexp(jax.nn.log_softmax(logits, axis=-1), axis=0) - share
