"""Each thing that is saved, lost or changed in turn: none goes unnoticed."""

import dataclasses
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jtl
from jtl.errors import JtlError
from jtl.study.verify.examples import NAME, ExampleLog
from jtl.training.checkpoint import Checkpoints
from jtl.training.logs import Records
from jtl.training.saved_steps import Progress, abstract
from jtl.tree import differences, flatten, map_with_path
from tests.training.faults import tiny

POISONED = (10,)  # the step after the one that is resumed from, so that skipped steps count


def train(folder, poisoned=()):
    """Trains to the end, or goes on; the error that it ends with, if any."""
    (folder / "run").mkdir(parents=True, exist_ok=True)
    with Checkpoints(folder / "run") as checkpoints:
        start = (checkpoints.progress() or Progress()).step
        with Records(folder / "run", start) as records:
            heard = (records, ExampleLog(folder / NAME))
            loop = tiny.make_loop(checkpoints, heard, jtl.parallel.single(), poisoned=poisoned)
            outcome = loop.run(tiny.variables(), 3)
    tiny.write_outcome(folder, outcome.state, outcome.progress)


@pytest.fixture(scope="module")
def half(tmp_path_factory):
    """A run that was cut off after step 9, and the same run to its end."""
    return halves(tmp_path_factory.mktemp("half"))


def halves(folder, poisoned=(), cut=9):
    train(folder / "whole", poisoned)
    stopped = folder / "stopped"
    (stopped / "run").mkdir(parents=True)
    with Checkpoints(stopped / "run") as checkpoints, Records(stopped / "run", 0) as records:
        heard = (records, ExampleLog(stopped / NAME))
        loop = tiny.make_loop(checkpoints, heard, jtl.parallel.single(), poisoned=poisoned)
        with pytest.raises(JtlError, match=f"step {cut} is saved"):
            dataclasses.replace(loop, stop=stop_at(cut)).run(tiny.variables(), 3)
    shutil.copytree(stopped, folder / "faithful")
    train(folder / "faithful", poisoned)
    assert tiny.unlike(folder / "whole", folder / "faithful") == []
    return folder


def stop_at(last):
    return lambda step: "a test" if step == last else None


def begun():
    """The state that a run begins with, which is what a leaf is that was not restored."""
    loop = tiny.make_loop(None, (), jtl.parallel.single())
    tx = loop.phases[1].tx
    return jtl.TrainState.create(tiny.variables(), tx, rng=4, ema=True, loss_scale=True)


STATE = sorted(flatten(begun()))


def perturbed(leaf):
    if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return jax.random.fold_in(leaf, 1)
    leaf = jnp.asarray(leaf)
    return leaf.at[(0,) * leaf.ndim].add(jnp.asarray(1e-3 + leaf.ravel()[0] / 8 + 1, leaf.dtype))


def resumed(half, folder, monkeypatch, change_state=None, change_progress=None, poisoned=()):
    """What differs at the end of a run whose restoring is wrong; its error, if it ends with one."""
    shutil.copytree(half / "stopped", folder)
    restore, progress = Checkpoints.restore, Checkpoints.progress
    if change_state:
        monkeypatch.setattr(
            Checkpoints, "restore", lambda self, step, like: change_state(restore(self, step, like))
        )
    if change_progress:
        monkeypatch.setattr(Checkpoints, "progress", lambda self: change_progress(progress(self)))
    try:
        train(folder, poisoned)
    except Exception as error:  # whatever it is, it is noticed
        return [str(error)]
    return tiny.unlike(half / "whole", folder)


@pytest.mark.slow
def test_every_leaf_of_the_state_counts(half, tmp_path, monkeypatch):
    fresh, same = flatten(begun()), []
    for number, path in enumerate(STATE):
        for how in ("perturbed", "lost"):

            def change(state, path=path, how=how):
                def own(here, leaf):
                    if here != path:
                        return leaf
                    return perturbed(leaf) if how == "perturbed" else fresh[path]

                changed = map_with_path(own, state)
                if not differences(state, changed):
                    same.append((path, how))
                return changed

            with monkeypatch.context() as patch:
                found = resumed(half, tmp_path / f"{number}-{how}", patch, change_state=change)
            assert found or (path, how) in same, f"{path} was {how}, and nothing differs"
    # What a run never changes is what it began with, and cannot be lost.
    assert {how for _, how in same} <= {"lost"}
    assert len(same) < len(STATE) / 3


CHANGES = {
    "step": 5,
    "phase": 0,
    "best_step": 3,
    "best_value": 0.99,
    "patience_value": 0.99,
    "stale": 3,
    "stopped": True,
    "skipped": 9,
    "due": False,
}


@pytest.mark.slow
def test_everything_that_is_known_beside_the_state_counts(half, tmp_path, monkeypatch):
    poisoned = halves(tmp_path / "poisoned", POISONED)
    due = halves(tmp_path / "at-eight", cut=8)  # whose evaluation is still to come
    names = {field.name for field in dataclasses.fields(Progress)}
    assert names == CHANGES.keys() | {"seconds"}  # a clock's, on which nothing depends
    for name, value in CHANGES.items():

        def change(progress, name=name, value=value):
            if progress is None or progress.step < 8:
                return progress
            assert getattr(progress, name) != value, name
            return dataclasses.replace(progress, **{name: value})

        with monkeypatch.context() as patch:
            run = {"skipped": poisoned, "due": due}.get(name, half)
            faulty = POISONED if name == "skipped" else ()
            found = resumed(run, tmp_path / name, patch, None, change, faulty)
        assert found, f"{name} was changed, and nothing differs"


def test_a_leaf_that_is_missing_from_a_checkpoint_is_refused(half):
    with Checkpoints(half / "stopped" / "run") as checkpoints:
        state = begun()
        more = dataclasses.replace(state, params={**state.params, "more": np.zeros(3, np.float32)})
        more = dataclasses.replace(more, params=jax.tree.map(jnp.asarray, more.params))
        with pytest.raises(JtlError, match="params/more is missing"):
            checkpoints.restore(9, abstract(more))
