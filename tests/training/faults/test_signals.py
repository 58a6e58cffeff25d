"""SIGTERM and SIGINT: the step in flight ends and is saved, and what goes on is the same run."""

import os
import random
import signal
import time

import pytest

from tests.training.faults import tiny
from tests.training.faults.processes import PATIENCE


def until(condition):
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, "nothing came of it"
        time.sleep(0.002)


def interrupt_until_complete(server, folder, whole, rng, number, compiled):
    """Asks one run to stop at random times until it is complete; how often it was asked."""
    folder.mkdir()
    asked = 0
    while not (folder / "outcome.json").exists():
        before = max(tiny.durable_steps(folder), default=0)
        process = server.fork("tiny:train", folder=str(folder), compiled=compiled)
        end = time.monotonic() + rng.uniform(0, 3.0 if asked < 6 else PATIENCE)
        while not process.ended and time.monotonic() < end:
            time.sleep(0.002)
        if not process.ended:
            process.kill(number)
            asked += 1
        status = process.wait()
        # Before the run listens, a signal ends the process as it ends any other.
        assert status in (0, 143, -number), server.tail()
        assert max(tiny.durable_steps(folder), default=0) >= before
        if status == 143:
            assert tiny.durable_steps(folder)
    assert tiny.unlike(whole, folder) == []
    return asked


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_the_step_in_flight_and_says_so(server, whole, tmp_path, number):
    process = server.fork("tiny:train", folder=str(tmp_path), waits=4)
    until((tmp_path / "waits").exists)
    process.kill(number)
    (tmp_path / "go").write_text("")
    assert process.wait() == 143, server.tail()
    (saved,) = tiny.durable_steps(tmp_path)[-1:]
    taken = len((tmp_path / tiny.EXAMPLES).read_text().splitlines())
    assert saved == taken
    assert server.call("tiny:train", folder=str(tmp_path)) == 0, server.tail()
    assert tiny.starts(tmp_path)[1]["step"] == saved
    assert tiny.unlike(whole, tmp_path) == []


@pytest.mark.slow
def test_a_signal_while_python_does_not_run_leaves_the_last_saved_step(server, whole, tmp_path):
    if not server.preloaded:
        pytest.skip("no C compiler, with which a process can be held in C")
    arguments = {"folder": str(tmp_path), "hangs": 7}
    process = server.fork("tiny:train", grace=1.0, **arguments)
    until((tmp_path / "hangs").exists)
    before = tiny.durable_steps(tmp_path)
    os.kill(process.pid, signal.SIGTERM)
    assert process.wait() == 143, server.tail()
    assert "the step in flight did not end within 1 s" in server.tail()
    assert tiny.durable_steps(tmp_path)[-1] in (before[-1], 6)  # a save was on its way
    assert server.call("tiny:train", **arguments) == 0, server.tail()
    assert tiny.unlike(whole, tmp_path) == []


@pytest.mark.soak
def test_signals_at_random_times_compilation_included(server, whole, tmp_path):
    rng, asked = random.Random(3), 0
    for number in range(1000):
        arguments = (whole, rng, signal.SIGTERM, number % 2 == 0)
        asked += interrupt_until_complete(server, tmp_path / str(number), *arguments)
        if asked >= 50:
            break
    assert asked >= 50
