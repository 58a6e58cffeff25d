"""Optimizers and rates: what is trained by which rule, with frozen leaves left out entirely."""

import dataclasses
from collections.abc import Callable
from typing import Annotated, Any, Literal

import jax
import jax.numpy as jnp
import optax
from annotated_types import Ge, Gt, Lt

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
        b1: decay of the first moment, but for SGD.
        b2: decay of the second moment, but for SGD and Muon.
        weight_decay: decoupled, but for SGD, where it is added to the gradient; matrices and
            convolutions only, never biases and normalisation.
        l2_sp: decay of all trained parameters towards the values that they had when the
            optimizer was made (L2-SP, Li et al. 2018, arXiv:1802.01483).
        clip_norm: the largest global norm of the trainable gradients; None does not clip.
    """

    name: Literal["sgd", "adamw", "lamb", "lion", "muon"] = "adamw"
    momentum: Annotated[float, Ge(0), Lt(1)] = 0.9
    nesterov: bool = False
    b1: Annotated[float, Ge(0), Lt(1)] = 0.9
    b2: Annotated[float, Ge(0), Lt(1)] = 0.999
    weight_decay: Annotated[float, Ge(0)] = 0.0
    l2_sp: Annotated[float, Ge(0)] = 0.0
    clip_norm: Annotated[float, Gt(0)] | None = None


def make_optimizer(
    options: OptimizerOptions, rate: float | optax.Schedule
) -> optax.GradientTransformation:
    """The optax chain of clipping, decay, update rule and rate.

    SGD's decay is added to the gradient before momentum, as torch.optim.SGD does; the others'
    is decoupled (Loshchilov and Hutter 2019, arXiv:1711.05101). Muon updates convolutions and
    matrices; biases and normalisation take AdamW's rule (optax.contrib.muon).
    """
    parts: list[optax.GradientTransformation] = []
    if options.clip_norm is not None:
        parts.append(optax.clip_by_global_norm(options.clip_norm))
    if options.l2_sp:
        parts.append(decay_to_start(options.l2_sp))
    decay = optax.add_decayed_weights(options.weight_decay, mask=decayed)
    if options.name == "sgd":
        parts += [decay, optax.sgd(rate, options.momentum or None, options.nesterov)]
    else:
        parts += [*_rule(options), decay, *_trust(options), optax.scale_by_learning_rate(rate)]
    return optax.chain(*parts)


def _rule(options: OptimizerOptions) -> list[optax.GradientTransformation]:
    if options.name == "lion":
        return [optax.scale_by_lion(options.b1, options.b2)]
    if options.name == "muon":
        from optax.contrib import MuonDimensionNumbers, scale_by_muon

        def kind(params: Any) -> Any:
            return jax.tree.map(lambda leaf: "muon" if leaf.ndim > 1 else "adam", params)

        def dimensions(params: Any) -> Any:
            # A convolution's kernel is a matrix from its patch to its features.
            return jax.tree.map(
                lambda leaf: MuonDimensionNumbers(tuple(range(leaf.ndim - 1)), leaf.ndim - 1),
                params,
            )

        matrices = scale_by_muon(beta=options.b1, weight_dimension_numbers=dimensions)
        rules = {"muon": matrices, "adam": optax.scale_by_adam(options.b1, options.b2)}
        return [optax.multi_transform(rules, kind)]
    return [optax.scale_by_adam(options.b1, options.b2)]


def _trust(options: OptimizerOptions) -> list[optax.GradientTransformation]:
    return [optax.scale_by_trust_ratio()] if options.name == "lamb" else []


def decay_to_start(strength: float) -> optax.GradientTransformation:
    """L2-SP: adds `strength × (parameter − its value at init)` to each gradient.

    Args:
        strength: the decay, at least 0; Li et al. 2018 use 0.01 to 0.1 with SGD.
    """

    def init(params: Any) -> Any:
        return jax.tree.map(jnp.array, params)

    def update(updates: Any, start: Any, params: Any = None) -> tuple[Any, Any]:
        pulled = jax.tree.map(lambda g, p, s: g + strength * (p - s), updates, params, start)
        return pulled, start

    return optax.GradientTransformation(init, update)


def decayed(params: Any) -> Any:
    """Which leaves weight decay touches: kernels, not biases, scales or offsets."""
    return jax.tree.map(lambda leaf: leaf.ndim > 1, params)
