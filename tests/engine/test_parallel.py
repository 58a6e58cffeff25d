"""Placement: states go out and come back whole, batches are spread, and nothing is shared."""

import copy

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import jtl
from jtl.engine.parallel import best, check_batch_size
from jtl.engine.parallel.placement import share_of
from jtl.errors import ConfigError
from jtl.tree import differences

PLACEMENTS = {
    "single": lambda: jtl.parallel.single(),
    "pmap": lambda: jtl.parallel.pmap(),
    "pmap3": lambda: jtl.parallel.pmap(jax.devices()[2:5]),
    "mesh": lambda: jtl.parallel.mesh(),
    "parts": lambda: jtl.parallel.mesh(model=2, zero=True),
}
WHOLE = [name for name in PLACEMENTS if name != "parts"]


def state():
    return {
        "key": jax.random.key(3),
        "step": jnp.asarray(5, jnp.int32),
        "half": jnp.arange(3, dtype=jnp.bfloat16),
        "kernel": jnp.asarray(np.random.default_rng(0).normal(size=(4, 6)), jnp.float32),
        "opt_state": {"mu": jnp.arange(8.0)},
        "nothing": None,
    }


@pytest.mark.parametrize("placement", PLACEMENTS)
def test_states_come_back_with_their_bits(placement):
    place = PLACEMENTS[placement]()
    back = place.get_state(place.put_state(state()))
    assert not differences(state(), back)
    assert back["key"].dtype == state()["key"].dtype
    for leaf in jax.tree.leaves(back):
        assert leaf.devices() == {place.devices[0]}


@pytest.mark.parametrize("placement", PLACEMENTS)
def test_placed_states_share_no_memory_with_the_callers(placement):
    place = PLACEMENTS[placement]()
    own = state()
    placed = place.put_state(own)
    back = place.get_state(placed)
    for leaf in jax.tree.leaves(placed):
        leaf.delete()
    assert not differences(state(), own)
    assert not differences(state(), back)


@pytest.mark.parametrize("placement", WHOLE)
def test_states_lie_on_every_device_of_the_placement(placement):
    place = PLACEMENTS[placement]()
    for leaf in jax.tree.leaves(place.put_state(state())):
        assert leaf.devices() == set(place.devices)
        assert leaf.is_fully_replicated


def test_batches_are_spread_in_order():
    batch = {"image": np.arange(24.0, dtype=np.float32).reshape(24, 1), "label": np.arange(24)}
    assert jtl.parallel.single().put_batch(batch)["image"].shape == (24, 1)
    parts = jtl.parallel.pmap().put_batch(batch)
    assert parts["image"].shape == (8, 3, 1)
    np.testing.assert_array_equal(parts["label"].reshape(-1), batch["label"])
    spread = jtl.parallel.mesh().put_batch(batch)["label"]
    np.testing.assert_array_equal(spread, batch["label"])
    for place in (parts["label"], spread):
        rows = {shard.device: np.ravel(shard.data).tolist() for shard in place.addressable_shards}
        assert rows[jax.devices()[1]] == [3, 4, 5]


@pytest.mark.parametrize("on", [0, 3])
def test_a_batch_of_the_host_is_the_same_on_the_device_and_a_copy(on):
    place = jtl.parallel.single(jax.devices()[on])
    room = np.arange(1024 + 64, dtype=np.uint8)
    start = -room.ctypes.data % 64  # where the runtime would take the memory as it is
    batch = {
        "image": room[start : start + 1024].reshape(8, 128),
        "label": np.arange(8),
        "soft": np.linspace(0, 1, 8),
        "mask": np.arange(8) > 3,
    }
    expected = jax.device_put(jax.tree.map(np.copy, batch), place.devices[0])
    with jax.transfer_guard("disallow"):  # to place a batch is no accident
        placed = place.put_batch(batch)
    for leaf in batch.values():
        leaf[:] = 0
    assert not differences(expected, placed)
    for name, leaf in placed.items():
        assert (leaf.sharding, leaf.aval) == (expected[name].sharding, expected[name].aval)


@pytest.mark.parametrize("placement", ["single", "pmap", "mesh"])
def test_a_batch_that_lies_on_a_device_stays_the_callers(placement):
    batch = {"image": jnp.arange(24.0), "label": np.arange(24)}
    PLACEMENTS[placement]().put_batch(batch)
    np.testing.assert_array_equal(batch["image"], np.arange(24.0))


@pytest.mark.parametrize("placement", PLACEMENTS)
def test_a_plain_function_runs_where_it_is_placed(placement):
    place = PLACEMENTS[placement]()
    total = place.compile(lambda state, batch: state["kernel"].sum())
    batch = {"image": np.ones((24, 2), np.float32)}
    value = total(place.put_state(state()), place.put_batch(batch))
    assert value.shape == ()
    np.testing.assert_allclose(value, state()["kernel"].sum(), rtol=1e-6)


@pytest.mark.parametrize("placement", ["single", "mesh"])
def test_a_compiled_step_runs_in_a_program_around_it_as_well(placement):
    place = PLACEMENTS[placement]()
    step = place.compile(lambda total, batch: (total + batch.sum(), batch.mean()))
    batches = jnp.arange(48.0).reshape(6, 8)
    total, means = jax.lax.scan(step, jnp.zeros(()), batches)
    assert float(total) == float(batches.sum())
    np.testing.assert_array_equal(means, batches.mean(1))
    assert float(jax.jit(step)(jnp.zeros(()), batches[0])[0]) == 28
    assert float(step(jnp.zeros(()), batches[0])[0]) == 28
    assert float(step(jnp.zeros(()), batch=batches[0])[0]) == 28
    assert step.lower(jnp.zeros(()), batches[0]).compile()


@pytest.mark.parametrize("way", [copy.copy, copy.deepcopy])
@pytest.mark.parametrize("placement", ["single", "mesh"])
def test_a_compiled_step_can_be_copied(placement, way):
    step = PLACEMENTS[placement]().compile(lambda total, batch: total + batch.sum())
    assert float(way(step)(jnp.zeros(()), jnp.arange(8.0))) == 28


@pytest.mark.parametrize("placement", ["pmap", "mesh"])
def test_batches_that_do_not_divide_are_refused(placement):
    with pytest.raises(ConfigError, match=r"first axis=12 .* 8 devices; set a multiple of 8, such"):
        PLACEMENTS[placement]().put_batch({"image": np.ones((12, 2))})


@given(st.integers(1, 4096), st.integers(1, 64))
def test_the_size_that_is_suggested_divides_and_is_near(batch_size, devices):
    if batch_size % devices == 0:
        check_batch_size(batch_size, devices)
        return
    with pytest.raises(ConfigError, match=r"data\.batch_size=") as caught:
        check_batch_size(batch_size, devices, "data.batch_size")
    suggested = int(str(caught.value).rstrip(".").rsplit(" ", 1)[1])
    assert suggested > 0
    assert suggested % devices == 0
    assert abs(suggested - batch_size) < devices


@pytest.mark.parametrize(("placement", "parts"), [("single", 1), ("pmap3", 3), ("parts", 4)])
def test_one_process_gives_all_rows(placement, parts):
    place = PLACEMENTS[placement]()
    assert place.batch_parts == parts
    assert place.share(24) == slice(0, 24)
    assert place.local_devices == place.devices


def test_a_share_of_a_batch_that_does_not_divide_is_refused():
    with pytest.raises(ConfigError, match="batch_size=12 does not divide over 8 devices"):
        jtl.parallel.pmap().share(12)


@given(st.integers(1, 8), st.integers(1, 8), st.integers(1, 8))
def test_shares_of_all_processes_are_the_batch(processes, own, rows):
    parts = processes * own
    batch = np.arange(parts * rows)
    shares = [range(index * own, (index + 1) * own) for index in range(processes)]
    joined = np.concatenate([batch[share_of(len(batch), parts, share)] for share in shares])
    np.testing.assert_array_equal(joined, batch)


def test_the_best_placement_takes_all_devices():
    assert best().devices == tuple(jax.devices())
    assert type(best()) is type(jtl.parallel.pmap())


def test_one_device_may_be_chosen():
    device = jax.devices()[3]
    place = jtl.parallel.single(device)
    assert place.devices == (device,)
    assert place.put_batch(np.ones(3)).devices() == {device}


@pytest.mark.parametrize("make", [jtl.parallel.pmap, jtl.parallel.mesh])
def test_no_devices_are_refused(make):
    with pytest.raises(ConfigError, match="at least one device"):
        make([])
