"""From the names in any Keras file to those that the application's own code gives its layers."""

import re
from collections.abc import Iterable, Mapping
from typing import Any

# The units of each block of Inception in the order in which Keras makes them, which gives them
# their numbers: the place in the sequence is the number of `conv2d` and `batch_normalization`.
BLOCK_A = "1x1 5x5_1 5x5_2 3x3dbl_1 3x3dbl_2 3x3dbl_3 _pool"
BLOCK_B = "3x3 3x3dbl_1 3x3dbl_2 3x3dbl_3"
BLOCK_C = "1x1 7x7_1 7x7_2 7x7_3 7x7dbl_1 7x7dbl_2 7x7dbl_3 7x7dbl_4 7x7dbl_5 _pool"
BLOCK_D = "3x3_1 3x3_2 7x7x3_1 7x7x3_2 7x7x3_3 7x7x3_4"
BLOCK_E = "1x1 3x3_1 3x3_2a 3x3_2b 3x3dbl_1 3x3dbl_2 3x3dbl_3a 3x3dbl_3b _pool"
INCEPTION_BLOCKS = {
    "mixed5/b": BLOCK_A,
    "mixed5/c": BLOCK_A,
    "mixed5/d": BLOCK_A,
    "mixed6/a": BLOCK_B,
    "mixed6/b": BLOCK_C,
    "mixed6/c": BLOCK_C,
    "mixed6/d": BLOCK_C,
    "mixed6/e": BLOCK_C,
    "mixed7/a": BLOCK_D,
    "mixed7/b": BLOCK_E,
    "mixed7/c": BLOCK_E,
}
STEM_UNITS = 5

# The order in which the built model lists the units of a block: by distance from the output.
PLACES = {
    BLOCK_A: (3, 1, 4, 0, 2, 5, 6),
    BLOCK_B: (1, 2, 0, 3),
    BLOCK_C: (4, 5, 1, 6, 2, 7, 0, 3, 8, 9),
    BLOCK_D: (2, 3, 0, 4, 1, 5),
    BLOCK_E: (4, 1, 5, 2, 3, 6, 7, 0, 8),
}

# TensorFlow 1 wrote `batch_normalization_v1_3`.
NUMBERED = re.compile(r"(conv2d|batch_normalization|dense)(?:_v\d)?(?:_(\d+))?")


def numbered(kind: str, number: int) -> str:
    """The name of the layer of that number: the first has none."""
    return f"{kind}_{number}" if number else kind


def table_names(tensors: Mapping[str, Any]) -> dict[str, str]:
    """The application's name for each tensor, `layer/variable`.

    Three kinds of names are mended: those of layers that Keras numbers as a program makes them
    (they keep their order but begin at 0; the order of the file says nothing); those of weight
    files of Keras 3 that name layers by class and place in the model; and a head of another
    name, where it is the only dense layer.

    Args:
        tensors: each name in the file, with its array or its shape.
    """
    layers = {name: name.partition("/")[0] for name in tensors}
    renamed = _by_place(tensors, set(layers.values())) or _by_making(set(layers.values()))
    if len({renamed.get(layer, layer) for layer in layers.values()}) < len(set(layers.values())):
        # Two layers would bear one name, so that these are not numbers of one model.
        renamed = {}
    return {
        name: f"{renamed.get(layer, layer)}{name[len(layer) :]}" for name, layer in layers.items()
    }


def _by_making(layers: set[str]) -> dict[str, str]:
    """Numbers by rank among the layers of their kind, and the head by its own name."""
    kinds = _by_kind(layers)
    # The residual networks of 2019 called their head `probs`; a user's is often just `dense`.
    heads = [*kinds.pop("dense", ()), *(layers & {"probs"})]
    renamed = {
        layer: numbered(kind, rank)
        for kind, found in kinds.items()
        for rank, layer in enumerate(found)
    }
    if "predictions" not in layers and len(heads) == 1:
        renamed[heads[0]] = "predictions"
    return renamed


def _by_place(tensors: Mapping[str, Any], layers: set[str]) -> dict[str, str] | None:
    """Names of a file that numbers each class by its place in the model; None if it does not."""
    kinds = _by_kind(layers)
    if sum(map(len, kinds.values())) < len(layers):
        return None
    for kind, found in kinds.items():
        if found != [numbered(kind, place) for place in range(len(found))]:
            return None
    counts = (len(kinds.get("conv2d", ())), len(kinds.get("batch_normalization", ())))
    order = _orders().get(counts)
    if order is None or (counts == (94, 94) and not _placed_inception(tensors)):
        return None
    convs, norms, heads = order
    renamed = dict(zip(kinds["conv2d"], convs, strict=True))
    renamed |= dict(zip(kinds.get("batch_normalization", ()), norms, strict=True))
    return renamed | dict(zip(kinds.get("dense", ()), heads))


def _placed_inception(tensors: Mapping[str, Any]) -> bool:
    """Whether `conv2d_7` is the eighth by place, a 3×3, and not the eighth made, a 5×5."""
    kernel = tensors.get("conv2d_7/kernel", ())
    return tuple(getattr(kernel, "shape", kernel))[:2] == (3, 3)


def _by_kind(layers: Iterable[str]) -> dict[str, list[str]]:
    """The numbered layers of each kind, by number."""
    found: dict[str, dict[int, str]] = {}
    for layer in layers:
        if match := NUMBERED.fullmatch(layer):
            found.setdefault(match[1], {})[int(match[2] or 0)] = layer
    return {kind: [by[number] for number in sorted(by)] for kind, by in found.items()}


Order = tuple[list[str], list[str], list[str]]


def _orders() -> dict[tuple[int, int], Order]:
    """Convolutions, norms and dense layers as each application lists them, by their counts."""
    residual = [(3, 4, 6, 3), (3, 4, 23, 3), (3, 8, 36, 3)]
    orders = [_resnet_order(*sizes) for sizes in residual]
    orders += [_resnet_v2_order(*sizes) for sizes in residual]
    orders += [_vgg_order(2, 2, 3, 3, 3), _vgg_order(2, 2, 4, 4, 4), _inception_order()]
    return {(len(convs), len(norms)): (convs, norms, heads) for convs, norms, heads in orders}


def _resnet_order(*sizes: int) -> Order:
    units = ["conv1"]
    for stage, size in enumerate(sizes, 2):
        for block in range(1, size + 1):
            numbers = (1, 2, 0, 3) if block == 1 else (1, 2, 3)
            units += [f"conv{stage}_block{block}_{number}" for number in numbers]
    return [f"{unit}_conv" for unit in units], [f"{unit}_bn" for unit in units], ["predictions"]


def _resnet_v2_order(*sizes: int) -> Order:
    norms = []
    for stage, size in enumerate(sizes, 2):
        for block in range(1, size + 1):
            norms += [f"conv{stage}_block{block}_{name}_bn" for name in ("preact", "1", "2")]
    return _resnet_order(*sizes)[0], [*norms, "post_bn"], ["predictions"]


def _vgg_order(*sizes: int) -> Order:
    convs = [
        f"block{block}_conv{i}" for block, size in enumerate(sizes, 1) for i in range(1, size + 1)
    ]
    return convs, [], ["fc1", "fc2", "predictions"]


def _inception_order() -> Order:
    numbers, start = list(range(STEM_UNITS)), STEM_UNITS
    for block in INCEPTION_BLOCKS.values():
        numbers += [start + made for made in PLACES[block]]
        start += len(PLACES[block])
    convs = [numbered("conv2d", number) for number in numbers]
    norms = [numbered("batch_normalization", number) for number in numbers]
    return convs, norms, ["predictions"]
