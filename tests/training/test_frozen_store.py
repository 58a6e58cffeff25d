"""Frozen leaves that steps share: stored once, bit for bit, found damaged, mended or named."""

import dataclasses
import re
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jtl
from jtl.errors import CheckpointError
from jtl.training import frozen_store
from jtl.training.checkpoint import CheckpointOptions, Checkpoints
from jtl.training.events import Stepped
from jtl.training.frozen_store import PREFIX
from jtl.training.saved_steps import Progress, abstract
from jtl.tree import differences, digest, flatten
from tests.training.runs import (
    PHASES,
    VARIABLES,
    InterruptionError,
    interrupt_at,
    phase,
    run_loop,
)
from tests.training.test_checkpoint import files_of, spoil_bit, state_at

LEAF = "params/stem/kernel"
SHARED = {LEAF: digest(VARIABLES["params"]["stem"]["kernel"])}


def trained(step, **options):
    """A state whose head differs by step, with the pretrained stem."""
    state = state_at(step, **options)
    head = {"kernel": jnp.full_like(state.params["head"]["kernel"], step)}
    return dataclasses.replace(state, params={**state.params, "head": head})


def save(workdir, *steps, shared=SHARED, **keep):
    with Checkpoints(
        workdir, CheckpointOptions(**keep), {"weights": "photos.safetensors"}
    ) as checkpoints:
        for step in steps:
            checkpoints.save(trained(step), Progress(step=step, best_step=step), shared)


def stores_in(workdir):
    return sorted((workdir / "checkpoints").glob(f"{PREFIX}*"))


@pytest.mark.parametrize("options", [{}, {"ema": True, "loss_scale": True}])
def test_steps_that_share_leaves_come_back_with_their_bits(tmp_path, options):
    states = {step: trained(step, **options) for step in (1, 2)}
    with Checkpoints(tmp_path) as checkpoints:
        for step, state in states.items():
            checkpoints.save(state, Progress(step=step, best_step=1), SHARED)
    assert len(stores_in(tmp_path)) == 1
    with Checkpoints(tmp_path) as checkpoints:
        for step, state in states.items():
            back = checkpoints.restore(step, abstract(state))
            assert not differences(state, back)
            assert jax.tree.structure(back) == jax.tree.structure(state)
            variables = checkpoints.variables(step, abstract(state).variables)
            kept = state.variables if state.ema is None else state.ema_variables
            assert not differences(kept, variables)


def test_shared_leaves_come_back_to_the_devices_asked_for(tmp_path):
    save(tmp_path, 1)
    like = abstract(jtl.parallel.mesh().put_state(state_at(0)))
    with Checkpoints(tmp_path) as checkpoints:
        back = checkpoints.restore(1, like)
    assert back.params["stem"]["kernel"].devices() == set(jax.devices())


def test_a_shared_leaf_is_written_once_and_in_no_step(tmp_path):
    state = state_at(1)
    wide = jnp.asarray(np.random.default_rng(0).normal(size=100_000), jnp.float32)
    state = dataclasses.replace(state, params={**state.params, "wide": wide})
    with Checkpoints(tmp_path) as checkpoints:
        for step in (1, 2):
            checkpoints.save(state, Progress(step=step), {"params/wide": digest(wide)})
    sizes = {
        folder.name: sum(path.stat().st_size for path in files_of(folder))
        for folder in (tmp_path / "checkpoints").iterdir()
    }
    assert sorted(sizes)[:2] == ["1", "2"]
    assert all((size > 300_000) == name.startswith(PREFIX) for name, size in sizes.items())


def test_a_store_stays_while_a_step_needs_it(tmp_path):
    save(tmp_path, 1)
    save(tmp_path, 2, 3, shared={}, keep_last=1, keep_every=2)
    assert stores_in(tmp_path) == []
    save(tmp_path / "other", 2)
    save(tmp_path / "other", 3, 5, shared={}, keep_last=1, keep_every=2)
    assert len(stores_in(tmp_path / "other")) == 1
    with Checkpoints(tmp_path / "other") as checkpoints:
        checkpoints.restore(2, abstract(state_at(0)))


def test_fewer_shared_leaves_need_no_second_store(tmp_path):
    more = {**SHARED, "batch_stats/hidden/mean": digest(VARIABLES["batch_stats"]["hidden"]["mean"])}
    save(tmp_path, 1, shared=more)
    save(tmp_path, 2)
    assert len(stores_in(tmp_path)) == 1
    with Checkpoints(tmp_path) as checkpoints:
        for step in (1, 2):
            assert not differences(trained(step), checkpoints.restore(step, abstract(trained(0))))


def spoil_store(workdir, how):
    (store,) = stores_in(workdir)
    if how == "missing":
        shutil.rmtree(store)
    elif how == "replaced":
        shutil.rmtree(store)
        other = {"params": {"stem": {"kernel": jnp.zeros((12, 5))}}}
        with Checkpoints(workdir) as checkpoints:
            stores = checkpoints._stores
            stores._write(store.name, flatten(jax.tree.map(np.asarray, other)), SHARED)
    else:
        spoil_bit(max(files_of(store), key=lambda path: path.stat().st_size))
    return store


@pytest.mark.parametrize("how", ["bit", "missing"])
def test_a_spoilt_store_is_named_with_what_mends_it(tmp_path, how):
    save(tmp_path, 1)
    store = spoil_store(tmp_path, how)
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.progress() is None
        said = "is missing" if how == "missing" else "is damaged"
        said = rf"1 frozen leaves stand in {re.escape(str(store))}.*{said}.*photos\.safetensors"
        with pytest.raises(CheckpointError, match=said):
            checkpoints.variables(1, abstract(state_at(0)).variables)


def test_a_store_of_other_values_is_refused_by_the_digests_of_the_step(tmp_path):
    save(tmp_path, 1)
    spoil_store(tmp_path, "replaced")
    with (
        Checkpoints(tmp_path) as checkpoints,
        pytest.raises(CheckpointError, match=rf"other values of {LEAF} than were saved"),
    ):
        checkpoints.restore(1, abstract(state_at(0)))


@pytest.mark.parametrize("how", ["bit", "missing"])
def test_a_spoilt_store_is_made_anew_from_the_pretrained_weights(tmp_path, how):
    save(tmp_path, 1, 2)
    spoil_store(tmp_path, how)
    with Checkpoints(tmp_path) as checkpoints:
        (line,) = checkpoints.recover(VARIABLES)
        assert "made anew from the pretrained weights" in line
        assert checkpoints.progress().step == 2
        for step in (1, 2):
            assert not differences(trained(step), checkpoints.restore(step, abstract(trained(0))))
        assert checkpoints.recover(VARIABLES) == []


def test_steps_whose_store_cannot_be_mended_are_set_aside(tmp_path):
    save(tmp_path, 1, 2)
    spoil_store(tmp_path, "bit")
    other = jax.tree.map(lambda leaf: leaf + 1, VARIABLES)
    with Checkpoints(tmp_path) as checkpoints:
        lines = checkpoints.recover(other)
        assert len(lines) == 3
        assert "frozen leaves" in lines[0]
        assert "anew" not in lines[0]
        assert checkpoints.progress() is None
        checkpoints.save(trained(3), Progress(step=3), SHARED)
        checkpoints.wait()
        assert checkpoints.progress().step == 3


def test_a_store_whose_writing_was_cut_off_is_removed(tmp_path):
    save(tmp_path, 1)
    (store,) = stores_in(tmp_path)
    half = store.with_name(f"{PREFIX}0123")
    shutil.copytree(store, half)
    (half / "manifest.json").unlink()
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.recover() == []
        assert checkpoints.progress().step == 1
    assert stores_in(tmp_path) == [store]


def test_a_store_that_cannot_be_written_fails_its_step_and_no_other(tmp_path, monkeypatch):
    save(tmp_path, 1, shared={})

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(frozen_store, "write_manifest", full)
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(trained(2), Progress(step=2), SHARED)
        with pytest.raises(CheckpointError, match=r"step 2 could not be saved .*No space left"):
            checkpoints.wait()
        assert checkpoints.progress().step == 1
    assert stores_in(tmp_path) == []


FROZEN_THROUGHOUT = (phase(0, 5, "stem", option=0), phase(5, 10, "stem"))


@pytest.mark.parametrize("phases", [PHASES, FROZEN_THROUGHOUT], ids=["thawed", "frozen"])
def test_a_run_that_stops_in_any_phase_goes_on_with_the_same_bits(tmp_path, phases):
    options = {"phases": phases, "monitor": None}
    whole, _ = run_loop(tmp_path / "whole", **options)
    for step, stored in ((4, True), (10, phases is FROZEN_THROUGHOUT)):
        with pytest.raises(InterruptionError):
            run_loop(
                tmp_path / "cut", save_every=1, listeners=[interrupt_at(step, Stepped)], **options
            )
        assert bool(stores_in(tmp_path / "cut")) == stored
    state, _ = run_loop(tmp_path / "cut", **options)
    assert not differences(whole, state)
