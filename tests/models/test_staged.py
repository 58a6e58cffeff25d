from functools import lru_cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jtl.errors import ConfigError
from jtl.models.registry import create_model
from jtl.models.staged import StagedNet
from jtl.tree import differences, flatten

# As shallow as the families go: what is tested here does not depend on depth.
VGG = {"stage_sizes": (1, 1), "widths": (4, 8), "hidden": 16, "num_classes": 5}
MINI = {"stage_sizes": (1, 1), "widths": (4, 8), "num_classes": 5}


def small(name: str, **fields) -> StagedNet:
    return create_model(name, **{**(MINI if name == "resnet_mini" else VGG), **fields})


def images(size: int = 32, batch: int = 2, dtype: str = "float32") -> np.ndarray:
    return np.random.default_rng(0).normal(size=(batch, size, size, 3)).astype(dtype)


@lru_cache
def _draw(model: StagedNet, _: bool) -> dict:
    return jax.jit(model.init)(jax.random.key(0), images())


def draw(model: StagedNet) -> dict:
    """Variables of a model, drawn once for each width of floats."""
    return _draw(model, jax.config.jax_enable_x64)


@pytest.mark.parametrize("name", ["resnet_mini", "vgg11_bn"])
def test_network_run_in_two_parts_equals_it_run_whole(name):
    model = small(name)
    variables = draw(model)
    whole = model.apply(variables, images())
    for before, after in zip(model.stages, model.stages[1:]):
        x = model.apply(variables, images(), last=before, method="run_stages")
        logits = model.apply(variables, x, first=after, method="run_stages")
        assert np.array_equal(logits, whole), f"cut before {after}"


@pytest.mark.parametrize("name", ["resnet_mini", "vgg11"])
def test_head_takes_features_that_are_pooled_already(name):
    model = small(name)
    variables = draw(model)
    features = model.apply(variables, images(), method="features")
    assert features.shape == (2, model.feature_width)
    logits = model.apply(variables, features, first="head", method="run_stages")
    assert np.array_equal(logits, model.apply(variables, images()))


@pytest.mark.parametrize("name", ["resnet_mini", "vgg11"])
def test_activations_are_those_of_every_stage_in_order(name):
    model = small(name)
    variables = draw(model)
    found = model.apply(variables, images(), method="activations")
    assert tuple(found) == model.stages
    assert np.array_equal(found["head"], model.apply(variables, images()))
    stage = model.stages[1]
    alone = model.apply(variables, images(), last=stage, method="run_stages")
    assert np.array_equal(found[stage], alone)


@pytest.mark.parametrize("name", ["resnet_mini", "vgg11_bn"])
def test_paths_of_variables_begin_with_the_stages(name):
    model = small(name)
    for collection in draw(model).values():
        assert set(collection) <= set(model.stages)
    assert set(draw(model)["params"]) == set(model.stages)


@pytest.mark.parametrize("name", ["resnet_mini", "vgg11_bn"])
def test_remat_keeps_variables_and_gradients(name):
    plain = small(name, dropout_rate=0.3)
    remat = plain.clone(remat=plain.stages[:-1])
    variables = draw(plain)
    assert differences(variables, draw(remat)) == []

    def gradients(model: StagedNet):
        def loss(params):
            logits, changed = model.apply(
                {**variables, "params": params},
                images(),
                train=True,
                rngs={"dropout": jax.random.key(1)},
                mutable=["batch_stats"],
            )
            return (logits**2).mean(), changed

        return jax.jit(jax.grad(loss, has_aux=True))(variables["params"])

    expected, actual = flatten(gradients(plain)), flatten(gradients(remat))
    assert expected.keys() == actual.keys()
    for path, leaf in expected.items():
        np.testing.assert_allclose(actual[path], leaf, rtol=1e-4, atol=1e-6, err_msg=path)


def test_rematerialised_stage_keeps_fewer_residuals():
    def residuals(model: StagedNet) -> int:
        variables = draw(model)
        shaped = jax.eval_shape(
            lambda params: jax.vjp(
                lambda p: model.apply({**variables, "params": p}, images()), params
            )[1],
            variables["params"],
        )
        return sum(leaf.size for leaf in jax.tree.leaves(shaped))

    plain = small("resnet_mini")
    assert residuals(plain.clone(remat=("stem", "layer1"))) < residuals(plain)


@pytest.mark.parametrize("name", ["resnet_mini", "vgg11_bn"])
def test_everything_is_float64_where_inputs_and_parameters_are(name, x64):
    model = small(name, param_dtype=jnp.float64)
    variables = draw(model)
    variables = jax.tree.map(lambda leaf: leaf.astype(jnp.float64), variables)
    x = images(dtype="float64")
    outputs = model.apply(variables, x, method="activations")
    assert {str(a.dtype) for a in outputs.values()} == {"float64"}
    _, changed = model.apply(variables, x, train=True, mutable=["batch_stats"])
    assert {str(a.dtype) for a in jax.tree.leaves(changed)} == {"float64"}


@pytest.mark.parametrize("name", ["resnet_mini", "vgg11_bn"])
def test_half_precision_network_gives_float32_logits(name):
    model = small(name, dtype=jnp.bfloat16)
    variables = draw(model)
    outputs = model.apply(variables, images(), method="activations")
    assert str(outputs.pop("head").dtype) == "float32"
    assert {str(a.dtype) for a in outputs.values()} == {"bfloat16"}
    assert {str(a.dtype) for a in jax.tree.leaves(variables)} == {"float32"}


def test_new_parameters_have_the_dtype_asked_for():
    variables = draw(small("resnet_mini", param_dtype=jnp.bfloat16))
    assert {str(a.dtype) for a in jax.tree.leaves(variables["params"])} == {"bfloat16"}


@pytest.mark.parametrize("name", ["resnet_mini", "vgg11"])
def test_dropout_changes_training_alone(name):
    model = small(name, dropout_rate=0.5)
    variables = draw(model)
    assert np.array_equal(model.apply(variables, images()), model.apply(variables, images()))

    def training(seed: int):
        return model.apply(
            variables,
            images(),
            train=True,
            rngs={"dropout": jax.random.key(seed)},
            mutable=["batch_stats"],
        )[0]

    assert np.array_equal(training(0), training(0))
    assert not np.array_equal(training(0), training(1))


def test_unknown_stage_is_refused_with_the_nearest_name():
    model = small("resnet_mini")
    with pytest.raises(ConfigError, match=r"no stage 'layr1'.*stem, layer1.*Did you mean 'layer1'"):
        model.apply(draw(model), images(), last="layr1", method="run_stages")


def test_stages_in_the_wrong_order_are_refused():
    model = small("resnet_mini")
    with pytest.raises(ConfigError, match="'layer2' comes after 'layer1'"):
        model.apply(draw(model), images(), first="layer2", last="layer1", method="run_stages")


def test_single_image_is_refused():
    model = small("resnet_mini")
    with pytest.raises(ConfigError, match=r"\[32, 32, 3\]; the model takes \[batch"):
        model.apply(draw(model), images()[0])


def test_images_too_small_for_the_network_are_refused():
    model = small("vgg11")
    with pytest.raises(ConfigError, match="31×31 pixels are too small for VGG, which needs 32"):
        model.apply(draw(model), images(31))


def test_remat_of_no_stage_is_refused():
    model = small("resnet_mini", remat=("layer9",))
    with pytest.raises(ConfigError, match=r"remat names 'layer9'.*stem, layer1, layer2"):
        draw(model)
