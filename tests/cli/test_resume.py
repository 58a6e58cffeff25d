"""A training process that is killed without warning, and the one that goes on for it."""

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from jtl import load_run
from jtl.tree import differences

COMMAND = [sys.executable, "-c", "from jtl.cli import main; main()", "train", "digits"]
SHORT = [
    *("--set", "train.phases.0.epochs=1", "--set", "train.phases.1.epochs=1"),
    *("--set", "train.placement=single", "--set", "train.log_every=1"),
    *("--set", "train.evaluate_every=0.5"),
]
PATIENCE = 240  # seconds that a process may take to reach a step, on a busy machine


def train(folder, *words):
    command = [*COMMAND, "--workdir", str(folder), *SHORT, *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)


def kill_at(folder, step):
    """Starts a run, and kills it as soon as its records tell of this step."""
    log = folder / "metrics.jsonl"
    process = subprocess.Popen(
        [*COMMAND, "--workdir", str(folder), *SHORT, "--resume"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline and process.poll() is None:
            if log.exists() and f'"step": {step},' in log.read_text():
                break
            time.sleep(0.02)
    finally:
        os.kill(process.pid, signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL, "the run ended before it could be killed"


def records(folder):
    timed = ("images_per_second", "seconds_left")
    found = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    # Every start says anew what it caches.
    kept = [record for record in found if record["kind"] != "cache"]
    return [{k: v for k, v in record.items() if k not in timed} for record in kept]


@pytest.mark.slow
def test_a_run_killed_in_both_phases_ends_with_the_same_bits(tmp_path):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert train(whole).returncode == 0
    kill_at(killed, 13)
    kill_at(killed, 26)  # of the second phase, which begins with step 18
    done = train(killed, "--resume")
    assert done.returncode == 0, done.stderr
    assert "resumed  at step" in done.stdout
    assert "\x1b" not in done.stdout
    for which in ("best", "last"):
        one, other = load_run(whole, which), load_run(killed, which)
        assert not differences(one.variables, other.variables)
    assert records(killed) == records(whole)
    assert (killed / "predictions.csv").read_bytes() == (whole / "predictions.csv").read_bytes()
    ends = [json.loads((folder / "summary.json").read_text()) for folder in (whole, killed)]
    assert ends[0]["final"] == ends[1]["final"]
    assert np.isfinite(ends[0]["final"]["metrics"]["test"]["loss"])
