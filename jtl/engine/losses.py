"""Losses: each maps `(logits, batch)` to float `[batch]`; mask and mean belong to the step."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Annotated, Literal

import jax
import jax.numpy as jnp
import optax
from annotated_types import Ge, Interval, Lt
from jax.typing import ArrayLike

from jtl.engine.numbers import is_known
from jtl.errors import ConfigError

Batch = Mapping[str, jax.Array]
Loss = Callable[[jax.Array, Batch], jax.Array]


def cross_entropy(label_smoothing: float = 0.0) -> Loss:
    """Softmax cross-entropy against int `[batch]` or float `[batch, classes]` labels.

    Args:
        label_smoothing: the fraction of each target spread evenly over all classes, in [0, 1).

    Returns:
        A loss in nats, at least float32.

    Raises:
        ConfigError: `label_smoothing` is not in [0, 1).
    """
    _check_share(label_smoothing)

    def loss(logits: jax.Array, batch: Batch) -> jax.Array:
        logits = at_least_float32(logits)
        targets = class_targets(batch["label"], logits.shape[-1], logits.dtype)
        return optax.softmax_cross_entropy(logits, optax.smooth_labels(targets, label_smoothing))

    return loss


def sigmoid_cross_entropy(label_smoothing: float = 0.0) -> Loss:
    """Sigmoid cross-entropy for several labels an image, averaged over the classes.

    Args:
        label_smoothing: the fraction of each target moved towards one half, in [0, 1).

    Returns:
        A loss of float labels `[batch, classes]` in [0, 1], in nats, at least float32.

    Raises:
        ConfigError: `label_smoothing` is not in [0, 1).
    """
    _check_share(label_smoothing)

    def loss(logits: jax.Array, batch: Batch) -> jax.Array:
        logits = at_least_float32(logits)
        targets = class_targets(batch["label"], logits.shape[-1], logits.dtype)
        targets = targets * (1 - label_smoothing) + 0.5 * label_smoothing
        return jnp.mean(optax.sigmoid_binary_cross_entropy(logits, targets), axis=-1)

    return loss


def focal(gamma: float = 2.0) -> Loss:
    """Softmax cross-entropy that looks away from what is already right.

    Each target class counts `(1 - p) ** gamma` of its cross-entropy (Lin et al. 2017,
    arXiv:1708.02002, equation 4, for softmax).

    Args:
        gamma: how strongly, at least 0; 0 is plain cross-entropy.

    Raises:
        ConfigError: `gamma` is negative.
    """
    if gamma < 0:
        raise ConfigError(f"focal: gamma={gamma} is negative; give 0 or more, such as 2.")

    def loss(logits: jax.Array, batch: Batch) -> jax.Array:
        log_p = jax.nn.log_softmax(at_least_float32(logits), axis=-1)
        targets = class_targets(batch["label"], logits.shape[-1], log_p.dtype)
        # Above 0, where a root (gamma below 1) has no slope.
        missing = jnp.maximum(-jnp.expm1(log_p), jnp.finfo(log_p.dtype).tiny)
        away = missing**gamma if gamma else 1.0
        return -jnp.sum(targets * away * log_p, axis=-1)

    return loss


def weighted(loss: Loss, class_weights: jax.Array) -> Loss:
    """A loss in which each example counts by its class.

    Args:
        loss: any loss.
        class_weights: float `[classes]`, such as from `balanced_weights`.
    """

    def scaled(logits: jax.Array, batch: Batch) -> jax.Array:
        values = loss(logits, batch)
        targets = class_targets(batch["label"], logits.shape[-1], values.dtype)
        return values * (targets @ jnp.asarray(class_weights, values.dtype))

    return scaled


def balanced_weights(counts: ArrayLike) -> jax.Array:
    """Class weights by which every class counts the same, averaging 1 over the examples.

    Args:
        counts: int `[classes]`, training examples of each class; a class without any weighs 0.

    Returns:
        float `[classes]`: examples over (classes that occur × the class's count), as
        scikit-learn's `class_weight="balanced"`.
    """
    counts = jnp.asarray(counts)
    occurs = jnp.sum(counts > 0)
    return jnp.where(counts > 0, jnp.sum(counts) / (occurs * jnp.maximum(counts, 1)), 0.0)


def known_labels_only(losses: jax.Array, label: jax.Array, classes: int) -> jax.Array:
    """Losses `[batch]`, NaN where an int label is no class: one-hot it would cost nothing."""
    if not jnp.issubdtype(label.dtype, jnp.integer):
        return losses
    return jnp.where((label >= 0) & (label < classes), losses, jnp.nan)


@dataclasses.dataclass(frozen=True, kw_only=True)
class LossOptions:
    """What is minimised.

    Attributes:
        name: softmax cross-entropy for one label an image, `sigmoid` cross-entropy for
            several, or `focal`, which looks away from what is already right.
        label_smoothing: the fraction of each target spread over all classes; not for `focal`.
        gamma: how strongly `focal` looks away.
        class_weights: `balanced` lets every class count the same, however many images it has.
    """

    name: Literal["cross_entropy", "sigmoid", "focal"] = "cross_entropy"
    label_smoothing: Annotated[float, Interval(ge=0), Lt(1)] = 0.0
    gamma: Annotated[float, Ge(0)] = 2.0
    class_weights: Literal["none", "balanced"] = "none"

    def __post_init__(self) -> None:
        """Refuses smoothing where there is none."""
        if self.name == "focal" and self.label_smoothing:
            raise ConfigError(
                f"label_smoothing={self.label_smoothing} does not go with the focal loss; set it "
                "to 0 or choose name: cross_entropy."
            )


def make_loss(options: LossOptions, class_counts: ArrayLike | None = None) -> Loss:
    """The loss that the options say.

    Args:
        options: which loss.
        class_counts: int `[classes]`, training examples of each class, for balanced weights.

    Raises:
        ConfigError: weights are to be balanced, but nothing is counted.
    """
    if options.name == "focal":
        loss = focal(options.gamma)
    elif options.name == "sigmoid":
        loss = sigmoid_cross_entropy(options.label_smoothing)
    else:
        loss = cross_entropy(options.label_smoothing)
    if options.class_weights == "balanced":
        if class_counts is None:
            raise ConfigError("class_weights='balanced' needs the classes' counts; give them.")
        return weighted(loss, balanced_weights(class_counts))
    return loss


def at_least_float32(array: jax.Array) -> jax.Array:
    """The array in float32, or in float64 if it already is."""
    return array.astype(jnp.promote_types(array.dtype, jnp.float32))


def class_targets(label: jax.Array, classes: int, dtype: jnp.dtype) -> jax.Array:
    """Labels as probabilities `[batch, classes]`, one-hot where they are class indices."""
    if jnp.issubdtype(label.dtype, jnp.integer):
        return jax.nn.one_hot(label, classes, dtype=dtype)
    return label.astype(dtype)


def class_indices(label: jax.Array) -> jax.Array:
    """The most probable class of each label, int `[batch]`."""
    return label if jnp.issubdtype(label.dtype, jnp.integer) else jnp.argmax(label, axis=-1)


def _check_share(label_smoothing: float) -> None:
    if is_known(label_smoothing) and not 0 <= label_smoothing < 1:
        raise ConfigError(
            f"label_smoothing={label_smoothing} is no share of a target; give one in [0, 1)."
        )
