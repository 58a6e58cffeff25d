"""The freeze spec: which parameters are frozen, and what follows for the modules that hold them."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax

from jtl.errors import ConfigError
from jtl.models.registry import STAGE_ORDER, stage_order
from jtl.tree import count, flatten, map_with_path, matches, nearest

FROZEN = "frozen"
TRAINABLE = "trainable"
HEADS = ("head", "aux")

Freeze = str | Sequence[str]
Labels = Any  # a pytree shaped like the parameters, with FROZEN or TRAINABLE at each leaf


def freeze_labels(params: Any, freeze: Freeze, stages: Sequence[str] | None = None) -> Labels:
    """Labels each parameter `"frozen"` or `"trainable"` by one freeze spec.

    Args:
        params: a pytree of parameters whose paths begin with the stage.
        freeze: stage names, ranges (`stem..layer3`) and globs over slash paths
            (`layer4/*/bn*`), or one of `none`, `backbone` (every stage but `head` and `aux`)
            and `all`; an entry after `!` thaws what those before it froze (`!**/bn*`); an empty
            list is `none` and a string is a list of one.
        stages: the stages in the order that ranges follow; jtl's own networks need none.

    Returns:
        A pytree of the same structure as `params`.

    Raises:
        ConfigError: entries that match nothing, all of them at once.
    """
    entries = entries_of(freeze)
    paths = list(flatten(params))
    order = _stages_in(paths, stages)
    found: list[tuple[str, bool]] = []
    problems: list[str] = []
    for entry in entries:
        try:
            patterns = _patterns(entry.removeprefix("!"), entries, order)
        except ConfigError as error:
            problems.append(str(error))
            continue
        if patterns and not any(matches(p, path) for p in patterns for path in paths):
            problems.append(_unmatched(entry.removeprefix("!"), order, paths))
        found += [(pattern, not entry.startswith("!")) for pattern in patterns]
    if problems:
        raise ConfigError(" ".join(problems))

    def label(path: str, _: Any) -> str:
        said = [frozen for pattern, frozen in found if matches(pattern, path)]
        return FROZEN if said and said[-1] else TRAINABLE

    return map_with_path(label, params)


def entries_of(freeze: Freeze) -> tuple[str, ...]:
    """The entries of a freeze spec; a string is a list of one."""
    return (freeze,) if isinstance(freeze, str) else tuple(freeze)


def _stages_in(paths: Sequence[str], stages: Sequence[str] | None) -> tuple[str, ...]:
    tops = tuple(dict.fromkeys(path.split("/")[0] for path in paths))
    known = stage_order(set(tops) & set(STAGE_ORDER)) if stages is None else tuple(stages)
    return tuple(s for s in known if s in tops) + tuple(t for t in tops if t not in known)


def _patterns(entry: str, entries: tuple[str, ...], order: tuple[str, ...]) -> list[str]:
    if entry in ("none", "all") and not all(e == entry or e.startswith("!") for e in entries):
        raise ConfigError(f"freeze: {entry!r} stands alone, but the list is {list(entries)}.")
    if entry == "none":
        return []
    if entry == "all":
        return ["**"]
    if entry == "backbone":
        if "head" not in order:
            raise ConfigError(
                "freeze: 'backbone' is every stage but the head, and these parameters have no "
                f"'head'; name what to freeze among {list(order)}."
            )
        return [stage for stage in order if stage not in HEADS]
    if ".." in entry:
        return list(_range(entry, order))
    return [entry]


def _range(entry: str, order: tuple[str, ...]) -> tuple[str, ...]:
    first, _, last = entry.partition("..")
    unknown = [name for name in (first, last) if name not in order]
    if unknown:
        raise ConfigError(
            f"freeze: the range {entry!r} names no stage {unknown[0]!r}; "
            f"the stages are {', '.join(order)}."
        )
    start, stop = order.index(first), order.index(last)
    if start > stop:
        raise ConfigError(
            f"freeze: the range {entry!r} runs backwards; write {last}..{first} "
            f"(the stages are {', '.join(order)})."
        )
    return order[start : stop + 1]


def _unmatched(entry: str, order: tuple[str, ...], paths: Sequence[str]) -> str:
    near = nearest(entry, [*order, *paths])
    hint = f" Did you mean {near[0]!r}?" if near else ""
    return (
        f"freeze: {entry!r} matches no parameter.{hint} The stages are {', '.join(order)}; "
        f"a path looks like {paths[0]!r}."
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class StageRow:
    """One line of the table of stages: parameters in elements, frozen ones among them."""

    stage: str
    parameters: int
    frozen: int


def stage_table(params: Any, labels: Labels, stages: Sequence[str]) -> tuple[StageRow, ...]:
    """Parameters and frozen parameters of each stage, in the network's order."""
    rows = []
    for stage in _stages_in(list(flatten(params)), stages):
        sizes = jax.tree.map(lambda leaf: int(leaf.size), params[stage])
        frozen = jax.tree.map(
            lambda size, label: size if label == FROZEN else 0, sizes, labels[stage]
        )
        rows.append(
            StageRow(
                stage=stage,
                parameters=count(params[stage]),
                frozen=sum(jax.tree.leaves(frozen)),
            )
        )
    return tuple(rows)
