"""Tensors of a file as arrays of the model: one copy each, in the model's layout and dtype."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from jtl.errors import ConfigError, WeightsError
from jtl.weights.layouts.transform import Entry
from jtl.weights.ledger import is_real_float

# XLA takes a host array over without a copy if it begins at such an address.
_ALIGNMENT = 64


def stored_dtype(source: Any, asked: Any | None) -> np.dtype:
    """The dtype that a tensor is kept in: the one asked for, else the file's own.

    Without x64, float64 becomes float32, as everywhere in jax.
    """
    dtype = np.dtype(source if asked is None else asked).newbyteorder("=")
    if dtype == np.float64 and jnp.result_type(float) != np.float64:
        return np.dtype(np.float32)
    return dtype


def check_param_dtype(asked: Any | None) -> None:
    """Stops a dtype that parameters cannot have.

    Raises:
        ConfigError: it is no float, or float64 while x64 is off.
    """
    if asked is None:
        return
    dtype = np.dtype(asked)
    if not is_real_float(dtype):
        raise ConfigError(
            f"param_dtype={dtype} is no float; give float16, bfloat16, float32 or float64."
        )
    if dtype != stored_dtype(dtype, dtype):
        raise ConfigError(
            "param_dtype=float64 needs jax.config.update('jax_enable_x64', True); "
            "without it jax keeps float32."
        )


def model_dtype(dtypes: Sequence[np.dtype]) -> np.dtype:
    """The narrowest float that holds all of them: what new parameters are drawn in."""
    floats = [np.dtype(dtype) for dtype in dtypes if is_real_float(dtype)]
    return np.dtype(jnp.result_type(*floats) if floats else np.float32)


def convert(
    entries: Sequence[Entry],
    tensors: Mapping[str, np.ndarray],
    dtypes: Mapping[str, np.dtype],
    where: str,
) -> dict[str, np.ndarray]:
    """The leaves of the entries, each in memory of its own, by slash path.

    Args:
        entries: of the key table; each source is in `tensors`.
        tensors: the file's, in the file's layout.
        dtypes: of the leaves, by slash path.
        where: the file, for messages.

    Raises:
        WeightsError: values overflow in a narrower dtype, or a variance is below zero.
    """
    leaves, problems = {}, []
    for entry in entries:
        view = entry.transform.forward(tensors[entry.source])
        leaf = _aligned_copy(view, dtypes[entry.destination])
        narrowed = leaf.dtype.itemsize < view.dtype.itemsize
        if narrowed and not np.isfinite(leaf).all():
            problems.append(f"{entry.source}: has values beyond the range of {leaf.dtype}")
        if entry.destination.endswith("/var") and leaf.size and leaf.min() < 0:
            problems.append(
                f"{entry.source}: is the running variance {entry.destination}, yet holds "
                f"{leaf.min():.3g}; statistics are mixed up or the file is damaged"
            )
        leaves[entry.destination] = leaf
    if problems:
        raise WeightsError(
            f"{where}: {len(problems)} tensors have values that cannot be right:\n  "
            + "\n  ".join(problems)
        )
    return leaves


def _aligned_copy(view: np.ndarray, dtype: np.dtype) -> np.ndarray:
    raw = np.empty(view.size * dtype.itemsize + _ALIGNMENT, np.uint8)
    start = -raw.ctypes.data % _ALIGNMENT
    copy = raw[start : start + view.size * dtype.itemsize].view(dtype).reshape(view.shape)
    with np.errstate(over="ignore"):
        np.copyto(copy, view, casting="unsafe")
    return copy
