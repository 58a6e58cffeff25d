"""Which metrics are better: the best step of a run, and when to stop early."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Annotated

from annotated_types import Ge, Gt

from jtl.engine.metrics import LOWER_IS_BETTER
from jtl.errors import ConfigError
from jtl.training.saved_steps import Progress


@dataclasses.dataclass(frozen=True, kw_only=True)
class EarlyStoppingOptions:
    """When a run ends before its time.

    Attributes:
        patience: evaluations in a row without an improvement after which the run ends; each
            phase begins to count anew.
        monitor: the validation metric, higher being better but for losses and errors; None is
            the one that chooses the best parameters.
        min_delta: what counts as an improvement.
    """

    patience: Annotated[int, Gt(0)] = 5
    monitor: str | None = None
    min_delta: Annotated[float, Ge(0)] = 0.0


def choose_best(
    progress: Progress, metrics: Mapping[str, float], monitor: str | None
) -> tuple[Progress, bool]:
    """The progress after an evaluation, and whether its step is the best so far.

    Args:
        progress: at the step that was evaluated.
        metrics: of the validation split.
        monitor: the metric that chooses; None takes the last step.

    Raises:
        ConfigError: the metric is never reported.
    """
    if monitor is None:
        return dataclasses.replace(progress, best_step=progress.step), False
    value = _value(metrics, monitor, "train.monitor")
    if not improves(value, progress.best_value, monitor):
        return progress, False
    best = dataclasses.replace(progress, best_step=progress.step, best_value=value)
    return best, True


def count_patience(
    progress: Progress,
    metrics: Mapping[str, float],
    options: EarlyStoppingOptions,
    monitor: str | None,
) -> Progress:
    """The progress with its count of evaluations without an improvement.

    Args:
        progress: at the step that was evaluated.
        metrics: of the validation split.
        options: when to stop.
        monitor: what is watched where the options name nothing.

    Raises:
        ConfigError: the metric is never reported, or there is none to watch.
    """
    watched = options.monitor or monitor
    if watched is None:
        raise ConfigError(
            "train.early_stopping has no metric to watch, as train.monitor is null; set "
            "train.early_stopping.monitor, such as to 'loss'."
        )
    value = _value(metrics, watched, "train.early_stopping.monitor")
    if improves(value, progress.patience_value, watched, options.min_delta):
        return dataclasses.replace(progress, patience_value=value, stale=0)
    stale = progress.stale + 1
    return dataclasses.replace(progress, stale=stale, stopped=stale >= options.patience)


def improves(value: float, before: float | None, metric: str, by: float = 0.0) -> bool:
    """Whether a metric's value is better than the one before; NaN never is."""
    if math.isnan(value) or before is None:
        return not math.isnan(value)
    sign = -1 if metric in LOWER_IS_BETTER else 1
    return sign * (value - before) > by


def _value(metrics: Mapping[str, float], metric: str, option: str) -> float:
    if metric not in metrics:
        raise ConfigError(
            f"{option}={metric!r} is never reported; choose one of {', '.join(metrics)}."
        )
    return metrics[metric]
