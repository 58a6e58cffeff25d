"""The pure training, evaluation and prediction steps: one body under every placement."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jtl.engine.forward import Forward, as_forward
from jtl.engine.freeze import TRAINABLE, Freeze, FrozenModules, Labels, entries_of, freeze_labels
from jtl.engine.interception import BatchContext, batch_sum
from jtl.engine.losses import Loss, at_least_float32, class_indices, cross_entropy
from jtl.engine.metrics import MetricSums, metric_sums
from jtl.engine.optim import check_labels
from jtl.engine.state import TrainState
from jtl.rng import example_keys
from jtl.tree import flatten, merge, select

Batch = Mapping[str, jax.Array]
Prepare = Callable[[dict[str, Any], jax.Array | None], Mapping[str, Any]]
Metrics = dict[str, jax.Array]


def make_train_step(
    model: Any,
    tx: optax.GradientTransformation,
    *,
    freeze: Freeze = (),
    loss: Loss | None = None,
    prepare: Prepare | None = None,
) -> "TrainStep":
    """Makes the pure training step `(state, batch) -> (state, metrics)`.

    A batch holds `image` `[batch, height, width, channel]` as the model takes it and `label`,
    int `[batch]` or float `[batch, classes]`; optional are `mask`, bool `[batch]`, False for
    padding, and `position`, int `[batch]`, each example's place in the global batch.

    Only trainable parameters are differentiated. Metrics are replicated scalars: `loss` before
    the update, `accuracy`, `grad_norm` of the trainable gradients, and `skipped`, 1 where loss
    or gradient was not finite and everything but `state.step` stayed as it was.

    Args:
        model: a Linen module, or a function
            `apply(variables, images, train, rngs) -> (logits, new_statistics)`.
        tx: the optimizer, partitioned by the same freeze spec.
        freeze: the freeze spec; see `freeze_labels`.
        loss: maps `(logits, batch)` to float `[batch]`; softmax cross-entropy by default.
        prepare: `(batch, keys) -> batch` run on the device before the model, with one key per
            example; the place for normalisation and augmentation.

    Raises:
        ConfigError: when the step is first called: the spec matches nothing, or `tx` was
            partitioned by another one.
    """
    return TrainStep(
        forward=as_forward(model),
        tx=tx,
        freeze=entries_of(freeze),
        loss=loss or cross_entropy(),
        prepare=prepare,
    )


def make_eval_step(
    model: Any, *, loss: Loss | None = None, prepare: Prepare | None = None
) -> "EvalStep":
    """Makes the pure evaluation step `(variables, batch) -> metric sums`.

    The sums of several batches add up leaf by leaf; `jtl.engine.metrics.summarize` turns them
    into metrics. Masked examples count nothing.

    Args:
        model: as for `make_train_step`.
        loss: as for `make_train_step`.
        prepare: as for `make_train_step`; its keys are None.
    """
    return EvalStep(forward=as_forward(model), loss=loss or cross_entropy(), prepare=prepare)


def make_predict_step(model: Any, *, prepare: Prepare | None = None) -> "PredictStep":
    """Makes the pure prediction step `(variables, batch) -> logits` of the global batch.

    Args:
        model: as for `make_train_step`.
        prepare: as for `make_eval_step`.
    """
    return PredictStep(forward=as_forward(model), prepare=prepare)


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class TrainStep:
    """The pure training step; `make_train_step` documents it.

    Attributes:
        axis_name: the mapped axis of the caller's own pmap or shard_map, or None.
    """

    forward: Forward
    tx: optax.GradientTransformation
    freeze: tuple[str, ...]
    loss: Loss
    prepare: Prepare | None
    axis_name: str | None = None

    donated = (0,)

    def bind(self, axis_name: str) -> "TrainStep":
        """The same step for use under a mapped axis of this name."""
        return dataclasses.replace(self, axis_name=axis_name)

    def __call__(self, state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        """One update; pure, and safe to jit with the state donated."""
        labels = freeze_labels(state.params, self.freeze, self.forward.stages)
        check_labels(self.tx, labels)
        full = _complete(batch, self.axis_name)
        if self.prepare is not None:
            keys = example_keys(state.rng, "augment", state.step, full["position"])
            full = {**full, **self.prepare(full, keys)}
        trainable = select(state.params, labels, TRAINABLE)
        (_, (stats, metrics)), grads = jax.value_and_grad(self._loss, has_aux=True)(
            trainable, state, full, labels
        )
        grads = self._mean(grads)
        metrics["grad_norm"] = optax.global_norm(grads)
        updates, opt_state = self.tx.update(grads, state.opt_state, trainable)
        finite = jnp.isfinite(metrics["loss"]) & jnp.isfinite(metrics["grad_norm"])
        metrics["skipped"] = 1 - finite.astype(jnp.int32)
        new = (optax.apply_updates(trainable, updates), stats, opt_state)
        old = (trainable, state.batch_stats, state.opt_state)
        trainable, stats, opt_state = jax.tree.map(
            lambda after, before: jnp.where(finite, after, before), new, old
        )
        return dataclasses.replace(
            state,
            step=state.step + 1,
            params=merge(trainable, state.params),
            batch_stats=stats,
            opt_state=opt_state,
        ), metrics

    def _loss(
        self, trainable: Any, state: TrainState, batch: dict[str, Any], labels: Labels
    ) -> tuple[jax.Array, tuple[Any, Metrics]]:
        variables = {
            "params": merge(trainable, state.params),
            "batch_stats": state.batch_stats,
        }
        context = BatchContext(
            frozen=FrozenModules(flatten(labels)),
            position=batch["position"],
            mask=batch["mask"],
            axis_name=self.axis_name,
        )
        logits, stats = self.forward.train(
            variables, batch["image"], state.rng, state.step, context
        )
        losses = jnp.where(batch["mask"], self.loss(logits, batch), 0.0)
        hits = jnp.argmax(logits, axis=-1) == class_indices(batch["label"])
        # Sum over sum: the mean of per-device means would weigh examples unevenly.
        count = jnp.maximum(
            batch_sum(jnp.sum(batch["mask"].astype(losses.dtype)), self.axis_name), 1
        )
        loss = batch_sum(jnp.sum(losses), self.axis_name) / count
        right = jnp.sum((hits & batch["mask"]).astype(losses.dtype))
        metrics = {"loss": loss, "accuracy": batch_sum(right, self.axis_name) / count}
        return loss, (self._mean(stats), metrics)

    def _mean(self, tree: Any) -> Any:
        # Right under every mapping: with replication tracked the gradients come summed and the
        # mean of equal values is the value; without it they come times the device count.
        return tree if self.axis_name is None else jax.lax.pmean(tree, self.axis_name)


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class EvalStep:
    """The pure evaluation step; `make_eval_step` documents it."""

    forward: Forward
    loss: Loss
    prepare: Prepare | None
    axis_name: str | None = None

    donated = ()

    def bind(self, axis_name: str) -> "EvalStep":
        """The same step for use under a mapped axis of this name."""
        return dataclasses.replace(self, axis_name=axis_name)

    def __call__(self, variables: Mapping[str, Any], batch: Batch) -> MetricSums:
        """Metric sums over the unmasked examples of the global batch."""
        logits, full = _evaluate(self.forward, self.prepare, self.axis_name, variables, batch)
        losses = self.loss(logits, full)
        sums = metric_sums(logits, losses, full["label"], full["mask"])
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
        return _gather(at_least_float32(logits), self.axis_name)


def _evaluate(
    forward: Forward,
    prepare: Prepare | None,
    axis_name: str | None,
    variables: Mapping[str, Any],
    batch: Batch,
) -> tuple[jax.Array, dict[str, Any]]:
    full = _complete(batch, axis_name)
    if prepare is not None:
        full = {**full, **prepare(full, None)}
    return forward.evaluate(dict(variables), full["image"]), full


def _complete(batch: Batch, axis_name: str | None) -> dict[str, Any]:
    size = batch["image"].shape[0]
    full = dict(batch)
    if "mask" not in full:
        full["mask"] = jnp.ones((size,), bool)
    if "position" not in full:
        device = 0 if axis_name is None else jax.lax.axis_index(axis_name)
        full["position"] = device * size + jnp.arange(size, dtype=jnp.int32)
    return full


def _gather(rows: jax.Array, axis_name: str | None) -> jax.Array:
    if axis_name is None:
        return rows
    # A sum of disjoint parts, because its result is known to be the same on every device.
    size, devices = rows.shape[0], jax.lax.axis_size(axis_name)
    whole = jnp.zeros((devices * size, *rows.shape[1:]), rows.dtype)
    start = jax.lax.axis_index(axis_name) * size
    placed = jax.lax.dynamic_update_slice_in_dim(whole, rows, start, axis=0)
    return jax.lax.psum(placed, axis_name)
