"""The network cut in two at a stage: what leaves the first part, and the steps of the rest."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from jtl.engine.evaluation import EvalStep, Prepare, complete, gather_batch
from jtl.engine.forward import Forward, LinenForward
from jtl.engine.freeze import Labels
from jtl.engine.losses import Batch
from jtl.engine.state import TrainState
from jtl.engine.step import Metrics, TrainStep
from jtl.errors import ConfigError
from jtl.models.staged import StagedNet
from jtl.rng import view_keys
from jtl.tree import flatten


@dataclasses.dataclass(frozen=True, kw_only=True)
class Boundary:
    """Where a network is cut.

    Attributes:
        stages: the leading ones, whose output never changes.
        first: the stage that the rest begins with.
    """

    stages: tuple[str, ...]
    first: str

    def held(self, variables: Mapping[str, Any]) -> dict[str, Any]:
        """The parameters and statistics of the leading stages."""
        return _filtered(variables, lambda stage: stage in self.stages)

    def rest(self, variables: Mapping[str, Any]) -> dict[str, Any]:
        """The parameters and statistics of all that comes after."""
        return _filtered(variables, lambda stage: stage not in self.stages)


def find_boundary(step: TrainStep, labels: Labels, batch_stats: Any) -> Boundary | None:
    """The cut behind the longest leading part whose output a training step never changes.

    Args:
        step: of a network of stages; any other has no boundary.
        labels: of its parameters, by the step's own freeze spec.
        batch_stats: the running statistics.

    Returns:
        None where even the first stage changes.
    """
    forward = step.forward
    if not isinstance(forward, LinenForward) or not isinstance(forward.model, StagedNet):
        return None
    modes, chain = step.modes(labels), forward.model.chain
    # Logits are never held: the head is where the loss begins.
    prefix = modes.frozen_prefix(chain[:-1], batch_stats)
    for branch, origin in forward.model.branches.items():
        # What hangs on a stage and still learns must see that stage's output.
        if origin in prefix and not modes.frozen_prefix((branch,), batch_stats):
            prefix = prefix[: prefix.index(origin)]
    return Boundary(stages=prefix, first=chain[len(prefix)]) if prefix else None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Part(LinenForward):
    """A run of a network's stages under the rules of the whole.

    Attributes:
        first: the stage it begins with; None begins with the images.
        last: the stage it ends with, whose output is pooled where only the head comes after;
            None ends with the logits.
    """

    first: str | None = None
    last: str | None = None

    def _mode(self, train: bool) -> dict[str, Any]:
        if self.first is None and self.last == self.model.chain[-2]:
            return {"train": train, "method": "features"}
        return {"train": train, "first": self.first, "last": self.last, "method": "run_stages"}


def part_of(forward: Forward, *, first: str | None = None, last: str | None = None) -> Part:
    """The stages of a network from `first` to `last`.

    Raises:
        ConfigError: the network has no stages that could be run apart.
    """
    if not isinstance(forward, LinenForward) or not isinstance(forward.model, StagedNet):
        raise ConfigError("only a network of jtl's own stages can be run in parts.")
    return Part(model=forward.model, first=first, last=last)


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class ExtractStep:
    """The pure step `(variables, batch) -> rows` of what leaves the leading stages.

    Attributes:
        forward: from the images to the boundary.
        prepare: as for `make_train_step`; its keys are None where the batch has no `view`.
        rng: the run's base key.
        axis_name: as for `TrainStep`.
    """

    forward: Part
    prepare: Prepare | None
    rng: jax.Array
    axis_name: str | None = None

    donated = ()

    def bind(self, axis_name: str) -> "ExtractStep":
        """The same step for use under a mapped axis of this name."""
        return dataclasses.replace(self, axis_name=axis_name)

    def __call__(self, variables: Mapping[str, Any], batch: Batch) -> jax.Array:
        """Rows `[global batch, ...]` in the batch's order; only held variables are read."""
        full = complete(batch, self.axis_name)
        keys = None
        if "view" in full:
            keys = view_keys(self.rng, "augment", full["view"], full["example"])
        if self.prepare is not None:
            full = {**full, **self.prepare(full, keys)}
        rows = self.forward.evaluate({"batch_stats": {}, **variables}, full["image"])
        return gather_batch(rows, self.axis_name)


def make_extract_step(step: TrainStep, boundary: Boundary, rng: jax.Array) -> ExtractStep:
    """The step whose rows `TailStep` takes for images.

    Args:
        step: the training step of the whole network.
        boundary: where it is cut.
        rng: the run's base key, which the keys of augmented views are derived from.
    """
    part = part_of(step.forward, last=boundary.stages[-1])
    return ExtractStep(forward=part, prepare=step.prepare, rng=rng)


def make_eval_tail(step: EvalStep, boundary: Boundary) -> EvalStep:
    """The evaluation step that takes what leaves the leading stages for images."""
    part = part_of(step.forward, first=boundary.first)
    return dataclasses.replace(step, forward=part, prepare=None)


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class TailStep:
    """The training step of what comes after the boundary, on a state without what is held.

    It takes what leaves the leading stages for images and computes what the whole step would.
    A state that every step passes in and out is best without tens of megabytes and hundreds of
    leaves that none of them looks at; nor should it hold a mark for each of them, as optimizers
    do, so that the optimizer's leaves lie side by side.

    Attributes:
        step: the training step, its network beginning behind the boundary.
        boundary: where the network is cut.
        held: shapes and dtypes of the held parameters and statistics.
    """

    step: TrainStep
    boundary: Boundary
    held: Any

    donated = (0,)

    def bind(self, axis_name: str) -> "TailStep":
        """The same step for use under a mapped axis of this name."""
        return dataclasses.replace(self, step=self.step.bind(axis_name))

    def cut(self, state: TrainState) -> TrainState:
        """The state without what is held."""
        rest = self.boundary.rest(state.variables)
        ema = state.ema
        if ema is not None:
            # Running means of statistics are taken of all of them.
            rest["batch_stats"] = state.batch_stats
            ema = {**ema, "params": self.boundary.rest({"params": ema["params"]})["params"]}
        return dataclasses.replace(state, **rest, ema=ema, opt_state=_pack(state.opt_state))

    def whole(self, state: TrainState, before: TrainState) -> TrainState:
        """The state with what is held.

        Args:
            state: as `cut` and the step gave it.
            before: one that was not cut.
        """
        held = self.boundary.held(before.variables)
        ema = state.ema
        if ema is not None:
            held["batch_stats"] = {}
            kept = self.boundary.held({"params": before.ema["params"]})["params"]
            ema = {**ema, "params": {**kept, **ema["params"]}}
        return dataclasses.replace(
            state,
            params={**held["params"], **state.params},
            batch_stats={**held["batch_stats"], **state.batch_stats},
            ema=ema,
            opt_state=jax.tree.unflatten(state.opt_state.layout.structure, state.opt_state.leaves),
        )

    def __call__(self, state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        """One update; pure, and safe to jit with the state donated."""
        after, metrics = self.step(self.filled(state), batch)
        return self.cut(after), metrics

    def filled(self, state: TrainState) -> TrainState:
        """A state that was cut, with zeros for what is held, which no step looks at."""
        # Nothing reads these but to pass them on, so that no program ever holds them.
        absent = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), self.held)
        shape = dataclasses.replace(
            state,
            **absent,
            ema=None if state.ema is None else {"params": _without_leaves(self.held["params"])},
        )
        return self.whole(state, shape)


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Layout:
    """The structure that leaves were taken from, and the path of each in it."""

    structure: Any
    paths: tuple[str, ...]


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class _Packed:
    """The leaves of a tree without its structure, which is the same at every step."""

    leaves: tuple[Any, ...]
    layout: _Layout


jax.tree_util.register_pytree_with_keys(
    _Packed,
    lambda packed: (
        tuple(zip(map(jax.tree_util.DictKey, packed.layout.paths), packed.leaves)),
        packed.layout,
    ),
    lambda layout, leaves: _Packed(leaves=tuple(leaves), layout=layout),
    lambda packed: (packed.leaves, packed.layout),
)


def _pack(tree: Any) -> _Packed:
    leaves = flatten(tree)
    layout = _Layout(structure=jax.tree.structure(tree), paths=tuple(leaves))
    return _Packed(leaves=tuple(leaves.values()), layout=layout)


def make_tail_step(step: TrainStep, boundary: Boundary, variables: Mapping[str, Any]) -> TailStep:
    """The part of a training step behind a boundary.

    Args:
        step: of the whole network.
        boundary: where it is cut.
        variables: of the whole network, or their shapes.
    """
    part = part_of(step.forward, first=boundary.first)
    held = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), boundary.held(variables)
    )
    return TailStep(
        step=dataclasses.replace(step, forward=part, prepare=None), boundary=boundary, held=held
    )


def _filtered(variables: Mapping[str, Any], keep: Callable[[str], bool]) -> dict[str, Any]:
    return {
        collection: {stage: own for stage, own in stages.items() if keep(stage)}
        for collection, stages in variables.items()
    }


def _without_leaves(tree: Any) -> Any:
    return jax.tree.map(lambda _: None, tree)
