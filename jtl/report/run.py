"""The run that users hold: a finished run that writes its own report."""

import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path
from typing import ParamSpec

from jtl import experiment
from jtl.report.write import write_report
from jtl.training.together import is_first

_Arguments = ParamSpec("_Arguments")


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Run(experiment.Run):
    """A finished run."""

    def report(self) -> Path:
        """Writes `report.html` and `plots/*.png` into the run's folder.

        Returns:
            The page, which needs no other file and makes no request.

        Raises:
            CheckpointError: a file of the run is damaged, or the folder cannot be written to.
        """
        return write_report(self)


def with_report(run: experiment.Run) -> Run:
    """The same run, able to write its report."""
    fields = (field.name for field in dataclasses.fields(experiment.Run))
    return Run(**{name: getattr(run, name) for name in fields})


def _reporting(
    make: Callable[_Arguments, experiment.Run], *, at_once: bool
) -> Callable[_Arguments, Run]:
    @functools.wraps(make)
    def wrapped(*args: _Arguments.args, **kwargs: _Arguments.kwargs) -> Run:
        run = with_report(make(*args, **kwargs))
        if at_once and is_first():
            run.report()
        return run

    return wrapped


load_run = _reporting(experiment.load_run, at_once=False)
finetune = _reporting(experiment.finetune, at_once=True)
