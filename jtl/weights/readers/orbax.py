"""Reads the PyTree checkpoint folders that Orbax writes: an index and one array store a leaf."""

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from jtl.errors import WeightsError
from jtl.tree import flatten
from jtl.weights.readers.names import open_collections
from jtl.weights.readers.weight_file import WeightFile, check_expansion, size_limit

INDEX = "_METADATA"
_DATABASE = "manifest.ocdbt"
_LONGEST_INDEX = 16 * 2**20
_DEEPEST = 32
# The items that hold a network's variables, in the order in which one is chosen.
_ITEMS = ("default", "pytree", "state", "variables", "model", "params", "items")
# What Orbax's index calls leaves that lie in array stores; text and None lie elsewhere.
_ARRAYS = ("jax.Array", "np.ndarray", "scalar")


def looks_like_orbax(folder: Path) -> bool:
    """Whether a folder is an Orbax checkpoint or holds its items."""
    marks = (INDEX, "_CHECKPOINT_METADATA", _DATABASE)
    return any((folder / mark).is_file() for mark in marks) or bool(_items(folder))


def read_orbax(folder: Path, entry: str | None = None) -> WeightFile:
    """`params` and `batch_stats` of a checkpoint by slash path; the rest is not even read.

    The stores are read through TensorStore, as Orbax does, but in this thread alone: no
    devices, no event loop and no handler that the folder could name are involved.

    Args:
        folder: one item, or one step with its items.
        entry: which part of the saved tree to open, such as `ema`.

    Raises:
        WeightsError: the folder is damaged or incomplete, reaches outside itself or claims
            sizes far beyond its own.
    """
    item, notes = _choose_item(folder)
    stored = _check_files(item)
    index, names = _read_index(item)
    tree, opened = open_collections(str(item), names, entry)
    try:
        tensors = _read_stores(item, stored, index, flatten(tree))
    # TensorStore raises ValueError and its own kinds for damage; none of them is ours.
    except (ValueError, TypeError, KeyError, OSError, NotImplementedError) as error:
        text = " ".join(str(error).split())[:300]
        raise WeightsError(
            f"{item}: an array store cannot be read ({text}); take an earlier step or copy the "
            "folder again."
        ) from error
    return WeightFile(path=str(folder), format="orbax", tensors=tensors, notes=(*notes, *opened))


def _read_stores(
    item: Path, stored: int, index: Mapping[str, Any], names: Mapping[str, str]
) -> dict[str, np.ndarray]:
    """Opens every store, checks what all of them claim, and only then reads any."""
    import tensorstore

    waiting = {
        path: tensorstore.open(_spec(item, index, name), open=True, read=True)
        for path, name in names.items()
    }
    stores: dict[str, Any] = {path: future.result() for path, future in waiting.items()}
    claimed = 0
    for path, store in stores.items():
        itemsize = store.dtype.numpy_dtype.itemsize
        claimed += math.prod(store.shape) * itemsize
        if math.prod(store.chunk_layout.read_chunk.shape or ()) * itemsize > size_limit(stored):
            raise WeightsError(f"{item}: {path!r} claims chunks far beyond the folder's size.")
    check_expansion(str(item), stored, claimed)
    reads = {path: store.read() for path, store in stores.items()}
    return {path: np.asarray(read.result()) for path, read in reads.items()}


def _spec(item: Path, index: Mapping[str, Any], name: str) -> dict[str, Any]:
    """What TensorStore opens for one leaf; `name` is its keys joined by dots."""
    root = f"{item.resolve()}{os.sep}"
    store: dict[str, Any] = {"driver": "file", "path": f"{root}{name}/"}
    if index.get("use_ocdbt", (item / _DATABASE).is_file()):
        base = {"driver": "file", "path": root}
        store = {"driver": "ocdbt", "base": base, "path": f"{name}/"}
    return {
        "driver": "zarr3" if index.get("use_zarr3") else "zarr",
        "kvstore": store,
        # Where Orbax says that it wrote every chunk, a missing one is damage and not zeros.
        "fill_missing_data_reads": not index.get("store_array_data_equal_to_fill_value"),
    }


def _check_files(item: Path) -> int:
    """The folder's size in bytes; a link that leaves it is an error."""
    root, stored = item.resolve(), 0
    for folder, folders, files in os.walk(root):
        for name in (*folders, *files):
            path = Path(folder) / name
            if not path.resolve().is_relative_to(root):
                raise WeightsError(
                    f"{item}: {path.relative_to(root)} is a link out of the folder; a checkpoint "
                    "must hold its own data, so copy it there."
                )
        stored += sum((Path(folder) / name).stat().st_size for name in files)
    return stored


def _read_index(item: Path) -> tuple[Mapping[str, Any], dict[str, Any]]:
    """The index, and the saved tree with each array's store name as its leaf."""
    path = item / INDEX
    try:
        if path.stat().st_size > _LONGEST_INDEX:
            raise ValueError("it is too long")
        index = json.loads(path.read_bytes())
        leaves = [
            [str(step["key"]) for step in entry["key_metadata"]]
            for entry in index["tree_metadata"].values()
            if entry["value_metadata"]["value_type"] in _ARRAYS
        ]
        for steps in leaves:
            _check_steps(path, steps)
        return index, _as_tree(leaves)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise WeightsError(
            f"{path}: is no index of a PyTree checkpoint ({type(error).__name__}: {error}); take "
            "an earlier step or copy the folder again."
        ) from error


def _check_steps(path: Path, steps: list[str]) -> None:
    """Each name in the index becomes part of a path: none may climb out of the folder."""
    parts = [part for step in steps for part in step.replace("\\", "/").split("/")]
    if ".." in parts or any(step.startswith(("/", ".")) for step in steps):
        raise WeightsError(f"{path}: the name {'.'.join(steps)!r} leads out of the folder.")
    if not 0 < len(steps) <= _DEEPEST:
        raise ValueError(f"a tree nested {len(steps)} deep")


def _as_tree(leaves: list[list[str]]) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for steps in leaves:
        node = tree
        for step in steps[:-1]:
            node = node.setdefault(step, {})
        if steps[-1] in node:
            raise ValueError(f"two leaves named {'.'.join(steps)}")
        node[steps[-1]] = ".".join(steps)
    return tree


def _choose_item(folder: Path) -> tuple[Path, tuple[str, ...]]:
    if (folder / INDEX).is_file():
        return folder, ()
    items = _items(folder)
    if not items:
        raise WeightsError(
            f"{folder}: holds no {INDEX}; the checkpoint is incomplete, or was not saved as a "
            "PyTree. Take an earlier step, or save it again with StandardSave or PyTreeSave."
        )
    name = next((name for name in _ITEMS if name in items), items[0])
    if name not in _ITEMS and len(items) > 1:
        raise WeightsError(
            f"{folder}: holds the items {', '.join(items)}; give one, as in {folder / items[0]}."
        )
    aside = [other for other in items if other != name]
    note = f"opened the item {name!r}" + (f", left aside {', '.join(aside)}" if aside else "")
    return folder / name, (note,)


def _items(folder: Path) -> list[str]:
    return sorted(path.parent.name for path in folder.glob(f"*/{INDEX}"))
