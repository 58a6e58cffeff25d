"""The compiled programs: the engine's own step over all trials of all orders at once."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from jtl.data.pipeline import TrainOrder
from jtl.engine.boundary import Boundary, TailStep, make_eval_tail, make_tail_step, part_of
from jtl.engine.evaluation import EvalStep, PredictStep
from jtl.engine.state import TrainState
from jtl.platforms import compiler_options
from jtl.study.vectorised.numbers import Numbers, with_numbers
from jtl.training.options import TrainOptions
from jtl.training.phases import Phase, make_phases

_AXIS = "trials"
_CHANGED = ("params", "batch_stats", "opt_state", "ema", "loss_scale")
# Of an order's trials: the step and the key are the order's own, all else each trial's.
_OWN = TrainState(
    step=None,  # type: ignore[arg-type]
    rng=None,  # type: ignore[arg-type]
    params=0,
    batch_stats=0,
    opt_state=0,
    ema=0,
    loss_scale=0,  # type: ignore[arg-type]
)

Columns = Mapping[str, Any]


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Recipe:
    """What programs are made from, the same for all trials.

    Attributes:
        train: the options of one of the trials.
        order: its order of training.
        model: the network.
        shapes: of its variables.
        boundary: behind which it is trained.
        evaluate: the evaluation step of the whole network.
        none: the numbers that are 0 in all trials, phase by phase.
        loss_scale: whether the loss is scaled.
    """

    train: TrainOptions
    order: TrainOrder
    model: Any
    shapes: Any
    boundary: Boundary
    evaluate: EvalStep
    none: tuple[frozenset[str], ...]
    loss_scale: bool


class Programs:
    """Programs over arrays of trials: `[orders]` of `[trials]` each.

    Trials of one order share seed, split and steps, and so every batch, which is gathered once
    for all of them. Orders are spread over the devices.

    Args:
        recipe: what all trials share.
        devices: where they run.
    """

    def __init__(self, recipe: Recipe, devices: Sequence[jax.Device]) -> None:
        self._recipe = recipe
        self._mesh = Mesh(np.array(devices), (_AXIS,)) if len(devices) > 1 else None
        self._device = devices[0]
        self.begin = self._compiled(self._begin, "ooo")
        self.evaluate = self._compiled(self._evaluate, "aoo")
        self.predict = self._compiled(self._predict, "aoo")
        self.keep = self._compiled(_keep, "ooo", donate=(0,))
        self.succeed = [
            self._compiled(self._succeed(index), "oooo") for index in range(self.phase_count)
        ]
        self.advance = [
            self._compiled(self._advance(index), "aooooa", donate=(4,))
            for index in range(self.phase_count)
        ]

    @property
    def phase_count(self) -> int:
        """How many phases there are, a gradual unfreezing counting as several."""
        return len(self._recipe.none)

    @property
    def in_turn(self) -> bool:
        """Whether trials take turns at each step, as they do where convolutions are trained."""
        rest = self._recipe.boundary.rest(self._recipe.shapes)["params"]
        return any(leaf.ndim > 2 for leaf in jax.tree.leaves(rest))

    def put_orders(self, tree: Any) -> Any:
        """Arrays `[orders, ...]`, spread over the devices."""
        return jax.device_put(tree, self._sharding(P(_AXIS)))

    def put_everywhere(self, tree: Any) -> Any:
        """Arrays that every device holds whole."""
        return jax.device_put(tree, self._sharding(P()))

    def _sharding(self, spec: P) -> Any:
        return self._device if self._mesh is None else NamedSharding(self._mesh, spec)

    def _compiled(
        self, function: Callable[..., Any], kinds: str, donate: tuple[int, ...] = ()
    ) -> Callable[..., Any]:
        if self._mesh is not None:
            specs = tuple(P(_AXIS) if kind == "o" else P() for kind in kinds)
            function = jax.shard_map(
                function, mesh=self._mesh, in_specs=specs, out_specs=P(_AXIS), check_vma=False
            )
        return jax.jit(function, donate_argnums=donate, compiler_options=compiler_options())

    def _in_turn(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, which trials are mapped over all at once or one after the other.

        A convolution with each trial's own kernels is one of many groups, which costs a CPU a
        hundred times as much as the trials one by one.
        """
        return jax.custom_batching.sequential_vmap(function) if self.in_turn else function

    def _tail(
        self, index: int, numbers: Numbers, order: Columns, params: Any
    ) -> tuple[TailStep, Phase]:
        """A phase's step behind the boundary; `params` are what L2-SP pulls towards."""
        own = self._recipe
        train = with_numbers(own.train, numbers, own.none[index])

        def rate(step: Any) -> Any:
            return numbers["rate"] * order["course"][step]

        counts = order.get("counts")
        phases = make_phases(train, own.model, params, own.order, None, counts, rate)
        return make_tail_step(phases[index].step, own.boundary, own.shapes), phases[index]

    def _whole(self, start: Any) -> Any:
        """Variables with zeros for what is held, which no step looks at."""
        held = self._recipe.boundary.held(self._recipe.shapes)
        zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), held)
        return {name: {**zeros[name], **start[name]} for name in zeros}

    def _begin(self, orders: Columns, start: Any, numbers: Numbers) -> TrainState:
        """The states before the first step."""

        def of_trial(numbers: Numbers, order: Columns, start: Any) -> TrainState:
            variables = self._whole(start)
            tail, phase = self._tail(0, numbers, order, variables["params"])
            state = TrainState.create(
                variables,
                phase.tx,
                rng=0,
                ema=self._recipe.train.ema_decay is not None,
                loss_scale=self._recipe.loss_scale,
            )
            return dataclasses.replace(tail.cut(state), rng=order["key"])

        def of_order(order: Columns, start: Any, numbers: Numbers) -> TrainState:
            return jax.vmap(of_trial, (0, None, None), _OWN)(numbers, order, start)

        return jax.vmap(of_order)(orders, start, numbers)

    def _succeed(self, index: int) -> Callable[..., TrainState]:
        """The states with which a phase begins, from those that the one before left."""

        def of_trial(numbers: Numbers, state: TrainState, order: Columns, start: Any) -> TrainState:
            tail, phase = self._tail(index, numbers, order, self._whole(start)["params"])
            after = tail.filled(state).succeeded_by(phase.tx, keep_optimizer=phase.continues)
            return tail.cut(after)

        def of_order(order: Columns, start: Any, numbers: Numbers, state: TrainState) -> TrainState:
            return jax.vmap(of_trial, (0, _OWN, None, None), _OWN)(numbers, state, order, start)

        return jax.vmap(of_order)

    def _advance(self, index: int) -> Callable[..., Any]:
        """Some steps of a phase; orders that have fewer of them wait."""
        position = jnp.arange(self._recipe.order.batch_size, dtype=jnp.int32)

        def of_order(
            place: Any,
            table: Any,
            columns: Columns,
            order: Columns,
            numbers: Numbers,
            state: TrainState,
            streaks: Any,
        ) -> tuple[TrainState, Any]:
            batch = {name: columns[name][place] for name in ("label", "mask")}
            rows = columns["row"][place]
            batch["image"] = table.at[rows].get(mode="promise_in_bounds")
            batch["position"] = position

            def of_trial(
                numbers: Numbers, state: TrainState, order: Columns, batch: Columns
            ) -> Any:
                tail, _ = self._tail(index, numbers, order, self._recipe.shapes["params"])
                after, metrics = tail(state, batch)
                changed = {name: getattr(after, name) for name in _CHANGED}
                return changed, metrics["skipped"]

            mapped = jax.vmap(self._in_turn(of_trial), (0, _OWN, None, None))
            changed, skipped = mapped(numbers, state, order, batch)
            # The step stays the order's own, even where trials take turns.
            after = dataclasses.replace(state, **changed, step=state.step + 1)
            active = place < columns["steps"]
            streak = jnp.where(active, (streaks[0] + 1) * skipped, streaks[0])
            worst = jnp.maximum(streaks[1], streak)
            return _chosen(active, after, state), (streak, worst)

        def several(
            table: Any,
            columns: Columns,
            orders: Columns,
            numbers: Numbers,
            state: tuple[TrainState, Any],
            count: Any,
        ) -> tuple[TrainState, Any]:
            mapped = jax.vmap(of_order, (None, None, 0, 0, 0, 0, 0))

            def one(place: Any, carry: tuple[TrainState, Any]) -> tuple[TrainState, Any]:
                return mapped(place, table, columns, orders, numbers, *carry)

            return jax.lax.fori_loop(0, count, one, state)

        return several

    def _evaluate(self, table: Any, columns: Columns, state: TrainState) -> Any:
        """Metric sums of the validation splits, `[orders, trials, ...]`."""
        step = make_eval_tail(self._recipe.evaluate, self._recipe.boundary)

        def batch_sums(variables: Any, batch: Columns) -> Any:
            return jax.vmap(self._in_turn(step), (0, None))(variables, batch)

        sums = _over_batches(batch_sums, table, columns, self.variables(state))
        return jax.tree.map(lambda leaf: jnp.sum(leaf, axis=1, dtype=leaf.dtype), sums)

    def _predict(self, table: Any, columns: Columns, variables: Any) -> Any:
        """Logits of the validation splits, `[orders, steps, trials, batch, classes]`."""
        forward = part_of(self._recipe.evaluate.forward, first=self._recipe.boundary.first)
        step = PredictStep(forward=forward, prepare=None)

        def logits(variables: Any, batch: Columns) -> Any:
            return jax.vmap(self._in_turn(step), (0, None))(variables, batch)

        return _over_batches(logits, table, columns, variables)

    def variables(self, state: TrainState) -> Any:
        """What is evaluated of states: the trained parameters and statistics, or their means."""
        variables = state.variables if state.ema is None else state.ema_variables
        return self._recipe.boundary.rest(variables)


def _over_batches(
    function: Callable[..., Any], table: Any, columns: Columns, variables: Any
) -> Any:
    def of_order(columns: Columns, variables: Any) -> Any:
        def one(column: Columns) -> Any:
            own = dict(column)
            own["image"] = table.at[own.pop("row")].get(mode="promise_in_bounds")
            return function(variables, own)

        return jax.lax.map(one, dict(columns))

    return jax.vmap(of_order)(columns, variables)


def _chosen(active: Any, after: TrainState, before: TrainState) -> TrainState:
    return jax.tree.map(
        lambda new, old: old if new is old else jnp.where(active, new, old), after, before
    )


def _keep(best: Any, variables: Any, better: Any) -> Any:
    """The best variables, replaced where there are better ones, `[orders, trials]`."""

    def one(old: Any, new: Any) -> Any:
        return jnp.where(better.reshape(*better.shape, *[1] * (new.ndim - 2)), new, old)

    return jax.tree.map(one, best, variables)
