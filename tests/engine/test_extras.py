"""What a step does beside learning: running means, micro-batches, scaling, keys, guards."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jtl
from jtl.engine.optim import scale_by_rate
from jtl.errors import ConfigError
from jtl.tree import differences, flatten
from tests.engine.nets import Plain, batch_of, build, mini, variables_of

BACKBONE = ["conv", "bn"]


def test_micro_batches_give_the_update_of_the_whole_batch(x64):
    net = Plain()
    variables = variables_of(net, dtype=jnp.float64)
    batch = batch_of(masked=(0, 1, 2, 7), dtype=np.float64)
    results = []
    for accumulate in (1, 2, 8):
        step, state = build(net, variables, BACKBONE, accumulate=accumulate)
        results.append(jax.jit(step)(state, batch))
    for state, metrics in results[1:]:
        for name, value in results[0][1].items():
            np.testing.assert_allclose(metrics[name], value, rtol=1e-12)
        for path, leaf in flatten(results[0][0].params).items():
            np.testing.assert_allclose(flatten(state.params)[path], leaf, atol=1e-12)


def test_micro_batches_on_several_devices_give_the_same(x64):
    net = Plain()
    variables = variables_of(net, dtype=jnp.float64)
    batch = batch_of(masked=(0, 1, 2), dtype=np.float64)
    step, state = build(net, variables, BACKBONE)
    expected, _ = jax.jit(step)(state, batch)
    step, state = build(net, variables, BACKBONE, accumulate=2)
    for place in (jtl.parallel.pmap(jax.devices()[:4]), jtl.parallel.mesh(jax.devices()[:4])):
        after, _ = place.compile(step)(place.put_state(state), place.put_batch(batch))
        for path, leaf in flatten(expected.params).items():
            np.testing.assert_allclose(flatten(after.params)[path], leaf, atol=1e-12)


def test_micro_batches_that_do_not_divide_are_refused():
    net = Plain()
    step, state = build(net, variables_of(net), accumulate=3)
    with pytest.raises(ConfigError, match="accumulate=3 does not divide the 16"):
        step(state, batch_of())


def test_running_means_follow_what_is_trained_and_spare_the_rest():
    net = Plain()
    variables = variables_of(net)
    labels = jtl.freeze_labels(variables["params"], "conv")
    tx = jtl.partition_optimizer(optax.sgd(0.5), labels)
    step = jax.jit(jtl.make_train_step(net, tx, freeze="conv", ema_decay=0.5))
    state = jtl.TrainState.create(variables, tx, rng=0, ema=True)
    assert "conv" not in {path.split("/")[1] for path in flatten(state.ema) if "params" in path}
    mean = np.asarray(variables["params"]["head"]["kernel"])
    for index in range(3):
        state, _ = step(state, batch_of(seed=index))
        decay = min(0.5, (1 + index) / (10 + index))
        mean = decay * mean + (1 - decay) * np.asarray(state.params["head"]["kernel"])
    np.testing.assert_allclose(state.ema_variables["params"]["head"]["kernel"], mean, rtol=1e-5)
    kernel = state.ema_variables["params"]["conv"]["kernel"]
    np.testing.assert_array_equal(kernel, variables["params"]["conv"]["kernel"])
    assert not np.array_equal(
        state.ema["batch_stats"]["bn"]["mean"], state.batch_stats["bn"]["mean"]
    )


def test_running_means_of_frozen_statistics_keep_their_bits():
    net = Plain()
    variables = variables_of(net)
    labels = jtl.freeze_labels(variables["params"], ["conv", "bn"])
    tx = jtl.partition_optimizer(optax.sgd(0.5), labels)
    step = jax.jit(jtl.make_train_step(net, tx, freeze=["conv", "bn"], ema_decay=0.9))
    state = jtl.TrainState.create(variables, tx, rng=0, ema=True)
    for index in range(4):
        state, _ = step(state, batch_of(seed=index))
    assert not differences(variables["batch_stats"], state.ema["batch_stats"])


def test_running_means_need_a_state_that_keeps_them():
    net = Plain()
    step, state = build(net, variables_of(net), ema_decay=0.9)
    with pytest.raises(ConfigError, match="both or neither"):
        step(state, batch_of())
    with pytest.raises(ConfigError, match="ema=True"):
        _ = state.ema_variables


def test_a_skipped_step_leaves_running_means_alone_and_halves_the_scale():
    net = Plain()
    variables = variables_of(net)
    tx = optax.adam(1e-3)
    step = jax.jit(jtl.make_train_step(net, tx, ema_decay=0.9))
    state = jtl.TrainState.create(variables, tx, rng=0, ema=True, loss_scale=True)
    batch = batch_of()
    batch["image"][0] = np.inf
    after, metrics = step(state, batch)
    assert metrics["skipped"] == 1
    assert after.loss_scale.factor == state.loss_scale.factor / 2
    expected = dataclasses.replace(state, step=after.step, loss_scale=after.loss_scale)
    assert not differences(expected, after)


def test_scaled_loss_gives_the_same_update():
    net = Plain()
    variables = variables_of(net)
    tx = optax.sgd(0.1)
    step = jax.jit(jtl.make_train_step(net, tx))
    plain, left = step(jtl.TrainState.create(variables, tx, rng=0), batch_of())
    scaled, right = step(jtl.TrainState.create(variables, tx, rng=0, loss_scale=True), batch_of())
    np.testing.assert_allclose(left["loss"], right["loss"], rtol=1e-6)
    for path, leaf in flatten(plain.params).items():
        np.testing.assert_allclose(flatten(scaled.params)[path], leaf, atol=1e-6)


@pytest.mark.parametrize("label", [4, -1])
def test_a_label_beyond_the_classes_leaves_the_state_alone(label):
    net = mini(widths=(4, 8), stage_sizes=(1, 1))
    step, state = build(net, variables_of(net))
    batch = batch_of(4)
    batch["label"][2] = label
    after, metrics = jax.jit(step)(state, batch)
    assert np.isnan(metrics["loss"])
    assert metrics["skipped"] == 1
    assert not differences(state.params, after.params)
    masked = {**batch, "mask": np.arange(4) != 2}
    assert jax.jit(step)(state, masked)[1]["skipped"] == 0


def test_statistics_of_each_devices_part_are_those_of_plain_flax(x64):
    net = Plain(rate=0.0)
    variables = variables_of(net, dtype=jnp.float64)
    batch = batch_of(8, dtype=np.float64)
    parts = [jax.tree.map(lambda leaf, n=n: leaf[4 * n : 4 * n + 4], batch) for n in range(2)]
    own = [
        net.apply(variables, part["image"], train=True, mutable=["batch_stats"]) for part in parts
    ]
    loss = np.mean(
        [jtl.losses.cross_entropy()(logits, part) for (logits, _), part in zip(own, parts)]
    )
    expected = jax.tree.map(lambda *leaves: sum(leaves) / 2, *(stats for _, stats in own))
    step, state = build(net, variables, global_batch_norm=False)
    place = jtl.parallel.pmap(jax.devices()[:2])
    after, metrics = place.compile(step)(place.put_state(state), place.put_batch(batch))
    assert float(metrics["loss"]) == pytest.approx(loss, rel=1e-12)
    for path, leaf in flatten(place.get_state(after).batch_stats).items():
        np.testing.assert_allclose(leaf, flatten(expected["batch_stats"])[path], rtol=1e-12)
    everywhere, _ = build(net, variables)
    assert float(jax.jit(everywhere)(state, batch)[1]["loss"]) != pytest.approx(loss, rel=1e-6)


def test_rates_follow_the_step_and_rules_hear_of_the_loss():
    net = mini(widths=(4, 8), stage_sizes=(1, 1))
    heard = {}

    def update(updates, state, params=None, **extra):
        heard.update(extra)
        return updates, state

    listening = optax.GradientTransformationExtraArgs(lambda params: (), update)
    tx = optax.chain(listening, scale_by_rate(lambda step: jnp.where(step < 3, 0.0, 1.0)))
    step, state = build(net, variables_of(net), tx=tx)
    batch = batch_of(4)
    early, _ = jax.jit(step)(state, batch)
    assert not differences(state.params, early.params)
    late, _ = jax.jit(step)(dataclasses.replace(state, step=jnp.int32(3)), batch)
    assert len(differences(state.params, late.params)) == len(flatten(state.params))
    assert set(heard) == {"step", "value"}
    with pytest.raises(ConfigError, match=r"pass it on with tx\.update\(.*step=state\.step\)"):
        scale_by_rate(lambda step: 0.1).update(state.params, optax.EmptyState())


def test_augmentation_of_a_view_is_the_same_at_any_step_and_place():
    drawn = []

    def prepare(batch, keys):
        drawn.append(jax.random.key_data(keys))
        return {}

    net = mini(widths=(4, 8), stage_sizes=(1, 1))
    step, state = build(net, variables_of(net), prepare=prepare)
    batch = batch_of(4) | {"example": np.array([5, 9, 2, 7]), "view": np.array([1, 1, 1, 2])}
    moved = jax.tree.map(lambda leaf: leaf[::-1], batch)
    later = dataclasses.replace(state, step=jnp.int32(40))
    step(state, batch)
    step(later, moved)
    np.testing.assert_array_equal(drawn[0], drawn[1][::-1])
    step(state, batch | {"view": np.array([1, 1, 1, 3])})
    assert (drawn[2][:3] == drawn[0][:3]).all()
    assert (drawn[2][3] != drawn[0][3]).any()


class Norm(nn.Module):
    """A normalisation of a person's own, with running statistics."""

    @nn.compact
    def __call__(self, x, train):
        mean = self.variable("batch_stats", "mean", jnp.zeros, (x.shape[-1],))
        if train:
            mean.value = 0.9 * mean.value + 0.1 * x.mean((0, 1, 2))
        return x - mean.value.reshape(1, 1, 1, -1)


class Own(nn.Module):
    """Two stages, each with a norm of a person's own."""

    @nn.compact
    def __call__(self, x, train: bool = False):
        x = Norm(name="stem")(nn.Conv(4, (3, 3), name="conv")(x), train)
        return nn.Dense(4, name="head")(Norm(name="late")(x, train).mean((1, 2)))


def test_statistics_of_any_norm_hold_still_where_they_are_frozen():
    net = Own()
    variables = variables_of(net)
    variables["params"]["stem"] = {"scale": jnp.ones(1)}
    step, state = build(net, variables, ["conv", "stem"])
    after, _ = jax.jit(step)(state, batch_of(4))
    moved = {line.split("/")[0] for line in differences(state.batch_stats, after.batch_stats)}
    assert moved == {"late"}


def test_attention_whose_dropout_has_no_examples_is_refused():
    class Attends(nn.Module):
        rate: float

        @nn.compact
        def __call__(self, x, train: bool = False):
            x = x.reshape(x.shape[0], -1, 3)
            x = nn.MultiHeadDotProductAttention(1, dropout_rate=self.rate, name="stem")(
                x, deterministic=not train
            )
            return nn.Dense(4, name="head")(x.mean(1))

    step, state = build(Attends(0.0), variables_of(Attends(0.0)))
    jax.jit(step)(state, batch_of(4))
    step, state = build(Attends(0.5), variables_of(Attends(0.5)))
    with pytest.raises(ConfigError, match="attention at 'stem' drops with one mask"):
        jax.jit(step)(state, batch_of(4))


def test_modes_of_batch_norms_that_do_not_exist_are_refused():
    net = mini(widths=(4, 8), stage_sizes=(1, 1))
    step, state = build(net, variables_of(net), batch_norm={"layr1/**": "train"})
    with pytest.raises(ConfigError, match=r"batch_norm: 'layr1/\*\*' matches no BatchNorm"):
        jax.jit(step)(state, batch_of(4))


def test_a_state_with_running_means_may_be_donated():
    net = Plain()
    step, state = build(net, variables_of(net), ema_decay=0.9)
    state = jtl.TrainState.create(state.variables, step.tx, rng=0, ema=True)
    state = jax.tree.map(lambda leaf: leaf, state)
    after, _ = jax.jit(step, donate_argnums=0)(state, batch_of(4))
    assert int(after.step) == 1


@pytest.mark.parametrize("check", [True, False])
@pytest.mark.parametrize("stacked", [True, False])
def test_gradients_are_whole_inside_the_callers_own_shard_map(check, stacked, x64):
    net = Plain(rate=0.0)
    step, state = build(net, variables_of(net, dtype=jnp.float64), ["conv"])
    batch = batch_of(8, dtype=np.float64)
    _, alone = jax.jit(step)(state, batch)
    mesh = jax.make_mesh((2,), ("batch",), axis_types=(jax.sharding.AxisType.Auto,))
    spec = jax.sharding.PartitionSpec
    lies = spec("batch") if stacked else spec()

    def body(state, batch):
        own = jax.tree.map(lambda leaf: leaf[0], state) if stacked else state
        return step.bind("batch")(own, batch)[1]["grad_norm"][None]

    given = jax.tree.map(lambda leaf: jnp.stack([leaf, leaf]), state) if stacked else state
    mapped = jax.shard_map(
        body, mesh=mesh, in_specs=(lies, spec("batch")), out_specs=spec("batch"), check_vma=check
    )
    norms = jax.jit(mapped)(given, batch)
    np.testing.assert_allclose(norms, float(alone["grad_norm"]), rtol=1e-9)
