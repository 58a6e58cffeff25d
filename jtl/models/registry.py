"""The names of the networks: which family each is, with which fields, and how it is made."""

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

from jtl.errors import ConfigError
from jtl.models.inception import InceptionV3
from jtl.models.resnet import ResNet
from jtl.models.staged import StagedNet
from jtl.models.vgg import VGG
from jtl.tree import nearest


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelSpec:
    """One architecture by name.

    Attributes:
        family: the class of the network.
        variants: the fields of each variant; the first is the default. Where sources differ
            (`torchvision`, `keras`), each is a variant.
        input_size: pixels a side that the published weights were trained or tested at.
        feature_width: the width of the head's input.
        parameters: how many the default variant has at 1000 classes, without BatchNorm's
            statistics and without an auxiliary head.
    """

    family: type[StagedNet]
    variants: Mapping[str, Mapping[str, Any]]
    input_size: int
    feature_width: int
    parameters: int

    @property
    def fields(self) -> tuple[str, ...]:
        """The fields that a caller may set."""
        names = (field.name for field in dataclasses.fields(self.family))
        return tuple(name for name in names if name not in ("parent", "name"))


# v1 of Keras: stride in the first 1x1, biases, BatchNorm eps 1.001e-5 and momentum 0.99
# (keras/src/applications/resnet.py; 0.99 is BatchNormalization's default).
KERAS_V1 = {
    "stride_in": "conv1",
    "biased": ("stem", "conv1", "conv2", "conv3", "downsample"),
    "epsilon": 1.001e-5,
    "momentum": 0.99,
}
KERAS_V2 = {
    "block": "preact",
    "biased": ("stem", "conv3", "downsample"),
    "epsilon": 1.001e-5,
    "momentum": 0.99,
}
# Pools that do not count padding and norms without scale (keras/src/applications/inception_v3.py).
KERAS_INCEPTION = {"count_padding": False, "norm_scale": False, "momentum": 0.99}


def _basic(*sizes: int, parameters: int) -> ModelSpec:
    return ModelSpec(
        family=ResNet,
        variants={"torchvision": {"stage_sizes": sizes, "block": "basic"}},
        input_size=224,
        feature_width=512,
        parameters=parameters,
    )


def _bottleneck(*sizes: int, parameters: int, keras: bool = False, **fields: Any) -> ModelSpec:
    variants = {"torchvision": {"stage_sizes": sizes, **fields}}
    if keras:
        variants["keras"] = {"stage_sizes": sizes, **KERAS_V1}
    return ModelSpec(
        family=ResNet,
        variants=variants,
        input_size=224,
        feature_width=2048,
        parameters=parameters,
    )


def _preact(*sizes: int, parameters: int) -> ModelSpec:
    return ModelSpec(
        family=ResNet,
        variants={"keras": {"stage_sizes": sizes, **KERAS_V2}},
        input_size=224,
        feature_width=2048,
        parameters=parameters,
    )


def _vgg(*sizes: int, parameters: int, keras: bool = False, batch_norm: bool = False) -> ModelSpec:
    fields = {"stage_sizes": sizes, "batch_norm": batch_norm}
    # Keras flattens as we do, torch channels first: the weights' transform sees to that.
    sources = ("torchvision", "keras") if keras else ("torchvision",)
    return ModelSpec(
        family=VGG,
        variants=dict.fromkeys(sources, fields),
        input_size=224,
        feature_width=4096,
        parameters=parameters,
    )


MODELS: dict[str, ModelSpec] = {
    "resnet18": _basic(2, 2, 2, 2, parameters=11_689_512),
    "resnet34": _basic(3, 4, 6, 3, parameters=21_797_672),
    "resnet50": _bottleneck(3, 4, 6, 3, parameters=25_557_032, keras=True),
    "resnet101": _bottleneck(3, 4, 23, 3, parameters=44_549_160, keras=True),
    "resnet152": _bottleneck(3, 8, 36, 3, parameters=60_192_808, keras=True),
    "wide_resnet50_2": _bottleneck(3, 4, 6, 3, parameters=68_883_240, base_width=128),
    "wide_resnet101_2": _bottleneck(3, 4, 23, 3, parameters=126_886_696, base_width=128),
    "resnext50_32x4d": _bottleneck(3, 4, 6, 3, parameters=25_028_904, groups=32, base_width=4),
    "resnet50v2": _preact(3, 4, 6, 3, parameters=25_568_360),
    "resnet101v2": _preact(3, 4, 23, 3, parameters=44_577_896),
    "resnet152v2": _preact(3, 8, 36, 3, parameters=60_236_904),
    "vgg11": _vgg(1, 1, 2, 2, 2, parameters=132_863_336),
    "vgg11_bn": _vgg(1, 1, 2, 2, 2, parameters=132_868_840, batch_norm=True),
    "vgg13": _vgg(2, 2, 2, 2, 2, parameters=133_047_848),
    "vgg13_bn": _vgg(2, 2, 2, 2, 2, parameters=133_053_736, batch_norm=True),
    "vgg16": _vgg(2, 2, 3, 3, 3, parameters=138_357_544, keras=True),
    "vgg16_bn": _vgg(2, 2, 3, 3, 3, parameters=138_365_992, batch_norm=True),
    "vgg19": _vgg(2, 2, 4, 4, 4, parameters=143_667_240, keras=True),
    "vgg19_bn": _vgg(2, 2, 4, 4, 4, parameters=143_678_248, batch_norm=True),
    "inception_v3": ModelSpec(
        family=InceptionV3,
        variants={"torchvision": {}, "keras": KERAS_INCEPTION},
        input_size=299,
        feature_width=2048,
        parameters=23_834_568,
    ),
    "resnet_mini": ModelSpec(
        family=ResNet,
        variants={
            "jtl": {
                "stage_sizes": (1, 1, 1),
                "widths": (8, 32, 128),
                "block": "basic",
                "entry": "pooled",
            }
        },
        input_size=32,
        feature_width=128,
        parameters=331_568,
    ),
}

# Every stage name of every family, in the order in which networks run them.
STAGE_ORDER = (
    "stem",
    *(f"block{i}" for i in range(1, 6)),
    *(f"layer{i}" for i in range(1, 5)),
    *(f"mixed{i}" for i in range(5, 8)),
    "classifier",
    "head",
    "aux",
)


def model_spec(name: str) -> ModelSpec:
    """The architecture of that name.

    Raises:
        ConfigError: there is none; the message names the closest.
    """
    if name not in MODELS:
        raise ConfigError(f"there is no model {name!r}{_hint(name, MODELS)}")
    return MODELS[name]


def create_model(
    name: str, *, num_classes: int = 1000, variant: str | None = None, **fields: Any
) -> StagedNet:
    """A network without parameters.

    Args:
        name: an architecture of `MODELS`, such as `resnet50`.
        num_classes: the width of the logits.
        variant: whose details it follows, such as `keras`; None is the first.
        **fields: fields of the family, such as `dropout_rate`; they come before the
            variant's.

    Raises:
        ConfigError: no such model, variant or field.
    """
    spec = model_spec(name)
    variant = variant or next(iter(spec.variants))
    if variant not in spec.variants:
        raise ConfigError(f"{name} has no variant {variant!r}{_hint(variant, spec.variants)}")
    unknown = [field for field in fields if field not in spec.fields]
    if unknown:
        lines = [f"{name} has no field {field!r}{_hint(field, spec.fields)}" for field in unknown]
        raise ConfigError("\n".join(lines))
    return spec.family(num_classes=num_classes, **{**spec.variants[variant], **fields})


def stage_order(names: Iterable[str]) -> tuple[str, ...]:
    """The given stage names in the order in which a network runs them.

    Raises:
        ConfigError: some name is no stage of any family, so that its place is unknown.
    """
    found = set(names)
    unknown = sorted(found - set(STAGE_ORDER))
    if unknown:
        raise ConfigError(
            f"the order of {', '.join(unknown)} is not known; pass the stages in order "
            "(stages=...), as they are no stages of a jtl model."
        )
    return tuple(name for name in STAGE_ORDER if name in found)


def _hint(name: str, known: Iterable[str]) -> str:
    known = list(known)
    close = nearest(name, known, 1)
    listing = f"; there is {', '.join(known)}."
    return f"{listing} Did you mean {close[0]!r}?" if close else listing
