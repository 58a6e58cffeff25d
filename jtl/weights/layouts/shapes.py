"""Shapes of a network's variables, which are traced once and then found in the cache."""

import contextlib
import hashlib
import json
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from jtl.errors import WeightsError
from jtl.identity import UnknownError, identity
from jtl.models.staged import StagedNet
from jtl.tree import flatten
from jtl.weights.cache import cache_folder, keep_newest, read_json, write_json

_MOST = 256  # networks whose shapes are kept

Shapes = dict[str, jax.ShapeDtypeStruct]


def variable_shapes(model: StagedNet) -> Shapes:
    """Shape and dtype of every leaf by slash path, without computing any.

    The paths begin with the collection: `params/…`, `batch_stats/…`. They are kept under what the
    model consists of, as tracing a large network takes a third of a second.
    """
    try:
        key = identity("shapes", model, jax.config.jax_enable_x64)  # type: ignore[attr-defined]
    except UnknownError:  # a class of the caller's own, whose code may change
        return _traced(model)
    path = cache_folder() / "shapes" / f"{key}.json"
    record = read_json(path)
    if record.get("digest") == _digest(record.get("leaves")):
        return {
            name: jax.ShapeDtypeStruct(shape, jnp.dtype(dtype))
            for name, (shape, dtype) in record["leaves"].items()
        }
    shapes = _traced(model)
    leaves = {name: [list(leaf.shape), str(leaf.dtype)] for name, leaf in shapes.items()}
    # Where nothing can be written, the next start traces the network again.
    with contextlib.suppress(WeightsError, OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, {"digest": _digest(leaves), "leaves": leaves})
        keep_newest(path.parent, "*.json", _MOST)
    return shapes


def _traced(model: StagedNet) -> Shapes:
    size = model.example_size
    images = jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32)
    return flatten(jax.eval_shape(model.init, jax.random.key(0), images))


def _digest(leaves: Mapping[str, Any] | None) -> str:
    return hashlib.sha256(json.dumps(leaves).encode()).hexdigest()
