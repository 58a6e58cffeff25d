"""Trainings whose data is read by other processes, ended from outside."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.data.photos import photo_folder

PATIENCE = 180  # seconds that a process may take to start or to end, on a busy machine
CONFIG = """
name: photos
model: {name: resnet_mini, weights: null}
data: {source: photos, batch_size: 4, split: {val: 0, test: 0}, read: {workers: 2}}
augment: {crop: {}}
train:
  {monitor: null, log_every: 1, placement: single, phases: [{freeze: backbone, steps: 100000}]}
"""


@pytest.fixture
def training(tmp_path):
    """A training of two readers that has made its first steps, in a session of its own."""
    photo_folder(tmp_path / "photos")
    (tmp_path / "photos.yaml").write_text(CONFIG)
    process = subprocess.Popen(
        [sys.executable, "-c", "from jtl.cli import main; main()", "train", "photos.yaml"],
        cwd=tmp_path,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    )
    log, deadline = tmp_path / "runs/photos/metrics.jsonl", time.monotonic() + PATIENCE
    while not (log.exists() and '"step": 3,' in log.read_text()):
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    yield process
    for left in of_session(process.pid):
        os.kill(left, signal.SIGKILL)
    process.communicate()


def of_session(session):
    """The processes of a session, but for those that have ended and wait to be noticed."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, *_, own = path.read_text().rpartition(")")[2].split()[:4]
        except OSError:
            continue
        if int(own) == session and state != "Z":
            found.append(int(path.parent.name))
    return found


def assert_all_end(session):
    deadline = time.monotonic() + PATIENCE
    while (left := of_session(session)) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not left


@pytest.mark.slow
def test_an_interrupt_from_the_keyboard_ends_all_processes(training):
    assert len(of_session(training.pid)) >= 3
    os.killpg(training.pid, signal.SIGINT)  # as a terminal does
    _, said = training.communicate(timeout=PATIENCE)
    assert training.returncode == 143
    assert "jtl: stopped by SIGINT; step " in said.strip().splitlines()[-1]
    assert_all_end(training.pid)


@pytest.mark.slow
def test_readers_end_with_a_training_that_is_killed(training):
    assert len(of_session(training.pid)) >= 3
    training.kill()
    training.wait()
    assert_all_end(training.pid)
