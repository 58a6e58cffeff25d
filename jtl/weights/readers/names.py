"""Wrapping entries and name prefixes that training code adds around a network's own names."""

import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from jtl.errors import WeightsError
from jtl.tree import nearest

# In the order in which one is opened where several are there; averages only where nothing else is.
_WRAPPERS = (
    "state_dict",
    "model_state_dict",
    "model",
    "params",
    "state_dict_ema",
    "model_ema",
    "ema",
    "params_ema",
)
_COLLECTIONS = ("params", "batch_stats")
_JAX_WRAPPERS = ("variables", "state", "model", "default", "params", "ema")
_PREFIXES = ("module", "model", "backbone", "state_dict", "ema")
_HEAD = re.compile(r"(fc|heads?|classifier|linear|last_linear|logits)[./]")
_COMPILED = re.compile(r"(^|[./])_orig_mod[./]")
_DEEPEST = 32


def open_wrapper(
    where: str, content: Any, entry: str | None = None
) -> tuple[Mapping[str, Any], tuple[str, ...]]:
    """The state dict within a training checkpoint, and a note on what was left aside.

    Args:
        where: the file, for messages.
        content: what the file holds: nested dicts with arrays.
        entry: the one to open; None for the first known of those that are there.

    Raises:
        WeightsError: the content is no dict, or has no such entry.
    """
    return _open(where, content, entry, _state_dict_holder)


def open_collections(
    where: str, content: Any, entry: str | None = None
) -> tuple[Mapping[str, Any], tuple[str, ...]]:
    """`params` and `batch_stats` within a JAX checkpoint, and a note on what was left aside.

    A tree without `params` anywhere is returned as it is. Arguments and errors as in
    `open_wrapper`.
    """
    tree, notes = _open(where, content, entry, _collection_holder)
    if isinstance(tree.get("params"), Mapping):
        aside = [str(name) for name in tree if name not in _COLLECTIONS]
        if aside:
            notes += (f"left aside {_listed(aside)}",)
        tree = {name: tree[name] for name in _COLLECTIONS if name in tree}
    return tree, notes


def flatten_entries(where: str, tree: Mapping[str, Any], separator: str) -> dict[str, np.ndarray]:
    """Arrays by joined names; entries that are no arrays hold no weights and are left out.

    Raises:
        WeightsError: the tree contains itself, is nested too deeply or names a tensor twice.
    """
    arrays: dict[str, np.ndarray] = {}
    visited: set[int] = set()

    def walk(node: Mapping[Any, Any], path: tuple[str, ...]) -> None:
        if len(path) > _DEEPEST or id(node) in visited:
            raise WeightsError(
                f"{where}: the entry {separator.join(path[:4])!r} holds itself or is nested "
                f"deeper than {_DEEPEST}; save the state dict alone."
            )
        visited.add(id(node))
        for key, value in node.items():
            name = separator.join((*path, str(key)))
            if isinstance(value, Mapping):
                walk(value, (*path, str(key)))
            elif isinstance(value, np.ndarray):
                if name in arrays:
                    raise WeightsError(f"{where}: two tensors are named {name!r}; save it again.")
                arrays[name] = value

    walk(tree, ())
    return arrays


def strip_prefixes(
    tensors: Mapping[str, np.ndarray],
) -> tuple[dict[str, np.ndarray], tuple[str, ...]]:
    """Names without the prefixes that wrappers add, and a note for each one removed.

    A prefix goes only if every name has it, but for a classification head's: a state dict of
    `backbone.conv1.weight` and `fc.weight` loses `backbone.`. Names of Flax collections lose it
    behind the collection: `params/model/stem/kernel` becomes `params/stem/kernel`.
    """
    names, notes = _without_average_count(tensors)
    for _ in range(_DEEPEST):
        steps = ((prefix, _shortened(prefix, names)) for prefix in ("_orig_mod", *_PREFIXES))
        prefix, shorter = next((step for step in steps if step[1]), ("", {}))
        if not shorter:
            break
        count = sum(shorter[name] != current for name, current in names.items())
        notes.append(f"removed {prefix!r} from {count} of {len(names)} names")
        names = shorter
    return {short: tensors[name] for name, short in names.items()}, tuple(notes)


def _shortened(prefix: str, names: Mapping[str, str]) -> dict[str, str]:
    """The names without a prefix; empty where it is not there or may not go."""
    shorter = {name: _without(prefix, current) for name, current in names.items()}
    return shorter if shorter != names and _may_go(prefix, names, shorter) else {}


def _without_average_count(
    tensors: Mapping[str, np.ndarray],
) -> tuple[dict[str, str], list[str]]:
    """Each name by itself, but for the counter that torch's AveragedModel adds to a network's."""
    names = {name: name for name in tensors}
    if len(names) > 1 and "n_averaged" in names and tensors["n_averaged"].ndim == 0:
        del names["n_averaged"]
        return names, ["left aside 'n_averaged', the number of averaged models"]
    return names, []


def _without(prefix: str, name: str) -> str:
    if prefix == "_orig_mod":
        return _COMPILED.sub(r"\1", name)
    collection, rest = _split_collection(name)
    if rest.startswith((f"{prefix}.", f"{prefix}/")):
        rest = rest[len(prefix) + 1 :]
    return collection + rest


def _may_go(prefix: str, names: Mapping[str, str], shorter: Mapping[str, str]) -> bool:
    if len(set(shorter.values())) < len(shorter):
        return False
    kept = [current for name, current in names.items() if shorter[name] == current]
    # torch.compile puts its word before any module, so that only some names have it.
    return prefix == "_orig_mod" or all(_HEAD.match(_split_collection(name)[1]) for name in kept)


def _split_collection(name: str) -> tuple[str, str]:
    collection, slash, rest = name.partition("/")
    return (f"{collection}/", rest) if slash and collection in _COLLECTIONS else ("", name)


def _open(
    where: str,
    content: Any,
    entry: str | None,
    holder: Callable[[Mapping[str, Any]], str | None],
) -> tuple[Mapping[str, Any], tuple[str, ...]]:
    tree = _as_mapping(where, content)
    notes: list[str] = []
    if entry is not None and not isinstance(tree.get(entry), Mapping):
        known = [str(name) for name, value in tree.items() if isinstance(value, Mapping)]
        close = nearest(entry, known)
        raise WeightsError(
            f"{where}: has no entry {entry!r} that holds tensors by name; there are "
            f"{_listed(known) or 'none'}" + (f"; did you mean {close[0]!r}?" if close else ".")
        )
    name = entry or holder(tree)
    while name is not None and len(notes) < _DEEPEST:
        aside = [str(other) for other in tree if other != name]
        notes.append(f"opened {name!r}" + (f", left aside {_listed(aside)}" if aside else ""))
        tree = tree[name]
        name = holder(tree)
    return tree, tuple(notes)


def _state_dict_holder(tree: Mapping[str, Any]) -> str | None:
    """The entry to open: a known wrapper's, or the only one that holds anything."""
    inner = [str(name) for name, value in tree.items() if isinstance(value, Mapping) and value]
    known = next((name for name in _WRAPPERS if name in inner), None)
    if known is not None or any(isinstance(value, np.ndarray) for value in tree.values()):
        return known
    return inner[0] if len(inner) == 1 and inner[0] in tree else None


def _collection_holder(tree: Mapping[str, Any]) -> str | None:
    """The entry to open: one that holds `params`, unless they are here already."""

    def holds_params(name: str) -> bool:
        inner = tree.get(name)
        return isinstance(inner, Mapping) and isinstance(inner.get("params"), Mapping)

    if isinstance(tree.get("params"), Mapping):
        return "params" if holds_params("params") else None
    return next((name for name in _JAX_WRAPPERS if holds_params(name)), None)


def _as_mapping(where: str, content: Any) -> Mapping[str, Any]:
    if not isinstance(content, Mapping):
        raise WeightsError(
            f"{where}: holds a single {type(content).__name__}, not tensors by name; "
            "save a state dict or a pytree of dicts."
        )
    return content


def _listed(names: list[str]) -> str:
    shown = ", ".join(repr(name) for name in names[:8])
    return shown + (f" and {len(names) - 8} more" if len(names) > 8 else "")
