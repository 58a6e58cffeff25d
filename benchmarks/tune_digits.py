"""Does a search pay? Five digits a class: four methods over one space, beside the defaults.

Run it with `python -m benchmarks.tune_digits`. Each method searches the same space of the recipe
`digits_fewshot` by the validation images; what it found, and the defaults, are then judged by the
360 test images, at which no trial looked.
"""

import dataclasses
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks import record
from jtl.experiment.options import read_config
from jtl.study.search.plan import Plan
from jtl.study.search.result import HeldOut
from jtl.study.search.search import search
from jtl.study.search.space import read_space

SPACE = """
model.head: {kind: choice, options: [init, match]}
train.phases.1.schedule.rate: {kind: log_uniform, low: 1e-3, high: 1e-2, steps: 3}
train.loss.label_smoothing: {kind: choice, options: [0.1, 0.2]}
"""
METHODS = ("grid", "random", "optuna", "hyperopt")
TRIALS = 12  # as the grid has points
SHORT = ("train.phases.0.epochs=1", "train.phases.1.epochs=1")


def main() -> None:
    """Searches with every method, prints the table and writes the JSON."""
    arguments = record.parser(__doc__).parse_args()
    rows = []
    for method in METHODS[:1] if arguments.smoke else METHODS:
        rows.append(_row(method, smoke=arguments.smoke))
        own = rows[-1]
        print(
            f"{method:9} val {own['validation']['value']:.3f}  test {_text(own['test'])}  "
            f"defaults {_text(own['defaults_test'])}  {own['minutes']:.1f} min",
            flush=True,
        )
    print(record.write(arguments.results, "tune_digits", rows, space=SPACE.strip()))


def _row(method: Any, *, smoke: bool) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "space.yaml"
        path.write_text(SPACE)
        plan = Plan(
            config=read_config("digits_fewshot", SHORT if smoke else ()),
            space=read_space(path),
            method=method,
            trials=2 if smoke else TRIALS,
        )
        began = time.monotonic()
        found = search(plan, Path(folder) / "study")
    assert found.held_out is not None
    assert found.defaults_held_out is not None
    return {
        "method": method,
        "trials": len(found.trials),
        "winner": dict(found.winner.assignments),
        "validation": {"value": found.winner.value, "interval": found.winner.interval},
        "defaults_validation": found.defaults.value,
        "test": _plain(found.held_out),
        "defaults_test": _plain(found.defaults_held_out),
        "minutes": (time.monotonic() - began) / 60,
    }


def _plain(found: HeldOut) -> dict[str, Any]:
    own = dataclasses.asdict(found)
    return {"value": own["value"], "interval": own["interval"]}


def _text(found: dict[str, Any]) -> str:
    low, high = found["interval"]
    return f"{found['value']:.3f} ({low:.3f} to {high:.3f})"


if __name__ == "__main__":
    main()
