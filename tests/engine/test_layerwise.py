"""Multipliers of the rate: by depth, by glob, and for networks of every family."""

import jax
import jax.numpy as jnp
import pytest

from jtl.engine.layerwise import layers_of, rate_multipliers
from jtl.errors import ConfigError
from jtl.models.registry import create_model
from jtl.tree import flatten
from tests.engine.nets import mini, shapes_of


def params_of(name, size, **fields):
    net = create_model(name, num_classes=3, **fields)
    shapes = jax.eval_shape(net.init, jax.random.key(0), jnp.zeros((1, size, size, 3)))
    return net, shapes["params"]


@pytest.mark.parametrize(
    ("name", "size", "fields", "stages", "blocks"),
    [
        (
            "resnet18",
            32,
            {},
            ["stem", "layer1", "layer2", "layer3", "layer4", "head"],
            ["stem", *(f"layer{n}/block{m}" for n in range(1, 5) for m in range(2)), "head"],
        ),
        (
            "vgg11",
            32,
            {},
            [*(f"block{n}" for n in range(1, 6)), "classifier", "head"],
            [*(f"block{n}" for n in range(1, 6)), "classifier", "head"],
        ),
        (
            "inception_v3",
            299,
            {"aux_head": True},
            ["stem", "mixed5", "mixed6", "mixed7", "head"],
            ["stem", *(f"mixed5/{b}" for b in "bcd"), *(f"mixed6/{b}" for b in "abcde"),
             *(f"mixed7/{b}" for b in "abc"), "head"],
        ),
    ],
)  # fmt: skip
def test_layers_stand_in_the_order_that_the_network_runs_them(name, size, fields, stages, blocks):
    net, params = params_of(name, size, **fields)
    paths = list(flatten(params))
    assert layers_of(paths, net.stages, "stage") == stages
    assert layers_of(paths, net.stages, "block") == blocks


def test_blocks_beyond_nine_follow_in_number():
    paths = [f"layer3/block{n}/conv1/kernel" for n in (10, 2, 1, 22)] + ["head/kernel"]
    assert layers_of(paths, ("layer3", "head"), "block") == [
        *(f"layer3/block{n}" for n in (1, 2, 10, 22)),
        "head",
    ]


def test_each_layer_has_the_next_ones_rate_times_the_decay():
    net = mini()
    params = shapes_of(net, 8)["params"]
    found = flatten(rate_multipliers(params, net.stages, decay=0.5))
    by_stage = {path.split("/")[0]: factor for path, factor in found.items()}
    assert by_stage == {"head": 1, "layer3": 0.5, "layer2": 0.25, "layer1": 0.125, "stem": 0.0625}
    assert set(flatten(rate_multipliers(params, net.stages)).values()) == {1.0}


def test_the_last_glob_that_matches_counts_and_depth_multiplies_it():
    net = mini()
    params = shapes_of(net, 8)["params"]
    rates = {"layer3": 4.0, "**/bias": 0.0, "layer3/block0/bn2": 3.0}
    found = flatten(rate_multipliers(params, net.stages, decay=0.5, rates=rates))
    assert found["layer3/block0/conv1/kernel"] == 2
    assert found["layer3/block0/bn1/bias"] == 0
    assert found["layer3/block0/bn2/bias"] == 1.5
    assert found["head/kernel"] == 1


def test_globs_that_match_nothing_are_named_together():
    net = mini()
    params = shapes_of(net, 8)["params"]
    with pytest.raises(ConfigError) as caught:
        rate_multipliers(params, net.stages, rates={"haed": 1, "head": 1, "layer9/**": 1})
    assert "'haed' matches no parameter" in str(caught.value)
    assert "'layer9/**' matches no parameter" in str(caught.value)
