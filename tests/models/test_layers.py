import re
from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
from jax import export

from jtl.models.layers import (
    Layers,
    bias_uniform,
    computed_once,
    conv_normal,
    dense_uniform,
    float_dtype,
)
from jtl.platforms import compiler_options


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


def sums(x, kernel, *, fenced):
    """Four residual blocks, each a product, an activation and a sum."""
    for _ in range(4):
        x = jnp.maximum(x + jnp.tanh((x.reshape(-1, 64) @ kernel).reshape(x.shape)), 0)
        x = computed_once(x) if fenced else x
    return x


def test_a_cpu_adds_up_a_chain_of_sums_once_and_not_anew_at_every_block():
    x, kernel = jnp.ones((8, 16, 16, 64)), jnp.full((64, 64), 0.01)

    def readers(fenced):
        program = jax.jit(partial(sums, fenced=fenced), compiler_options=compiler_options())
        entry = program.lower(x, kernel).compile().as_text().partition("\nENTRY")[2]
        fusions = re.findall(r"= f32\[8,16,16,64\]\S* fusion\((.*?)\), kind=kLoop", entry)
        return max(len(operands.split(",")) for operands in fusions)

    assert readers(fenced=True) == 2
    assert readers(fenced=False) == 5, "the compiler does without: computed_once can go"


def test_what_is_computed_once_has_the_gradient_of_what_it_is_of(x64):
    x, kernel = jnp.linspace(-1, 1, 2 * 3 * 64).reshape(2, 3, 1, 64), jnp.full((64, 64), 0.01)

    def gradients(fenced):
        return jax.grad(lambda *own: sums(*own, fenced=fenced).sum(), (0, 1))(x, kernel)

    chex.assert_trees_all_equal(gradients(True), gradients(False))
    moved = jax.jvp(partial(sums, fenced=True), (x, kernel), (x, kernel))
    chex.assert_trees_all_equal(
        moved, jax.jvp(partial(sums, fenced=False), (x, kernel), (x, kernel))
    )


def test_only_a_program_for_a_cpu_alone_is_told_what_to_compute_once():
    def lowered(*platforms):
        shape = (export.symbolic_shape("n, 4")) if len(platforms) > 1 else (8, 4)
        argument = jax.ShapeDtypeStruct(shape, jnp.float32)
        return export.export(jax.jit(computed_once), platforms=platforms)(argument).mlir_module()

    assert "inlineable" in lowered("cpu")
    assert "inlineable" not in lowered("cpu", "cuda", "tpu")
