"""The run that users hold: a finished run that writes its own report."""

import dataclasses
import functools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import ParamSpec

from jtl import experiment
from jtl.engine.views import ViewsName
from jtl.experiment.predict import Images, Prediction, unlabelled
from jtl.report.overlays import explained, make_folder
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
        page = write_report(self)
        self.store([page, *sorted((self.workdir / "plots").glob("*.png"))])
        return page

    def explain(
        self,
        images: Images,
        folder: str | Path,
        top: int = 1,
        *,
        batch_size: int | None = None,
        tta: ViewsName | None = None,
    ) -> list[Prediction]:
        """As `predict`, and writes a picture of each image: what spoke for its best class.

        Args:
            images: as for `predict`.
            folder: of the pictures, new or empty; `overlay` of a prediction names its own.
            top: as for `predict`.
            batch_size: likewise.
            tta: likewise; the picture is of the image alone.

        Raises:
            DataError: there is no image at all.
            ConfigError: the folder holds something, or cannot be written to.
        """
        return list(self.iter_explain(images, folder, top, batch_size=batch_size, tta=tta))

    def iter_explain(
        self,
        images: Images,
        folder: str | Path,
        top: int = 1,
        *,
        batch_size: int | None = None,
        tta: ViewsName | None = None,
    ) -> Iterator[Prediction]:
        """As `explain`, each prediction as soon as its picture is written."""
        source, missing = unlabelled(images)
        make_folder(Path(folder))
        yield from missing
        made = self._predict(source, top, batch_size, tta)
        yield from explained(self, made, self._reader(source), Path(folder))


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
