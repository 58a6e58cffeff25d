"""The training step: what it learns, what it leaves alone, and that placement changes nothing."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jtl
from jtl.engine.evaluation import make_predict_step
from jtl.errors import ConfigError
from jtl.tree import differences, flatten
from tests.engine.nets import Plain, batch_of, build, mini, variables_of

PLACEMENTS = {
    "single": lambda: jtl.parallel.single(),
    "pmap2": lambda: jtl.parallel.pmap(jax.devices()[:2]),
    "pmap8": lambda: jtl.parallel.pmap(),
    "mesh8": lambda: jtl.parallel.mesh(),
}


def run(place, step, state, batches):
    step, state = place.compile(step), place.put_state(state)
    losses = []
    for batch in batches:
        state, metrics = step(state, place.put_batch(batch))
        losses.append(float(metrics["loss"]))
    return np.asarray(losses), place.get_state(state)


@pytest.mark.parametrize("model", ["mini", "plain"])
@pytest.mark.parametrize("freeze", ["none", "backbone"])
def test_placement_changes_no_number(model, freeze, x64):
    if model == "mini":
        net = mini(dropout_rate=0.5, drop_path_rate=0.3)
    else:
        net, freeze = Plain(), {"none": [], "backbone": ["conv", "bn"]}[freeze]
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
        for path, leaf in flatten(state.variables).items():
            np.testing.assert_allclose(flatten(other.variables)[path], leaf, atol=1e-9)


def test_frozen_parameters_and_statistics_keep_their_bits():
    net = mini(dropout_rate=0.2)
    variables = variables_of(net)
    tx = optax.chain(optax.clip_by_global_norm(0.1), optax.adamw(1e-2, weight_decay=0.1))
    step, state = build(net, variables, "stem..layer2", tx)
    _, after = run(jtl.parallel.pmap(), step, state, [batch_of(seed=s) for s in range(3)])
    changed = {line.split(":")[0] for line in differences(variables, after.variables)}
    frozen = ("stem", "layer1", "layer2")
    expected = {p for p in flatten(variables) if p.split("/")[1] not in frozen}
    assert changed == expected


def test_frozen_leaves_have_no_optimizer_state():
    net = mini()
    variables = variables_of(net)
    _, state = build(net, variables, "backbone", optax.adam(1e-3))
    head = sum(leaf.size for leaf in jax.tree.leaves(variables["params"]["head"]))
    assert sum(x.size for x in jax.tree.leaves(state.opt_state) if x.ndim) == 2 * head


def test_grad_norm_is_that_of_the_trainable_part(x64):
    net = Plain()
    variables = variables_of(net, dtype=jnp.float64)
    batch = batch_of(dtype=np.float64)
    step, state = build(net, variables, ["conv", "bn"])
    _, metrics = jax.jit(step)(state, batch)

    full, whole = build(net, variables)
    _, more = jax.jit(full)(whole, batch)
    assert 0 < metrics["grad_norm"] < more["grad_norm"]


def test_masks_of_dropout_are_those_of_each_example():
    net = Plain()
    variables = variables_of(net)
    step, state = build(net, variables)
    batch = batch_of()
    order = np.random.default_rng(0).permutation(16)
    shuffled = {k: v[order] for k, v in batch.items()} | {"position": order.astype(np.int32)}
    _, a = jax.jit(step)(state, {**batch, "position": np.arange(16, dtype=np.int32)})
    _, b = jax.jit(step)(state, shuffled)
    _, c = jax.jit(step)(state, {k: v[order] for k, v in batch.items()})
    np.testing.assert_allclose(a["loss"], b["loss"], rtol=1e-6)
    assert abs(float(a["loss"] - c["loss"])) > 1e-4


def test_padding_changes_nothing(x64):
    net = mini()
    variables = variables_of(net, dtype=jnp.float64)
    step, state = build(net, variables)
    short = batch_of(8, dtype=np.float64)
    junk = batch_of(8, dtype=np.float64, seed=9)
    padded = {k: np.concatenate([short[k], junk[k]]) for k in short}
    padded["mask"][8:] = False
    a, left = jax.jit(step)(state, short)
    b, right = jax.jit(step)(state, padded)
    assert left["accuracy"] == right["accuracy"]
    np.testing.assert_allclose(left["loss"], right["loss"], rtol=1e-12)
    for path, leaf in flatten(a.variables).items():
        np.testing.assert_allclose(flatten(b.variables)[path], leaf, atol=1e-12)


def test_padding_that_is_not_a_number_does_no_harm():
    net = mini()
    step, state = build(net, variables_of(net), "backbone")
    batch = batch_of(masked=(5,))
    batch["image"][5] = np.nan
    _, metrics = jax.jit(step)(state, batch)
    assert np.isfinite(metrics["loss"])
    assert not metrics["skipped"]


def test_step_that_is_not_finite_changes_nothing_but_the_counter():
    net = mini()
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
    net = mini()
    variables = variables_of(net)
    step, state = build(net, variables)
    before = jax.tree.map(np.array, variables)
    for place in (jtl.parallel.single(), jtl.parallel.pmap(), jtl.parallel.mesh()):
        _, after = run(place, step, state, [batch_of()])
        assert not differences(before, variables)
        kept = jax.tree.map(np.array, after.variables)
        run(place, step, after, [batch_of()])
        assert not differences(kept, after.variables)


def test_step_compiles_once_under_every_placement():
    net = mini()
    for placement in PLACEMENTS.values():
        place = placement()
        step, state = build(net, variables_of(net))
        traces = []
        original = step.loss

        def counted(logits, batch, original=original, traces=traces):
            traces.append(1)
            return original(logits, batch)

        step, state = build(net, variables_of(net), loss=counted)
        run(place, step, state, [batch_of(seed=s) for s in range(3)])
        assert len(traces) == 1


def test_step_works_inside_the_callers_own_pmap():
    net = mini()
    variables = variables_of(net)
    step, state = build(net, variables)
    batch = batch_of()
    mapped = jax.pmap(step.bind("mine"), axis_name="mine", in_axes=(None, 0), out_axes=None)
    parts = jax.tree.map(lambda x: x.reshape(8, 2, *x.shape[1:]), batch)
    _, ours = mapped(state, parts)
    _, plain = jax.jit(step)(state, batch)
    np.testing.assert_allclose(ours["loss"], plain["loss"], rtol=1e-5)


def test_plain_function_trains_as_the_module_does():
    net = mini()
    variables = variables_of(net)

    def apply(variables, images, train, rngs):
        if not train:
            return net.apply(variables, images), variables["batch_stats"]
        logits, new = net.apply(variables, images, train=True, mutable=["batch_stats"])
        return logits, new["batch_stats"]

    step, state = build(net, variables)
    plain, _ = build(apply, variables)
    _, ours = jax.jit(step)(state, batch_of())
    _, theirs = jax.jit(plain)(state, batch_of())
    np.testing.assert_allclose(ours["loss"], theirs["loss"], rtol=1e-5)
    np.testing.assert_allclose(ours["grad_norm"], theirs["grad_norm"], rtol=1e-4)


@pytest.mark.parametrize("platform", ["tpu", "cuda"])
def test_step_lowers_for_accelerators(platform):
    net = mini(dropout_rate=0.1)
    step, state = build(net, variables_of(net), "stem..layer2", optax.adamw(1e-3))
    exported = jax.export.export(jax.jit(step), platforms=[platform])(
        jax.eval_shape(lambda: state), jax.eval_shape(lambda: jax.tree.map(jnp.asarray, batch_of()))
    )
    assert exported.platforms == (platform,)
    assert "convolution" in exported.mlir_module()


def test_evaluation_counts_every_example_once():
    net = mini()
    variables = variables_of(net)
    whole = batch_of(24)
    step = jtl.make_eval_step(net)
    expected = jax.jit(step)(variables, whole)
    place = jtl.parallel.pmap()
    compiled, put = place.compile(step), place.put_state(variables)
    parts = [{k: v[:16] for k, v in whole.items()}]
    parts.append({k: np.concatenate([v[16:], v[:8]]) for k, v in whole.items()})
    parts[1]["mask"] = np.arange(16) < 8
    sums = [compiled(put, place.put_batch(part)) for part in parts]
    total = jax.tree.map(lambda a, b: a + b, *sums)
    assert total["count"] == 24
    np.testing.assert_array_equal(total["confusion"], expected["confusion"])
    np.testing.assert_allclose(total["loss"], expected["loss"], rtol=1e-5)


def test_predictions_come_in_the_order_of_the_batch():
    net = mini()
    variables = variables_of(net)
    batch = batch_of()
    expected = net.apply(variables, batch["image"])
    for placement in PLACEMENTS.values():
        place = placement()
        step = place.compile(make_predict_step(net))
        logits = step(place.put_state(variables), place.put_batch(batch))
        np.testing.assert_allclose(logits, expected, atol=1e-5)


def test_prepare_draws_by_position_under_every_placement():
    def prepare(batch, keys):
        image = batch["image"]
        if keys is not None:
            noise = jax.vmap(lambda key: jax.random.normal(key, image.shape[1:]))(keys)
            image = image + noise
        return {"image": image}

    net = mini()
    variables = variables_of(net)
    losses = []
    for placement in PLACEMENTS.values():
        step, state = build(net, variables, "backbone", prepare=prepare)
        losses.append(run(placement(), step, state, [batch_of(), batch_of()])[0])
    for other in losses[1:]:
        np.testing.assert_allclose(other, losses[0], rtol=1e-5)
    assert losses[0][0] != losses[0][1]


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


def test_batch_that_does_not_divide_over_the_devices_is_refused():
    with pytest.raises(ConfigError, match="multiple of 8, such as 8"):
        jtl.parallel.pmap().put_batch(batch_of(12))
