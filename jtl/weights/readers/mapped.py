"""A file's bytes as a read-only array, and typed views into it that never leave its bounds."""

import math
from pathlib import Path

import numpy as np

from jtl.errors import WeightsError


def map_file(path: Path) -> np.ndarray:
    """The file as uint8 `[bytes]`, mapped and not read.

    Raises:
        WeightsError: the file is empty or the system will not open it.
    """
    try:
        if path.stat().st_size == 0:
            raise WeightsError(f"{path}: is empty; fetch or save it again.")
        # A plain ndarray over the mapping: np.memmap's own subclass would leak into every view.
        return np.asarray(np.memmap(path, dtype=np.uint8, mode="r"))
    except OSError as error:
        raise WeightsError(f"{path}: cannot be opened ({error.strerror or error}).") from error


def array_at(
    data: np.ndarray,
    *,
    dtype: np.dtype,
    shape: tuple[int, ...],
    offset: int,
    where: str,
    strides: tuple[int, ...] | None = None,
) -> np.ndarray:
    """A view of `data` (uint8 `[bytes]`) as a tensor.

    Args:
        data: the bytes that the view must lie within.
        dtype: the tensor's element type, in the file's byte order.
        shape: the tensor's shape.
        offset: the first element's place, in bytes from the start of `data`.
        where: the file and the tensor, for the message.
        strides: bytes between neighbours along each axis; None for row-major.

    Raises:
        WeightsError: a size or place is negative, or the tensor reaches beyond the bytes.
    """
    steps = row_major(shape, dtype.itemsize) if strides is None else strides
    if len(steps) != len(shape) or min((offset, *shape, *steps)) < 0:
        raise WeightsError(
            f"{where}: shape {list(shape)}, strides {list(steps)} and offset {offset} describe "
            "no tensor; the file is damaged, fetch or save it again."
        )
    last = sum((n - 1) * step for n, step in zip(shape, steps))
    reach = offset + (0 if 0 in shape else last + dtype.itemsize)
    if reach > data.nbytes:
        raise WeightsError(
            f"{where}: {dtype}{list(shape)} reaches to byte {reach:,} of {data.nbytes:,}; the "
            "file is truncated or damaged, fetch or save it again."
        )
    try:
        return np.ndarray(shape, dtype, buffer=data, offset=offset, strides=steps)
    except (ValueError, TypeError, OverflowError) as error:
        raise WeightsError(f"{where}: {dtype}{list(shape)} cannot be viewed ({error}).") from error


def row_major(shape: tuple[int, ...], itemsize: int) -> tuple[int, ...]:
    """The strides, in bytes, of a tensor stored densely with its last axis fastest."""
    return tuple(itemsize * math.prod(shape[axis + 1 :]) for axis in range(len(shape)))
