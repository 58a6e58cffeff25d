"""A run made ready from its config: examples, network, phases, placement, batches."""

import dataclasses
from collections.abc import Generator
from pathlib import Path
from typing import Any

from jtl.data.options import load_source
from jtl.data.sources.protocol import Arrays, Source
from jtl.engine.metrics import METRICS, SEVERAL_METRICS
from jtl.engine.parallel import Placement, check_batch_size
from jtl.errors import ConfigError
from jtl.experiment.assemble import (
    Evaluator,
    Examples,
    make_examples,
    make_model,
    make_placement,
    phases_of,
)
from jtl.experiment.options import Config
from jtl.platforms import on_cpu
from jtl.training.evaluate import Evaluation
from jtl.training.feed import Streamed
from jtl.training.mirror import Mirror
from jtl.training.phases import Phase
from jtl.weights.load import Pretrained


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Setup:
    """A run made ready: what is announced before its first step.

    Attributes:
        workdir: the run's folder.
        config: what it is a function of.
        examples: the source and its splits.
        pretrained: the network with the weights it starts from.
        phases: with their freeze specs.
        place: where steps run.
        mirror: keeps the folder at an address, if the run has one.
    """

    workdir: Path
    config: Config
    examples: Examples
    pretrained: Pretrained
    phases: tuple[Phase, ...]
    place: Placement
    mirror: Mirror | None = None

    @property
    def kept(self) -> str:
        """Where the run is kept: its address, or its folder."""
        return str(self.workdir) if self.mirror is None else self.mirror.address


def set_up(
    config: Config,
    workdir: Path,
    source: Source | None = None,
    mirror: Mirror | None = None,
) -> Setup:
    """Everything that a run of this config takes; nothing is written.

    Args:
        config: what the run is a function of.
        workdir: the folder it is to have.
        source: the examples, in place of those that the config names.
        mirror: what keeps the folder at an address.

    Raises:
        ConfigError: the config cannot be carried out here.
        DataError: the examples cannot be used.
        WeightsError: the weights cannot be loaded.
    """
    place = make_placement(config.train)
    _check_batches(config, place)
    if source is None:
        source = load_source(config.data)
    _check_loss(config, source)
    pretrained = make_model(config.model, source.classes, config.seed)
    if config.data.background is not None:
        preprocess = dataclasses.replace(pretrained.preprocess, background=config.data.background)
        pretrained = dataclasses.replace(pretrained, preprocess=preprocess)
    examples = make_examples(source, config, pretrained.preprocess, workdir)
    _check_evaluation(config, validates=len(examples.splits["val"]) > 0)
    phases = phases_of(config, pretrained, examples)
    for phase in phases:
        phase.step.modes(phase.labels).check_globs(pretrained.variables["batch_stats"])
    return Setup(
        workdir=workdir,
        mirror=mirror,
        config=config,
        examples=examples,
        pretrained=pretrained,
        phases=phases,
        place=place,
    )


def _check_evaluation(config: Config, *, validates: bool) -> None:
    train, stopping = config.train, config.train.early_stopping
    asked = {"train.monitor": train.monitor}
    if stopping is not None:
        asked["train.early_stopping.monitor"] = stopping.monitor
        if not validates:
            raise ConfigError(
                "train.early_stopping looks at the validation split, which is empty; set "
                "data.split.val above 0, or train.early_stopping=null."
            )
    several = train.loss.name == "sigmoid"
    known = SEVERAL_METRICS if several else METRICS
    for option, metric in asked.items():
        if metric is not None and metric not in known:
            raise ConfigError(
                f"{option}={metric!r} is never reported; choose one of {', '.join(known)}."
            )


def _check_loss(config: Config, source: Source) -> None:
    """Several labels an image, and one, have losses of their own."""
    name, several = config.train.loss.name, source.labels.ndim == 2
    if several and name != "sigmoid":
        raise ConfigError(
            f"the images of {config.data.source} have several labels each, of which "
            f"train.loss.name={name} takes one; set train.loss.name=sigmoid."
        )
    if not several and name == "sigmoid":
        raise ConfigError(
            f"train.loss.name=sigmoid is for several labels an image, but the images of "
            f"{config.data.source} have one each; set train.loss.name=cross_entropy."
        )


def _check_batches(config: Config, place: Placement) -> None:
    size, train = config.data.batch_size, config.train
    check_batch_size(size, place.batch_parts, "data.batch_size")
    own = size // place.batch_parts
    if own % train.accumulate:
        raise ConfigError(
            f"train.accumulate={train.accumulate} does not divide the {own} examples that "
            f"data.batch_size={size} gives each device; set a divisor of {own}."
        )
    if train.placement == "mesh" and not train.global_batch_norm:
        raise ConfigError(
            "train.global_batch_norm=false asks for each device's own statistics, but a mesh sees "
            "one global batch; set train.placement=pmap."
        )


def make_feed(setup: Setup, evaluator: Evaluator | None) -> Streamed:
    """What a run is trained on and validated with.

    Args:
        setup: the run.
        evaluator: of the validation split; None never validates.
    """
    config, examples = setup.config, setup.examples
    order, share = examples.order(config), setup.place.share(config.data.batch_size)

    def read(start: int, stop: int) -> Generator[Arrays, None, None]:
        return examples.train_steps(order, start, stop, share)

    def validate(variables: Any) -> Evaluation:
        assert evaluator is not None
        return evaluator.evaluate(variables, examples, "val")

    validates = evaluator is not None and len(examples.splits["val"]) > 0
    return Streamed(
        read=read,
        place=setup.place,
        classes=len(examples.source.classes),
        check=validate if validates else None,
        timeout=examples.options.timeout,
        ahead=examples.options.workers > 0 or not (on_cpu() and examples.reader.in_memory),
    )
