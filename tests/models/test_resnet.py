import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jtl.models.layers import Layers
from jtl.models.registry import create_model
from jtl.models.resnet import BasicBlock, PreactBottleneck, ResNet
from jtl.tree import flatten

FOUR = {"stage_sizes": (1, 1, 2, 1), "widths": (8, 16, 32, 64), "num_classes": 3}
TINY = {"stage_sizes": (1, 2), "widths": (8, 16), "num_classes": 3}


def images(size: int = 32, batch: int = 2) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(batch, size, size, 3)).astype("float32")


def stage_sizes(model: ResNet, size: int) -> list[tuple[int, ...]]:
    variables = jax.eval_shape(model.init, jax.random.key(0), images(size))
    shapes = jax.eval_shape(
        lambda v, x: model.apply(v, x, method="activations"), variables, images(size)
    )
    return [shapes[name].shape[1:] for name in model.stages[:-1]]


@pytest.mark.parametrize("stride_in", ["conv1", "conv2"])
def test_stages_halve_the_image_from_the_second_on(stride_in):
    found = stage_sizes(ResNet(**FOUR, stride_in=stride_in), 64)
    assert found == [(16, 16, 8), (16, 16, 32), (8, 8, 64), (4, 4, 128), (2, 2, 256)]


def test_v2_halves_the_image_at_the_end_of_every_stage_but_the_last():
    found = stage_sizes(ResNet(**FOUR, block="preact"), 64)
    assert found == [(16, 16, 8), (8, 8, 32), (4, 4, 64), (2, 2, 128), (2, 2, 256)]


@pytest.mark.parametrize("size", [33, 97])
def test_v2_takes_odd_sizes_on_both_ways_of_a_block(size):
    stage_sizes(ResNet(**FOUR, block="preact"), size)


@pytest.mark.parametrize(("entry", "side"), [("small", 32), ("pooled", 16)])
def test_entries_for_small_images_keep_the_resolution_or_half_of_it(entry, side):
    assert stage_sizes(create_model("resnet_mini", entry=entry), 32)[0] == (side, side, 8)


def test_pooled_entry_sees_the_means_of_two_by_two_pixels():
    model = ResNet(**TINY, block="basic", entry="pooled")
    variables = jax.jit(model.init)(jax.random.key(0), images())
    apply = jax.jit(lambda v, x: model.apply(v, x, last="stem", method="run_stages"))
    means = images().reshape(2, 16, 2, 16, 2, 3).mean((2, 4))
    smeared = means.repeat(2, axis=1).repeat(2, axis=2)
    np.testing.assert_allclose(
        apply(variables, images()), apply(variables, smeared), rtol=1e-4, atol=1e-5
    )


def test_small_network_has_few_parameters_with_a_head_of_62():
    model = create_model("resnet_mini", num_classes=62)
    variables = jax.eval_shape(model.init, jax.random.key(0), images())
    assert sum(leaf.size for leaf in jax.tree.leaves(variables["params"])) <= 250_000


def test_names_inside_a_block_are_those_that_freeze_specs_use():
    model = ResNet(**TINY)
    paths = flatten(jax.eval_shape(model.init, jax.random.key(0), images()))
    for path in (
        "params/stem/conv/kernel",
        "params/stem/bn/scale",
        "params/layer1/block0/conv1/kernel",
        "params/layer1/block0/bn1/scale",
        "params/layer2/block1/conv3/kernel",
        "params/layer2/block0/downsample_conv/kernel",
        "params/layer2/block0/downsample_bn/scale",
        "batch_stats/layer2/block0/downsample_bn/var",
        "params/head/kernel",
    ):
        assert path in paths


@pytest.mark.parametrize(
    ("name", "middle"), [("resnext50_32x4d", (3, 3, 4, 128)), ("wide_resnet50_2", (3, 3, 128, 128))]
)
def test_groups_and_base_width_set_the_middle_of_a_block(name, middle):
    model = create_model(name, stage_sizes=(1,), widths=(64,))
    paths = flatten(jax.eval_shape(model.init, jax.random.key(0), images()))
    assert paths["params/layer1/block0/conv2/kernel"].shape == middle
    assert paths["params/layer1/block0/conv3/kernel"].shape == (1, 1, middle[-1], 256)


BLOCK = {
    "layers": Layers(),
    "features": 8,
    "inner": 8,
    "stride": 1,
    "first": False,
    "groups": 1,
    "stride_in": "conv2",
    "biased": (),
}


def run_block(block, x, variables=None, train=True):
    variables = variables or block.init(jax.random.key(0), x, False)
    return block.apply(
        variables, x, train, rngs={"dropout": jax.random.key(3)}, mutable=["batch_stats"]
    )[0]


def test_drop_path_leaves_the_shortcut_alone():
    x = jnp.asarray(np.random.default_rng(1).normal(size=(4, 6, 6, 8)), jnp.float32)
    block = BasicBlock(**BLOCK, drop_path_rate=1.0)
    np.testing.assert_array_equal(run_block(block, x), jax.nn.relu(x))
    assert not np.array_equal(run_block(block, x, train=False), jax.nn.relu(x))


def test_drop_path_takes_whole_examples_and_scales_the_others_up():
    x = jnp.asarray(np.random.default_rng(1).normal(size=(32, 6, 6, 8)), jnp.float32)
    block = PreactBottleneck(**BLOCK, drop_path_rate=0.5)
    variables = block.init(jax.random.key(0), x, False)
    branch = run_block(block.clone(drop_path_rate=0.0), x, variables) - x
    found = run_block(block, x, variables) - x
    dropped = np.array([np.array_equal(example, np.zeros_like(example)) for example in found])
    assert 0 < dropped.sum() < 32
    np.testing.assert_allclose(found[~dropped], 2 * branch[~dropped], rtol=1e-3, atol=1e-5)


def test_drop_path_grows_linearly_over_all_blocks():
    model = ResNet(stage_sizes=(2, 3), widths=(8, 8), num_classes=2, drop_path_rate=0.4)
    rates = [model._stage_fields(index, Layers())["drop_path_rates"] for index in (0, 1)]
    np.testing.assert_allclose(np.concatenate(rates), [0.0, 0.1, 0.2, 0.3, 0.4])


def test_momentum_is_the_share_of_the_old_statistics_in_every_norm():
    def update(momentum: float) -> dict:
        model = ResNet(**TINY, momentum=momentum)
        variables = jax.jit(model.init)(jax.random.key(0), images())
        apply = jax.jit(lambda v, x: model.apply(v, x, train=True, mutable=["batch_stats"]))
        return flatten(apply(variables, images())[1]["batch_stats"])

    fresh, mixed = update(0.0), update(0.75)
    assert len(mixed) == 2 * (1 + 3 * 3 + 2)
    for path, value in mixed.items():
        start = 1.0 if path.endswith("var") else 0.0
        expected = 0.75 * start + 0.25 * fresh[path]
        np.testing.assert_allclose(value, expected, rtol=1e-4, atol=1e-5, err_msg=path)
