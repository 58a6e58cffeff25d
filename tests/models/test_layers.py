import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jtl.models.layers import (
    Layers,
    adaptive_average_pool,
    average_pool,
    bias_uniform,
    conv_normal,
    dense_uniform,
    float_dtype,
    global_average,
)


def images(height: int, width: int, dtype: str = "float64") -> np.ndarray:
    return np.random.default_rng(0).normal(size=(2, height, width, 3)).astype(dtype)


def adaptive_by_loops(x: np.ndarray, size: int) -> np.ndarray:
    """Torch's documented rule, cell by cell."""
    height, width = x.shape[1:3]
    out = np.zeros((x.shape[0], size, size, x.shape[3]))
    for i in range(size):
        for j in range(size):
            rows = slice(int(np.floor(i * height / size)), int(np.ceil((i + 1) * height / size)))
            columns = slice(int(np.floor(j * width / size)), int(np.ceil((j + 1) * width / size)))
            out[:, i, j] = x[:, rows, columns].mean((1, 2))
    return out


@pytest.mark.parametrize("shape", [(2, 2), (7, 7), (8, 8), (10, 13), (14, 14), (1, 20), (3, 9)])
def test_adaptive_pool_shrinks_and_enlarges_as_torch_documents(shape, x64):
    x = images(*shape)
    np.testing.assert_allclose(
        adaptive_average_pool(jnp.asarray(x), 7), adaptive_by_loops(x, 7), rtol=1e-13, atol=1e-14
    )


def test_adaptive_pool_is_exact_in_float32_on_any_device():
    x = jnp.ones((1, 2, 2, 1), jnp.float32) * 0.1
    assert np.array_equal(adaptive_average_pool(x, 7), np.full((1, 7, 7, 1), 0.1, np.float32))


def test_adaptive_pool_keeps_the_dtype():
    assert adaptive_average_pool(jnp.ones((1, 2, 2, 1), jnp.bfloat16), 7).dtype == jnp.bfloat16


def test_average_pool_divides_by_what_it_is_told_to_count():
    ones = jnp.ones((1, 3, 3, 1))
    counted = average_pool(ones, 3, count_padding=True)[0, :, :, 0]
    skipped = average_pool(ones, 3, count_padding=False)[0, :, :, 0]
    expected = np.array([[4, 6, 4], [6, 9, 6], [4, 6, 4]]) / 9
    np.testing.assert_allclose(counted, expected, rtol=1e-6)
    np.testing.assert_allclose(skipped, np.ones((3, 3)), rtol=1e-6)


def test_global_average_sums_half_precision_in_float32():
    x = jnp.full((1, 100, 100, 1), 1.0078125, jnp.bfloat16)
    pooled = global_average(x)
    assert pooled.dtype == jnp.float32
    np.testing.assert_allclose(pooled, 1.0078125, rtol=1e-6)


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
