"""Reads weights from whatever holds them, and brings their names to what the tables know."""

import dataclasses
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from jtl.errors import WeightsError
from jtl.weights.readers.detect import detect
from jtl.weights.readers.keras_files import read_keras_h5, read_keras_zip
from jtl.weights.readers.msgpack import read_msgpack
from jtl.weights.readers.names import strip_prefixes
from jtl.weights.readers.npz import read_npz
from jtl.weights.readers.onnx import read_onnx
from jtl.weights.readers.orbax import read_orbax
from jtl.weights.readers.pytree import read_pytree
from jtl.weights.readers.safetensors import read_safetensors
from jtl.weights.readers.torch_legacy import read_torch_legacy
from jtl.weights.readers.torch_zip import read_torch_zip
from jtl.weights.readers.weight_file import WeightFile, check_expansion

_FLAT: dict[str, Callable[[Path], WeightFile]] = {
    "safetensors": read_safetensors,
    "keras-h5": read_keras_h5,
    "keras": read_keras_zip,
    "npz": read_npz,
    "onnx": read_onnx,
}
_NESTED: dict[str, Callable[[Path, str | None], WeightFile]] = {
    "torch": read_torch_zip,
    "torch-legacy": read_torch_legacy,
    "msgpack": read_msgpack,
    "orbax": read_orbax,
}


def read_weights(
    source: str | os.PathLike[str] | Mapping[str, Any], *, entry: str | None = None
) -> WeightFile:
    """The tensors of a weight file, an Orbax folder or a pytree, whatever wrote it.

    The format is told by the content; the suffix counts only where the content says nothing.
    Wrapping entries are opened and prefixes such as `module.` removed, each with a note. No
    code from the file is run, and nothing outside it or its folder is read.

    Args:
        source: a path, or a nested mapping of arrays.
        entry: which part of a training checkpoint to open, such as `state_dict_ema`; None for
            the network's own weights.

    Raises:
        WeightsError: the source is missing, damaged, unsafe or of no known format.
    """
    if isinstance(source, Mapping):
        weights = read_pytree(source, entry)
        return _with_known_names(weights)
    path = Path(source)
    try:
        weights = _read_path(path, entry)
    except OSError as error:
        raise WeightsError(f"{path}: cannot be read ({error.strerror or error}).") from error
    if not weights.tensors:
        raise WeightsError(f"{path}: holds no tensors; save the network's state dict or variables.")
    return _with_known_names(weights)


def _read_path(path: Path, entry: str | None) -> WeightFile:
    kind = detect(path)
    if kind in _NESTED:
        weights = _NESTED[kind](path, entry)
    elif entry is None:
        weights = _FLAT[kind](path)
    else:
        raise WeightsError(
            f"{path}: a {kind} file has no entries to choose from, so entry={entry!r} cannot be "
            "opened; leave it out."
        )
    # Views may share bytes: what a loader would copy out of them is bounded here. ONNX and Orbax
    # spread over several files and bound it themselves.
    if kind not in ("onnx", "orbax"):
        claimed = sum(tensor.nbytes for tensor in weights.tensors.values())
        check_expansion(str(path), path.stat().st_size, claimed)
    return weights


def _with_known_names(weights: WeightFile) -> WeightFile:
    tensors: Mapping[str, np.ndarray] = weights.tensors
    notes: tuple[str, ...] = ()
    if weights.format not in ("keras", "keras-h5"):
        tensors, notes = strip_prefixes(tensors)
    return dataclasses.replace(
        weights,
        tensors={name: _native(tensor) for name, tensor in tensors.items()},
        notes=(*weights.notes, *notes),
    )


def _native(tensor: np.ndarray) -> np.ndarray:
    """The tensor in this machine's byte order, the only one that JAX takes."""
    return tensor if tensor.dtype.isnative else tensor.astype(tensor.dtype.newbyteorder("="))
