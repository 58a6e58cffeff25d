"""The check as a user runs it: it passes where it should, and fails where resuming is planted."""

import dataclasses
import random
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from jtl.config import to_yaml
from jtl.errors import CheckpointError, ConfigError
from jtl.experiment.options import read_config
from jtl.study.verify.check import shortened, verify_resume
from jtl.study.verify.start import start
from jtl.study.verify.state import Saved
from jtl.training.checkpoint import Checkpoints

SMALL = ("train.phases=[{freeze: backbone, epochs: 2}]", "augment={}")


def test_phases_are_cut_short_and_saved_often():
    config = read_config("digits")
    short = shortened(config, 40)
    assert [phase.steps for phase in short.train.phases] == [20, 20]
    assert [phase.epochs for phase in short.train.phases] == [None, None]
    assert short.train.checkpoint.every == 5
    assert short.train.phases[0].freeze == config.train.phases[0].freeze
    assert [phase.steps for phase in shortened(config, 2).train.phases] == [1, 1]


@pytest.mark.parametrize("numbers", [{"kills": 0}, {"steps": 1}])
def test_numbers_without_sense_are_refused(tmp_path, numbers):
    with pytest.raises(ConfigError, match="give at least 1 kill and 2 steps"):
        verify_resume(read_config("digits"), folder=tmp_path, **numbers)
    assert not list(tmp_path.iterdir())


def test_an_address_is_refused_and_no_folder_of_its_name_is_made(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CheckpointError, match="gs://bucket/mine is an address of object storage"):
        verify_resume(read_config("digits"), folder=Path("gs://bucket/mine"))
    assert not list(tmp_path.iterdir())


def test_a_start_that_fails_is_told_with_its_error(tmp_path):
    command = (sys.executable, "-c", "import sys; sys.exit('jtl: no such data')")
    with pytest.raises(CheckpointError, match="of the reference run ended with 1: no such data"):
        verify_resume(read_config("digits"), folder=tmp_path, start=command)
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_a_run_that_is_killed_passes_and_leaves_nothing(tmp_path):
    changes = (word for change in SMALL for word in ("--set", change))
    words = ["verify-resume", "digits", "--kills", "1", "--steps", "8", "--workdir", "mine"]
    command = [sys.executable, "-c", "from jtl.cli import main; main()", *words, *changes]
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "kept").write_text("")
    done = subprocess.run(
        command, cwd=tmp_path, capture_output=True, text=True, timeout=400, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "PASS     8 steps, " in done.stdout
    assert "\n         kill 1 " in done.stdout
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["kept"]


@pytest.mark.slow
def test_a_leaf_and_a_counter_that_differ_are_named(tmp_path):
    config = shortened(read_config("digits", SMALL), 2)
    whole, other = tmp_path / "whole", tmp_path / "other"
    whole.mkdir()
    (whole / "config.yaml").write_text(to_yaml(config))
    assert start(whole) == 0
    saved = Saved(config, whole / "run")
    assert list(saved.compare(whole / "run", whole / "run")) == []
    assert saved.leaves > 40
    shutil.copytree(whole, other)
    with Checkpoints(other / "run") as checkpoints:
        progress = checkpoints.progress()
        state = checkpoints.restore(progress.step, saved.like(progress.phase))
        params = dict(state.params)
        params["head"] = {**params["head"], "bias": params["head"]["bias"].at[3].add(1e-6)}
        state = dataclasses.replace(state, params=params)
        checkpoints.save(state, dataclasses.replace(progress, skipped=1))
    found = list(saved.compare(whole / "run", other / "run"))
    assert found[0].startswith("step 2, params/head/bias: differs by up to ")
    assert found[1:] == ["the last checkpoint: skipped is 1 and not 0"]


@pytest.mark.soak
def test_one_number_that_comes_back_changed_is_named(tmp_path):
    random.seed(0)  # the kill meets step 7 of 8, when some are saved
    verdict = verify_resume(
        read_config("digits", SMALL),
        kills=1,
        steps=8,
        folder=tmp_path,
        start=(sys.executable, "-m", "tests.study.verify.unfaithful"),
    )
    assert verdict.kills == 1
    assert any("params/head/bias: differs by up to" in line for line in verdict.differences)
    assert any(line.startswith("metrics.jsonl, record") for line in verdict.differences)
    assert verdict.folder.parent == tmp_path
    assert (verdict.folder / "killed" / "run" / "summary.json").exists()
