"""SIGKILL at random times: nothing that was saved is lost, and the end is the same, bit by bit."""

import random
import shutil
import time

import pytest

from tests.training.faults import tiny


def kill_until(server, folder, whole, kills, seed):
    """Runs that are killed again and again until they end, one after the other."""
    rng, killed, latest = random.Random(seed), 0, 0.5
    while killed < kills:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        while not (folder / "outcome.json").exists():
            before = max(tiny.durable_steps(folder), default=0)
            started, known = time.monotonic(), len(tiny.starts(folder))
            process = server.fork("tiny:train", folder=str(folder))
            rest = rng.uniform(0, latest)
            while not process.ended and (time.monotonic() - started < rest or killed >= kills):
                time.sleep(0.002)
            process.kill() if not process.ended else None
            status = process.wait()
            assert status in (0, -9), server.tail()
            killed += status == -9
            if status == 0:
                latest = 0.8 * latest + 0.2 * (time.monotonic() - started)
            elif len(tiny.starts(folder)) == known:
                latest *= 1.1
            for start in tiny.starts(folder)[known:]:
                assert start["step"] >= before
                assert start["notes"] == []
        assert tiny.unlike(whole, folder) == []
    return killed


@pytest.mark.slow
def test_runs_that_are_killed_at_random_times_end_with_the_same_bits(server, whole, tmp_path):
    assert kill_until(server, tmp_path / "killed", whole, 50, seed=1) == 50


@pytest.mark.soak
def test_runs_that_are_killed_hundreds_of_times_end_with_the_same_bits(server, whole, tmp_path):
    assert kill_until(server, tmp_path / "killed", whole, 500, seed=2) == 500
