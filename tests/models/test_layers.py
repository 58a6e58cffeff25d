import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jtl.models.layers import (
    Layers,
    bias_uniform,
    conv_normal,
    dense_uniform,
    float_dtype,
)


def test_float_dtype_is_never_below_float32_nor_below_its_input():
    assert float_dtype(jnp.bfloat16) == jnp.float32
    assert float_dtype(jnp.float32) == jnp.float32
    assert float_dtype(np.float64) == np.float64


def test_convolution_pads_by_half_its_kernel_unless_told():
    layers = Layers()
    x = jnp.ones((1, 9, 9, 2))
    shapes = {}
    for padding in (None, (0, 0)):
        conv = layers.conv(4, (1, 7), padding=padding, name=None)
        shapes[padding] = conv.init_with_output(jax.random.key(0), x)[0].shape
    assert shapes == {None: (1, 9, 9, 4), (0, 0): (1, 9, 3, 4)}


def test_initialisers_have_the_spread_that_torch_documents():
    key = jax.random.key(0)
    kernel = conv_normal(key, (3, 3, 64, 256), jnp.float32)
    np.testing.assert_allclose(kernel.std(), np.sqrt(2 / (256 * 9)), rtol=0.02)
    assert abs(kernel).max() > 3 * kernel.std(), "a normal, not one cut off at two deviations"
    bound = 1 / np.sqrt(400)
    for drawn in (dense_uniform(key, (400, 1000)), bias_uniform(400)(key, (10_000,))):
        assert abs(drawn).max() <= bound
        np.testing.assert_allclose(drawn.std(), bound / np.sqrt(3), rtol=0.02)


@pytest.mark.parametrize("size", [1, 2, 3, 4, 7])
@pytest.mark.parametrize("pixels", [8, 9, 15])
@pytest.mark.parametrize("padding", [0, 1, 3])
def test_a_strided_convolution_of_images_is_the_same_on_an_accelerator(
    size, pixels, padding, monkeypatch, x64
):
    if pixels + 2 * padding < size:
        pytest.skip("no window fits")
    conv = Layers(param_dtype=jnp.float64).conv(
        5, (size, size), stride=2, padding=(padding, padding), name=None
    )
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, pixels, pixels + 1, 3)))
    params = conv.init(jax.random.key(0), x)

    def loss(params, x):
        return jnp.sum(jnp.sin(conv.apply(params, x)))

    expected = jax.value_and_grad(loss, argnums=(0, 1))(params, x)
    monkeypatch.setattr("jtl.models.layers.on_cpu", lambda: False)
    found = jax.value_and_grad(loss, argnums=(0, 1))(params, x)
    chex.assert_trees_all_close(found, expected, rtol=1e-12, atol=1e-12)


def test_images_reach_matrix_units_with_four_times_the_channels(monkeypatch):
    monkeypatch.setattr("jtl.models.layers.on_cpu", lambda: False)
    conv = Layers().conv(64, (7, 7), stride=2, name=None)
    x = jax.ShapeDtypeStruct((1, 224, 224, 3), jnp.float32)
    params = jax.eval_shape(conv.init, jax.random.key(0), x)
    traced = str(jax.make_jaxpr(conv.apply)(params, x))
    assert "f32[4,4,12,64]" in traced
