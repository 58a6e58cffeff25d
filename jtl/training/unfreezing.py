"""Gradual unfreezing: one phase written out as several, each with more of the network thawed."""

import dataclasses
import re
from collections.abc import Mapping, Sequence
from typing import Any

from jtl.engine.freeze import FROZEN, HEADS, Freeze, entries_of, freeze_labels
from jtl.engine.layerwise import Granularity, layer_of, layers_of
from jtl.errors import ConfigError
from jtl.tree import flatten

_PACE = re.compile(r"([1-9]\d*) *(stage|block)s?")


@dataclasses.dataclass(frozen=True, kw_only=True)
class UnfreezeOptions:
    """How a frozen part is thawed from the head downwards (Howard and Ruder 2018).

    Attributes:
        per_epoch: what each epoch after the first thaws: `1 stage`, `2 blocks` and so on.
    """

    per_epoch: str = "1 stage"

    def __post_init__(self) -> None:
        """Refuses a pace that cannot be read."""
        if not _PACE.fullmatch(self.per_epoch):
            raise ConfigError(
                f"per_epoch={self.per_epoch!r} is no pace; write a number of stages or blocks, "
                "such as '1 stage' or '2 blocks'."
            )

    @property
    def pace(self) -> tuple[int, Granularity]:
        """How many layers are thawed at once, and what counts as one."""
        found = _PACE.fullmatch(self.per_epoch)
        assert found is not None
        return int(found[1]), "stage" if found[2] == "stage" else "block"


def thawing(
    options: UnfreezeOptions, freeze: Freeze, params: Any, stages: Sequence[str]
) -> list[tuple[str, ...]]:
    """The freeze specs of a gradual unfreezing, the first being what it begins with.

    Args:
        options: the pace.
        freeze: what is frozen at first.
        params: the parameters, or their shapes.
        stages: in the order that the network runs them.

    Returns:
        One spec for each pace until nothing is frozen.

    Raises:
        ConfigError: nothing is frozen at first, so that there is nothing to thaw.
    """
    count, by = options.pace
    labels = flatten(freeze_labels(params, freeze, stages))
    frozen = {layer_of(path, by) for path, label in labels.items() if label == FROZEN}
    if not frozen:
        raise ConfigError(
            f"unfreeze: freeze={freeze!r} freezes nothing that could be thawed; begin with "
            "'backbone'."
        )
    cold = [layer for layer in layers_of(list(labels), stages, by) if layer in frozen]
    specs = [entries_of(freeze)]
    while cold:
        cold, warmed = cold[:-count], cold[-count:]
        names = [name for layer in reversed(warmed) for name in _names(layer, labels)]
        specs.append((*specs[-1], *(f"!{name}" for name in names)))
    return specs


def _names(layer: str, labels: Mapping[str, str]) -> list[str]:
    """What a layer is called in a freeze spec; all heads are one layer."""
    if layer not in HEADS:
        return [layer]
    return [head for head in HEADS if any(path.startswith(f"{head}/") for path in labels)]
