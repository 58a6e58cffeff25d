"""What every reader returns: named tensors, where they came from and what was done to the names."""

import dataclasses
from collections.abc import Mapping

import ml_dtypes
import numpy as np

from jtl.errors import WeightsError

# What a file may expand to: weights hardly compress, so more than this is damage or an attack.
EXPANSION = 8
ALLOWANCE = 16 * 2**20


@dataclasses.dataclass(frozen=True, kw_only=True)
class WeightFile:
    """The tensors of one weight file, named as the layout tables know them.

    Attributes:
        path: the file or folder, or `<memory>` for a pytree.
        format: `safetensors`, `torch`, `keras-h5`, `keras`, `onnx`, `npz`, `msgpack`, `orbax`
            or `pytree`.
        tensors: arrays by name, mapped read-only from the file where it stores them plainly.
            Copy one before the file is changed in place.
        metadata: what the file says of itself, such as safetensors' `__metadata__`.
        notes: what was done to the names: a prefix removed, a wrapping entry opened.
    """

    path: str
    format: str
    tensors: Mapping[str, np.ndarray]
    metadata: dict[str, str] = dataclasses.field(default_factory=dict)
    notes: tuple[str, ...] = ()


def size_limit(stored: int) -> int:
    """The bytes that a file of `stored` bytes may expand to in memory."""
    return EXPANSION * stored + ALLOWANCE


def check_expansion(path: str, stored: int, claimed: int) -> None:
    """Stops a file whose tensors claim far more bytes than it holds.

    Args:
        path: the file, for the message.
        stored: the file's own size in bytes.
        claimed: the bytes that its tensors, or its unpacked members, ask for.

    Raises:
        WeightsError: `claimed` is beyond `size_limit(stored)`.
    """
    if claimed > size_limit(stored):
        raise WeightsError(
            f"{path}: holds {stored:,} bytes but asks for {claimed:,} bytes of memory, as a "
            "decompression bomb does; nothing was read. Fetch it again from its publisher, or "
            "save it uncompressed."
        )


def check_finite(weights: WeightFile) -> None:
    """Stops weights that hold NaN or infinity, naming every tensor that does.

    Raises:
        WeightsError: some floating-point tensor holds a value that is not finite.
    """
    lines = []
    for name, tensor in weights.tensors.items():
        count = _count_non_finite(tensor)
        if count:
            lines.append(f"  {name}: {count:,} of {tensor.size:,} values")
    if lines:
        raise WeightsError(
            f"{weights.path}: NaN or infinity in {len(lines)} of {len(weights.tensors)} tensors; "
            "the training that saved them diverged or the file is damaged, so take an earlier "
            "checkpoint or fetch the file again:\n" + "\n".join(lines)
        )


def _count_non_finite(tensor: np.ndarray) -> int:
    if tensor.dtype.kind in "biu" or not _is_float(tensor.dtype):
        return 0
    # One pass without a mask decides nearly always: a sum over finite values stays finite.
    if tensor.dtype.itemsize >= 4:
        with np.errstate(over="ignore", invalid="ignore"):
            if np.isfinite(tensor.sum()):
                return 0
    return int(tensor.size - np.count_nonzero(np.isfinite(tensor)))


def _is_float(dtype: np.dtype) -> bool:
    if dtype.kind in "fc":
        return True
    try:
        ml_dtypes.finfo(dtype)
    except (ValueError, TypeError):
        return False
    return True
