"""Folds: the same examples parted several ways, so that each validates once."""

import dataclasses
from typing import Annotated

import numpy as np
from annotated_types import Ge

from jtl.errors import ConfigError, DataError

Fold = tuple[np.ndarray, np.ndarray]


@dataclasses.dataclass(frozen=True, kw_only=True)
class FoldOptions:
    """One fold of several.

    Attributes:
        count: how many folds there are.
        index: which of them validates, from 0.
        seed: that deals examples out to folds.
    """

    count: Annotated[int, Ge(2)] = 5
    index: Annotated[int, Ge(0)] = 0
    seed: Annotated[int, Ge(0)] = 0

    def __post_init__(self) -> None:
        if self.index >= self.count:
            raise ConfigError(
                f"data.split.fold: index={self.index} is not one of count={self.count} folds, 0 "
                f"to {self.count - 1}."
            )


def make_folds(
    indices: np.ndarray,
    labels: np.ndarray,
    count: int,
    seed: int = 0,
    groups: np.ndarray | None = None,
) -> tuple[Fold, ...]:
    """Every way to train on all parts but one and validate on that one.

    Args:
        indices: int `[n]`, the examples that are parted.
        labels: int `[examples]`, kept in proportion.
        count: of folds.
        seed: that deals examples out.
        groups: int `[examples]`, equal for examples that stay in one fold; None without groups.

    Returns:
        Sorted indices to train on and to validate on, fold by fold.

    Raises:
        DataError: a class, or the groups, are fewer than the folds.
    """
    from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

    own = labels[indices]
    counts = np.bincount(own)
    smallest = int(counts[counts > 0].min(initial=len(indices)))
    units = smallest if groups is None else len(np.unique(groups[indices]))
    if units < count:
        what = "the smallest class has" if groups is None else "there are only"
        kind = "examples" if groups is None else "groups"
        raise DataError(f"{count} folds, but {what} {units} {kind}; take at most {max(units, 1)}.")
    if groups is None:
        parts = StratifiedKFold(count, shuffle=True, random_state=seed).split(indices, own)
    else:
        dealer = StratifiedGroupKFold(count, shuffle=True, random_state=seed)
        parts = dealer.split(indices, own, groups[indices])
    return tuple((np.sort(indices[rest]), np.sort(indices[part])) for rest, part in parts)
