"""Meshes: wide layers and optimizer state in parts, with the same numbers, compiled once."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jax.sharding import PartitionSpec as P

import jtl
from jtl.errors import ConfigError
from jtl.training.compilations import Compilations
from jtl.tree import differences, flatten
from tests.engine.nets import Plain, batch_of, build, variables_of

NET = Plain()
MESHES = {
    "model": {"model": 2},
    "zero": {"zero": True},
    "both": {"data": 4, "model": 2, "zero": True},
    "one row": {"data": 1, "model": 4, "devices": 4},
}


def make(options):
    count = options.get("devices", 8)
    rest = {name: value for name, value in options.items() if name != "devices"}
    return jtl.parallel.mesh(jax.devices()[:count], **rest)


def adam(dtype=jnp.float32):
    step, state = build(
        NET, variables_of(NET, dtype=dtype), ["bn"], optax.adamw(1e-2), ema_decay=0.9
    )
    return step, jtl.TrainState.create(state.variables, step.tx, rng=0, ema=True)


def run(place, dtype=np.float32):
    """Losses of six steps, the last state where it lies, and programs compiled at each step."""
    step, state = adam(dtype)
    compiled, running = place.compile(step), place.put_state(state)
    losses, programs = [], []
    for seed in range(6):
        batch = place.put_batch(batch_of(masked=(1, 2, 8), dtype=dtype, seed=seed))
        before = running
        with Compilations() as count:
            running, metrics = compiled(running, batch)
        losses.append(float(metrics["loss"]))
        programs.append(count.count)
        # Memory of the old state is used again.
        assert before.params["head"]["kernel"].is_deleted()
    return np.asarray(losses), running, programs


def specs(tree):
    return {path: leaf.sharding.spec for path, leaf in flatten(tree).items()}


@pytest.mark.parametrize("name", MESHES)
def test_parts_change_no_number_and_compile_once(name, x64):
    losses, expected, _ = run(jtl.parallel.single(), np.float64)
    place = make(MESHES[name])
    others, state, programs = run(place, np.float64)
    np.testing.assert_allclose(others, losses, rtol=1e-9)
    assert programs[1:] == [0] * 5
    assert specs(state) == specs(place.put_state(adam(np.float64)[1]))
    back = place.get_state(state)
    left, right = flatten(expected), flatten(back)
    assert not differences(left.pop("rng"), right.pop("rng"))
    for path, leaf in left.items():
        np.testing.assert_allclose(right[path], leaf, rtol=1e-9, atol=1e-11, err_msg=path)
        assert right[path].devices() == {place.devices[0]}


def test_wide_layers_lie_in_parts_with_all_that_belongs_to_them():
    placed = jtl.parallel.mesh(data=4, model=2).put_state(adam()[1])
    parts = {path for path, spec in specs(placed).items() if spec != P()}
    assert parts == {path for path in flatten(placed) if path.endswith("head/kernel")}
    assert {path.split("/")[0] for path in parts} == {"params", "opt_state", "ema"}
    kernel = placed.params["head"]["kernel"]
    assert kernel.sharding.spec == P(None, "model")
    assert {shard.data.shape for shard in kernel.addressable_shards} == {(8, 2)}


def test_zero_spreads_the_optimizer_state_and_nothing_else():
    placed = jtl.parallel.mesh(jax.devices()[:4], zero=True).put_state(adam()[1])
    for path, spec in specs(placed).items():
        leaf = flatten(placed)[path]
        divides = [size % 4 == 0 for size in leaf.shape]
        if path.startswith("opt_state/") and any(divides):
            axis = divides.index(True)
            assert spec == P(*["batch" if i == axis else None for i in range(leaf.ndim)]), path
            assert leaf.addressable_shards[0].data.size * 4 == leaf.size
        else:
            assert spec == P(), path


def test_layers_that_do_not_divide_stay_whole():
    place = jtl.parallel.mesh(jax.devices()[:6], model=3)
    assert set(specs(place.put_state(adam()[1])).values()) == {P()}


@pytest.mark.parametrize("name", MESHES)
def test_evaluation_and_prediction_read_variables_in_parts(name):
    variables, batch = variables_of(NET), batch_of()
    place = make(MESHES[name])
    put, spread = place.put_state(variables), place.put_batch(batch)
    sums = place.compile(jtl.make_eval_step(NET))(put, spread)
    expected = jax.jit(jtl.make_eval_step(NET))(variables, batch)
    for key, value in expected.items():
        np.testing.assert_allclose(sums[key], value, rtol=1e-5, err_msg=key)
        assert sums[key].is_fully_replicated


def test_batches_are_spread_along_the_batch_axis_alone():
    place = jtl.parallel.mesh(data=4, model=2)
    rows = place.put_batch({"label": np.arange(8)})["label"]
    held = {shard.device.id: shard.data.tolist() for shard in rows.addressable_shards}
    assert held == {i: [i // 2 * 2, i // 2 * 2 + 1] for i in range(8)}
    with pytest.raises(ConfigError, match=r"first axis=6 does not divide over 4 devices"):
        place.put_batch({"label": np.arange(6)})


@given(st.integers(-1, 9), st.integers(-1, 9), st.integers(1, 8))
def test_meshes_that_do_not_fit_say_what_does(data, model, count):
    devices = jax.devices()[:count]
    if data * model == count and data > 0:
        assert jtl.parallel.mesh(devices, data=data, model=model).batch_parts == data
        return
    with pytest.raises(ConfigError, match=rf"does not fit {count} devices; what fits is") as caught:
        jtl.parallel.mesh(devices, data=data, model=model)
    said = str(caught.value)
    for d, m in itertools.product(range(1, 9), repeat=2):
        assert (f"data={d}, model={m};" in f"{said[:-1]};".split("fits is")[1]) == (d * m == count)


def test_the_batch_takes_the_devices_that_the_model_leaves():
    assert jtl.parallel.mesh(model=2).batch_parts == 4
    with pytest.raises(ConfigError, match=r"mesh\(model=3\) does not fit 8 devices"):
        jtl.parallel.mesh(model=3)
