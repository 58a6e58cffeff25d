import jax
import numpy as np
import pytest

from jtl.weights.layouts.transform import (
    OI11_TO_IO,
    OI_TO_IO,
    OIHW_TO_HWIO,
    SAME,
    dense_from_conv,
    flatten_chw_to_hwc,
)

CASES = [
    (SAME, (5,)),
    (OIHW_TO_HWIO, (6, 4, 3, 2)),
    (OI_TO_IO, (6, 4)),
    (OI11_TO_IO, (6, 4, 1, 1)),
    (dense_from_conv(3, 2), (6, 4, 3, 2)),
    (flatten_chw_to_hwc(4, 3, 2), (6, 24)),
]


def numbers(shape):
    return np.random.default_rng(0).normal(size=shape).astype("float32")


@pytest.mark.parametrize(("transform", "shape"), CASES, ids=lambda case: getattr(case, "name", ""))
def test_way_there_and_back_is_bit_identical(transform, shape):
    source = numbers(shape)
    ours = transform.forward(source)
    back = transform.inverse(ours)
    assert back.shape == shape
    assert np.array_equal(back, source)
    assert np.array_equal(transform.forward(back), ours)


def test_kernel_gives_the_same_convolution_in_both_layouts():
    kernel, x = numbers((6, 4, 3, 2)), numbers((1, 4, 8, 9))
    torch = jax.lax.conv_general_dilated(x, kernel, (1, 1), "VALID")
    ours = jax.lax.conv_general_dilated(
        x.transpose(0, 2, 3, 1),
        OIHW_TO_HWIO.forward(kernel),
        (1, 1),
        "VALID",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
    np.testing.assert_allclose(ours, torch.transpose(0, 2, 3, 1), rtol=1e-5, atol=1e-5)


def test_dense_layer_after_a_flatten_gives_the_same_in_both_orders():
    weight, maps = numbers((6, 24)), numbers((5, 4, 3, 2))
    torch = maps.reshape(5, -1) @ weight.T
    kernel = flatten_chw_to_hwc(4, 3, 2).forward(weight)
    ours = maps.transpose(0, 2, 3, 1).reshape(5, -1) @ kernel
    np.testing.assert_allclose(ours, torch, rtol=1e-5, atol=1e-5)


def test_dense_layer_written_as_a_convolution_gives_the_same():
    weight, maps = numbers((6, 4, 3, 2)), numbers((5, 4, 3, 2))
    conv = np.einsum("ochw,nchw->no", weight, maps)
    ours = maps.transpose(0, 2, 3, 1).reshape(5, -1) @ dense_from_conv(3, 2).forward(weight)
    np.testing.assert_allclose(ours, conv, rtol=1e-5, atol=1e-5)


def test_names_tell_the_transforms_apart():
    assert len({transform.name for transform, _ in CASES}) == len(CASES)
    assert "CHW→HWC" in flatten_chw_to_hwc(4, 3, 2).name
