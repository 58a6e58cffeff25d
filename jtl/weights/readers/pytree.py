"""Takes a pytree in memory for a weight file: nested mappings of arrays by slash path."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jtl.errors import WeightsError
from jtl.tree import flatten
from jtl.weights.readers.names import open_collections
from jtl.weights.readers.weight_file import WeightFile

_WHERE = "<memory>"


def read_pytree(tree: Mapping[str, Any], entry: str | None = None) -> WeightFile:
    """The arrays of a pytree; those on this host's processor are not copied.

    Args:
        tree: `{"params": …, "batch_stats": …}`, a training state that holds them, or a flat
            dict of tensors under any layout's names.
        entry: which part to open, such as `ema`.

    Raises:
        WeightsError: some leaf is no array, or lies partly on another host.
    """
    inner, notes = open_collections(_WHERE, tree, entry)
    tensors, problems = {}, []
    for path, leaf in flatten(inner).items():
        if isinstance(leaf, jax.Array) and not leaf.is_fully_addressable:
            problems.append(f"  {path}: lies partly on other hosts; gather it first")
        elif not _is_array(leaf):
            problems.append(f"  {path}: a {type(leaf).__name__}, not an array")
        else:
            tensors[path] = np.asarray(leaf)
    if problems:
        raise WeightsError(
            f"{_WHERE}: {len(problems)} leaves hold no weights; leave them out:\n"
            + "\n".join(problems[:50])
        )
    return WeightFile(path=_WHERE, format="pytree", tensors=tensors, notes=notes)


def _is_array(leaf: Any) -> bool:
    if isinstance(leaf, jax.Array):
        return not jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
    return isinstance(leaf, (np.ndarray, np.generic, int, float)) and not (
        isinstance(leaf, np.ndarray) and leaf.dtype.hasobject
    )
