"""Trackers outside of a run's folder: Weights & Biases and MLflow, each behind an extra."""

import dataclasses
import logging
import os
import time
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

from jtl.errors import ConfigError
from jtl.training.events import Ended, Evaluated, Event, Pictured, Stepped
from jtl.training.files import read_json, write_json

TrackerName = Literal["wandb", "mlflow"]
_PROJECT = "jtl"  # or experiment, unless the library's own environment variable names one
_KEPT = "trackers.json"  # under which identifiers a resumed run goes on


@dataclasses.dataclass(frozen=True, kw_only=True)
class About:
    """What trackers are told of a run.

    Attributes:
        trackers: which there are.
        name: of the run.
        options: of the run, by dotted key.
    """

    trackers: Sequence[TrackerName]
    name: str
    options: Mapping[str, Any]


def check_trackers(names: Sequence[TrackerName]) -> None:
    """Refuses trackers whose library is not here.

    Raises:
        ConfigError: which are missing, and how to install them.
    """
    missing = [name for name in names if find_spec(name) is None]
    if missing:
        raise ConfigError(
            f"train.log_to: {' and '.join(missing)} cannot be imported; "
            f"pip install 'jtl[{','.join(missing)}]', or leave it out."
        )


def open_trackers(workdir: Path, about: About | None) -> tuple["Tracker", ...]:
    """The trackers of a run; one that it was told to before goes on.

    Args:
        workdir: the run's folder, which keeps their identifiers.
        about: the run, and which trackers; None for none.
    """
    if about is None:
        return ()
    return tuple(Tracker(name, _MAKERS[name], workdir, about) for name in about.trackers)


class Tracker:
    """Listens to a run and passes on what it hears, until the tracker fails.

    A run is worth more than its record elsewhere: what a tracker raises is logged once, and the
    tracker is told no more.

    Attributes:
        failed: whether the run ended with an error, which `close` tells.
    """

    def __init__(
        self, name: TrackerName, make: Callable[..., "_Service"], workdir: Path, about: About
    ) -> None:
        self.failed = False
        self._name, self._service = name, None
        path = workdir / _KEPT
        known = read_json(path) if path.exists() else {}

        def begin() -> None:
            self._service = make(workdir, about, known.get(name))
            write_json(path, {**known, name: self._service.identifier})

        self._try(begin)

    def __call__(self, event: Event) -> None:
        """Passes on the numbers and pictures of an event."""
        service = self._service
        if service is None:
            return
        if isinstance(event, Stepped | Evaluated):
            prefix = "train" if isinstance(event, Stepped) else event.split
            numbers = {f"{prefix}/{name}": value for name, value in event.metrics.items()}
            if isinstance(event, Stepped):
                numbers["train/images_per_second"] = event.images_per_second
            self._try(lambda: service.numbers(numbers, event.step))
        elif isinstance(event, Pictured):
            self._try(lambda: service.picture(event))
        elif isinstance(event, Ended):
            self._try(lambda: service.result(_results(event.summary)))

    def close(self) -> None:
        """Ends the tracker's own run."""
        service = self._service
        if service is not None:
            self._try(lambda: service.close(failed=self.failed))

    def _try(self, act: Callable[[], None]) -> None:
        try:
            act()
        except Exception as error:
            self._service = None
            logging.getLogger("jtl").warning("%s is told no more: %s", self._name, error)


def _results(summary: Mapping[str, Any]) -> dict[str, float]:
    """The metrics of the best parameters, by `best/SPLIT/METRIC`."""
    return {
        f"best/{split}/{name}": value
        for split, own in summary["best"]["metrics"].items()
        for name, value in own.items()
    }


class _Wandb:
    """A run of Weights & Biases; `WANDB_MODE`, `WANDB_PROJECT` and the others are its own."""

    def __init__(self, workdir: Path, about: About, identifier: str | None) -> None:
        import wandb

        self._library = wandb
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", _PROJECT),
            name=about.name,
            config=dict(about.options),
            dir=str(workdir),
            id=identifier,
            resume="allow",
        )
        # Its own count of steps takes none again, which a resumed run may have to tell again.
        self._run.define_metric("*", step_metric="step")
        self.identifier: str = self._run.id

    def numbers(self, values: Mapping[str, float], step: int) -> None:
        self._run.log({**values, "step": step})

    def picture(self, event: Pictured) -> None:
        self._run.log({event.name: self._library.Image(event.image), "step": event.step})

    def result(self, values: Mapping[str, float]) -> None:
        self._run.summary.update(dict(values))

    def close(self, *, failed: bool) -> None:
        self._run.finish(exit_code=int(failed))


class _Mlflow:
    """A run of MLflow; `MLFLOW_TRACKING_URI` and `MLFLOW_EXPERIMENT_NAME` say where."""

    _LONGEST = 500  # characters of a parameter, MLflow's own limit being higher
    _AT_ONCE = 100  # parameters

    def __init__(self, workdir: Path, about: About, identifier: str | None) -> None:
        del workdir
        import mlflow
        from mlflow import entities

        self._entities, self._client = entities, mlflow.MlflowClient()
        if identifier is None:
            run = self._client.create_run(self._experiment(), run_name=about.name)
            identifier = run.info.run_id
            self._describe(identifier, about.options)
        else:
            self._client.update_run(identifier, status="RUNNING")
        self.identifier: str = identifier

    def numbers(self, values: Mapping[str, float], step: int) -> None:
        now = int(time.time() * 1000)
        metrics = [self._entities.Metric(name, own, now, step) for name, own in values.items()]
        self._client.log_batch(self.identifier, metrics=metrics)

    def picture(self, event: Pictured) -> None:
        path = f"{event.name}/{event.step:08}.png"
        self._client.log_image(self.identifier, event.image, path)

    def result(self, values: Mapping[str, float]) -> None:
        self.numbers(values, 0)

    def close(self, *, failed: bool) -> None:
        self._client.set_terminated(self.identifier, "FAILED" if failed else "FINISHED")

    def _experiment(self) -> str:
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", _PROJECT)
        known = self._client.get_experiment_by_name(name)
        return known.experiment_id if known else self._client.create_experiment(name)

    def _describe(self, identifier: str, options: Mapping[str, Any]) -> None:
        params = [
            self._entities.Param(name, str(value)[: self._LONGEST])
            for name, value in options.items()
        ]
        for start in range(0, len(params), self._AT_ONCE):
            self._client.log_batch(identifier, params=params[start : start + self._AT_ONCE])


_Service = _Wandb | _Mlflow
_MAKERS: dict[str, Callable[..., Any]] = {"wandb": _Wandb, "mlflow": _Mlflow}
