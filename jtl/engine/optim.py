"""Optimizers and rates: what is trained by which rule, with frozen leaves left out entirely."""

import dataclasses
from collections.abc import Callable
from typing import Annotated, Any, Literal

import jax
import jax.numpy as jnp
import optax
from annotated_types import Ge, Gt, Lt

from jtl.engine.freeze import FROZEN, TRAINABLE, Labels
from jtl.engine.numbers import is_zero
from jtl.errors import ConfigError
from jtl.tree import flatten, map_with_path


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
        l2_sp: decay of all trained parameters towards the values that the run began with, a new
            head's being its random ones (L2-SP, Li et al. 2018, arXiv:1802.01483).
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
    options: OptimizerOptions,
    rate: float | optax.Schedule,
    *,
    multipliers: Any = None,
    groups: Any = None,
    reference: Any = None,
) -> optax.GradientTransformationExtraArgs:
    """The optax chain of clipping, decay, update rule and rate.

    SGD's decay is added to the gradient before momentum, as torch.optim.SGD does; the others'
    is decoupled (Loshchilov and Hutter 2019, arXiv:1711.05101). Muon updates convolutions and
    matrices; biases and normalisation take AdamW's rule (optax.contrib.muon).

    Args:
        options: the rule and its regularisation.
        rate: the learning rate, or its schedule over `state.step`, which a step passes on.
        multipliers: of the rate, a float for each parameter; None is 1 throughout.
        groups: the name of a group for each parameter; every group counts its own steps, so
            that a rule which corrects its first steps does so for each; `frozen` is in none.
            None is one group.
        reference: what `l2_sp` pulls towards, shaped like the parameters; None is what the
            optimizer is made with.
    """
    sgd = options.name == "sgd"
    decay = optax.add_decayed_weights(options.weight_decay, mask=decayed)
    keep = optax.identity()
    clip = keep if options.clip_norm is None else optax.clip_by_global_norm(options.clip_norm)
    pull = keep if is_zero(options.l2_sp) else decay_to_start(options.l2_sp, reference)
    # Named, so that what a part's state is called does not depend on what else is on.
    return optax.named_chain(
        ("clip", clip),
        ("l2_sp", pull),
        ("l2", decay if sgd else keep),
        ("rule", _grouped(_rule(options), groups)),
        ("decay", keep if sgd else decay),
        ("trust", optax.scale_by_trust_ratio() if options.name == "lamb" else keep),
        ("layers", keep if multipliers is None else scale_leaves(multipliers)),
        ("rate", scale_by_rate(rate)),
    )


def _grouped(rule: optax.GradientTransformation, groups: Any) -> optax.GradientTransformation:
    if groups is None:
        return rule
    rules = {name: rule for name in jax.tree.leaves(groups) if name != FROZEN}
    return optax.multi_transform({**rules, FROZEN: optax.set_to_zero()}, groups)


def _rule(options: OptimizerOptions) -> optax.GradientTransformation:
    if options.name == "sgd":
        if is_zero(options.momentum):
            return optax.identity()
        return optax.trace(options.momentum, options.nesterov)
    if options.name == "lion":
        return optax.scale_by_lion(options.b1, options.b2)
    adam = optax.scale_by_adam(options.b1, options.b2)
    if options.name != "muon":
        return adam
    from optax.contrib import MuonDimensionNumbers, scale_by_muon

    def kind(params: Any) -> Any:
        return jax.tree.map(lambda leaf: "muon" if leaf.ndim > 1 else "adam", params)

    def dimensions(params: Any) -> Any:
        # A convolution's kernel is a matrix from its patch to its features.
        return jax.tree.map(
            lambda leaf: MuonDimensionNumbers(tuple(range(leaf.ndim - 1)), leaf.ndim - 1),
            params,
        )

    rule = scale_by_muon(beta=options.b1, weight_dimension_numbers=dimensions)
    matrices = optax.chain(rule, optax.stateless(lambda updates, _: _scaled_by_shape(updates)))
    return optax.multi_transform({"muon": matrices, "adam": adam}, kind)


def _scaled_by_shape(updates: Any) -> Any:
    """Orthogonal updates, larger where a matrix widens, as optax.contrib.muon scales them."""

    def scaled(leaf: jax.Array) -> jax.Array:
        inputs = leaf.size // leaf.shape[-1]
        return leaf * max(1.0, leaf.shape[-1] / inputs) ** 0.5

    return jax.tree.map(scaled, updates)


def decay_to_start(strength: float, reference: Any = None) -> optax.GradientTransformation:
    """L2-SP: adds `strength × (parameter − its reference)` to each gradient.

    Args:
        strength: the decay, at least 0; Li et al. 2018 use 0.01 to 0.1 with SGD.
        reference: shaped like the parameters, such as the pretrained ones; None is their
            values at init.
    """

    def init(params: Any) -> Any:
        start = params if reference is None else reference
        return _by_leaf(lambda own, _: jnp.array(own), start, params)

    def update(updates: Any, start: Any, params: Any = None) -> tuple[Any, Any]:
        pulled = jax.tree.map(lambda g, p, s: g + strength * (p - s), updates, params, start)
        return pulled, start

    return optax.GradientTransformation(init, update)


def scale_leaves(factors: Any) -> optax.GradientTransformation:
    """Multiplies each update by its own factor.

    Args:
        factors: a float for each parameter, shaped like the parameters.
    """

    def update(updates: Any, params: Any = None) -> Any:
        del params
        return _by_leaf(lambda factor, own: own if factor == 1 else own * factor, factors, updates)

    return optax.stateless(update)


def scale_by_rate(rate: float | optax.Schedule) -> optax.GradientTransformation:
    """Multiplies updates by minus the rate, a constant or a schedule over the step.

    The schedule is asked with the `step` that is passed to `update`, as jtl's training step
    does, and so goes on over steps that were skipped and needs no state.
    """
    if not callable(rate):
        return optax.scale(-rate)
    schedule = rate

    def update(
        updates: Any, state: Any, params: Any = None, *, step: Any = None, **_: Any
    ) -> tuple[Any, Any]:
        del params
        if step is None:
            raise ConfigError(
                "this optimizer's rate follows the training step: pass it on with "
                "tx.update(grads, state, params, step=state.step)."
            )
        factor = -schedule(step)
        return jax.tree.map(lambda own: own * jnp.asarray(factor, own.dtype), updates), state

    return optax.GradientTransformationExtraArgs(lambda _: optax.EmptyState(), update)


def carry_state(old: Any, new: Any) -> Any:
    """A fresh optimizer state that keeps what the old one knows of the same parameters.

    Args:
        old: the state before, of a chain that names its parts as this one does.
        new: the state of the new optimizer at its start.

    Returns:
        `new`, with every leaf that `old` has under the same path, shape and dtype.
    """
    known = flatten(old)

    def keep(path: str, own: Any) -> Any:
        before = known.get(path)
        same = before is not None and (before.shape, before.dtype) == (own.shape, own.dtype)
        return before if same else own

    return map_with_path(keep, new)


def _by_leaf(function: Callable[[Any, Any], Any], own: Any, updates: Any) -> Any:
    """Maps over the leaves that a partition left in, from a tree that has them all."""

    def one(left: Any, right: Any) -> Any:
        return right if isinstance(right, optax.MaskedNode) else function(left, right)

    return jax.tree.map(one, own, updates)


def decayed(params: Any) -> Any:
    """Which leaves weight decay touches: kernels, not biases, scales or offsets."""
    return jax.tree.map(lambda leaf: leaf.ndim > 1, params)
