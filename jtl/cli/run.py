"""`jtl evaluate` and `jtl predict`: what to do with a finished run."""

import sys
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter
from cyclopts.validators import Number


def evaluate(
    workdir: str,
    other: str | None = None,
    *,
    split: str = "test",
    checkpoint: Literal["best", "last"] = "best",
    tta: Literal["flip", "five", "ten"] | None = None,
    per_class: Annotated[bool, Parameter(negative="")] = False,
) -> None:
    """Evaluate a finished run on one split of its data, or compare two runs on it.

    Every figure has a 95 % interval, by a bootstrap over examples; of two runs, so has their
    difference, and McNemar's exact test says whether it may be chance.

    Example: `jtl evaluate runs/digits --split val`, `jtl evaluate runs/one runs/two`.

    Args:
        workdir: the run's folder or address.
        other: the folder or address of a second run, on the same data and splits.
        split: `train`, `val` or `test`.
        checkpoint: the best parameters by the monitored metric, or the last.
        tta: average the probabilities of each image and its mirror image (`flip`), of its corners
            and centre (`five`), or of both (`ten`).
        per_class: show each class's figures as well.
    """
    from jtl.cli.console import make_console
    from jtl.cli.figures import class_table, comparison_table, interval_table
    from jtl.cli.memory import prepare_computing
    from jtl.experiment import load_run
    from jtl.training.measure.compare import compare
    from jtl.training.measure.intervals import intervals

    prepare_computing()
    console = make_console()
    tally = load_run(workdir, checkpoint).tally(split, tta)
    if other is not None:
        found = compare(tally, load_run(other, checkpoint).tally(split, tta))
        console.print(comparison_table(found, workdir, other))
        console.print(
            f"{found.only_first} examples are right in {workdir} alone, {found.only_second} in "
            f"{other} alone: p = {found.p_value:.3g} (McNemar, exact)"
        )
        return
    console.print(interval_table(split, tally.metrics(), intervals(tally)))
    if per_class:
        console.print(class_table(tally.classes()))


def predict(
    workdir: str,
    images: Annotated[list[str], Parameter(negative="")],
    *,
    top: Annotated[int, Parameter(validator=Number(gte=1))] = 1,
    format: Literal["table", "json", "csv"] = "table",
    batch_size: Annotated[int | None, Parameter(validator=Number(gte=1))] = None,
    tta: Literal["flip", "five", "ten"] | None = None,
    explain: Path | None = None,
) -> None:
    """Name the classes of image files, of all in a folder, or of those that match a glob.

    Probabilities have the run's temperature applied. A file that cannot be read is named on
    standard error, the rest is done, and the exit status is 1.

    Example: `jtl predict runs/digits three.png scans/ "photos/**/*.jpg" --top 3 --format json`.

    Args:
        workdir: the run's folder or address.
        images: image files, folders or globs.
        top: how many classes to name for each image.
        format: a table, JSON (a list) or CSV.
        batch_size: images a step; by default as many as in evaluation.
        tta: as for `jtl evaluate`.
        explain: a new folder, into which a picture of each image is written: Grad-CAM of its
            most probable class, yellow where most spoke for it.
    """
    from jtl.cli.memory import prepare_computing
    from jtl.cli.rows import write_predictions
    from jtl.report.run import load_run

    prepare_computing()
    run = load_run(workdir)
    if explain is None:
        made = run.iter_predict(images, top, batch_size=batch_size, tta=tta)
    else:
        made = run.iter_explain(images, explain, top, batch_size=batch_size, tta=tta)
    several = run.config.train.loss.name == "sigmoid"
    if write_predictions(made, format, several=several, explained=explain is not None):
        sys.exit(1)
