import re
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend.core import ClosedJaxpr, Jaxpr

from jtl.errors import WeightsError
from jtl.models.registry import MODELS, create_model
from jtl.tree import count
from jtl.weights.address import check_url
from jtl.weights.catalogue import (
    catalogue,
    find_architectures,
    find_weights,
    released_weights,
)
from jtl.weights.preprocess import Preprocess, released_preprocess

NETWORKS = {(network.name, network.variant): network for network in catalogue()}
WEIGHTS = list(released_weights().values())
ONLINE = [item for item in WEIGHTS if item.url]


def test_catalogue_holds_every_network_of_the_registry():
    registry = {(name, variant) for name, spec in MODELS.items() for variant in spec.variants}
    assert set(NETWORKS) == registry


def test_every_network_has_released_weights():
    assert [key for key, network in NETWORKS.items() if not network.weights] == []


def test_names_are_unique_and_begin_with_their_network():
    names = [item.name for network in catalogue() for item in network.weights]
    assert len(names) == len(set(names))
    for network in catalogue():
        for item in network.weights:
            assert item.url is None or item.name.startswith(network.name + ".")


@pytest.mark.parametrize("item", ONLINE, ids=lambda item: item.name)
def test_released_file_is_named_whole(item):
    check_url(item.url)
    assert item.suffix in (".pth", ".h5", ".safetensors")
    assert item.url.endswith(item.suffix)
    assert item.digest is not None
    assert item.digest_source
    assert item.licence
    assert item.licence_source
    assert 50 < item.top1 < 90
    assert item.top1_source


@pytest.mark.parametrize("item", ONLINE, ids=lambda item: item.name)
def test_digest_has_the_form_its_publisher_gives(item):
    if item.url.endswith(".h5"):
        assert item.digest.algorithm == "md5"
        assert item.digest.whole
    elif item.url.endswith(".pth"):
        assert item.digest.algorithm == "sha256"
        assert item.url.endswith(f"-{item.digest.value}.pth")
    else:
        assert item.digest.whole
        # A Hugging Face address is pinned to a commit.
        assert re.search(r"/resolve/[0-9a-f]{40}/", item.url)


def test_exact_size_agrees_with_the_one_that_was_rounded():
    both = [item for item in ONLINE if item.bytes and item.mebibytes]
    assert len(both) > 5
    for item in both:
        assert abs(item.bytes / 2**20 - item.mebibytes) < 0.001


def test_size_holds_all_parameters():
    for network in catalogue():
        for item in network.weights:
            size = item.bytes or (item.mebibytes or 0) * 2**20
            # torchvision released these two in half precision.
            width = 2 if re.fullmatch(r"wide_resnet.*\.tv_in1k_v1", item.name) else 4
            if size:
                assert 0.995 < size / (network.parameters * width) < 1.15, item.name


@pytest.mark.parametrize("item", ONLINE, ids=lambda item: item.name)
def test_preprocessing_is_a_record_that_can_be_used(item):
    record = Preprocess.from_dict(item.preprocess)
    assert record.input_size <= record.resize


def test_preprocessing_agrees_with_what_a_bare_file_gets():
    for network in catalogue():
        for item in network.weights:
            if item.name.endswith((".tv_in1k_v1", ".keras_in1k")):
                bare = released_preprocess(network.variant, network.name, network.input_size)
                assert Preprocess.from_dict(item.preprocess) == bare


def multiply_adds(jaxpr):
    """Of the convolutions and dense layers of a traced network."""
    total = 0
    for equation in jaxpr.eqns:
        shapes = [getattr(v.aval, "shape", ()) for v in equation.invars]
        out = int(np.prod(equation.outvars[0].aval.shape)) if equation.outvars else 0
        if equation.primitive.name == "conv_general_dilated":
            outputs = shapes[1][equation.params["dimension_numbers"].rhs_spec[0]]
            total += out * int(np.prod(shapes[1])) // outputs
        elif equation.primitive.name == "dot_general":
            (contracted, _), _ = equation.params["dimension_numbers"]
            total += out * int(np.prod([shapes[0][axis] for axis in contracted]))
        for value in jax.tree.leaves(
            list(equation.params.values()), is_leaf=lambda v: isinstance(v, ClosedJaxpr | Jaxpr)
        ):
            if isinstance(value, ClosedJaxpr | Jaxpr):
                total += multiply_adds(getattr(value, "jaxpr", value))
    return total


def check_figures(name, variant):
    network = NETWORKS[name, variant]
    classes = 62 if name == "resnet_mini" else 1000
    model = create_model(name, num_classes=classes, variant=variant)
    size = network.input_size
    images = jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32)
    variables = jax.eval_shape(lambda x: model.init(jax.random.key(0), x), images)
    with pytest.MonkeyPatch.context() as patch:  # convolutions as they are written
        patch.setattr("jtl.models.convolutions.for_cpu_alone", lambda x: False)
        traced = jax.make_jaxpr(lambda v, x: model.apply(v, x, train=False))(variables, images)
    features = jax.eval_shape(lambda v, x: model.apply(v, x, method="features"), variables, images)
    assert network.parameters == count(variables["params"])
    assert network.multiply_adds == multiply_adds(traced.jaxpr)
    assert features.shape == (1, network.feature_width)
    assert network.stages == model.stages
    assert set(variables["params"]) == set(network.stages)
    assert size == MODELS[name].input_size


QUICK = [("vgg11", "torchvision"), ("resnet_mini", "jtl")]


@pytest.mark.parametrize(("name", "variant"), QUICK)
def test_figures_are_those_of_the_network(name, variant):
    check_figures(name, variant)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "variant"), [key for key in NETWORKS if key not in QUICK])
def test_figures_are_those_of_the_network_all(name, variant):
    check_figures(name, variant)


def test_figures_are_those_that_torchvision_publishes():
    # num_params and _ops (in 10**9) of torchvision/models/*.py, torchvision 0.29.2.
    published = {
        "resnet18": (11_689_512, 1.814),
        "resnet34": (21_797_672, 3.664),
        "resnet50": (25_557_032, 4.089),
        "resnet101": (44_549_160, 7.801),
        "resnet152": (60_192_808, 11.514),
        "wide_resnet50_2": (68_883_240, 11.398),
        "wide_resnet101_2": (126_886_696, 22.753),
        "resnext50_32x4d": (25_028_904, 4.23),
        "vgg11": (132_863_336, 7.609),
        "vgg11_bn": (132_868_840, 7.609),
        "vgg13": (133_047_848, 11.308),
        "vgg13_bn": (133_053_736, 11.308),
        "vgg16": (138_357_544, 15.47),
        "vgg16_bn": (138_365_992, 15.47),
        "vgg19": (143_667_240, 19.632),
        "vgg19_bn": (143_678_248, 19.632),
    }
    for name, (parameters, operations) in published.items():
        network = NETWORKS[name, "torchvision"]
        assert network.parameters == parameters
        assert round(network.multiply_adds / 1e9, 3) == operations
    assert round(NETWORKS["inception_v3", "torchvision"].multiply_adds / 1e9, 3) == 5.713


def test_both_variants_of_a_network_are_found():
    assert [network.variant for network in find_architectures("resnet50")] == [
        "torchvision",
        "keras",
    ]


def test_unknown_network_names_the_nearest():
    with pytest.raises(WeightsError, match="no model 'resnet5'; did you mean resnet50"):
        find_architectures("resnet5")


def test_unknown_weights_name_the_nearest():
    with pytest.raises(WeightsError, match=r"did you mean vgg16\.tv_in1k_v1"):
        find_weights("vgg16.tv_in1k")


def test_bare_network_lists_its_weights():
    with pytest.raises(WeightsError, match=r"choose one of resnet50\.tv_in1k_v1, .*keras_in1k"):
        find_weights("resnet50")


def test_weights_of_the_only_release_need_their_whole_name():
    with pytest.raises(WeightsError, match=r"name its weights: vgg11\.tv_in1k_v1"):
        find_weights("vgg11")


def test_catalogue_needs_no_jax():
    code = "import sys, jtl.weights.catalogue as c; c.catalogue(); sys.exit('jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
