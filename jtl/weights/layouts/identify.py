"""Which architecture, layout and variant a set of tensor names and shapes is."""

import dataclasses
import math
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any

from jtl.errors import WeightsError
from jtl.models.inception import InceptionV3
from jtl.models.registry import MODELS, create_model
from jtl.models.staged import StagedNet
from jtl.tree import matches
from jtl.weights.layouts.jtl import JTL
from jtl.weights.layouts.keras import KERAS
from jtl.weights.layouts.layout import Layout, Shape, source_shape
from jtl.weights.layouts.shapes import variable_shapes
from jtl.weights.layouts.timm import TIMM
from jtl.weights.layouts.torchvision import TORCHVISION

LAYOUTS: dict[str, Layout] = {layout.name: layout for layout in (TORCHVISION, TIMM, KERAS, JTL)}

# Stands for the number of classes in a table's shapes; a prime that no layer has as its width.
ANY_CLASSES = 99_991


@dataclasses.dataclass(frozen=True, kw_only=True)
class Match:
    """How well a set of tensors fits one network in one layout.

    Attributes:
        architecture: a name of `MODELS`.
        layout: a name of `LAYOUTS`.
        variant: the model's variant.
        fields: further fields of the model that the tensors ask for, such as `aux_head`.
        num_classes: the width of the head in the tensors; None if there is no head.
        missing: the table's names that no tensor has.
        extra: the tensors that the table does not know, under their own names.
        mismatched: a line for each tensor of another shape.
        fitting: how many tensors fit.
    """

    architecture: str
    layout: str
    variant: str
    fields: Mapping[str, Any]
    num_classes: int | None
    missing: tuple[str, ...]
    extra: tuple[str, ...]
    mismatched: tuple[str, ...]
    fitting: int

    @property
    def exact(self) -> bool:
        """Whether every tensor has its place and every place its tensor."""
        return not (self.missing or self.extra or self.mismatched)

    @property
    def share(self) -> float:
        """The share of all tensors, of the file and of the table, that fit; in [0, 1]."""
        faults = len(self.missing) + len(self.extra) + len(self.mismatched)
        return self.fitting / max(self.fitting + faults, 1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Network:
    architecture: str
    variant: str
    fields: tuple[tuple[str, Any], ...] = ()

    def model(self) -> StagedNet:
        return create_model(
            self.architecture,
            variant=self.variant,
            num_classes=ANY_CLASSES,
            **dict(self.fields),
        )


def identify(shapes: Mapping[str, Shape], *, limit: int = 5) -> list[Match]:
    """Which networks a set of tensors can be, best first.

    Args:
        shapes: each tensor's name in the file and its shape; prefixes are removed already.
        limit: how many to return where none fits exactly.

    Returns:
        The exact matches, several where sources share a layout; if there is none, what comes
        closest. Empty if no tensor bears the name of a known network's first layer.
    """
    found: list[Match] = []
    for layout in LAYOUTS.values():
        renamed = layout.rename(shapes)
        names = set(renamed.values())
        families = tuple(family for marker, family in layout.markers.items() if marker in names)
        for network in _by_size(layout, families, shapes):
            match = _compare(network, layout, shapes, renamed)
            if match.fitting:
                found.append(match)
            if match.exact:
                break
    found.sort(key=lambda match: -match.share)
    return [match for match in found if match.exact] or found[:limit]


def _networks(layout: Layout, families: tuple[type[StagedNet], ...]) -> Iterator[_Network]:
    for name, spec in MODELS.items():
        if not issubclass(spec.family, families):
            continue
        for variant in spec.variants:
            if variant not in layout.variants:
                continue
            one = _Network(architecture=name, variant=variant)
            if spec.family is InceptionV3 and variant == "torchvision":
                # First, because a network without the head fits a file that has one as well.
                yield dataclasses.replace(one, fields=(("aux_head", True),))
            yield one


def _by_size(
    layout: Layout, families: tuple[type[StagedNet], ...], shapes: Mapping[str, Shape]
) -> list[_Network]:
    """The networks to compare, those with the nearest number of parameters first."""
    total = max(sum(math.prod(shape) for shape in shapes.values()), 1)

    def distance(network: _Network) -> float:
        return abs(math.log(MODELS[network.architecture].parameters / total))

    return sorted(_networks(layout, families), key=distance)


# The tables are the same whatever file is looked at, and tracing a network takes a while.
@lru_cache(maxsize=64)
def _shapes(network: _Network) -> dict[str, Shape]:
    return {path: tuple(leaf.shape) for path, leaf in variable_shapes(network.model()).items()}


def _table(network: _Network, layout: Layout) -> dict[str, Shape]:
    """Each tensor's name and shape in the source; empty if it cannot hold the network."""
    ours = _shapes(network)
    try:
        entries = layout.entries(network.model(), ours)
    except WeightsError:
        return {}
    return {entry.source: source_shape(entry, ours[entry.destination]) for entry in entries}


def _compare(
    network: _Network, layout: Layout, shapes: Mapping[str, Shape], renamed: dict[str, str]
) -> Match:
    table = _table(network, layout)
    found = {renamed[name]: (name, tuple(shape)) for name, shape in shapes.items()}
    classes = _classes(table, found)
    mismatched, fitting = [], 0
    for name in table.keys() & found.keys():
        expected = tuple(classes if n == ANY_CLASSES else n for n in table[name])
        own, shape = found[name]
        if shape == expected:
            fitting += 1
        else:
            mismatched.append(f"{own}: {list(shape)}, expected {list(expected)}")
    extra = [
        found[name][0]
        for name in found.keys() - table.keys()
        if not any(matches(pattern, name) for pattern in layout.ignored)
    ]
    return Match(
        architecture=network.architecture,
        layout=layout.name,
        variant=network.variant,
        fields=dict(network.fields),
        num_classes=classes,
        missing=tuple(sorted(table.keys() - found.keys())),
        extra=tuple(sorted(extra)),
        mismatched=tuple(sorted(mismatched)),
        fitting=fitting,
    )


def _classes(table: dict[str, Shape], found: dict[str, tuple[str, Shape]]) -> int | None:
    """The number of classes: what the head's tensors have where the table leaves it open."""
    for name, expected in table.items():
        # The auxiliary head may differ; it is compared with the main one.
        if ANY_CLASSES not in expected or "aux" in name.lower() or name not in found:
            continue
        shape = found[name][1]
        if len(shape) == len(expected):
            return shape[expected.index(ANY_CLASSES)]
    return None
