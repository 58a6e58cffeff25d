"""A study's folder: what it is of, a record a trial, and locks that die with their owner."""

import contextlib
import dataclasses
import fcntl
import json
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TextIO

from jtl.errors import CheckpointError, ConfigError
from jtl.study.search.trial import Trial
from jtl.training.files import read_json, write_json

_PLAN = "plan.json"


@dataclasses.dataclass(frozen=True, kw_only=True)
class StudyFolder:
    """Where a study lies.

    A trial belongs to the process that holds its lock; the system frees it when that process
    ends, however it ends, and another may then go on with the trial.

    Attributes:
        path: absolute.
    """

    path: Path

    def begin(self, identity: Mapping[str, Any], *, resume: bool) -> None:
        """Makes the folder, or checks that it holds this study.

        Args:
            identity: what the study is of, fit for JSON.
            resume: whether a study that is there already may go on.

        Raises:
            CheckpointError: it holds another thing, or a study that is not to be gone on with.
            ConfigError: it holds a study of something else.
        """
        if not self.exists:
            (self.path / "trials").mkdir(parents=True, exist_ok=True)
            write_json(self.path / _PLAN, identity)
            return
        known, given = read_json(self.path / _PLAN), json.loads(json.dumps(identity))
        changed = [key for key in given if known.get(key) != given[key]]
        if changed:
            raise ConfigError(
                f"{self.path} holds a study with another {' and '.join(changed)}: give the same "
                "one, or choose another folder with --workdir."
            )
        if not resume:
            raise CheckpointError(
                f"{self.path} already holds this study: add --resume to go on with it, or choose "
                "another folder with --workdir."
            )

    def forget(self) -> None:
        """Takes back what `begin` made, where nothing has come of it."""
        for name in (_PLAN, ".lock"):
            (self.path / name).unlink(missing_ok=True)
        for path in (self.path / "trials", self.path):
            with contextlib.suppress(OSError):  # not empty
                path.rmdir()

    @property
    def exists(self) -> bool:
        """Whether a study has begun here."""
        return (self.path / _PLAN).exists()

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Keeps other workers from taking trials meanwhile.

        Raises:
            CheckpointError: the folder is of something else, or cannot be made.
        """
        path = self.path / ".lock"
        try:
            if self.path.exists() and not path.exists() and any(self.path.iterdir()):
                raise CheckpointError(
                    f"{self.path} is no study and is not empty: choose another folder with "
                    "--workdir."
                )
            self.path.mkdir(parents=True, exist_ok=True)
            file = path.open("w")
        except OSError as error:
            raise CheckpointError(
                f"{self.path} cannot be made ({error.strerror}); choose another folder with "
                "--workdir."
            ) from error
        with file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def trials(self) -> list[Trial]:
        """Every trial that was written down, by number."""
        paths = sorted((self.path / "trials").glob("*/trial.json"))
        return [Trial.from_dict(read_json(path)) for path in paths]

    def of(self, trial: Trial) -> Path:
        """The folder of a trial; the defaults have one of their own."""
        if trial.number < 0:
            return self.path / "defaults"
        return self.path / "trials" / f"{trial.number:04d}"

    def read(self, trial: Trial) -> Trial:
        """What was written of a trial, or what is given."""
        path = self.of(trial) / "trial.json"
        return Trial.from_dict(read_json(path)) if path.exists() else trial

    def write(self, trial: Trial) -> None:
        """Writes a trial down."""
        self.of(trial).mkdir(parents=True, exist_ok=True)
        write_json(self.of(trial) / "trial.json", trial.to_dict())

    def hold(self, trial: Trial) -> TextIO | None:
        """Takes a trial until the file that is returned is closed; None where another has it."""
        self.of(trial).mkdir(parents=True, exist_ok=True)
        file = (self.of(trial) / ".lock").open("w")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            file.close()
            return None
        return file

    def drop_checkpoints(self, trial: Trial) -> None:
        """Deletes what a trial trained, which its config makes again."""
        for path in self.of(trial).glob("*/checkpoints"):
            shutil.rmtree(path, ignore_errors=True)
