"""A fault at each file operation of a save: killed, torn, or refused by the disk."""

import errno
import json
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from jtl.training.checkpoint import Checkpoints
from jtl.training.files import read_lines
from jtl.training.saved_steps import Progress, abstract
from jtl.tree import differences
from tests.training.faults import saving
from tests.training.faults.processes import PATIENCE

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
    # Threads take turns: now and then a save has an operation less than the one that was counted.
    assert status in ((-9, 0) if how in ("kill", "tear") else (0, 2)), where
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
        names = (path.name for path in (folder / "run" / "checkpoints").iterdir())
        names = sorted(name for name in names if not name.startswith("frozen-"))
        assert names in (["1", "2"], ["2", "3"], ["1", "2", "3"]), where
        checkpoints.save(saving.state(4), Progress(step=4, best_step=4))
        checkpoints.wait()
        assert checkpoints.progress().step == 4, where
    shutil.rmtree(folder)
    return status


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fault", "every"),
    [
        ("killed before it", 48),
        ("killed after half of it", 48),
        ("disk full from there on", 48),
        ("input or output error, once", 48),
    ],
)
def test_a_fault_at_some_file_operations_of_a_save_costs_that_save_at_most(
    server, seed, tmp_path, fault, every
):
    folder, count = seed
    places = range(1 + count % every, count + 1, every)
    struck = [strike(server, folder, tmp_path / str(n), n, *FAULTS[fault]) for n in places]
    # Some operations may fail and cost nothing, such as clearing up; which are struck varies.
    assert any(struck)


@pytest.mark.soak
@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_at_each_file_operation_of_a_save_costs_that_save_at_most(
    server, seed, tmp_path, fault
):
    folder, count = seed
    places = range(1, count + 1)
    struck = [strike(server, folder, tmp_path / str(n), n, *FAULTS[fault]) for n in places]
    assert sum(status != 0 for status in struck) > count / 2


@pytest.mark.slow
@pytest.mark.parametrize("how", ["kill", "tear"])
def test_a_file_that_is_replaced_is_the_old_one_or_the_new_one(server, tmp_path, how):
    if not server.preloaded:
        pytest.skip("no C compiler, with which operations of files can be struck")
    path, found, nth, status = tmp_path / "summary.json", set(), 0, -9
    while status == -9:
        nth += 1
        path.write_text(saving.OLD)
        status = server.call("saving:replace", path=str(path), nth=nth, how=how)
        assert status in (-9, 0), server.tail()
        text = path.read_text()
        assert text in (saving.OLD, saving.NEW)
        found.add((status, text == saving.NEW))
    assert nth >= 4  # open, write, sync, rename
    assert (-9, False) in found
    assert text == saving.NEW


@pytest.mark.slow
@pytest.mark.parametrize("how", ["kill", "tear"])
def test_records_that_are_cut_off_are_those_of_whole_steps(server, tmp_path, how):
    if not server.preloaded:
        pytest.skip("no C compiler, with which operations of files can be struck")
    path, nth, status = tmp_path / "metrics.jsonl", 0, -9
    lines = [json.dumps({"kind": "train", "step": step, "more": "x" * 9000}) for step in (1, 2, 3)]
    while status == -9:
        nth += 1
        path.write_text("".join(line + "\n" for line in lines))
        status = server.call("saving:record", folder=str(tmp_path), nth=nth, how=how)
        assert status in (-9, 0), server.tail()
        steps = [record["step"] for record in read_lines(path)]
        assert steps in ([1, 2, 3], [1, 2])
    assert nth >= 5
    assert steps == [1, 2, 3]


@pytest.mark.slow
def test_a_disk_that_is_full_is_said_and_costs_that_step_alone(tmp_path):
    enter = ["unshare", "--user", "--map-root-user", "--mount"]
    mount = f"mount -t tmpfs -o size=2m none {shlex.quote(str(tmp_path))}"
    if shutil.which("unshare") is None or subprocess.run([*enter, "sh", "-c", mount]).returncode:
        pytest.skip("this user may mount no file system")
    python = shlex.join([sys.executable, "-m", "tests.training.faults.full", str(tmp_path)])
    done = subprocess.run(
        [*enter, "sh", "-c", f"{mount} && {python}"],
        cwd=Path(__file__).parents[3],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "No space left on device" in done.stdout
    assert done.stdout.splitlines()[-1] == "whole again"
