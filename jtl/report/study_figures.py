"""The drawings of a search: history, parallel coordinates, importance and slices."""

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from jtl.report.figures import COLOURS, new_axes, shorten, style_axes
from jtl.report.svg import INK, PAPER
from jtl.study.search.importance import place_of
from jtl.study.search.result import Result
from jtl.study.search.space import Choice, LogUniform
from jtl.study.search.trial import Trial

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_SPREAD = 0.06  # of an axis, by which equal choices are drawn apart
_TICKS = 4
_ACROSS = 2
# Of the figures at an axis, which lines would cross out.
_BEHIND = {"facecolor": PAPER, "edgecolor": "none", "alpha": 0.85, "pad": 0.8}


def history(result: Result) -> "Figure":
    """The metric by trial, the best so far as a line, the defaults as a dashed one."""
    from matplotlib.ticker import MaxNLocator

    figure, axes = new_axes()
    trials = _complete(result)
    numbers = [own.number for own in trials]
    values = np.array([own.value for own in trials])
    axes.plot(numbers, values, "o", color=COLOURS[0], alpha=0.7, markersize=4, label="trial")
    best = np.maximum.accumulate(values) if result.plan.objective.maximize else (
        np.minimum.accumulate(values)
    )  # fmt: skip
    axes.step(numbers, best, where="post", color=COLOURS[1], linewidth=1.6, label="best so far")
    if result.defaults.value is not None:
        axes.axhline(
            result.defaults.value, color=INK, linewidth=1, linestyle="--", label="defaults"
        )
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("trial")
    axes.set_ylabel(result.plan.metric)
    axes.legend(frameon=False, fontsize=8, labelcolor=INK)
    return figure


def parallel(result: Result) -> "Figure":
    """One line a trial across an axis for each parameter and one for the metric."""
    names = list(result.plan.space.parameters)
    figure, axes = new_axes((max(5.0, 1.5 * (len(names) + 1)), 3.4))
    trials = result.best[::-1]  # the best on top
    columns = [_along(result, name, trials) for name in names]
    columns.append(_unit(np.array([own.value for own in trials], float)))
    for place, _ in enumerate(trials):
        rank = (place + 1) / len(trials)
        axes.plot(range(len(columns)), [column[place] for column in columns],
                  color=COLOURS[0], alpha=0.1 + 0.85 * rank**3, linewidth=0.7 + rank)  # fmt: skip
    for place, name in enumerate(names):
        for height, text in _ticks(result, name):
            _mark(axes, place, height, shorten(text, 12))
    values = [own.value or 0.0 for own in trials]
    for height, end in ((0.0, min(values)), (1.0, max(values))):
        _mark(axes, len(names), height, f"{end:.4f}")
    labels = [*(_last(name) for name in names), result.plan.metric]
    axes.set_xticks(range(len(columns)), labels, fontsize=8)
    axes.set_xlim(-0.1, len(columns) - 0.5)
    axes.set_yticks([])
    axes.grid(axis="x", visible=True)
    return figure


def _mark(axes: "Axes", across: float, height: float, text: str) -> None:
    axes.annotate(text, (across, height), fontsize=8, color=INK, bbox=_BEHIND,
                  xytext=(4, 0), textcoords="offset points", va="center")  # fmt: skip


def importance(weights: Mapping[str, float]) -> "Figure":
    """A bar for each parameter."""
    figure, axes = new_axes((5.0, 1.0 + 0.35 * len(weights)))
    names = list(weights)[::-1]
    axes.barh(range(len(names)), [weights[name] for name in names], color=COLOURS[2])
    axes.set_yticks(range(len(names)), [_last(name) for name in names], fontsize=8)
    axes.set_xlabel("share")
    axes.set_xlim(0, 1)
    return figure


def slices(result: Result) -> "Figure":
    """The metric against each parameter, a dot a trial; later trials are darker."""
    from matplotlib.figure import Figure

    names, trials = list(result.plan.space.parameters), _complete(result)
    across = min(len(names), _ACROSS)
    down = math.ceil(len(names) / across)
    figure = Figure(figsize=(2.6 * across + 0.4, 2.2 * down), layout="constrained")
    for place, name in enumerate(names):
        axes = figure.add_subplot(down, across, place + 1)
        style_axes(axes)
        own = [trial for trial in trials if name in trial.assignments]
        _slice(axes, result, name, own)
        if place % across == 0:
            axes.set_ylabel(result.plan.metric)
    return figure


def said(value: Any) -> str:
    """A value as a table shows it."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _slice(axes: "Axes", result: Result, name: str, trials: list[Trial]) -> None:
    parameter = result.plan.space.parameters[name]
    if isinstance(parameter, Choice):
        across = np.array([place_of(result.plan.space, name, own) for own in trials])
        texts = [shorten(said(option), 10) for option in parameter.options]
        axes.set_xticks(range(len(texts)), texts, fontsize=7)
    else:
        across = np.array([own.assignments[name] for own in trials], float)
        if isinstance(parameter, LogUniform):
            axes.set_xscale("log")
    shades = 0.25 + 0.7 * np.arange(len(trials)) / max(len(trials) - 1, 1)
    for x, own, shade in zip(across, trials, shades):
        axes.plot([x], [own.value or 0.0], "o", color=COLOURS[0], alpha=float(shade), markersize=4)
    axes.set_xlabel(_last(name))


def _complete(result: Result) -> list[Trial]:
    return [own for own in result.trials if own.status == "complete"]


def _along(result: Result, name: str, trials: list[Trial]) -> np.ndarray:
    """Where each trial crosses a parameter's axis, in [0, 1]; NaN, a gap, where out of use."""
    low, high = _ends(result, name)
    found = np.array([
        (place_of(result.plan.space, name, own) - low) / max(high - low, 1e-12)
        if name in own.assignments else np.nan
        for own in trials
    ])  # fmt: skip
    if isinstance(result.plan.space.parameters[name], Choice):
        # Side by side, as lines that share all points cannot be told apart.
        found = found + _SPREAD * (np.arange(len(trials)) / max(len(trials) - 1, 1) - 0.5)
    return found


def _ends(result: Result, name: str) -> tuple[float, float]:
    parameter = result.plan.space.parameters[name]
    if isinstance(parameter, Choice):
        return 0.0, float(max(len(parameter.options) - 1, 1))
    if isinstance(parameter, LogUniform):
        return math.log(parameter.low), math.log(parameter.high)
    return float(parameter.low), float(parameter.high)


def _ticks(result: Result, name: str) -> list[tuple[float, str]]:
    parameter = result.plan.space.parameters[name]
    if isinstance(parameter, Choice):
        last = max(len(parameter.options) - 1, 1)
        return [(place / last, said(own)) for place, own in enumerate(parameter.options)]
    if isinstance(parameter, LogUniform):
        values = np.geomspace(parameter.low, parameter.high, _TICKS)
    else:
        values = np.linspace(parameter.low, parameter.high, _TICKS)
    return [(place / (_TICKS - 1), f"{value:.3g}") for place, value in enumerate(values)]


def _unit(values: np.ndarray) -> np.ndarray:
    span = np.ptp(values)
    return (values - values.min()) / span if span else np.full(len(values), 0.5)


def _last(name: str) -> str:
    parts = name.split(".")
    tail = [part for part in parts if not part.isdecimal()][-1]
    places = [part for part in parts if part.isdecimal()]
    return shorten(f"{tail} {places[0]}" if places else tail, 16)
