"""Predictions as rows of a table, of JSON or of CSV, written as they are made."""

import csv
import json
import sys
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from jtl.experiment.predict import Prediction


def write_predictions(
    predictions: Iterable[Prediction], format: str, *, several: bool, explained: bool = False
) -> int:
    """Writes predictions to standard output, and what could not be read to standard error.

    Args:
        predictions: in order.
        format: `table`, `json` or `csv`.
        several: whether an image may have several labels, which a column then marks.
        explained: whether each image has a picture, which a column then names.

    Returns:
        How many images could not be read.
    """
    columns = ["image", "class", "probability"]
    columns += [name for name, has in (("predicted", several), ("overlay", explained)) if has]
    problems: list[str] = []
    rows = _rows(predictions, problems, columns)
    writers = {"json": _json, "csv": _csv, "table": _table}
    writers[format](rows, columns)
    return len(problems)


def _rows(
    predictions: Iterable[Prediction], problems: list[str], columns: list[str]
) -> Iterator[dict[str, Any]]:
    for own in predictions:
        if own.problem:
            problems.append(own.problem)
            print(f"jtl: {own.problem}", file=sys.stderr)
        for name, probability in zip(own.classes, own.probabilities):
            row = {
                "image": own.image,
                "class": name,
                "probability": round(probability, 6),
                "predicted": name in own.labels,
                "overlay": own.overlay,
            }
            yield {column: row[column] for column in columns}


def _json(rows: Iterable[Mapping[str, Any]], columns: list[str]) -> None:
    del columns
    start = "[\n  "
    for row in rows:
        print(start + json.dumps(row, ensure_ascii=False), end="")
        start = ",\n  "
    print("[]" if start.startswith("[") else "\n]")


def _csv(rows: Iterable[Mapping[str, Any]], columns: list[str]) -> None:
    writer = csv.DictWriter(sys.stdout, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)


def _table(rows: Iterable[Mapping[str, Any]], columns: list[str]) -> None:
    from rich.table import Table

    from jtl.cli.console import make_console

    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in columns:
        table.add_column(name, overflow="fold", justify="right" if name == columns[2] else "left")
    for row in rows:
        cells = {**row, "probability": f"{row['probability']:.4f}"}
        if "predicted" in cells:
            cells["predicted"] = "yes" if cells["predicted"] else "no"
        table.add_row(*(str(cells[name]) for name in columns))
    if table.row_count:
        make_console().print(table)
