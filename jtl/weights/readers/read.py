"""Picks the reader by a file's content and brings its tensor names to what the tables know."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jtl.errors import WeightsError
from jtl.weights.readers.safetensors import looks_like_safetensors, read_safetensors
from jtl.weights.readers.weight_file import WeightFile


def read_weights(source: str | os.PathLike[str] | Mapping[str, Any]) -> WeightFile:
    """The tensors of a weight file, an Orbax folder or a pytree, whatever wrote it.

    Args:
        source: a path, or a nested mapping of arrays.

    Raises:
        WeightsError: the source is missing, damaged, unsafe or of no known format.
    """
    if isinstance(source, Mapping):
        raise WeightsError("a pytree in memory is not read yet.")
    path = Path(source)
    if not path.is_file():
        raise WeightsError(f"{path}: no such file.")
    with path.open("rb") as file:
        head = file.read(64)
    if looks_like_safetensors(head, path.stat().st_size) or path.suffix == ".safetensors":
        return read_safetensors(path)
    raise WeightsError(f"{path}: this format is not read yet.")
