"""Pytrees by slash path: the one glob matcher, splitting, counting, comparing and digests."""

import difflib
import hashlib
import re
from collections.abc import Callable, Container, Iterable, Mapping
from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

PyTree = Any


def key_name(entry: Any) -> str:
    """The plain name of one step of a pytree path: dict key, attribute or index."""
    for attribute in ("key", "name", "idx"):
        if hasattr(entry, attribute):
            return str(getattr(entry, attribute))
    return str(entry)


def path_string(path: Iterable[Any]) -> str:
    """A pytree path as text: `layer1/block0/conv1/kernel`."""
    return "/".join(key_name(entry) for entry in path)


def flatten(tree: PyTree) -> dict[str, Any]:
    """Every leaf under its slash path, in the tree's own order."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {path_string(path): leaf for path, leaf in leaves}


def unflatten(leaves: dict[str, Any]) -> dict[str, Any]:
    """Nested dicts from slash paths; the inverse of `flatten` for trees of dicts."""
    tree: dict[str, Any] = {}
    for path, leaf in leaves.items():
        *parents, last = path.split("/")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[last] = leaf
    return tree


def map_with_path(function: Callable[..., Any], tree: PyTree, *rest: PyTree) -> PyTree:
    """`jax.tree.map` whose function gets the slash path as its first argument."""
    return jax.tree_util.tree_map_with_path(
        lambda path, *leaves: function(path_string(path), *leaves), tree, *rest
    )


def matches(pattern: str, path: str) -> bool:
    """Whether a glob names this path or a subtree that holds it.

    `*` and `?` stay within one name, `**` crosses slashes: `layer4/*/bn*` matches
    `layer4/block0/bn1/scale`.
    """
    return _compiled(pattern).fullmatch(path) is not None


@lru_cache(maxsize=1024)
def _compiled(pattern: str) -> re.Pattern[str]:
    tokens = re.split(r"(\*\*/?|\*|\?)", pattern.strip("/"))
    rules = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}
    body = "".join(rules.get(token, re.escape(token)) for token in tokens)
    return re.compile(f"{body}(?:/.*)?", re.DOTALL)


def select(tree: PyTree, labels: PyTree, label: str) -> PyTree:
    """The same tree with every leaf of another label replaced by None (no leaf at all)."""
    return jax.tree.map(lambda own, leaf: leaf if own == label else None, labels, tree)


def merge(first: PyTree, second: PyTree) -> PyTree:
    """The union of two trees made by `select`: each leaf from the one that has it."""
    return jax.tree.map(
        lambda a, b: b if a is None else a, first, second, is_leaf=lambda x: x is None
    )


def without(tree: PyTree, paths: Container[str]) -> PyTree:
    """The same tree with None (no leaf at all) in place of the leaves of these paths."""
    return map_with_path(lambda path, leaf: None if path in paths else leaf, tree)


def filled(tree: PyTree, leaves: Mapping[str, Any]) -> PyTree:
    """The same tree with these leaves, by path, where it has None; undoes `without`."""
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: leaves.get(path_string(path)) if leaf is None else leaf,
        tree,
        is_leaf=lambda leaf: leaf is None,
    )


def count(tree: PyTree) -> int:
    """The number of array elements in all leaves."""
    return sum(int(np.prod(np.shape(leaf))) for leaf in jax.tree.leaves(tree))


def nbytes(tree: PyTree) -> int:
    """The bytes of all leaves, from shapes and dtypes alone."""
    return sum(
        int(np.prod(leaf.shape)) * np.dtype(leaf.dtype).itemsize for leaf in jax.tree.leaves(tree)
    )


def digest(tree: PyTree) -> str:
    """SHA-256 over paths, dtypes, shapes and bytes of all leaves, as hex."""
    total = hashlib.sha256()
    for path, leaf in flatten(tree).items():
        array = _host(leaf)
        total.update(f"{path}:{array.dtype}:{array.shape};".encode())
        total.update(np.ascontiguousarray(array).tobytes())
    return total.hexdigest()


def differences(expected: PyTree, actual: PyTree) -> list[str]:
    """One line for each leaf that is missing, left over or not bit-identical."""
    left, right = flatten(expected), flatten(actual)
    lines = [f"{path}: missing" for path in left.keys() - right.keys()]
    lines += [f"{path}: not expected" for path in right.keys() - left.keys()]
    for path in left.keys() & right.keys():
        a, b = _host(left[path]), _host(right[path])
        if a.dtype != b.dtype or a.shape != b.shape:
            lines.append(f"{path}: {a.dtype}{list(a.shape)} became {b.dtype}{list(b.shape)}")
        elif a.tobytes() != b.tobytes():
            lines.append(f"{path}: {_distance(a, b)}")
    return sorted(lines)


def nearest(name: str, candidates: Iterable[str], count: int = 3) -> list[str]:
    """The known names closest to a mistyped one, best first."""
    return difflib.get_close_matches(name, list(candidates), n=count, cutoff=0.5)


def _host(leaf: Any) -> np.ndarray:
    if hasattr(leaf, "dtype") and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        leaf = jax.random.key_data(leaf)
    return np.asarray(leaf)


def _distance(a: np.ndarray, b: np.ndarray) -> str:
    if not np.issubdtype(a.dtype, np.number):
        return "values differ"
    gap = np.abs(a.astype(np.float64) - b.astype(np.float64)).max()
    return f"differs by up to {gap:.3g}"
