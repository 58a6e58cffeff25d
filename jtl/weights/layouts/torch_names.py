"""How torch names and stores the variables of a layer: shared by the layouts that come from it."""

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
