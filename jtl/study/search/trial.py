"""A trial: what was tried, how far it came, what it is worth; and the method that proposes it."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Any, Literal, Protocol

from jtl.engine.metrics import LOWER_IS_BETTER

Status = Literal["running", "complete", "pruned", "failed", "diverged", "out of memory"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Trial:
    """One trial of a study.

    Attributes:
        number: from 0, unique in the study.
        assignments: the values that it has in place of the config's own.
        status: what became of it.
        value: of the metric; None unless complete.
        interval: 95 % of that value, where it is known.
        metrics: of validation, means over folds.
        by_fold: the value of each fold; of a single split one.
        reports: the step and the metric of each validation so far; with folds, how many are
            done and their mean.
        seconds: that it took, over all starts.
        reason: why it has no value.
        together: whether it trained in one program with others.
        method: what the method must know of it again, fit for JSON.
    """

    number: int
    assignments: Mapping[str, Any]
    status: Status = "running"
    value: float | None = None
    interval: tuple[float, float] | None = None
    metrics: Mapping[str, float] = dataclasses.field(default_factory=dict)
    by_fold: tuple[float, ...] = ()
    reports: tuple[tuple[int, float], ...] = ()
    seconds: float = 0.0
    reason: str | None = None
    together: bool = False
    method: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """As JSON holds it."""
        return json.loads(json.dumps(dataclasses.asdict(self)))

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> "Trial":
        """The inverse of `to_dict`."""
        interval, reports = record["interval"], record["reports"]
        lists = {
            "interval": None if interval is None else tuple(interval),
            "by_fold": tuple(record["by_fold"]),
            "reports": tuple((step, value) for step, value in reports),
        }
        return cls(**{**record, **lists})

    def reported(self, step: int, value: float) -> "Trial":
        """The trial with one report more; those of later steps, before a crash, give way."""
        kept = tuple(own for own in self.reports if own[0] < step)
        return dataclasses.replace(self, reports=(*kept, (step, value)))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Objective:
    """The metric of the validation split that a search is for.

    Attributes:
        metric: such as `accuracy`.
    """

    metric: str

    @property
    def maximize(self) -> bool:
        """Whether more is better."""
        return self.metric not in LOWER_IS_BETTER

    def loss(self, value: float) -> float:
        """The value with the sign by which less is better."""
        return -value if self.maximize else value

    def best(self, trials: Sequence[Trial]) -> list[Trial]:
        """The complete trials, best first; of equals the earliest."""
        complete = [trial for trial in trials if trial.status == "complete"]
        return sorted(complete, key=lambda own: (self.loss(own.value or 0.0), own.number))


class Method(Protocol):
    """What proposes trials.

    A study asks under a lock, one worker at a time, and tells each trial's end once or more
    often: after a crash the last one may be told again.
    """

    size: int | None
    """How many trials there are in all; None without end."""
    learns: bool
    """Whether what it proposes depends on trials that have ended."""

    def ask(self, known: Sequence[Trial], count: int) -> list[Trial]:
        """New trials, none when there are no more; beside them, its own that were never begun.

        Args:
            known: every trial so far, running ones too.
            count: how many are wanted.
        """
        ...

    def known(self, own: Sequence[Trial]) -> list[Trial]:
        """Every trial of the study, those of other machines too.

        Args:
            own: the trials in this study's folder.
        """
        ...

    def report(self, trial: Trial, known: Sequence[Trial]) -> bool:
        """Takes a trial's latest report; whether it should end here.

        Args:
            trial: with its reports.
            known: every other trial.
        """
        ...

    def tell(self, trial: Trial) -> None:
        """Takes a trial that has ended."""
        ...
