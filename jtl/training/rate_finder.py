"""A search for the learning rate: one short run whose rate rises until the loss does."""

import dataclasses
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
import optax

from jtl.engine.optim import make_optimizer, partition_optimizer
from jtl.engine.parallel import Placement
from jtl.engine.state import TrainState
from jtl.errors import ConfigError
from jtl.training.options import PhaseOptions
from jtl.training.phases import Phase

_SMOOTHING = 0.9  # of the running mean of the loss
_DIVERGED = 4.0  # times the lowest smoothed loss, at which the search ends


@dataclasses.dataclass(frozen=True, kw_only=True)
class RateSearch:
    """What the search saw.

    Attributes:
        rates: of the steps taken, rising.
        losses: of their batches before each update, smoothed.
        suggestion: a peak rate, or None where no rate lowered the loss.
    """

    rates: tuple[float, ...]
    losses: tuple[float, ...]
    suggestion: float | None


def find_rate(
    phase: Phase,
    options: PhaseOptions,
    place: Placement,
    batches: Iterator[Any],
    variables: Any,
    seed: int,
    *,
    steps: int = 100,
    lowest: float = 1e-6,
    highest: float = 1.0,
    loss_scale: bool = False,
) -> RateSearch:
    """Trains with a rate that rises by the same factor at each step (Smith 2015).

    Nothing that is given is changed and nothing is written. The suggestion is the rate at which
    the smoothed loss fell fastest, at most a third of the rate at which it was lowest
    (arXiv:1506.01186, section 3.3, reads it off a plot).

    Args:
        phase: what is trained and frozen.
        options: of that phase, for its optimizer.
        place: where steps run.
        batches: placed.
        variables: the start.
        seed: of every random stream.
        steps: how many at most; the search ends early where the loss has grown large.
        lowest: the first rate.
        highest: the last one.
        loss_scale: whether the loss is scaled, for float16.

    Raises:
        ConfigError: the range of rates is empty.
    """
    if not 0 < lowest < highest or steps < 10:
        raise ConfigError(
            f"rates from {lowest:g} to {highest:g} in {steps} steps cannot be searched; give a "
            "rising range above 0 and at least 10 steps."
        )
    rates = lowest * (highest / lowest) ** (np.arange(steps) / (steps - 1))
    growth = np.float32(np.log(highest / lowest) / (steps - 1))

    def rising(step: Any) -> Any:
        return lowest * jax.numpy.exp(growth * step)

    step, state = _trial(phase, options, rising, variables, seed, loss_scale)
    compiled, running = place.compile(step), place.put_state(state)
    smoothed, losses = 0.0, list[float]()
    for count, batch in zip(range(1, steps + 1), batches):
        running, metrics = compiled(running, batch)
        loss = float(metrics["loss"])
        smoothed = _SMOOTHING * smoothed + (1 - _SMOOTHING) * loss
        mean = smoothed / (1 - _SMOOTHING**count)
        if not np.isfinite(mean) or (losses and mean > _DIVERGED * min(losses)):
            break
        losses.append(mean)
    taken = rates[: len(losses)]
    return RateSearch(
        rates=tuple(map(float, taken)),
        losses=tuple(losses),
        suggestion=suggest(taken, np.asarray(losses)),
    )


def suggest(rates: np.ndarray, losses: np.ndarray) -> float | None:
    """The rate at which the loss fell fastest before its lowest point; None if it never fell.

    Args:
        rates: rising by a constant factor.
        losses: smoothed.
    """
    if len(losses) < 3:
        return None
    lowest = int(np.argmin(losses))
    if lowest == 0 or losses[lowest] > 0.99 * losses[0]:
        return None
    slope = np.gradient(losses)
    steepest = int(np.argmin(slope[: lowest + 1]))
    return float(min(rates[steepest], rates[lowest] / 3))


def _trial(
    phase: Phase,
    options: PhaseOptions,
    rate: optax.Schedule,
    variables: Any,
    seed: int,
    loss_scale: bool,
) -> tuple[Any, TrainState]:
    rule = make_optimizer(
        options.optimizer, rate, multipliers=phase.multipliers, reference=variables["params"]
    )
    tx = partition_optimizer(rule, phase.labels)
    step = dataclasses.replace(phase.step, tx=tx, ema_decay=None)
    return step, TrainState.create(variables, tx, rng=seed, loss_scale=loss_scale)
