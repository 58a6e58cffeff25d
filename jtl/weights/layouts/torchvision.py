"""The layout of torchvision's state dicts."""

from jtl.models.resnet import ResNet
from jtl.models.staged import StagedNet
from jtl.weights.layouts.layout import Layout, Leaf
from jtl.weights.layouts.torch_names import IGNORED, resnet_layer, torch_tensor
from jtl.weights.layouts.transform import Transform


def _source(model: StagedNet, leaf: Leaf) -> tuple[str, Transform] | None:
    if isinstance(model, ResNet):
        return resnet_tensor(leaf)
    return None


def resnet_tensor(leaf: Leaf) -> tuple[str, Transform] | None:
    """The tensor of a ResNet's leaf; None for what only Keras's have."""
    if "preact_bn" in leaf.module or "post_bn" in leaf.module:
        return None
    if leaf.variable == "bias" and leaf.module.endswith(("conv", "conv1", "conv2", "conv3")):
        return None
    return torch_tensor(resnet_layer(leaf.module), leaf)


TORCHVISION = Layout(
    name="torchvision",
    variants=("torchvision", "jtl"),
    source=_source,
    ignored=IGNORED,
    markers=("layer1.0.conv1.weight",),
    requires={ResNet: {"stride_in": "conv2", "biased": (), "epsilon": 1e-5}},
)
