"""Optimizers: what is updated by which rule, and what is left alone."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jtl
from jtl.engine.optim import OptimizerOptions, check_labels, make_optimizer
from jtl.errors import ConfigError
from jtl.tree import flatten


def tree(seed):
    rng = np.random.default_rng(seed)
    return {
        "stem": {"kernel": jnp.asarray(rng.normal(size=(3, 4)), jnp.float32)},
        "head": {
            "kernel": jnp.asarray(rng.normal(size=(4, 2)), jnp.float32),
            "bias": jnp.asarray(rng.normal(size=(2,)), jnp.float32),
        },
    }


PARAMS, LABELS = tree(0), jtl.freeze_labels(tree(0), "stem")


def updates_of(tx, grads, steps=1):
    """The last update of several, the parameters following each of them."""

    @jax.jit
    def run(params):
        state = tx.init(params)
        for _ in range(steps):
            update, state = tx.update(grads, state, params)
            params = optax.apply_updates(params, update)
        return update

    return run(PARAMS)


def test_partition_carries_its_labels_and_updates_only_what_is_trained():
    tx = jtl.partition_optimizer(optax.adamw(1e-2, weight_decay=0.1), LABELS)
    assert tx.labels == LABELS
    update = updates_of(tx, tree(1))
    np.testing.assert_array_equal(update["stem"]["kernel"], np.zeros((3, 4)))
    assert np.abs(update["head"]["kernel"]).min() > 0


def test_clipping_sees_the_trainable_part_alone():
    grads = tree(1)
    alone = {**grads, "stem": {"kernel": jnp.zeros((3, 4))}}
    expected = updates_of(optax.clip_by_global_norm(0.1), alone)["head"]
    grads["stem"]["kernel"] *= 1e6
    partitioned = jtl.partition_optimizer(optax.clip_by_global_norm(0.1), LABELS)
    update = updates_of(partitioned, grads)
    for name, value in expected.items():
        np.testing.assert_allclose(update["head"][name], value, rtol=1e-6)
    assert float(optax.global_norm(update)) == pytest.approx(0.1, rel=1e-5)


def test_labels_of_another_spec_are_counted_and_the_first_is_named():
    tx = jtl.partition_optimizer(optax.sgd(0.1), LABELS)
    check_labels(tx, LABELS)
    with pytest.raises(ConfigError) as caught:
        check_labels(tx, jtl.freeze_labels(PARAMS, "all"))
    said = "2 parameters differ, the first is 'head/bias' (trainable in the optimizer, frozen in"
    assert said in str(caught.value)


def test_labels_of_other_parameters_are_refused():
    tx = jtl.partition_optimizer(optax.sgd(0.1), LABELS)
    with pytest.raises(ConfigError, match=r"'stem/kernel' .frozen in the optimizer, unknown in"):
        check_labels(tx, {"head": LABELS["head"]})


def test_an_optimizer_without_labels_is_accepted_where_nothing_is_frozen():
    check_labels(optax.sgd(0.1), jtl.freeze_labels(PARAMS, "none"))
    with pytest.raises(ConfigError, match="partition_optimizer"):
        check_labels(optax.sgd(0.1), LABELS)


@pytest.mark.parametrize("name", ["sgd", "adamw", "lion"])
def test_decay_shrinks_kernels_and_spares_biases(name):
    options = OptimizerOptions(name=name, momentum=0.0, weight_decay=0.5)
    update = updates_of(make_optimizer(options, 0.1), jax.tree.map(jnp.zeros_like, PARAMS))
    for path, leaf in flatten(update).items():
        expected = -0.1 * 0.5 * flatten(PARAMS)[path] * path.endswith("kernel")
        np.testing.assert_allclose(leaf, expected, rtol=1e-6, err_msg=path)


@pytest.mark.parametrize("nesterov", [False, True])
def test_sgd_decays_before_momentum_as_torch_does(nesterov):
    options = OptimizerOptions(name="sgd", momentum=0.9, nesterov=nesterov, weight_decay=0.2)
    update = updates_of(make_optimizer(options, 0.1), tree(1), steps=3)["head"]["kernel"]
    weight, grad = (np.asarray(tree(n)["head"]["kernel"], np.float64) for n in (0, 1))
    trace = np.zeros_like(weight)
    for _ in range(3):
        own = grad + 0.2 * weight
        trace = 0.9 * trace + own
        step = -0.1 * (own + 0.9 * trace if nesterov else trace)
        weight = weight + step
    np.testing.assert_allclose(update, step, rtol=1e-5)


def decays_kernels(params):
    return jax.tree.map(lambda leaf: leaf.ndim > 1, params)


@pytest.mark.parametrize("name", ["adamw", "lamb", "lion"])
def test_named_rules_are_optaxs_with_decay_on_kernels(name):
    numbers = {"b1": 0.8, "b2": 0.95, "weight_decay": 0.1}
    theirs = getattr(optax, name)(0.01, mask=decays_kernels, **numbers)
    expected = flatten(updates_of(theirs, tree(1), steps=3))
    update = updates_of(
        make_optimizer(OptimizerOptions(name=name, **numbers), 0.01), tree(1), steps=3
    )
    for path, leaf in flatten(update).items():
        np.testing.assert_allclose(leaf, expected[path], rtol=1e-4, err_msg=path)


def test_muons_matrices_are_updated_as_optax_does():
    options = OptimizerOptions(name="muon", b1=0.95)
    found = flatten(updates_of(make_optimizer(options, 0.1), tree(1), steps=3))
    expected = flatten(updates_of(optax.contrib.muon(0.1, beta=0.95), tree(1), steps=3))
    for path in [path for path in found if path.endswith("kernel")]:
        np.testing.assert_allclose(found[path], expected[path], rtol=1e-4, err_msg=path)


def test_muon_makes_updates_of_matrices_orthogonal_and_of_biases_adams():
    update = updates_of(make_optimizer(OptimizerOptions(name="muon"), 1.0), tree(1))
    for path, leaf in flatten(update).items():
        if path.endswith("kernel"):
            # Five Newton-Schulz steps bring singular values near 1, not onto it.
            values = np.linalg.svd(np.asarray(leaf), compute_uv=False)
            assert values.max() / values.min() < 2, path
        else:
            np.testing.assert_allclose(np.abs(leaf), 1, rtol=1e-3)


def test_muon_takes_a_convolution_for_the_matrix_from_its_patch():
    kernel = jnp.asarray(np.random.default_rng(2).normal(size=(3, 3, 2, 4)), jnp.float32)
    tx = make_optimizer(OptimizerOptions(name="muon"), 1.0)

    @jax.jit
    def first(grads):
        return tx.update(grads, tx.init(grads), grads)[0]

    np.testing.assert_allclose(
        first(kernel).reshape(18, 4), first(kernel.reshape(18, 4)), rtol=1e-4, atol=1e-5
    )


def test_l2_sp_pulls_all_that_is_trained_towards_its_start():
    options = OptimizerOptions(name="sgd", momentum=0.0, l2_sp=0.5)
    tx = jtl.partition_optimizer(make_optimizer(options, 0.1), LABELS)
    moved = jax.tree.map(lambda leaf: leaf + 2, PARAMS)
    zeros = jax.tree.map(jnp.zeros_like, PARAMS)
    update, _ = tx.update(zeros, tx.init(PARAMS), moved)
    np.testing.assert_allclose(update["head"]["kernel"], -0.1, rtol=1e-5)
    np.testing.assert_allclose(update["head"]["bias"], -0.1, rtol=1e-5)
    np.testing.assert_array_equal(update["stem"]["kernel"], np.zeros((3, 4)))


def test_clip_norm_bounds_the_gradient_before_anything_else():
    options = OptimizerOptions(name="sgd", momentum=0.0, clip_norm=0.5)
    update = updates_of(make_optimizer(options, 1.0), tree(1))
    assert float(optax.global_norm(update)) == pytest.approx(0.5, rel=1e-5)
