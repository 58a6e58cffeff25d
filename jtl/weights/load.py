"""Loading: from a file, a name or a pytree to a model's variables, with the ledger of it."""

import dataclasses
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jtl.errors import ConfigError
from jtl.models.registry import create_model
from jtl.models.staged import StagedNet
from jtl.rng import base_key, stream_key
from jtl.tree import flatten, unflatten
from jtl.weights.arrays import check_param_dtype, convert, model_dtype, stored_dtype
from jtl.weights.fit import Fit, fit_layout
from jtl.weights.head import (
    HeadMode,
    HeadPlan,
    check_classes,
    class_leaves,
    draw_class_leaves,
    keep_rows,
    plan_head,
)
from jtl.weights.ledger import Ledger, ShapeDtype, random_rows, reconcile
from jtl.weights.metadata import choose_preprocess, file_classes
from jtl.weights.preprocess import Preprocess, released_preprocess
from jtl.weights.readers import WeightFile, check_finite, read_weights


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
    weights: str | os.PathLike[str] | Mapping[str, Any] | None = None,
    num_classes: int | None = None,
    *,
    rng: int | jax.Array | None = None,
    head: HeadMode = "auto",
    classes: Sequence[str] | None = None,
    dropout_rate: float = 0.0,
    param_dtype: Any | None = None,
    preprocess: Preprocess | None = None,
    variant: str | None = None,
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
    file, released = open_weights(weights)
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
    variables, model, rows = _fill(name, file, found, plan, rng, param_dtype, fields)
    if preprocess is None:
        record, origin = choose_preprocess(file, released, found)
    else:
        record, origin = preprocess, "the caller"
    ledger = Ledger(
        path=file.path,
        format=file.format,
        model=name,
        layout=found.layout.name,
        rows=rows,
        notes=(*file.notes, *plan.notes, f"preprocessing from {origin}"),
    )
    return Pretrained(
        model=model, variables=variables, preprocess=record, ledger=ledger, classes=plan.classes
    )


def open_weights(
    weights: str | os.PathLike[str] | Mapping[str, Any],
) -> tuple[WeightFile, Mapping[str, Any] | None]:
    """The file behind what a user named, and the input record that its publisher gives.

    Raises:
        WeightsError: the name is not known, or the file cannot be read.
    """
    if not isinstance(weights, str):
        return read_weights(weights), None
    from jtl.weights.catalogue import released_weights
    from jtl.weights.fetch import locate

    released = released_weights().get(weights)
    if released is not None:
        return read_weights(locate(weights)), released.preprocess
    remote = weights.startswith("hf:") or "://" in weights
    if not remote and (Path(weights).exists() or _looks_like_path(weights)):
        return read_weights(weights), None
    return read_weights(locate(weights)), None


def _fill(
    name: str,
    file: WeightFile,
    found: Fit,
    plan: HeadPlan,
    rng: int | jax.Array | None,
    param_dtype: Any | None,
    fields: Mapping[str, Any],
) -> tuple[dict[str, Any], StagedNet, tuple[Any, ...]]:
    """The variables, the model that they fit and the rows of the ledger."""
    heads = class_leaves(found.shapes)
    dtypes = _leaf_dtypes(found, file.tensors, param_dtype)
    model = _model(name, plan.num_classes, found.variant, dtypes, fields)
    leaves = _leaves(found, dtypes, heads, plan.num_classes)
    replaced = {} if plan.status == "loaded" else dict.fromkeys(heads, (plan.status, plan.reason))
    rows = reconcile(
        found.entries,
        file.tensors,
        leaves,
        ignored=found.layout.ignored,
        replaced=replaced,
        where=f"{file.path} ({found.layout.name} layout) as {name}",
    )
    wanted = [
        e for e in found.entries if plan.status != "initialised" or e.destination not in heads
    ]
    arrays = convert(wanted, file.tensors, dtypes, file.path)
    if plan.status != "loaded":
        what = f"the head ({plan.reason})"
        drawn = draw_class_leaves(model, leaves, _key(rng, what)) if plan.draws else {}
        for path in heads:
            if plan.status == "matched":
                arrays[path] = keep_rows(drawn.get(path), arrays[path], plan, dtypes[path])
            else:
                arrays[path] = drawn[path]
    return unflatten(jax.device_put(arrays)), model, rows


def _draw_all(
    name: str,
    model: StagedNet,
    rng: int | jax.Array | None,
    classes: Sequence[str] | None,
    preprocess: Preprocess | None,
) -> Pretrained:
    """The model with every parameter at random."""
    size = model.example_size
    # Under jit only the draws are computed: the forward pass is dead code there.
    draw = jax.jit(lambda key: model.init(key, jnp.zeros((1, size, size, 3))))
    variables = draw(_key(rng, "random parameters"))
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
        preprocess=preprocess or released_preprocess("jtl", name, size),
        ledger=ledger,
        classes=None if classes is None else tuple(classes),
    )


def _leaf_dtypes(
    found: Fit, tensors: Mapping[str, np.ndarray], param_dtype: Any | None
) -> dict[str, np.dtype]:
    held = {e.destination: tensors[e.source] for e in found.entries if e.source in tensors}
    known = {path: stored_dtype(tensor.dtype, param_dtype) for path, tensor in held.items()}
    widest = model_dtype(list(known.values()))
    return {path: known.get(path, widest) for path in found.shapes}


def _leaves(
    found: Fit, dtypes: Mapping[str, np.dtype], heads: Sequence[str], num_classes: int
) -> dict[str, ShapeDtype]:
    leaves: dict[str, ShapeDtype] = {}
    for path, leaf in found.shapes.items():
        shape = (*leaf.shape[:-1], num_classes) if path in heads else tuple(leaf.shape)
        leaves[path] = jax.ShapeDtypeStruct(shape, dtypes[path])
    return leaves


def _model(
    name: str,
    num_classes: int,
    variant: str,
    dtypes: Mapping[str, np.dtype],
    fields: Mapping[str, Any],
) -> StagedNet:
    params = [dtype for path, dtype in dtypes.items() if path.startswith("params/")]
    return create_model(
        name, num_classes=num_classes, variant=variant, **_with_dtype(model_dtype(params), fields)
    )


def _with_dtype(dtype: np.dtype, fields: Mapping[str, Any]) -> dict[str, Any]:
    # The default is left alone, so that equal models stay equal.
    return dict(fields) if dtype == np.float32 else {**fields, "param_dtype": dtype}


def _key(rng: int | jax.Array | None, what: str) -> jax.Array:
    if rng is None:
        raise ConfigError(f"{what} must be drawn at random: pass rng=, a seed or a jax.random key.")
    return stream_key(base_key(rng), "init", 0)


def _looks_like_path(text: str) -> bool:
    suffixes = (".safetensors", ".pth", ".pt", ".bin", ".h5", ".keras", ".onnx", ".npz", ".msgpack")
    return os.sep in text or text.endswith(suffixes)
