"""The layout of Keras's applications, by `layer/variable`."""

import re
from collections.abc import Iterable, Iterator
from typing import Any

from jtl.models.inception import InceptionV3
from jtl.models.registry import KERAS_INCEPTION, KERAS_V1, KERAS_V2
from jtl.models.resnet import ResNet
from jtl.models.staged import StagedNet
from jtl.models.vgg import VGG
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

# The units of each block in the order in which Keras makes them, which gives them their numbers.
BLOCK_A = "1x1 5x5_1 5x5_2 3x3dbl_1 3x3dbl_2 3x3dbl_3 _pool"
BLOCK_B = "3x3 3x3dbl_1 3x3dbl_2 3x3dbl_3"
BLOCK_C = "1x1 7x7_1 7x7_2 7x7_3 7x7dbl_1 7x7dbl_2 7x7dbl_3 7x7dbl_4 7x7dbl_5 _pool"
BLOCK_D = "3x3_1 3x3_2 7x7x3_1 7x7x3_2 7x7x3_3 7x7x3_4"
BLOCK_E = "1x1 3x3_1 3x3_2a 3x3_2b 3x3dbl_1 3x3dbl_2 3x3dbl_3a 3x3dbl_3b _pool"
BLOCKS = {
    "mixed5": {"b": BLOCK_A, "c": BLOCK_A, "d": BLOCK_A},
    "mixed6": {"a": BLOCK_B, "b": BLOCK_C, "c": BLOCK_C, "d": BLOCK_C, "e": BLOCK_C},
    "mixed7": {"a": BLOCK_D, "b": BLOCK_E, "c": BLOCK_E},
}

# Layers that Keras numbers as they are made; TensorFlow 1 wrote `batch_normalization_v1_3`.
NUMBERED = re.compile(r"(conv2d|batch_normalization)(?:_v\d)?(?:_(\d+))?")
# Keras 1 named variables after their layer: `block1_conv1/block1_conv1_W_1`.
KERAS_1 = re.compile(r"(?P<layer>[^/]+)/(?P=layer)_(?P<variable>[Wb])(?:_1)?")


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
    return _numbered("conv2d" if kind == "conv" else "batch_normalization", INCEPTION_UNITS[unit])


def _inception_units() -> Iterator[str]:
    for name in ("conv1a", "conv2a", "conv2b", "conv3b", "conv4a"):
        yield f"stem/{name}"
    for stage, blocks in BLOCKS.items():
        for block, units in blocks.items():
            for unit in units.split():
                yield f"{stage}/{block}/branch{unit}"


INCEPTION_UNITS = {unit: rank for rank, unit in enumerate(_inception_units())}


def _numbered(layer: str, rank: int) -> str:
    return f"{layer}_{rank}" if rank else layer


def table_names(names: Iterable[str]) -> dict[str, str]:
    """From the names in a file to the table's.

    Layers that Keras numbers as they are made keep their order but begin at 0, whatever
    models were made before in the same program; the order of the file says nothing.
    """
    names = list(names)
    renamed = {name: _modern(name) for name in names}
    numbers: dict[str, set[int]] = {}
    for name in renamed.values():
        if found := NUMBERED.fullmatch(name.partition("/")[0]):
            numbers.setdefault(found[1], set()).add(int(found[2] or 0))
    ranks = {
        kind: {number: rank for rank, number in enumerate(sorted(found))}
        for kind, found in numbers.items()
    }
    for name, modern in renamed.items():
        layer, _, variable = modern.partition("/")
        if found := NUMBERED.fullmatch(layer):
            rank = ranks[found[1]][int(found[2] or 0)]
            renamed[name] = f"{_numbered(found[1], rank)}/{variable}"
    return renamed


def _modern(name: str) -> str:
    """The name that a current Keras gives to a tensor of an older file."""
    if found := KERAS_1.fullmatch(name):
        name = f"{found['layer']}/{'kernel' if found['variable'] == 'W' else 'bias'}"
    layer, _, variable = name.partition("/")
    # The residual networks of 2019 called their head `probs`.
    return f"predictions/{variable}" if layer == "probs" else name


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
