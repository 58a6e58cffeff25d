"""The page of a search: its best trials, what the winner is worth, and the drawings of it."""

from collections.abc import Sequence
from typing import Any

from markupsafe import Markup

from jtl.config import to_yaml
from jtl.report import study_figures as figures
from jtl.report.page import (
    Picture,
    Section,
    Tile,
    block,
    folded,
    paragraph,
    pictures,
    render_page,
    table,
)
from jtl.report.svg import to_png, to_svg
from jtl.study.search.importance import importances
from jtl.study.search.result import HeldOut, Result
from jtl.study.search.trial import Trial
from jtl.training.files import write_text

_SHOWN = 20


def write_study_page(result: Result) -> None:
    """Writes `report.html` and the drawings in `plots` into the study's folder.

    Raises:
        CheckpointError: the page cannot be written.
    """
    weights = importances(result.plan.space, result.trials)
    drawn = {
        "history": (figures.history(result), "Each trial, and the best so far"),
        "parallel": (figures.parallel(result), "One line a trial, the better the darker"),
        "slices": (figures.slices(result), "The metric by each parameter alone"),
    }
    if weights:
        drawn["importance"] = (
            figures.importance(weights),
            "What a forest says that each parameter matters",
        )
    folder = result.folder / "plots"
    folder.mkdir(exist_ok=True)
    shown = []
    for name, (figure, caption) in drawn.items():
        to_png(figure, folder / f"{name}.png")
        shown.append(Picture(svg=to_svg(figure, name), caption=caption, label=caption))
    sections = [
        Section(title="Best trials", body=_best(result)),
        Section(title="What the winner is worth", body=_worth(result)),
        Section(title="Drawings", body=pictures(*shown)),
        Section(title="All trials", body=folded("show", _every(result))),
        Section(title="Best config", body=folded("show", block(to_yaml(result.config)))),
    ]
    plan = result.plan
    judged = f"{plan.folds} folds" if plan.folds else "the validation split"
    lead = f"{plan.method}, {len(result.trials)} trials, {plan.metric} on {judged}"
    page = render_page(f"Search of {plan.config.name}", lead, sections, _tiles(result))
    write_text(result.folder / "report.html", page)


def _tiles(result: Result) -> list[Tile]:
    best_of = f"the best of {result.compared}"
    found = [
        Tile(name=result.plan.metric, value=_figure(result.winner.value), detail=best_of),
        Tile(name="defaults", value=_figure(result.defaults.value)),
    ]
    if result.held_out is not None:
        name = f"test/{result.plan.objective.metric}"
        found.append(Tile(name=name, value=_figure(result.held_out.value), detail="held out"))
    return found


def _worth(result: Result) -> Markup:
    winner = "the defaults" if result.winner.number < 0 else f"trial {result.winner.number}"
    rows = [
        (f"{winner}, validation", result.winner.value, _interval(result.winner.interval)),
        (f"{winner}, test", *_row(result.held_out)),
        ("the defaults, validation", result.defaults.value, _interval(result.defaults.interval)),
        ("the defaults, test", *_row(result.defaults_held_out)),
    ]
    if result.nested is not None:
        own = result.nested
        rows.append(("such searches, nested", own.mean, _interval((own.low, own.high))))
    said = (
        "The best of many trials is the best in part by luck, so that its figure on validation is "
        "optimistic. The test split chose nothing, and was looked at once, after the last trial."
    )
    return table(("of", result.plan.objective.metric, "95 % interval"), rows) + paragraph(said)


def _row(found: HeldOut | None) -> tuple[float | None, str]:
    return (None, "no test split") if found is None else (found.value, _interval(found.interval))


def _best(result: Result) -> Markup:
    columns = ("trial", result.plan.metric, "95 % interval", *_names(result), "seconds")
    rows = [
        (_name(own), own.value, _interval(own.interval), *_values(result, own), own.seconds)
        for own in [*result.best[:_SHOWN], result.defaults]
    ]
    return table(columns, [_plain_seconds(row) for row in rows], sortable=True)


def _every(result: Result) -> Markup:
    columns = ("trial", "status", result.plan.metric, "95 % interval", *_names(result), "seconds")
    rows = [
        (_name(own), _status(own), own.value, _interval(own.interval), *_values(result, own),
         own.seconds)
        for own in result.trials
    ]  # fmt: skip
    return table(columns, [_plain_seconds(row) for row in rows], sortable=True)


def _name(trial: Trial) -> str:
    return "defaults" if trial.number < 0 else str(trial.number)


def _names(result: Result) -> list[str]:
    return [name.removeprefix("train.") for name in result.plan.space.parameters]


def _values(result: Result, trial: Trial) -> list[str]:
    return ["" if own is None else figures.said(own) for own in result.values(trial)]


def _status(trial: Trial) -> str:
    return trial.status if trial.reason is None else f"{trial.status}: {trial.reason}"


def _plain_seconds(row: Sequence[Any]) -> tuple[Any, ...]:
    return (*row[:-1], f"{row[-1]:.1f}")


def _figure(value: float | None) -> str:
    return "–" if value is None else f"{value:.4f}"


def _interval(interval: tuple[float, ...] | None) -> str:
    # Not broken into lines.
    return "" if interval is None else f"{interval[0]:.4f}\u00a0to\u00a0{interval[1]:.4f}"
