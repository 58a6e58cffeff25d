"""Trackers outside of the run's folder: the real libraries where they are installed."""

import logging
import os
import struct
import time
from importlib.util import find_spec

import numpy as np
import pytest

from jtl.errors import ConfigError
from jtl.training import trackers
from jtl.training.events import Ended, Evaluated, Pictured, Stepped
from jtl.training.trackers import About, check_trackers, open_trackers

SUMMARY = {"best": {"metrics": {"test": {"accuracy": 0.75}}}}


def about(*names):
    return About(trackers=names, name="tiny", options={"train.phases.0.rate": 0.1, "seed": 3})


def tell(workdir, name, steps, *, ends=True):
    """A run's events, told to one tracker; its identifier."""
    (tracker,) = open_trackers(workdir, about(name))
    for step in steps:
        tracker(
            Stepped(step=step, epoch=0.0, phase=0, metrics={"loss": 1 / step},
                    images_per_second=9.0, seconds_left=1.0)
        )  # fmt: skip
    last = steps[-1]
    metrics = {"accuracy": last / 10, "roc_auc": float("nan")}
    tracker(Evaluated(step=last, epoch=1.0, phase=0, split="val", metrics=metrics, best=True))
    tracker(Pictured(step=last, name="val/confusion", image=np.full((6, 5, 3), 7, np.uint8)))
    if ends:
        tracker(Ended(summary=SUMMARY))
    assert tracker._service is not None
    tracker.close()
    return tracker._service.identifier


def test_what_is_not_installed_is_named_with_how_to_install_it(monkeypatch):
    monkeypatch.setattr(trackers, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"wandb and mlflow .*pip install 'jtl\[wandb,mlflow\]'"):
        check_trackers(["wandb", "mlflow"])
    check_trackers([])


def test_a_tracker_that_fails_ends_no_run(tmp_path, caplog, monkeypatch):
    def refuse(*_):
        raise ConnectionError("nobody answers")

    monkeypatch.setitem(trackers._MAKERS, "mlflow", refuse)
    with caplog.at_level(logging.WARNING, "jtl"):
        (tracker,) = open_trackers(tmp_path, about("mlflow"))
        tracker(Ended(summary=SUMMARY))
        tracker.close()
    assert [record.getMessage() for record in caplog.records] == [
        "mlflow is told no more: nobody answers"
    ]


@pytest.mark.skipif(find_spec("mlflow") is None, reason="mlflow is not installed")
@pytest.mark.parametrize("store", ["sqlite", "file"])
def test_mlflow_keeps_every_number_also_over_a_resumption(tmp_path, monkeypatch, store):
    import mlflow

    uri = f"sqlite:///{tmp_path}/mlflow.db" if store == "sqlite" else (tmp_path / "runs").as_uri()
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "tests")
    monkeypatch.setenv("_MLFLOW_SERVER_ARTIFACT_ROOT", str(tmp_path / "artifacts"))
    monkeypatch.chdir(tmp_path)
    mlflow.set_tracking_uri(uri)
    first = tell(tmp_path, "mlflow", [1, 2], ends=False)
    assert tell(tmp_path, "mlflow", [3, 4]) == first
    client = mlflow.MlflowClient()
    run = client.get_run(first)
    assert run.info.status == "FINISHED"
    assert run.data.params == {"train.phases.0.rate": "0.1", "seed": "3"}
    history = client.get_metric_history(first, "train/loss")
    assert [(own.step, own.value) for own in history] == [(n, 1 / n) for n in (1, 2, 3, 4)]
    assert run.data.metrics["val/accuracy"] == 0.4
    assert run.data.metrics["best/test/accuracy"] == 0.75
    names = [own.path for own in client.list_artifacts(first, "val/confusion")]
    assert names == ["val/confusion/00000002.png", "val/confusion/00000004.png"]


@pytest.mark.skipif(find_spec("wandb") is None, reason="wandb is not installed")
def test_wandb_keeps_every_number_also_over_a_resumption(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    for name in ("WANDB_CACHE_DIR", "WANDB_CONFIG_DIR", "WANDB_DATA_DIR"):
        monkeypatch.setenv(name, os.fspath(tmp_path / "own"))
    first = tell(tmp_path, "wandb", [1, 2], ends=False)
    assert tell(tmp_path, "wandb", [3, 4]) == first
    deadline = time.monotonic() + 60  # what wandb's own process writes comes a little later
    while len(found := history(tmp_path)) < 8 and time.monotonic() < deadline:
        time.sleep(0.1)
    steps = [int(own["step"]) for own in found if "train/loss" in own]
    assert steps == [1, 2, 3, 4]
    assert [own["val/accuracy"] for own in found if "val/accuracy" in own] == ["0.2", "0.4"]
    assert sum(own.get("val/confusion._type") == '"image-file"' for own in found) == 2


def history(folder):
    """What all offline runs of a folder have written, in order."""
    paths = sorted(folder.glob("wandb/offline-run-*/*.wandb"))
    return [own for path in paths for own in records(path)]


def records(path):
    """The rows of a history that an offline run has written, in LevelDB's format of logs."""
    from wandb.proto import wandb_internal_pb2

    data, place, parts = path.read_bytes(), 7, b""
    while place + 7 <= len(data):
        room = 32768 - place % 32768
        size, kind = struct.unpack("<HB", data[place + 4 : place + 7])
        if room < 7 or kind == 0:  # the rest of a block is padding
            place += room
            continue
        parts += data[place + 7 : place + 7 + size]
        place += 7 + size
        if kind in (1, 4):  # whole, or the last part
            record = wandb_internal_pb2.Record.FromString(parts)
            parts = b""
            if record.WhichOneof("record_type") == "history":
                yield {item.key or ".".join(item.nested_key): item.value_json
                       for item in record.history.item}  # fmt: skip
