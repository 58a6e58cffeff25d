import chex
import jax
import numpy as np
import pytest

from jtl.models.layers import Layers
from jtl.models.pooling import adaptive_average_pool
from jtl.models.registry import create_model
from jtl.models.vgg import ConvBlock

# One convolution a block: enough to say where the classifier begins.
FIELDS = {
    "stage_sizes": (1, 1, 1, 1, 1),
    "widths": (4, 4, 4, 4, 8),
    "hidden": 16,
    "num_classes": 5,
}


def images(size: int) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(2, size, size, 3)).astype("float32")


@pytest.mark.parametrize("size", [32, 64, 100, 224, 256])
def test_classifier_takes_images_of_any_size(size):
    model = create_model("vgg11", **FIELDS)
    variables = jax.jit(model.init)(jax.random.key(0), images(32))
    maps = jax.jit(lambda v, x: model.apply(v, x, last="block5", method="run_stages"))(
        variables, images(size)
    )
    assert maps.shape == (2, size // 32, size // 32, 8)
    pooled = adaptive_average_pool(maps, 7)
    expected = model.apply(variables, pooled, first="classifier", method="run_stages")
    np.testing.assert_allclose(
        jax.jit(model.apply)(variables, images(size)), expected, rtol=1e-5, atol=1e-7
    )


def test_classifier_flattens_height_before_width_before_channel():
    model = create_model("vgg11", **FIELDS)
    variables = jax.jit(model.init)(jax.random.key(0), images(32))
    kernel = np.zeros((7 * 7 * 8, 16), np.float32)
    kernel[(2 * 7 + 3) * 8 + 5, 0] = 1
    variables["params"]["classifier"]["fc1"]["kernel"] = kernel
    variables["params"]["classifier"]["fc2"]["kernel"] = np.eye(16, dtype=np.float32)
    maps = np.zeros((1, 7, 7, 8), np.float32)
    maps[0, 2, 3, 5] = 4
    out = model.apply(variables, maps, first="classifier", last="classifier", method="run_stages")
    np.testing.assert_array_equal(out, 4 * np.eye(16, dtype=np.float32)[:1])


def test_dropout_follows_the_first_dense_layer_and_precedes_the_head():
    model = create_model("vgg11", **FIELDS, dropout_rate=1.0)
    variables = jax.jit(model.init)(jax.random.key(0), images(32))
    # With everything dropped only the biases are left: zero but for what the layers add.
    out, state = model.apply(
        variables,
        images(32),
        train=True,
        rngs={"dropout": jax.random.key(0)},
        mutable=True,
        capture_intermediates=lambda module, _: module.name in ("fc1", "fc2", "dropout"),
    )
    seen = state["intermediates"]
    assert np.abs(seen["classifier"]["fc1"]["__call__"][0]).max() > 0
    assert np.abs(seen["classifier"]["dropout"]["__call__"][0]).max() == 0
    assert np.abs(seen["dropout"]["__call__"][0]).max() == 0
    np.testing.assert_array_equal(out, np.zeros((2, 5), np.float32))


def test_norms_follow_every_convolution_or_none():
    for name, count in (("vgg16", 0), ("vgg16_bn", 13)):
        model = create_model(name, widths=(4, 4, 4, 4, 4), hidden=16)
        variables = jax.eval_shape(model.init, jax.random.key(0), images(32))
        assert len(jax.tree.leaves(variables.get("batch_stats", {}))) == 2 * count


def test_accelerators_keep_one_array_a_convolution_and_take_the_same_gradients(monkeypatch):
    block = ConvBlock(layers=Layers(), depth=2, features=4, batch_norm=False)
    x = images(8)
    keys = jax.random.split(jax.random.key(0), 3)
    params = jax.jit(jax.vmap(lambda key: block.init(key, x, False)))(keys)

    def loss(params, x):
        return (block.apply(params, x, True) ** 2).sum()

    def gradients():
        # Several networks at once, as trials share a program.
        take = jax.vmap(jax.grad(loss, argnums=(0, 1)), in_axes=(0, None))
        traced = jax.jit(lambda *own: take(*own)).trace(params, x)
        return str(traced.jaxpr), traced.lower().compile()(params, x)

    x[:, :3] = 0  # at the edge of a ReLU
    plain, expected = gradients()
    monkeypatch.setattr("jtl.models.layers.on_cpu", lambda: False)
    lean, found = gradients()
    assert "optimization_barrier" in lean
    assert "optimization_barrier" not in plain
    chex.assert_trees_all_equal(found, expected)
