"""The training step: what it learns, what it leaves alone, and that placement changes nothing."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jtl
from jtl.errors import ConfigError
from jtl.tree import differences, flatten
from tests.engine.nets import Plain, batch_of, build, mini, variables_of

PLACEMENTS = {
    "single": lambda: jtl.parallel.single(),
    "pmap2": lambda: jtl.parallel.pmap(jax.devices()[:2]),
    "pmap8": lambda: jtl.parallel.pmap(),
    "mesh8": lambda: jtl.parallel.mesh(),
}
# Each network with a freeze spec that leaves something to train before and after what it freezes.
NETWORKS = {
    "whole": (mini(widths=(4, 8), stage_sizes=(1, 1), dropout_rate=0.5, drop_path_rate=0.3), []),
    "part": (mini(widths=(4, 8), stage_sizes=(1, 1), drop_path_rate=0.3), ["layer1", "**/bn2"]),
    "stock layers": (Plain(), ["conv"]),
}


def run(place, step, state, batches):
    step, state = place.compile(step), place.put_state(state)
    losses = []
    for batch in batches:
        state, metrics = step(state, place.put_batch(batch))
        losses.append(float(metrics["loss"]))
    return np.asarray(losses), place.get_state(state)


def assert_close(expected, actual, **tolerance):
    left, right = flatten(expected), flatten(actual)
    assert left.keys() == right.keys()
    for path, leaf in left.items():
        np.testing.assert_allclose(right[path], leaf, err_msg=path, **tolerance)


@pytest.mark.parametrize("network", NETWORKS)
def test_placement_changes_no_number(network, x64):
    net, freeze = NETWORKS[network]
    variables = variables_of(net, dtype=jnp.float64)
    batches = [batch_of(masked=(1, 2, 3, 8), dtype=np.float64, seed=s) for s in range(4)]
    results = {}
    for name, placement in PLACEMENTS.items():
        step, state = build(net, variables, freeze)
        results[name] = run(placement(), step, state, batches)
    losses, state = results.pop("single")
    assert len(set(losses)) == 4
    for other_losses, other in results.values():
        np.testing.assert_allclose(other_losses, losses, rtol=1e-9)
        assert_close(state.variables, other.variables, atol=1e-9)


def test_frozen_parameters_and_statistics_keep_their_bits():
    net = mini(dropout_rate=0.2)
    variables = variables_of(net)
    tx = optax.chain(optax.clip_by_global_norm(0.1), optax.adamw(1e-2, weight_decay=0.1))
    step, state = build(net, variables, "stem..layer2", tx)
    place = jtl.parallel.pmap(jax.devices()[:2])
    _, after = run(place, step, state, [batch_of(seed=s) for s in range(3)])
    changed = {line.split(":")[0] for line in differences(variables, after.variables)}
    frozen = ("stem", "layer1", "layer2")
    expected = {p for p in flatten(variables) if p.split("/")[1] not in frozen}
    assert changed == expected


def test_no_operation_is_spent_on_gradients_of_what_is_frozen():
    net = mini()
    variables, batch = variables_of(net), batch_of()

    def operations(function, *args):
        # Before the compiler has removed anything.
        return jax.jit(function).lower(*args).cost_analysis()["flops"]

    forward = operations(lambda v, x: net.apply(v, x), variables, batch["image"])
    assert operations(*build(net, variables, "backbone"), batch) < 1.02 * forward
    assert operations(*build(net, variables), batch) > 2.5 * forward


def test_frozen_leaves_have_no_optimizer_state():
    net = mini()
    variables = variables_of(net)
    _, state = build(net, variables, "backbone", optax.adam(1e-3))
    head = sum(leaf.size for leaf in jax.tree.leaves(variables["params"]["head"]))
    assert sum(x.size for x in jax.tree.leaves(state.opt_state) if x.ndim) == 2 * head


def test_grad_norm_is_that_of_the_trainable_part():
    net = Plain(rate=0.0)
    variables = variables_of(net)
    batch = batch_of()

    def loss(head):
        own = {**variables, "params": {**variables["params"], "head": head}}
        return net.apply(own, batch["image"])

    def mean_loss(head):
        return jnp.mean(jtl.losses.cross_entropy()(loss(head), batch))

    expected = optax.global_norm(jax.jit(jax.grad(mean_loss))(variables["params"]["head"]))
    step, state = build(net, variables, ["conv", "bn"])
    _, metrics = jax.jit(step)(state, batch)
    np.testing.assert_allclose(metrics["grad_norm"], expected, rtol=1e-5)


def test_masks_of_dropout_are_those_of_each_example():
    net = Plain()
    step, state = build(net, variables_of(net))
    step, batch = jax.jit(step), batch_of()
    order = np.random.default_rng(0).permutation(16)
    shuffled = {k: v[order] for k, v in batch.items()}
    places = np.arange(16, dtype=np.int32)
    _, a = step(state, {**batch, "position": places})
    _, b = step(state, {**shuffled, "position": order.astype(np.int32)})
    _, c = step(state, {**shuffled, "position": places})
    np.testing.assert_allclose(a["loss"], b["loss"], rtol=1e-6)
    assert abs(float(a["loss"] - c["loss"])) > 1e-4


def test_padding_changes_nothing(x64):
    net = Plain(rate=0.0)
    step, state = build(net, variables_of(net, dtype=jnp.float64))
    short = batch_of(8, dtype=np.float64)
    junk = batch_of(8, dtype=np.float64, seed=9)
    padded = {k: np.concatenate([short[k], junk[k]]) for k in short}
    padded["mask"][8:] = False
    a, left = jax.jit(step)(state, short)
    b, right = jax.jit(step)(state, padded)
    assert left["accuracy"] == right["accuracy"]
    np.testing.assert_allclose(left["loss"], right["loss"], rtol=1e-12)
    assert_close(a.variables, b.variables, atol=1e-12)


@pytest.mark.parametrize("freeze", [[], ["conv", "bn"]])
def test_padding_that_is_not_a_number_does_no_harm(freeze):
    net = Plain()
    step, state = build(net, variables_of(net), freeze)
    step = jax.jit(step)
    clean, spoilt = batch_of(masked=(5,)), batch_of(masked=(5,))
    spoilt["image"][5] = np.nan
    a, left = step(state, clean)
    b, right = step(state, spoilt)
    assert not right["skipped"]
    assert not differences((a, left), (b, right))


def test_step_that_is_not_finite_changes_nothing_but_the_counter():
    net = Plain()
    step, state = build(net, variables_of(net))
    batch = batch_of()
    batch["image"][3] = np.nan
    after, metrics = jax.jit(step)(state, batch)
    assert metrics["skipped"] == 1
    assert differences(state, after) == ["step: differs by up to 1"]


def test_training_fits_a_batch():
    net = mini()
    step, state = build(net, variables_of(net), tx=optax.adam(1e-2))
    step, batch = jax.jit(step), batch_of()
    for _ in range(40):
        state, metrics = step(state, batch)
    assert metrics["accuracy"] == 1
    assert metrics["loss"] < 0.1


def test_nothing_the_caller_holds_is_donated():
    net = Plain()
    variables = variables_of(net)
    step, state = build(net, variables)
    before = jax.tree.map(np.array, variables)
    for place in (jtl.parallel.single(), jtl.parallel.pmap(), jtl.parallel.mesh()):
        _, after = run(place, step, state, [batch_of()])
        assert not differences(before, variables)
        kept = jax.tree.map(np.array, after.variables)
        run(place, step, after, [batch_of()])
        assert not differences(kept, after.variables)


@pytest.mark.parametrize("placement", PLACEMENTS)
def test_step_compiles_once(placement):
    traces = []

    def counted(logits, batch):
        traces.append(1)
        return jtl.losses.cross_entropy()(logits, batch)

    net = Plain()
    step, state = build(net, variables_of(net), loss=counted)
    run(PLACEMENTS[placement](), step, state, [batch_of(seed=s) for s in range(3)])
    assert len(traces) == 1


def test_step_works_inside_the_callers_own_pmap():
    net = Plain()
    step, state = build(net, variables_of(net))
    batch = batch_of()
    mapped = jax.pmap(step.bind("mine"), axis_name="mine", in_axes=(None, 0), out_axes=None)
    parts = jax.tree.map(lambda x: x.reshape(8, 2, *x.shape[1:]), batch)
    after, ours = mapped(state, parts)
    expected, plain = jax.jit(step)(state, batch)
    np.testing.assert_allclose(ours["loss"], plain["loss"], rtol=1e-5)
    assert_close(expected.variables, after.variables, atol=1e-5)


def test_plain_function_trains_as_the_module_does():
    net = Plain(rate=0.0)
    variables = variables_of(net)

    def apply(variables, images, train, rngs):
        if not train:
            return net.apply(variables, images), variables["batch_stats"]
        logits, new = net.apply(variables, images, train=True, mutable=["batch_stats"])
        return logits, new["batch_stats"]

    step, state = build(net, variables)
    plain, _ = build(apply, variables)
    expected, ours = jax.jit(step)(state, batch_of())
    after, theirs = jax.jit(plain)(state, batch_of())
    np.testing.assert_allclose(ours["loss"], theirs["loss"], rtol=1e-5)
    assert_close(expected.variables, after.variables, atol=1e-5)


def test_network_without_statistics_trains():
    step, state = build(*_linear())
    after, metrics = jax.jit(step)(state, batch_of())
    assert after.batch_stats == {}
    assert metrics["grad_norm"] > 0


def _linear():
    def apply(variables, images, train, rngs):
        logits = images.reshape(len(images), -1) @ variables["params"]["head"]
        return logits, {}

    return apply, {"params": {"head": jnp.ones((8 * 8 * 3, 4))}}


@pytest.mark.parametrize("platform", ["tpu", "cuda"])
def test_step_lowers_for_accelerators(platform):
    net = mini(dropout_rate=0.1)
    step, state = build(net, variables_of(net), "stem..layer2", optax.adamw(1e-3))
    exported = jax.export.export(jax.jit(step), platforms=[platform])(
        jax.eval_shape(lambda: state), jax.eval_shape(lambda: jax.tree.map(jnp.asarray, batch_of()))
    )
    assert exported.platforms == (platform,)
    assert "convolution" in exported.mlir_module()


def test_a_gpu_updates_kernels_as_they_lie(monkeypatch):
    net = mini()
    step, state = build(net, variables_of(net), [], optax.adamw(1e-3))
    _, expected = run(jtl.parallel.single(), step, state, [batch_of()])
    monkeypatch.setattr("jtl.engine.step.on_gpu", lambda: True)
    again = dataclasses.replace(step)
    kernels = [leaf for leaf in jax.tree.leaves(state.params) if leaf.ndim == 4]
    assert str(jax.make_jaxpr(again)(state, batch_of())).count("layout_constraint") == len(kernels)
    for place in (jtl.parallel.single(), jtl.parallel.pmap(), jtl.parallel.mesh()):
        _, found = run(place, again, state, [batch_of()])
        assert_close(expected.params, found.params, rtol=1e-4, atol=1e-5)


def test_prepare_draws_by_position_under_every_placement():
    def prepare(batch, keys):
        noise = jax.vmap(lambda key: jax.random.normal(key, batch["image"].shape[1:]))(keys)
        return {"image": batch["image"] + noise}

    net = Plain(rate=0.0)
    variables = variables_of(net)
    losses = []
    for placement in PLACEMENTS.values():
        step, state = build(net, variables, ["conv", "bn"], prepare=prepare)
        losses.append(run(placement(), step, state, [batch_of(), batch_of()])[0])
    for other in losses[1:]:
        np.testing.assert_allclose(other, losses[0], rtol=1e-5)
    assert abs(losses[0][0] - losses[0][1]) > 1e-4


def test_optimizer_of_another_freeze_spec_is_refused():
    net = mini()
    variables = variables_of(net)
    labels = jtl.freeze_labels(variables["params"], "backbone")
    tx = jtl.partition_optimizer(optax.sgd(0.1), labels)
    state = jtl.TrainState.create(variables, tx, rng=0)
    with pytest.raises(ConfigError, match="another freeze spec"):
        jtl.make_train_step(net, tx, freeze="stem")(state, batch_of())
    with pytest.raises(ConfigError, match="not partitioned"):
        jtl.make_train_step(net, optax.sgd(0.1), freeze="stem")(state, batch_of())
