"""A fault at each file operation of a save: killed, torn, or refused by the disk."""

import errno
import json
import shutil

import pytest

from jtl.training.checkpoint import Checkpoints, Progress, abstract
from jtl.tree import differences
from tests.training.faults import saving

FULL, BROKEN, READ_ONLY = errno.ENOSPC, errno.EIO, errno.EROFS
FAULTS = {
    "killed before it": ("kill", 0),
    "killed after half of it": ("tear", 0),
    "disk full from there on": ("fail on", FULL),
    "disk full, once": ("fail once", FULL),
    "input or output error": ("fail on", BROKEN),
    "input or output error, once": ("fail once", BROKEN),
    "read-only from there on": ("fail on", READ_ONLY),
}


@pytest.fixture(scope="module")
def seed(server, tmp_path_factory):
    """Two steps, and how many file operations the save of a third one takes."""
    if not server.preloaded:
        pytest.skip("no C compiler, with which operations of files can be struck")
    folder = tmp_path_factory.mktemp("seed")
    assert server.call("saving:prepare", folder=str(folder / "seed")) == 0, server.tail()
    shutil.copytree(folder / "seed", folder / "counted")
    struck = {"folder": str(folder / "counted"), "nth": 0, "how": "count"}
    assert server.call("saving:save", **struck) == 0, server.tail()
    count = json.loads((folder / "counted" / "said.json").read_text())["count"]
    assert count > 50
    return folder / "seed", count


def strike(server, seed, folder, nth, how, error):
    """One save with a fault at one operation, and whether all holds that has to."""
    shutil.copytree(seed, folder)
    status = server.call("saving:save", folder=str(folder), nth=nth, how=how, error=error)
    where = f"operation {nth}, {how} {error}: {server.tail()}"
    assert status == -9 if how in ("kill", "tear") else status in (0, 2), where
    with Checkpoints(folder / "run") as checkpoints:
        assert checkpoints.recover() == [], where
        progress = checkpoints.progress()
        assert progress.step in (2, 3), where
        if status == 0:
            assert progress.step == 3, where
        if status == 2:
            assert "step 3 could not be saved" in (folder / "said.json").read_text(), where
        back = checkpoints.restore(progress.step, abstract(saving.state(0)))
        assert differences(saving.state(progress.step), back) == [], where
        names = sorted(path.name for path in (folder / "run" / "checkpoints").iterdir())
        assert names in (["1", "2"], ["2", "3"], ["1", "2", "3"]), where
        checkpoints.save(saving.state(4), Progress(step=4, best_step=4))
        checkpoints.wait()
        assert checkpoints.progress().step == 4, where
    shutil.rmtree(folder)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fault", "every"),
    [
        ("killed before it", 24),
        ("killed after half of it", 24),
        ("disk full from there on", 32),
        ("input or output error, once", 32),
    ],
)
def test_a_fault_at_some_file_operations_of_a_save_costs_that_save_at_most(
    server, seed, tmp_path, fault, every
):
    folder, count = seed
    for nth in range(1 + count % every, count + 1, every):
        strike(server, folder, tmp_path / str(nth), nth, *FAULTS[fault])


@pytest.mark.soak
@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_at_each_file_operation_of_a_save_costs_that_save_at_most(
    server, seed, tmp_path, fault
):
    folder, count = seed
    for nth in range(1, count + 1):
        strike(server, folder, tmp_path / str(nth), nth, *FAULTS[fault])
