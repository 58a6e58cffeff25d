"""One way to call any network in training and in evaluation: modules and plain functions."""

import dataclasses
import inspect
import sys
from collections.abc import Callable
from typing import Any, Protocol

import flax.linen as nn
import jax

from jtl.engine.batch import BatchContext, batch_mean
from jtl.engine.interception import intercept_evaluation, intercept_training
from jtl.errors import ConfigError
from jtl.rng import stream_key
from jtl.tree import map_with_path

Variables = dict[str, Any]


class Forward(Protocol):
    """A network as the step sees it."""

    @property
    def stages(self) -> tuple[str, ...] | None:
        """The network's own order of stages, if it states one."""
        ...

    def train(
        self,
        variables: Variables,
        images: jax.Array,
        rng: jax.Array,
        step: jax.Array,
        context: BatchContext,
    ) -> tuple[jax.Array, Any]:
        """Logits `[batch, classes]`, and new statistics that are the same on every device."""
        ...

    def evaluate(self, variables: Variables, images: jax.Array) -> jax.Array:
        """Logits `[batch, classes]` with stored statistics and no randomness."""
        ...


def as_forward(model: Any) -> Forward:
    """The network behind whatever was given for a model.

    Args:
        model: a Linen module, an NNX module, or `apply(variables, images, train, rngs)` that
            returns logits and new statistics.

    Raises:
        ConfigError: `model` is none of these.
    """
    if isinstance(model, nn.Module):
        return LinenForward(model=model)
    # No model is an NNX module where NNX was never imported, which alone takes 0.2 s.
    if "flax.nnx" in sys.modules and isinstance(model, sys.modules["flax.nnx"].Module):
        from jtl.engine.nnx import NNXForward

        return NNXForward.of(model)
    if callable(model):
        return FunctionForward(apply=model)
    raise ConfigError(
        f"a model is a Flax module or a function apply(variables, images, train, rngs), "
        f"not {type(model).__name__}."
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class LinenForward:
    """A Linen module, unedited: its BatchNorm and dropout follow jtl's rules by interception."""

    model: nn.Module

    @property
    def stages(self) -> tuple[str, ...] | None:
        """The module's own order of stages, if it states one."""
        return getattr(self.model, "stages", None)

    def train(
        self,
        variables: Variables,
        images: jax.Array,
        rng: jax.Array,
        step: jax.Array,
        context: BatchContext,
    ) -> tuple[jax.Array, Any]:
        """Logits `[batch, classes]` and the new statistics."""
        handled: set[str] = set()
        with intercept_training(context, handled):
            logits, changed = self.model.apply(
                variables,
                images,
                **self._mode(True),
                mutable=["batch_stats"],
                rngs={"dropout": stream_key(rng, "dropout", step)},
            )
        old = variables["batch_stats"]

        def everywhere(path: str, after: jax.Array, before: jax.Array) -> jax.Array:
            module = path.rpartition("/")[0]
            if after is before or module in handled:
                return after
            if context.modes.keeps_statistics(module):
                return before  # of a norm that interception does not know
            return batch_mean(after, context.axis_name)

        return logits, map_with_path(everywhere, changed.get("batch_stats", old), old)

    def evaluate(self, variables: Variables, images: jax.Array) -> jax.Array:
        """Logits `[batch, classes]` with stored statistics and no randomness."""
        with intercept_evaluation():
            logits: Any = self.model.apply(variables, images, **self._mode(False))
        return logits

    def _mode(self, train: bool) -> dict[str, Any]:
        known = inspect.signature(type(self.model).__call__).parameters
        return {"train": train} if "train" in known else {}


@dataclasses.dataclass(frozen=True, kw_only=True)
class FunctionForward:
    """A plain `apply`: it is given one dropout key per example, and the axis name if it asks."""

    apply: Callable[..., tuple[jax.Array, Any]]
    stages: tuple[str, ...] | None = None

    def train(
        self,
        variables: Variables,
        images: jax.Array,
        rng: jax.Array,
        step: jax.Array,
        context: BatchContext,
    ) -> tuple[jax.Array, Any]:
        """Logits `[batch, classes]` and the new statistics."""
        key = stream_key(rng, "dropout", step)
        keys = jax.vmap(lambda place: jax.random.fold_in(key, place))(context.position)
        asks = "axis_name" in inspect.signature(self.apply).parameters
        axis = {"axis_name": context.axis_name} if asks else {}
        logits, stats = self.apply(variables, images, True, {"dropout": keys}, **axis)
        return logits, batch_mean(stats, context.axis_name)

    def evaluate(self, variables: Variables, images: jax.Array) -> jax.Array:
        """Logits `[batch, classes]` with stored statistics and no randomness."""
        return self.apply(variables, images, False, {})[0]
