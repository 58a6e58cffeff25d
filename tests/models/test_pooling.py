import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jtl.models.pooling import adaptive_average_pool, average_pool, global_average, max_pool


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


SHAPES = ((3, 2, 1), (3, 2, 0), (2, 2, 0), (3, 1, 1), (5, 2, 2), (2, 3, 0))
WINDOWS = [
    pytest.param(window, stride, padding, id=f"{window}-{stride}-{padding}")
    for window, stride, padding in (
        (3, 2, 1),
        (3, 2, 0),
        (2, 2, 0),
        (3, 1, 1),
        (5, 2, 2),
        (2, 3, 0),
    )
]


@pytest.fixture(params=["cpu", "accelerator"])
def platform(request, monkeypatch):
    monkeypatch.setattr("jtl.models.pooling.on_cpu", lambda: request.param == "cpu")


def flax_pool(x, window, stride, padding, relu=False):
    sides = ((padding, padding), (padding, padding))
    x = nn.relu(x) if relu else x
    return nn.max_pool(x, (window, window), (stride, stride), padding=sides)


def rounded(height, width):
    """Images with many equal values, so that windows have several largest ones."""
    return jnp.asarray(np.round(images(height, width)))


@pytest.mark.parametrize("shape", [(7, 7), (8, 11), (12, 9)])
@pytest.mark.parametrize(("window", "stride", "padding"), WINDOWS)
@pytest.mark.parametrize("relu", [False, True])
def test_max_pool_and_its_gradient_are_flax_s(shape, window, stride, padding, relu, platform, x64):
    def pool(x):
        return max_pool(x, window, stride=stride, padding=padding, relu=relu)

    x = rounded(*shape)
    expected, back = jax.vjp(lambda x: flax_pool(x, window, stride, padding, relu), x)
    found, own_back = jax.vjp(pool, x)
    np.testing.assert_array_equal(found, expected)
    cotangent = jnp.asarray(np.random.default_rng(1).normal(size=found.shape))
    np.testing.assert_allclose(own_back(cotangent)[0], back(cotangent)[0], rtol=1e-14, atol=1e-15)


def test_max_pool_goes_forward_and_over_batches_of_batches(platform, x64):
    x, moves = jnp.asarray(images(9, 9)), jnp.asarray(images(9, 9)[::-1].copy())
    expected = jax.jvp(lambda x: flax_pool(x, 3, 2, 1), (x,), (moves,))
    found = jax.jvp(lambda x: max_pool(x, 3, padding=1), (x,), (moves,))
    np.testing.assert_array_equal(found, expected)
    stacked = jnp.stack([x, moves])
    gradient = jax.grad(lambda x: jnp.sum(jnp.sin(max_pool(x, 3, padding=1))))
    one_by_one = jnp.stack([gradient(own) for own in stacked])
    np.testing.assert_array_equal(jax.vmap(gradient)(stacked), one_by_one)


def test_max_pool_hands_on_what_is_no_number(platform):
    x = jnp.zeros((1, 4, 4, 1)).at[0, 1, 1, 0].set(jnp.nan)
    found = max_pool(x, 2)
    np.testing.assert_array_equal(found, flax_pool(x, 2, 2, 0))
    assert jnp.isnan(jax.grad(lambda x: jnp.sum(max_pool(x, 2) ** 2))(x)).any()


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_max_pool_keeps_the_dtype(dtype, platform):
    x = jnp.ones((1, 6, 6, 2), dtype)
    value, gradient = jax.value_and_grad(lambda x: jnp.sum(max_pool(x, 3).astype(jnp.float32)))(x)
    assert max_pool(x, 3).dtype == gradient.dtype == jnp.dtype(dtype)
    assert value == 8
