"""Learning rates over the steps of one phase."""

import dataclasses
from typing import Annotated, Literal

import optax
from annotated_types import Ge, Gt, Interval


@dataclasses.dataclass(frozen=True, kw_only=True)
class ScheduleOptions:
    """The learning rate over the steps of one phase.

    Attributes:
        rate: the peak learning rate.
        kind: after the warm-up `constant`; `cosine` or `linear` decay to `final` of the peak;
            `step`, which multiplies by `factor` at each of `milestones`; or `one_cycle`, a
            cosine rise over the warm-up and a cosine fall, from 1/25 and to 1/250,000 of the
            peak (Smith and Topin 2018, arXiv:1708.07120, in torch's form).
        warmup: the fraction of the phase's steps that rise to the peak.
        final: the fraction of the peak at the last step of a cosine or linear decay.
        milestones: fractions of the phase at which `step` drops.
        factor: what each drop multiplies by.
    """

    rate: Annotated[float, Gt(0)] = 1e-3
    kind: Literal["constant", "cosine", "linear", "step", "one_cycle"] = "cosine"
    warmup: Annotated[float, Interval(ge=0, lt=1)] = 0.05
    final: Annotated[float, Interval(ge=0, le=1)] = 0.0
    milestones: tuple[Annotated[float, Interval(gt=0, lt=1)], ...] = (0.5, 0.75)
    factor: Annotated[float, Ge(0)] = 0.1


def make_schedule(options: ScheduleOptions, steps: int) -> optax.Schedule:
    """The rate as a function of the phase's own step count, from 0 to `steps`."""
    rising = min(round(options.warmup * steps), steps - 1) if steps > 1 else 0
    if options.kind == "one_cycle":
        share = max(rising, 1) / steps
        return optax.cosine_onecycle_schedule(max(steps, 2), options.rate, share, 25.0, 1e4)
    main = _after_warmup(options, rising, max(steps - rising, 1))
    if not rising:
        return main
    # The first step already moves: a rate of exactly 0 would waste a batch.
    climb = optax.linear_schedule(options.rate / (rising + 1), options.rate, rising)
    return optax.join_schedules([climb, main], [rising])


def _after_warmup(options: ScheduleOptions, rising: int, falling: int) -> optax.Schedule:
    rate = options.rate
    if options.kind == "constant":
        return optax.constant_schedule(rate)
    if options.kind == "linear":
        return optax.linear_schedule(rate, rate * options.final, falling)
    if options.kind == "step":
        steps = rising + falling
        drops: dict[int, float] = {}
        for share in options.milestones:
            place = round(share * steps) - rising
            drops[place] = drops.get(place, 1.0) * options.factor
        return optax.piecewise_constant_schedule(rate, drops)
    return optax.cosine_decay_schedule(rate, falling, alpha=options.final)
