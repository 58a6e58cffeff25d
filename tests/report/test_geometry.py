"""Where cells lie, against what the gradient of each of them reaches."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jtl.models.registry import create_model
from jtl.report.geometry import Grid, enlarging, grids_of

SIZE = 40


def conv(size, stride, padding):
    def layer(x):
        kernel = jnp.ones((size, size, 1, 1))
        return jax.lax.conv_general_dilated(
            x, kernel, (stride, stride), padding, dimension_numbers=("NHWC", "HWIO", "NHWC")
        )

    return layer


def pool(size, stride, padding):
    window, strides = (1, size, size, 1), (1, stride, stride, 1)
    return lambda x: jax.lax.reduce_window(x, 0.0, jax.lax.add, window, strides, padding)


NETS = {
    "padded": [conv(3, 2, [(1, 1)] * 2), conv(3, 2, [(1, 1)] * 2)],
    "same": [conv(3, 2, "SAME"), conv(3, 1, "SAME"), pool(2, 2, "VALID")],
    "valid": [conv(3, 2, "VALID"), conv(5, 1, "VALID"), pool(3, 2, "VALID")],
    "cut": [conv(3, 1, "SAME"), lambda x: x[:, 3::2, 3::2], jax.nn.relu],
    "padded apart": [lambda x: jnp.pad(x, ((0, 0), (2, 1), (2, 1), (0, 0))), conv(4, 3, "VALID")],
    "branches": [lambda x: conv(3, 2, [(1, 1)] * 2)(x) + conv(1, 2, "VALID")(x)],
    "jitted": [jax.jit(conv(7, 2, [(3, 3)] * 2)), pool(3, 2, ((0, 0), (1, 1), (1, 1), (0, 0)))],
}


@pytest.mark.parametrize("name", NETS)
def test_a_cell_lies_in_the_middle_of_what_it_sees(name):
    def function(x):
        for layer in NETS[name]:
            x = layer(x)
        return x

    image = jnp.ones((1, SIZE, SIZE, 1))
    rows, columns = grids_of(function, jax.ShapeDtypeStruct(image.shape, image.dtype))
    assert rows == columns
    cells = function(image).shape[1]
    for cell in range(cells // 2 - 1, cells // 2 + 2):  # whose window no edge cuts off
        seen = jax.grad(lambda x, cell=cell: function(x)[0, cell, cell, 0])(image)[0, :, :, 0]
        reached = np.flatnonzero(np.asarray(seen).any(axis=1))
        assert (reached[0] + reached[-1]) / 2 == rows.start + cell * rows.step


def test_an_unknown_way_divides_evenly():
    def function(x):
        return x.reshape(1, 5, 8, 5, 8, 1).mean((2, 4))

    rows, _ = grids_of(function, jax.ShapeDtypeStruct((1, SIZE, SIZE, 1), np.float32))
    assert rows == Grid(start=3.5, step=8.0)


@pytest.mark.parametrize(
    ("name", "size", "stage", "expected"),
    [
        ("resnet18", 64, "layer3", Grid(start=0.0, step=16.0)),
        ("vgg11", 64, "block2", Grid(start=1.5, step=4.0)),
    ],
)
def test_families_have_the_padding_of_their_papers(name, size, stage, expected):
    model = create_model(name, num_classes=2)
    image = jax.ShapeDtypeStruct((1, size, size, 3), np.float32)
    variables = jax.eval_shape(model.init, jax.random.key(0), image)
    zeros = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), variables)

    def function(x):
        return model.apply(zeros, x, last=stage, method="run_stages")

    assert grids_of(function, image) == (expected, expected)


def test_weights_are_whole_and_greatest_at_the_centres():
    weights = enlarging(Grid(start=0.5, step=4.0), 5, 20)
    np.testing.assert_allclose(weights.sum(axis=1), 1, rtol=1e-6)
    assert (weights[:1] == [1, 0, 0, 0, 0]).all()
    assert weights[8].argmax() == 2
