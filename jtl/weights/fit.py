"""Which layout and variant a file is in, for a model that the user named."""

import dataclasses
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any

import jax

from jtl.errors import ConfigError, WeightsError
from jtl.models.registry import ModelSpec, create_model, model_spec
from jtl.models.staged import StagedNet
from jtl.tree import matches
from jtl.weights.head import class_leaves
from jtl.weights.layouts.identify import LAYOUTS, Match, identify
from jtl.weights.layouts.layout import Layout
from jtl.weights.layouts.shapes import variable_shapes
from jtl.weights.layouts.transform import Entry
from jtl.weights.ledger import transformed_shape
from jtl.weights.metadata import field_differences
from jtl.weights.readers import WeightFile

# A file with fewer faults than this share of the leaves is taken for the named model, but damaged.
_NEARLY = 0.2


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Fit:
    """A named model, and the layout in which a file comes closest to it.

    Attributes:
        architecture: the registry's name.
        layout: the key table that the file follows.
        variant: the model's variant that goes with it.
        model: that variant, with any number of classes.
        entries: the key table of `model`; sources bear the file's own names.
        shapes: the leaves of `model`, by slash path.
        num_classes: the width of the file's head; None where it has none.
        faults: how many tensors or leaves are without a partner or have another shape.
        differences: a line for each field by which the file's own network is another, where
            the file says its fields.
    """

    architecture: str
    layout: Layout
    variant: str
    model: StagedNet
    entries: tuple[Entry, ...]
    shapes: Mapping[str, jax.ShapeDtypeStruct]
    num_classes: int | None
    faults: int
    differences: tuple[str, ...] = ()


def fit_layout(
    name: str, file: WeightFile, fields: Mapping[str, Any], variant: str | None = None
) -> Fit:
    """The layout and variant that fit a file best, if it can be the named model at all.

    Args:
        name: the registry's name of the model.
        file: what was read.
        fields: the user's fields of the model.
        variant: the only one that will do; None for whichever fits.

    Raises:
        ConfigError: the model has no such variant or field.
        WeightsError: the file holds another architecture, or nothing that any layout knows.
    """
    best = None
    for candidate in _candidates(name, file, fields, variant):
        rank = (candidate.faults, len(candidate.differences))
        if best is None or rank < (best.faults, len(best.differences)):
            best = candidate
        if not any(rank):
            return best
    if best is not None and not best.faults:
        raise WeightsError(
            f"{file.path} fits {name}, but its network computes something else: "
            f"{'; '.join(best.differences)}. Give load_model the fields of the file."
        )
    if best is None or best.faults > len(best.entries) * _NEARLY:
        _explain(name, file)
    if best is None or best.faults > len(best.entries):
        raise WeightsError(
            f"{file.path} does not hold {name} in any layout that is known "
            f"({', '.join(LAYOUTS)}); `jtl weights inspect` shows what it comes closest to."
        )
    return best


def _explain(name: str, file: WeightFile) -> None:
    """Stops where the file is exactly another network."""
    # Only now: tracing every other network takes seconds.
    found = identify({key: tuple(tensor.shape) for key, tensor in file.tensors.items()})
    exact = [match for match in found if match.exact]
    if exact and all(match.architecture != name for match in exact):
        raise WeightsError(
            f"{file.path} holds {describe(exact[0])}, not {name}; "
            f"load it as {exact[0].architecture!r}, or give the weights of {name}."
        )


def describe(match: Match) -> str:
    """What a match is, in words: `resnet101 (torchvision layout, 1000 classes)`."""
    classes = "no head" if match.num_classes is None else f"{match.num_classes} classes"
    text = f"{match.architecture}{variant_suffix(match)} ({match.layout} layout, {classes})"
    faults = len(match.missing) + len(match.extra) + len(match.mismatched)
    if faults:
        text += (
            f", but for {len(match.missing)} tensors missing, {len(match.extra)} left over and "
            f"{len(match.mismatched)} of another shape"
        )
    return text


def variant_suffix(found: Match | Fit) -> str:
    """` of variant keras`, where the layout does not tell which variant it is; else nothing."""
    layout = found.layout if isinstance(found, Match) else found.layout.name
    told = found.variant in (layout, next(iter(model_spec(found.architecture).variants)))
    return "" if told else f" of variant {found.variant}"


def _candidates(
    name: str, file: WeightFile, fields: Mapping[str, Any], asked: str | None
) -> Iterator[Fit]:
    spec = model_spec(name)
    for layout in LAYOUTS.values():
        names = layout.rename(file.tensors)
        known = set(names.values())
        if not any(spec.family is own for marker, own in layout.markers.items() if marker in known):
            continue
        for variant in _variants(layout, spec, asked):
            found = _fit(name, variant, layout, names, file, fields)
            if found is not None:
                yield found


def _variants(layout: Layout, spec: ModelSpec, asked: str | None) -> list[str]:
    if asked is not None and asked not in spec.variants:
        raise ConfigError(f"variant={asked!r} is not known; there is {', '.join(spec.variants)}.")
    return [v for v in layout.variants if v in spec.variants and asked in (None, v)]


def _fit(
    name: str,
    variant: str,
    layout: Layout,
    names: Mapping[str, str],
    file: WeightFile,
    fields: Mapping[str, Any],
) -> Fit | None:
    model = create_model(name, variant=variant, **fields)
    table = _table(layout, model)
    if table is None:
        return None
    entries, shapes = table
    own = {theirs: ours for ours, theirs in names.items()}
    entries = tuple(
        dataclasses.replace(entry, source=own.get(entry.source, entry.source)) for entry in entries
    )
    return Fit(
        architecture=name,
        layout=layout,
        variant=variant,
        model=model,
        entries=entries,
        shapes=shapes,
        num_classes=_held_classes(entries, shapes, file),
        faults=_count_faults(entries, shapes, layout, file),
        differences=field_differences(file, model),
    )


def _table(
    layout: Layout, model: StagedNet
) -> tuple[tuple[Entry, ...], Mapping[str, jax.ShapeDtypeStruct]] | None:
    leaves = _leaves(model)
    try:
        shapes = {path: tuple(leaf.shape) for path, leaf in leaves.items()}
        return layout.entries(model, shapes), leaves
    except WeightsError:
        return None


@lru_cache(maxsize=32)
def _leaves(model: StagedNet) -> Mapping[str, jax.ShapeDtypeStruct]:
    """The leaves of a model: tracing it takes longer than reading most files."""
    return variable_shapes(model)


def _held_classes(
    entries: tuple[Entry, ...], shapes: Mapping[str, jax.ShapeDtypeStruct], file: WeightFile
) -> int | None:
    heads = [path for path in class_leaves(shapes) if path.split("/")[1] == "head"]
    for entry in entries:
        if entry.destination in heads and entry.source in file.tensors:
            shape = transformed_shape(entry, tuple(file.tensors[entry.source].shape))
            if shape:
                return shape[-1]
    return None


def _count_faults(
    entries: tuple[Entry, ...],
    shapes: Mapping[str, jax.ShapeDtypeStruct],
    layout: Layout,
    file: WeightFile,
) -> int:
    heads = class_leaves(shapes)
    faults = 0
    for entry in entries:
        tensor = file.tensors.get(entry.source)
        if entry.destination in heads:
            continue
        shape = None if tensor is None else transformed_shape(entry, tuple(tensor.shape))
        faults += shape != shapes[entry.destination].shape
    used = {entry.source for entry in entries}
    spare = (name for name in file.tensors if name not in used)
    return faults + sum(
        not any(matches(pattern, name) for pattern in layout.ignored) for name in spare
    )
