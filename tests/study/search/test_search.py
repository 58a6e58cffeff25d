"""Whole studies: what they leave, whom they look at, and what becomes of trials that fail."""

import contextlib
import csv
import dataclasses
import json
import os
import signal

import numpy as np
import pytest

from jtl.errors import CheckpointError, ConfigError
from jtl.experiment.options import read_config
from jtl.study.search import carry
from jtl.study.search.plan import Plan, make_method
from jtl.study.search.process import Process
from jtl.study.search.search import search
from jtl.study.search.space import read_space
from jtl.study.search.trial import Objective, Trial
from tests.study.search.studies import write_study


@pytest.fixture
def make_plan(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def make(space=None, overrides=(), **words):
        write_study(tmp_path, **({} if space is None else {"space": space}))
        own = {"method": "random", "trials": 2, **words}
        return Plan(
            config=read_config("config.yaml", overrides), space=read_space("space.yaml"), **own
        )

    return make


def rows(folder):
    return list(csv.DictReader((folder / "trials.csv").read_text().splitlines()))


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A finished grid whose trials trained together."""
    folder = tmp_path_factory.mktemp("whole")
    write_study(folder)
    with contextlib.chdir(folder):
        plan = Plan(
            config=read_config("config.yaml"), space=read_space("space.yaml"), method="grid"
        )
        return search(plan, folder / "study")


def test_a_study_leaves_its_files(whole):
    study = json.loads((whole.folder / "study.json").read_text())
    assert study["counts"] == {"complete": 4}
    assert study["validation"]["value"] == max(own["value"] for own in study["trials"])
    assert study["validation"]["note"] == "the best of 5, and so optimistic"
    low, high = study["held_out"]["interval"]
    assert 0 <= low <= study["held_out"]["value"] <= high <= 1
    assert study["defaults"]["held_out"]["value"] >= 0
    assert [row["status"] for row in rows(whole.folder)] == ["complete"] * 4
    assert {row["train.loss.label_smoothing"] for row in rows(whole.folder)} == {"0.0", "0.1"}


def test_the_defaults_stand_beside_the_trials_with_their_own_values(whole):
    assert whole.values(whole.defaults) == [1e-2, 0.0]
    assert whole.values(whole.trials[3]) == list(whole.trials[3].assignments.values())


def test_the_best_config_is_ready_to_train(whole):
    best = read_config(str(whole.folder / "best.yaml"))
    assert best == whole.config
    rate = whole.winner.assignments["train.phases.0.schedule.rate"]
    assert best.train.phases[0].schedule.rate == rate


@pytest.mark.slow
def test_trials_trained_together_are_what_they_are_alone(whole, tmp_path, monkeypatch):
    monkeypatch.chdir(whole.folder.parent)
    plan = dataclasses.replace(whole.plan, together=False, trials=2)
    alone = search(plan, tmp_path / "study")
    assert not any(own.together for own in alone.trials)
    for one, other in zip(whole.trials, alone.trials):
        assert one.together
        assert one.assignments == other.assignments
        for name in ("loss", "accuracy"):
            np.testing.assert_allclose(one.metrics[name], other.metrics[name], atol=1e-5)


@pytest.mark.slow
def test_no_trial_looks_at_the_test_split(make_plan, tmp_path):
    plan = make_plan(trials=1, together=False)
    search(plan, tmp_path / "study")
    images = np.load("images.npz")
    study = json.loads((tmp_path / "study" / "study.json").read_text())
    test = set()
    for path in (tmp_path / "study").rglob("predictions.npz"):
        with np.load(path) as found:
            test |= set(found.files)
    assert "test_logits" in test  # of the winner and the defaults, at the end
    # The same images, but for those of the test split.
    from jtl.data.options import load_source
    from jtl.experiment.assemble import splits_of

    own = splits_of(load_source(plan.config.data), plan.config.data, 0)
    noisy = images["images"].copy()
    noisy[own["test"]] = 255 - noisy[own["test"]]
    np.savez("images.npz", images=noisy, labels=images["labels"])
    search(plan, tmp_path / "other")
    other = json.loads((tmp_path / "other" / "study.json").read_text())
    timed = ("seconds",)
    one, two = (
        [{k: v for k, v in trial.items() if k not in timed} for trial in each["trials"]]
        for each in (study, other)
    )
    assert one == two
    assert study["held_out"] != other["held_out"]


FAILING = """
train.phases.0.schedule.rate: {kind: choice, options: [1e-2, 1e38]}
train.phases.0.batch_norm: {kind: choice, options: [frozen, affine]}
"""


def test_a_trial_that_fails_or_diverges_is_marked_and_the_search_goes_on(make_plan, tmp_path):
    overrides = ("train.max_skipped=2", "train.phases.0.optimizer.name=sgd")
    plan = make_plan(FAILING, overrides, method="grid", trials=None, together=False)
    found = search(plan, tmp_path / "study")
    assert [own.status for own in found.trials] == ["complete", "failed", "diverged", "failed"]
    assert "affine" in found.trials[1].reason
    assert "not finite" in found.trials[2].reason
    assert found.winner.number in (0, -1)


@pytest.mark.soak
def test_a_study_none_of_whose_trials_ends_says_why(make_plan, tmp_path):
    space = "train.phases.0.batch_norm: {kind: choice, options: [affine]}"
    plan = make_plan(space, method="grid", trials=None)
    with pytest.raises(ConfigError, match=r"no trial came to an end .*1 failed.*affine"):
        search(plan, tmp_path / "study")


@pytest.mark.soak
def test_a_mistake_in_the_defaults_ends_the_search(make_plan, tmp_path):
    plan = make_plan(overrides=("model.weights=nowhere.safetensors",))
    with pytest.raises(ConfigError, match="nowhere"):
        search(plan, tmp_path / "study")


@pytest.mark.soak
def test_a_study_is_gone_on_with_only_when_asked_and_only_the_same(make_plan, tmp_path):
    plan = make_plan(trials=1)
    search(plan, tmp_path / "study")
    with pytest.raises(CheckpointError, match="--resume"):
        search(plan, tmp_path / "study")
    other = make_plan("model.dropout_rate: {kind: uniform, low: 0, high: 0.5}")
    with pytest.raises(ConfigError, match="another space"):
        search(other, tmp_path / "study", resume=True)
    more = search(dataclasses.replace(make_plan(), trials=3), tmp_path / "study", resume=True)
    assert [own.number for own in more.trials] == [0, 1, 2]


def test_a_storage_of_another_space_is_refused(make_plan, tmp_path):
    storage = f"sqlite:///{tmp_path / 'own.db'}"
    make_method(make_plan(method="optuna", storage=storage), tmp_path)
    other = make_plan(
        "model.dropout_rate: {kind: uniform, low: 0, high: 0.5}", method="optuna", storage=storage
    )
    with pytest.raises(ConfigError, match=r"study 'tiny' with another space.*--study"):
        search(other, tmp_path / "other")


def test_an_address_is_refused_and_no_folder_of_its_name_is_made(make_plan, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CheckpointError, match="gs://bucket/mine is an address of object storage"):
        search(make_plan(), "gs://bucket/mine")
    assert not (tmp_path / "gs:").exists()


def test_a_folder_of_something_else_is_left_alone(make_plan, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "note.txt").write_text("mine")
    with pytest.raises(CheckpointError, match="is no study"):
        search(make_plan(), tmp_path / "mine")
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["note.txt"]


@pytest.mark.soak
def test_folds_judge_each_trial_by_all_of_them(make_plan, tmp_path):
    found = search(make_plan(trials=1, folds=3), tmp_path / "study")
    (trial,) = found.trials
    assert len(trial.by_fold) == 3
    assert trial.value == pytest.approx(np.mean(trial.by_fold))
    low, high = trial.interval
    assert low <= trial.value <= high
    assert found.held_out is not None


@pytest.mark.soak
def test_a_nested_search_judges_winners_by_folds_that_chose_nothing(make_plan, tmp_path):
    plan = make_plan(trials=1, nested=2)
    found = search(plan, tmp_path / "study")
    inner = [
        json.loads((tmp_path / "study" / "outer" / str(k) / "study.json").read_text())
        for k in range(2)
    ]
    assert found.nested.mean == pytest.approx(np.mean([own["held_out"]["value"] for own in inner]))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ({"metric": "val/acuracy"}, "Did you mean val/accuracy"),
        ({"metric": "val/acuracy"}, "never reported; those that are: loss, accuracy"),
        ({"metric": "test/accuracy"}, "looks at the validation split alone"),
        ({"folds": 1}, "at least 2 folds"),
        ({"trials": 0}, "more than 0"),
        ({"pruner": "hyperband"}, "is Optuna's"),
        ({"storage": "sqlite:///x"}, "is Optuna's"),
        ({"sampler": "tpe"}, "has none"),
        ({"overrides": ("data.split.val=0",)}, "the validation split is empty"),
    ],
)
def test_a_plan_that_cannot_be_is_told_before_a_folder_is_made(words, said, make_plan, tmp_path):
    plan = make_plan(**words)
    with pytest.raises(ConfigError, match=said) as caught:
        search(plan, tmp_path / "study")
    assert len(str(caught.value).splitlines()) == 1
    assert not (tmp_path / "study").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ({"method": "optuna", "sampler": "tpee"}, "Did you mean 'tpe'"),
        ({"method": "optuna", "sampler": "grid"}, "needs arguments"),
        ({"method": "optuna", "sampler": "bruteforce"}, "does not fit: .*step must be given"),
        ({"method": "optuna", "storage": "postgresql://u:secret@127.0.0.1:9/x"}, "cannot be used"),
        ({"method": "optuna", "storage": "mysql+nodriver://u@127.0.0.1/x"}, "cannot be used"),
        ({"method": "hyperopt", "sampler": "annea"}, "Did you mean 'anneal'"),
        (
            {
                "method": "grid",
                "space": "model.dropout_rate: {kind: uniform, low: 0, high: 0.5}",
            },
            "needs steps",
        ),
    ],
)
def test_a_method_that_cannot_be_is_told(words, said, make_plan, tmp_path):
    with pytest.raises(ConfigError, match=said) as caught:
        search(make_plan(**words), tmp_path / "study")
    assert len(str(caught.value).splitlines()) == 1
    assert "secret" not in str(caught.value)
    assert not (tmp_path / "study").exists()


@pytest.mark.parametrize("method", ["optuna", "hyperopt"])
def test_an_extra_that_is_missing_is_named(method, make_plan, tmp_path, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, method, None)
    with pytest.raises(ConfigError, match=rf"pip install 'jtl\[{method}\]'"):
        search(make_plan(method=method), tmp_path / "study")


def test_a_package_that_a_sampler_needs_is_named(make_plan, tmp_path, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "cmaes", None)
    with pytest.raises(ConfigError, match=r"--sampler cmaes: it needs a package more: .*cmaes"):
        make_method(make_plan(method="optuna", sampler="cmaes"), tmp_path)


def carrier(plan, process, folder):
    from jtl.study.search.folder import StudyFolder

    return carry.Carrier(plan=plan, folder=StudyFolder(path=folder), process=process)


def test_a_process_that_is_killed_costs_its_trial_and_no_other(make_plan, tmp_path):
    plan = make_plan(together=False)
    with Process(tmp_path / "log.txt") as process:
        own = carrier(plan, process, tmp_path / "study")

        def kill(_):
            os.kill(process._child.pid, signal.SIGKILL)
            return False

        lost = own.alone(Trial(number=0, assignments={}), kill)
        kept = own.alone(Trial(number=1, assignments={}), lambda _: False)
    assert lost.status == "failed"
    assert "SIGKILL" in lost.reason
    assert kept.status == "complete"


def test_a_trial_that_is_told_to_ends_at_its_report(make_plan, tmp_path):
    plan = make_plan(overrides=("train.phases.0.epochs=4",), together=False)
    with Process(tmp_path / "log.txt") as process:
        own = carrier(plan, process, tmp_path / "study")
        pruned = own.alone(Trial(number=0, assignments={}), lambda trial: len(trial.reports) == 2)
    assert pruned.status == "pruned"
    assert len(pruned.reports) == 2


PRUNED = """
train.phases.0.schedule.rate: {kind: log_uniform, low: 1e-6, high: 1e-1}
"""


@pytest.mark.soak
@pytest.mark.parametrize(
    ("method", "pruner"),
    [
        ("optuna", "median"),
        ("optuna", "hyperband"),
        ("optuna", "halving"),
        ("random", "median"),
        ("hyperopt", "median"),
    ],
)
def test_pruners_end_whole_runs_that_fall_behind(method, pruner, make_plan, tmp_path):
    sampler = "random" if method == "optuna" else None
    plan = make_plan(
        PRUNED,
        ("train.phases.0.epochs=9",),
        method=method,
        sampler=sampler,
        pruner=pruner,
        metric="val/loss",
        trials=16,
        together=False,
    )
    found = search(plan, tmp_path / "study")
    assert set(found.counts) == {"complete", "pruned"}
    assert sum(found.counts.values()) == 16
    pruned = {own.number for own in found.trials if own.status == "pruned"}
    for own in found.trials:
        assert (len(own.reports) < 9) == (own.number in pruned)
        assert (own.value is None) == (own.number in pruned)
    assert {row["number"] for row in rows(found.folder) if row["status"] == "pruned"} == {
        str(number) for number in pruned
    }
    if method == "optuna":
        import optuna

        url = f"sqlite:///{found.folder / 'optuna.db'}"
        stored = optuna.load_study(study_name="tiny", storage=url).trials
        assert {own.number for own in stored if own.state.name == "PRUNED"} == pruned
        assert [dict(enumerate(own.intermediate_values.values())) for own in stored] == [
            dict(enumerate(value for _, value in own.reports)) for own in found.trials
        ]


def test_what_memory_cannot_hold_is_marked_so():
    from jtl.study.search.worker import _describe

    text = "RESOURCE_EXHAUSTED: Out of memory allocating 40 bytes."
    assert _describe(RuntimeError(text))["status"] == "out of memory"
    assert _describe(MemoryError())["status"] == "out of memory"
    assert _describe(ValueError("x"))["status"] == "failed"


@pytest.mark.parametrize("metric", ["accuracy", "loss"])
def test_the_best_is_by_the_metrics_own_sense(metric):
    objective = Objective(metric=metric)
    trials = [
        Trial(number=place, assignments={}, status="complete", value=value)
        for place, value in enumerate([0.2, 0.4, 0.1, 0.4])
    ]
    order = [own.number for own in objective.best([*trials, Trial(number=4, assignments={})])]
    assert order == ([1, 3, 0, 2] if metric == "accuracy" else [2, 0, 1, 3])
