"""The pure evaluation and prediction steps: stored statistics, no randomness, masked sums."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from jtl.engine.batch import batch_sum
from jtl.engine.forward import Forward, as_forward
from jtl.engine.losses import (
    Batch,
    Loss,
    at_least_float32,
    cross_entropy,
    known_labels_only,
    sigmoid_cross_entropy,
)
from jtl.engine.metrics import MetricSums, metric_sums
from jtl.engine.views import Views, average_logits

Prepare = Callable[[dict[str, Any], jax.Array | None], Mapping[str, Any]]


def make_eval_step(
    model: Any,
    *,
    loss: Loss | None = None,
    prepare: Prepare | None = None,
    several: bool = False,
) -> "EvalStep":
    """Makes the pure evaluation step `(variables, batch) -> metric sums`.

    The sums of several batches add up leaf by leaf; `jtl.engine.metrics.summarize` turns them
    into metrics. Masked examples count nothing.

    Args:
        model: as for `make_train_step`.
        loss: as for `make_train_step`.
        prepare: as for `make_train_step`; its keys are None.
        several: whether images may have several labels, float `[batch, classes]` of 0 and 1.
    """
    return EvalStep(
        forward=as_forward(model),
        loss=loss or (sigmoid_cross_entropy() if several else cross_entropy()),
        prepare=prepare,
        several=several,
    )


def make_predict_step(model: Any, *, prepare: Prepare | None = None) -> "PredictStep":
    """Makes the pure prediction step `(variables, batch) -> logits` of the global batch.

    Args:
        model: as for `make_train_step`.
        prepare: as for `make_eval_step`.
    """
    return PredictStep(forward=as_forward(model), prepare=prepare)


def make_score_step(
    model: Any,
    *,
    prepare: Prepare | None = None,
    views: Views | None = None,
    several: bool = False,
) -> "ScoreStep":
    """Makes the pure step `(variables, batch) -> (logits, mask)` of the global batch.

    Args:
        model: as for `make_train_step`.
        prepare: as for `make_eval_step`.
        views: of each image, whose probabilities are averaged; None looks at the image alone.
        several: whether probabilities are a sigmoid's, not softmax's.
    """
    return ScoreStep(forward=as_forward(model), prepare=prepare, views=views, several=several)


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class EvalStep:
    """The pure evaluation step; `make_eval_step` documents it."""

    forward: Forward
    loss: Loss
    prepare: Prepare | None
    several: bool = False
    axis_name: str | None = None

    donated = ()

    def bind(self, axis_name: str) -> "EvalStep":
        """The same step for use under a mapped axis of this name."""
        return dataclasses.replace(self, axis_name=axis_name)

    def __call__(self, variables: Mapping[str, Any], batch: Batch) -> MetricSums:
        """Metric sums over the unmasked examples of the global batch."""
        logits, full = _evaluate(self.forward, self.prepare, self.axis_name, variables, batch)
        losses = self.loss(logits, full)
        losses = known_labels_only(losses, full["label"], logits.shape[-1])
        sums = metric_sums(logits, losses, full["label"], full["mask"], several=self.several)
        return batch_sum(sums, self.axis_name)


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class PredictStep:
    """The pure prediction step; `make_predict_step` documents it."""

    forward: Forward
    prepare: Prepare | None
    axis_name: str | None = None

    donated = ()

    def bind(self, axis_name: str) -> "PredictStep":
        """The same step for use under a mapped axis of this name."""
        return dataclasses.replace(self, axis_name=axis_name)

    def __call__(self, variables: Mapping[str, Any], batch: Batch) -> jax.Array:
        """Logits `[global batch, classes]` in the batch's order, at least float32."""
        logits, _ = _evaluate(self.forward, self.prepare, self.axis_name, variables, batch)
        return gather_batch(at_least_float32(logits), self.axis_name)


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class ScoreStep:
    """The pure step that scores examples one by one; `make_score_step` documents it."""

    forward: Forward
    prepare: Prepare | None
    views: Views | None
    several: bool
    axis_name: str | None = None

    donated = ()

    def bind(self, axis_name: str) -> "ScoreStep":
        """The same step for use under a mapped axis of this name."""
        return dataclasses.replace(self, axis_name=axis_name)

    def __call__(self, variables: Mapping[str, Any], batch: Batch) -> tuple[jax.Array, jax.Array]:
        """Logits `[global batch, classes]`, at least float32, and mask `[global batch]`."""
        full = complete(batch, self.axis_name)
        if self.prepare is not None:
            full = {**full, **self.prepare(full, None)}
        own = dict(variables)
        if self.views is None:
            logits = at_least_float32(self.forward.evaluate(own, full["image"]))
        else:
            # One view after the other, so that memory and program are those of a single one.
            each = jax.lax.map(lambda view: self.forward.evaluate(own, view),
                               self.views(full["image"]))  # fmt: skip
            logits = average_logits(each, several=self.several)
        mask = gather_batch(full["mask"].astype(jnp.int32), self.axis_name)
        return gather_batch(logits, self.axis_name), mask > 0


def complete(batch: Batch, axis_name: str | None) -> dict[str, Any]:
    """The batch with its mask and each example's position, where it brought none."""
    size = batch["image"].shape[0]
    full = dict(batch)
    if "mask" not in full:
        full["mask"] = jnp.ones((size,), bool)
    if "position" not in full:
        device = 0 if axis_name is None else jax.lax.axis_index(axis_name)
        full["position"] = device * size + jnp.arange(size, dtype=jnp.int32)
    return full


def gather_batch(rows: jax.Array, axis_name: str | None) -> jax.Array:
    """The rows of all devices in the batch's order, known to be the same on each of them."""
    if axis_name is None:
        return rows
    # A sum of disjoint parts, because its result is known to be the same on every device.
    size, devices = rows.shape[0], jax.lax.axis_size(axis_name)
    whole = jnp.zeros((devices * size, *rows.shape[1:]), rows.dtype)
    start = jax.lax.axis_index(axis_name) * size
    placed = jax.lax.dynamic_update_slice_in_dim(whole, rows, start, axis=0)
    return jax.lax.psum(placed, axis_name)


def _evaluate(
    forward: Forward,
    prepare: Prepare | None,
    axis_name: str | None,
    variables: Mapping[str, Any],
    batch: Batch,
) -> tuple[jax.Array, dict[str, Any]]:
    full = complete(batch, axis_name)
    if prepare is not None:
        full = {**full, **prepare(full, None)}
    return forward.evaluate(dict(variables), full["image"]), full
