"""The check itself: a run that is left alone, the same killed and resumed, and what differs."""

import contextlib
import dataclasses
import itertools
import json
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from jtl.config import to_yaml
from jtl.errors import CheckpointError, ConfigError
from jtl.experiment.options import Config
from jtl.study.verify.compare import compare_examples, compare_records, compare_summaries
from jtl.study.verify.start import CONFIG, RUN, STEPS
from jtl.study.verify.state import Saved
from jtl.training.options import PhaseOptions
from jtl.training.storage import refuse_address

Tell = Callable[[str], None]

START = (sys.executable, "-m", "jtl.study.verify.start")
_SAVES = 8  # of which a killed run loses what comes after the last
_LOOK = 0.002  # seconds between two looks at what a run has come to
_SAID = "said.txt"


def _silent(line: str) -> None:
    del line


@dataclasses.dataclass(frozen=True, kw_only=True)
class Verdict:
    """What came of a check.

    Attributes:
        differences: the first of each kind (examples, leaves, records, summary); none is a pass.
        kills: how many starts were killed while they trained.
        steps: of the run.
        leaves: of the last checkpoint's state that were compared.
        numbers: in all of these leaves.
        folder: where both runs stand, if they differ; else they are gone.
    """

    differences: tuple[str, ...]
    kills: int
    steps: int
    leaves: int
    numbers: int
    folder: Path | None


def shortened(config: Config, steps: int) -> Config:
    """The config with phases that take so many steps in all, a record of each, and many saves.

    Args:
        config: of the run that is to be trusted.
        steps: of all phases together; each has one at least.
    """
    train = config.train
    share = max(1, steps // len(train.phases))

    def cut(phase: PhaseOptions) -> PhaseOptions:
        length = min(share, phase.steps or share)
        return dataclasses.replace(phase, epochs=None, percent=None, steps=length)

    every = max(1, share * len(train.phases) // _SAVES)
    changed = dataclasses.replace(
        train,
        phases=tuple(cut(phase) for phase in train.phases),
        log_every=1,
        max_seconds=None,
        checkpoint=dataclasses.replace(
            train.checkpoint, every=min(every, train.checkpoint.every or every)
        ),
    )
    return dataclasses.replace(config, train=changed)


def verify_resume(
    config: Config,
    *,
    kills: int = 3,
    steps: int = 40,
    folder: Path | None = None,
    tell: Tell = _silent,
    show: Tell = _silent,
    start: Sequence[str] = START,
) -> Verdict:
    """Trains a short run, then the same with kills at random times, and compares both.

    Every start is a process of its own, and every kill a SIGKILL at a random time between the
    first step and the last, which the run that was left alone shows.

    Args:
        config: of the run; its phases are cut short.
        kills: how many starts of the second run are killed.
        steps: of the run.
        folder: where a folder for both runs is made; the system's for temporary files by
            default. It is removed where nothing differs.
        tell: hears a line for each thing that is done.
        show: hears, again and again, what is being done.
        start: the command that begins or goes on with a run; it is given a folder.

    Raises:
        ConfigError: the numbers make no sense, or the config cannot be carried out.
        CheckpointError: a start failed by itself.
    """
    if kills < 1 or steps < 2:
        raise ConfigError(f"kills={kills}, steps={steps}: give at least 1 kill and 2 steps.")
    config = shortened(config, steps)
    refuse_address(folder)
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix="jtl-verify-resume-", dir=folder)).absolute()
    runs = [_Run(work / name, start, tell, show) for name in ("reference", "killed")]
    kept = None
    try:
        for run in runs:
            run.make(config)
        times = runs[0].complete()
        killed = _kill(runs[1], times, kills)
        runs[1].complete()
        verdict = _compare(config, runs, killed, len(times))
        kept = work if verdict.differences else None
        return dataclasses.replace(verdict, folder=kept)
    finally:
        if kept is None:
            shutil.rmtree(work, ignore_errors=True)


def _kill(run: "_Run", times: Sequence[float], kills: int) -> int:
    moments = sorted(_moments(times, kills))
    return sum(run.kill(number, *moment) for number, moment in enumerate(moments, 1))


def _moments(times: Sequence[float], count: int) -> Iterator[tuple[int, float]]:
    """Steps, and seconds after each was taken: half of them even in time, half even in steps.

    Those even in time meet compilation and evaluation, which take long, the others plain steps.
    """
    for number in range(count):
        if number % 2:
            moment = random.uniform(times[0], times[-1])
            step = sum(time <= moment for time in times)
            yield step, moment - times[step - 1]
        else:
            step = random.randrange(1, len(times))
            yield step, random.uniform(0, times[step] - times[step - 1])


def _compare(config: Config, runs: Sequence["_Run"], kills: int, steps: int) -> Verdict:
    reference, other = (run.folder for run in runs)
    saved = Saved(config, reference / RUN)
    kinds = (
        compare_examples(reference, other),
        saved.compare(reference / RUN, other / RUN),
        compare_records(reference, other),
        compare_summaries(reference, other),
    )
    return Verdict(
        differences=tuple(line for kind in kinds for line in itertools.islice(kind, 1)),
        kills=kills,
        steps=steps,
        leaves=saved.leaves,
        numbers=saved.numbers,
        folder=None,
    )


class _Run:
    """A run that is started again and again, each time in a process of its own."""

    def __init__(self, folder: Path, start: Sequence[str], tell: Tell, show: Tell) -> None:
        self.folder = folder
        self._command, self._tell, self._show = [*start, str(folder)], tell, show

    def make(self, config: Config) -> None:
        self.folder.mkdir()
        (self.folder / CONFIG).write_text(to_yaml(config), encoding="utf-8")

    def complete(self) -> list[float]:
        """Trains to the end; when each step of this start was taken, in seconds."""
        with self._started() as process:
            while process.poll() is None:
                self._show(f"{self.folder.name} run, step {self._last()}")
                time.sleep(50 * _LOOK)
        self._check(process.returncode)
        self._tell(f"{self.folder.name} run complete at step {self._last()}")
        return [float(record["time"]) for record in self._steps()]

    def kill(self, number: int, step: int, rest: float) -> bool:
        """Kills a start so many seconds after it has taken a step, or as the next one begins."""
        with self._started() as process:
            since = None
            while process.poll() is None:
                taken = self._last()
                self._show(f"{self.folder.name} run, step {taken}, to be killed at step {step}")
                if taken >= step:
                    since = since or time.monotonic()
                    if taken > step or time.monotonic() - since >= rest:
                        process.kill()
                        process.wait()
                time.sleep(_LOOK)
        if process.returncode == 0:
            self._tell(f"kill {number} came late: the run was complete")
            return False
        if process.returncode != -9:
            self._check(process.returncode)
        self._tell(f"kill {number} while step {self._last()} was under way")
        return True

    def _last(self) -> int:
        """The step that this start has taken last, 0 before the first."""
        steps = self._steps()
        return int(steps[-1]["step"]) if steps else 0

    def _steps(self) -> list[dict[str, Any]]:
        path = self.folder / STEPS
        if not path.exists():
            return []
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
        return [json.loads(line) for line in lines if line.endswith("\n")]

    @contextlib.contextmanager
    def _started(self) -> Any:
        (self.folder / STEPS).unlink(missing_ok=True)
        with (self.folder / _SAID).open("w", encoding="utf-8") as said:
            process = subprocess.Popen(
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=said,
                # An interrupt on the terminal is for this process, which then ends that one.
                start_new_session=True,
            )
        try:
            yield process
        finally:
            process.kill()
            process.wait()

    def _check(self, status: int) -> None:
        if status == 0:
            return
        lines = (self.folder / _SAID).read_text(encoding="utf-8").strip().splitlines()
        said = lines[-1].removeprefix("jtl: ") if lines else "it said nothing"
        raise CheckpointError(f"a start of the {self.folder.name} run ended with {status}: {said}")
