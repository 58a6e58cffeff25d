"""Optimizers and rates: what is trained by which rule, with frozen leaves left out entirely."""

import dataclasses
from collections.abc import Callable
from typing import Annotated, Any, Literal

import jax
import optax
from annotated_types import Ge, Gt, Interval, Lt

from jtl.engine.freeze import FROZEN, TRAINABLE, Labels
from jtl.errors import ConfigError
from jtl.tree import flatten


class PartitionedTransformation(optax.GradientTransformationExtraArgs):
    """An optax transformation that carries the labels it was partitioned by."""

    labels: Labels

    def __new__(
        cls, init: Callable[..., Any], update: Callable[..., Any], labels: Labels
    ) -> "PartitionedTransformation":
        """A transformation of two functions, as optax's are, with the labels beside them."""
        self = super().__new__(cls, init, update)
        self.labels = labels
        return self


def partition_optimizer(
    tx: optax.GradientTransformation, labels: Labels
) -> PartitionedTransformation:
    """Applies `tx` to the trainable leaves and nothing at all to the frozen ones.

    Clipping, decay and norms that belong to `tx` see the trainable leaves alone, and frozen
    leaves have no optimizer state.

    Args:
        tx: any optax transformation.
        labels: from `freeze_labels`.
    """
    split = optax.multi_transform({TRAINABLE: tx, FROZEN: optax.set_to_zero()}, labels)
    return PartitionedTransformation(split.init, split.update, labels)


def check_labels(tx: optax.GradientTransformation, labels: Labels) -> None:
    """Refuses an optimizer that was partitioned by another freeze spec than the step's.

    Raises:
        ConfigError: the labels differ, or parameters are frozen and `tx` has no labels.
    """
    expected = flatten(labels)
    if not isinstance(tx, PartitionedTransformation):
        if FROZEN in expected.values():
            raise ConfigError(
                "this step freezes parameters, but its optimizer was not partitioned: wrap it "
                "with jtl.partition_optimizer(tx, jtl.freeze_labels(params, freeze))."
            )
        return
    actual = flatten(tx.labels)
    if actual == expected:
        return
    wrong = [path for path in expected if actual.get(path) != expected[path]]
    wrong += [path for path in actual if path not in expected]
    first = wrong[0]
    raise ConfigError(
        f"the optimizer was partitioned by another freeze spec than the step's: {len(wrong)} "
        f"parameters differ, the first is {first!r} ({actual.get(first, 'unknown')} in the "
        f"optimizer, {expected.get(first, 'unknown')} in the step); make both from one spec."
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class OptimizerOptions:
    """Which optimizer, and how it is regularised.

    Attributes:
        name: the update rule.
        momentum: of SGD, in [0, 1).
        nesterov: whether SGD looks ahead.
        b1: AdamW's decay of the first moment.
        b2: AdamW's decay of the second moment.
        weight_decay: decoupled for AdamW, added to the gradient for SGD; matrices and
            convolutions only, never biases and normalisation.
        clip_norm: the largest global norm of the trainable gradients; None does not clip.
    """

    name: Literal["sgd", "adamw"] = "adamw"
    momentum: Annotated[float, Ge(0), Lt(1)] = 0.9
    nesterov: bool = False
    b1: Annotated[float, Ge(0), Lt(1)] = 0.9
    b2: Annotated[float, Ge(0), Lt(1)] = 0.999
    weight_decay: Annotated[float, Ge(0)] = 0.0
    clip_norm: Annotated[float, Gt(0)] | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class ScheduleOptions:
    """The learning rate over the steps of one phase.

    Attributes:
        rate: the peak learning rate.
        kind: constant, or cosine decay from the peak to `final` of it.
        warmup: the fraction of the phase's steps that rise linearly from 0 to the peak.
        final: the fraction of the peak at the last step of a cosine.
    """

    rate: Annotated[float, Gt(0)] = 1e-3
    kind: Literal["constant", "cosine"] = "cosine"
    warmup: Annotated[float, Interval(ge=0, lt=1)] = 0.05
    final: Annotated[float, Interval(ge=0, le=1)] = 0.0


def make_schedule(options: ScheduleOptions, steps: int) -> optax.Schedule:
    """The rate as a function of the phase's own step count, from 0 to `steps`."""
    rising = min(round(options.warmup * steps), steps - 1) if steps > 1 else 0
    falling = max(steps - rising, 1)
    if options.kind == "constant":
        main = optax.constant_schedule(options.rate)
    else:
        main = optax.cosine_decay_schedule(options.rate, falling, alpha=options.final)
    if not rising:
        return main
    # The first step already moves: a rate of exactly 0 would waste a batch.
    climb = optax.linear_schedule(options.rate / (rising + 1), options.rate, rising)
    return optax.join_schedules([climb, main], [rising])


def make_optimizer(
    options: OptimizerOptions, rate: float | optax.Schedule
) -> optax.GradientTransformation:
    """The optax chain of clipping, decay, update rule and rate.

    SGD's decay is added to the gradient before momentum, as torch.optim.SGD does; AdamW's is
    decoupled (Loshchilov and Hutter 2019, arXiv:1711.05101).
    """
    parts: list[optax.GradientTransformation] = []
    if options.clip_norm is not None:
        parts.append(optax.clip_by_global_norm(options.clip_norm))
    decay = optax.add_decayed_weights(options.weight_decay, mask=decayed)
    if options.name == "sgd":
        parts += [decay, optax.sgd(rate, options.momentum or None, options.nesterov)]
    else:
        parts += [
            optax.scale_by_adam(options.b1, options.b2),
            decay,
            optax.scale_by_learning_rate(rate),
        ]
    return optax.chain(*parts)


def decayed(params: Any) -> Any:
    """Which leaves weight decay touches: kernels, not biases, scales or offsets."""
    return jax.tree.map(lambda leaf: leaf.ndim > 1, params)
