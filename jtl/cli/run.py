"""`jtl evaluate`, `jtl predict` and `jtl export`: what to do with a finished run."""

import csv
import io
import json
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter


def evaluate(
    workdir: Path, *, split: str = "test", checkpoint: Literal["best", "last"] = "best"
) -> None:
    """Evaluate a finished run on one split of its data.

    Example: `jtl evaluate runs/digits --split val`.

    Args:
        workdir: the run's folder.
        split: `train`, `val` or `test`.
        checkpoint: the best parameters by the monitored metric, or the last.
    """
    from jtl.cli.console import make_console, metrics_table
    from jtl.experiment import load_run

    metrics = load_run(workdir, checkpoint).evaluate(split)
    make_console().print(metrics_table({split: metrics}))


def predict(
    workdir: Path,
    images: Annotated[list[Path], Parameter(negative="")],
    *,
    top: int = 1,
    format: Literal["table", "json", "csv"] = "table",
) -> None:
    """Name the classes of image files.

    Example: `jtl predict runs/digits three.png seven.png --top 3 --format json`.

    Args:
        workdir: the run's folder.
        images: image files.
        top: how many classes to name for each image.
        format: a table, JSON (a list) or CSV.
    """
    from jtl.cli.console import make_console
    from jtl.experiment import load_run

    predictions = load_run(workdir).predict(images, top=top)
    rows = [
        {"image": str(path), "class": name, "probability": round(probability, 6)}
        for path, own in zip(images, predictions)
        for name, probability in zip(own.classes, own.probabilities)
    ]
    if format == "json":
        print(json.dumps(rows, indent=2, ensure_ascii=False))
    elif format == "csv":
        text = io.StringIO()
        writer = csv.DictWriter(text, ["image", "class", "probability"], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        print(text.getvalue(), end="")
    else:
        make_console().print(_table(rows))


def _table(rows: list[dict[str, object]]):  # type: ignore[no-untyped-def]
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("image", overflow="fold")
    table.add_column("class")
    table.add_column("probability", justify="right")
    for row in rows:
        table.add_row(str(row["image"]), str(row["class"]), f"{row['probability']:.4f}")
    return table


def export(
    workdir: Path,
    *,
    format: Literal["safetensors"] = "safetensors",
    output: Path | None = None,
) -> None:
    """Write a finished run's best parameters to one file.

    Example: `jtl export runs/digits --format safetensors --output digits.safetensors`.

    Args:
        workdir: the run's folder.
        format: safetensors in jtl's own layout; its header holds the classes, the
            preprocessing, the recipe, the result and the data's origin.
        output: the file; `model.safetensors` in the run's folder by default.
    """
    from jtl.experiment import load_run
    from jtl.export import export_safetensors

    writers = {"safetensors": export_safetensors}
    print(writers[format](load_run(workdir), output or workdir / f"model.{format}"))
