"""Every kind of model behind one face: Linen modules, plain functions, and nothing else."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jtl
from jtl.engine.batch import BatchContext
from jtl.engine.forward import FunctionForward, LinenForward, as_forward
from jtl.engine.modes import make_modes
from jtl.errors import ConfigError
from jtl.tree import differences
from tests.engine.nets import mini, variables_of


def context_of(variables, n=4, axis_name=None):
    labels = jtl.freeze_labels(variables["params"], "none")
    places = jnp.arange(n)
    return BatchContext(
        modes=make_modes(labels), position=places, mask=places >= 0, axis_name=axis_name
    )


def train(forward, variables, images, axis_name=None):
    context = context_of(variables, len(images), axis_name)
    return forward.train(variables, images, jax.random.key(0), jnp.asarray(3), context)


def test_modules_and_functions_are_told_apart():
    assert isinstance(as_forward(mini()), LinenForward)
    assert isinstance(as_forward(lambda *args: args), FunctionForward)


@pytest.mark.parametrize("model", ["resnet50", None, {"params": {}}])
def test_anything_else_is_refused(model):
    with pytest.raises(ConfigError, match=f"not {type(model).__name__}"):
        as_forward(model)


def test_stages_are_the_modules_own():
    assert as_forward(mini()).stages == ("stem", "layer1", "layer2", "layer3", "head")
    assert as_forward(nn.Dense(3)).stages is None
    assert as_forward(lambda *args: args).stages is None


def test_module_without_a_training_mode_is_called_without_one():
    net = nn.Dense(3)
    images = jnp.ones((4, 2))
    variables = {**net.init(jax.random.key(0), images), "batch_stats": {}}
    forward = as_forward(net)
    logits, stats = train(forward, variables, images)
    np.testing.assert_array_equal(logits, forward.evaluate(variables, images))
    assert stats == {}


def test_statistics_other_than_batch_norms_are_averaged_over_devices():
    class Counter(nn.Module):
        @nn.compact
        def __call__(self, x, train: bool = False):
            largest = self.variable("batch_stats", "largest", jnp.zeros, ())
            untouched = self.variable("batch_stats", "untouched", jnp.ones, ())
            if train:
                largest.value = x.max()
            return nn.Dense(2, name="head")(x) + untouched.value

    net = Counter()
    variables = net.init(jax.random.key(0), jnp.ones((1, 1)))

    def one(images):
        return train(as_forward(net), variables, images, "batch")[1]

    images = jnp.arange(8.0).reshape(2, 4, 1)
    stats = jax.pmap(one, axis_name="batch", devices=jax.devices()[:2])(images)
    np.testing.assert_array_equal(stats["largest"], [5.0, 5.0])
    np.testing.assert_array_equal(stats["untouched"], [1.0, 1.0])


VARIABLES = {"params": {"head": jnp.ones((2, 3))}, "batch_stats": {"seen": jnp.zeros(())}}


def test_function_is_given_the_mode_and_one_key_an_example():
    seen = {}

    def apply(variables, images, train, rngs):
        seen[train] = rngs
        return images @ variables["params"]["head"], {"seen": jnp.ones(())}

    forward, images = as_forward(apply), jnp.ones((4, 2))
    _, stats = train(forward, VARIABLES, images)
    forward.evaluate(VARIABLES, images)
    keys = jax.random.key_data(seen[True]["dropout"])
    assert len(np.unique(keys, axis=0)) == len(keys) == 4
    assert seen[False] == {}
    assert stats["seen"] == 1


def test_keys_of_a_function_follow_position():
    seen = []

    def apply(variables, images, train, rngs):
        seen.append(jax.random.key_data(rngs["dropout"]))
        return images, {}

    train(as_forward(apply), VARIABLES, jnp.ones((4, 2)))
    train(as_forward(apply), VARIABLES, jnp.ones((2, 2)))
    np.testing.assert_array_equal(seen[0][:2], seen[1])


def test_function_that_asks_is_told_the_axis_and_its_statistics_are_averaged():
    seen = []

    def apply(variables, images, train, rngs, axis_name=None):
        seen.append(axis_name)
        return images, {"seen": images.mean()}

    def one(images):
        return train(as_forward(apply), VARIABLES, images, "batch")[1]["seen"]

    images = jnp.stack([jnp.zeros((2, 2)), jnp.ones((2, 2))])
    means = jax.pmap(one, axis_name="batch", devices=jax.devices()[:2])(images)
    assert seen == ["batch"]
    np.testing.assert_array_equal(means, [0.5, 0.5])


def test_evaluation_changes_no_statistics():
    net = mini()
    variables = variables_of(net)
    before = jax.tree.map(np.array, variables)
    logits = jax.jit(as_forward(net).evaluate)(variables, np.ones((2, 8, 8, 3), np.float32))
    assert logits.shape == (2, 4)
    assert not differences(before, variables)
