"""What a report says of a run, a section each."""

import shlex
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from markupsafe import Markup

from jtl.experiment.assemble import Examples
from jtl.experiment.run import Run
from jtl.report.history import History
from jtl.report.outcomes import Outcomes
from jtl.report.page import Section, Thumb, Tile, block, folded, heading, paragraph, table, thumbs
from jtl.training.files import read_json
from jtl.training.measure.tally import HEADLINES
from jtl.weights.ledger import Ledger

_LISTED = 200  # rows of a ledger's list


def tiles(summary: Mapping[str, Any]) -> list[Tile]:
    """The headline figures of the split that nothing was chosen by, if there is one."""
    metrics = summary["best"]["metrics"]
    split = next((name for name in ("test", "val") if name in metrics), None)
    items = []
    if split is not None:
        bounds = summary["best"].get("intervals", {}).get(split, {})
        for name in HEADLINES:
            if name in metrics[split]:
                detail = f"{split}, {summary['examples'].get(split, 0):,} examples"
                if name in bounds:
                    low, high = bounds[name][:2]
                    detail = f"95 %: {low:.4f} to {high:.4f}, {split}"
                items.append(Tile(name=name, value=f"{metrics[split][name]:.4f}", detail=detail))
    items.append(
        Tile(
            name="training",
            value=f"{summary['seconds']:,.0f} s",
            detail=f"{summary['steps']:,} steps, {summary['epochs']:.1f} epochs",
        )
    )
    return items


def metrics(summary: Mapping[str, Any]) -> Section:
    """The headline figures with their intervals, the temperature, and every metric there is."""
    columns: dict[str, Mapping[str, float]] = {}
    for which in ("best", "final"):
        if which == "final" and summary["final"]["step"] == summary["best"]["step"]:
            continue
        for split, own in summary[which]["metrics"].items():
            columns[f"{split}, {which}"] = own
    names = list(dict.fromkeys(name for own in columns.values() for name in own))
    rows = [[name, *(_number(own.get(name)) for own in columns.values())] for name in names]
    text = (
        f"Best: step {summary['best']['step']}, by {summary['monitor'] or 'loss'} on validation. "
        f"Final: step {summary['final']['step']}."
    )
    body = paragraph(text) + _headlines(summary["best"]) + _calibration(summary["best"])
    body += folded("Every metric of both", table(["metric", *columns], rows))
    return Section(title="Metrics", body=body)


def _headlines(best: Mapping[str, Any]) -> Markup:
    splits = list(best["metrics"])[::-1]  # the test split first
    names = [name for name in HEADLINES if any(name in best["metrics"][own] for own in splits)]
    rows: list[list[Any]] = []
    for name in names:
        row: list[Any] = [name]
        for split in splits:
            bounds = best.get("intervals", {}).get(split, {}).get(name)
            row.append(_number(best["metrics"][split].get(name)))
            row.append(f"{bounds[0]:.4f} to {bounds[1]:.4f}" if bounds else "")
        rows.append(row)
    heads = [head for split in splits for head in (split, f"95 % interval of {split}")]
    return table(["metric", *heads], rows) if rows else Markup("")


def _calibration(best: Mapping[str, Any]) -> Markup:
    """What a temperature changes; predictions and exports have it applied."""
    own = best.get("calibration")
    if not own or not own.get("before"):
        return Markup("")
    text = f"Temperature {own['temperature']:.3f}, fitted on validation"
    if note := own.get("note"):
        return paragraph(f"{text}: {note}.")
    split = "test" if "test" in own["before"] else "val"
    before, after = own["before"][split], own["after"][split]
    changes = ", ".join(f"{name} {before[name]:.4f} to {after[name]:.4f}" for name in before)
    return paragraph(
        f"{text}, changes {split} {changes}. jtl predict and exports apply it; the figures above "
        "are without it."
    )


def per_class(outcomes: Outcomes, thresholds: Sequence[float] | None = None) -> Markup:
    """Precision, recall and F1 of each class, which sorts by any of them.

    Args:
        outcomes: of the run.
        thresholds: from which on each class is predicted, where images may have several.
    """
    truth, given, width = outcomes.truth, outcomes.given, len(outcomes.classes)
    hits = (truth & given).sum(0)
    precision = hits / np.maximum(given.sum(0), 1)
    recall = hits / np.maximum(truth.sum(0), 1)
    f1 = 2 * hits / np.maximum(truth.sum(0) + given.sum(0), 1)
    rows = []
    for k in range(width):
        row: list[Any] = [outcomes.classes[k], int(truth[:, k].sum()), float(precision[k])]
        row += [float(recall[k]), float(f1[k])]
        if outcomes.single:
            row.append(_taken_for(outcomes, k))
        if thresholds is not None:
            row.append(float(thresholds[k]))
        rows.append(row)
    columns = ["class", "examples", "precision", "recall", "F1"]
    columns += ["mostly taken for"] if outcomes.single else []
    columns += ["threshold"] if thresholds is not None else []
    return table(columns, rows, sortable=True)


def _taken_for(outcomes: Outcomes, k: int) -> str:
    own = np.bincount(outcomes.predicted[outcomes.labels == k], minlength=len(outcomes.classes))
    own[k] = 0
    return f"{outcomes.classes[own.argmax()]} ({own.max()})" if own.max() else ""


def gallery(outcomes: Outcomes, mistakes: list[Thumb], hits: list[Thumb]) -> Section:
    """Where the network was wrong and sure of it, and right and not."""
    wrong = int((~outcomes.right).sum())
    text = f"{wrong:,} of {len(outcomes.right):,} {outcomes.split} examples are wrong."
    body = paragraph(text) + heading("Most confident mistakes") + thumbs(mistakes)
    if not mistakes:
        body = paragraph(text)
    body += heading("Least confident hits") + thumbs(hits)
    note = "Beside each image: Grad-CAM of the predicted class; yellow spoke for it most."
    return Section(title="Mistakes", body=body + paragraph(note, note=True))


def frozen(run: Run) -> Section:
    """What each phase froze, and what the audit found."""
    options = run.config.train.phases
    rows = []
    for number, phase in enumerate(options, 1):
        freeze = phase.freeze if isinstance(phase.freeze, str) else ", ".join(phase.freeze)
        length = f"{phase.epochs or 5:g} epochs"
        if phase.steps is not None:
            length = f"{phase.steps} steps"
        elif phase.percent is not None:
            length = f"{phase.percent:g} %"
        rate = f"{phase.schedule.rate:g}, {phase.schedule.kind}"
        unfreeze = "step by step" if phase.unfreeze else ""
        rows.append([str(number), freeze or "none", unfreeze, length, phase.optimizer.name, rate])
    columns = ["phase", "frozen", "thawed", "length", "optimizer", "rate"]
    audit = run.summary.get("frozen_audit")
    text = "This run kept no audit."
    if audit:
        same = "equal" if audit["before"] == audit["after"] else "NOT equal"
        text = (
            f"Frozen through all phases: {audit['parameters']:,} parameters and "
            f"{audit['statistics']:,} running statistics. Their bits before and after training "
            f"are {same} (SHA-256 {audit['after'][:16]}…)."
        )
    return Section(title="Frozen", body=table(columns, rows) + paragraph(text))


def ledger(run: Run) -> Section:
    """Where the weights came from, and every leaf that is not as it was in the file."""
    path = run.workdir / "ledger.json"
    if not path.is_file():
        return Section(title="Weights", body=paragraph("This run kept no ledger."))
    own = Ledger.from_json(path.read_text("utf-8"))
    notes = "; ".join(own.notes)
    body = paragraph(own.summary()) + (paragraph(f"Decided: {notes}.", note=True) if notes else "")
    other = [row for row in own.rows if row.status != "loaded"]
    rows = [
        [row.destination or row.source or "", row.status, row.reason] for row in other[:_LISTED]
    ]
    if rows:
        listed = table(["tensor", "status", "reason"], rows)
        body += folded(f"{len(other)} tensors that were not loaded as they are", listed)
    return Section(title="Weights", body=body)


def data(run: Run, examples: Examples | None, drawing: Markup, note: str) -> Section:
    """Where the examples came from, and how many each class has."""
    record = read_json(run.workdir / "data.json")
    rows = [[name, str(value)] for name, value in record["provenance"].items()]
    rows += [["fingerprint", record["fingerprint"]]]
    sizes = run.summary["examples"].items()
    rows += [[f"{split} examples", f"{count:,}"] for split, count in sizes]
    unreadable = run.summary.get("data", {}).get("unreadable", {})
    if unreadable.get("count"):
        named = ", ".join(map(str, unreadable["examples"][:10]))
        rows.append(["left out as unreadable", f"{unreadable['count']:,}: {named}"])
    body = drawing if examples is not None else paragraph(note, note=True)
    return Section(title="Data", body=body + table(["data", ""], rows))


def speed(summary: Mapping[str, Any], history: History, drawing: Markup) -> Section:
    """Throughput, and how long steps waited for batches."""
    waited = summary.get("data", {}).get("waited")
    seconds = summary["seconds"]
    text = f"{summary['steps']:,} steps in {seconds:,.1f} s."
    if waited is not None:
        share = waited / max(seconds, 1e-9)
        text += f" Of these, {waited:,.1f} s ({share:.1%}) were spent waiting for batches."
    rates = history.train.get("images_per_second")
    if rates is not None and rates.values:
        text += f" Median throughput {np.median(rates.values):,.0f} images/s."
    return Section(title="Speed", body=paragraph(text) + drawing)


def again(run: Run) -> Section:
    """What the run depended on, and the command that repeats it."""
    environment = read_json(run.workdir / "environment.json")
    versions = ", ".join(f"{n} {v}" for n, v in environment.get("versions", {}).items() if v)
    devices = environment.get("devices", [])
    kinds = ", ".join(f"{devices.count(kind)} × {kind}" for kind in dict.fromkeys(devices))
    rows = [
        ["command", environment.get("command", "")],
        ["seed", str(run.config.seed)],
        ["Python", environment.get("python", "")],
        ["platform", environment.get("platform", "")],
        ["devices", f"{kinds}; {environment.get('cores')} cores"],
        ["versions", versions],
    ]
    config = shlex.quote(str(run.workdir / "config.yaml"))
    again = shlex.quote(f"{run.kept}-again")
    body = block(f"jtl train {config} --workdir {again}")
    if run.config.data.source == "arrays":
        body = paragraph("The examples were given in memory: give the same to jtl.finetune again.")
    text = (run.workdir / "config.yaml").read_text("utf-8")
    body += table(["environment", ""], rows) + folded("The whole config", block(text))
    return Section(title="Repeat", body=body)


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) else None
