"""What a layout is: a rule from each leaf of a model to the source tensor that holds it."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from jtl.errors import WeightsError
from jtl.models.registry import ModelSpec
from jtl.models.staged import StagedNet
from jtl.weights.layouts.shapes import variable_shapes
from jtl.weights.layouts.transform import Entry, Transform

Shape = tuple[int, ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Leaf:
    """One array of a model's variables, before it has a value.

    Attributes:
        path: the slash path in variables, such as `params/layer1/block0/conv1/kernel`.
        module: the path of the layer alone, such as `layer1/block0/conv1`.
        variable: the last name, such as `kernel`, `scale`, `bias`, `mean` or `var`.
        shape: of the array.
    """

    path: str
    module: str
    variable: str
    shape: Shape


def same_names(names: Mapping[str, Any]) -> dict[str, str]:
    """Every name for itself."""
    return {name: name for name in names}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Layout:
    """How one source names and stores the tensors of our networks.

    Attributes:
        name: such as `torchvision`.
        variants: the model variants that such a file may hold, the likeliest first.
        source: the tensor's name and transform for a leaf, or None where the source has none.
        ignored: what a file may hold beside the table: glob of the tensor's name to the reason
            why it is left.
        markers: a tensor's name that all networks of a family have in this layout, and the
            family; a file without any of them has another layout.
        requires: the fields a model must have for the source's own code to compute the same;
            None where the source has no such network.
        rename: from the names in a file, each with its array or shape, to those of the table,
            where the source numbers its layers as they were made.
    """

    name: str
    variants: tuple[str, ...]
    source: Callable[[StagedNet, Leaf], tuple[str, Transform] | None]
    ignored: Mapping[str, str]
    markers: Mapping[str, type[StagedNet]]
    requires: Callable[[StagedNet], Mapping[str, Any] | None]
    rename: Callable[[Mapping[str, Any]], dict[str, str]] = same_names

    def entries(
        self, model: StagedNet, shapes: Mapping[str, Shape] | None = None
    ) -> tuple[Entry, ...]:
        """The complete table: one entry for every leaf of the model's variables.

        Args:
            model: the network.
            shapes: the shape of every leaf by path, where the caller knows them already.

        Raises:
            WeightsError: the source has no place for some leaves; all are listed.
        """
        entries, homeless = [], []
        if shapes is None:
            shapes = {path: leaf.shape for path, leaf in variable_shapes(model).items()}
        for leaf in leaves(shapes):
            found = self.source(model, leaf)
            if found is None:
                homeless.append(leaf.path)
            else:
                entries.append(Entry(source=found[0], destination=leaf.path, transform=found[1]))
        if homeless:
            raise WeightsError(
                f"the layout {self.name!r} has no name for {len(homeless)} tensors of this "
                f"{type(model).__name__}: {_some(homeless)}; use a layout of "
                "the model's own source, or 'jtl'."
            )
        return tuple(entries)

    def variant_for(self, spec: ModelSpec) -> str | None:
        """The variant of an architecture that a file in this layout holds; None if none."""
        for name in self.variants:
            if name in spec.variants:
                return name
        return None

    def differences(self, model: StagedNet) -> tuple[str, ...]:
        """One line for each field by which the source's own code would compute otherwise."""
        fields = self.requires(model)
        if fields is None:
            return (f"{self.name} has no such {type(model).__name__}",)
        return tuple(
            f"{name}={getattr(model, name)!r}, where {self.name} has {value!r}"
            for name, value in fields.items()
            if getattr(model, name) != value
        )


def leaves(shapes: Mapping[str, Shape]) -> tuple[Leaf, ...]:
    """Every leaf of a model's variables, with the parts of its path."""
    found = []
    for path, shape in shapes.items():
        _, *module, variable = path.split("/")
        found.append(
            Leaf(path=path, module="/".join(module), variable=variable, shape=tuple(shape))
        )
    return tuple(found)


def source_shape(entry: Entry, shape: Shape) -> Shape:
    """The shape of an entry's tensor in its source, from the shape of our leaf."""
    # A broadcast scalar has every shape and no bytes, and each transform returns a view of it.
    return entry.transform.inverse(np.broadcast_to(np.int8(0), shape)).shape


def _some(names: list[str], shown: int = 6) -> str:
    rest = f", … ({len(names) - shown} more)" if len(names) > shown else ""
    return ", ".join(names[:shown]) + rest
