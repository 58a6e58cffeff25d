"""The layout of timm's files: torchvision's, but for VGG's classifier and head."""

from jtl.models.inception import InceptionV3
from jtl.models.resnet import ResNet
from jtl.models.staged import StagedNet
from jtl.models.vgg import POOLED_SIZE, VGG
from jtl.weights.layouts.layout import Layout, Leaf
from jtl.weights.layouts.torch_names import torch_tensor, vgg_layer
from jtl.weights.layouts.torchvision import TORCHVISION
from jtl.weights.layouts.transform import OI11_TO_IO, Transform, dense_from_conv

CLASSIFIER = {"classifier/fc1": "pre_logits.fc1", "classifier/fc2": "pre_logits.fc2"}


def _source(model: StagedNet, leaf: Leaf) -> tuple[str, Transform] | None:
    if isinstance(model, VGG):
        return _vgg_tensor(model, leaf)
    return TORCHVISION.source(model, leaf)


def _vgg_tensor(model: VGG, leaf: Leaf) -> tuple[str, Transform]:
    if leaf.module == "head":
        return torch_tensor("head.fc", leaf)
    if leaf.module not in CLASSIFIER:
        return torch_tensor(vgg_layer(model, leaf.module), leaf)
    name, transform = torch_tensor(CLASSIFIER[leaf.module], leaf)
    if leaf.variable == "kernel":
        first = leaf.module == "classifier/fc1"
        transform = dense_from_conv(POOLED_SIZE, POOLED_SIZE) if first else OI11_TO_IO
    return name, transform


TIMM = Layout(
    name="timm",
    variants=TORCHVISION.variants,
    source=_source,
    ignored=TORCHVISION.ignored,
    markers={
        "layer1.0.conv1.weight": ResNet,
        "pre_logits.fc1.weight": VGG,
        "Conv2d_1a_3x3.conv.weight": InceptionV3,
    },
    requires=TORCHVISION.requires,
)
