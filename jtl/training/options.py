"""What can be said about training in a config: phases, loss, placement, when to stop."""

import dataclasses
from typing import Annotated, Literal

from annotated_types import Ge, Gt, Interval, Lt, MinLen

from jtl.engine.layerwise import Granularity
from jtl.engine.losses import LossOptions
from jtl.engine.modes import BatchNormMode
from jtl.engine.optim import OptimizerOptions
from jtl.engine.schedules import ScheduleOptions
from jtl.errors import ConfigError
from jtl.training.cache.options import CacheChoice, CacheLimits
from jtl.training.checkpoint import CheckpointOptions
from jtl.training.selection import EarlyStoppingOptions
from jtl.training.trackers import TrackerName
from jtl.training.unfreezing import UnfreezeOptions

Rate = Annotated[float, Interval(ge=0), Lt(1)]
Positive = Annotated[float, Gt(0)]


@dataclasses.dataclass(frozen=True, kw_only=True)
class PhaseOptions:
    """One stretch of training with one freeze spec, or one gradual unfreezing.

    The schedule begins with its phase and counts the run's steps from there, skipped ones
    included. The optimizer's state of parameters that stay trainable goes on from the phase
    before if that has the same optimizer; that of newly trainable ones begins afresh. The step
    counter, the data order and the random streams go on.

    Attributes:
        freeze: stages, ranges and globs that stay as they are; or `none`, `backbone`, `all`.
        unfreeze: thaws what is frozen bit by bit, from the head downwards; the schedule runs
            over all of it.
        epochs: how often every training example is seen in this phase; 5 where neither this nor
            `steps` nor `percent` is set.
        steps: the length in batches instead.
        percent: the length in percent of `train.epochs` instead.
        optimizer: the update rule.
        schedule: the learning rate over this phase.
        layer_decay: the rate of each layer as a fraction of the next one's; the head has 1.
        layer_decay_by: whether a layer is a `stage` or a `block`.
        rates: multipliers of the rate by glob over parameter paths; the last match counts.
        batch_norm: `frozen`, `statistics`, `affine` or `train`, for every BatchNorm or by glob
            over module paths; by default `frozen` where scale and bias are, else `train`.
        dropout_rate: before the head in this phase; None keeps the model's.
        frozen_dropout: whether dropout and drop-path stay on in frozen stages.
    """

    freeze: str | tuple[str, ...] = "none"
    unfreeze: UnfreezeOptions | None = None
    epochs: Positive | None = None
    steps: Annotated[int, Gt(0)] | None = None
    percent: Annotated[float, Interval(gt=0, le=100)] | None = None
    optimizer: OptimizerOptions = OptimizerOptions()
    schedule: ScheduleOptions = ScheduleOptions()
    layer_decay: Annotated[float, Interval(gt=0, le=1)] = 1.0
    layer_decay_by: Granularity = "stage"
    rates: dict[str, Annotated[float, Ge(0)]] = dataclasses.field(default_factory=dict)
    batch_norm: BatchNormMode | dict[str, BatchNormMode] | None = None
    dropout_rate: Rate | None = None
    frozen_dropout: bool = False

    def __post_init__(self) -> None:
        """Refuses two lengths at once."""
        said = [name for name in ("epochs", "steps", "percent") if getattr(self, name) is not None]
        if len(said) > 1:
            raise ConfigError(f"a phase has one length, but {' and '.join(said)} are set.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class MeshOptions:
    """How a mesh of devices is used.

    Attributes:
        model: parts that dense layers are split into; the other devices split the batch.
        zero: whether each device keeps a part of the optimizer's state only.
    """

    model: Annotated[int, Gt(0)] = 1
    zero: bool = False


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainOptions:
    """How a network is trained.

    Attributes:
        phases: one after the other.
        epochs: what the `percent` of phases refers to.
        loss: what is minimised.
        monitor: the validation metric that chooses the best parameters, by its highest value
            (lowest for losses and errors); None takes the last ones and looks at none.
        early_stopping: when the run ends before its time; None never ends it.
        accumulate: micro-batches that each device splits its part of a batch into.
        ema_decay: of running means of parameters and statistics, which are then what is
            evaluated and kept as the result; None keeps none.
        global_batch_norm: whether BatchNorm takes its statistics over the global batch.
        max_skipped: steps in a row without a finite loss and gradient before the run stops.
        cache: where the output of the frozen leading stages is kept, computed once for each
            image and each of `augment.views`: on the `device`, in `host` memory, in a `file` of
            the run's folder; `auto` chooses where it fits and pays, `off` computes it anew.
        cache_limits: how large it may be at each place.
        placement: `auto` is `pmap` where there are several devices, else `single`.
        mesh: how the devices are used where the placement is `mesh`.
        evaluate_every: epochs between two evaluations, each followed by a checkpoint.
        log_every: steps between two records of loss, accuracy, gradient norm and rate.
        checkpoint: which checkpoints are made and stay.
        max_seconds: after which a start saves and stops, to be resumed; None never does.
        log_to: where the run is recorded beside its folder: `wandb`, `mlflow`.
    """

    phases: Annotated[tuple[PhaseOptions, ...], MinLen(1)] = (PhaseOptions(),)
    epochs: Positive | None = None
    loss: LossOptions = LossOptions()
    monitor: str | None = "accuracy"
    early_stopping: EarlyStoppingOptions | None = None
    accumulate: Annotated[int, Gt(0)] = 1
    ema_decay: Rate | None = None
    global_batch_norm: bool = True
    max_skipped: Annotated[int, Gt(0)] = 10
    cache: CacheChoice = "auto"
    cache_limits: CacheLimits = CacheLimits()
    placement: Literal["auto", "single", "pmap", "mesh"] = "auto"
    mesh: MeshOptions = MeshOptions()
    evaluate_every: Positive = 1.0
    log_every: Annotated[int, Gt(0)] = 10
    checkpoint: CheckpointOptions = CheckpointOptions()
    max_seconds: Positive | None = None
    log_to: tuple[TrackerName, ...] = ()
