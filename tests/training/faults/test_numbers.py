"""What is not a number, in the loss, a gradient or a metric: nothing good is lost to it."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jtl
from jtl.errors import DivergedError
from jtl.training.checkpoint import Checkpoints
from jtl.tree import differences
from tests.training.faults import tiny
from tests.training.runs import VARIABLES, run_loop, scripted


def rooted(variables, images, train, rngs):
    """Finite everywhere, with a gradient that is not where an image is black."""
    hidden = images.reshape(len(images), -1) @ variables["params"]["stem"]["kernel"]
    logits = jnp.sqrt(hidden**2) @ variables["params"]["head"]["kernel"]
    return logits, variables["batch_stats"]


@pytest.mark.parametrize("plain", ["single", "pmap"])
def test_a_gradient_that_is_not_finite_changes_nothing_but_the_counter(plain):
    tx = optax.adam(0.1)
    state = jtl.TrainState.create(VARIABLES, tx, rng=0)
    place = getattr(jtl.parallel, plain)()
    step, running = place.compile(jtl.make_train_step(rooted, tx)), place.put_state(state)
    images = np.random.default_rng(0).random((8, 2, 2, 3), np.float32)
    images[5] = 0
    running, metrics = step(running, place.put_batch({"image": images, "label": np.arange(8) % 3}))
    assert np.isfinite(metrics["loss"])
    assert metrics["skipped"] == 1
    assert differences(state, place.get_state(running)) == ["step: differs by up to 1"]


def train(folder, poisoned=(), listeners=(), **changes):
    with Checkpoints(folder) as checkpoints:
        loop = tiny.make_loop(checkpoints, listeners, jtl.parallel.single(), poisoned=poisoned)
        outcome = dataclasses.replace(loop, **changes).run(tiny.variables(), 3)
    return outcome.state, outcome.progress


def test_steps_without_a_finite_loss_are_skipped_and_the_run_goes_on(tmp_path):
    state, progress = train(tmp_path, poisoned=(4, 6, 7))
    assert progress.step == tiny.STEPS
    assert progress.skipped == 0
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state.variables))


def test_too_many_in_a_row_stop_the_run_and_what_was_saved_is_whole(tmp_path):
    with pytest.raises(DivergedError, match="3 steps in a row, the last is step 8"):
        train(tmp_path, poisoned=(6, 7, 8), max_skipped=3)
    with Checkpoints(tmp_path) as checkpoints:
        progress = checkpoints.progress()
        assert 5 <= progress.step < 8
        kept = checkpoints.variables(progress.best_step, VARIABLES)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(kept))


@pytest.mark.parametrize("nan_first", [True, False])
def test_a_metric_that_is_not_a_number_is_never_best_and_costs_no_best_its_place(
    tmp_path, nan_first
):
    nan = float("nan")
    values = (nan, 0.7, nan, nan, 0.6) if nan_first else (0.7, nan, nan, nan, nan)
    _, progress = run_loop(tmp_path, validate=scripted(values))
    best = 5 if nan_first else 3
    assert (progress.best_step, progress.best_value) == (best, 0.7)
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.progress().best_step == best
        checkpoints.variables(best, VARIABLES)
