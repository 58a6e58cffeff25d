"""Reads numpy's .npz archives, whose arrays must be plain numbers."""

import io
import warnings
from pathlib import Path

import numpy as np

from jtl.errors import WeightsError
from jtl.weights.readers.archive import open_archive
from jtl.weights.readers.mapped import array_at, row_major
from jtl.weights.readers.weight_file import WeightFile

_LONGEST_HEADER = 2**16


def read_npz(path: Path) -> WeightFile:
    """Every array by its name in the archive; those stored uncompressed are views of the file.

    Raises:
        WeightsError: the archive is damaged, or an array holds Python objects or records.
    """
    archive = open_archive(path)
    tensors = {}
    for member in archive.members:
        if member.endswith(".npy"):
            name = member.removesuffix(".npy")
            tensors[name] = _parse(f"{path}: array {name!r}", archive.read(member))
    return WeightFile(path=str(path), format="npz", tensors=tensors)


def _parse(where: str, data: np.ndarray) -> np.ndarray:
    head = io.BytesIO(data[:_LONGEST_HEADER].tobytes())
    try:
        version = np.lib.format.read_magic(head)
        readers = {
            (1, 0): np.lib.format.read_array_header_1_0,
            (2, 0): np.lib.format.read_array_header_2_0,
        }
        if version not in readers:
            raise ValueError(f"version {version} of the array format")
        with warnings.catch_warnings():
            # numpy warns of files that Python 2 wrote; they read the same.
            warnings.simplefilter("ignore")
            shape, is_column_major, dtype = readers[version](head)
    # The header is text that numpy evaluates as a literal: damage raises nearly anything.
    except Exception as error:
        raise WeightsError(
            f"{where} has a damaged header ({error}); fetch or save the file again."
        ) from error
    if dtype.kind not in "biufc":
        kind = "Python objects" if dtype.hasobject else f"the element type {dtype}"
        raise WeightsError(
            f"{where} holds {kind}; weights are plain numbers, so save it again as float32."
        )
    strides = row_major(shape, dtype.itemsize)
    if is_column_major:
        strides = row_major(shape[::-1], dtype.itemsize)[::-1]
    return array_at(
        data, dtype=dtype, shape=shape, offset=head.tell(), strides=strides, where=where
    )
