"""A run's folder: who may write to it, and what stands in it from the start."""

import dataclasses
import hashlib
import json
import os
import platform
import shlex
import sys
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jtl.config import build, difference, read_document, to_yaml
from jtl.data.options import DataOptions
from jtl.data.sources.protocol import Source
from jtl.data.splits import Splits
from jtl.errors import CheckpointError, ConfigError, DataError
from jtl.experiment.options import Config
from jtl.training.files import read_json, write_json, write_text
from jtl.training.lease import is_claim
from jtl.training.options import TrainOptions
from jtl.training.owner import NAME as LOCK
from jtl.training.storage import refuse_address

_FIRST = "config.yaml"  # what makes a folder a run
_LIBRARIES = ("jtl", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy")


def check_workdir(
    workdir: Path, config: Config, *, resume: bool, allow: Sequence[str] = ()
) -> None:
    """Whether a run of this config may have this folder; changes nothing.

    Args:
        workdir: the folder.
        config: of the run.
        resume: whether to go on with the run that is there.
        allow: dotted keys whose options may have changed since it began.

    Raises:
        CheckpointError: the folder holds another run or something else.
        ConfigError: the run to resume was made from another config.
    """
    refuse_address(workdir)
    if workdir.exists() and not workdir.is_dir():
        raise CheckpointError(f"{workdir} is no folder: choose another one with --workdir.")
    names = [path.name for path in workdir.iterdir()] if workdir.exists() else []
    check_names(str(workdir), names, resume=resume)
    if _FIRST in names:
        _check_same(workdir, config, allow)


def check_names(place: str, names: Sequence[str], *, resume: bool) -> None:
    """Whether a run may begin, or go on, where these files and folders are.

    Args:
        place: where that is.
        names: of what stands there.
        resume: whether to go on with the run that is there.

    Raises:
        CheckpointError: it may not.
    """
    if _FIRST in names:
        if not resume:
            raise CheckpointError(
                f"{place} already holds a run: add --resume to go on with it, or choose another "
                "folder with --workdir."
            )
    elif not all(map(_left_by_beginning, names)):
        raise CheckpointError(
            f"{place} is no run (it has no config.yaml) and is not empty: choose another folder "
            "with --workdir."
        )


def _left_by_beginning(name: str) -> bool:
    """Whether a run may leave this that was killed while it made its folder."""
    return name in (LOCK, "environment.json") or name.endswith(".tmp") or is_claim(name)


def make_workdir(workdir: Path, config: Config) -> None:
    """Makes a run's folder with what is known before the first step; keeps one that is there.

    The options that changed with the user's leave since then are written anew.

    Raises:
        CheckpointError: the folder cannot be written.
    """
    if (workdir / "config.yaml").exists():
        if difference(_settled(stored_config(workdir)), _settled(config)):
            write_text(workdir / "config.yaml", to_yaml(config))
        return
    try:
        workdir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CheckpointError(
            f"{workdir} cannot be made ({error.strerror}); choose another folder with --workdir."
        ) from error
    write_json(workdir / "environment.json", environment())
    # Last, because this file is what makes the folder a run.
    write_text(workdir / "config.yaml", to_yaml(config))


def stored_config(workdir: Path) -> Config:
    """The config of the run in a folder.

    Raises:
        CheckpointError: the folder holds no run.
    """
    path = workdir / "config.yaml"
    if not path.is_file():
        raise CheckpointError(
            f"{workdir} is no run: it has no config.yaml; give the folder that jtl train printed."
        )
    return build(Config, read_document(path))


def _check_same(workdir: Path, config: Config, allow: Sequence[str]) -> None:
    changed = difference(_settled(stored_config(workdir)), _settled(config))
    refused = [line for line in changed if not _allowed(line.partition(":")[0], allow)]
    if refused:
        key = refused[0].partition(":")[0]
        raise ConfigError(
            f"{workdir} was made from another config ({'; '.join(refused)}): give the same one, "
            f"name what may change, as with --allow {key}, or choose another folder with --workdir."
        )


def _allowed(key: str, allow: Sequence[str]) -> bool:
    """Whether a key, such as `train.phases[0].epochs`, is one of these or stands below one."""
    steps = key.replace("[", ".").replace("]", "").split(".")
    named = [each.replace("[", ".").replace("]", "").split(".") for each in allow]
    return any(steps[: len(each)] == each for each in named)


def data_record(source: Source, splits: Splits) -> dict[str, Any]:
    """What `data.json` keeps of a run's examples, and of which of them each split holds."""
    return {
        "fingerprint": source.fingerprint,
        "splits": {
            name: hashlib.sha256(np.asarray(own, "<i8").tobytes()).hexdigest()
            for name, own in sorted(splits.items())
        },
        "provenance": dict(source.provenance),
    }


def check_data(workdir: Path, source: Source, splits: Splits, allow: Sequence[str] = ()) -> None:
    """Refuses examples, or splits of them, that are not those that a run began with.

    Args:
        workdir: the run's folder.
        source: the examples.
        splits: which of them each split holds.
        allow: holds `data` or `data.fingerprint` where the examples may have changed, and
            `data.exclude`, `data.split` or `seed` where the splits may.

    Raises:
        DataError: they are others than `data.json` says.
    """
    path = workdir / "data.json"
    if _allowed("data.fingerprint", allow) or not path.exists():
        return
    stored, given = read_json(path), data_record(source, splits)
    if stored["fingerprint"] != given["fingerprint"]:
        raise DataError(
            f"the dataset is not the one that the run in {workdir} began with (its fingerprint in "
            f"{path.name} differs): bring the data back as it was, go on with --allow "
            "data.fingerprint, or start a new run with another --workdir."
        )
    if any(key.split(".")[:2] in _MAKE_SPLITS for key in allow):
        return
    if changed := [name for name, own in stored["splits"].items() if given["splits"][name] != own]:
        raise DataError(
            f"the examples of {', '.join(changed)} are not those that the run in {workdir} began "
            f"with (their digest in {path.name} differs): bring the file of data.exclude back as "
            "it was, go on with --allow data.exclude, or start a new run with another --workdir."
        )


_MAKE_SPLITS = (["seed"], ["data", "split"], ["data", "exclude"], ["data", "source"])


_FREE_OF_DATA = ("threads", "read", "cache_dir")
_FREE_OF_TRAINING = ("placement", "mesh", "cache", "cache_limits", "checkpoint", "max_seconds",
                     "log_to")  # fmt: skip


def _settled(config: Config) -> Config:
    """The config without what no number depends on, which may change when a run goes on."""
    data = {name: getattr(DataOptions, name) for name in _FREE_OF_DATA}
    train = {name: getattr(TrainOptions, name) for name in _FREE_OF_TRAINING}
    return dataclasses.replace(
        config,
        data=dataclasses.replace(config.data, **data),
        train=dataclasses.replace(config.train, **train),
    )


def environment() -> dict[str, Any]:
    """What a run depended on beside its config: versions, devices and the command."""
    return {
        "command": shlex.join(sys.argv),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "versions": {name: _version(name) for name in _LIBRARIES},
        "devices": [device.device_kind for device in jax.devices()],
        "cores": os.cpu_count(),
    }


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def read_summary(workdir: Path) -> dict[str, Any]:
    """What `summary.json` holds.

    Raises:
        CheckpointError: the run has not ended.
    """
    path = workdir / "summary.json"
    if not path.exists():
        raise CheckpointError(
            f"{workdir} has no summary.json yet: its training has not ended; go on with --resume."
        )
    summary: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return summary
