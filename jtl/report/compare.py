"""Several runs in one page: their metrics, curves, configs, and who is right where others err."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup

from jtl.config import difference
from jtl.errors import ConfigError
from jtl.experiment.options import Config
from jtl.experiment.place import readable
from jtl.experiment.workdir import read_summary, stored_config
from jtl.report import figures
from jtl.report.history import History, read_history
from jtl.report.outcomes import Outcomes, read_outcomes
from jtl.report.page import Section, paragraph, pictures, render_page, table
from jtl.report.write import Plots
from jtl.training.files import read_json, write_text

_COMPARED = ("accuracy", "loss", "f1", "top5", "precision", "recall", "ece")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Compared:
    """What is read of a run to compare it; its network is not needed."""

    name: str
    config: Config
    summary: dict[str, Any]
    history: History
    outcomes: Outcomes | None


def compare_runs(workdirs: Sequence[str | Path], output: Path) -> Path:
    """Writes one page that compares finished runs.

    Args:
        workdirs: their folders or addresses, at least two.
        output: the page, which does not exist yet.

    Raises:
        ConfigError: the page exists, or a run is named twice.
        CheckpointError: a folder is no finished run, or the page cannot be written.
    """
    if output.exists():
        raise ConfigError(f"{output} exists; choose another name with --output.")
    folders = [readable(workdir) for workdir in workdirs]
    if len({folder.resolve() for folder in folders}) < len(folders):
        raise ConfigError("a run is named twice; give each folder once.")
    runs = [_read(folder, str(name)) for folder, name in zip(folders, workdirs, strict=True)]
    parts = [_metrics(runs), _curves(runs)]
    if paired := _paired(runs):
        parts.append(paired)
    parts.append(_configs(runs))
    names = ", ".join(run.name for run in runs)
    write_text(output, render_page(f"{len(runs)} runs compared", names, parts))
    return output


def _read(folder: Path, name: str) -> Compared:
    return Compared(
        name=name,
        config=stored_config(folder),
        summary=read_summary(folder),
        history=read_history(folder),
        outcomes=read_outcomes(folder, read_json(folder / "model.json")["classes"]),
    )


def _metrics(runs: Sequence[Compared]) -> Section:
    body = Markup("")
    for split in ("test", "val"):
        own = [(run, run.summary["best"]["metrics"].get(split)) for run in runs]
        names = [name for name in _COMPARED if any(m and name in m for _, m in own)]
        rows: list[list[Any]] = []
        for run, m in own:
            values = [m.get(name) if m else None for name in names]
            rows.append([run.name, *values, run.summary["seconds"], run.summary["steps"]])
        if names:
            columns = ["run", *(f"{split} {name}" for name in names), "seconds", "steps"]
            body += table(columns, rows, sortable=True)
    return Section(title="Metrics", body=body)


def _curves(runs: Sequence[Compared]) -> Section:
    plots, items = Plots(None), []
    for name in ("loss", "accuracy"):
        lines = {
            f" {figures.shorten(run.name, 30)}": run.history.val[name]
            for run in runs
            if name in run.history.val
        }
        if lines:
            drawn = figures.curves(lines, f"val {name}")
            items.append(plots.draw(f"val_{name}", drawn, f"Validation {name} by step."))
    return Section(title="Learning", body=pictures(*items))


def _paired(runs: Sequence[Compared]) -> Section | None:
    """Each run against the first on the same examples."""
    from scipy.stats import binomtest

    first, *others = runs
    rows: list[list[Any]] = []
    for other in others:
        if not _same_examples(first.outcomes, other.outcomes):
            rows.append([other.name, "other examples", None, None, None])
            continue
        assert first.outcomes is not None
        assert other.outcomes is not None
        worse = int((first.outcomes.right & ~other.outcomes.right).sum())
        better = int((~first.outcomes.right & other.outcomes.right).sum())
        p = float(binomtest(better, better + worse).pvalue) if better + worse else 1.0
        rows.append([other.name, first.outcomes.split, better, worse, p])
    if all(row[2] is None for row in rows):
        return None
    text = (
        f"Against {first.name}, example by example; p is of McNemar's exact test, the chance of "
        "so uneven a difference between two equally good runs."
    )
    columns = ["run", "split", "only it right", "only the first right", "p"]
    return Section(title="Paired", body=paragraph(text) + table(columns, rows))


def _same_examples(a: Outcomes | None, b: Outcomes | None) -> bool:
    if a is None or b is None or a.split != b.split or a.classes != b.classes:
        return False
    return np.array_equal(a.examples, b.examples) and np.array_equal(a.truth, b.truth)


def _configs(runs: Sequence[Compared]) -> Section:
    first, *others = runs
    rows = [
        [run.name, line]
        for run in others
        for line in (difference(first.config, run.config) or ["the same"])
    ]
    text = f"What differs from {first.name}:"
    return Section(title="Configs", body=paragraph(text) + table(["run", "difference"], rows))
