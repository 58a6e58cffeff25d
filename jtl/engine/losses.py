"""Losses: each maps `(logits, batch)` to float `[batch]`; mask and mean belong to the step."""

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import optax

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
    if not 0 <= label_smoothing < 1:
        raise ConfigError(
            f"label_smoothing={label_smoothing} is no share of a target; give one in [0, 1)."
        )

    def loss(logits: jax.Array, batch: Batch) -> jax.Array:
        logits = at_least_float32(logits)
        targets = class_targets(batch["label"], logits.shape[-1], logits.dtype)
        return optax.softmax_cross_entropy(logits, optax.smooth_labels(targets, label_smoothing))

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
