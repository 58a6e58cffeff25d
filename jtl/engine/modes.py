"""What a freeze spec means for modules: the mode of each BatchNorm and of each dropout."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from jtl.engine.freeze import FROZEN, Labels
from jtl.errors import ConfigError
from jtl.tree import flatten, matches, nearest

BatchNormMode = Literal["frozen", "statistics", "affine", "train"]

# Each mode as (affine parameters frozen, stored statistics used).
_MODES: dict[str, tuple[bool, bool]] = {
    "frozen": (True, True),
    "statistics": (True, False),
    "affine": (False, True),
    "train": (False, False),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Modes:
    """Which modules hold still, asked by their path.

    Attributes:
        labels: frozen or trainable, by the parameter's slash path.
        batch_norm: modes by glob over module paths, where the default is not wanted; the last
            glob that matches counts.
        frozen_dropout: whether dropout and drop-path stay on in frozen stages.
    """

    labels: Mapping[str, str]
    batch_norm: tuple[tuple[str, BatchNormMode], ...] = ()
    frozen_dropout: bool = False

    def batch_norm_mode(self, module: str) -> BatchNormMode:
        """`frozen` where all of a BatchNorm's parameters are, else `train`, unless told.

        Raises:
            ConfigError: the mode asked for does not go with what the freeze spec freezes.
        """
        still = self._holds_still(module)
        asked = [mode for glob, mode in self.batch_norm if matches(glob, module)]
        if not asked:
            return "frozen" if still else "train"
        if _MODES[asked[-1]][0] != still:
            does = "frozen" if still else "trained"
            raise ConfigError(
                f"batch_norm: {module!r} is to be {asked[-1]!r}, but the freeze spec has its scale "
                f"and bias {does}; add {('!' if still else '') + module!r} to the freeze spec, or "
                f"choose {_alternatives(still)}."
            )
        return asked[-1]

    def keeps_statistics(self, module: str) -> bool:
        """Whether a BatchNorm uses its stored statistics and leaves them as they are."""
        return _MODES[self.batch_norm_mode(module)][1]

    def drops(self, module: str) -> bool:
        """Whether a dropout is on: everywhere but in stages that are frozen whole."""
        return self.frozen_dropout or not self._stage_is_frozen(module)

    def frozen_prefix(self, stages: Sequence[str], batch_stats: Any) -> tuple[str, ...]:
        """The leading stages whose output training never changes.

        All their parameters are frozen, their BatchNorms use stored statistics, and nothing in
        them drops.

        Args:
            stages: in the order that the network runs them.
            batch_stats: the running statistics, whose paths name the BatchNorms.
        """
        norms = {path.rpartition("/")[0] for path in flatten(batch_stats)}
        prefix: list[str] = []
        for stage in stages:
            own = [norm for norm in norms if norm.startswith(f"{stage}/")]
            moves = not self._stage_is_frozen(stage) or self.frozen_dropout
            if moves or not all(self.keeps_statistics(norm) for norm in own):
                break
            prefix.append(stage)
        return tuple(prefix)

    def check_globs(self, batch_stats: Any) -> None:
        """Refuses modes for BatchNorms that do not exist.

        Args:
            batch_stats: the running statistics, whose paths name the BatchNorms.

        Raises:
            ConfigError: the globs that match none, all of them at once.
        """
        norms = sorted({path.rpartition("/")[0] for path in flatten(batch_stats)})
        lost = [g for g, _ in self.batch_norm if not any(matches(g, norm) for norm in norms)]
        if lost and norms:
            raise ConfigError(
                f"batch_norm: {', '.join(map(repr, lost))} matches no BatchNorm; one is called "
                f"{norms[0]!r}."
            )

    def _holds_still(self, module: str) -> bool:
        own = self._under(module)
        return all(label == FROZEN for label in own) if own else self._stage_is_frozen(module)

    def _stage_is_frozen(self, module: str) -> bool:
        # A module outside any stage belongs to the head.
        own = self._under(module.split("/")[0]) or self._under("head")
        return bool(own) and all(label == FROZEN for label in own)

    def _under(self, prefix: str) -> list[str]:
        start = prefix + "/"
        return [label for path, label in self.labels.items() if path.startswith(start)]


def make_modes(
    labels: Labels,
    batch_norm: Mapping[str, BatchNormMode] | BatchNormMode | None = None,
    frozen_dropout: bool = False,
) -> Modes:
    """The modes of all modules under one freeze spec.

    Args:
        labels: from `freeze_labels`.
        batch_norm: one mode for every BatchNorm, modes by glob, or None for the default.
        frozen_dropout: whether dropout stays on in frozen stages.

    Raises:
        ConfigError: a mode that does not exist.
    """
    asked = {"**": batch_norm} if isinstance(batch_norm, str) else dict(batch_norm or {})
    for mode in asked.values():
        if mode not in _MODES:
            near = nearest(str(mode), _MODES)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise ConfigError(
                f"batch_norm: there is no mode {mode!r}; choose one of {', '.join(_MODES)}.{hint}"
            )
    return Modes(
        labels=flatten(labels), batch_norm=tuple(asked.items()), frozen_dropout=frozen_dropout
    )


def _alternatives(still: bool) -> str:
    return " or ".join(repr(name) for name, (affine, _) in _MODES.items() if affine == still)
