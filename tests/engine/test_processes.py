"""Several processes: the numbers of one device, the same errors everywhere, and no hang."""

import json
import os
import random
import re
import socket
import subprocess
import sys
from functools import lru_cache
from pathlib import Path

import jax
import numpy as np
import pytest

import jtl
from jtl.engine.parallel.processes import check_device_counts
from jtl.errors import ConfigError
from jtl.experiment.failures import fail_for_all, watch_others
from jtl.experiment.processes import start_processes
from jtl.training.together import arrays_of_first, is_first, on_first
from tests.engine import process_worker

PROJECT = Path(__file__).parents[2]
TOGETHER = pytest.mark.xdist_group("pair")  # so that what they look at is computed once


def free_port():
    """A port of this machine's that nobody listens at.

    It lies above those that systems give to connections, one of which could otherwise take it
    before the process that it is for has begun to listen.
    """
    while True:
        with socket.socket() as own:
            try:
                own.bind(("127.0.0.1", 61440 + random.randrange(4096)))
            except OSError:
                continue
            return own.getsockname()[1]


def run_together(tasks, devices=(4, 4), environment=({}, {}), limit=300):
    """Runs workers side by side; their exit statuses and what they printed."""
    workers = []
    try:
        for task, count, extra in zip(tasks, devices, environment):
            flags = re.sub(r"(device_count)=\d+", rf"\1={count}", os.environ["XLA_FLAGS"])
            workers.append(
                subprocess.Popen(
                    [sys.executable, "-m", "tests.engine.process_worker", json.dumps(task)],
                    cwd=PROJECT,
                    env={**os.environ, "XLA_FLAGS": flags, "JAX_ENABLE_X64": "1", **extra},
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    text=True,
                )
            )
        heard = [worker.communicate(timeout=limit) for worker in workers]
    finally:
        for worker in workers:
            worker.kill()
            worker.wait()
    return [(worker.returncode, out, err[-2000:]) for worker, (out, err) in zip(workers, heard)]


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """What two processes of four devices each computed together, by process."""
    folder, port = tmp_path_factory.mktemp("pair"), free_port()
    files = [folder / f"{index}.npz" for index in range(2)]
    tasks = [
        {"seat": [f"127.0.0.1:{port}", 2, index], "timeout": 60, "out": str(file)}
        for index, file in enumerate(files)
    ]
    for status, _, errors in run_together(tasks):
        assert status == 0, errors
    seen = []
    for file in files:
        with np.load(file) as arrays:
            seen.append(dict(arrays))
    return seen


@lru_cache
def alone():
    """The same of a single device, in this process."""
    with jax.enable_x64(True):
        return process_worker.train(jtl.parallel.single())


@TOGETHER
@pytest.mark.slow
@pytest.mark.parametrize("process", [0, 1])
@pytest.mark.parametrize("placement", process_worker.PLACEMENTS)
def test_processes_compute_what_one_device_does(pair, placement, process):
    expected = alone()
    prefix = f"{placement}/"
    seen = {k.removeprefix(prefix): v for k, v in pair[process].items() if k.startswith(prefix)}
    assert seen.keys() == expected.keys()
    assert len(set(expected["metric/loss"])) == process_worker.STEPS
    for name in expected.keys() - {"programs"}:
        exact = name in ("masks", "state/rng", "state/step", "metric/skipped")
        tolerance = {"rtol": 0} if exact else {"rtol": 1e-9, "atol": 1e-11}
        np.testing.assert_allclose(seen[name], expected[name], err_msg=name, **tolerance)
    assert seen["programs"][1:].sum() == 0


@TOGETHER
@pytest.mark.slow
def test_processes_end_with_the_same_bits(pair):
    for name in pair[0].keys() - {"said"}:
        np.testing.assert_array_equal(pair[0][name], pair[1][name], err_msg=name)


@TOGETHER
@pytest.mark.slow
def test_dropout_masks_differ_from_example_to_example(pair):
    assert len(np.unique(pair[0]["pmap/masks"])) > process_worker.BATCH // 2


@TOGETHER
@pytest.mark.slow
def test_the_first_process_tells_the_others(pair):
    said = [json.loads(str(own["said"]))["agreed"] for own in pair]
    assert [own.pop("first") for own in said] == [True, False]
    assert said[0] == said[1]
    assert said[0]["told"] == {"from": 0}
    assert said[0]["broadcast"] == 7
    assert said[0]["error"].startswith("process 0 found nothing!")


@TOGETHER
@pytest.mark.slow
def test_a_process_may_train_over_its_own_devices_alone(pair):
    for own in pair:
        assert json.loads(str(own["said"]))["apart"] == [0, 8, 29]


@TOGETHER
@pytest.mark.slow
def test_placements_that_do_not_fit_the_processes_are_refused(pair):
    first, second = (json.loads(str(own["said"]))["refusals"] for own in pair)
    assert first["foreign"] == ""
    assert "none of the 1 devices is one of process 1's" in second["foreign"]
    assert "process 0 has 4, process 1 has 1" in first["uneven"]
    assert "model=2) does not fit processes of 3 devices each" in first["model"]
    assert "process's share=6 does not divide over 4 devices" in first["share"]
    for same in ("uneven", "model", "share"):
        assert first[same] == second[same]


@pytest.mark.slow
def test_a_process_that_never_arrives_is_named():
    ports = [free_port(), free_port()]
    tasks = [
        {"seat": [f"127.0.0.1:{port}", 2, process], "timeout": 2}
        for process, port in enumerate(ports)
    ]
    heard = run_together(tasks)
    for (status, out, errors), port, missing in zip(heard, ports, (1, 0)):
        assert (status, errors) == (2, "")
        assert f"process {missing} of 2 did not arrive at 127.0.0.1:{port} within 2 s" in out


@pytest.mark.slow
def test_unequal_device_counts_are_refused_by_all_under_slurm():
    port = free_port()
    cluster = {
        "SLURM_JOB_ID": str(port - 61440),
        "SLURM_STEP_NODELIST": "127.0.0.1",
        "SLURM_NTASKS": "2",
    }
    own = [{"SLURM_PROCID": index, "SLURM_LOCALID": index} for index in ("0", "1")]
    heard = run_together([{"timeout": 60}] * 2, (4, 2), [{**cluster, **each} for each in own])
    for status, out, _ in heard:
        assert status == 2
        assert "process 0 has 4, process 1 has 2; start each with as many" in out


@pytest.mark.slow
@pytest.mark.parametrize("process", [0, 1])
def test_the_failure_of_one_ends_all(process):
    port = free_port()
    task = {"timeout": 60, "fails": process}
    heard = run_together([{**task, "seat": [f"127.0.0.1:{port}", 2, index]} for index in range(2)])
    assert [status for status, _, _ in heard] == [2, 2]
    assert f"heard process {process}: no such image" in heard[1 - process][1]


@pytest.mark.soak
def test_a_process_that_comes_late_is_waited_for():
    # Longer than CPUs wait for each other where they first meet.
    seats = [[f"127.0.0.1:{free_port()}", 2, index] for index in range(2)]
    seats[1][0] = seats[0][0]
    tasks = [{"timeout": 60, "seat": seat, "late": 40 * seat[2]} for seat in seats]
    for status, out, errors in run_together(tasks):
        assert (status, out.splitlines()[-1]) == (0, "8.0"), errors


@pytest.mark.parametrize(
    ("given", "missing"),
    [
        (("10.0.0.1:1234", None, None), "processes and process not given"),
        (("10.0.0.1:1234", 2, None), "process not given"),
        ((None, 2, 0), "coordinator not given"),
    ],
)
def test_part_of_a_seat_is_refused(given, missing):
    with pytest.raises(ConfigError, match=missing):
        start_processes(*given)


def test_without_a_cluster_the_error_says_what_to_give():
    with pytest.raises(ConfigError, match=r"no SLURM.* give coordinator \(HOST:PORT"):
        start_processes(timeout=1)


def test_a_broken_cluster_environment_is_reported(monkeypatch):
    monkeypatch.setenv("OMPI_MCA_orte_hnp_uri", "1531576320.0;tcp://10.96.0.1:34911")
    with pytest.raises(ConfigError, match=r"cannot be used .*OMPI_COMM_WORLD_SIZE"):
        start_processes(timeout=1)


def test_starting_after_jax_is_refused():
    assert jax.devices()
    with pytest.raises(ConfigError, match="already started"):
        start_processes("127.0.0.1:1", 2, 0, timeout=0.1)


def test_one_process_alone_is_first_and_tells_itself():
    assert is_first()
    assert on_first(lambda: "told") == "told"
    assert arrays_of_first({"a": np.arange(3)}, {"a": np.arange(3)})["a"].tolist() == [0, 1, 2]


def test_failing_alone_is_a_plain_exit():
    watch_others(print)
    with pytest.raises(SystemExit) as caught:
        fail_for_all("no such image", 3)
    assert caught.value.code == 3


def test_equal_counts_pass_and_unequal_ones_are_listed():
    check_device_counts({0: 4, 1: 4})
    with pytest.raises(ConfigError, match="process 0 has 1, process 1 has 2, process 2 has 1"):
        check_device_counts({2: 1, 0: 1, 1: 2})
