"""The pure training step: one body on one device, under pmap and over a mesh."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import chex
import jax
import jax.numpy as jnp
import optax
from jax.experimental.layout import Layout, with_layout_constraint

from jtl.engine.batch import BatchContext, batch_mean, batch_sum
from jtl.engine.evaluation import Prepare, complete
from jtl.engine.forward import Forward, as_forward
from jtl.engine.freeze import TRAINABLE, Freeze, Labels, entries_of, freeze_labels
from jtl.engine.losses import Batch, Loss, class_indices, cross_entropy, known_labels_only
from jtl.engine.modes import BatchNormMode, Modes, make_modes
from jtl.engine.optim import check_labels
from jtl.engine.state import LossScale, TrainState
from jtl.errors import ConfigError
from jtl.platforms import on_gpu
from jtl.rng import example_keys, view_keys
from jtl.tree import merge, select

Metrics = dict[str, jax.Array]

_GROWTH_INTERVAL = 2000  # finite steps before the loss scale doubles


def make_train_step(
    model: Any,
    tx: optax.GradientTransformation,
    *,
    freeze: Freeze = (),
    loss: Loss | None = None,
    prepare: Prepare | None = None,
    batch_norm: Mapping[str, BatchNormMode] | BatchNormMode | None = None,
    frozen_dropout: bool = False,
    accumulate: int = 1,
    ema_decay: float | None = None,
    global_batch_norm: bool = True,
) -> "TrainStep":
    """Makes the pure training step `(state, batch) -> (state, metrics)`.

    A batch holds `image` `[batch, height, width, channel]` as the model takes it and `label`,
    int `[batch]` or float `[batch, classes]`; optional are `mask`, bool `[batch]`, False for
    padding, and `position`, int `[batch]`, each example's place in the global batch. Keys of
    `prepare` follow the step and the position or, where a batch brings `example` and `view`, int
    `[batch]`, those, so that a view can be drawn again.

    Only trainable parameters are differentiated. Metrics are replicated scalars: `loss` before
    the update, `accuracy`, `grad_norm` of the trainable gradients, and `skipped`, 1 where loss
    or gradient was not finite and everything but `state.step` stayed as it was. A label beyond
    the classes makes the loss NaN.

    Args:
        model: a Linen module, an NNX module (its arrays from `nnx_variables`), or a function
            `apply(variables, images, train, rngs) -> (logits, new_statistics)`.
        tx: the optimizer, partitioned by the same freeze spec.
        freeze: the freeze spec; see `freeze_labels`.
        loss: maps `(logits, batch)` to float `[batch]`; softmax cross-entropy by default.
        prepare: `(batch, keys) -> batch` run on the device before the model, with one key per
            example; the place for normalisation and augmentation.
        batch_norm: `frozen`, `statistics`, `affine` or `train`, for every BatchNorm or by glob
            over module paths; by default `frozen` where the affine parameters are, else `train`.
        frozen_dropout: whether dropout and drop-path stay on in frozen stages.
        accumulate: micro-batches that one batch is split into; the update is that of the whole
            batch, but BatchNorm in training takes its statistics a micro-batch at a time.
        ema_decay: of the running means in `state.ema`, in [0, 1); reached gradually over the
            first steps. None keeps none.
        global_batch_norm: whether BatchNorm in training takes the statistics of the global
            batch; otherwise those of each device's part, as plain Flax does under pmap, whose
            running means are then averaged over the devices.

    Raises:
        ConfigError: an argument is out of range; or, when the step is first called, the spec
            matches nothing, or `tx` or the state was made for another step.
    """
    if accumulate < 1:
        raise ConfigError(f"accumulate={accumulate} is no number of micro-batches; set 1 or more.")
    if ema_decay is not None and not 0 <= ema_decay < 1:
        raise ConfigError(f"ema_decay={ema_decay} is not in [0, 1); set one such as 0.999.")
    return TrainStep(
        forward=as_forward(model),
        tx=tx,
        freeze=entries_of(freeze),
        loss=loss or cross_entropy(),
        prepare=prepare,
        batch_norm=batch_norm,
        frozen_dropout=frozen_dropout,
        accumulate=accumulate,
        ema_decay=ema_decay,
        global_batch_norm=global_batch_norm,
    )


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
    batch_norm: Mapping[str, BatchNormMode] | BatchNormMode | None
    frozen_dropout: bool
    accumulate: int
    ema_decay: float | None
    global_batch_norm: bool = True
    axis_name: str | None = None

    donated = (0,)

    def bind(self, axis_name: str) -> "TrainStep":
        """The same step for use under a mapped axis of this name."""
        return dataclasses.replace(self, axis_name=axis_name)

    def modes(self, labels: Labels) -> Modes:
        """How each BatchNorm and dropout behaves under this step."""
        return make_modes(labels, self.batch_norm, self.frozen_dropout)

    def __call__(self, state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        """One update; pure, and safe to jit with the state donated."""
        labels = freeze_labels(state.params, self.freeze, self.forward.stages)
        check_labels(self.tx, labels)
        self._check_ema(state)
        full = complete(batch, self.axis_name)
        if self.prepare is not None:
            full = {**full, **self.prepare(full, _augmentation_keys(state, full))}
        full["image"] = _without_padding(full["image"], full["mask"])
        trainable = select(state.params, labels, TRAINABLE)
        modes = self.modes(labels)
        modes.check_globs(state.batch_stats)
        grads, stats, metrics = self._gradients(trainable, state, full, modes)
        metrics["grad_norm"] = optax.global_norm(grads)
        # Schedules follow the step; rules such as reduce_on_plateau ask for the loss.
        tx = optax.with_extra_args_support(self.tx)
        updates, opt_state = tx.update(
            grads, state.opt_state, trainable, step=state.step, value=metrics["loss"]
        )
        finite = jnp.isfinite(metrics["loss"]) & jnp.isfinite(metrics["grad_norm"])
        metrics["skipped"] = 1 - finite.astype(jnp.int32)
        old = (trainable, state.batch_stats, state.opt_state, state.ema)
        new_trainable = optax.apply_updates(trainable, updates)
        ema = self._averaged(state, new_trainable, stats)
        trainable, stats, opt_state, ema = jax.tree.map(
            lambda after, before: after if after is before else jnp.where(finite, after, before),
            (new_trainable, stats, opt_state, ema),
            old,
        )
        return dataclasses.replace(
            state,
            step=state.step + 1,
            params=merge(trainable, state.params),
            batch_stats=stats,
            opt_state=opt_state,
            ema=ema,
            loss_scale=_rescaled(state.loss_scale, finite),
        ), metrics

    def _gradients(
        self, trainable: Any, state: TrainState, batch: dict[str, Any], modes: Modes
    ) -> tuple[Any, Any, Metrics]:
        count = batch_sum(jnp.sum(batch["mask"].astype(jnp.float32)), self.axis_name)
        count = jnp.maximum(count, 1)
        differentiate = jax.value_and_grad(self._loss, has_aux=True)

        def one(stats: Any, part: dict[str, Any]) -> tuple[Any, Any]:
            (_, (stats, sums)), grads = differentiate(trainable, stats, state, part, modes, count)
            return stats, (grads, sums)

        if self.accumulate == 1:
            stats, (grads, metrics) = one(state.batch_stats, batch)
        else:
            first = jax.tree.map(lambda leaf: leaf[0], parts := _split(batch, self.accumulate))
            zeros = jax.tree.map(
                lambda leaf: jnp.zeros(leaf.shape, leaf.dtype),
                jax.eval_shape(lambda: one(state.batch_stats, first)[1]),
            )

            def add(carry: tuple[Any, Any], part: dict[str, Any]) -> tuple[Any, None]:
                stats, own = one(carry[0], part)
                return (stats, jax.tree.map(jnp.add, carry[1], own)), None

            (stats, (grads, metrics)), _ = jax.lax.scan(add, (state.batch_stats, zeros), parts)
        # With replication tracked, gradients of replicated parameters come summed, and the mean
        # of equal values is the value; without it they come times the device count.
        total = batch_sum if _varies(trainable, self.axis_name) else batch_mean
        grads = total(grads, self.axis_name)
        if state.loss_scale is not None:
            factor = state.loss_scale.factor
            grads = jax.tree.map(lambda leaf: leaf / factor, grads)
        return jax.tree.map(_in_rows, grads), stats, metrics

    def _loss(
        self,
        trainable: Any,
        stats: Any,
        state: TrainState,
        batch: dict[str, Any],
        modes: Modes,
        count: jax.Array,
    ) -> tuple[jax.Array, tuple[Any, Metrics]]:
        variables = {"params": merge(trainable, state.params), "batch_stats": stats}
        context = BatchContext(
            modes=modes,
            position=batch["position"],
            mask=batch["mask"],
            axis_name=self.axis_name,
            global_batch_norm=self.global_batch_norm,
        )
        logits, stats = self.forward.train(
            variables, batch["image"], state.rng, state.step, context
        )
        losses = self.loss(logits, batch)
        chex.assert_equal_shape([losses, batch["mask"]])
        losses = known_labels_only(losses, batch["label"], logits.shape[-1])
        losses = jnp.where(batch["mask"], losses, 0.0)
        hits = (jnp.argmax(logits, axis=-1) == class_indices(batch["label"])) & batch["mask"]
        # Sum over sum: the mean of per-device means would weigh examples unevenly.
        divisor = count.astype(losses.dtype)
        loss = batch_sum(jnp.sum(losses), self.axis_name) / divisor
        right = batch_sum(jnp.sum(hits.astype(losses.dtype)), self.axis_name) / divisor
        scale = 1.0 if state.loss_scale is None else state.loss_scale.factor
        return loss * scale, (stats, {"loss": loss, "accuracy": right})

    def _averaged(self, state: TrainState, trainable: Any, stats: Any) -> Any:
        if self.ema_decay is None:
            return state.ema
        # As in TensorFlow's ExponentialMovingAverage, the first steps forget their start faster.
        step = state.step.astype(jnp.float32)
        decay = jnp.minimum(self.ema_decay, (1 + step) / (10 + step))
        return jax.tree.map(
            # In this form the mean of what never changes keeps its bits.
            lambda mean, new: (mean + (1 - decay) * (new - mean)).astype(mean.dtype),
            state.ema,
            {"params": trainable, "batch_stats": stats},
        )

    def _check_ema(self, state: TrainState) -> None:
        if (self.ema_decay is None) != (state.ema is None):
            raise ConfigError(
                f"the step has ema_decay={self.ema_decay}, but the state was created with "
                f"ema={state.ema is not None}; give both or neither."
            )


def _augmentation_keys(state: TrainState, batch: dict[str, Any]) -> jax.Array:
    if "view" in batch:
        return view_keys(state.rng, "augment", batch["view"], batch["example"])
    return example_keys(state.rng, "augment", state.step, batch["position"])


def _varies(tree: Any, axis_name: str | None) -> bool:
    """Whether shard_map holds each device's own copy of these, as of a stacked state."""
    types = [getattr(jax.typeof(leaf), "mat", None) for leaf in jax.tree.leaves(tree)]
    return any(axis_name in kind.varying for kind in types if kind is not None)


def _in_rows(gradient: jax.Array) -> jax.Array:
    """As its parameter lies, also that of a convolution's kernel, which a GPU gives turned around.

    XLA would turn it back while it updates the optimizer's state, which then cannot be in place.
    """
    if gradient.ndim <= 2 or not on_gpu():
        return gradient
    return with_layout_constraint(gradient, Layout(tuple(range(gradient.ndim))))


def _without_padding(images: jax.Array, mask: jax.Array) -> jax.Array:
    # What is not a number would pass every sum that weighs it with 0: 0 times NaN is NaN.
    return jnp.where(mask.reshape(-1, *[1] * (images.ndim - 1)), images, 0)


def _split(batch: dict[str, Any], parts: int) -> dict[str, Any]:
    size = batch["image"].shape[0]
    if size % parts:
        raise ConfigError(
            f"accumulate={parts} does not divide the {size} examples that a device takes; set "
            "a divisor of it, or another batch size."
        )
    # Every parts-th example to a part, so that a sharded batch stays where it lies.
    return jax.tree.map(
        lambda leaf: leaf.reshape(size // parts, parts, *leaf.shape[1:]).swapaxes(0, 1), batch
    )


def _rescaled(scale: LossScale | None, finite: jax.Array) -> LossScale | None:
    if scale is None:
        return None
    streak = jnp.where(finite, scale.streak + 1, 0)
    grow = streak >= _GROWTH_INTERVAL
    factor = jnp.where(finite, jnp.where(grow, scale.factor * 2, scale.factor), scale.factor / 2)
    return LossScale(factor=jnp.maximum(factor, 1.0), streak=jnp.where(grow, 0, streak))
