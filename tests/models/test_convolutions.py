"""Convolutions are the same whichever way a device computes them, and so are their gradients."""

import math
import re

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jtl.models.layers import Layers

# As many as places or more, for a CPU's products; half as many, for those of the gradient alone;
# and few, for XLA's.
FEATURES = {"products": 300, "gradient": 120, "convolutions": 1}


def drawn(*shape):
    return jnp.asarray(np.random.default_rng(0).normal(size=shape))


def value_and_gradients(conv, params, x):
    def loss(params, x):
        return jnp.sum(jnp.sin(conv.apply(params, x)))

    return jax.value_and_grad(loss, argnums=(0, 1))(params, x)


def by_xla(conv):
    return conv.clone(conv_general_dilated=jax.lax.conv_general_dilated)


@pytest.mark.parametrize("way", FEATURES)
@pytest.mark.parametrize("kernel", [(1, 1), (3, 3), (1, 7), (2, 4)])
@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("padding", [(0, 0), (1, 1), (0, 3)])
def test_a_cpu_s_gradient_is_xla_s(way, kernel, stride, padding, x64):
    conv = Layers(param_dtype=jnp.float64).conv(
        FEATURES[way], kernel, stride=stride, padding=padding, name=None
    )
    x = drawn(2, 8, 9, 6)
    params = conv.init(jax.random.key(0), x)
    expected = value_and_gradients(by_xla(conv), params, x)
    found = value_and_gradients(conv, params, x)
    chex.assert_trees_all_close(found, expected, rtol=1e-12, atol=1e-12)
    traced = str(jax.make_jaxpr(jax.grad(lambda x: conv.apply(params, x).sum()))(x))
    pointwise = kernel == (1, 1) and padding == (0, 0)
    assert ("dot_general" in traced) == (way != "convolutions" or stride > 1 or pointwise)
    forward = str(jax.make_jaxpr(conv.apply)(params, x))
    few = x.shape[0] * math.prod(conv.apply(params, x).shape[1:3]) <= FEATURES[way]
    assert ("dot_general" in forward) == (few and not pointwise)
    assert few or way != "products"


@pytest.mark.parametrize("pixels", [(1, 1), (1, 2), (3, 1)])
@pytest.mark.parametrize("kernel", [(3, 3), (1, 7), (5, 1)])
def test_places_of_a_kernel_that_lie_beyond_a_small_image_add_nothing(pixels, kernel, x64):
    conv = Layers(param_dtype=jnp.float64).conv(9, kernel, name=None)
    x = drawn(2, *pixels, 6)
    params = conv.init(jax.random.key(0), x)
    expected = value_and_gradients(by_xla(conv), params, x)
    found = value_and_gradients(conv, params, x)
    chex.assert_trees_all_close(found, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("frozen", ["x", "kernel"])
@pytest.mark.parametrize("features", [20, 200])
def test_a_cpu_computes_no_gradient_of_what_has_none(frozen, features):
    conv = Layers().conv(features, (3, 3), use_bias=False, name=None)
    x = drawn(2, 4, 4, 6).astype(jnp.float32)
    params = conv.init(jax.random.key(0), x)
    of = (lambda p: conv.apply(p, x).sum(), lambda own: conv.apply(params, own).sum())
    moving = jax.grad(of[0])(params) if frozen == "x" else jax.grad(of[1])(x)
    assert all(jnp.any(leaf != 0) for leaf in jax.tree.leaves(moving))
    program = jax.jit(jax.grad(of[0 if frozen == "x" else 1]))
    text = program.lower(params if frozen == "x" else x).as_text()
    convolutions = len(re.findall(r"stablehlo\.convolution", text))
    products = len(re.findall(r"stablehlo\.dot_general", text))
    # The sum itself needs no forward convolution; its gradient has one, or a product a place.
    one = frozen == "x" and features == 20
    assert (convolutions, products) == ((1, 0) if one else (0, 9))


def test_a_cpu_does_not_take_a_large_kernel_for_the_image():
    conv = Layers().conv(64, (3, 3), use_bias=False, name=None)
    x = drawn(8, 2, 2, 64).astype(jnp.float32)
    params = conv.init(jax.random.key(0), x)

    def text(conv):
        return jax.jit(conv.apply).lower(params, x).compile().as_text()

    assert "reverse" in text(by_xla(conv))  # as XLA does, for which it turns the kernel around
    assert "reverse" not in text(conv)


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
    monkeypatch.setattr("jtl.models.convolutions.on_cpu", lambda: False)
    found = jax.value_and_grad(loss, argnums=(0, 1))(params, x)
    chex.assert_trees_all_close(found, expected, rtol=1e-12, atol=1e-12)


def test_images_reach_matrix_units_with_channels_that_are_taken_at_once(monkeypatch):
    monkeypatch.setattr("jtl.models.convolutions.on_cpu", lambda: False)
    conv = Layers().conv(64, (7, 7), stride=2, name=None)
    x = jax.ShapeDtypeStruct((1, 224, 224, 3), jnp.float32)
    params = jax.eval_shape(conv.init, jax.random.key(0), x)
    traced = str(jax.make_jaxpr(conv.apply)(params, x))
    assert "f32[4,4,16,64]" in traced
