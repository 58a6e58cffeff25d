"""Phases: what is frozen, at which rate and for how long, and the step that each one runs."""

import dataclasses
from collections.abc import Sequence
from typing import Annotated, Any, Literal

import optax
from annotated_types import Gt, Interval, Lt, MinLen

from jtl.data.pipeline import TrainOrder
from jtl.engine.evaluation import Prepare
from jtl.engine.freeze import TRAINABLE, Labels, freeze_labels
from jtl.engine.losses import cross_entropy
from jtl.engine.modes import BatchNormMode
from jtl.engine.optim import (
    OptimizerOptions,
    make_optimizer,
    partition_optimizer,
)
from jtl.engine.schedules import ScheduleOptions, make_schedule
from jtl.engine.step import TrainStep, make_train_step
from jtl.errors import ConfigError
from jtl.tree import flatten

Rate = Annotated[float, Interval(ge=0), Lt(1)]


@dataclasses.dataclass(frozen=True, kw_only=True)
class PhaseOptions:
    """One stretch of training with one freeze spec.

    The optimizer and the schedule start afresh with each phase; the step counter, the data
    order and the random streams go on.

    Attributes:
        freeze: stages, ranges and globs that stay as they are; or `none`, `backbone`, `all`.
        epochs: how often every training example is seen in this phase.
        optimizer: the update rule.
        schedule: the learning rate over this phase.
        batch_norm: `frozen`, `statistics`, `affine` or `train`, for every BatchNorm or by glob
            over module paths; by default `frozen` where scale and bias are, else `train`.
        dropout_rate: before the head in this phase; None keeps the model's.
    """

    freeze: str | tuple[str, ...] = "none"
    epochs: Annotated[float, Gt(0)] = 5.0
    optimizer: OptimizerOptions = OptimizerOptions()
    schedule: ScheduleOptions = ScheduleOptions()
    batch_norm: BatchNormMode | dict[str, BatchNormMode] | None = None
    dropout_rate: Rate | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainOptions:
    """How a network is trained.

    Attributes:
        phases: one after the other.
        label_smoothing: fraction of each target spread over all classes.
        monitor: the validation metric that chooses the best parameters, by its highest value
            (lowest for `loss` and `ece`); None takes the last ones and looks at none.
        placement: `auto` is `pmap` where there are several devices, else `single`.
        evaluate_every: epochs between two evaluations, each followed by a checkpoint.
        log_every: steps between two records of loss, accuracy, gradient norm and rate.
    """

    phases: Annotated[tuple[PhaseOptions, ...], MinLen(1)] = (PhaseOptions(),)
    label_smoothing: Rate = 0.0
    monitor: str | None = "accuracy"
    placement: Literal["auto", "single", "pmap", "mesh"] = "auto"
    evaluate_every: Annotated[float, Gt(0)] = 1.0
    log_every: Annotated[int, Gt(0)] = 10


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Phase:
    """A phase made ready: steps `start` to `stop` of the run.

    Attributes:
        labels: which parameters are frozen.
        step: the pure training step.
        tx: its partitioned optimizer.
        rate: the learning rate by the phase's own step count.
    """

    start: int
    stop: int
    freeze: tuple[str, ...] | str
    labels: Labels
    step: TrainStep
    tx: optax.GradientTransformation
    rate: optax.Schedule


def make_phases(
    options: TrainOptions, model: Any, params: Any, order: TrainOrder, prepare: Prepare | None
) -> tuple[Phase, ...]:
    """The phases of a run, each with the step it takes.

    Args:
        options: what was asked for.
        model: a Linen module; a phase's dropout rate replaces its own.
        params: the parameters, or their shapes, that freeze specs are matched against.
        order: turns epochs into steps.
        prepare: normalisation and augmentation on the device.

    Raises:
        ConfigError: a freeze entry matches nothing or a phase trains nothing, all at once.
    """
    phases: list[Phase] = []
    problems: list[str] = []
    epochs, start = 0.0, 0
    for index, option in enumerate(options.phases):
        epochs += option.epochs
        stop = max(order.steps(epochs), start + 1)
        try:
            phases.append(_phase(option, options, model, params, start, stop, prepare))
        except ConfigError as error:
            problems.append(f"train.phases[{index}]: {error}")
        start = stop
    if problems:
        raise ConfigError("\n".join(problems))
    return tuple(phases)


def evaluation_steps(phase: Phase, order: TrainOrder, every: float) -> Sequence[int]:
    """The steps after which a phase is evaluated and saved.

    Args:
        phase: of the run.
        order: turns epochs into steps.
        every: epochs between two evaluations, counted from the run's start.

    Returns:
        Ascending steps within the phase; its end is always one of them.
    """
    first, last = int(order.epoch(phase.start) / every), int(order.epoch(phase.stop) / every) + 1
    ends = {order.steps(every * count) for count in range(max(first, 1), last + 1)}
    return sorted({step for step in ends if phase.start < step < phase.stop} | {phase.stop})


def _phase(
    option: PhaseOptions,
    options: TrainOptions,
    model: Any,
    params: Any,
    start: int,
    stop: int,
    prepare: Prepare | None,
) -> Phase:
    labels = freeze_labels(params, option.freeze, model.stages)
    if TRAINABLE not in flatten(labels).values():
        raise ConfigError(
            f"freeze={option.freeze!r} leaves nothing to train; leave a stage such as 'head' out."
        )
    if option.dropout_rate is not None:
        model = model.clone(dropout_rate=option.dropout_rate)
    rate = make_schedule(option.schedule, stop - start)
    tx = partition_optimizer(make_optimizer(option.optimizer, rate), labels)
    step = make_train_step(
        model,
        tx,
        freeze=option.freeze,
        loss=cross_entropy(options.label_smoothing),
        prepare=prepare,
        batch_norm=option.batch_norm,
    )
    return Phase(
        start=start, stop=stop, freeze=option.freeze, labels=labels, step=step, tx=tx, rate=rate
    )
