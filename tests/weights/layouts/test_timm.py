import numpy as np

from jtl.models.registry import create_model
from jtl.weights.layouts.layout import source_shape
from jtl.weights.layouts.shapes import variable_shapes
from jtl.weights.layouts.timm import TIMM
from jtl.weights.layouts.torchvision import TORCHVISION


def table(layout, name, **fields):
    model = create_model(name, **fields)
    shapes = variable_shapes(model)
    return {e.source: source_shape(e, shapes[e.destination].shape) for e in layout.entries(model)}


def test_residual_and_inception_tables_are_torchvisions():
    for name in ("resnet18", "inception_v3"):
        assert table(TIMM, name) == table(TORCHVISION, name)


def test_classifier_of_vgg_is_written_as_convolutions():
    found = table(TIMM, "vgg11", num_classes=10)
    assert found["pre_logits.fc1.weight"] == (4096, 512, 7, 7)
    assert found["pre_logits.fc2.weight"] == (4096, 4096, 1, 1)
    assert found["head.fc.weight"] == (10, 4096)
    assert found["features.0.weight"] == (64, 3, 3, 3)
    assert not any(name.startswith("classifier") for name in found)


def test_both_layouts_put_one_dense_layer_into_the_same_leaf():
    fields = {"widths": (4, 4, 8, 8, 8), "hidden": 16}
    model = create_model("vgg11", **fields)
    path = "params/classifier/fc1/kernel"
    kernel = np.random.default_rng(0).normal(size=(7 * 7 * 8, 16))
    sources = {}
    for layout in (TIMM, TORCHVISION):
        entry = next(e for e in layout.entries(model) if e.destination == path)
        sources[layout.name] = entry.transform.inverse(kernel)
    # timm's convolution is torchvision's dense layer with its inputs unfolded.
    np.testing.assert_array_equal(sources["timm"].reshape(16, -1), sources["torchvision"])
