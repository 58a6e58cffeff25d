"""Claims to an address: one owner at a time, the dead followed, the one that slept told."""

import json
import os
import subprocess
import sys
import threading

import pytest

from jtl.errors import CheckpointError
from jtl.training import lease
from jtl.training.lease import claimed
from jtl.training.storage import ObjectStorage


@pytest.fixture
def storage(objects, tmp_path):
    return ObjectStorage(f"gs://bucket/{tmp_path.name}")


def claims(storage):
    return {name: json.loads(storage.read(name)) for name in storage.top(lease.PREFIX)}


def left_by(storage, number=1, **changes):
    """A claim as an owner leaves it that was cut off."""
    record = {**lease._identity(), "token": "left", **changes}
    storage.write(f".claim-{number}", json.dumps(record).encode())


def elsewhere(monkeypatch, *, beat, patience):
    """Lets every claim seem to be another machine's, which only signs of life tell of."""
    monkeypatch.setattr(lease, "_here", lambda owner: False)
    monkeypatch.setattr(lease, "BEAT", beat)
    monkeypatch.setattr(lease, "LEASE", patience)


def test_a_second_owner_is_refused_in_a_line_that_names_the_first(storage):
    with claimed(storage) as claim:
        claim.check()
        with pytest.raises(CheckpointError) as refused, claimed(storage):
            pass
        claim.check()
    assert f"is in use by process {os.getpid()} on" in str(refused.value)
    assert "\n" not in str(refused.value)
    with claimed(storage) as claim:  # at once, as the first has ended
        assert claim.number == 2
    assert list(claims(storage)) == [".claim-2"]


def test_an_owner_that_died_here_is_followed_at_once(storage):
    dead = subprocess.Popen([sys.executable, "-c", ""])
    started = lease.started(dead.pid)
    dead.wait()
    left_by(storage, process=dead.pid, started=started)
    with claimed(storage, tell=pytest.fail) as claim:
        assert claim.number == 2


def test_an_owner_whose_process_id_was_given_anew_is_followed_at_once(storage):
    left_by(storage, started="1")
    with claimed(storage, tell=pytest.fail) as claim:
        assert claim.number == 2


def test_an_owner_elsewhere_that_gives_no_sign_of_life_is_followed_in_time(storage, monkeypatch):
    elsewhere(monkeypatch, beat=10.0, patience=0.2)
    left_by(storage, host="far", machine="another")
    told = []
    with claimed(storage, told.append) as claim:
        assert claim.number == 2
    assert "was last held by process" in told[0]
    assert "on far" in told[0]


def test_an_owner_elsewhere_that_lives_is_not_followed(storage, monkeypatch):
    elsewhere(monkeypatch, beat=0.05, patience=60.0)
    with (
        claimed(storage),
        pytest.raises(CheckpointError, match="is in use by"),
        claimed(storage),
    ):
        pass


def test_an_owner_elsewhere_that_ends_meanwhile_is_followed(storage, monkeypatch):
    elsewhere(monkeypatch, beat=10.0, patience=60.0)
    left_by(storage)
    followed = threading.Thread(target=lambda: left_by(storage, released=True))
    with claimed(storage, lambda note: followed.start()) as claim:
        assert claim.number == 2
    followed.join()


def test_an_owner_that_was_taken_for_dead_is_told_and_changes_nothing(storage, monkeypatch):
    elsewhere(monkeypatch, beat=100.0, patience=0.2)
    with claimed(storage) as asleep, claimed(storage) as second:
        assert (asleep.number, second.number) == (1, 2)
        with pytest.raises(CheckpointError, match="was taken over by process"):
            asleep.check()
        second.check()
        before = claims(storage)
        asleep.release()
        assert claims(storage) == before


def test_of_many_that_race_for_a_dead_owners_address_one_has_it(storage, monkeypatch):
    left_by(storage, started="1")
    start, held, over = threading.Barrier(6, timeout=60), [], threading.Barrier(6, timeout=60)
    refused = []

    def race():
        start.wait()
        try:
            with claimed(storage) as claim:
                held.append(claim.number)
                over.wait()
                claim.check()
        except CheckpointError as error:
            refused.append(str(error))
            over.wait()

    threads = [threading.Thread(target=race) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert held == [2]
    assert len(refused) == 5
    assert all("is in use by" in line for line in refused)


def test_who_comes_late_finds_the_higher_number_and_withdraws(storage, monkeypatch):
    # Between its look and its own claim two others came and went, and a third has the address.
    numbers = iter([[1], [3], [3]])
    monkeypatch.setattr(lease, "_numbers", lambda storage: next(numbers, [3]))
    left_by(storage, started="1")
    left_by(storage, 3)
    with pytest.raises(CheckpointError, match="is in use by"), claimed(storage):
        pass
    assert claims(storage)[".claim-3"]["token"] == "left"
