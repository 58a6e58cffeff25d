import numpy as np
import pytest

from jtl.errors import WeightsError
from jtl.models.registry import MODELS, create_model
from jtl.weights.layouts.identify import LAYOUTS
from jtl.weights.layouts.layout import source_shape
from jtl.weights.layouts.shapes import variable_shapes
from jtl.weights.layouts.transform import SAME, Entry, flatten_chw_to_hwc

# One network of each family and variant; their deeper kin differ in numbers alone.
NETWORKS = [
    ("resnet18", "torchvision", {}),
    ("resnet50", "torchvision", {}),
    ("resnet50", "keras", {}),
    ("resnet50v2", "keras", {}),
    ("vgg11", "torchvision", {}),
    ("vgg11_bn", "torchvision", {}),
    ("inception_v3", "torchvision", {"aux_head": True}),
    ("inception_v3", "keras", {}),
]


@pytest.mark.parametrize(("name", "variant", "fields"), NETWORKS)
def test_table_has_every_leaf_once_and_every_source_once(name, variant, fields):
    model = create_model(name, variant=variant, **fields)
    leaves = variable_shapes(model)
    for layout in LAYOUTS.values():
        if variant not in layout.variants:
            continue
        entries = layout.entries(model)
        assert sorted(entry.destination for entry in entries) == sorted(leaves)
        assert len({entry.source for entry in entries}) == len(entries)


@pytest.mark.parametrize(("name", "variant", "fields"), NETWORKS)
def test_model_loaded_from_its_own_source_differs_in_nothing(name, variant, fields):
    model = create_model(name, variant=variant, **fields)
    assert LAYOUTS[variant].differences(model) == ()
    assert LAYOUTS["jtl"].differences(model) == ()


def test_small_network_can_be_saved_in_our_layout_and_under_torch_names():
    model = create_model("resnet_mini", num_classes=3)
    sources = {entry.source for entry in LAYOUTS["torchvision"].entries(model)}
    assert {"conv1.weight", "layer3.0.downsample.0.weight", "fc.bias"} <= sources
    assert {e.source for e in LAYOUTS["jtl"].entries(model)} == set(variable_shapes(model))


def test_leaves_without_a_name_in_the_source_are_all_listed():
    model = create_model("resnet50", variant="keras")
    with pytest.raises(WeightsError) as caught:
        LAYOUTS["torchvision"].entries(model)
    text = str(caught.value)
    assert "'torchvision' has no name for 53 tensors of this ResNet" in text
    assert "params/layer1/block0/conv1/bias" in text
    assert "47 more" in text


@pytest.mark.parametrize(
    ("layout", "name"),
    [("keras", "resnet18"), ("keras", "vgg11_bn"), ("keras", "resnext50_32x4d")],
)
def test_network_that_keras_does_not_have_is_refused(layout, name):
    with pytest.raises(WeightsError, match=f"the layout '{layout}' has no name for"):
        LAYOUTS[layout].entries(create_model(name))


def test_pre_activation_network_is_none_of_torchvisions():
    model = create_model("resnet50v2")
    assert LAYOUTS["torchvision"].differences(model) == ("torchvision has no such ResNet",)
    with pytest.raises(WeightsError):
        LAYOUTS["torchvision"].entries(model)


def test_differences_name_each_field_and_both_values():
    model = create_model("inception_v3", count_padding=False, epsilon=1e-5)
    lines = LAYOUTS["torchvision"].differences(model)
    assert lines == (
        "count_padding=False, where torchvision has True",
        "epsilon=1e-05, where torchvision has 0.001",
    )


def test_variant_is_the_one_that_the_source_has():
    assert LAYOUTS["keras"].variant_for(MODELS["resnet50"]) == "keras"
    assert LAYOUTS["torchvision"].variant_for(MODELS["resnet50"]) == "torchvision"
    assert LAYOUTS["keras"].variant_for(MODELS["resnet18"]) is None
    assert LAYOUTS["timm"].variant_for(MODELS["resnet50v2"]) is None


def test_shape_in_the_source_needs_no_bytes():
    # Sixty-four tebibytes, were they allocated.
    shape = (7 * 7 * 512, 2**28)
    entry = Entry(source="a", destination="b", transform=flatten_chw_to_hwc(512, 7, 7))
    assert source_shape(entry, shape) == (2**28, 512 * 7 * 7)
    same = Entry(source="a", destination="b", transform=SAME)
    assert source_shape(same, (3, 4)) == np.zeros((3, 4)).shape
