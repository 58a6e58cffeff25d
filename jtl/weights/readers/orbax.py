"""Reads a PyTree checkpoint folder that Orbax wrote, without device placement."""

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jtl.errors import WeightsError
from jtl.tree import flatten
from jtl.weights.readers.names import open_collections
from jtl.weights.readers.weight_file import WeightFile, check_expansion, size_limit

_INDEX = "_METADATA"
_LONGEST_INDEX = 16 * 2**20
_DEEPEST = 32
# The items that hold a network's variables, in the order in which one is chosen.
_ITEMS = ("default", "state", "variables", "model", "params", "items")


def looks_like_orbax(folder: Path) -> bool:
    """Whether a folder is an Orbax checkpoint, or holds its items or its steps."""
    marks = (_INDEX, "_CHECKPOINT_METADATA", "manifest.ocdbt")
    return any((folder / mark).is_file() for mark in marks) or bool(_items(folder))


def read_orbax(folder: Path, entry: str | None = None) -> WeightFile:
    """`params` and `batch_stats` of a checkpoint by slash path; the rest is not even read.

    Args:
        folder: one item, or one step with its items.
        entry: which part of the saved tree to open, such as `ema`.

    Raises:
        WeightsError: the folder is damaged or incomplete, reaches outside itself or claims
            sizes far beyond its own.
    """
    item, notes = _choose_item(folder)
    stored = _check_files(item)
    _check_index(item)
    try:
        tree, opened = _restore(item, stored, entry)
    except WeightsError:
        raise
    # Orbax and TensorStore raise many kinds of error for damage; none of them is ours.
    except Exception as error:
        text = " ".join(str(error).split())[:400]
        raise WeightsError(
            f"{item}: cannot be restored by Orbax ({text}); take an earlier step or copy the "
            "folder again."
        ) from error
    tensors = {path: leaf for path, leaf in flatten(tree).items() if isinstance(leaf, np.ndarray)}
    return WeightFile(path=str(folder), format="orbax", tensors=tensors, notes=(*notes, *opened))


def _restore(
    item: Path, stored: int, entry: str | None
) -> tuple[Mapping[str, Any], tuple[str, ...]]:
    import orbax.checkpoint as ocp

    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as checkpointer:
        index = checkpointer.metadata(item.resolve()).item_metadata.tree
        wanted, notes = open_collections(str(item), index, entry)
        _check_sizes(item, stored, wanted)
        whole = _within(index, wanted)
        arguments = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), whole)
        restored = checkpointer.restore(
            item.resolve(),
            args=ocp.args.PyTreeRestore(item=whole, restore_args=arguments, partial_restore=True),
        )
    tree, _ = open_collections(str(item), restored, entry)
    return tree, notes


def _within(index: Any, wanted: Mapping[str, Any]) -> Any:
    """The saved tree cut down to the entries that lead to `wanted`."""
    leaves = {id(leaf) for leaf in jax.tree.leaves(wanted)}

    def cut(node: Any) -> Any:
        if not isinstance(node, Mapping):
            return node
        kept = {name: cut(value) for name, value in node.items()}
        return {
            name: value
            for name, value in kept.items()
            if any(id(leaf) in leaves for leaf in jax.tree.leaves(value))
        }

    return cut(index)


def _check_sizes(item: Path, stored: int, wanted: Mapping[str, Any]) -> None:
    claimed = 0
    for path, leaf in flatten(wanted).items():
        itemsize = np.dtype(getattr(leaf, "dtype", None) or np.uint8).itemsize
        shape = getattr(leaf, "shape", None) or ()
        claimed += math.prod(shape) * itemsize
        chunk = getattr(getattr(leaf, "storage", None), "chunk_shape", None) or ()
        if math.prod(chunk) * itemsize > size_limit(stored):
            raise WeightsError(f"{item}: {path!r} claims chunks of {list(chunk)}; copy it again.")
    check_expansion(str(item), stored, claimed)


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


def _check_index(item: Path) -> None:
    """Each name in the index becomes part of a path: none may climb out of the folder."""
    path = item / _INDEX
    try:
        if path.stat().st_size > _LONGEST_INDEX:
            raise ValueError("it is too long")
        entries = json.loads(path.read_bytes())["tree_metadata"].values()
        keys = [[str(step["key"]) for step in entry["key_metadata"]] for entry in entries]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise WeightsError(
            f"{path}: is no index of a PyTree checkpoint ({error}); take an earlier step or copy "
            "the folder again."
        ) from error
    for steps in keys:
        parts = [part for step in steps for part in step.replace("\\", "/").split("/")]
        if ".." in parts or any(step.startswith(("/", ".")) for step in steps):
            raise WeightsError(f"{path}: the name {'.'.join(steps)!r} leads out of the folder.")
        if len(steps) > _DEEPEST:
            raise WeightsError(f"{path}: its tree is nested deeper than {_DEEPEST}.")


def _choose_item(folder: Path) -> tuple[Path, tuple[str, ...]]:
    if (folder / _INDEX).is_file():
        return folder, ()
    items = _items(folder)
    if not items:
        steps = sorted((p.name for p in folder.iterdir() if p.name.isdigit()), key=int)
        found = (
            f"holds the steps {', '.join(steps)}; give one, as in {folder / steps[-1]}"
            if (steps)
            else f"holds no {_INDEX}; the checkpoint is incomplete or not a PyTree, save it again"
        )
        raise WeightsError(f"{folder}: {found}.")
    name = next((name for name in _ITEMS if name in items), items[0])
    if name not in _ITEMS and len(items) > 1:
        raise WeightsError(
            f"{folder}: holds the items {', '.join(items)}; give one, as in {folder / items[0]}."
        )
    aside = [other for other in items if other != name]
    note = f"opened the item {name!r}" + (f", left aside {', '.join(aside)}" if aside else "")
    return folder / name, (note,)


def _items(folder: Path) -> list[str]:
    return sorted(path.parent.name for path in folder.glob(f"*/{_INDEX}"))
