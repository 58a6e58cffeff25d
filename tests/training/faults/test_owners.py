"""Two runs in one folder: one owner at a time, named to the other, and none after it died."""

import json
import os
import random
import socket
import threading
import time

import pytest

from jtl.errors import CheckpointError
from jtl.training.owner import NAME, owned
from tests.training.faults import tiny


def race(server, folder, whole, rest):
    """Two starts in one folder at once; what became of them."""
    folder.mkdir()
    both = [server.fork("tiny:train", folder=str(folder))]
    time.sleep(rest)
    both.append(server.fork("tiny:train", folder=str(folder)))
    statuses = [process.wait() for process in both]
    assert 0 in statuses, server.tail()
    assert set(statuses) <= {0, 2}, server.tail()
    first, *later = tiny.starts(folder)
    assert first["step"] == 0
    # Whoever came after the first was refused, or came when it had ended.
    assert len(later) == statuses.count(0) - 1
    assert all(start["step"] == tiny.STEPS for start in later)
    assert tiny.unlike(whole, folder) == []
    return statuses


@pytest.mark.slow
def test_of_two_runs_in_one_folder_one_is_refused(server, whole, tmp_path):
    first = server.fork("tiny:train", folder=str(tmp_path), waits=4)
    while not (tmp_path / "waits").exists():
        assert not first.ended, server.tail()
        time.sleep(0.002)
    assert server.call("tiny:train", folder=str(tmp_path)) == 2
    assert f" is in use by process {first.pid} on " in server.tail()
    (tmp_path / "go").write_text("")
    assert first.wait() == 0, server.tail()
    assert len(tiny.starts(tmp_path)) == 1
    assert tiny.unlike(whole, tmp_path) == []


@pytest.mark.soak
def test_of_twenty_races_each_has_one_owner_and_loses_nothing(server, whole, tmp_path):
    rng, refused = random.Random(4), 0
    for number in range(20):
        statuses = race(server, tmp_path / str(number), whole, rng.choice([0, rng.random()]))
        refused += 2 in statuses
    assert refused >= 15


def test_an_owner_is_named_to_whoever_comes_second_and_gone_afterwards(tmp_path):
    said = rf"{tmp_path.name} is in use by process {os.getpid()} on {socket.gethostname()}"
    with owned(tmp_path), pytest.raises(CheckpointError, match=said), owned(tmp_path):
        pass
    with owned(tmp_path):
        pass


def test_threads_of_one_process_share_nothing_either(tmp_path):
    found = []

    def enter():
        try:
            with owned(tmp_path):
                found.append("entered")
        except CheckpointError as error:
            found.append(str(error))

    with owned(tmp_path):
        thread = threading.Thread(target=enter)
        thread.start()
        thread.join()
    assert len(found) == 1
    assert "in use" in found[0]


@pytest.mark.parametrize("pid", ["own", "other"])
def test_a_dead_owner_is_no_owner_even_where_its_process_id_lives(tmp_path, pid):
    # As a machine leaves it that lost power: the text without the lock.
    process = os.getpid() if pid == "own" else os.getppid()
    left = {"host": socket.gethostname(), "process": process, "started": "1"}
    (tmp_path / NAME).write_text(json.dumps(left))
    with owned(tmp_path):
        assert json.loads((tmp_path / NAME).read_text())["process"] == os.getpid()


@pytest.mark.slow
def test_a_killed_owner_stands_in_no_ones_way(server, whole, tmp_path):
    assert server.call("tiny:train", folder=str(tmp_path), dies=7) == -9
    assert json.loads((tmp_path / "run" / NAME).read_text())["process"] > 0
    assert server.call("tiny:train", folder=str(tmp_path)) == 0, server.tail()
    assert tiny.unlike(whole, tmp_path) == []
