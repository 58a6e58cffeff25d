"""Training processes at an address of a server of objects: killed, stopped, and gone on for."""

import json
import os
import shutil
import signal
import subprocess
import time

import pytest

from jtl import load_run
from jtl.training.storage import ObjectStorage
from jtl.tree import differences
from tests.cli.test_resume import COMMAND, PATIENCE, SHORT, records
from tests.training.objects import serving

ADDRESS = "gs://bucket/runs/digits"
WORDS = [*SHORT, "--set", "train.checkpoint.every=3", "--resume", "--no-report"]


@pytest.fixture
def storage(tmp_path, monkeypatch):
    with serving() as environment:
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("JTL_CACHE", str(tmp_path / "cache"))
        yield ObjectStorage(ADDRESS)


def start(place):
    return subprocess.Popen(
        [*COMMAND, "--workdir", str(place), *WORDS],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def ended(process):
    """The status of a process, and what it said."""
    out, err = process.communicate(timeout=PATIENCE)
    return process.returncode, out, err


def newest(storage):
    """The newest step whose manifest is there."""
    names = (name.split("/") for name in storage.sizes("checkpoints"))
    steps = (parts[1] for parts in names if parts[2:] == ["manifest.json"])
    return max((int(step) for step in steps if step.isdecimal()), default=0)


def wait_for(storage, step, process):
    deadline = time.monotonic() + PATIENCE
    while newest(storage) < step and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    assert process.poll() is None, ended(process)


def flip(storage, step):
    """Changes one bit of a step as it is stored."""
    name = max(storage.sizes(f"checkpoints/{step}").items(), key=lambda item: item[1])[0]
    content = storage.read(name)
    storage.write(name, content[:-1] + bytes([content[-1] ^ 4]))


@pytest.mark.slow
def test_a_run_at_an_address_that_is_killed_and_damaged_ends_with_the_same_bits(storage, tmp_path):
    whole = tmp_path / "whole"
    assert ended(start(whole))[0] == 0
    killed = start(ADDRESS)
    wait_for(storage, 6, killed)
    os.kill(killed.pid, signal.SIGKILL)
    assert ended(killed)[0] == -signal.SIGKILL
    shutil.rmtree(tmp_path / "cache" / "runs")
    damaged = newest(storage)
    flip(storage, damaged)

    status, out, err = ended(start(ADDRESS))
    assert (status, err) == (0, ""), err
    assert f"damaged  step {damaged} is damaged (" in out
    assert f"set aside as {ADDRESS}/checkpoints/damaged-{damaged}-1" in out
    assert f"resumed  at step {damaged - 3} of " in out
    assert f"all in {ADDRESS}" in out
    for which in ("best", "last"):
        one, other = load_run(whole, which), load_run(ADDRESS, which)
        assert differences(one.variables, other.variables) == []
    assert records(other.workdir) == records(whole)
    ends = [json.loads((own / "summary.json").read_text()) for own in (whole, other.workdir)]
    assert ends[0]["final"] == ends[1]["final"]


@pytest.mark.soak
def test_a_run_at_an_address_is_one_processs_and_saves_before_it_stops(storage, tmp_path):
    stopped = start(ADDRESS)
    wait_for(storage, 6, stopped)
    status, _, err = ended(start(ADDRESS))
    assert (status, err.count("\n")) == (2, 1), err
    assert f"jtl: {ADDRESS} is in use by process {stopped.pid} on " in err
    stopped.send_signal(signal.SIGTERM)
    status, _, err = ended(stopped)
    assert status == 143, err
    assert f"step {newest(storage)} is saved" in err
    shutil.rmtree(tmp_path / "cache" / "runs")
    for said in ("resumed  at step", "complete at step"):
        status, out, err = ended(start(ADDRESS))
        assert (status, err) == (0, ""), err
        assert said in out
