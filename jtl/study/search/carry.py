"""Trials carried out: by themselves, fold by fold, or many in one program."""

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from jtl.config import to_dict
from jtl.data.folds import FoldOptions
from jtl.experiment.options import Config
from jtl.study.search.folder import StudyFolder
from jtl.study.search.plan import Plan
from jtl.study.search.process import Process
from jtl.study.search.space import configure
from jtl.study.search.trial import Trial
from jtl.study.spread import spread_of

Report = Callable[[Trial], bool]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Carrier:
    """Carries trials out in a process of its own.

    Attributes:
        plan: of the study.
        folder: of the study.
        process: that trains.
        outer: the outer fold that all trials keep to, as `outer_source` takes it.
    """

    plan: Plan
    folder: StudyFolder
    process: Process
    outer: Mapping[str, Any] | None = None

    def config(self, trial: Trial) -> Config:
        """What a trial is a function of, but for its folds."""
        return configure(self.plan.base, trial.assignments)

    def refusal(self) -> str | None:
        """Why the defaults cannot be trained in one program with others; None where they can."""
        if not self.plan.together:
            return "as asked"
        own = self._together([self.config(Trial(number=-1, assignments={}))], ask=True)
        return str(own[0].get("refused") or own[0].get("reason") or "") or None

    def alone(self, trial: Trial, report: Report) -> Trial:
        """Trains a trial by itself, going on where it was, and says what became of it."""
        before, began = trial.seconds, time.monotonic()
        done: list[dict[str, Any]] = []
        self.folder.write(trial)

        def said(step: int, value: float) -> bool:
            nonlocal trial
            if self.plan.folds is not None:
                return False
            seconds = before + time.monotonic() - began
            trial = dataclasses.replace(trial.reported(step, value), seconds=seconds)
            self.folder.write(trial)
            return report(trial)

        for place, config in enumerate(self._folds(self.config(trial))):
            workdir = self._run_folder(trial, place)
            message = self.process.run(self._job("train", [config], workdir, ["val"]), said)
            trial = dataclasses.replace(trial, seconds=before + time.monotonic() - began)
            if message["kind"] == "ended":
                status, reason = message["status"], message["reason"]
                return dataclasses.replace(trial, status=status, reason=reason)
            done.append(message)
            if self.plan.folds is not None and place + 1 < self.plan.folds:
                values = [self._value(own) for own in done]
                trial = trial.reported(place + 1, sum(values) / len(values))
                self.folder.write(trial)
                if report(trial):
                    return dataclasses.replace(trial, status="pruned")
        return self._judged(trial, done)

    def together(self, trials: Sequence[Trial]) -> list[Trial]:
        """Trains what can be in one program; trials that cannot are given back as they are."""
        began = time.monotonic()
        for trial in trials:
            self.folder.write(trial)
        configs = [config for own in trials for config in self._folds(self.config(own))]
        results, folds = self._together(configs), self.plan.folds or 1
        share = (time.monotonic() - began) / max(len(trials), 1)
        found = []
        for place, trial in enumerate(trials):
            own = results[place * folds : (place + 1) * folds]
            if any("refused" in each for each in own):
                found.append(trial)
                continue
            trial = dataclasses.replace(trial, together=True, seconds=trial.seconds + share)
            failures = [each for each in own if "metrics" not in each]
            if failures:
                status = failures[0].get("status", "diverged")
                reason = failures[0].get("failure") or failures[0]["reason"]
                found.append(dataclasses.replace(trial, status=status, reason=reason))
            else:
                found.append(self._judged(trial, own))
        return found

    def held_out(self, trial: Trial) -> dict[str, Any]:
        """What a trial's parameters say of the test split; trains them where they are not kept."""
        single = self.plan.folds is None and not trial.together
        workdir = self._run_folder(trial, 0) if single else self.folder.of(trial) / "whole"
        job = self._job("train", [self.config(trial)], workdir, ["val", "test"])
        return self.process.run(job)

    def _together(self, configs: Sequence[Config], *, ask: bool = False) -> list[dict[str, Any]]:
        job = self._job("together", configs, self.folder.path, ["val"])
        message = self.process.run({**job, "ask": ask})
        return [message] * len(configs) if message["kind"] == "ended" else message["results"]

    def _folds(self, config: Config) -> list[Config]:
        if self.plan.folds is None:
            return [config]
        return [
            _with_fold(config, FoldOptions(count=self.plan.folds, index=index,
                                           seed=config.data.split.seed))
            for index in range(self.plan.folds)
        ]  # fmt: skip

    def _run_folder(self, trial: Trial, fold: int) -> Path:
        name = "run" if self.plan.folds is None else f"fold{fold}"
        return self.folder.of(trial) / name

    def _job(
        self, kind: str, configs: Sequence[Config], workdir: Path, splits: Sequence[str]
    ) -> dict[str, Any]:
        return {
            "kind": kind,
            "configs": [to_dict(config) for config in configs],
            "workdir": str(workdir),
            "outer": self.outer,
            "metric": self.plan.objective.metric,
            "splits": list(splits),
        }

    def _value(self, message: Mapping[str, Any]) -> float:
        return float(message["metrics"].get("val", {}).get(self.plan.objective.metric, "nan"))

    def _judged(self, trial: Trial, done: Sequence[Mapping[str, Any]]) -> Trial:
        metric = self.plan.objective.metric
        missing = [own for own in done if metric not in own["metrics"].get("val", {})]
        if missing:
            known = ", ".join(missing[0]["metrics"].get("val", {})) or "none, without validation"
            reason = f"--metric val/{metric} is never reported; those that are: {known}."
            return dataclasses.replace(trial, status="failed", reason=reason)
        values = [self._value(own) for own in done]
        names = set.intersection(*(set(own["metrics"]["val"]) for own in done))
        metrics = {name: sum(own["metrics"]["val"][name] for own in done) / len(done)
                   for name in done[0]["metrics"]["val"] if name in names}  # fmt: skip
        if len(values) > 1:
            spread = spread_of(values, 1 / (len(values) - 1))
            interval: Any = (spread.low, spread.high)
        else:
            interval = done[0].get("intervals", {}).get("val", {}).get(metric)
        mean = sum(values) / len(values)
        if not abs(mean) < float("inf"):
            reason = f"{metric} is {mean}"
            return dataclasses.replace(trial, status="diverged", reason=reason)
        return dataclasses.replace(
            trial,
            status="complete",
            value=mean,
            interval=None if interval is None else tuple(interval),
            metrics=metrics,
            by_fold=tuple(values),
        )


def _with_fold(config: Config, fold: FoldOptions) -> Config:
    split = dataclasses.replace(config.data.split, fold=fold)
    return dataclasses.replace(config, data=dataclasses.replace(config.data, split=split))
