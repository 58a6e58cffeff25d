"""What a search found: the best trials with intervals, the winner on held-out data, the files."""

import csv
import dataclasses
import io
import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jtl.config import to_yaml
from jtl.experiment.options import Config
from jtl.study.search.plan import Plan
from jtl.study.search.trial import Trial
from jtl.study.spread import Spread
from jtl.training.files import write_json, write_text

_COLUMNS = ("number", "status", "value", "low", "high", "seconds", "together", "reason")


@dataclasses.dataclass(frozen=True, kw_only=True)
class HeldOut:
    """What parameters are worth on the test split.

    Attributes:
        value: of the metric.
        interval: 95 % of it, where it is known.
        metrics: all of them.
    """

    value: float
    interval: tuple[float, ...] | None
    metrics: Mapping[str, float]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Result:
    """A study as it stands.

    Attributes:
        plan: what it is of.
        folder: where it lies.
        trials: all of them, other machines' too.
        defaults: the config as it is, measured like a trial.
        winner: the best of the trials and the defaults; of equals a trial.
        config: the winner's.
        held_out: the winner on the test split; None without one.
        defaults_held_out: the defaults on it.
        nested: over outer folds, what the winners of searches of this kind are worth.
        elsewhere: the numbers of trials that other machines keep.
    """

    plan: Plan
    folder: Path
    trials: tuple[Trial, ...]
    defaults: Trial
    winner: Trial
    config: Config
    held_out: HeldOut | None
    defaults_held_out: HeldOut | None
    nested: Spread | None
    elsewhere: tuple[int, ...] = ()

    @property
    def best(self) -> list[Trial]:
        """The complete trials, best first."""
        return self.plan.objective.best(self.trials)

    def values(self, trial: Trial) -> list[Any]:
        """What a trial sets each parameter of the space to; the defaults' own are the config's.

        None stands for a parameter that is out of use.
        """
        names = self.plan.space.parameters
        if trial.number >= 0:
            return [trial.assignments.get(name) for name in names]
        return [_of_config(self.plan.base, name) for name in names]

    @property
    def compared(self) -> int:
        """How many the winner is the best of: complete trials, and the defaults."""
        return len(self.best) + (self.defaults.status == "complete")

    @property
    def counts(self) -> dict[str, int]:
        """How many trials have each status."""
        return dict(Counter(own.status for own in self.trials))


def _of_config(base: Any, name: str) -> Any:
    node = base
    for part in name.split("."):
        if node is None:
            break
        node = node[int(part)] if isinstance(node, list | tuple) else node[part]
    return node


def write_result(result: Result) -> None:
    """Writes `study.json`, `trials.csv` and `best.yaml` into the study's folder.

    Raises:
        CheckpointError: the folder cannot be written to.
    """
    write_json(result.folder / "study.json", _record(result))
    write_text(result.folder / "trials.csv", _table(result))
    said = f"# {result.plan.metric} {result.winner.value:.4f} in {result.folder.name}, "
    which = "the defaults" if result.winner.number < 0 else f"trial {result.winner.number}"
    write_text(result.folder / "best.yaml", f"{said}{which}\n{to_yaml(result.config)}")


def _record(result: Result) -> dict[str, Any]:
    plan = result.plan
    return {
        "name": plan.config.name,
        "method": plan.method,
        "metric": plan.metric,
        "folds": plan.folds,
        "sampler": plan.sampler,
        "pruner": plan.pruner,
        "counts": result.counts,
        "winner": None if result.winner.number < 0 else result.winner.number,
        "assignments": dict(result.winner.assignments),
        "validation": {
            "value": result.winner.value,
            "interval": result.winner.interval,
            "note": f"the best of {result.compared}, and so optimistic",
        },
        "held_out": _held_out(result.held_out),
        "defaults": {
            "value": result.defaults.value,
            "interval": result.defaults.interval,
            "held_out": _held_out(result.defaults_held_out),
        },
        "nested": None if result.nested is None else result.nested.to_dict(),
        "space": plan.space.to_dict(),
        "trials": [trial.to_dict() for trial in result.trials],
    }


def _held_out(found: HeldOut | None) -> dict[str, Any] | None:
    return None if found is None else json.loads(json.dumps(dataclasses.asdict(found)))


def _table(result: Result) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    names = list(result.plan.space.parameters)
    writer.writerow([*_COLUMNS, *names])
    for trial in result.trials:
        low, high = trial.interval or (None, None)
        row = [trial.number, trial.status, trial.value, low, high, f"{trial.seconds:.3f}",
               trial.together, trial.reason]  # fmt: skip
        values = [json.dumps(trial.assignments[name]) if name in trial.assignments else ""
                  for name in names]  # fmt: skip
        writer.writerow([*row, *values])
    return text.getvalue()
