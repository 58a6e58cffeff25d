"""How torch names and stores the variables of a layer, for the layouts that come from it."""

from jtl.models.vgg import VGG
from jtl.weights.layouts.layout import Leaf
from jtl.weights.layouts.transform import OI_TO_IO, OIHW_TO_HWIO, SAME, Transform

VARIABLES = {
    "kernel": "weight",
    "scale": "weight",
    "bias": "bias",
    "mean": "running_mean",
    "var": "running_var",
}

IGNORED = {
    "*num_batches_tracked": "counts the updates of a BatchNorm whose momentum is fixed",
}

STEM = {
    "conv1a": "Conv2d_1a_3x3",
    "conv2a": "Conv2d_2a_3x3",
    "conv2b": "Conv2d_2b_3x3",
    "conv3b": "Conv2d_3b_1x1",
    "conv4a": "Conv2d_4a_3x3",
}
AUX_IGNORED = {"AuxLogits.*": "the model has no auxiliary head; aux_head=True makes one"}


def torch_tensor(layer: str, leaf: Leaf) -> tuple[str, Transform]:
    """The name and the transform of a leaf whose layer torch calls `layer`."""
    transform = SAME
    if leaf.variable == "kernel":
        transform = OIHW_TO_HWIO if len(leaf.shape) == 4 else OI_TO_IO
    return f"{layer}.{VARIABLES[leaf.variable]}", transform


def resnet_layer(module: str) -> str:
    """`layer1/block0/conv1` as torch calls it: `layer1.0.conv1`."""
    fixed = {"stem/conv": "conv1", "stem/bn": "bn1", "head": "fc"}
    if module in fixed:
        return fixed[module]
    stage, block, layer = module.split("/")
    layer = {"downsample_conv": "downsample.0", "downsample_bn": "downsample.1"}.get(layer, layer)
    return f"{stage}.{block.removeprefix('block')}.{layer}"


def resnet_tensor(leaf: Leaf) -> tuple[str, Transform] | None:
    """The tensor of a ResNet's leaf; None for what only Keras's have."""
    if leaf.module.endswith(("/preact_bn", "/post_bn")):
        return None
    if leaf.variable == "bias" and leaf.module.endswith(("conv", "conv1", "conv2", "conv3")):
        return None
    return torch_tensor(resnet_layer(leaf.module), leaf)


def vgg_layer(model: VGG, module: str) -> str:
    """`block2/conv1` as torch calls it: `features.5`, its place in one long sequence."""
    block, layer = module.split("/")
    index, number = int(block.removeprefix("block")) - 1, int(layer[-1]) - 1
    # Convolution, norm if any, and ReLU each take a number; so does the pool of each block.
    step = 3 if model.batch_norm else 2
    place = step * (sum(model.stage_sizes[:index]) + number) + index
    return f"features.{place + 1 if layer.startswith('bn') else place}"


def inception_layer(module: str) -> str:
    """`mixed5/b/branch1x1/conv` as torch calls it: `Mixed_5b.branch1x1.conv`."""
    if module == "head":
        return "fc"
    stage, *rest = module.split("/")
    if stage == "stem":
        return ".".join([STEM[rest[0]], *rest[1:]])
    if stage == "aux":
        return ".".join(["AuxLogits", *rest])
    return ".".join([f"Mixed_{stage[-1]}{rest[0]}", *rest[1:]])
