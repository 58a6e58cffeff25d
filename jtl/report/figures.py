"""The drawings of a report, each a matplotlib figure in the ink of the page."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from jtl.report.history import Series
from jtl.report.outcomes import Outcomes
from jtl.report.svg import INK

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Readable on white and on black, and for most who do not see all colours.
COLOURS = ("#3a87d0", "#e0752d", "#35a07a", "#b86bc9", "#c79a1e", "#d8567a", "#6c8a9b", "#8a6d3b")
_GRID = "#888888"
_CELL = (0.12, 0.38, 0.68)
_MOST_CELLS = 20  # classes up to which a confusion matrix shows its counts
_MOST_CLASSES = 40  # classes that fit into one matrix or one set of bars
_MOST_CURVES = 6


def curves(
    lines: Mapping[str, Series], label: str, phases: Sequence[int] = (), *, log: bool = False
) -> "Figure":
    """Series by step, with a mark where each phase after the first begins.

    Args:
        lines: by name.
        label: of the vertical axis.
        phases: the steps at which phases begin.
        log: whether the vertical axis is logarithmic.
    """
    figure, axes = new_axes()
    for place, (name, own) in enumerate(lines.items()):
        colour = COLOURS[place % len(COLOURS)]
        dots = "o-" if len(own.steps) < 2 else "-"
        axes.plot(own.steps, own.values, dots, color=colour, label=name, linewidth=1.6)
    for number, step in enumerate(phases, 2):
        axes.axvline(step, color=_GRID, linewidth=1, linestyle="--")
        top = (step, 1.0)
        axes.annotate(f" phase {number}", top, xycoords=("data", "axes fraction"),
                      va="top", fontsize=8, color=INK)  # fmt: skip
    if log:
        axes.set_yscale("log")
    axes.set_xlabel("step")
    axes.set_ylabel(label)
    if len(lines) > 1:
        _legend(axes)
    return figure


def confusion(outcomes: Outcomes) -> "Figure":
    """Rows are the true classes, columns the predicted ones, shades the share of the row.

    Of many classes only those with the most mistakes are shown.
    """
    counts = outcomes.confusion()
    shown = np.arange(len(counts))
    if len(counts) > _MOST_CLASSES:
        wrong = counts.sum(0) + counts.sum(1) - 2 * np.diag(counts)
        shown = np.sort(np.argsort(-wrong, kind="stable")[:_MOST_CLASSES])
    part = counts[np.ix_(shown, shown)]
    share = part / np.maximum(counts.sum(axis=1)[shown, None], 1)
    figure, axes = new_axes((5.0, 4.6))
    # More or less of one colour over the page, be it dark or light.
    shade = np.empty((*share.shape, 4))
    shade[..., :3] = _CELL
    shade[..., 3] = np.where(part > 0, 0.15 + 0.85 * share, 0)
    axes.imshow(shade, aspect="auto")
    if len(shown) <= _MOST_CELLS:
        for row, column in zip(*np.nonzero(part)):
            ink = "#ffffff" if share[row, column] > 0.5 else INK
            axes.text(column, row, str(part[row, column]), ha="center", va="center",
                      fontsize=8, color=ink)  # fmt: skip
    names = [shorten(outcomes.classes[place]) for place in shown]
    rotated = max(map(len, names)) > 2
    axes.set_xticks(range(len(names)), names, rotation=90 if rotated else 0, fontsize=7)
    axes.set_yticks(range(len(names)), names, fontsize=7)
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")
    axes.grid(visible=False)
    return figure


def reliability(outcomes: Outcomes, temperature: float = 1.0) -> "Figure":
    """How often predictions of a confidence are right; on the diagonal they say the truth.

    Args:
        outcomes: of the run.
        temperature: at which confidences are drawn as well, if it is not 1.
    """
    figure, axes = new_axes((5.0, 3.6))
    axes.plot([0, 1], [0, 1], "--", color=_GRID, linewidth=1)
    drawn = {"as trained": 1.0, f"at temperature {temperature:.2f}": temperature}
    for place, (name, each) in enumerate(list(drawn.items())[: 1 if temperature == 1 else 2]):
        sure, right, counts = outcomes.reliability(each)
        size, colour = 12 + 160 * counts / counts.max(), COLOURS[place]
        axes.plot(sure, right, "-", color=colour, linewidth=1, label=name)
        axes.scatter(sure, right, s=size, color=colour, alpha=0.75)
    if temperature != 1:
        _legend(axes, loc="lower right")
    axes.set_xlim(0, 1.02)
    axes.set_ylim(-0.02, 1.04)
    axes.set_xlabel("confidence")
    axes.set_ylabel("accuracy")
    return figure


def precision_recall(outcomes: Outcomes) -> "Figure":
    """The classes that are hardest to tell, and all examples and classes pooled."""
    from sklearn.metrics import average_precision_score, precision_recall_curve

    figure, axes = new_axes((5.0, 3.6))
    present = [k for k in range(len(outcomes.classes)) if outcomes.truth[:, k].any()]
    score = {
        k: average_precision_score(outcomes.truth[:, k], outcomes.probabilities[:, k])
        for k in present
    }
    pooled = (outcomes.truth.ravel(), outcomes.probabilities.ravel())
    drawn = [("all", *pooled, float(average_precision_score(*pooled)))]
    for k in sorted(present, key=lambda k: score[k])[:_MOST_CURVES]:
        truth, given = outcomes.truth[:, k], outcomes.probabilities[:, k]
        drawn.append((shorten(outcomes.classes[k]), truth, given, score[k]))
    for place, (name, truth, given, own) in enumerate(drawn):
        precision, recall, _ = precision_recall_curve(truth, given)
        colour = INK if place == 0 else COLOURS[(place - 1) % len(COLOURS)]
        axes.plot(recall, precision, color=colour, linewidth=1.4, label=f" {name} ({own:.3f})")
    axes.set_xlabel("recall")
    axes.set_ylabel("precision")
    axes.set_xlim(0, 1.02)
    axes.set_ylim(0, 1.04)
    _legend(axes, loc="lower left")
    return figure


def balance(classes: Sequence[str], counts: Mapping[str, np.ndarray]) -> "Figure":
    """How many examples each class has in each split.

    Args:
        classes: their names.
        counts: by split, int `[classes]`.
    """
    total = np.sum(list(counts.values()), axis=0)
    order = np.argsort(-total, kind="stable")
    if len(order) > _MOST_CLASSES:  # the largest and the smallest
        half = _MOST_CLASSES // 2
        order = np.concatenate([order[:half], order[-half:]])
    figure, axes = new_axes()
    base = np.zeros(len(order))
    for place, (split, own) in enumerate(counts.items()):
        axes.bar(range(len(order)), own[order], bottom=base, color=COLOURS[place], label=split)
        base = base + own[order]
    names = [shorten(classes[place]) for place in order]
    rotated = max(map(len, names)) > 2
    axes.set_xticks(range(len(names)), names, rotation=90 if rotated else 0, fontsize=7)
    axes.set_ylabel("examples")
    _legend(axes, loc="lower left", bbox_to_anchor=(0, 1), ncols=len(counts))
    return figure


def shorten(name: str, longest: int = 14) -> str:
    """A name that fits beside an axis, in which no dollar begins a formula."""
    short = name if len(name) <= longest else name[: longest - 1] + "…"
    return short.replace("$", r"\$")


def new_axes(size: tuple[float, float] = (5.0, 3.0)) -> tuple["Figure", "Axes"]:
    """A figure of this size in inches, with axes in the ink of the page."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, layout="constrained")
    axes = figure.add_subplot()
    style_axes(axes)
    return figure, axes


def style_axes(axes: "Axes") -> None:
    """Gives axes the ink of the page, and no more lines than they need."""
    axes.set_facecolor("none")
    axes.grid(color=_GRID, alpha=0.25, linewidth=0.7)
    axes.set_axisbelow(True)
    axes.tick_params(colors=INK, labelsize=8, length=2)
    for side, spine in axes.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color(_GRID)
    for label in (axes.xaxis.label, axes.yaxis.label):
        label.set_color(INK)
        label.set_fontsize(9)


def _legend(axes: "Axes", **place: Any) -> None:
    axes.legend(frameon=False, fontsize=8, labelcolor=INK, **place)
