"""Runs on folders: what is left out and counted, what is noticed, and other readers on resume."""

import json

import numpy as np
import pytest

from jtl import load_run
from jtl.data.exclude import excluded
from jtl.data.options import DataOptions, load_source
from jtl.errors import ConfigError, DataError
from jtl.experiment import train
from jtl.study.check.check import check
from jtl.tree import differences
from tests.data.photos import photo_bytes, photo_folder
from tests.experiment.runs import InterruptionError, config, stop_at


def options(folder, **changes):
    return config(
        data__source=str(folder),
        data__batch_size=4,
        data__eval_batch_size=5,
        augment__crop={},
        train__phases=[{"freeze": "backbone", "epochs": 3}],
        **changes,
    )


@pytest.fixture
def folder(tmp_path):
    photo_folder(tmp_path / "photos", count=20)
    return tmp_path / "photos"


def damage(folder):
    for name in ("class0/000.jpeg", "class1/005.jpeg"):
        (folder / name).write_bytes(photo_bytes(0)[:150])


def test_damaged_images_are_left_out_and_counted(folder, tmp_path):
    damage(folder)
    finished = train(options(folder, data__on_error="skip"), workdir=tmp_path / "run")
    unreadable = finished.summary["data"]["unreadable"]
    assert unreadable == {"count": 2, "examples": ["class0/000.jpeg", "class1/005.jpeg"]}
    assert 0 <= finished.summary["data"]["waited"] <= 1
    assert np.isfinite(finished.summary["final"]["metrics"]["test"]["loss"])


def test_what_a_check_marks_is_never_read(folder, tmp_path):
    damage(folder)
    source = load_source(DataOptions(source=str(folder)))
    result = check(source, data="photos", max_pixels=10**6)
    path = tmp_path / "check.json"
    path.write_text(json.dumps(result.to_json()))
    damaged = {"class0/000.jpeg", "class1/005.jpeg"}
    assert damaged <= {source.name(index) for index in excluded(source, path)}
    # With `stop`, the default, reading one of them would end the run.
    finished = train(options(folder, data__exclude=str(path)), workdir=tmp_path / "run")
    assert finished.summary["data"]["unreadable"]["count"] == 0
    assert np.isfinite(finished.summary["final"]["metrics"]["test"]["loss"])


def test_a_damaged_image_stops_a_run_and_is_named(folder, tmp_path):
    damage(folder)
    with pytest.raises(DataError, match=r"photos/class./00.\.jpeg is no image that can be read"):
        train(options(folder), workdir=tmp_path / "run")


@pytest.mark.slow
def test_a_run_from_kept_images_is_found_again_and_evaluates_the_same(folder, tmp_path):
    kept = options(folder, data__cache="resized", data__cache_dir=str(tmp_path / "kept"))
    finished = train(kept, workdir=tmp_path / "run")
    assert len([path for path in (tmp_path / "kept").iterdir() if path.is_dir()]) == 1
    again = load_run(tmp_path / "run")
    metrics = finished.summary["best"]["metrics"]["test"]
    assert again.evaluate("test") == pytest.approx(metrics, rel=1e-5)


def test_a_dataset_that_was_edited_is_noticed_when_a_run_goes_on(folder, tmp_path):
    with pytest.raises(InterruptionError):
        train(options(folder), workdir=tmp_path / "run", listeners=[stop_at(3)])
    (folder / "class0/new.jpeg").write_bytes(photo_bytes(77))
    with pytest.raises(DataError, match=r"the dataset is not the one that the run .* began with"):
        train(options(folder), workdir=tmp_path / "run", resume=True)
    (folder / "class0/new.jpeg").unlink()
    train(options(folder), workdir=tmp_path / "run", resume=True)
    (folder / "class0/000.jpeg").write_bytes(photo_bytes(78))
    with pytest.raises(DataError, match=r"the dataset is not the one that the run .* began with"):
        load_run(tmp_path / "run").evaluate()


def test_a_check_that_was_edited_is_noticed_when_a_run_goes_on(folder, tmp_path):
    source = load_source(DataOptions(source=str(folder)))
    record = check(source, data="photos", max_pixels=10**6).to_json()
    path = tmp_path / "check.json"
    path.write_text(json.dumps(record))
    with pytest.raises(InterruptionError):
        train(
            options(folder, data__exclude=str(path)),
            workdir=tmp_path / "run",
            listeners=[stop_at(3)],
        )
    finding = {"kind": "outlier", "drop": ["class0/002.jpeg"], "exclude": True}
    path.write_text(json.dumps({**record, "findings": [*record["findings"], finding]}))
    with pytest.raises(DataError, match=r"the examples of \w+ are not those") as told:
        train(options(folder, data__exclude=str(path)), workdir=tmp_path / "run", resume=True)
    assert "--allow data.exclude" in str(told.value)
    path.write_text(json.dumps(record))
    train(options(folder, data__exclude=str(path)), workdir=tmp_path / "run", resume=True)


@pytest.mark.slow
def test_other_readers_on_resume_end_with_the_same_bits(folder, tmp_path):
    def read(workers, threads):
        return options(folder, data__read={"workers": workers}, data__threads=threads)

    whole = train(read(0, 1), workdir=tmp_path / "whole")
    for step, workers in ((3, 1), (6, 2)):
        with pytest.raises(InterruptionError):
            train(
                read(workers, 2), workdir=tmp_path / "run", resume=True, listeners=[stop_at(step)]
            )
    again = train(read(0, 3), workdir=tmp_path / "run", resume=True)
    assert not differences(whole.variables, again.variables)
    assert again.summary["final"] == whole.summary["final"]
    lines = [
        [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        for run in (tmp_path / "whole", tmp_path / "run")
    ]
    losses = [[row["metrics"]["loss"] for row in own if row["kind"] == "train"] for own in lines]
    assert losses[0] == losses[1]
    with pytest.raises(ConfigError, match=r"data\.split\.val"):
        train(options(folder, data__split={"val": 0}), workdir=tmp_path / "run", resume=True)
