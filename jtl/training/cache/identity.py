"""The identity of cached rows: a digest of everything that they are a function of."""

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from jtl.engine.boundary import Boundary
from jtl.engine.parallel import Placement
from jtl.tree import digest

# Fields of a network that no stage before the head depends on.
_OF_THE_HEAD = ("parent", "name", "num_classes", "dropout_rate")


def cache_key(
    *,
    model: Any,
    boundary: Boundary,
    held: Mapping[str, Any],
    preprocess: Mapping[str, Any],
    augment: Any,
    rng: jax.Array | None,
    fingerprint: str,
    indices: np.ndarray,
    batch_sizes: tuple[int, ...],
    place: Placement,
) -> str:
    """SHA-256, as hex, of what decides the bits of cached rows.

    Args:
        model: the network.
        boundary: where it is cut.
        held: parameters and statistics before the boundary.
        preprocess: the record of how images are prepared.
        augment: the options of augmentation; None where images are not varied.
        rng: the run's base key; None where images are not varied.
        fingerprint: of the source.
        indices: int `[examples]`, in the order of the rows.
        batch_sizes: examples a step; another number may round differently.
        place: where steps run; other devices round differently.
    """
    fields = {
        field.name: repr(getattr(model, field.name))
        for field in dataclasses.fields(model)
        if field.name not in _OF_THE_HEAD
    }
    record = {
        "model": [type(model).__name__, fields],
        "stages": list(boundary.stages),
        "weights": digest(held),
        "preprocess": dict(preprocess),
        "augment": repr(augment),
        "rng": None if rng is None else np.asarray(jax.random.key_data(rng)).tolist(),
        "data": fingerprint,
        "indices": hashlib.sha256(np.ascontiguousarray(indices, np.int64).data).hexdigest(),
        "batch_sizes": list(batch_sizes),
        "devices": [device.device_kind for device in place.devices],
        "jax": jax.__version__,
    }
    text = json.dumps(record, sort_keys=True, default=repr)
    return hashlib.sha256(text.encode()).hexdigest()
