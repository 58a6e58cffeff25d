"""Tables of metrics with their intervals, of classes, and of two runs."""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table

from jtl.training.measure.compare import Comparison
from jtl.training.measure.intervals import Interval
from jtl.training.measure.tally import HEADLINES, ClassFigures


def interval_table(
    split: str, metrics: Mapping[str, float], intervals: Mapping[str, Interval]
) -> Table:
    """Each metric of a split with its 95 % interval."""
    table = _table("metric", split, "95 % interval")
    for name, value in metrics.items():
        table.add_row(name, f"{value:.4f}", _range(intervals.get(name)))
    return table


def headline_table(columns: Mapping[str, Mapping[str, Any]], split: str) -> Table:
    """The headline figures of one split with their 95 % intervals.

    Args:
        columns: of a run's summary `best`, `final`, or both, by what to call them.
        split: whose figures.
    """
    table = _table(split, *(name for own in columns for name in (own, "95 % interval")))
    metrics = [record["metrics"][split] for record in columns.values()]
    bounds = [record.get("intervals", {}).get(split, {}) for record in columns.values()]
    for name in HEADLINES:
        if all(name in own for own in metrics):
            cells = [(f"{m[name]:.4f}", _range(b.get(name))) for m, b in zip(metrics, bounds)]
            table.add_row(name, *itertools.chain(*cells))
    return table


def comparison_table(found: Comparison, first: str, second: str) -> Table:
    """Each metric of two runs, their difference, and its 95 % interval."""
    table = _table("metric", first, second, "difference", "95 % interval")
    for name, gap in found.difference.items():
        values = (f"{own[name]:.4f}" for own in (found.first, found.second))
        table.add_row(name, *values, f"{gap:+.4f}", _range(found.intervals.get(name), "+"))
    return table


def class_table(classes: Sequence[ClassFigures]) -> Table:
    """Each class's own figures."""
    names = ("support", "precision", "recall", "f1", "roc_auc", "average_precision")
    several = any(own.threshold is not None for own in classes)
    table = _table("class", *names, *(["threshold"] if several else []))
    for own in classes:
        figures = [f"{getattr(own, name):.4f}" for name in names[1:]]
        limit = [f"{own.threshold:.4f}"] if own.threshold is not None else []
        table.add_row(own.name, str(own.support), *figures, *limit)
    return table


def _table(first: str, *rest: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column(first)
    for name in rest:
        table.add_column(name, justify="right")
    return table


def _range(interval: Interval | None, sign: str = "") -> str:
    if interval is None:
        return ""
    return f"{interval[0]:{sign}.4f} to {interval[1]:{sign}.4f}"
