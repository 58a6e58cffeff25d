"""The names of the networks: which family each is, with which fields, and how it is made."""

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

from jtl.errors import ConfigError
from jtl.models.resnet import ResNet
from jtl.models.staged import StagedNet
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
    """

    family: type[StagedNet]
    variants: Mapping[str, Mapping[str, Any]]
    input_size: int
    feature_width: int

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


def _basic(*sizes: int) -> ModelSpec:
    return ModelSpec(
        family=ResNet,
        variants={"torchvision": {"stage_sizes": sizes, "block": "basic"}},
        input_size=224,
        feature_width=512,
    )


def _bottleneck(*sizes: int, keras: bool = False, **fields: Any) -> ModelSpec:
    variants = {"torchvision": {"stage_sizes": sizes, **fields}}
    if keras:
        variants["keras"] = {"stage_sizes": sizes, **KERAS_V1}
    return ModelSpec(family=ResNet, variants=variants, input_size=224, feature_width=2048)


def _preact(*sizes: int) -> ModelSpec:
    return ModelSpec(
        family=ResNet,
        variants={"keras": {"stage_sizes": sizes, **KERAS_V2}},
        input_size=224,
        feature_width=2048,
    )


MODELS: dict[str, ModelSpec] = {
    "resnet18": _basic(2, 2, 2, 2),
    "resnet34": _basic(3, 4, 6, 3),
    "resnet50": _bottleneck(3, 4, 6, 3, keras=True),
    "resnet101": _bottleneck(3, 4, 23, 3, keras=True),
    "resnet152": _bottleneck(3, 8, 36, 3, keras=True),
    "wide_resnet50_2": _bottleneck(3, 4, 6, 3, base_width=128),
    "wide_resnet101_2": _bottleneck(3, 4, 23, 3, base_width=128),
    "resnext50_32x4d": _bottleneck(3, 4, 6, 3, groups=32, base_width=4),
    "resnet50v2": _preact(3, 4, 6, 3),
    "resnet101v2": _preact(3, 4, 23, 3),
    "resnet152v2": _preact(3, 8, 36, 3),
    "resnet_mini": ModelSpec(
        family=ResNet,
        variants={
            "jtl": {
                "stage_sizes": (1, 1, 1),
                "widths": (24, 48, 96),
                "block": "basic",
                "entry": "small",
            }
        },
        input_size=32,
        feature_width=96,
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
