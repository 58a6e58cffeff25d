"""Where weights come from: a path, a name of the catalogue, an address or a pytree."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jtl.weights.catalogue import released_weights
from jtl.weights.fetch import locate
from jtl.weights.readers import WeightFile, read_weights

Weights = str | os.PathLike[str] | Mapping[str, Any]

# What makes a text a path although no such file is there: the message then names the nearest file.
_SUFFIXES = (
    *(".safetensors", ".pth", ".pt", ".bin", ".ckpt", ".h5", ".hdf5", ".keras", ".onnx"),
    *(".npz", ".msgpack", ".tar"),
)


def open_weights(
    weights: Weights, entry: str | None = None
) -> tuple[WeightFile, Mapping[str, Any] | None]:
    """The file behind what a user named, and the input record that its publisher gives.

    Args:
        weights: a file, a name of the catalogue, `hf:owner/name/file@revision`, an https address
            or a pytree. A name of the catalogue comes before a file of that name in the working
            folder.
        entry: which part of a training checkpoint to open, such as `state_dict_ema`; None for
            the network's own weights.

    Raises:
        WeightsError: the name is not known, or the file cannot be read.
    """
    if not isinstance(weights, str):
        return read_weights(weights, entry=entry), None
    released = released_weights().get(weights)
    if released is not None:
        return read_weights(locate(weights), entry=entry), released.preprocess
    remote = weights.startswith("hf:") or "://" in weights
    if not remote and (Path(weights).exists() or _looks_like_path(weights)):
        return read_weights(weights, entry=entry), None
    return read_weights(locate(weights), entry=entry), None


def _looks_like_path(text: str) -> bool:
    return os.sep in text or text.endswith(_SUFFIXES)
