"""What the terminal shows of a finished run: headline figures, the temperature, where all lies."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console

from jtl.cli.figures import headline_table


def show_result(
    console: Console, workdir: str | Path, summary: Mapping[str, Any], report: Path | None = None
) -> None:
    """Prints the headline figures of a finished run, where the rest lies, and what to do next.

    Args:
        console: to print to.
        workdir: the run's folder or address.
        summary: what its `summary.json` holds.
        report: its page, if it was written.
    """
    same = summary["best"]["step"] == summary["final"]["step"]
    shown = {
        f"{which}, step {summary[which]['step']}": summary[which]
        for which in (("best",) if same else ("best", "final"))
    }
    splits = summary["best"]["metrics"]
    split = next((name for name in ("test", "val") if name in splits), None)
    if split is not None:
        console.print(headline_table(shown, split))
        console.print(_temperature(summary["best"].get("calibration", {}), split))
    console.print(f"{summary['steps']} steps in {summary['seconds']:.0f} s; all in {workdir}")
    if report is not None:
        console.print(f"report   {report}")
    console.print(f"next     jtl evaluate {workdir}")
    console.print(f"         jtl predict {workdir} IMAGE.png")


def _temperature(record: Mapping[str, Any], split: str) -> str:
    if note := record.get("note"):
        return f"temperature {record['temperature']:.3f}: {note}"
    before, after = (record.get(when, {}).get(split, {}) for when in ("before", "after"))
    changes = ", ".join(f"{name} {before[name]:.4f} to {after[name]:.4f}" for name in before)
    return f"temperature {record['temperature']:.3f}, of validation, changes {split} {changes}"
