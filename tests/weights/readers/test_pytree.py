import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jtl.errors import WeightsError
from jtl.weights.readers import read_weights
from tests.weights.readers.samples import assert_same

KERNEL = np.arange(6, dtype=np.float32).reshape(2, 3)


def test_variables_come_by_slash_path():
    weights = read_weights({"params": {"stem": {"kernel": jnp.asarray(KERNEL)}}})
    assert (weights.path, weights.format) == ("<memory>", "pytree")
    assert_same(weights.tensors, {"params/stem/kernel": KERNEL})


def test_a_flat_dict_under_torch_s_names_keeps_them():
    weights = read_weights({"module.conv1.weight": KERNEL, "module.fc.bias": KERNEL})
    assert_same(weights.tensors, {"conv1.weight": KERNEL, "fc.bias": KERNEL})


def test_an_array_of_this_machine_is_not_copied():
    assert read_weights({"a": KERNEL}).tensors["a"] is KERNEL


def test_every_leaf_that_is_no_array_is_named():
    tree = {"params": {"a": "text", "b": KERNEL, "c": jax.ShapeDtypeStruct((1,), np.float32)}}
    tree["params"]["d"] = jax.random.key(0)
    with pytest.raises(WeightsError) as caught:
        read_weights(tree)
    said = str(caught.value)
    assert "3 leaves hold no weights" in said
    assert all(f"params/{name}: " in said for name in "acd")
    assert "params/b" not in said


def test_the_rest_of_a_training_state_is_left_aside():
    state = {
        "params": {"a": KERNEL},
        "rng": jax.random.key(0),
        "ema": {"params": {"a": KERNEL * 2}},
    }
    weights = read_weights(state)
    assert_same(weights.tensors, {"params/a": KERNEL})
    assert weights.notes == ("left aside 'rng', 'ema'",)
    assert_same(read_weights(state, entry="ema").tensors, {"params/a": KERNEL * 2})
