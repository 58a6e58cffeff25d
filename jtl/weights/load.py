"""Loading: from a file, a name or a pytree to a model's variables, with the ledger of it."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from jtl.errors import ConfigError
from jtl.models.registry import create_model, model_spec
from jtl.models.staged import StagedNet
from jtl.tree import flatten, unflatten
from jtl.weights.arrays import check_param_dtype, convert, model_dtype, stored_dtype
from jtl.weights.draw import draw_class_leaves, draw_variables, init_key
from jtl.weights.fit import Fit, fit_layout
from jtl.weights.head import (
    HeadMode,
    HeadPlan,
    check_classes,
    class_leaves,
    keep_rows,
    plan_head,
)
from jtl.weights.ledger import Ledger, Row, random_rows, reconcile
from jtl.weights.metadata import choose_preprocess, file_classes
from jtl.weights.preprocess import Preprocess, released_preprocess
from jtl.weights.readers import WeightFile, check_finite
from jtl.weights.source import Weights, open_weights


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Pretrained:
    """A model with its weights, and all that must go with them.

    Attributes:
        model: a Flax Linen module; `model.apply(variables, images, train=False)` gives logits.
        variables: `{"params": ..., "batch_stats": ...}`, plain dicts of jax arrays.
        preprocess: how images must reach the model.
        ledger: what went where.
        classes: the names of the classes, in the order of the logits; None where nobody has
            said them.
    """

    model: StagedNet
    variables: dict[str, Any]
    preprocess: Preprocess
    ledger: Ledger
    classes: tuple[str, ...] | None = None


def load_model(
    name: str,
    weights: Weights | None = None,
    num_classes: int | None = None,
    *,
    rng: int | jax.Array | None = None,
    head: HeadMode = "auto",
    classes: Sequence[str] | None = None,
    dropout_rate: float = 0.0,
    param_dtype: Any | None = None,
    preprocess: Preprocess | None = None,
    variant: str | None = None,
    entry: str | None = None,
    **fields: Any,
) -> Pretrained:
    """A network of the registry with pretrained, or with random, weights.

    Args:
        name: the architecture, such as `resnet50`; the layout found in the file selects its
            variant.
        weights: a file of any known format, a name of the catalogue, a pytree, or None for
            random parameters. A name of the catalogue comes before a file of that name in the
            working folder; write `./name` for the file.
        num_classes: the number of logits; None keeps the file's. Where it is the file's own,
            the head is kept; where it is another, a new head is drawn.
        rng: a seed or a key; needed where something is drawn at random.
        head: `auto` as above; `keep` insists on the file's; `init` draws a new one in any case;
            `match` keeps the classes that bear the same name in both and draws the others.
        classes: the names of the new classes in order, which `match` needs.
        dropout_rate: the fraction dropped before the head in training, in [0, 1).
        param_dtype: what parameters and statistics are stored in; None keeps the file's dtype.
        preprocess: the input record, where neither the file nor its publisher says the right one.
        variant: whose details the model follows, such as `keras`; the file decides where it is
            None, and without a file the first.
        entry: which part of a training checkpoint to open, such as `state_dict_ema`; None for
            the network's own weights.
        **fields: further fields of the model, such as `drop_path_rate` or `remat`.

    Raises:
        ConfigError: the arguments contradict each other, or `rng` is missing.
        WeightsError: the weights cannot be read, or do not fit the model.
    """
    check_param_dtype(param_dtype)
    # A module's fields are hashed, so that its shapes are traced only once.
    fields = {key: tuple(v) if isinstance(v, list) else v for key, v in fields.items()}
    fields["dropout_rate"] = dropout_rate
    if weights is None:
        if head in ("keep", "match"):
            raise ConfigError(f"head={head!r} needs weights, and there are none; leave head out.")
        count = check_classes(num_classes, classes)
        fields = _with_dtype(np.dtype(param_dtype or np.float32), fields)
        model = create_model(name, num_classes=count or 1000, variant=variant, **fields)
        return _draw_all(name, model, rng, classes, preprocess)
    file, released = open_weights(weights, entry)
    check_finite(file)
    found = fit_layout(name, file, fields, variant)
    plan = plan_head(
        head,
        num_classes=num_classes,
        classes=classes,
        held=found.num_classes,
        held_classes=file_classes(file, found.num_classes),
        where=file.path,
    )
    rows, leaves = account(file, found, plan, param_dtype)
    model = _model(name, plan.num_classes, found.variant, leaves, fields)
    variables = _fill(file, found, plan, leaves, model, rng)
    if preprocess is None:
        record, origin = input_record(file, released, found)
    else:
        record, origin = preprocess, "the caller"
    notes = (*plan.notes, f"preprocessing from {origin}")
    return Pretrained(
        model=model,
        variables=variables,
        preprocess=record,
        ledger=make_ledger(file, found, rows, notes),
        classes=plan.classes,
    )


def account(
    file: WeightFile, found: Fit, plan: HeadPlan, param_dtype: Any | None
) -> tuple[tuple[Row, ...], dict[str, jax.ShapeDtypeStruct]]:
    """What will become of every tensor, before any is copied.

    Args:
        file: what was read.
        found: the model and the layout that it fits.
        plan: what becomes of the head.
        param_dtype: as in `load_model`.

    Returns:
        The ledger's rows, and the model's leaves as they will be, by slash path.

    Raises:
        WeightsError: something does not fit; all of it is listed.
    """
    heads = class_leaves(found.shapes)
    held = {e.destination: e.source for e in found.entries if e.source in file.tensors}
    known = {
        path: stored_dtype(file.tensors[name].dtype, param_dtype) for path, name in held.items()
    }
    widest = model_dtype(list(known.values()))
    leaves = {}
    for path, leaf in found.shapes.items():
        shape = (*leaf.shape[:-1], plan.num_classes) if path in heads else leaf.shape
        leaves[path] = jax.ShapeDtypeStruct(shape, known.get(path, widest))
    replaced = {} if plan.status == "loaded" else dict.fromkeys(heads, (plan.status, plan.reason))
    rows = reconcile(
        found.entries,
        file.tensors,
        leaves,
        ignored=found.layout.ignored,
        replaced=replaced,
        where=f"{file.path} ({found.layout.name} layout) as {found.architecture}",
    )
    return rows, leaves


def input_record(
    file: WeightFile, released: Mapping[str, Any] | None, found: Fit
) -> tuple[Preprocess, str]:
    """The input record of a file and, in words, who says so."""
    return choose_preprocess(
        file,
        released,
        layout=found.layout.name,
        architecture=found.architecture,
        input_size=model_spec(found.architecture).input_size,
    )


def make_ledger(
    file: WeightFile, found: Fit, rows: tuple[Row, ...], notes: Sequence[str]
) -> Ledger:
    """The ledger of a file; what its reader did to the names comes before the other notes."""
    return Ledger(
        path=file.path,
        format=file.format,
        model=found.architecture,
        layout=found.layout.name,
        rows=rows,
        notes=(*file.notes, *notes),
    )


def _fill(
    file: WeightFile,
    found: Fit,
    plan: HeadPlan,
    leaves: Mapping[str, jax.ShapeDtypeStruct],
    model: StagedNet,
    rng: int | jax.Array | None,
) -> dict[str, Any]:
    heads = class_leaves(leaves)
    fresh = plan.status == "initialised"
    wanted = [entry for entry in found.entries if not (fresh and entry.destination in heads)]
    dtypes = {path: np.dtype(leaf.dtype) for path, leaf in leaves.items()}
    drawn = {}
    if plan.draws:
        drawn = draw_class_leaves(model, leaves, init_key(rng, f"the head ({plan.reason})"))
    arrays = convert(wanted, file.tensors, dtypes, file.path)
    if plan.status == "matched":
        kept = {path: arrays[path] for path in heads}
        arrays |= {
            path: keep_rows(drawn.get(path), array, plan, dtypes[path])
            for path, array in kept.items()
        }
    # All at once: hundreds of single transfers would take longer than the copies.
    return unflatten(jax.device_put(drawn | arrays))


def _draw_all(
    name: str,
    model: StagedNet,
    rng: int | jax.Array | None,
    classes: Sequence[str] | None,
    preprocess: Preprocess | None,
) -> Pretrained:
    """The model with every parameter at random."""
    variables = draw_variables(model, init_key(rng, "random parameters"))
    reason = "no weights were given"
    ledger = Ledger(
        path="<random>",
        format="none",
        model=name,
        layout="jtl",
        rows=random_rows(flatten(variables), reason),
        notes=(reason,),
    )
    return Pretrained(
        model=model,
        variables=variables,
        preprocess=preprocess or released_preprocess("jtl", name, model_spec(name).input_size),
        ledger=ledger,
        classes=None if classes is None else tuple(classes),
    )


def _model(
    name: str,
    num_classes: int,
    variant: str,
    leaves: Mapping[str, jax.ShapeDtypeStruct],
    fields: Mapping[str, Any],
) -> StagedNet:
    dtype = model_dtype([leaf.dtype for path, leaf in leaves.items() if path.startswith("params/")])
    return create_model(
        name, num_classes=num_classes, variant=variant, **_with_dtype(dtype, fields)
    )


def _with_dtype(dtype: np.dtype, fields: Mapping[str, Any]) -> dict[str, Any]:
    # The default is left alone, so that equal models stay equal.
    return dict(fields) if dtype == np.float32 else {**fields, "param_dtype": dtype}
