"""Several processes share one study, some of them are killed: no trial is lost or counted twice."""

import json
import os
import signal
import time

import pytest

from jtl.study.search.folder import StudyFolder
from jtl.study.search.trial import Trial
from tests.study.search.postgres import cluster
from tests.study.search.studies import PATIENCE, start, study_of, tune, write_study

APART = ("--separately", "--workdir", "study", "--resume")


@pytest.fixture
def storage(request, tmp_path):
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path / 'shared.db'}"
    elif request.param == "journal":
        yield f"journal:{tmp_path / 'shared.log'}"
    else:
        with cluster() as url:
            yield url


def records(folder):
    paths = sorted((folder / "study" / "trials").glob("*/trial.json"))
    return [json.loads(path.read_text()) for path in paths]


def wait_for_reports(folder, number, count, worker):
    """Waits until a trial has told of so many validations."""
    path = folder / "study" / "trials" / f"{number:04d}" / "trial.json"
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline and worker.poll() is None:
        if path.exists() and len(json.loads(path.read_text())["reports"]) >= count:
            return
        time.sleep(0.02)
    raise AssertionError(f"trial {number} did not come so far: {worker.communicate()}")


@pytest.mark.parametrize(
    "storage",
    [
        pytest.param("postgresql", marks=pytest.mark.slow),
        pytest.param("sqlite", marks=pytest.mark.soak),
        pytest.param("journal", marks=pytest.mark.soak),
    ],
    indirect=True,
)
def test_two_workers_share_one_study_of_optuna(storage, tmp_path):
    import optuna

    write_study(tmp_path)
    words = ("--method", "optuna", "--trials", "6", "--storage", storage, *APART)
    workers = [start(tmp_path, *words) for _ in range(2)]
    ends = [worker.communicate(timeout=PATIENCE) for worker in workers]
    assert [worker.returncode for worker in workers] == [0, 0], ends
    trained = [out.count("\ntrial ") for out, _ in ends]
    assert sum(trained) == 6
    assert all(trained), "one of the workers had nothing to do"
    assert [own["number"] for own in records(tmp_path)] == list(range(6))
    if storage.startswith("journal:"):
        backend = optuna.storages.journal.JournalFileBackend(storage.removeprefix("journal:"))
        known = optuna.load_study(
            study_name="tiny", storage=optuna.storages.JournalStorage(backend)
        )
    else:
        url = storage.replace("postgresql:", "postgresql+psycopg2:")
        known = optuna.load_study(study_name="tiny", storage=url)
    assert [own.state.name for own in known.trials] == ["COMPLETE"] * 6
    assert [own.value for own in known.trials] == [own["value"] for own in records(tmp_path)]
    assert study_of(tmp_path)["counts"] == {"complete": 6}


@pytest.mark.parametrize(
    "method",
    [
        pytest.param("optuna", marks=pytest.mark.slow),
        pytest.param("random", marks=pytest.mark.soak),
        pytest.param("hyperopt", marks=pytest.mark.soak),
    ],
)
def test_a_study_killed_within_a_trial_ends_as_one_that_was_not(method, tmp_path):
    killed = tmp_path / "killed"
    killed.mkdir()
    write_study(killed)
    words = ("--method", method, "--trials", "3", "--set", "train.phases.0.epochs=4", *APART)
    worker = start(killed, *words)
    try:
        wait_for_reports(killed, 1, 2, worker)
    finally:
        os.kill(worker.pid, signal.SIGKILL)
        worker.communicate()
    assert "1 of them done before" in tune(killed, *words)
    found = records(killed)
    assert [own["number"] for own in found] == [0, 1, 2]
    assert {own["status"] for own in found} == {"complete"}
    assert [len(own["reports"]) for own in found] == [4, 4, 4]
    assert study_of(killed)["counts"] == {"complete": 3}
    if method == "optuna":  # whose sampler is seeded by the folder too, as machines differ
        return
    whole = tmp_path / "whole"
    whole.mkdir()
    write_study(whole)
    tune(whole, *words)
    timed = ("seconds",)
    one, other = (
        [{key: value for key, value in own.items() if key not in timed} for own in records(folder)]
        for folder in (whole, killed)
    )
    assert one == other


@pytest.mark.soak
@pytest.mark.parametrize("storage", ["sqlite", "postgresql"], indirect=True)
def test_machines_that_begin_at_once_share_a_storage_from_folders_of_their_own(storage, tmp_path):
    write_study(tmp_path)
    words = ("--method", "optuna", "--trials", "6", "--storage", storage, "--separately")
    workers = [start(tmp_path, *words, "--resume", "--workdir", name) for name in ("a", "b")]
    ends = [worker.communicate(timeout=PATIENCE) for worker in workers]
    assert [worker.returncode for worker in workers] == [0, 0], ends
    numbers = [{int(own.parent.name) for own in tmp_path.glob(f"{name}/trials/*/trial.json")}
               for name in ("a", "b")]  # fmt: skip
    assert numbers[0] | numbers[1] == set(range(6))
    assert not numbers[0] & numbers[1]


def test_a_trial_belongs_to_who_holds_it(tmp_path):
    folder = StudyFolder(path=tmp_path)
    trial = Trial(number=3, assignments={})
    held = folder.hold(trial)
    assert held is not None
    assert folder.hold(trial) is None
    held.close()
    assert folder.hold(trial) is not None
