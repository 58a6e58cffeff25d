from typing import Any

import pytest

from jtl.models.registry import create_model
from jtl.weights.layouts.identify import LAYOUTS, identify
from jtl.weights.layouts.layout import source_shape
from jtl.weights.layouts.shapes import variable_shapes
from tests import golden

QUICK = ("torchvision-resnet18", "torchvision-vgg11_bn", "keras-VGG16", "keras-ResNet50V2")
FIXTURES: list[Any] = [
    pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in golden.names()
]


def peer_shapes(fixture: str) -> dict[str, tuple[int, ...]]:
    return golden.shapes(golden.load(fixture)["meta"])


def shapes_in(layout: str, name: str, **fields) -> dict[str, tuple[int, ...]]:
    model = create_model(name, **fields)
    ours = variable_shapes(model)
    entries = LAYOUTS[layout].entries(model)
    return {e.source: source_shape(e, ours[e.destination].shape) for e in entries}


@pytest.mark.parametrize("fixture", FIXTURES)
def test_file_of_a_peer_is_recognised_exactly(fixture):
    source, arch, *_ = fixture.split("-")
    best = identify(peer_shapes(fixture))[0]
    expected = {"inceptionv3": "inception_v3"}.get(arch.lower(), arch.lower())
    assert (best.architecture, best.layout, best.variant) == (expected, source, source)
    assert best.exact
    assert best.share == 1
    assert best.num_classes == 1000


def test_sources_that_share_a_layout_are_both_named():
    found = identify(peer_shapes("torchvision-resnet18"))
    assert [match.layout for match in found] == ["torchvision", "timm"]
    assert all(match.exact for match in found)


@pytest.mark.parametrize("layout", ["torchvision", "timm", "jtl"])
def test_number_of_classes_is_the_files_own(layout):
    best = identify(shapes_in(layout, "vgg11", num_classes=17))[0]
    assert (best.architecture, best.layout, best.num_classes) == ("vgg11", layout, 17)
    assert best.exact


def test_file_without_a_head_says_what_is_missing():
    shapes = peer_shapes("torchvision-resnet18")
    del shapes["fc.weight"], shapes["fc.bias"]
    best = identify(shapes)[0]
    assert best.architecture == "resnet18"
    assert best.num_classes is None
    assert not best.exact
    assert best.missing == ("fc.bias", "fc.weight")
    assert (best.extra, best.mismatched) == ((), ())


def test_near_miss_says_what_is_left_over_and_of_another_shape():
    shapes = peer_shapes("torchvision-resnet18")
    shapes["neck.weight"] = (3, 3)
    shapes["layer2.0.conv1.weight"] = (128, 64, 5, 5)
    best = identify(shapes)[0]
    assert best.architecture == "resnet18"
    assert best.extra == ("neck.weight",)
    assert best.mismatched == ("layer2.0.conv1.weight: [128, 64, 5, 5], expected [128, 64, 3, 3]",)
    assert 0.9 < best.share < 1


def test_counters_of_torch_are_no_fault():
    shapes = peer_shapes("torchvision-resnet18")
    without = {n: s for n, s in shapes.items() if not n.endswith("num_batches_tracked")}
    assert identify(without)[0].exact
    assert identify(shapes)[0].exact


def test_tensors_of_no_known_network_match_nothing():
    assert identify({"encoder.block.0.attention.weight": (768, 768)}) == []
    assert identify({}) == []


def test_small_network_is_recognised_in_our_layout():
    best = identify(shapes_in("jtl", "resnet_mini", num_classes=62))[0]
    assert (best.architecture, best.layout, best.variant) == ("resnet_mini", "jtl", "jtl")
    assert best.num_classes == 62


@pytest.mark.slow
@pytest.mark.parametrize("variant", ["torchvision", "keras"])
def test_our_layout_tells_the_variants_apart_by_their_biases(variant):
    best = identify(shapes_in("jtl", "resnet50", variant=variant))[0]
    assert (best.architecture, best.variant, best.exact) == ("resnet50", variant, True)


@pytest.mark.slow
def test_auxiliary_head_is_seen():
    best = identify(shapes_in("torchvision", "inception_v3", aux_head=True))[0]
    assert best.fields == {"aux_head": True}
    plain = identify(shapes_in("torchvision", "inception_v3"))[0]
    assert (plain.fields, plain.exact) == ({}, True)
