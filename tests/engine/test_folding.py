import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
import pytest

import jtl


class Net(nn.Module):
    """Convolutions with and without a bias, BatchNorms of every kind, and one behind a ReLU."""

    stages = ("body", "head")

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        return Head(name="head")(Body(name="body")(x, train))


class Head(nn.Module):
    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        return nn.Dense(3)(x.mean((1, 2)))


class Doubled(nn.BatchNorm):
    """A BatchNorm of the user's own."""

    def __call__(self, x, use_running_average=None, *, mask=None):
        return 2 * super().__call__(x, use_running_average, mask=mask)


class Body(nn.Module):
    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        def norm(**options):
            return nn.BatchNorm(use_running_average=not train, **options)

        x = nn.relu(norm()(nn.Conv(4, (3, 3), strides=2)(x)))
        x = norm(use_scale=False)(nn.Conv(4, (1, 1), use_bias=False)(x))
        x = norm(use_bias=False)(x)
        x = norm()(nn.Conv(4, (3, 3), feature_group_count=2)(x))
        return Doubled(use_running_average=not train)(nn.Conv(4, (1, 1))(x))


@pytest.fixture
def net(x64):
    model, images = Net(), jax.random.normal(jax.random.key(1), (4, 8, 8, 3), jnp.float64)
    variables = model.init(jax.random.key(0), images, train=False)
    leaves, tree = jax.tree.flatten(variables)
    keys = jax.random.split(jax.random.key(2), len(leaves))
    # Statistics, scales and biases that all change something.
    leaves = [
        jax.random.uniform(key, leaf.shape, jnp.float64, 0.5, 1.5)
        for key, leaf in zip(keys, leaves, strict=True)
    ]
    return model, jax.tree.unflatten(tree, leaves), images


@pytest.fixture
def folded(monkeypatch):
    return lambda: monkeypatch.setattr("jtl.engine.folding.on_cpu", lambda: False)


def convolutions(function, *arguments):
    """How many the compiled program has."""
    return jax.jit(function).lower(*arguments).compile().as_text().count("convolution(")


@pytest.mark.parametrize("freeze", ["backbone", "none", "all"])
def test_folding_changes_no_number_and_adds_no_convolution(freeze, net, folded):
    model, variables, images = net
    batch = {"image": images, "label": jnp.array([0, 1, 2, 0])}
    labels = jtl.freeze_labels(variables["params"], freeze, model.stages)
    tx = jtl.partition_optimizer(optax.sgd(0.1), labels)
    state = jtl.TrainState.create(variables, tx, rng=0)

    def outcome():
        step = jtl.make_train_step(model, tx, freeze=freeze)
        evaluate = jtl.make_eval_step(model)
        counts = convolutions(step, state, batch), convolutions(evaluate, variables, batch)
        state_after, metrics = step(state, batch)
        numbers = (state_after.params, state_after.batch_stats, state_after.opt_state, metrics)
        return (numbers, evaluate(variables, batch)), counts

    expected, plain = outcome()
    folded()
    found, counts = outcome()
    chex.assert_trees_all_close(found, expected, rtol=1e-11, atol=1e-12)
    assert counts == plain


def test_a_norm_right_behind_a_convolution_leaves_only_its_bias(net, folded):
    model, variables, images = net
    folded()
    evaluate = jtl.make_eval_step(model)
    batch = {"image": images, "label": jnp.array([0, 1, 2, 0])}
    text = str(jax.make_jaxpr(evaluate)(variables, batch))
    # Traced again for each norm but the user's own; one is behind another that was folded.
    assert text.count("conv_general_dilated") == 4 + 4
    assert text.count("rsqrt") == 5


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_folding_keeps_the_dtype(dtype, folded):
    folded()
    pretrained = jtl.load_model(
        "resnet18", weights=None, num_classes=3, rng=0, dtype=jnp.dtype(dtype)
    )
    evaluate = jtl.make_eval_step(pretrained.model)
    batch = {"image": jnp.ones((2, 32, 32, 3)), "label": jnp.array([0, 1])}
    traced = jax.eval_shape(evaluate, pretrained.variables, batch)
    assert all(leaf.dtype != jnp.bfloat16 for leaf in jax.tree.leaves(traced))
    text = str(jax.make_jaxpr(evaluate)(pretrained.variables, batch))
    short = {"bfloat16": "bf16", "float32": "f32"}[dtype]
    assert f"{short}[2,1,1,512] = conv_general_dilated" in text
