"""`jtl train` in several processes: one run, one folder, one voice."""

import json
import os
import subprocess
import sys
import time

import numpy as np
import pytest

from jtl import load_run
from jtl.experiment import train
from jtl.experiment.options import read_config
from jtl.tree import differences, flatten
from tests.engine.test_processes import free_port

COMMAND = [sys.executable, "-c", "from jtl.cli import main; main()", "train", "digits"]
SHORT = [
    *("--set", "train.phases.0.epochs=1", "--set", "train.phases.1.epochs=1"),
    *("--set", "train.log_every=1", "--set", "data.batch_size=64"),
]
PATIENCE = 400  # seconds that all processes may take on a busy machine


def start(devices, *words):
    flags = f"--xla_force_host_platform_device_count={devices}"
    return subprocess.Popen(
        [*COMMAND, *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "XLA_FLAGS": flags},
    )


def finish(process):
    out, error = process.communicate(timeout=PATIENCE)
    # What the collectives' library prints, from several threads into one line, is not ours.
    foreign = ("[Gloo]", "peer ranks")
    ours = [line for line in out.splitlines() if not any(word in line for word in foreign)]
    return process.returncode, "\n".join(ours), error


def together(folder, *words, processes=2, devices=2):
    shared = ["--coordinator", f"127.0.0.1:{free_port()}", "--processes", str(processes)]
    started = [
        start(devices, "--workdir", str(folder), *words, *shared, "--process", str(index))
        for index in range(processes)
    ]
    return [finish(process) for process in started]


def losses(folder):
    records = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return [own["metrics"]["loss"] for own in records if own["kind"] == "train"]


@pytest.mark.slow
def test_two_processes_make_one_run_that_one_process_can_go_on_with(tmp_path):
    folder = tmp_path / "together"
    stop = ["--set", "train.early_stopping.patience=1", "--set", "train.early_stopping.min_delta=9"]
    first, second = together(folder, *SHORT)
    assert (first[0], second[0]) == (0, 0), first[2] + second[2]
    assert "34 steps" in first[1]
    assert second[1].strip() == ""
    trained = load_run(folder)
    alone = train(read_config("digits", [*SHORT[1::2], "train.placement=single"]),
                  workdir=tmp_path / "alone")  # fmt: skip
    np.testing.assert_allclose(losses(folder), losses(alone.workdir), rtol=1e-3)
    np.testing.assert_allclose(losses(folder)[0], losses(alone.workdir)[0], rtol=1e-5)
    for path, leaf in flatten(trained.variables).items():
        np.testing.assert_allclose(leaf, flatten(alone.variables)[path], atol=1e-2, err_msg=path)
    # The same folder, opened by one process on one device, is complete.
    status, said, error = finish(start(1, "--workdir", str(folder), *SHORT, "--resume"))
    assert status == 0, error
    assert "complete at step 34" in said
    # Both hear of a mistake that only the first can see, and neither hangs.
    for status, said, error in together(folder, *SHORT, *stop):
        assert status == 2
        assert said.strip() == ""
        assert "already holds a run: add --resume" in error


@pytest.mark.soak
@pytest.mark.parametrize("victim", [0, 1])
def test_a_process_that_is_killed_ends_the_other_and_both_go_on(tmp_path, victim):
    folder, whole = tmp_path / "killed", tmp_path / "whole"
    assert [ended[0] for ended in together(whole, *SHORT, devices=1)] == [0, 0]
    shared = ["--coordinator", f"127.0.0.1:{free_port()}", "--processes", "2"]
    words = ["--workdir", str(folder), *SHORT, *shared]
    both = [start(1, *words, "--process", str(index)) for index in range(2)]
    log, deadline = folder / "metrics.jsonl", time.monotonic() + PATIENCE
    while not (log.exists() and '"step": 8,' in log.read_text()):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    both[victim].kill()
    status, _, error = finish(both[1 - victim])
    finish(both[victim])
    if victim == 0:  # the coordinator: JAX itself ends the others, at once
        assert status in (2, -6), error
        assert "another of the 2 processes has ended" in error or "another task died" in error
    else:
        assert status == 2, error
        assert "another of the 2 processes has ended without a word" in error
        assert "start all of them again with --resume" in error
    assert [ended[0] for ended in together(folder, *SHORT, "--resume", devices=1)] == [0, 0]
    assert losses(folder) == losses(whole)
    assert not differences(load_run(whole, "last").variables, load_run(folder, "last").variables)


@pytest.mark.slow
def test_a_mistake_that_one_process_alone_meets_ends_both(tmp_path):
    shared = ["--coordinator", f"127.0.0.1:{free_port()}", "--processes", "2"]
    folder = ["--workdir", str(tmp_path / "run")]
    # The second was started with another config: batches of two examples a device cannot be
    # split into four, which the first does not see.
    first = start(2, *folder, *SHORT, *shared, "--process", "0")
    wrong = [*folder, *SHORT, "--set", "train.accumulate=7", *shared, "--process", "1"]
    second = start(2, *wrong)
    for status, _, error in (finish(first), finish(second)):
        assert status == 2
        assert error.count("train.accumulate=7 does not divide") == 1


@pytest.mark.slow
def test_a_process_that_never_arrives_is_named(tmp_path):
    address, folder = f"127.0.0.1:{free_port()}", tmp_path / "run"
    words = ["--coordinator", address, "--processes", "3", "--process", "0", "--wait", "1"]
    status, _, error = finish(start(1, "--workdir", str(folder), *words))
    assert status == 2
    assert f"2 processes (1, 2) of 3 did not arrive at {address} within 1 seconds" in error
    assert not folder.exists()


def test_part_of_an_address_is_refused():
    status, _, error = finish(start(1, "--processes", "2"))
    assert status == 2
    assert "coordinator and process not given" in error


def test_no_cluster_is_said():
    status, _, error = finish(start(1, "--distributed"))
    assert status == 2
    assert "no SLURM, Open MPI, TPU pod or Kubernetes was found" in error
