"""Runs from a config: what they leave, that they resume exactly, and what options change."""

import json
import shutil

import jax
import numpy as np
import pytest

from jtl import load_run
from jtl.errors import CheckpointError, ConfigError
from jtl.training.checkpoint import Checkpoints
from jtl.training.events import Recovered
from jtl.tree import differences, flatten
from tests.experiment.runs import InterruptionError, config, run, source, stop_at

# One run that uses most of what has state of its own.
FULL = {
    "train__ema_decay": 0.9,
    "train__early_stopping": {"patience": 9},
    "augment__mixup": 0.3,
    "train__phases": [
        {"freeze": "backbone", "epochs": 1, "dropout_rate": 0.2},
        {"freeze": ["stem..layer2"], "unfreeze": {"per_epoch": "1 stage"}, "epochs": 3},
    ],
}


def records(workdir):
    """What `metrics.jsonl` says, but for times."""
    found = map(json.loads, (workdir / "metrics.jsonl").read_text().splitlines())
    timed = ("images_per_second", "seconds_left", "seconds")
    # Every start says anew what it caches.
    kept = [record for record in found if record["kind"] != "cache"]
    return [{k: v for k, v in record.items() if k not in timed} for record in kept]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    return run(folder / "run", config(**FULL))


def test_a_run_leaves_its_folder_whole(whole):
    names = {path.name for path in whole.workdir.iterdir()}
    assert names >= {"config.yaml", "environment.json", "ledger.json", "metrics.jsonl",
                     "checkpoints", "summary.json", "predictions.csv", "model.json"}  # fmt: skip
    summary = json.loads((whole.workdir / "summary.json").read_text())
    assert summary["steps"] == 12
    assert set(summary["best"]["metrics"]) == set(summary["final"]["metrics"]) == {"val", "test"}
    keys = {"loss", "accuracy", "top5", "precision", "recall", "f1", "ece"}
    assert set(summary["final"]["metrics"]["test"]) >= keys
    assert summary["frozen_audit"]["parameters"] > 0
    assert summary["stopped_early"] is False


def test_a_split_that_is_not_asked_for_is_not_looked_at(tmp_path):
    phases = [{"freeze": "backbone", "epochs": 1}]
    own = run(tmp_path / "run", config(train__phases=phases), splits=("val",))
    assert set(own.summary["best"]["metrics"]) == set(own.summary["final"]["metrics"]) == {"val"}
    lines = (own.workdir / "predictions.csv").read_text().splitlines()[1:]
    assert {line.partition(",")[0] for line in lines} == {"val"}
    assert 0 <= own.evaluate("test")["accuracy"] <= 1


def test_each_step_is_compiled_once(whole):
    assert whole.summary["step_compilations"] == [1, 1, 1, 1]


def test_gradual_unfreezing_is_recorded_as_phases_of_one_schedule(whole):
    steps = [record for record in records(whole.workdir) if record["kind"] == "train"]
    assert [record["phase"] for record in steps] == [0] * 3 + [1] * 3 + [2] * 3 + [3] * 3
    rates = [record["metrics"]["rate"] for record in steps[3:]]
    assert rates[1:] == sorted(rates[1:], reverse=True)


def test_what_is_kept_are_the_running_means(whole):
    read = load_run(whole.workdir, "last")
    with Checkpoints(whole.workdir) as checkpoints:
        raw = checkpoints._restore(
            12,
            {"params": read.variables["params"], "batch_stats": read.variables["batch_stats"]},
            partial=True,
        )
    moved = {line.split(":")[0].split("/")[1] for line in differences(raw, read.variables)}
    assert moved == {"layer1", "layer2", "layer3", "head"}
    scored = load_run(whole.workdir)
    metrics = whole.evaluate("test")
    assert metrics == pytest.approx(scored_on(scored), rel=1e-5)
    assert metrics == pytest.approx(whole.summary["best"]["metrics"]["test"], rel=1e-5)


def scored_on(loaded):
    import dataclasses

    return dataclasses.replace(loaded, source=source()).evaluate("test")


@pytest.mark.parametrize(
    "step", [pytest.param(3, marks=pytest.mark.slow), 6, pytest.param(9, marks=pytest.mark.slow)]
)
def test_an_interrupted_run_ends_with_the_same_bits(whole, tmp_path, step):
    with pytest.raises(InterruptionError):
        run(tmp_path / "run", config(**FULL), listeners=[stop_at(step)])
    again = run(tmp_path / "run", config(**FULL), resume=True)
    assert not differences(whole.variables, again.variables)
    with Checkpoints(whole.workdir) as one, Checkpoints(again.workdir) as other:
        template = _abstract(whole)
        assert not differences(one.variables(12, template), other.variables(12, template))
    assert records(again.workdir) == records(whole.workdir)
    assert (again.workdir / "predictions.csv").read_text() == (
        whole.workdir / "predictions.csv"
    ).read_text()
    assert again.summary["final"] == whole.summary["final"]
    assert again.summary["best"] == whole.summary["best"]


def _abstract(finished):
    return jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding),
        finished.variables,
    )


def test_a_finished_run_is_only_summed_up_again(whole):
    before = records(whole.workdir)
    again = run(whole.workdir, config(**FULL), resume=True)
    assert records(whole.workdir) == before
    assert again.summary["final"] == whole.summary["final"]
    assert sum(again.summary["step_compilations"]) == 0


def test_a_run_reads_its_frozen_leaves_from_its_folder_and_mends_them(whole, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(whole.workdir, folder)
    (store,) = (folder / "checkpoints").glob("frozen-*")
    assert not differences(whole.variables, load_run(folder).variables)
    largest = max(store.rglob("*"), key=lambda path: path.stat().st_size)
    largest.write_bytes(largest.read_bytes()[:-1])
    with pytest.raises(CheckpointError, match=f"{store.name}.*is damaged.*pretrained weights"):
        load_run(folder)
    heard = []
    run(folder, config(**FULL), resume=True, listeners=[heard.append])
    (notes,) = [event.notes for event in heard if isinstance(event, Recovered)]
    assert [note.partition(" are damaged")[0] for note in notes] == [
        f"the frozen leaves {store.name}"
    ]
    assert not differences(whole.variables, load_run(folder).variables)


def test_another_config_is_refused(whole):
    with pytest.raises(ConfigError, match=r"seed"):
        run(whole.workdir, config(**FULL, seed=3), resume=True)
    with pytest.raises(CheckpointError, match="already holds a run: add --resume"):
        run(whole.workdir, config(**FULL))


HALF = {"train__phases": [{"freeze": "stem..layer2", "epochs": 1}]}


@pytest.mark.parametrize("precision", ["bfloat16", pytest.param("float16", marks=pytest.mark.slow)])
def test_low_precision_computes_in_it_and_keeps_the_rest_wide(tmp_path, precision):
    finished = run(tmp_path / "run", config(model__precision=precision, **HALF))
    assert {leaf.dtype for leaf in jax.tree.leaves(finished.variables)} == {np.dtype(np.float32)}
    assert finished.model.dtype == precision
    assert np.isfinite(finished.summary["final"]["metrics"]["test"]["loss"])
    loaded = load_run(finished.workdir)
    assert loaded.model.dtype == precision
    images = source().images[:5]
    for one, other in zip(finished.predict(images), loaded.predict(images)):
        assert one == other


@pytest.mark.slow
def test_micro_batches_losses_weights_and_remat_are_taken_from_the_config(tmp_path):
    options = config(
        train__accumulate=3,
        train__loss={"name": "focal", "class_weights": "balanced"},
        model__remat=["layer2", "layer3"],
        **HALF,
    )
    finished = run(tmp_path / "run", options)
    assert finished.model.remat == ("layer2", "layer3")
    assert finished.summary["step_compilations"] == [1]
    assert load_run(finished.workdir).model.remat == ("layer2", "layer3")
    wrong = config(train__accumulate=5, **HALF)
    with pytest.raises(ConfigError, match=r"train\.accumulate=5 does not divide the 12 examples"):
        run(tmp_path / "wrong", wrong)
    assert not (tmp_path / "wrong").exists()


def test_an_early_stop_ends_the_run_and_says_so(tmp_path):
    options = config(train__early_stopping={"patience": 1, "min_delta": 1e9}, **HALF)
    options_two = config(
        train__early_stopping={"patience": 1, "min_delta": 1e9},
        train__phases=[{"freeze": "backbone", "epochs": 4}],
    )
    assert not run(tmp_path / "one", options).summary["stopped_early"]
    finished = run(tmp_path / "two", options_two)
    assert finished.summary["stopped_early"] is True
    assert finished.summary["steps"] == 6


def test_l2_sp_pulls_every_phase_towards_the_pretrained_values(tmp_path):
    from jtl.experiment.setup import set_up

    optimizer = {"name": "sgd", "l2_sp": 0.1}
    options = config(
        train__phases=[
            {"freeze": "backbone", "epochs": 1, "optimizer": optimizer},
            {"freeze": "none", "epochs": 1, "optimizer": optimizer},
        ]
    )
    setup = set_up(options, tmp_path / "run", source())
    loaded = setup.pretrained.variables["params"]
    moved = jax.tree.map(lambda leaf: leaf + 1, loaded)
    for phase in setup.phases:
        start = flatten(phase.tx.init(moved))
        pulled = {path: leaf for path, leaf in start.items() if "/l2_sp/" in path}
        assert pulled
        for path, leaf in pulled.items():
            own = path.partition("/l2_sp/")[2]
            np.testing.assert_array_equal(leaf, flatten(loaded)[own])


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"train__monitor": "acuracy"}, r"train\.monitor='acuracy' is never reported"),
        ({"train__early_stopping": {"monitor": "los"}}, r"early_stopping\.monitor='los'"),
        (
            {"train__early_stopping": {}, "data__split": {"val": 0, "test": 0.2}},
            "validation split, which is empty",
        ),
        ({"train__loss": {"name": "sigmoid"}}, "have one each"),
        (
            {"train__phases": [{"batch_norm": {"layr": "train"}}]},
            "batch_norm: 'layr' matches no BatchNorm",
        ),
    ],
)
def test_what_cannot_be_is_said_before_a_folder_is_made(tmp_path, changes, said):
    with pytest.raises(ConfigError, match=said):
        run(tmp_path / "run", config(**changes))
    assert not (tmp_path / "run").exists()
