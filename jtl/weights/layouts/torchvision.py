"""The layout of torchvision's state dicts."""

from typing import Any

from jtl.models.inception import InceptionV3
from jtl.models.resnet import ResNet
from jtl.models.staged import StagedNet
from jtl.models.vgg import POOLED_SIZE, VGG
from jtl.weights.layouts.layout import Layout, Leaf
from jtl.weights.layouts.torch_names import (
    AUX_IGNORED,
    IGNORED,
    inception_layer,
    resnet_tensor,
    torch_tensor,
    vgg_layer,
)
from jtl.weights.layouts.transform import Transform, flatten_chw_to_hwc

CLASSIFIER = {"classifier/fc1": "classifier.0", "classifier/fc2": "classifier.3"}


def _source(model: StagedNet, leaf: Leaf) -> tuple[str, Transform] | None:
    if isinstance(model, ResNet):
        return resnet_tensor(leaf)
    if isinstance(model, VGG):
        return _vgg_tensor(model, leaf)
    if isinstance(model, InceptionV3):
        return torch_tensor(inception_layer(leaf.module), leaf)
    return None


def _vgg_tensor(model: VGG, leaf: Leaf) -> tuple[str, Transform]:
    if leaf.module == "head":
        return torch_tensor("classifier.6", leaf)
    if leaf.module not in CLASSIFIER:
        return torch_tensor(vgg_layer(model, leaf.module), leaf)
    name, transform = torch_tensor(CLASSIFIER[leaf.module], leaf)
    if leaf.module == "classifier/fc1" and leaf.variable == "kernel":
        # torch flattens channels first, we flatten channels last.
        transform = flatten_chw_to_hwc(model.widths[-1], POOLED_SIZE, POOLED_SIZE)
    return name, transform


def _requires(model: StagedNet) -> dict[str, Any] | None:
    if isinstance(model, ResNet) and model.block != "preact":
        return {"stride_in": "conv2", "biased": (), "epsilon": 1e-5, "entry": "imagenet"}
    if isinstance(model, VGG):
        return {"epsilon": 1e-5}
    if isinstance(model, InceptionV3):
        return {"count_padding": True, "norm_scale": True, "epsilon": 1e-3}
    return None


TORCHVISION = Layout(
    name="torchvision",
    variants=("torchvision", "jtl"),
    source=_source,
    ignored={**IGNORED, **AUX_IGNORED},
    markers={
        "layer1.0.conv1.weight": ResNet,
        "classifier.0.weight": VGG,
        "Conv2d_1a_3x3.conv.weight": InceptionV3,
    },
    requires=_requires,
)
