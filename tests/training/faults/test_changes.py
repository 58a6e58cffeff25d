"""Other devices, readers, placements and clocks from start to start: the same run goes on."""

import json
import os

import jax
import numpy as np
import pytest

import jtl
from jtl.study.verify.examples import NAME, read_examples
from jtl.training.checkpoint import Checkpoints
from jtl.training.saved_steps import abstract
from jtl.tree import flatten
from tests.training import runs
from tests.training.faults import tiny

YEAR = 365 * 24 * 3600


def last_state(folder):
    """The last state of a run in float64."""
    phase = runs.phase(5, 10, "none", ema_decay=0.9)
    like = jtl.TrainState.create(tiny.variables(), phase.tx, rng=3, ema=True, loss_scale=True)
    with Checkpoints(folder / "run") as checkpoints:
        return checkpoints.restore(checkpoints.progress().step, abstract(like))


def losses(folder):
    lines = (folder / "run" / "metrics.jsonl").read_text().splitlines()
    return {
        (record["kind"], record["step"]): record["metrics"]["loss"]
        for record in map(json.loads, lines)
    }


SOME = [
    {"devices": 1, "place": "single", "dies": 4},
    {"devices": 2, "place": "pmap", "dies": 7},
    {"devices": 8, "place": "mesh"},
]
ALL = [
    {"devices": 1, "place": "single", "workers": 0, "dies": 3},
    {"devices": 2, "place": "pmap", "workers": 1, "dies": 6},
    {"devices": 8, "place": "mesh", "workers": 2, "dies": 9},
    {"devices": 1, "place": "single", "workers": 0},
]


@pytest.mark.parametrize(
    "ways",
    [
        pytest.param(SOME, id="placements", marks=pytest.mark.slow),
        pytest.param(ALL, id="readers too", marks=pytest.mark.soak),
    ],
)
def test_other_devices_readers_and_placements_go_on_with_the_same_examples_and_masks(
    server, tmp_path, ways, x64
):
    whole, changed = tmp_path / "whole", tmp_path / "changed"
    whole.mkdir()
    changed.mkdir()
    assert server.call("tiny:train", folder=str(whole), x64=True) == 0, server.tail()
    for way in ways:
        status = server.call("tiny:train", folder=str(changed), x64=True, **way)
        assert status == (-9 if "dies" in way else 0), server.tail()
    steps = [start["step"] for start in tiny.starts(changed)]
    assert steps[0] == 0
    assert steps == sorted(steps)
    assert steps[-1] > 0
    expected = {record["step"]: record["example"] for record in read_examples(whole / NAME)}
    for record in read_examples(changed / NAME):
        assert record["example"] == expected[record["step"]], record["step"]
    # Sums over devices are taken in another order, which Adam amplifies: hence 64 bits.
    expected, found = losses(whole), losses(changed)
    assert expected.keys() == found.keys()
    for key, loss in expected.items():
        np.testing.assert_allclose(found[key], loss, rtol=1e-9, err_msg=str(key))
    one, other = flatten(last_state(whole)), flatten(last_state(changed))
    for path, leaf in one.items():
        if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            assert (jax.random.key_data(leaf) == jax.random.key_data(other[path])).all()
        else:
            np.testing.assert_allclose(other[path], leaf, rtol=1e-7, atol=1e-9, err_msg=path)


@pytest.mark.slow
def test_neither_a_moved_clock_nor_shuffled_times_change_a_run(server, whole, tmp_path):
    if not server.preloaded:
        pytest.skip("no C compiler, with which a clock can be moved")
    for clock, dies in ((YEAR, 5), (-YEAR, 9), (0, None)):
        before = tiny.durable_steps(tmp_path)
        status = server.call("tiny:train", folder=str(tmp_path), clock=clock, dies=dies)
        assert status == (0 if dies is None else -9), server.tail()
        assert tiny.starts(tmp_path)[-1]["step"] == max(before, default=0)
        for number, path in enumerate(sorted((tmp_path / "run").rglob("*"))):
            os.utime(path, ns=(10**18, 10**18 - number * 10**9))
    assert tiny.unlike(whole, tmp_path) == []
    assert tiny.durable_steps(tmp_path) == tiny.durable_steps(whole)
