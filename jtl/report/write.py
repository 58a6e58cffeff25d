"""The report of a run: its figures as files, and one page that holds everything."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from markupsafe import Markup

from jtl.data.options import load_source
from jtl.errors import CheckpointError, DataError
from jtl.experiment.assemble import Examples, make_examples
from jtl.experiment.run import Run
from jtl.report import figures, sections
from jtl.report.history import History, read_history
from jtl.report.outcomes import Outcomes, read_outcomes
from jtl.report.page import Picture, Section, paragraph, pictures, render_page
from jtl.report.svg import to_png, to_svg
from jtl.report.thumbnails import example_thumbs
from jtl.training.files import write_text
from jtl.training.measure.predictions import Calibration

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_SHOWN = 12  # mistakes, and as many hits


def write_report(run: Run) -> Path:
    """Writes `report.html` and `plots/*.png` into a run's folder, anew each time.

    Args:
        run: a finished run.

    Returns:
        The page.

    Raises:
        CheckpointError: a file of the run is damaged, or the folder cannot be written to.
    """
    plots = Plots(run.workdir / "plots")
    history = read_history(run.workdir)
    outcomes = read_outcomes(run.workdir, run.classes)
    examples, note = _examples(run)
    parts = [sections.metrics(run.summary), _learning(plots, history)]
    if outcomes is not None:
        parts += [
            _classes(plots, outcomes, run.calibration),
            _gallery(run, examples, outcomes, note),
        ]
    parts += [
        sections.data(run, examples, _balance(plots, examples), note),
        sections.frozen(run),
        sections.ledger(run),
        sections.speed(run.summary, history, pictures(_throughput(plots, history))),
        sections.again(run),
    ]
    lead = f"{run.config.model.name} on {run.config.data.source}, {len(run.classes)} classes, in "
    page = render_page(
        run.config.name, f"{lead}{run.kept}", parts, tiles=sections.tiles(run.summary)
    )
    path = run.workdir / "report.html"
    write_text(path, page)
    return path


class Plots:
    """Draws figures for a page and keeps each as a PNG file beside it."""

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        if folder is not None:
            try:
                folder.mkdir(exist_ok=True)
            except OSError as error:
                raise CheckpointError(
                    f"{folder} cannot be made ({error.strerror}); move what is there."
                ) from error

    def draw(self, name: str, figure: "Figure", caption: str) -> Picture:
        """A figure under its name, which must be unique in the page."""
        svg = to_svg(figure, name)
        if self._folder is not None:
            figure.set_layout_engine("none")  # which is laid out already
            to_png(figure, self._folder / f"{name}.png")
        return Picture(svg=svg, caption=caption, label=caption)


def learning_curves(plots: Plots, history: History) -> Markup:
    """Loss, accuracy and rate by step, with the phases marked."""
    items = []
    for name, caption in (("loss", "Loss"), ("accuracy", "Accuracy")):
        lines = {
            kind: own[name]
            for kind, own in (("train", history.train), ("val", history.val))
            if name in own
        }
        if lines:
            drawn = figures.curves(lines, name, history.phases)
            items.append(plots.draw(name, drawn, f"{caption} of training batches and validation."))
    if "rate" in history.train:
        lines = {"rate": history.train["rate"]}
        drawn = figures.curves(lines, "learning rate", history.phases)
        items.append(plots.draw("rate", drawn, "The learning rate."))
    if not items:
        return paragraph("Nothing has been recorded yet.", note=True)
    return pictures(*items)


def _learning(plots: Plots, history: History) -> Section:
    return Section(title="Learning", body=learning_curves(plots, history))


def _throughput(plots: Plots, history: History) -> Picture | None:
    if "images_per_second" not in history.train:
        return None
    lines = {"images/s": history.train["images_per_second"]}
    drawn = figures.curves(lines, "images a second", history.phases)
    return plots.draw("throughput", drawn, "Training images a second.")


def _classes(plots: Plots, outcomes: Outcomes, calibration: Calibration) -> Section:
    items = []
    split = outcomes.split
    if outcomes.single:
        text = f"Confusion on {split}: rows are true, columns predicted."
        items.append(plots.draw("confusion", figures.confusion(outcomes), text))
    text = f"Reliability on {split}: on the diagonal, confidence says the truth."
    items.append(
        plots.draw("reliability", figures.reliability(outcomes, calibration.temperature), text)
    )
    text = f"Precision and recall on {split}, all and the hardest classes (average precision)."
    items.append(plots.draw("precision_recall", figures.precision_recall(outcomes), text))
    body = pictures(*items) + sections.per_class(outcomes, calibration.thresholds)
    return Section(title="Classes", body=body)


def _gallery(run: Run, examples: Examples | None, outcomes: Outcomes, note: str) -> Section:
    if examples is None:
        return Section(title="Mistakes", body=paragraph(note, note=True))
    wrong = outcomes.most_confident_mistakes(_SHOWN)
    unsure = outcomes.least_confident_hits(_SHOWN)
    drawn = example_thumbs(run, examples, outcomes, np.concatenate([wrong, unsure]))
    return sections.gallery(outcomes, drawn[: len(wrong)], drawn[len(wrong) :])


def _balance(plots: Plots, examples: Examples | None) -> Markup:
    if examples is None:
        return Markup("")
    labels, names = examples.source.labels, examples.source.classes
    counts = {
        split: labels[own].sum(axis=0).astype(int)
        if labels.ndim > 1
        else np.bincount(labels[own], minlength=len(names))
        for split, own in examples.splits.items()
        if len(own)
    }
    text = "Examples of each class, by split."
    return pictures(plots.draw("balance", figures.balance(names, counts), text))


def _examples(run: Run) -> tuple[Examples | None, str]:
    """The examples of a run, or why they cannot be shown."""
    try:
        source = load_source(run.config.data) if run.source is None else run.source
        return make_examples(source, run.config, run.preprocess, run.workdir), ""
    except DataError as error:
        return None, f"The examples cannot be shown: {error}"
