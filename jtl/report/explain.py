"""What a network looked at: Grad-CAM and occlusion maps of any of its stages, and overlays."""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jtl.errors import ConfigError
from jtl.models.staged import StagedNet
from jtl.platforms import compiler_options
from jtl.report.geometry import enlarging, grids_of

# The least, the middle and the greatest of a map over a grey image: dark blue, orange, yellow.
_SCALE = np.array([[30, 20, 110], [230, 90, 40], [255, 240, 80]], np.float32)


def gradcam(
    model: StagedNet,
    variables: Mapping[str, Any],
    images: Any,
    class_index: Any,
    stage: str | None = None,
) -> np.ndarray:
    """Where a stage's activations speak for a class (Selvaraju et al., 2017).

    Args:
        model: a network of jtl's stages.
        variables: its parameters and statistics.
        images: float `[batch, height, width, 3]`, normalised as the weights expect.
        class_index: the class to explain, int or one for each image, int `[batch]`.
        stage: whose activations are looked at; the last with a spatial extent by default.

    Returns:
        float32 `[batch, height, width]` in [0, 1], the greatest of each image 1; all 0 where
        nothing speaks for the class.

    Raises:
        ConfigError: the network has no such stage, or the stage has no spatial extent.
    """
    images = jnp.asarray(images)
    chosen = _spatial_stage(model, variables, images, stage)
    classes = _classes(model, class_index, len(images))
    return np.asarray(_gradcam(model, chosen)(dict(variables), images, classes))


def occlusion(
    model: StagedNet,
    variables: Mapping[str, Any],
    images: Any,
    class_index: Any,
    *,
    window: float = 0.2,
    positions: int = 8,
) -> np.ndarray:
    """How much probability of a class is lost where the image is covered.

    A window in the image's mean colour is moved over it; each pixel has the mean loss over all
    windows that cover it.

    Args:
        model: a network of jtl's stages.
        variables: its parameters and statistics.
        images: float `[batch, height, width, 3]`, normalised as the weights expect.
        class_index: the class to explain, int or one for each image, int `[batch]`.
        window: side of the window as a fraction of the image's, in (0, 1].
        positions: of the window along each side; the network runs `positions`² times.

    Returns:
        float32 `[batch, height, width]`, differences of probability in [-1, 1].

    Raises:
        ConfigError: a window or a number of positions that no map can be made with.
    """
    if not 0 < window <= 1 or positions < 2:
        raise ConfigError(
            f"window={window} and positions={positions}: give a window in (0, 1] and at least 2 "
            "positions."
        )
    images = jnp.asarray(images)
    classes = _classes(model, class_index, len(images))
    masks = _windows(images.shape[1], images.shape[2], window, positions)
    return np.asarray(_occlusion(model)(dict(variables), images, classes, masks))


def overlay(image: np.ndarray, heat: np.ndarray) -> np.ndarray:
    """An image with a map laid over it.

    Args:
        image: uint8 `[height, width, 3]`.
        heat: float `[height, width]`; what is below 0 counts as 0.

    Returns:
        uint8 `[height, width, 3]`.
    """
    heat = np.clip(heat, 0, None)
    level = (heat / max(float(heat.max()), 1e-12))[..., None]
    grey = image.astype(np.float32).mean(axis=-1, keepdims=True)
    low, middle, high = _SCALE
    colour = np.where(
        level < 0.5,
        low + (middle - low) * (2 * level),
        middle + (high - middle) * (2 * level - 1),
    )
    weight = 0.25 + 0.4 * level
    return np.clip(np.rint((1 - weight) * grey + weight * colour), 0, 255).astype(np.uint8)


@functools.lru_cache(maxsize=16)
def _gradcam(model: StagedNet, stage: str) -> Callable[..., jax.Array]:
    chain = model.chain
    after = chain[chain.index(stage) + 1]

    def enlarge(variables: Any, images: jax.Array, maps: jax.Array) -> list[np.ndarray]:
        def activate(images: Any) -> Any:
            return model.apply(variables, images, last=stage, method="run_stages")

        one = jax.ShapeDtypeStruct((1, *images.shape[1:]), images.dtype)
        sides = zip(grids_of(activate, one), maps.shape[1:], images.shape[1:3])
        return [enlarging(*side) for side in sides]

    def explain(variables: Any, images: jax.Array, classes: jax.Array) -> jax.Array:
        active = model.apply(variables, images, last=stage, method="run_stages")

        def score(active: Any) -> Any:
            logits: Any = model.apply(variables, active, first=after, method="run_stages")
            return jnp.take_along_axis(logits, classes[:, None], axis=1).sum()

        slopes = jax.grad(score)(active)
        weights = slopes.mean(axis=(1, 2), keepdims=True)
        maps = jnp.maximum((weights * active).sum(axis=-1), 0).astype(jnp.float32)
        maps = jnp.einsum("brc,hr,wc->bhw", maps, *enlarge(variables, images, maps))
        return maps / jnp.maximum(maps.max(axis=(1, 2), keepdims=True), 1e-12)

    return jax.jit(explain, compiler_options=compiler_options())


@functools.lru_cache(maxsize=16)
def _occlusion(model: StagedNet) -> Callable[..., jax.Array]:
    def explain(variables: Any, images: jax.Array, classes: jax.Array, masks: Any) -> jax.Array:
        def probability(images: jax.Array) -> jax.Array:
            logits: Any = model.apply(variables, images, train=False)
            rows = jax.nn.softmax(logits, axis=-1)
            return jnp.take_along_axis(rows, classes[:, None], axis=1)[:, 0]

        cover = images.mean(axis=(1, 2), keepdims=True)
        whole = probability(images)

        def lost(mask: jax.Array) -> jax.Array:
            covered = jnp.where(mask[None, :, :, None], cover, images)
            return whole - probability(covered)

        losses = jax.lax.map(lost, masks)  # [windows, batch]
        shares = masks / jnp.maximum(masks.sum(axis=0, keepdims=True), 1)
        return jnp.einsum("pb,phw->bhw", losses, shares).astype(jnp.float32)

    return jax.jit(explain, compiler_options=compiler_options())


def _windows(height: int, width: int, window: float, positions: int) -> np.ndarray:
    """Bool `[positions², height, width]`, True under each window; every pixel under one."""

    def along(length: int) -> np.ndarray:
        # As wide as it takes to leave no gap between two places.
        side = min(length, max(round(window * length), -(-length // positions)))
        starts = np.rint(np.linspace(0, length - side, positions)).astype(int)
        place = np.arange(length)
        return (place >= starts[:, None]) & (place < starts[:, None] + side)

    rows, columns = along(height), along(width)
    both = rows[:, None, :, None] & columns[None, :, None, :]
    return both.reshape(-1, height, width)


def _classes(model: StagedNet, class_index: Any, count: int) -> jax.Array:
    if not isinstance(model, StagedNet):
        raise ConfigError("only a network of jtl's own stages can be explained.")
    classes = np.broadcast_to(np.asarray(class_index, np.int32), (count,))
    if count and not 0 <= classes.min() <= classes.max() < model.num_classes:
        raise ConfigError(
            f"class_index names class {classes.max()}; the model has {model.num_classes}, from 0."
        )
    return jnp.asarray(classes)


def _spatial_stage(
    model: StagedNet, variables: Mapping[str, Any], images: jax.Array, stage: str | None
) -> str:
    if not isinstance(model, StagedNet):
        raise ConfigError("only a network of jtl's own stages can be explained.")
    shapes: Any = jax.eval_shape(
        lambda v, x: model.apply(v, x, method="activations"), dict(variables), images
    )
    spatial = [name for name in model.chain if name != "head" and len(shapes[name].shape) == 4]
    if stage is None:
        return spatial[-1]
    if stage not in spatial:
        raise ConfigError(
            f"stage {stage!r} has no map to show; those that have are {', '.join(spatial)}."
        )
    return stage
