"""Phases made ready: what each freezes, from which step to which, and the step that it runs."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import optax
from jax.typing import ArrayLike

from jtl.data.pipeline import TrainOrder
from jtl.engine.evaluation import Prepare
from jtl.engine.freeze import FROZEN, TRAINABLE, Freeze, Labels, freeze_labels
from jtl.engine.layerwise import rate_multipliers
from jtl.engine.losses import make_loss
from jtl.engine.optim import make_optimizer, partition_optimizer
from jtl.engine.schedules import make_schedule
from jtl.engine.step import TrainStep, make_train_step
from jtl.errors import ConfigError
from jtl.training.options import PhaseOptions, TrainOptions
from jtl.training.unfreezing import thawing
from jtl.tree import flatten, map_with_path


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Phase:
    """A phase made ready: steps `start` to `stop` of the run.

    Attributes:
        option: the index of the options it was made from; a gradual unfreezing makes several.
        labels: which parameters are frozen.
        step: the pure training step.
        tx: its partitioned optimizer.
        rate: the learning rate by the run's step, before the multipliers of layers.
        multipliers: of the rate, for each parameter.
        continues: whether the optimizer's state goes on from the phase before.
    """

    option: int = 0
    start: int
    stop: int
    freeze: Freeze
    labels: Labels
    step: TrainStep
    tx: optax.GradientTransformation
    rate: optax.Schedule
    multipliers: Any = None
    continues: bool = False


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Stretch:
    """Steps with one freeze spec, before anything is made for them."""

    option: int
    start: int
    stop: int
    freeze: Freeze
    schedule_start: int
    schedule_stop: int


def make_phases(
    options: TrainOptions,
    model: Any,
    params: Any,
    order: TrainOrder,
    prepare: Prepare | None,
    class_counts: ArrayLike | None = None,
    rate: optax.Schedule | None = None,
) -> tuple[Phase, ...]:
    """The phases of a run, each with the step it takes.

    Args:
        options: what was asked for.
        model: a Linen module; a phase's dropout rate replaces its own.
        params: the pretrained parameters, which freeze specs are matched against and L2-SP
            pulls towards.
        order: turns epochs into steps.
        prepare: normalisation and augmentation on the device.
        class_counts: int `[classes]`, training examples of each class.
        rate: by the run's step, in place of what the phases' schedules say.

    Raises:
        ConfigError: a freeze entry matches nothing or a phase trains nothing, all at once.
    """
    stretches, problems = _stretches(options, model, params, order)
    phases: list[Phase] = []
    births: Any = None
    for number, stretch in enumerate(stretches):
        try:
            labels = freeze_labels(params, stretch.freeze, model.stages)
            continues = _continues(options, stretches, number)
            births = _births(number, labels, births if continues else None)
            known = (labels, births, class_counts, rate)
            phase = _phase(options, stretch, model, params, prepare, *known)
            phases.append(dataclasses.replace(phase, continues=continues))
        except ConfigError as error:
            problem = f"train.phases[{stretch.option}]: {error}"
            problems += [] if problem in problems else [problem]
    if problems:
        raise ConfigError("\n".join(sorted(problems)))
    return tuple(phases)


def _stretches(
    options: TrainOptions, model: Any, params: Any, order: TrainOrder
) -> tuple[list[_Stretch], list[str]]:
    stretches: list[_Stretch] = []
    problems: list[str] = []
    epochs, start = 0.0, 0
    for index, option in enumerate(options.phases):
        try:
            specs: Sequence[Freeze] = [option.freeze]
            if option.unfreeze is not None:
                specs = thawing(option.unfreeze, option.freeze, params, model.stages)
            length = _epochs(option, options, order)
        except ConfigError as error:
            problems.append(f"train.phases[{index}]: {error}")
            continue
        stop = max(order.steps(epochs + length), start + 1)
        if option.steps is not None:
            stop = start + option.steps
            length = order.epoch(stop) - epochs
        borders = [min(order.steps(epochs + place), stop) for place in range(1, len(specs))]
        for spec, first, last in zip(specs, [start, *borders], [*borders, stop]):
            if last > first:
                stretches.append(
                    _Stretch(
                        option=index,
                        start=first,
                        stop=last,
                        freeze=spec,
                        schedule_start=start,
                        schedule_stop=stop,
                    )
                )
        epochs, start = epochs + length, stop
    return stretches, problems


def _epochs(option: PhaseOptions, options: TrainOptions, order: TrainOrder) -> float:
    if option.steps is not None:
        return order.epoch(option.steps)
    if option.percent is not None:
        if options.epochs is None:
            raise ConfigError(
                f"percent={option.percent:g} is of train.epochs, which is not set; set it, or give "
                "the phase epochs or steps."
            )
        return options.epochs * option.percent / 100
    return 5.0 if option.epochs is None else option.epochs


def _continues(options: TrainOptions, stretches: Sequence[_Stretch], number: int) -> bool:
    if number == 0:
        return False
    before, now = (options.phases[stretches[n].option] for n in (number - 1, number))
    return before.optimizer.name == now.optimizer.name


def _births(number: int, labels: Labels, before: Any) -> Any:
    """For each parameter, the phase since which it has been trained without a break."""
    known = {} if before is None else flatten(before)

    def birth(path: str, label: str) -> str:
        if label == FROZEN:
            return FROZEN
        earlier = known.get(path, FROZEN)
        return f"phase{number}" if earlier == FROZEN else earlier

    return map_with_path(birth, labels)


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
    options: TrainOptions,
    stretch: _Stretch,
    model: Any,
    params: Any,
    prepare: Prepare | None,
    labels: Labels,
    births: Any,
    class_counts: ArrayLike | None,
    asked: optax.Schedule | None,
) -> Phase:
    option = options.phases[stretch.option]
    if TRAINABLE not in flatten(labels).values():
        raise ConfigError(
            f"freeze={option.freeze!r} leaves nothing to train; leave a stage such as 'head' out."
        )
    if option.dropout_rate is not None:
        model = model.clone(dropout_rate=option.dropout_rate)
    schedule = make_schedule(option.schedule, stretch.schedule_stop - stretch.schedule_start)
    rate = _from(schedule, stretch.schedule_start) if asked is None else asked
    multipliers = rate_multipliers(
        params,
        model.stages,
        decay=option.layer_decay,
        by=option.layer_decay_by,
        rates=option.rates,
    )
    rule = make_optimizer(
        option.optimizer, rate, multipliers=multipliers, groups=births, reference=params
    )
    tx = partition_optimizer(rule, labels)
    step = make_train_step(
        model,
        tx,
        freeze=stretch.freeze,
        loss=make_loss(options.loss, class_counts),
        prepare=prepare,
        batch_norm=option.batch_norm,
        frozen_dropout=option.frozen_dropout,
        accumulate=options.accumulate,
        ema_decay=options.ema_decay,
        global_batch_norm=options.global_batch_norm,
    )
    return Phase(
        option=stretch.option,
        start=stretch.start,
        stop=stretch.stop,
        freeze=stretch.freeze,
        labels=labels,
        step=step,
        tx=tx,
        rate=rate,
        multipliers=multipliers,
    )


def _from(schedule: optax.Schedule, start: int) -> Callable[[Any], Any]:
    return lambda step: schedule(step - start)
