"""Checkpoints: bits back as they were, the best kept through a kill, and what does not fit."""

import dataclasses
import os
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given
from hypothesis import strategies as st

import jtl
from jtl.errors import CheckpointError
from jtl.training import checkpoint
from jtl.training.checkpoint import CheckpointOptions, Checkpoints, kept_steps
from jtl.training.saved_steps import Progress, abstract
from jtl.tree import differences
from tests.training.runs import VARIABLES


def state_at(step, fill=None, **options):
    """A state with every kind of leaf: keys, masked optimizer state, half precision."""
    params = dict(VARIABLES["params"])
    if fill is not None:
        params = jax.tree.map(lambda leaf: jnp.full_like(leaf, fill), params)
    params["half"] = jnp.asarray([1.5, -0.0], jnp.bfloat16)
    tx = jtl.partition_optimizer(optax.adam(1e-3), jtl.freeze_labels(params, "stem"))
    variables = {"params": params, "batch_stats": VARIABLES["batch_stats"]}
    state = jtl.TrainState.create(variables, tx, rng=7, **options)
    return dataclasses.replace(state, step=jnp.asarray(step, jnp.int32))


def save(workdir, *saved):
    """Saves a state a step, each with the best step so far."""
    with Checkpoints(workdir) as checkpoints:
        for step, best in saved:
            checkpoints.save(state_at(step, fill=step), Progress(step=step, best_step=best))


def steps_in(workdir):
    return sorted(int(path.name) for path in (workdir / "checkpoints").iterdir())


@pytest.mark.parametrize("options", [{}, {"ema": True, "loss_scale": True}])
def test_states_come_back_with_their_bits(tmp_path, options):
    state = state_at(4, **options)
    progress = Progress(step=4, phase=1, best_step=4, best_value=1 / 3, seconds=12.5)
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.progress() is None
        checkpoints.save(state, progress)
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.progress() == progress
        back = checkpoints.restore(4, abstract(state))
        variables = checkpoints.variables(4, abstract(state).variables)
    assert not differences(state, back)
    assert jax.tree.structure(back) == jax.tree.structure(state)
    assert not differences(state.variables, variables)


def test_states_come_back_to_the_devices_asked_for(tmp_path):
    save(tmp_path, (3, 3))
    place = jtl.parallel.mesh()
    like = place.put_state(state_at(0))
    with Checkpoints(tmp_path) as checkpoints:
        back = checkpoints.restore(3, abstract(like))
    kernel = back.params["head"]["kernel"]
    assert kernel.devices() == set(jax.devices())
    np.testing.assert_array_equal(kernel, np.full((5, 3), 3.0))


def test_the_newest_the_one_before_and_the_best_are_kept(tmp_path):
    save(tmp_path, (1, 1), (2, 2), (3, 2), (4, 2), (5, 2))
    assert steps_in(tmp_path) == [2, 4, 5]


def test_a_kill_while_a_new_best_is_saved_leaves_the_old_best(tmp_path):
    save(tmp_path, (1, 1), (2, 1), (3, 3))
    shutil.rmtree(tmp_path / "checkpoints" / "3")  # as if its saving had never ended
    with Checkpoints(tmp_path) as checkpoints:
        progress = checkpoints.progress()
        assert (progress.step, progress.best_step) == (2, 1)
        kept = checkpoints.variables(1, abstract(state_at(0)).variables)
    np.testing.assert_array_equal(kept["params"]["head"]["kernel"], np.full((5, 3), 1.0))


def test_a_kill_while_a_new_best_is_saved_after_a_restart_leaves_the_old_best(tmp_path):
    save(tmp_path, (1, 1), (2, 1))
    save(tmp_path, (3, 3))
    shutil.rmtree(tmp_path / "checkpoints" / "3")
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.progress().best_step == 1
        checkpoints.variables(1, abstract(state_at(0)).variables)


def test_a_folder_of_a_save_that_was_cut_off_is_passed_over(tmp_path):
    save(tmp_path, (1, 1), (2, 2))
    whole = tmp_path / "checkpoints" / "2"
    cut = tmp_path / "checkpoints" / "3.orbax-checkpoint-tmp"
    shutil.copytree(whole, cut)
    (cut / "commit_success.txt").unlink(missing_ok=True)
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.progress().step == 2


def test_a_checkpoint_that_is_not_there_is_one_error(tmp_path):
    save(tmp_path, (1, 1))
    with Checkpoints(tmp_path) as checkpoints:
        for restore in (
            lambda: checkpoints.restore(9, abstract(state_at(0))),
            lambda: checkpoints.variables(9, abstract(state_at(0)).variables),
        ):
            with pytest.raises(CheckpointError, match=r"checkpoints/9 does not fit this run"):
                restore()


def test_a_checkpoint_of_other_shapes_is_refused(tmp_path):
    save(tmp_path, (1, 1))
    like = abstract(state_at(0))
    head = {"kernel": jax.ShapeDtypeStruct((5, 7), jnp.float32)}
    other = dataclasses.replace(like, params={**like.params, "head": head})
    with Checkpoints(tmp_path) as checkpoints:
        with pytest.raises(
            CheckpointError, match=r"kernel is float32 \[5, 3\] and not .* \[5, 7\]"
        ):
            checkpoints.restore(1, other)
        with pytest.raises(
            CheckpointError, match=r"kernel is float32 \[5, 3\] and not .* \[5, 7\]"
        ):
            checkpoints.variables(1, other.variables)


def test_a_checkpoint_of_another_network_is_refused(tmp_path):
    save(tmp_path, (1, 1))
    like = abstract(state_at(0))
    other = dataclasses.replace(like, params={"body": like.params["head"]})
    with Checkpoints(tmp_path) as checkpoints, pytest.raises(CheckpointError, match="does not fit"):
        checkpoints.restore(1, other)


def test_a_folder_that_cannot_be_made_is_one_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match="cannot be written"):
        save(tmp_path / "file" / "run", (1, 1))


def test_a_checkpoint_of_another_dtype_is_refused_and_never_cast(tmp_path):
    save(tmp_path, (1, 1))
    like = abstract(state_at(0))
    half = {"kernel": jax.ShapeDtypeStruct((5, 3), jnp.bfloat16, sharding=like.step.sharding)}
    other = dataclasses.replace(like, params={**like.params, "head": half})
    said = r"kernel is float32 \[5, 3\] and not bfloat16"
    with Checkpoints(tmp_path) as checkpoints, pytest.raises(CheckpointError, match=said):
        checkpoints.restore(1, other)


def test_milestones_stay(tmp_path):
    with Checkpoints(tmp_path, CheckpointOptions(keep_last=1, keep_every=2)) as checkpoints:
        for step in range(1, 6):
            checkpoints.save(state_at(step), Progress(step=step, best_step=step))
    assert steps_in(tmp_path) == [2, 4, 5]


@st.composite
def histories(draw):
    """Of each whole step the best so far; now and then the best was damaged and is gone."""
    steps = sorted(draw(st.sets(st.integers(1, 30), min_size=1)))
    best = {step: draw(st.none() | st.integers(1, step)) for step in steps}
    keep = CheckpointOptions(
        keep_last=draw(st.integers(1, 4)), keep_every=draw(st.none() | st.integers(1, 5))
    )
    return best, keep


@given(histories())
def test_what_stays_holds_the_newest_and_their_best_and_nothing_without_a_reason(history):
    best, keep = history
    kept, newest = kept_steps(best, keep), list(best)[-keep.keep_last :]
    assert max(best) in kept <= best.keys()
    assert kept >= {*newest, *({best[step] for step in newest} & best.keys())}
    for step in kept - {*newest}:
        milestone = keep.keep_every and step % keep.keep_every == 0
        assert milestone or step in {best[own] for own in newest}


def test_a_step_that_is_the_only_good_one_stays_until_another_is_durable(tmp_path, monkeypatch):
    save(tmp_path, (1, 1), (2, 2))
    spoil_bit(max(files_of(tmp_path / "checkpoints" / "2"), key=lambda path: path.stat().st_size))
    with Checkpoints(tmp_path, CheckpointOptions(keep_last=1)) as checkpoints:
        assert checkpoints.progress().step == 1
        with monkeypatch.context() as patched:
            patched.setattr(checkpoint, "write_manifest", full)
            checkpoints.save(state_at(3), Progress(step=3, best_step=3))
            with pytest.raises(CheckpointError):
                checkpoints.wait()
        assert checkpoints.progress().step == 1
        checkpoints.save(state_at(4), Progress(step=4, best_step=4))
        checkpoints.wait()
        assert checkpoints.progress().step == 4
    assert 1 not in steps_in(tmp_path)


def full(*_):
    """Stands for what the system says of a full disk."""
    raise OSError(28, "No space left on device")


def files_of(folder):
    return sorted(path for path in folder.rglob("*") if path.is_file())


def spoil_bit(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.write_bytes(bytes(data))


def replace_by_link(path):
    path.rename(path.parent.parent.parent / "elsewhere")
    path.symlink_to(path.parent.parent.parent / "elsewhere")


SPOILERS = {
    "bit": spoil_bit,
    "truncated": lambda path: path.write_bytes(path.read_bytes()[:-1]),
    "emptied": lambda path: path.write_bytes(b""),
    "zeroed": lambda path: path.write_bytes(bytes(path.stat().st_size)),
    "deleted": lambda path: path.unlink(),
    "link": replace_by_link,
    "stray": lambda path: path.with_name("stray").write_text(""),
}


@pytest.mark.parametrize("how", SPOILERS)
def test_damage_to_any_file_is_noticed_and_the_step_before_used(tmp_path, how):
    save(tmp_path / "kept", (1, 1), (2, 2))
    names = [path.relative_to(tmp_path / "kept") for path in files_of(tmp_path / "kept")]
    names = [name for name in names if name.parts[1] == "2"]
    assert len(names) > 4
    for number, name in enumerate(names):
        folder = tmp_path / str(number)
        shutil.copytree(tmp_path / "kept", folder)
        if not (folder / name).stat().st_size and how not in ("deleted", "link", "stray"):
            continue  # an empty file has no byte to spoil
        SPOILERS[how](folder / name)
        with Checkpoints(folder) as checkpoints:
            assert checkpoints.progress().step == 1, name
            lines = checkpoints.recover()
            # Without a manifest it is a save that never ended, of which nothing is told.
            if not (how == "deleted" and name.name == "manifest.json"):
                assert len(lines) == 1, name
                assert "step 2 is damaged" in lines[0]
                assert (folder / "checkpoints" / "damaged-2-1").is_dir()
            assert checkpoints.progress().step == 1
            with pytest.raises(CheckpointError, match="not there, or its saving was cut off"):
                checkpoints.restore(2, abstract(state_at(0)))
            checkpoints.save(state_at(2), Progress(step=2, best_step=2))
            checkpoints.wait()
            assert checkpoints.progress().step == 2


def test_damage_while_a_run_saves_costs_neither_the_run_nor_another_step(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        for step in (1, 2):
            checkpoints.save(state_at(step), Progress(step=step, best_step=1))
        checkpoints.wait()
        for path in (tmp_path / "checkpoints/2").glob("*/metadata"):
            path.write_bytes(b"{")
        for step in (3, 4, 5):
            checkpoints.save(state_at(step), Progress(step=step, best_step=1))
        checkpoints.wait()
    with Checkpoints(tmp_path) as checkpoints:
        found = checkpoints.progress()
        assert found == Progress(step=5, best_step=1)
        assert {1, 5} <= set(steps_in(tmp_path))


def test_a_damaged_step_is_refused_by_name(tmp_path):
    save(tmp_path, (1, 1))
    spoil_bit(next(path for path in files_of(tmp_path) if path.parent.name == "d"))
    with Checkpoints(tmp_path) as checkpoints, pytest.raises(CheckpointError, match="is damaged"):
        checkpoints.restore(1, abstract(state_at(0)))


def test_a_damaged_best_sends_the_run_back_to_before_it(tmp_path):
    save(tmp_path, (1, 1), (2, 2), (3, 2))
    (tmp_path / "checkpoints" / "2" / "_CHECKPOINT_METADATA").write_text("")
    with Checkpoints(tmp_path) as checkpoints:
        # Nothing older is left here: the newest goes on, and the best is chosen anew.
        assert checkpoints.progress() == Progress(step=3)


def test_what_was_cut_off_and_what_is_no_step_is_removed(tmp_path):
    save(tmp_path, (1, 1))
    folder = tmp_path / "checkpoints"
    (folder / "7").mkdir()
    shutil.copytree(folder / "1", folder / "9.orbax-checkpoint-tmp")
    shutil.copytree(folder / "1", folder / "8")
    (folder / "8" / "manifest.json").unlink()
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.progress().step == 1
        assert checkpoints.recover() == []
    assert steps_in(tmp_path) == [1]


def test_the_order_is_by_step_whatever_the_clock_says(tmp_path):
    save(tmp_path, (1, 1), (2, 2))
    for path in (tmp_path / "checkpoints" / "1").rglob("*"):
        os.utime(path, (4e9, 4e9))
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.progress().step == 2


def test_a_save_that_fails_is_told_and_the_one_before_stands(tmp_path, monkeypatch):
    save(tmp_path, (1, 1))
    monkeypatch.setattr(checkpoint, "write_manifest", full)
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(state_at(2), Progress(step=2, best_step=2))
        with pytest.raises(CheckpointError, match=r"step 2 could not be saved .*No space left"):
            checkpoints.wait()
        assert checkpoints.progress().step == 1
    assert steps_in(tmp_path) == [1]
