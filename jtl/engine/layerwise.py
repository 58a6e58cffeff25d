"""Rates that differ by layer: a multiplier for each parameter, by depth and by glob."""

import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from jtl.engine.freeze import HEADS
from jtl.errors import ConfigError
from jtl.tree import flatten, map_with_path, matches, nearest

Granularity = Literal["stage", "block"]

_BLOCK = re.compile(r"block\d+|[a-z]")  # residual networks number theirs, Inception letters them


def rate_multipliers(
    params: Any,
    stages: Sequence[str],
    *,
    decay: float = 1.0,
    by: Granularity = "stage",
    rates: Mapping[str, float] | None = None,
) -> Any:
    """What each parameter's learning rate is multiplied by.

    Args:
        params: the parameters, or their shapes.
        stages: in the order that the network runs them.
        decay: layer-wise rate decay: the head has 1, each stage or block before it `decay` times
            the rate of the next (ULMFiT, Howard and Ruder 2018, arXiv:1801.06146, divides by 2.6).
        by: what counts as one layer.
        rates: further multipliers by glob over slash paths; the last that matches counts.

    Returns:
        A float for each parameter, shaped like `params`.

    Raises:
        ConfigError: globs that match nothing, all of them at once.
    """
    paths = list(flatten(params))
    _check_globs(rates or {}, paths)
    depth = {layer: place for place, layer in enumerate(layers_of(paths, stages, by))}
    top = max(depth.values())

    def multiplier(path: str, _: Any) -> float:
        asked = [factor for glob, factor in (rates or {}).items() if matches(glob, path)]
        return decay ** (top - depth[layer_of(path, by)]) * (asked[-1] if asked else 1.0)

    return map_with_path(multiplier, params)


def layers_of(paths: Sequence[str], stages: Sequence[str], by: Granularity) -> list[str]:
    """The layers that hold parameters, in the order that the network runs them.

    All heads are one layer, the last. A block is `layer2/block0`, or a stage that has none.
    """
    order = {stage: place for place, stage in enumerate(stages)}
    found = dict.fromkeys(layer_of(path, by) for path in paths)

    def place(layer: str) -> tuple[int, int, str]:
        stage, _, block = layer.partition("/")
        rank = len(order) + 1 if stage in HEADS else order.get(stage, len(order))
        return rank, len(block), block

    return sorted(found, key=place)


def layer_of(path: str, by: Granularity) -> str:
    """The layer that a parameter belongs to; every head is `head`."""
    stage, *rest = path.split("/")
    if stage in HEADS:
        return "head"
    if by == "block" and rest and _BLOCK.fullmatch(rest[0]):
        return f"{stage}/{rest[0]}"
    return stage


def _check_globs(rates: Mapping[str, float], paths: Sequence[str]) -> None:
    problems = []
    for glob in rates:
        if not any(matches(glob, path) for path in paths):
            near = nearest(glob, paths)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            problems.append(
                f"rates: {glob!r} matches no parameter; a path looks like {paths[0]!r}.{hint}"
            )
    if problems:
        raise ConfigError(" ".join(problems))
