"""The layout of Keras's applications, by `layer/variable`."""

from collections.abc import Iterator
from typing import Any

from jtl.models.inception import InceptionV3
from jtl.models.registry import KERAS_INCEPTION, KERAS_V1, KERAS_V2
from jtl.models.resnet import ResNet
from jtl.models.staged import StagedNet
from jtl.models.vgg import VGG
from jtl.weights.layouts.keras_names import INCEPTION_BLOCKS, numbered, table_names
from jtl.weights.layouts.layout import Layout, Leaf
from jtl.weights.layouts.transform import SAME, Transform

NORM_VARIABLES = {
    "scale": "gamma",
    "bias": "beta",
    "mean": "moving_mean",
    "var": "moving_variance",
}

RESNET_LAYERS = {
    "preact_bn": "preact_bn",
    "downsample_conv": "0_conv",
    "downsample_bn": "0_bn",
    **{f"conv{i}": f"{i}_conv" for i in (1, 2, 3)},
    **{f"bn{i}": f"{i}_bn" for i in (1, 2, 3)},
}


def _source(model: StagedNet, leaf: Leaf) -> tuple[str, Transform] | None:
    layer: str | None = None
    if leaf.module == "head":
        layer = "predictions"
    elif isinstance(model, ResNet):
        layer = _resnet_layer(model, leaf.module)
    elif isinstance(model, VGG):
        layer = _vgg_layer(model, leaf.module)
    elif isinstance(model, InceptionV3):
        layer = _inception_layer(leaf.module)
    if layer is None:
        return None
    own = leaf.module.rpartition("/")[2]
    norm = own.startswith("bn") or own.endswith("_bn")
    variable = NORM_VARIABLES[leaf.variable] if norm else leaf.variable
    return f"{layer}/{variable}", SAME


def _resnet_layer(model: ResNet, module: str) -> str | None:
    if model.block == "basic" or model.groups > 1 or model.entry != "imagenet":
        return None
    fixed = {"stem/conv": "conv1_conv", "stem/bn": "conv1_bn"}
    if module in fixed:
        return fixed[module]
    if module.endswith("/post_bn"):
        return "post_bn"
    stage, block, layer = module.split("/")
    # Keras counts the stem as the first stage, and blocks from 1.
    number, place = int(stage.removeprefix("layer")) + 1, int(block.removeprefix("block")) + 1
    return f"conv{number}_block{place}_{RESNET_LAYERS[layer]}"


def _vgg_layer(model: VGG, module: str) -> str | None:
    if model.batch_norm:
        return None
    stage, layer = module.split("/")
    return layer if stage == "classifier" else f"{stage}_{layer}"


def _inception_layer(module: str) -> str | None:
    unit, _, kind = module.rpartition("/")
    if unit not in INCEPTION_UNITS:
        return None
    return numbered("conv2d" if kind == "conv" else "batch_normalization", INCEPTION_UNITS[unit])


def _inception_units() -> Iterator[str]:
    for name in ("conv1a", "conv2a", "conv2b", "conv3b", "conv4a"):
        yield f"stem/{name}"
    for block, units in INCEPTION_BLOCKS.items():
        for unit in units.split():
            yield f"{block}/branch{unit}"


INCEPTION_UNITS = {unit: made for made, unit in enumerate(_inception_units())}


def _requires(model: StagedNet) -> dict[str, Any] | None:
    fields: dict[str, Any] | None = None
    if isinstance(model, ResNet):
        fields = dict(KERAS_V2 if model.block == "preact" else KERAS_V1)
    elif isinstance(model, VGG):
        fields = {"batch_norm": False}
    elif isinstance(model, InceptionV3):
        fields = dict(KERAS_INCEPTION)
    if fields is not None:
        # Matters in training alone.
        fields.pop("momentum", None)
    return fields


KERAS = Layout(
    name="keras",
    variants=("keras",),
    source=_source,
    ignored={},
    markers={
        "conv2_block1_1_conv/kernel": ResNet,
        "block1_conv1/kernel": VGG,
        "conv2d_93/kernel": InceptionV3,
    },
    requires=_requires,
    rename=table_names,
)
