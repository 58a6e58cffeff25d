"""Which options are data of a program: trials that differ in these alone share one."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from jtl.data.splits import SplitOptions
from jtl.engine.losses import LossOptions
from jtl.engine.optim import OptimizerOptions
from jtl.engine.schedules import ScheduleOptions
from jtl.experiment.options import Config
from jtl.training.options import PhaseOptions, TrainOptions

_OF_THE_RULE = ("momentum", "b1", "b2", "weight_decay", "l2_sp")
_NAMES = ("rate", "dropout_rate", "label_smoothing", *_OF_THE_RULE)
_ONE = ScheduleOptions(rate=1.0)

Numbers = Mapping[str, Any]


def shape_of(config: Config) -> str:
    """What a program is made for: the config without what programs take as data.

    Beside `numbers_of`, these are the seed, the split, the lengths and schedules of phases, and
    what only the host looks at. Without weights the seed stays, which then draws the backbone.
    """
    train, data = config.train, config.data
    rules = [_with_rule(own.optimizer, dict.fromkeys(_OF_THE_RULE, 0.0)) for own in train.phases]
    phases = [
        dataclasses.replace(
            own,
            optimizer=rule,
            schedule=_ONE,
            dropout_rate=None,
            epochs=None,
            steps=None,
            percent=None,
        )
        for own, rule in zip(train.phases, rules)
    ]
    bare = dataclasses.replace(
        config,
        name="",
        seed=config.seed if config.model.weights is None else 0,
        model=dataclasses.replace(config.model, dropout_rate=0.0),
        data=dataclasses.replace(data, split=SplitOptions()),
        train=dataclasses.replace(
            TrainOptions(phases=tuple(phases)),
            loss=_without_smoothing(train.loss),
            accumulate=train.accumulate,
            ema_decay=train.ema_decay,
            global_batch_norm=train.global_batch_norm,
            placement=train.placement,
            mesh=train.mesh,
        ),
    )
    return repr(bare)


def length_of(train: TrainOptions) -> TrainOptions:
    """The options of a run that decide its steps and the course of its rates, and no others."""
    phases = [
        PhaseOptions(
            freeze=own.freeze,
            unfreeze=own.unfreeze,
            epochs=own.epochs,
            steps=own.steps,
            percent=own.percent,
            schedule=dataclasses.replace(own.schedule, rate=1.0),
            optimizer=dataclasses.replace(PhaseOptions().optimizer, name=own.optimizer.name),
        )
        for own in train.phases
    ]
    return TrainOptions(
        phases=tuple(phases), epochs=train.epochs, evaluate_every=train.evaluate_every
    )


def numbers_of(config: Config, option: int) -> dict[str, float]:
    """What a program takes as data of one phase of a config."""
    phase = config.train.phases[option]
    dropout = config.model.dropout_rate if phase.dropout_rate is None else phase.dropout_rate
    rule = {name: float(getattr(phase.optimizer, name)) for name in _OF_THE_RULE}
    smoothing = config.train.loss.label_smoothing
    rate = phase.schedule.rate
    return {"rate": rate, "dropout_rate": dropout, "label_smoothing": smoothing, **rule}


def absent(every: Sequence[Mapping[str, float]]) -> frozenset[str]:
    """The numbers that are 0 in all of these, which a program then need not compute with."""
    return frozenset(name for name in _NAMES if not any(own[name] for own in every))


def with_numbers(train: TrainOptions, numbers: Numbers, none: frozenset[str]) -> TrainOptions:
    """The options with these, possibly traced, numbers in every phase.

    Args:
        train: of any trial of the program.
        numbers: of one phase.
        none: the names of those that are 0 throughout.
    """
    own = {name: 0.0 if name in none else numbers[name] for name in _NAMES}
    phases = [
        dataclasses.replace(
            phase,
            dropout_rate=own["dropout_rate"],
            optimizer=_with_rule(phase.optimizer, own),
        )
        for phase in train.phases
    ]
    # The focal loss has no smoothing, and its options are not to be asked whether a tracer is 0.
    loss = train.loss
    if loss.name != "focal":
        loss = dataclasses.replace(loss, label_smoothing=own["label_smoothing"])
    return dataclasses.replace(train, phases=tuple(phases), loss=loss)


def _with_rule(optimizer: OptimizerOptions, numbers: Numbers) -> OptimizerOptions:
    own: dict[str, Any] = {name: numbers[name] for name in _OF_THE_RULE}
    return dataclasses.replace(optimizer, **own)


def _without_smoothing(loss: LossOptions) -> LossOptions:
    return dataclasses.replace(loss, label_smoothing=0.0)
