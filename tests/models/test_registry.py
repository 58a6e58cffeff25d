import jax
import pytest

from jtl.errors import ConfigError
from jtl.models.registry import MODELS, STAGE_ORDER, create_model, model_spec, stage_order
from jtl.tree import count
from jtl.weights.layouts.layout import variable_shapes

QUICK = ("resnet18", "vgg11", "vgg11_bn", "resnet_mini")
NAMES = [pytest.param(n, marks=() if n in QUICK else pytest.mark.slow) for n in MODELS]


@pytest.mark.parametrize("name", NAMES)
def test_registered_figures_are_those_of_the_network(name):
    spec = MODELS[name]
    model = create_model(name)
    leaves = variable_shapes(model)
    params = {path: leaf for path, leaf in leaves.items() if path.startswith("params/")}
    assert count(params) == spec.parameters
    assert leaves["params/head/kernel"].shape == (spec.feature_width, 1000)
    assert model.feature_width == spec.feature_width
    assert model.example_size == spec.input_size


@pytest.mark.parametrize("name", list(MODELS))
def test_stages_are_known_to_the_common_order(name):
    for variant in MODELS[name].variants:
        stages = create_model(name, variant=variant).stages
        assert stage_order(reversed(stages)) == stages


def test_published_parameter_counts_are_met():
    # From torchvision's documentation of the weights (num_params).
    published = {
        "resnet18": 11_689_512,
        "resnet50": 25_557_032,
        "wide_resnet50_2": 68_883_240,
        "resnext50_32x4d": 25_028_904,
        "vgg16": 138_357_544,
        "vgg19_bn": 143_678_248,
    }
    assert {name: MODELS[name].parameters for name in published} == published


def test_variant_and_fields_reach_the_network():
    model = create_model("resnet50", variant="keras", num_classes=3, dropout_rate=0.2)
    assert (model.stride_in, model.epsilon, model.num_classes) == ("conv1", 1.001e-5, 3)
    assert create_model("resnet50").stride_in == "conv2"
    assert create_model("resnet50", stride_in="conv1").stride_in == "conv1"


def test_models_are_values_that_hash_and_compare():
    assert create_model("vgg11") == create_model("vgg11")
    assert hash(create_model("inception_v3")) == hash(create_model("inception_v3"))
    assert create_model("vgg11") != create_model("vgg13")


def test_unknown_model_is_refused_with_the_nearest_name():
    with pytest.raises(ConfigError, match=r"no model 'resnet5'.*Did you mean 'resnet50'"):
        create_model("resnet5")


def test_unknown_variant_is_refused_with_what_there_is():
    with pytest.raises(ConfigError, match="resnet18 has no variant 'keras'; there is torchvision"):
        create_model("resnet18", variant="keras")


def test_all_unknown_fields_are_refused_at_once():
    with pytest.raises(ConfigError) as caught:
        create_model("resnet18", droput_rate=0.1, with_bells=True)
    assert "'droput_rate'" in str(caught.value)
    assert "Did you mean 'dropout_rate'" in str(caught.value)
    assert "'with_bells'" in str(caught.value)


def test_fields_do_not_name_what_belongs_to_flax():
    assert not {"parent", "name"} & set(model_spec("vgg11").fields)
    assert {"num_classes", "remat", "batch_norm"} <= set(model_spec("vgg11").fields)


def test_order_of_stages_is_the_networks_and_not_the_alphabets():
    assert stage_order(["head", "layer1", "stem"]) == ("stem", "layer1", "head")
    assert STAGE_ORDER[-2:] == ("head", "aux")


def test_order_of_unknown_stages_is_refused():
    with pytest.raises(ConfigError, match="the order of body is not known; pass the stages"):
        stage_order(["stem", "body"])


def test_network_of_another_size_is_made_of_fields():
    model = create_model("resnet_mini", stage_sizes=(1, 2), widths=(8, 8), num_classes=2)
    assert model.stages == ("stem", "layer1", "layer2", "head")
    assert jax.tree.leaves(variable_shapes(model))
